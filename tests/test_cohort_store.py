"""Packed stores: round trips against NumPy and zarr itself, appends, crashes, damage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuroi.cohort import packing, store_layout
from gpuroi.cohort.maps import MapReader, read_maps
from gpuroi.cohort.packing import append_maps, pack_maps, packing_peak_bytes
from gpuroi.cohort.store import attributes_checksum, maps_from_store, open_store
from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, OutputError, UsageError
from gpuroi.inference import permutation_test
from gpuroi.inference.columns import ColumnSource

SHAPE = (12, 11, 10)
AFFINE = np.array([[-2.0, 0, 0, 20], [0, 3, 0, -30], [0, 0, 4, -10], [0, 0, 0, 1]])


def noise(n, dtype="float32", shape=SHAPE, seed=0):
    return (50 * np.random.default_rng(seed).standard_normal((n, *shape))).astype(dtype)


def cohort(folder, data, first=0):
    folder = Path(folder)
    paths = [folder / f"sub-{i + first:04d}_map.nii" for i in range(len(data))]
    for path, one in zip(paths, data, strict=True):
        nibabel.save(nibabel.Nifti1Image(one, AFFINE), path)
    return SimpleNamespace(ids=[f"{i + first:04d}" for i in range(len(data))], maps=paths)


def some(people, rows):
    return SimpleNamespace(ids=people.ids[rows], maps=people.maps[rows])


@pytest.fixture
def grid():
    return VoxelGrid(np.random.default_rng(1).random(SHAPE) < 0.9, AFFINE)


@pytest.fixture
def packed(tmp_path, grid):
    data = noise(10)
    people = cohort(tmp_path, data)
    return pack_maps(people, grid, tmp_path / "cohort.zarr"), data[:, grid.mask], people


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_what_a_store_says(packed, grid):
    store, data, people = packed
    assert isinstance(store, ColumnSource)
    assert store.shape == data.shape
    assert store.ids == people.ids
    assert store.sources == [str(path) for path in people.maps]
    assert store.sha256 == [hashlib.sha256(path.read_bytes()).hexdigest() for path in people.maps]
    np.testing.assert_array_equal(store.mask.mask, grid.mask)
    np.testing.assert_array_equal(store.affine, AFFINE)
    assert store.missing_per_map == [0] * 10
    assert store.dtype == np.float32
    assert store.bytes_on_disk() < 1.5 * store_layout.CHUNK_ROWS * data[0].nbytes


def test_zarr_reads_the_same(packed, recwarn):
    store, data, _ = packed
    group = zarr.open_group(store.path, mode="r")
    np.testing.assert_array_equal(group["maps"][:], data)
    np.testing.assert_array_equal(group["mask"][:] != 0, store.mask.mask)
    assert sorted(name for name, _ in group.members()) == ["maps", "mask"]
    assert group.attrs["participant_id"] == store.ids
    assert len(recwarn) == 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "uint8", "int8", "uint16"])
def test_types(tmp_path, grid, dtype):
    data = noise(3, "float32" if dtype == "float16" else dtype)
    asked = "float16" if dtype == "float16" else None
    store = pack_maps(cohort(tmp_path, data), grid, tmp_path / "c.zarr", dtype=asked)
    assert store.dtype == dtype
    np.testing.assert_array_equal(store.rows(0, 3), data[:, grid.mask].astype(dtype))


@settings(max_examples=25)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 40),
    shards=st.integers(1, 4),
    parts=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    dtype=st.sampled_from(["float32", "int16", "float64"]),
    holes=st.booleans(),
    data=st.data(),
)
def test_round_trips(rows, columns, shards, parts, dtype, holes, data):
    """Chunks, types and appends of any size: every block of rows and columns is what NumPy says, as zarr has it."""
    shape = (5, 4, 3)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        for module in (packing, store_layout, sys.modules["gpuroi.cohort.store"]):
            for name, value in {"CHUNK_ROWS": rows, "CHUNK_COLUMNS": columns, "_CHUNKS_PER_SHARD": shards}.items():
                if hasattr(module, name):
                    patch.setattr(module, name, value)
        maps = noise(sum(parts), dtype, shape, seed=sum(parts))
        if holes and maps.dtype.kind == "f":
            maps[0, 0] = np.nan
        people, mask = cohort(folder, maps), VoxelGrid(np.arange(60).reshape(shape) % 7 > 0, AFFINE)
        want, path = maps[:, mask.mask], Path(folder, "c.zarr")
        done = parts[0]
        store = pack_maps(some(people, slice(done)), mask, path)
        for part in parts[1:]:
            store = append_maps(some(people, slice(done, done + part)), path)
            done += part
        np.testing.assert_array_equal(zarr.open_array(path / "maps", mode="r")[:], want)
        assert store.ids == people.ids
        n, v = store.shape
        for _ in range(6):
            a = data.draw(st.integers(0, v))
            b = data.draw(st.integers(a, v))
            np.testing.assert_array_equal(store.columns(a, b), want[:, a:b])
            a = data.draw(st.integers(0, n))
            b = data.draw(st.integers(a, n))
            np.testing.assert_array_equal(store.rows(a, b), want[a:b])
        width = data.draw(st.integers(1, v))
        scan = [store.columns(a, min(v, a + width)) for a in range(0, v, width)]
        np.testing.assert_array_equal(np.concatenate(scan, axis=1), want)


def test_a_scan_in_narrow_blocks_decodes_each_chunk_once_and_keeps_nothing(packed, monkeypatch):
    store, data, _ = packed
    matrix, reads = store._matrix, []
    read = matrix._read
    monkeypatch.setattr(matrix, "_read", lambda *args: (reads.append(args[2]), read(*args)))
    scan = [store.columns(a, min(data.shape[1], a + 100)) for a in range(0, data.shape[1], 100)]
    np.testing.assert_array_equal(np.concatenate(scan, axis=1), data)
    assert sorted(reads) == list(range(-(-data.shape[1] // 512)))
    assert matrix._slabs == {}


def test_threads_read_at_once(packed):
    store, data, _ = packed
    wrong = []

    def read(k):
        for a in range(k, data.shape[1], 97):
            if not np.array_equal(store.columns(a, min(a + 50, data.shape[1])), data[:, a : a + 50]):
                wrong.append(a)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_permutations_from_the_store_are_those_of_the_matrix(packed):
    store, data, _ = packed
    design = np.column_stack([np.ones(10), np.arange(10.0)])
    options = {"n_permutations": 20, "seed": 3, "device": "cpu"}
    want = permutation_test(data, design, np.array([0.0, 1]), **options)
    got = permutation_test(store, design, np.array([0.0, 1]), **options)
    np.testing.assert_array_equal(got.statistic, want.statistic)
    np.testing.assert_array_equal(got.null["max_stat"], want.null["max_stat"])


def test_float16_rounds_and_says_how_much(tmp_path, grid, caplog):
    data = noise(4)
    data[0][grid.mask] = np.linspace(1e-7, 1e-6, grid.n_elements)
    with caplog.at_level("INFO", logger="gpuroi"):
        store = pack_maps(cohort(tmp_path, data), grid, tmp_path / "c.zarr", dtype="float16")
    values = data[1:][:, grid.mask].astype(float)
    want = (np.abs(values.astype(np.float16).astype(float) - values) / np.abs(values))[np.abs(values) > 6.2e-5].max()
    assert store.attributes["largest_relative_error"] == pytest.approx(want)
    assert want <= 2**-11
    assert store.attributes["n_underflows"] == grid.n_elements + np.count_nonzero(np.abs(values) < 2.0**-14)
    assert "float16 rounds: largest relative error 0.00049" in caplog.text


def test_float16_refuses_what_is_beyond_it_and_leaves_nothing(tmp_path, grid):
    data = noise(4)
    data[2] = 70000
    with pytest.raises(DataError, match="1 of 4 maps cannot be used") as caught:
        pack_maps(cohort(tmp_path, data), grid, tmp_path / "c.zarr", dtype="float16")
    assert "beyond the range of float16" in caught.value.message
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".nii"] == []


def test_smoothing_and_holes_are_packed(tmp_path, grid):
    data = noise(3)
    data[1, 3:5] = np.nan
    people = cohort(tmp_path, data)
    store = pack_maps(people, grid, tmp_path / "c.zarr", smoothing_fwhm_mm=5)
    want = read_maps(people, grid, smoothing_fwhm_mm=5, missing_data="pattern", min_coverage=0)
    np.testing.assert_array_equal(store.rows(0, 3), want.data)
    assert store.smoothing_fwhm_mm == 5
    assert store.missing_per_map == [0, int(np.isnan(data[1][grid.mask]).sum()), 0]


@pytest.mark.parametrize("rule", ["drop-voxel", "mean", "pattern"])
@pytest.mark.parametrize("limit", [None, 1000])
def test_reading_a_store_is_reading_the_files(tmp_path, grid, rule, limit):
    data = noise(9)
    data[np.random.default_rng(5).random(data.shape) < 0.02] = np.nan
    people = cohort(tmp_path, data)
    store = pack_maps(people, grid, tmp_path / "c.zarr")
    order = [7, 2, 5, 0, 1, 8]
    chosen = SimpleNamespace(ids=[people.ids[i] for i in order], maps=[people.maps[i] for i in order])
    options = {"missing_data": rule, "min_coverage": 0.8}
    want = read_maps(chosen, grid, **options)
    got = maps_from_store(store, chosen.ids, memory_limit=limit, **options)
    assert got.ids == chosen.ids
    assert isinstance(got.data, np.ndarray) == (limit is None)
    values = got.data if limit is None else got.data.columns(0, got.shape[1])
    np.testing.assert_array_equal(values, want.data)
    np.testing.assert_array_equal(got.n_per_element, want.n_per_element)
    np.testing.assert_array_equal(got.mask.mask, want.mask.mask)


def test_people_who_are_not_there_are_listed(packed):
    store, _, _ = packed
    with pytest.raises(DataError, match="2 of 3 participants are not in the store: x, y"):
        maps_from_store(store, ["0001", "x", "y"])
    with pytest.raises(DataError, match="twice"):
        maps_from_store(store, ["0001", "0001"])


def test_appending_passes_over_who_is_there(tmp_path, packed, grid):
    store, data, people = packed
    more = noise(140, seed=9)
    new = cohort(tmp_path, more, first=10)
    everybody = SimpleNamespace(ids=people.ids + new.ids, maps=people.maps + new.maps)
    longer = append_maps(everybody, store.path, mask=grid)
    assert longer.ids == everybody.ids
    np.testing.assert_array_equal(longer.rows(0, 150), np.concatenate([data, more[:, grid.mask]]))
    before = files_of(store.path)
    assert append_maps(everybody, store.path).shape == longer.shape
    assert files_of(store.path) == before
    np.testing.assert_array_equal(store.rows(0, 10), data)  # opened before: still reads what it knows


def test_what_does_not_match_is_refused(tmp_path, packed, grid):
    store, _, people = packed
    before = files_of(store.path)
    new = cohort(tmp_path, noise(2, seed=4), first=20)
    fewer = grid.mask.copy()
    fewer[0] = False
    moved = AFFINE.copy()
    moved[0, 3] += 5
    for options, said in [
        ({"mask": VoxelGrid(fewer, AFFINE)}, "the mask has"),
        ({"mask": VoxelGrid(grid.mask, moved)}, "another grid"),
        ({"dtype": "float16"}, "dtype float16 is asked for, the store holds float32"),
        ({"smoothing_fwhm_mm": 6}, "smoothing of 6 mm, the store has 0 mm"),
    ]:
        with pytest.raises(DataError, match=said):
            append_maps(new, store.path, **options)
    with pytest.raises(DataError, match="holds float32, the new maps are int16"):
        append_maps(cohort(tmp_path, noise(2, "int16"), first=30), store.path)
    with pytest.raises(DataError, match="1 participants are in the store with another map: 0003"):
        append_maps(SimpleNamespace(ids=["0003", "x"], maps=[people.maps[5], new.maps[0]]), store.path)
    with pytest.raises(DataError, match="1 ids stand for several maps: x"):
        append_maps(SimpleNamespace(ids=["x", "x"], maps=new.maps), store.path)
    assert files_of(store.path) == before


def test_append_keeps_the_type_and_smoothing_that_were_asked_for(tmp_path, grid):
    data = noise(6)
    people = cohort(tmp_path, data)
    append_maps(
        some(people, slice(4, 6)),
        pack_maps(some(people, slice(4)), grid, tmp_path / "a.zarr", dtype="float16", smoothing_fwhm_mm=4).path,
    )
    at_once = pack_maps(people, grid, tmp_path / "b.zarr", dtype="float16", smoothing_fwhm_mm=4)
    appended = open_store(tmp_path / "a.zarr")
    np.testing.assert_array_equal(appended.rows(0, 6), at_once.rows(0, 6))
    assert appended.attributes == at_once.attributes


class Killed(BaseException):
    """What a crash looks like from inside."""


def test_a_crash_at_any_step_of_an_append_leaves_the_old_store_or_the_new(tmp_path, packed, grid, monkeypatch):
    store, data, people = packed
    more = noise(150, seed=11)
    new = cohort(tmp_path, more, first=10)
    both = np.concatenate([data, more[:, grid.mask]])
    shutil.copytree(store.path, tmp_path / "before")
    replace, seen = Path.replace, set()
    for crash_at in range(6):
        shutil.rmtree(store.path)
        shutil.copytree(tmp_path / "before", store.path)
        steps = iter(range(100))

        def replace_or_die(self, target, steps=steps, crash_at=crash_at):
            if target.is_relative_to(store.path) and next(steps) == crash_at:
                raise Killed
            return replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace_or_die)
            with contextlib.suppress(Killed):
                append_maps(new, store.path)
        now = open_store(store.path)
        seen.add(now.shape[0])
        np.testing.assert_array_equal(now.rows(0, now.shape[0]), both[: now.shape[0]])
        assert append_maps(new, store.path).ids == people.ids + new.ids
        np.testing.assert_array_equal(open_store(store.path).rows(0, 160), both)
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert seen == {10, 160}


def test_a_full_disk_is_an_output_error_and_the_store_stays(tmp_path, packed, monkeypatch):
    store, _, _ = packed
    before = files_of(store.path)
    new = cohort(tmp_path, noise(3, seed=12), first=10)

    def full(*args, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zarr.storage._local._put", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        append_maps(new, store.path)
    assert caught.value.exit_code == 73
    with pytest.raises(OutputError, match="No space left"):
        pack_maps(new, store.mask, tmp_path / "other.zarr")
    assert files_of(store.path) == before
    assert not (tmp_path / "other.zarr").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_one_writer_at_a_time(tmp_path, packed):
    fcntl = pytest.importorskip("fcntl")
    store, _, _ = packed
    new = cohort(tmp_path, noise(1, seed=12), first=10)
    file = os.open(store.path, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(OutputError, match="somebody else is adding to it"):
        append_maps(new, store.path)
    os.close(file)
    assert append_maps(new, store.path).shape[0] == 11


def test_existing_stores_are_replaced_only_when_asked_and_others_never(tmp_path, packed, grid):
    store, _, people = packed
    with pytest.raises(OutputError, match="exists already"):
        pack_maps(people, grid, store.path)
    fewer = pack_maps(some(people, slice(3)), grid, store.path, overwrite=True)
    assert fewer.shape[0] == 3
    theirs = tmp_path / "theirs.zarr"
    zarr.create_group(theirs)
    with pytest.raises(OutputError, match="no store of gpuroi"):
        pack_maps(people, grid, theirs, overwrite=True)
    with pytest.raises(OutputError, match=r"name it \.zarr"):
        pack_maps(people, grid, tmp_path / "cohort")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_pack_that_fails_leaves_the_old_store(packed, grid, monkeypatch):
    store, data, people = packed
    monkeypatch.setattr(packing, "_write_group", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pack_maps(people, grid, store.path, overwrite=True)
    np.testing.assert_array_equal(open_store(store.path).rows(0, 10), data)
    assert [p.name for p in store.path.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("where", [0.01, 0.3, 0.6, 0.97, 0.999])
def test_a_flipped_bit_in_a_shard_is_an_error(packed, where):
    store, _, _ = packed
    shard = store.path / "maps" / "c" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[int(where * len(content))] ^= 4
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"cohort\.zarr: maps/c/0/0") as caught:
        open_store(store.path).verify()
    assert "gpuroi pack" in caught.value.hint
    with pytest.raises(DataError):
        open_store(store.path).columns(0, store.shape[1])


@pytest.mark.parametrize("keep", [0, 3, 0.5, -1])
def test_a_shard_cut_short_is_an_error(packed, keep):
    store, _, _ = packed
    shard = store.path / "maps" / "c" / "0" / "0"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else keep])
    with pytest.raises(DataError, match="cut short"):
        open_store(store.path).columns(0, 5)


def test_a_shard_that_is_not_there_is_an_error(packed):
    store, _, _ = packed
    (store.path / "maps" / "c" / "0" / "0").unlink()
    with pytest.raises(DataError, match="1 shards are not there: maps/c/0/0"):
        open_store(store.path)
    with pytest.raises(DataError, match="No such file"):
        store.columns(0, 1)


def test_changed_lists_and_masks_are_errors(packed, tmp_path):
    store, _, _ = packed
    header = store.path / "zarr.json"
    text = header.read_text()
    header.write_text(text.replace('"0003"', '"0033"'))
    with pytest.raises(DataError, match="checksum does not match"):
        open_store(store.path)
    later = json.loads(text)
    later["attributes"]["format"] = 99
    header.write_text(json.dumps(later))
    with pytest.raises(UsageError, match="format 99"):
        open_store(store.path)
    shorter = json.loads(text)
    shorter["attributes"]["dtype"] = "int16"
    shorter["attributes"]["checksum"] = attributes_checksum(shorter["attributes"])
    header.write_text(json.dumps(shorter))
    with pytest.raises(DataError, match="do not fit"):
        open_store(store.path)
    header.write_text(text)
    chunk = next(p for p in (store.path / "mask").rglob("*") if p.is_file() and p.name != "zarr.json")
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as a store of maps"):
        open_store(store.path)
    with pytest.raises(DataError, match="no packed store"):
        open_store(tmp_path / "nothing.zarr")
    zarr.create_group(tmp_path / "theirs.zarr").create_array("maps", shape=(2, 2), dtype="f4", chunks=(2, 2))
    with pytest.raises(DataError, match=r"theirs\.zarr"):
        open_store(tmp_path / "theirs.zarr")


def test_without_zarr_it_says_what_to_install(packed, grid, monkeypatch, tmp_path):
    store, _, people = packed
    monkeypatch.setitem(sys.modules, "zarr", None)
    for call in (lambda: open_store(store.path), lambda: pack_maps(people, grid, tmp_path / "b.zarr")):
        with pytest.raises(UsageError, match="zarr is not installed") as caught:
            call()
        assert caught.value.hint == "pip install 'gpuroi[store]'"


def test_memory_limit(packed, grid, tmp_path):
    _, _, people = packed
    with pytest.raises(UsageError, match="packing takes"):
        pack_maps(people, grid, tmp_path / "b.zarr", memory_limit="100KB")
    with pytest.raises(UsageError, match="dtype"):
        pack_maps(people, grid, tmp_path / "b.zarr", dtype="complex64")
    with pytest.raises(UsageError, match="stay within"):
        open_store(tmp_path / "cohort.zarr").columns(0, 10**6)


@pytest.mark.parametrize("n", [100, 200])
def test_peak_memory_is_what_was_stated(tmp_path, n):
    shape = (40, 40, 40)
    people = cohort(tmp_path, noise(n, shape=shape))
    grid = VoxelGrid(np.ones(shape), AFFINE)
    pack_maps(some(people, slice(2)), grid, tmp_path / "a.zarr")  # imports
    for path, run, before in [
        ("b.zarr", lambda: pack_maps(people, grid, tmp_path / "b.zarr", threads=1), 0),
        ("a.zarr", lambda: append_maps(people, tmp_path / "a.zarr", threads=1), 2),
    ]:
        tracemalloc.start()
        run()
        measured = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        stated = packing_peak_bytes(MapReader(people, grid, threads=1), before)
        assert 1.0 <= stated / measured <= 1.2, (path, stated, measured)


def test_wager2008_through_a_store(open_data, tmp_path):
    files = sorted((open_data / "wager2008_emoreg").glob("con_*.img"))
    first = nibabel.load(files[0])
    people = SimpleNamespace(ids=[file.stem for file in files], maps=files)
    grid = VoxelGrid(np.ones(first.shape[:3]), first.affine)
    store = pack_maps(people, grid, tmp_path / "wager.zarr")
    maps = maps_from_store(store, zero_is_missing=True)
    assert maps.shape == (30, 75_919)
    np.testing.assert_array_equal(maps.data, read_maps(people, grid, zero_is_missing=True).data)
    both = files[0].read_bytes() + files[0].with_suffix(".hdr").read_bytes()
    assert store.sha256[0] == hashlib.sha256(both).hexdigest()
