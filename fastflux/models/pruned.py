"""The diffusers model classes of pruned transformers, whose config holds the pruning plan."""

from collections.abc import Mapping
from functools import wraps
from importlib import import_module
from typing import Any, ClassVar

import torch
from diffusers import FirstBlockCacheConfig, FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.configuration_utils import register_to_config
from torch import nn

from fastflux.errors import FastFluxError
from fastflux.models.architecture import architecture_of
from fastflux.models.blocks import RemovedBlock
from fastflux.plan import PruningPlan

CONTROLNET_RESIDUALS = (
    *("controlnet_block_samples", "controlnet_single_block_samples"),
    "block_controlnet_hidden_states",
)


class PrunedTransformer:
    """What all pruned models share, mixed in before diffusers' class of the dense model.

    The class's ``pruning_plan`` argument is a `PruningPlan` as JSON values; without one it is the dense model.
    """

    def _load_ip_adapter_weights(self, *args: Any, **kwargs: Any) -> None:
        _require_dense_widths(self)
        super()._load_ip_adapter_weights(*args, **kwargs)  # type: ignore[misc]  # diffusers' class comes next

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load as diffusers does, but strictly: a missing, unexpected or misshapen weight is a ``FastFluxError``."""
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(  # type: ignore[misc]  # diffusers' class comes next
            pretrained_model_name_or_path, output_loading_info=True, **kwargs
        )
        require_all_weights(info, pretrained_model_name_or_path)
        return (model, info) if wants_info else model


class FastFluxTransformer2DModel(PrunedTransformer, FluxTransformer2DModel):  # type: ignore[misc]  # diffusers is untyped
    """A FLUX transformer pruned by FastFLUX: ``FluxTransformer2DModel``'s arguments and a ``pruning_plan``."""

    # diffusers reads these for device maps and for compile_repeated_blocks.
    _no_split_modules: ClassVar = ["FluxTransformerBlock", "FluxSingleTransformerBlock", "LinearReplacementBlock"]
    _repeated_blocks: ClassVar = ["FluxTransformerBlock", "FluxSingleTransformerBlock", "LinearReplacementBlock"]

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        patch_size: int = 1,
        in_channels: int = 64,
        out_channels: int | None = None,
        num_layers: int = 19,
        num_single_layers: int = 38,
        attention_head_dim: int = 128,
        num_attention_heads: int = 24,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 768,
        guidance_embeds: bool = False,
        axes_dims_rope: tuple[int, int, int] = (16, 56, 56),
        pruning_plan: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            patch_size=patch_size,
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=num_layers,
            num_single_layers=num_single_layers,
            attention_head_dim=attention_head_dim,
            num_attention_heads=num_attention_heads,
            joint_attention_dim=joint_attention_dim,
            pooled_projection_dim=pooled_projection_dim,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=axes_dims_rope,
        )
        _rebuild_from_json_(self, pruning_plan)

    def enable_cache(self, config: Any) -> None:
        """Cache as diffusers does; ``FastFluxError`` for FirstBlockCache when there is no first block to go by."""
        if isinstance(config, FirstBlockCacheConfig) and isinstance(self.transformer_blocks[0], RemovedBlock):
            # Its residual is zero, and so would be the change that decides whether the other blocks run.
            raise FastFluxError(
                "FirstBlockCache goes by the first block's residual, but transformer_blocks.0 is removed: "
                "use another cache, or prune without removing that block."
            )
        super().enable_cache(config)

    @wraps(FluxTransformer2DModel.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run as ``FluxTransformer2DModel`` does; ``FastFluxError`` for ControlNet residuals on a folded model."""
        _require_no_residuals_between_folded_blocks(self, kwargs)
        return super().forward(*args, **kwargs)


class FastFluxSD3Transformer2DModel(PrunedTransformer, SD3Transformer2DModel):  # type: ignore[misc]  # diffusers is untyped
    """An SD3 transformer pruned by FastFLUX: ``SD3Transformer2DModel``'s arguments and a ``pruning_plan``."""

    _no_split_modules: ClassVar = ["JointTransformerBlock", "LinearReplacementBlock"]
    _repeated_blocks: ClassVar = ["JointTransformerBlock", "LinearReplacementBlock"]

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        sample_size: int = 128,
        patch_size: int = 2,
        in_channels: int = 16,
        num_layers: int = 18,
        attention_head_dim: int = 64,
        num_attention_heads: int = 18,
        joint_attention_dim: int = 4096,
        caption_projection_dim: int = 1152,
        pooled_projection_dim: int = 2048,
        out_channels: int = 16,
        pos_embed_max_size: int = 96,
        dual_attention_layers: tuple[int, ...] = (),
        qk_norm: str | None = None,
        pruning_plan: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            sample_size=sample_size,
            patch_size=patch_size,
            in_channels=in_channels,
            num_layers=num_layers,
            attention_head_dim=attention_head_dim,
            num_attention_heads=num_attention_heads,
            joint_attention_dim=joint_attention_dim,
            caption_projection_dim=caption_projection_dim,
            pooled_projection_dim=pooled_projection_dim,
            out_channels=out_channels,
            pos_embed_max_size=pos_embed_max_size,
            dual_attention_layers=dual_attention_layers,
            qk_norm=qk_norm,
        )
        _rebuild_from_json_(self, pruning_plan)

    @wraps(SD3Transformer2DModel.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run as ``SD3Transformer2DModel`` does; ``FastFluxError`` for ControlNet residuals on a folded model."""
        _require_no_residuals_between_folded_blocks(self, kwargs)
        return super().forward(*args, **kwargs)


DENSE_CLASSES: tuple[Any, ...] = (FluxTransformer2DModel, SD3Transformer2DModel)
PRUNED_CLASSES: Mapping[str, Any] = {
    FluxTransformer2DModel.__name__: FastFluxTransformer2DModel,
    SD3Transformer2DModel.__name__: FastFluxSD3Transformer2DModel,
}
"""By the name of the dense model's class."""
MODEL_CLASSES: Mapping[str, Any] = {cls.__name__: cls for cls in (*DENSE_CLASSES, *PRUNED_CLASSES.values())}
"""All classes that can be loaded, by name."""

for _class in PRUNED_CLASSES.values():
    # diffusers writes the class's top-level package into model_index.json and looks it up there.
    _class.__module__ = "fastflux"


def _rebuild_from_json_(transformer: Any, pruning_plan: dict[str, Any] | None) -> None:
    if pruning_plan is not None:
        rebuild_(transformer, PruningPlan.from_json(pruning_plan))


def _require_no_residuals_between_folded_blocks(transformer: Any, arguments: Mapping[str, Any]) -> None:
    if any(arguments.get(name) is not None for name in CONTROLNET_RESIDUALS):
        _require_unfolded(transformer)


def _require_unfolded(transformer: nn.Module) -> None:
    plan = plan_of(transformer)
    if plan is not None and plan.config.get("folded") and len({item.kind for item in plan.replacements}) > 1:
        raise FastFluxError(
            "ControlNet adds residuals between blocks that folding has merged: use the model pruned without folding."
        )


def _require_dense_widths(transformer: Any) -> None:
    plan = plan_of(transformer)
    if plan is not None and "heads" in plan.config:
        raise FastFluxError(
            f"Cannot load an IP-Adapter: its attention has the dense model's heads, of which {plan.method} left "
            f"{plan.config['heads']} in every block."
        )


def rebuild_(transformer: nn.Module, plan: PruningPlan) -> None:
    """Give a dense transformer the shapes of a plan; replacement layers start at zero."""
    registry = import_module("fastflux.methods.registry")  # by its name: methods stand above models, a plan names one
    registry.pruning_method(plan.method).rebuild_(transformer, plan)


def attach_plan_(transformer: nn.Module, plan: PruningPlan) -> None:
    """Make a pruned transformer of diffusers' own class one of ours, which saves and loads with its plan."""
    transformer.__class__ = PRUNED_CLASSES[architecture_of(transformer).transformer_class]
    transformer.register_to_config(pruning_plan=plan.to_json())  # type: ignore[operator]  # a diffusers ConfigMixin


def plan_of(transformer: nn.Module) -> PruningPlan | None:
    """The plan that a transformer was pruned by; None when it is dense."""
    data = getattr(getattr(transformer, "config", None), "pruning_plan", None)
    return None if data is None else PruningPlan.from_json(data)


def require_all_weights(info: dict[str, Any], source: object) -> None:
    """Raise ``FastFluxError`` when diffusers' loading info tells of weights that do not fit the model."""
    for kind in ("missing", "unexpected", "mismatched"):
        if keys := sorted(str(key) for key in info[f"{kind}_keys"]):
            raise FastFluxError(
                f"The weights in {source} do not fit their config.json: {len(keys)} {kind}, first {keys[0]}; "
                "restore the folder from its source."
            )


def parameter_count(transformer: nn.Module) -> int:
    """The number of parameters, also on the meta device."""
    return sum(parameter.numel() for parameter in transformer.parameters())


def parameter_dtype(transformer: nn.Module) -> torch.dtype:
    """The dtype of the transformer's parameters."""
    return next(transformer.parameters()).dtype
