"""Ward's tree against scikit-learn; cuts against a loop that merges one pair after the other."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.cluster import FeatureAgglomeration

from gpuroi.backends.base import Backend
from gpuroi.domains import SurfaceMesh, VoxelGrid
from gpuroi.errors import DataError, UsageError
from gpuroi.parcels import WardTree, ward_tree
from gpuroi.parcels.numbering import numbered_by_first, pieces


def sklearn_labels(data: np.ndarray, domain: VoxelGrid, k: int) -> np.ndarray:
    links = csr_matrix((np.ones(len(domain.indices)), domain.indices, domain.indptr))
    return numbered_by_first(FeatureAgglomeration(k, connectivity=links).fit(data).labels_)


def cut_by_hand(tree: WardTree, k: int) -> np.ndarray:
    members = {i: [i] for i in range(tree.n_elements)}
    for row, (a, b) in enumerate(tree.children[: tree.n_elements - k]):
        members[tree.n_elements + row] = members.pop(int(a)) + members.pop(int(b))
    labels = np.empty(tree.n_elements, int)
    for number, inside in enumerate(sorted(members.values(), key=min)):
        labels[inside] = number
    return labels


def smooth_data(shape: tuple[int, int, int], n: int = 10, seed: int = 0) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    return np.stack([gaussian_filter(rng.standard_normal(shape), 1.0) for _ in range(n)]).reshape(n, -1)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_equals_scikit_learn(backend: Backend, connectivity: int) -> None:
    mask = np.random.default_rng(1).random((9, 10, 8)) > 0.1
    mask[:, :, 0] = True  # in one piece, nearly
    grid = VoxelGrid(mask, connectivity=connectivity)
    labels = pieces(np.zeros(grid.n_elements, int), grid.graph)
    mask[mask] = labels == 0
    grid = VoxelGrid(mask, connectivity=connectivity)
    data = smooth_data(mask.shape)[:, mask.ravel()]
    tree = ward_tree(backend.asarray(data), grid.graph)
    for k in (1, 2, 17, 60, 200, grid.n_elements):
        np.testing.assert_array_equal(tree.cut(k), sklearn_labels(data, grid, k))


@given(seed=st.integers(0, 1000), k=st.integers(1, 24))
def test_cut_merges_in_order(seed: int, k: int) -> None:
    data = np.random.default_rng(seed).standard_normal((2, 24))
    tree = ward_tree(data, VoxelGrid(np.ones((2, 3, 4))).graph)
    np.testing.assert_array_equal(tree.cut(k), cut_by_hand(tree, k))
    assert tree.cut(k).max() + 1 == k


def test_cuts_are_nested_and_connected() -> None:
    grid = VoxelGrid(np.ones((6, 7, 8)))
    tree = ward_tree(smooth_data((6, 7, 8)), grid.graph)
    coarse, fine = tree.cut(10), tree.cut(40)
    assert all(len(set(coarse[fine == i])) == 1 for i in range(40))
    np.testing.assert_array_equal(pieces(coarse, grid.graph), coarse)


def test_heights_are_the_growth_of_the_sum_of_squares() -> None:
    data = np.random.default_rng(0).standard_normal((3, 12))
    tree = ward_tree(data, VoxelGrid(np.ones((1, 3, 4))).graph)

    def within(labels: np.ndarray) -> float:
        groups = [data[:, labels == i] for i in np.unique(labels)]
        return float(sum(((g - g.mean(axis=1, keepdims=True)) ** 2).sum() for g in groups))

    grown = [within(tree.cut(12 - i - 1)) - within(tree.cut(12 - i)) for i in range(11)]
    np.testing.assert_allclose(tree.heights**2, 2 * np.array(grown), atol=1e-9)


def test_pieces_that_do_not_touch_are_joined_without_a_warning() -> None:
    mask = np.ones((5, 4, 3), bool)
    mask[2] = False
    grid = VoxelGrid(mask)
    tree = ward_tree(smooth_data((5, 4, 3))[:, mask.ravel()], grid.graph)
    assert tree.cut(1).max() == 0
    assert len(np.unique(tree.cut(6))) == 6


def test_a_surface() -> None:
    faces = np.array([[0, 1, 2], [1, 2, 3], [2, 3, 4]])
    mesh = SurfaceMesh(np.random.default_rng(0).random((5, 3)), faces)
    labels = ward_tree(np.array([[0.0, 0.1, 0.0, 5.0, 5.1]]), mesh.graph).cut(2)
    assert labels.tolist() == [0, 0, 0, 1, 1]


def test_another_number_is_fifty_times_faster() -> None:
    grid = VoxelGrid(np.ones((20, 20, 15)))
    data = smooth_data((20, 20, 15), n=40)
    grid.graph  # noqa: B018 - built outside the clock
    start = time.perf_counter()
    tree = ward_tree(data, grid.graph)
    whole = time.perf_counter() - start
    cuts = []
    for k in (50, 100, 500):
        start = time.perf_counter()
        tree.cut(k)
        cuts.append(time.perf_counter() - start)
    assert whole > 50 * min(cuts)


def test_refused() -> None:
    grid = VoxelGrid(np.ones((2, 2, 2)))
    with pytest.raises(DataError, match="graph has 8 elements"):
        ward_tree(np.ones((3, 7)), grid.graph)
    with pytest.raises(DataError, match="NaN"):
        ward_tree(np.full((3, 8), np.nan), grid.graph)
    tree = ward_tree(np.arange(8.0)[None], grid.graph)
    for k in (0, 9):
        with pytest.raises(UsageError, match=f"{k} clusters of 8"):
            tree.cut(k)


def test_one_element() -> None:
    assert ward_tree(np.ones((3, 1)), VoxelGrid(np.ones((1, 1, 1))).graph).cut(1).tolist() == [0]


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else find(name, *rest)
    )
    with pytest.raises(ImportError, match="pip install 'gpuroi\\[parcellate\\]'"):
        ward_tree(np.ones((3, 8)), VoxelGrid(np.ones((2, 2, 2))).graph)
