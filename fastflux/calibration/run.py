"""What runs a pipeline's transformer on calibration data, whatever the data are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastflux.models.sizes import require_sizes

Datum = TypeVar("Datum")


@dataclass(frozen=True)
class CalibrationRun(ABC, Generic[Datum]):
    """Runs a transformer on calibration data, for `collect_statistics`, and says on what.

    ``steps`` states of each of the ``data`` are met, ``batch_size`` at once. Noise is drawn for each from ``seed`` plus
    its index, so batching does not change it. ``height`` and ``width`` (in pixels) default to the VAE's sample size,
    ``text_tokens`` to the T5 tokenizer's maximum. ``FastFluxError`` for sizes that the pipeline cannot draw.
    """

    pipeline: Any
    data: Sequence[Datum]
    steps: int = 20
    guidance: float = 3.5
    batch_size: int = 1
    height: int | None = None
    width: int | None = None
    text_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_sizes(self.pipeline, self.height, self.width, self.text_tokens)

    @property
    @abstractmethod
    def source(self) -> str:
        """What it runs on, in words."""

    @abstractmethod
    def contents(self) -> list[object]:
        """All of the data, as `fastflux.fingerprints.fingerprint` takes them: files as paths."""

    @abstractmethod
    def __call__(self, advance: Callable[[int], object] = lambda _done: None) -> None:
        """Run all data; ``advance`` is told the number done after each batch."""
