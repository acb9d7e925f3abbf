"""get_clusters_table row for row as nilearn's, on real and on made-up maps, volumes and surfaces."""

from __future__ import annotations

import inspect
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.ndimage as ndi
from hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st
from scipy import spatial

from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn import get_clusters_table

ROTATION = spatial.transform.Rotation.from_euler("xyz", [20, -10, 35], degrees=True).as_matrix()
OBLIQUE = nib.affines.from_matvec(ROTATION @ np.diag([2.0, 2.5, 3.0]), [-80, 17, -5])


def nilearns(*args, **options):
    from nilearn.reporting import get_clusters_table as theirs

    return theirs(*args, **options)


def recorded(function, *args, **options):
    """What a function returns, and the texts of its warnings, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*args, **options)
    return result, {str(w.message) for w in caught if not issubclass(w.category, FutureWarning | DeprecationWarning)}


def same_as_nilearn(img, *args, **options):
    (table, maps), said = recorded(get_clusters_table, img, *args, return_label_maps=True, **options)
    (expected, expected_maps), expected_said = recorded(nilearns, img, *args, return_label_maps=True, **options)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert said == expected_said
    assert len(maps) == len(expected_maps)
    for one, other in zip(maps, expected_maps, strict=True):
        assert type(one) is type(other)
        np.testing.assert_array_equal(one.affine, other.affine)
        np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
    return table


def nifti(values, affine=None):
    return nib.Nifti1Image(values, np.eye(4) if affine is None else affine)


def blobs(seed, shape=(14, 12, 15), digits=2):
    values = ndi.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.0)
    return np.round(values / values.std(), digits).astype(np.float32)


def test_signature_is_nilearns():
    from nilearn.reporting import get_clusters_table as theirs

    ours, other = inspect.signature(get_clusters_table), inspect.signature(theirs)
    assert [(p.name, p.default, p.kind) for p in ours.parameters.values()] == [
        (p.name, p.default, p.kind) for p in other.parameters.values()
    ]


# ------------------------------------------------------------------ real maps


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("statmaps/motor_lips.nii.gz", {"stat_threshold": 2.0, "cluster_threshold": 200, "two_sided": True}),
        ("statmaps/motor_lips.nii.gz", {"stat_threshold": -2.0, "cluster_threshold": 300}),
        ("statmaps/motor_lips_nan.nii.gz", {"stat_threshold": 2.0, "cluster_threshold": 10, "two_sided": True}),
        ("statmaps/motor_lips_nan.nii.gz", {"stat_threshold": 3.0}),
        ("statmaps/image_10426.nii.gz", {"stat_threshold": 2.0}),
        ("statmaps/image_10426.nii.gz", {"stat_threshold": 2.0, "two_sided": True, "min_distance": 20.0}),
        ("statmaps/image_10426.nii.gz", {"stat_threshold": -2.0}),
        ("epi_oro/zstat1.nii.gz", {"stat_threshold": 2.0, "cluster_threshold": 10, "two_sided": True}),
        ("epi_oro/zstat1.nii.gz", {"stat_threshold": 3.0}),
        ("nimare_pain21/pain_01_z.nii.gz", {"stat_threshold": 1.0, "two_sided": True, "min_distance": 2.0}),
        ("nimare_pain21/pain_02_t.nii.gz", {"stat_threshold": 0.5, "two_sided": True}),
        ("ugly_nibabel/anatomical.nii", {"stat_threshold": 20000, "cluster_threshold": 5}),
        ("ugly_nibabel/resampled_anat_moved.nii", {"stat_threshold": 20000, "cluster_threshold": 5}),
    ],
)
def test_real_maps(open_data, name, options):
    assert (open_data / name).is_file()
    same_as_nilearn(str(open_data / name), **options)


@pytest.mark.parametrize("code", ["AIL", "ASR", "IPL", "LAI", "LPS", "PIR", "RAS", "RIP", "SAR", "SPL"])
def test_one_head_in_many_orientations(open_data, code):
    table = same_as_nilearn(open_data / "orient48" / f"{code}.nii.gz", 75.0, 200)
    assert len(table) > 0


def test_oblique_frame(open_data):
    image = nib.load(open_data / "oblique_dcmqa" / "ax_asc_36sl_9.nii")
    assert np.abs(image.affine[:3, :3] - np.diag(np.diag(image.affine[:3, :3]))).max() > 0.01
    table = same_as_nilearn(image.slicer[..., 0], 1000, 20, min_distance=12.0)
    assert len(table) > 3


# ------------------------------------------------------------------ made-up maps


@given(
    st.integers(0, 10_000),
    st.sampled_from([0.5, 1.0, 1.5, 0, -0.5, -1.0]),
    st.sampled_from([0, 2, 6]),
    st.booleans(),
    st.sampled_from([1.0, 4.0, 8.0]),
    st.integers(0, 1),
)
def test_ties_plateaus_and_oblique_grids(seed, threshold, cluster_threshold, two_sided, min_distance, digits):
    image = nifti(blobs(seed, (8, 9, 7), digits), OBLIQUE)
    same_as_nilearn(image, abs(threshold) if two_sided else threshold, cluster_threshold, two_sided, min_distance)


@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.uint8, ">f4", ">i2"])
def test_stored_types(dtype, tmp_path):
    values = np.clip(blobs(1) * 20 + 60, 0, 200).astype(dtype)
    nib.save(nib.Nifti1Image(values, OBLIQUE), tmp_path / "map.nii.gz")
    same_as_nilearn(tmp_path / "map.nii.gz", 80, 2)


def test_spm_pair(open_data):
    """nilearn cannot threshold SPM's format; the same values as NIfTI give the same rows."""
    image = nib.load(open_data / "wager2008_emoreg" / "con_00810001.img")
    with pytest.raises(TypeError, match="Spm2AnalyzeImage"):
        nilearns(str(open_data / "wager2008_emoreg" / "con_00810001.img"), 1.0)
    options = {"cluster_threshold": 50, "two_sided": True}
    table, _ = recorded(get_clusters_table, str(open_data / "wager2008_emoreg" / "con_00810001.img"), 1.0, **options)
    expected, _ = recorded(nilearns, nifti(np.asarray(image.dataobj), image.affine), 1.0, **options)
    assert len(table) > 3
    pd.testing.assert_frame_equal(table, expected)


