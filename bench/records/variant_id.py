"""The id of a variant as a value: who it is, from the text in records, file names and tables. Free of torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

DENSE = "dense"
FASTFLUX = "fastflux"
#: Sublayer replacement, by the percentage of FLOPs that go.
PLUS = "plus"
L1 = "l1"
#: L1-norm pruning to the measured latency of the FastFLUX variant of the same number.
L1_EQUAL = "l1_equal"
#: L1-norm pruning fine-tuned longer, so that a FastFLUX variant as fast did not take more seconds.
L1_LONG = "l1_long"
#: Width pruning with compensation, at the ratios of "l1", and at those of "l1_equal".
WIDTH, WIDTH_EQUAL = "width", "width_equal"
#: FastFLUX in the orders by either half of the ranking's prompts.
HALVES = ("half1", "half2")
#: FastFLUX in the order of block influence, which costs one pass.
INFLUENCE = "influence"
#: Other models' images, scored beside the profile's own.
EXTERNAL = "external"
_SEEDED = re.compile(r"(?:(?P<family>\w+)_)?seed\d+")


@dataclass(frozen=True)
class VariantId:
    """Who a variant is; its text is "fastflux-10", or the family alone where there is no number ("dense", "sd3").

    Args:
        family: what it is: the dense model, a method or an ablation of it, or another base model ("sd3", "fastsd3").
        number: what tells it from others of its family: mostly the percentage of the blocks or parameters that go.
    """

    family: str
    number: str = ""

    @classmethod
    def parse(cls, text: str) -> VariantId:
        """The id that a record, a file or a command line names."""
        family, _, number = text.rpartition("-")
        return cls(family, number) if family and number else cls(text)

    @classmethod
    def at(cls, family: str, ratio: float) -> VariantId:
        """The variant of a family at a ratio: of "l1" at 0.12 it is "l1-12"."""
        return cls(family, f"{100 * ratio:02.0f}")

    def __str__(self) -> str:
        """The id as text; `parse` reads it."""
        return f"{self.family}-{self.number}" if self.number else self.family

    @property
    def ratio(self) -> float | None:
        """The ratio that the number says, None where it is no percentage."""
        return int(self.number) / 100 if self.number.isdecimal() else None

    @property
    def repeated(self) -> VariantId | None:
        """The variant of which this one is the same with another seed, or None.

        "seed1-10" is of "fastflux-10", "layers1_seed1-10" of "layers1-10".
        """
        found = _SEEDED.fullmatch(self.family)
        return VariantId(found["family"] or FASTFLUX, self.number) if found and self.ratio is not None else None

    @property
    def unseeded(self) -> VariantId:
        """The variant of which this one is a repeat, or this one itself."""
        return self.repeated or self

    def seeded(self, seed: int) -> VariantId:
        """The variant that is the same with another seed."""
        return VariantId(f"{'' if self.family == FASTFLUX else f'{self.family}_'}seed{seed}", self.number)
