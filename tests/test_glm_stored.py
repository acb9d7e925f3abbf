"""The linear model of data that lie on disk: the same bits as in memory, and memory for a few blocks."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest

from gpuroi.backends.threads import limited_threads
from gpuroi.domains import VoxelGrid
from gpuroi.errors import BackendError, DataError, UsageError
from gpuroi.inference import glm
from gpuroi.inference.columns import ColumnSource, StoredColumns
from gpuroi.inference.projection import block_of

CONTRASTS = {"t": [0, 1, 0], "F": [[0, 1, 0], [0, 0, 1]]}


class Table:
    """A store that gives columns of an array, counts them, and breaks on request."""

    def __init__(self, values, broken_at=None):
        self.values, self.shape, self.dtype, self.broken_at = values, values.shape, values.dtype, broken_at
        self.reads = []

    def columns(self, start, stop):
        self.reads.append((start, stop))
        if self.broken_at is not None and start <= self.broken_at < stop:
            raise DataError("maps.zarr: chunk 3: its checksum does not match")
        return self.values[:, start:stop].copy()


def cohort(n=40, v=5000, dtype=np.float32, seed=4):
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), np.arange(n) % 2, rng.standard_normal(n)])
    y = rng.standard_normal((n, v)) * 10 + 300
    y[:, :15] += 20 * x[:, 1:2]
    y[:, 17] = 5
    return x, y.astype(dtype)


def same_bits(got, want):
    """All fields of two results, or of two dicts of results, are equal."""
    if isinstance(want, dict):
        assert list(got) == list(want)
        for name in want:
            same_bits(got[name], want[name])
        return
    for field in dataclasses.fields(want):
        a, b = getattr(got, field.name), getattr(want, field.name)
        for one, other in zip(a, b, strict=True) if isinstance(b, tuple) else [(a, b)]:
            assert type(one) is type(other), field.name
            if isinstance(other, np.ndarray):
                assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other, err_msg=field.name)


def with_holes(y, share=0.02, seed=1):
    holes = np.random.default_rng(seed).random(y.shape) < share
    holes[:, : y.shape[1] // 2] = holes[:, :1]  # half of the elements miss the same observations
    return np.where(holes, np.nan, y).astype(y.dtype)


OPTIONS = {
    "plain": {},
    "one-sided": {"alternative": "greater"},
    "variance groups": {"variance_groups": np.arange(40) % 2},
    "patterns": {"missing": "pattern"},
    "patterns and variance groups": {"missing": "pattern", "variance_groups": np.arange(40) % 2},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_bits_are_those_of_data_in_memory(name, threads):
    x, y = cohort()
    y = with_holes(y) if "patterns" in name else y
    want = glm(y, x, CONTRASTS, **OPTIONS[name])
    source = Table(y)
    assert isinstance(source, ColumnSource)
    with limited_threads(threads):
        got = glm(source, x, CONTRASTS, device="cpu", **OPTIONS[name])
        again = glm(y, x, CONTRASTS, **OPTIONS[name])
    same_bits(got, want)
    same_bits(again, want)
    block = block_of(len(x))
    assert sorted(source.reads) == [(s, min(s + block, 5000)) for s in range(0, 5000, block)]  # once, in fixed blocks
    assert want["t"].n_constant == 1


@pytest.mark.parametrize("missing", ["raise", "pattern"])
def test_element_wise_regressors_may_be_stored_too(missing):
    x, y = cohort(v=3000)
    own = np.random.default_rng(2).standard_normal((2, *y.shape)).astype(np.float32)
    if missing == "pattern":
        own[0] = with_holes(own[0])
    contrasts = {"t": [0, 1, 0, 0, 0], "own": [0, 0, 0, 1, 0], "F": np.eye(5)[[1, 4]]}
    want = glm(y, x, contrasts, elementwise=list(own), missing=missing)
    for data, regressors in ((Table(y), list(own)), (Table(y), [Table(own[0]), own[1]]), (y, [own[0], Table(own[1])])):
        same_bits(glm(data, x, contrasts, elementwise=regressors, missing=missing, device="cpu"), want)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float16, np.float64, ">f4", "<i4"])
def test_values_as_stored_become_floats(dtype):
    x, y = cohort(v=300)
    y = np.clip(y - 250, 0, 255).astype(dtype)
    floats = np.float64 if np.dtype(dtype) in (np.float64, np.int32) else np.float32
    got = glm(Table(y), x, [0, 1, 0], device="cpu")
    assert got.statistic.dtype == floats
    same_bits(got, glm(y.astype(floats), x, [0, 1, 0]))


def test_a_file_of_columns_and_a_packed_store(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    pytest.importorskip("zarr")
    from types import SimpleNamespace

    from gpuroi.cohort import pack_maps

    x, y = cohort(n=150, v=900)
    stored = StoredColumns(tmp_path / "maps", y.shape, y.dtype, block=100)
    stored.write(0, y)
    want = glm(y, x, CONTRASTS)
    same_bits(glm(stored, x, CONTRASTS, device="cpu"), want)
    grid = VoxelGrid(np.ones((10, 9, 10), bool), np.eye(4))
    paths = [tmp_path / f"sub-{i}.nii" for i in range(len(y))]
    for path, row in zip(paths, y, strict=True):
        nibabel.save(nibabel.Nifti1Image(row.reshape(10, 9, 10), np.eye(4)), path)
    people = SimpleNamespace(ids=[path.stem for path in paths], maps=paths)
    store = pack_maps(people, grid, tmp_path / "cohort.zarr")
    same_bits(glm(store, x, CONTRASTS, device="cpu"), want)


def test_results_on_a_device_are_close_and_come_to_the_host(device):
    x, y = cohort(v=300)
    y = with_holes(y)
    want = glm(y, x, CONTRASTS, missing="pattern")
    got = glm(Table(y), x, CONTRASTS, missing="pattern", device=device)
    for name in CONTRASTS:
        assert isinstance(got[name].p, np.ndarray)
        assert got[name].n_constant == want[name].n_constant
        np.testing.assert_allclose(got[name].statistic, want[name].statistic, rtol=1e-5)
        np.testing.assert_allclose(got[name].log10p, want[name].log10p, rtol=1e-6)


@pytest.mark.kernels
def test_a_device_that_runs_out_of_memory_takes_smaller_parts(standin_cuda, device_meter):
    x, y = cohort(v=3000)
    want = glm(Table(y), x, CONTRASTS, device="cuda")
    device_meter.reset(limit_bytes=2_500_000)
    got = glm(Table(y), x, CONTRASTS, device="cuda")
    device_meter.reset()
    for name in CONTRASTS:
        np.testing.assert_allclose(got[name].statistic, want[name].statistic, rtol=1e-6)


@pytest.mark.kernels
def test_arrays_of_a_device_do_not_mix_with_a_source(standin_cupy):
    x, y = cohort(v=20)
    with pytest.raises(BackendError, match="mixed"):
        glm(Table(y), x, [0, 1, 0, 0], elementwise=standin_cupy.asarray(y))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refusals_tell_of_all_elements_as_in_memory(bad):
    x, y = cohort(v=5000)
    y[3, [5, 2500, 4999]] = bad
    y[7, 4999] = bad
    said = []
    for data in (y, Table(y)):
        with pytest.raises(DataError) as caught:
            glm(data, x, [0, 1, 0], device="cpu")
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "data hold 4 values that are NaN or infinite, in 3 of 5000 elements" in said[0]
    with pytest.raises(DataError, match="element-wise regressor 2 holds 4 values"):
        glm(Table(np.nan_to_num(y)), x, [0, 1, 0], elementwise=[Table(x @ np.ones((3, 5000))), Table(y)], device="cpu")


def test_infinite_values_are_no_missing_ones():
    x, y = cohort(v=5000)
    y[3, 4999] = np.inf
    for data in (y, Table(y)):
        with pytest.raises(DataError, match="data hold infinite values"):
            glm(data, x, [0, 1, 0], missing="pattern", device="cpu")


def test_a_store_that_breaks_in_the_middle_raises_its_own_error():
    x, y = cohort(v=9000)
    with pytest.raises(DataError, match="checksum does not match"):
        glm(Table(y, broken_at=6000), x, [0, 1, 0], device="cpu")


def test_what_cannot_be_is_refused():
    x, y = cohort(v=30)
    with pytest.raises(DataError, match="39 rows but data have 40"):
        glm(Table(y), x[1:], [0, 1, 0])
    with pytest.raises(DataError, match=r"regressor 1 has shape \(40, 30\)"):
        glm(Table(y[:, :20]), x, [0, 1, 0], elementwise=Table(y))
    with pytest.raises(DataError, match="complex64"):
        glm(Table(y.astype(np.complex64)), x, [0, 1, 0])
    with pytest.raises(UsageError, match="unknown device"):
        glm(Table(y), x, [0, 1, 0], device="tpu")


def test_memory_holds_two_blocks_a_thread_and_the_results():
    n, v = 2000, 20_000
    x, y = cohort(n=n, v=v)
    source = Table(y)

    def peak():
        tracemalloc.start()
        glm(source, x, [0, 1, 0], device="cpu")
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return taken

    with limited_threads(2):
        glm(Table(y[:, :64]), x, [0, 1, 0], device="cpu")  # imports
        taken = peak()
    results = 15 * 8 * v
    blocks = 2 * 2 * 4 * n * block_of(n) + 2 * (4 << 20)  # two threads, two blocks each, and what they compute with
    assert taken < results + blocks
    assert taken < 0.5 * y.nbytes
