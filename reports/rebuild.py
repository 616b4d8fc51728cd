"""All committed documents from the committed records, rankings and galleries; and whether they are what those give."""

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.profiles import RANKINGS
from bench.records.results import record_files
from fastflux.errors import FastFluxError
from fastflux.files import replace_files, write_text
from reports.build import FORMATS, build, build_importance
from reports.manifest import require_manifest

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