def test_scaled_integers(tmp_path):
    image = nib.Nifti1Image(blobs(2), OBLIQUE)
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "map.nii")
    assert nib.load(tmp_path / "map.nii").dataobj.slope != 1
    same_as_nilearn(tmp_path / "map.nii", 1.0, two_sided=True)


@pytest.mark.parametrize("name", [n for n, a in HOSTILE.items() if a.ndim == 3 and a.dtype.kind in "fi" and a.size])
def test_hostile_maps(name):
    values = HOSTILE[name].astype(np.float32) if HOSTILE[name].dtype.kind != "f" else HOSTILE[name]
    values = values.astype(np.float32) if values.dtype == np.float16 else values
    image = nifti(values, OBLIQUE)
    if (values > 0.9).all():
        assert len(nilearns(image, 0.9)) == 0  # nilearn takes the first label for the background
        table = get_clusters_table(image, 0.9)
        assert table["Peak Stat"].tolist()[0] == values.max()
        assert table["Cluster Size (mm3)"].tolist()[0] == values.size * 15
    else:
        same_as_nilearn(image, 0.9, two_sided=False)


def test_more_than_a_cluster_of_one_value():
    values = np.zeros((9, 9, 9), np.float32)
    values[1:4, 1:4, 4] = 5  # a ring: its centre is not in it
    values[2, 2, 4] = 0
    values[6:8, 6:8, 6:8] = 5
    with pytest.warns(UserWarning, match="falls outside of the cluster body"):
        table = get_clusters_table(nifti(values), 3.0)
    assert table["X"].tolist()[0] in (1.0, 6.0)
    same_as_nilearn(nifti(values), 3.0)


def test_one_frame_and_what_stays_untouched():
    values = blobs(3)[..., None]
    before = values.copy()
    same_as_nilearn(nifti(values), 1.0, 3, True)
    np.testing.assert_array_equal(values, before)


def test_unsigned_integers_have_no_negative_clusters():
    values = np.zeros((5, 5, 5), np.uint8)
    values[1, 1, 1] = 200
    with pytest.warns(UserWarning, match="No clusters found with stat lower than -100"):
        table = get_clusters_table(nifti(values), 100, two_sided=True)
    assert table["Peak Stat"].tolist() == [200]


