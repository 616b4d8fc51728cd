"""What a name that is none of the choices gets: the nearest one, or all of them."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from fastflux.errors import FastFluxError

if TYPE_CHECKING:
    from collections.abc import Iterable


def unknown_choice(what: str, name: str, known: Iterable[str]) -> FastFluxError:
    """The error for a table, row or format that is not there."""
    choices = list(known)
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(choices)}."
    return FastFluxError(f"Unknown {what} {name!r}: {hint}")
