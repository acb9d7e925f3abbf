"""`gpuroi.images.threshold` against NumPy, SciPy and nilearn: cutoffs, sides, sizes, hostile images."""

from __future__ import annotations

import warnings

import nibabel
import numpy as np
import pytest
from nilearn.image import threshold_img
from oracles import population
from oracles import threshold as slow_threshold
from scipy import ndimage

from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.images import threshold

AFFINE = np.array([[-2.0, 0.3, 0, 20], [0.1, 3, 0, -30], [0, 0, 4, -10], [0, 0, 0, 1]])


@pytest.fixture
def on(backend, monkeypatch):
    """The name of each backend's device in turn; the stand-in has no driver for a probe to find."""
    monkeypatch.setattr("gpuroi.images.threshold_image.get_backend", lambda _device: backend)
    return backend.device


def make_map(seed: int = 0, shape: tuple[int, ...] = (13, 12, 11)) -> np.ndarray:
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), [1.2] * 3 + [0] * (len(shape) - 3))
    return (values / values.std()).astype(np.float32)


def image(values: np.ndarray) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(values, AFFINE)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("percent", [0, 37.5, 97, 100])
def test_a_percentile_is_of_the_finite_voxels_inside_the_mask(on, percent, masked, two_sided):
    values = make_map()
    values[:2], values[4, 4, 4], values[5, 5, 5] = np.nan, np.inf, -np.inf
    inside = make_map(1) > 0
    mask = image(inside.astype(np.uint8)) if masked else None
    result = threshold(image(values), f"{percent}%", two_sided=two_sided, mask=mask, device=on)
    finite = np.where(np.isfinite(values), values, np.nan)
    cutoff = np.percentile(population(finite, two_sided=two_sided, mask=inside if masked else None), percent)
    assert result.cutoff == pytest.approx(cutoff, rel=1e-6)
    want = slow_threshold(finite, cutoff, two_sided=two_sided, mask=inside if masked else None)
    np.testing.assert_array_equal(result.image.get_fdata(), np.nan_to_num(want))
    assert result.voxels_kept == np.count_nonzero(want)
    assert f"{percent}%" in result.rule
    assert ("inside the mask" in result.rule) == masked
    assert ("|x|" in result.rule) == two_sided


@pytest.mark.parametrize(("cutoff", "two_sided"), [(2, True), (2, False), (-2, False), (0, True), ("1.5", True)])
@pytest.mark.parametrize("size", [0, 12])
def test_values_as_nilearn(on, cutoff, two_sided, size):
    values = make_map(2)
    result = threshold(image(values), cutoff, two_sided=two_sided, cluster_threshold=size, device=on)
    want = threshold_img(
        image(values), float(cutoff), two_sided=two_sided, cluster_threshold=size, copy_header=True
    ).get_fdata()
    np.testing.assert_array_equal(result.image.get_fdata(), want)
    assert result.cutoff == float(cutoff)
    np.testing.assert_array_equal(result.image.affine, AFFINE)
    assert result.image.get_data_dtype() == np.float32


def test_the_smallest_size_in_mm3_is_inclusive():
    values = np.zeros((9, 4, 4), np.float32)
    values[1, 1, :3], values[4, 1, :2], values[7, 1, :3] = 5, 5, -5
    img = nibabel.Nifti1Image(values, np.diag([0.1, 0.1, 0.1, 1]))  # 0.1 ** 3 * 3 is not 0.003
    kept = threshold(img, 1, min_size_mm3=0.003, device="cpu").image.get_fdata()
    np.testing.assert_array_equal(kept, np.where(np.abs(values) > 0, values, 0) * (np.indices(values.shape)[0] != 4))
    assert threshold(img, 1, min_size_mm3=0.0031, device="cpu").voxels_kept == 0
    assert threshold(img, 1, cluster_threshold=3, device="cpu").voxels_kept == 6


def test_volumes_of_a_run_each_have_their_cutoff(on):
    values = make_map(3, (7, 6, 5, 4))
    values[..., 2] = np.nan
    result = threshold(image(values), "90%", device=on)
    got = np.asarray(result.image.dataobj)
    assert got.shape == values.shape
    for i in (0, 1, 3):
        cutoff = np.percentile(np.abs(values[..., i]).astype(float), 90)
        assert result.cutoff[i] == pytest.approx(cutoff, rel=1e-6)
        np.testing.assert_array_equal(
            got[..., i], np.where(np.abs(values[..., i]) >= np.float32(cutoff), values[..., i], 0)
        )
    assert np.isnan(result.cutoff[2])
    assert result.voxels_kept[2] == 0


