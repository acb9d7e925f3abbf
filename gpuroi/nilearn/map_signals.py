"""Signals of regions that are weights in one image each, and images from such signals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import DataError
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.argument_checks import check_types
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.label_signals import open_4d
from gpuroi.nilearn.niimg import check_niimg_3d, check_niimg_4d, finite_data, image_data, image_name
from gpuroi.nilearn.same_grid import check_same_space
from gpuroi.nilearn.volume_series import VolumeSeries

__all__ = ["img_to_signals_maps", "signals_to_img_maps"]

_BLOCK_BYTES = 1 << 27  # of values held at once
_WELL_CONDITIONED = 1e6  # of the products of maps; beyond it they lose digits that a factorisation keeps


def img_to_signals_maps(
    imgs: Any, maps_img: Any, mask_img: Any = None, keep_masked_maps: bool = False
) -> tuple[NDArray[Any], list[int]]:
    """Fit maps to each volume by least squares; as `nilearn.regions.img_to_signals_maps`.

    Parameters
    ----------
    imgs : path, pattern, nibabel image, or list of these
        One 4-D image, or several 3-D ones. Files are read a few volumes at a time.
    maps_img : path, nibabel image, or list of these
        4-D, on the grid of `imgs`: one map of weights a region.
    mask_img : path or nibabel image, optional
        3-D, on the same grid; voxels where it is 0 do not count.
    keep_masked_maps : bool, default False
        True keeps a signal, of zeros, for maps that the mask leaves nothing of; deprecated by nilearn.

    Returns
    -------
    signals : array, shape (n_volumes, n_maps)
        float32 if maps and data are, else float64; computed in float64. Of dependent maps the shortest solution.
    labels : list of int
        The map of each column.

    Raises
    ------
    DimensionError
        If `imgs` or `maps_img` are not 4-D, or `mask_img` not 3-D; a TypeError.
    GridError
        If they lie on different grids.
    DataError
        If the mask leaves no map.
    """
    check_types(keep_masked_maps=keep_masked_maps)
    maps = check_niimg_4d(maps_img)
    series = open_4d(imgs)
    check_same_space(series, maps, series.name, image_name(maps))
    weights, dtype = _weights(maps, _inside(series, mask_img))
    n_maps = weights.shape[1]
    labels = np.arange(n_maps)
    if mask_img is not None:
        labels = _labels_left(weights, keep_masked_maps)
        weights = weights[:, labels]
    places = np.flatnonzero(np.diff(weights.indptr))  # voxels that a map covers
    weights = weights[places]
    products = np.empty((len(series), len(labels)))
    replaced = False
    solve, left = _least_squares(weights)
    for start, rows, some in _covered(series, places):
        products[start : start + len(rows)] = (left @ rows.T).T
        replaced |= some
    if replaced:
        exceptions.warn("Non-finite values detected. These values will be replaced with zeros.")
    both = np.result_type(dtype, series.dtype)
    return (products @ solve).astype(np.float32 if both == np.float32 else np.float64), labels.tolist()


def signals_to_img_maps(region_signals: Any, maps_img: Any, mask_img: Any = None) -> Any:
    """Add maps up, each times its signal; as `nilearn.regions.signals_to_img_maps`.

    Parameters
    ----------
    region_signals : array, shape (n_volumes, n_maps) or (n_maps,)
    maps_img : path, nibabel image, or list of these
        4-D.
    mask_img : path or nibabel image, optional
        3-D, on the same grid; voxels where it is 0 become 0.

    Returns
    -------
    nibabel image, (X, Y, Z, n_volumes) or (X, Y, Z)

    Raises
    ------
    DataError
        If there is not one signal for each map.
    """
    maps = check_niimg_4d(maps_img)
    weights, dtype = _weights(maps, _inside(maps, mask_img))
    signals = np.asarray(region_signals)
    if signals.ndim not in (1, 2) or signals.shape[-1] != weights.shape[1]:
        raise DataError(
            f"signals have shape {signals.shape}; expected one column for each of the {weights.shape[1]} maps of "
            f"{image_name(maps)}"
        )
    values = weights @ np.atleast_2d(signals).astype(np.float64).T  # (v, n), v in Fortran order
    target = np.result_type(dtype, signals.dtype)
    data = values.astype(target if target.kind == "f" else np.float64).reshape(*maps.shape[:3], -1, order="F")
    return new_img_like(maps, data[..., 0] if signals.ndim == 1 else data, maps.affine)


def _inside(target: Any, mask_img: Any) -> NDArray[np.bool_] | None:
    if mask_img is None:
        return None
    mask = check_niimg_3d(mask_img)
    check_same_space(target, mask, b_name=image_name(mask_img))
    return np.asarray(finite_data(mask) != 0)


def _weights(maps: Any, inside: NDArray[np.bool_] | None) -> tuple[Any, np.dtype[Any]]:
    """Return the maps as a sparse matrix (v, n_maps), voxels in Fortran order, and the type they had."""
    from scipy.sparse import csr_array

    data = image_data(maps)
    outside = None if inside is None else ~inside.ravel(order="F")
    voxels, columns, values = [], [], []
    replaced = False
    for column in range(data.shape[3]):
        flat = data[..., column].ravel(order="F")
        places = np.flatnonzero(flat)
        if outside is not None:
            places = places[~outside[places]]
        of_map = flat[places].astype(np.float64)
        finite = np.isfinite(of_map)
        replaced |= not finite.all()
        voxels.append(places[finite])
        values.append(of_map[finite])
        columns.append(np.full(int(finite.sum()), column))
    if replaced:
        exceptions.warn("Non-finite values detected. These values will be replaced with zeros.")
    shape = (math.prod(data.shape[:3]), data.shape[3])
    place = (np.concatenate(voxels), np.concatenate(columns))
    return csr_array((np.concatenate(values), place), shape=shape), data.dtype


def _labels_left(weights: Any, keep: bool) -> NDArray[np.int64]:
    """Return the maps that the mask leaves something of, and say which ones it does not."""
    n_maps = weights.shape[1]
    if keep:
        exceptions.warn(
            'Applying "mask_img" before signal extraction may result in empty region signals in the output. These are '
            'currently kept.\n"keep_masked_maps" parameter will be removed in version 0.15. Set '
            '"keep_masked_maps=False" to silence this warning.',
            FutureWarning,
        )
        return np.arange(n_maps)
    left = np.unique(weights.indices).astype(np.int64)
    if not len(left):
        raise DataError("No map left after applying mask to the maps image.", "do mask and maps overlap?")
    if len(left) < n_maps:
        lost = ", ".join(str(i) for i in np.setdiff1d(np.arange(n_maps), left))
        exceptions.warn(
            f"After applying mask to the maps image, maps with the following indices were removed: {{{lost}}}. Out of "
            f"{n_maps} maps, the masked map image only contains {len(left)} maps."
        )
    return left


def _least_squares(weights: Any) -> tuple[NDArray[np.float64], Any]:
    """Return (solve, left), for which (left @ volume) @ solve is the least-squares fit of the maps to a volume."""
    gram = np.asarray((weights.T @ weights).todense())
    spectrum = np.linalg.eigvalsh(gram)
    if spectrum.size and spectrum[0] * _WELL_CONDITIONED > spectrum[-1]:
        return np.linalg.inv(gram), weights.T.tocsr()
    q, r = np.linalg.qr(weights.todense())
    return np.linalg.pinv(r, rcond=np.finfo(np.float64).eps * max(weights.shape)).T, q.T


def _covered(series: VolumeSeries, places: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.float64], bool]]:
    """Yield blocks of rows (n, w): the values at some places, in Fortran order, NaN and infinity as 0."""
    size = max(1, _BLOCK_BYTES // max(1, 8 * len(places)))
    where = np.unravel_index(places, series.shape, order="F")
    for start in range(0, len(series), size):
        stop = min(len(series), start + size)
        rows = np.empty((stop - start, len(places)))

        def fill(index: int, volume: NDArray[Any]) -> None:
            rows[index - start] = volume[where]  # noqa: B023

        series.for_each(fill, start, stop)
        broken = ~np.isfinite(rows)
        replaced = bool(broken.any())
        if replaced:
            rows[broken] = 0
        yield start, rows, replaced
    series.release()
