"""The operations of the CUDA backend on CuPy arrays; `base.py` says what each of them computes.

Volumes `(n, X, Y, Z)` are worked on where they lie if they are C-contiguous or if each volume is in Fortran order, as
NIfTI images are; then the three axes are taken in reverse. Nothing here waits for the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends.base import Array, Moments
from gpuroi.backends.cuda_kernels import NULL, kernel, launch, launch_block, launch_maps
from gpuroi.errors import BackendError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["dilate", "erode", "gaussian", "label", "label_sums", "log_betainc", "moments", "percentile", "threshold"]

_CHUNK = 512  # voxels that one warp of label.cu numbers
_PACKED_TILE = 512  # words that one block of dilate.cu packs
_RADIUS = 7  # of gaussian.cu
_ENOUGH_BLOCKS = 512  # for all multiprocessors of a device
_MODES = ("reflect", "nearest", "mirror", "wrap", "constant")
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

    source, turned = _in_memory_order(volumes)
    n, *shape = source.shape
    options = _real(source.dtype)
    along = weights[::-1] if turned else weights
    radii = [w.size // 2 for w in along]
    if max(radii) > _RADIUS or not source.size:
        return _turn(_by_axis(source, along, mode), turned)
    halves = np.zeros((3, _RADIUS + 1))
    for row, w in zip(halves, along, strict=True):
        row[: w.size // 2 + 1] = w[w.size // 2 :]
    out = cp.empty(source.shape, source.dtype)
    tiles = n * -(-shape[1] // 32) * -(-shape[2] // 32)
    # Few volumes: slabs of planes share a column of tiles, at the price of reading their margins again.
    slabs = max(1, min(_ENOUGH_BLOCKS // tiles, shape[0] // (4 * radii[0] + 1)))
    span = -(-shape[0] // slabs)
    numbers = (*radii, _MODES.index(mode), span)
    taps = cp.asarray(halves.astype(source.dtype))
    args = (source, out, taps, *map(np.int32, numbers), np.int64(n), *map(np.int32, shape))
    launch_block(kernel("gaussian", "gaussian", options), tiles * -(-shape[0] // span), args, threads=(32, 16))
    return _turn(out, turned)


def _by_axis(source: Array, along: Sequence[NDArray[np.float64]], mode: str) -> Array:
    """Wide weights, which the planes of the kernel do not hold: an axis at a time, by CuPy."""
    import cupy as cp
    from cupyx.scipy.ndimage import correlate1d

    out = cp.empty(source.shape, source.dtype)
    taps = [cp.asarray(w, dtype=source.dtype) for w in along]
    step = max(1, len(source) // 16)  # volumes at a time: little beside the result
    for start in range(0, len(source), step):
        part = source[start : start + step]
        for axis, w in enumerate(taps, start=1):
            if w.size > 1 and part.size:
                part = correlate1d(part, w, axis=axis, mode=mode, cval=0.0)
        out[start : start + step] = part
    return out


def dilate(mask: Array, offsets: NDArray[np.int64], iterations: int, inside: Array | None, border: bool) -> Array:
    """Repeated dilation by a set of offsets (`Backend.dilate`)."""
    return _spread(mask, offsets, iterations, inside, border, flip=False)


def erode(mask: Array, offsets: NDArray[np.int64], iterations: int, inside: Array | None, border: bool) -> Array:
    """Repeated erosion by a set of offsets (`Backend.erode`)."""
    return _spread(mask, offsets, iterations, inside, not border, flip=True)


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
    values = cp.ascontiguousarray(values)
    within = NULL if inside is None else cp.ascontiguousarray(inside)
    out = cp.empty(n, np.float64)
    args = (values, within, np.float64(q / 100), np.int32(two_sided), out, np.int64(n), np.int64(v))
    launch(kernel("percentile", "percentile", _real(values.dtype)), n, args, threads=512)
    return out


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


def _spread(
    mask: Array, offsets: NDArray[np.int64], iterations: int, inside: Array | None, border: bool, *, flip: bool
) -> Array:
    """Dilate packed rows: one launch a step, nothing read back between them."""
    import cupy as cp

    source, turned = _in_memory_order(mask)
    n, size_a, size_b, size_c = source.shape
    if iterations < 1 or source.size == 0:
        return _turn(source.copy(), turned)
    rows, n_words = n * size_a * size_b, -(-size_c // 32)
    within, inside_rows = NULL, 0
    if inside is not None:
        inside_rows = rows if inside.ndim == 4 else size_a * size_b
        within = _packed(cp.ascontiguousarray(_turn(inside, turned)), inside_rows, size_c)
    # Sorted, offsets of one row stand together and the row is looked up once.
    along = cp.asarray(np.unique(offsets[:, ::-1] if turned else offsets, axis=0).astype(np.int32))
    now = _packed(source, rows, size_c, flip=flip, border=border)
    then = cp.empty_like(now)
    sizes = (np.int64(n), np.int32(size_a), np.int32(size_b), np.int32(size_c), np.int32(n_words))
    looking = (within, np.int64(inside_rows), along, np.int32(len(along)), np.int32(border), *sizes)
    for _ in range(iterations):
        launch(kernel("dilate", "dilate_step"), -(-now.size // 256), (now, then, *looking))
        now, then = then, now
    del then  # its memory is there for the result
    out = cp.empty(source.shape, np.bool_)
    args = (now, out, np.int32(flip), np.int64(rows), np.int32(size_c), np.int32(n_words))
    launch(kernel("dilate", "dilate_unpack"), -(-out.size // (16 * 256)), args)
    return _turn(out, turned)


def _packed(mask: Array, rows: int, size_c: int, *, flip: bool = False, border: bool = False) -> Array:
    """Rows of bool voxels as 32-bit words, lowest bit first."""
    import cupy as cp

    n_words = -(-size_c // 32)
    words = cp.empty((rows, n_words), np.uint32)
    args = (mask, words, np.int32(flip), np.int32(border), np.int64(rows), np.int32(size_c), np.int32(n_words))
    launch(kernel("dilate", "dilate_pack"), -(-words.size // _PACKED_TILE), args)
    return words


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
