"""From files to the device: only what is stored travels, reading overlaps work, buffers are handed over in order."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from rig.checking import check, host
from rig.standin_device import Event, Meter, Stream

from gpuroi.backends.base import Backend
from gpuroi.errors import DataError
from gpuroi.images import open_image, open_images
from gpuroi.images.load_rows import load_rows


def numbered(i: int, out: np.ndarray) -> None:
    out[...] = 100 * i + np.arange(out.size).reshape(out.shape)


@pytest.mark.parametrize(("n", "part"), [(0, 3), (1, 3), (7, 3), (6, 3), (5, 1), (4, 9)])
def test_items_come_in_order_as_they_are(backend: Backend, device_meter: Meter, n: int, part: int) -> None:
    found = []
    device_meter.reset()
    for items, there in backend.stream(numbered, n, (2, 3), np.int16, part):
        assert there.dtype == np.int16
        assert items.stop - items.start == len(there) <= part
        found += [(items.start + i, backend.to_numpy(there)[i].copy()) for i in range(len(there))]
    assert [i for i, _ in found] == list(range(n))
    for i, values in found:
        np.testing.assert_array_equal(values, 100 * i + np.arange(6).reshape(2, 3))
    if backend.name != "cpu":
        assert device_meter.h2d_bytes == n * 6 * 2


def test_the_next_part_is_read_while_the_caller_works(backend: Backend) -> None:
    at_work, seen = threading.Event(), []

    def fill(i: int, out: np.ndarray) -> None:
        if i >= 2:  # of the second part on: waits until the caller has the first in its hands
            seen.append(at_work.wait(20))
        numbered(i, out)

    parts = backend.stream(fill, 6, (4,), np.float32, 2)
    next(parts)
    at_work.set()
    assert len(list(parts)) == 2
    assert seen == [True] * 4


def test_an_error_of_a_reader_arrives_and_leaves_nothing_behind(backend: Backend) -> None:
    def fill(i: int, out: np.ndarray) -> None:
        if i == 3:
            raise DataError("sub-04 is cut short")
        numbered(i, out)

    parts = backend.stream(fill, 8, (4,), np.float32, 2)
    next(parts)
    with pytest.raises(DataError, match="sub-04"):
        list(parts)
    early = backend.stream(numbered, 8, (4,), np.float32, 2)
    next(early)
    early.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("gpuroi-read")]


@pytest.mark.kernels
def test_buffers_are_handed_over_by_events(standin_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy waits for the work on its buffer, each part of the work for its copy; copies have their own stream."""
    from gpuroi.backends.cuda import cuda_backend

    log: list[tuple[str, int, int]] = []
    record = Event.record
    monkeypatch.setattr(Stream, "wait_event", lambda self, event: log.append(("waits", self.ptr, id(event))))
    monkeypatch.setattr(
        Event, "record", lambda self, stream=None: (record(self), log.append(("records", stream.ptr, id(self))))[0]
    )
    work = standin_cupy.cuda.Stream()
    with work:
        for _ in cuda_backend(0).stream(numbered, 5, (4,), np.float32, 1):
            log.append(("part", work.ptr, 0))
    mine = [(what, event) for what, ptr, event in log if ptr == work.ptr]
    copies = [(what, event) for what, ptr, event in log if ptr != work.ptr]
    assert [what for what, _ in mine] == ["records"] * 2 + ["waits", "part", "records"] * 5
    assert [what for what, _ in copies] == ["waits", "records"] * 5
    assert len({ptr for _, ptr, _ in log}) == 2
    copied = [event for what, event in copies if what == "records"]
    used = [event for what, event in mine if what == "records"][:5]  # as allocated, then after each part
    assert [event for what, event in mine if what == "waits"] == copied
    assert [event for what, event in copies if what == "waits"] == used
    assert copied[0] == copied[2] != copied[1]
    for turn in range(3):  # the third copy comes after the work on the first part, and so on
        waits, records = (
            [i for i, (what, _, event) in enumerate(log) if (what, event) == (word, used[turn])]
            for word in ("waits", "records")
        )
        assert all(before < after for before, after in zip(records, waits, strict=False))


# ---- files


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five images as int16 with a slope and an intercept each, one of them big-endian."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(5):
        values = rng.normal(10 * i, 1 + i, (7, 6, 5))
        image = nib.Nifti1Image(values, np.eye(4))
        image.set_data_dtype(">i2" if i == 2 else "<i2")
        if i == 2:
            image = nib.Nifti1Image(values, np.eye(4), nib.Nifti1Header(endianness=">"))
            image.set_data_dtype(np.int16)
        paths.append(tmp_path / f"sub-{i}.nii.gz")
        nib.save(image, paths[-1])
    return paths


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_files_are_those_of_nibabel(
    backend: Backend, device_meter: Meter, files: list[Path], dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpuroi.images.load_rows._PART_BYTES", 2 * 210 * 2)  # two images at a time
    inside = np.random.default_rng(1).random((7, 6, 5)) < 0.5
    device_meter.reset()
    rows = load_rows(open_images(files), inside, backend, dtype=dtype)
    travelled = device_meter.h2d_bytes
    want = np.stack([nib.load(path).get_fdata()[inside] for path in files])
    check(rows, want.astype(dtype), backend=backend)
    if backend.name != "cpu":
        assert travelled == 5 * 210 * 2 + 210 * 4 + 5 * 16  # stored voxels, the table of columns, the scaling


def test_images_as_they_are_in_memory_and_of_several_types(backend: Backend) -> None:
    rng = np.random.default_rng(2)
    volumes = [rng.integers(0, 200, (4, 3, 2)).astype(t) for t in ("u1", "i2", "f4")]
    images = [open_image(nib.Nifti1Image(volume, np.eye(4))) for volume in volumes]
    rows = load_rows(images, np.ones((4, 3, 2), bool), backend)
    check(rows, np.stack([v.astype(np.float32).ravel() for v in volumes]), backend=backend)
    assert host(rows).flags.c_contiguous


def test_images_off_the_grid_are_all_named() -> None:
    from gpuroi.backends import get_backend

    shapes = [(2, 2, 2), (3, 2, 2), (2, 2, 2, 4)]
    images = [open_image(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4))) for shape in shapes]
    with pytest.raises(DataError, match=r"2 of 3 images differ.*\(3, 2, 2, 1\).*\(2, 2, 2, 4\)"):
        load_rows(images, np.ones((2, 2, 2), bool), get_backend("cpu"))
    with pytest.raises(DataError, match="no image"):
        load_rows([], np.ones((2, 2, 2), bool), get_backend("cpu"))
