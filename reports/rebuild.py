"""All committed documents from the committed records, rankings and galleries; and whether they are what those give.

The records are listed with SHA-256 sums: what was changed, added or lost since is refused. The list has the format of
sha256sum, which checks it too: ``cd reports/data && sha256sum --check SHA256SUMS``.
"""

import os
import re
import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from bench.profiles import RANKINGS
from bench.record_checks import check_records
from bench.records.results import PACKED, PLAIN, RunRecord, read_records, record_files
from bench.records.variant_id import DENSE
from bench.regression.history import append, point_of
from fastflux.errors import FastFluxError
from fastflux.files import file_hash, replace_files, write_text
from reports.build import FORMATS, build, build_importance

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


PACKAGE = Path(__file__).parent
#: The profile whose documents lie on top of reports/generated, where README.md shows them.
DEFAULT = Path("cpu", "shapes")
#: Files with generated parts, beside the folder reports/.
FILLED = ("README.md", "docs/results.md")


def rebuild(package: Path, out: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write to `out` what reports/generated should hold; `package` is the folder reports/. The paths written.

    Raises FastFluxError when there are no records or others than reports/data lists, and as `reports.build.build` does.
    """
    results = package / "data" / "results"
    require_manifest(package / "data")
    folders = sorted({path.parent for path in record_files(results)})  # <device>/<profile>
    if not folders:
        raise FastFluxError(
            f"{results} holds no records: `nox -s reproduce_tables -- --accept` measures and keeps them."
        )
    written = []
    for folder in folders:
        name = folder.relative_to(results)
        gallery = package / "data" / "galleries" / name
        place = out if name == DEFAULT else out / name
        written += build(folder, place, formats=formats, gallery=gallery if gallery.is_dir() else None)
    for ranking in sorted((package.parent / "bench" / "profiles" / RANKINGS.name).glob("*.json")):
        written += build_importance(ranking, out if ranking.stem == DEFAULT.name else out / ranking.stem, formats)
    return written


def check(package: Path) -> list[str]:
    """What differs between the committed documents and those that the committed records give; empty when nothing does.

    Documents of other formats than the committed ones are left alone. Raises FastFluxError as `rebuild` does, and when
    a file shows a document that is not there.
    """
    committed = package / "generated"
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        made = {path.relative_to(fresh) for path in rebuild(package, fresh)}
        found = documents(committed)
        faults = [f"{name} is missing" for name in sorted(made - found)]
        faults += [f"{name} is made from nothing" for name in sorted(found - made)]
        differing = [
            name for name in sorted(made & found) if (fresh / name).read_bytes() != (committed / name).read_bytes()
        ]
        faults += [f"{name} differs" for name in differing]
        for path in _filled(package):
            text = path.read_text(encoding="utf-8")
            if filled(text, fresh, _link(path, committed)) != text:
                faults.append(f"{path.name} shows other tables")
    return faults


def replace_all(package: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Rebuild reports/generated and what README.md and docs/results.md show of it; returns the paths written.

    Committed documents that nothing makes any more are deleted. `formats` beyond the committed ones are built, too.
    """
    committed = package / "generated"
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        made = rebuild(package, fresh, tuple(dict.fromkeys((*FORMATS, *formats))))
        names = [path.relative_to(fresh) for path in made]
        replace_files(committed, fresh)
    for path in _filled(package):
        text = path.read_text(encoding="utf-8")
        if (now := filled(text, committed, _link(path, committed))) != text:
            write_text(path, now)
    return [committed / name for name in names]


def _filled(package: Path) -> list[Path]:
    return [path for name in FILLED if (path := package.parent / name).is_file()]


def _link(path: Path, committed: Path) -> str:
    return Path(os.path.relpath(committed, path.parent)).as_posix()


def documents(committed: Path) -> set[Path]:
    """The committed documents by their place: page.html and SVGs are built beside them and not committed."""
    return {path.relative_to(committed) for path in committed.rglob("*") if path.suffix[1:] in FORMATS}


#: A metric's line at the foot of a table: its name, escaped for Markdown, and its version.
_SETTINGS = re.compile(r"[\w\\]+ \(version \w+\): ")
_PLACE = re.compile(r"(<!-- generated: (?P<name>[\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, documents: Path, link: str = "reports/generated") -> str:
    """`text` with every marked place holding its file of `documents`, whose headings are of the third level.

    `link` leads from the text to the committed ones. Raises FastFluxError when a file is missing.
    """

    def fill(place: re.Match[str]) -> str:
        path = documents / place["name"]
        if not path.is_file():
            raise FastFluxError(f"{place['name']} is shown, but {path} is missing: run `nox -s reports` first.")
        paragraphs = path.read_text(encoding="utf-8").strip().split("\n\n")
        shown = [paragraph for paragraph in paragraphs if not _SETTINGS.match(paragraph)]
        if len(shown) < len(paragraphs):
            shown.append(f"[How it was measured]({link}/{place['name']})")
        text = "\n\n".join(shown)
        return f"{place[1]}{text}\n{place[3]}"

    return _PLACE.sub(fill, text)
