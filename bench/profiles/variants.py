"""The variants of the comparison: dense models, FastFLUX at the paper's ratios, its ablations, L1-norm pruning."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.profiles.profile import Profile
from bench.records.variant_id import (
    DENSE,
    FASTFLUX,
    HALVES,
    INFLUENCE,
    L1,
    L1_EQUAL,
    L1_LONG,
    PLUS,
    WIDTH,
    WIDTH_EQUAL,
    VariantId,
)
from fastflux.errors import FastFluxError, unknown_name
from fastflux.io.checkpoint import read_json, read_ranking
from fastflux.methods.registry import PruningConfig, make_config
from fastflux.plan import JSON

#: Ratios of Table 6 and parameter fractions of Table 1 (arXiv 2506.10035).
FASTFLUX_RATIOS = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
L1_RATIOS = (0.12, 0.21, 0.27)
#: FLOPs that sublayer replacement saves: what FastFLUX-20% and -30% save on FLUX-Shapes, and more.
PLUS_SAVINGS = (0.18, 0.26, 0.35)
#: The ratio of the ablations in Tables 4 and 5 and Figures 6 and 7.
ABLATED = 0.10
#: FastFLUX's ratios on other dense models, and the FLOPs that sublayer replacement saves there: those of the second.
OTHERS_RATIOS, OTHERS_SAVING = (ABLATED, 0.20), 0.20
#: FastFLUX's ratios in Table 1, whose latency L1-norm pruning is given as well.
EQUALLED_RATIOS = (0.10, 0.15, 0.20)
#: The replacement orders of Table 5, with one of ours.
ORDERS = {
    "r2": ("Residual R²", "residual_r2"),
    "start2end": ("Start2End", "start2end"),
    "end2start": ("End2Start", "end2start"),
}
#: The other ablations with Sandwich Training: Figures 6 and 7, and section 3.2's inference reuse.
ABLATIONS: Mapping[str, tuple[str, Mapping[str, JSON]]] = {
    "removal_st": ("Direct removal + ST", {"replacement": "removed"}),
    "layers1": ("ST of 1 layer", {"layers": 1}),
    "layers5": ("ST of 5 layers", {"layers": 5}),
    "reuse": ("FastFLUX-10%, reused from 20%", {"reuse_from": 0.20}),
}
#: Of FastFLUX in the orders by either half of the ranking's prompts, which tell how much noise decides, and in another.
REORDERED_RATIOS = (0.20, 0.30)
#: What models of narrower blocks that are to be as fast as another are called.
_WIDTHS = {L1_EQUAL: "FLUX-Pruning", WIDTH_EQUAL: "Width-Pruning"}
#: What claims compare and chance has a part in is pruned from these seeds too: those are decided over prunings.
SEEDED = (
    *("fastflux-05", "fastflux-10", "fastflux-15", "fastflux-20", "l1_equal-10", "l1_equal-15", "l1_equal-20"),
    *("removal_st-10", "layers1-10", "layers5-10", "reuse-10", "start2end-10", "end2start-10", "fastsd3-10"),
)
SEEDS = (1, 2)
#: L1-norm pruning of these ratios is fine-tuned longer by this factor, too: Sandwich Training took more seconds.
LONG_RATIOS, LONGER = (0.21, 0.27), 1.5


@dataclass(frozen=True)
class Variant:
    """A model to compare: `config` says how it is pruned, None is a dense model.

    `base` names one of the profile's other dense models, "" its own. `as_fast_as` names the variant whose measured
    latency is to be met: `config`'s ratio is then where the search starts. `folder` holds a transformer that was pruned
    elsewhere; it has no `config`.
    """

    name: VariantId
    label: str
    config: PruningConfig | None
    base: str = ""
    as_fast_as: str = ""
    folder: Path | None = None

    @property
    def id(self) -> str:
        """The name as text."""
        return str(self.name)

    @property
    def is_timed(self) -> bool:
        """Whether its steps are timed: other seeds have the shapes, and so the time, of their original."""
        return self.name.repeated is None

    @property
    def is_dense(self) -> bool:
        """Whether this is a base model as it is."""
        return self.config is None and self.folder is None


def paper_variants(profile: Profile) -> tuple[Variant, ...]:
    """The variants of Tables 1 to 6 and Figures 6 and 7, trained as the profile's `methods` say.

    The profile's title names the dense model. Raises FastFluxError when the profile gives a method settings that it
    does not have.
    """

    def variant(family: str, ratio: float, label: str, method: str, **settings: JSON) -> Variant:
        config = make_config(method, {**_settings(profile, method), "ratio": ratio, **settings})
        return Variant(VariantId.at(family, ratio), label, config)

    def plus(saving: float, family: str = PLUS, title: str = f"{profile.fast_title}+", base: str = "") -> Variant:
        settings = {**_settings(profile.of(base), "sublayer_replacement"), "flops": round(1 - saving, 2)}
        label = f"{title} {100 * saving:.0f}%"
        return Variant(VariantId.at(family, saving), label, make_config("sublayer_replacement", settings))

    def fastflux(
        family: str, label: str, ratio: float = ABLATED, settings: Mapping[str, JSON] | None = None
    ) -> Variant:
        return variant(family, ratio, label, "sandwich_training", **(settings or {}))

    fast = profile.fast_title
    every = (
        Variant(VariantId(DENSE), profile.title, None),
        *(fastflux(FASTFLUX, f"{fast}-{100 * r:.0f}%", r) for r in FASTFLUX_RATIOS),
        *map(plus, PLUS_SAVINGS),
        *(variant(L1, r, f"FLUX-Pruning-{100 * r:.0f}%", "l1_norm") for r in L1_RATIOS),
        *(_equalled(variant(L1_EQUAL, r, "", "l1_norm"), str(VariantId.at(FASTFLUX, r))) for r in EQUALLED_RATIOS),
        *(variant(WIDTH, r, f"Width-Pruning-{100 * r:.0f}%", "width_pruning") for r in L1_RATIOS),
        *(
            _equalled(variant(WIDTH_EQUAL, r, "", "width_pruning"), str(VariantId.at(FASTFLUX, r)))
            for r in EQUALLED_RATIOS
        ),
        *(
            _longer(variant(L1_LONG, r, f"FLUX-Pruning-{100 * r:.0f}%, fine-tuned longer", "l1_norm"))
            for r in LONG_RATIOS
        ),
        variant("brll", ABLATED, "w/o ST", "linear_replacement"),
        variant("removal", ABLATED, "Direct removal", "block_removal"),
        *(fastflux(family, label, settings=settings) for family, (label, settings) in ABLATIONS.items()),
        *(fastflux(family, label, settings={"ranking": ranking}) for family, (label, ranking) in ORDERS.items()),
        *(
            fastflux(family, f"{fast}-{100 * r:.0f}%, {called}", r, {"ranking": order})
            for family, called, order in _other_orders(profile)
            for r in REORDERED_RATIOS
        ),
        *(
            made
            for name, other in profile.others.items()
            for made in (
                Variant(VariantId(name), other.title, None, name),
                *(
                    replace(
                        fastflux(f"fast{name}", f"Fast{other.title}-{r:.0%}", r, {"ranking": other.ranking}), base=name
                    )
                    for r in OTHERS_RATIOS
                ),
                replace(plus(OTHERS_SAVING, f"plus{name}", f"Fast{other.title}+", name), base=name),
            )
        ),
    )
    seeded = (_seeded(v, seed) for v in every for seed in SEEDS if v.id in SEEDED)
    known = {variant.name.unseeded.family for variant in every}
    if unknown := [family for family in profile.families if family not in known]:
        raise unknown_name(f"family in the profile {profile.name}", unknown[0], known)
    return tuple(
        v
        for v in (*every, *seeded)
        if v.config is None or not profile.families or v.name.unseeded.family in profile.families
    )


def dense_of(variants: Iterable[Variant], base: str) -> Variant:
    """The dense model of that name as a variant."""
    return next(variant for variant in variants if variant.is_dense and variant.base == base)


def _seeded(variant: Variant, seed: int) -> Variant:
    config = replace(variant.config, seed=seed)  # type: ignore[type-var]  # configs are dataclasses
    return replace(variant, name=variant.name.seeded(seed), label=f"{variant.label}, seed {seed}", config=config)


def _longer(variant: Variant) -> Variant:
    config = variant.config
    steps = round(LONGER * config.steps)  # type: ignore[union-attr]  # L1-norm pruning's
    return replace(variant, config=replace(config, steps=steps))  # type: ignore[type-var]


def _equalled(variant: Variant, target: str) -> Variant:
    return replace(variant, label=f"{_WIDTHS[variant.name.family]} at the latency of {target}", as_fast_as=target)


def with_ratio(variant: Variant, ratio: float, target: Variant) -> Variant:
    """A variant that is to be as fast as `target`, with the ratio at which it is."""
    config = replace(variant.config, ratio=ratio)  # type: ignore[type-var]  # configs are dataclasses
    label = f"{_WIDTHS[variant.name.unseeded.family]}-{100 * ratio:.1f}% (latency of {target.label})"
    if variant.name.repeated:
        label += f", seed {config.seed}"  # type: ignore[union-attr]  # L1-norm pruning's
    return replace(variant, config=config, label=label)


def _settings(profile: Profile, method: str) -> dict[str, JSON]:
    """The profile's settings of a method; a ranking in a file is read."""
    settings = dict(profile.methods.get(method, {}))
    if (path := ranking_file(profile, method)) is not None:
        settings["ranking"] = read_ranking(path)
    return settings


