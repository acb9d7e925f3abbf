"""Thresholding: by value or percentile, one- or two-sided, voxel by voxel or by cluster."""

from __future__ import annotations

import math
from typing import Any

from gpuroi.backends import backend_of
from gpuroi.backends.base import Array, Backend
from gpuroi.errors import UsageError
from gpuroi.ops.label import connectivity_structure
from gpuroi.ops.volumes import as_float, as_inside, as_volumes

__all__ = ["percentile_cutoff", "threshold"]


def threshold(
    data: Any,
    cutoff: float | str,
    *,
    two_sided: bool = True,
    cluster_threshold: int = 0,
    connectivity: Any = 6,
    mask: Any = None,
) -> Any:
    """Keep the values that reach a cutoff and set all others to 0.

    Parameters
    ----------
    data : array, shape (..., X, Y, Z)
        Maps, NumPy or CuPy; each is thresholded by itself.
    cutoff : float or str
        A value, or a percentile such as "97%" (see `percentile_cutoff` for its population).
    two_sided : bool, default True
        True keeps ``|x| >= cutoff``. False keeps ``x >= cutoff``, or ``x <= cutoff`` if that is negative.
    cluster_threshold : int, default 0
        Keep only clusters of at least this many voxels; 0 and 1 keep all. Positive and negative values
        form clusters apart; zeros form none.
    connectivity : {6, 18, 26} or bool array of shape (3, 3, 3), default 6
        Neighbours of a voxel, for the clusters.
    mask : array, shape (X, Y, Z), optional
        Applied first: values outside become 0, count for no percentile and for no cluster.

    Returns
    -------
    array, shape, dtype and device of `data`
        A new array. NaN is never kept.

    Raises
    ------
    UsageError
        A negative cutoff with `two_sided`; a percentile outside 0..100; a NaN cutoff.
    DataError
        Fewer than three axes; a mask of another shape; complex data.

    Notes
    -----
    The comparison includes the cutoff, as nilearn's does; a cutoff is first rounded to the precision of the data, so
    that a float32 map of 2.3 is kept at 2.3. An empty population (nothing inside the mask, all NaN) keeps nothing.

    Examples
    --------
    >>> import numpy as np
    >>> data = np.array([[[-3.0, -1.0, 0.0, 2.0, 3.0]]])
    >>> threshold(data, 2.0)[0, 0]
    array([-3., 0., 0., 2., 3.])
    >>> threshold(data, 2.0, cluster_threshold=2)[0, 0]
    array([0., 0., 0., 2., 3.])
    """
    backend = backend_of(data, mask)
    structure = connectivity_structure(connectivity)
    if cluster_threshold < 0:
        raise UsageError(f"cluster_threshold is {cluster_threshold} voxels", "give 0 or more")
    given = data if backend.owns(data) else backend.xp.asarray(data)
    values = as_float(backend, given, "data")
    volumes = as_volumes(values, "data")
    inside = as_inside(backend, mask, volumes.shape[1:])
    cutoffs, side = _cutoffs(backend, volumes, cutoff, two_sided, inside)
    kept = backend.threshold(volumes, cutoffs, side, math.ceil(cluster_threshold), structure, inside)
    return kept.reshape(values.shape).astype(given.dtype.newbyteorder("="), copy=False)


def percentile_cutoff(data: Any, percentile: float | str, *, two_sided: bool = True, mask: Any = None) -> Any:
    """Return the value below which a percentage of each map lies.

    Parameters
    ----------
    data : array, shape (..., X, Y, Z)
    percentile : float or str
        0 to 100, or with a percent sign: "97%".
    two_sided : bool, default True
        The population: ``|x|``, or, if False, the values that are not negative.
    mask : array, shape (X, Y, Z), optional
        The population is inside it. Without a mask all voxels count, the zeros of the background too.

    Returns
    -------
    float, or float64 array of shape (...) for a batch
        Interpolated linearly between the two nearest values. NaN values are left out; NaN if nothing is left. The
        float of a single CuPy volume synchronises the device once.

    Raises
    ------
    UsageError
        A percentile outside 0..100.
    DataError
        Fewer than three axes; a mask of another shape; complex data.

    Examples
    --------
    >>> import numpy as np
    >>> percentile_cutoff(np.arange(-5.0, 6.0).reshape(1, 1, 11), "50%")
    3.0
    """
    backend = backend_of(data, mask)
    values = as_float(backend, data, "data")
    volumes = as_volumes(values, "data")
    inside = as_inside(backend, mask, volumes.shape[1:])
    cutoffs = _percentiles(backend, volumes, _as_percent(percentile), two_sided, inside)
    if values.ndim == 3:
        return float(cutoffs[0])  # sync: reads one float
    return cutoffs.reshape(values.shape[:-3])


def _cutoffs(
    backend: Backend, volumes: Array, cutoff: float | str, two_sided: bool, inside: Array | None
) -> tuple[Array, str]:
    """One cutoff per map in the dtype of the data, and the side that is kept."""
    if isinstance(cutoff, str):
        values = _percentiles(backend, volumes, _as_percent(cutoff), two_sided, inside)
        return values.astype(volumes.dtype), "both" if two_sided else "above"
    value = float(cutoff)
    if math.isnan(value):
        raise UsageError("the cutoff is NaN", "give a number, or a percentile such as 97%")
    if two_sided and value < 0:
        raise UsageError(
            f"the cutoff {value} is negative, but both sides are kept",
            "give its absolute value, or two_sided=False to keep what lies below it",
        )
    side = "both" if two_sided else "below" if value < 0 else "above"
    return backend.xp.full(len(volumes), value, dtype=volumes.dtype), side


def _percentiles(backend: Backend, volumes: Array, q: float, two_sided: bool, inside: Array | None) -> Array:
    """Cutoffs (n,), taken over the voxels in the order in which they lie in memory: no copy of Fortran volumes."""
    rows = volumes
    if len(volumes) and volumes[0].flags.f_contiguous:
        rows = volumes.transpose(0, 3, 2, 1)
        inside = None if inside is None else inside.T
    flat = None if inside is None else inside.reshape(-1)
    return backend.percentile(
        rows.reshape((len(rows), -1)) if rows.size else rows.reshape((len(rows), 0)), flat, q, two_sided
    )


def _as_percent(percentile: float | str) -> float:
    text = str(percentile).strip().removesuffix("%")
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f'"{percentile}" is not a percentile', "write it like 97%") from None
    if not 0 <= value <= 100:
        raise UsageError(f"the percentile {value} is outside 0 to 100", "write it like 97%")
    return value
