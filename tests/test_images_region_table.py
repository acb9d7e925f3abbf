"""Tables of regions against scikit-image's maxima and plain loops: peaks a distance apart, masses, atlas labels."""

from __future__ import annotations

import math
from collections import Counter

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.ndimage as ndi
from hostile import HOSTILE
from hypothesis import given
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from skimage.morphology import local_maxima

from gpuroi.errors import DataError, GridError, UsageError
from gpuroi.images import Atlas, LabelNames, read_atlas, region_overlaps, region_peaks, region_table
from gpuroi.ops import label

OBLIQUE = np.array([[1.9, 0.3, -0.1, -80.0], [-0.2, 2.1, 0.4, 17.0], [0.3, -0.5, 3.2, -5.0], [0, 0, 0, 1.0]])


def plain_peaks(labels, stat, affine, n_peaks, min_distance_mm):
    """One region after the other: scikit-image's maxima, each plateau by its first voxel, from the highest down."""
    rows = []
    for number in np.unique(labels[labels != 0]):
        height = np.where((labels == number) & ~np.isnan(stat), np.abs(stat.astype(np.float64)), -1.0)
        plateaus, n = ndi.label(local_maxima(height, connectivity=3, allow_borders=True), np.ones((3, 3, 3)))
        found = [np.argwhere(plateaus == k)[0] for k in range(1, n + 1)]
        found = [ijk for ijk in found if height[tuple(ijk)] > 0]
        if height.max() == 0 or np.ptp(height) == 0:  # scikit-image finds none in a volume of one value
            found = list(np.argwhere(height >= 0)[:1])
        found.sort(key=lambda ijk: -height[tuple(ijk)])  # stable: of equals the first in C order
        kept = []
        for ijk in found:
            mm = apply_affine(affine, ijk)
            if len(kept) < n_peaks and all(np.linalg.norm(mm - other) >= min_distance_mm for other in kept):
                kept.append(mm)
                rows.append([number, len(kept), *mm, stat[tuple(ijk)]])
    return np.array(rows, dtype=float).reshape(-1, 6)


def touching_regions(seed, shape=(9, 8, 10)):
    """Labels that touch, with gaps in their numbers, and a map with ties, plateaus and NaN."""
    rng = np.random.default_rng(seed)
    labels = np.array([0, 0, 3, 4, 900])[ndi.zoom(rng.integers(0, 5, (3, 3, 3)), np.array(shape) / 3, order=0)]
    stat = np.round(ndi.gaussian_filter(rng.standard_normal(shape), 0.8) * 6).astype(np.float32)
    stat[rng.random(shape) < 0.03] = np.nan
    return labels.astype(np.int32), stat


@pytest.mark.parametrize("min_distance_mm", [0.0, 4.0, 9.0])
@pytest.mark.parametrize("seed", range(6))
def test_peaks_against_scikit_image(seed, min_distance_mm):
    labels, stat = touching_regions(seed)
    table = region_peaks(labels, stat, OBLIQUE, n_peaks=5, min_distance_mm=min_distance_mm)
    expected = plain_peaks(labels, stat, OBLIQUE, 5, min_distance_mm)
    assert len(table) > 3
    np.testing.assert_allclose(table.to_numpy(float), expected, rtol=1e-12, atol=1e-12)


@given(st.integers(0, 10_000), st.floats(0, 15), st.integers(1, 6))
def test_peaks_of_small_volumes(seed, min_distance_mm, n_peaks):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, 3))
    labels, stat = rng.integers(0, 3, shape), rng.integers(-2, 3, shape).astype(float)
    table = region_peaks(labels, stat, np.diag([2, 2, 3, 1.0]), n_peaks=n_peaks, min_distance_mm=min_distance_mm)
    expected = plain_peaks(labels, stat, np.diag([2, 2, 3, 1.0]), n_peaks, min_distance_mm)
    np.testing.assert_allclose(table.to_numpy(float), expected)


