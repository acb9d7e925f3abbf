"""Neighbours and contacts by loops and by SciPy, and what every domain has to fulfil."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
from scipy import sparse

from gpuroi.domains import Domain


def offsets(connectivity: int) -> list[tuple[int, ...]]:
    furthest = {6: 1, 18: 2, 26: 3}[connectivity]
    return [o for o in itertools.product((-1, 0, 1), repeat=3) if 0 < sum(map(abs, o)) <= furthest]


def rows(domain: Domain) -> list[list[int]]:
    return [domain.indices[a:b].tolist() for a, b in itertools.pairwise(domain.indptr)]


def check_graph(domain: Domain) -> None:
    """What every domain promises, whatever it is made of."""
    v = domain.n_elements
    indptr, indices, weights = domain.graph
    assert (indptr.dtype, indices.dtype, weights.dtype) == (np.int64, np.int32, np.float64)
    assert (indptr.shape, weights.shape, indptr[0], indptr[-1]) == ((v + 1,), (v,), 0, len(indices))
    assert domain.indptr is indptr
    assert domain.indices is indices
    assert domain.weights is weights
    assert domain.graph is domain.graph
    assert domain.graph.n_elements == v
    for array in domain.graph:
        assert array.flags.c_contiguous
        assert not array.flags.writeable
    row = np.repeat(np.arange(v), np.diff(indptr))
    key = row * v + indices
    assert np.all(np.diff(key) > 0), "ascending, no neighbour twice"
    assert not np.any(row == indices), "no element is its own neighbour"
    np.testing.assert_array_equal(np.sort(indices * np.int64(v) + row), key, "symmetric")
    assert json.loads(json.dumps(domain.describe()))["n_elements"] == v
    assert isinstance(domain.name, str)
    assert isinstance(domain.unit, str)


def scipy_graph(domain: Domain) -> sparse.csr_array:
    v = domain.n_elements
    return sparse.csr_array((np.ones(len(domain.indices), np.int8), domain.indices, domain.indptr), shape=(v, v))


def brute_voxels(mask: np.ndarray, connectivity: int) -> list[list[int]]:
    number = {tuple(p): i for i, p in enumerate(np.argwhere(mask).tolist())}
    step = offsets(connectivity)
    return [sorted(number[q] for o in step if (q := tuple(np.add(p, o).tolist())) in number) for p in number]


def brute_contacts(labels: np.ndarray, connectivity: int) -> tuple[Counter, Counter]:
    """Touching voxel pairs per pair of labels, and shared faces per pair of labels and axis."""
    contact, faces = Counter(), Counter()
    for p in np.ndindex(labels.shape):
        for o in offsets(connectivity):
            q = tuple(np.add(p, o).tolist())
            if not all(0 <= i < n for i, n in zip(q, labels.shape, strict=True)):
                continue
            low, high = int(labels[p]), int(labels[q])
            if 0 < low < high:  # of both directions the one that starts at the lower label
                contact[low, high] += 1
                if np.abs(o).sum() == 1:
                    faces[low, high, int(np.flatnonzero(o)[0])] += 1
    return contact, faces
