"""The CUDA backend: CuPy arrays on one device, with kernels of our own where CuPy has none for a whole batch."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends import (
    cuda_graph,
    cuda_mask,
    cuda_ops,
    cuda_permutation,
    cuda_product,
    cuda_sign_flips,
    cuda_stream,
)
from gpuroi.backends.base import Array, Backend
from gpuroi.backends.cuda_kernels import KERNEL_VARIANTS
from gpuroi.backends.cuda_memory import free_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike, NDArray

__all__ = ["KERNEL_VARIANTS", "cuda_backend"]


@functools.cache
def cuda_backend(index: int) -> Backend:
    """Return the backend of CUDA device `index`; the device is not touched before the backend is used.

    Parameters
    ----------
    index : int
        Number of the device, as CuPy counts.

    Returns
    -------
    Backend
        Every field works on this device, whichever is current when it is called, and on its current stream.

    Raises
    ------
    ImportError
        If CuPy is not installed.
    """
    import cupy

    def here(f: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(f)
        def on_device(*args: Any, **kwargs: Any) -> Any:
            with cupy.cuda.Device(index):
                return f(*args, **kwargs)

        return on_device

    return Backend(
        name="cuda",
        device=f"cuda:{index}",
        xp=cupy,
        owns=_owns,
        asarray=here(_asarray),
        to_numpy=here(_to_numpy),
        activate=lambda: cupy.cuda.Device(index),
        free_bytes=here(free_bytes),
        release=here(_release),
        out_of_memory=cupy.cuda.memory.OutOfMemoryError,
        stream=here(cuda_stream.stream),
        moments=here(cuda_ops.moments),
        log_betainc=here(cuda_ops.log_betainc),
        gaussian=here(cuda_ops.gaussian),
        dilate=here(cuda_ops.dilate),
        erode=here(cuda_ops.erode),
        label=here(cuda_ops.label),
        threshold=here(cuda_ops.threshold),
        percentile=here(cuda_ops.percentile),
        label_sums=here(cuda_ops.label_sums),
        gather=here(cuda_mask.gather),
        scatter=here(cuda_mask.scatter),
        products=here(cuda_product.products),
        permutation_statistics=here(cuda_permutation.permutation_statistics),
        exceedances=here(cuda_permutation.exceedances),
        sign_flip_sums=here(cuda_sign_flips.sign_flip_sums),
        cluster_maxima=here(cuda_graph.cluster_maxima),
        cluster_labels=here(cuda_graph.cluster_labels),
        tfce=here(cuda_graph.tfce),
    )


def _owns(array: object) -> bool:
    import cupy

    return isinstance(array, cupy.ndarray)


def _asarray(host: Any, dtype: DTypeLike | None = None) -> Array:
    """Copy to the device in the same memory layout; what grows with `dtype` travels as it is and grows there."""
    import cupy

    if _owns(host):
        return cupy.asarray(host, dtype=dtype)
    array = np.asarray(host)
    wanted = (array.dtype if dtype is None else np.dtype(dtype)).newbyteorder("=")
    if wanted.itemsize <= array.itemsize:
        array = array.astype(wanted, copy=False)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    axes = _by_stride(array)
    if not array.transpose(axes).flags.c_contiguous:
        array, axes = np.ascontiguousarray(array), tuple(range(array.ndim))
    back = tuple(np.argsort(axes).tolist())
    return cupy.asarray(array.transpose(axes)).astype(wanted, copy=False).transpose(back)


def _to_numpy(array: Array) -> NDArray[Any]:
    """Copy to the host in the same memory layout."""
    axes = _by_stride(array)
    if not array.transpose(axes).flags.c_contiguous:
        axes = tuple(range(array.ndim))
    back = np.argsort(axes).tolist()
    host: NDArray[Any] = array.transpose(axes).get()  # sync: copies to the host
    return host.transpose(back)


def _by_stride(array: Array) -> tuple[int, ...]:
    """Axes in the order of memory, slowest first: if the array fills its memory, this transpose is C-contiguous."""
    return tuple(sorted(range(array.ndim), key=lambda axis: -array.strides[axis]))


def _release() -> None:
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
