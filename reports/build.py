"""Documents from a folder of records: what `python -m reports build` and the reproduction of the tables call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.profiles import RANKINGS
from bench.tables import RATIO, TABLES, TableSpec
from fastflux.errors import FastFluxError, unknown_name
from fastflux.files import write_text
from reports.grouping import DEFAULT_TOLERANCE, device_notes
from reports.rows import Row, read_rows
from reports.table import Table, to_markdown
from reports.tables import SHAPES_PROFILE, check_keys, make_table, model_name, read_tables

# What makes one format or table is imported where that is asked for: matplotlib and pandas take a second each.
if TYPE_CHECKING:
    from reports.figures.gallery import Gallery
    from reports.figures.image_grid import Shown
    from reports.figures.ranking import Ranking

DOCUMENT_FORMATS = ("md", "tex")
FIGURE_FORMATS = ("png", "svg", "pdf")
PAGE_FORMAT = "html"
FRAME_FORMAT = "csv"
ALL_FORMATS = (*DOCUMENT_FORMATS, *FIGURE_FORMATS, PAGE_FORMAT, FRAME_FORMAT)
#: What the repository keeps; the others are built when they are asked for.
FORMATS = (*DOCUMENT_FORMATS, "png")
REPORT = "report"
MAXIMUM_GRID_BYTES = 1_000_000
_GRID_CELLS = (112, 96, 80, 64)  # pixels an image: the first that stays within the bytes is taken


def build(
    results_dir: Path,
    out_dir: Path,
    tables: Sequence[str] = tuple(TABLES),
    formats: Sequence[str] = FORMATS,
    gallery: Path | None = None,
    *,
    intervals: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
    ranking: Path | None = None,
    mix_devices: bool = False,
    records: bool = False,
) -> list[Path]:
    """Write the named tables, their "paper against measured" twins and the figures; the paths written, in order.

    Table `table1` becomes table1.md / table1.tex, its twin table1_paper.md / .tex; as csv the twin's second table is
    table1_measured. A name that ends in .toml is the path of a file that declares tables (`reports.tables`). With
    "png", "svg" or "pdf" in `formats` the figures that the records allow are drawn; with `gallery`
    (`reports.figures.gallery`) also the grids of images, as PNG when neither a figure format nor "html" is named. With
    "html" all named tables, the plot, the gallery's images and the records become one file, page.html. Claims about
    blocks are held against `ranking`, else against the committed ranking of the profile. With `records` LaTeX's
    rows lead to provenance.tex. The same records give the same bytes.

    Raises FastFluxError for unknown tables or formats and for records that cannot share a table, before anything is
    written, and for a gallery that is unusable or of other records. Values that hang on the machine cannot share one if
    they come from several devices, unless `mix_devices`.
    """
    declared: dict[str, TableSpec] = {}
    for name in tables:
        if name.endswith(".toml"):
            declared |= read_tables(Path(name), taken=_taken(declared))
    tables = [*(name for name in tables if not name.endswith(".toml")), *declared]
    for kind, names, known in (("table", tables, (*TABLES, *declared)), ("format", formats, ALL_FORMATS)):
        for name in names:
            if name not in known:
                raise unknown_name(kind, name, known)
    rows = read_rows(results_dir)
    if declared:
        check_keys(declared, rows)
    made = make_tables(
        rows, tables, TABLES | declared, intervals=intervals, tolerance=tolerance, ranking_file=ranking,
        mix_devices=mix_devices,
    )  # fmt: skip
    shown = None if gallery is None else _gallery_of(rows, gallery)
    kinds = [kind for kind in FIGURE_FORMATS if kind in formats]
    page = PAGE_FORMAT in formats
    if kinds or page:
        device_notes(rows, [RATIO], "The figure of quality against latency", mix=mix_devices)
    written = [
        write_text(out_dir / f"{name}.{kind}", _document(parts, kind, rows, records=records))
        for name, parts in made.items()
        for kind in DOCUMENT_FORMATS
        if kind in formats
    ]
    if FRAME_FORMAT in formats:
        from reports.render.frame import write_csv

        named = [(table.name.replace("-", "_"), table) for parts in made.values() for table in parts]
        written += [write_csv(table, out_dir / f"{name}.{FRAME_FORMAT}") for name, table in named]
    if kinds:
        written += _build_figures(rows, out_dir, kinds)
    if shown is not None and (kinds or not page):
        from reports.figures.image_grid import Shown

        evidence = Shown(rows, ranking_of(rows, ranking), tolerance)
        written += _build_grids(evidence, shown, out_dir, kinds or ["png"])
    if page:
        from reports.render.html.document import PAGE, page_html

        shown_there = {name: parts for name, parts in made.items() if name != "provenance"}  # it has the records whole
        written.append(write_text(out_dir / PAGE, page_html(rows, shown_there, shown)))
    return written


def _taken(declared: Iterable[str]) -> set[str]:
    """Names of documents that a declared table may not have; - and _ count as one, data files have _ for both."""
    names = {*TABLES, REPORT, "ranking", "importance", *declared}
    twins = {f"{name}{suffix}" for name, spec in TABLES.items() if spec.paper for suffix in ("_paper", "_measured")}
    return names | twins


def _gallery_of(rows: Sequence[Row], gallery_dir: Path) -> Gallery:
    """The gallery's images of these very records; raises FastFluxError when it has none."""
    from reports.figures.gallery import Gallery

    found = Gallery.read(gallery_dir).of(rows)
    if not found.sheets:
        raise FastFluxError(
            f"The gallery {gallery_dir} shows none of these records' images; make it of the same run by "
            "`python -m reports gallery`."
        )
    return found


