"""Maps of a cohort as one matrix, against nibabel and NumPy by hand, nilearn, and SciPy."""

from __future__ import annotations

import gzip
import pickle
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pandas as pd
import pytest
from hostile import HOSTILE
from nilearn.masking import apply_mask
from scipy import ndimage

from gpuroi.cohort.bad_inputs import BadInputsError
from gpuroi.cohort.grid_check import BadGridsError, BadMapsError, check_maps, write_bad_inputs
from gpuroi.cohort.maps import maps_peak_bytes, read_maps
from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.inference.columns import ColumnSource

SHAPE = (7, 6, 5)
AFFINE = np.array([[-2.0, 0, 0, 20], [0, 3, 0, -30], [0, 0, 4, -10], [0, 0, 0, 1]])


def cohort(paths):
    return SimpleNamespace(ids=[f"{i:03d}" for i in range(len(paths))], maps=[Path(p) for p in paths])


def save(path, data, affine=AFFINE, *, slope=None, inter=0.0):
    image = nibabel.Nifti1Image(data, affine)
    if slope is not None:
        image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)
    return path


@pytest.fixture
def mask(tmp_path):
    inside = np.random.default_rng(1).random(SHAPE) < 0.6
    return save(tmp_path / "mask.nii.gz", inside.astype(np.uint8))


def inside_of(mask):
    return np.asarray(nibabel.load(mask).dataobj) > 0


def noise_maps(folder, n=6, dtype=np.float32, suffix=".nii.gz"):
    rng = np.random.default_rng(0)
    data = (50 * rng.standard_normal((n, *SHAPE))).astype(dtype)
    return data, cohort([save(folder / f"sub-{i:03d}_map{suffix}", data[i]) for i in range(n)])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint8", "int8", "uint16"])
def test_rows_are_the_masked_maps_as_stored(tmp_path, mask, dtype, suffix):
    data, people = noise_maps(tmp_path, dtype=dtype, suffix=suffix)
    maps = read_maps(people, mask)
    assert maps.data.dtype == dtype
    np.testing.assert_array_equal(maps.data, data[:, inside_of(mask)])
    np.testing.assert_array_equal(maps.n_per_element, 6)
    assert maps.ids == people.ids
    assert maps.mask.n_elements == maps.shape[1] == inside_of(mask).sum()
    np.testing.assert_array_equal(maps.affine, AFFINE)


def test_same_as_nilearn(tmp_path, mask):
    _, people = noise_maps(tmp_path)
    want = apply_mask([str(path) for path in people.maps], str(mask))
    np.testing.assert_array_equal(read_maps(people, mask).data, want)


def test_scaled_integers_become_float32(tmp_path, mask):
    stored = np.random.default_rng(3).integers(-3000, 3000, (3, *SHAPE)).astype(np.int16)
    people = cohort([save(tmp_path / f"{i}.nii.gz", stored[i] * 0.25 + 7, slope=0.25, inter=7) for i in range(3)])
    for path in people.maps:
        header = nibabel.load(path).header
        header.set_data_dtype(np.int16)
    scaled = []
    for i, path in enumerate(people.maps):
        image = nibabel.Nifti1Image(stored[i] * 0.25 + 7.0, AFFINE)
        image.set_data_dtype(np.int16)
        nibabel.save(image, path)
        scaled.append(np.asarray(nibabel.load(path).dataobj)[inside_of(mask)])
    maps = read_maps(people, mask)
    assert nibabel.load(people.maps[0]).get_data_dtype() == np.int16
    assert maps.data.dtype == np.float32
    np.testing.assert_array_equal(maps.data, np.array(scaled).astype(np.float32))


@pytest.mark.parametrize("kind", ["spm", "nifti-pair", "mgz", "mgz-int"])
def test_other_formats(tmp_path, mask, kind):
    data = np.random.default_rng(4).integers(-999, 999, SHAPE)
    classes = {"spm": nibabel.Spm2AnalyzeImage, "nifti-pair": nibabel.Nifti1Pair}
    path = tmp_path / ("map.mgz" if "mgz" in kind else "map.img")
    if "mgz" in kind:
        nibabel.save(nibabel.MGHImage(data.astype("f4" if kind == "mgz" else "i2"), AFFINE), path)
    else:
        nibabel.save(classes[kind](data.astype("i2") if kind == "nifti-pair" else data.astype("f4"), AFFINE), path)
    maps = read_maps(cohort([path]), VoxelGrid(inside_of(mask), nibabel.load(path).affine))
    assert maps.data.dtype == np.dtype("f4" if kind in ("spm", "mgz") else "i2")
    np.testing.assert_array_equal(maps.data[0], data[inside_of(mask)])


