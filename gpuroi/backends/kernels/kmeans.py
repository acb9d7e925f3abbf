"""Nearest centres of elements: from all distances, or from the few that bounds leave open."""

from __future__ import annotations

import numba as nb
import numpy as np

__all__ = ["CHUNK", "nearest_of_all", "nearest_of_some"]

CHUNK = 64  # bounds compared at once; the columns of a table are a multiple of it

# No distance is NaN: sums may be taken in any order, as whoever calls allows for their rounding errors.
_FAST = {"contract", "nnan", "nsz", "reassoc"}
_CARE = np.float32(1e-3)  # of a step: more than the rounding errors of a square root
_MOST = np.float32(255)


@nb.njit(inline="always")
def _steps_below(square, per_step):  # type: ignore[no-untyped-def]
    """Steps in the square root of `square`, never too many; 255 stands for as many or more."""
    steps = np.sqrt(max(square, np.float32(0))) * per_step - _CARE
    return min(max(steps, np.float32(0)), _MOST)


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def nearest_of_all(scores, squares, lengths, slack, per_step, table, labels):  # type: ignore[no-untyped-def]
    """Write the nearest centre of each element, -1 where rounding leaves it open, and a bound of each distance.

    `scores` (rows, k) are -2 x.c, and overwritten; `squares` (k,) are |c|^2, `lengths` (rows,) |x|^2, all float32.
    `table` (rows, >= k) takes the bounds, in steps.
    """
    k = squares.size
    for i in range(labels.size):
        row, bounds = scores[i], table[i]
        least = np.float32(np.inf)
        for c in range(k):
            row[c] += squares[c]
            least = min(least, row[c])
        near = 0
        for c in range(k):
            near += row[c] <= least + slack[i]
        nearest = 0
        while nearest < k - 1 and row[nearest] != least:
            nearest += 1
        labels[i] = nearest if near == 1 else -1
        rest = lengths[i] - slack[i]
        for c in range(k):
            bounds[c] = np.uint8(np.int32(_steps_below(row[c] + rest, per_step)))


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def nearest_of_some(  # type: ignore[no-untyped-def]
    x, product, squares, lengths, slack, per_step, table, moves, fresh, scores, labels
):
    """Replace the centre of each element by the nearest, -1 where rounding leaves it open.

    `x` (rows, n) and `product` (k, n), -2 c, are float32. `table` (rows, a multiple of CHUNK) holds bounds of the
    distances in steps, 255 where there is no centre, and `moves` how far, in steps, each centre is from where it was
    then. Only where their difference reaches no farther than the nearest centre known is a distance computed.
    Of the centres `fresh` (m,), whose `moves` are 0, come `scores` (rows, m), -2 x.c, and their bounds are renewed.
    """
    open_, renewed = np.empty(table.shape[1], np.int32), squares[fresh]
    passes = np.zeros(table.shape[1], np.uint8)
    eights = passes.view(np.uint64)  # most are 0
    for i in range(labels.size):
        row, bounds, own = x[i], table[i], labels[i]
        nearest = own
        least, second = _score(row, product[own], squares[own]), np.float32(np.inf)
        score, best = scores[i], np.float32(np.inf)
        for j in range(fresh.size):
            score[j] += renewed[j]
            best = min(best, score[j])
        for j in range(fresh.size):
            bounds[fresh[j]] = np.uint8(255)
        if best <= least + slack[i]:
            for j in range(fresh.size):
                if fresh[j] != own and score[j] < least:
                    least, second, nearest = score[j], least, fresh[j]
                elif fresh[j] != own:
                    second = min(second, score[j])
        reach = np.sqrt(max(least + lengths[i] + slack[i], np.float32(0))) * per_step + _CARE
        reach = np.uint8(np.int32(min(reach + np.float32(1), _MOST)))
        for c in range(bounds.size):
            passes[c] = np.uint8(max(bounds[c], moves[c]) - moves[c]) <= reach
        n_open = 0
        for eight in range(eights.size):
            if eights[eight]:
                for c in range(8 * eight, 8 * eight + 8):
                    open_[n_open] = c
                    n_open += passes[c]
        for j in range(n_open):
            c = open_[j]
            if c != own and c < squares.size:
                distance = _score(row, product[c], squares[c])
                if distance < least:
                    least, second, nearest = distance, least, c
                else:
                    second = min(second, distance)
        labels[i] = nearest if second - least > slack[i] else -1
        rest = lengths[i] - slack[i]
        for j in range(fresh.size):
            score[j] = _steps_below(score[j] + rest, per_step)
        for j in range(fresh.size):
            bounds[fresh[j]] = np.uint8(np.int32(score[j]))


@nb.njit(nogil=True, fastmath=_FAST)
def _score(x, center, square):  # type: ignore[no-untyped-def]
    score = square
    for i in range(x.size):
        score += x[i] * center[i]
    return score
