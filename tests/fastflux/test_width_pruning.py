"""Width pruning: what others can stand in for goes first and costs nothing, and losses are those of least squares."""

from typing import Any

import pytest
import torch

from fastflux.calibration.least_squares import LinearStatistics
from fastflux.calibration.statistics import Calibration
from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.methods.width_pruning import WidthPruningConfig, _Reader
from fastflux.models.offload import offload_blocks_
from fastflux.models.pruned import parameter_count
from fastflux.models.surgery import slice_linear_
from fastflux.plan import PruningPlan
from fastflux.pruning import apply_plan_, prune_
from tests.fastflux.conftest import Drive, make_tiny_flux, run


def test_losses_are_what_least_squares_without_the_columns_leave() -> None:
    rng = torch.Generator().manual_seed(0)
    mixed = torch.randn(400, 3, generator=rng, dtype=torch.float64) @ torch.randn(3, 6, generator=rng).double()
    x = mixed + 0.3 * torch.randn(400, 6, generator=rng, dtype=torch.float64) + 1.0
    layer = torch.nn.Linear(6, 4).double()
    y = layer(x).detach()
    moments = LinearStatistics.empty(6, 1)
    moments.update(x, x[:, :1])

    def fitted(*dropped: int) -> tuple[torch.Tensor, float]:
        kept = torch.cat([x[:, [at for at in range(6) if at not in dropped]], torch.ones(400, 1).double()], dim=1)
        solution = torch.linalg.lstsq(kept, y).solution
        residual = y - kept @ solution
        return solution, float(residual.square().sum() / (y - y.mean(dim=0)).square().sum())

    groups = torch.arange(6).view(3, 2)
    with torch.no_grad():
        reader = _Reader.of(layer, moments, ridge=1e-9)
        losses = reader.losses([*torch.arange(6)[:, None]]), reader.losses([*groups])
        torch.testing.assert_close(losses[0].tolist(), [fitted(at)[1] for at in range(6)], rtol=1e-4, atol=0)
        torch.testing.assert_close(
            losses[1].tolist(), [fitted(*pair)[1] for pair in groups.tolist()], rtol=1e-4, atol=0
        )
        for at in (1, 4):
            reader.drop_(torch.tensor([at]))
        slice_linear_(layer, columns=torch.tensor([0, 2, 3, 5]))
        reader.fill_(layer, torch.tensor([0, 2, 3, 5]))
        filled = torch.cat([layer.weight, layer.bias[:, None]], dim=1)
    torch.testing.assert_close(filled.T, fitted(1, 4)[0], rtol=1e-4, atol=1e-5)


def twins() -> Any:
    """A tiny FLUX in whose blocks the second head and the second half of the MLP channels do what the first do."""
    transformer = make_tiny_flux()
    with torch.no_grad():
        for block in [*transformer.transformer_blocks, *transformer.single_transformer_blocks]:
            for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
                if hasattr(block.attn, name):
                    _repeat(getattr(block.attn, name), 8)
            single = hasattr(block, "proj_mlp")
            for first in [block.proj_mlp] if single else [block.ff.net[0].proj, block.ff_context.net[0].proj]:
                _repeat(first, 32)
    return transformer


def _repeat(linear: Any, rows: int) -> None:
    linear.weight[rows:] = linear.weight[:rows]
    linear.bias[rows:] = linear.bias[:rows]


def _share(heads: int, channels: int) -> float:
    """The ratio at which so much is kept."""
    skeleton = make_tiny_flux()
    apply_plan_(skeleton, PruningPlan("", "", "width_pruning", {"heads": heads, "mlp_channels": channels}))
    return 1 - parameter_count(skeleton) / parameter_count(make_tiny_flux())


def test_what_others_can_stand_in_for_costs_nothing(drive: Drive) -> None:
    dense, ratio = run(twins()), _share(1, 32)
    errors = {}
    for config in (L1NormConfig(ratio), WidthPruningConfig(ratio, samples=16)):
        transformer = twins()
        plan = prune_(transformer, config, Calibration(drive(transformer)))
        assert (plan.config["heads"], plan.config["mlp_channels"]) == (1, 32)
        errors[config.method] = float((run(transformer) - dense).square().mean() / dense.var())
    assert errors["width_pruning"] < 1e-6
    assert errors["l1_norm"] > 1e-2


def test_fine_tuning_comes_behind_and_offloaded_blocks_give_the_same(drive: Drive) -> None:
    outputs = []
    for offloaded in (False, True):
        transformer = make_tiny_flux()
        if offloaded:
            offload_blocks_(transformer, "cpu")
        calibration = Calibration(drive(transformer), batch_size=4)
        prune_(transformer, WidthPruningConfig(0.2, samples=8), calibration)
        outputs.append(run(transformer))
    assert torch.equal(*outputs)
    assert calibration.cost.block_forwards == 8 * 6
    tuned = make_tiny_flux()
    prune_(tuned, WidthPruningConfig(0.2, samples=8, steps=2, batch=4), calibration := Calibration(drive(tuned)))
    assert calibration.cost.block_forwards == 2 * 8 * 6
    assert calibration.cost.training_steps == 2
    assert not torch.equal(run(tuned), outputs[0])


def test_a_faulty_ridge_is_refused() -> None:
    with pytest.raises(FastFluxError, match="The ridge is -1"):
        WidthPruningConfig(0.1, ridge=-1.0)
