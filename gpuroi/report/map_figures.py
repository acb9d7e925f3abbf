"""Pictures of maps: cuts through a statistic, its projection through a glass brain, and numbers of maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuroi.errors import UsageError
from gpuroi.report.canvas import HEADING_IN, heading, render_png
from gpuroi.report.slices import (
    Oriented,
    best_cuts,
    check_shapes,
    even_cuts,
    finite,
    grey_limits,
    lay_out,
    orient,
    pixel_edges,
    show_grey,
    tilt_note,
    visible,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BAR_IN",
    "COLD",
    "HOT",
    "Scale",
    "colour_bar",
    "diverging",
    "save_count_picture",
    "save_glass_picture",
    "save_map_picture",
]

BAR_IN = 0.72  # room for `colour_bar`
# Dark to bright in orange and, of the same lightness, in blue: told apart with any colour vision.
HOT = ("#7A0403", "#D55E00", "#F6A800", "#FFF3A0")
COLD = ("#06245C", "#0072B2", "#56B4E9", "#D8F3FF")
_GAP_GREY = (0.45, 0.45, 0.45, 1.0)
_VIEW_IN = 3.2  # width of the widest view of a glass brain
_VIEWS = (  # axis looked along, horizontal, vertical, name, its two sides
    (0, 1, 2, "from the right", ("P", "A")),
    (1, 0, 2, "from behind", ("L", "R")),
    (2, 0, 1, "from above", ("L", "R")),
)


class Scale(NamedTuple):
    """How values become colours: from `threshold` to `largest`, the same on both sides of 0 if `signed`."""

    threshold: float
    largest: float
    signed: bool = True
    note: str = ""  # below the bar, in place of "shown where ..."

    @property
    def lowest(self) -> float:
        """The left end of the bar."""
        return -self.largest if self.signed else 0.0


def save_map_picture(
    stat: NDArray[Any],
    affine: NDArray[np.float64],
    path: Path,
    *,
    background: NDArray[Any] | None = None,
    threshold: float = 0.0,
    title: str = "",
    signed: bool = True,
    note: str = "",
    outlined: NDArray[np.bool_] | None = None,
) -> Path:
    """Draw a statistical map where `|stat| >= threshold`, in cuts through what passes.

    Parameters
    ----------
    stat : array, shape (X, Y, Z)
        0 and NaN are not drawn.
    affine : array, shape (4, 4)
        Voxel -> mm, RAS+.
    path : path
        The PNG file.
    background : array, shape (X, Y, Z), optional
        Default: a flat grey where the map is neither 0 nor NaN.
    threshold : float, default 0
        In the units of the map. The colour bar is symmetric, with a gap between -threshold and threshold.
    title : str
    signed : bool, default True
        False for maps that are never negative, such as F: the bar then begins at 0.
    note : str
        Below the colour bar, in place of "shown where |value| ≥ threshold".
    outlined : bool array, shape (X, Y, Z), optional
        What to draw a line around.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    UsageError
        If the shapes differ or are not three-dimensional, or the threshold is negative.
    OutputError
        If matplotlib is not installed.
    """
    if not threshold >= 0:
        raise UsageError(f"threshold is {threshold}, must be 0 or more: both signs are drawn")
    if background is None:
        background = np.isfinite(stat) & (np.asarray(stat) != 0)
    check_shapes(stat, background, "stat")
    grid = orient(stat.shape, affine)
    values, grey = grid.turn(np.asarray(stat, dtype=np.float64)), finite(grid.turn(background))
    values = np.where(np.isfinite(values) & (values != 0) & (np.abs(values) >= threshold), values, 0.0)
    lined = np.zeros(values.shape, bool) if outlined is None else grid.turn(outlined)
    inside = visible(grey) | (values != 0)
    weight = np.abs(values) * np.where(lined.any(), 0.02 + lined, 1.0)  # cuts go through what has a line around it
    cuts = {axis: best_cuts(weight, axis, 4) or even_cuts(inside, axis, 4) for axis in grid.axes}
    scale = Scale(threshold, _largest(values, threshold), signed, note)
    layout = lay_out(grid, cuts, inside)

    def draw(figure: Any) -> None:
        from matplotlib.collections import LineCollection

        heading(figure, title)
        colours = diverging(threshold, scale.largest)
        for panel in layout.panels(figure, BAR_IN):
            show_grey(panel, grid, grey, grey_limits(grey))
            panel.ax.imshow(
                np.ma.masked_equal(panel.take(values), 0.0),
                cmap=colours,
                origin="lower",
                vmin=-scale.largest,
                vmax=scale.largest,
                aspect=panel.ax.get_aspect(),
                interpolation="nearest",
            )
            edges = pixel_edges(panel.take(lined) != 0)
            panel.ax.add_collection(LineCollection(edges, colors="white", linewidths=1.1, zorder=4))
        nothing = "" if values.any() else "nothing reaches it"
        colour_bar(figure, scale, "; ".join(filter(None, [tilt_note(grid), nothing])))

    height = layout.height_in + BAR_IN + (HEADING_IN if title else 0)
    Path(path).write_bytes(render_png(draw, layout.width_in, height))
    return Path(path)


def save_glass_picture(
    stat: NDArray[Any],
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64],
    path: Path,
    *,
    threshold: float = 0.0,
    title: str = "",
    signed: bool = True,
    note: str = "",
) -> Path:
    """Draw a map as if the brain were of glass: along each line of sight the value that is furthest from 0.

    Parameters
    ----------
    stat : array, shape (X, Y, Z)
        0 and NaN are not drawn.
    mask : bool array, shape (X, Y, Z)
        Whose outline is the glass; no template is laid below, so the image may lie in any space.
    affine, path, threshold, title, signed, note
        As in `save_map_picture`.

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
    check_shapes(stat, mask, "stat")
    grid = orient(stat.shape, affine)
    values, inside = finite(grid.turn(stat)), grid.turn(mask) != 0
    values[np.abs(values) < threshold] = 0.0
    scale = Scale(threshold, _largest(values, threshold), signed, note)
    spans = [_span(inside | (values != 0), axis) for axis in range(3)]
    size_mm = [(last - first) * zoom for (first, last), zoom in zip(spans, grid.zooms_mm, strict=True)]
    per_mm = _VIEW_IN / max(size_mm)
    tallest = max(max(size_mm[vertical] * per_mm for _, _, vertical, _, _ in _VIEWS), 0.6)

    def draw(figure: Any) -> None:
        heading(figure, title)
        wide, high = figure.get_size_inches()
        left = 0.25
        for axis, horizontal, vertical, name, ends in _VIEWS:
            box = (max(size_mm[horizontal] * per_mm, 0.3), max(size_mm[vertical] * per_mm, 0.3))
            bottom = BAR_IN + (tallest - box[1]) / 2
            ax = figure.add_axes((left / wide, bottom / high, box[0] / wide, box[1] / high))
            _project(ax, values, inside, axis, scale)
            ax.set_aspect(grid.zooms_mm[vertical] / grid.zooms_mm[horizontal])
            ax.set_xlim(*spans[horizontal])
            ax.set_ylim(*spans[vertical])
            ax.set_axis_off()
            ax.set_title(name, fontsize=8.5, loc="center")
            for at, letter in zip((0.0, 1.0), ends, strict=True):
                ax.text(at, 0.0, letter, transform=ax.transAxes, ha="center", va="bottom", fontsize=8)
            left += box[0] + 0.35
        nothing = "" if values.any() else "nothing reaches it"
        colour_bar(figure, scale, "; ".join(filter(None, [_tilted(grid), nothing])))

    width = max(sum(max(size_mm[horizontal] * per_mm, 0.3) + 0.35 for _, horizontal, _, _, _ in _VIEWS) + 0.2, 4.5)
    Path(path).write_bytes(render_png(draw, width, tallest + BAR_IN + 0.35 + (HEADING_IN if title else 0)))
    return Path(path)


