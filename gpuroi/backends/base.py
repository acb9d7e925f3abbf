"""The contract between the ops and the devices, on one page.

Shapes: `n` maps or observations, `v` voxels of one map, volumes `(n, X, Y, Z)` in any memory layout.
Arrays that go in and come out belong to the backend (`owns`), except where "host" is said.
No function synchronises the device or moves data between host and device, except where said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.graph import Graph

__all__ = ["Array", "Backend", "Moments"]

Array = Any  # a NumPy or a CuPy array; the backend that owns it decides


class Moments(NamedTuple):
    """Sums over observations, kept relative to a shift so that no digits are lost at large means.

    The mean is `shift + mean`; the difference of two means is `(shift_a - shift_b) + (mean_a - mean_b)`.
    """

    count: Any  # int, or int64 (v,) where NaNs are left out
    shift: Array  # (v,) float64: the first (first non-NaN) observation
    mean: Array  # (v,) float64: mean minus shift
    ss: Array  # (v,) float64: sum of squared deviations from the mean


@dataclass(frozen=True)
class Backend:
    """One array library and one device.

    What has an array-API spelling is written once, against `xp`, in `gpuroi.ops`; only what has none
    is a field here. Adding a field means that every backend must supply it:
    `tests/test_conformance.py` fails until it does.
    """

    name: str
    """`"cpu"` or `"cuda"`."""

    device: str
    """`"cpu"`, `"cuda:0"`, ..."""

    xp: Any
    """Array namespace: NumPy or CuPy."""

    owns: Callable[[object], bool]
    """Does this array belong to this library?"""

    asarray: Callable[..., Array]
    """`asarray(host, dtype=None)`: host to device, the only way in."""

    to_numpy: Callable[[Array], NDArray[Any]]
    """Device to host, the only way out. Synchronises."""

    activate: Callable[[], AbstractContextManager[Any]]
    """Context in which allocations and launches go to this device."""

    free_bytes: Callable[[], int]
    """Bytes that can be allocated now: free memory, within the limits of the user and of the memory pool."""

    release: Callable[[], None]
    """Give cached, unused memory back."""

    out_of_memory: type[BaseException]
    """What an allocation that does not fit raises; a `MemoryError`."""

    stream: Callable[
        [Callable[[int, NDArray[Any]], None], int, tuple[int, ...], Any, int], Iterator[tuple[slice, Array]]
    ]
    """`stream(fill, n, shape, dtype, part)`: many items from the host, `part` at a time.

    Yields a slice of `range(n)` and these items `(k, *shape)`, in order. `fill(i, out)` writes item i into a host
    array; it is called from several threads, while the caller still works on the part before. What was yielded holds
    its items until the next is asked for. Items travel as they are, one copy each; the host waits for copies, never
    for the caller's kernels. Two parts are in memory on either side.
    """

    moments: Callable[[Array, Array | None, bool], Moments]
    """`moments(x, minus, omit_nan)`: sums over axis 0 of `x - minus` in float64.

    `x` and `minus` are `(n, v)`, C-contiguous, float32 or float64, n >= 1; `minus` may be None. One pass,
    shifted by the first observation. NaN propagates unless `omit_nan`, which skips it and returns `count` as an array
    (all NaN: count 0, shift, mean and ss 0).
    """

    log_betainc: Callable[[Array | float, float, Array, Array], Array]
    """`log_betainc(a, b, x, y)`: natural log of the regularised incomplete beta function I_x(a, b), with `y = 1 - x`.

    `x` and `y` are `(v,)` float64 in [0, 1], both given so that neither end loses digits; `a` is a float or `(v,)`
    float64, > 0; `b` is a float > 0. Never underflows: I_x of 1e-5000 comes back as -11512.9. NaN in, NaN out.
    Relative error of the log 1e-12, or of I where I is near 1.
    """

    gaussian: Callable[[Array, tuple[NDArray[np.float64], ...], str], Array]
    """`gaussian(volumes, weights, mode)`: separable correlation along X, Y and Z with three host weight vectors.

    Symmetric, odd length (1: that axis is left alone). `mode` as in SciPy: reflect, nearest, mirror, wrap,
    constant (zeros outside). float32 or float64 in, the same out, a new array in the same memory layout.
    """

    dilate: Callable[[Array, NDArray[np.int64], int, Array | None, bool], Array]
    """`dilate(mask, offsets, iterations, inside, border)`: `out[p] = any(mask[p + o] for o in offsets)`, repeated.

    `mask` bool volumes; `offsets` host `(k, 3)`; outside the volume counts as `border`. Where `inside`, bool
    `(X, Y, Z)` or the shape of `mask`, is False the voxel keeps its first value in every iteration.
    """

    erode: Callable[[Array, NDArray[np.int64], int, Array | None, bool], Array]
    """`erode(mask, offsets, iterations, inside, border)`: as `dilate`, with `all` in place of `any`."""

    label: Callable[[Array, NDArray[np.bool_]], tuple[Array, Array]]
    """`label(mask, structure)`: components of each bool volume; `structure` host bool (3, 3, 3), centro-symmetric.

    Labels int32, 0 outside, 1.. by the first voxel in C order of (X, Y, Z), in each map anew; counts int64 `(n,)`.
    """

    threshold: Callable[[Array, Array, str, int, NDArray[np.bool_], Array | None], Array]
    """`threshold(volumes, cutoffs, side, min_size, structure, inside)`: values that pass, 0 elsewhere; a new array.

    `volumes` float32 or float64; `cutoffs` `(n,)` of the same dtype, compared as is. `side`: "both" keeps
    `|x| >= c`, "above" `x >= c`, "below" `x <= c`. NaN is never kept. Where `min_size > 1` only components of at least
    that many voxels stay; positive and negative values form components apart, zeros form none. `inside`: bool
    `(X, Y, Z)` or None.
    """

    percentile: Callable[[Array, Array | None, float, bool], Array]
    """`percentile(values, inside, q, two_sided)`: one cutoff per map, float64 `(n,)`, NumPy's linear interpolation.

    `values` `(n, v)` float32 or float64; population: values inside (bool `(v,)`; None: all) that are not NaN, as
    `|x|` if two-sided, else those `>= 0`. An empty population gives NaN.
    """

    label_sums: Callable[[Array, Array, int], tuple[Array, Array]]
    """`label_sums(values, labels, n_labels)`: sums of `(n, v)` values over labels 1..n_labels of `(v,)` int32.

    Returns sums float64 `(n, n_labels)`, in a fixed order of summation, and counts int64 `(n_labels,)`.
    """

    gather: Callable[[Array, Array, int, NDArray[np.float64] | None, Any], Array]
    """`gather(volumes, columns, w, scaling, dtype)`: voxels of a mask as rows `(n, w)`, float32 or float64.

    `volumes` of any integer or floating type of a NIfTI image, as stored; `columns` int32 `(X, Y, Z)`: the column of
    each voxel, -1 outside, every column once, ascending in C order. `scaling`, host `(n, 2)`: slope and intercept of
    each volume, applied in float64; None: values as they are.
    """

    scatter: Callable[[Array, Array, float, str], Array]
    """`scatter(rows, columns, fill, order)`: rows `(n, w)` as volumes, `fill` outside; each in C or Fortran order."""

    products: Callable[[Array], Callable[[NDArray[np.floating]], Array]]
    """`products(e)`: a function f with `f(weights) = weights @ e`, `(m, w)` of the type of `e`, `(n, w)`.

    `weights` host `(m, n)`. None of either is larger than 1, as in rows and columns of unit length. What can be
    worked out of `e` alone is, once.
    """

    permutation_statistics: Callable[[Array, Array, float, bool], Array]
    """`permutation_statistics(effect, nuisance, df, as_f)`: statistics of rearranged unit vectors, `(k, w)`.

    `effect` `(k, r, w)` and `nuisance` `(k, q, w)` are their coordinates in the effect and in the nuisance space;
    `rest` is what these leave of 1. t = u sqrt(df / rest), for r = 1; F = (|u|^2 / r) / (rest / df) if `as_f`; 0
    where the nuisance leaves no more of 1 than 16 rounding errors. May overwrite `effect`.
    """

    exceedances: Callable[[Array, Array, bool, Array], Array]
    """`exceedances(statistics, least, two_sided, counts)`: add to `counts`, int64 `(w,)`, how many of the k rows reach
    `least` `(w,)`, as `|s|` if two-sided; return the largest of each row, `(k,)`. No NaN among them.
    """

    sign_flip_sums: Callable[[Array, NDArray[np.float64], NDArray[np.int64], int], Array]
    """`sign_flip_sums(e, weights, codes, log2_k)`: signed sums of rows for the 2^log2_k flips of a group.

    out[g, j] = sum_i (-1)^popcount(g & codes[i]) weights[j, i] e[i], `(2^log2_k, m, w)` of the type of `e`, `(n, w)`
    float32 or float64; `weights` `(m, n)` and `codes` `(n,)` >= 0 on the host, bits from `log2_k` on ignored. By a fast
    Walsh-Hadamard transform: about `n / 64 + 6` additions a sum. The same bits for every split of the elements.
    """

    cluster_maxima: Callable[[Array, float, Graph, bool, bool, bool], tuple[Array, Array]]
    """`cluster_maxima(maps, threshold, graph, two_sided, strict, excess)`: largest cluster of each map.

    `maps` `(n, v)` float32 or float64; `threshold` > 0, rounded to their type. Neighbours with x > threshold (>= unless
    `strict`) form clusters; if two-sided those with -x > threshold form others. Returns sizes (sums of weights) and
    masses (sums of |x|, or of |x| - threshold if `excess`), float64 `(n,)`, each the largest of its own; 0 where
    nothing passes. NaN never passes; infinite values count as the largest finite |x| of their map (1 if there is none).
    The same bits for every split and schedule.
    """

    cluster_labels: Callable[[Array, float, Graph, bool, bool, bool], tuple[Array, Array, Array, Array]]
    """`cluster_labels(values, threshold, graph, two_sided, strict, excess)`: clusters of one map `(v,)`.

    Returns labels int32 `(v,)`, 0 outside, positive clusters first, each sign by first elements; then sizes and masses
    float64 and signs int8 (1 or -1), one for each cluster. Synchronises: their number is read.
    """

    tfce: Callable[[Array, Graph, float, float, float | str | None, bool, bool], tuple[Array | None, Array]]
    """`tfce(maps, graph, H, E, step, two_sided, keep)`: integral of extent(h)^E h^H dh from 0 to |x| at each element.

    `maps` `(n, v)` float32 or float64; the extent is the sum of weights of the component of {|x| >= h} around the
    element, each sign apart. `step`: "exact" or None; a number dh (the sum over h = dh, 2 dh, ..., times dh); "max/100"
    (dh of each map and sign). Returns maps of the same dtype if `keep` (negative where x is; 0 for negative x unless
    two-sided), else None, and their largest magnitudes, float64 `(n,)`. NaN gives 0; infinite values as above.
    """
