"""The variants of the comparison: the dense model, FastFLUX at the paper's ratios, its ablations, L1-norm pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.profile import Profile
from fastflux.checkpoint import read_json
from fastflux.errors import FastFluxError
from fastflux.methods.registry import PruningConfig, make_config
from fastflux.names import unknown_name
from fastflux.plan import JSON
from fastflux.ranking_files import read_ranking

DENSE = "dense"
#: Ratios of Table 6 and parameter fractions of Table 1 (arXiv 2506.10035).
FASTFLUX_RATIOS = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
L1_RATIOS = (0.12, 0.21, 0.27)
#: The ratio of the ablations in Tables 4 and 5, and the replacement orders of Table 5, with one of ours.
ABLATED = 0.10
ORDERS = {
    "r2": ("Residual R²", "residual_r2"),
    "start2end": ("Start2End", "start2end"),
    "end2start": ("End2Start", "end2start"),
}
_COMPARISON = ("fastflux-", "l1-")
#: Which variants each table needs besides the dense model, by the beginnings of their ids.
TABLES: Mapping[str, tuple[str, ...]] = {
    "table1": _COMPARISON,
    "table2": _COMPARISON,
    "table4": ("fastflux-10", "brll-10"),
    "table5": ("fastflux-10", *(f"{order}-10" for order in ORDERS)),
    "table6": ("fastflux-",),
    "cost": _COMPARISON,
    "efficiency": ("",),
}


@dataclass(frozen=True)
class Variant:
    """A model to compare: `config` says how it is pruned, None is the dense model."""

    id: str
    label: str
    config: PruningConfig | None


def paper_variants(profile: Profile) -> tuple[Variant, ...]:
    """The variants of Tables 1, 2, 4, 5 and 6, trained as the profile's `methods` say; its title names the dense model.

    Raises FastFluxError when the profile gives a method settings that it does not have.
    """

    def variant(family: str, ratio: float, label: str, method: str, **settings: JSON) -> Variant:
        config = make_config(method, {**_settings(profile, method), "ratio": ratio, **settings})
        return Variant(f"{family}-{100 * ratio:02.0f}", label, config)

    return (
        Variant(DENSE, profile.title, None),
        *(variant("fastflux", r, f"FastFLUX-{100 * r:.0f}%", "sandwich_training") for r in FASTFLUX_RATIOS),
        *(variant("l1", r, f"FLUX-Pruning-{100 * r:.0f}%", "l1_norm") for r in L1_RATIOS),
        variant("brll", ABLATED, "w/o ST", "linear_replacement"),
        *(
            variant(family, ABLATED, label, "sandwich_training", ranking=ranking)
            for family, (label, ranking) in ORDERS.items()
        ),
    )


def _settings(profile: Profile, method: str) -> dict[str, JSON]:
    """The profile's settings of a method; a ranking in a file is read."""
    settings = dict(profile.methods.get(method, {}))
    if (path := _ranking_file(profile, method)) is not None:
        settings["ranking"] = read_ranking(path)
    return settings


def _ranking_file(profile: Profile, method: str) -> Path | None:
    ranking = profile.methods.get(method, {}).get("ranking")
    return profile.path(ranking) if isinstance(ranking, str) and ranking.endswith(".json") else None


def require_current_rankings(profile: Profile, revision: str) -> None:
    """Raise FastFluxError when the profile prunes in an order that was measured on other weights than `revision`."""
    for method in profile.methods:
        path = _ranking_file(profile, method)
        if path is not None and (ranked := read_json(path).get("inputs", {}).get("revision")) != revision:
            raise FastFluxError(
                f"{path} ranks the weights {ranked}, but {profile.pipeline} holds {revision}: "
                f"run `python -m bench rank --profile {profile.name} --accept` first"
            )


def chosen_variants(profile: Profile, tables: Sequence[str], names: Sequence[str] | None = None) -> tuple[Variant, ...]:
    """The variants that the tables need, or those named (dense always among them).

    Raises FastFluxError with a suggestion for an unknown table or variant.
    """
    for table in tables:
        if table not in TABLES:
            raise unknown_name("table", table, TABLES)
    variants = {variant.id: variant for variant in paper_variants(profile)}
    if names is None:
        wanted = tuple(beginning for table in tables for beginning in TABLES[table])
        return tuple(variant for variant in variants.values() if variant.id == DENSE or variant.id.startswith(wanted))
    for name in names:
        if name not in variants:
            raise unknown_name("variant", name, variants)
    if not names:
        raise FastFluxError("no variants were named; name some or leave the option away for all")
    return tuple(variant for variant in variants.values() if variant.id in names or variant.id == DENSE)
