"""`gpuroi.regions`: regions of a map by threshold, sign and size, against SciPy; saved, and refused."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
import scipy.ndimage

from gpuroi.errors import DataError, GridError, OutputError, UsageError
from gpuroi.workflows.regions import regions

AFFINE = np.array([[2.9, 0.4, 0.0, -30.0], [-0.5, 3.4, 0.3, 12.0], [0.1, -0.2, 4.1, 5.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def on(backend, monkeypatch):
    """The name of each backend's device in turn; the stand-in has no driver for a probe to find."""
    monkeypatch.setattr("gpuroi.images.find_regions.get_backend", lambda _device: backend)
    return backend.device


def make_map(seed=0, shape=(15, 13, 11)):
    noise = np.random.default_rng(seed).normal(size=shape)
    values = scipy.ndimage.gaussian_filter(noise, 1.2)
    return (values / values.std()).astype(np.float32)


def reference(values, cutoff, *, two_sided=True, min_size_mm3=0.0, connectivity=6, inside=None):
    """Labels by SciPy: positive regions first, then negative ones."""
    structure = scipy.ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    inside = np.ones(values.shape, bool) if inside is None else inside
    if two_sided:
        sides = [values >= cutoff, values <= -cutoff]
    else:
        sides = [values >= cutoff] if cutoff >= 0 else [values <= cutoff]
    atlas = np.zeros(values.shape, np.int32)
    for side in sides:
        labels, n = scipy.ndimage.label(side & inside & (values != 0), structure)
        for i in range(1, n + 1):
            if (labels == i).sum() * abs(np.linalg.det(AFFINE[:3, :3])) >= min_size_mm3:
                atlas[labels == i] = atlas.max() + 1
    return atlas


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize(
    ("cutoff", "two_sided"), [(1.5, True), (1.5, False), (-1.0, False), (0.0, True), (0.0, False), ("2.25", True)]
)
@pytest.mark.parametrize("min_size_mm3", [0.0, 300.0])
def test_values_against_scipy(on, cutoff, two_sided, connectivity, min_size_mm3):
    values = make_map()
    settings = {"two_sided": two_sided, "connectivity": connectivity, "min_size_mm3": min_size_mm3}
    result = regions(nibabel.Nifti1Image(values, AFFINE), threshold=cutoff, device=on, **settings)
    atlas = reference(values, float(cutoff), **settings)
    assert atlas.max() > 0
    np.testing.assert_array_equal(result.labels, atlas)
    np.testing.assert_array_equal(result.thresholded, np.where(atlas > 0, values, 0))
    assert result.atlas.get_data_dtype() == np.int32


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("two_sided", [True, False])
def test_percentiles_are_of_the_voxels_inside(on, two_sided, masked):
    values = make_map(1)
    values[:2] = np.nan
    inside = np.zeros(values.shape, bool)
    inside[1:9, 2:, 3:] = True
    mask = nibabel.Nifti1Image(inside.astype("u1"), AFFINE) if masked else None
    population = values[inside] if masked else values.ravel()
    population = population[~np.isnan(population)]
    population = np.abs(population) if two_sided else population[population >= 0]
    cutoff = np.float32(np.percentile(population.astype(np.float64), 90))
    result = regions(nibabel.Nifti1Image(values, AFFINE), threshold="90%", two_sided=two_sided, mask=mask, device=on)
    assert result.settings["cutoff"] == pytest.approx(float(cutoff), rel=1e-6)
    clean = np.nan_to_num(values)
    want = reference(clean, cutoff, two_sided=two_sided, inside=inside if masked else None)
    np.testing.assert_array_equal(result.labels, want)


def test_positive_and_negative_neighbours_are_regions_of_their_own():
    values = np.zeros((4, 4, 4), np.float32)
    values[1, 1, 1], values[1, 1, 2], values[3, 3, 3] = -3.0, 3.0, 3.0
    result = regions(nibabel.Nifti1Image(values, np.eye(4)), threshold=3.0, device="cpu")
    assert result.labels[1, 1, 2] == 1
    assert result.labels[3, 3, 3] == 2
    assert result.labels[1, 1, 1] == 3
    assert result.table["sign"].tolist() == [1, 1, -1]
    assert result.table["peak_stat"].tolist() == [3.0, 3.0, -3.0]


def test_the_smallest_size_is_inclusive_and_numbers_have_no_gaps():
    values = np.zeros((9, 9, 9), np.float32)
    values[0, 0, :2], values[2, 2, :3], values[4, 4, :4], values[6, 6, :2] = 5, -5, 5, -5
    img = nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 2.5, 1.0]))
    result = regions(img, threshold=1, min_size_mm3=30.0, device="cpu")
    assert result.table[["id", "sign", "voxels", "mm3"]].to_numpy().tolist() == [[1, 1, 4, 40.0], [2, -1, 3, 30.0]]
    assert np.unique(result.labels).tolist() == [0, 1, 2]