def test_wide_integers_and_mixed_types_keep_their_values(tmp_path, mask):
    wide = np.full(SHAPE, 2**30 + 1, np.int32)
    maps = read_maps(cohort([save(tmp_path / "a.nii", wide), save(tmp_path / "b.nii", wide)]), mask)
    assert maps.data.dtype == np.float64
    assert (maps.data == 2**30 + 1).all()
    mixed = cohort([save(tmp_path / "c.nii", np.ones(SHAPE, "i2")), save(tmp_path / "d.nii", np.ones(SHAPE, "f4"))])
    assert read_maps(mixed, mask).data.dtype == np.float32


@pytest.mark.parametrize("name", [k for k, v in HOSTILE.items() if v.ndim == 3 and 0 not in v.shape])
def test_hostile_maps(tmp_path, name):
    data = HOSTILE[name]
    if data.dtype.kind == "b" or data.dtype.itemsize == 8 or data.dtype == np.float16:
        data = data.astype(np.float64)
    people = cohort([save(tmp_path / f"{i}.nii.gz", data) for i in range(2)])
    grid = VoxelGrid(np.ones(data.shape), AFFINE)
    finite = np.isfinite(data.astype(float))
    if not finite.any():
        with pytest.raises(DataError, match="no voxel of the mask is left"):
            read_maps(people, grid)
        return
    maps = read_maps(people, grid)
    want = np.asarray(nibabel.load(people.maps[0]).dataobj)[finite]
    np.testing.assert_array_equal(maps.data, np.array([want, want]))
    np.testing.assert_array_equal(maps.mask.mask, finite)


def test_a_fourth_axis_of_one_frame_is_a_map(tmp_path, mask):
    data = np.random.default_rng(5).standard_normal((*SHAPE, 1)).astype(np.float32)
    maps = read_maps(cohort([save(tmp_path / "a.nii.gz", data)]), mask)
    np.testing.assert_array_equal(maps.data[0], data[..., 0][inside_of(mask)])


def test_smoothing_is_scipys_with_the_voxel_size_of_the_affine(tmp_path, mask):
    data, people = noise_maps(tmp_path, n=2)
    sigma = 6 / (np.sqrt(8 * np.log(2)) * np.array([2.0, 3.0, 4.0]))
    want = [ndimage.gaussian_filter(one.astype(np.float64), sigma)[inside_of(mask)] for one in data]
    got = read_maps(people, mask, smoothing_fwhm_mm=6).data
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=2e-4)


def test_smoothing_does_not_spread_what_is_missing(tmp_path):
    data = np.random.default_rng(6).standard_normal(SHAPE)
    data[2, 3, 1] = np.nan
    people = cohort([save(tmp_path / "a.nii", data), save(tmp_path / "b.nii", np.nan_to_num(data))])
    maps = read_maps(people, VoxelGrid(np.ones(SHAPE), AFFINE), smoothing_fwhm_mm=5)
    present = np.isfinite(data)
    sigma = 5 / (np.sqrt(8 * np.log(2)) * np.array([2.0, 3.0, 4.0]))
    filled = ndimage.gaussian_filter(np.where(present, data, 0), sigma)
    want = (filled / ndimage.gaussian_filter(present.astype(float), sigma))[present]
    assert maps.shape == (2, data.size - 1)
    np.testing.assert_allclose(maps.data[0], want, rtol=1e-10)


