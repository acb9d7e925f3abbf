"""The CPU backend: NumPy arrays, numba kernels in a pool of threads, SciPy for what it does best.

Kernels take one volume, C-contiguous. A volume in Fortran order is taken with its axes reversed instead of copied.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.base import Backend, Moments
from gpuroi.backends.cpu_graph import cluster_labels, cluster_maxima, tfce
from gpuroi.backends.cpu_mask import gather, scatter
from gpuroi.backends.cpu_permutation import exceedances, permutation_statistics, products
from gpuroi.backends.cpu_sign_flips import sign_flip_sums
from gpuroi.backends.cpu_stream import stream
from gpuroi.backends.memory import host_free_bytes
from gpuroi.backends.threads import n_threads, run_blocks

__all__ = ["CPU"]

_WORTH_A_THREAD = 20_000  # voxels


def _moments(x: NDArray[Any], minus: NDArray[Any] | None, omit_nan: bool) -> Moments:
    from gpuroi.backends.kernels import moments as kernels

    v = x.shape[1]
    shift, mean, ss = np.empty(v), np.empty(v), np.empty(v)
    other = x if minus is None else minus
    paired = minus is not None
    if not omit_nan:
        run_blocks(lambda lo, hi: kernels.moments(x, other, paired, lo, hi, shift, mean, ss), v, least=1024)
        return Moments(len(x), shift, mean, ss)
    count = np.empty(v, np.int64)
    run_blocks(lambda lo, hi: kernels.moments_omit(x, other, paired, lo, hi, count, shift, mean, ss), v, least=1024)
    return Moments(count, shift, mean, ss)


def _log_betainc(a: NDArray[Any] | float, b: float, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    from gpuroi.backends.kernels.log_betainc import log_betainc

    each = np.ascontiguousarray(np.atleast_1d(a), dtype=np.float64)
    step = 0 if np.ndim(a) == 0 else 1
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    out = np.empty(x.shape)
    run_blocks(lambda lo, hi: log_betainc(each, step, float(b), x, y, out, lo, hi), x.size, least=1024)
    return out


def _gaussian(volumes: NDArray[Any], weights: tuple[NDArray[np.float64], ...], mode: str) -> NDArray[Any]:
    from gpuroi.backends.kernels.gaussian import correlate_columns, correlate_planes

    source, flipped = _oriented(volumes)
    taps = [w.astype(source.dtype) for w in (weights[::-1] if flipped else weights)]
    size_a, size_b, size_c = source.shape[1:]
    out = np.empty_like(source)
    if out.size == 0:
        return _restored(out, flipped)
    index = [_source_rows(n, w.size // 2, mode) for n, w in zip(source.shape[1:], taps, strict=True)]

    def smooth_volumes(start: int, stop: int) -> None:
        planes = np.empty(source.shape[1:], source.dtype) if taps[0].size > 1 else None
        for i in range(start, stop):
            target = out[i] if planes is None else planes
            correlate_planes(source[i], target, taps[1], taps[2], index[1], index[2], 0, size_a)
            if planes is not None:
                flat = (size_a, size_b * size_c)
                correlate_columns(planes.reshape(flat), out[i].reshape(flat), taps[0], index[0], 0, flat[1])

    if len(source) > 1:
        run_blocks(smooth_volumes, len(source), least=_worth_a_thread(source))
        return _restored(out, flipped)
    # One volume: its planes, then its columns, are shared out instead.
    planes = np.empty(source.shape[1:], source.dtype) if taps[0].size > 1 else out[0]
    run_blocks(lambda lo, hi: correlate_planes(source[0], planes, taps[1], taps[2], index[1], index[2], lo, hi), size_a)
    if taps[0].size > 1:
        flat = (size_a, size_b * size_c)
        columns, result = planes.reshape(flat), out[0].reshape(flat)
        run_blocks(
            lambda lo, hi: correlate_columns(columns, result, taps[0], index[0], lo, hi),
            flat[1],
            least=_WORTH_A_THREAD // size_a,
        )
    return _restored(out, flipped)


def _source_rows(size: int, radius: int, mode: str) -> NDArray[np.int64]:
    """Which row stands at positions -radius..size+radius-1 under SciPy's boundary `mode`; -1: zeros."""
    position = np.arange(-radius, size + radius)
    if mode == "constant":
        return np.where((position < 0) | (position >= size), -1, position)
    if mode == "nearest":
        return np.clip(position, 0, size - 1)
    if mode == "wrap":
        return position % size
    if mode == "mirror":  # d c b | a b c d | c b a
        period = max(1, 2 * (size - 1))
        folded = position % period
        return np.where(folded < size, folded, period - folded)
    folded = position % (2 * size)  # reflect: c b a | a b c d | d c b
    return np.where(folded < size, folded, 2 * size - 1 - folded)


