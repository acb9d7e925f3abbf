"""Means over regions against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st
from rig.checking import check, host
from scipy import ndimage

import gpuroi
from gpuroi.errors import DataError


def scipy_means(data, labels, ids):
    n_maps = int(np.prod(data.shape[:-3]))
    volumes = data.reshape(n_maps, *labels.shape).astype(np.float64)
    with np.errstate(all="ignore"):
        means = np.array([[np.mean(v[labels == i]) if (labels == i).any() else np.nan for i in ids] for v in volumes])
    return means.reshape(*data.shape[:-3], len(ids))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input(backend, name):
    data = HOSTILE[name]
    labels = np.random.default_rng(0).integers(0, 5, data.shape[-3:])
    want = scipy_means(data, labels, [1, 2, 3, 4])
    got = gpuroi.label_means(backend.asarray(data), backend.asarray(labels), [1, 2, 3, 4])
    check(got, want, backend=backend, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_integer_width_and_sparse_ids(backend, dtype, order):
    rng = np.random.default_rng(1)
    wanted = [3, 200, 17] if dtype == np.uint8 else [3, 20_000, 17, 32_000]
    labels = np.asarray(rng.choice([0, *wanted], (6, 7, 8)).astype(dtype), order=order)
    data = (
        np.asarray(rng.standard_normal((8, 7, 6, 5)).T, order="C")
        if order == "C"
        else rng.standard_normal((8, 7, 6, 5)).T
    )
    got = gpuroi.label_means(backend.asarray(data), backend.asarray(labels), wanted)
    check(got, scipy_means(data, labels, wanted), backend=backend, rtol=1e-13)
    every = gpuroi.label_means(backend.asarray(data), backend.asarray(labels))
    check(every, scipy_means(data, labels, sorted(wanted)), backend=backend, rtol=1e-13)


def test_equals_scipy_mean():
    rng = np.random.default_rng(2)
    data, labels = rng.standard_normal((9, 9, 9)), rng.integers(0, 40, (9, 9, 9))
    want = ndimage.mean(data, labels, np.arange(1, 40))
    np.testing.assert_allclose(gpuroi.label_means(data, labels, range(1, 40)), want, rtol=1e-13)


def test_a_region_that_is_nowhere_keeps_its_column(backend):
    labels = np.array([[[1, 1, 3]]])
    got = gpuroi.label_means(backend.asarray(np.array([[[2.0, 4.0, 9.0]]])), backend.asarray(labels), [1, 2, 3])
    check(got, np.array([3.0, np.nan, 9.0]), backend=backend)


def test_nan_stays_in_its_region(backend):
    data = np.ones((2, 3, 3, 3), np.float32)
    data[1, 0, 0, 0] = np.nan
    labels = np.ones((3, 3, 3), np.int32)
    labels[1:] = 2
    got = gpuroi.label_means(backend.asarray(data), backend.asarray(labels))
    check(got, np.array([[1.0, 1.0], [np.nan, 1.0]]), backend=backend)


@given(n_maps=st.integers(1, 9), seed=st.integers(0, 1000))
def test_a_map_has_the_same_bits_alone_and_in_a_batch(n_maps, seed):
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((n_maps, 5, 6, 7)).astype(np.float32)
    labels = rng.integers(0, 4, (5, 6, 7))
    batch = gpuroi.label_means(data, labels, [1, 2, 3])
    for row, volume in zip(batch, data, strict=True):
        np.testing.assert_array_equal(gpuroi.label_means(volume, labels, [1, 2, 3]), row)


def test_the_same_bits_on_every_run(backend):
    rng = np.random.default_rng(3)
    data, labels = backend.asarray(rng.standard_normal((3, 9, 9, 9))), backend.asarray(rng.integers(0, 4, (9, 9, 9)))
    first = host(gpuroi.label_means(data, labels))
    for _ in range(3):
        np.testing.assert_array_equal(host(gpuroi.label_means(data, labels)), first)


def test_bad_input_is_refused():
    data = np.ones((2, 3, 3, 3))
    with pytest.raises(DataError, match="integers"):
        gpuroi.label_means(data, np.ones((3, 3, 3)))
    with pytest.raises(DataError, match="shape"):
        gpuroi.label_means(data, np.ones((3, 3, 4), int))
    with pytest.raises(DataError, match="negative"):
        gpuroi.label_means(data, -np.ones((3, 3, 3), int))
    for ids in ([1, 1], [0], [-2]):
        with pytest.raises(DataError, match="ids"):
            gpuroi.label_means(data, np.ones((3, 3, 3), int), ids)


def test_ids_beyond_the_table(backend):
    wanted = [5, 3_000_000, 70, 2**40]
    labels = np.random.default_rng(4).choice([0, 9, 2**41, *wanted], (6, 7, 8))
    data = np.random.default_rng(5).standard_normal((2, 6, 7, 8))
    got = gpuroi.label_means(backend.asarray(data), backend.asarray(labels), wanted)
    check(got, scipy_means(data, labels, wanted), backend=backend, rtol=1e-13)
    few = gpuroi.label_means(backend.asarray(data), backend.asarray(labels), [70, 5])
    check(few, scipy_means(data, labels, [70, 5]), backend=backend, rtol=1e-13)


def test_ids_beyond_the_range_of_narrow_labels(backend):
    labels = np.array([[[1, 1, 200]]], np.uint8)
    got = gpuroi.label_means(backend.asarray(np.array([[[2.0, 4.0, 9.0]]])), backend.asarray(labels), [300, 200])
    check(got, np.array([np.nan, 9.0]), backend=backend)
