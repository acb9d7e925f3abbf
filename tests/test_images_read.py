"""Reading, against nibabel: formats, types, byte orders, scaling, parts, labels, lists of files."""

from __future__ import annotations

import pickle
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gpuroi.errors import DataError, UsageError
from gpuroi.images import Image, open_image, open_images, read_labels

OPEN_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "open"
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".img", ".hdr", ".mgz", ".mnc", ".HEAD", ".BRIK", ".BRIK.gz")
AFFINE = np.array([[-2.0, 0.1, 0, 90], [0, 2.5, 0.2, -126], [0.1, 0, 3, -72], [0, 0, 0, 1]])


def batch_first(img):
    """What nibabel reads, as (n, X, Y, Z)."""
    data = img.get_fdata()
    return np.moveaxis(data.reshape(*data.shape[:3], -1), -1, 0)


def check(image, img):
    """Same grid and same values as nibabel, in the layout that is promised."""
    np.testing.assert_allclose(image.affine, img.affine, rtol=0, atol=0)
    np.testing.assert_allclose(image.zooms_mm, nib.affines.voxel_sizes(img.affine))
    want = batch_first(img)
    assert (image.n_volumes, *image.shape) == want.shape
    assert image.is_4d == (img.ndim > 3)
    got = image.read()
    assert got.dtype == np.float32
    assert got.flags.writeable
    assert got.transpose(0, 3, 2, 1).flags.c_contiguous
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, want.astype(np.float32))
    np.testing.assert_array_equal(image.read(dtype=np.float64), want)


def made(folder, name, data, *, slope=None, cls=nib.Nifti1Image, tr=None):
    img = cls(data, AFFINE)
    if slope is not None:
        img.header.set_slope_inter(*slope)
    if tr is not None:
        img.header.set_zooms((*img.header.get_zooms()[:3], tr))
        img.header.set_xyzt_units("mm", "sec")
    nib.save(img, folder / name)
    return folder / name


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_types_and_byte_orders(tmp_path, kind, order, cls, compressed):
    rng = np.random.default_rng(0)
    data = (rng.standard_normal((5, 4, 3, 6)) * 100).astype(order + kind)
    header = cls.header_class(endianness=order)
    header.set_data_dtype(order + kind)
    path = tmp_path / ("x.nii.gz" if compressed else "x.nii")
    nib.save(cls(data, AFFINE, header), path)
    image = open_image(path)
    assert image.stored_dtype == np.dtype(order + kind)
    check(image, nib.load(path))
    stored = image.read(dtype=None)
    assert stored.dtype == np.dtype(kind)
    np.testing.assert_array_equal(stored, np.moveaxis(data, -1, 0))


@pytest.mark.parametrize("slope", [(0.0754, 3100.76), (2, 0), (1, -7.5), (-0.5, 3)])
@pytest.mark.parametrize("kind", ["i2", "u1", "f4", "i4"])
def test_scaling(tmp_path, kind, slope):
    raw = bytearray(nib.Nifti1Image(np.arange(60, dtype=kind).reshape(3, 4, 5), AFFINE).to_bytes())
    raw[112:120] = np.array(slope, "<f4").tobytes()
    path = tmp_path / "x.nii"
    path.write_bytes(raw)
    assert nib.load(path).dataobj.slope == np.float32(slope[0])
    check(open_image(path), nib.load(path))
    assert open_image(path).read(dtype=None).dtype == np.float64


@pytest.mark.parametrize("slope", [0, np.nan, np.inf])
def test_no_valid_slope_means_unscaled(tmp_path, slope):
    raw = bytearray(nib.Nifti1Image(np.arange(60, dtype="i2").reshape(3, 4, 5), AFFINE).to_bytes())
    raw[112:120] = np.array([slope, 5], "<f4").tobytes()
    (tmp_path / "x.nii").write_bytes(raw)
    image = open_image(tmp_path / "x.nii")
    assert image.read_one(dtype=None).dtype == np.int16
    assert image.read_one()[2, 3, 4] == 59


def test_values_beyond_float32_become_infinite(tmp_path):
    path = made(tmp_path, "x.nii", np.full((2, 2, 2), -1e300))
    assert np.isneginf(open_image(path).read_one()).all()


