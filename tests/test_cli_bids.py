"""`gpuroi-bids`: which map belongs to whom in a BIDS derivative, what is refused, and what `screen` is given."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuroi
from gpuroi.cli import bids, main
from gpuroi.cohort import BadInputsError
from gpuroi.errors import DataError, OutputError, UsageError
from gpuroi.workflows.bids_table import bids_table

AGES = {"sub-01": "34", "sub-02": "n/a", "sub-10": "51"}


@pytest.fixture
def dataset(tmp_path):
    """Three people in nilearn's names: a contrast with its effect and t, of two sessions for one of them."""
    root = tmp_path / "derivatives"
    for who in AGES:
        for stat in ("effect", "t"):
            put(root, f"{who}/{who}_task-rest_contrast-faces_stat-{stat}_statmap.nii.gz")
            put(root, f"{who}/{who}_task-rest_contrast-faces_stat-{stat}_statmap.json")
    table(root, AGES)
    return root


def put(root, name):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def table(root, ages):
    rows = "".join(f"{who}\t{age}\n" for who, age in ages.items())
    (root / "participants.tsv").write_text(f"participant_id\tage\n{rows}")


def names(found):
    return [Path(path).name for path in found.table["map"]]


def test_each_row_gets_the_map_that_bears_its_label(dataset):
    found = bids_table(dataset, entities={"stat": "effect"})
    assert found.table["participant_id"].tolist() == list(AGES)
    assert found.table["age"].tolist() == ["34", "n/a", "51"]  # text, as it stood
    assert names(found) == [f"{who}_task-rest_contrast-faces_stat-effect_statmap.nii.gz" for who in AGES]
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in found.table["map"])


def test_people_are_chosen_with_and_without_sub(dataset):
    found = bids_table(dataset, labels=["10", "sub-01"], entities={"stat": "t"})
    assert found.table["participant_id"].tolist() == ["sub-01", "sub-10"]  # the order of the table


def test_the_table_may_lie_elsewhere(dataset, tmp_path):
    elsewhere = tmp_path / "people.tsv"
    (dataset / "participants.tsv").rename(elsewhere)
    with pytest.raises(DataError, match=r"participants\.tsv: no such file\n.*--participants"):
        bids_table(dataset)
    assert len(bids_table(dataset, participants=elsewhere, entities={"stat": "t"}).table) == 3


def test_all_problems_are_in_one_error(dataset):
    put(dataset, "sub-01/ses-2/sub-01_ses-2_task-rest_contrast-faces_stat-t_statmap.nii.gz")
    for path in (dataset / "sub-10").glob("*.nii.gz"):
        path.unlink()
    with pytest.raises(BadInputsError) as caught:
        bids_table(dataset, labels=["01", "10", "77"], entities={"stat": "t"})
    found = {bad.participant_id: (bad.found, bad.expected) for bad in caught.value.bad_inputs}
    assert set(found) == {"sub-01", "sub-10", "sub-77"}
    assert found["sub-01"][0].startswith("2 maps (")
    assert found["sub-01"][1] == "one map: choose by ses"
    assert found["sub-10"] == ("no map", "one: sub-{participant}/**/*_statmap.nii.gz with stat-t in its name")
    assert found["sub-77"][0] == "no such participant"


def test_several_maps_say_what_tells_them_apart(dataset):
    with pytest.raises(BadInputsError, match="one map: choose by stat") as caught:
        bids_table(dataset)
    assert len(caught.value.bad_inputs) == 3


def test_people_without_a_map_are_left_out_only_when_asked(dataset):
    for path in (dataset / "sub-02").glob("*"):
        path.unlink()
    with pytest.raises(BadInputsError, match=r"sub-02.*no map"):
        bids_table(dataset, entities={"stat": "t"})
    found = bids_table(dataset, entities={"stat": "t"}, missing="drop")
    assert (found.table["participant_id"].tolist(), found.without_map) == (["sub-01", "sub-10"], ["sub-02"])
    with pytest.raises(DataError, match="nobody has a map"):
        bids_table(dataset, entities={"stat": "none"}, missing="drop")


def test_rows_that_occur_twice_are_refused(dataset):
    with (dataset / "participants.tsv").open("a") as file:
        file.write("sub-10\t20\n")
    with pytest.raises(BadInputsError, match="2 rows of sub-10"):
        bids_table(dataset, entities={"stat": "t"})


def test_a_pattern_finds_other_layouts_and_never_somebody_elses_map(dataset):
    for who in AGES:
        put(dataset, f"flat/{who}_zmap.nii.gz")
    put(dataset, "flat/sub-011_zmap.nii.gz")  # begins like sub-01
    found = bids_table(dataset, pattern="flat/sub-{participant}*_zmap.nii.gz")
    assert names(found) == [f"{who}_zmap.nii.gz" for who in AGES]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["../01"]}, '"../01" is no BIDS label'),
        ({"entities": {"contrast": "a*"}}, "is no BIDS label"),
        ({"pattern": "sub-01/*.nii.gz"}, "does not say whose map"),
        ({"pattern": "../sub-{participant}/*.nii"}, "leaves the dataset"),
        ({"pattern": "/sub-{participant}/*.nii"}, "leaves the dataset"),
    ],
)
def test_what_is_not_bids_is_refused(dataset, options, message):
    with pytest.raises(UsageError, match=message.replace("*", r"\*")):
        bids_table(dataset, **options)


def test_ids_that_could_be_patterns_are_refused(dataset):
    table(dataset, {"sub-*": "1"})
    with pytest.raises(BadInputsError, match='the id "sub-\\*"'):
        bids_table(dataset)


