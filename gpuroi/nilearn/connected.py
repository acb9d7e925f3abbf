"""Separate the regions of maps and of label images."""

from __future__ import annotations

import collections.abc
import contextlib
import math
import mmap
import numbers
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import get_backend
from gpuroi.errors import DataError, UsageError
from gpuroi.images.grid import voxel_volume_mm3
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.argument_checks import check_types
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.label_columns import label_columns
from gpuroi.nilearn.masking import load_mask_img
from gpuroi.nilearn.niimg import check_niimg, check_niimg_3d, finite_data, image_name
from gpuroi.nilearn.region_seeds import local_regions
from gpuroi.nilearn.resampling import resample_img
from gpuroi.nilearn.same_grid import same_grid
from gpuroi.ops.label import label

__all__ = ["connected_label_regions", "connected_regions"]

_EXTRACT_TYPES = ["connected_components", "local_regions"]


def connected_regions(
    maps_img: Any,
    min_region_size: float = 1350,
    extract_type: str = "local_regions",
    smoothing_fwhm: float | None = 6,
    mask_img: Any = None,
) -> tuple[Any, list[int]] | tuple[None, None]:
    """Separate the regions of each map into images of their own; as `nilearn.regions.connected_regions`.

    Parameters
    ----------
    maps_img : path, nibabel image, or list of these
        3-D or 4-D: one map or several. 0 lies outside of all regions.
    min_region_size : float, default 1350
        mm3. A region stays if it is larger than this.
    extract_type : {"local_regions", "connected_components"}
        "local_regions" shares the non-zero voxels out between the peaks of the smoothed map, by a random walker;
        "connected_components" takes non-zero voxels that touch by their faces, of either sign.
    smoothing_fwhm : float or None, default 6
        mm; for the peaks of "local_regions".
    mask_img : path or nibabel image, optional
        Voxels outside count as 0. On another grid it is brought to that of the maps.

    Returns
    -------
    regions_img : nibabel image (X, Y, Z, n_regions) or None
        float32, of the class of `maps_img`: the values of each region, 0 elsewhere. Map by map; within a map by the
        first voxel of the component or of the peak, in C order. None, with a warning, if no region stays.
    index : list of int or None
        The map that each region comes from.

    Raises
    ------
    UsageError
        Another `extract_type`; a ValueError.
    TypeError
        If `maps_img` is no image, or `smoothing_fwhm` no number; `DimensionError` if `maps_img` is neither 3-D nor 4-D,
        or `mask_img` not 3-D.

    Notes
    -----
    Components are labelled on the device (GPUROI_DEVICE); peaks and the random walker are computed on the CPU.

    What differs from nilearn: voxels that are NaN or infinite count as 0, with a warning. There they are a region, and
    make every other one NaN. In "local_regions" all voxels of a component go to a peak inside it: nilearn's
    solver stops before it gets to the furthest ones, which then belong to the first peak of the map, wherever it lies.

    Examples
    --------
    >>> import nibabel
    >>> data = np.zeros((9, 4, 4), np.float32)
    >>> data[:2], data[5:] = 1, -2
    >>> image = nibabel.Nifti1Image(data, np.diag([2, 2, 2, 1]))
    >>> regions, index = connected_regions(image, min_region_size=300, extract_type="connected_components")
    >>> regions.shape, index
    ((9, 4, 4, 1), [0])
    """
    check_types(smoothing_fwhm=smoothing_fwhm)
    img = check_niimg(maps_img, atleast_4d=True)
    if len(img.shape) != 4:
        raise exceptions.DimensionError(len(img.shape), 4, image_name(img))
    if extract_type not in _EXTRACT_TYPES:
        raise UsageError(f"'extract_type' must be one of {_EXTRACT_TYPES}.\n'{extract_type}' was provided.")
    if smoothing_fwhm == 0 and extract_type == "local_regions":
        exceptions.warn(
            "The parameter 'fwhm' for smoothing is specified as 0. Setting it to None (no smoothing will be performed)"
        )
    maps = finite_data(img)
    if mask_img is not None:
        maps[~_mask_on_grid(mask_img, img)] = 0
    least = min_region_size / voxel_volume_mm3(img.affine)
    found = []
    for index in range(maps.shape[3]):
        volume = maps[..., index]
        if extract_type == "local_regions":
            labels = local_regions(volume, img.affine, smoothing_fwhm)
        else:
            labels = _components(volume != 0)
        found.append(_larger(labels.ravel(order="F"), least))
    n_regions = [int(number.max(initial=0)) for _, number in found]
    if not any(n_regions):
        exceptions.warn("No supra threshold regions was found")
        return None, None
    return _regions_image(img, maps, found, n_regions), np.repeat(np.arange(len(found)), n_regions).tolist()


