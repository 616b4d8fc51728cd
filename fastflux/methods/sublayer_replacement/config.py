"""Settings of sublayer replacement: how much may be left, what may stand in a block's place, and the last training."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from fastflux.calibration.least_squares import DEFAULT_RIDGE
from fastflux.errors import FastFluxError, unknown_name
from fastflux.methods.finetuning import FinetuningSettings, require_rank
from fastflux.methods.registry import require_targets
from fastflux.models.surgery import get_block, require_halves
from fastflux.plan import REPLACEMENT_KINDS, BlockRef, require_fraction, require_ridge


@dataclass(frozen=True)
class SublayerReplacementConfig:
    """Replace attentions, MLPs and whole blocks by linear layers, those whose replacement changes the picture least.

    Either ``flops`` or ``latency`` is what may be left of a dense step's FLOPs or measured time, at the calibration's
    size. ``kinds`` lists what may stand in a block's place (`fastflux.plan.Replacement`), ``keep`` blocks that stay
    whatever they cost, as "transformer_blocks.4-18,single_transformer_blocks.0". At most ``fitted`` of the
    ``samples`` (0: all) fit its layers. What each kind in each block does alone is the error of the latents that
    sampling ``trajectories`` of the prompts ends with, or for 0 that of one step's output for ``scored`` samples; a
    knapsack takes the least sum. The layers are then fitted one behind the other to what the ``targets`` give: the
    "dense" model's blocks, or the "current" model's own. ``steps`` of distillation from the dense model on all samples
    follow, 0 for none: in full for the linear layers at ``linear_lr``, by LoRA of ``rank`` at ``lr`` for the rest. It
    learns few prompts by heart: give it many. ``ridge`` as in `LinearReplacementConfig`.

    Raises:
        FastFluxError: A value that cannot be meant.
    """

    method: ClassVar[str] = "sublayer_replacement"

    flops: float | None = None
    latency: float | None = None
    kinds: str = "linear,linear_attention,linear_mlp,linear_halves"
    keep: str = ""
    targets: str = "dense"
    trajectories: int = 8
    scored: int = 64
    fitted: int = 0
    samples: int = 512
    ridge: float = DEFAULT_RIDGE
    seed: int = 0
    rank: int = 16
    steps: int = 200
    batch: int = 8
    lr: float = 1e-3
    linear_lr: float = 1e-4

    def __post_init__(self) -> None:
        if (self.flops is None) == (self.latency is None):
            raise FastFluxError(f"{self.method} takes either flops or latency: give exactly one of the two.")
        require_fraction("The share of the dense step's cost to leave", self.left)
        for kind in self.allowed:
            if kind not in REPLACEMENT_KINDS:
                raise unknown_name("replacement kind", kind, REPLACEMENT_KINDS)
        for name, value in (("fitted", self.fitted), ("trajectories", self.trajectories)):
            if value < 0:
                raise FastFluxError(f"{name} is {value}, but it must be at least 0.")
        if not 1 <= self.scored <= self.fit_samples:
            raise FastFluxError(
                f"{self.scored} samples are to be scored, but it must be between 1 and {self.fit_samples}."
            )
        _ = self.kept
        require_targets(self.targets)
        require_ridge(self.ridge)
        _ = self.settings, FinetuningSettings(lr=self.lr)  # which check themselves

    @property
    def left(self) -> float:
        """The share of the dense step's cost that may be left."""
        return self.latency if self.flops is None else self.flops  # type: ignore[return-value]  # one of them is given

    @property
    def fit_samples(self) -> int:
        """How many of the samples fit the layers."""
        return min(self.fitted or self.samples, self.samples)

    @property
    def allowed(self) -> tuple[str, ...]:
        """What may stand in a block's place."""
        return tuple(kind.strip() for kind in self.kinds.split(","))

    @property
    def kept(self) -> frozenset[BlockRef]:
        """The blocks that stay."""
        found: set[BlockRef] = set()
        for text in filter(None, map(str.strip, self.keep.split(","))):
            first, _, last = text.partition("-")
            block = BlockRef.parse(first)
            if last and not last.isdecimal():
                raise FastFluxError(f"{text} in keep is no block: expected <stack>.<index> or <stack>.<first>-<last>.")
            found |= {replace(block, index=index) for index in range(block.index, int(last or block.index) + 1)}
        return frozenset(found)

    @property
    def settings(self) -> FinetuningSettings:
        """How the pruned model is distilled; ``lr`` is that of the linear layers."""
        return FinetuningSettings(self.steps, self.batch, self.linear_lr)

    @property
    def needs_statistics(self) -> bool:
        """It always runs the model."""
        return True

    def require_fits(self, transformer: nn.Module) -> None:
        """Raise ``FastFluxError`` for a family without such halves, or a LoRA rank that there is no room for."""
        require_halves(transformer)
        require_rank(self.rank, transformer)
        for block in sorted(self.kept):
            get_block(transformer, block)
