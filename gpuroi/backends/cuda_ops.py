"""The operations of the CUDA backend on CuPy arrays; `base.py` says what each of them computes.

Volumes `(n, X, Y, Z)` are worked on where they lie if they are C-contiguous or if each volume is in Fortran order, as
NIfTI images are; then the three axes are taken in reverse. Nothing here waits for the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends.base import Array, Moments
from gpuroi.backends.cuda_kernels import NULL, kernel, launch, launch_maps
from gpuroi.errors import BackendError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["dilate", "gaussian", "label", "label_sums", "log_betainc", "moments", "percentile", "threshold"]

_CHUNK = 512  # voxels that one warp of label.cu numbers
_SIDES = {"both": 0, "above": 1, "below": 2}


def moments(x: Array, minus: Array | None, omit_nan: bool) -> Moments:
    """Shifted sums over observations (`Backend.moments`)."""
    import cupy as cp

    n, v = x.shape
    dtype = x.dtype if minus is None else cp.result_type(x, minus)
    x = cp.ascontiguousarray(x, dtype=dtype)
    other = NULL if minus is None else cp.ascontiguousarray(minus, dtype=dtype)
    count = cp.empty(v, np.int64) if omit_nan else None
    shift, mean, ss = (cp.empty(v, np.float64) for _ in range(3))
    launch(
        kernel("moments", "moments", _real(dtype)),
        -(-v // 32),
        (x, other, np.int64(n), np.int64(v), NULL if count is None else count, shift, mean, ss),
    )
    return Moments(n if count is None else count, shift, mean, ss)


def log_betainc(a: Array | float, b: float, x: Array, y: Array) -> Array:
    """Log of the regularised incomplete beta function (`Backend.log_betainc`)."""
    import cupy as cp

    x, y = (cp.ascontiguousarray(value, dtype=np.float64) for value in (x, y))
    each, same = (cp.ascontiguousarray(a, dtype=np.float64), 0.0) if isinstance(a, cp.ndarray) else (NULL, a)
    out = cp.empty(x.shape, np.float64)
    function = kernel("log_betainc", "log_betainc")
    launch(function, -(-x.size // 256), (each, np.float64(same), np.float64(b), x, y, out, np.int64(x.size)))
    return out


def gaussian(volumes: Array, weights: tuple[NDArray[np.float64], ...], mode: str) -> Array:
    """Separable correlation (`Backend.gaussian`); float32 is summed in float32, unlike SciPy: 3e-7 of the maximum."""
    import cupy as cp
    from cupyx.scipy.ndimage import correlate1d

    result, turned = _in_memory_order(volumes)
    different = {w.tobytes(): w for w in weights if w.size > 1}
    on_device = {key: cp.asarray(w, dtype=volumes.dtype) for key, w in different.items()}
    for axis, w in enumerate(reversed(weights) if turned else weights, start=1):
        if w.size > 1 and result.size:
            result = correlate1d(result, on_device[w.tobytes()], axis=axis, mode=mode, cval=0.0)
    if not on_device or not result.size:
        result = result.copy()
    return _turn(result, turned)


def dilate(mask: Array, offsets: NDArray[np.int64], iterations: int, inside: Array | None, border: bool) -> Array:
    """Repeated dilation by a set of offsets (`Backend.dilate`)."""
    import cupy as cp

    source, turned = _in_memory_order(mask)
    n, size_a, size_b, size_c = source.shape
    v = size_a * size_b * size_c
    if iterations < 1 or source.size == 0:
        return _turn(source.copy(), turned)
    within, step = NULL, 0
    if inside is not None:
        within = cp.ascontiguousarray(_turn(inside, turned))
        step = v if inside.ndim == 4 else 0
    along = cp.asarray(np.ascontiguousarray(offsets[:, ::-1] if turned else offsets, dtype=np.int32))
    function = kernel("dilate", "dilate")
    sizes = (np.int64(n), np.int32(size_a), np.int32(size_b), np.int32(size_c))
    buffers = [cp.empty(source.shape, np.bool_) for _ in range(min(iterations, 2))]
    for i in range(iterations):
        target = buffers[i % 2]
        args = (source, target, within, np.int64(step), along, np.int32(len(offsets)), np.int32(border), *sizes)
        launch_maps(function, n, v, args)
        source = target
    return _turn(source, turned)


def label(mask: Array, structure: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Connected components in SciPy's order (`Backend.label`)."""
    import cupy as cp

    # Roots are the first voxels in the order of the array, and that has to be X, Y, Z: a copy of one byte a voxel.
    turned = _is_turned(mask)
    classes = cp.ascontiguousarray(mask)
    n, size_x, size_y, size_z = classes.shape
    v = size_x * size_y * size_z
    labels = cp.empty((n, size_z, size_y, size_x) if turned else classes.shape, np.int32)
    if classes.size == 0:
        return _turn(labels, turned), cp.zeros(n, np.int64)
    parents = _forest(classes, structure)
    chunks = -(-v // _CHUNK)
    offsets = cp.empty((n, chunks), np.int32)
    totals = cp.empty(n, np.int64)
    n_, v_, chunks_, turned_ = np.int64(n), np.int32(v), np.int32(chunks), np.int32(turned)
    sizes = (np.int32(size_x), np.int32(size_y), np.int32(size_z))
    per_thread = _CHUNK // 32
    launch_maps(kernel("label", "label_roots"), n, v, (parents, offsets, n_, v_, chunks_), per_thread=per_thread)
    launch(kernel("label", "label_scan"), n, (offsets, totals, n_, chunks_))
    number = (parents, offsets, labels, turned_, n_, *sizes, chunks_)
    launch_maps(kernel("label", "label_number"), n, v, number, per_thread=per_thread)
    launch_maps(kernel("label", "label_write"), n, v, (parents, labels, turned_, n_, *sizes))
    return _turn(labels, turned), totals


def threshold(
    volumes: Array,
    cutoffs: Array,
    side: str,
    min_size: int,
    structure: NDArray[np.bool_],
    inside: Array | None,
) -> Array:
    """Values that pass, in clusters of a least size (`Backend.threshold`)."""
    import cupy as cp

    x, turned = _in_memory_order(volumes)
    n, v = x.shape[0], x[:1].size
    options = _real(x.dtype)
    within = NULL if inside is None else cp.ascontiguousarray(_turn(inside, turned))
    out = cp.empty(x.shape, x.dtype)
    passing = (x, cp.ascontiguousarray(cutoffs), np.int32(_SIDES[side]), within)
    total = (np.int64(n), np.int64(v))
    if min_size <= 1:
        launch_maps(kernel("threshold", "threshold_keep", options), n, v, (*passing, out, *total))
        return _turn(out, turned)
    classes = cp.empty(x.shape, np.uint8)
    launch_maps(kernel("threshold", "threshold_classes", options), n, v, (*passing, classes, *total))
    parents = _forest(classes, structure.T if turned else structure)
    sizes = cp.zeros(x.shape, np.int32)
    launch_maps(kernel("label", "label_sizes"), n, v, (parents, sizes, np.int64(n), np.int32(v)))
    args = (x, parents, sizes, np.int64(min_size), out, *total)
    launch_maps(kernel("threshold", "threshold_clusters", options), n, v, args)
    return _turn(out, turned)


def percentile(values: Array, inside: Array | None, q: float, two_sided: bool) -> Array:
    """One cutoff per map (`Backend.percentile`), to the bit as `numpy.percentile` of float64 values gives it.

    Where the two neighbours in rank are equal it is they, infinite ones too (NumPy: NaN).
    """
    import cupy as cp

    n, v = values.shape
    if values.size == 0:
        return cp.full(n, np.nan)
    population = cp.abs(values) if two_sided else values
    counted = population >= 0  # False for NaN
    if inside is not None:
        counted &= inside
    ranked = cp.where(counted, population, values.dtype.type(np.nan))
    ranked.sort(axis=1)  # NaN comes last
    at = (cp.sum(counted, axis=1, dtype=np.int64) - 1) * (q / 100)
    before = cp.floor(at)
    low, high = (
        cp.take_along_axis(ranked, cp.clip(rank, 0, v - 1).astype(np.int64)[:, None], axis=1)[:, 0].astype(np.float64)
        for rank in (before, cp.ceil(at))
    )
    # One CuPy call an operation: in one kernel the compiler would contract them to fused multiply-adds, and the last
    # bit would not be that of the CPU.
    weight, step = at - before, high - low
    between = cp.where(weight >= 0.5, high - step * (1 - weight), low + step * weight)
    return cp.where(low == high, low, between)


def label_sums(values: Array, labels: Array, n_labels: int) -> tuple[Array, Array]:
    """Sums over labels in a fixed order (`Backend.label_sums`)."""
    import cupy as cp

    values = cp.ascontiguousarray(values)
    n, v = values.shape
    sums = cp.zeros((n, n_labels), np.float64)
    if v == 0 or n_labels == 0:
        return sums, cp.zeros(n_labels, np.int64)
    known = (labels >= 1) & (labels <= n_labels)
    # Voxels by label, then by place. No two keys are equal, so that no sort can put them in another order.
    keys = cp.where(known, labels, n_labels + 1).astype(np.int64) * v + cp.arange(v, dtype=np.int64)
    keys.sort()
    starts = cp.searchsorted(keys, cp.arange(1, n_labels + 2, dtype=np.int64) * v)
    function = kernel("label_sums", "label_sums", _real(values.dtype))
    args = (values, keys % v, starts, sums, np.int64(n), np.int64(v), np.int64(n_labels))
    launch(function, n * n_labels, args, threads=128)
    return sums, cp.diff(starts)


def _forest(classes: Array, structure: NDArray[np.bool_]) -> Array:
    """Union-find forest int32 of a batch (n, a, b, c) of byte volumes: neighbours of one class, not 0, share a root."""
    import cupy as cp

    n, size_a, size_b, size_c = classes.shape
    v = size_a * size_b * size_c
    if v >= 2**31:
        raise DataError(
            f"a volume of {v} voxels: labels are int32, at most {2**31 - 1} voxels of one volume are numbered"
        )
    backward = sum(1 << bit for bit, neighbour in enumerate(structure.ravel()[:13].tolist()) if neighbour)
    parents = cp.empty(classes.shape, np.int32)
    sizes = (np.int32(size_a), np.int32(size_b), np.int32(size_c))
    launch_maps(kernel("label", "label_init"), n, v, (classes, parents, np.int64(n), np.int32(v)))
    launch_maps(kernel("label", "label_merge"), n, v, (classes, parents, np.int32(backward), np.int64(n), *sizes))
    return parents


def _in_memory_order(volumes: Array) -> tuple[Array, bool]:
    """Return the volumes C-contiguous as (n, X, Y, Z) or (n, Z, Y, X), and whether it is the latter."""
    import cupy as cp

    turned = _is_turned(volumes)
    return cp.ascontiguousarray(_turn(volumes, turned)), turned


def _is_turned(volumes: Array) -> bool:
    """True where each volume is in Fortran order, as in a NIfTI image, and the batch lies volume after volume."""
    return bool(not volumes.flags.c_contiguous and volumes.transpose(0, 3, 2, 1).flags.c_contiguous)


def _turn(array: Array, turned: bool) -> Array:
    """Reverse the last three axes if the volumes are worked on in reverse."""
    return array.swapaxes(-1, -3) if turned else array


def _real(dtype: Any) -> tuple[str, ...]:
    names = {"f": "float", "d": "double"}
    if dtype.char not in names:
        raise BackendError(f"expected float32 or float64, got {dtype}", "convert it first: x.astype(numpy.float32)")
    return (f"-DREAL={names[dtype.char]}",)
