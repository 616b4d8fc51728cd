"""Stage of the replaced block alone: ways to compute x + W x + b on both streams, timed against the dense block.

`LinearReplacementBlock` runs "separate". Joining the streams, letting the matrix product add the residual and folding
the identity into the weight are what else could be done; the last two round differently.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from bench.metrics.cost.latency import measure_latency
from bench.metrics.cost.timing import Step
from bench.records.results import Measurement, MetricInfo
from bench.run.units import Results
from bench.studies.full_size.variants import view_of
from bench.studies.full_size.workbench import Need, Workbench, one_each, with_size
from fastflux.models.architecture import IMAGE_STREAM, TEXT_STREAM
from fastflux.models.flux import FLUX
from fastflux.models.surgery import get_block

REPLACEMENT = MetricInfo(
    "replacement_block", "1", "ms", higher_is_better=False, reference="wall time of one block, replaced in several ways"
)
VARIANT = "replacement"
Streams: TypeAlias = tuple[Tensor, Tensor]
Way: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Streams]
"""(image, text, weight, bias) -> (text, image)."""


def separate(image: Tensor, text: Tensor, weight: Tensor, bias: Tensor) -> Streams:
    """As `LinearReplacementBlock` does."""
    return text + functional.linear(text, weight, bias), image + functional.linear(image, weight, bias)


def in_place(image: Tensor, text: Tensor, weight: Tensor, bias: Tensor) -> Streams:
    """The residual added into the product: the same bits, one tensor less."""
    return functional.linear(text, weight, bias).add_(text), functional.linear(image, weight, bias).add_(image)


def joined(image: Tensor, text: Tensor, weight: Tensor, bias: Tensor) -> Streams:
    """One product on both streams, as the block that was replaced."""
    both = torch.cat([text, image], dim=1)
    both = both + functional.linear(both, weight, bias)
    return both[:, : text.shape[1]], both[:, text.shape[1] :]


def accumulated(image: Tensor, text: Tensor, weight: Tensor, bias: Tensor) -> Streams:
    """The residual as what the matrix product adds to."""

    def one(stream: Tensor) -> Tensor:
        rows = stream.flatten(0, 1)  # (tokens, dim)
        return torch.addmm(rows + bias, rows, weight.t()).view_as(stream)

    return one(text), one(image)


def identity_folded(image: Tensor, text: Tensor, weight: Tensor, bias: Tensor) -> Streams:
    """With W + I for a weight: its diagonal is rounded at 1, so what W adds there is lost below 2^-9 in bfloat16."""
    return functional.linear(text, weight, bias), functional.linear(image, weight, bias)


WAYS: Mapping[str, Way] = {
    "separate": separate,
    "in_place": in_place,
    "joined": joined,
    "accumulated": accumulated,
    "identity_folded": identity_folded,
}


def units(bench: Workbench) -> list[str]:
    """Every resolution."""
    return [str(pixels) for pixels in bench.sizes.resolutions]


def _info(unit: str) -> MetricInfo:
    return with_size(REPLACEMENT, int(unit))


def _measure(bench: Workbench, pixels: int, info: MetricInfo) -> Results:
    caught: dict[str, dict[str, Tensor]] = {}
    twin = view_of(bench.dense)
    blocks = {"double": FLUX.chain(twin)[0], "single": FLUX.chain(twin)[-1]}
    handles = [
        get_block(twin, block).register_forward_pre_hook(
            lambda _module, _args, kwargs, kind=kind: caught.__setitem__(kind, kwargs), with_kwargs=True
        )
        for kind, block in blocks.items()
    ]
    with torch.inference_mode():
        twin(**bench.inputs(pixels))
        for handle in handles:
            handle.remove()
        image, text = caught["single"][IMAGE_STREAM].clone(), caught["single"][TEXT_STREAM].clone()
        weight, bias = random_layer(bench, image)
        folded = (weight.double() + torch.eye(len(weight), device=weight.device)).to(weight.dtype)

    def dense_step(kind: str) -> Step:
        module, arguments = get_block(twin, blocks[kind]), caught[kind]

        def step() -> None:
            with torch.inference_mode():
                module(**arguments)

        return step

    def way_step(name: str) -> Step:
        def step() -> None:
            with torch.inference_mode():
                WAYS[name](image, text, folded if name == "identity_folded" else weight, bias)

        return step

    steps = {f"dense_{kind}": dense_step(kind) for kind in blocks} | {name: way_step(name) for name in WAYS}
    found = measure_latency(
        steps, warmup=bench.profile.latency.warmup, rounds=bench.sizes.replacement_rounds, seed=bench.sizes.seed,
        baseline="dense_single", device=bench.device, info=info,
    )  # fmt: skip
    values: dict[str, float] = {}
    samples: dict[str, list[float]] = {}
    for name, measurement in found.items():
        if measurement.status == "ok":
            values |= {f"{name}.median_ms": measurement.values["median_ms"]}
            values |= {f"{name}.ratio_to_single": measurement.values["ratio_to_dense"]}
            samples[f"{name}/ms"] = list(measurement.samples["ms"])
    with torch.inference_mode():
        values |= {f"{name}.relative_error": error for name, error in errors(image, text, weight, bias).items()}
    whole = Measurement(
        info, "ok", values=values, scored=bench.sizes.replacement_rounds, samples=samples,
        settings=bench.conditions(pixels),
    )  # fmt: skip
    return {VARIANT: [whole]}


def random_layer(bench: Workbench, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a replacement, on the device of `like` and in its dtype."""
    width = like.shape[-1]
    generator = torch.Generator().manual_seed(bench.sizes.seed)
    weight = torch.randn(width, width, generator=generator) * 0.3 / width**0.5
    return weight.to(like), (0.01 * torch.randn(width, generator=generator)).to(like)


def errors(image: Tensor, text: Tensor, weight: Tensor, bias: Tensor) -> dict[str, float]:
    """Root mean square of each way's error in the image's stream against float64, over that of the outcome."""
    exact = image.double() + functional.linear(image.double(), weight.double(), bias.double())
    folded = (weight.double() + torch.eye(len(weight), device=weight.device)).to(weight.dtype)
    scale = exact.square().mean().sqrt()
    return {
        name: float(
            (way(image, text, folded if name == "identity_folded" else weight, bias)[1].double() - exact)
            .square().mean().sqrt() / scale
        )
        for name, way in WAYS.items()
    }  # fmt: skip


pieces = one_each(lambda bench, unit: _measure(bench, int(unit), _info(unit)), _info, lambda _: VARIANT)


def need(bench: Workbench) -> Need:
    """The dense model."""
    return Need(device=bench.weight_bytes)
