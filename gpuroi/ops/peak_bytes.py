"""What each op allocates at its peak, beyond its input: to plan chunks with, before any memory is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuroi.backends.threads import n_threads
from gpuroi.errors import UsageError

__all__ = ["peak_bytes"]


def peak_bytes(
    op: str,
    shape: Sequence[int],
    dtype: Any = np.float32,
    *,
    device: str = "cpu",
    masked: bool = False,
    clusters: bool = False,
    percentile: bool = False,
    iterations: int = 1,
) -> int:
    """Return the bytes that an op allocates at its peak, result included, input not.

    Parameters
    ----------
    op : str
        "threshold", "smooth", "ttest_1samp", "ttest_rel", "ttest_ind", "f_oneway", "binary_dilation",
        "binary_erosion", "binary_fill_holes" or "label".
    shape : sequence of int
        Of the data: (..., X, Y, Z), or (n, ...) for the tests, n observations in all samples together.
    dtype : dtype, default float32
        Of the data.
    device : str, default "cpu"
        "cpu" or "cuda", with or without a number.
    masked, clusters, percentile : bool, default False
        A mask; a cluster threshold; a percentile for a cutoff.
    iterations : int, default 1
        Of the morphology.

    Returns
    -------
    int
        1.0 to 1.2 times what is measured for volumes of 30 000 voxels or more; below that small fixed buffers weigh
        more. Clusters and labels are counted as for noise of which a sixth is inside.

    Raises
    ------
    UsageError
        An op that is not in the list.

    Examples
    --------
    >>> peak_bytes("threshold", (10, 91, 109, 91)) // (10 * 91 * 109 * 91)
    4
    """
    if op not in _RULES:
        raise UsageError(f'no op "{op}"', f"use one of {', '.join(sorted(_RULES))}")
    size = tuple(int(s) for s in shape)
    spatial = size[-3:] if op not in _TESTS else size[1:]
    voxels = int(np.prod(spatial, dtype=np.int64))
    n = int(np.prod(size, dtype=np.int64)) // max(1, voxels)
    given = np.dtype(dtype)
    item = 8 if (given.kind == "f" and given.itemsize > 4) or (given.kind in "iu" and given.itemsize > 2) else 4
    case = _Case(
        voxels=voxels,
        frame=int(np.prod([s + 2 for s in spatial], dtype=np.int64)),
        packed=4 * (voxels // max(1, spatial[-1])) * -(-spatial[-1] // 32),
        n=n,
        workers=min(n, n_threads()),
        item=item,
        given=given.itemsize,
        promoted=item if op not in _BINARY and given.name not in ("float32", "float64") else 0,
        on_cuda=device.startswith("cuda"),
        masked=masked,
        clusters=clusters,
        percentile=percentile,
    )
    # Scratch rows, cutoffs, weights and the rounding of allocators come on top.
    return int(1.04 * _RULES[op](case)) + _FIXED


@dataclass(frozen=True)
class _Case:
    voxels: int  # of one map; elements, for a test
    frame: int  # of one map with a margin of one voxel
    packed: int  # bytes of one map with a bit a voxel, rows of whole words
    n: int  # maps, or observations
    workers: int  # volumes in work at once on the CPU
    item: int  # bytes of a float
    given: int  # bytes of a value as it came
    promoted: int  # bytes of the float copy of a narrower or integer array
    on_cuda: bool
    masked: bool
    clusters: bool
    percentile: bool


def _threshold(c: _Case) -> float:
    batch = c.n * c.voxels
    back = c.given if c.promoted else 0  # the result goes back to the dtype of the data
    if not c.on_cuda:
        return batch * (c.promoted + c.item + back) + c.workers * c.voxels * c.clusters * 1.5
    return batch * (c.promoted + max(c.item + 9 * c.clusters, c.item + back))


def _smooth(c: _Case) -> float:
    batch = c.n * c.voxels
    if c.on_cuda:
        return batch * (c.promoted + (3 * c.item + 1 if c.masked else c.item))
    alone = c.item * (batch + c.workers * c.voxels)
    if not c.masked:
        return batch * c.promoted + alone
    return batch * (c.promoted + 3 * c.item + 1) + c.voxels * c.item


def _label(c: _Case) -> float:
    if c.on_cuda:
        return 8 * c.n * c.voxels * 1.01
    return 4 * c.n * c.voxels + c.workers * c.voxels * 6.4


def _dilation(c: _Case) -> float:
    batch = c.n * c.voxels
    if c.on_cuda:
        return batch + (c.n + c.masked) * c.packed
    return batch + c.workers * (2 * c.frame + c.masked * c.voxels)


def _erosion(c: _Case) -> float:
    batch = c.n * c.voxels
    return _dilation(c) + (0 if c.on_cuda else batch)


def _fill_holes(c: _Case) -> float:
    return 25 * c.n * c.voxels


def _per_element(each: int) -> Callable[[_Case], float]:
    return lambda c: each * c.voxels + c.promoted * c.n * c.voxels


_RULES: dict[str, Callable[[_Case], float]] = {
    "threshold": _threshold,
    "smooth": _smooth,
    "label": _label,
    "binary_dilation": _dilation,
    "binary_erosion": _erosion,
    "binary_fill_holes": _fill_holes,
    "ttest_1samp": _per_element(80),
    "ttest_rel": _per_element(80),
    "ttest_ind": _per_element(112),
    "f_oneway": _per_element(128),
}
_FIXED = 16 * 1024
_TESTS = ("ttest_1samp", "ttest_rel", "ttest_ind", "f_oneway")
_BINARY = ("label", "binary_dilation", "binary_erosion", "binary_fill_holes")
