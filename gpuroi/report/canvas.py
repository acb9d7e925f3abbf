"""Matplotlib without its global state: a figure in, the same PNG bytes out each time."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

from gpuroi.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HEADING_IN", "HIGHLIGHTS", "NEUTRAL", "heading", "render_png", "render_svg"]

HIGHLIGHTS = ("#D55E00", "#0072B2")  # the two sides of a contrast; told apart with any colour vision
NEUTRAL = "#8A8F98"
HEADING_IN = 0.4  # room for `heading`

_DPI = 110
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that text is the same on every machine
    "font.size": 9.0,
    "text.parse_math": False,  # a "$" in a name is a dollar
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "svg.hashsalt": "gpuroi",  # names within an SVG are the same each time
}


def render_png(draw: Callable[[Any], None], width_in: float, height_in: float) -> bytes:
    """Let `draw` draw on a new matplotlib `Figure` and return it as a PNG file.

    Parameters
    ----------
    draw : callable
        Takes the figure.
    width_in, height_in : float
        Inches, at 110 pixels each.

    Returns
    -------
    bytes
        The same for the same drawing: no date, no version, and no setting of the user's matplotlibrc.

    Raises
    ------
    OutputError
        If matplotlib is not installed.
    """
    return _rendered(draw, width_in, height_in, "png", {"Software": None})


def render_svg(draw: Callable[[Any], None], width_in: float, height_in: float) -> bytes:
    """Do as `render_png`, but return an SVG file; its text is drawn, so that it needs no font."""
    return _rendered(draw, width_in, height_in, "svg", {"Date": None, "Creator": None})


def heading(figure: Any, title: str) -> None:
    """Write a title into the `HEADING_IN` inches at the top of a figure."""
    width, height = figure.get_size_inches()
    if title:
        x, y = 0.12 / width, 1 - HEADING_IN / 2 / height
        figure.text(x, y, title, ha="left", va="center", fontsize=10.5)


def _rendered(
    draw: Callable[[Any], None], width_in: float, height_in: float, kind: str, metadata: dict[str, None]
) -> bytes:
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.text import Text
    except ImportError:
        raise OutputError("figures need matplotlib, which is not installed", "pip install 'gpuroi[report]'") from None
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width_in, height_in))
        FigureCanvasAgg(figure)
        draw(figure)
        for text in figure.findobj(Text):  # names of files may hold what no font can draw
            text.set_text(_drawable(text.get_text()))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box is drawn in its place
            figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()


def _drawable(text: str) -> str:
    """Return a text without control characters, and with bytes that are no UTF-8 spelled out."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c == "\n" or c.isprintable() else " " for c in plain)
