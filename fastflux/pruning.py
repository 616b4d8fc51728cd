"""The one verb of the library: ``plan = prune_(transformer, config, statistics)``."""

from collections.abc import Callable

from torch import nn

from fastflux.calibration.statistics import Calibration, Statistics
from fastflux.errors import FastFluxError
from fastflux.methods.registry import PruningConfig, pruning_method, require_fits, settings_of
from fastflux.models.architecture import architecture_of
from fastflux.models.plain import require_finite, require_plain
from fastflux.models.pruned import attach_plan_, plan_of, rebuild_
from fastflux.plan import PruningPlan


def prune_(
    transformer: nn.Module,
    config: PruningConfig,
    calibration: Calibration | Statistics | Callable[[], None] | None = None,
    *,
    base_model: str = "",
    base_revision: str = "",
    calibrated_on: str = "",
) -> PruningPlan:
    """Prune a dense transformer in place by the method that ``config`` belongs to, and return the plan.

    The transformer becomes a `fastflux.models.pruned.PrunedTransformer` of its family.

    Args:
        transformer: A dense transformer of diffusers', such as ``FluxTransformer2DModel``, changed in place.
        config: The method and its settings.
        calibration: Needed when ``config.needs_statistics``: a `Calibration`, which then holds the cost, or what it is
            made of: a function that runs this transformer's forwards, or the statistics that `collect_statistics` gave.
        base_model: Goes into the plan, as does all that follows.
        base_revision: Which weights the base model has (`fastflux.io.checkpoint.revision_of`).
        calibrated_on: A digest of the calibration's data and settings.

    Returns:
        The plan, which saved models hold in their config.

    Raises:
        FastFluxError: The transformer is pruned already, of an unknown class, not as it was loaded (with LoRA, fused,
            quantised, offloaded by diffusers or accelerate) or holds values that are not finite; there is no
            calibration; or the settings do not fit the transformer.

    Example:
        >>> transformer = fastflux.load_transformer(f"{folder}/transformer")
        >>> plan = fastflux.prune_(transformer, fastflux.BlockRemovalConfig(blocks=1, ranking="end2start"))
        >>> plan.replacements[0].block
        BlockRef(stack='single_transformer_blocks', index=3)
    """
    architecture_of(transformer)
    method = pruning_method(config.method)
    if (earlier := plan_of(transformer)) is not None:
        raise FastFluxError(f"The transformer is pruned already, by plan {earlier.hash}: load the dense model first.")
    if config.needs_statistics and calibration is None:
        raise FastFluxError(f"{config.method} needs calibration: pass the statistics of collect_statistics or a drive.")
    require_plain(transformer, skeleton=True)
    require_finite(transformer)
    require_fits(config, transformer)
    if callable(calibration):
        calibration = Calibration(drive=calibration)
    elif not isinstance(calibration, Calibration):
        calibration = Calibration(collected=calibration)
    pruned = method.prune_(transformer, config, calibration)
    calibration.cost = pruned.cost
    plan = PruningPlan(
        base_model=base_model,
        base_revision=base_revision,
        method=config.method,
        config={**settings_of(config), **pruned.skeleton},
        replacements=pruned.replacements,
        calibration=calibrated_on,
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