def connected_label_regions(
    labels_img: Any, min_size: float | None = None, connect_diag: bool = True, labels: Any = None
) -> Any:
    """Separate the connected pieces of each region of an atlas; as `nilearn.regions.connected_label_regions`.

    Parameters
    ----------
    labels_img : path or nibabel image
        3-D. Ids of any integer width, sparse or not; 0 is no region.
    min_size : float, optional
        mm3. A piece stays if it is larger than this. None keeps all.
    connect_diag : bool, default True
        Voxels touch by faces, edges and corners; False: by faces only.
    labels : str or sequence of str, optional
        Names of the regions, by ascending id.

    Returns
    -------
    new_labels_img : nibabel image (X, Y, Z)
        int32, in memory and on disk; 1, 2, ... by ascending id of the region, its pieces by first voxel in C order.
    new_labels : list of str
        Name of each piece; only with `labels`.

    Raises
    ------
    UsageError
        If `min_size` is no number, `connect_diag` no bool, or there are more or fewer names than regions.
    DataError
        If an id is negative.
    DimensionError
        If the image is not 3-D; a TypeError.

    Notes
    -----
    One pass over the rows of the image labels the pieces of all regions; it takes less time than bringing the
    image to a device would, and runs on the CPU.

    What differs from nilearn: the result is stored as int32, whatever type `labels_img` was stored in, so that no
    number is rounded when it is written to a file. A region that fills the whole image is held to `min_size` as others.

    Examples
    --------
    >>> import nibabel
    >>> atlas = nibabel.Nifti1Image(np.array([[[400, 0, 400, 0, 7]]], np.int16), np.eye(4))
    >>> pieces, names = connected_label_regions(atlas, labels=["left", "right"])
    >>> np.asarray(pieces.dataobj).tolist(), names
    ([[[2, 0, 3, 0, 1]]], ['left', 'right', 'right'])
    """
    img = check_niimg_3d(labels_img)
    if min_size is not None and not isinstance(min_size, numbers.Number):
        raise UsageError(f"Expected 'min_size' to be specified as integer. You provided {min_size}")
    if not isinstance(connect_diag, bool):
        raise UsageError(f"'connect_diag' must be specified as True or False. You provided {connect_diag}")
    values = finite_data(img)
    ids, columns = label_columns(values)
    if len(ids) and ids[0] < 0:
        raise DataError(
            f"The 'labels_img' you provided has unknown/negative integers as labels {ids} assigned to regions. All "
            f"regions in an image should have positive integers assigned as labels. ({image_name(labels_img)})"
        )
    names = _names(labels, ids)
    pieces, region, size = _pieces(columns, 26 if connect_diag else 6)
    if min_size is not None:
        kept = size > _whole_or_more(min_size / voxel_volume_mm3(img.affine))
        pieces = np.append(0, np.where(kept, np.cumsum(kept), 0)).astype(np.int32)[pieces]
        region = region[kept]
    result = new_img_like(img, pieces, img.affine)
    result.set_data_dtype(np.int32)
    if names is None:
        return result
    return result, [names[k - 1] for k in region if names[k - 1] is not None]