@pytest.mark.parametrize(
    ("stored", "shape", "n", "is_4d"),
    [
        ((4, 5, 6), (4, 5, 6), 1, False),
        ((4, 5, 6, 1), (4, 5, 6), 1, True),
        ((4, 5, 6, 3), (4, 5, 6), 3, True),
        ((4, 5, 6, 1, 3), (4, 5, 6), 3, True),
        ((4, 5, 6, 3, 1, 1), (4, 5, 6), 3, True),
        ((4, 5), (4, 5, 1), 1, False),
        ((7,), (7, 1, 1), 1, False),
    ],
)
def test_shapes(tmp_path, stored, shape, n, is_4d):
    data = np.arange(np.prod(stored), dtype=np.float32).reshape(stored)
    path = made(tmp_path, "x.nii.gz", data)
    for image in (open_image(path), open_image(nib.load(path)), open_image(nib.Nifti1Image(data, AFFINE))):
        assert (image.shape, image.n_volumes, image.is_4d) == (shape, n, is_4d)
        np.testing.assert_array_equal(image.read(), np.moveaxis(data.reshape(*shape, n), -1, 0))


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("kind", ["f4", "i2"])
def test_parts_and_out(tmp_path, name, kind):
    data = np.random.default_rng(1).integers(-99, 99, (5, 4, 3, 7)).astype(kind)
    image = open_image(made(tmp_path, name, data))
    want = np.moveaxis(data, -1, 0).astype(np.float32)
    for start, stop in [(0, 2), (2, 7), (6, 7), (3, 3), (0, 7)]:
        np.testing.assert_array_equal(image.read(start, stop), want[start:stop])
    first = image.read(0, 2)
    first[:] = 0  # the caller's own: the next read is unharmed
    np.testing.assert_array_equal(image.read(0, 2), want[:2])
    out = np.empty((3, 5, 4, 3))
    assert image.read(1, 4, out=out) is out
    np.testing.assert_array_equal(out, want[1:4])
    image.release()
    np.testing.assert_array_equal(image.read(4, None), want[4:])


def test_threads_may_share_an_image(tmp_path):
    data = np.random.default_rng(1).standard_normal((20, 21, 22, 30)).astype(np.float32)
    image = open_image(made(tmp_path, "x.nii.gz", data))
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda i: image.read(i, i + 1)[0], range(30)))
    np.testing.assert_array_equal(np.stack(parts, axis=-1), data)


def test_memory_is_the_stored_bytes_and_the_result(tmp_path):
    data = np.random.default_rng(1).integers(0, 9, (64, 64, 40, 20)).astype(np.int16)
    path = made(tmp_path, "x.nii.gz", data)
    open_image(path).read(0, 1)  # imports are not counted
    image = open_image(path)
    tracemalloc.start()
    result = image.read()
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now < 1.01 * result.nbytes + 1e5  # nothing is kept after all was read
    assert peak < data.nbytes + result.nbytes + path.stat().st_size + 1e6


def test_whole_float_image_is_not_copied(tmp_path):
    data = np.random.default_rng(1).standard_normal((64, 64, 40, 4)).astype(np.float32)
    path = made(tmp_path, "x.nii.gz", data)
    image = open_image(path)
    image.read(0, 1)
    image.release()
    tracemalloc.start()
    result = image.read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < result.nbytes + path.stat().st_size + 1e6


@pytest.mark.parametrize(
    ("unit", "stored", "seconds"),
    [("sec", 2.5, 2.5), ("msec", 2500, 2.5), ("usec", 2.2e6, 2.2), (0, 1.5, 1.5), ("hz", 2, None), ("sec", 0, None)],
)
def test_tr(tmp_path, unit, stored, seconds):
    img = nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.int16), AFFINE)
    img.header["pixdim"][4] = stored
    img.header.set_xyzt_units("mm", unit)
    nib.save(img, tmp_path / "x.nii")
    assert open_image(tmp_path / "x.nii").tr_s == seconds
    assert open_image(made(tmp_path, "y.nii", np.zeros((2, 2, 2)))).tr_s is None


@pytest.mark.parametrize(
    "cls", [nib.Nifti1Pair, nib.Spm99AnalyzeImage, nib.Spm2AnalyzeImage, nib.AnalyzeImage, nib.MGHImage]
)
@pytest.mark.parametrize("n", [None, 3])
def test_other_formats(tmp_path, cls, n):
    shape = (4, 5, 6) if n is None else (4, 5, 6, n)
    affine = np.diag([-2, 2, 3, 1.0]) if "Analyze" in cls.__name__ else AFFINE
    data = np.random.default_rng(0).integers(0, 99, shape).astype(np.int16)
    name = "x.mgz" if cls is nib.MGHImage else "x.img"
    nib.save(cls(data, affine), tmp_path / name)
    check(open_image(tmp_path / name), nib.load(tmp_path / name))


