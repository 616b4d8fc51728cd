"""The model card of an export: what it says, what it never claims, and what becomes of a card people wrote."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from diffusers import FluxPipeline
from huggingface_hub import ModelCard

from fastflux.calibration.trajectories import Trajectories
from fastflux.io.checkpoint import revision_of
from fastflux.io.model_card import keep_foreign_cards, model_card
from fastflux.io.pipelines import export_pipeline
from fastflux.methods.block_removal import BlockRemovalConfig
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.models.folding import fold_
from fastflux.models.pruned import parameter_count, plan_of
from fastflux.plan import PruningPlan
from fastflux.pruning import prune_
from tests.fastflux.conftest import make_replaced_flux, make_tiny_flux

BASE_CARD = """---
license: other
license_name: flux-1-dev-non-commercial-license
license_link: LICENSE.md
tags: [dense]
---
# The dense model
"""

GOLDEN = """---
base_model: someone/tiny-FLUX
library_name: diffusers
license: apache-2.0
pipeline_tag: text-to-image
tags:
- fastflux
- pruned
- flux
---

# `someone/tiny-FLUX`, pruned

A text-to-image pipeline: `someone/tiny-FLUX` with its transformer pruned by the library FastFLUX, which implements \
[FastFLUX: Pruning FLUX with Block-wise Replacement and Sandwich Training](https://arxiv.org/abs/2506.10035). \
All other components are those of the base model.

## Pruning plan

- Method: `linear_replacement`
- Settings: `ratio` `0.5`, `ranking` `residual_r2`, `ridge` `1e-06`, `seed` `0`
- Blocks replaced: 4 of 6
  - `transformer_blocks` 0: by linear layers
  - `single_transformer_blocks` 0-1: by linear layers
  - `single_transformer_blocks` 3: by their shortcut alone
- Base revision: `r1`
- Plan hash: `HASH`

## Calibration

On the base model's own sampling of 2 prompts: 4 steps, guidance 3.5, noise from seed 7 on.

## Measured

- Transformer parameters: 25,096 of the dense model's 45,832 (54.8%)
- Image quality and speed: not measured by the export

## How to load it

```python
import fastflux  # makes the pruned transformer's class known to diffusers
from diffusers import FluxPipeline

pipeline = FluxPipeline.from_pretrained("path/to/this/folder")
```

Without `import fastflux`, `FluxPipeline.from_pretrained` stops with an error; it does not draw wrong images.

## Licence

This model derives from the base model, so the base model's licence applies: `apache-2.0`.
"""


class FakePipeline:
    vae_scale_factor = 8


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A base folder without a card."""
    (tmp_path / "dense").mkdir()
    return tmp_path / "dense"


def plan_like(plan: PruningPlan | None, **changes: Any) -> PruningPlan:
    return PruningPlan.from_json({**plan.to_json(), **changes})


def card_of(base: Path, transformer: Any = None, *, calibration: Trajectories | None = None, **changes: Any) -> str:
    transformer = transformer or make_replaced_flux({0, 2, 3}, removed={5})
    return model_card(transformer, plan_like(plan_of(transformer), **changes), base, calibration)


def test_a_small_card_word_by_word(dense: Path) -> None:
    (dense / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    settings = {"ratio": 0.5, "blocks": None, "ranking": "residual_r2", "ridge": 1e-6, "seed": 0}
    changes: dict[str, Any] = {"base_model": "someone/tiny-FLUX", "config": settings}
    text = card_of(dense, calibration=Trajectories(FakePipeline(), ["a", "b"], steps=4, seed=7), **changes)
    told, _, seal = text.partition("\n<!-- ")
    plan = plan_like(plan_of(make_replaced_flux({0, 2, 3}, removed={5})), **changes)
    assert told == GOLDEN.replace("HASH", plan.hash)
    assert f"{parameter_count(make_tiny_flux()):,}" == "45,832"
    assert seal.startswith("Written by FastFLUX; sha256 of the text above: ")


def test_the_hub_reads_its_metadata(dense: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card_of(dense, base_model="someone/tiny-FLUX"))
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.to_dict() == {
        "base_model": "someone/tiny-FLUX",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["fastflux", "pruned", "flux"],
    }
    assert card.text.lstrip().startswith("# `someone/tiny-FLUX`, pruned")


@pytest.mark.parametrize("name", ["null/null", "1.0/2.0", "2024-01-01/yes", "someone/no"])
def test_base_models_that_yaml_would_take_for_something_else(name: str, dense: Path) -> None:
    assert ModelCard(card_of(dense, base_model=name)).data.base_model == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('my model: "v1" #2 | <b>', '`my model: "v1" #2 | <b>`'),
        ("a`b``c", "```a`b``c```"),
        ("`quoted`", "`` `quoted` ``"),
        ("two\n---\nlines", "`two --- lines`"),
        ("../FLUX.1-dev", "`../FLUX.1-dev`"),
        ("flux-dev", "`flux-dev`"),
        ("модель", "`модель`"),
        ("bytes \udcff", "`bytes ?`"),
        ("", "A model whose name was not recorded"),
    ],
)
def test_names_that_are_no_hub_ids_are_shown_but_not_linked(name: str, shown: str, dense: Path) -> None:
    card = ModelCard(card_of(dense, base_model=name))
    assert card.data.base_model is None
    assert card.data.tags == ["fastflux", "pruned", "flux"]
    assert card.text.lstrip().splitlines()[0] == f"# {shown}, pruned"


