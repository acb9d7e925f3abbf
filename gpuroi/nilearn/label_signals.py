"""Signals of the regions of a label image, and images from such signals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.threads import run_blocks
from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.argument_checks import check_types, n_threads_of
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.label_columns import label_columns
from gpuroi.nilearn.label_summaries import STRATEGIES, summarise
from gpuroi.nilearn.niimg import as_list, check_niimg, check_niimg_3d, check_niimg_4d, finite_data, image_name
from gpuroi.nilearn.same_grid import check_same_space
from gpuroi.nilearn.volume_series import VolumeSeries, open_series

__all__ = ["img_to_signals_labels", "open_4d", "signals_to_img_labels"]


def img_to_signals_labels(
    imgs: Any,
    labels_img: Any,
    mask_img: Any = None,
    background_label: float = 0,
    order: str = "F",
    strategy: str = "mean",
    keep_masked_labels: bool = False,
    return_masked_atlas: bool = True,
    n_jobs: int = 1,
) -> Any:
    """Summarise each region in each volume; as `nilearn.regions.img_to_signals_labels`.

    Parameters
    ----------
    imgs : path, pattern, nibabel image, or list of these
        One 4-D image, or several 3-D ones. Files are read a few volumes at a time.
    labels_img : path or nibabel image
        3-D, on the grid of `imgs`. Ids of any width and type, sparse or not.
    mask_img : path or nibabel image, optional
        3-D, on the same grid; voxels where it is 0 belong to no region.
    background_label : number, default 0
        This id is no region.
    order : {"F", "C"}, default "F"
        Memory order of the signals.
    strategy : {"mean", "median", "sum", "minimum", "maximum", "variance", "standard_deviation"}
        Variance and deviation divide by the number of voxels.
    keep_masked_labels : bool, default False
        True keeps a column, of zeros, for regions that the mask leaves nothing of; deprecated by nilearn.
    return_masked_atlas : bool, default True
        False returns no atlas; deprecated by nilearn.
    n_jobs : int, default 1
        Checked, but of no effect: threads are those of GPUROI_NUM_THREADS.

    Returns
    -------
    signals : array, shape (n_volumes, n_regions)
        float32 if the data are, else float64. Sums are taken in float64.
    labels : list of numbers
        Id of each column, ascending.
    masked_atlas : nibabel Nifti1Image
        int32: the regions within the mask. Only with `return_masked_atlas`.

    Raises
    ------
    DimensionError
        If `imgs` are not 4-D, or `labels_img` or `mask_img` not 3-D; a TypeError.
    GridError
        If the images lie on different grids; a ValueError.
    DataError
        If there is no region, or the mask leaves none; a ValueError.
    UsageError
        Another strategy or order.

    Notes
    -----
    Means, sums, variances and deviations are computed on the device (GPUROI_DEVICE), the others on the CPU.

    NaN and infinite values within regions count as 0, with a warning, as in nilearn; those elsewhere are not looked
    for, and the data of `imgs` are never written to. An atlas without any region is an error. nilearn joins a list of
    images in the type of the first; here each keeps its own.

    Examples
    --------
    >>> import nibabel
    >>> data = np.array([[[[1.0], [3.0], [5.0]]]])
    >>> atlas = nibabel.Nifti1Image(np.array([[[400, 400, 7]]], np.int16), np.eye(4))
    >>> signals, labels, _ = img_to_signals_labels(nibabel.Nifti1Image(data, np.eye(4)), atlas)
    >>> signals.tolist(), [int(id) for id in labels]
    ([[5.0, 2.0]], [7, 400])
    """
    check_types(keep_masked_labels=keep_masked_labels, n_jobs=n_jobs)
    n_threads_of(n_jobs)
    atlas_img = check_niimg_3d(labels_img)
    if strategy not in STRATEGIES:
        raise UsageError(f"'strategy' must be one of {STRATEGIES}.\n'{strategy}' was provided.")
    series = open_4d(imgs)
    values = finite_data(atlas_img)
    all_ids, columns = label_columns(values, background_label)
    inside = _inside(series, atlas_img, mask_img)
    if keep_masked_labels:
        exceptions.warn('In version 0.15.0, "keep_masked_labels" parameter will be removed.', FutureWarning)
    present = _masked(columns, inside, all_ids, silently=keep_masked_labels)
    if not len(all_ids):
        raise DataError(f"{image_name(labels_img)}: there is no region, only the background {background_label}")
    summaries = summarise(series, _renumbered(columns, present), len(present), strategy)
    dtype = np.float32 if series.dtype == np.float32 else np.float64
    if keep_masked_labels:
        signals = np.zeros((len(series), len(all_ids)), dtype, order=_order(order))
        signals[:, present - 1] = summaries
        ids = list(all_ids)
    else:
        signals = summaries.astype(dtype, order=_order(order))
        ids = list(all_ids[present - 1])
    if not return_masked_atlas:
        exceptions.warn(
            'In version 0.15, "return_masked_atlas" parameter will be removed and the masked atlas will always be '
            'returned. Set "return_masked_atlas" to True to avoid this warning.',
            FutureWarning,
        )
        return signals, ids
    if inside is not None:
        values = np.where(inside, values, background_label)
    return signals, ids, _atlas_image(values, atlas_img.affine)


def signals_to_img_labels(
    signals: Any, labels_img: Any, mask_img: Any = None, background_label: float = 0, order: str = "F"
) -> Any:
    """Give every voxel of a region the region's signal; as `nilearn.regions.signals_to_img_labels`.

    Parameters
    ----------
    signals : array, shape (n_volumes, n_regions) or (n_regions,)
        One column a region, ids ascending.
    labels_img : path or nibabel image
        3-D.
    mask_img : path or nibabel image, optional
        3-D, on the same grid. Voxels where it is 0 become 0; a region that it leaves nothing of has no column.
    background_label : number, default 0
        This id is no region.
    order : {"F", "C"}, default "F"
        Memory order of the data.

    Returns
    -------
    nibabel image, (X, Y, Z, n_volumes) or (X, Y, Z)
        Of the type of `signals`; 0 outside of the regions.

    Raises
    ------
    DimensionError, GridError
        As `img_to_signals_labels`.
    DataError
        If the signals have another number of columns.

    Notes
    -----
    Signals with a column for every region of `labels_img`, though the mask leaves nothing of some, go to their own
    regions: columns belong to ids. nilearn then gives the regions that are left the first columns.

    Examples
    --------
    >>> import nibabel
    >>> atlas = nibabel.Nifti1Image(np.array([[[400, 0, 7]]], np.int16), np.eye(4))
    >>> np.asarray(signals_to_img_labels(np.array([1.5, 2.5]), atlas).dataobj).tolist()
    [[[2.5, 0.0, 1.5]]]
    """
    atlas_img = check_niimg_3d(labels_img)
    all_ids, columns = label_columns(finite_data(atlas_img), background_label)
    present = _masked(columns, _inside(atlas_img, atlas_img, mask_img), all_ids)
    values = np.asarray(signals)
    n_columns = values.shape[-1] if values.ndim in (1, 2) else -1
    if n_columns not in (len(present), len(all_ids)):
        raise DataError(
            f"signals have shape {values.shape}; expected one column for each of the {len(present)} regions of "
            f"{image_name(labels_img)}"
        )
    if n_columns == len(present):
        columns = _renumbered(columns, present)
    order = _order(order)
    table = np.zeros((n_columns + 1, *values.shape[:-1]), values.dtype)  # (1 + regions,) or (1 + regions, volumes)
    table[1:] = values.T
    if order == "C":
        data = np.ascontiguousarray(table[columns])
    else:
        data = np.empty((*values.shape[:-1], *columns.shape[::-1]), values.dtype).T
        rows, volumes = table.reshape(n_columns + 1, -1).T, data.reshape((*columns.shape, -1), order="F")

        def paint(start: int, stop: int) -> None:
            for i in range(start, stop):
                np.take(rows[i], columns.T, out=volumes[..., i].T, mode="clip")

        run_blocks(paint, len(rows))
    return new_img_like(atlas_img, data, atlas_img.affine)


def open_4d(imgs: Any) -> VolumeSeries:
    """Open one 4-D image or several 3-D ones, without reading them; `DimensionError` for all else."""
    imgs = as_list(imgs)
    if isinstance(imgs, list | tuple):
        check_niimg_4d(imgs[:1])  # those of a list have the same number of axes, or `open_series` raises
        return open_series(imgs)
    try:
        series = open_series(imgs)
    except DataError:
        _check_four_axes(imgs)
        raise
    if not series.is_4d:
        _check_four_axes(imgs)
    return series


def _check_four_axes(imgs: Any) -> None:
    img = check_niimg(imgs)
    if len(img.shape) != 4:
        raise exceptions.DimensionError(len(img.shape), 4, image_name(img))


def _inside(target: Any, atlas_img: Any, mask_img: Any) -> NDArray[np.bool_] | None:
    """Check that all lie on one grid, and return where the mask is not 0; None without a mask."""
    target_name = target.name if isinstance(target, VolumeSeries) else image_name(target)
    check_same_space(target, atlas_img, target_name, image_name(atlas_img))
    if mask_img is None:
        return None
    mask = check_niimg_3d(mask_img)
    check_same_space(target, mask, target_name, image_name(mask_img))
    return np.asarray(finite_data(mask) != 0)


def _masked(
    columns: NDArray[np.int32], inside: NDArray[np.bool_] | None, ids: NDArray[Any], *, silently: bool = False
) -> NDArray[np.int64]:
    """Set voxels outside the mask to 0, and return the columns that are left; say which ones are not."""
    had_background = bool((columns == 0).any())
    if inside is not None:
        columns[~inside] = 0
    left = np.bincount(columns.ravel(order="K"), minlength=len(ids) + 1) > 0
    has_background, present = bool(left[0]), np.flatnonzero(left[1:]) + 1
    if len(present) == len(ids) or silently:
        return present
    if not present.size:
        raise DataError("No label left after applying mask to the labels image.", "do mask and labels overlap?")
    lost = ", ".join(str(i) for i in np.delete(ids, present - 1).tolist())
    exceptions.warn(
        f"After applying mask to the labels image, the following labels were removed: {{{lost}}}. Out of "
        f"{len(ids) + had_background} labels, the masked labels image only contains {len(present) + has_background} "
        "labels (including background)."
    )
    return present


def _renumbered(columns: NDArray[np.int32], present: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the columns numbered without the gaps that a mask has left."""
    if not present.size or present[-1] == len(present):
        return columns
    table = np.zeros(int(present[-1]) + 1, np.int32)
    table[present] = np.arange(1, len(present) + 1)
    return table[columns]


def _atlas_image(values: NDArray[Any], affine: NDArray[np.float64]) -> Any:
    """Make the image of an atlas: int32, or a wider type where ids do not fit."""
    from nibabel import Nifti1Image

    make: Any = Nifti1Image
    with np.errstate(invalid="ignore"):
        narrow = values.astype(np.int32)
    if np.array_equal(narrow, values):
        return make(narrow, affine)
    wide = values.astype(np.int64) if values.dtype.kind in "iu" else values
    return make(wide, affine, dtype=wide.dtype)


def _order(order: str) -> Any:
    if order not in ("C", "F"):
        raise UsageError(f"'order' must be one of ('C', 'F').\n'{order}' was provided.")
    return order
