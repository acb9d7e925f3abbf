"""nilearn's get_clusters_table: the clusters of a map with their peaks, sub-peaks and sizes."""

from __future__ import annotations

from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import get_backend
from gpuroi.errors import UsageError
from gpuroi.images import voxel_volume_mm3
from gpuroi.images.region_voxels import RegionVoxels
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.cluster_peaks import cluster_peaks
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.image_threshold import threshold_img
from gpuroi.nilearn.mesh_clusters import MeshLabeller
from gpuroi.nilearn.niimg import check_niimg_3d, finite_data, is_surface
from gpuroi.ops import label

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["get_clusters_table"]

_COLUMNS = ["Cluster ID", "X", "Y", "Z", "Peak Stat", "Cluster Size (mm3)"]
_SURFACE_COLUMNS = ["Cluster ID", "Hemisphere", "Peak Stat", "Cluster Size (vertices)"]
_MIN_DISTANCE = 8.0


def get_clusters_table(
    stat_img: Any,
    stat_threshold: float,
    cluster_threshold: int = 0,
    two_sided: bool = False,
    min_distance: float = _MIN_DISTANCE,
    return_label_maps: bool = False,
) -> pd.DataFrame | tuple[pd.DataFrame, list[Any]]:
    """List the clusters of a map with their peaks, sub-peaks and sizes; as `nilearn.reporting.get_clusters_table`.

    Parameters
    ----------
    stat_img : path, nibabel image or SurfaceImage
        One map, on which larger is more: z, t or -log10 p, not p. NaN and infinity count as 0.
    stat_threshold : float
        Cluster-forming threshold, on the scale of the map. Negative, and one-sided: values below it form clusters.
    cluster_threshold : int, default 0
        Clusters of fewer voxels or vertices are left out.
    two_sided : bool, default False
        Clusters below -stat_threshold, too.
    min_distance : float, default 8.0
        Between sub-peaks, mm; see the Notes. Not used for surfaces.
    return_label_maps : bool, default False
        Return images of the clusters, too: one for each sign that has clusters.

    Returns
    -------
    table : pandas.DataFrame
        Volumes: `Cluster ID` (1, and 1a, 1b, 1c for sub-peaks), `X`, `Y`, `Z` (mm), `Peak Stat`, and `Cluster Size
        (mm3)` (int, "" for sub-peaks). Surfaces: `Cluster ID` (str), `Hemisphere`, `Peak Stat` and `Cluster Size
        (vertices)`. Nothing found is an empty table, with a warning.
    label_maps : list of images
        With `return_label_maps`; int32, the numbers are those of the clusters of that sign by height.

    Raises
    ------
    UsageError
        A negative threshold that is two-sided; a `min_distance` of 0 or less.
    TypeError
        Arguments of other types; `DimensionError` if the image has several volumes.
    DataError
        A file that cannot be read.

    Notes
    -----
    Row for row what nilearn 0.14.1 gives, also where `gpuroi.images.region_table` does otherwise:

    * a voxel at the threshold is in no cluster, though `threshold_img` keeps it;
    * a sub-peak is more than `min_distance` from the one before it, but may be closer to an earlier one;
    * with a negative threshold, one-sided, volumes have `Peak Stat` without its sign and come in ascending order of
      height; on surfaces `Peak Stat` of negative clusters is the value nearest to 0;
    * numbers of negative clusters go on from the number of rows, sub-peaks included.

    The volume of a voxel is |det| of the affine, nilearn's the product of the header's voxel sizes: these differ only
    where the affine is sheared or the header contradicts it. Where every voxel passes there is one cluster; nilearn
    takes it for the background. Unsigned integers may be two-sided, and SPM's pairs of files are taken: nilearn fails.

    Examples
    --------
    >>> import nibabel
    >>> values = np.zeros((9, 9, 9), np.float32)
    >>> values[2:4, 2:4, 2] = [[5, 4], [4, 4]]
    >>> image = nibabel.Nifti1Image(values, np.diag([2, 2, 2, 1]))
    >>> get_clusters_table(image, 3.0).iloc[0].tolist()
    [1.0, 4.0, 4.0, 4.0, 5.0, 32.0]
    """
    thresholded = threshold_img(
        stat_img, threshold=stat_threshold, cluster_threshold=cluster_threshold, two_sided=two_sided
    )
    if is_surface(thresholded):
        if min_distance != _MIN_DISTANCE:
            exceptions.warn("The 'min_distance' parameter is not used for surface data and will be ignored.")
        table, maps = _surface_table(thresholded, stat_threshold, cluster_threshold, two_sided)
    else:
        if not min_distance > 0:
            raise UsageError("'min_distance' must be positive.", f"it is {min_distance}; give a distance in mm")
        table, maps = _volume_table(
            check_niimg_3d(thresholded), stat_threshold, two_sided, min_distance, with_maps=return_label_maps
        )
    return (table, maps) if return_label_maps else table


