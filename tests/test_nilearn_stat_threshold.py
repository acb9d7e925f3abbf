"""threshold_stats_img and fdr_threshold of gpuroi.nilearn: nilearn's thresholds, statsmodels' discoveries."""

from __future__ import annotations

import inspect
import warnings

import nibabel
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy import ndimage
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn import fdr_threshold, threshold_stats_img

SHAPE = (10, 9, 8)
CONTROLS = ["fpr", "fdr", "bonferroni"]


def nifti(values, affine=None):
    return nibabel.Nifti1Image(values, np.diag([3.0, 3, 3, 1]) if affine is None else affine)


def data_of(image):
    return np.asarray(image.dataobj)


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


@pytest.fixture
def z():
    """Smooth noise of unit variance with one positive and one negative blob, zeros outside of a brain."""
    rng = np.random.default_rng(0)
    values = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 0.7)
    values /= values.std()
    values[2:5, 2:5, 2:5] += 6
    values[6:8, 5:7, 3:6] -= 7
    values[:2] = values[-2:] = values[:, :2] = values[:, -2:] = 0
    return values


@pytest.fixture
def mask(z):
    return nifti((z != 0).astype(np.uint8))


@pytest.mark.parametrize("function", [threshold_stats_img, fdr_threshold])
def test_signature_is_nilearns(function):
    import nilearn.glm

    theirs = inspect.signature(getattr(nilearn.glm, function.__name__)).parameters
    mine = inspect.signature(function).parameters
    assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in theirs.values()]


# ------------------------------------------------------------------ fdr_threshold


@given(
    z=st.lists(st.floats(-9, 9).map(lambda x: round(x, 3)), min_size=1, max_size=60),
    alpha=st.sampled_from([0.0, 0.001, 0.05, 0.3, 1.0]),
)
def test_discoveries_are_statsmodels(z, alpha):
    z = np.array(z)
    p = norm.sf(z)
    ranks = np.arange(1, z.size + 1) / z.size
    assume(not np.isclose(np.sort(p), alpha * ranks, rtol=1e-9, atol=0).any())  # ties with the line: < there, <= here
    found = z >= fdr_threshold(z, alpha)
    want = multipletests(p, alpha, method="fdr_bh")[0] if 0 < alpha < 1 else np.full(z.shape, alpha == 1)
    assert_array_equal(found, want)


@given(seed=st.integers(0, 2**16), n=st.integers(1, 300), dtype=st.sampled_from(["f4", ">f4", "f8", "i2"]))
def test_fdr_threshold_is_nilearns(seed, n, dtype):
    from nilearn.glm import fdr_threshold as theirs

    z = (np.random.default_rng(seed).standard_normal(n) * 3).astype(dtype)
    for alpha in (0.001, 0.05, 0.5):
        assert fdr_threshold(z, alpha) == theirs(z, alpha)


def test_fdr_leaves_nan_out_and_takes_any_shape(backend):
    z = np.array([[4.0, 3.5, 2.8], [2.5, 1.9, 1.2]])
    want = fdr_threshold(z.ravel(), 0.05)
    assert want == 1.9 - 1e-12
    with_nan = np.concatenate([z.ravel(), np.full(50, np.nan)])
    assert fdr_threshold(backend.asarray(with_nan), 0.05) == want
    assert fdr_threshold(backend.asarray(z), 0.05) == want
    assert fdr_threshold([], 0.05) == fdr_threshold([np.nan], 0.05) == np.inf
    assert fdr_threshold([np.inf, 0.0], 0.05) == np.inf  # the least z that passes


def test_p_below_double_precision_counts():
    assert fdr_threshold(np.array([30.0, *np.zeros(1000)]), 1e-150) == 30 - 1e-12


@pytest.mark.parametrize("alpha", [-0.1, 1.5, np.nan])
def test_fdr_refuses_other_rates(alpha):
    with pytest.raises(UsageError, match="alpha should be between 0 and 1"):
        fdr_threshold([1.0, 2.0], alpha)


# ------------------------------------------------------------------ threshold_stats_img


