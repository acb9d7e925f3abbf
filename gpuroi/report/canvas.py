"""Matplotlib without its global state: a figure in, the same PNG bytes out each time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from gpuroi.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HIGHLIGHTS", "NEUTRAL", "render_png"]

HIGHLIGHTS = ("#D55E00", "#0072B2")  # the two sides of a contrast; told apart with any colour vision
NEUTRAL = "#8A8F98"

_DPI = 110
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that text is the same on every machine
    "font.size": 9.0,
    "text.parse_math": False,  # a "$" in a name is a dollar
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
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
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise OutputError("figures need matplotlib, which is not installed", "pip install 'gpuroi[report]'") from None
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width_in, height_in))
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