def test_one_frame_stays_4d():
    result = threshold(image(make_map()[..., None]), 1.0, device="cpu")
    assert result.image.shape == (13, 12, 11, 1)
    assert len(result.cutoff) == len(result.voxels_kept) == 1


@pytest.mark.parametrize("kind", ["scaled", "big-endian", "pair", "float64", "int32", "nifti2"])
def test_stored_forms_give_the_values_that_nibabel_reads(tmp_path, kind):
    values = (make_map(4) * 100).astype(np.int16)
    path = tmp_path / "map.nii"
    if kind == "scaled":
        img = nibabel.Nifti1Image(values, AFFINE)
        img.header.set_slope_inter(0.5, 3.0)
        img.header.set_data_dtype(np.int16)
        stored = nibabel.Nifti1Image(values * 0.5 + 3.0, AFFINE, img.header)
    elif kind == "big-endian":
        stored = nibabel.Nifti1Image(values.astype(">f4"), AFFINE, nibabel.Nifti1Header(endianness=">"))
    elif kind == "pair":
        stored, path = nibabel.Nifti1Pair(values, AFFINE), tmp_path / "map.hdr"
    elif kind == "nifti2":
        stored = nibabel.Nifti2Image(values, AFFINE)
    else:
        stored = nibabel.Nifti1Image(values.astype(kind) + np.asarray(0, kind), AFFINE)
    nibabel.save(stored, path)
    read = nibabel.load(path).get_fdata()
    got = threshold(path, 40, device="cpu").image.get_fdata()
    np.testing.assert_allclose(got, np.where(np.abs(read) >= 40, read, 0), rtol=1e-6)
    assert np.count_nonzero(got) > 10


@pytest.mark.parametrize(
    ("cutoff", "changes", "said"),
    [
        (-2.0, {}, "negative"),
        ("-2", {}, "negative"),
        ("101%", {}, "outside 0 to 100"),
        ("-1%", {}, "outside 0 to 100"),
        ("nan", {}, "NaN"),
        (float("nan"), {}, "NaN"),
        ("high", {}, '"high"'),
        ("high%", {}, '"high%"'),
        (2.0, {"cluster_threshold": -1}, "cluster_threshold"),
        (2.0, {"min_size_mm3": -1.0}, "min_size_mm3"),
        (2.0, {"cluster_threshold": 5, "min_size_mm3": 9.0}, "give one of them"),
        (2.0, {"connectivity": 5}, "connectivity"),
    ],
    ids=str,
)
def test_what_is_refused(cutoff, changes, said):
    with pytest.raises(UsageError, match=said):
        threshold(image(make_map()), cutoff, **changes, device="cpu")


def test_images_that_cannot_be_used():
    with pytest.raises(DataError, match="nothing inside the mask"):
        threshold(image(np.full((3, 3, 3), np.nan, np.float32)), "97%", device="cpu")
    other = nibabel.Nifti1Image(np.ones((13, 12, 11), np.uint8), np.eye(4))
    with pytest.raises(GridError):
        threshold(image(make_map()), 1.0, mask=other, device="cpu")


@pytest.mark.parametrize(("cutoff", "two_sided"), [(2, True), (2, False), (-2, False), ("97%", True)])
@pytest.mark.parametrize("name", ["image_10426", "motor_lips", "motor_lips_nan"])
def test_real_maps_as_nilearn(open_data, on, name, cutoff, two_sided):
    path = open_data / "statmaps" / f"{name}.nii.gz"
    result = threshold(path, cutoff, two_sided=two_sided, device=on)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Non-finite values detected")
        # nilearn counts NaN as 0 in a percentile; ours leaves it out: the same cutoff has to give the same image.
        want = threshold_img(str(path), result.cutoff, two_sided=two_sided, cluster_threshold=0, copy_header=True)
    np.testing.assert_array_equal(result.image.get_fdata(), want.get_fdata())
    values = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
    assert np.isnan(values).sum() == (41253 if name == "motor_lips_nan" else 0)
    if isinstance(cutoff, str):
        assert result.cutoff == pytest.approx(np.nanpercentile(np.abs(values).astype(float), 97), rel=1e-6)
