"""Binary morphology against SciPy, voxel for voxel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import STRUCTURES, over_maps
from rig.checking import check
from scipy import ndimage

import gpuroi
from gpuroi.errors import DataError, UsageError

RNG = np.random.default_rng(0)
ELEMENTS = {
    "default": None,
    "edges": STRUCTURES[18],
    "cube": STRUCTURES[26],
    "wide": np.ones((3, 5, 1), bool),
    "even": np.ones((2, 2, 4), bool),
    "ragged": RNG.random((3, 4, 5)) < 0.4,
    "no-centre": np.array([[[1, 0, 1]]], bool),
    "one-sided": np.array([[[0, 0, 1]]], bool),
}
PAIRS = [
    (gpuroi.binary_dilation, ndimage.binary_dilation),
    (gpuroi.binary_erosion, ndimage.binary_erosion),
    (gpuroi.binary_opening, ndimage.binary_opening),
    (gpuroi.binary_closing, ndimage.binary_closing),
]


def ids(pair):
    return pair[0].__name__ if isinstance(pair, tuple) else None


@pytest.mark.parametrize("pair", PAIRS, ids=ids)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_equals_scipy(backend, name, pair):
    ours, scipys = pair
    data = HOSTILE[name]
    mask = data > 0 if data.dtype.kind != "b" else data
    want = over_maps(mask, scipys, bool) if mask.size else mask
    check(ours(backend.asarray(mask)), want, backend=backend)


@pytest.mark.parametrize("pair", PAIRS, ids=ids)
@pytest.mark.parametrize("element", ELEMENTS)
def test_every_option_equals_scipy(backend, element, pair):
    ours, scipys = pair
    rng = np.random.default_rng(1)
    data = np.stack([rng.random((7, 8, 9)) < p for p in (0.05, 0.5, 0.9)])
    inside = rng.random((7, 8, 9)) < 0.7
    structure = ELEMENTS[element]
    for iterations, border, mask in itertools.product((1, 3), (0, 1), (None, inside)):
        want = over_maps(
            data,
            lambda v: scipys(v, structure, iterations, mask=mask, border_value=border),
            bool,
        )
        on_device = None if mask is None else backend.asarray(mask)
        check(ours(backend.asarray(data), structure, iterations, on_device, border), want, backend=backend)


@pytest.mark.parametrize("pair", PAIRS[:2], ids=ids)
@pytest.mark.parametrize("structure", [None, STRUCTURES[26], np.ones((1, 1, 5), bool), np.ones((2, 1, 1), bool)])
def test_until_nothing_changes_equals_scipy(backend, structure, pair):
    ours, scipys = pair
    rng = np.random.default_rng(2)
    data = np.stack([rng.random((6, 7, 8)) < p for p in (0.02, 0.98)])
    inside = rng.random((6, 7, 8)) < 0.6
    for border, mask in itertools.product((0, 1), (None, inside)):
        want = over_maps(data, lambda v: scipys(v, structure, -1, mask=mask, border_value=border), bool)
        on_device = None if mask is None else backend.asarray(mask)
        check(ours(backend.asarray(data), structure, -1, on_device, border), want, backend=backend)


def test_a_mask_for_each_map(backend):
    rng = np.random.default_rng(3)
    data, inside = rng.random((2, 3, 6, 6, 6)) < 0.5
    got = gpuroi.binary_dilation(backend.asarray(data), 18, 2, backend.asarray(inside))
    want = np.stack([ndimage.binary_dilation(d, STRUCTURES[18], 2, mask=m) for d, m in zip(data, inside, strict=True)])
    check(got, want, backend=backend)


@pytest.mark.parametrize("structure", [None, STRUCTURES[18], STRUCTURES[26]])
@pytest.mark.parametrize("order", ["C", "F"])
def test_fill_holes_equals_scipy(backend, structure, order):
    rng = np.random.default_rng(4)
    data = np.stack([ndimage.gaussian_filter(rng.standard_normal((12, 11, 10)), 0.8) < c for c in (0.1, 0.3)])
    data = np.asarray(data.transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1) if order == "F" else data
    want = over_maps(data, lambda v: ndimage.binary_fill_holes(v, structure), bool)
    assert (want != data).any()  # there is something to fill
    check(gpuroi.binary_fill_holes(backend.asarray(data), structure), want, backend=backend)


def test_scikit_image_agrees():
    morphology = pytest.importorskip("skimage.morphology")
    data = np.random.default_rng(5).random((9, 9, 9)) < 0.1
    want = morphology.dilation(data, morphology.ball(1))
    np.testing.assert_array_equal(gpuroi.binary_dilation(data), want)


def test_nothing_crosses_the_batch_axis(backend):
    data = np.zeros((3, 4, 4, 4), bool)
    data[1] = True
    for got in (gpuroi.binary_dilation(backend.asarray(data), 26, 5), gpuroi.binary_fill_holes(backend.asarray(data))):
        check(got, data, backend=backend)


@given(
    mask=hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)),
    more=st.integers(0, 2**32 - 1),
    connectivity=st.sampled_from([6, 18, 26]),
)
def test_dilation_is_extensive_monotone_and_dual_to_erosion(mask, more, connectivity):
    larger = mask | (np.random.default_rng(more).random(mask.shape) < 0.2)
    dilated = gpuroi.binary_dilation(mask, connectivity)
    assert (dilated >= mask).all()
    assert (gpuroi.binary_dilation(larger, connectivity) >= dilated).all()
    np.testing.assert_array_equal(gpuroi.binary_erosion(~mask, connectivity, border_value=1), ~dilated)


def test_bad_input_is_refused():
    ones = np.ones((3, 3, 3), bool)
    with pytest.raises(UsageError, match="empty"):
        gpuroi.binary_dilation(ones, np.zeros((3, 3, 3), bool))
    with pytest.raises(UsageError, match="three axes"):
        gpuroi.binary_dilation(ones, np.ones((3, 3), bool))
    with pytest.raises(DataError, match="mask"):
        gpuroi.binary_dilation(ones, mask=np.ones((2, 2, 2), bool))
    with pytest.raises(DataError, match="settles"):
        gpuroi.binary_dilation(np.array([[[True, False]]]), np.array([[[1, 0, 1]]]), -1)