def save_count_picture(
    counts: NDArray[Any], mask: NDArray[np.bool_], affine: NDArray[np.float64], path: Path, *, title: str = ""
) -> Path:
    """Draw how many maps have each voxel, in even cuts; a line surrounds the voxels of the mask.

    Parameters
    ----------
    counts : array, shape (X, Y, Z)
        0 is not drawn.
    mask : bool array, shape (X, Y, Z)
    affine, path, title
        As in `save_map_picture`.

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
    check_shapes(counts, mask, "counts")
    grid = orient(counts.shape, affine)
    values, lined = finite(grid.turn(counts)), grid.turn(mask) != 0
    inside = (values > 0) | lined
    found = values[values > 0]
    low, high = (float(found.min()), float(found.max())) if found.size else (0.0, 1.0)
    low = low if low < high else 0.0
    layout = lay_out(grid, {axis: even_cuts(inside, axis, 4) for axis in grid.axes}, inside)

    def draw(figure: Any) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.collections import LineCollection
        from matplotlib.colors import Normalize

        heading(figure, title)
        norm = Normalize(low, high)
        for panel in layout.panels(figure, BAR_IN):
            show_grey(panel, grid, np.zeros(values.shape), (0.0, 1.0))
            pixels = np.ma.masked_equal(panel.take(values), 0.0)
            aspect = panel.ax.get_aspect()
            panel.ax.imshow(pixels, cmap="cividis", norm=norm, origin="lower", aspect=aspect, interpolation="nearest")
            edges = pixel_edges(panel.take(lined))
            panel.ax.add_collection(LineCollection(edges, colors="white", linewidths=0.9, zorder=4))
        bar = figure.colorbar(ScalarMappable(norm, "cividis"), cax=_bar_axes(figure), orientation="horizontal")
        bar.set_ticks([low, high], labels=[f"{low:.0f}", f"{high:.0f}"])
        text = "number of maps that have the voxel; white line: the voxels analysed"
        bar.set_label("; ".join(filter(None, [text, tilt_note(grid)])), fontsize=8)

    height = layout.height_in + BAR_IN + (HEADING_IN if title else 0)
    Path(path).write_bytes(render_png(draw, layout.width_in, height))
    return Path(path)


def diverging(threshold: float, largest: float) -> Any:
    """Blue below -threshold, orange above threshold, grey between."""
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    n = 512
    values = np.linspace(-largest, largest, n)
    span = max(largest - threshold, 1e-12)
    place = np.clip((np.abs(values) - threshold) / span, 0, 1)
    hot, cold = (LinearSegmentedColormap.from_list(name, ends) for name, ends in (("hot", HOT), ("cold", COLD)))
    colours = np.where(values[:, None] > 0, hot(place), cold(place))
    colours[np.abs(values) < threshold] = _GAP_GREY
    return ListedColormap(colours)


def colour_bar(figure: Any, scale: Scale, note: str = "") -> None:
    """Draw the bar of a scale, with the cut marked, into the `BAR_IN` inches at the bottom of a figure."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    threshold, largest = scale.threshold, scale.largest
    ax = _bar_axes(figure)
    painted = ScalarMappable(Normalize(-largest, largest), diverging(threshold, largest))
    bar = figure.colorbar(painted, cax=ax, orientation="horizontal")
    ax.set_xlim(scale.lowest, largest)
    cuts = {threshold, max(-threshold, scale.lowest)} if threshold < largest else set()
    near = 0.07 * (
        largest - scale.lowest
    )  # labels would overlap: the cut matters more than 0, the end more than the cut
    cuts = {place for place in cuts if largest - abs(place) > near}
    ends = {end for end in (scale.lowest, largest) if end or all(abs(end - place) > near for place in cuts)}
    places = sorted(cuts | ends)
    bar.set_ticks(places, labels=[f"{place + 0.0:.3g}" for place in places])  # no "-0"
    bars = "|value|" if scale.signed else "the value"
    text = f"shown where {bars} ≥ {threshold:.3g}" if threshold else "every value is shown"
    bar.set_label("; ".join(filter(None, [scale.note or text, note])), fontsize=8)


