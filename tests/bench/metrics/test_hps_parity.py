"""HPS v2 against its reference on the same random weights: the published definition in float64, and hpsv2 itself.

hpsv2 is no dependency (its pins fit no test environment), so its own code runs where it is installed without them:
``pip install --no-deps hpsv2==1.2.0``. Its wheel lacks the tokenizer's file, which open_clip has.
"""

import gzip
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image

from bench.metrics.models.open_clip_model import OpenClipModel, OpenClipSpec
from bench.metrics.quality.hps import HPS, HPSSettings
from bench.samples.image_set import ImageSet, Pixels
from bench.samples.layouts import read_layout
from bench.samples.prompts import Prompt
from bench.settings import Place, PlaceOrName
from tests.bench.conftest import WriteImages
from tests.bench.hpsv2_layout import write_layout
from tests.bench.metrics import reference_clip

PROMPTS = ["a photo of a cat", "An oil painting, 'still life', of 3 pears & a jug!", "star " * 100]
SIZES = [(150, 97), (61, 200), (56, 56), (40, 30), (224, 224)]
TOLERANCE = 1e-4


def pictures() -> list[Pixels]:
    """Blocks of colors with noise on them: edges, where the filters differ most."""
    generator = np.random.default_rng(3)
    found = []
    for height, width in SIZES:
        blocks = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
        image = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
        image = image + generator.normal(0, 12, image.shape)
        found.append(image.clip(0, 255).astype(np.uint8))
    return found


def tokens_of(prompt: str) -> torch.Tensor:
    import open_clip

    return open_clip.SimpleTokenizer(context_length=77)(prompt)[0]


def ours(checkpoint: Path, architecture: str, *, antialias: bool, batch_size: int = 4) -> OpenClipModel:
    return HPS.load(
        HPSSettings(PlaceOrName(architecture), Place(checkpoint), antialias=antialias, batch_size=batch_size)
    ).model


def state_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state


@pytest.mark.parametrize("antialias", [True, False])
def test_scores_are_the_published_definition(tiny_hps: tuple[str, Path], antialias: bool) -> None:
    architecture, checkpoint = tiny_hps
    model = ours(checkpoint, architecture, antialias=antialias)
    found = 100 * model.image_features(pictures()).double() @ model.text_features(PROMPTS).double().T
    state = state_of(checkpoint)
    for row, image in enumerate(pictures()):
        for column, prompt in enumerate(PROMPTS):
            expected = 100 * reference_clip.score(
                state, image, tokens_of(prompt), size=56, antialias=antialias, heads=(2, 2)
            )
            assert float(found[row, column]) == pytest.approx(expected, abs=TOLERANCE)


def test_the_filter_is_no_detail(tiny_hps: tuple[str, Path]) -> None:
    """A planted fault: the parity above tells the resizings apart."""
    architecture, checkpoint = tiny_hps
    filtered, plain = (ours(checkpoint, architecture, antialias=value) for value in (True, False))
    rounded = OpenClipModel(OpenClipSpec(architecture, str(checkpoint), "longest"))
    image = pictures()[:1]
    features = [model.image_features(image) for model in (filtered, plain, rounded)]
    texts = filtered.text_features(PROMPTS[:1])
    scores = [float(100 * (each * texts).sum()) for each in features]
    assert abs(scores[0] - scores[1]) > 10 * TOLERANCE
    assert abs(scores[0] - scores[2]) > TOLERANCE  # PIL rounds to whole values
    assert [model.settings["antialias"] for model in (filtered, plain, rounded)] == [True, False, True]
    assert [model.settings["resized_by"] for model in (filtered, plain, rounded)] == ["torch", "torch", "PIL"]


