"""What a live transformer must be, so that the weights it holds are those it computes with and those that are saved."""

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from fastflux.errors import FastFluxError

PLAIN_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_QUANTIZERS = ("bitsandbytes", "optimum.quanto", "torchao", "gguf", "gptqmodel")
_HOOKS = {
    "layerwise_casting": "stores its weights in another format than it computes in: load it without layerwise casting",
    "group_offloading": "is offloaded in groups: load it without, and use offload=True of load_pipeline or --offload",
}


def require_plain(transformer: nn.Module, *, skeleton: bool = False) -> None:
    """Raise ``FastFluxError``, with the remedy, for a transformer that cannot be pruned or saved as it is.

    That is one with LoRA layers, fused projections, quantised weights, weights on the meta device, and what diffusers
    and accelerate keep elsewhere between forwards. A ``skeleton`` may be on the meta device as a whole.
    """
    if fault := next(_faults(transformer, skeleton=skeleton), None):
        raise FastFluxError(f"The transformer {fault}.")


def _faults(transformer: Any, *, skeleton: bool) -> Iterator[str]:
    if getattr(transformer, "is_quantized", False) or getattr(transformer, "hf_quantizer", None) is not None:
        yield "is quantised: load it without quantization_config"
    for name, module in transformer.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield (
                f"has LoRA layers ({name}): call the pipeline's unload_lora_weights(), after fuse_lora() where it is "
                "to stay in the weights"
            )
        if getattr(module, "fused_projections", False):
            yield f"has fused projections ({name}): call unfuse_qkv_projections()"
        if type(module).__module__.startswith(_QUANTIZERS):
            yield f"has quantised layers ({name}, {type(module).__name__}): load it without quantisation"
        for hook, remedy in _HOOKS.items():
            if hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", ()):
                yield remedy
        if getattr(getattr(module, "_hf_hook", None), "offload", False):
            yield f"has modules that accelerate offloads ({name or 'all'}): load it without device_map and offloading"
    weights = transformer.state_dict(keep_vars=True)
    whole = skeleton and all(tensor.is_meta for tensor in weights.values())
    for name, tensor in weights.items():
        if tensor.is_meta and not whole:
            yield f"has weights on the meta device ({name}): load it without device_map and disk offload"
        if type(tensor.data) is not Tensor or type(tensor) not in (nn.Parameter, Tensor):
            yield f"has quantised weights ({name}, {type(tensor.data).__name__}): load it without quantisation"
        if isinstance(tensor, nn.Parameter) and tensor.dtype not in PLAIN_DTYPES:
            yield f"has weights of {tensor.dtype} ({name}): load it in float32, bfloat16 or float16"


@torch.no_grad()
def require_finite(transformer: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Raise ``FastFluxError`` for a weight that is not finite, or too large for the number format ``dtype``."""
    most = torch.finfo(torch.float16).max if dtype == torch.float16 else None  # bfloat16 has float32's range
    for name, value in transformer.state_dict().items():
        if not value.is_floating_point() or value.is_meta or not value.numel():
            continue
        low, high = (float(extreme) for extreme in value.aminmax())
        if not (-torch.inf < low and high < torch.inf):  # also where they are NaN
            raise FastFluxError(f"{name} holds values that are not finite: restore the weights from their source.")
        if most is not None and (size := max(-low, high)) > most:
            raise FastFluxError(f"{name} holds {size:.3g}, and float16 ends at {most:.0f}: give --save-dtype bfloat16.")
