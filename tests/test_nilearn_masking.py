"""apply_mask and unmask of gpuroi.nilearn: values in a mask and back, as nilearn does it."""

from __future__ import annotations

import inspect
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st
from masking_images import SHAPE, answer, data_of, nifti, random_mask
from numpy.testing import assert_allclose, assert_array_equal

from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.nilearn import apply_mask, unmask


@pytest.fixture
def mask():
    return random_mask()


@pytest.fixture
def maps():
    values = np.random.default_rng(1).standard_normal((*SHAPE, 5)).astype(np.float32)
    values[2, 3, 4, 1], values[5, 5, 5, 3] = np.nan, np.inf
    return nifti(values)


# ------------------------------------------------------------------ nilearn's outside


@pytest.mark.parametrize("function", [apply_mask, unmask])
def test_signature_is_nilearns(function):
    import nilearn.masking

    theirs = inspect.signature(getattr(nilearn.masking, function.__name__)).parameters
    mine = inspect.signature(function).parameters
    assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in theirs.values()]


# ------------------------------------------------------------------ apply_mask


@pytest.mark.parametrize("dtype", ["f", np.float64, np.float32, np.int32, None])
@pytest.mark.parametrize("stored", ["<f4", ">f4", "<f8", "<i2", ">i2", "u1", "<i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_and_types_are_nilearns(mask, stored, dtype, order):
    from nilearn.masking import apply_mask as theirs

    values = np.random.default_rng(2).integers(0, 200, (*SHAPE, 3)).astype(stored, order=order)
    image = nifti(values)
    got, want = apply_mask(image, mask, dtype=dtype), answer(theirs, image, mask, dtype=dtype)
    assert got.dtype == want.dtype.newbyteorder("=")
    assert got.flags.c_contiguous
    assert_array_equal(got, want)


@pytest.mark.parametrize("smoothing_fwhm", [None, 5.0, 4])
@pytest.mark.parametrize("ensure_finite", [True, False])
def test_nan_and_smoothing_are_nilearns(maps, mask, smoothing_fwhm, ensure_finite, device):
    from nilearn.masking import apply_mask as theirs

    options = {"smoothing_fwhm": smoothing_fwhm, "ensure_finite": ensure_finite}
    assert_allclose(apply_mask(maps, mask, **options), answer(theirs, maps, mask, **options), atol=1e-6)


@pytest.mark.kernels
def test_smoothing_batches_do_not_show(maps, mask, monkeypatch, standin_cuda):
    whole = apply_mask(maps, mask, smoothing_fwhm=5.0)
    monkeypatch.setattr("gpuroi.nilearn.masked_rows._BATCH_BYTES", 1)
    assert_array_equal(apply_mask(maps, mask, smoothing_fwhm=5.0), whole)


def test_smoothing_of_integers_is_done_before_the_conversion(mask):
    values = np.zeros(SHAPE, np.int16)
    values[4, 4, 4] = 1000
    got = apply_mask(nifti(values), mask, dtype=np.int32, smoothing_fwhm=5.0)
    want = apply_mask(nifti(values.astype(np.float64)), mask, smoothing_fwhm=5.0)
    assert_array_equal(got, want.astype(np.int32))
    assert np.count_nonzero(got) > 1


def test_a_width_of_0_is_none_with_a_warning(maps, mask):
    with pytest.warns(UserWarning, match="parameter 'fwhm' for smoothing is specified as 0"):
        got = apply_mask(maps, mask, smoothing_fwhm=0.0)
    assert_array_equal(got, apply_mask(maps, mask))


@pytest.mark.parametrize("name", [k for k, v in HOSTILE.items() if v.dtype not in (np.float16, np.int64, bool)])
def test_hostile_images_are_masked_as_nilearn_does(name):
    import nilearn.masking

    values = HOSTILE[name]
    if values.ndim > 3:
        values = np.moveaxis(values if values.ndim == 4 else values[0], 0, -1)
    if 0 in values.shape:
        with pytest.raises(DataError, match="no axis of length 0"):
            apply_mask(nifti(values), nifti(np.ones((2, 2, 2), np.uint8)))
        return
    image, mask = nifti(values), nifti((np.indices(values.shape[:3]).sum(axis=0) % 3 != 1).astype(np.uint8))
    for options in ({}, {"ensure_finite": False}, {"dtype": np.float64}):
        assert_array_equal(
            apply_mask(image, mask, **options), answer(nilearn.masking.apply_mask, image, mask, **options)
        )


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_way_to_give_images(tmp_path, maps, mask, suffix, scaled):
    image = maps
    if scaled:
        image = nifti(np.random.default_rng(3).integers(-900, 900, (*SHAPE, 5)).astype(np.int16))
        image.header.set_slope_inter(0.37, 1000)
    paths = []
    for i in range(5):
        one = nifti(np.ascontiguousarray(data_of(image)[..., i]))
        one.header.set_slope_inter(0.37, 1000) if scaled else None
        paths.append(str(tmp_path / f"map{i}{suffix}"))
        nibabel.save(one, paths[-1])
    from nilearn.masking import apply_mask as theirs

    want = answer(theirs, paths, mask)
    assert want.dtype == (np.float64 if scaled else np.float32)
    given_ways = {
        "paths": paths,
        "Paths": [Path(p) for p in paths],
        "tuple": tuple(paths),
        "iterator": iter(paths),
        "pattern": str(tmp_path / f"map*{suffix}"),
        "images": [nibabel.load(p) for p in paths],
        "lists": [paths[:2], paths[2:]],
        "mixed": [paths[0], *(nibabel.load(p) for p in paths[1:])],
    }
    for way, imgs in given_ways.items():
        got = apply_mask(imgs, mask)
        assert got.dtype == want.dtype, way
        assert_array_equal(got, want, err_msg=way)
    joined = tmp_path / f"joined{suffix}"
    nibabel.save(nifti(data_of(nibabel.concat_images(paths)).astype(want.dtype)), joined)
    assert_array_equal(apply_mask(joined, mask), want)


def test_one_frame_stays_a_matrix_and_a_volume_becomes_a_row(mask):
    values = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    inside = data_of(mask) != 0
    assert_array_equal(apply_mask(nifti(values), mask), values[inside])
    assert_array_equal(apply_mask(nifti(values[..., None]), mask), values[inside][None])


def test_images_of_a_list_keep_their_values_whatever_the_first(mask):
    first, second = nifti(np.ones(SHAPE, np.int16)), nifti(np.full(SHAPE, 2.75, np.float32))
    got = apply_mask([first, second], mask)
    assert got.dtype == np.float32
    assert set(got[1]) == {2.75}


def test_what_was_given_stays_as_it_is(maps, mask):
    before, mask_before = data_of(maps).copy(), data_of(mask).copy()
    data_of(maps).flags.writeable = False
    apply_mask(maps, mask, smoothing_fwhm=4.0)
    apply_mask(maps, mask)
    assert_array_equal(data_of(maps), before)
    assert_array_equal(data_of(mask), mask_before)


def test_volumes_are_never_all_in_memory(tmp_path):
    shape, n = (40, 40, 40), 30
    path = tmp_path / "run.nii"
    nibabel.save(nifti(np.ones((*shape, n), np.int16)), path)
    mask = np.zeros(shape, np.uint8)
    mask[:4] = 1
    apply_mask(path, nifti(mask))  # what the first call compiles and imports does not count
    tracemalloc.start()
    rows = apply_mask(path, nifti(mask))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    volume_bytes = np.prod(shape) * 2
    assert peak < rows.nbytes + 16 * volume_bytes < n * volume_bytes * 4


@pytest.mark.parametrize("threads", ["1", "2", "3"])
def test_compressed_runs_are_inflated_once_and_dropped(tmp_path, monkeypatch, threads):
    from gpuroi.images.stores import GzipStore

    shape, n_runs, n = (12, 12, 12), 4, 5
    runs = np.random.default_rng(8).integers(0, 99, (n_runs, *shape, n)).astype(np.int16)
    paths = [str(tmp_path / f"run-{i}.nii.gz") for i in range(n_runs)]
    for path, run in zip(paths, runs, strict=True):
        nibabel.save(nifti(run), path)
    inflated, stores = [], set()
    inflate = GzipStore._inflate

    def counted(store):
        stores.add(store)
        inflated.append(sum(s._content is not None for s in stores))  # others in memory at that time
        return inflate(store)

    monkeypatch.setattr(GzipStore, "_inflate", counted)
    monkeypatch.setenv("GPUROI_NUM_THREADS", threads)
    rows = apply_mask(paths, nifti(np.ones(shape, np.uint8)))
    assert_array_equal(rows, np.concatenate(runs, axis=-1).reshape(-1, n_runs * n).T)
    assert len(inflated) == n_runs
    assert max(inflated) < int(threads)


@pytest.mark.parametrize(
    ("mask_values", "message"),
    [
        (np.zeros(SHAPE), "The mask is invalid as it is empty: it masks all data"),
        (np.full(SHAPE, np.nan), "The mask is invalid as it is empty"),
        (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 2 + 1.0, "Background of the mask must be represented with 0"),
        (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3 * 1.0, "Given mask is not made of 2 values"),
    ],
)
@pytest.mark.filterwarnings("ignore:Non-finite values")
def test_masks_that_are_refused(maps, mask_values, message):
    with pytest.raises(DataError, match=message):
        apply_mask(maps, nifti(mask_values))


def test_other_grids_are_refused_by_name(tmp_path, maps, mask):
    path = tmp_path / "sub-07_map.nii"
    nibabel.save(maps, path)
    with pytest.raises(GridError, match=r"is different from img affine:[\s\S]*sub-07_map"):
        apply_mask(path, nifti(data_of(mask), np.diag([4.0, 3, 2.5, 1])))
    with pytest.raises(GridError, match=r"Mask shape: \(8, 8, 7\)\n is different from img shape:\(9, 8, 7\)"):
        apply_mask(maps, nifti(data_of(mask)[:-1]))
    with pytest.raises(GridError, match="image #1"):
        apply_mask([nifti(np.zeros(SHAPE)), nifti(np.zeros((2, 2, 2)))], mask)


@pytest.mark.parametrize(
    ("imgs", "error", "message"),
    [
        ([], TypeError, "Cannot concatenate empty objects"),
        (3, TypeError, "NiftiLike"),
        ("nothing-here.nii.gz", ValueError, "nothing-here"),
        ("nothing-*.nii.gz", ValueError, "nothing-"),
        (["nothing-here.nii.gz"], ValueError, "nothing-here"),
        ([nifti(np.zeros(SHAPE)), nifti(np.zeros((*SHAPE, 2)))], TypeError, "incompatible dimensionality"),
        (nifti(np.zeros((3, 3))), ValueError, "2 dimensions"),
        (nifti(np.zeros((*SHAPE, 0))), DataError, "no axis of length 0"),
    ],
)
def test_input_that_is_none_is_refused(imgs, error, message, mask):
    with pytest.raises(error, match=message):
        apply_mask(imgs, mask)


def test_damaged_files_are_refused_by_name(tmp_path, maps, mask):
    path = tmp_path / "cut.nii.gz"
    nibabel.save(maps, path)
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(ValueError, match=r"cut\.nii\.gz"):
        apply_mask([str(path)], mask)


def test_masks_of_several_volumes_are_refused(maps, mask):
    with pytest.raises(TypeError, match="Expected dimension is 3D and you provided a 4D image"):
        apply_mask(maps, maps)
    with pytest.raises(TypeError, match=r"'smoothing_fwhm' must be of type\(s\)"):
        apply_mask(maps, mask, smoothing_fwhm=[1, 2, 3])


# ------------------------------------------------------------------ unmask


@given(data=st.data())
def test_unmask_undoes_apply_mask(data):
    shape = data.draw(st.tuples(*[st.integers(1, 5)] * 3))
    inside = data.draw(st.integers(1, 2 ** int(np.prod(shape)) - 1))
    bits = np.array([inside >> i & 1 for i in range(int(np.prod(shape)))], np.uint8).reshape(shape)
    mask, n = nifti(bits), data.draw(st.integers(1, 3))
    rows = np.random.default_rng(inside % 2**32).standard_normal((n, int(bits.sum())))
    for order in ("F", "C"):
        image = unmask(rows, mask, order=order)
        assert_array_equal(apply_mask(image, mask), rows)
        assert not data_of(image)[bits == 0].any()
        assert data_of(image).flags[f"{order}_CONTIGUOUS"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8, bool])
@pytest.mark.parametrize("order", ["F", "C"])
def test_unmasked_images_are_nilearns(mask, dtype, order):
    from nilearn.masking import unmask as theirs

    n = int(data_of(mask).sum())
    rows = (np.random.default_rng(4).standard_normal((3, n)) * 9).astype(dtype)
    for x in (rows, rows[0], [rows, rows[1]], rows[0].tolist()):
        got, want = answer(unmask, x, mask, order=order), answer(theirs, x, mask, order=order)
        if isinstance(x, list) and isinstance(want, list):
            assert len(got) == len(want)
        else:
            got, want = [got], [want]
        for a, b in zip(got, want, strict=True):
            assert type(a) is type(b)
            assert a.get_data_dtype() == b.get_data_dtype()
            assert a.header == b.header
            assert_array_equal(data_of(a), data_of(b))
            assert_array_equal(a.affine, b.affine)


def test_unmask_refuses_other_shapes(mask):
    n = int(data_of(mask).sum())
    for wrong in (np.zeros(n + 1), np.zeros((n, 2)), [np.zeros(n - 1)]):
        with pytest.raises(TypeError, match=f"X must be of shape \\(samples, {n}\\)"):
            unmask(wrong, mask)
    with pytest.raises(TypeError, match="must be 2D or 1D array"):
        unmask(np.zeros((1, 2, n)), mask)
    with pytest.raises(UsageError, match="order"):
        unmask(np.zeros(n), mask, order="A")
    assert unmask([], mask) == []


# ------------------------------------------------------------------ surfaces


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


@pytest.mark.parametrize("smoothing_fwhm", [None, 0, 3.0])
def test_surfaces_are_masked_as_nilearn_does(surface, smoothing_fwhm):
    from nilearn.masking import apply_mask as theirs

    image, mask = surface
    got = apply_mask(image, mask, smoothing_fwhm=smoothing_fwhm)
    assert {part.dtype for part in mask.data.parts.values()} == {np.dtype(np.int64)}  # the mask stays as it is
    assert_allclose(got, answer(theirs, image, mask, smoothing_fwhm=smoothing_fwhm), atol=1e-12)
    assert got.shape == (5, 6)
    assert_array_equal(apply_mask([image, image], mask, smoothing_fwhm=smoothing_fwhm), np.vstack([got, got]))


def test_surfaces_are_unmasked(surface):
    image, mask = surface
    rows = apply_mask(image, mask)
    assert_array_equal(apply_mask(unmask(rows, mask), mask), rows)
    one = unmask(rows[0], mask)
    assert one.data.parts["left"].tolist() == [0.0, *rows[0, :3]]
    assert apply_mask(one, mask).shape == (6,)


def test_surfaces_and_volumes_do_not_mix(surface, maps, mask):
    image, surface_mask = surface
    with pytest.raises(TypeError, match="SurfaceImage"):
        apply_mask(image, mask)
    with pytest.raises(TypeError, match=r"SurfaceImage|NiftiLike"):
        apply_mask(maps, surface_mask)
    with pytest.raises(ValueError, match=r"Data for each part of .* should be 1D"):
        apply_mask(image, image)
