"""Pictures of a parcellation: parcels in colours of their own, and images beside what parcels keep of them."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.report.canvas import HEADING_IN, heading, render_png
from gpuroi.report.slices import check_shapes, even_cuts, finite, lay_out, orient, show_grey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["parcel_colour", "save_compressed_picture", "save_parcels_picture"]

_CUTS = 4  # of each plane
_CAPTION_IN = 0.34
_OPACITY = 0.72  # so that the anatomy shows through


def parcel_colour(label: int) -> str:
    """Return the colour of a parcel, as `#rrggbb`: as if drawn at random, but always the same for a label.

    Hues follow the golden ratio, so that labels that follow each other, which often touch, differ most.

    Examples
    --------
    >>> parcel_colour(1), parcel_colour(1) == parcel_colour(2)
    ('#2258db', False)
    """
    hue = (label * 0.6180339887498949) % 1.0
    saturation = 0.62 + 0.30 * ((label * 0.7548776662466927) % 1.0)
    value = 0.70 + 0.28 * ((label * 0.5698402909980532) % 1.0)
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hsv_to_rgb(hue, saturation, value))


def save_parcels_picture(
    labels: NDArray[Any], background: NDArray[Any], affine: NDArray[np.float64], path: Path, *, title: str = ""
) -> Path:
    """Draw all parcels over an image, in cuts evenly through them.

    Parameters
    ----------
    labels : int array, shape (X, Y, Z)
        0 outside.
    background : array, shape (X, Y, Z)
        Such as the mean of the run.
    affine : array, shape (4, 4)
        Voxel -> mm, RAS+. Nothing is resampled.
    path : path
        The PNG file.
    title : str

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    UsageError
        If the shapes differ or are not three-dimensional.
    OutputError
        If matplotlib is not installed.
    """
    check_shapes(labels, background, "labels")
    grid = orient(labels.shape, affine)
    number, grey = grid.turn(np.asarray(labels)), finite(grid.turn(background))
    layout = lay_out(grid, {axis: even_cuts(number > 0, axis, _CUTS) for axis in grid.axes}, number > 0)
    colours = _colour_table(int(number.max(initial=0)))
    limits = _limits(grey[number > 0])

    def draw(figure: Any) -> None:
        heading(figure, title)
        for panel in layout.panels(figure, 0.0):
            show_grey(panel, grid, grey, limits)
            panel.ax.imshow(
                colours[panel.take(number)],
                origin="lower",
                aspect=panel.ax.get_aspect(),
                interpolation="nearest",
                zorder=3,
            )

    height = layout.height_in + (HEADING_IN if title else 0)
    Path(path).write_bytes(render_png(draw, layout.width_in, height))
    return Path(path)


def save_compressed_picture(
    bands: Sequence[tuple[str, NDArray[Any]]],
    inside: NDArray[np.bool_],
    affine: NDArray[np.float64],
    path: Path,
    *,
    title: str = "",
) -> Path:
    """Draw volumes one below the other, in the same cuts and the same greys.

    Parameters
    ----------
    bands : sequence of (str, array of shape (X, Y, Z))
        What each shows, and its values; the greys are those of the first.
    inside : bool array, shape (X, Y, Z)
        The mask.
    affine : array, shape (4, 4)
        Voxel -> mm, RAS+.
    path : path
        The PNG file.
    title : str

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    UsageError
        If the shapes differ or are not three-dimensional.
    OutputError
        If matplotlib is not installed.
    """
    for _, values in bands:
        check_shapes(inside, values, "mask")
    grid = orient(inside.shape, affine)
    mask = grid.turn(inside) != 0
    axial = grid.axes[:1]  # one plane: what is compared has to lie close together
    layout = lay_out(grid, {axis: even_cuts(mask, axis, _CUTS) for axis in axial}, mask)
    volumes = [finite(grid.turn(values)) for _, values in bands]
    limits = _limits(volumes[0][mask])
    step = layout.height_in + _CAPTION_IN

    def draw(figure: Any) -> None:
        heading(figure, title)
        width, height = figure.get_size_inches()
        for i, (caption, _) in enumerate(bands):
            bottom = step * (len(bands) - 1 - i)
            top = (bottom + layout.height_in + _CAPTION_IN / 2) / height
            figure.text(0.12 / width, top, caption, ha="left", va="center", fontsize=9)
            for panel in layout.panels(figure, bottom):
                show_grey(panel, grid, volumes[i], limits)

    Path(path).write_bytes(render_png(draw, layout.width_in, step * len(bands) + (HEADING_IN if title else 0)))
    return Path(path)


def _colour_table(n: int) -> NDArray[np.float64]:
    """Colours of labels 0..n, (n + 1, 4); 0 is transparent."""
    table = np.zeros((n + 1, 4))
    for label in range(1, n + 1):
        code = parcel_colour(label)
        table[label] = *(int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)), _OPACITY
    return table


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(values, (1, 99.5)))
    return (low, high) if high > low else (low - 1, high + 1)
