"""Data and residuals on disk: the same results to the last bit, and nothing left behind."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, OutputError, UsageError
from gpuroi.inference import permutation_test
from gpuroi.inference.columns import ColumnSource, StoredColumns
from gpuroi.inference.memory import permutation_peak_bytes
from gpuroi.inference.projection import block_of


class Table:
    """A store that gives columns of an array, and counts."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.n_read = values, values.shape, values.dtype, 0

    def columns(self, start, stop):
        self.n_read += stop - start
        return self.values[:, start:stop].copy()


def cohort(n=14, v=5000, dtype=np.float32):
    rng = np.random.default_rng(4)
    x = np.column_stack([np.ones(n), np.arange(n) % 2, rng.standard_normal(n)])
    y = rng.standard_normal((n, v)) * 10
    y[:, :40] += 20 * x[:, 1:2]
    return x, y.astype(dtype)


@pytest.mark.parametrize("method", ["freedman-lane", "draper-stoneman", "ter-braak"])
@pytest.mark.parametrize("constant", [False, True])
def test_results_are_those_of_data_in_memory(tmp_path, method, constant):
    x, y = cohort()
    if constant:
        y[:, [7, 100, 4999]] = 3
    grid = VoxelGrid(np.ones((10, 20, 25), bool))
    options = {"domain": grid, "n_permutations": 150, "cluster_threshold": 2.5, "tfce": True, "method": method}
    want = permutation_test(y, x, [0, 1, 0], device="cpu", **options)
    source = Table(y)
    assert isinstance(source, ColumnSource)
    for data in (y, source):
        got = permutation_test(data, x, [0, 1, 0], device="cpu", scratch=tmp_path, **options)
        for name in ("statistic", "effect", "p", "p_fwe", "p_fdr", "tfce", "tfce_p_fwe", "cluster_labels"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
        for name, values in want.null.items():
            np.testing.assert_array_equal(got.null[name], values)
        assert got.cluster_table.equals(want.cluster_table)
        assert got.n_left_out == 3 * constant
    assert list(tmp_path.iterdir()) == []
    assert source.n_read == y.shape[1] * (2 if method == "ter-braak" else 1)  # the data are read once


def test_results_on_a_device_are_close(backend, tmp_path, monkeypatch):
    monkeypatch.setattr("gpuroi.inference.placing.get_backend", lambda device: backend)
    x, y = cohort(v=300)
    options = {"n_permutations": 70}
    want = permutation_test(backend.asarray(y), x, [0, 1, 0], **options)
    got = permutation_test(Table(y), x, [0, 1, 0], device=backend.name, scratch=tmp_path, **options)
    np.testing.assert_allclose(got.statistic, want.statistic, rtol=1e-5)
    np.testing.assert_allclose(got.null["max_stat"], want.null["max_stat"], rtol=1e-5)
    np.testing.assert_array_equal(got.p, want.p)


@pytest.mark.parametrize("dtype", [np.int16, np.float16, np.float64, ">f4"])
def test_values_as_stored_become_floats(tmp_path, dtype):
    x, y = cohort(v=200, dtype=dtype)
    want = permutation_test(np.asarray(y, y.dtype.newbyteorder("=")), x, [0, 1, 0], n_permutations=80, device="cpu")
    got = permutation_test(Table(y), x, [0, 1, 0], n_permutations=80, device="cpu", scratch=tmp_path)
    assert got.statistic.dtype == want.statistic.dtype == (np.float64 if dtype is np.float64 else np.float32)
    np.testing.assert_array_equal(got.null["max_stat"], want.null["max_stat"])


def test_a_group_of_flips_and_a_resumed_run(tmp_path):
    x, y = cohort(v=3000)
    options = {"errors": "ise", "flips": "group", "n_permutations": 512, "device": "cpu"}
    states = []
    want = permutation_test(y, x, [1, 0, 0], **options)
    permutation_test(y, x, [1, 0, 0], scratch=tmp_path, checkpoint=states.append, **options)
    got = permutation_test(Table(y), x, [1, 0, 0], scratch=tmp_path, resume=states[0], **options)
    np.testing.assert_array_equal(got.null["max_stat"], want.null["max_stat"])
    np.testing.assert_array_equal(got.p, want.p)


def test_memory_holds_a_few_blocks_and_maps(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUROI_NUM_THREADS", "2")
    x, y = cohort(n=300, v=40_000)
    source = Table(y)
    permutation_test(source, x, [0, 1, 0], n_permutations=64, device="cpu", scratch=tmp_path)
    tracemalloc.start()
    permutation_test(source, x, [0, 1, 0], n_permutations=64, device="cpu", scratch=tmp_path)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    said = permutation_peak_bytes(300, 40_000, threads=2, stored=True, source_itemsize=4)
    in_memory = permutation_peak_bytes(300, 40_000, threads=2)
    assert taken < said < 2 * taken  # two threads are seldom both at their peak
    assert in_memory - said > 0.5 * y.nbytes


@pytest.mark.parametrize("n", [1, 20, 4096, 10_000, 40_000, 10**8])
def test_blocks_bound_memory_and_depend_on_the_subjects_alone(n):
    block = block_of(n)
    assert 64 <= block <= 2048
    assert block == 64 or block * n <= 1 << 23


@given(data=st.data(), n=st.integers(1, 5), v=st.integers(1, 23), block=st.integers(1, 9))
def test_stored_columns_are_an_array(tmp_path_factory, data, n, v, block):
    folder = tmp_path_factory.mktemp("columns")
    stored = StoredColumns(folder / "e", (n, v), np.float32, block=block)
    want = np.zeros((n, v), np.float32)
    for turn in range(3):
        start = data.draw(st.integers(0, v))
        stop = data.draw(st.integers(start, v))
        want[:, start:stop] = turn + np.arange(n * (stop - start)).reshape(n, -1)
        stored.write(start, want[:, start:stop])
    start = data.draw(st.integers(0, v))
    stop = data.draw(st.integers(start, v))
    np.testing.assert_array_equal(stored[:, start:stop], want[:, start:stop])
    where = np.array(sorted(data.draw(st.sets(st.integers(0, v - 1), min_size=1))))
    taken = stored.take(folder / "some", where)
    np.testing.assert_array_equal(taken[:, :], want[:, where])
    stored.remove()
    taken.remove()
    assert list(folder.iterdir()) == []


def test_what_cannot_be_is_refused(tmp_path, monkeypatch):
    x, y = cohort(v=200)
    with pytest.raises(UsageError, match="variance groups or early_stop"):
        permutation_test(y, x, [0, 1, 0], scratch=tmp_path, early_stop=10)
    with pytest.raises(OutputError, match="nowhere"):
        permutation_test(y, x, [0, 1, 0], scratch=tmp_path / "nowhere")
    with pytest.raises(DataError, match="none of the 200 elements"):
        permutation_test(Table(np.ones_like(y)), x, [0, 1, 0], scratch=tmp_path)

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match="No space left"):
        permutation_test(y, x, [0, 1, 0], scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []
    stored = StoredColumns(tmp_path / "e", (2, 3), np.float32, block=2)
    with pytest.raises(UsageError, match="already"):
        StoredColumns(tmp_path / "e", (2, 3), np.float32, block=2)
    with pytest.raises(UsageError, match="2 to 4 of 3"):
        stored.columns(2, 4)
    with pytest.raises(UsageError, match="all rows"):
        stored[:1, :]
    os.truncate(stored.path, 4)
    with pytest.raises(DataError, match="ends at"):
        stored.columns(0, 3)
