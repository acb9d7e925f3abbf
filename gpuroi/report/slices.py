"""Cuts through a volume: which ones to show, and how to lay them out with left and right marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = [
    "TILT_DEGREES",
    "Cut",
    "Layout",
    "Oriented",
    "Panel",
    "best_cuts",
    "check_shapes",
    "covering_cuts",
    "even_cuts",
    "finite",
    "grey_limits",
    "lay_out",
    "orient",
    "pixel_edges",
    "show_grey",
    "tilt_note",
    "visible",
]

TILT_DEGREES = 2.0  # from here on a slice is not told by one coordinate

_TITLE_IN = 0.26  # above each row
_TALLEST_IN = 14.0  # of all rows together
_PLANES = ("sagittal", "coronal", "axial")  # by the axis that is cut: x, y, z
_ENDS = (("P", "A"), ("L", "R"), ("L", "R"))  # left and right end of the horizontal axis of each plane


@dataclass(frozen=True)
class Cut:
    """One slice: the axis it is cut across (0 x, 1 y, 2 z) and its index along it."""

    axis: int
    index: int


@dataclass(frozen=True)
class Oriented:
    """The grid of volumes turned, without resampling, to the axes nearest to R, A, S."""

    affine: NDArray[np.float64]  # (4, 4), of the turned grid
    shape: tuple[int, int, int]
    orientation: NDArray[np.float64]  # (3, 2), as nibabel's

    def turn(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return the volume with its axes in the new order and direction."""
        from nibabel import orientations

        nibabel: Any = orientations
        return np.asarray(nibabel.apply_orientation(volume, self.orientation))

    @property
    def zooms_mm(self) -> NDArray[np.float64]:
        """Voxel size along the turned axes."""
        return np.asarray(np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))

    @property
    def tilt_degrees(self) -> float:
        """Largest angle between an axis of the image and the scanner's axis nearest to it."""
        cosines = np.abs(np.diag(self.affine[:3, :3])) / self.zooms_mm
        return float(np.degrees(np.arccos(np.clip(cosines.min(), 0, 1))))

    @property
    def axes(self) -> list[int]:
        """Axes that can be cut: all three, or of a single slice the one across it."""
        return [axis for axis in (2, 1, 0) if all(self.shape[other] > 1 for other in range(3) if other != axis)] or [2]

    def name(self, cut: Cut) -> str:
        """Return what to write above a cut: its coordinate in mm, or its number if the image is tilted."""
        plane = _PLANES[cut.axis]
        if self.tilt_degrees > TILT_DEGREES:
            return f"{plane}, slice {cut.index}"
        mm = self.affine[cut.axis, 3] + self.affine[cut.axis, cut.axis] * cut.index
        return f"{plane}, {'xyz'[cut.axis]} = {mm:.0f} mm"