def large_state(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights of an architecture, tiled from a few random numbers: drawing a hundred million takes seconds."""
    import open_clip

    with torch.device("meta"):
        shapes = open_clip.CLIP(**config).state_dict()
    drawn = torch.randn(1_000_003, generator=torch.Generator().manual_seed(2)).half()
    state = {}
    for place, (key, like) in enumerate(shapes.items()):
        noise = drawn.roll(977 * place).repeat(-(-like.numel() // len(drawn)))[: like.numel()].reshape(like.shape)
        state[key] = noise * 0.02 + (1 if "ln_" in key and key.endswith("weight") else 0)
    return state


def test_a_vit_h_14_of_one_layer_scores_as_the_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its widths, heads and resolution, in one layer of each tower instead of 32 and 24."""
    import open_clip

    config = open_clip.get_model_config("ViT-H-14")
    for tower in ("vision_cfg", "text_cfg"):
        config[tower]["layers"] = 1
    (tmp_path / "low-h-14.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "low-h-14.json")
    for name in ("normal_", "uniform_", "kaiming_uniform_", "xavier_uniform_", "trunc_normal_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)  # the checkpoint replaces it all
    checkpoint = tmp_path / "HPS_v2_compressed.pt"
    torch.save({"state_dict": large_state(config)}, checkpoint)
    model = ours(checkpoint, "low-h-14", antialias=True)
    image, prompt = pictures()[0], PROMPTS[1]
    found = float(model.image_features([image])[0].double() @ model.text_features([prompt])[0].double())
    state = state_of(checkpoint)
    expected = reference_clip.score(state, image, tokens_of(prompt), size=224, antialias=True, heads=(16, 16))
    assert found == pytest.approx(expected, abs=TOLERANCE)


@pytest.fixture
def hpsv2_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports modules of hpsv2, giving them what its wheel lacks; skips where it is not installed."""
    if importlib.util.find_spec("hpsv2") is None:
        pytest.skip("hpsv2 is not installed (pip install --no-deps hpsv2==1.2.0)")
    import open_clip

    vocabulary = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    opened = gzip.open

    def found(path: Any, *arguments: Any, **options: Any) -> Any:
        lacking = str(path).endswith(vocabulary.name) and not Path(path).exists()
        return opened(vocabulary if lacking else path, *arguments, **options)

    monkeypatch.setattr(gzip, "open", found)
    # Progress bars of downloads, its training, and turtle graphics, which its scoring imports and does not use; the
    # last need Tk, which not every Python has.
    training = "hpsv2.src.training"
    for name in ("clint", "clint.textui", "turtle", training, f"{training}.train", f"{training}.data"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    return importlib.import_module


def hpsv2_model(hpsv2_module: Callable[[str], Any], architecture: str, folder: Path) -> tuple[Any, Any]:
    """hpsv2's own model and preprocessing for the small architecture, as its `initialize_model` makes them."""
    theirs = hpsv2_module("hpsv2.src.open_clip")
    theirs.add_model_config(folder / f"{architecture}.json")
    network, _, preprocess = theirs.create_model_and_transforms(
        architecture, precision="amp", device="cpu", light_augmentation=True, output_dict=True, pretrained_image=False
    )
    return network, preprocess


@pytest.mark.filterwarnings("ignore")
def test_scores_are_those_of_hpsv2(
    tiny_hps: tuple[str, Path], hpsv2_module: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture, checkpoint = tiny_hps
    monkeypatch.setenv("HPS_ROOT", str(tmp_path))
    img_score = hpsv2_module("hpsv2.img_score")
    network, preprocess = hpsv2_model(hpsv2_module, architecture, checkpoint.parent)
    monkeypatch.setattr(img_score, "model_dict", {"model": network, "preprocess_val": preprocess})
    model = ours(checkpoint, architecture, antialias=True)
    for image in pictures():
        if max(image.shape[:2]) == 56 and min(image.shape[:2]) < 56:
            continue  # which hpsv2 does not pad
        file = tmp_path / "image.png"
        Image.fromarray(image).save(file)
        for prompt in PROMPTS:
            expected = img_score.score(str(file), prompt, cp=str(checkpoint))[0]
            found = float((model.image_features([image]) * model.text_features([prompt])).sum())
            assert found == pytest.approx(float(expected), abs=TOLERANCE / 100)


@pytest.mark.filterwarnings("ignore")
def test_the_benchmarks_table_is_that_of_hpsv2(
    tiny_hps: tuple[str, Path], hpsv2_module: Callable[[str], Any], write_images: WriteImages, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Our files read by its code, and the numbers it prints."""
    architecture, checkpoint = tiny_hps
    entries = [
        {"id": f"hps-{style}-{index:05d}", "set": "hps", "style": style, "prompt": f"{style}, {index} pears"}
        for style in ("anime", "concept-art", "paintings", "photo")
        for index in range(80)
    ]
    prompts = [Prompt(**entry) for entry in entries]
    write_layout(ImageSet.read(write_images(entries, samples=1)), prompts, tmp_path / "layout")
    (tmp_path / "prompts").mkdir()
    for style in ("anime", "concept-art", "paintings", "photo"):
        texts = [prompt.prompt for prompt in prompts if prompt.style == style]
        (tmp_path / "prompts" / f"{style}.json").write_text(json.dumps(texts))
    evaluation = hpsv2_module("hpsv2.evaluation")
    network, preprocess = hpsv2_model(hpsv2_module, architecture, checkpoint.parent)
    network.load_state_dict(state_of(checkpoint))
    tokenizer = hpsv2_module("hpsv2.src.open_clip").get_tokenizer("ViT-H-14")
    capsys.readouterr()
    evaluation.evaluate_benchmark(
        str(tmp_path / "prompts"), str(tmp_path / "layout"), network.eval(), 20, preprocess, tokenizer, "cpu"
    )
    printed = dict(line.split()[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("layout"))
    found = HPS.load(HPSSettings(PlaceOrName(architecture), Place(checkpoint)))(
        read_layout(tmp_path / "layout", prompts)
    )
    assert printed.pop("Average") == f"{found.values['averaged']:.2f}"
    assert printed == {style: f"{found.values[style]:.2f}" for style in printed}
    assert len(printed) == 4