def _dilate(
    mask: NDArray[np.bool_], offsets: NDArray[np.int64], iterations: int, inside: NDArray[np.bool_] | None, border: bool
) -> NDArray[np.bool_]:
    source, flipped = _oriented(mask)
    steps = offsets[:, ::-1] if flipped else offsets
    allowed = None
    if inside is not None:
        allowed = np.broadcast_to(inside, mask.shape)
        allowed = allowed.transpose(0, 3, 2, 1) if flipped else allowed
    out = np.empty_like(source)

    def dilate_volumes(start: int, stop: int) -> None:
        for i in range(start, stop):
            _dilate_one(source[i], steps, iterations, None if allowed is None else allowed[i], border, out[i])

    if out.size:
        run_blocks(dilate_volumes, len(source), least=_worth_a_thread(source))
    return _restored(out, flipped)


def _erode(
    mask: NDArray[np.bool_], offsets: NDArray[np.int64], iterations: int, inside: NDArray[np.bool_] | None, border: bool
) -> NDArray[np.bool_]:
    """Erosion is the dilation of what is False."""
    return ~_dilate(~mask, offsets, iterations, inside, not border)


def _dilate_one(
    mask: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    iterations: int,
    allowed: NDArray[np.bool_] | None,
    border: bool,
    out: NDArray[np.bool_],
) -> None:
    """Dilate one volume inside a frame of border voxels, wide enough that no offset leaves it."""
    from gpuroi.backends.kernels.dilate import or_shifts

    reach = np.abs(offsets).max(axis=0)
    frame = tuple(int(n + 2 * r) for n, r in zip(mask.shape, reach, strict=True))
    core = tuple(slice(int(r), int(r + n)) for n, r in zip(mask.shape, reach, strict=True))
    strides = np.array([frame[1] * frame[2], frame[2], 1])
    margin = int(reach @ strides)
    now, then = np.full(frame, border, np.uint8), np.empty(frame, np.uint8)
    now[core] = mask
    for _ in range(iterations):
        for step in _passes(offsets):
            or_shifts(now.ravel(), then.ravel(), step @ strides, margin, now.size - margin)
            _repaint_frame(then, reach, border)
            now, then = then, now
        if allowed is not None:
            np.copyto(now[core], mask, where=~allowed)
    out[...] = now[core]


