"""What all full-size stages share: the dense model, its views, inputs, room on the device, and what a stage is."""

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.table import Table
from torch import Tensor

from bench.metrics.cost.flops import FlopsTable, flops_by_block
from bench.profiles.profile import Profile
from bench.progress import console
from bench.records.results import JSON, MetricInfo
from bench.run.units import Budget, Results, Store, Unit
from bench.studies.full_size.random_weights import Sizes, materialise_, random_transformer, skeleton
from bench.studies.full_size.variants import (
    EQUAL_LATENCY,
    FullSizeVariant,
    found_variant,
    full_size_variants,
    own_bytes,
)
from fastflux.calibration.recording import RecordedInputs
from fastflux.errors import FastFluxError
from fastflux.models.architecture import architecture_of, example_inputs
from fastflux.models.offload import offload_
from fastflux.models.pruned import parameter_count
from fastflux.models.surgery import get_block
from fastflux.settings import require_device
from fastflux.threads import usable_memory

MARGIN = 0.1
"""Of the device's free memory, left to activations and to the allocator."""
EQUAL_STAGE = "equal-latency"
"""The stage whose outcome later stages time too."""


@dataclass
class Workbench:
    """One call of the command. Models are made when a stage first asks for them, and `clear` lets them go."""

    profile: Profile
    sizes: Sizes
    device: str
    dtype: torch.dtype
    store: Store
    budget: Budget
    offload: bool = False

    @cached_property
    def outline(self) -> Any:
        """The dense transformer on the meta device."""
        return skeleton(self.sizes)

    @cached_property
    def dense_flops(self) -> dict[tuple[int, int], FlopsTable]:
        """Of the dense transformer, by height and width."""
        tokens = self.sizes.text_tokens
        return {(p, p): flops_by_block(self.outline, p, p, tokens) for p in self.sizes.resolutions}

    @cached_property
    def dense(self) -> Any:
        """The dense transformer on the device."""
        return random_transformer(self.sizes, self.device, self.dtype)

    def offloaded(self) -> Any:
        """The dense transformer with its blocks on the host, drawn on the device one by one."""
        transformer = skeleton(self.sizes)
        for block in architecture_of(transformer).chain(transformer):
            module = get_block(transformer, block)
            materialise_(module, self.sizes, self.device, self.dtype, prefix=f"{block}.")
            offload_(module, self.device)
        materialise_(transformer, self.sizes, self.device, self.dtype)
        return transformer

    def fresh(self) -> Any:
        """A dense transformer to be pruned: the only one, since pruning changes it."""
        self.clear()
        return self.offloaded() if self.offload else random_transformer(self.sizes, self.device, self.dtype)

    def clear(self) -> None:
        """Let go of all models."""
        self.__dict__.pop("dense", None)
        release(self.device)

    @cached_property
    def planned(self) -> dict[str, FullSizeVariant]:
        """The variants that are known before anything is measured, by id, the dense one first."""
        return {variant.id: variant for variant in full_size_variants(self.sizes)}

    @property
    def variants(self) -> dict[str, FullSizeVariant]:
        """All of them, by id: L1-norm models of equal latency stand behind the others once they are found."""
        found = (
            found_variant(self.planned[target], measurement)
            for _, measurement, _ in self.store.measurements([EQUAL_STAGE])
            if measurement.info.name == EQUAL_LATENCY.name
            and measurement.status == "ok"
            and (target := str(measurement.settings["target"])) in self.planned
        )
        return {**self.planned, **{variant.id: variant for variant in found}}

    @cached_property
    def _bytes(self) -> dict[FullSizeVariant, int]:
        return {}

    def own_bytes(self, variant: FullSizeVariant) -> int:
        """What a variant takes beside the dense model."""
        if variant not in self._bytes:
            self._bytes[variant] = own_bytes(variant, self.outline, self.sizes, self.dtype)
        return self._bytes[variant]

    @property
    def weight_bytes(self) -> int:
        """Of the dense transformer."""
        return parameter_count(self.outline) * self.dtype.itemsize

    def room(self) -> int:
        """Bytes that variants may take beside the dense model."""
        _ = self.dense
        return int(free_bytes(self.device) * (1 - MARGIN))

    def inputs(self, pixels: int, batch: int = 1, device: str | None = None) -> dict[str, Tensor]:
        """A step's arguments for so many images of `pixels` x `pixels`."""
        generator = torch.Generator().manual_seed(self.sizes.seed)
        return example_inputs(
            self.outline, batch, pixels, pixels, self.sizes.text_tokens, generator, device=device or self.device,
            dtype=self.dtype,
        )  # fmt: skip

    def recorded(self) -> RecordedInputs:
        """The calibration samples on the host: random pictures and texts, at time steps spread over (0, 1)."""
        count = self.sizes.samples
        rows = self.inputs(self.sizes.pruning_pixels, count, device="cpu")
        rows["timestep"] = ((torch.arange(count) + 0.5) / count).to(self.dtype)
        shared = {name: rows.pop(name) for name in ("img_ids", "txt_ids")}
        return RecordedInputs(rows, shared)

    @property
    def recorded_bytes(self) -> int:
        """Of `recorded`."""
        sizes = self.sizes
        tokens = (sizes.pruning_pixels // 16) ** 2
        row = tokens * sizes.in_channels + sizes.text_tokens * sizes.t5_width + sizes.clip_width + 2
        return sizes.samples * row * self.dtype.itemsize

    def conditions(self, pixels: int) -> dict[str, JSON]:
        """What a step's time depends on besides the model, for a measurement's settings."""
        return {
            "height": pixels,
            "width": pixels,
            "text_tokens": self.sizes.text_tokens,
            "dtype": str(self.dtype).removeprefix("torch."),
            "batch": self.profile.latency.batch,
            "threads": torch.get_num_threads(),
            "weights": "random",
        }

    def file(self, name: str) -> Path:
        """A file beside the pieces."""
        self.store.folder.mkdir(parents=True, exist_ok=True)
        return self.store.folder / name


def with_size(info: MetricInfo, pixels: int, suffix: str = "") -> MetricInfo:
    """The metric of one resolution, under a name of its own."""
    name = f"{info.name}_{pixels}x{pixels}{suffix}"
    return MetricInfo(name, info.version, info.unit, info.higher_is_better, info.reference)


def release(device: str) -> None:
    """Give memory that nothing uses any more back to the device."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def free_bytes(device: str) -> int:
    """Free memory of a GPU as its driver tells, or of the machine."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return host_free_bytes()


def host_free_bytes() -> int:
    """Memory that the machine has left for a process that asks for it."""
    return usable_memory(int(psutil.virtual_memory().available))


@dataclass(frozen=True)
class Need:
    """The least bytes a stage takes, activations not counted, and what to do where there are fewer."""

    device: int = 0
    host: int = 0
    disk: int = 0
    remedy: str = "take a larger GPU"


@dataclass(frozen=True)
class Stage:
    """A part of the measurement: `units` to settle, and `pieces` that settle those that are left, made lazily."""

    name: str
    what: str
    units: Callable[[Workbench], Sequence[str]]
    pieces: Callable[[Workbench, Sequence[str]], Iterator[Unit]]
    need: Callable[[Workbench], Need]

    def left(self, bench: Workbench) -> list[str]:
        """Units that are not settled."""
        settled = bench.store.names(self.name)
        return [unit for unit in self.units(bench) if unit not in settled]

    def failed(self, bench: Workbench) -> list[str]:
        """Units that were taken and failed."""
        left = set(self.left(bench))
        return [unit for unit in self.not_measured(bench) if unit not in left]

    def not_measured(self, bench: Workbench) -> list[str]:
        """Units that failed, or are not settled."""
        measured = bench.store.names(self.name, measured=True)
        return [unit for unit in self.units(bench) if unit not in measured]


def one_each(
    measure: Callable[[Workbench, str], Results],
    info: Callable[[str], MetricInfo],
    variant: Callable[[str], str] = lambda unit: unit.rpartition("/")[2],
) -> Callable[[Workbench, Sequence[str]], Iterator[Unit]]:
    """A stage's pieces, one for each unit, which measures a variant; a unit is its name, or "pixels/name"."""

    def pieces(bench: Workbench, left: Sequence[str]) -> Iterator[Unit]:
        for unit in left:
            yield piece((unit,), (variant(unit),), info(unit), partial(measure, bench, unit))

    return pieces


def nothing(_bench: Workbench) -> Need:
    """The need of a stage that computes next to nothing."""
    return Need()


def piece(units: Sequence[str], variants: Sequence[str], info: MetricInfo, work: Callable[[], Results]) -> Unit:
    """Work that settles `units` of a stage and measures `variants` by `info`, which is what fails where it fails.

    The folder of the run names all that decides the outcome.
    """
    return Unit(dict.fromkeys(units), work, variants=tuple(variants), info=info)


GIB = 2**30


def usable_dtype(name: str, device: str, *, strict: bool) -> torch.dtype:
    """The number format, checked on the device where `strict`.

    Raises FastFluxError for none of floating point, a device that is not there, or one without bfloat16.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise FastFluxError(f"The dtype is {name!r}: give float32, bfloat16 or float16.")
    if not strict:
        return dtype
    require_device(device)
    if dtype == torch.bfloat16 and torch.device(device).type == "cuda":
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported(including_emulation=False):
                raise FastFluxError(
                    f"{torch.cuda.get_device_name(device)} has no bfloat16 arithmetic: give --dtype float16, which is "
                    "a measurement of its own."
                )
    return dtype


def require_resources(bench: Workbench, stages: Sequence[Stage]) -> None:
    """Raise FastFluxError, naming need and remedy, when a stage needs more memory or disk than there is."""
    disk = free_disk(bench.store.folder)
    for stage in stages:
        need = stage.need(bench)
        one_memory = torch.device(bench.device).type == "cpu"
        device = need.device + (need.host if one_memory else 0)
        for what, wanted, free, remedy in (
            (f"memory on {bench.device}", device, free_bytes(bench.device) if device else 0, need.remedy),
            ("memory of the machine", 0 if one_memory else need.host, host_free_bytes(), need.remedy),
            (f"disk below {bench.store.folder.name}", need.disk, disk, "free some space"),
        ):
            if wanted > free:
                raise FastFluxError(
                    f"The stage {stage.name} needs at least {wanted / GIB:.1f} GiB of {what}, activations not counted, "
                    f"and {free / GIB:.1f} GiB are free: {remedy}. Other stages can be named with --stages."
                )


def free_disk(folder: Path) -> int:
    """Bytes on the disk of a folder that need not be there yet."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free


def show_plan(bench: Workbench, stages: Sequence[Stage]) -> None:
    """Print what each stage needs and has left; hours only where pieces of it were measured here before."""
    table = Table(
        "stage", "what", "device", "host", "disk", "left", "measured",
        title=f"{bench.profile.title}: at least so many GiB, activations not counted",
    )  # fmt: skip
    for stage in stages:
        need, every = stage.need(bench), stage.units(bench)
        spent = sum(done.seconds for done in bench.store.done(stage.name))
        table.add_row(
            stage.name, stage.what,
            *(f"{size / GIB:.1f}" if size else "" for size in (need.device, need.host, need.disk)),
            f"{len(stage.left(bench))} of {len(every)}", f"{spent:.0f} s" if spent else "",
        )  # fmt: skip
    console.print(table)
    console.print(f"the machine: {_has(bench)}", markup=False, soft_wrap=True)
    samples = bench.sizes.samples
    steps = sum(stage.name.startswith("latency-") for stage in stages) * len(bench.variants)
    console.print(
        f"images to make: none, random weights draw nothing worth a look; forwards of the calibration: {samples:,} "
        f"samples, plain and with statistics; models to time at each resolution: {len(bench.variants)}, "
        f"{steps * (bench.profile.latency.rounds + bench.profile.latency.warmup):,} eager steps in all. "
        "Seconds are told of measured pieces alone, never estimated.",
        markup=False,
        soft_wrap=True,
    )


def _has(bench: Workbench) -> str:
    disk = free_disk(bench.store.folder) / GIB
    host = f"{host_free_bytes() / GIB:.1f} GiB of memory and {disk:.1f} GiB of disk free"
    if torch.device(bench.device).type != "cuda":
        return host
    if not torch.cuda.is_available():
        return f"{host}, no CUDA GPU: all stages but flops need one, or --device cpu at reduced sizes"
    free, total = torch.cuda.mem_get_info(bench.device)
    name = torch.cuda.get_device_name(bench.device)
    return f"{host}, {free / GIB:.1f} of {total / GIB:.1f} GiB free on {name}"