def test_all_offenders_are_found_before_any_work(tmp_path, mask):
    good = save(tmp_path / "good.nii.gz", np.ones(SHAPE, "f4"))
    moved = AFFINE.copy()
    moved[0, 3] += 1
    files = {
        "missing": tmp_path / "missing.nii.gz",
        "shape": save(tmp_path / "shape.nii.gz", np.ones((3, 3, 3), "f4")),
        "zooms": save(tmp_path / "zooms.nii.gz", np.ones(SHAPE, "f4"), np.diag([1.0, 1, 1, 1])),
        "moved": save(tmp_path / "moved.nii.gz", np.ones(SHAPE, "f4"), moved),
        "frames": save(tmp_path / "frames.nii.gz", np.ones((*SHAPE, 3), "f4")),
        "text": tmp_path / "text.nii",
        "short": tmp_path / "short.nii",
        "cut": tmp_path / "cut.nii.gz",
    }
    files["text"].write_text("not an image")
    save(tmp_path / "whole.nii", np.ones(SHAPE, "f4"))
    files["short"].write_bytes((tmp_path / "whole.nii").read_bytes()[:-100])
    noise = np.random.default_rng(7).standard_normal(SHAPE)
    packed = save(tmp_path / "whole.nii.gz", noise).read_bytes()
    files["cut"].write_bytes(packed[: len(packed) // 2])
    people = SimpleNamespace(ids=["good", *files], maps=[good, *files.values()])
    rows = check_maps(people, mask)
    found = {row.participant_id: (row.found, row.expected) for row in rows}
    assert list(found) == list(files)
    assert found["missing"] == ("no such file", "a readable image of one frame")
    assert found["shape"] == ("shape 3x3x3", "shape 7x6x5")
    assert found["zooms"] == ("voxel size 1 mm", "voxel size 2 x 3 x 4 mm")
    assert "corners lie up to 1 mm apart" in found["moved"][0]
    assert found["moved"][1].startswith("affine [-2 0 0 20")
    assert found["frames"] == ("3 frames", "one frame")
    assert "cut off" in found["cut"][0]
    assert "promises" in found["short"][0]
    with pytest.raises(BadMapsError, match="8 of 9 maps cannot be used") as caught:
        read_maps(people, mask)
    assert all(str(path) in caught.value.message for path in files.values())
    assert caught.value.bad_inputs == tuple(rows)
    table = pd.read_csv(write_bad_inputs(tmp_path / "bad_inputs.tsv", rows), sep="\t", dtype=str)
    assert table.columns.tolist() == ["participant_id", "file", "found", "expected"]
    assert table["participant_id"].tolist() == list(files)


def test_only_other_grids_are_a_grid_error_and_twenty_are_listed(tmp_path, mask):
    path = save(tmp_path / "other.nii.gz", np.ones((3, 3, 3), "f4"))
    with pytest.raises(GridError, match="30 of 30 maps") as caught:
        read_maps(cohort([path] * 30), mask)
    assert isinstance(caught.value, BadGridsError)
    assert isinstance(caught.value, BadInputsError)
    assert caught.value.exit_code == 65
    assert caught.value.message.count("shape 3x3x3") == 20
    assert "and 10 more" in caught.value.message
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.bad_inputs == caught.value.bad_inputs


def test_rounded_affines_are_the_same_grid(tmp_path, mask):
    rounded = AFFINE + 1e-6
    rounded[3] = [0, 0, 0, 1]
    assert check_maps(cohort([save(tmp_path / "a.nii", np.ones(SHAPE, "f4"), rounded)]), mask) == []


def test_damage_in_the_middle_is_found_in_all_files(tmp_path, mask):
    data, people = noise_maps(tmp_path, n=5)
    for i in (1, 3):
        content = bytearray(people.maps[i].read_bytes())
        content[len(content) // 2] ^= 0xFF
        people.maps[i].write_bytes(content)
    assert check_maps(people, mask) == []
    with pytest.raises(BadMapsError, match="2 of 5 maps") as caught:
        read_maps(people, mask)
    assert [row.participant_id for row in caught.value.bad_inputs] == ["001", "003"]
    assert data.shape[0] == 5


def test_headers_alone_are_read_by_the_check(tmp_path, mask, monkeypatch):
    _, people = noise_maps(tmp_path, n=3)
    grid = VoxelGrid(inside_of(mask), AFFINE)
    monkeypatch.setattr("gpuroi.images.stores.inflate", lambda *a, **k: pytest.fail("voxels were read"))
    assert check_maps(people, grid) == []


def test_masks_that_cannot_be_used(tmp_path, mask):
    _, people = noise_maps(tmp_path, n=2)
    empty = save(tmp_path / "empty.nii.gz", np.zeros(SHAPE, "u1"))
    with pytest.raises(DataError, match=r"empty\.nii\.gz: the mask is empty"):
        read_maps(people, empty)
    with pytest.raises(UsageError, match="no affine"):
        read_maps(people, VoxelGrid(np.ones(SHAPE)))
    with pytest.raises(DataError, match="0 participants"):
        read_maps(cohort([]), mask)


def test_the_matrix_does_not_depend_on_threads_or_place(tmp_path, mask):
    data, people = noise_maps(tmp_path, n=9)
    data[4][inside_of(mask)] = np.where(np.arange(inside_of(mask).sum()) % 7 == 0, np.nan, 1)
    save(people.maps[4], data[4])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # what the threads take, a map, and no room for the matrix
    grid = VoxelGrid(inside_of(mask), AFFINE)
    limit = maps_peak_bytes(1, grid.n_elements, SHAPE, threads=1)
    for rule in ("drop-voxel", "mean", "pattern"):
        options = {"missing_data": rule, "min_coverage": 0.5}
        want = read_maps(people, grid, threads=1, **options)
        more = read_maps(people, grid, threads=3, **options)
        on_disk = read_maps(people, grid, threads=1, memory_limit=limit, scratch=scratch, **options)
        assert isinstance(want.data, np.ndarray)
        assert not isinstance(on_disk.data, np.ndarray)
        assert isinstance(on_disk.data, ColumnSource)
        assert len(list(scratch.iterdir())) == 1
        np.testing.assert_array_equal(more.data, want.data)
        v = want.shape[1]
        got = np.concatenate([on_disk.data.columns(a, min(v, a + 17)) for a in range(0, v, 17)], axis=1)
        np.testing.assert_array_equal(got, want.data)
        np.testing.assert_array_equal(on_disk.n_per_element, want.n_per_element)
        del on_disk
        assert list(scratch.iterdir()) == []


def test_a_limit_below_one_volume_is_refused(tmp_path, mask):
    _, people = noise_maps(tmp_path, n=2)
    with pytest.raises(UsageError, match="memory limit"):
        read_maps(people, mask, memory_limit=1000)


@pytest.mark.parametrize("smoothing", [None, 5.0])
def test_peak_memory_is_what_was_stated(tmp_path, smoothing):
    shape, n = (60, 50, 40), 40
    inside = np.zeros(shape, bool)
    inside[5:-5, 5:-5, 5:-5] = True
    rng = np.random.default_rng(8)
    data = rng.standard_normal((n, *shape)).astype("f4")
    data[:, 0, 0, 0] = np.nan  # outside the mask; smoothing with holes takes the most
    people = cohort([save(tmp_path / f"{i}.nii.gz", data[i]) for i in range(n)])
    grid = VoxelGrid(inside, AFFINE)
    read_maps(people, grid, smoothing_fwhm_mm=smoothing, threads=1)  # compiles, imports
    tracemalloc.start()
    read_maps(people, grid, smoothing_fwhm_mm=smoothing, threads=1)
    measured = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    stated = maps_peak_bytes(n, grid.n_elements, shape, smoothing=smoothing is not None, threads=1)
    assert 1.0 <= stated / measured <= 1.2, (stated, measured)


def test_values_that_do_not_fit_the_type_are_refused(tmp_path, mask):
    big = cohort([save(tmp_path / "big.nii", np.full(SHAPE, 1e6, "f4"))])
    with pytest.raises(DataError, match=r"beyond the range of float16, such as 1e\+06"):
        read_maps(big, mask, dtype="float16")
    half = cohort([save(tmp_path / "half.nii", np.full(SHAPE, 0.5, "f4"))])
    with pytest.raises(DataError, match="not whole numbers"):
        read_maps(half, mask, dtype="int16")
    holes = cohort([save(tmp_path / "nan.nii", np.full(SHAPE, np.nan, "f4"))])
    with pytest.raises(DataError, match="NaN or infinity"):
        read_maps(holes, mask, dtype="int16")


def test_gzip_of_several_members_is_read_whole(tmp_path, mask):
    data, people = noise_maps(tmp_path, n=1, suffix=".nii")
    raw = people.maps[0].read_bytes()
    (tmp_path / "two.nii.gz").write_bytes(gzip.compress(raw[:500]) + gzip.compress(raw[500:]))
    maps = read_maps(cohort([tmp_path / "two.nii.gz"]), mask)
    np.testing.assert_array_equal(maps.data, data[:, inside_of(mask)])


def test_lesion_maps(open_data):
    files = sorted((open_data / "lesymap131" / "lesions").glob("*.nii.gz"))[:12]
    first = nibabel.load(files[0])
    some = np.zeros(first.shape, bool)
    some[40:140:2, 40:180:2, 40:140:2] = True
    maps = read_maps(cohort(files), VoxelGrid(some, first.affine))
    want = [np.asarray(nibabel.load(file).dataobj)[some] for file in files]
    assert maps.data.dtype == np.float32
    np.testing.assert_array_equal(maps.data, want)
