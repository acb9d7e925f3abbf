"""Masks of gpuroi.nilearn made: from masks, from images; cleaned; and all of it on real images, as nilearn does it."""

from __future__ import annotations

import inspect
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st
from masking_images import AFFINE, SHAPE, answer, data_of, nifti, random_mask
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.nilearn import apply_mask, compute_epi_mask, intersect_masks
from gpuroi.nilearn.background_mask import compute_background_mask
from gpuroi.nilearn.mask_cleaning import clean_mask, extrapolate_out_mask, largest_connected_component
from gpuroi.nilearn.masking import load_mask_img


@pytest.fixture
def mask():
    return random_mask()


@pytest.fixture
def surface():
    """A SurfaceImage of four and five vertices, with five samples, and a mask of six vertices."""
    from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage

    corners = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]])
    left = InMemoryMesh(corners[[0, 1, 3, 4]], np.array([[1, 0, 2], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))
    faces = np.array([[0, 1, 4], [0, 3, 1], [1, 3, 2], [1, 2, 4], [2, 3, 4], [0, 4, 3]])
    mesh = PolyMesh(left=left, right=InMemoryMesh(corners + 2, faces))
    rng = np.random.default_rng(5)
    values = {"left": rng.standard_normal((4, 5)), "right": rng.standard_normal((5, 5))}
    values["right"][3, 1] = np.nan
    mask = {"left": np.array([0, 1, 1, 1]), "right": np.array([0, 1, 0, 1, 1])}
    return SurfaceImage(mesh, values), SurfaceImage(mesh, mask)


@pytest.mark.parametrize("function", [intersect_masks, compute_epi_mask, compute_background_mask])
def test_signature_is_nilearns(function):
    import nilearn.masking

    theirs = inspect.signature(getattr(nilearn.masking, function.__name__)).parameters
    mine = inspect.signature(function).parameters
    assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in theirs.values()]


# ------------------------------------------------------------------ masks from masks


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(1, 5),
    threshold=st.sampled_from([0, 0.2, 0.5, 2 / 3, 0.999, 1]),
    connected=st.booleans(),
)
def test_intersections_are_nilearns(seed, n, threshold, connected):
    from nilearn.masking import intersect_masks as theirs

    rng = np.random.default_rng(seed)
    masks = [nifti((rng.random((5, 4, 3)) < rng.random()).astype(rng.choice(["u1", ">f8", "i2"]))) for _ in range(n)]
    got = intersect_masks(masks, threshold=threshold, connected=connected)
    want = answer(theirs, masks, threshold=threshold, connected=connected)
    assert got.get_data_dtype() == want.get_data_dtype()
    assert data_of(got).dtype == data_of(want).dtype == np.int8
    assert_array_equal(data_of(got), data_of(want))


def test_intersection_of_files_on_each_device(tmp_path, device):
    rng = np.random.default_rng(6)
    masks = [rng.random(SHAPE) < 0.8 for _ in range(3)]
    paths = [str(tmp_path / f"{i}.nii.gz") for i in range(3)]
    for path, mask in zip(paths, masks, strict=True):
        nibabel.save(nifti(mask.astype(np.uint8)), path)
    labels, _ = ndimage.label(np.sum(masks, axis=0) > 1.5)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    assert_array_equal(data_of(intersect_masks(paths)), labels == sizes.argmax())


def test_intersect_masks_refuses(surface):
    one = nifti(np.ones((2, 2, 2), np.uint8))
    with pytest.raises(UsageError, match="No mask provided for intersection"):
        intersect_masks([])
    for threshold, message in ((-1, "greater than 0"), (2, "smaller than 1")):
        with pytest.raises(UsageError, match=message):
            intersect_masks([one], threshold=threshold)
    with pytest.raises(TypeError, match=r"must be a 3D Niimg-like object. Got: mask_imgs\[1\] = SurfaceImage"):
        intersect_masks([one, surface[1]])
    with pytest.raises(GridError, match="Following field of view errors"):
        intersect_masks([one, nifti(np.ones((2, 2, 3), np.uint8)), nifti(data_of(one), np.eye(4))])