@pytest.mark.parametrize(
    ("files", "metadata", "told"),
    [
        ({}, {}, "applies; it was not found in the base model's folder."),
        ({"README.md": "# No metadata"}, {}, "it was not found"),
        ({"README.md": "---\nlicense: [unclosed\n---\n"}, {}, "it was not found"),
        ({"README.md": "---\n- a list\n---\n"}, {}, "it was not found"),
        ({"README.md": "---\nlicense: 3\nmodel-index: x\n---\n"}, {}, "it was not found"),
        (
            {"LICENSE.md": "terms"},
            {"license": "other", "license_link": "LICENSE.md"},
            "applies: see [LICENSE.md](LICENSE.md).",
        ),
        (
            {"README.md": BASE_CARD, "LICENSE.md": "terms"},
            {"license": "other", "license_name": "flux-1-dev-non-commercial-license", "license_link": "LICENSE.md"},
            "`other` / `flux-1-dev-non-commercial-license` ([LICENSE.md](LICENSE.md)).",
        ),
        (
            {"README.md": BASE_CARD},
            {"license": "other", "license_name": "flux-1-dev-non-commercial-license"},
            "applies: `other` / `flux-1-dev-non-commercial-license`.",
        ),
    ],
)
def test_the_licence_is_the_base_models(
    files: dict[str, str], metadata: dict[str, str], told: str, dense: Path
) -> None:
    for name, text in files.items():
        (dense / name).write_text(text)
    card = ModelCard(card_of(dense))
    found = card.data.to_dict()
    assert {key: value for key, value in found.items() if key.startswith("license")} == metadata
    assert told in card.text


def test_calibration_is_told_only_where_it_is_known(dense: Path) -> None:
    def section(text: str) -> str:
        return text.split("## Calibration\n\n")[1].split("\n\n", maxsplit=1)[0]

    assert section(card_of(dense, config={"blocks": 4})) == "It was not recorded."
    removed = make_tiny_flux()
    prune_(removed, BlockRemovalConfig(blocks=2, ranking="end2start"))
    assert section(card_of(dense, removed)) == "None: the method looks at weights or order alone."


def test_sliced_and_folded_models_have_cards_too(dense: Path) -> None:
    sliced = make_tiny_flux()
    plan = prune_(sliced, L1NormConfig(ratio=0.2))
    text = card_of(dense, sliced)
    assert f"`heads` `{plan.config['heads']}`" in text
    assert "- Blocks replaced: 0 of 6\n- Base revision" in text
    folded = make_replaced_flux({1, 2, 3})
    fold_(folded)
    text = card_of(dense, folded)
    assert "  - `transformer_blocks` 1: by linear layers\n" in text
    assert "  - `single_transformer_blocks` 0-1: by their shortcut alone\n" in text


def test_a_card_that_people_wrote_is_kept_and_ours_is_not(dense: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    (old / "README.md").write_text(card_of(dense))
    keep_foreign_cards(old, new)
    assert not list(new.iterdir())
    (old / "README.md").write_text(card_of(dense).replace("## Measured", "## Measured by me"))
    (old / "README.previous.md").write_text("mine")
    keep_foreign_cards(old, new)
    assert (new / "README.previous.md").read_text() == "mine"
    assert "Measured by me" in (new / "README.previous-2.md").read_text()


@pytest.fixture(scope="module")
def described(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with a card and a licence."""
    folder = tmp_path_factory.mktemp("described") / "tiny"
    shutil.copytree(base, folder)
    (folder / "README.md").write_text(BASE_CARD)
    (folder / "LICENSE.md").write_text("terms")
    return folder


def test_exports_have_a_card_and_the_licence(described: Path, tmp_path: Path) -> None:
    transformer = make_tiny_flux()
    prune_(
        transformer,
        BlockRemovalConfig(blocks=1, ranking="end2start"),
        base_model="tiny",
        base_revision=revision_of(described / "transformer"),
    )
    out = tmp_path / "out"
    export_pipeline(described, transformer, out)
    card = ModelCard.load(out / "README.md")
    assert card.data.license_name == "flux-1-dev-non-commercial-license"
    assert "The dense model" not in card.text
    assert (out / "LICENSE.md").read_text() == "terms"

    (out / "README.md").write_text("# My own words\n")
    export_pipeline(described, transformer, out, overwrite=True)
    assert (out / "README.previous.md").read_text() == "# My own words\n"
    assert ModelCard.load(out / "README.md").text == card.text


def test_exporting_a_dense_model_keeps_the_base_models_card(described: Path, tmp_path: Path) -> None:
    export_pipeline(described, make_tiny_flux(), tmp_path / "same")
    assert (tmp_path / "same/README.md").read_text() == BASE_CARD


def test_loading_without_fastflux_is_an_error(described: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_pipeline(described, make_replaced_flux({2}), tmp_path / "out")
    monkeypatch.delitem(sys.modules, "fastflux")  # as in a process that has not imported it
    with pytest.raises(ValueError, match="import fastflux before calling `from_pretrained`"):
        FluxPipeline.from_pretrained(tmp_path / "out")
