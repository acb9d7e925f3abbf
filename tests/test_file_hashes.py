"""The bytes that are hashed are the bytes that are read: a file that is replaced in between is refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from screen_cohorts import write_cohort, write_image

from gpuroi import pack, screen
from gpuroi.cohort import packing
from gpuroi.cohort.file_hashes import hash_files, unchanged_files
from gpuroi.errors import DataError
from gpuroi.workflows import screen as screen_workflow

FORMULA = "map ~ group + age"
SHAPE = (12, 13, 14)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"map {i}.nii" for i in range(7)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes(range(i + 1)) * 1000)
    return paths


@pytest.mark.parametrize("threads", [1, 3])
def test_hashes_are_those_of_hashlib_in_the_order_of_the_files(files, threads):
    told = []
    found = hash_files(files, threads, lambda *at: told.append(at))
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert told == [(k, 7) for k in range(8)]


def test_both_halves_of_a_pair_count_whichever_is_named(tmp_path):
    header, image = tmp_path / "a.hdr", tmp_path / "a.img"
    header.write_bytes(b"header")
    image.write_bytes(b"image")
    assert hash_files([header, image], 1) == [hashlib.sha256(b).hexdigest() for b in (b"headerimage", b"imageheader")]
    with pytest.raises(DataError, match=r"a\.hdr: was replaced"), unchanged_files([header]):
        image.write_bytes(b"another image")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"gone\.nii: cannot be read: No such file"):
        hash_files([tmp_path / "gone.nii"], 1)


def other_content(path):
    path.write_bytes(b"shorter")


def other_time(path):
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000))


def renamed_over(path):
    other = path.with_suffix(".new")
    other.write_bytes(b"x" * path.stat().st_size)
    other.replace(path)


def removed_before_an_error(path):
    path.unlink()
    raise KeyError("first")


@pytest.mark.parametrize("change", [other_content, other_time, renamed_over, Path.unlink])
def test_a_file_that_changes_meanwhile_is_named(files, change):
    with pytest.raises(DataError) as caught, unchanged_files(files):
        change(files[4])
    assert caught.value.message == f"{files[4]}: was replaced or written to while being read"
    with unchanged_files(files):
        hash_files(files[:4], 2)


def test_many_files_are_counted_and_an_error_within_wins(files):
    with pytest.raises(DataError, match=r"map 4\.nii and 2 more: were replaced"), unchanged_files(files):
        list(map(other_content, files))
    with pytest.raises(KeyError, match="first"), unchanged_files(files):
        removed_before_an_error(files[0])


def replaced_map():
    write_image("maps/sub-03_map.nii.gz", np.ones(SHAPE, np.float32))


def test_a_screening_refuses_a_map_that_is_replaced_between_its_hash_and_its_reading(here, monkeypatch):
    write_cohort()
    hash_inputs = screen_workflow.hash_inputs

    def then_replaced(*args):
        found = hash_inputs(*args)
        replaced_map()
        return found

    options = {"formula": FORMULA, "mask": "mask.nii.gz", "n_permutations": 10, "device": "cpu"}
    with monkeypatch.context() as patched:
        patched.setattr(screen_workflow, "hash_inputs", then_replaced)
        with pytest.raises(DataError, match=r"sub-03_map\.nii\.gz: was replaced or written to while being read"):
            screen("participants.tsv", **options)
    digest = screen("participants.tsv", **options).map_sha256[3]
    assert digest == hashlib.sha256(Path("maps/sub-03_map.nii.gz").read_bytes()).hexdigest()


def test_a_pack_refuses_it_too_and_leaves_nothing(here, monkeypatch):
    write_cohort()

    def hashed_later(*args):
        replaced_map()
        return hash_files(*args)

    monkeypatch.setattr(packing, "hash_files", hashed_later)
    with pytest.raises(DataError, match=r"sub-03_map\.nii\.gz: was replaced"):
        pack("participants.tsv", mask="mask.nii.gz", out="store.zarr")
    assert not Path("store.zarr").exists()
