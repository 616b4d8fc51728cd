"""How figures look and are written: one font, colours that colour-blind readers can part, the same bytes each time."""

from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from fastflux.files import whole_file

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/: apart in every common form of colour blindness, and in grey
# through their markers.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#B04F87"
BLACK, GREY = "#000000", "#6B6B6B"
DOTS_PER_INCH = 100
_STEPS = [min(255, (value + 4) // 8 * 8) for value in range(256)]

# matplotlib types the keys as a closed list that differs between its versions.
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same glyphs
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "fastflux",
    "svg.fonttype": "path",
}
_METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, on the Agg canvas, without pyplot's global state."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")
        FigureCanvasAgg(figure)
    return figure


def style() -> AbstractContextManager[None]:
    """The context in which axes are made and drawn."""
    return mpl.rc_context(_STYLE)


def light_grid(axes: Axes, axis: Literal["both", "x", "y"] = "y") -> None:
    """Thin lines behind all that is drawn."""
    axes.grid(visible=True, axis=axis, color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)


def label_point(
    axes: Axes, text: str, point: tuple[float, float], offset: tuple[int, int], colour: str, **layout: Any
) -> None:
    """Text beside a point, `offset` in typographic points, that lines behind it do not cross."""
    axes.annotate(
        text, point, xytext=offset, textcoords="offset points", color=colour,
        path_effects=[withStroke(linewidth=2.5, foreground="white")], **layout,
    )  # fmt: skip


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the figure as its suffix says (.png, .svg, .pdf), whole or not at all, without a date; returns `path`."""
    kind = path.suffix.lstrip(".")
    with whole_file(path) as partial, style():
        if kind != "png":
            figure.savefig(partial, format=kind, metadata=_METADATA[kind])
            return path
        drawn = BytesIO()
        figure.savefig(drawn, format="raw", dpi=DOTS_PER_INCH)
        picture = Image.frombytes("RGBA", figure.canvas.get_width_height(), drawn.getvalue())
        # Without alpha and with 32 steps a colour, which no eye misses, grids of images are half as large.
        picture.convert("RGB").point(_STEPS * 3).save(partial, "PNG", optimize=True, dpi=(DOTS_PER_INCH, DOTS_PER_INCH))
    return path