@given(st.integers(0, 10_000))
def test_peaks_lie_apart_and_descend(seed):
    labels, stat = touching_regions(seed)
    table = region_peaks(labels, stat, OBLIQUE, n_peaks=4, min_distance_mm=6)
    for _, peaks in table.groupby("id"):
        places = peaks[["x", "y", "z"]].to_numpy()
        far = np.linalg.norm(places[:, None] - places[None], axis=2)
        assert (far[~np.eye(len(peaks), dtype=bool)] >= 6).all()
        assert (np.diff(np.abs(peaks["stat"])) <= 0).all()
        assert peaks["peak"].tolist() == list(range(1, len(peaks) + 1))


def test_a_plateau_that_rises_elsewhere_is_no_peak():
    stat = np.array([[[1.0, 4, 4, 4, 5, 1, 3, 3, 2, 3]]])
    table = region_peaks(np.ones(stat.shape, int), stat, np.eye(4), n_peaks=9, min_distance_mm=0)
    assert table[["z", "stat"]].to_numpy().tolist() == [[4, 5], [6, 3], [9, 3]]


def test_sub_peaks_are_rows_below_their_region():
    labels, stat = touching_regions(3)
    alone = region_table(labels, stat, OBLIQUE)
    table = region_table(labels, stat, OBLIQUE, n_sub_peaks=3, min_distance_mm=5, mass=True, sign=True)
    peaks = region_peaks(labels, stat, OBLIQUE, n_peaks=4, min_distance_mm=5)
    assert list(table) == ["id", "peak", *alone.columns[1:], "mass", "sign"]
    np.testing.assert_allclose(table[["id", "peak", "peak_x", "peak_y", "peak_z", "peak_stat"]].to_numpy(float), peaks)
    main = table[table["peak"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(main[alone.columns], alone, check_dtype=False)
    below = table[table["peak"] > 1]
    assert len(below) > 0
    assert below[["voxels", "mm3", "center_x", "mass"]].isna().all(axis=None)
    assert table["voxels"].dtype == "Int64"
    assert table["sign"].tolist() == np.sign(table["peak_stat"]).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_mass_is_the_sum_of_magnitudes(seed):
    labels, stat = touching_regions(seed)
    stat = stat * np.float32(1e6) / 3
    table = region_table(labels, stat, OBLIQUE, mass=True)
    for row in table.itertuples():
        inside = np.abs(stat[labels == row.id].astype(np.float64))
        assert row.mass == pytest.approx(math.fsum(inside[~np.isnan(inside)]), rel=1e-13)
    again = region_table(np.asfortranarray(labels), np.asfortranarray(stat), OBLIQUE, mass=True)
    pd.testing.assert_frame_equal(table, again, check_exact=True)


def test_a_region_of_nan_has_a_row_without_a_peak():
    labels = np.array([[[1, 1, 2, 2, 2]]])
    stat = np.array([[[np.nan, np.nan, -3.0, 0.0, -4.0]]])
    table = region_table(labels, stat, np.eye(4), n_sub_peaks=2, min_distance_mm=0, mass=True, sign=True)
    assert table[["id", "peak", "sign"]].to_numpy().tolist() == [[1, 1, 0], [2, 1, -1], [2, 2, -1]]
    assert table["peak_stat"].isna().tolist() == [True, False, False]
    assert table["mass"].tolist()[:2] == [0.0, 7.0]


@pytest.mark.parametrize("name", [n for n, a in HOSTILE.items() if a.ndim == 3 and a.size])
def test_hostile_maps(name):
    stat = HOSTILE[name]
    labels, n = label(np.nan_to_num(np.asarray(stat, np.float32)) > 0, 26)
    table = region_table(labels, stat, OBLIQUE, n_sub_peaks=2, min_distance_mm=0, mass=True)
    assert table["id"].nunique() == n
    expected = plain_peaks(labels, np.asarray(stat, np.float64), OBLIQUE, 3, 0)
    np.testing.assert_allclose(table[["peak_x", "peak_y", "peak_z", "peak_stat"]].to_numpy(float), expected[:, 2:])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, ">i2", np.uint32, np.int64, np.uint64])
