"""Maps over the elements of a domain, checked and brought to where they are worked on."""

from __future__ import annotations

import warnings
from typing import Any

from gpuroi.backends import backend_of, get_backend
from gpuroi.backends.base import Array, Backend
from gpuroi.errors import BackendError, DataError
from gpuroi.ops.volumes import as_float

__all__ = ["maps_on"]


def maps_on(maps: Any, domain: Any, device: str | None, name: str) -> tuple[Backend, Array]:
    """Return the backend that works on `maps`, and the maps there as float32 or float64 `(..., v)`.

    None for `device` is where the maps lie. Warns of infinite values (sync: reads their number).
    """
    n_elements = getattr(domain, "n_elements", None)
    if n_elements is None or not hasattr(domain, "graph"):
        raise DataError(
            f"domain is {type(domain).__name__}: it does not say which elements are neighbours",
            "pass a VoxelGrid, ParcelGraph or SurfaceMesh (gpuroi.domains)",
        )
    home = backend_of(maps)
    backend = home if device is None else get_backend(device)
    if backend.device != home.device and home.name != "cpu":
        raise BackendError(
            f'{name} lies on {home.device}, but device is "{device}"',
            "leave device out: work is done where the data lies",
        )
    with home.activate():
        values = as_float(home, maps, name)
    if values.ndim == 0 or values.shape[-1] != n_elements:
        raise DataError(
            f"{name} has shape {tuple(values.shape)}, but the domain has {n_elements} elements on the last axis",
            "take the values inside the mask first, as in volume[mask] or domain.from_volume(volume)",
        )
    with backend.activate():
        if backend.device != home.device:
            values = backend.asarray(values)
        n_infinite = int(backend.xp.sum(backend.xp.isinf(values)))  # sync: reads one number
    if n_infinite:
        warnings.warn(
            f"{name} holds {n_infinite} infinite values: they count as the largest finite one of their map",
            RuntimeWarning,
            stacklevel=3,
        )
    return backend, values
