"""`gpuroi pack`: what it writes, prints and returns, and what it refuses."""

from __future__ import annotations

import inspect
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from cyclopts import App, Parameter

from gpuroi.cli import pack as command
from gpuroi.cli.errors import report
from gpuroi.cohort import open_store
from gpuroi.errors import UsageError
from gpuroi.workflows import pack as workflow

SHAPE = (6, 5, 4)
AFFINE = np.diag([3.0, 3, 3, 1])


def run(*words):
    """As `gpuroi pack ...` runs: the same parser and the same errors."""
    app = App(name="gpuroi", result_action="return_value", default_parameter=Parameter(negative=()))
    app.command(command.pack)
    try:
        return app(["pack", *map(str, words)], print_error=False, exit_on_error=False)
    except Exception as error:
        return report(error)


@pytest.fixture
def cohort(here):
    rng = np.random.default_rng(0)
    data = (10 * rng.standard_normal((5, *SHAPE))).astype(np.float32)
    data[1, 2, 2, :2] = np.nan
    for i, one in enumerate(data):
        nibabel.save(nibabel.Nifti1Image(one, AFFINE), f"sub-0{i}_map.nii.gz")
    inside = np.ones(SHAPE, np.uint8)
    inside[0] = 0
    nibabel.save(nibabel.Nifti1Image(inside, AFFINE), "mask.nii.gz")
    table(range(5))
    return data[:, inside > 0]


def table(rows, name="participants.tsv"):
    lines = [f"0{i}\tsub-0{i}_map.nii.gz" for i in rows]
    Path(name).write_text("\n".join(["participant_id\tmap", *lines, ""]))


def test_pack_and_append(cohort, capsys):
    table(range(3), "first.tsv")
    assert run("first.tsv", "--mask", "mask.nii.gz", "--out", "cohort.zarr") == 0
    out = capsys.readouterr().out
    assert "packed   3 maps\n" in out
    assert "store    3 x 100 float32, " in out
    assert "missing  2 NaN or infinite values in 1 maps, kept as they are" in out
    assert "written  " in out
    assert run("participants.tsv", "--out", "cohort.zarr", "--append") == 0
    assert "packed   2 maps, 3 were there" in capsys.readouterr().out
    store = open_store("cohort.zarr")
    assert store.ids == ["00", "01", "02", "03", "04"]
    np.testing.assert_array_equal(store.rows(0, 5), cohort)


def test_float16_and_smoothing(cohort, capsys):
    words = ("--mask", "mask.nii.gz", "--out", "c.zarr", "--dtype", "float16", "--smoothing", 4)
    assert run("participants.tsv", *words) == 0
    out = capsys.readouterr().out
    assert "float16" in out
    assert "smoothed  4 mm" in out
    assert "rounding  largest relative error 0.0004" in out
    store = open_store("c.zarr")
    assert (store.dtype, store.smoothing_fwhm_mm) == (np.float16, 4)


def test_map_template(cohort):
    pd.DataFrame({"who": ["00", "04"]}).to_csv("people.csv", index=False)
    words = ("--map-template", "sub-{who}_map.nii.gz", "--id-column", "who", "--mask", "mask.nii.gz")
    assert run("people.csv", *words, "--out", "c.zarr") == 0
    np.testing.assert_array_equal(open_store("c.zarr").rows(0, 2), cohort[[0, 4]])


def test_all_bad_maps_are_listed_beside_the_store(cohort, here, capsys):
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 2, 2), np.float32), AFFINE), "sub-01_map.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ones((*SHAPE, 2), np.float32), AFFINE), "sub-03_map.nii.gz")
    assert run("participants.tsv", "--mask", "mask.nii.gz", "--out", "cohort.zarr") == 65
    err = capsys.readouterr().err
    assert "2 of 5 maps cannot be used" in err
    assert "shape 2x2x2; expected shape 6x5x4" in err
    assert "2 frames; expected one frame" in err
    assert f"all of them are listed in {here / 'bad_inputs.tsv'}" in err
    listed = pd.read_csv("bad_inputs.tsv", sep="\t", dtype=str)
    assert listed["participant_id"].tolist() == ["01", "03"]
    assert not (here / "cohort.zarr").exists()


def test_missing_files_are_listed_too(cohort, here, capsys):
    (here / "sub-02_map.nii.gz").unlink()
    (here / "sub-04_map.nii.gz").unlink()
    assert run("participants.tsv", "--mask", "mask.nii.gz", "--out", "cohort.zarr") == 65
    err = capsys.readouterr().err
    assert "sub-02_map.nii.gz" in err
    assert "sub-04_map.nii.gz" in err
    assert pd.read_csv("bad_inputs.tsv", sep="\t", dtype=str)["participant_id"].tolist() == ["02", "04"]


def test_exit_codes(cohort, capsys):
    assert run("participants.tsv", "--mask", "mask.nii.gz", "--out", "c.zarr") == 0
    assert run("participants.tsv", "--mask", "mask.nii.gz", "--out", "c.zarr") == 73
    assert run("participants.tsv", "--mask", "mask.nii.gz", "--out", "c.zarr", "--overwrite") == 0
    assert run("participants.tsv", "--mask", "mask.nii.gz", "--out", "c.zip") == 73
    assert run("participants.tsv", "--out", "d.zarr") == 2
    assert run("participants.tsv", "--mask", "mask.nii.gz", "--out", "d.zarr", "--dtype", "text") == 2
    assert run("participants.tsv", "--mask", "mask.nii.gz", "--out", "d.zarr", "--memory-limit", "1KB") == 2
    assert run("participants.tsv", "--out", "d.zarr", "--append") == 65
    assert run("participants.tsv", "--out", "c.zarr", "--append", "--overwrite") == 2
    assert run("nobody.tsv", "--mask", "mask.nii.gz", "--out", "d.zarr") == 65
    capsys.readouterr()


def test_flags_are_the_parameters_of_the_workflow():
    flags, wanted = (inspect.signature(f).parameters for f in (command.pack, workflow.pack))
    assert list(flags) == list(wanted)
    assert {k: p.default for k, p in flags.items()} == {k: p.default for k, p in wanted.items()}


def test_result(cohort):
    result = workflow.pack("participants.tsv", mask="mask.nii.gz", out="c.zarr")
    assert (result.n_added, result.n_known) == (5, 0)
    assert set(result.timings) == {"read table", "pack"}
    with pytest.raises(UsageError, match="contradict"):
        workflow.pack("participants.tsv", out="c.zarr", append=True, overwrite=True)
