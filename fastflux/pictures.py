"""Pictures from outside, as people see them; free of torch, for all that reads pictures."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fastflux.errors import FastFluxError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def picture_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The pictures of a folder by the ends of their names, in any case and in the order of the names.

    With ``pattern`` "**/*" those of its folders are among them.
    """
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES)


def open_picture(path: Path, data: bytes | None = None) -> Image.Image:
    """A picture in RGB as people see it: turned as its EXIF says, on white where it is transparent, 16-bit grey scaled.

    ``data`` is what was read of the file already. Raises ``FastFluxError`` for a file that is damaged, no picture, or
    of more pixels than Pillow takes for sane.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path if data is None else BytesIO(data)) as opened:
                return as_seen(ImageOps.exif_transpose(opened))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = "of no known format" if isinstance(error, UnidentifiedImageError) else error
        raise FastFluxError(f"{path} is damaged or no picture ({reason}): replace it or take it away.") from error


def as_seen(image: Image.Image) -> Image.Image:
    """A picture of any mode in RGB, 8 bits a channel; raises ``ValueError`` for a mode without a range."""
    if image.mode.startswith("I"):  # grey of 16 bits, which convert would cut off at 255
        values = np.asarray(image.convert("I"))
        image = Image.fromarray((values.clip(0, 65535) / 257).round().astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its values are floating-point numbers")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
