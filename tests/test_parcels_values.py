"""One value for each parcel, however it is given: keyed by id, never by position; and what does not fit is named."""

from __future__ import annotations

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.images import open_image
from gpuroi.parcels import describe_voxels, paint, parcel_values, voxel_inference
from gpuroi.parcels.values import read_id_table

KNOWN = np.array([2, 30, 401])
LABELS = np.array([[[2, 2, 0], [30, 0, 401]], [[2, 0, 0], [30, 30, 401]]])
VALUES = {401: 0.1, 2: -3.5, 30: 2.0}
WANT = [-3.5, 2.0, 0.1]


def image(data: np.ndarray, size: float = 2.0) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(data, np.diag([size, size, size, 1.0]))


@pytest.mark.parametrize(
    "values",
    [
        VALUES,
        {np.int16(k): np.float32(v) for k, v in VALUES.items()},
        {float(k): v for k, v in VALUES.items()},
        {str(k): v for k, v in VALUES.items()},
        pd.Series(VALUES),
        pd.DataFrame({"index": [401, 2, 30], "name": ["c", "a", "b"], "value": [0.1, -3.5, 2.0]}),
        pd.DataFrame({"beta": [0.1, -3.5, 2.0], "ROI": [401, 2, 30]}),
    ],
)
def test_keyed_values_come_in_the_order_of_the_ids(values):
    got = parcel_values(values, KNOWN)
    np.testing.assert_allclose(got, WANT, rtol=1e-7)
    assert got.dtype == np.float64


@given(st.permutations(range(3)))
def test_a_vector_goes_with_its_ids(order):
    order = list(order)
    got = parcel_values(np.array(WANT)[order], KNOWN, ids=KNOWN[order])
    assert got.tolist() == WANT


def test_vectors_of_a_device(backend):
    with backend.activate():
        got = parcel_values(backend.asarray(np.array([2.0, -3.5, 0.1])), KNOWN, ids=backend.asarray(KNOWN[[1, 0, 2]]))
    assert got.tolist() == WANT


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".txt"])
def test_tables(tmp_path, suffix):
    path = tmp_path / f"values{suffix}"
    separator = {".tsv": "\t", ".csv": ",", ".txt": " "}[suffix]
    rows = [("id", "t", "df"), (401, repr(0.1), 17), (2, "-3.5", 17), (30, "2", 17)]
    path.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows))
    assert parcel_values(path, KNOWN).tolist() == WANT
    assert parcel_values(str(path), KNOWN, column="df").tolist() == [17, 17, 17]
    with pytest.raises(DataError, match="no column z, only id, t, df"):
        parcel_values(path, KNOWN, column="z")


def test_numbers_of_tables_are_right_to_the_last_digit(tmp_path):
    numbers = np.random.default_rng(0).normal(size=200) * 10.0 ** np.arange(-100, 100)
    path = tmp_path / "values.tsv"
    path.write_text("id\tvalue\n" + "".join(f"{i + 1}\t{x!r}\n" for i, x in enumerate(numbers.tolist())))
    assert parcel_values(path, np.arange(1, 201)).tolist() == numbers.tolist()


def test_missing_cells_are_missing_values(tmp_path):
    path = tmp_path / "values.tsv"
    path.write_text("id\tvalue\n2\tn/a\n30\t\n401\t4\n")
    assert np.isnan(parcel_values(path, KNOWN)).tolist() == [True, True, False]
    path.write_text("id\tvalue\n2\t1\nn/a\t7\n401\t4\n")
    with pytest.raises(DataError, match="1 rows have no id"):
        parcel_values(path, KNOWN)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("kind", ["array", "image", "file"])
