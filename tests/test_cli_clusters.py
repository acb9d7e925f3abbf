"""`gpuroi clusters`: its table against nilearn's, its files, and what it refuses."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from nilearn.reporting import get_clusters_table
from scipy import ndimage

from gpuroi.cli import main
from gpuroi.demo_data import motor_map_path
from gpuroi.errors import DataError, UsageError
from gpuroi.workflows.clusters import clusters

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
COLUMNS = ["Cluster ID", "X", "Y", "Z", "Peak Stat", "Cluster Size (mm3)", "Voxels", "Mass", "Sign"]

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def on(backend, monkeypatch):
    """The name of each backend's device in turn; the stand-in has no driver for a probe to find."""
    monkeypatch.setattr("gpuroi.images.find_regions.get_backend", lambda _device: backend)
    return backend.device


def write(path: str, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def write_map(path: str = "stat.nii.gz") -> np.ndarray:
    values = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(16, 15, 14)), 1.3)
    values = (4 * values / values.std()).astype(np.float32)
    write(path, values)
    return values


def run(*words: object) -> int:
    return main(["clusters", *(str(word) for word in words), "--device", "cpu"])


@pytest.mark.parametrize("two_sided", [True, False])
def test_rows_as_nilearn(on, two_sided):
    """Peaks, sizes and order; sub-peaks are ours: nilearn's may lie closer together than asked for."""
    write_map()
    got = clusters("stat.nii.gz", threshold=5.0, two_sided=two_sided, sub_peaks=0, device=on).table
    want = get_clusters_table("stat.nii.gz", stat_threshold=5.0, two_sided=two_sided, cluster_threshold=0)
    want = want[want["Cluster ID"].astype(str).str.isdigit()]
    assert len(got) == len(want) > 4
    columns = ["X", "Y", "Z", "Peak Stat", "Cluster Size (mm3)"]
    order = ["Peak Stat", "X", "Y", "Z"]
    np.testing.assert_allclose(
        got.sort_values(order)[columns].to_numpy(float), want.sort_values(order)[columns].to_numpy(float), rtol=1e-6
    )
    signs = got["Sign"].tolist()
    assert signs == sorted(signs, reverse=True)
    for sign in set(signs):
        peaks = got.loc[got["Sign"] == sign, "Peak Stat"].abs().tolist()
        assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_labels_table_and_scipy_agree(on, connectivity):
    values = write_map()
    result = clusters(
        "stat.nii.gz", threshold="90%", connectivity=connectivity, min_size_mm3=54, sub_peaks=2, device=on
    )
    assert list(result.table) == COLUMNS
    main_rows = result.table[result.table["Cluster ID"].str.isdigit()].set_index("Cluster ID")
    assert main_rows.index.tolist() == [str(k) for k in range(1, result.labels.max() + 1)]
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    for k, row in zip(range(1, len(main_rows) + 1), main_rows.itertuples(index=False), strict=True):
        inside = result.labels == k
        assert ndimage.label(inside, structure)[1] == 1
        assert row[5] == inside.sum() >= 2
        assert row[4] == pytest.approx(27.0 * inside.sum())
        assert row[6] == pytest.approx(np.abs(values[inside].astype(float)).sum())
        peak = values[inside][np.abs(values[inside]).argmax()]
        assert row[3] == pytest.approx(peak)
        assert row[7] == np.sign(peak)
        place = np.round(np.array(row[:3]) / 3).astype(int)
        assert values[tuple(place)] == peak
    sub = result.table[~result.table["Cluster ID"].str.isdigit()]
    assert len(sub) > 0
    assert sub["Cluster ID"].str.fullmatch(r"\d+[ab]").all()
    assert sub["Voxels"].isna().all()


def test_the_printed_table_and_the_folder(capsys):
    write_map()
    atlas = np.zeros((16, 15, 14), np.int16)
    atlas[:8], atlas[8:] = 300, 7
    write("my_dseg.nii.gz", atlas)
    Path("my_dseg.tsv").write_text("index\tname\n300\tLeft part\n7\tRight part\n")
    assert run("stat.nii.gz", "--threshold", 6, "--atlas", "my_dseg.nii.gz", "--out", "found") == 0
    out = capsys.readouterr().out
    assert "threshold  |x| >= 6" in out
    assert "written    found/report.html" in out
    for word in ("Cluster ID", "Peak Stat", "Cluster Size (mm3)", "Peak Label", "Left part", "Right part 100 %"):
        assert word in out
    assert "nan" not in out.lower()
    files = {path.name for path in Path("found").iterdir()}
    assert files == {
        "clusters.tsv", "clusters.json", "clusters_dseg.nii.gz", "clusters_dseg.tsv", "clusters_dseg.json",
        "report.html", "figures", "provenance.json", "dataset_description.json",
    }  # fmt: skip
    table = pd.read_csv("found/clusters.tsv", sep="\t", dtype={"Cluster ID": str}, na_values="n/a")
    assert list(table) == [*COLUMNS, "Peak Label", "Labels (%)"]
    labels = np.asarray(nibabel.load("found/clusters_dseg.nii.gz").dataobj)
    names = pd.read_csv("found/clusters_dseg.tsv", sep="\t")
    assert names["index"].tolist() == list(range(1, labels.max() + 1))
    assert set(table["Cluster ID"]) >= {str(k) for k in names["index"]}
    sidecar = json.loads(Path("found/clusters.json").read_text())
    assert set(table.columns) <= set(sidecar)
    assert sidecar["Settings"]["connectivity"] == 6
    assert len(json.loads(Path("found/provenance.json").read_text())["inputs"]) == 2
    assert run("stat.nii.gz", "--threshold", 6, "--out", "found") == 73
    assert run("stat.nii.gz", "--threshold", 6, "--out", "found", "--overwrite") == 0