def test_labels_of_any_width(dtype):
    labels, stat = touching_regions(1)
    labels = (labels > 0).astype(dtype) if dtype is bool else np.minimum(labels, 255).astype(dtype)
    expected = region_table(labels.astype(np.int32), stat, OBLIQUE, n_sub_peaks=1)
    pd.testing.assert_frame_equal(region_table(labels, stat, OBLIQUE, n_sub_peaks=1), expected)


def test_no_regions_give_the_same_columns_and_types():
    atlas = Atlas(np.ones((2, 3, 4), np.int32), np.eye(4))
    for options in ({}, {"n_sub_peaks": 2, "mass": True, "sign": True, "atlas": atlas}):
        empty = region_table(np.zeros((2, 3, 4), np.int32), np.zeros((2, 3, 4), np.float32), np.eye(4), **options)
        full = region_table(np.ones((2, 3, 4), np.int32), np.zeros((2, 3, 4), np.float32), np.eye(4), **options)
        assert len(empty) == 0
        pd.testing.assert_series_equal(empty.dtypes, full.dtypes)
    assert len(region_peaks(np.zeros((2, 3, 4), int), np.ones((2, 3, 4)), np.eye(4))) == 0
    assert len(region_overlaps(np.zeros((2, 3, 4), int), atlas, np.eye(4))) == 0


def an_atlas(shape, affine, seed=0):
    numbers = np.array([0, 7, 200, 70000], np.int32)
    labels = numbers[np.random.default_rng(seed).integers(0, 4, shape)]
    return Atlas(labels, np.asarray(affine, float), LabelNames({7: "Precentral", 70000: "Insula"}), "atlas.nii.gz")


@pytest.mark.parametrize("seed", range(3))
def test_atlas_labels_against_a_count(seed):
    labels, stat = touching_regions(seed)
    atlas = an_atlas(labels.shape, OBLIQUE, seed)
    called = {0: "n/a", 7: "Precentral", 200: "label 200", 70000: "Insula"}
    table = region_table(labels, stat, OBLIQUE, atlas=atlas)
    overlaps = region_overlaps(labels, atlas, OBLIQUE)
    for row in table.itertuples():
        counts = Counter(atlas.labels[labels == row.id].tolist())
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        total = sum(counts.values())
        assert row.labels == "; ".join(f"{called[k]} {100 * n / total:.0f} %" for k, n in ordered)
        one = overlaps[overlaps["id"] == row.id]
        assert list(zip(one["label"], one["voxels"], strict=True)) == ordered
        assert one["percent"].sum() == pytest.approx(100)
        ijk = np.rint(apply_affine(np.linalg.inv(OBLIQUE), [row.peak_x, row.peak_y, row.peak_z])).astype(int)
        assert row.peak_label == called[int(atlas.labels[tuple(ijk)])]


def test_parts_as_people_read_them():
    atlas = Atlas(np.repeat([3, 4, 0, 5], [610, 300, 87, 3]).astype(np.int32).reshape(1, 1, -1), np.eye(4),
                  LabelNames({3: "Precentral", 4: "Postcentral"}))  # fmt: skip
    stat = np.zeros((1, 1, 1000))
    stat[0, 0, [5, 700, 950]] = 9, -8, 7
    table = region_table(np.ones((1, 1, 1000), int), stat, np.eye(4), n_sub_peaks=2, atlas=atlas)
    assert table["labels"].tolist()[0] == "Precentral 61 %; Postcentral 30 %; n/a 9 %"
    assert table["labels"].isna().tolist() == [False, True, True]
    assert table["peak_label"].tolist() == ["Precentral", "Postcentral", "n/a"]