def test_painted_images(backend, monkeypatch, tmp_path, kind, dtype):
    monkeypatch.setattr("gpuroi.parcels.values.get_backend", lambda _device: backend)
    volume = np.zeros(LABELS.shape, dtype)
    for i, value in ((2, -3), (30, 2), (401, 7)):
        volume[i == LABELS] = value
    values = {"array": volume, "image": image(volume), "file": tmp_path / "map.nii.gz"}[kind]
    if kind == "file":
        nibabel.save(image(volume), values)
    like = open_image(image(LABELS.astype(np.int16)))
    assert parcel_values(values, KNOWN, labels=LABELS, like=like).tolist() == [-3, 2, 7]


def test_a_parcel_of_nan_has_no_value():
    volume = np.where(LABELS == 30, np.nan, 1.0)
    assert np.isnan(parcel_values(volume, KNOWN, labels=LABELS)).tolist() == [False, True, False]


def test_every_parcel_with_several_values_is_named(backend, monkeypatch):
    monkeypatch.setattr("gpuroi.parcels.values.get_backend", lambda _device: backend)
    volume = np.where(LABELS == 30, 4.0, 1.0)
    volume[0, 0, 0] += 1e-12
    volume[1, 1, 2] = np.nan
    with pytest.raises(DataError, match=r"more than one value in 2 of 3 parcels: 2, 401\n.*summary"):
        parcel_values(volume, KNOWN, labels=LABELS)


def test_means_over_parcels(backend, monkeypatch):
    monkeypatch.setattr("gpuroi.parcels.values.get_backend", lambda _device: backend)
    volume = np.random.default_rng(0).normal(1000, 1, LABELS.shape)
    got = parcel_values(volume, KNOWN, labels=LABELS, summary="mean")
    np.testing.assert_allclose(got, ndimage.mean(volume, LABELS, KNOWN), rtol=1e-13)


def test_an_image_on_another_grid_is_refused():
    like = open_image(image(LABELS.astype(np.int16)))
    with pytest.raises(GridError, match="voxel size 3 mm"):
        parcel_values(image(np.ones(LABELS.shape), 3.0), KNOWN, labels=LABELS, like=like)
    with pytest.raises(DataError, match=r"shape \(2, 2, 2\), the labels \(2, 2, 3\)"):
        parcel_values(np.ones((2, 2, 2)), KNOWN, labels=LABELS)


@pytest.mark.parametrize(
    ("values", "arguments", "error", "message"),
    [
        ({2: 1, 30: 1, 401: 1, 7: 1, 0: 1}, {}, DataError, "do not exist: 0, 7"),
        ({2: 1}, {}, DataError, "parcels without a value: 30, 401"),
        ({2: 1, 5: 1}, {}, DataError, "do not exist: 5; parcels without a value: 30, 401"),
        ({2: 1, 2.5: 1}, {}, DataError, "hold 2.5: expected whole"),
        ({"a": 1}, {}, DataError, "'a'"),
        ({2: "high", 30: 1, 401: 1}, {}, DataError, "value of parcel 2 is 'high'"),
        (pd.Series([1.0, 2, 3, 4], index=[2, 30, 30, 401]), {}, DataError, "more than once: 30"),
        (np.array([1.0, 2, 3]), {}, UsageError, "3 values does not say whose"),
        (np.array([1.0, 2, 3]), {"ids": [2, 30]}, DataError, "3 values but 2 ids"),
        (np.ones((3, 1)), {"ids": KNOWN}, UsageError, "values have shape"),
        (VALUES, {"ids": KNOWN}, UsageError, "ids of their own"),
        (VALUES, {"summary": "median"}, UsageError, "summary is 'median'"),
        (np.ones((2, 2, 3)), {}, UsageError, "needs the labels"),
        (pd.DataFrame({"a": [1], "b": [2]}), {}, DataError, "no column of ids, only a, b"),
        (pd.DataFrame({"id": [1], "b": [2], "c": [3]}), {}, DataError, "which column holds the values"),
        ("nowhere.tsv", {}, DataError, "nowhere.tsv: no such file"),
    ],
)
def test_what_does_not_fit_is_named(values, arguments, error, message):
    with pytest.raises(error, match=message):
        parcel_values(values, KNOWN, **arguments)


