"""The one way in for pruning methods: `register_pruning_method` on a function that takes the method's config."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar, cast

from torch import nn

from fastflux.calibration.statistics import Calibration
from fastflux.cost import PruningCost
from fastflux.errors import FastFluxError, unknown_name
from fastflux.models.architecture import architecture_of, load_plugins
from fastflux.models.surgery import replace_block_, require_prunable
from fastflux.plan import JSON, PruningPlan, Replacement, block_count, require_fraction

PLUGINS = "fastflux.methods"
"""The entry point group of other packages' methods."""


class PruningConfig(Protocol):
    """A frozen dataclass of JSON values; construction raises ``FastFluxError`` for values that cannot be meant."""

    method: ClassVar[str]
    """The method's name in plans and on the command line."""

    @property
    def needs_statistics(self) -> bool:
        """Whether the method calibrates, on the model's statistics or on its recorded inputs."""


@dataclass(frozen=True)
class Pruned:
    """What a method did: the blocks it replaced, what else the skeleton needs for the plan's config, and the cost."""

    replacements: tuple[Replacement, ...] = ()
    skeleton: Mapping[str, JSON] = field(default_factory=dict)
    cost: PruningCost = field(default_factory=PruningCost)


@dataclass(frozen=True)
class PruningMethod:
    """A registered method: ``prune_`` changes a dense transformer, ``rebuild_`` gives a fresh one the plan's shapes."""

    name: str
    config_class: type[Any]
    prune_: Callable[[nn.Module, Any, Calibration], Pruned]
    rebuild_: Callable[[nn.Module, PruningPlan], None]


Config = TypeVar("Config", bound=PruningConfig)
PruneFunction = Callable[[nn.Module, Config, Calibration], Pruned]

_METHODS: dict[str, PruningMethod] = {}


def replace_blocks_(transformer: nn.Module, plan: PruningPlan) -> None:
    """Give the transformer the plan's replacement blocks, unfilled."""
    for replacement in plan.replacements:
        require_prunable(transformer, replacement.block)  # a plan that does not fit changes nothing
    for replacement in plan.replacements:
        replace_block_(transformer, replacement)


def register_pruning_method(
    config_class: type[Config], *, rebuild_: Callable[[nn.Module, PruningPlan], None] = replace_blocks_
) -> Callable[[PruneFunction[Config]], PruneFunction[Config]]:
    """Register a function as the pruning method of ``config_class``, which must be a frozen dataclass.

    The function prunes a dense transformer in place and tells what it did. ``rebuild_`` need be given only by methods
    that change more than whole blocks. Other packages name the module that does this as an entry point of `PLUGINS`.

    Raises:
        ValueError: A method of that name is registered already.
    """

    def register(prune_: PruneFunction[Config]) -> PruneFunction[Config]:
        if config_class.method in _METHODS:
            raise ValueError(f"a pruning method named {config_class.method!r} is registered already")
        _METHODS[config_class.method] = PruningMethod(config_class.method, config_class, prune_, rebuild_)
        return prune_

    return register


def pruning_methods() -> dict[str, PruningMethod]:
    """All registered methods by name."""
    import fastflux.methods  # noqa: F401  # registers the methods; at the top it would be circular

    load_plugins(PLUGINS)
    return dict(_METHODS)


def pruning_method(name: str) -> PruningMethod:
    """The method of that name; raises ``FastFluxError`` with a suggestion when there is none."""
    methods = pruning_methods()
    if name not in methods:
        raise unknown_name("pruning method", name, methods)
    return methods[name]


def version_of(config: PruningConfig) -> int:
    """The config class's ``version`` or 1; a method raises it when the same settings come to give something else."""
    version: int = getattr(config, "version", 1)
    return version


def later_field(default: JSON) -> Any:
    """A setting that configs did not have from the start: `settings_of` leaves it out at its default.

    So plans, and what was measured of them, keep their hashes.
    """
    return field(default=default, metadata={"later": True})


def settings_of(config: PruningConfig) -> dict[str, JSON]:
    """The config's settings as plans and records hold them."""
    known: tuple[Field[Any], ...] = fields(config)  # type: ignore[arg-type]  # every config is a dataclass
    values = {one.name: getattr(config, one.name) for one in known}
    return {one.name: values[one.name] for one in known if not one.metadata or values[one.name] != one.default}


def require_fits(config: PruningConfig, transformer: nn.Module) -> None:
    """Raise ``FastFluxError`` where a dense transformer cannot be pruned by the config's settings; needs no weights.

    The config's ``require_fits`` says so, if it has one.
    """
    check: Callable[[nn.Module], None] = getattr(config, "require_fits", lambda _transformer: None)
    check(transformer)


def make_config(method: str, settings: Mapping[str, JSON]) -> PruningConfig:
    """A method's config from plain settings; a setting that the method does not have is a ``FastFluxError``."""
    config_class = pruning_method(method).config_class
    known = {field.name: field for field in fields(config_class)}
    for name in settings:
        if name not in known:
            raise unknown_name(f"setting of {method}", name, known)
    needed = [
        name
        for name, field in known.items()
        if field.default is MISSING and field.default_factory is MISSING and name not in settings
    ]
    if needed:
        raise FastFluxError(f"The pruning method {method} needs {', '.join(needed)}.")
    return cast("PruningConfig", config_class(**settings))


def require_amount(method: str, ratio: float | None, blocks: int | None) -> None:
    """Raise ``FastFluxError`` unless exactly one of ratio (in [0, 1]) and blocks (not negative) is given."""
    if (ratio is None) == (blocks is None):
        raise FastFluxError(f"{method} takes either a ratio or a number of blocks: give exactly one of the two.")
    if ratio is not None:
        require_fraction("The pruning ratio", ratio)
    if blocks is not None and blocks < 0:
        raise FastFluxError(f"The number of blocks to replace is {blocks}, but it must not be negative.")


def amount(transformer: nn.Module, ratio: float | None, blocks: int | None) -> int:
    """The number of blocks to replace; raises ``FastFluxError`` when more ``blocks`` are asked for than may be pruned.

    ``ratio`` is a fraction of all blocks that the transformer runs (SD3: 24, the last one, which is kept, included);
    a ratio near 1 ends at those that may be pruned.
    """
    architecture = architecture_of(transformer)
    most = len(architecture.blocks(transformer))
    if blocks is None:
        return min(block_count(ratio or 0.0, len(architecture.chain(transformer))), most)
    if blocks > most:
        raise FastFluxError(f"Cannot replace {blocks} blocks: the transformer has {most} that may be pruned.")
    return blocks


TARGETS = ("dense", "current")


def require_targets(targets: str) -> None:
    """Raise ``FastFluxError`` unless ``targets`` is one of `TARGETS`."""
    if targets not in TARGETS:
        raise unknown_name("kind of targets", targets, TARGETS)