def build_importance(ranking_file: Path, out_dir: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write the figure and the table of a ranking file; the paths written, in order.

    Raises FastFluxError when the file holds no ranking.
    """
    from reports.figures.quality import importance_figure
    from reports.figures.ranking import Ranking, orders_table
    from reports.figures.style import save_figure

    ranking = Ranking.read(ranking_file)
    table, figure = orders_table(ranking), importance_figure(ranking)
    written = [
        write_text(out_dir / f"ranking.{kind}", _document([table], kind))
        for kind in DOCUMENT_FORMATS
        if kind in formats
    ]
    drawn = [kind for kind in FIGURE_FORMATS if kind in formats]
    return written + [save_figure(figure, out_dir / f"importance.{kind}") for kind in drawn]


def _document(parts: Iterable[Table], kind: str, rows: Sequence[Row] = (), *, records: bool = False) -> str:
    if kind == "md":
        return "\n".join(map(to_markdown, parts))
    from reports.render.latex.tables import anchor, to_latex

    anchors = [anchor(row.variant) for row in rows if row.record is not None]
    return "\n".join(
        to_latex(table, row_labels=anchors) if table.name == "provenance" else to_latex(table, records=records)
        for table in parts
    )


def _build_figures(rows: Sequence[Row], out_dir: Path, kinds: Sequence[str]) -> list[Path]:
    """The figures for which there are records."""
    from reports.figures.quality import linear_layer_figure, quality_against_latency, sandwich_size_figure
    from reports.figures.style import save_figure

    drawn = {
        "quality_against_latency": quality_against_latency(rows),
        "linear_layer": linear_layer_figure(rows),
        "sandwich_size": sandwich_size_figure(rows),
    }
    made = {name: figure for name, figure in drawn.items() if figure is not None}
    return [save_figure(figure, out_dir / f"{name}.{kind}") for name, figure in made.items() for kind in kinds]


def _build_grids(shown: Shown, whole: Gallery, out_dir: Path, kinds: Iterable[str]) -> list[Path]:
    """The grids for which the gallery has images of these very records."""
    from reports.figures.gallery import Gallery
    from reports.figures.image_grid import GRIDS, grid_rows, image_grid
    from reports.figures.style import save_figure

    galleries = {"": whole}
    written = []
    for name, grid in GRIDS.items():
        if grid.folder not in galleries:
            if not (whole.folder / grid.folder).is_dir():
                continue
            galleries[grid.folder] = Gallery.read(whole.folder / grid.folder).of(shown.rows)
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


def make_tables(
    rows: Sequence[Row],
    names: Iterable[str],
    specs: Mapping[str, TableSpec],
    *,
    intervals: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
    ranking_file: Path | None = None,
    mix_devices: bool = False,
) -> dict[str, tuple[Table, ...]]:
    """The tables by the name of their document; a table that the paper has, too, is followed by its twin of two tables.

    Raises FastFluxError for records that cannot share a table, and when `ranking_file` holds no ranking.
    """
    made: dict[str, tuple[Table, ...]] = {}
    for name in names:
        spec = specs[name]
        if spec.needs is not None and not spec.chosen(rows):
            continue  # of a method that was not measured
        if spec.worked_out:
            made[name] = (_worked_out(name, spec, rows, tolerance, ranking_file, mix_devices=mix_devices),)
            continue
        made[name] = (make_table(name, spec, rows, intervals=intervals, tolerance=tolerance, mix_devices=mix_devices),)
        if spec.paper:
            from reports.paper import paper_against_measured

            made[f"{name}_paper"] = paper_against_measured(name, spec, rows, mix_devices=mix_devices)
    return made


def _worked_out(
    name: str, spec: TableSpec, rows: Sequence[Row], tolerance: float, ranking_file: Path | None, *, mix_devices: bool
) -> Table:
    from reports.claims.table import claims_table, own_claims_table
    from reports.paired_differences import differences_table, seeds_table
    from reports.why import provenance_table

    devices = device_notes(rows, spec.keys, f"Table {name}", mix=mix_devices)
    makers = {
        "differences": lambda: differences_table(rows, tolerance),
        "seeds": lambda: seeds_table(rows),
        "beyond": lambda: own_claims_table(rows),
        "claims": lambda: claims_table(rows, ranking_of(rows, ranking_file), tolerance),
        "provenance": lambda: provenance_table(rows),
    }
    table = makers[name]()
    return replace(table, notes=(*table.notes, *devices))


def committed_ranking(rows: Sequence[Row]) -> Path | None:
    """The ranking that the repository keeps for the rows' profile, None where there is none."""
    committed = RANKINGS / f"{rows[0].profile}.json"
    return committed if committed.is_file() else None


def ranking_of(rows: Sequence[Row], ranking_file: Path | None) -> Ranking | None:
    """The ranking of a file, else the committed one of the rows' profile; raises FastFluxError when it holds none."""
    from reports.figures.ranking import Ranking

    path = ranking_file or committed_ranking(rows)
    return None if path is None else Ranking.read(path)
