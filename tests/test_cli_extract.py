"""`gpuroi extract`: tables on disk, their sidecars, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from gpuroi.cli import main
from gpuroi.workflows.extract import extract_table

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
SHAPE = (6, 5, 4)

pytestmark = pytest.mark.usefixtures("here")


def write(path: str, values: np.ndarray, affine: np.ndarray = AFFINE) -> np.ndarray:
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return values


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write_inputs() -> tuple[np.ndarray, list[np.ndarray]]:
    labels = write("a_dseg.nii.gz", np.random.default_rng(9).choice([0, 1, 200, 3000], size=SHAPE).astype(np.int16))
    Path("a_dseg.tsv").write_text("index\tname\n1\tInsula\n200\tPutamen\n5\tNowhere\n")
    return labels, [write("sub-01.nii.gz", noise(*SHAPE, seed=1)), write("sub-02.nii.gz", noise(*SHAPE, 2, seed=2))]


def run(*words: object) -> int:
    return main(["extract", *(str(word) for word in words), "--device", "cpu"])


def test_a_table_and_its_sidecar(capsys):
    labels, (first, second) = write_inputs()
    assert run("sub-01.nii.gz", "sub-02.nii.gz", "--labels", "a_dseg.nii.gz", "--out", "roi_means.tsv") == 0
    out = capsys.readouterr().out
    assert "volumes  3" in out
    assert "regions  4" in out
    assert "empty    Nowhere" in out
    assert "written  roi_means.tsv" in out
    table = pd.read_csv("roi_means.tsv", sep="\t")
    assert table.columns.tolist() == ["image", "volume", "Insula", "Putamen", "Nowhere", "label 3000"]
    assert table["image"].tolist() == ["sub-01.nii.gz", "sub-02.nii.gz", "sub-02.nii.gz"]
    assert "n/a" in Path("roi_means.tsv").read_text()
    for row, volume in enumerate((first, second[..., 0], second[..., 1])):
        want = ndimage.mean(volume.astype(float), labels, [1, 200, 3000])
        np.testing.assert_allclose(table.loc[row, ["Insula", "Putamen", "label 3000"]].astype(float), want, rtol=1e-12)
    sidecar = json.loads(Path("roi_means.json").read_text())
    assert set(sidecar) == {*table.columns, "Provenance"}
    assert sidecar["label 3000"] == {
        "Description": "mean over label 3000",
        "Label": 3000,
        "Statistic": "mean",
        "Voxels": int((labels == 3000).sum()),
    }
    assert len(sidecar["Provenance"]["inputs"]) == 3
    assert sidecar["Provenance"]["settings"]["missing"] == "omit"


def test_several_statistics_are_printed_without_out(capsys):
    labels, (first, _) = write_inputs()
    assert run("sub-01.nii.gz", "--atlas", "a_dseg.nii.gz", "--statistics", "min", "max") == 0
    out = capsys.readouterr().out
    assert "Insula min" in out
    assert f"{ndimage.maximum(first, labels, 200):.4g}" in out
    assert {path.name for path in Path().iterdir()} == {"a_dseg.nii.gz", "a_dseg.tsv", "sub-01.nii.gz", "sub-02.nii.gz"}


def test_the_regions_of_a_single_volume_stand_below_each_other(capsys):
    labels, (first, _) = write_inputs()
    assert run("sub-01.nii.gz", "--labels", "a_dseg.nii.gz") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[5:]]
    means = ndimage.mean(first.astype(float), labels, [1, 200, 3000])
    texts = [f"{mean:.4g}" for mean in means]
    assert rows[0] == ["region", "value"]
    assert rows[1:] == [["Insula", texts[0]], ["Putamen", texts[1]], ["Nowhere"], ["label", "3000", texts[2]]]


def test_a_terminal_gets_the_first_volumes(monkeypatch, capsys):
    write_inputs()
    write("run.nii.gz", noise(*SHAPE, 14))
    assert run("run.nii.gz", "--labels", "a_dseg.nii.gz") == 0
    assert "run.nii.gz     13" in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("run.nii.gz", "--labels", "a_dseg.nii.gz") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "... and 4 more volumes"


def test_results_stand_until_they_are_replaced(capsys):
    write_inputs()
    words = ["sub-01.nii.gz", "--labels", "a_dseg.nii.gz", "--out", "t.tsv"]
    assert run(*words) == 0
    before = Path("t.tsv").read_bytes(), Path("t.json").read_bytes()
    assert run(*words) == 73
    assert (Path("t.tsv").read_bytes(), Path("t.json").read_bytes()) == before
    assert run(*words, "--statistics", "median", "--overwrite") == 0
    assert Path("t.tsv").read_bytes() != before[0]
    Path("t.tsv").unlink()
    assert run(*words) == 73  # its sidecar stands in the way
    assert not Path("t.tsv").exists()


REFUSED = {
    "a map of another grid": (["far.nii.gz", "sub-01.nii.gz"], "a_dseg.nii.gz", 65, "voxel size"),
    "an atlas of another grid": (["sub-01.nii.gz"], "far.nii.gz", 65, "far.nii.gz"),
    "label 0 only": (["sub-01.nii.gz"], "zero.nii.gz", 65, "zero.nii.gz: every voxel is 0"),
    "no whole numbers": (["sub-01.nii.gz"], "sub-01.nii.gz", 65, "not a whole number"),
    "an atlas of several volumes": (["sub-01.nii.gz"], "sub-02.nii.gz", 65, "sub-02.nii.gz: 2 volumes"),
    "all broken files at once": (["no1.nii.gz", "no2.nii.gz"], "a_dseg.nii.gz", 65, "no2.nii.gz"),
    "a table of participants": (["people.tsv"], "a_dseg.nii.gz", 65, "people.tsv"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_nothing(case, here, capsys):
    images, labels, code, said = REFUSED[case]
    write_inputs()
    write("far.nii.gz", np.ones(SHAPE, np.uint8), np.eye(4))
    write("zero.nii.gz", np.zeros(SHAPE, np.uint8))
    Path("people.tsv").write_text("participant_id\tmap\nsub-01\tsub-01.nii.gz\n")
    before = sorted(here.iterdir())
    assert run(*images, "--labels", labels, "--out", "t.tsv") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err
    assert sorted(here.iterdir()) == before


def test_a_name_that_is_no_table_is_73_before_any_work(capsys):
    assert run("nothing.nii.gz", "--labels", "nothing.nii.gz", "--out", "t.csv") == 73
    assert "t.csv: tables are written as .tsv" in capsys.readouterr().err


def test_images_and_tables_in_memory(backend, monkeypatch):
    monkeypatch.setattr("gpuroi.images.extract_signals.get_backend", lambda _device: backend)
    labels, _ = write_inputs()
    img = nibabel.Nifti1Image(noise(*SHAPE), AFFINE)
    atlas = nibabel.Nifti1Image(labels, AFFINE)
    result = extract_table(img, labels=atlas, out="t.tsv", statistics="max", atlas_names={1: "A", 200: "B"})
    assert result.device == backend.device
    assert result.table.columns.tolist() == ["image", "volume", "A", "B", "label 3000"]
    assert result.table.loc[0, "B"] == ndimage.maximum(noise(*SHAPE), labels, 200)
    assert result.path == Path("t.tsv")
