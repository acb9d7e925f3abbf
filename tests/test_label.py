"""Labelling against SciPy and scikit-image: equal numbers, not only equal partitions."""

from __future__ import annotations

import numpy as np
import pytest
from hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import STRUCTURES
from oracles import label as scipy_label
from rig.checking import check
from scipy import ndimage

import gpuroi
from gpuroi.errors import DataError, UsageError

LINE = np.zeros((3, 3, 3), bool)
LINE[:, 1, 1] = True
DIAGONAL = np.zeros((3, 3, 3), bool)
DIAGONAL[0, 0, 0] = DIAGONAL[1, 1, 1] = DIAGONAL[2, 2, 2] = True


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_equals_scipy(backend, name, connectivity):
    data = HOSTILE[name]
    mask = data > data.dtype.type(0) if data.dtype.kind != "b" else data
    labels, n = gpuroi.label(backend.asarray(mask), connectivity)
    want, counts = scipy_label(mask, STRUCTURES[connectivity])
    check(labels, want, backend=backend)
    if mask.ndim == 3:
        assert type(n) is int
        assert n == counts
    else:
        check(n, counts, backend=backend)


@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_random_batches_equal_scipy(backend, connectivity, density):
    mask = np.random.default_rng(int(100 * density)).random((3, 9, 11, 13)) < density
    labels, n = gpuroi.label(backend.asarray(mask), connectivity)
    want, counts = scipy_label(mask, STRUCTURES[connectivity])
    check(labels, want, backend=backend)
    check(n, counts, backend=backend)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("structure", [LINE, DIAGONAL, LINE | DIAGONAL], ids=["line", "diagonal", "both"])
def test_any_symmetric_structure_equals_scipy(backend, structure, order):
    mask = np.asarray(np.random.default_rng(0).random((8, 9, 10)) < 0.4, order=order)
    labels, n = gpuroi.label(backend.asarray(mask), structure)
    want, counts = ndimage.label(mask, structure)
    check(labels, want, backend=backend)
    assert n == counts


def test_scikit_image_agrees():
    measure = pytest.importorskip("skimage.measure")
    mask = np.random.default_rng(1).random((10, 11, 12)) < 0.4
    labels, n = gpuroi.label(mask, 26)
    want, counts = measure.label(mask, return_num=True, connectivity=3)
    assert n == counts
    np.testing.assert_array_equal(labels, want)


def test_snakes_and_spirals(backend):
    """Long thin components join late: the numbering must come from the first voxel all the same."""
    mask = np.zeros((2, 15, 15, 15), bool)
    for x in range(0, 15, 2):
        mask[0, x] = True
        mask[0, x, :, 1 if x % 4 else -2] = True
        if x < 14:
            mask[0, x + 1, 7, 0 if x % 4 else 14] = True
    mask[1, ::2] = mask[1, :, ::2] = mask[1, :, :, ::14] = True
    labels, n = gpuroi.label(backend.asarray(mask), 6)
    want, counts = scipy_label(mask, STRUCTURES[6])
    check(labels, want, backend=backend)
    check(n, counts, backend=backend)


@given(
    mask=hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)),
    connectivity=st.sampled_from([6, 18, 26]),
    axis=st.integers(0, 2),
)
def test_number_of_components_survives_flips_and_transposes(mask, connectivity, axis):
    n = gpuroi.label(mask, connectivity)[1]
    assert gpuroi.label(np.flip(mask, axis), connectivity)[1] == n
    assert gpuroi.label(np.moveaxis(mask, 0, axis), connectivity)[1] == n
    labels, _ = gpuroi.label(mask, connectivity)
    np.testing.assert_array_equal(labels > 0, mask)
    np.testing.assert_array_equal(labels, ndimage.label(mask, STRUCTURES[connectivity])[0])


def test_nan_is_inside_as_in_scipy():
    assert gpuroi.label(np.full((1, 1, 2), np.nan))[1] == 1


@pytest.mark.parametrize("connectivity", [4, 8, 0, "6", None])
def test_other_connectivities_are_refused(connectivity):
    with pytest.raises(UsageError, match="connectivity"):
        gpuroi.label(np.ones((2, 2, 2), bool), connectivity)


def test_bad_structures_and_shapes_are_refused():
    with pytest.raises(UsageError, match="shape"):
        gpuroi.label(np.ones((2, 2, 2), bool), np.ones((3, 3), bool))
    lopsided = np.zeros((3, 3, 3), bool)
    lopsided[0, 1, 1] = lopsided[1, 1, 1] = True
    with pytest.raises(UsageError, match="symmetric"):
        gpuroi.label(np.ones((2, 2, 2), bool), lopsided)
    with pytest.raises(DataError, match="volumes"):
        gpuroi.label(np.ones((2, 2), bool))
