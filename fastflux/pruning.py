"""The one verb of the library: ``plan = prune_(transformer, config, statistics)``."""

from collections.abc import Callable
from dataclasses import asdict

from torch import nn

from fastflux.architectures import architecture_of
from fastflux.calibration import Statistics, collect_statistics
from fastflux.errors import FastFluxError
from fastflux.methods.registry import PruningConfig, pruning_method
from fastflux.model import attach_plan_, plan_of, rebuild_
from fastflux.plan import PruningPlan


def prune_(
    transformer: nn.Module,
    config: PruningConfig,
    statistics: Statistics | Callable[[], None] | None = None,
    *,
    base_model: str = "",
    base_revision: str = "",
) -> PruningPlan:
    """Prune a dense transformer in place by the method that ``config`` belongs to, and return the plan.

    ``statistics`` come from `collect_statistics` on this transformer, or are a function that runs its forwards (see
    there), needed when ``config.needs_statistics``. ``base_model`` and ``base_revision`` go into the plan. The
    transformer becomes a ``FastFluxTransformer2DModel``; blocks that stay are not touched. Raises ``FastFluxError``
    when the transformer is pruned already or of an unknown class, and when statistics are missing.
    """
    architecture_of(transformer)
    method = pruning_method(config.method)
    if (earlier := plan_of(transformer)) is not None:
        raise FastFluxError(f"The transformer is pruned already, by plan {earlier.hash}: load the dense model first.")
    if not config.needs_statistics:
        statistics = None
    elif statistics is None:
        raise FastFluxError(f"{config.method} needs calibration statistics: pass collect_statistics(...) or a drive.")
    if callable(statistics):
        statistics = collect_statistics(transformer, statistics)
    pruned = method.prune_(transformer, config, statistics)
    plan = PruningPlan(
        base_model=base_model,
        base_revision=base_revision,
        method=config.method,
        config={**asdict(config), **pruned.skeleton},  # type: ignore[call-overload]  # every config is a dataclass
        replacements=pruned.replacements,
    )
    attach_plan_(transformer, plan)
    return plan


def apply_plan_(transformer: nn.Module, plan: PruningPlan) -> None:
    """Give a dense transformer the shapes of ``plan`` in place, weights unfilled: a skeleton to load weights into.

    Raises ``FastFluxError`` when the transformer is pruned already or lacks a block of the plan.
    """
    if (earlier := plan_of(transformer)) is not None:
        raise FastFluxError(f"The transformer is pruned already, by plan {earlier.hash}: start from the dense model.")
    rebuild_(transformer, plan)
    attach_plan_(transformer, plan)