def _mask_on_grid(mask_img: Any, img: Any) -> NDArray[np.bool_]:
    """Return where the mask is not 0, on the grid of the image."""
    mask = check_niimg_3d(mask_img)
    if not same_grid(mask, img):
        mask = resample_img(
            mask, target_affine=img.affine, target_shape=img.shape[:3], interpolation="nearest", copy_header=True
        )
    inside, _ = load_mask_img(mask)
    return np.asarray(inside, dtype=bool)


def _components(inside: NDArray[np.bool_]) -> NDArray[np.int32]:
    backend = get_backend("auto")
    with backend.activate():
        labels, _ = label(backend.asarray(inside), 6)
        return np.asarray(backend.to_numpy(labels))


def _larger(labels: NDArray[np.int32], least: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the voxels whose region has more than `least` voxels, and its new number, from 1."""
    places = np.flatnonzero(labels)
    number = labels[places]
    kept = np.bincount(number) > _whole_or_more(least)
    kept[:1] = False
    renumbered = np.cumsum(kept)[number]
    stays = kept[number]
    return places[stays], renumbered[stays].astype(np.int64, copy=False)


def _whole_or_more(n_voxels: float) -> float:
    """A hair off a whole number counts as it: 2.7 mm3 are 27 voxels of 0.1 mm3, whatever the last bit says."""
    nearest = round(n_voxels) if np.isfinite(n_voxels) else n_voxels
    return nearest if abs(n_voxels - nearest) <= 1e-9 * max(1.0, abs(n_voxels)) else n_voxels


def _regions_image(
    img: Any, maps: NDArray[Any], found: list[tuple[NDArray[np.int64], NDArray[np.int64]]], n_regions: list[int]
) -> Any:
    """Make the image of all regions."""
    shape = maps.shape[:3]
    rows = _sparse_zeros(sum(n_regions), math.prod(shape))
    least = most = np.float32(0)
    first = 0
    for index, (places, number) in enumerate(found):
        values = maps[..., index].ravel(order="F")[places].astype(np.float32)
        rows[first + number - 1, places] = values
        least, most = min(least, values.min(initial=0)), max(most, values.max(initial=0))
        first += n_regions[index]
    data = rows.reshape(len(rows), *shape[::-1]).transpose(3, 2, 1, 0)
    like = new_img_like(img, np.array([[[[least, most]]]]), img.affine)  # finds the range in two voxels, not in all
    return type(like)(data, img.affine, header=like.header)


def _sparse_zeros(n: int, v: int) -> NDArray[np.float32]:
    """Return zeros (n, v) that take memory page by page, where they are written to.

    110 regions at 2 mm fill 4 of 400 MB. `numpy.zeros` asks for pages of 2 MB, and writing the regions into those takes
    10 ms; into these 2.
    """
    pages = mmap.mmap(-1, n * v * 4)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # A kernel without large pages refuses the advice, and does not need it.
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.float32).reshape(n, v)


def _names(labels: Any, ids: NDArray[Any]) -> Any:
    if labels is None:
        return None
    names = [labels] if isinstance(labels, str) or not isinstance(labels, collections.abc.Iterable) else list(labels)
    if len(names) != len(ids):
        raise UsageError(
            f"The number of labels: {len(names)} provided as input in labels={names} does not match with the number of "
            f"unique labels in labels_img: {len(ids)}. Please provide appropriate match with unique number of labels "
            "in labels_img."
        )
    return names


def _pieces(
    columns: NDArray[np.int32], connectivity: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Number the connected pieces of all regions; return the region and the voxels of each piece, too."""
    from gpuroi.backends.kernels.label_pieces import label_pieces

    turned = columns.flags.f_contiguous and not columns.flags.c_contiguous
    rows = np.ascontiguousarray(columns.T if turned else columns)
    pieces = np.zeros(rows.shape, np.int32)
    flat = (-1, max(1, rows.shape[2]))
    region, size = label_pieces(rows.reshape(flat), rows.shape[1], connectivity, turned, pieces.reshape(flat))
    return (pieces.T if turned else pieces), region, size