def test_compressed_pair(tmp_path):
    nib.save(nib.Nifti1Pair(np.ones((4, 5, 6), np.float32), AFFINE), tmp_path / "x.img.gz")
    assert (tmp_path / "x.hdr.gz").exists()
    check(open_image(tmp_path / "x.img.gz"), nib.load(tmp_path / "x.img.gz"))


@pytest.mark.parametrize("order", "CF")
def test_images_in_memory(order):
    data = np.asarray(np.random.default_rng(0).standard_normal((4, 5, 6, 3)), order=order)
    img = nib.Nifti1Image(data, AFFINE)
    image = open_image(img)
    assert image.name == "image given as Nifti1Image"
    check(image, img)
    image.read()[:] = 0
    assert data.any()  # what the user holds is never written to
    flags = nib.spatialimages.SpatialImage(data[..., 0] > 0, AFFINE)
    np.testing.assert_array_equal(open_image(flags).read_one(), data[..., 0] > 0)


def test_image_of_nibabel_with_its_own_affine_counts(tmp_path):
    path = made(tmp_path, "x.nii.gz", np.ones((4, 5, 6), np.int16), slope=(2, 1))
    moved = nib.load(path)
    moved = nib.Nifti1Image(moved.dataobj, np.diag([5, 5, 5, 1.0]), moved.header)
    assert open_image(moved).zooms_mm.tolist() == [5, 5, 5]
    check(open_image(moved), moved)
    assert open_image(nib.load(path)).name == str(path)


def test_open_image_takes_an_image_and_survives_pickling(tmp_path):
    image = open_image(str(made(tmp_path, "x.nii.gz", np.ones((4, 5, 6, 2), np.int16))))
    assert isinstance(image, Image)
    assert open_image(image) is image
    image.read(0, 1)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image)).read(), image.read())


def test_read_refuses_what_does_not_fit(tmp_path):
    image = open_image(made(tmp_path, "x.nii", np.ones((4, 5, 6, 2), np.float32)))
    with pytest.raises(DataError, match=r"x\.nii: 2 volumes; expected one"):
        image.read_one()
    for start, stop in [(-1, 2), (0, 3), (2, 1)]:
        with pytest.raises(UsageError, match="it has 2"):
            image.read(start, stop)
    with pytest.raises(UsageError, match="out has shape"):
        image.read(out=np.empty((2, 4, 5, 7)))
    with pytest.raises(UsageError, match="cannot be read as int32"):
        image.read(dtype=np.int32)


@pytest.mark.parametrize("kind", ["u1", "i2", ">i2", "i4", "i8", "u8", "f4", "f8"])
def test_labels_are_exact(tmp_path, kind):
    ids = np.array([0, 1, 7, 100, 127]).astype(kind)
    if np.dtype(kind).itemsize >= 4:
        ids[-1] = 2020 if kind == "f4" else 2**31 - 1
    data = np.resize(ids, (3, 4, 5)).astype(kind)
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(data, AFFINE, dtype=kind), path)
    got = read_labels(open_image(path))
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, data)


@pytest.mark.parametrize(
    ("value", "kind", "what"),
    [
        (1.5, "f4", "1.5 is not a whole"),
        (np.nan, "f8", "nan is not a whole"),
        (np.inf, "f4", "inf is not a whole"),
        (-3, "i2", "-3 is negative"),
        (2**31, "f4", "is beyond int32"),
        (2**31, "u4", "is beyond int32"),
        (2**40, "i8", "is beyond int32"),
    ],
)
def test_what_is_no_label_is_named(tmp_path, value, kind, what):
    data = np.zeros((3, 4, 5), kind)
    data[1, 1, 1] = value
    path = tmp_path / "atlas.nii.gz"
    nib.save(nib.Nifti1Image(data, AFFINE, dtype=kind), path)
    with pytest.raises(DataError, match=rf"atlas\.nii\.gz: .*{what}.*1 voxels"):
        read_labels(path)


