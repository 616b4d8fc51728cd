"""The diffusers model classes of pruned transformers, whose config holds the pruning plan."""

import re
from functools import cache, wraps
from importlib import import_module
from inspect import Parameter, Signature, signature
from typing import Any, cast

from diffusers import FirstBlockCacheConfig, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from fastflux.errors import FastFluxError
from fastflux.models.architecture import Architecture, architecture_of, architectures
from fastflux.models.sublayers import BLOCK_CLASSES, LINEAR_BLOCKS, RemovedBlock
from fastflux.models.surgery import get_block
from fastflux.plan import WHOLE_KINDS, PruningPlan

__all__ = ["ModelMixin"]  # for the package: diffusers asks a foreign one for it before it loads a class from there

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
        super()._load_ip_adapter_weights(*args, **kwargs)  # type: ignore[misc]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load as diffusers does, but strictly: a missing, unexpected or misshapen weight is a ``FastFluxError``."""
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path, output_loading_info=True, **kwargs
        )
        require_all_weights(info, pretrained_model_name_or_path)
        return (model, info) if wants_info else model


class _CachingTransformer(PrunedTransformer):
    """Of the families whose forwards diffusers can cache."""

    def enable_cache(self, config: Any) -> None:
        """Cache as diffusers does; ``FastFluxError`` for FirstBlockCache when there is no first block to go by."""
        module = cast("nn.Module", self)
        first = architecture_of(module).chain(module)[0]
        if isinstance(config, FirstBlockCacheConfig) and isinstance(get_block(module, first), RemovedBlock):
            # Its residual is zero, and so would be the change that decides whether the other blocks run.
            raise FastFluxError(
                f"FirstBlockCache goes by the first block's residual, but {first} is removed: "
                "use another cache, or prune without removing that block."
            )
        super().enable_cache(config)  # type: ignore[misc]


@cache
def pruned_class_of(architecture: Architecture) -> Any:
    """The diffusers model class of a family's pruned transformers: the dense class's arguments and a ``pruning_plan``.

    diffusers reads the arguments off the signature: a saved config holds the same ones as the dense model's.
    """
    dense = architecture.model_class
    parameters = list(signature(dense.__init__).parameters.values())
    plan = Parameter("pruning_plan", Parameter.KEYWORD_ONLY, default=None, annotation=dict[str, Any] | None)

    def __init__(self: Any, *args: Any, pruning_plan: dict[str, Any] | None = None, **kwargs: Any) -> None:  # noqa: N807
        super(cls, self).__init__(*args, **kwargs)
        if pruning_plan is not None:
            rebuild_(self, PruningPlan.from_json(pruning_plan))

    @wraps(dense.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if any(kwargs.get(name) is not None for name in CONTROLNET_RESIDUALS):
            _require_unfolded(self)
        return super(cls, self).forward(*args, **kwargs)

    __init__.__signature__ = Signature([*parameters, plan])  # type: ignore[attr-defined]  # what inspect goes by
    # diffusers reads the names of blocks for device maps and for compile_repeated_blocks.
    stacks = architecture.stacks
    blocks = [*(dense._no_split_modules or dense._repeated_blocks or ())]  # noqa: SLF001
    blocks += sorted({LINEAR_BLOCKS[stack.joined].__name__ for stack in stacks})
    blocks += [cls.__name__ for cls in BLOCK_CLASSES if all(stack.halves for stack in stacks)]
    content = {
        "__doc__": f"A {architecture.name} transformer pruned by FastFLUX: ``{dense.__name__}``'s arguments and a "
        "``pruning_plan``.",
        # diffusers writes the class's top-level package into model_index.json and looks it up there.
        "__module__": "fastflux",
        "__init__": register_to_config(__init__),
        "forward": forward,
        "_no_split_modules": blocks,
        "_repeated_blocks": blocks,
    }
    shared = _CachingTransformer if hasattr(dense, "enable_cache") else PrunedTransformer
    cls: Any = type(architecture.pruned_class, (shared, dense), content)
    return cls


def __getattr__(name: str) -> Any:
    """The pruned classes by their names."""
    for architecture in architectures():
        if architecture.pruned_class == name:
            return pruned_class_of(architecture)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def model_classes() -> dict[str, Any]:
    """All classes that can be loaded, dense and pruned, by name."""
    dense = {architecture.model_class.__name__: architecture.model_class for architecture in architectures()}
    return dense | {architecture.pruned_class: pruned_class_of(architecture) for architecture in architectures()}


def _require_unfolded(transformer: Any) -> None:
    plan = plan_of(transformer)
    if plan is not None and plan.config.get("folded") and {item.kind for item in plan.replacements} >= {*WHOLE_KINDS}:
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
    transformer.__class__ = pruned_class_of(architecture_of(transformer))
    transformer.register_to_config(pruning_plan=plan.to_json())  # type: ignore[operator]  # a diffusers ConfigMixin


def plan_of(transformer: nn.Module) -> PruningPlan | None:
    """The plan that a transformer was pruned by; None when it is dense.

    Args:
        transformer: Of any class.

    Raises:
        FastFluxError: Its config holds a plan that this version cannot read.

    Example:
        >>> fastflux.plan_of(fastflux.load_transformer(f"{folder}/transformer")) is None
        True
    """
    data = getattr(getattr(transformer, "config", None), "pruning_plan", None)
    return None if data is None else PruningPlan.from_json(data)


_CAUSES = {
    "lora": "a LoRA was saved with it: call unload_lora_weights() before saving, after fuse_lora() where it is to stay",
    "base_layer": "a LoRA was saved with it: call unload_lora_weights() before saving",
    "_scale|scale_weight|scaled_fp8": "these are scaled float8 weights: multiply them by their scales and save them",
    "absmax": "these are quantised weights: load them with bitsandbytes, call dequantize() and save",
    "to_qkv": "its projections are fused: call unfuse_qkv_projections() before saving",
}
"""What patterns in the names of weights that fit nothing mean."""


def require_all_weights(info: dict[str, Any], source: object) -> None:
    """Raise ``FastFluxError`` when a library's loading info names weights that do not fit the model."""
    names = ("missing", "unexpected", "mismatched")
    kinds = {kind: sorted(str(key) for key in info.get(f"{kind}_keys", ())) for kind in names}
    for kind, keys in kinds.items():
        if keys:
            every = " ".join(key for keys in kinds.values() for key in keys)
            cause = next((cause for mark, cause in _CAUSES.items() if re.search(mark, every)), None)
            raise FastFluxError(
                f"The weights in {source} do not fit their config.json: {len(keys)} {kind}, first {keys[0]}; "
                f"{cause or 'restore the folder from its source'}."
            )


def parameter_count(transformer: nn.Module) -> int:
    """The number of parameters, also on the meta device."""
    return sum(parameter.numel() for parameter in transformer.parameters())
