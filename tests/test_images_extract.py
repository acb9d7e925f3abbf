"""`gpuroi.images.extract` against scipy.ndimage, value for value: names, empty labels, wide labels, missing values."""

from __future__ import annotations

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.maskers import NiftiLabelsMasker
from scipy import ndimage

from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.images import extract
from gpuroi.images.extract_signals import STATISTICS

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])
SHAPE = (9, 8, 7)
SCIPY = {
    "mean": ndimage.mean,
    "median": ndimage.median,
    "sum": ndimage.sum_labels,
    "std": ndimage.standard_deviation,
    "min": ndimage.minimum,
    "max": ndimage.maximum,
}


@pytest.fixture
def on(backend, monkeypatch):
    """The name of each backend's device in turn; the stand-in has no driver for a probe to find."""
    monkeypatch.setattr("gpuroi.images.extract_signals.get_backend", lambda _device: backend)
    return backend.device


def image(values: np.ndarray, affine: np.ndarray = AFFINE) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(values, affine, dtype=values.dtype)


def atlas(seed: int = 0, ids: tuple[int, ...] = (1, 2, 3, 7), dtype: str = "int32") -> np.ndarray:
    return np.random.default_rng(seed).choice([0, *ids], size=SHAPE).astype(dtype)


def values(seed: int = 0, n: int | None = None) -> np.ndarray:
    shape = SHAPE if n is None else (*SHAPE, n)
    return (np.random.default_rng(seed).normal(size=shape) * 50 + 1000).astype(np.float32)


def test_every_statistic_against_scipy(on):
    labels, data = atlas(), values(n=5)
    table = extract(image(data), image(labels), statistics=STATISTICS, device=on)
    assert table["volume"].tolist() == [0, 1, 2, 3, 4]
    for statistic, function in SCIPY.items():
        for k in (1, 2, 3, 7):
            want = [function(data[..., i].astype(float), labels, k) for i in range(5)]
            np.testing.assert_allclose(table[f"label {k} {statistic}"], want, rtol=1e-10)
    assert table.shape == (5, 2 + 4 * 6)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", ">i2"])
def test_labels_of_any_width_as_nilearn(on, dtype):
    ids = (1, 5, 129, 200) if dtype == "uint8" else (1, 129, 400, 2020)
    labels, data = atlas(1, ids), values(1, 3)
    stored = image(labels.astype(dtype)) if dtype != "int64" else nibabel.Nifti1Image(labels, AFFINE, dtype=np.int64)
    got = extract(image(data), stored, device=on).iloc[:, 2:].to_numpy()
    want = NiftiLabelsMasker(image(labels), resampling_target=None, standardize=None).fit_transform(image(data))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_labels_beyond_int16_and_the_table_of_the_look_up(on):
    labels = atlas(2, (3, 40_000, 2_000_000_000))
    table = extract(image(values(2)), image(labels), device=on)
    assert table.columns.tolist()[2:] == ["label 3", "label 40000", "label 2000000000"]
    for k in (3, 40_000, 2_000_000_000):
        assert table.loc[0, f"label {k}"] == pytest.approx(ndimage.mean(values(2).astype(float), labels, k))


def test_one_column_for_each_label_of_the_look_up_table():
    labels = atlas(3, (1, 7))
    names = pd.DataFrame({"index": [0, 9, 7, 1], "name": ["Background", "Insula", "Putamen", "Insula"]})
    table = extract(image(values(3)), image(labels), names=names, device="cpu")
    assert table.columns.tolist() == ["image", "volume", "Insula (9)", "Putamen", "Insula (1)"]
    assert table["Insula (9)"].isna().all()  # no voxel, its column all the same
    assert table.loc[0, "Putamen"] == pytest.approx(ndimage.mean(values(3).astype(float), labels, 7))
    assert [r["voxels"] for r in table.attrs["regions"]] == [0, int((labels == 7).sum()), int((labels == 1).sum())]


