"""Masks of surfaces: values at the vertices of all parts, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuroi.nilearn.surface_images import check_same_mesh, finite_parts, smooth_surface, surface_data, surface_like

__all__ = ["load_surface_mask", "surface_series", "unmask_surface"]

Check = Callable[[NDArray[Any]], NDArray[np.bool_]]


def load_surface_mask(mask_img: Any, check: Check) -> Any:
    """Return a mask as a SurfaceImage with bool parts; NaN and infinity are outside.

    Parameters
    ----------
    mask_img : SurfaceImage
        Data of one axis. Unlike nilearn's function this one leaves it as it is.
    check : callable
        Makes bool of the values of all parts, or raises.
    """
    mask_img.data._check_ndims(1)
    values = np.concatenate(list(finite_parts(mask_img, warn=True).values()))
    return _split(mask_img, check(values))


def surface_series(
    imgs: list[Any], mask: Any, dtype: DTypeLike | str | None = "f", fwhm: float | None = None
) -> NDArray[Any]:
    """Return values at the vertices of a mask.

    Parameters
    ----------
    imgs : list of SurfaceImage
        Data (v,) or (v, n); NaN and infinity become 0, with or without smoothing, as in nilearn.
    mask : SurfaceImage
        With bool parts.
    dtype, fwhm
        As for `apply_mask`.

    Returns
    -------
    array, shape (n, v)

    Raises
    ------
    MeshDimensionError
        If the meshes do not fit.
    """
    inside = surface_data(mask)
    rows = []
    for img in imgs:
        check_same_mesh(mask.mesh, img.mesh)
        parts = smooth_surface(img, fwhm).data.parts if fwhm else finite_parts(img, warn=False)
        values = np.concatenate(list(parts.values()))[inside]
        rows.append(np.atleast_2d(values.T))
    found = rows[0] if len(rows) == 1 else np.concatenate(rows)
    if isinstance(dtype, str) and dtype == "f":
        dtype = found.dtype if found.dtype.kind == "f" else np.float32
    return np.ascontiguousarray(found, dtype=dtype)


def unmask_surface(values: NDArray[Any], mask: Any) -> Any:
    """Return values (v,) or (n, v) as a SurfaceImage, 0 outside the mask."""
    inside = surface_data(mask)
    out = np.zeros((inside.size, *values.shape[:-1]), values.dtype)
    out[inside] = values.T
    return _split(mask, out)


def _split(like: Any, values: NDArray[Any]) -> Any:
    parts, stop = {}, 0
    for name, part in like.data.parts.items():
        start, stop = stop, stop + len(part)
        parts[name] = values[start:stop]
    return surface_like(like, parts)
