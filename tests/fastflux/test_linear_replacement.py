"""Replacement blocks, calibration and rankings against formulas written out in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from fastflux.calibration.importance import fit_blocks
from fastflux.calibration.statistics import Statistics, collect_statistics, load_statistics, save_statistics
from fastflux.errors import FastFluxError
from fastflux.methods.linear_replacement import LinearReplacementConfig
from fastflux.models.architecture import IMAGE_STREAM, TEXT_STREAM, architecture_of
from fastflux.models.sublayers import LinearReplacementBlock, RemovedBlock
from fastflux.models.surgery import get_block, replace_block_
from fastflux.plan import BlockRef, Replacement
from fastflux.pruning import prune_
from tests.fastflux.conftest import make_tiny_flux, run, tiny_inputs

DOUBLE = BlockRef("transformer_blocks", 1)
SINGLE = BlockRef("single_transformer_blocks", 1)
LAST = BlockRef("single_transformer_blocks", 3)
Drive = Callable[[nn.Module], Callable[[], None]]


def recorded(transformer: Any, block: BlockRef, drive: Callable[[], None]) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and residuals of a block by stream, ``(tokens, dim)`` in float64, stored in full."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {IMAGE_STREAM: [], TEXT_STREAM: []}

    def hook(_module: nn.Module, _args: Any, kwargs: dict[str, Tensor], output: tuple[Tensor, Tensor]) -> None:
        for name, after in zip((TEXT_STREAM, IMAGE_STREAM), output, strict=True):
            before = kwargs[name].double()
            seen[name].append((before.flatten(0, 1), (after.double() - before).flatten(0, 1)))

    handle = get_block(transformer, block).register_forward_hook(hook, with_kwargs=True)
    drive()
    handle.remove()
    return {name: (torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])) for name, pairs in seen.items()}


def least_squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias by QR, with the column of ones that the paper's [W; b] stands for."""
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1).double()], dim=1), y).solution
    return solution[:-1].T, solution[-1]


@pytest.mark.parametrize("joint", [False, True])
def test_block_computes_the_papers_formula(joint: bool) -> None:
    block = LinearReplacementBlock(6, joint=joint)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    image, text = torch.randn(2, 4, 6), torch.randn(2, 3, 6)
    new_text, new_image = block(image, text, temb=torch.zeros(2, 6))
    context = block.linear if joint else cast("nn.Linear", block.linear_context)
    for after, before, linear in ((new_image, image, block.linear), (new_text, text, context)):
        expected = before.double() + before.double() @ linear.weight.double().T + linear.bias.double()
        torch.testing.assert_close(after.double(), expected, rtol=1e-5, atol=1e-5)
    assert (block.linear_context is None) == joint


def test_new_blocks_are_the_identity_and_float16_is_clipped() -> None:
    image, text = torch.randn(1, 4, 6), torch.randn(1, 3, 6)
    for block in (LinearReplacementBlock(6, joint=False), RemovedBlock()):
        new_text, new_image = block(image, text)
        assert torch.equal(new_text, text)
        assert torch.equal(new_image, image)
    half = LinearReplacementBlock(6, joint=True, dtype=torch.float16)
    nn.init.constant_(half.linear.bias, 60000.0)
    loud = torch.full((1, 2, 6), 60000.0, dtype=torch.float16)
    assert all(torch.isfinite(stream).all() for stream in half(loud, loud))


