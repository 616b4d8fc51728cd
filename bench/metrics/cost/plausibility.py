"""Whether a latency can be: no step is faster than its FLOPs at the device's peak rate. Free of torch, for reports.

Peaks are dense matrix products, without structured sparsity, as the makers' own documents state them. A device, or a
number format of one, that is not in the table is not judged; neither are CPUs, whose peak hangs on clocks that vary.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

HEADROOM = 1.25
"""Cards run above the boost clock that their peaks are stated for, hardly by more than a quarter."""

FP16_ACCUMULATE = "float16_accumulate"
"""float16 products added up in float16: twice as fast on GeForce cards, and not torch's default."""

_GA102 = "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"
_ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
_A100 = (
    "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/"
    "nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
)
_H100 = "https://www.nvidia.com/en-us/data-center/h100/"
_H200 = "https://www.nvidia.com/en-us/data-center/h200/"
_L40S = "https://www.nvidia.com/en-us/data-center/l40s/"
_V100 = "https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf"
_T4 = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf"


@dataclass(frozen=True)
class Peak:
    """Dense peak of a device in TFLOP/s by number format; `names` matches its name without the brand."""

    device: str
    names: str
    teraflops: Mapping[str, float]
    source: str


def _rates(bfloat16: float | None, float16: float, tf32: float | None, float32: float) -> dict[str, float]:
    rates = {"bfloat16": bfloat16, "float16": float16, "tf32": tf32, "float32": float32}
    return {dtype: rate for dtype, rate in rates.items() if rate is not None}


# Hopper's data sheets state rates with sparsity, which doubles them: halved here.
PEAKS = (
    Peak("RTX 3090", r"RTX 3090", {**_rates(71.0, 71.0, 35.6, 35.6), FP16_ACCUMULATE: 142.0}, _GA102),
    Peak("RTX A6000", r"RTX A6000", _rates(154.8, 154.8, 77.4, 38.7), _GA102),
    Peak("A40", r"A40", _rates(149.7, 149.7, 74.8, 37.4), _GA102),
    Peak("RTX 4090", r"RTX 4090", {**_rates(165.2, 165.2, 82.6, 82.6), FP16_ACCUMULATE: 330.3}, _ADA),
    Peak("A100", r"A100([ -](SXM4|PCIe|PCIE|\d+GB))*", _rates(312.0, 312.0, 156.0, 19.5), _A100),
    Peak("H100 SXM", r"H100( SXM\d?| \d+GB HBM3)", _rates(989.5, 989.5, 494.5, 67.0), _H100),
    Peak("H100 PCIe", r"H100 PCIe", _rates(756.5, 756.5, 378.0, 51.0), _H100),
    Peak("H200", r"H200( SXM\d?)?", _rates(989.5, 989.5, 494.5, 67.0), _H200),
    Peak("L40S", r"L40S", _rates(362.05, 362.05, 183.0, 91.6), _L40S),
    Peak("V100 SXM2", r"V100-SXM2-\d+GB", _rates(None, 125.0, None, 15.7), _V100),
    Peak("V100 PCIe", r"V100-PCIE-\d+GB", _rates(None, 112.0, None, 14.0), _V100),
    Peak("T4", r"T4", _rates(None, 65.0, None, 8.1), _T4),
)
_BRAND = re.compile(r"^(?:NVIDIA |Tesla |GeForce )+")
#: The fastest that a number format may mean, as records do not tell what torch was allowed: TF32, float16 sums.
_MAY_MEAN = {"float16": (FP16_ACCUMULATE, "float16"), "float32": ("tf32", "float32")}
_WORDS = {FP16_ACCUMULATE: "float16 with float16 sums", "tf32": "TF32"}


def peak_of(device: str) -> Peak | None:
    """The peak of a device by the name that torch, or a paper, gives it; None when the table lacks it."""
    name = _BRAND.sub("", device.strip())
    return next((peak for peak in PEAKS if re.fullmatch(peak.names, name)), None)


def implausible(latency_ms: float, flops: float, device: str, dtype: str, device_type: str = "cuda") -> str | None:
    """The sentence that says why a latency cannot be: it is below what `flops` take `HEADROOM` faster than the peak.

    None where arithmetic does not forbid it, for no measurement, for CPUs, and where the device's rate is not known.
    """
    peak = None if device_type == "cpu" else peak_of(device)
    if peak is None or not (latency_ms > 0 and flops > 0):
        return None
    given = dtype.removeprefix("torch.")
    rates = {name: peak.teraflops[name] for name in _MAY_MEAN.get(given, (given,)) if name in peak.teraflops}
    name = max(rates, key=lambda entry: rates[entry], default="")
    if not name or latency_ms * HEADROOM >= (limit := flops / rates[name] / 1e9):
        return None
    return (
        f"{latency_ms:g} ms is below the {limit:.0f} ms that {flops / 1e12:.2f} TFLOPs take at the peak of "
        f"{peak.device}, {rates[name]:g} TFLOP/s in {_WORDS.get(name, name)} ({peak.source})."
    )
