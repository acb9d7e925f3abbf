"""Regions of images, split around local maxima: against SciPy, scikit-image and nilearn's definitions."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn._utils.ndimage import peak_local_max
from scipy import ndimage
from skimage.segmentation import random_walker as skimage_walker

from gpuroi.backends.threads import limited_threads
from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.images import local_maxima, random_walker, regions

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
STRUCTURES = {c: ndimage.generate_binary_structure(3, k) for c, k in ((6, 1), (18, 2), (26, 3))}


@pytest.fixture
def on(backend, monkeypatch):
    """The name of each backend's device in turn; the stand-in has no driver for a probe to find."""
    monkeypatch.setattr("gpuroi.images.find_regions.get_backend", lambda _device: backend)
    return backend.device


def smooth_map(seed: int = 0, shape: tuple[int, int, int] = (24, 22, 20), sigma: float = 2.0) -> np.ndarray:
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return (values / values.std()).astype(np.float32)


def blobs(*peaks: tuple[int, int, int, float]) -> np.ndarray:
    grid = np.indices((30, 20, 20))
    fields = [
        h * np.exp(-((grid[0] - x) ** 2 + (grid[1] - y) ** 2 + (grid[2] - z) ** 2) / 18.0) for x, y, z, h in peaks
    ]
    return np.sum(fields, axis=0).astype(np.float32)


# --------------------------------------------------------------------------- local maxima


@given(st.integers(0, 2**16), st.integers(1, 6), st.sampled_from(["noise", "rounded", "flat"]))
def test_local_maxima_as_nilearn(seed, distance, kind):
    values = smooth_map(seed, (11, 9, 13), 1.0)
    if kind == "rounded":
        values = np.round(values)  # plateaus
    if kind == "flat":
        values = (values > 0.5).astype(np.float32)
    got = local_maxima(values, min_distance=distance)
    np.testing.assert_array_equal(got, peak_local_max(values, min_distance=distance))


def test_a_large_plateau_goes_the_other_way_to_the_same_answer():
    values = np.ones((40, 40, 40), np.float32)
    values[20, 20, 20] = 2.0
    near = np.abs(np.indices(values.shape) - 20).max(axis=0) <= 9
    np.testing.assert_array_equal(local_maxima(values, min_distance=9), ~near | (values == 2))


def test_local_maxima_of_boxes_with_unequal_edges_and_nan():
    values = np.full((1, 9, 9), np.nan)
    values[0, 4, 4], values[0, 4, 6], values[0, 7, 4] = 3, 2, 1
    assert np.argwhere(local_maxima(values, min_distance=(0, 1, 2))).tolist() == [[0, 4, 4], [0, 7, 4]]
    assert not local_maxima(np.zeros((3, 3, 3))).any()
    with pytest.raises(UsageError, match="min_distance"):
        local_maxima(values, min_distance=-1)
    with pytest.raises(DataError, match="expected"):
        local_maxima(np.zeros((3, 3)))


# --------------------------------------------------------------------------- random walker


