"""The galleries of a run: one of its recorded variants, one of the images without one block each."""

from collections.abc import Sequence
from pathlib import Path

from bench.records.variant_id import DENSE
from fastflux.errors import FastFluxError
from reports.figures.gallery import LONGEST_EDGE, Gallery, write_gallery
from reports.figures.grids import SINGLE_REMOVALS
from reports.rows import Row

MANIFEST = "manifest.jsonl"


def collect(
    rows: Sequence[Row], images: Path, out: Path, *, shots: int | None = None, edge: int = LONGEST_EDGE
) -> list[Gallery]:
    """Make the galleries from a run's folder of <variant>/manifest.jsonl and single_removals/<block>/manifest.jsonl.

    Raises FastFluxError for impossible numbers, when the folder has no images of the rows, and as
    `reports.figures.gallery.write_gallery` does.
    """
    if (shots is not None and shots < 1) or edge < 1:
        raise FastFluxError(f"{shots} shots of {edge} pixels are asked for; expected at least 1 of each.")
    keys = {row.variant: row.record_key for row in rows}
    manifests = {variant: path for variant in keys if (path := images / variant / MANIFEST).is_file()}
    if not manifests:
        raise FastFluxError(
            f"The images folder {images} holds no <variant>/{MANIFEST} of the recorded variants; generate images first."
        )
    made = [write_gallery(manifests, out, records=keys, shots=shots, edge=edge)]
    removals = {path.parent.name: path for path in sorted((images / SINGLE_REMOVALS).glob(f"*/{MANIFEST}"))}
    if removals and DENSE in manifests:
        shown = {DENSE: manifests[DENSE], **removals}
        made.append(write_gallery(shown, out / SINGLE_REMOVALS, records=keys, shots=shots, edge=edge))
    return made
