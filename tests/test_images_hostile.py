"""Hostile headers and bytes: one DataError each, that names the file, and no memory taken for a promise."""

from __future__ import annotations

import gzip
import io
import os
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuroi.errors import DataError
from gpuroi.images import open_image

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def nifti(shape=(4, 5, 6), dtype="f4", version=1, **fields):
    """Bytes of a small valid image, with header fields changed afterwards."""
    cls = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    raw = cls(np.ones(shape, dtype), AFFINE).to_bytes()
    header_class = cls.header_class
    size = header_class.template_dtype.itemsize
    block = np.frombuffer(bytearray(raw[:size]), header_class.template_dtype.newbyteorder("<")).copy()
    for name, value in fields.items():
        block[name] = value
    return block.tobytes() + raw[size:]


def refused(path, match):
    with pytest.raises(DataError, match=match) as caught:
        open_image(path).read()
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


BROKEN_HEADERS = {
    "no axes": ({"dim": [0, 1, 1, 1, 1, 1, 1, 1]}, "every axis must be 1 or more"),
    "axis of 0": ({"dim": [3, 4, 0, 6, 1, 1, 1, 1]}, "every axis must be 1 or more"),
    "negative axis": ({"dim": [3, 4, -5, 6, 1, 1, 1, 1]}, "every axis must be 1 or more"),
    "no volumes": ({"dim": [4, 4, 5, 6, 0, 1, 1, 1]}, "every axis must be 1 or more"),
    "true 5-D": ({"dim": [5, 2, 5, 3, 2, 2, 1, 1]}, "split the image"),
    "complex": ({"datatype": 32, "bitpix": 64}, "complex numbers"),
    "RGB": ({"datatype": 128, "bitpix": 24}, "RGB colours"),
    "unknown type": ({"datatype": 999}, "999"),
    "one bit": ({"datatype": 1}, "x.nii"),
    "promises more": ({"dim": [3, 4, 5, 60, 1, 1, 1, 1]}, "promises 5,152 bytes, the file holds 832"),
    "promises much more": ({"dim": [4, 32767, 32767, 32767, 32767, 1, 1, 1]}, "promises"),
    "voxels begin too early": ({"vox_offset": 100}, "expected a whole number, 352 or more"),
    "voxels begin nowhere": ({"vox_offset": np.nan}, "begin at byte nan"),
    "voxels begin too late": ({"vox_offset": 1e9}, "promises"),
    "voxels begin between": ({"vox_offset": 352.5}, "begin at byte 352.5"),
    "affine NaN": ({"srow_x": np.nan}, "affine holds NaN"),
    "affine singular": ({"srow_y": [2, 0, 0, 1]}, "cannot be inverted"),
    "affine zero": ({"srow_z": 0}, "cannot be inverted"),
    "voxel size 0": ({"sform_code": 0, "pixdim": [1, 2, 0, 2, 1, 1, 1, 1]}, "voxel size .* none may be zero"),
    "voxel size NaN": ({"sform_code": 0, "pixdim": [1, 2, np.nan, 2, 1, 1, 1, 1]}, "voxel size"),
    "no rotation": ({"sform_code": 0, "qform_code": 1, "quatern_b": 5}, "no affine can be made"),
    "intercept NaN": ({"scl_slope": 2, "scl_inter": np.nan}, "invalid intercept"),
    "wrong magic": ({"magic": b"n+9"}, "magic bytes"),
    "header of a pair": ({"magic": b"ni1"}, r"header of a \.hdr/\.img pair"),
    "wrong size": ({"sizeof_hdr": 349}, "not a NIfTI file"),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("case", BROKEN_HEADERS)
def test_broken_headers(tmp_path, case, compressed):
    fields, match = BROKEN_HEADERS[case]
    raw = nifti(**fields)
    path = tmp_path / ("x.nii.gz" if compressed else "x.nii")
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    tracemalloc.start()
    refused(path, "promises" if compressed and "promises" in match else match)  # compressed, the sizes are others
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_broken_nifti2_headers(tmp_path):
    path = tmp_path / "x.nii"
    for fields in (
        {"vox_offset": -1},
        {"vox_offset": 2**62},
        {"dim": [3, 2**62, 2**62, 2, 1, 1, 1, 1]},
        {"dim": [2**40, 1, 1, 1, 1, 1, 1, 1]},
    ):
        path.write_bytes(nifti(version=2, **fields))
        refused(path, r"x\.nii")


def test_zero_pixdim_is_harmless_beside_an_sform(tmp_path):
    (tmp_path / "x.nii").write_bytes(nifti(pixdim=[0, 0, 0, 0, 0, 0, 0, 0]))
    image = open_image(tmp_path / "x.nii")
    assert image.zooms_mm.tolist() == [2, 2, 3]


@pytest.mark.parametrize(
    "fields",
    [
        {"sform_code": 0, "qform_code": 1, "pixdim": [0, 2, 2, 3, 1, 1, 1, 1], "qoffset_x": -9},  # no qfac: 1
        {"sform_code": 0, "qform_code": 1, "pixdim": [-1, 2, 2, 3, 1, 1, 1, 1], "quatern_c": 0.6},
        {"sform_code": 0, "qform_code": 0, "pixdim": [1, -2, 2, -3, 1, 1, 1, 1]},  # negative sizes: their magnitude
    ],
)
def test_affine_of_careless_headers_is_nibabels(tmp_path, fields):
    (tmp_path / "x.nii").write_bytes(nifti(**fields))
    np.testing.assert_allclose(open_image(tmp_path / "x.nii").affine, nib.load(tmp_path / "x.nii").affine)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("offset", [353, 1000])
def test_voxels_may_begin_anywhere_after_the_header(tmp_path, name, offset):
    values = np.arange(120, dtype="<f4")
    raw = nifti(vox_offset=offset)[:352] + bytes(offset - 352) + values.tobytes()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    got = open_image(tmp_path / name).read_one()
    assert got.flags.aligned
    np.testing.assert_array_equal(got, values.reshape(4, 5, 6, order="F"))


def test_offset_of_zero_means_right_after_the_header(tmp_path):
    (tmp_path / "x.nii").write_bytes(nifti(vox_offset=0))
    assert open_image(tmp_path / "x.nii").read().sum() == 120


def test_forged_trailer_does_not_make_memory(tmp_path):
    raw = nifti(dim=[4, 100, 100, 100, 20, 1, 1, 1])  # 80 MB promised by the header ...
    packed = gzip.compress(raw + os.urandom(100_000))  # ... which this many compressed bytes might hold ...
    promise = 352 + 100**3 * 20 * 4
    path = tmp_path / "x.nii.gz"
    path.write_bytes(packed[:-4] + promise.to_bytes(4, "little"))  # ... and the trailer agrees
    assert "x.nii.gz" in refused(path, "damaged|promises").message


def test_bomb_is_not_inflated_to_memory(tmp_path):
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as file:
        file.write(nifti())
        for _ in range(200):
            file.write(bytes(1_000_000))
    (tmp_path / "x.nii.gz").write_bytes(buffer.getvalue())
    open_image(tmp_path / "x.nii.gz")
    tracemalloc.start()
    assert open_image(tmp_path / "x.nii.gz").read().sum() == 120
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"participant_id\tage\nsub-01\t30\n", "begins with the text 'participant_id"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "begins with the text"),
        (b"<!DOCTYPE html><html>404</html>", "begins with the text"),
        (os.urandom(5000), "not a NIfTI file: it begins with the bytes|damaged|end in the middle"),
        (b"\x1f\x8b", "end in the middle"),
        (b"\x1f\x8b\x08\x00garbage after the magic bytes", "damaged|end in the middle"),
        (gzip.compress(b""), "not a NIfTI file: it is empty"),
        (gzip.compress(b"text in a gzip file"), "begins with the text 'text in"),
        (nifti()[:200], "not a NIfTI file"),
        (gzip.compress(nifti())[:-20], "end in the middle|damaged|promises"),
    ],
)
@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii"])
def test_what_is_no_image(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, match)


