"""Regions against scipy.ndimage."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine

from gpuroi.errors import UsageError
from gpuroi.images import drop_small_regions, region_table, voxel_volume_mm3

OBLIQUE = np.array([[1.9, 0.3, -0.1, -80.0], [-0.2, 2.1, 0.4, 17.0], [0.3, -0.5, 3.2, -5.0], [0, 0, 0, 1.0]])
COLUMNS = ["id", "voxels", "mm3", "peak_x", "peak_y", "peak_z", "peak_stat", "center_x", "center_y", "center_z"]


def blobs(seed, shape=(12, 9, 14), density=0.25):
    mask = np.random.default_rng(seed).random(shape) < density
    labels, n = ndi.label(mask)
    return labels.astype(np.int32), n


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("seed", range(4))
def test_table_against_scipy(seed, order):
    labels, n = blobs(seed)
    rng = np.random.default_rng(100 + seed)
    stat = np.round(rng.standard_normal(labels.shape) * 2, 1).astype(np.float32)  # rounded: many ties
    labels, stat = np.asarray(labels, order=order), np.asarray(stat, order=order)
    table = region_table(labels, stat, OBLIQUE)
    ids = np.arange(1, n + 1)
    assert list(table) == COLUMNS
    assert table["id"].tolist() == ids.tolist()
    np.testing.assert_array_equal(table["voxels"], ndi.sum_labels(np.ones(labels.shape), labels, ids))
    np.testing.assert_allclose(table["mm3"], table["voxels"] * abs(np.linalg.det(OBLIQUE[:3, :3])))
    centers = apply_affine(OBLIQUE, ndi.center_of_mass(np.ones(labels.shape), labels, ids))
    np.testing.assert_allclose(table[["center_x", "center_y", "center_z"]], centers, atol=1e-9)
    peaks = ndi.maximum_position(np.abs(np.ascontiguousarray(stat)), np.ascontiguousarray(labels), ids)
    largest = ndi.maximum(np.abs(stat), labels, ids)
    np.testing.assert_array_equal(np.abs(table["peak_stat"]), largest.astype(np.float32))
    for row, i in enumerate(ids):  # the first of the tied voxels in C order
        first = np.argwhere((labels == i) & (np.abs(stat) == np.float32(largest[row])))[0]
        np.testing.assert_allclose(
            table.loc[row, ["peak_x", "peak_y", "peak_z"]].astype(float), apply_affine(OBLIQUE, first)
        )
        assert table.loc[row, "peak_stat"] == stat[tuple(first)]
        assert np.abs(stat[tuple(peaks[row])]) == np.abs(stat[tuple(first)])


def test_sparse_ids_stay():
    labels = np.zeros((3, 3, 3), np.int32)
    labels[0, 0, 0], labels[2, 2, 2] = 7, 2_000_000_000
    table = region_table(labels, np.ones((3, 3, 3)), np.eye(4))
    assert table["id"].tolist() == [7, 2_000_000_000]


def test_nan_is_never_a_peak():
    labels = np.ones((2, 2, 2), np.int32)
    labels[1] = 2
    stat = np.full((2, 2, 2), np.nan)
    stat[0, 1, 1] = -0.5
    table = region_table(labels, stat, np.diag([2, 2, 2, 1]))
    assert table["peak_stat"].tolist()[0] == -0.5
    assert table.loc[0, ["peak_x", "peak_y", "peak_z"]].tolist() == [0, 2, 2]
    assert table.loc[1, ["peak_x", "peak_y", "peak_z", "peak_stat"]].isna().all()
    assert table.loc[1, ["center_x", "center_y", "center_z"]].tolist() == [2, 1, 1]


def test_infinity_is_a_peak():
    stat = np.array([[[1.0, -np.inf, 3.0]]])
    assert region_table(np.ones((1, 1, 3), int), stat, np.eye(4))["peak_stat"].tolist() == [-np.inf]


def test_no_regions_give_the_same_columns_and_types():
    empty = region_table(np.zeros((2, 3, 4), np.int32), np.zeros((2, 3, 4), np.float32), np.eye(4))
    full = region_table(np.ones((2, 3, 4), np.int32), np.zeros((2, 3, 4), np.float32), np.eye(4))
    assert len(empty) == 0
    pd.testing.assert_series_equal(empty.dtypes, full.dtypes)


def test_shapes_must_agree():
    with pytest.raises(UsageError, match=r"\(2, 2, 2\).*\(2, 2, 3\)"):
        region_table(np.ones((2, 2, 2), int), np.ones((2, 2, 3)), np.eye(4))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.floats(0, 200), st.sampled_from(["C", "F"]))
def test_small_regions_against_a_loop(seed, size, order):
    labels, n = blobs(seed, (6, 7, 5), 0.3)
    got, m = drop_small_regions(np.asarray(labels, order=order), n, min_size_mm3=size, affine=OBLIQUE)
    want, next_id = np.zeros_like(labels), 0
    for i in range(1, n + 1):
        inside = labels == i
        if inside.sum() * abs(np.linalg.det(OBLIQUE[:3, :3])) >= size * (1 - 1e-9):
            next_id += 1
            want[inside] = next_id
    assert m == next_id
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, want)


def test_exactly_the_limit_stays():
    labels = np.ones((3, 3, 3), np.int32)
    affine = np.diag([0.1, 0.1, 0.1, 1])
    for size in (27 * 0.1**3, 0.027):
        assert drop_small_regions(labels, 1, min_size_mm3=size, affine=affine)[1] == 1
    assert drop_small_regions(labels, 1, min_size_mm3=0.0271, affine=affine)[1] == 0
    three = np.array([[[1, 1, 1, 0]]], np.int32)  # 3 * 0.3 is 0.8999999999999999
    assert drop_small_regions(three, 1, min_size_mm3=0.9, affine=np.diag([0.3, 1, 1, 1]))[1] == 1


def test_ids_without_voxels_are_dropped_and_none_is_fine():
    labels = np.array([[[0, 3, 3]]], np.int32)
    got, m = drop_small_regions(labels, 3, min_size_mm3=0, affine=np.eye(4))
    assert (got.tolist(), m) == ([[[0, 1, 1]]], 1)
    got, m = drop_small_regions(np.zeros((2, 2, 2), np.int32), 0, min_size_mm3=5, affine=np.eye(4))
    assert (got.any(), m) == (False, 0)


@pytest.mark.parametrize(
    ("labels", "n", "size"), [([-1, 1], 1, 0), ([0, 5], 4, 0), ([0, 1], 1, -1), ([0, 1], 1, np.nan)]
)
def test_wrong_arguments_are_refused(labels, n, size):
    with pytest.raises(UsageError, match="expected 0"):
        drop_small_regions(np.array([[labels]], np.int32), n, min_size_mm3=size, affine=np.eye(4))


def test_volume_of_a_voxel_is_the_determinant():
    assert voxel_volume_mm3(OBLIQUE) == pytest.approx(abs(np.linalg.det(OBLIQUE[:3, :3])), rel=1e-13)
    assert voxel_volume_mm3(np.diag([0.001, 0.001, 0.003, 1])) == pytest.approx(3e-9, rel=1e-13)