def test_an_empty_table_is_refused(tmp_path):
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(DataError, match=r"empty.tsv: the table is empty"):
        read_id_table(tmp_path / "empty.tsv")
    with pytest.raises(DataError, match=r"map.xls: is no table"):
        read_id_table("map.xls")


@given(st.lists(st.floats(allow_nan=True, width=64), min_size=3, max_size=3))
def test_painting_loses_nothing(values):
    values = np.array(values)
    painted = paint(values, KNOWN, LABELS)
    for i, value in zip(KNOWN, values, strict=True):
        np.testing.assert_array_equal(painted[i == LABELS].astype(np.float64), value)
    assert not painted[LABELS == 0].any()
    np.testing.assert_array_equal(parcel_values(painted, KNOWN, labels=LABELS), values)


# ------------------------------------------------------------------ drill-down


def test_voxels_of_parcels(backend):
    stat = np.random.default_rng(1).normal(size=LABELS.shape)
    stat[1, 0, 0] = np.nan
    affine = np.array([[0, 2.0, 0, 5], [3, 0, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])
    with backend.activate():
        found = describe_voxels(backend.asarray(stat), LABELS, [401, 2], affine, threshold=0.3)
    assert found.table["id"].tolist() == [401, 2]
    for row in found.table.itertuples():
        inside = row.id == LABELS
        values = stat[inside & ~np.isnan(stat)]
        assert (row.voxels, row.mm3) == (inside.sum(), inside.sum() * 24.0)
        np.testing.assert_allclose([row.mean, row.sd], [values.mean(), values.std(ddof=1)])
        assert (row.least, row.largest) == (values.min(), values.max())
        assert (row.above, row.below) == ((values > 0.3).sum(), (values < -0.3).sum())
        peak = max(zip(*np.nonzero(inside), strict=True), key=lambda p: np.nan_to_num(abs(stat[p]), nan=-1))
        assert row.peak_stat == stat[peak]
        assert [row.peak_x, row.peak_y, row.peak_z] == nibabel.affines.apply_affine(affine, peak).tolist()
    voxels = found.voxels
    assert voxels["id"].tolist() == [401] * 2 + [2] * 3
    for one in voxels.itertuples():
        assert LABELS[one.i, one.j, one.k] == one.id
        np.testing.assert_array_equal(stat[one.i, one.j, one.k], one.value)
    assert np.isnan(voxels["value"].iloc[-1])
    with pytest.raises(DataError, match="no voxel has: 3, 500"):
        describe_voxels(stat, LABELS, [2, 500, 3])
    with pytest.raises(DataError, match="one grid"):
        describe_voxels(stat[:1], LABELS, [2])


def test_a_parcel_without_values_is_described_as_such():
    found = describe_voxels(np.where(LABELS == 2, np.nan, 1.0), LABELS, [2])
    assert found.table["voxels"].tolist() == [3]
    assert found.table[["mean", "sd", "peak_stat", "peak_x"]].isna().all(axis=None)


def test_inference_inside_parcels_is_corrected_over_their_voxels():
    rng = np.random.default_rng(2)
    labels = np.zeros((6, 6, 6), int)
    labels[:3], labels[3:] = 4, 9
    volumes = rng.normal(size=(20, 6, 6, 6))
    volumes[:, 4, 2:4, 2:4] += 2
    grid, result = voxel_inference(volumes, labels, [9], np.ones((20, 1)), [1], errors="ise", n_permutations=200)
    assert grid.n_elements == (labels == 9).sum() == len(result.p_fwe)
    found = grid.to_volume(result.p_fwe < 0.05)
    assert found[4, 2:4, 2:4].all()
    assert not found[:3].any()
    with pytest.raises(DataError, match="no voxel has: 5"):
        voxel_inference(volumes, labels, [5], np.ones((20, 1)), [1])
