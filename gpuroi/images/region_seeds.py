"""Split what touches: local maxima as seeds, and the random walker that shares the rest out among them.

Both work on the host, also where the rest runs on CUDA: labels are then the same on every device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["local_maxima", "random_walker"]

_EPS = 1e-10  # least weight of an edge, as in scikit-image: a graph that is connected stays so


def local_maxima(
    volume: NDArray[Any],
    *,
    min_distance: int | Sequence[int] = 10,
    threshold_abs: float = 0.0,
    threshold_rel: float = 0.1,
) -> NDArray[np.bool_]:
    """Mark the voxels that are the largest of the box around them.

    Parameters
    ----------
    volume : array, shape (X, Y, Z)
        On the host. NaN is smaller than everything.
    min_distance : int or three ints, default 10
        Half the edge of the box in voxels: the box reaches so far to each side, up to the edge of the volume.
    threshold_abs, threshold_rel : float
        A maximum must be larger than `threshold_abs`, and than `threshold_rel` times the largest value of the volume.

    Returns
    -------
    bool array, shape (X, Y, Z)
        Of equal values in one box all are marked; a volume of one value alone has no maxima.

    Raises
    ------
    DataError
        If the volume has not three axes.
    UsageError
        If `min_distance` is negative.

    Notes
    -----
    The rules of nilearn's `connected_regions` and of `skimage.feature.peak_local_max` in its version 0.11.

    Examples
    --------
    >>> volume = np.zeros((1, 1, 9))
    >>> volume[0, 0, [1, 3, 7]] = 5, 4, 2
    >>> np.flatnonzero(local_maxima(volume, min_distance=2))
    array([1, 7])
    """
    image = np.ascontiguousarray(_volume(volume, "volume"))
    half = np.broadcast_to(np.asarray(min_distance, dtype=np.int64), (3,))
    if half.min() < 0:
        raise UsageError(f"min_distance is {half.tolist()} voxels", "give 0 or more")
    if np.isnan(image).any():
        image = np.where(np.isnan(image), -np.inf, image)
    out = np.zeros(image.shape, bool)
    if image.size == 0 or np.all(image == image.flat[0]):
        return out
    above = max(float(image.max()) * threshold_rel, threshold_abs)
    if _mark_maxima(image, above, half, out):
        return out
    from scipy.ndimage import maximum_filter

    largest = maximum_filter(image, size=(2 * half + 1).tolist(), mode="constant", cval=-np.inf)
    return np.asarray((image == largest) & (image > above))


def random_walker(
    volume: NDArray[Any],
    seeds: NDArray[Any],
    *,
    beta: float = 130.0,
    tol: float = 1e-3,
    connectivity: int = 6,
) -> NDArray[np.int32]:
    """Share out the voxels of a volume among seeds: each goes to the one that a random walk most likely meets first.

    A step between neighbours has the weight ``exp(-beta (a - b)^2 / (10 std)) + 1e-10`` with their values a and b and
    the standard deviation of the whole volume, so that walks keep to voxels of similar value.

    Parameters
    ----------
    volume : array, shape (X, Y, Z)
        Finite values, on the host.
    seeds : integer array, same shape
        Positive: seeds, each number one region; 0: to be shared out; negative: outside, no walk goes there.
    beta : float, default 130.0
        The larger, the harder it is to walk up or down.
    tol : float, default 1e-3
        Conjugate gradients stop when the residual is below `tol` times the right-hand side.
    connectivity : {6, 18, 26}, default 6
        The steps of a walk.

    Returns
    -------
    int32 array, same shape
        The numbers of the seeds; 0 outside, and where no path leads to a seed.

    Raises
    ------
    DataError
        If the shapes differ, or values inside are not finite.
    UsageError
        If `beta` or `tol` is not positive.

    Notes
    -----
    The linear system of [1]_, as scikit-image and nilearn set it up. It falls apart into one for each connected piece
    of the volume; these are solved apart, with the same iterates as all in one, and a piece with a single seed needs
    none. The solver is preconditioned with the diagonal, as scikit-image's. Voxels that it has not reached when it
    stops join the neighbour over the largest weight; in nilearn they go to the first of all seeds, wherever that lies.
    A seed that fills its piece keeps its number; in nilearn that region is lost.

    References
    ----------
    .. [1] Grady L (2006). Random walks for image segmentation. IEEE Trans Pattern Anal Mach Intell 28:1768-1783.
       https://doi.org/10.1109/TPAMI.2006.233

    Examples
    --------
    >>> ridge = np.array([[[5.0, 4.0, 3.0, 1.0, 3.0, 4.0, 5.0]]])
    >>> random_walker(ridge, np.array([[[1, 0, 0, 0, 0, 0, 2]]]))[0, 0, [1, 2, 4, 5]]
    array([1, 1, 2, 2], dtype=int32)
    """
    from gpuroi.ops import label

    values = _volume(volume, "volume")
    marks = np.asarray(seeds)
    if marks.shape != values.shape or marks.dtype.kind not in "iu":
        raise DataError(
            f"seeds have shape {marks.shape} and dtype {marks.dtype}, the volume has shape {values.shape}",
            "give integers of the volume's own shape",
        )
    if not (beta > 0 and tol > 0):
        raise UsageError(f"beta is {beta}, tol is {tol}", "both must be positive")
    inside = marks >= 0
    if not np.isfinite(values[inside]).all():
        raise DataError("the volume has values inside that are not finite", "set them to 0, and their seeds to -1")
    out = np.where(marks > 0, marks, 0).astype(np.int32)
    if not out.any():
        return out
    pieces, n_pieces = label(inside, connectivity)
    seeds_of = _seeds_of_pieces(pieces, marks, n_pieces)
    alone = np.array([found[0] if len(found) == 1 else 0 for found in seeds_of], np.int32)
    out = np.where(alone[pieces] > 0, alone[pieces], out)
    contested = [len(found) > 1 for found in seeds_of]
    where = np.array(contested)[pieces]
    if where.any():
        out = np.ascontiguousarray(out)
        graph = _Graph(np.ascontiguousarray(values), where, pieces, beta, connectivity)
        _share_out(graph, marks, seeds_of, tol, out)
    return out


def _volume(volume: NDArray[Any], name: str) -> NDArray[Any]:
    array = np.asarray(volume)
    if array.ndim != 3:
        raise DataError(f"{name} has shape {array.shape}: expected (X, Y, Z)", "give one volume")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _mark_maxima(image: NDArray[Any], above: float, half: NDArray[np.int64], out: NDArray[np.bool_]) -> bool:
    """Look at the box around each voxel; False where so many values are equal that a separable filter is faster."""
    from gpuroi.backends.kernels.local_maxima import box_maxima
    from gpuroi.backends.threads import run_blocks

    gave_up: list[int] = []

    def mark(start: int, stop: int) -> None:
        if box_maxima(image, above, half, out, start, stop) < 0:
            gave_up.append(start)

    run_blocks(mark, len(image))
    return not gave_up


def _seeds_of_pieces(pieces: NDArray[np.int32], marks: NDArray[Any], n_pieces: int) -> list[NDArray[np.int64]]:
    """Numbers of the seeds in each piece, ascending; those of piece 0, which is outside, are none."""
    seeded = marks > 0
    pairs = np.unique(np.stack([pieces[seeded].astype(np.int64), marks[seeded].astype(np.int64)], axis=1), axis=0)
    return np.split(pairs[:, 1], np.searchsorted(pairs[:, 0], np.arange(1, n_pieces + 1)))


class _Graph:
    """Voxels of the contested pieces, sorted by piece, and the weights of the steps between them, as CSR."""

    def __init__(
        self, values: NDArray[Any], where: NDArray[np.bool_], pieces: NDArray[np.int32], beta: float, connectivity: int
    ) -> None:
        from scipy.sparse import coo_array

        voxels = np.flatnonzero(where)
        piece = pieces.ravel()[voxels]
        order = np.argsort(piece, kind="stable")
        self.voxels, self.piece = voxels[order], piece[order]
        n = len(voxels)
        node = np.full(values.shape, -1, np.int32)
        node.ravel()[self.voxels] = np.arange(n, dtype=np.int32)
        finite = np.isfinite(values)
        spread = 10 * float((values if finite.all() else values[finite]).std(dtype=np.float64))
        data, rows, columns = [], [], []
        for here, there in _steps(connectivity):
            joined = (node[here] >= 0) & (node[there] >= 0)
            step = values[here][joined].astype(np.float64) - values[there][joined]
            data.append(np.exp(-beta / spread * step**2) + _EPS if spread else np.ones_like(step))
            rows.append(node[here][joined])
            columns.append(node[there][joined])
        weight, a, b = (np.concatenate(parts) for parts in (data, rows, columns))
        both = (np.append(weight, weight), (np.append(a, b), np.append(b, a)))
        matrix = coo_array(both, shape=(n, n)).tocsr()
        self.indptr, self.indices, self.weights = matrix.indptr, matrix.indices, matrix.data

    def part(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
        """Return the graph of the nodes start..stop alone: whole pieces."""
        first, last = self.indptr[start], self.indptr[stop]
        return self.indptr[start : stop + 1] - first, self.indices[first:last] - start, self.weights[first:last]


def _share_out(
    graph: _Graph,
    marks: NDArray[Any],
    seeds_of: list[NDArray[np.int64]],
    tol: float,
    out: NDArray[np.int32],
) -> None:
    """Solve piece after piece and write the numbers of the seeds into `out`."""
    from gpuroi.backends.kernels.random_walker import join_along_weights, walk
    from gpuroi.backends.threads import run_blocks

    present, starts = np.unique(graph.piece, return_index=True)
    edges = np.append(starts, len(graph.piece))
    given_at, flat = marks.ravel(), out.ravel()  # the latter a view: `out` is C-contiguous

    def solve(first: int, last: int) -> None:
        for k in range(first, last):
            voxels = graph.voxels[edges[k] : edges[k + 1]]
            found = seeds_of[present[k]]
            given = given_at[voxels]
            seed_of = np.where(given > 0, np.searchsorted(found, given) + 1, 0)
            owner = seed_of.copy()
            part = graph.part(edges[k], edges[k + 1])
            walk(*part, seed_of, len(found), tol, owner)
            join_along_weights(*part, owner)
            flat[voxels] = found[owner - 1]

    run_blocks(solve, len(present))


def _steps(connectivity: int) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Return pairs of slices, one for half of the neighbours each: a voxel, and the one that a step leads to."""
    from gpuroi.ops.label import connectivity_structure

    offsets = np.argwhere(connectivity_structure(connectivity)) - 1
    ahead = [offset for offset in offsets.tolist() if offset > [0, 0, 0]]
    here = [tuple(slice(max(0, -d), -d if d > 0 else None) for d in offset) for offset in ahead]
    there = [tuple(slice(max(0, d), d if d < 0 else None) for d in offset) for offset in ahead]
    return list(zip(here, there, strict=True))
