"""The demonstration data: the same bytes each time, valid files, and the effects that it says it has."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage, stats

import gpuroi
from gpuroi.demo_data import demo, motor_map_path
from gpuroi.errors import OutputError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    demo(folder)
    return folder


def volumes(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float32)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_and_within_seconds(folder: Path, tmp_path: Path) -> None:
    started = time.perf_counter()
    files = demo(tmp_path / "again")
    assert time.perf_counter() - started < 10
    assert files == sorted(path for path in (tmp_path / "again").rglob("*") if path.is_file())
    assert digests(tmp_path / "again") == digests(folder)


def test_another_seed_gives_other_data_and_a_subject_does_not_depend_on_their_number(
    folder: Path, tmp_path: Path
) -> None:
    demo(tmp_path / "other", seed=1, n_subjects=4)
    demo(tmp_path / "fewer", n_subjects=4)
    first, other, fewer = digests(folder), digests(tmp_path / "other"), digests(tmp_path / "fewer")
    assert other["bold.nii.gz"] != first["bold.nii.gz"] == fewer["bold.nii.gz"]
    maps = [name for name in fewer if name.startswith("maps/")]
    assert len(maps) == 4
    assert all(fewer[name] == first[name] != other[name] for name in maps)


def test_the_run_and_its_tables_fit_each_other(folder: Path) -> None:
    bold = nib.load(folder / "bold.nii.gz")
    labels = pd.read_csv(folder / "labels.tsv", sep="\t")
    events = pd.read_csv(folder / "events.tsv", sep="\t")
    assert bold.get_data_dtype() == np.int16
    assert bold.dataobj.slope == 0.5
    assert bold.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_allclose(bold.header.get_zooms(), (3.5, 3.5, 3.5, 2.5))
    assert list(labels.columns) == ["labels", "chunks"]
    assert bold.shape[3] == len(labels) == 144
    assert labels["labels"].value_counts().to_dict() == {"face": 36, "house": 36, "object": 36, "rest": 36}
    from_events = np.full(len(labels), "rest", dtype=object)
    for onset, duration, name in events.itertuples(index=False):
        from_events[round(onset / 2.5) : round((onset + duration) / 2.5)] = name
    assert from_events.tolist() == labels["labels"].tolist()
    orders = [
        tuple(dict.fromkeys(name for name in chunk["labels"] if name != "rest"))
        for _, chunk in labels.groupby("chunks")
    ]
    assert len(set(orders)) == 6  # each order of the three conditions once


def test_images_lie_on_one_grid_and_effects_inside_the_mask(folder: Path) -> None:
    mask = nib.load(folder / "mask.nii.gz")
    inside = np.asarray(mask.dataobj) == 1
    names = ["truth.nii.gz", "cohort_truth.nii.gz", "atlas_dseg.nii.gz"]
    names += [str(path.relative_to(folder)) for path in (folder / "maps").iterdir()]
    for name in [*names, "bold.nii.gz"]:
        img = nib.load(folder / name)
        assert img.shape[:3] == mask.shape, name
        np.testing.assert_array_equal(img.affine, mask.affine, err_msg=name)
    assert nib.aff2axcodes(mask.affine) == ("R", "A", "S")
    assert not any(volumes(folder / name)[~inside].any() for name in names)
    assert np.unique(volumes(folder / "truth.nii.gz")).tolist() == [0, 1, 2, 3, 4]
    assert ndimage.label(inside)[1] == 1


def test_planted_regions_differ_between_face_and_house_and_the_rest_does_not(folder: Path) -> None:
    labels = pd.read_csv(folder / "labels.tsv", sep="\t")["labels"]
    bold, truth = volumes(folder / "bold.nii.gz"), volumes(folder / "truth.nii.gz")
    inside = volumes(folder / "mask.nii.gz") > 0
    for region, sign in ((1, 1), (2, 1), (3, -1), (4, -1)):
        signal = bold[truth == region].mean(axis=0, dtype=np.float64)
        test = stats.ttest_ind(signal[labels == "face"], signal[labels == "house"])
        assert test.statistic * sign > 5, region
    elsewhere = bold[inside & (truth == 0)]
    test = stats.ttest_ind(elsewhere[:, labels == "face"], elsewhere[:, labels == "house"], axis=1)
    assert abs(np.median(test.statistic)) < 0.5
    assert (test.pvalue < 1e-5).mean() < 1e-3


def test_cohort_has_the_planted_group_and_age_effects(folder: Path) -> None:
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    assert table.columns.tolist() == ["participant_id", "map", "group", "age", "sex"]
    assert table["participant_id"].is_unique
    assert table["group"].value_counts().to_dict() == {"control": 10, "patient": 10}
    assert table["age"].isna().sum() == 1
    assert "n/a" in (folder / "participants.tsv").read_text()
    assert all(name in path for name, path in zip(table["participant_id"], table["map"], strict=True))
    maps = np.stack([volumes(folder / name) for name in table["map"]])  # (n, X, Y, Z)
    truth = volumes(folder / "cohort_truth.nii.gz")
    patients = (table["group"] == "patient").to_numpy()
    group = maps[:, truth == 1].mean(axis=1)
    assert stats.ttest_ind(group[patients], group[~patients]).pvalue < 1e-4
    known = table["age"].notna().to_numpy()
    age = stats.pearsonr(table["age"][known], maps[known][:, truth == 2].mean(axis=1))
    assert age.statistic < 0
    assert age.pvalue < 0.01
    elsewhere = maps[:, (volumes(folder / "mask.nii.gz") > 0) & (truth == 0)]
    assert (stats.ttest_ind(elsewhere[patients], elsewhere[~patients]).pvalue < 1e-5).mean() < 1e-3


def test_atlas_covers_the_mask_and_names_every_parcel(folder: Path) -> None:
    atlas = nib.load(folder / "atlas_dseg.nii.gz")
    names = pd.read_csv(folder / "atlas_dseg.tsv", sep="\t")
    labels = np.asarray(atlas.dataobj)
    ids = np.unique(labels[volumes(folder / "mask.nii.gz") > 0])
    assert ids.tolist() == names["index"].tolist() == list(range(1, 29))
    x_mm = nib.affines.apply_affine(atlas.affine, np.argwhere(labels > 0))[:, 0]
    left = names["name"].str.startswith("Left").to_numpy()[labels[labels > 0] - 1]
    np.testing.assert_array_equal(left, x_mm < 0)


def test_description_is_that_of_a_bids_derivative(folder: Path) -> None:
    description = json.loads((folder / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "gpuroi"
    assert "gpuroi roi bold.nii.gz" in (folder / "README.md").read_text()


def test_a_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    demo(tmp_path / "demo", n_subjects=4)
    with pytest.raises(OutputError, match="exists"):
        demo(tmp_path / "demo", n_subjects=4)
    demo(tmp_path / "demo", n_subjects=5, overwrite=True)
    assert len(list((tmp_path / "demo" / "maps").iterdir())) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize("wrong", [{"n_subjects": 3}, {"seed": -1}])
def test_arguments_out_of_range_write_nothing(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        demo(tmp_path / "demo", **wrong)
    assert not list(tmp_path.iterdir())


def test_motor_map_is_the_one_that_nilearn_carries() -> None:
    img = nib.load(motor_map_path())
    assert img.shape == (53, 63, 46)
    assert np.abs(img.get_fdata()).max() > 7


def test_the_function_keeps_its_name_beside_its_module() -> None:
    assert gpuroi.demo is demo
