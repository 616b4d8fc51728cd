"""The variants of the comparison: the dense model, FastFLUX at the paper's ratios, L1-norm pruning at the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastflux.errors import FastFluxError
from fastflux.methods.l1_norm import L1NormConfig
from fastflux.methods.linear_replacement import LinearReplacementConfig
from fastflux.methods.registry import PruningConfig
from fastflux.names import unknown_name

DENSE = "dense"
#: Ratios of Table 6 and parameter fractions of Table 1 (arXiv 2506.10035).
FASTFLUX_RATIOS = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
L1_RATIOS = (0.12, 0.21, 0.27)
#: Which variants each table needs; latency groups need all members.
TABLES = ("table1", "table2", "table6", "efficiency")


@dataclass(frozen=True)
class Variant:
    """A model to compare: `config` says how it is pruned, None is the dense model."""

    id: str
    label: str
    config: PruningConfig | None


def paper_variants(title: str) -> tuple[Variant, ...]:
    """The ten variants of Tables 1, 2 and 6; `title` names the dense model."""
    fastflux = (
        Variant(f"fastflux-{100 * ratio:02.0f}", f"FastFLUX-{100 * ratio:.0f}%", LinearReplacementConfig(ratio=ratio))
        for ratio in FASTFLUX_RATIOS
    )
    l1_norm = (
        Variant(f"l1-{100 * ratio:02.0f}", f"FLUX-Pruning-{100 * ratio:.0f}%", L1NormConfig(ratio=ratio))
        for ratio in L1_RATIOS
    )
    return (Variant(DENSE, title, None), *fastflux, *l1_norm)


def chosen_variants(title: str, tables: Sequence[str], names: Sequence[str] | None = None) -> tuple[Variant, ...]:
    """The variants that the tables need, or those named (dense always among them).

    Raises FastFluxError with a suggestion for an unknown table or variant.
    """
    for table in tables:
        if table not in TABLES:
            raise unknown_name("table", table, TABLES)
    variants = {variant.id: variant for variant in paper_variants(title)}
    if names is None:
        if set(tables) <= {"table6"}:
            return tuple(variant for variant in variants.values() if not variant.id.startswith("l1-"))
        return tuple(variants.values())
    for name in names:
        if name not in variants:
            raise unknown_name("variant", name, variants)
    if not names:
        raise FastFluxError("no variants were named; name some or leave the option away for all")
    return tuple(variant for variant in variants.values() if variant.id in names or variant.id == DENSE)