def test_load_mask_img_gives_arrays_and_surfaces(mask, surface):
    inside, affine = load_mask_img(mask)
    assert inside.dtype == bool
    assert_array_equal(inside, data_of(mask) != 0)
    assert_array_equal(affine, AFFINE)
    loaded, none = load_mask_img(surface[1])
    assert none is None
    assert {part.dtype for part in loaded.data.parts.values()} == {np.dtype(bool)}
    assert not load_mask_img(nifti(np.zeros(SHAPE)), allow_empty=True)[0].any()
    with pytest.raises(TypeError, match="a 3D/4D Niimg-like object or a SurfaceImage"):
        load_mask_img(1)


# ------------------------------------------------------------------ masks from images


def brain(seed=0, shape=(24, 22, 20), n=None, dtype=np.float64):
    """A bright, noisy ball in a dim, noisy box."""
    rng = np.random.default_rng(seed)
    where = sum(((g - s / 2) / (s / 3)) ** 2 for g, s in zip(np.indices(shape), shape, strict=True))
    mean = np.where(where < 1, 1000.0, 60.0) + 30 * ndimage.gaussian_filter(rng.standard_normal(shape), 1)
    values = mean if n is None else mean[..., None] + rng.standard_normal((*shape, n))
    return values.astype(dtype)


@pytest.mark.parametrize("n", [None, 1, 6])
@pytest.mark.parametrize("dtype", ["f4", ">f4", "f8", "i2", "u2"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"opening": False},
        {"opening": 1, "connected": False},
        {"opening": True, "exclude_zeros": True},
        {"lower_cutoff": 0.4, "upper_cutoff": 0.7},
        {"ensure_finite": False},
    ],
)
def test_epi_masks_are_nilearns(n, dtype, options):
    from nilearn.masking import compute_epi_mask as theirs

    values = brain(n=n, dtype=dtype)
    values[:4] = 0
    got, want = compute_epi_mask(nifti(values), **options), answer(theirs, nifti(values), **options)
    assert got.get_data_dtype() == want.get_data_dtype()
    assert data_of(got).dtype == data_of(want).dtype == np.uint8
    assert data_of(got).any()
    assert_array_equal(data_of(got), data_of(want))
    assert_array_equal(got.affine, want.affine)


def test_epi_mask_on_each_device(device):
    from nilearn.masking import compute_epi_mask as theirs

    values = brain(shape=(12, 11, 10), n=2, dtype=np.float32)
    values[0, 0, 0] = np.nan
    got = compute_epi_mask(nifti(values), opening=1)
    assert_array_equal(data_of(got), data_of(answer(theirs, nifti(values), opening=1)))
    got = compute_background_mask(nifti(values), opening=1, connected=True)
    assert_array_equal(data_of(got), data_of(answer(_their_background_mask, nifti(values))))


def _their_background_mask(image):
    from nilearn.masking import compute_background_mask as theirs

    return theirs(image, opening=1, connected=True)


@pytest.mark.parametrize("target", [{"target_affine": np.diag([4.0, 4, 4])}, {"target_affine": AFFINE * 1.5}])
def test_epi_mask_on_another_grid(target):
    from nilearn.masking import compute_epi_mask as theirs

    values = brain(n=2)
    got, want = compute_epi_mask(nifti(values), **target), answer(theirs, nifti(values), **target)
    assert_allclose(got.affine, want.affine)
    assert_array_equal(data_of(got), data_of(want))


def test_epi_mask_of_files_streams(tmp_path):
    from nilearn.masking import compute_epi_mask as theirs

    values = brain(n=7, dtype=np.int16)
    paths = [str(tmp_path / f"{i}.nii.gz") for i in range(7)]
    for i, path in enumerate(paths):
        nibabel.save(nifti(values[..., i]), path)
    nibabel.save(nifti(values), tmp_path / "run.nii.gz")
    want = data_of(answer(theirs, nifti(values)))
    for given_as in (paths, tmp_path / "run.nii.gz", str(tmp_path / "?.nii.gz")):
        assert_array_equal(data_of(compute_epi_mask(given_as)), want)


def test_unsigned_integers_do_not_overflow():
    values = np.where(brain() > 500, 250, 180).astype(np.uint8)
    values[0, 0] = 0
    got = compute_epi_mask(nifti(values), opening=False, lower_cutoff=0.3)
    assert_array_equal(data_of(got), data_of(compute_epi_mask(nifti(values * 1.0), opening=False, lower_cutoff=0.3)))


