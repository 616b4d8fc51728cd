"""How many blocks a pruning ratio replaces; free of torch, for reports."""

from fastflux.errors import FastFluxError

PAPER_BLOCKS = 57
PAPER_COUNTED_BLOCKS = 54
"""The paper's Table 6 drops 3, 5, 8, 11, 14 and 16 blocks at 5 to 30 %: that is round(ratio * 54), not * 57."""


def require_fraction(name: str, value: float) -> None:
    """Raise ``FastFluxError`` unless ``value`` lies in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise FastFluxError(f"{name} is {value}, but it must lie between 0 and 1: 0.2 stands for 20 %.")


def block_count(ratio: float, blocks: int) -> int:
    """How many of ``blocks`` blocks, all that a forward runs, to replace at a pruning ratio in [0, 1].

    FLUX.1-dev's 57 blocks follow the paper's counts (see `PAPER_COUNTED_BLOCKS`), other depths ``round(ratio *
    blocks)``. Raises ``FastFluxError`` for a ratio outside [0, 1].
    """
    require_fraction("The pruning ratio", ratio)
    return round(ratio * (PAPER_COUNTED_BLOCKS if blocks == PAPER_BLOCKS else blocks))
