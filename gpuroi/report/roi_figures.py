"""Pictures of regions, and of the signal of each region per condition."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import DataError
from gpuroi.report.canvas import HEADING_IN, HIGHLIGHTS, NEUTRAL, heading, render_png
from gpuroi.report.slices import (
    Oriented,
    Panel,
    check_shapes,
    covering_cuts,
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
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

__all__ = [
    "region_colour",
    "save_boxplots",
    "save_regions_picture",
]

# Okabe and Ito's palette, told apart with any colour vision (https://jfly.uni-koeln.de/color/), then Tol's "muted".
# Beyond thirteen regions colours come again: the numbers in the picture tell the regions apart.
_REGION_COLOURS = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2",
    "#88CCEE", "#CC6677", "#DDCC77", "#44AA99", "#AA4499", "#999933",
)  # fmt: skip
_LEGEND_ENTRY_IN = 1.1
_MOST_CUTS = 5
_MOST_IN_LEGEND = 26  # twice the colours; beyond, the numbers in the picture say more
_MOST_SINGLE_PLOTS = 12  # with more regions the box plots go onto pages
_MOST_LEVEL_NAMES = 6  # with more conditions their names are tilted
_MOST_POINTS = 150  # per box; beyond, points hide the box


def region_colour(number: int) -> str:
    """Return the colour, as `#rrggbb`, of the region with this position (from 0) among the sorted ids."""
    return _REGION_COLOURS[number % len(_REGION_COLOURS)]


def save_boxplots(signals: pd.DataFrame, folder: Path, *, conditions: Sequence[str] | None = None) -> list[Path]:
    """Draw the signal of each region as one box per condition.

    Parameters
    ----------
    signals : DataFrame
        Columns `run`, `volume`, `condition`, and one `region-<id>` per region. Rows without a condition are left out.
    folder : path
        Must exist. Gets `region-<id>_boxplot.png` for up to 12 regions, else `regions-page-<k>_boxplot.png`.
    conditions : sequence of str, optional
        The conditions that were contrasted: they come first and in colour.

    Returns
    -------
    list of Path
        Empty if there is no region.

    Raises
    ------
    DataError
        If `signals` has no `condition` column, or a contrasted condition does not occur.
    OutputError
        If matplotlib is not installed.

    Notes
    -----
    A box spans the quartiles, its line is the median, whiskers reach the last value within 1.5 interquartile ranges.
    """
    if "condition" not in signals.columns:
        raise DataError(f'signals have no column "condition", only {", ".join(map(str, signals.columns))}')
    rows = signals[signals["condition"].notna()]
    regions = [str(name) for name in signals.columns if str(name).startswith("region-")]
    order = _condition_order(list(rows["condition"].astype(str)), conditions or ())
    highlighted = dict(zip(conditions or (), HIGHLIGHTS, strict=False))
    if len(regions) <= _MOST_SINGLE_PLOTS:
        pages = {f"{name}_boxplot.png": [name] for name in regions}
    else:
        starts = range(0, len(regions), _MOST_SINGLE_PLOTS)
        pages = {
            f"regions-page-{page:02d}_boxplot.png": regions[start : start + _MOST_SINGLE_PLOTS]
            for page, start in enumerate(starts, 1)
        }
    below = 0.45 if len(order) <= _MOST_LEVEL_NAMES else 0.85  # inches for the names of the conditions
    files = []
    for name, shown in pages.items():
        columns = min(3, len(shown))
        lines = -(-len(shown) // columns)

        def draw(figure: Any, shown: list[str] = shown, lines: int = lines, columns: int = columns) -> None:
            width, height = figure.get_size_inches()
            wide, high = width / columns, height / lines
            for k, region in enumerate(shown):
                left, bottom = wide * (k % columns) + 0.75, high * (lines - 1 - k // columns) + below
                size = (wide - 0.85) / width, (high - below - 0.3) / height
                ax = figure.add_axes((left / width, bottom / height, *size))
                _boxes(ax, rows, region, order, highlighted)

        width = max(3.6, 0.75 * len(order) + 1.0)
        path = Path(folder) / name
        path.write_bytes(render_png(draw, width if columns == 1 else min(4.2, width) * columns, (2.6 + below) * lines))
        files.append(path)
    return files


def save_regions_picture(
    atlas: NDArray[Any],
    background: NDArray[Any],
    affine: NDArray[np.float64],
    path: Path,
    *,
    title: str = "",
    noun: str = "region",
) -> Path:
    """Draw regions in colours of their own over an image, in cuts that show as many of them as can be.

    Parameters
    ----------
    atlas : int array, shape (X, Y, Z)
        Region ids, 0 outside.
    background : array, shape (X, Y, Z)
        Such as the mean of the run.
    affine : array, shape (4, 4)
        Voxel -> mm, RAS+. Nothing is resampled: cuts of an oblique image are cuts along its own axes, and say so.
    path : path
        The PNG file.
    title : str
    noun : str, default "region"
        What the legend calls them.

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
    check_shapes(atlas, background, "atlas")
    grid = orient(atlas.shape, affine)
    labels, grey = grid.turn(np.asarray(atlas)), finite(grid.turn(background))
    ids = [int(i) for i in np.unique(labels[labels > 0])]
    inside = visible(grey) | (labels > 0)
    cuts = {axis: covering_cuts(labels, axis, _MOST_CUTS) or even_cuts(inside, axis, 1) for axis in grid.axes}
    layout = lay_out(grid, cuts, inside)
    columns = max(1, int(layout.width_in / _LEGEND_ENTRY_IN))
    legend = 0.32 + (0.2 * -(-len(ids) // columns) if len(ids) <= _MOST_IN_LEGEND else 0)

    def draw(figure: Any) -> None:
        heading(figure, title)
        seen = set()
        for panel in layout.panels(figure, legend):
            show_grey(panel, grid, grey, grey_limits(grey))
            seen |= _overlay_regions(panel, labels, ids)
        _region_legend(figure, legend, columns, ids, len(seen), grid, noun)

    height = layout.height_in + legend + (HEADING_IN if title else 0)
    Path(path).write_bytes(render_png(draw, layout.width_in, height))
    return Path(path)


def _condition_order(found: list[str], contrasted: Sequence[str]) -> list[str]:
    """Contrasted conditions first, then the others by name, rest last."""
    missing = [name for name in contrasted if name not in found]
    if missing:
        raise DataError(f"signals have no volume of {', '.join(missing)}; they have {', '.join(sorted(set(found)))}")
    others = sorted(set(found) - set(contrasted), key=lambda name: (name.lower() == "rest", name))
    return [*contrasted, *others]


def _boxes(ax: Any, rows: pd.DataFrame, region: str, order: list[str], highlighted: dict[str, str]) -> None:
    groups = []
    for condition in order:
        column = rows.loc[rows["condition"].astype(str) == condition, region].to_numpy(dtype=np.float64)
        groups.append(column[np.isfinite(column)])
    places = np.arange(1, len(order) + 1)
    parts = ax.boxplot(
        groups,
        positions=places,
        widths=0.62,
        patch_artist=True,
        showfliers=max(map(len, groups), default=0) > _MOST_POINTS,
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": "#444444"},
        medianprops={"color": "black", "linewidth": 1.6},
    )
    for place, condition, box, values in zip(places, order, parts["boxes"], groups, strict=True):
        colour = highlighted.get(condition, NEUTRAL)
        box.set(facecolor=colour, alpha=0.55 if condition in highlighted else 0.3, edgecolor="#333333")
        if len(values) <= _MOST_POINTS:
            # Golden-ratio steps spread the points evenly, and alike each time.
            spread = (np.arange(len(values)) * 0.6180339887 % 1 - 0.5) * 0.42
            ax.plot(place + spread, values, ".", color=colour, markersize=3.2, alpha=0.75, zorder=3)
    names = [f"{_shortened(name, 14)}\nn = {len(values)}" for name, values in zip(order, groups, strict=True)]
    tilted = len(order) > _MOST_LEVEL_NAMES
    ax.set_xticks(places, names, rotation=35 if tilted else 0, ha="right" if tilted else "center", fontsize=8)
    for tick, condition in zip(ax.get_xticklabels(), order, strict=True):
        tick.set_fontweight("bold" if condition in highlighted else "normal")
    ax.set_title(region.replace("-", " "))
    ax.set_ylabel("mean signal of the region")
    ax.grid(axis="y", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _overlay_regions(panel: Panel, labels: NDArray[Any], ids: list[int]) -> set[int]:
    """Fill and outline the regions in a cut, write their ids, and return the ids seen."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patheffects import withStroke

    pixels = panel.take(labels)
    seen = [i for i in ids if (pixels == i).any()]
    fill = np.zeros((*pixels.shape, 4))
    for i in seen:
        inside = pixels == i
        colour = region_colour(ids.index(i))
        fill[inside] = to_rgba(colour, 0.5)
        panel.ax.add_collection(LineCollection(pixel_edges(inside), colors=colour, linewidths=1.3, zorder=4))
    panel.ax.imshow(fill, origin="lower", aspect=panel.ax.get_aspect(), interpolation="nearest", zorder=3)
    outline = [withStroke(linewidth=1.8, foreground="black")]
    for i in seen:
        row, column, above = _place_of_number(pixels == i)
        panel.ax.annotate(
            str(i),
            (column, row),
            xytext=(0, 1 if above else 0),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "center",
            color="white",
            fontsize=7.5,
            path_effects=outline,
            zorder=8,
        )
    return set(seen)


def _place_of_number(inside: NDArray[np.bool_]) -> tuple[float, float, bool]:
    """Row and column of the pixel deepest inside the mask; the middle of its upper edge, and True, if it is small."""
    from scipy.ndimage import distance_transform_edt

    where = np.argwhere(inside)
    middle = where.mean(axis=0)
    if len(where) < 12:  # the number would hide it
        return float(where[:, 0].max() + 0.5), float(middle[1]), True
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    deepest = np.argwhere(depth == depth.max())
    row, column = deepest[((deepest - middle) ** 2).sum(axis=1).argmin()]
    return float(row), float(column), False


def _region_legend(
    figure: Any, height_in: float, columns: int, ids: list[int], n_seen: int, grid: Oriented, noun: str
) -> None:
    from matplotlib.patches import Patch

    notes = [
        f"{len(ids)} {noun}{'s' * (len(ids) != 1)}" if ids else f"no {noun} was found",
        f"{n_seen} of them in these cuts" if n_seen < len(ids) else "",
        f"colours repeat after {len(_REGION_COLOURS)}" if len(ids) > len(_REGION_COLOURS) else "",
        tilt_note(grid),
    ]
    width, height = figure.get_size_inches()
    left = 0.12 / width
    figure.text(left, (height_in - 0.08) / height, "; ".join(filter(None, notes)), ha="left", va="top", fontsize=8.5)
    if 0 < len(ids) <= _MOST_IN_LEGEND:
        patches = [Patch(color=region_colour(n), label=f"{noun} {i}") for n, i in enumerate(ids)]
        figure.legend(
            handles=patches,
            loc="lower left",
            bbox_to_anchor=(left, 0.03 / height),
            borderaxespad=0,
            borderpad=0,
            ncols=min(columns, len(patches)),
            frameon=False,
            fontsize=8,
        )
