"""From parcels that stand out to the voxels inside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends import backend_of
from gpuroi.domains import VoxelGrid
from gpuroi.domains.domain import on_host
from gpuroi.errors import DataError
from gpuroi.parcels.values import named_ids

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from gpuroi.inference.result import PermutationResult

__all__ = ["ParcelVoxels", "describe_voxels", "voxel_inference"]


@dataclass(frozen=True)
class ParcelVoxels:
    """Voxels of some parcels.

    Attributes
    ----------
    table : DataFrame
        One row a parcel: `id`, `voxels`, `mm3`, `mean`, `sd`, `least`, `largest`, `peak_stat` (of the largest
        ``abs(value)``), `peak_x`, `peak_y`, `peak_z` (mm), and with a threshold `above`, `below`: voxels with a value
        over it, and under minus it.
    voxels : DataFrame
        One row a voxel: `id`, `i`, `j`, `k`, `x`, `y`, `z` (mm), `value`; by parcel, the largest ``abs(value)`` first.
    """

    table: pd.DataFrame
    voxels: pd.DataFrame


def describe_voxels(
    stat: Any, labels: Any, ids: Any, affine: ArrayLike | None = None, *, threshold: float | None = None
) -> ParcelVoxels:
    """Describe the voxels of parcels in a map.

    Parameters
    ----------
    stat : array, shape (X, Y, Z)
        NumPy or CuPy; only the voxels of these parcels are copied to the host. NaN is left out and comes last.
    labels : integer array, shape (X, Y, Z)
    ids : sequence of int
        Parcels, such as `result.kept`; the rows come in this order.
    affine : array, shape (4, 4), optional
        Voxel indices to mm. Without it a voxel is one mm3, and places are indices.
    threshold : float, optional

    Returns
    -------
    ParcelVoxels

    Raises
    ------
    DataError
        Shapes that differ; ids that are no label, all of them named.

    Notes
    -----
    The parcels were chosen by the same data: a p-value of a voxel in a chosen parcel is no test of it.
    `voxel_inference` gives familywise p-values over the voxels of parcels that were chosen elsewhere.

    Examples
    --------
    >>> found = describe_voxels(np.array([[[1.0, 3.0, -5.0]]]), np.array([[[7, 7, 9]]]), [7])
    >>> found.table[["id", "voxels", "mean", "peak_stat", "peak_z"]].values.tolist()
    [[7.0, 2.0, 2.0, 3.0, 1.0]]
    """
    import pandas as pd

    from gpuroi.images.grid import voxel_to_mm, voxel_volume_mm3

    wanted = named_ids(ids, "ids")
    backend = backend_of(stat)
    if tuple(np.shape(labels)) != tuple(stat.shape) or len(stat.shape) != 3:
        raise DataError(
            f"labels have shape {tuple(np.shape(labels))}, the map {tuple(stat.shape)}: expected one grid (X, Y, Z)",
            "bring the labels onto the grid of the map",
        )
    regions = on_host(labels)
    inside = np.flatnonzero(np.isin(regions, wanted))
    parcel = regions.reshape(-1)[inside].astype(np.int64)
    _refuse_absent(wanted, parcel)
    if backend.owns(stat):
        with backend.activate():
            values = backend.to_numpy(stat.reshape(-1)[backend.asarray(inside)])  # sync: these voxels
    else:
        values = np.asarray(stat).reshape(-1)[inside]
    values = values.astype(np.float64)
    matrix = np.eye(4) if affine is None else np.asarray(affine, np.float64)
    place = np.argsort(wanted)[np.searchsorted(np.sort(wanted), parcel)]
    order = np.lexsort((inside, -np.nan_to_num(np.abs(values), nan=-1.0, posinf=np.inf), place))
    ijk = np.stack(np.unravel_index(inside, regions.shape), axis=1)[order]
    xyz = voxel_to_mm(matrix, ijk)
    names = ("i", "j", "k", "x", "y", "z")
    columns = [ijk[:, 0], ijk[:, 1], ijk[:, 2], xyz[:, 0], xyz[:, 1], xyz[:, 2]]
    voxels = pd.DataFrame({"id": parcel[order], **dict(zip(names, columns, strict=True)), "value": values[order]})
    return ParcelVoxels(_table(voxels, wanted, voxel_volume_mm3(matrix), threshold), voxels)


def voxel_inference(
    volumes: Any,
    labels: Any,
    ids: Any,
    design: Any,
    contrast: Any,
    *,
    affine: ArrayLike | None = None,
    connectivity: int = 6,
    **options: Any,
) -> tuple[VoxelGrid, PermutationResult]:
    """Test every voxel of some parcels, corrected over the voxels of all of them.

    Parameters
    ----------
    volumes : array, shape (n_subjects, X, Y, Z)
        NumPy or CuPy.
    labels : integer array, shape (X, Y, Z)
    ids : sequence of int
        Parcels. Chosen by an independent contrast, run or cohort: chosen by this one, the p-values are too small.
    design, contrast
        As `gpuroi.inference.permutation_test` takes them; `options` too.
    affine : array, shape (4, 4), optional
    connectivity : {6, 18, 26}, default 6

    Returns
    -------
    grid : VoxelGrid
        The voxels tested; `grid.to_volume(result.p_fwe)` puts results back into space.
    result : PermutationResult

    Raises
    ------
    DataError
        Ids that are no label, all of them named; and what `permutation_test` raises.

    Examples
    --------
    >>> volumes = np.random.default_rng(0).standard_normal((10, 1, 2, 3)) + 3
    >>> labels = np.array([[[0, 5, 5], [5, 0, 8]]])
    >>> grid, result = voxel_inference(volumes, labels, [5], np.ones((10, 1)), [1], errors="ise", device="cpu")
    >>> grid.n_elements, bool((result.p_fwe < 0.05).all())
    (3, True)
    """
    from gpuroi.inference import permutation_test

    wanted = named_ids(ids, "ids")
    regions = on_host(labels)
    mask = np.isin(regions, wanted)
    _refuse_absent(wanted, regions[mask])
    grid = VoxelGrid(mask, affine, connectivity=connectivity)
    return grid, permutation_test(grid.from_volume(volumes), design, contrast, domain=grid, **options)


def _refuse_absent(wanted: NDArray[np.int64], found: NDArray[Any]) -> None:
    absent = np.setdiff1d(wanted, found)
    if len(absent):
        raise DataError(f"ids that no voxel has: {', '.join(map(str, absent))}", "use ids of the labels")


def _table(voxels: pd.DataFrame, wanted: NDArray[np.int64], mm3: float, threshold: float | None) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for parcel in wanted.tolist():
        inside = voxels[voxels["id"] == parcel]
        values = inside["value"].to_numpy()
        values, peak = values[~np.isnan(values)], inside.iloc[0]
        some = len(values) > 0
        row = {
            "id": parcel,
            "voxels": len(inside),
            "mm3": len(inside) * mm3,
            "mean": values.mean() if some else np.nan,
            "sd": values.std(ddof=1) if len(values) > 1 else np.nan,
            "least": values.min() if some else np.nan,
            "largest": values.max() if some else np.nan,
            "peak_stat": float(peak["value"]),
            **{f"peak_{axis}": float(peak[axis]) if some else np.nan for axis in "xyz"},
        }
        if threshold is not None:
            row |= {"above": int((values > threshold).sum()), "below": int((values < -threshold).sum())}
        rows.append(row)
    return pd.DataFrame(rows)
