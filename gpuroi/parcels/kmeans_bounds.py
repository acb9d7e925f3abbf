"""Which distances K-means can leave out: bounds that the moves of the centres loosen, on the CPU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.threads import one_blas_thread, run_blocks

__all__ = ["Bounds"]

_STEPS = 250  # of the distance of two long uncorrelated series; 255 stands for all beyond
_MOST_BYTES = 1 << 31  # of a table
_LEAST_PRODUCTS = 1 << 22  # multiplications of an iteration below which a plain product is as fast
_OFTEN = 0.05  # of the elements: where a bound fails more often, one product for all is faster than one for each
_MOSTLY = 0.6  # of the centres: where more of them need a product, all may have it
_SAMPLE = 1024  # elements that tell which bounds fail
_ROWS_A_THREAD = 1024


class Bounds:
    """Lower bounds of the distances of all elements to all centres, a byte each.

    A distance changes by no more than its centre moves [1]_. As the bound of a pair stays where the centre stood when
    it was taken, nothing is added up: what counts is how far the centre is from there now. Most centres stay close to
    it after a few iterations, and most elements far from most centres. Where a bound fails for many elements, a product
    of all elements with this centre renews it; where it fails for few, the distance is computed pair by pair.

    Parameters
    ----------
    x : float32 array, shape (v, n)
        Elements, C-contiguous.
    lengths : float64 array, shape (v,)
        Squared lengths of the elements.
    n_clusters : int

    Notes
    -----
    v k bytes.

    References
    ----------
    .. [1] Elkan C (2003). Using the triangle inequality to accelerate k-means. ICML 2003, 147-153.
    """

    def __init__(self, x: NDArray[np.float32], lengths: NDArray[np.float64], n_clusters: int) -> None:
        from gpuroi.backends.kernels.kmeans import CHUNK

        self._x, self._lengths = x, lengths.astype(np.float32)
        width = -(-n_clusters // CHUNK) * CHUNK
        self._table = np.full((len(x), width), 255, np.uint8)
        self._moves = np.zeros(width, np.uint8)
        self._stood: NDArray[np.float64] | None = None  # (n, k): the centres when their bounds were taken
        self._per_step = np.float32(1)

    @staticmethod
    def pay(n: int, v: int, n_clusters: int) -> bool:
        """Whether bounds are worth their memory."""
        return n * v * n_clusters >= _LEAST_PRODUCTS and n_clusters > 1 and v * n_clusters <= _MOST_BYTES

    def nearest(
        self,
        centers: NDArray[np.float64],
        product: NDArray[np.float32],
        squares: NDArray[np.float32],
        slack: NDArray[np.float32],
        labels: NDArray[np.int32],
        block_bytes: int,
    ) -> NDArray[np.int32]:
        """Return the nearest centre of each element; -1 where two are within the rounding errors of their distances.

        Parameters
        ----------
        centers : float64 array, shape (n, k)
        product : float32 array, shape (n, k)
            -2 times the centres.
        squares : float32 array, shape (k,)
            Squared lengths of the centres.
        slack : float32 array, shape (v,)
            How far the difference of two distances of an element can be off, both squared.
        labels : int32 array, shape (v,)
            A centre of each element that is probably near. Of no account in the first call.
        block_bytes : int
            Of the distances in one product.
        """
        fresh = self._renewed(centers, product, squares, slack, labels)
        new = labels.copy()
        transposed = np.ascontiguousarray(product.T)  # (k, n)
        columns = np.ascontiguousarray(product if fresh is None else product[:, fresh])
        rows = max(1, block_bytes // (4 * max(1, columns.shape[1])))

        def work(first: int, last: int) -> None:
            from gpuroi.backends.kernels.kmeans import nearest_of_all, nearest_of_some

            for start in range(first, last, rows):
                part = slice(start, min(last, start + rows))
                x, scores = self._x[part], self._x[part] @ columns
                of = (self._lengths[part], slack[part], self._per_step, self._table[part])
                if fresh is None:
                    nearest_of_all(scores, squares, *of, new[part])
                else:
                    nearest_of_some(x, transposed, squares, *of, self._moves, fresh, scores, new[part])

        with one_blas_thread():
            run_blocks(work, len(new), least=_ROWS_A_THREAD)
        return new

    def _renewed(
        self,
        centers: NDArray[np.float64],
        product: NDArray[np.float32],
        squares: NDArray[np.float32],
        slack: NDArray[np.float32],
        labels: NDArray[np.int32],
    ) -> NDArray[np.int64] | None:
        """Return the centres whose bounds are to be taken anew, and note where they stand; None: all of them."""
        if self._stood is None:
            longest = np.sqrt(np.quantile(self._lengths, 0.99) + np.quantile(squares, 0.99))
            self._per_step = np.float32(_STEPS / longest if longest > 0 else 1)
            self._stood = centers.copy()
            return None
        k = centers.shape[1]
        away = np.sqrt(((centers - self._stood) ** 2).sum(axis=0)) * float(self._per_step)  # (k,), in steps
        moves = np.minimum(np.ceil(away * (1 + 1e-6)), 255).astype(np.uint8)
        some = np.arange(0, len(labels), max(1, len(labels) // _SAMPLE))
        own = labels[some]
        squared = np.einsum("ij,ji->i", self._x[some], product[:, own]) + squares[own]
        squared += self._lengths[some] + slack[some]
        reach = np.sqrt(np.maximum(squared, 0)) * self._per_step + 1  # (some,)
        left = np.maximum(self._table[some, :k], moves) - moves
        fails = (left <= reach[:, None]).mean(axis=0)  # (k,)
        fresh = np.flatnonzero((fails > _OFTEN) & (moves > 0))
        if len(fresh) > _MOSTLY * k:
            self._stood = centers.copy()
            return None
        moves[fresh] = 0
        self._moves[:k] = moves
        self._stood[:, fresh] = centers[:, fresh]
        return fresh