def seeds_of(values: np.ndarray, cutoff: float) -> np.ndarray:
    seeds, _ = ndimage.label(local_maxima(values, min_distance=3))
    return np.where(values > cutoff, seeds, -1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_walker_as_scikit_image(seed, dtype):
    values = smooth_map(seed).astype(dtype)
    seeds = seeds_of(values, 0.0)
    want = skimage_walker(values.astype(float), seeds.copy(), tol=1e-6, prob_tol=1)
    got = random_walker(values, seeds, tol=1e-6)
    inside = (want > 0) & (seeds >= 0)
    assert len(np.unique(want)) > 3
    assert np.mean(got[inside] == want[inside]) > 0.999
    assert got.dtype == np.int32
    assert not got[seeds < 0].any()
    assert (got[seeds > 0] == seeds[seeds > 0]).all()


def test_the_walker_against_a_dense_solve():
    values = smooth_map(7, (6, 5, 4), 0.8).astype(np.float64)
    seeds = np.zeros(values.shape, int)
    seeds[0, 0, 0], seeds[5, 4, 3], seeds[0, 4, 0] = 3, 7, 4
    n = values.size
    place = np.arange(n).reshape(values.shape)
    laplacian = np.zeros((n, n))
    for axis in range(3):
        a, b = np.moveaxis(place, axis, 0)[:-1].ravel(), np.moveaxis(place, axis, 0)[1:].ravel()
        steps = values.ravel()[a] - values.ravel()[b]
        weight = np.exp(-130 / (10 * values.std()) * steps**2) + 1e-10
        laplacian[a, b] = laplacian[b, a] = -weight
    laplacian -= np.diag(laplacian.sum(axis=1))
    flat = seeds.ravel()
    free = flat == 0
    right = np.stack([-laplacian[np.ix_(free, flat == k)].sum(axis=1) for k in (3, 4, 7)], axis=1)
    want = flat.copy()
    want[free] = np.array([3, 4, 7])[np.linalg.solve(laplacian[np.ix_(free, free)], right).argmax(axis=1)]
    np.testing.assert_array_equal(random_walker(values, seeds, tol=1e-10).ravel(), want)


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_walker_does_not_depend_on_threads_or_layout(order):
    values = smooth_map(8)
    seeds = seeds_of(values, 0.3)
    want = random_walker(values, seeds)
    with limited_threads(1):
        got = random_walker(np.asarray(values, order=order), np.asarray(seeds, order=order))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_walks_stay_in_their_piece(connectivity):
    values = smooth_map(9, sigma=1.2)
    seeds = np.where(values > 0.6, 0, -1)
    pieces, n = ndimage.label(seeds == 0, STRUCTURES[connectivity])
    for k in range(1, n + 1, 2):  # every other piece has two seeds, at its ends
        voxels = np.argwhere(pieces == k)
        seeds[tuple(voxels[0])] = 2 * k
        seeds[tuple(voxels[-1])] = 2 * k + 1
    got = random_walker(values, seeds, connectivity=connectivity)
    seeded = np.unique(pieces[seeds > 0])
    assert (got > 0).sum() == np.isin(pieces, seeded).sum()
    for k in seeded:
        assert set(np.unique(got[pieces == k])) <= {2 * k, 2 * k + 1}


def test_a_flat_volume_and_no_seeds():
    seeds = np.zeros((1, 1, 7), int)
    assert not random_walker(np.ones((1, 1, 7)), seeds).any()
    seeds[0, 0, 0], seeds[0, 0, 6] = 5, 2
    assert random_walker(np.ones((1, 1, 7)), seeds)[0, 0].tolist()[:3] == [5, 5, 5]
    assert random_walker(np.ones((1, 1, 7)), seeds)[0, 0].tolist()[4:] == [2, 2, 2]


def test_what_the_walker_refuses():
    values, seeds = smooth_map(), np.zeros((24, 22, 20), int)
    with pytest.raises(DataError, match="shape"):
        random_walker(values, seeds[1:])
    with pytest.raises(DataError, match="dtype"):
        random_walker(values, seeds.astype(float))
    with pytest.raises(UsageError, match="beta"):
        random_walker(values, seeds, beta=0)
    values[3, 3, 3] = np.nan
    with pytest.raises(DataError, match="not finite"):
        random_walker(values, seeds)


# --------------------------------------------------------------------------- regions of images


def test_two_peaks_are_two_regions(on):
    values = blobs((10, 10, 10, 6.0), (19, 10, 10, 5.0))
    values[:, :, :4] = -blobs((15, 10, 2, 4.0))[:, :, :4]
    img = nibabel.Nifti1Image(values, AFFINE)
    whole = regions(img, threshold=1.0, device=on)
    split = regions(img, threshold=1.0, seeds="local-maxima", seed_distance_mm=8, device=on)
    assert (whole.n_positive, whole.n_negative) == (1, 1)
    assert (split.n_positive, split.n_negative) == (2, 1)
    np.testing.assert_array_equal(split.labels != 0, whole.labels != 0)
    assert {split.labels[10, 10, 10], split.labels[19, 10, 10]} == {1, 2}
    assert split.labels[15, 10, 1] == 3
    for k in (1, 2, 3):
        assert ndimage.label(split.labels == k)[1] == 1
    assert split.image.get_data_dtype() == np.int32
    np.testing.assert_array_equal(split.image.affine, AFFINE)


def test_a_piece_without_a_peak_of_its_own_stays_whole():
    values = blobs((10, 10, 10, 6.0))
    values[10, 10, 16] = 2.0  # apart, but within the box around the large peak
    result = regions(
        nibabel.Nifti1Image(values, AFFINE), threshold=1.5, seeds="local-maxima", seed_fwhm_mm=0, device="cpu"
    )
    assert result.n_positive == 2
    assert (result.labels == result.labels[10, 10, 16]).sum() == 1


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_zero_takes_all_that_is_not_zero(on, connectivity):
    values = np.where(np.abs(smooth_map(3, sigma=1.0)) > 1.2, smooth_map(3, sigma=1.0), 0)
    result = regions(nibabel.Nifti1Image(values, AFFINE), connectivity=connectivity, device=on)
    positive, n = ndimage.label(values > 0, STRUCTURES[connectivity])
    negative, m = ndimage.label(values < 0, STRUCTURES[connectivity])
    np.testing.assert_array_equal(result.labels, np.where(negative, negative + n, positive))
    assert (result.n_positive, result.n_negative) == (n, m)
    assert result.rule == "|x| >= 0"


def test_splits_are_numbered_without_gaps_after_small_ones_are_left_out():
    values = smooth_map(5)
    result = regions(
        nibabel.Nifti1Image(values, AFFINE), threshold="80%", seeds="local-maxima", min_size_mm3=200, device="cpu"
    )
    n = result.n_positive + result.n_negative
    assert n > 3
    assert np.unique(result.labels).tolist() == list(range(n + 1))
    assert np.bincount(result.labels.ravel())[1:].min() * 8 >= 200
    first = [np.flatnonzero(result.labels.ravel() == k)[0] for k in range(1, n + 1)]
    assert first[: result.n_positive] == sorted(first[: result.n_positive])
    assert (values[result.labels > result.n_positive] < 0).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threshold": -2.0}, "negative"),
        ({"threshold": "120%"}, "outside 0 to 100"),
        ({"seeds": "peaks"}, "seeds"),
        ({"seeds": "local-maxima", "seed_distance_mm": 0.0}, "seed_distance_mm"),
        ({"seeds": "local-maxima", "seed_fwhm_mm": -1.0}, "seed_fwhm_mm"),
        ({"min_size_mm3": float("nan")}, "min_size_mm3"),
        ({"connectivity": 4}, "connectivity"),
    ],
    ids=str,
)
def test_what_is_refused(changes, said):
    with pytest.raises(UsageError, match=said):
        regions(nibabel.Nifti1Image(smooth_map(), AFFINE), **changes, device="cpu")


def test_images_that_cannot_be_used():
    with pytest.raises(DataError, match="3 volumes"):
        regions(nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), AFFINE), device="cpu")
    mask = nibabel.Nifti1Image(np.ones((24, 22, 20), np.uint8), np.eye(4))
    with pytest.raises(GridError):
        regions(nibabel.Nifti1Image(smooth_map(), AFFINE), mask=mask, device="cpu")
    one_frame = regions(nibabel.Nifti1Image(smooth_map()[..., None], AFFINE), threshold=1.5, device="cpu")
    assert one_frame.labels.shape == (24, 22, 20)