def test_values_that_are_not_finite_lie_in_no_region(on):
    values = make_map(2)
    values[5, 5, 5], values[6, 6, 6], values[7, 7, 7] = np.nan, np.inf, -np.inf
    result = regions(nibabel.Nifti1Image(values, AFFINE), threshold=0.0, device=on)
    assert result.labels[5, 5, 5] == result.labels[6, 6, 6] == result.labels[7, 7, 7] == 0
    assert result.counts["voxels_not_finite"] == 3
    assert result.counts["voxels_in_regions"] == values.size - 3
    assert np.isfinite(result.table.to_numpy(dtype=float)).all()


def test_a_motor_map_against_scipy(open_data, on):
    path = open_data / "statmaps" / "motor_lips.nii.gz"
    values = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
    result = regions(path, device=on)
    cutoff = np.float32(np.percentile(np.abs(values).astype(np.float64), 97))
    structure = scipy.ndimage.generate_binary_structure(3, 1)
    positive, n = scipy.ndimage.label((values >= cutoff) & (values != 0), structure)
    negative, m = scipy.ndimage.label((values <= -cutoff) & (values != 0), structure)
    assert n > 1
    np.testing.assert_array_equal(result.labels, np.where(negative > 0, negative + n, positive))
    assert result.counts["regions"] == n + m


def test_a_map_with_missing_voxels(open_data):
    path = open_data / "statmaps" / "motor_lips_nan.nii.gz"
    missing = np.isnan(np.asarray(nibabel.load(path).dataobj))
    assert missing.sum() == 41253
    result = regions(path, threshold="95%", device="cpu")
    assert len(result.table) > 0
    assert not result.labels[missing].any()


def test_everything_is_written(tmp_path):
    nibabel.save(nibabel.Nifti1Image(make_map(), AFFINE), tmp_path / "t.nii.gz")
    result = regions(tmp_path / "t.nii.gz", threshold=1.5, min_size_mm3=200, connectivity=18, device="cpu")
    folder = result.save(tmp_path / "out")
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        "atlas.nii.gz", "atlas.json", "atlas.tsv", "thresholded.nii.gz", "thresholded.json", "figures/regions.png",
        "figures/map.png", "report.html", "provenance.json", "dataset_description.json",
    }  # fmt: skip
    np.testing.assert_array_equal(np.asarray(nibabel.load(folder / "atlas.nii.gz").dataobj), result.labels)
    np.testing.assert_array_equal(nibabel.load(folder / "thresholded.nii.gz").get_fdata(), result.thresholded)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "atlas.tsv", sep="\t"), result.table)
    record = json.loads((folder / "provenance.json").read_text())
    assert record["workflow"] == "regions"
    assert record["settings"]["connectivity"] == 18
    assert record["settings"]["cutoff"] == 1.5
    assert record["inputs"][0]["bytes"] == (tmp_path / "t.nii.gz").stat().st_size
    assert json.loads((folder / "atlas.json").read_text())["Settings"]["min_size_mm3"] == 200
    assert result.report() == (folder / "report.html").read_text()
    with pytest.raises(OutputError, match="not empty"):
        result.save(folder)


def test_nothing_found_is_a_result(tmp_path):
    result = regions(nibabel.Nifti1Image(make_map(), AFFINE), threshold=99, device="cpu")
    assert len(result.table) == 0
    folder = result.save(tmp_path / "out")
    assert not np.asarray(nibabel.load(folder / "atlas.nii.gz").dataobj).any()
    assert list(pd.read_csv(folder / "atlas.tsv", sep="\t").columns) == list(result.table.columns)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threshold": -1}, "-1"),
        ({"threshold": float("nan")}, "nan"),
        ({"threshold": "strong"}, "strong"),
        ({"threshold": "strong%"}, "strong"),
        ({"threshold": "120%"}, "120"),
        ({"min_size_mm3": -1}, "min_size_mm3"),
        ({"connectivity": 4}, "connectivity"),
        ({"device": "tpu"}, "tpu"),
        ({"memory_limit": "10kB"}, "memory limit"),
    ],
    ids=str,
)
def test_arguments_outside_their_range(changes, said):
    with pytest.raises(UsageError) as caught:
        regions(nibabel.Nifti1Image(make_map(), AFFINE), **{"device": "cpu", **changes})
    assert said in str(caught.value).lower()


def test_images_that_cannot_be_used(tmp_path):
    several = nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4))
    with pytest.raises(DataError, match="3 volumes"):
        regions(several, device="cpu")
    with pytest.raises(DataError, match="all values are NaN"):
        regions(nibabel.Nifti1Image(np.full((4, 4, 4), np.nan, np.float32), np.eye(4)), device="cpu")
    (tmp_path / "map.nii.gz").write_text("p < 0.05")
    with pytest.raises(DataError, match=r"map\.nii\.gz"):
        regions(tmp_path / "map.nii.gz", device="cpu")
    mask = nibabel.Nifti1Image(np.ones((15, 13, 11), "u1"), np.eye(4))
    with pytest.raises(GridError):
        regions(nibabel.Nifti1Image(make_map(), AFFINE), mask=mask, device="cpu")


def test_a_percentile_of_nothing():
    values = make_map()
    values[:5] = np.nan
    inside = np.zeros(values.shape, "u1")
    inside[:3] = 1
    with pytest.raises(DataError, match="nothing inside the mask"):
        regions(nibabel.Nifti1Image(values, AFFINE), mask=nibabel.Nifti1Image(inside, AFFINE), device="cpu")
