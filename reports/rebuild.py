"""All committed documents from the committed records, rankings and galleries; and whether they are what those give."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.profiles import RANKINGS
from fastflux.errors import FastFluxError
from fastflux.files import replace_files, write_text
from reports.build import build, build_importance
from reports.readme import filled

PACKAGE = Path(__file__).parent
#: The profile whose documents lie on top of reports/generated, where README.md shows them.
DEFAULT = Path("cpu", "shapes")


def rebuild(package: Path, out: Path) -> list[Path]:
    """Write to `out` what reports/generated should hold; `package` is the folder reports/. The paths written.

    Raises FastFluxError when there are no records, and as `reports.build.build` does.
    """
    results = package / "data" / "results"
    folders = sorted({path.parent for path in results.rglob("*.json")})  # <device>/<profile>
    if not folders:
        raise FastFluxError(
            f"{results} holds no records: `nox -s reproduce_tables -- --accept` measures and keeps them."
        )
    written = []
    for folder in folders:
        name = folder.relative_to(results)
        gallery = package / "data" / "galleries" / name
        written += build(folder, _place(out, name), gallery_dir=gallery if gallery.is_dir() else None)
    for ranking in sorted((package.parent / "bench" / "profiles" / RANKINGS.name).glob("*.json")):
        written += build_importance(ranking, out if ranking.stem == DEFAULT.name else out / ranking.stem)
    return written


def check(package: Path, readme: Path) -> list[str]:
    """What differs between the committed documents and those that the committed records give; empty when nothing does.

    Raises FastFluxError as `rebuild` does, and when the README names a document that is not there.
    """
    committed = package / "generated"
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        made = {path.relative_to(fresh) for path in rebuild(package, fresh)}
        found = {path.relative_to(committed) for path in committed.rglob("*") if path.is_file()}
        faults = [f"{name} is missing" for name in sorted(made - found)]
        faults += [f"{name} is made from nothing" for name in sorted(found - made)]
        differing = [
            name for name in sorted(made & found) if (fresh / name).read_bytes() != (committed / name).read_bytes()
        ]
        faults += [f"{name} differs" for name in differing]
        text = readme.read_text(encoding="utf-8")
        if filled(text, fresh) != text:
            faults.append(f"{readme.name} shows other tables")
    return faults


def replace_all(package: Path, readme: Path) -> list[Path]:
    """Rebuild reports/generated and the README's tables; what nothing makes any more is deleted. The paths written."""
    committed = package / "generated"
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        names = [path.relative_to(fresh) for path in rebuild(package, fresh)]
        replace_files(committed, fresh)
    text = readme.read_text(encoding="utf-8")
    if (now := filled(text, committed)) != text:
        write_text(readme, now)
    return [committed / name for name in names]


def _place(out: Path, name: Path) -> Path:
    return out if name == DEFAULT else out / name