def test_empty_masks_warn():
    from nilearn.exceptions import MaskWarning

    values = np.zeros((9, 9, 9))
    values[0, 0, :3] = 1.2, -1, 1.1
    with pytest.warns(MaskWarning, match="Computed an empty mask. Are you sure that input data are EPI"):
        assert not data_of(compute_epi_mask(nifti(values), exclude_zeros=True)).any()
    with pytest.warns(MaskWarning, match="homogeneous background"):
        assert not data_of(compute_background_mask(nifti(np.zeros((9, 9, 9))))).any()


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        (nifti(np.ones((9, 9))), {}, ValueError, "Computation expects 3D or 4D images, but 2 dimensions were given"),
        ([], {}, TypeError, "Cannot concatenate empty objects"),
        (nifti(np.zeros(SHAPE)), {"exclude_zeros": True}, DataError, "0 values other than 0"),
        (nifti(np.zeros(SHAPE)), {"lower_cutoff": 0}, TypeError, "'lower_cutoff' must be of type"),
        (nifti(np.zeros(SHAPE)), {"opening": 1.5}, TypeError, "'opening' must be of type"),
        (nifti(np.zeros(SHAPE)), {"lower_cutoff": 0.9, "upper_cutoff": 0.1}, DataError, "too few"),
    ],
)
def test_epi_mask_refuses(image, options, error, message):
    with pytest.raises(error, match=message):
        compute_epi_mask(image, **options)


@pytest.mark.parametrize("name", [k for k, v in HOSTILE.items() if v.dtype not in (np.float16, np.int64, bool)])
@pytest.mark.parametrize("function", [compute_epi_mask, compute_background_mask])
def test_hostile_images_give_the_masks_of_nilearn(name, function):
    import nilearn.masking

    values = HOSTILE[name]
    if values.ndim > 3:
        values = np.moveaxis(values if values.ndim == 4 else values[0], 0, -1)
    if 0 in values.shape:
        with pytest.raises(DataError, match="no axis of length 0"):
            function(nifti(values))
        return
    for options in ({"opening": 0}, {"opening": 1, "connected": True}):
        got = answer(function, nifti(values), **options)
        want = answer(getattr(nilearn.masking, function.__name__), nifti(values), **options)
        if isinstance(want, Exception):
            assert isinstance(got, type(want)), (got, want)
        else:
            assert_array_equal(data_of(got), data_of(want))


@pytest.mark.parametrize("value", [0.0, 7.5, np.nan])
@pytest.mark.parametrize("n", [None, 3])
def test_background_masks_are_nilearns(value, n):
    from nilearn.masking import compute_background_mask as theirs

    values = brain(n=n)
    values[brain() < 500] = value
    for options in ({}, {"opening": 1, "connected": True}, {"border_size": 4}):
        got, want = compute_background_mask(nifti(values), **options), answer(theirs, nifti(values), **options)
        assert_array_equal(data_of(got), data_of(want))


# ------------------------------------------------------------------ cleaning, against SciPy


@given(seed=st.integers(0, 2**16), opening=st.integers(0, 2), connected=st.booleans(), share=st.floats(0.5, 1))
@pytest.mark.filterwarnings("ignore:Computed an empty mask")
def test_cleaning_is_scipys(seed, opening, connected, share):
    mask = np.random.default_rng(seed).random((9, 10, 11)) < share
    want = ndimage.binary_erosion(mask, iterations=opening) if opening else mask
    if connected and want.any():
        labels, n = ndimage.label(want)
        want = labels == 1 + np.argmax(ndimage.sum_labels(want, labels, range(1, n + 1)))
    if opening:
        want = ndimage.binary_erosion(ndimage.binary_dilation(want, iterations=2 * opening), iterations=opening)
    assert_array_equal(clean_mask(mask, opening=opening, connected=connected), want)


def test_largest_component_of_equal_ones_is_the_first(backend):
    mask = np.zeros((3, 4, 5), bool)
    mask[0, 0, 3:] = mask[2, 2, :2] = mask[1, 3, 4] = True
    got = backend.to_numpy(largest_connected_component(backend.asarray(mask)))
    assert_array_equal(np.argwhere(got), [[0, 0, 3], [0, 0, 4]])
    with pytest.raises(DataError, match="no connected components"):
        largest_connected_component(backend.asarray(~np.ones((2, 2, 2), bool)))