def test_hints_name_the_remedy(tmp_path):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in refused(path, "not a NIfTI").hint
    path.write_bytes(b"<html>not found</html>")
    assert "download" in refused(path, "not a NIfTI").hint
    link = tmp_path / "annexed.nii.gz"
    link.symlink_to(tmp_path / ".git" / "annex" / "objects" / "key")
    assert "datalad get" in refused(link, "a link to .* which is not there").hint


def test_names_need_not_tell_the_compression(tmp_path):
    (tmp_path / "plain.nii.gz").write_bytes(nifti())
    (tmp_path / "packed.nii").write_bytes(gzip.compress(nifti()))
    assert open_image(tmp_path / "plain.nii.gz").read().sum() == open_image(tmp_path / "packed.nii").read().sum() == 120


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    refused(tmp_path / "pipe.nii", "not a regular file")
    (tmp_path / "folder.nii").mkdir()
    refused(tmp_path / "folder.nii", "a folder")
    refused(tmp_path / "absent.nii", "no such file")
    (tmp_path / "x.txt").write_text("hello")
    refused(tmp_path / "x.txt", r"expected one of \.nii|cannot be read as an image")
    refused(tmp_path / "x.txt" / "y.nii", "no such file")


@pytest.mark.parametrize("source", [None, 3, b"x.nii", np.ones((3, 3, 3)), object()])
def test_what_is_no_source(source):
    with pytest.raises(DataError, match="an image is expected, got"):
        open_image(source)


def test_nul_in_a_name():
    with pytest.raises(DataError, match="cannot be read"):
        open_image("a\0b.nii")