def test_the_look_up_table_beside_the_atlas_is_read(tmp_path):
    nibabel.save(image(atlas(ids=(4, 5))), tmp_path / "my_dseg.nii.gz")
    (tmp_path / "my_dseg.tsv").write_text("index\tname\n4\tLeft\n5\tRight\n")
    nibabel.save(image(values()), tmp_path / "con.nii.gz")
    table = extract([tmp_path / "con.nii.gz"], tmp_path / "my_dseg.nii.gz", device="cpu")
    assert table.columns.tolist() == ["image", "volume", "Left", "Right"]
    assert table.loc[0, "image"] == str(tmp_path / "con.nii.gz")


def test_a_label_lost_by_the_mask_is_missing_not_gone(on):
    labels, mask = atlas(4), np.ones(SHAPE, np.uint8)
    mask[labels == 3] = 0
    mask[0] = 0
    table = extract(image(values(4)), image(labels), mask=image(mask), statistics=["mean", "median"], device=on)
    assert table["label 3 mean"].isna().all()
    assert table["label 3 median"].isna().all()
    for k in (1, 2, 7):
        inside = (labels == k) & (mask > 0)
        assert table.loc[0, f"label {k} mean"] == pytest.approx(values(4)[inside].astype(float).mean())


def test_missing_values_are_left_out_or_kept(on):
    labels, data = atlas(5), values(5, 2)
    data[labels == 2, 0] = np.nan
    data[tuple(np.argwhere(labels == 1)[0])][0] = np.inf
    data[tuple(np.argwhere(labels == 1)[1])][0] = np.nan
    data[tuple(np.argwhere(labels == 7)[0])][0] = -np.inf
    omitted = extract(image(data), image(labels), statistics=STATISTICS, device=on)
    for k in (1, 3, 7):
        kept = data[labels == k, 0].astype(float)
        kept = kept[np.isfinite(kept)]
        got = omitted.loc[0, [f"label {k} {s}" for s in STATISTICS]].astype(float).to_numpy()
        want = [kept.mean(), np.median(kept), kept.sum(), kept.std(), kept.min(), kept.max()]
        np.testing.assert_allclose(got, want, rtol=1e-9)
    assert omitted.loc[0, [f"label 2 {s}" for s in STATISTICS]].isna().all()
    assert omitted.loc[1].notna().all()
    kept = extract(image(data), image(labels), statistics=STATISTICS, missing="propagate", device=on)
    assert kept.loc[0, [f"label 1 {s}" for s in STATISTICS]].isna().all()
    assert kept.loc[0, "label 7 min"] == kept.loc[0, "label 7 mean"] == -np.inf
    assert np.isfinite(kept.loc[0, "label 7 median"])
    np.testing.assert_array_equal(kept.iloc[1:, 2:], omitted.iloc[1:, 2:])


@pytest.mark.parametrize("limit", ["1KB", "20KB", None])
def test_rows_do_not_depend_on_the_memory_limit(on, limit, tmp_path):
    labels, runs = atlas(6), [values(6, 4), values(7), values(8, 3)]
    paths = []
    for i, run in enumerate(runs):
        paths.append(tmp_path / f"run{i}.nii.gz")
        nibabel.save(image(run), paths[-1])
    table = extract(paths, image(labels), statistics=["std", "max"], device=on, memory_limit=limit)
    whole = np.concatenate([run.reshape(*SHAPE, -1) for run in runs], axis=-1)
    assert table["volume"].tolist() == [0, 1, 2, 3, 0, 0, 1, 2]
    assert table["image"].tolist() == [str(paths[i]) for i in (0, 0, 0, 0, 1, 2, 2, 2)]
    want = [[f(whole[..., i].astype(float), labels, 7) for f in (SCIPY["std"], SCIPY["max"])] for i in range(8)]
    np.testing.assert_allclose(table[["label 7 std", "label 7 max"]], want, rtol=1e-10)