@pytest.mark.parametrize("height_control", CONTROLS)
@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("cluster_threshold", [0, 14])
@pytest.mark.parametrize("masked", [True, False])
def test_maps_and_thresholds_are_nilearns(z, mask, height_control, two_sided, cluster_threshold, masked):
    from nilearn.glm import threshold_stats_img as theirs

    for dtype in ("f4", "f8", ">f4"):
        options = {
            "mask_img": mask if masked else None,
            "alpha": 0.01,
            "height_control": height_control,
            "cluster_threshold": cluster_threshold,
            "two_sided": two_sided,
        }
        image, threshold = threshold_stats_img(nifti(z.astype(dtype)), **options)
        want, want_threshold = quietly(theirs, nifti(z.astype(dtype)), **options)
        assert threshold == want_threshold
        assert_array_equal(data_of(image), data_of(want))
        assert np.count_nonzero(data_of(image) > 0) >= 14
        assert (data_of(image) < 0).any() == (two_sided and cluster_threshold < 13)


@pytest.mark.parametrize("height_control", [*CONTROLS, None])
def test_each_device(z, mask, height_control, device):
    from nilearn.glm import threshold_stats_img as theirs

    options = {"mask_img": mask, "height_control": height_control, "alpha": 0.05, "cluster_threshold": 3}
    image, threshold = quietly(threshold_stats_img, nifti(z.astype(np.float32)), **options)
    want, want_threshold = quietly(theirs, nifti(z.astype(np.float32)), **options)
    assert threshold == want_threshold
    assert_array_equal(data_of(image), data_of(want))


def test_thresholds_are_exact(z, mask):
    n = int(data_of(mask).sum())
    for two_sided, tails in ((True, 2), (False, 1)):
        options = {"mask_img": mask, "alpha": 0.01, "two_sided": two_sided}
        _, fpr = threshold_stats_img(nifti(z), height_control="fpr", **options)
        _, bonferroni = threshold_stats_img(nifti(z), height_control="bonferroni", **options)
        assert fpr == norm.isf(0.01 / tails)
        assert bonferroni == norm.isf(0.01 / tails / n)
    p = 2 * norm.sf(np.abs(z[z != 0]))
    image, _ = threshold_stats_img(nifti(z), mask, alpha=0.01, height_control="fdr")
    assert_array_equal(data_of(image)[z != 0] != 0, multipletests(p, 0.01, method="fdr_bh")[0])


def test_nothing_found_is_a_map_of_zeros(mask):
    noise = np.random.default_rng(1).standard_normal(SHAPE) * 0.1
    with pytest.warns(UserWarning, match="must not exceed"):
        image, threshold = threshold_stats_img(nifti(noise), mask, alpha=0.05, height_control="fdr")
    assert threshold == np.inf
    assert not data_of(image).any()
    with pytest.warns(UserWarning, match="must not exceed"):
        image, threshold = threshold_stats_img(nifti(np.zeros(SHAPE)), height_control="fpr")
    assert threshold == norm.isf(0.0005)
    assert not data_of(image).any()


def test_a_mask_on_another_grid_is_brought_to_the_map(z, mask):
    fine = np.kron(data_of(mask), np.ones((2, 2, 2), np.uint8))
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = -0.75
    same = threshold_stats_img(nifti(z), mask, alpha=0.05, height_control="bonferroni")
    other = threshold_stats_img(nifti(z), nifti(fine, affine), alpha=0.05, height_control="bonferroni")
    assert other[1] == same[1]  # the tests are the voxels of the map
    assert_array_equal(data_of(other[0]), data_of(same[0]))


@pytest.mark.filterwarnings("ignore:Non-finite values")
def test_nan_and_inf_count_as_0(z, mask):
    from nilearn.glm import threshold_stats_img as theirs

    values = z.copy()
    values[4, 4, 4], values[5, 5, 5] = np.nan, np.inf
    for control in CONTROLS:
        image, threshold = threshold_stats_img(nifti(values), mask, alpha=0.05, height_control=control)
        want, want_threshold = quietly(theirs, nifti(values), mask, alpha=0.05, height_control=control)
        assert threshold == want_threshold
        assert_array_equal(data_of(image), data_of(want))


def test_no_map_gives_the_threshold_alone():
    assert threshold_stats_img(alpha=0.05) == (None, norm.isf(0.025))
    assert threshold_stats_img(threshold=2.5, height_control=None) == (None, 2.5)


