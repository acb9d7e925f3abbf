"""The linear systems of the random walker: one conjugate gradient per seed, over one piece of the volume."""

from __future__ import annotations

import numba as nb
import numpy as np

__all__ = ["join_along_weights", "walk"]


@nb.njit(cache=True, nogil=True)
def walk(indptr, indices, weights, seed_of, n_seeds, tol, owner):  # type: ignore[no-untyped-def]
    """Let the seeds 1..n_seeds of one piece compete for its other nodes.

    The graph is in CSR form: node i has the neighbours `indices[indptr[i]:indptr[i + 1]]`, with the same range of
    `weights`. `seed_of` is 0 at a node to be decided. For every seed the probability that a walk ends there first is
    solved for, by conjugate gradients from 0, preconditioned with the diagonal, until the residual is below `tol` times
    the right-hand side. `owner` becomes the seed of the largest value (of equal ones the first)) where one is positive.
    """
    n = seed_of.size
    best = np.zeros(n)
    degree = np.zeros(n)
    for i in range(n):
        for e in range(indptr[i], indptr[i + 1]):
            degree[i] += weights[e]
    x, r, p, q = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for seed in range(1, n_seeds + 1):
        rho = size = 0.0
        for i in range(n):
            x[i] = r[i] = q[i] = 0.0
            if seed_of[i] == 0:
                for e in range(indptr[i], indptr[i + 1]):
                    if seed_of[indices[e]] == seed:
                        r[i] += weights[e]
            p[i] = r[i] / degree[i]
            rho += r[i] * p[i]
            size += r[i] * r[i]
        enough = tol * np.sqrt(size)
        for _ in range(10 * n):
            if np.sqrt(size) < enough or rho == 0.0:
                break
            curvature = 0.0
            for i in range(n):
                if seed_of[i] == 0:
                    value = degree[i] * p[i]
                    for e in range(indptr[i], indptr[i + 1]):
                        value -= weights[e] * p[indices[e]]  # p is 0 at the seeds
                    q[i] = value
                    curvature += p[i] * value
            alpha = rho / curvature
            before = rho
            rho = size = 0.0
            for i in range(n):
                x[i] += alpha * p[i]
                r[i] -= alpha * q[i]
                rho += r[i] * r[i] / degree[i]
                size += r[i] * r[i]
            ratio = rho / before
            for i in range(n):
                p[i] = r[i] / degree[i] + ratio * p[i]
        for i in range(n):
            if seed_of[i] == 0 and x[i] > best[i]:
                best[i], owner[i] = x[i], seed


@nb.njit(cache=True, nogil=True)
def join_along_weights(indptr, indices, weights, owner):  # type: ignore[no-untyped-def]
    """Give every node with owner 0 that of its neighbour over the largest weight, step by step.

    Of equal weights the smallest owner wins, so that the order of the nodes does not matter.
    """
    open_nodes = np.flatnonzero(owner == 0)
    found = np.empty(open_nodes.size, owner.dtype)
    while open_nodes.size:
        n_found = 0
        for k in range(open_nodes.size):
            i = open_nodes[k]
            best, found[k] = -1.0, 0
            for e in range(indptr[i], indptr[i + 1]):
                other = owner[indices[e]]
                if other and (weights[e] > best or (weights[e] == best and other < found[k])):
                    best, found[k] = weights[e], other
            n_found += found[k] != 0
        if n_found == 0:
            return
        n_left = 0
        for k in range(open_nodes.size):
            if found[k]:
                owner[open_nodes[k]] = found[k]
            else:
                open_nodes[n_left] = open_nodes[k]
                n_left += 1
        open_nodes = open_nodes[:n_left]
