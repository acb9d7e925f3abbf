"""Where an inference works: the devices, the data on the first of them, and a folder for what memory does not hold."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpuroi.backends import backend_of, get_backend, get_backends
from gpuroi.backends.base import Array, Backend
from gpuroi.errors import DataError, OutputError
from gpuroi.inference.columns import ColumnSource
from gpuroi.ops.volumes import as_float, float_dtype

__all__ = ["new_folder", "place", "places", "scratch_folder"]


def place(data: Any, device: str) -> tuple[Backend, Array | ColumnSource, np.dtype[Any]]:
    """Return the backend, the data on it, (n, v), and the float type that they are computed in."""
    if isinstance(data, ColumnSource):
        return get_backend(device), data, float_dtype(data.dtype, "data")
    backend = backend_of(data)
    if backend.name == "cpu":
        backend = get_backend(device)
        if backend.name != "cpu":
            data = backend.asarray(np.asarray(data))
    with backend.activate():
        values = as_float(backend, data, "data")
    if values.ndim != 2:
        raise DataError(
            f"data has shape {tuple(values.shape)}: expected (n_subjects, n_elements)",
            "take the elements inside the mask: domain.from_volume(volumes)",
        )
    return backend, values, values.dtype


def places(data: Any, device: str) -> tuple[list[Backend], Array | ColumnSource, np.dtype[Any]]:
    """Return the backends that share the work, and the data as `place` does, on the first of them.

    Data that lie on a device stay there, and those that `device` names beside it join in.
    """
    asked = os.environ.get("GPUROI_DEVICE", "") if device == "auto" else device
    if asked != "all" and "," not in asked:
        backend, values, dtype = place(data, device)
        return [backend], values, dtype
    backends = get_backends(asked)
    first, values, dtype = place(data, backends[0].device)
    return [first, *(backend for backend in backends if backend.device != first.device)], values, dtype


def new_folder(within: str | os.PathLike[str]) -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for scratch files, to be cleaned up.

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    try:
        return tempfile.TemporaryDirectory(dir=within, prefix="gpuroi-")
    except OSError as error:
        raise OutputError(f"{within}: {error.strerror}", "give a folder that can be written") from error


@contextmanager
def scratch_folder(scratch: str | os.PathLike[str] | None) -> Iterator[Path | None]:
    """A new folder within `scratch`, gone at the end; None for None."""
    if scratch is None:
        yield None
        return
    with new_folder(scratch) as name:
        yield Path(name)
