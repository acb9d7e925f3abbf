"""A table of regions: their sizes, peaks and sub-peaks, centres, masses, and where they lie in an atlas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import UsageError
from gpuroi.images.atlas_labels import Atlas, on_grid, overlap_texts, read_atlas
from gpuroi.images.find_peaks import spaced_peaks
from gpuroi.images.grid import check_same_grid, voxel_to_mm, voxel_volume_mm3
from gpuroi.images.read import open_image
from gpuroi.images.region_voxels import RegionVoxels

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

__all__ = ["region_table"]


def region_table(
    labels: Any,
    stat: Any,
    affine: ArrayLike | None = None,
    *,
    n_sub_peaks: int = 0,
    min_distance_mm: float = 8.0,
    mass: bool = False,
    sign: bool = False,
    atlas: Any = None,
) -> pd.DataFrame:
    """Describe every region of a label image by its size, its peaks and its centre.

    Parameters
    ----------
    labels : int array, shape (X, Y, Z), or label image
        0 outside. Ids may have gaps.
    stat : array, shape (X, Y, Z), or image
        The map in which the peaks are sought, on the grid of the labels.
    affine : array, shape (4, 4), optional
        Needed where `labels` are an array.
    n_sub_peaks : int, default 0
        At most so many sub-peaks for each region, in rows below that of the region.
    min_distance_mm : float, default 8.0
        Between any two peaks of one region, at least.
    mass, sign : bool, default False
        Add the columns `mass` and `sign`.
    atlas : Atlas, path, nibabel image, or (image, names), optional
        Adds the columns `peak_label` and `labels`. On the grid of the labels: resample it first, explicitly.

    Returns
    -------
    pandas.DataFrame
        One row a region, ids ascending:

        * `id`, `voxels` (int64), `mm3`,
        * `peak_x`, `peak_y`, `peak_z` (mm; the voxel of the largest |stat|, of several the first in C order) and
          `peak_stat` (with its sign),
        * `center_x`, `center_y`, `center_z` (mm; the unweighted centre of mass, which may lie outside a curved region),
        * `mass`: the sum of |stat|, in float64 and in C order, so that it is the same each time; without NaN,
        * `sign`: 1 or -1, that of the peak; 0 where the peak is 0 or missing,
        * `peak_label`: name of the atlas label at the peak, and `labels`: the parts of the region, such as "Precentral
          Gyrus 61 %; Postcentral Gyrus 30 %; n/a 9 %"; "n/a" is outside the atlas.

        Where sub-peaks are asked for there is a column `peak` after `id`: 1 in the row of a region, 2, 3, ... in those
        of its sub-peaks, in which `voxels` (then Int64), `mm3`, the centre, `mass` and `labels` are missing. Without
        regions the table is empty, with the same columns and types.

    Raises
    ------
    UsageError
        If the shapes differ, a label is negative, `n_sub_peaks` or the distance is.
    GridError
        If the atlas, or `stat` as an image, lies on another grid than the labels; the message names both.

    Notes
    -----
    NaN is never a peak. A region where all is NaN has a peak of NaN at NaN. Sub-peaks are the local maxima of
    `region_peaks`. Sizes are voxels times |det| of the affine, which holds for oblique grids too.

    Examples
    --------
    >>> labels = np.array([[[1, 1, 0, 2]]])
    >>> table = region_table(labels, np.array([[[2.0, -5.0, 9.0, np.nan]]]), np.diag([2, 2, 2, 1]))
    >>> table[["id", "voxels", "mm3", "peak_z", "peak_stat", "center_z"]].values.tolist()
    [[1.0, 2.0, 16.0, 2.0, -5.0, 1.0], [2.0, 1.0, 8.0, nan, nan, 6.0]]
    """
    import pandas as pd

    if n_sub_peaks < 0:
        raise UsageError(f"n_sub_peaks is {n_sub_peaks}", "ask for none (0) or more")
    label_ids, grid = on_grid(labels, affine)
    values = _on_grid_of(stat, grid)
    known = _known(atlas, grid)
    voxels = RegionVoxels(label_ids)
    inside = voxels.values(values).astype(np.float64)  # (v,)
    region, rank, peaks = _rows(voxels, inside, grid.affine, 1 + n_sub_peaks, min_distance_mm)
    is_main, has_peak = rank == 1, peaks >= 0
    peak_stat = np.where(has_peak, inside[peaks], np.nan)
    peak_mm = np.where(has_peak[:, None], voxel_to_mm(grid.affine, voxels.ijk[peaks]), np.nan)
    center_mm = voxel_to_mm(grid.affine, _sums(voxels, voxels.ijk) / voxels.sizes[:, None])

    def in_main(of_regions: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        return np.where(is_main, of_regions[region], np.nan)

    columns: dict[str, Any] = {"id": voxels.ids[region]}
    if n_sub_peaks:
        columns["peak"] = rank.astype(np.int64)
    columns["voxels"] = voxels.sizes[region]
    columns["mm3"] = in_main(voxels.sizes * voxel_volume_mm3(grid.affine))
    columns |= {f"peak_{axis}": peak_mm[:, i] for i, axis in enumerate("xyz")}
    columns["peak_stat"] = peak_stat
    columns |= {f"center_{axis}": in_main(center_mm[:, i]) for i, axis in enumerate("xyz")}
    if mass:
        columns["mass"] = in_main(_sums(voxels, np.abs(np.where(np.isnan(inside), 0.0, inside))[:, None])[:, 0])
    if sign:
        columns["sign"] = np.sign(np.where(np.isnan(peak_stat), 0.0, peak_stat)).astype(np.int64)
    if known is not None:
        columns["peak_label"] = _labels_at(voxels, peaks, known)
        texts = overlap_texts(voxels, known)
        columns["labels"] = [texts[r] if main else None for r, main in zip(region, is_main, strict=True)]
    table = pd.DataFrame(columns)
    if n_sub_peaks:
        table["voxels"] = table["voxels"].astype("Int64").where(is_main)
    if known is not None:  # without rows pandas would not know that these are texts
        table = table.astype({"peak_label": object, "labels": object})
    return table


def _on_grid_of(stat: Any, grid: Any) -> NDArray[Any]:
    if isinstance(stat, np.ndarray):
        return stat
    image = open_image(stat)
    check_same_grid([image], reference=grid)
    return image.read_one(dtype=np.float64)


def _known(atlas: Any, grid: Any) -> Atlas | None:
    if atlas is None:
        return None
    known = read_atlas(*atlas) if isinstance(atlas, tuple) else read_atlas(atlas)
    check_same_grid([known], reference=grid)
    return known


def _rows(
    voxels: RegionVoxels, inside: NDArray[np.float64], affine: ArrayLike, n_peaks: int, min_distance_mm: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return region, rank and list index of each peak; regions without one have a row too, with -1."""
    peaks, rank = spaced_peaks(voxels, inside, affine, n_peaks=n_peaks, min_distance_mm=min_distance_mm)
    region = voxels.region[peaks]
    without = np.setdiff1d(np.arange(len(voxels.ids)), region)
    region = np.concatenate([region, without])
    rank = np.concatenate([rank, np.ones_like(without)])
    order = np.lexsort((rank, region))
    return region[order], rank[order], np.concatenate([peaks, np.full_like(without, -1)])[order]


def _sums(voxels: RegionVoxels, values: NDArray[Any]) -> NDArray[np.float64]:
    """Sum each column of (v, k) over the regions, voxel after voxel: the same bits each time."""
    sums = [np.bincount(voxels.region, weights=column, minlength=len(voxels.ids)) for column in values.T]
    return np.stack(sums, axis=1)


def _labels_at(voxels: RegionVoxels, peaks: NDArray[np.intp], atlas: Atlas) -> list[str | None]:
    numbers = atlas.labels.ravel()[voxels.place[peaks]]
    names = zip(numbers.tolist(), peaks.tolist(), strict=True)
    return [atlas.names.name(number) if peak >= 0 else None for number, peak in names]
