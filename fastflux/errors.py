"""The one error type that users can cause and mend, and its wording for names that nobody registered."""

from collections.abc import Iterable
from difflib import get_close_matches

_FULL = (
    *("out of memory", "can't allocate memory", "Cannot allocate memory", "can't start new thread"),
    *("failed to map segment", "can only be initialized once per process"),  # of libraries that cannot be loaded
)
"""What errors of torch, the loader and the system say where another program's would be a MemoryError."""


class FastFluxError(Exception):
    """An error the user can cause and mend; its message says how."""


def memory_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, says that there is no memory left, in whatever words."""
    while error is not None:
        if isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError | ImportError | OSError) and any(word in str(error) for word in _FULL)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def first_sentence(error: Exception) -> str:
    """The first line of an error's message, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> FastFluxError:
    """The error for ``name``, which is not among the ``known`` names of its ``kind``, with the nearest one proposed."""
    choices = sorted(known)
    nearest = get_close_matches(name, choices, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return FastFluxError(f"Unknown {kind} {name!r}: expected one of {', '.join(choices)}{hint}")
