"""FastFLUX: prune diffusion transformers, FLUX and SD3, by replacing residual branches with linear layers.

``import fastflux`` is cheap: torch and diffusers load with the first name that needs them. It also lets diffusers load
exported pipelines, which name this package in their model_index.json.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import ModelMixin as ModelMixin

    from fastflux.calibration.statistics import Calibration as Calibration
    from fastflux.calibration.statistics import collect_statistics as collect_statistics
    from fastflux.errors import FastFluxError as FastFluxError
    from fastflux.io.checkpoint import load_transformer as load_transformer
    from fastflux.io.checkpoint import save_transformer as save_transformer
    from fastflux.io.pipelines import export_pipeline as export_pipeline
    from fastflux.io.pipelines import load_pipeline as load_pipeline
    from fastflux.methods.block_removal import BlockRemovalConfig as BlockRemovalConfig
    from fastflux.methods.l1_norm.method import L1NormConfig as L1NormConfig
    from fastflux.methods.linear_replacement import LinearReplacementConfig as LinearReplacementConfig
    from fastflux.methods.sandwich_training.method import SandwichTrainingConfig as SandwichTrainingConfig
    from fastflux.models.folding import fold_ as fold_
    from fastflux.models.pruned import FastFluxSD3Transformer2DModel as FastFluxSD3Transformer2DModel
    from fastflux.models.pruned import FastFluxTransformer2DModel as FastFluxTransformer2DModel
    from fastflux.models.pruned import plan_of as plan_of
    from fastflux.plan import PruningPlan as PruningPlan
    from fastflux.pruning import apply_plan_ as apply_plan_
    from fastflux.pruning import prune_ as prune_

__version__ = "0.1.0"

_HOMES = {
    "BlockRemovalConfig": "fastflux.methods.block_removal",
    "Calibration": "fastflux.calibration.statistics",
    "FastFluxError": "fastflux.errors",
    "FastFluxSD3Transformer2DModel": "fastflux.models.pruned",
    "FastFluxTransformer2DModel": "fastflux.models.pruned",
    "L1NormConfig": "fastflux.methods.l1_norm.method",
    "LinearReplacementConfig": "fastflux.methods.linear_replacement",
    "ModelMixin": "diffusers",  # diffusers asks a foreign package for this base class before it loads from it
    "PruningPlan": "fastflux.plan",
    "SandwichTrainingConfig": "fastflux.methods.sandwich_training.method",
    "apply_plan_": "fastflux.pruning",
    "collect_statistics": "fastflux.calibration.statistics",
    "export_pipeline": "fastflux.io.pipelines",
    "fold_": "fastflux.models.folding",
    "load_pipeline": "fastflux.io.pipelines",
    "load_transformer": "fastflux.io.checkpoint",
    "plan_of": "fastflux.models.pruned",
    "prune_": "fastflux.pruning",
    "save_transformer": "fastflux.io.checkpoint",
}

__all__ = [
    "BlockRemovalConfig",
    "Calibration",
    "FastFluxError",
    "FastFluxSD3Transformer2DModel",
    "FastFluxTransformer2DModel",
    "L1NormConfig",
    "LinearReplacementConfig",
    "ModelMixin",
    "PruningPlan",
    "SandwichTrainingConfig",
    "apply_plan_",
    "collect_statistics",
    "export_pipeline",
    "fold_",
    "load_pipeline",
    "load_transformer",
    "plan_of",
    "prune_",
    "save_transformer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastflux' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
