"""`gpuroi threshold-parcels`: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from command_line import write

import gpuroi
from gpuroi.cli import main
from gpuroi.cli.parcels import threshold_parcels

pytestmark = pytest.mark.usefixtures("here")

BASE = ["--labels", "atlas.nii.gz", "--device", "cpu", "--no-figures"]


def write_atlas() -> np.ndarray:
    """27 parcels of 2 x 2 x 2 voxels with gaps in their ids, a map of voxels, and a table of the values."""
    labels = (np.arange(1, 28) * 3).reshape(3, 3, 3).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    write("atlas.nii.gz", labels.astype(np.int16))
    values = np.zeros(28 * 3)
    values[[3, 6, 81]] = 3.0, 4.0, -5.0
    write("painted.nii.gz", values[labels].astype(np.float32))
    noise = np.random.default_rng(0).normal(size=labels.shape) * 0.01
    write("voxels.nii.gz", (values[labels] + noise).astype(np.float32))
    rows = [(i, values[i]) for i in np.unique(labels)]
    pd.DataFrame(rows, columns=["id", "t"]).to_csv("values.tsv", sep="\t", index=False)
    sides = [f"{'LH' if i % 2 else 'RH'}_{(i // 3 + 1) // 2}" for i in np.unique(labels)]
    table = {"index": np.unique(labels), "name": sides, "lobe": np.where(np.unique(labels) < 40, "front", "back")}
    pd.DataFrame(table).to_csv("names.tsv", sep="\t", index=False)
    return labels


@pytest.mark.parametrize(
    ("given", "words"), [("painted.nii.gz", []), ("values.tsv", []), ("voxels.nii.gz", ["--summary", "mean"])]
)
def test_parcels_of_an_image_and_of_a_table(given, words, capsys):
    labels = write_atlas()
    command = ["threshold-parcels", given, *BASE, "--threshold", "2.5", "--cluster-threshold", "2", *words]
    assert main([*command, "--out", "out"]) == 0
    said = capsys.readouterr().out
    assert "parcels    27, 54 pairs of neighbours" in said
    assert "passing    2 above, 1 below" in said
    assert "isolated   81" in said
    assert "kept       2 in 1 cluster of 2 parcels or more" in said
    kept = np.asarray(nibabel.load("out/kept.nii.gz").dataobj)
    assert set(np.unique(labels[kept != 0])) == {3, 6}
    settings = json.loads(Path("out/provenance.json").read_text())["settings"]
    assert (settings["cutoff"], settings["weights"], settings["connectivity"]) == (2.5, "parcels", 6)
    written = {p.name for p in Path("out").iterdir()}
    assert written >= {"kept.nii.gz", "kept.json", "parcels.tsv", "clusters.tsv", "graph.tsv", "report.html"}


def test_options_reach_the_workflow(capsys):
    write_atlas()
    command = ["threshold-parcels", "values.tsv", *BASE, "--threshold", "95%", "--weights", "mm3", "--column", "t"]
    more = ["--cluster-threshold", "200", "--one-sided", "--connectivity", "26", "--min-contact", "2"]
    assert main([*command, *more, "--names", "names.tsv", "--homotopic", "names", "--out", "out"]) == 0
    settings = json.loads(Path("out/provenance.json").read_text())["settings"]
    for name, value in (("weights", "mm3"), ("two_sided", False), ("connectivity", 26), ("homotopic", "names")):
        assert settings[name] == value
    assert settings["rule"].endswith("(95%)")
    assert "LH_1" in capsys.readouterr().out
    assert main([*command, "--graph", "out/graph.tsv", "--out", "again"]) == 0
    levels = ["--hierarchy", "names.tsv", "--levels", "lobe", "--cluster-threshold", "2", "--out", "levels"]
    assert main(["threshold-parcels", "values.tsv", *BASE, "--threshold", "2.5", *levels]) == 0
    table = pd.read_csv("levels/levels/lobe.tsv", sep="\t").set_index("parent")
    assert table.loc["front", ["above", "kept_above"]].tolist() == [2, True]
    assert table.loc["back", ["below", "kept_below"]].tolist() == [1, False]


def test_figures_are_drawn():
    write_atlas()
    command = ["threshold-parcels", "painted.nii.gz", "--labels", "atlas.nii.gz", "--threshold", "2.5"]
    assert main([*command, "--device", "cpu", "--out", "out"]) == 0
    for name in ("thresholds.png", "graph.png"):
        assert Path("out/figures", name).read_bytes().startswith(b"\x89PNG")
    assert Path("out/report.html").read_text().count("data:image/png") == 2


def test_nothing_kept_is_a_result(capsys):
    write_atlas()
    command = ["threshold-parcels", "values.tsv", *BASE]
    assert main([*command, "--threshold", "99", "--out", "a"]) == 0
    assert "none: no parcel passes the threshold" in capsys.readouterr().out
    assert main([*command, "--threshold", "2.5", "--cluster-threshold", "9", "--out", "b"]) == 0
    assert "none: no cluster has 9 parcels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "words", "code", "message"),
    [
        ("voxels.nii.gz", [], 65, "more than one value in 27 of 27 parcels: 3, 6, 9"),
        ("nowhere.tsv", [], 65, "nowhere.tsv: no such file"),
        ("values.tsv", ["--threshold", "high"], 2, 'threshold is "high"'),
        ("values.tsv", ["--weights", "grams"], 2, "weights"),
        ("values.tsv", ["--column", "z"], 65, "no column z"),
        ("values.tsv", ["--graph", "values.tsv"], 65, "values.tsv: has no column kind"),
        ("other.nii.gz", [], 65, "voxel size 4 mm"),
        ("short.tsv", [], 65, "do not exist: 7; parcels without a value: 6, 9"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_left(given, words, code, message, capsys):
    write_atlas()
    nibabel.save(nibabel.Nifti1Image(np.ones((6, 6, 6), np.float32), np.diag([4.0, 4, 4, 1])), "other.nii.gz")
    Path("short.tsv").write_text("id\tvalue\n3\t1\n7\t1\n")
    threshold = [] if "--threshold" in words else ["--threshold", "2.5"]
    assert main(["threshold-parcels", given, *BASE, *threshold, *words, "--out", "out"]) == code
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_an_atlas_without_parcels_is_refused(capsys):
    write_atlas()
    write("empty.nii.gz", np.zeros((6, 6, 6), np.int16))
    words = ["threshold-parcels", "values.tsv", "--labels", "empty.nii.gz", "--threshold", "1", "--out", "out"]
    assert main([*words, "--device", "cpu"]) == 65
    err = capsys.readouterr().err
    assert "empty.nii.gz: " in err
    assert "hold no parcel" in err
    command = ["threshold-parcels", "values.tsv", *BASE, "--threshold", "1", "--out", "out"]
    assert main(command) == 0
    assert main(command) == 73
    assert main([*command, "--overwrite"]) == 0


def test_messages_say_what_was_typed_and_count_in_words(capsys):
    write_atlas()
    command = ["threshold-parcels", "values.tsv", "--atlas", *BASE[1:], "--out", "out"]
    assert main([*command, "--threshold", "120%"]) == 2
    assert "the percentile 120% is outside 0 to 100" in capsys.readouterr().err
    assert main([*command, "--threshold", "0.5", "--cluster-threshold", "1"]) == 0
    assert "of 1 parcel or more" in capsys.readouterr().out
    page = Path("out/report.html").read_text()
    assert "1 parcels" not in page
    assert "1 clusters" not in page


def test_names_lie_beside_the_labels_as_for_other_commands(capsys):
    write_atlas()
    Path("names.tsv").rename("atlas.tsv")
    assert main(["threshold-parcels", "values.tsv", *BASE, "--threshold", "2.5", "--out", "out"]) == 0
    assert "LH_1" in capsys.readouterr().out
    assert pd.read_csv("out/parcels.tsv", sep="\t")["name"][0] == "LH_1"


def test_flags_have_the_defaults_of_the_function():
    flags = inspect.signature(threshold_parcels).parameters
    wanted = inspect.signature(gpuroi.threshold_parcels).parameters
    assert set(flags) - set(wanted) == {"out", "figures", "overwrite"}
    assert set(wanted) - set(flags) == {"ids", "affine"}  # of arrays
    for key in set(flags) & set(wanted):
        assert flags[key].default == wanted[key].default, key


def test_every_column_of_a_table_is_described_beside_it():
    write_atlas()
    words = ["--names", "names.tsv", "--threshold", "2.5", "--out", "out"]
    assert main(["threshold-parcels", "values.tsv", *BASE, *words]) == 0
    for name in ("parcels", "clusters"):
        columns = pd.read_csv(f"out/{name}.tsv", sep="\t").columns
        assert set(json.loads(Path(f"out/{name}.json").read_text())) == {*columns, "Settings"}
