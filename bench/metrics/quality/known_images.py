"""Images whose objects their owner knows, which a detector is tried on before it judges others."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.samples.image_set import Pixels
from fastflux.errors import FastFluxError
from fastflux.pictures import open_picture

COUNTS = "counts.json"
KnownImage = tuple[Pixels, Mapping[str, int]]
"""Pixels, and the number of objects by class."""


def read_known_images(folder: Path, classes: tuple[str, ...]) -> list[KnownImage]:
    """The images that `folder`/counts.json names, with their numbers of objects by class.

    The file reads ``{"street.jpg": {"car": 2, "person": 1}, ...}``; 0 says that there is none of a class. Classes it
    does not name are not counted. Any format that PIL reads will do.

    Raises:
        FastFluxError: no such file, one of another form, a class that is none of `classes`, or an unreadable image.
    """
    path = folder / COUNTS
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FastFluxError(f'{path} cannot be read ({error}); write {{"image.jpg": {{"dog": 1}}}} into it.') from error
    if not isinstance(known, dict) or not known or not all(isinstance(counts, dict) for counts in known.values()):
        raise FastFluxError(f'{path} is not of the form {{"image.jpg": {{"dog": 1}}}} with at least one image.')
    for name, counts in known.items():
        if unknown := sorted(counts.keys() - set(classes)):
            raise FastFluxError(f"{path}: {name} counts {unknown}, which the detector does not know.")
        if not any(counts.values()) or not all(type(count) is int and count >= 0 for count in counts.values()):
            raise FastFluxError(f"{path}: {name} has the numbers {counts}; expected whole ones, at least one above 0.")
    if outside := [name for name in known if not (folder / name).resolve().is_relative_to(folder.resolve())]:
        raise FastFluxError(f"{path} names {outside[0]!r} outside of its folder; expected images in it.")
    return [(np.array(open_picture(folder / name)), counts) for name, counts in known.items()]
