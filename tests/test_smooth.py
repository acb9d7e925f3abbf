"""Smoothing against SciPy in float64, and nilearn."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st
from oracles import over_maps
from rig.checking import check
from scipy import ndimage

import gpuroi
from gpuroi.errors import DataError, UsageError

MODES = ["reflect", "constant", "nearest", "mirror", "wrap"]
TO_SIGMA = 1 / np.sqrt(8 * np.log(2))


def scipy_smooth(data, fwhm, voxel_size, mode="reflect"):
    sigma = np.broadcast_to(fwhm, 3) * TO_SIGMA / np.broadcast_to(voxel_size, 3)
    with np.errstate(invalid="ignore"):
        return over_maps(data.astype(np.float64), lambda v: ndimage.gaussian_filter(v, sigma, mode=mode), np.float64)


def result_dtype(dtype):
    return np.float64 if (dtype.kind == "f" and dtype.itemsize == 8) or dtype.name in ("int64",) else np.float32


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_equals_scipy(backend, name):
    data = HOSTILE[name]
    got = gpuroi.smooth(backend.asarray(data), (4.0, 3.0, 6.0), (2.0, 2.5, 1.5))
    want = scipy_smooth(data, (4.0, 3.0, 6.0), (2.0, 2.5, 1.5)) if data.size else np.zeros(data.shape)
    finite = np.abs(want[np.isfinite(want)]).max(initial=1.0)
    check(got, want.astype(result_dtype(data.dtype)), rtol=0, atol=1e-6 * finite, backend=backend)


@pytest.mark.parametrize("fwhm", [1.0, 3.0, 8.0, 40.0, (0.0, 5.0, 0.0), (7.0, 0.0, 3.0)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_modes_and_widths_equal_scipy(backend, mode, fwhm, order):
    data = np.asarray(np.random.default_rng(0).standard_normal((11, 8, 10)), dtype=np.float32, order=order)
    got = gpuroi.smooth(backend.asarray(data), fwhm, 2.0, mode=mode)
    check(got, scipy_smooth(data, fwhm, 2.0, mode).astype(np.float32), rtol=0, atol=2e-6, backend=backend)


def test_float64_keeps_its_digits(backend):
    data = np.random.default_rng(1).standard_normal((2, 9, 9, 9)) + 1e6
    got = gpuroi.smooth(backend.asarray(data), 6.0, 2.0)
    check(got, scipy_smooth(data, 6.0, 2.0), rtol=1e-14, atol=0, backend=backend)


def test_a_batch_is_its_maps_one_by_one(backend):
    data = np.random.default_rng(2).standard_normal((5, 9, 10, 11)).astype(np.float32)
    whole = backend.to_numpy(gpuroi.smooth(backend.asarray(data), 5.0, 2.0))
    for i in range(len(data)):
        single = backend.to_numpy(gpuroi.smooth(backend.asarray(data[i]), 5.0, 2.0))
        np.testing.assert_array_equal(whole[i], single)


def test_nothing_to_smooth_is_a_copy(backend):
    data = backend.asarray(np.random.default_rng(3).standard_normal((4, 4, 4)).astype(np.float32))
    for fwhm in (None, 0.0, (0.0, 0.0, 0.0)):
        got = gpuroi.smooth(data, fwhm, 2.0)
        check(got, backend.to_numpy(data), backend=backend)
        assert got is not data


def test_memory_layout_is_kept():
    data = np.asfortranarray(np.random.default_rng(4).standard_normal((5, 6, 7, 3)).astype(np.float32))
    assert gpuroi.smooth(data.transpose(3, 0, 1, 2), 4.0, 2.0)[0].flags.f_contiguous


def test_mask_is_a_weighted_mean_of_what_lies_inside(backend):
    rng = np.random.default_rng(5)
    data = rng.standard_normal((2, 9, 8, 7)).astype(np.float32)
    mask = rng.random((9, 8, 7)) < 0.6
    data[:, ~mask] = np.nan
    got = gpuroi.smooth(backend.asarray(data), 4.0, 2.0, mask=backend.asarray(mask))
    inside = np.where(mask, data, 0)
    weights = scipy_smooth(mask.astype(np.float64), 4.0, 2.0)
    want = np.where(mask, scipy_smooth(inside, 4.0, 2.0) / weights, 0)
    check(got, want.astype(np.float32), rtol=0, atol=2e-6, backend=backend)


def test_constant_stays_constant_inside_a_mask():
    mask = np.zeros((9, 9, 9), bool)
    mask[2:5, 3:8, 1:4] = True
    got = gpuroi.smooth(np.full((9, 9, 9), 5.0), 6.0, 2.0, mask=mask)
    np.testing.assert_allclose(got[mask], 5.0, rtol=1e-14)
    assert not got[~mask].any()


@given(scale=st.floats(-100, 100), seed=st.integers(0, 1000))
def test_smoothing_is_linear(scale, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, 6, 7, 8))
    left = gpuroi.smooth(a * scale + b, 4.0, 2.0)
    right = gpuroi.smooth(a, 4.0, 2.0) * scale + gpuroi.smooth(b, 4.0, 2.0)
    np.testing.assert_allclose(left, right, atol=1e-12 * (1 + abs(scale)))


@given(seed=st.integers(0, 1000))
def test_an_impulse_far_from_the_edge_keeps_its_sum(seed):
    data = np.zeros((15, 15, 15))
    data[7, 7, 7] = np.random.default_rng(seed).standard_normal()
    np.testing.assert_allclose(gpuroi.smooth(data, 3.0, 2.0).sum(), data.sum(), rtol=1e-12)


def test_equals_nilearn_on_an_anisotropic_oblique_image():
    smooth_img = pytest.importorskip("nilearn.image").smooth_img
    rng = np.random.default_rng(6)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    zooms = np.array([2.0, 3.5, 1.25])
    affine = np.eye(4)
    affine[:3, :3] = rotation * zooms
    data = rng.standard_normal((10, 9, 8, 3)).astype(np.float32)
    want = smooth_img(nib.Nifti1Image(data, affine), 6.0).get_fdata()
    got = gpuroi.smooth(data.transpose(3, 0, 1, 2), 6.0, tuple(np.linalg.norm(affine[:3, :3], axis=0)))
    np.testing.assert_allclose(got.transpose(1, 2, 3, 0), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fwhm": -1.0}, "fwhm"),
        ({"fwhm": np.nan}, "fwhm"),
        ({"fwhm": (1.0, 2.0)}, "fwhm"),
        ({"fwhm": 2.0, "voxel_size": 0.0}, "voxel_size"),
        ({"fwhm": 2.0, "mode": "edge"}, "mode"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        gpuroi.smooth(np.ones((3, 3, 3)), **arguments)


def test_bad_data_are_refused():
    with pytest.raises(DataError, match="volumes"):
        gpuroi.smooth(np.ones((3, 3)), 2.0)
    with pytest.raises(DataError, match="complex"):
        gpuroi.smooth(np.ones((3, 3, 3), complex), 2.0)
    with pytest.raises(DataError, match="mask"):
        gpuroi.smooth(np.ones((3, 3, 3)), 2.0, mask=np.ones((3, 3, 4), bool))
