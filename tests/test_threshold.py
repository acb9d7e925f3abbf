"""Thresholding and percentiles against a labelling per sign, NumPy and nilearn."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st
from oracles import STRUCTURES, over_maps, population
from oracles import threshold as slow_threshold
from rig.checking import check
from scipy import ndimage

import gpuroi
from gpuroi.errors import UsageError


def smooth_noise(seed, shape=(3, 12, 11, 10)):
    noise = np.random.default_rng(seed).standard_normal(shape)
    noise = ndimage.gaussian_filter(noise, (0, 1, 1, 1)) if len(shape) == 4 else noise
    return (noise / noise.std()).astype(np.float32)


@pytest.mark.parametrize("min_size", [0, 3])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input(backend, name, min_size):
    data = HOSTILE[name]
    given_ = data.astype(data.dtype.newbyteorder("="), copy=False)
    got = gpuroi.threshold(backend.asarray(data), 0.75, cluster_threshold=min_size)
    values = given_.astype(np.float64) if given_.dtype.kind in "iub" else given_
    want = over_maps(values, lambda v: slow_threshold(v, 0.75, two_sided=True, min_size=min_size), values.dtype)
    check(got, want.astype(given_.dtype), backend=backend)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_clusters(backend, connectivity, order):
    data = smooth_noise(0)
    data = np.ascontiguousarray(data.transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1) if order == "F" else data
    mask = np.random.default_rng(1).random(data.shape[1:]) < 0.9
    for cutoff, two_sided, k, inside in itertools.product(
        (1.0, 0.0, -1.0), (True, False), (0, 2, 9, 10_000), (None, mask)
    ):
        if two_sided and cutoff < 0:
            continue
        got = gpuroi.threshold(
            backend.asarray(data),
            cutoff,
            two_sided=two_sided,
            cluster_threshold=k,
            connectivity=connectivity,
            mask=None if inside is None else backend.asarray(inside),
        )
        want = over_maps(
            data,
            lambda v: slow_threshold(
                v,
                cutoff,
                two_sided=two_sided,
                min_size=k,
                structure=STRUCTURES[connectivity],
                mask=inside,
            ),
            np.float32,
        )
        check(got, want, backend=backend)


LINE = np.zeros((3, 3, 3), bool)
LINE[:, 1, 1] = True
PLANE = np.zeros((3, 3, 3), bool)
PLANE[1] = True


@pytest.mark.parametrize("structure", [LINE, PLANE], ids=["line", "plane"])
def test_any_symmetric_structure(backend, structure):
    data = smooth_noise(2)
    got = gpuroi.threshold(backend.asarray(data), 0.8, cluster_threshold=3, connectivity=structure)
    want = over_maps(
        data, lambda v: slow_threshold(v, 0.8, two_sided=True, min_size=3, structure=structure), np.float32
    )
    check(got, want, backend=backend)


def test_positive_and_negative_clusters_are_apart(backend):
    data = np.array([[[3.0, 3.0, -3.0, -3.0, 3.0]]], np.float32)
    got = gpuroi.threshold(backend.asarray(data), 2.0, cluster_threshold=2)
    check(got, np.array([[[3.0, 3.0, -3.0, -3.0, 0.0]]], np.float32), backend=backend)


def test_the_cutoff_itself_is_kept(backend):
    data = np.array([[[2.3, -2.3, 2.2999]]], np.float32)
    got = gpuroi.threshold(backend.asarray(data), 2.3)
    check(got, np.array([[[2.3, -2.3, 0]]], np.float32), backend=backend)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("q", [0, 3.7, 50, 90, 97, 99.99, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_percentiles_equal_numpy(backend, dtype, q, two_sided):
    data = smooth_noise(3).astype(dtype)
    data[0, :4] = 0.0
    data[1, 0, 0, 0] = np.nan
    mask = np.random.default_rng(4).random(data.shape[1:]) < 0.5
    for inside in (None, mask):
        on_device = None if inside is None else backend.asarray(inside)
        got = gpuroi.percentile_cutoff(backend.asarray(data), f"{q}%", two_sided=two_sided, mask=on_device)
        want = np.array([np.percentile(population(v, two_sided=two_sided, mask=inside), q) for v in data])
        check(got, want, rtol=1e-15, backend=backend)


@pytest.mark.parametrize("name", [n for n in HOSTILE if HOSTILE[n].size])
def test_percentiles_of_hostile_input(backend, name):
    data = HOSTILE[name]
    volumes = data.reshape(-1, *data.shape[-3:])
    got = gpuroi.percentile_cutoff(backend.asarray(volumes), 80)
    want = []
    for v in volumes:
        values = population(v.astype(np.float64), two_sided=True)
        want.append(np.percentile(values, 80) if values.size else np.nan)
    check(got, np.array(want), rtol=1e-15, backend=backend)


@pytest.mark.parametrize("two_sided", [True, False])
def test_percentile_thresholds_equal_nilearn(backend, two_sided):
    threshold_img = pytest.importorskip("nilearn.image").threshold_img
    data = smooth_noise(5)[0]
    img = nib.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0]))
    want = threshold_img(img, "90%", two_sided=two_sided, copy_header=True).get_fdata()
    got = gpuroi.threshold(backend.asarray(data), "90%", two_sided=two_sided)
    np.testing.assert_array_equal(backend.to_numpy(got), want)


def test_cluster_thresholds_equal_nilearn():
    threshold_img = pytest.importorskip("nilearn.image").threshold_img
    data = smooth_noise(6)[0]
    img = nib.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0]))
    want = threshold_img(img, 1.2, cluster_threshold=5, two_sided=True, copy_header=True).get_fdata()
    np.testing.assert_array_equal(gpuroi.threshold(data, 1.2, cluster_threshold=5), want)


def test_nothing_in_the_population_keeps_nothing(backend):
    data = backend.asarray(np.full((2, 3, 3, 3), np.nan, np.float32))
    check(gpuroi.threshold(data, "50%"), np.zeros((2, 3, 3, 3), np.float32), backend=backend)
    ones = backend.asarray(np.ones((2, 3, 3, 3), np.float32))
    nowhere = backend.asarray(np.zeros((3, 3, 3), bool))
    check(gpuroi.threshold(ones, "50%", mask=nowhere), np.zeros((2, 3, 3, 3), np.float32), backend=backend)


@given(seed=st.integers(0, 10_000), low=st.floats(0, 2), step=st.floats(0, 2), k=st.integers(0, 12))
def test_a_higher_threshold_keeps_less(seed, low, step, k):
    data = smooth_noise(seed, (7, 7, 7))
    less = gpuroi.threshold(data, low + step, cluster_threshold=k) != 0
    more = gpuroi.threshold(data, low, cluster_threshold=k) != 0
    assert (less <= more).all()
    assert (more <= (gpuroi.threshold(data, low) != 0)).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"cutoff": -2.0},
        {"cutoff": "101%"},
        {"cutoff": "-1%"},
        {"cutoff": "high"},
        {"cutoff": np.nan},
        {"cutoff": 2.0, "cluster_threshold": -1},
        {"cutoff": 2.0, "connectivity": 8},
    ],
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(UsageError):
        gpuroi.threshold(np.ones((3, 3, 3)), **arguments)
