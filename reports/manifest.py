"""The committed records as a list of SHA-256 sums: what was changed, added or lost since is refused.

The list has the format of sha256sum, which checks it too: ``cd reports/data && sha256sum --check SHA256SUMS``.
"""

import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from bench.record_checks import check_records
from bench.records.results import PACKED, PLAIN, RunRecord, read_records, record_files
from bench.records.variant_id import DENSE
from bench.regression.history import append, point_of
from fastflux.errors import FastFluxError
from fastflux.files import file_hash, replace_files, write_text

NAME = "SHA256SUMS"
RESULTS = "results"
#: Folders of records, below reports/data.
_KEPT = (RESULTS, "full_size")


def keep_records(records: Path, committed: Path) -> None:
    """Make the committed records of a folder, packed, those of another."""
    with tempfile.TemporaryDirectory() as folder:
        for record in read_records(records):
            record.write(Path(folder, f"{record.variant}{PACKED}"))
        replace_files(committed, Path(folder), f"*{PLAIN}*")


def write_manifest(data: Path) -> Path:
    """List the records below `data`, the folder reports/data.

    Results that the history does not hold yet are added to it, and those that are not packed yet take the place of
    packed ones. Raises RecordError for a record that was changed or does not agree with itself or others.
    """
    for folder, paths in groupby(_records(data), key=lambda path: path.parent):
        every = list(paths)
        found = [path for path in every if path.with_suffix("") not in every]
        records = [RunRecord.read(path) for path in found]
        if (data / RESULTS) in folder.parents:  # full size's hold models of unlike parameters side by side
            check_records(records)
            _remember(data, records)
        for path, record in zip(found, records, strict=True):
            if path.suffix == PLAIN:
                record.write(path.with_suffix(PACKED))
                path.unlink()
    return write_text(data / NAME, "".join(f"{sum_}  {name}\n" for name, sum_ in _sums(data).items()))


def _remember(data: Path, records: Sequence[RunRecord]) -> None:
    """Add the records of the dense model and what was pruned from it to the history."""
    for dense in (record for record in records if record.variant == DENSE):
        pruned = [other for other in records if other.base_model == dense.base_model and other is not dense]
        append(data / "regression" / "history.jsonl", [point_of([dense, *pruned])])


def require_manifest(data: Path) -> None:
    """Raise FastFluxError, which names them, for records that are not just those that the list holds."""
    path = data / NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    listed = {name: sum_ for sum_, _, name in (line.partition("  ") for line in lines)}
    found = _sums(data)
    if wrong := sorted(name for name in {*listed, *found} if listed.get(name) != found.get(name)):
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise FastFluxError(
            f"{', '.join(wrong[:3])}{more} in {data} are not as {NAME} says: bring the committed records back, or "
            "measure with `nox -s reproduce_tables -- --accept`."
        )


def _records(data: Path) -> list[Path]:
    return sorted(path for folder in _KEPT for path in record_files(data / folder))


def _sums(data: Path) -> dict[str, str]:
    return {path.relative_to(data).as_posix(): file_hash(path).hex() for path in _records(data)}
