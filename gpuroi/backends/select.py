"""Choose the backend: from the arrays themselves, or from a device name."""

from __future__ import annotations

import logging
import os
from typing import Any

from gpuroi.backends.base import Backend
from gpuroi.errors import BackendError, DeviceError, UsageError

__all__ = ["backend_of", "get_backend", "get_backends", "parse_device"]

_log = logging.getLogger("gpuroi")
_said: set[str] = set()  # what `auto` has chosen is said once in a process


def backend_of(*arrays: Any) -> Backend:
    """Return the backend that owns all of the arrays (None is passed over).

    Parameters
    ----------
    *arrays : array_like or None
        CuPy arrays, or anything that NumPy can take.

    Returns
    -------
    Backend
        CUDA, on the device of the first array, if they are CuPy arrays, else CPU.

    Raises
    ------
    BackendError
        If NumPy and CuPy arrays are mixed, lie on different devices, or an image object is given.
    """
    given = [a for a in arrays if a is not None]
    on_cuda = [_is_cupy(a) for a in given]
    for array in given:
        if hasattr(array, "dataobj") and hasattr(array, "affine"):
            raise BackendError(
                f"expected an array, got the image {type(array).__name__}",
                "pass numpy.asarray(img.dataobj), or use the functions that take images (gpuroi.images)",
            )
    if not any(on_cuda):
        return _cpu()
    if not all(on_cuda):
        raise BackendError(
            "NumPy and CuPy arrays are mixed in one call",
            "move them to one side first: cupy.asarray(x) or x.get()",
        )
    devices = {int(a.device.id) for a in given}
    if len(devices) > 1:
        raise BackendError(
            f"the arrays lie on different devices: {sorted(devices)}",
            "copy them to one device first: with cupy.cuda.Device(k): cupy.asarray(x)",
        )
    return _cuda(devices.pop())


def get_backend(device: str | None = "auto") -> Backend:
    """Return the backend for a device name.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "cuda:N"}, default "auto"
        "auto" takes the environment variable GPUROI_DEVICE if it is set, else CUDA where a probe kernel
        ran, else the CPU; it says once, in the log, what it chose and why.

    Returns
    -------
    Backend

    Raises
    ------
    UsageError
        If the name is none of the above.
    DeviceError
        If CUDA is asked for by name and cannot be used: the reason, and the command that mends it.
    """
    name = device or "auto"
    if name == "auto":
        name = os.environ.get("GPUROI_DEVICE") or "auto"
    kind, index = parse_device(name)
    if kind == "cpu":
        return _cpu()

    from gpuroi.backends.probe import probe

    status = probe()
    if kind == "auto":
        if status.usable:
            _say(f"device cuda:0 ({status.devices[0].name})")
            return _cuda(0)
        _say(f"device cpu ({status.reason})")
        return _cpu()
    if not status.usable:
        raise DeviceError(f'device "{name}" asked for, but {status.reason}', status.hint)
    if index >= len(status.devices):
        found = ", ".join(f"cuda:{i} ({d.name})" for i, d in enumerate(status.devices))
        raise DeviceError(f'device "{name}" asked for, but this machine has {found}', f"use one of: {found}")
    return _cuda(index)


def get_backends(device: str | None = "auto") -> list[Backend]:
    """Return the backends for a list of devices.

    Parameters
    ----------
    device : str
        As for `get_backend`; or several CUDA devices, as "cuda:0,cuda:1"; or "all": every CUDA device, the CPU where
        there is none.

    Returns
    -------
    list of Backend
        In the order of the list, each once.

    Raises
    ------
    UsageError
        If a name is unknown, or the CPU is one of several.
    DeviceError
        If a device cannot be used.

    Examples
    --------
    >>> [backend.device for backend in get_backends("cpu")]
    ['cpu']
    """
    asked = device or "auto"
    if asked == "auto":
        asked = os.environ.get("GPUROI_DEVICE") or "auto"
    if asked == "all":
        from gpuroi.backends.probe import probe

        status = probe()
        if not status.usable:
            return [get_backend("auto")]
        _say(f"devices: all {len(status.devices)} of CUDA")
        return [_cuda(index) for index in range(len(status.devices))]
    names = [name.strip() for name in asked.split(",")]
    if len(names) > 1 and any(parse_device(name)[0] != "cuda" for name in names):
        raise UsageError(f'several devices: "{asked}"', 'name CUDA devices alone, as "cuda:0,cuda:1", or say "all"')
    found = {backend.device: backend for backend in map(get_backend, names)}
    return list(found.values())


def parse_device(name: str) -> tuple[str, int]:
    """Split a device name into its kind ("auto", "cpu" or "cuda") and its index.

    Examples
    --------
    >>> parse_device("cuda:1")
    ('cuda', 1)
    """
    kind, colon, number = name.partition(":")
    if (kind == "cuda" and (not colon or number.isdecimal())) or name in ("auto", "cpu"):
        return kind, int(number or 0)
    raise UsageError(f'unknown device "{name}"', 'use "auto", "cpu", "cuda" or "cuda:N" (also in GPUROI_DEVICE)')


def _is_cupy(array: object) -> bool:
    """True for CuPy arrays, told by the name of the type's module, so that CuPy is never imported to ask."""
    return type(array).__module__.partition(".")[0] == "cupy"


def _cpu() -> Backend:
    from gpuroi.backends.cpu import CPU

    return CPU


def _cuda(index: int) -> Backend:
    from gpuroi.backends.cuda import cuda_backend

    return cuda_backend(index)


def _say(text: str) -> None:
    if text not in _said:
        _said.add(text)
        _log.info(text)
