"""Folding leaves the function as it is and never costs a product more."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import load_transformer, save_transformer
from fastflux.models.architecture import architecture_of
from fastflux.models.folding import fold_
from fastflux.models.pruned import parameter_count, plan_of
from fastflux.models.sublayers import RemovedBlock
from fastflux.models.surgery import get_block
from tests.fastflux.conftest import make_replaced_flux, make_tiny_flux, run


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 5)), st.integers(0, 1000))
def test_folded_equals_unfolded(places: set[int], seed: int) -> None:
    plain, folded = make_replaced_flux(places, seed=seed), make_replaced_flux(places, seed=seed)
    fold_(folded)
    torch.testing.assert_close(run(folded), run(plain), rtol=1e-4, atol=1e-5)
    assert parameter_count(folded) <= parameter_count(plain)


def test_each_run_keeps_one_linear_block() -> None:
    transformer = make_replaced_flux({0, 1, 2, 4})  # a run across double and single blocks, and a lone block
    plan = fold_(transformer)
    blocks = architecture_of(transformer).blocks(transformer)
    removed = [place for place, block in enumerate(blocks) if isinstance(get_block(transformer, block), RemovedBlock)]
    assert removed == [1, 2]
    assert [item.kind for item in plan.replacements] == ["linear", "removed", "removed", "linear"]
    assert plan.config["folded"] is True


def test_a_folded_model_is_saved_and_loaded(tmp_path: Path) -> None:
    transformer = make_replaced_flux({1, 2, 3})
    fold_(transformer)
    save_transformer(transformer, tmp_path / "folded")
    loaded = load_transformer(tmp_path / "folded")
    assert torch.equal(run(loaded), run(transformer))
    assert plan_of(loaded) == plan_of(transformer)


def test_a_dense_model_has_nothing_to_fold() -> None:
    with pytest.raises(FastFluxError, match="dense"):
        fold_(make_tiny_flux())