def _volume_table(
    img: Any, threshold: float, two_sided: bool, min_distance: float, *, with_maps: bool
) -> tuple[pd.DataFrame, list[Any]]:
    import pandas as pd

    data = np.ascontiguousarray(finite_data(img))  # voxels are listed in C order, time and again
    cubic_mm = _voxel_volume(img)
    rows: list[list[Any]] = []
    maps = []
    for sign in (1, -1) if two_sided else (1,):
        below = threshold < 0 and not two_sided
        towards = data if sign == 1 else _negative(data)
        inside = towards < threshold if below else towards > threshold
        if not inside.any():
            exceptions.warn(f"No clusters found with stat {'higher' if sign == 1 else 'lower'} than {threshold * sign}")
            continue
        voxels = RegionVoxels(_labelled(inside))
        height = voxels.values(_negative(towards) if below else towards)
        order = _by_height(voxels, height, ascending=below)
        peaks = cluster_peaks(voxels, height, img.affine, min_distance)
        shift = len(rows)
        for rank, cluster in enumerate(order, start=1):
            size = int(voxels.sizes[cluster] * cubic_mm)
            rows += _rows(rank + shift, peaks[cluster].ijk, peaks[cluster].height * sign, img.affine, size)
        if with_maps:
            number = np.zeros(len(order) + 1, np.int32)
            number[1 + order] = np.arange(1, len(order) + 1)
            maps.append(new_img_like(img, number[voxels.labels], affine=img.affine))
    return pd.DataFrame(rows, columns=_COLUMNS), maps


def _negative(data: NDArray[Any]) -> NDArray[Any]:
    return -(data.astype(np.int64) if data.dtype.kind in "bu" else data)


def _voxel_volume(img: Any) -> float:
    """Return mm3, as the header rounds it where it agrees with the affine: sizes are cut to whole mm3."""
    exact = voxel_volume_mm3(img.affine)
    stored = float(np.prod(img.header.get_zooms()[:3])) if img.header is not None else exact
    return stored if abs(stored - exact) <= 1e-5 * exact else exact


def _labelled(inside: NDArray[np.bool_]) -> NDArray[np.int32]:
    backend = get_backend("auto")
    with backend.activate():
        labels, _ = label(backend.asarray(inside), 6)
        return np.ascontiguousarray(backend.to_numpy(labels))  # sync: the labels


def _by_height(voxels: RegionVoxels, height: NDArray[Any], *, ascending: bool) -> NDArray[np.intp]:
    """Return the clusters by their highest value, by the very call that nilearn makes: ties fall as they do there."""
    by_region = np.argsort(voxels.region, kind="stable")
    starts = np.searchsorted(voxels.region[by_region], np.arange(len(voxels.ids)))
    highest = np.maximum.reduceat(height[by_region], starts)
    return (highest if ascending else -highest).argsort()


def _rows(number: int, ijk: NDArray[np.intp], values: NDArray[Any], affine: Any, size: int) -> list[list[Any]]:
    xyz = np.dot(affine, np.c_[ijk, np.ones(len(ijk))].T)[:3].T
    sub_peaks = [[f"{number}{ascii_lowercase[k - 1]}", *xyz[k], values[k], ""] for k in range(1, len(ijk))]
    return [[number, *xyz[0], values[0], size], *sub_peaks]


def _surface_table(
    img: Any, threshold: float, cluster_threshold: int, two_sided: bool
) -> tuple[pd.DataFrame, list[Any]]:
    import pandas as pd

    labellers = {name: MeshLabeller(mesh) for name, mesh in img.mesh.parts.items()}
    rows: list[list[Any]] = []
    maps = []
    for sign in (1, -1) if two_sided else (1,):
        one = img
        if two_sided:
            one = threshold_img(img, threshold=threshold * sign, cluster_threshold=cluster_threshold, two_sided=False)
        labels = {}
        for name, values in one.data.parts.items():
            flat = np.ravel(values)
            labels[name], sizes = labellers[name](flat != 0)
            labels[name] = np.where(labels[name] > 0, labels[name].astype(np.int64) + len(rows), 0)
            for size in sizes.tolist():
                number = len(rows) + 1
                rows.append([str(number), name, np.max(flat[labels[name] == number]), size])
        if not rows:
            exceptions.warn(f"No clusters found for 'stat_threshold={threshold * sign}'.")
        maps.append(new_img_like(one, labels))
    return pd.DataFrame(rows, columns=_SURFACE_COLUMNS), maps