def test_lists_patterns_and_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for i in (1, 2, 10):
        made(tmp_path, f"run-{i}.nii", np.full((2, 2, 2), i, np.float32))
    img = nib.Nifti1Image(np.full((2, 2, 2), 5, np.float32), AFFINE)
    made(tmp_path, "odd[1].nii", np.full((2, 2, 2), 7, np.float32))

    def values(sources):
        return [int(image.read_one()[0, 0, 0]) for image in open_images(sources)]

    assert values("run-1.nii") == [1]
    assert values("run-*.nii") == [1, 2, 10]
    assert values("~/run-*.nii") == [1, 2, 10]
    assert values([Path("run-10.nii"), img, ["run-?.nii"]]) == [10, 5, 1, 2]
    assert values(tmp_path / "**" / "run-2.nii") == [2]
    assert values("odd[1].nii") == [7]
    assert values(img) == [5]
    assert values(pd.Series(["run-2.nii", "run-1.nii"])) == [2, 1]
    assert values(np.array(["run-2.nii", "run-1.nii"])) == [2, 1]


def test_all_broken_files_are_listed(tmp_path):
    good = made(tmp_path, "good.nii", np.ones((2, 2, 2)))
    (tmp_path / "text.nii.gz").write_text("not an image")
    (tmp_path / "empty.nii").touch()
    with pytest.raises(DataError) as caught:
        open_images(
            [
                good,
                tmp_path / "text.nii.gz",
                tmp_path / "absent.nii",
                f"{tmp_path}/none-*.nii",
                tmp_path / "empty.nii",
                3,
            ]
        )
    message = caught.value.message
    assert message.startswith("5 of 6 images cannot be used")
    for part in (
        "text.nii.gz: not a NIfTI file",
        "absent.nii: no such file",
        "none-*.nii: no file matches",
        "empty.nii: the file is empty",
        "got int",
    ):
        assert part in message
    assert "good.nii" not in message
    with pytest.raises(DataError, match="no image was given"):
        open_images([])


def real_images():
    if not OPEN_DATA.is_dir():
        return [
            pytest.param(None, marks=pytest.mark.skip(reason="the folder of real images is not beside the checkout"))
        ]
    files = [p for p in sorted(OPEN_DATA.rglob("*")) if p.name.endswith(IMAGE_SUFFIXES)]
    lesions = [p for p in files if p.parent.name == "lesions"]
    return [p for p in files if p not in lesions[3:]]  # 131 alike: three are enough


@pytest.mark.parametrize("path", real_images(), ids=lambda p: str(p and p.relative_to(OPEN_DATA)))
def test_real_images_read_as_nibabel_reads_them(path):
    try:
        img = nib.load(path)
        img.get_fdata()
    except (FileNotFoundError, ImportError):  # half of a pair; HDF5
        with pytest.raises(DataError, match=r"other half .* is missing|h5py"):
            open_image(path).read()
        return
    check(open_image(path), img)


@pytest.mark.skipif(not OPEN_DATA.is_dir(), reason="the folder of real images is not beside the checkout")
def test_real_label_images_keep_their_ids():
    sparse = read_labels(OPEN_DATA / "lesymap131" / "Parcellation_403areas.nii.gz")  # stored as float32
    assert len(np.unique(sparse)) == 404
    assert sparse.max() == 2020
    with pytest.raises(DataError, match=r"image_10426\.nii\.gz: value .* is not a whole number"):
        read_labels(OPEN_DATA / "statmaps" / "image_10426.nii.gz")


@pytest.mark.skipif(not OPEN_DATA.is_dir(), reason="the folder of real images is not beside the checkout")
def test_cut_off_copy_of_a_real_image_is_refused_when_it_is_opened(tmp_path):
    source = OPEN_DATA / "statmaps" / "image_10426.nii.gz"
    path = tmp_path / "map.nii.gz"
    shutil.copy(source, path)
    path.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(DataError, match=r"map\.nii\.gz: the compressed data end in the middle"):
        open_image(path)


def test_a_view_is_what_read_returns_and_cannot_be_written_to(tmp_path):
    data = np.asfortranarray(np.random.default_rng(0).normal(size=(4, 5, 6, 7)).astype(np.float32))
    in_memory = open_image(nib.Nifti1Image(data, AFFINE))
    seen = in_memory.view(2, 5)
    np.testing.assert_array_equal(seen, in_memory.read(2, 5))
    assert np.shares_memory(seen, data)
    assert not seen.flags.writeable
    np.testing.assert_array_equal(in_memory.view(dtype=np.float64), in_memory.read(dtype=np.float64))
    on_disk = open_image(made(tmp_path, "run.nii.gz", (data * 100).astype(np.int16), slope=(0.5, 3)))
    np.testing.assert_array_equal(on_disk.view(1, 3), on_disk.read(1, 3))
