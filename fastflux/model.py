"""The diffusers model class of pruned FLUX transformers, whose config holds the pruning plan."""

from functools import wraps
from typing import Any, ClassVar

import torch
from diffusers import FirstBlockCacheConfig, FluxTransformer2DModel
from diffusers.configuration_utils import register_to_config
from torch import nn

from fastflux.architectures import FLUX, architecture_of
from fastflux.blocks import RemovedBlock
from fastflux.errors import FastFluxError
from fastflux.methods.registry import pruning_method
from fastflux.plan import PruningPlan

CONTROLNET_RESIDUALS = ("controlnet_block_samples", "controlnet_single_block_samples")


class FastFluxTransformer2DModel(FluxTransformer2DModel):  # type: ignore[misc]  # diffusers is untyped
    """A FLUX transformer pruned by FastFLUX.

    Takes the arguments of ``FluxTransformer2DModel`` and ``pruning_plan``, a `PruningPlan` as JSON values; without one
    it is the dense model.
    """

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
        if pruning_plan is not None:
            rebuild_(self, PruningPlan.from_json(pruning_plan))

    @wraps(FluxTransformer2DModel.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run as ``FluxTransformer2DModel`` does; ``FastFluxError`` for ControlNet residuals on a folded model."""
        if any(kwargs.get(name) is not None for name in CONTROLNET_RESIDUALS):
            _require_unfolded(self)
        return super().forward(*args, **kwargs)

    def enable_cache(self, config: Any) -> None:
        """Cache as diffusers does; ``FastFluxError`` for FirstBlockCache when there is no first block to go by."""
        if isinstance(config, FirstBlockCacheConfig) and isinstance(self.transformer_blocks[0], RemovedBlock):
            # Its residual is zero, and so would be the change that decides whether the other blocks run.
            raise FastFluxError(
                "FirstBlockCache goes by the first block's residual, but transformer_blocks.0 is removed: "
                "use another cache, or prune without removing that block."
            )
        super().enable_cache(config)

    def _load_ip_adapter_weights(self, *args: Any, **kwargs: Any) -> None:
        _require_dense_widths(self)
        super()._load_ip_adapter_weights(*args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load as diffusers does, but strictly: a missing, unexpected or misshapen weight is a ``FastFluxError``."""
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        require_all_weights(info, pretrained_model_name_or_path)
        return (model, info) if wants_info else model


# diffusers writes the class's top-level package into model_index.json and looks it up there.
FastFluxTransformer2DModel.__module__ = "fastflux"


def _require_unfolded(transformer: nn.Module) -> None:
    plan = plan_of(transformer)
    if plan is not None and plan.config.get("folded") and len({item.kind for item in plan.replacements}) > 1:
        raise FastFluxError(
            "ControlNet adds residuals between blocks that folding has merged: use the model pruned without folding."
        )


def _require_dense_widths(transformer: nn.Module) -> None:
    plan = plan_of(transformer)
    if plan is not None and "heads" in plan.config:
        raise FastFluxError(
            f"Cannot load an IP-Adapter: its attention has the dense model's heads, of which {plan.method} left "
            f"{plan.config['heads']} in every block."
        )


def rebuild_(transformer: nn.Module, plan: PruningPlan) -> None:
    """Give a dense transformer the shapes of a plan; replacement layers start at zero."""
    pruning_method(plan.method).rebuild_(transformer, plan)


def attach_plan_(transformer: nn.Module, plan: PruningPlan) -> None:
    """Make a pruned transformer of diffusers' own class one of ours, which saves and loads with its plan."""
    if architecture_of(transformer) is FLUX:
        transformer.__class__ = FastFluxTransformer2DModel
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
