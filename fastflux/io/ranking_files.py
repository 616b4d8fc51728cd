"""Orders of blocks in files: what `fastflux rank --json` and `python -m bench rank` write and pruning reads."""

from pathlib import Path

from fastflux.errors import FastFluxError
from fastflux.io.checkpoint import read_json


def read_ranking(path: Path) -> str:
    """The order in a file of `fastflux rank --json` or `python -m bench rank`, as a ranking given block by block.

    Raises ``FastFluxError`` when there is none.
    """
    if not path.exists():
        raise FastFluxError(f"There is no {path}: write it with `fastflux rank --json {path}`.")
    data = read_json(path)
    try:
        return ",".join(entry["block"] for entry in data["blocks"])
    except (KeyError, TypeError) as error:
        raise FastFluxError(f"{path} holds no ranking: write one with `fastflux rank --json`.") from error
