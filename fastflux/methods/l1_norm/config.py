"""Settings of L1-norm pruning."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fastflux.errors import FastFluxError
from fastflux.methods.finetuning import FinetuningSettings
from fastflux.methods.l1_norm.widths import choose_widths
from fastflux.plan import require_fraction


@dataclass(frozen=True)
class L1NormConfig:
    """Remove about the fraction ``ratio`` of all parameters, as near as whole heads and MLP steps allow.

    With ``steps`` the sliced model is then fine-tuned as a whole: ``samples`` recorded from the dense model, drawn by
    ``seed``, the rest as in `FinetuningSettings`.
    """

    method: ClassVar[str] = "l1_norm"

    ratio: float
    seed: int = 0
    samples: int = 512
    steps: int = 0
    batch: int = 8
    lr: float = 1e-4

    def __post_init__(self) -> None:
        require_fraction("The pruning ratio", self.ratio)
        _ = self.settings  # which checks itself
        if self.samples < 1:
            raise FastFluxError(f"Fine-tuning's samples are {self.samples}, but there must be at least 1.")

    @property
    def needs_statistics(self) -> bool:
        """Only fine-tuning runs the model: weights alone decide what is sliced."""
        return self.steps > 0

    @property
    def settings(self) -> FinetuningSettings:
        """How the sliced model is fine-tuned."""
        return FinetuningSettings(self.steps, self.batch, self.lr)

    def require_fits(self, transformer: nn.Module) -> None:
        """Raise ``FastFluxError`` where this transformer's heads and MLPs hold less than the ratio."""
        choose_widths(transformer, self.ratio)