@dataclass(frozen=True)
class Panel:
    """Axes that show one cut, cropped. `take` gives the pixels of a turned volume, the rest is in pixel units."""

    ax: Any
    cut: Cut
    window: tuple[slice, slice, slice]

    def take(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return the pixels, (vertical, horizontal), the first row at the bottom."""
        return np.asarray(np.take(volume[self.window], 0, axis=self.cut.axis)).T


@dataclass(frozen=True)
class Layout:
    """Where each cut goes. Computed here: matplotlib's own layout engines differ in the last bit from run to run."""

    grid: Oriented
    rows: list[list[Cut]]
    window: tuple[slice, slice, slice]
    inches_per_mm: float
    width_in: float
    height_in: float

    def panels(self, figure: Any, bottom_in: float) -> Iterator[Panel]:
        """Make a panel per cut on a black band across the figure, `bottom_in` above its lower edge."""
        from matplotlib.patches import Rectangle

        width, height = figure.get_size_inches()
        band = (0.0, bottom_in / height), 1.0, self.height_in / height
        figure.add_artist(Rectangle(*band, transform=figure.transFigure, facecolor="black", zorder=-1))
        top = bottom_in + self.height_in
        for row in self.rows:
            sizes = [np.multiply(_size_mm(cut, self.grid, self.window), self.inches_per_mm) for cut in row]
            gap = (width - sum(size[0] for size in sizes)) / (len(row) + 1)
            tallest = max(size[1] for size in sizes)
            middle, left = top - _TITLE_IN - tallest / 2, gap
            for cut, (wide, high) in zip(row, sizes, strict=True):
                ax = figure.add_axes((left / width, (middle - high / 2) / height, wide / width, high / height))
                _mark(ax, self.grid, cut)
                across = list(self.window)
                across[cut.axis] = slice(cut.index, cut.index + 1)
                yield Panel(ax, cut, (across[0], across[1], across[2]))
                left += wide + gap
            top -= _TITLE_IN + tallest


def orient(shape: tuple[int, ...], affine: NDArray[np.float64]) -> Oriented:
    """Find the turned grid of an image.

    Parameters
    ----------
    shape : (X, Y, Z)
    affine : array, shape (4, 4)
        Voxel -> mm, RAS+.

    Returns
    -------
    Oriented
    """
    from nibabel import orientations

    nibabel: Any = orientations
    orientation = nibabel.io_orientation(affine)
    turned_shape = [0, 0, 0]
    for axis, (to, _) in enumerate(orientation):
        turned_shape[int(to)] = int(shape[axis])
    turned = np.asarray(affine, dtype=np.float64) @ nibabel.inv_ornt_aff(orientation, shape)
    return Oriented(turned, (turned_shape[0], turned_shape[1], turned_shape[2]), orientation)


def covering_cuts(labels: NDArray[Any], axis: int, most: int) -> list[int]:
    """Choose slices along one axis so that as many regions as can be are seen near their widest.

    Parameters
    ----------
    labels : int array, shape (X, Y, Z)
        0 outside.
    axis : {0, 1, 2}
    most : int
        Number of slices that there is room for.

    Returns
    -------
    list of int
        Ascending; fewer than `most` if fewer show everything; empty if there is no region.
    """
    ids, numbers = np.unique(labels[labels > 0], return_inverse=True)
    along = np.nonzero(labels > 0)[axis]
    n = labels.shape[axis]
    counts = np.bincount(numbers * n + along, minlength=len(ids) * n).reshape(len(ids), n)
    share = counts / counts.max(axis=1, keepdims=True, initial=1)
    chosen: list[int] = []
    unseen = np.ones(len(ids), dtype=bool)
    while unseen.any() and len(chosen) < most:
        chosen.append(int(share[unseen].sum(axis=0).argmax()))
        unseen &= share[:, chosen[-1]] < 0.4
    return sorted(chosen)


def best_cuts(weight: NDArray[Any], axis: int, most: int) -> list[int]:
    """Choose slices along one axis that hold most of a non-negative weight, apart from each other.

    Returns
    -------
    list of int
        Ascending; empty if there is no weight.
    """
    profile = weight.sum(axis=tuple(other for other in range(3) if other != axis), dtype=np.float64)
    apart = max(1, len(profile) // 10)
    chosen: list[int] = []
    while len(chosen) < most and profile.max(initial=0.0) > 0:
        best = int(profile.argmax())
        chosen.append(best)
        profile[max(0, best - apart) : best + apart + 1] = 0
    return sorted(chosen)


def even_cuts(inside: NDArray[np.bool_], axis: int, most: int) -> list[int]:
    """Choose slices evenly through what is inside, or through the volume if nothing is."""
    filled = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
    first, last = (filled[0], filled[-1]) if len(filled) else (0, inside.shape[axis] - 1)
    parts = np.linspace(first, last, most + 2)[1:-1]
    return sorted({round(float(part)) for part in parts})


def lay_out(grid: Oriented, cuts: dict[int, list[int]], inside: NDArray[np.bool_]) -> Layout:
    """Place the cuts: one plane a row, and more where there is room; all cropped to `inside`, on one scale.

    Parameters
    ----------
    grid : Oriented
    cuts : dict of axis to slice indices
    inside : bool array, shape of the turned grid

    Returns
    -------
    Layout
    """
    window = _bounding_box(inside)
    rows = _rows(grid, cuts, window)
    widths = [sum(_size_mm(cut, grid, window)[0] for cut in row) for row in rows]
    heights = [max(_size_mm(cut, grid, window)[1] for cut in row) for row in rows]
    width_in = float(np.clip(max(widths) / 45, 4.5, 10.5))
    scale = min((width_in - 0.2) / max(widths), _TALLEST_IN / sum(heights))  # inches per mm
    return Layout(grid, rows, window, scale, width_in, sum(heights) * scale + _TITLE_IN * len(rows) + 0.1)


def check_shapes(data: NDArray[Any], background: NDArray[Any], name: str) -> None:
    """Refuse what is not three-dimensional, or a background of another shape."""
    if np.ndim(data) != 3 or np.shape(data) != np.shape(background):
        raise UsageError(
            f"{name} has shape {np.shape(data)} and background {np.shape(background)}: both must be the same (X, Y, Z)"
        )


def finite(image: NDArray[Any]) -> NDArray[np.float64]:
    """Return an image with 0 where a value is missing or infinite."""
    return np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def visible(grey: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where the background is more than the noise around a head."""
    return np.asarray(grey > 0.15 * np.percentile(grey, 99)) if grey.any() else np.zeros(grey.shape, dtype=bool)


def grey_limits(grey: NDArray[np.float64]) -> tuple[float, float]:
    """What is drawn black, and what white."""
    inside = grey[visible(grey)]
    if not inside.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(inside, (2, 99.5)))
    if low == high:
        return 0.0, 2.2 * high  # a flat silhouette: mid grey, so that bright and dark colours stand out
    return min(0.0, low), high


def pixel_edges(inside: NDArray[np.bool_]) -> list[Any]:
    """Line segments ((x, y), (x, y)) along the border of a pixel mask."""
    padded = np.pad(inside, 1)
    rows, columns = np.nonzero(padded[1:] != padded[:-1])  # a border below padded row r + 1 is at y = r - 0.5
    horizontal = [((c - 1.5, r - 0.5), (c - 0.5, r - 0.5)) for r, c in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(padded[:, 1:] != padded[:, :-1])
    return horizontal + [((c - 0.5, r - 1.5), (c - 0.5, r - 0.5)) for r, c in zip(rows, columns, strict=True)]


def tilt_note(grid: Oriented) -> str:
    """Say that an image is oblique; "" if it is not."""
    if grid.tilt_degrees <= TILT_DEGREES:
        return ""
    return f"the image is tilted by {grid.tilt_degrees:.0f}°: cuts along its own axes, L, R, A, P are the nearest sides"


def show_grey(panel: Panel, grid: Oriented, background: NDArray[Any], limits: tuple[float, float]) -> None:
    """Show the background of a panel; pixels keep their size in mm."""
    horizontal, vertical = _in_plane(panel.cut.axis)
    aspect = grid.zooms_mm[vertical] / grid.zooms_mm[horizontal]
    panel.ax.imshow(
        panel.take(background),
        cmap="gray",
        origin="lower",
        vmin=limits[0],
        vmax=limits[1],
        aspect=aspect,
        interpolation="nearest",
    )


def _in_plane(axis: int) -> tuple[int, int]:
    return ((1, 2), (0, 2), (0, 1))[axis]


def _rows(grid: Oriented, cuts: dict[int, list[int]], window: tuple[slice, slice, slice]) -> list[list[Cut]]:
    """Put the cuts of a plane side by side, and after each other those of planes that fit into one row."""
    planes = [[Cut(axis, index) for index in cuts[axis]] for axis in cuts]
    widths = [sum(_size_mm(cut, grid, window)[0] for cut in plane) for plane in planes]
    extent = max(size * zoom for size, zoom in zip(grid.shape, grid.zooms_mm, strict=True))
    room = max(*widths, 3 * extent, 0.0)
    rows: list[list[Cut]] = []
    used = room
    for plane, width in zip(planes, widths, strict=True):
        if used + width > room:
            rows.append([])
            used = 0.0
        rows[-1].extend(plane)
        used += width
    return rows


def _size_mm(cut: Cut, grid: Oriented, window: tuple[slice, slice, slice]) -> tuple[float, float]:
    sizes = [float((part.stop - part.start) * zoom) for part, zoom in zip(window, grid.zooms_mm, strict=True)]
    horizontal, vertical = _in_plane(cut.axis)
    return sizes[horizontal], sizes[vertical]


def _bounding_box(inside: NDArray[np.bool_], margin: int = 2) -> tuple[slice, slice, slice]:
    found = np.nonzero(inside)
    parts = [
        slice(max(0, int(where.min()) - margin), min(n, int(where.max()) + margin + 1)) if len(where) else slice(0, n)
        for where, n in zip(found, inside.shape, strict=True)
    ]
    return parts[0], parts[1], parts[2]


def _mark(ax: Any, grid: Oriented, cut: Cut) -> None:
    """Write the cut above the panel and its two ends into the lower corners, which are seldom brain."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_facecolor("black")
    ax.spines[:].set_visible(False)
    ax.set_title(grid.name(cut), color="white", fontsize=8, loc="center")
    for at, align, letter in zip((0.01, 0.99), ("left", "right"), _ENDS[cut.axis], strict=True):
        ax.text(at, 0.02, letter, transform=ax.transAxes, ha=align, va="bottom", color="white", fontsize=8, zorder=9)