def test_a_table_with_maps_needs_no_search(dataset):
    (dataset / "participants.tsv").write_text("participant_id\tmap\nsub-01\ta.nii\n")
    with pytest.raises(DataError, match='a column "map" already\ngpuroi screen takes it'):
        bids_table(dataset)


def test_a_written_table_stays_and_another_is_not_replaced(dataset, tmp_path):
    found, out = bids_table(dataset, entities={"stat": "t"}), tmp_path / "table.tsv"
    found.save(out)
    before = out.stat().st_mtime_ns
    found.save(out)
    assert out.stat().st_mtime_ns == before
    again = pd.read_csv(out, sep="\t", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(again, found.table, check_dtype=False)
    other = bids_table(dataset, entities={"stat": "effect"})
    with pytest.raises(OutputError, match=r"table\.tsv"):
        other.save(out)
    other.save(out, overwrite=True)
    assert "stat-effect" in out.read_text()


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations(range(6)),
    labels=st.lists(st.text("abcXYZ0123456789", min_size=1, max_size=6), min_size=6, max_size=6, unique=True),
)
def test_maps_follow_ids_whatever_the_order(tmp_path_factory, order, labels):
    root = tmp_path_factory.mktemp("bids")
    for label in labels:
        put(root, f"sub-{label}/func/sub-{label}_statmap.nii.gz")
    table(root, {f"sub-{labels[k]}": str(k) for k in order})
    found = bids_table(root)
    assert found.table["participant_id"].tolist() == [f"sub-{labels[k]}" for k in order]
    assert names(found) == [f"{who}_statmap.nii.gz" for who in found.table["participant_id"]]


class Screen:
    """Stands for `gpuroi`: keeps the words that it is run with."""

    def __init__(self, monkeypatch):
        self.words = None
        monkeypatch.setattr("gpuroi.cli.app.main", self.run)

    def run(self, words):
        self.words = words
        return 0


@pytest.fixture
def screen(monkeypatch):
    return Screen(monkeypatch)


def test_screen_gets_the_table_and_every_other_option(dataset, tmp_path, screen):
    out = tmp_path / "out"
    options = ["--formula", "map ~ age", "--contrast", "-age", "--n-perm", "100", "--tfce", "--dry-run"]
    words = [dataset, out, "group", "--participant-label", "01", "10", "--stat", "effect", *options, "--debug"]
    assert bids.main([str(word) for word in words]) == 0
    written = out / "group_participants.tsv"
    assert screen.words == ["screen", str(written), *options, "--out", str(out / "group"), "--debug"]
    assert pd.read_csv(written, sep="\t")["participant_id"].tolist() == ["sub-01", "sub-10"]


def test_people_without_a_map_are_listed(dataset, tmp_path, screen, capsys):
    for path in (dataset / "sub-02").glob("*"):
        path.unlink()
    out = tmp_path / "out"
    words = [str(dataset), str(out), "group", "--stat", "t", "--missing-maps", "drop", "--analysis", "faces"]
    assert bids.main(words) == 0
    assert (out / "faces_without_map.tsv").read_text() == "participant_id\treason\nsub-02\tno map\n"
    assert "1 participants have no map and are left out" in capsys.readouterr().err
    assert screen.words[1:] == [str(out / "faces_participants.tsv"), "--out", str(out / "faces")]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["participant"], 2, "gpuroi roi"),
        (["run"], 2, "group"),
        (["group", "--entity", "run1"], 2, "is no part of a BIDS name"),
        (["group", "--analysis", "a/b"], 2, "without slashes"),
        (["group", "--participant-label", "99"], 65, "no such participant"),
    ],
)
def test_what_is_refused_says_why(dataset, tmp_path, screen, capsys, words, code, said):
    assert bids.main([str(dataset), str(tmp_path / "out"), *words]) == code
    assert said in capsys.readouterr().err
    assert screen.words is None
    assert not (tmp_path / "out").exists()


def test_help_and_version(capsys, screen):
    assert bids.main(["--help"]) == 0
    assert "--participant-label" in capsys.readouterr().out
    assert bids.main(["--version"]) == 0
    assert screen.words is None


def test_the_results_are_those_of_screen(tmp_path, monkeypatch):
    """A cohort as a BIDS derivative, and the same as a table with a column of maps."""
    monkeypatch.chdir(tmp_path)
    gpuroi.demo("demo")
    people = pd.read_csv("demo/participants.tsv", sep="\t", dtype=str, keep_default_na=False)
    for who, path in zip(people["participant_id"], people.pop("map"), strict=True):
        Path("glm", who, "func").mkdir(parents=True)
        shutil.copy(Path("demo", path), Path("glm", who, "func"))
    people.to_csv("glm/participants.tsv", sep="\t", index=False)
    options = ["--formula", "map ~ group + age", "--contrast", "age", "--mask", "demo/mask.nii.gz", "--n-perm", "60"]
    options += ["--no-figures", "--device", "cpu"]
    words = ["glm", "out", "group", "--stat", "effect", *options]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/gpuroi-bids", *words])
    assert bids.main() == 0
    assert main(["screen", "demo/participants.tsv", *options, "--out", "screened"]) == 0
    tables = sorted(path.name for path in Path("screened").glob("*.tsv"))
    assert len(tables) >= 5
    for name in tables:
        ours, theirs = (pd.read_csv(Path(folder, name), sep="\t", dtype=str) for folder in ("out/group", "screened"))
        kept = [name for name in theirs if name != "map"]  # paths are absolute in one, and as given in the other
        pd.testing.assert_frame_equal(ours[kept], theirs[kept])
    assert json.loads(Path("out/group/provenance.json").read_text())["command"] == ["gpuroi-bids", *words]