def test_voxel_volume_of_a_sheared_grid():
    affine = np.array([[2.0, 1.0, 0, 0], [0, 2.0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1.0]])
    values = np.zeros((6, 6, 6), np.float32)
    values[2:4, 2:4, 2:4] = 4
    assert get_clusters_table(nifti(values, affine), 3.0)["Cluster Size (mm3)"].tolist() == [8 * 12]


@pytest.mark.kernels
@pytest.mark.parametrize("two_sided", [False, True])
def test_cuda_gives_the_same_rows(standin_cuda, monkeypatch, device_meter, two_sided):
    monkeypatch.setenv("GPUROI_DEVICE", "cpu")
    image = nifti(blobs(5), OBLIQUE)
    expected, expected_maps = get_clusters_table(image, 1.0, 3, two_sided, return_label_maps=True)
    monkeypatch.setenv("GPUROI_DEVICE", "cuda")
    table, maps = get_clusters_table(image, 1.0, 3, two_sided, return_label_maps=True)
    assert len(table) > 3
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    for one, other in zip(maps, expected_maps, strict=True):
        np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))


# ------------------------------------------------------------------ errors


def test_refused(tmp_path):
    image = nifti(blobs(0))
    with pytest.raises(UsageError, match="'min_distance' must be positive"):
        get_clusters_table(image, 1.0, min_distance=0)
    with pytest.raises(ValueError, match="should not be a negative value"):
        get_clusters_table(image, -1.0, two_sided=True)
    with pytest.raises(TypeError, match="cluster_threshold"):
        get_clusters_table(image, 1.0, cluster_threshold="ten")
    with pytest.raises(TypeError, match="incompatible dimensionality"):
        get_clusters_table(nifti(np.ones((3, 3, 3, 2), np.float32)), 0.5)
    with pytest.raises(TypeError):
        get_clusters_table(np.ones((3, 3, 3)), 0.5)
    with pytest.raises(DataError, match=r"absent\.nii"):
        get_clusters_table(str(tmp_path / "absent.nii"), 0.5)


# ------------------------------------------------------------------ surfaces


@pytest.fixture(scope="module")
def surface():
    from nilearn.datasets import load_fsaverage_data

    return load_fsaverage_data(mesh_type="inflated")


@pytest.mark.parametrize(
    ("threshold", "cluster_threshold", "two_sided"),
    [(1.4, 0, True), (1.4, 10, True), (0.8, 5, False), (-0.8, 5, False), (0.5, 0, False)],
)
def test_surfaces(surface, threshold, cluster_threshold, two_sided):
    options = {"cluster_threshold": cluster_threshold, "two_sided": two_sided, "return_label_maps": True}
    (table, maps), said = recorded(get_clusters_table, surface, threshold, **options)
    (expected, expected_maps), expected_said = recorded(nilearns, surface, threshold, **options)
    assert len(table) > 0
    assert said == expected_said
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    for one, other in zip(maps, expected_maps, strict=True):
        for part in other.data.parts:
            np.testing.assert_array_equal(one.data.parts[part], other.data.parts[part])


def test_nothing_found_on_a_surface(surface):
    with pytest.warns(UserWarning, match=r"No clusters found for 'stat_threshold=1.4'"):
        table = get_clusters_table(surface, 1.4, cluster_threshold=100_000)
    assert len(table) == 0
    assert list(table) == ["Cluster ID", "Hemisphere", "Peak Stat", "Cluster Size (vertices)"]
    with pytest.warns(UserWarning, match="'min_distance' parameter is not used"):
        get_clusters_table(surface, 1.4, min_distance=5)


@pytest.mark.kernels
def test_surfaces_on_cuda(surface, standin_cuda, monkeypatch):
    monkeypatch.setenv("GPUROI_DEVICE", "cpu")
    expected = get_clusters_table(surface, 1.4, two_sided=True)
    monkeypatch.setenv("GPUROI_DEVICE", "cuda")
    pd.testing.assert_frame_equal(get_clusters_table(surface, 1.4, two_sided=True), expected, check_exact=True)