@given(seed=st.integers(0, 2**16), iterations=st.integers(1, 3), n=st.sampled_from([None, 1, 3]))
def test_extrapolation_is_nilearns(seed, iterations, n):
    from nilearn.masking import extrapolate_out_mask as theirs

    rng = np.random.default_rng(seed)
    values = rng.standard_normal((6, 5, 7) if n is None else (6, 5, 7, n))
    mask = rng.random((6, 5, 7)) < 0.3
    got, want = extrapolate_out_mask(values, mask, iterations), answer(theirs, values, mask, iterations=iterations)
    assert_array_equal(got[1], want[1])
    assert_allclose(got[0], want[0], rtol=1e-14, atol=1e-15)


def test_extrapolation_on_each_device(backend):
    rng = np.random.default_rng(7)
    values, mask = rng.standard_normal((4, 5, 6)), rng.random((4, 5, 6)) < 0.3
    got = extrapolate_out_mask(backend.asarray(values), backend.asarray(mask), 2)
    for mine, want in zip(got, extrapolate_out_mask(values, mask, 2), strict=True):
        assert_array_equal(backend.to_numpy(mine), want)


# ------------------------------------------------------------------ real images


def real_images(folder: Path) -> list[Path]:
    """All that nibabel can read, but for the many alike: a few lesions and runs of each kind."""
    suffixes = (".nii", ".nii.gz", ".mgz", ".img", ".BRIK", ".BRIK.gz", ".HEAD")
    found = [p for p in sorted(folder.rglob("*")) if p.name.endswith(suffixes)]
    alike = [p for p in found if p.parent.name == "lesions"][2:] + [p for p in found if "BOLD" in p.parts][2:]
    readable = []
    for path in found:
        try:
            shape = nibabel.load(path).shape
        except Exception:  # headers without voxels, which lie there on purpose
            continue
        if path not in alike and len(shape) in (3, 4) and np.prod(shape) < 2e7:
            readable.append(path)
    return readable


def test_real_images_are_masked_as_nilearn_does(open_data):
    import nilearn.masking

    paths, differing = real_images(open_data), []
    for path in paths:
        name = str(path.relative_to(open_data))
        inside = answer(nilearn.masking.compute_background_mask, str(path))
        if isinstance(inside, Exception) or not data_of(inside).any():
            continue
        for function in ("compute_epi_mask", "compute_background_mask"):
            mine = answer(compute_epi_mask if "epi" in function else compute_background_mask, path)
            want = answer(getattr(nilearn.masking, function), path)
            if isinstance(want, Exception) != isinstance(mine, Exception):
                differing.append(f"{name}: {function}: {mine!r}, nilearn: {want!r}")
            elif not isinstance(want, Exception) and not (
                type(mine) is type(want) and np.array_equal(data_of(mine), data_of(want))
            ):
                differing.append(f"{name}: {function}")
        mask = nibabel.Nifti1Image(data_of(inside), inside.affine)
        mine, want = answer(apply_mask, path, mask), answer(nilearn.masking.apply_mask, path, mask)
        if not (mine.dtype == want.dtype.newbyteorder("=") and np.array_equal(mine, want)):
            differing.append(f"{name}: apply_mask")
    assert len(paths) > 100
    assert differing == []


@pytest.mark.kernels
def test_small_real_images_on_the_stand_in(open_data, standin_cuda):
    import nilearn.masking

    for name in ("functional.nii", "anatomical.nii", "test.mgz"):
        path = open_data / "ugly_nibabel" / name
        for opening in (0, 1):
            want = answer(nilearn.masking.compute_epi_mask, path, opening=opening)
            assert_array_equal(data_of(answer(compute_epi_mask, path, opening=opening)), data_of(want))
        mask = answer(nilearn.masking.compute_background_mask, path)
        mask = nibabel.Nifti1Image(data_of(mask), mask.affine)
        want = answer(nilearn.masking.apply_mask, path, mask, smoothing_fwhm=5.0)
        assert_allclose(apply_mask(path, mask, smoothing_fwhm=5.0), want, atol=2e-6 * np.abs(want).max())