def test_the_warnings_of_nilearn(z):
    with pytest.warns(FutureWarning, match="the default 'threshold' will be set to 3.09"):
        assert threshold_stats_img(height_control=None) == (None, 3.0)
    with pytest.warns(UserWarning, match=r"'threshold=2.0' is not used with 'height_control='fpr''"):
        threshold_stats_img(nifti(z), threshold=2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"height_control": "fwe"}, UsageError, "'height_control' must be one of"),
        ({"cluster_threshold": -1}, UsageError, "'cluster_threshold' must be > 0"),
        ({"cluster_threshold": 2.5}, TypeError, "'cluster_threshold' must be of type"),
        ({"alpha": 1.01}, UsageError, "alpha should be between 0 and 1"),
        ({"alpha": np.nan}, UsageError, "alpha should be between 0 and 1"),
        ({"threshold": -2, "height_control": None}, UsageError, "should not be a negative value when two_sided=True"),
        ({"stat_img": None, "height_control": "fdr"}, UsageError, "'stat_img' cannot be None"),
        ({"stat_img": 3}, TypeError, "NiftiLike"),
        ({"stat_img": "nothing.nii"}, ValueError, "nothing"),
        (
            {"mask_img": nifti(np.zeros(SHAPE)), "height_control": "fdr"},
            DataError,
            "The mask is invalid as it is empty",
        ),
        ({"stat_img": nifti(np.zeros(SHAPE)), "height_control": "fdr"}, DataError, "no mask can be made"),
    ],
)
def test_refused(z, options, error, message):
    with pytest.raises(error, match=message):
        threshold_stats_img(**{"stat_img": nifti(z), **options})


# ------------------------------------------------------------------ surfaces


@pytest.fixture
def surface():
    from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage

    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = np.array([[1, 0, 2], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    mesh = PolyMesh(left=InMemoryMesh(corners, faces), right=InMemoryMesh(corners + 2, faces))
    values = {"left": np.array([5.0, -1, 6, 4]), "right": np.array([0.5, -6, 0.1, 8])}
    mask = {"left": np.array([1, 1, 1, 0]), "right": np.array([0, 1, 1, 1])}
    return SurfaceImage(mesh, values), SurfaceImage(mesh, mask)


@pytest.mark.parametrize("height_control", CONTROLS)
@pytest.mark.parametrize("masked", [True, False])
def test_surfaces_are_nilearns(surface, height_control, masked):
    from nilearn.glm import threshold_stats_img as theirs

    image, mask = surface
    options = {"mask_img": mask if masked else None, "height_control": height_control, "alpha": 0.01}
    got, threshold = threshold_stats_img(image, **options)
    want, want_threshold = quietly(theirs, image, **options)
    assert threshold == want_threshold
    for part in ("left", "right"):
        assert_array_equal(got.data.parts[part], want.data.parts[part])


def test_vertices_that_are_not_finite_are_no_tests(surface):
    image, _ = surface
    _, all_of_them = threshold_stats_img(image, height_control="bonferroni", alpha=0.05)
    image.data.parts["left"][1] = np.nan
    with pytest.warns(UserWarning, match="Non-finite values detected"):
        _, threshold = threshold_stats_img(image, height_control="bonferroni", alpha=0.05)
    assert threshold == norm.isf(0.025 / 7)
    assert all_of_them == norm.isf(0.025 / 8)
    with pytest.raises(TypeError, match="SurfaceImage"):
        threshold_stats_img(image, nifti(np.ones(SHAPE, np.uint8)), height_control="fdr")


# ------------------------------------------------------------------ real images


def test_real_maps_are_thresholded_as_nilearn_does(open_data):
    from nilearn.glm import threshold_stats_img as theirs

    paths = [*(open_data / "statmaps").glob("*.nii.gz"), open_data / "epi_oro" / "zstat1.nii.gz"]
    assert len(paths) >= 4
    for path in paths:
        for control in CONTROLS:
            options = {"height_control": control, "alpha": 0.01, "cluster_threshold": 10}
            image, threshold = quietly(threshold_stats_img, path, **options)
            want, want_threshold = quietly(theirs, path, **options)
            assert threshold == want_threshold, (path.name, control)
            assert_array_equal(data_of(image), data_of(want), err_msg=f"{path.name} {control}")