def test_names_from_an_fsl_xml(capsys):
    write_map()
    write("atlas.nii.gz", np.ones((16, 15, 14), np.uint8))
    Path("atlas.xml").write_text(
        "<atlas><header><type>Label</type></header>"
        "<data><label index='1' x='0' y='0' z='0'>Whole</label></data></atlas>"
    )
    words = ["--atlas", "atlas.nii.gz", "--atlas-names", "atlas.xml", "--sub-peaks", 0]
    assert run("stat.nii.gz", "--threshold", 9, *words) == 0
    assert "Whole 100 %" in capsys.readouterr().out


def test_one_sided_negative_is_the_negative_side(capsys):
    values = write_map()
    assert run("stat.nii.gz", "--threshold=-6", "--one-sided", "--out", "found") == 0
    assert "x <= -6" in capsys.readouterr().out
    labels = np.asarray(nibabel.load("found/clusters_dseg.nii.gz").dataobj)
    np.testing.assert_array_equal(labels > 0, values <= -6)


def test_nothing_found_is_a_result(capsys):
    write_map()
    assert run("stat.nii.gz", "--threshold", 99, "--out", "found") == 0
    assert "none: nothing reaches the threshold" in capsys.readouterr().out
    assert len(pd.read_csv("found/clusters.tsv", sep="\t")) == 0
    assert not np.asarray(nibabel.load("found/clusters_dseg.nii.gz").dataobj).any()


def many() -> None:
    write("many.nii.gz", np.zeros((4, 4, 4, 3), np.float32))


REFUSED = {
    "two-sided negative": (["stat.nii.gz", "--threshold=-3"], 2, "negative"),
    "percentile": (["stat.nii.gz", "--threshold", "101%"], 2, "outside 0 to 100"),
    "names alone": (["stat.nii.gz", "--threshold", "3", "--atlas-names", "x.tsv"], 2, "without the atlas"),
    "sub-peaks": (["stat.nii.gz", "--threshold", "3", "--sub-peaks=-1"], 2, "sub_peaks"),
    "distance": (["stat.nii.gz", "--threshold", "3", "--min-distance-mm=-1"], 2, "min_distance_mm"),
    "4-D": (["many.nii.gz", "--threshold", "3"], 65, "many.nii.gz: 3 volumes"),
    "atlas elsewhere": (["stat.nii.gz", "--threshold", "3", "--atlas", "other.nii.gz"], 65, "other.nii.gz: voxel size"),
    "atlas of zeros": (["stat.nii.gz", "--threshold", "3", "--atlas", "zero.nii.gz"], 65, "zero.nii.gz: every voxel"),
    "no such names": (
        ["stat.nii.gz", "--threshold", "3", "--atlas", "one.nii.gz", "--atlas-names", "no.tsv"], 65, "no.tsv",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_nothing(case, here, capsys):
    words, code, said = REFUSED[case]
    write_map()
    many()
    write("other.nii.gz", np.ones((16, 15, 14), np.uint8), np.eye(4))
    write("zero.nii.gz", np.zeros((16, 15, 14), np.uint8))
    write("one.nii.gz", np.ones((16, 15, 14), np.uint8))
    before = sorted(here.iterdir())
    assert run(*words, "--out", "found") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err
    assert sorted(here.iterdir()) == before


def test_errors_are_those_of_the_package():
    write_map()
    with pytest.raises(UsageError):
        clusters("stat.nii.gz", threshold=-1.0, device="cpu")
    many()
    with pytest.raises(DataError):
        clusters("many.nii.gz", threshold=1.0, device="cpu")


@pytest.mark.parametrize("threshold", ["97%", 3.0])
def test_the_motor_map_that_nilearn_ships(on, threshold):
    result = clusters(motor_map_path(), threshold=threshold, min_size_mm3=1500, sub_peaks=0, device=on)
    cutoff = result.settings["cutoff"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Attention")  # nilearn's centre of a plateau outside its cluster
        want = get_clusters_table(str(motor_map_path()), stat_threshold=cutoff, two_sided=True, cluster_threshold=0)
    want = want[want["Cluster ID"].astype(str).str.isdigit()]
    want = want[want["Cluster Size (mm3)"].astype(float) >= 1500]
    assert len(result.table) == len(want) >= 2
    columns = [
        "Peak Stat",
        "Cluster Size (mm3)",
    ]  # the map is cut off at 7.94: peaks are plateaus, their place a choice
    np.testing.assert_allclose(
        result.table[columns].sort_values(columns), want[columns].astype(float).sort_values(columns), rtol=1e-6
    )
    values = np.asarray(nibabel.load(motor_map_path()).dataobj)
    ijk = np.linalg.inv(result.like.affine) @ np.c_[result.table[["X", "Y", "Z"]], np.ones(len(want))].T
    np.testing.assert_array_equal(values[tuple(np.round(ijk[:3]).astype(int))], result.table["Peak Stat"])
