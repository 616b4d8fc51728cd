"""Documents from a folder of records: what `python -m reports build` and the reproduction of the tables call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastflux.errors import FastFluxError
from reports.choices import unknown_choice
from reports.claims import claims_table
from reports.grids import GRIDS, Shown
from reports.grouping import DEFAULT_TOLERANCE
from reports.page import PAGE, page_html
from reports.paired_differences import differences_table
from reports.paper import paper_against_measured
from reports.ranking import Ranking, orders_table
from reports.rows import read_rows
from reports.seeds import seeds_table
from reports.specs import TABLES
from reports.table import Table, to_latex, to_markdown
from reports.tables import SHAPES_PROFILE, make_table, model_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from reports.rows import Row

DOCUMENT_FORMATS = ("md", "tex")
FIGURE_FORMATS = ("png", "svg")
PAGE_FORMAT = "html"
FORMATS = (*DOCUMENT_FORMATS, *FIGURE_FORMATS, PAGE_FORMAT)
#: The declared tables and those that are worked out.
NAMES = (*TABLES, "differences", "seeds", "claims")
RANKINGS = Path(__file__).parent / "rankings"
MAXIMUM_GRID_BYTES = 1_000_000
_GRID_CELLS = (112, 96, 80, 64)  # pixels an image: the first that stays within the bytes is taken


def build(
    results_dir: Path,
    out_dir: Path,
    tables: Sequence[str] = NAMES,
    formats: Sequence[str] = FORMATS,
    gallery_dir: Path | None = None,
    *,
    intervals: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
    ranking_file: Path | None = None,
) -> list[Path]:
    """Write the named tables, their "paper against measured" twins and the figures; the paths written, in order.

    Table `table1` becomes table1.md / table1.tex, its twin table1_paper.md / .tex. With "png" or "svg" in `formats`
    the figures that the records allow are drawn; with `gallery_dir` (`reports.gallery`) also the grids of images, as
    PNG when neither a figure format nor "html" is named. With "html" all named tables, the plot, the gallery's images
    and the records become one file, page.html. Claims about blocks are held against `ranking_file`, else against
    the committed ranking of the profile. The same records give the same bytes.

    Raises FastFluxError for unknown tables or formats and for records that cannot share a table, before anything is
    written, and for a gallery that is unusable or of other records.
    """
    _known("table", tables, NAMES)
    _known("format", formats, FORMATS)
    rows = read_rows(results_dir)
    made: dict[str, tuple[Table, ...]] = {}
    for name in tables:
        if name not in TABLES:
            worked_out = {
                "differences": lambda: differences_table(rows, tolerance),
                "seeds": lambda: seeds_table(rows),
                "claims": lambda: build_claims(rows, ranking_file),
            }
            made[name] = (worked_out[name](),)
            continue
        spec = TABLES[name]
        made[name] = (make_table(name, spec, rows, intervals=intervals, tolerance=tolerance),)
        if spec.paper:
            made[f"{name}_paper"] = paper_against_measured(name, spec, rows)
    kinds = [kind for kind in FIGURE_FORMATS if kind in formats]
    written = [
        write_text(out_dir / f"{name}.{kind}", _document(parts, kind))
        for name, parts in made.items()
        for kind in DOCUMENT_FORMATS
        if kind in formats
    ]
    if kinds:
        written += _build_figures(rows, out_dir, kinds)
    page = PAGE_FORMAT in formats
    if gallery_dir is not None and (kinds or not page):
        shown = Shown(rows, _ranking_of(rows, ranking_file), tolerance)
        written += _build_grids(shown, gallery_dir, out_dir, kinds or ["png"])
    if page:
        written.append(write_text(out_dir / PAGE, _page(rows, made, gallery_dir)))
    return written


def _page(rows: Sequence[Row], tables: Mapping[str, Sequence[Table]], gallery_dir: Path | None) -> str:
    if gallery_dir is None:
        return page_html(rows, tables)
    from reports.gallery import Gallery

    return page_html(rows, tables, Gallery.read(gallery_dir).of(rows))


def build_claims(rows: Sequence[Row], ranking_file: Path | None = None) -> Table:
    """The table of claims over rows and a ranking file: the one given, else the committed one of their profile.

    Raises FastFluxError when the file given holds no ranking.
    """
    return claims_table(rows, _ranking_of(rows, ranking_file))


def _ranking_of(rows: Sequence[Row], ranking_file: Path | None) -> Ranking | None:
    committed = RANKINGS / f"{rows[0].profile}.json"
    path = ranking_file or (committed if committed.is_file() else None)
    return None if path is None else Ranking.read(path)


def build_importance(ranking_file: Path, out_dir: Path) -> list[Path]:
    """Write the figure and the table of a ranking file; the paths written, in order.

    Raises FastFluxError when the file holds no ranking.
    """
    from reports.importance import importance_figure
    from reports.style import save_figure

    ranking = Ranking.read(ranking_file)
    table, figure = orders_table(ranking), importance_figure(ranking)
    written = [write_text(out_dir / f"ranking.{kind}", _document([table], kind)) for kind in DOCUMENT_FORMATS]
    return written + [save_figure(figure, out_dir / f"importance.{kind}") for kind in FIGURE_FORMATS]


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text whole or not at all, with the same line ends on every system; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in (choices := list(known)):
            raise unknown_choice(kind, name, choices)


def _document(parts: Iterable[Table], kind: str) -> str:
    render: Callable[[Table], str] = to_markdown if kind == "md" else to_latex
    return "\n".join(render(table) for table in parts)


def _build_figures(rows: Sequence[Row], out_dir: Path, kinds: Sequence[str]) -> list[Path]:
    """The figures for which there are records."""
    # matplotlib takes a second to import: tables alone need not wait for it.
    from reports.ablations import has_linear_layer, has_sandwich_size, linear_layer_figure, sandwich_size_figure
    from reports.figures import has_quality, quality_against_latency
    from reports.style import save_figure

    drawn = {
        "quality_against_latency": (has_quality, quality_against_latency),
        "linear_layer": (has_linear_layer, linear_layer_figure),
        "sandwich_size": (has_sandwich_size, sandwich_size_figure),
    }
    written = []
    for name, (possible, draw) in drawn.items():
        if possible(rows):
            figure = draw(rows)
            written += [save_figure(figure, out_dir / f"{name}.{kind}") for kind in kinds]
    return written


def _build_grids(shown: Shown, gallery_dir: Path, out_dir: Path, kinds: Iterable[str]) -> list[Path]:
    """The grids for which the gallery has images of these very records."""
    from reports.gallery import Gallery
    from reports.image_grid import grid_rows, image_grid
    from reports.style import save_figure

    galleries = {"": Gallery.read(gallery_dir).of(shown.rows)}
    if not galleries[""].sheets:
        raise FastFluxError(
            f"The gallery {gallery_dir} shows none of these records' images; make it of the same run by "
            "`python -m reports gallery`."
        )
    written = []
    for name, grid in GRIDS.items():
        if grid.folder not in galleries:
            if not (gallery_dir / grid.folder).is_dir():
                continue
            galleries[grid.folder] = Gallery.read(gallery_dir / grid.folder).of(shown.rows)
        gallery = galleries[grid.folder]
        groups = grid.columns(shown, gallery)
        if not groups:
            continue
        title = f"{model_name(shown.rows)}: {grid.title}"
        if any(row.profile == SHAPES_PROFILE for row in shown.rows):
            title += f" ({gallery.tile[0]} x {gallery.tile[1]} pixel images, enlarged)"
        indices = grid_rows(gallery, grid.prompts)
        for kind in kinds:
            path = out_dir / f"{name}.{kind}"
            for cell in _GRID_CELLS:
                save_figure(
                    image_grid(gallery, groups, title=title, rows=indices, cell=cell, native=kind == "svg"), path
                )
                if path.stat().st_size <= MAXIMUM_GRID_BYTES:
                    break
            written.append(path)
    return written
