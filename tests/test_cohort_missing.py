"""Missing values of maps: the three rules against a voxel-by-voxel loop, and real maps with holes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuroi.cohort.maps import read_maps
from gpuroi.cohort.missing import MissingData, apply_missing
from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, UsageError
from gpuroi.inference import glm


class Columns:
    """A matrix that only gives columns."""

    def __init__(self, data):
        self.data, self.shape, self.dtype = data, data.shape, data.dtype

    def columns(self, start, stop):
        return self.data[:, start:stop].copy()


def by_hand(data, rule, min_coverage, zero_is_missing):
    """Element by element: kept columns, counts, and how many values were filled."""
    n = len(data)
    columns, counts, kept, filled = [], [], [], 0
    for j, column in enumerate(data.T):
        there = [np.isfinite(x) and not (zero_is_missing and x == 0) for x in column]
        if sum(there) == 0 or sum(there) / n < min_coverage - 1e-12 or (rule == "drop-voxel" and not all(there)):
            continue
        mean = np.mean([float(x) for x, t in zip(column, there, strict=True) if t])
        gap = mean if rule == "mean" else np.nan
        columns.append([x if t else gap for x, t in zip(column, there, strict=True)])
        counts.append(sum(there))
        kept.append(j)
        filled += (n - sum(there)) * (rule == "mean")
    return np.array(columns).T, counts, kept, filled


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 12),
    v=st.integers(1, 40),
    rule=st.sampled_from(["drop-voxel", "mean", "pattern"]),
    min_coverage=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    zero_is_missing=st.booleans(),
    dtype=st.sampled_from(["float32", "float64", "int16"]),
)
def test_rules(seed, n, v, rule, min_coverage, zero_is_missing, dtype):
    rng = np.random.default_rng(seed)
    data = rng.integers(-2, 3, (n, v)).astype(dtype)
    if data.dtype.kind == "f":
        data[rng.random((n, v)) < 0.1] = np.nan
        data[rng.random((n, v)) < 0.03] = np.inf
    how = MissingData(rule, min_coverage, zero_is_missing)
    want, counts, kept, filled = by_hand(data, rule, min_coverage, zero_is_missing)
    if not kept:
        with pytest.raises(DataError, match="no voxel of the mask is left"):
            apply_missing(data.copy(), how)
        return
    source, from_source = apply_missing(Columns(data), how)
    got, coverage = apply_missing(data.copy(), how)
    for result, said in ((got, coverage), (source.columns(0, len(kept)), from_source)):
        np.testing.assert_allclose(result, want, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(np.flatnonzero(said.keep), kept)
        np.testing.assert_array_equal(said.n_per_element, counts)
        assert said.n_filled == filled
        assert said.n_kept == len(kept)
        assert said.n_low + said.n_kept + (said.n_holes if rule == "drop-voxel" else 0) == v
        present = np.isfinite(data.astype(float)) & ((data != 0) | (not zero_is_missing))
        np.testing.assert_array_equal(said.missing_per_map, (~present).sum(axis=1))
    assert source.dtype == got.dtype


def test_a_source_gives_any_block(monkeypatch):
    monkeypatch.setattr("gpuroi.cohort.missing._COLUMNS_AT_ONCE", 5)
    data = np.random.default_rng(0).standard_normal((6, 60)).astype(np.float32)
    data[0, 10:30] = np.nan
    source, coverage = apply_missing(Columns(data), MissingData())
    want = np.delete(data, range(10, 30), axis=1)
    assert coverage.n_low == 20
    for start, stop in [(0, 40), (7, 12), (9, 9), (39, 40), (3, 33)]:
        np.testing.assert_array_equal(source.columns(start, stop), want[:, start:stop])


def test_what_happened_is_said():
    data = np.ones((10, 5), np.float32)
    data[0, 0] = np.nan
    data[:5, 1] = np.nan
    data[0, 2] = np.inf
    for rule, said in {
        "drop-voxel": "5 of 10 maps lack voxels of the mask; 1 voxels are left out: fewer than 90% of the maps have "
        "them; 2 voxels are left out: not all maps have them; 2 of 5 voxels stay",
        "mean": "5 of 10 maps lack voxels of the mask; 1 voxels are left out: fewer than 90% of the maps have them; "
        "2 voxels have holes, 2 values in all, which hold the mean of the other maps; 4 of 5 voxels stay",
        "pattern": "5 of 10 maps lack voxels of the mask; 1 voxels are left out: fewer than 90% of the maps have them; "
        "2 voxels keep their holes: each is computed with the maps that have it; 4 of 5 voxels stay",
    }.items():
        assert apply_missing(data.copy(), MissingData(rule))[1].text == said
    whole = apply_missing(np.ones((2, 3)), MissingData())[1]
    assert whole.text == "all 2 maps have all 3 voxels of the mask"


def test_a_share_that_is_met_exactly_is_enough():
    data = np.ones((30, 1))
    data[:3] = np.nan  # 27 of 30 have it: 0.9 x 30 is a little more than 27 in floats
    assert apply_missing(data, MissingData("pattern", 0.9))[1].n_kept == 1


def test_arguments():
    with pytest.raises(UsageError, match='"zero"'):
        MissingData("zero")
    with pytest.raises(UsageError, match=r"min_coverage is 1\.5"):
        MissingData(min_coverage=1.5)


def wager(open_data):
    files = sorted((open_data / "wager2008_emoreg").glob("con_*.hdr"))
    raw = np.array([np.asarray(nibabel.load(file).dataobj)[..., 0] for file in files])
    people = SimpleNamespace(ids=[file.stem for file in files], maps=[Path(file) for file in files])
    return people, raw, nibabel.load(files[0])


def test_voxels_of_wager2008(open_data):
    """30 big-endian SPM pairs, each with NaNs of its own: 75 919 voxels are finite and not zero in all."""
    people, raw, first = wager(open_data)
    grid = VoxelGrid(np.ones(first.shape[:3]), first.affine)
    maps = read_maps(people, grid, zero_is_missing=True)
    present = np.isfinite(raw) & (raw != 0)
    assert maps.shape == (30, 75_919)
    assert maps.data.dtype == np.float32
    assert maps.data.dtype.isnative
    np.testing.assert_array_equal(maps.mask.mask, present.all(axis=0))
    np.testing.assert_array_equal(maps.data, raw[:, present.all(axis=0)])


def test_rules_on_wager2008(open_data):
    people, raw, first = wager(open_data)
    grid = VoxelGrid(np.ones(first.shape[:3]), first.affine)
    n_there = (np.isfinite(raw) & (raw != 0)).sum(axis=0)
    pattern = read_maps(people, grid, zero_is_missing=True, missing_data="pattern")
    np.testing.assert_array_equal(pattern.mask.mask, n_there >= 27)
    np.testing.assert_array_equal(pattern.n_per_element, n_there[n_there >= 27])
    np.testing.assert_array_equal(np.isfinite(pattern.data).sum(axis=0), n_there[n_there >= 27])
    design = np.ones((30, 1))
    some = np.flatnonzero(pattern.n_per_element < 30)[:50]
    t = glm(pattern.data[:, some], design, np.array([1.0]), missing="pattern").statistic
    for j, got in zip(some, np.ravel(t), strict=True):
        x = pattern.data[:, j].astype(float)
        x = x[np.isfinite(x)]
        assert got == pytest.approx(x.mean() / (x.std(ddof=1) / np.sqrt(len(x))), rel=1e-4)
    filled = read_maps(people, grid, zero_is_missing=True, missing_data="mean")
    holes = np.isnan(pattern.data)
    assert filled.coverage.n_filled == holes.sum() > 0
    np.testing.assert_allclose(
        filled.data, np.where(holes, np.nanmean(pattern.data.astype(float), axis=0), pattern.data), rtol=1e-6
    )