@pytest.mark.parametrize("change", ["shape", "affine"])
def test_an_atlas_on_another_grid_is_refused_naming_both(tmp_path, change):
    labels, stat = touching_regions(0)
    atlas = an_atlas((9, 8, 11) if change == "shape" else labels.shape, np.eye(4) if change == "affine" else OBLIQUE)
    nib.save(nib.Nifti1Image(labels, OBLIQUE), tmp_path / "clusters.nii.gz")
    for given_labels, affine in ((labels, OBLIQUE), (tmp_path / "clusters.nii.gz", None)):
        with pytest.raises(GridError) as error:
            region_table(given_labels, stat, affine, atlas=atlas)
        assert "atlas.nii.gz" in str(error.value)
        assert ("clusters.nii.gz" if affine is None else "labels") in str(error.value)
        assert "resample" in str(error.value)
        assert isinstance(error.value, DataError)


def test_images_and_files_instead_of_arrays(tmp_path):
    labels, stat = touching_regions(2)
    nib.save(nib.Nifti1Image(labels, OBLIQUE), tmp_path / "clusters.nii.gz")
    nib.save(nib.Nifti1Image(stat, OBLIQUE), tmp_path / "stat.nii.gz")
    atlas = an_atlas(labels.shape, OBLIQUE)
    nib.save(nib.Nifti1Image(atlas.labels, OBLIQUE), tmp_path / "x_dseg.nii.gz")
    pd.DataFrame({"index": list(atlas.names), "name": list(atlas.names.values())}).to_csv(
        tmp_path / "x_dseg.tsv", sep="\t", index=False
    )
    expected = region_table(labels, stat, OBLIQUE, n_sub_peaks=1, atlas=atlas)
    files = (str(tmp_path / "clusters.nii.gz"), tmp_path / "stat.nii.gz")
    for source in (tmp_path / "x_dseg.nii.gz", (tmp_path / "x_dseg.nii.gz", dict(atlas.names))):
        table = region_table(*files, n_sub_peaks=1, atlas=source)
        pd.testing.assert_frame_equal(table, expected, rtol=1e-5)  # affines in files are float32
    with pytest.raises(GridError, match=r"stat\.nii\.gz|stat"):
        region_table(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "stat.nii.gz")
    with pytest.raises(UsageError, match="without an affine"):
        region_table(labels, stat)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_sub_peaks": -1}, "n_sub_peaks is -1"),
        ({"min_distance_mm": -1.0}, "min_distance_mm is -1.0"),
        ({"min_distance_mm": np.nan}, "min_distance_mm is nan"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        region_table(np.ones((2, 2, 2), int), np.ones((2, 2, 2)), np.eye(4), **options)


@pytest.mark.parametrize("labels", [np.full((2, 2, 2), -1), np.ones((2, 2, 2)), np.ones((2, 2), int)])
def test_labels_that_are_none(labels):
    with pytest.raises(UsageError, match="labels"):
        region_table(labels, np.ones(labels.shape), np.eye(4))


def test_real_map_in_a_real_atlas(open_data):
    atlas = read_atlas(open_data / "atlas" / "HarvardOxford-cort-maxprob-thr25-2mm.nii.gz", {7: "Precentral Gyrus"})
    image = nib.load(open_data / "statmaps" / "motor_lips.nii.gz")
    stat = np.asarray(image.dataobj)
    labels, n = label(stat >= 3.5)
    if stat.shape != atlas.shape or not np.allclose(image.affine, atlas.affine):
        with pytest.raises(GridError, match="HarvardOxford"):
            region_table(labels, stat, image.affine, atlas=atlas)
        atlas = Atlas(atlas.labels[::-1], image.affine, atlas.names, atlas.name)  # the same voxels, the other way round
    table = region_table(labels, stat, image.affine, atlas=atlas, n_sub_peaks=3, mass=True)
    assert table["id"].nunique() == n
    largest = table.loc[table["voxels"].idxmax()]
    inside = labels == largest["id"]
    assert largest["mm3"] == inside.sum() * 8
    share = np.count_nonzero(atlas.labels[inside] == 7) / inside.sum()
    assert f"Precentral Gyrus {100 * share:.0f} %" in largest["labels"]
    np.testing.assert_allclose(largest["mass"], np.abs(stat[inside]).sum(dtype=np.float64), rtol=1e-12)
