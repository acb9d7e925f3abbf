"""Pictures of parcels: voxel by voxel beside parcel by parcel, and the graph over the brain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import UsageError
from gpuroi.report.canvas import HEADING_IN, NEUTRAL, heading, render_png
from gpuroi.report.map_figures import BAR_IN, Scale, colour_bar, diverging
from gpuroi.report.slices import TILT_DEGREES, Oriented, best_cuts, even_cuts, lay_out, orient, show_grey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gpuroi.domains import ParcelGraph

__all__ = ["save_graph_picture", "save_threshold_picture"]

_CAPTION_IN = 0.34  # above each band of cuts
_VIEW_IN = 3.3  # width of a view of the graph
_VIEWS = (  # axis looked along, horizontal, vertical, name, its two sides
    (2, 0, 1, "from above", ("L", "R")),
    (0, 1, 2, "from the side", ("P", "A")),
    (1, 0, 2, "from behind", ("L", "R")),
)
_ADDED = "#CC79A7"
_FLAT_GREY = (0.0, 2.2)  # as the background of a map without an anatomical image
_MOST_NUMBERS = 40


def save_threshold_picture(
    bands: Sequence[tuple[str, NDArray[Any]]],
    labels: NDArray[Any],
    affine: NDArray[np.float64],
    path: Path,
    *,
    threshold: float = 0.0,
    title: str = "",
) -> Path:
    """Draw several versions of a map in the same cuts and colours, one below the other.

    Parameters
    ----------
    bands : sequence of (str, array of shape (X, Y, Z))
        What each shows, and its values; 0 and NaN are not drawn. The last one decides where to cut, or, if it is empty,
        the one before.
    labels : int array, shape (X, Y, Z)
        Parcels: the grey silhouette, and the outlines.
    affine : array, shape (4, 4)
        Voxel -> mm, RAS+.
    path : path
        The PNG file.
    threshold : float, default 0
        Marked on the colour bar.
    title : str

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    UsageError
        If the shapes differ.
    OutputError
        If matplotlib is not installed.
    """
    shapes = {np.shape(values) for _, values in bands} | {np.shape(labels)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise UsageError(f"maps and labels have shapes {sorted(shapes)}: all must be the same (X, Y, Z)")
    grid = orient(labels.shape, affine)
    turned = [(text, _drawn(grid.turn(np.asarray(values, np.float64)))) for text, values in bands]
    regions = grid.turn(np.asarray(labels))
    largest = max(float(np.abs(values).max(initial=0.0)) for _, values in turned) or max(2 * abs(threshold), 1.0)
    chosen: NDArray[Any] = next((v for _, v in reversed(turned) if v.any()), np.zeros(regions.shape))
    inside = regions > 0
    most = {2: 2, 1: 1, 0: 1}
    cuts = {
        axis: best_cuts(np.abs(chosen), axis, most[axis]) or even_cuts(inside, axis, most[axis]) for axis in grid.axes
    }
    layout = lay_out(grid, cuts, inside)
    band_in = layout.height_in + _CAPTION_IN

    def draw(figure: Any) -> None:
        heading(figure, title)
        colours = diverging(0.0, largest)
        width, height = figure.get_size_inches()
        for k, (text, values) in enumerate(turned):
            bottom = BAR_IN + (len(turned) - 1 - k) * band_in
            figure.text(0.12 / width, (bottom + layout.height_in + 0.1) / height, text, ha="left", fontsize=9.5)
            for panel in layout.panels(figure, bottom):
                show_grey(panel, grid, inside.astype(np.float64), _FLAT_GREY)
                panel.ax.imshow(
                    np.ma.masked_equal(panel.take(values), 0.0),
                    cmap=colours,
                    origin="lower",
                    vmin=-largest,
                    vmax=largest,
                    aspect=panel.ax.get_aspect(),
                    interpolation="nearest",
                )
                _outline(panel.ax, panel.take(regions))
        colour_bar(figure, Scale(0.0, largest), f"threshold {threshold:.3g}" if threshold else "")

    height = BAR_IN + len(turned) * band_in + (HEADING_IN if title else 0)
    Path(path).write_bytes(render_png(draw, layout.width_in, height))
    return Path(path)


def save_graph_picture(
    graph: ParcelGraph,
    labels: NDArray[Any],
    affine: NDArray[np.float64],
    path: Path,
    *,
    values: NDArray[np.float64] | None = None,
    kept: NDArray[np.bool_] | None = None,
    title: str = "",
) -> Path:
    """Draw a graph of parcels over the silhouette of the brain, from above, from the side and from behind.

    Parameters
    ----------
    graph : ParcelGraph
    labels : int array, shape (X, Y, Z)
        From which the graph was made; parcels stand at the centres of their voxels.
    affine : array, shape (4, 4)
        Voxel -> mm, RAS+.
    path : path
        The PNG file.
    values : float array, shape (v,), optional
        Colour of each parcel; grey without.
    kept : bool array, shape (v,), optional
        Parcels with a rim and, if there are up to 40, their number; edges between them are dark.
    title : str

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    UsageError
        If values or kept have another length than the graph.
    OutputError
        If matplotlib is not installed.

    Notes
    -----
    The area of a dot goes with the weight of its parcel. Edges that were added are dashed.
    """
    v = graph.n_elements
    for name, given in (("values", values), ("kept", kept)):
        if given is not None and np.shape(given) != (v,):
            raise UsageError(f"{name} have shape {np.shape(given)}, but the graph has {v} parcels")
    grid = orient(labels.shape, affine)
    regions = grid.turn(np.asarray(labels))
    centres = _centres(graph, regions)  # (v, 3), in voxels of the turned grid
    shown = np.zeros(v, bool) if kept is None else np.asarray(kept)
    numbers = np.nan_to_num(np.zeros(v) if values is None else np.asarray(values, np.float64))
    largest = float(np.abs(numbers).max(initial=0.0)) or 1.0
    occupied = [np.flatnonzero((regions > 0).any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    size_mm = [(len(one) and one[-1] - one[0] + 7) * zoom for one, zoom in zip(occupied, grid.zooms_mm, strict=True)]
    scale = _VIEW_IN / max(size_mm)
    height = max(size_mm[vertical] for _, _, vertical, _, _ in _VIEWS) * scale
    below = BAR_IN if values is not None else 0.35

    def draw(figure: Any) -> None:
        heading(figure, title)
        wide, high = figure.get_size_inches()
        left = 0.25
        for axis, horizontal, vertical, name, ends in _VIEWS:
            box = (size_mm[horizontal] * scale, size_mm[vertical] * scale)
            bottom = below + (height - box[1]) / 2
            ax = figure.add_axes((left / wide, bottom / high, box[0] / wide, box[1] / high))
            _silhouette(ax, regions, axis)
            aspect = grid.zooms_mm[vertical] / grid.zooms_mm[horizontal]
            _draw_graph(ax, graph, centres[:, [horizontal, vertical]], numbers, shown, largest)
            ax.set_xlim(occupied[horizontal][0] - 3.5, occupied[horizontal][-1] + 3.5)
            ax.set_ylim(occupied[vertical][0] - 3.5, occupied[vertical][-1] + 3.5)
            ax.set_aspect(aspect)
            ax.set_axis_off()
            ax.set_title(name, fontsize=8.5, loc="center")
            for at, letter in zip((0.0, 1.0), ends, strict=True):
                ax.text(at, 0.0, letter, transform=ax.transAxes, ha="center", va="bottom", fontsize=8)
            left += box[0] + 0.2
        if values is not None:
            colour_bar(figure, Scale(0.0, largest), _graph_note(graph, grid))
        else:
            figure.text(0.12 / wide, 0.1 / high, _graph_note(graph, grid), fontsize=8)

    width = sum(size_mm[horizontal] * scale + 0.2 for _, horizontal, _, _, _ in _VIEWS) + 0.4
    Path(path).write_bytes(render_png(draw, width, height + below + 0.35 + (HEADING_IN if title else 0)))
    return Path(path)


def _drawn(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _outline(ax: Any, pixels: NDArray[Any]) -> None:
    """Thin lines where one parcel ends and another begins."""
    from matplotlib.collections import LineCollection

    rows, columns = np.nonzero(pixels[1:] != pixels[:-1])
    lines = [((c - 0.5, r + 0.5), (c + 0.5, r + 0.5)) for r, c in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(pixels[:, 1:] != pixels[:, :-1])
    lines += [((c + 0.5, r - 0.5), (c + 0.5, r + 0.5)) for r, c in zip(rows, columns, strict=True)]
    ax.add_collection(LineCollection(lines, colors="#111111", linewidths=0.35, alpha=0.7, zorder=4))


def _centres(graph: ParcelGraph, regions: NDArray[Any]) -> NDArray[np.float64]:
    """Mean voxel of each parcel."""
    where = np.nonzero(regions)
    column = np.searchsorted(graph.ids, regions[where])
    counts = np.maximum(np.bincount(column, minlength=graph.n_elements), 1)
    sums = [np.bincount(column, weights=place, minlength=graph.n_elements) for place in where]
    return np.asarray(np.stack(sums, axis=1) / counts[:, None])


def _silhouette(ax: Any, regions: NDArray[Any], axis: int) -> None:
    """How much brain lies along each line of sight, in light grey."""
    depth = (regions > 0).sum(axis=axis).T.astype(np.float64)
    shade = np.where(depth > 0, 0.25 + 0.75 * depth / max(depth.max(), 1), 0)
    ax.imshow(shade, cmap="Greys", origin="lower", vmin=0, vmax=3.2, interpolation="nearest")


def _draw_graph(
    ax: Any,
    graph: ParcelGraph,
    places: NDArray[np.float64],
    values: NDArray[np.float64],
    kept: NDArray[np.bool_],
    largest: float,
) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

    ends = graph.index(graph.edges)  # (n_edges, 2)
    added = np.zeros(len(ends), bool) if graph.contact is None else graph.contact == 0
    sides = np.sign(values[ends])
    both = kept[ends].all(axis=1) & (sides[:, 0] == sides[:, 1])
    for chosen, colour, width, style in (
        (~both & ~added, NEUTRAL, 0.45, "solid"),
        (added, _ADDED, 0.7, "dashed"),
        (both & ~added, "black", 1.3, "solid"),
    ):
        ax.add_collection(LineCollection(places[ends[chosen]], colors=colour, linewidths=width, linestyles=style))
    weights = graph.weights / (graph.weights.max() or 1.0)
    size = np.clip(2600 / graph.n_elements, 5, 60) * (0.35 + 0.65 * weights)
    order = np.lexsort((np.abs(values), kept))  # what matters on top
    ax.scatter(
        *places[order].T,
        s=np.where(kept, 1.5 * size, size)[order],
        c=values[order],
        cmap=diverging(0.0, largest),
        vmin=-largest,
        vmax=largest,
        edgecolors=np.where(kept, "black", "#666666")[order].tolist(),
        linewidths=np.where(kept, 1.4, 0.3)[order],
        zorder=5,
    )
    for i in np.flatnonzero(kept) if kept.sum() <= _MOST_NUMBERS else ():
        ax.annotate(
            str(graph.ids[i]),
            tuple(places[i]),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=6.5,
            path_effects=[withStroke(linewidth=1.6, foreground="white")],
            zorder=6,
        )


def _graph_note(graph: ParcelGraph, grid: Oriented) -> str:
    added = 0 if graph.contact is None else int((graph.contact == 0).sum())
    text = f"{graph.n_elements} parcels, {len(graph.edges)} edges"
    text += f", {added} of them added (dashed)" if added else ""
    tilted = grid.tilt_degrees > TILT_DEGREES
    return text + (f"; the image is tilted by {grid.tilt_degrees:.0f}°" if tilted else "")