def test_replacement_takes_dtype_and_mode_of_the_old_block() -> None:
    transformer = make_tiny_flux().to(torch.bfloat16).train()
    new = replace_block_(transformer, Replacement(SINGLE, "linear"))
    assert next(new.parameters()).dtype == torch.bfloat16
    assert new.training
    again = replace_block_(transformer, Replacement(SINGLE, "removed"))
    assert get_block(transformer, SINGLE) is again
    back = replace_block_(transformer, Replacement(SINGLE, "linear"))
    assert next(back.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("block", [DOUBLE, SINGLE, LAST])
def test_fit_equals_least_squares_on_stored_activations(block: BlockRef, drive: Drive) -> None:
    dense = make_tiny_flux()
    data = recorded(dense, block, drive(dense))
    statistics = collect_statistics(dense, drive(dense), blocks=[block])  # the first block's inputs span too little
    fit = fit_blocks(dense, statistics, ridge=0.0)[block]
    if block == DOUBLE:
        expected = {name: least_squares(*data[name]) for name in data}
    else:
        read = [IMAGE_STREAM] if block == LAST else [IMAGE_STREAM, TEXT_STREAM]  # nobody reads the last text
        pooled = (torch.cat([data[name][i] for name in read]) for i in range(2))
        expected = dict.fromkeys(data, least_squares(*pooled))
    for name, (weight, bias) in expected.items():
        torch.testing.assert_close(fit.fits[name].weight, weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(fit.fits[name].bias, bias, rtol=1e-5, atol=1e-6)
    read = [IMAGE_STREAM] if block == LAST else [IMAGE_STREAM, TEXT_STREAM]
    shares = []
    for name in read:
        x, y = data[name]
        weight, bias = expected[name]
        shares.append(1 - (y - x @ weight.T - bias).square().sum() / (y - y.mean(0)).square().sum())
    assert fit.residual_r2 == pytest.approx(float(sum(shares) / len(shares)), abs=1e-6)


def test_pruned_model_holds_the_fit(transformer: Any, statistics: Statistics) -> None:
    plan = prune_(transformer, LinearReplacementConfig(blocks=6), statistics)
    fits = fit_blocks(make_tiny_flux(), statistics)
    for replacement in plan.replacements:
        block = cast("LinearReplacementBlock", get_block(transformer, replacement.block))
        torch.testing.assert_close(block.linear.weight.double(), fits[replacement.block].fits[IMAGE_STREAM].weight)
        if block.linear_context is not None:
            torch.testing.assert_close(
                block.linear_context.bias.double(), fits[replacement.block].fits[TEXT_STREAM].bias
            )


def test_linear_replacement_beats_removal(statistics: Statistics) -> None:
    dense = run(make_tiny_flux(), tiny_inputs(make_tiny_flux(), seed=9))
    errors = []
    for kind in ("linear", "removed"):
        transformer = make_tiny_flux()
        if kind == "linear":
            prune_(transformer, LinearReplacementConfig(blocks=2, ranking="start2end"), statistics)
        else:
            for block in architecture_of(transformer).blocks(transformer)[:2]:
                replace_block_(transformer, Replacement(block, kind))
        errors.append((run(transformer, tiny_inputs(transformer, seed=9)) - dense).square().mean().item())
    assert errors[0] < errors[1]


def test_calibration_leaves_the_model_alone_and_removes_its_hooks(drive: Drive) -> None:
    transformer = make_tiny_flux()
    before = run(transformer)
    with pytest.raises(RuntimeError, match="stop"):
        collect_statistics(transformer, lambda: (_ for _ in ()).throw(RuntimeError("stop")))
    collect_statistics(transformer, drive(transformer))
    assert torch.equal(run(transformer), before)
    assert not any(module._forward_hooks for module in transformer.modules())


def test_calibration_counts_tokens(transformer: Any, drive: Drive) -> None:
    statistics = collect_statistics(transformer, drive(transformer), blocks=[DOUBLE])
    assert set(statistics) == {DOUBLE}
    assert {name: moments.count for name, moments in statistics[DOUBLE].items()} == {
        IMAGE_STREAM: 4 * 8 * 4,
        TEXT_STREAM: 4 * 8 * 3,
    }


def test_calibration_that_never_ran(transformer: Any) -> None:
    with pytest.raises(FastFluxError, match=r"never ran transformer_blocks.0"):
        collect_statistics(transformer, lambda: None)


def test_drive_can_stand_in_for_statistics(transformer: Any, statistics: Statistics, drive: Drive) -> None:
    other = make_tiny_flux()
    config = LinearReplacementConfig(ratio=0.5)
    assert prune_(transformer, config, drive(transformer)) == prune_(other, config, statistics)
    assert torch.equal(run(transformer), run(other))


def test_statistics_survive_the_disk(statistics: Statistics, tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    save_statistics(statistics, path)
    loaded = load_statistics(path)
    one, other = make_tiny_flux(), make_tiny_flux()
    config = LinearReplacementConfig(ratio=0.5)
    assert prune_(one, config, loaded) == prune_(other, config, statistics)
    assert torch.equal(run(one), run(other))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FastFluxError, match=r"Cannot read .*collect and save them again"):
        load_statistics(path)
    with pytest.raises(FastFluxError, match=r"Cannot read .*nowhere"):
        load_statistics(tmp_path / "nowhere")
    with pytest.raises(FastFluxError, match="Cannot write"):
        save_statistics(statistics, path / "below")