@given(st.integers(0, 2**16), st.sampled_from(["C", "F"]), st.floats(-1e6, 1e6))
def test_layout_does_not_matter_and_a_constant_shifts_the_mean_alone(seed, order, shift):
    labels, data = atlas(seed), values(seed).astype(np.float64)
    first = extract(image(data), image(labels), statistics=["mean", "std"], device="cpu")
    shifted, same = (image(np.asarray(array, order=order)) for array in (data + shift, labels))
    moved = extract(shifted, same, statistics=["mean", "std"], device="cpu")
    means = [name for name in first if name.endswith("mean")]
    spread = [name for name in first if name.endswith("std")]
    np.testing.assert_allclose(moved[means], first[means] + shift, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(moved[spread], first[spread], rtol=1e-7)


@pytest.mark.parametrize("kind", ["scaled", "big-endian", "pair", "one-frame"])
def test_stored_forms_give_the_values_that_nibabel_reads(tmp_path, kind):
    data, path, labels = values(9).astype(np.int16), tmp_path / "map.nii", atlas(9)
    if kind == "scaled":
        stored = nibabel.Nifti1Image(data, AFFINE)
        stored.header.set_slope_inter(0.1, -7.0)
    elif kind == "big-endian":
        stored = nibabel.Nifti1Image(data.astype(">i2"), AFFINE, nibabel.Nifti1Header(endianness=">"))
    elif kind == "pair":
        stored, path = nibabel.Nifti1Pair(data, AFFINE), tmp_path / "map.hdr"
    else:
        stored = nibabel.Nifti1Image(data[..., None], AFFINE)
    nibabel.save(stored, path)
    read = nibabel.load(path).get_fdata().reshape(SHAPE)
    table = extract(path, image(labels), device="cpu")
    want = ndimage.mean(read, labels, [1, 2, 3, 7])
    np.testing.assert_allclose(table.iloc[0, 2:].astype(float), want, rtol=1e-6)


def test_what_is_refused():
    data, labels = image(values()), image(atlas())
    with pytest.raises(UsageError, match="variance"):
        extract(data, labels, statistics=["variance"], device="cpu")
    with pytest.raises(UsageError, match="once"):
        extract(data, labels, statistics=["mean", "mean"], device="cpu")
    with pytest.raises(UsageError, match="none"):
        extract(data, labels, statistics=[], device="cpu")
    with pytest.raises(UsageError, match="missing"):
        extract(data, labels, missing="drop", device="cpu")
    with pytest.raises(DataError, match="every voxel is 0"):
        extract(data, image(np.zeros(SHAPE, np.int16)), device="cpu")
    with pytest.raises(DataError, match="not a whole number"):
        extract(data, image(np.full(SHAPE, 1.5, np.float32)), device="cpu")
    with pytest.raises(DataError, match="negative"):
        extract(data, image(-atlas()), device="cpu")
    with pytest.raises(DataError, match="beyond int32"):
        extract(data, nibabel.Nifti1Image(np.full(SHAPE, 2**40), AFFINE, dtype=np.int64), device="cpu")
    with pytest.raises(DataError, match="3 volumes"):
        extract(data, image(np.ones((*SHAPE, 3), np.int16)), device="cpu")
    with pytest.raises(GridError, match="voxel size"):
        extract(data, image(atlas(), np.eye(4)), device="cpu")
    with pytest.raises(GridError, match="shape"):
        extract([data, image(np.ones((9, 8, 6), np.float32))], labels, device="cpu")


def test_a_real_atlas_on_a_real_map(open_data, on):
    folder = open_data / "atlas"
    path = next(folder.rglob("HarvardOxford-cort-maxprob-thr25-2mm*.nii*"))
    stat = open_data / "statmaps" / "motor_lips_nan.nii.gz"
    labels = np.asarray(nibabel.load(path).dataobj).astype(int)
    data = np.asarray(nibabel.load(stat).dataobj).astype(float)
    assert np.isnan(data[labels > 0]).any()
    table = extract(stat, path, device=on)
    for k in range(1, 49):
        kept = data[(labels == k) & np.isfinite(data)]
        column = next(r["column"] for r in table.attrs["regions"] if r["label"] == k)
        assert table.loc[0, column] == pytest.approx(kept.mean(), rel=1e-6)
