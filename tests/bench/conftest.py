"""Image sets and open_clip models small enough to make anew in every test run."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from PIL import Image

from bench.metrics.models.open_clip_model import LOCAL, OpenClipModel, OpenClipSpec, load_open_clip

WriteImages: TypeAlias = Callable[..., Path]


def clip_of(folder: Path, batch_size: int = 64) -> OpenClipModel:
    """The model in a folder of open_clip's."""
    return load_open_clip(OpenClipSpec(f"{LOCAL}{folder}"), "cpu", batch_size)


@pytest.fixture
def write_images(tmp_path: Path) -> WriteImages:
    """A function that writes random images and their manifest for prompt entries, and gives the manifest's path."""

    def write(
        prompts: Sequence[Mapping[str, Any]], *, samples: int = 2, size: int = 64, seed: int = 0, folder: str = "dense"
    ) -> Path:
        generator = np.random.default_rng(seed)
        root = tmp_path / folder
        (root / "images").mkdir(parents=True)
        lines = []
        for entry in prompts:
            for sample in range(samples):
                file = Path("images") / f"{entry['id']}_{sample}.png"
                Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(root / file)
                rest = {key: value for key, value in entry.items() if key != "id"}
                sha256 = hashlib.sha256((root / file).read_bytes()).hexdigest()
                line = {"file": str(file), "prompt_id": entry["id"], "sample": sample, "seed": sample, "sha256": sha256}
                lines.append(json.dumps({**line, **rest}) + "\n")
        manifest = root / "manifest.jsonl"
        manifest.write_text("".join(lines))
        return manifest

    return write


@pytest.fixture
def hps_prompts() -> list[dict[str, Any]]:
    """Three prompts of each HPS style."""
    return [
        {"id": f"hps-{style}-{i:03}", "set": "hps", "style": style, "prompt": f"{style} of {i} stars"}
        for style in ("anime", "concept-art", "paintings", "photo")
        for i in range(3)
    ]


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random open_clip model: ViT of width 32, 64x64 images, patch 16, context length 16."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny-clip")
    model_cfg: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": {}}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(open_clip.CLIP(**model_cfg).state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_hps(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An architecture that open_clip knows by name, and a random checkpoint of it laid out as HPS v2's."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("tiny-hps")
    model_cfg: dict[str, Any] = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 56, "layers": 2, "width": 32, "head_width": 16, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (folder / "tiny-hps.json").write_text(json.dumps(model_cfg))
    open_clip.add_model_config(folder / "tiny-hps.json")
    checkpoint = folder / "HPS_v2_compressed.pt"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save({"state_dict": open_clip.CLIP(**model_cfg).state_dict()}, checkpoint)
    return "tiny-hps", checkpoint