def _bar_axes(figure: Any) -> Any:
    height = figure.get_size_inches()[1]
    return figure.add_axes((0.2, (BAR_IN - 0.3) / height, 0.6, 0.16 / height))


def _largest(values: NDArray[np.float64], threshold: float) -> float:
    """End of the bar: beyond the threshold, so that there is a colour to see."""
    found = float(np.abs(values).max(initial=0.0))
    return max(found, 1.1 * threshold) if found else max(2 * threshold, 1.0)


def _span(inside: NDArray[np.bool_], axis: int) -> tuple[float, float]:
    """First and last edge of what is inside, and a little more."""
    filled = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
    return (float(filled[0]) - 1.5, float(filled[-1]) + 1.5) if len(filled) else (-0.5, inside.shape[axis] - 0.5)


def _project(ax: Any, values: NDArray[np.float64], inside: NDArray[np.bool_], axis: int, scale: Scale) -> None:
    from matplotlib.collections import LineCollection

    depth = inside.sum(axis=axis).T.astype(np.float64)
    shade = np.where(depth > 0, 0.3 + 0.7 * depth / max(depth.max(), 1), 0)
    ax.imshow(shade, cmap="Greys", origin="lower", vmin=0, vmax=5, interpolation="nearest")
    furthest = np.expand_dims(np.abs(values).argmax(axis=axis), axis)
    pixels = np.take_along_axis(values, furthest, axis=axis).squeeze(axis).T
    ax.imshow(
        np.ma.masked_equal(pixels, 0.0),
        cmap=diverging(scale.threshold, scale.largest),
        vmin=-scale.largest,
        vmax=scale.largest,
        origin="lower",
        interpolation="nearest",
    )
    ax.add_collection(LineCollection(pixel_edges(depth > 0), colors="#555555", linewidths=0.8, zorder=4))


def _tilted(grid: Oriented) -> str:
    return "seen along the axes of the image, which is tilted" if tilt_note(grid) else ""