def _passes(offsets: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """A full box of offsets as one pass per axis (6 shifts for 27 in a 3 x 3 x 3 cube); anything else as it is."""
    low, high = offsets.min(axis=0), offsets.max(axis=0)
    extent = high - low + 1
    distinct = len(np.unique(offsets, axis=0))
    if distinct != int(np.prod(extent)) or not (np.all(low <= 0) and np.all(high >= 0)):
        return [offsets]
    passes = []
    for axis in range(3):
        step = np.zeros((extent[axis], 3), np.int64)
        step[:, axis] = np.arange(low[axis], high[axis] + 1)
        if len(step) > 1:
            passes.append(step)
    return passes or [offsets]


def _repaint_frame(volume: NDArray[np.uint8], reach: NDArray[np.int64], border: bool) -> None:
    """Set the frame to the border value again: flat shifts have written into it."""
    for axis, width in enumerate(reach):
        if width:
            at: list[Any] = [slice(None)] * 3
            for edge in (slice(0, int(width)), slice(-int(width), None)):
                at[axis] = edge
                volume[tuple(at)] = border


def _label(mask: NDArray[np.bool_], structure: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    connectivity = _connectivity(structure)
    source, flipped = _oriented(mask)
    counts = np.zeros(len(mask), np.int64)
    labels = np.zeros(source.shape, np.int32)
    if labels.size == 0:
        return _restored(labels, flipped), counts
    if connectivity is None:
        return _label_by_scipy(mask, structure, counts)
    from gpuroi.backends.kernels.label import label_rows

    size_a, size_b, size_c = source.shape[1:]

    def label_volumes(start: int, stop: int) -> None:
        for i in range(start, stop):
            rows = labels[i].reshape(size_a * size_b, size_c)
            counts[i] = label_rows(_packed(source[i]), size_b, size_c, connectivity, flipped, rows)

    run_blocks(label_volumes, len(source), least=_worth_a_thread(source))
    return _restored(labels, flipped), counts


def _packed(mask: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Rows of a bool volume as 64-bit words, lowest bit first."""
    rows = mask.shape[0] * mask.shape[1]
    packed = np.packbits(mask.reshape(rows, -1), axis=1, bitorder="little")
    words = np.zeros((rows, -(-packed.shape[1] // 8)), "<u8")
    words.view(np.uint8)[:, : packed.shape[1]] = packed
    return words.astype(np.uint64, copy=False)


def _label_by_scipy(
    mask: NDArray[np.bool_], structure: NDArray[np.bool_], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Structures other than 6, 18 and 26 neighbours are rare: SciPy's general routine serves them."""
    from scipy import ndimage

    labels = np.empty(mask.shape, np.int32)
    for i in range(len(mask)):
        counts[i] = ndimage.label(mask[i], structure, output=labels[i])
    return labels, counts


def _connectivity(structure: NDArray[np.bool_]) -> int | None:
    """6, 18 or 26 if the structure is one of these, else None."""
    distance = np.abs(np.indices((3, 3, 3)) - 1).sum(axis=0)
    for connectivity, furthest in ((6, 1), (18, 2), (26, 3)):
        if np.array_equal(structure, distance <= furthest):
            return connectivity
    return None


def _threshold(
    volumes: NDArray[Any],
    cutoffs: NDArray[Any],
    side: str,
    min_size: int,
    structure: NDArray[np.bool_],
    inside: NDArray[np.bool_] | None,
) -> NDArray[Any]:
    from gpuroi.backends.kernels import threshold as kernels

    source, flipped = _oriented(volumes)
    masked = inside is not None
    allowed = np.zeros((0, *source.shape[2:]), np.bool_)
    if inside is not None:
        allowed = np.ascontiguousarray(inside.T if flipped else inside)
    code = {"both": kernels.BOTH, "above": kernels.ABOVE, "below": kernels.BELOW}[side]
    connectivity = _connectivity(structure)
    size_b, size_c = source.shape[2:]
    out = np.empty_like(source) if min_size <= 1 else np.zeros_like(source)

    def keep(start: int, stop: int) -> None:
        for i in range(start, stop):
            if min_size <= 1:
                kernels.keep_values(source[i].ravel(), allowed.ravel(), masked, cutoffs[i], code, out[i].ravel())
            elif connectivity is None:
                _keep_by_scipy(
                    source[i], allowed if masked else None, cutoffs[i], side, min_size, structure, out[i], flipped
                )
            else:
                rows = (-1, size_c)
                kernels.keep_clusters(
                    source[i].reshape(rows),
                    allowed.reshape(rows),
                    masked,
                    cutoffs[i],
                    code,
                    min_size,
                    connectivity,
                    size_b,
                    out[i].reshape(rows),
                )

    if out.size:
        run_blocks(keep, len(source), least=_worth_a_thread(source))
    return _restored(out, flipped)


def _keep_by_scipy(
    volume: NDArray[Any],
    inside: NDArray[np.bool_] | None,
    cutoff: Any,
    side: str,
    min_size: int,
    structure: NDArray[np.bool_],
    out: NDArray[Any],
    flipped: bool,
) -> None:
    from scipy import ndimage

    with np.errstate(invalid="ignore"):
        above = (volume >= cutoff) & (volume > 0)
        below = (volume <= (-cutoff if side == "both" else cutoff)) & (volume < 0)
    for passing in [above] * (side != "below") + [below] * (side != "above"):
        if inside is not None:
            passing &= inside
        labels, n = ndimage.label(passing, structure.T if flipped else structure)
        large = np.bincount(labels.ravel(), minlength=n + 1) >= min_size
        large[0] = False
        np.copyto(out, volume, where=large[labels])


def _percentile(
    values: NDArray[Any], inside: NDArray[np.bool_] | None, q: float, two_sided: bool
) -> NDArray[np.float64]:
    from gpuroi.backends.kernels.percentile import count_buckets, members_of

    bits = np.uint32 if values.dtype.itemsize == 4 else np.uint64
    width = 8 * values.dtype.itemsize
    shift = bits(width - 16)
    rule = (bits((1 << (width - 1)) - 1), np.array(np.inf, values.dtype).view(bits)[()], two_sided, shift)
    masked = inside is not None
    within = np.ones(0, np.bool_) if inside is None else np.ascontiguousarray(inside)
    keys = np.ascontiguousarray(values).view(bits)
    cutoffs = np.full(len(values), np.nan)
    # Many maps: one a thread. One map: its parts are counted side by side.
    n_parts = min(n_threads(), 1 + values.size // _WORTH_A_THREAD) if len(values) == 1 else 1
    edges = [values.shape[1] * i // n_parts for i in range(n_parts + 1)]

    def parts(row: int, work: Callable[[int, NDArray[Any], NDArray[np.bool_]], None]) -> None:
        def some(start: int, stop: int) -> None:
            for part in range(start, stop):
                piece = slice(edges[part], edges[part + 1])
                work(part, keys[row, piece], within[piece] if masked else within)

        if n_parts == 1:
            some(0, 1)
        else:
            run_blocks(some, n_parts)

    def select(start: int, stop: int) -> None:
        for row in range(start, stop):
            counts = np.zeros((n_parts, 1 << 15), np.int64)
            parts(row, lambda part, k, w: count_buckets(k, w, masked, *rule, counts[part]))  # noqa: B023
            reached = np.cumsum(counts.sum(axis=0))
            n = int(reached[-1])
            if n == 0:
                continue
            rank = q / 100 * (n - 1)
            at = int(rank)
            low, high = (int(np.searchsorted(reached, k, side="right")) for k in (at, min(at + 1, n - 1)))
            found: list[NDArray[Any]] = [np.empty(0, bits)] * n_parts

            def gather(part: int, k: NDArray[Any], w: NDArray[np.bool_]) -> None:
                room = np.empty(counts[part, [low, high]].sum(), bits)  # noqa: B023
                found[part] = room[: members_of(k, w, masked, *rule, low, high, room)]  # noqa: B023

            parts(row, gather)
            members = np.concatenate(found)
            place = at - (int(reached[low - 1]) if low else 0)
            following = min(place + 1, len(members) - 1)
            members.partition((place, following))
            pair = members[[place, following]].view(values.dtype).astype(np.float64)
            cutoffs[row] = _between(pair[0], pair[1], rank - at)

    if n_parts == 1:
        run_blocks(select, len(values), least=_worth_a_thread(values))
    else:
        select(0, len(values))
    return cutoffs


def _between(low: float, high: float, fraction: float) -> float:
    """NumPy's linear interpolation, from the nearer end."""
    if low == high:
        return low  # infinite ones too
    step = high - low
    return low + step * fraction if fraction < 0.5 else high - step * (1 - fraction)


def _label_sums(
    values: NDArray[Any], labels: NDArray[np.int32], n_labels: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from gpuroi.backends.kernels.label_sums import label_sums, labelled_runs

    begin, end, number = labelled_runs(labels)
    # Lengths as float64 weights: exact, and thirty times faster than adding at indices.
    counts = np.bincount(number, end - begin, n_labels + 1).astype(np.int64)
    sums = np.zeros((len(values), n_labels))
    run_blocks(
        lambda lo, hi: label_sums(values, begin, end, number, sums, lo, hi), len(values), least=_worth_a_thread(values)
    )
    return sums, counts[1:]


def _worth_a_thread(items: NDArray[Any]) -> int:
    """How many items (along the first axis) make it worth waking another thread, which takes 0.05 ms."""
    return 1 + _WORTH_A_THREAD * len(items) // max(1, items.size)


def _oriented(volumes: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """Volumes (n, A, B, C), each C-contiguous, and whether their axes were reversed for it."""
    if volumes.shape[0] == 0 or volumes.size == 0:
        return np.ascontiguousarray(volumes), False
    if volumes[0].flags.c_contiguous:
        return volumes, False
    if volumes[0].flags.f_contiguous:
        return volumes.transpose(0, 3, 2, 1), True
    return np.ascontiguousarray(volumes), False


def _restored(volumes: NDArray[Any], flipped: bool) -> NDArray[Any]:
    return volumes.transpose(0, 3, 2, 1) if flipped else volumes


def _asarray(array: Any, dtype: Any = None) -> NDArray[Any]:
    return np.asarray(array, dtype=dtype)


def _activate() -> AbstractContextManager[None]:
    return nullcontext()


def _release() -> None:
    """Nothing is cached on the host."""


CPU = Backend(
    name="cpu",
    device="cpu",
    xp=np,
    owns=lambda array: isinstance(array, np.ndarray),
    asarray=_asarray,
    to_numpy=np.asarray,
    activate=_activate,
    free_bytes=host_free_bytes,
    release=_release,
    out_of_memory=MemoryError,
    stream=stream,
    moments=_moments,
    log_betainc=_log_betainc,
    gaussian=_gaussian,
    dilate=_dilate,
    erode=_erode,
    label=_label,
    threshold=_threshold,
    percentile=_percentile,
    label_sums=_label_sums,
    gather=gather,
    scatter=scatter,
    products=products,
    permutation_statistics=permutation_statistics,
    exceedances=exceedances,
    sign_flip_sums=sign_flip_sums,
    cluster_maxima=cluster_maxima,
    cluster_labels=cluster_labels,
    tfce=tfce,
)
