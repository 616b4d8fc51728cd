"""Transformers and pipelines of both families, small enough for every test, with statistics of a few forwards."""

from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from torch import Tensor, nn

from fastflux.calibration.statistics import Statistics, collect_statistics
from fastflux.methods.sandwich_training import method as sandwich_training
from fastflux.models.architecture import architecture_of, example_inputs
from fastflux.models.pruned import attach_plan_
from fastflux.models.surgery import replace_block_
from fastflux.plan import PruningPlan, Replacement

Drive = Callable[[nn.Module], Callable[[], None]]

TINY = {
    "in_channels": 8, "num_layers": 2, "num_single_layers": 4, "attention_head_dim": 8, "num_attention_heads": 2,
    "joint_attention_dim": 12, "pooled_projection_dim": 10, "guidance_embeds": True, "axes_dims_rope": (4, 2, 2),
}  # fmt: skip

TINY_SD3 = {
    "sample_size": 4, "patch_size": 2, "in_channels": 2, "out_channels": 2, "num_layers": 7, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": 20, "caption_projection_dim": 16, "pooled_projection_dim": 20,
    "pos_embed_max_size": 8,
}  # fmt: skip


def make_tiny_flux(seed: int = 0, **changes: Any) -> Any:
    """A dense transformer of 2 double and 4 single blocks, 2 heads x 8, with seeded random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FluxTransformer2DModel(**{**TINY, **changes}).eval()


def make_tiny_sd3(seed: int = 0, **changes: Any) -> Any:
    """A dense transformer of 7 blocks, the last of which is kept, 2 heads x 8, with seeded random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer: Any = SD3Transformer2DModel(**{**TINY_SD3, **changes}).eval()
    return transformer


Make = Callable[..., Any]
FAMILIES: Mapping[str, Make] = {"flux": make_tiny_flux, "sd3": make_tiny_sd3}


def make_replaced_flux(linear: Collection[int], removed: Collection[int] = (), seed: int = 0) -> Any:
    """The tiny FLUX whose blocks at the places ``linear`` are linear layers of random weights."""
    return make_replaced(make_tiny_flux, linear, removed, seed)


def make_replaced(make: Make, linear: Collection[int], removed: Collection[int] = (), seed: int = 0) -> Any:
    """A tiny model whose blocks at the places ``linear`` are linear layers of random weights."""
    transformer = make()
    blocks = architecture_of(transformer).blocks(transformer)
    replacements = tuple(
        Replacement(blocks[place], "linear" if place in linear else "removed") for place in sorted({*linear, *removed})
    )
    generator = torch.Generator().manual_seed(seed)
    for replacement in replacements:
        for parameter in replace_block_(transformer, replacement).parameters():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    attach_plan_(
        transformer, PruningPlan("tiny", "r1", "linear_replacement", {"blocks": len(replacements)}, replacements)
    )
    return transformer


def tiny_inputs(transformer: nn.Module, seed: int = 0, batch: int = 2) -> dict[str, Tensor]:
    """Inputs of a forward with 4 image and 3 text tokens."""
    return example_inputs(transformer, batch, 32, 32, 3, torch.Generator().manual_seed(seed))


def run(transformer: nn.Module, inputs: dict[str, Tensor] | None = None) -> Tensor:
    """The transformer's output for the tiny inputs."""
    with torch.no_grad():
        output: Tensor = transformer(**(inputs or tiny_inputs(transformer)), return_dict=False)[0]
    return output


@pytest.fixture
def transformer() -> Any:
    return make_tiny_flux()


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    name: str = request.param
    return name


@pytest.fixture
def make(family: str) -> Make:
    """What makes the family's dense tiny model."""
    return FAMILIES[family]


@pytest.fixture(scope="session")
def drive() -> Drive:
    """Four forwards of a transformer."""

    def driver(transformer: nn.Module) -> Callable[[], None]:
        def forwards() -> None:
            for seed in range(4):
                run(transformer, tiny_inputs(transformer, seed, batch=8))

        return forwards

    return driver


@pytest.fixture(scope="session")
def statistics_of(drive: Drive) -> Callable[[str], Statistics]:
    """Statistics of a family's tiny model."""

    @cache
    def collect(family: str) -> Statistics:
        dense = FAMILIES[family]()
        return collect_statistics(dense, drive(dense))

    return collect


@pytest.fixture(scope="session")
def statistics(statistics_of: Callable[[str], Statistics]) -> Statistics:
    return statistics_of("flux")


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny pipeline; to be read, not changed."""
    from tests.fastflux.tiny_pipeline import write_tiny_pipeline

    @cache
    def write(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family) / "tiny"
        write_tiny_pipeline(folder, family)
        return folder

    return write


@pytest.fixture(scope="session")
def base(pipelines: Callable[[str], Path]) -> Path:
    return pipelines("flux")


PROMPTS = ("a photo of a red star", "a photo of a blue ring", "a red ring")


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three prompts; to be read, not changed."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n\n")
    return path


def draw(pipeline: Any) -> Tensor:
    """An image of a tiny pipeline."""
    pipeline.set_progress_bar_config(disable=True)
    images: Tensor = pipeline(
        "a red star", num_inference_steps=2, height=32, width=32, max_sequence_length=6,
        generator=torch.Generator().manual_seed(0), output_type="pt",
    ).images  # fmt: skip
    return images


def seen_by(pipeline: Any, drive: Callable[[], object]) -> list[dict[str, Any]]:
    """What the pipeline's transformer is given while something drives it."""
    seen: list[dict[str, Any]] = []
    handle = pipeline.transformer.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    drive()
    handle.remove()
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "transformer"


class DiesAtTheThird:
    """Stands in for the training of a sandwich: the third call is interrupted, all others go through."""

    def __init__(self) -> None:
        self.calls = 0
        self._train = sandwich_training.train_sandwich_

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return self._train(*arguments, **options)


@pytest.fixture
def dies_at_the_third(monkeypatch: pytest.MonkeyPatch) -> DiesAtTheThird:
    """Sandwich Training from here on, with the calls it has counted."""
    stand_in = DiesAtTheThird()
    monkeypatch.setattr(sandwich_training, "train_sandwich_", stand_in)
    return stand_in


DAMAGES = ("cut", "first bit", "last bit", "a bit of the header")


def harm(path: Path, damage: str) -> None:
    """Damage a safetensors file: cut it, or flip one bit of its tensors or of its metadata."""
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    place = {"first bit": header, "last bit": len(data) - 1, "a bit of the header": data.index(b"sha256") + 9}
    if damage == "cut":
        data = data[:100]
    else:
        data[place[damage]] ^= 1
    path.write_bytes(data)
