"""The CUDA sources of this package: read as files, compiled once for each device, launched with checked scalars.

CuPy packs a Python float as 8 bytes and a Python int as int64, whatever the kernel declares: every scalar here is a
NumPy scalar of the declared type, and a null pointer is `NULL`. CuPy compiles with `-ftz=true`: float32 values below
1.2e-38 count as 0 on the device.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

__all__ = [
    "KERNEL_VARIANTS",
    "NULL",
    "kernel",
    "kernel_source",
    "launch",
    "launch_block",
    "launch_maps",
    "launch_tiles",
]

_REALS: list[tuple[str, ...]] = [("-DREAL=float",), ("-DREAL=double",)]

KERNEL_VARIANTS: dict[str, list[tuple[str, ...]]] = {
    "dilate": [()],
    "gaussian": _REALS,
    "graph_clusters": _REALS,
    "label": [()],
    "label_sums": _REALS,
    "log_betainc": [()],
    "mask": _REALS,
    "moments": _REALS,
    "percentile": _REALS,
    "sign_flips": _REALS,
    "tfce": _REALS,
    "tfce_steps": _REALS,
    "threshold": _REALS,
}
"""Every `.cu` file with the compiler options that the backend uses: what has to compile for every architecture."""

NULL = np.uint64(0)

_THREADS = 256
_MOST_BLOCKS = (65536, 65535)  # beyond these the kernels stride; y is limited by the hardware


def kernel_source(stem: str) -> str:
    """Return the text of `kernels/<stem>.cu`, so that compile errors and profilers point into that file."""
    text = files("gpuroi.backends.kernels").joinpath(f"{stem}.cu").read_text(encoding="utf-8")
    return f'#line 1 "{stem}.cu"\n{text}'


def kernel(stem: str, name: str, options: tuple[str, ...] = ()) -> Any:
    """Return the kernel `name` of `kernels/<stem>.cu`, compiled for the current device.

    Raises
    ------
    KeyError
        If this variant is not in `KERNEL_VARIANTS`, and so not among those that the tests compile.
    """
    import cupy

    return _kernel(cupy.cuda.Device().id, stem, name, options)


def launch(function: Any, blocks: int, args: tuple[Any, ...], *, threads: int = _THREADS) -> None:
    """Launch a kernel that strides over blocks on a 1-D grid, on the current stream; nothing where there are none."""
    if blocks > 0:
        function((min(blocks, _MOST_BLOCKS[0]),), (threads,), args)


def launch_maps(function: Any, n: int, size: int, args: tuple[Any, ...], *, per_thread: int = 1) -> None:
    """Launch a kernel that strides over `n` maps (y) of `size` items (x), in blocks of whole warps.

    `per_thread` is the number of items that one thread takes before the grid strides.
    """
    if n <= 0 or size <= 0:
        return
    wanted = -(-size // per_thread)
    threads = min(_THREADS, 32 * -(-wanted // 32))  # many tiny maps: one warp each
    function((min(-(-wanted // threads), _MOST_BLOCKS[0]), min(n, _MOST_BLOCKS[1])), (threads,), args)


def launch_block(function: Any, blocks: int, args: tuple[Any, ...], *, threads: tuple[int, int]) -> None:
    """Launch a kernel that strides over blocks on a 1-D grid, in blocks of two axes."""
    if blocks > 0:
        function((min(blocks, _MOST_BLOCKS[0]),), threads, args)


def launch_tiles(function: Any, n: int, tiles: int, args: tuple[Any, ...]) -> None:
    """Launch a kernel that strides over `n` groups of maps (y) of `tiles` tiles (x), in blocks of 8 warps."""
    if n > 0 and tiles > 0:
        function((min(tiles, _MOST_BLOCKS[0]), min(n, _MOST_BLOCKS[1])), (32, _THREADS // 32), args)


@cache
def _kernel(device: int, stem: str, name: str, options: tuple[str, ...]) -> Any:
    return _module(device, stem, options).get_function(name)


@cache
def _module(device: int, stem: str, options: tuple[str, ...]) -> Any:
    """One module a device: a loaded kernel belongs to the device on which it was loaded."""
    import cupy

    if options not in KERNEL_VARIANTS[stem]:
        raise KeyError(f"{stem}.cu with options {options} is not in KERNEL_VARIANTS: {KERNEL_VARIANTS[stem]}")
    return cupy.RawModule(code=kernel_source(stem), options=options)