def test_halves_of_pairs(tmp_path):
    nib.save(nib.Nifti1Pair(np.ones((4, 5, 6), np.float32), AFFINE), tmp_path / "x.img")
    (tmp_path / "y.hdr").write_bytes((tmp_path / "x.hdr").read_bytes())
    refused(tmp_path / "y.hdr", r"other half .*y\.img is missing")
    (tmp_path / "z.img").write_bytes((tmp_path / "x.img").read_bytes())
    refused(tmp_path / "z.img", r"z\.img")
    (tmp_path / "x.img").write_bytes((tmp_path / "x.img").read_bytes()[:100])
    refused(tmp_path / "x.hdr", "promises 480 bytes, the file holds 100")


def test_truncated_mgz_and_text(tmp_path):
    nib.save(nib.MGHImage(np.random.default_rng(0).standard_normal((9, 9, 9)).astype("f4"), AFFINE), tmp_path / "x.mgz")
    whole = (tmp_path / "x.mgz").read_bytes()
    for content in (whole[: len(whole) // 2], b"text", whole[:100]):
        (tmp_path / "x.mgz").write_bytes(content)
        refused(tmp_path / "x.mgz", r"x\.mgz")


def test_images_in_memory_that_cannot_be_used():
    with pytest.raises(DataError, match="complex"):
        open_image(nib.Nifti1Image(np.ones((2, 2, 2), np.complex64), AFFINE))
    with pytest.raises(DataError, match="no affine"):
        open_image(nib.spatialimages.SpatialImage(np.ones((2, 2, 2)), None))
    with pytest.raises(DataError, match="cannot be inverted"):
        open_image(nib.spatialimages.SpatialImage(np.ones((2, 2, 2)), np.diag([1, 0, 1, 1.0])))
    with pytest.raises(DataError, match="every axis"):
        open_image(nib.Nifti1Image(np.ones((2, 0, 2)), AFFINE))


def test_file_that_shrinks_between_open_and_read(tmp_path):
    path = tmp_path / "x.nii"
    path.write_bytes(nifti())
    image = open_image(path)
    path.write_bytes(nifti()[:500])
    with pytest.raises(DataError, match=r"x\.nii: holds less than when it was opened"):
        image.read()
    path.unlink()
    with pytest.raises(DataError, match=r"x\.nii: cannot be read: No such file"):
        image.read()


any_float = st.floats(width=32) | st.sampled_from([0.0, 1.0, -1.0, 352.0, 1e30])
small = st.integers(-(2**15), 2**15 - 1) | st.integers(0, 8)
fields = st.fixed_dictionaries(
    {},
    optional={
        "sizeof_hdr": st.sampled_from([348, 540, 0, -1]),
        "dim": st.lists(small, min_size=8, max_size=8),
        "datatype": st.sampled_from(list(nib.nifti1.data_type_codes.value_set())) | small,
        "bitpix": small,
        "pixdim": st.lists(any_float, min_size=8, max_size=8),
        "vox_offset": any_float,
        "scl_slope": any_float,
        "scl_inter": any_float,
        "xyzt_units": st.integers(0, 255),
        "qform_code": small,
        "sform_code": small,
        "quatern_b": any_float,
        "quatern_c": any_float,
        "qoffset_x": any_float,
        "srow_x": st.lists(any_float, min_size=4, max_size=4),
        "srow_y": st.lists(any_float, min_size=4, max_size=4),
        "magic": st.sampled_from([b"n+1", b"ni1", b"n+2", b"", b"xyz"]),
    },
)
on_disk = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def usable_or_refused(path: Path, name: str) -> None:
    """Either a real image comes out, or one DataError with the file's name."""
    image, data, refusal = None, None, None
    try:
        image = open_image(path)
        data = image.read()
    except DataError as error:
        refusal = error
    if refusal is not None:
        assert name in refusal.message
        assert refusal.hint
        return
    assert data.shape == (image.n_volumes, *image.shape)
    assert np.isfinite(image.affine).all()
    assert abs(np.linalg.det(image.affine)) > 0
    assert image.tr_s is None or image.tr_s > 0
    assert data.size <= 200


@on_disk
@given(fields)
def test_any_header_fields(tmp_path, changed):
    raw = nifti(**changed)
    (tmp_path / "x.nii").write_bytes(raw)
    usable_or_refused(tmp_path / "x.nii", "x.nii")


@on_disk
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6), st.integers(0, 832), st.booleans())
def test_any_bytes(tmp_path, flips, keep, compressed):
    raw = nifti()
    raw = bytearray(gzip.compress(raw) if compressed else raw)
    for place, value in flips:
        raw[place % len(raw)] = value
    path = tmp_path / "x.nii.gz"
    path.write_bytes(raw if keep > 800 else raw[:keep])
    usable_or_refused(path, "x.nii.gz")


@on_disk
@given(fields)
def test_any_header_of_a_pair(tmp_path, changed):
    raw = nifti(**{"magic": b"ni1", "vox_offset": 0, **changed})
    (tmp_path / "x.hdr").write_bytes(raw[:348])
    (tmp_path / "x.img").write_bytes(raw[352:])
    usable_or_refused(tmp_path / "x.hdr", "x.hdr")