def ranking_file(profile: Profile, method: str) -> Path | None:
    """The file with the order in which a method replaces blocks, None where it finds its own."""
    ranking = profile.methods.get(method, {}).get("ranking")
    return Path(ranking) if isinstance(ranking, str) and ranking.endswith(".json") else None


def _other_orders(profile: Profile) -> list[tuple[str, str, str]]:
    """Families, what they are called, and orders, where the profile's ranking holds those of the prompts' halves."""
    path = ranking_file(profile, "sandwich_training")
    orders = read_json(path).get("halves", {}).get("orders", []) if path is not None else []
    halves = [(half, f"order {half[-1]}", ",".join(order)) for half, order in zip(HALVES, orders, strict=False)]
    return [*halves, (INFLUENCE, "block influence", "block_influence")] if halves else []


def require_current_rankings(profile: Profile, revision: str) -> None:
    """Raise FastFluxError when the profile prunes in an order that was measured on other weights than `revision`."""
    for method in profile.methods:
        path = ranking_file(profile, method)
        if path is not None and (ranked := read_json(path).get("inputs", {}).get("revision")) != revision:
            raise FastFluxError(
                f"{path} ranks the weights {ranked}, but {profile.pipeline} holds {revision}: "
                f"run `python -m bench rank --profile {profile.name} --accept` first"
            )


def chosen_variants(
    profile: Profile, needed: Callable[[VariantId], bool], names: Sequence[str] | None = None
) -> tuple[Variant, ...]:
    """The variants that are `needed` (of tables: `bench.tables.needed_by`), or those named; dense always among them.

    Raises FastFluxError with a suggestion for an unknown variant.
    """
    variants = {variant.id: variant for variant in paper_variants(profile)}
    if names is None:
        names = [variant.id for variant in variants.values() if needed(variant.name)] or [DENSE]
    for name in names:
        if name not in variants:
            raise unknown_name("variant", name, variants)
    if not names:
        raise FastFluxError("no variants were named; name some or leave the option away for all")
    chosen = [variants[name] for name in names]
    wanted = {DENSE, *names, *(variant.as_fast_as for variant in chosen)}
    bases = {variant.base for variant in chosen}
    # Ratios to dense need the dense model of each base.
    return tuple(
        variant for variant in variants.values() if variant.id in wanted or (variant.is_dense and variant.base in bases)
    )
