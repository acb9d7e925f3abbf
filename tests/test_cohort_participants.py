"""The table of participants: what is read, what is refused, and that nobody is lost on the way."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpuroi.cohort import BadInputsError, drop_missing, read_participants
from gpuroi.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("here")


def write(text: str, name: str = "participants.tsv") -> Path:
    Path(name).write_bytes(text.encode())
    return Path(name)


def write_maps(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"-")


def cohort(*rows: str, header: str = "participant_id\tage\tgroup", **how) -> object:
    return read_participants(write("\n".join([header, *rows, ""])), map_column=None, **how)


@pytest.mark.parametrize(
    "text",
    [
        "participant_id\tage\n01\t34\n02\t40\n",
        "\ufeffparticipant_id\tage\n01\t34\n02\t40\n",
        "participant_id\tage\r\n01\t34\r\n02\t40\r\n",
        "participant_id\tage\r\n\r\n01 \t 34\r\n02\t40",
        '"participant_id"\t"age"\n"01"\t"34"\n"02"\t"40"\n',
    ],
)
def test_bytes_of_a_table_do_not_matter(text):
    people = read_participants(write(text), map_column=None)
    assert people.ids == ["01", "02"]
    assert people.table["age"].tolist() == [34, 40]
    assert people.table["age"].dtype == np.int64


def test_csv_by_its_name():
    people = read_participants(write('participant_id,site\n1,"a, b"\n2,c\n', "people.CSV"), map_column=None)
    assert people.ids == ["1", "2"]
    assert people.table["site"].tolist() == ["a, b", "c"]


def test_values_as_pandas_reads_them():
    rows = ["01\t1.5\t1\tx\tn/a\tTrue\tinf", "02\t\t-2\t\tNaN\tFalse\t1e3", "03\t2\t+3\t7\tNA\tTrue\t0"]
    people = cohort(*rows, header="participant_id\tfraction\twhole\tmixed\tnothing\tflag\twide")
    want = pd.read_csv("participants.tsv", sep="\t", dtype={"participant_id": str})
    for name in ("fraction", "whole", "wide"):
        np.testing.assert_array_equal(people.table[name], want[name])
    assert people.table["whole"].dtype == np.int64
    assert people.table["mixed"].tolist() == ["x", None, "7"]
    assert people.table["nothing"].tolist() == [None] * 3
    assert people.table["flag"].tolist() == ["True", "False", "True"]
    assert people.table["participant_id"].tolist() == ["01", "02", "03"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the table is empty"),
        ("\n\n", "the table is empty"),
        ("participant_id\tage\n", "a header and no rows"),
        ("id\tage\n01\t3\n", 'no column "participant_id"; found id, age'),
        ("participant_id\tage\tage\n01\t3\t4\n", 'more than one column is called "age"'),
        ("participant_id\tage\t\n01\t3\t4\n", "column 3 has no name"),
        ("participant_id\tage\n01\t3\t4\n02\n", "3 cells in line 2(.|\n)*1 cells in line 3"),
        ("participant_id\tage\n01\t3\nn/a\t4\n", "line 3 has no participant_id"),
        ("participant_id\tage\n01\t\0\n", "not a text file"),
        ('participant_id\tage\n"01\t3\n', "line 2"),
    ],
)
def test_tables_that_are_refused(text, what):
    with pytest.raises(DataError, match=what):
        read_participants(write(text), map_column=None)


def test_a_table_that_is_not_utf8_and_one_that_is_not_there():
    Path("latin.tsv").write_bytes("participant_id\tname\n01\tJos\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.tsv: not a text file in UTF-8: byte 26"):
        read_participants("latin.tsv", map_column=None)
    with pytest.raises(DataError, match="no such file"):
        read_participants("absent.tsv")
    with pytest.raises(DataError, match="cannot be read"):
        read_participants(".")


def test_maps_lie_beside_the_table():
    write_maps("study/maps/sub-01_map.nii.gz", "study/maps/sub-02_map.nii.gz")
    write("participant_id\tmap\nsub-01\tmaps/sub-01_map.nii.gz\n02\tmaps/sub-02_map.nii.gz\n", "study/participants.tsv")
    people = read_participants("study/participants.tsv")
    assert people.maps == [Path("study/maps/sub-01_map.nii.gz"), Path("study/maps/sub-02_map.nii.gz")]
    assert people.n_named() == 2


def test_template_takes_any_column():
    write_maps("maps/01_pre.nii", "maps/02_post.nii")
    write("participant_id\tsession\n01\tpre\n02\tpost\n")
    people = read_participants("participants.tsv", template="maps/{participant_id}_{session}.nii")
    assert [path.name for path in people.maps] == ["01_pre.nii", "02_post.nii"]
    assert people.n_named() == 0


@pytest.mark.parametrize(
    "template", ["maps/all.nii", "{participant_id", "{}{participant_id.__class__}", "{0}", "a}b{x}"]
)
def test_templates_that_are_refused(template):
    """A template is no format string: its fields are columns and nothing else."""
    write("participant_id\tage\n01\t1\n")
    with pytest.raises((UsageError, DataError), match=r"names no column|no column"):
        read_participants("participants.tsv", template=template)


def test_every_offender_is_named_at_once():
    write_maps("sub-01.nii", "sub-03.nii", "sub-04.nii")
    rows = ["01\tsub-01.nii", "02\tsub-03.nii", "03\tsub-03.nii", "03\tsub-04.nii", "05\tgone.nii", "06\t."]
    write("\n".join(["participant_id\tmap", *rows, ""]))
    with pytest.raises(BadInputsError) as caught:
        read_participants("participants.tsv")
    bad = caught.value.bad_inputs
    assert [(one.participant_id, Path(one.file).name, one.found) for one in bad] == [
        ("03", "participants.tsv", "2 rows of 03"),
        ("02", "sub-03.nii", "sub-03 in the file name"),
        ("03", "sub-04.nii", "sub-04 in the file name"),
        ("05", "gone.nii", "no such file"),
        ("06", "", "a folder"),
        ("03", "sub-03.nii", "the same map for 02 and 03"),
    ]
    for one in bad:
        assert one.found in caught.value.message
    assert caught.value.exit_code == 65
    assert pickle.loads(pickle.dumps(caught.value)).bad_inputs == bad


@pytest.mark.parametrize(
    ("who", "map_path", "fits"),
    [
        ("01", "sub-01_x.nii", True),
        ("sub-01", "sub-01/anat/sub-01_x.nii", True),
        ("sub-01_ses-1", "sub-01_ses-1_x.nii", True),
        ("AB-12", "sub-AB12_x.nii", True),
        ("01", "nosub-02.nii", True),
        ("1", "sub-01_x.nii", False),
        ("01", "sub-02/sub-01_x.nii", False),
        ("01", "group_sub-02.nii", False),
    ],
)
def test_the_id_in_the_path(who, map_path, fits):
    write_maps(map_path)
    write(f"participant_id\tmap\n{who}\t{map_path}\n")
    people = read_participants("participants.tsv", check_files=False)
    assert (people.bad_inputs() == []) is fits


def test_the_folder_of_the_table_says_nothing_of_the_person(tmp_path):
    folder = tmp_path / "sub-99"
    folder.mkdir()
    (folder / "sub-01.nii").write_bytes(b"-")
    (folder / "participants.tsv").write_text("participant_id\tmap\n01\tsub-01.nii\n")
    assert read_participants(folder / "participants.tsv").ids == ["01"]


def test_a_map_without_a_path():
    write("participant_id\tmap\n01\tn/a\n02\t\n")
    with pytest.raises(BadInputsError) as caught:
        read_participants("participants.tsv")
    assert [one.participant_id for one in caught.value.bad_inputs] == ["01", "02"]
    with pytest.raises(DataError, match='no column "path"'):
        read_participants("participants.tsv", map_column="path")


def test_join_goes_by_id_and_tells_who_is_alone():
    people = cohort("01\t30\tx", "02\t40\tx", "10\t50\ty")
    write("participant_id\tscore\n10\t3\n77\t0\n01\t1.5\n", "scores.tsv")
    joined = people.join("scores.tsv")
    assert joined.ids == people.ids
    np.testing.assert_array_equal(joined.table["score"], [1.5, np.nan, 3])
    assert joined.notes == (
        "1 of 3 people are not in scores.tsv: 02",
        "1 ids of scores.tsv are not in the cohort: 77",
    )
    assert "score" not in people.cells


def test_join_agrees_with_pandas(tmp_path):
    rng = np.random.default_rng(0)
    ids = [f"{k:03d}" for k in rng.permutation(200)]
    people = cohort(*(f"{who}\t{20 + k}\tx" for k, who in enumerate(ids)))
    other = pd.DataFrame({"participant_id": rng.permutation(ids)[:150], "iq": rng.normal(size=150)})
    other.to_csv("iq.tsv", sep="\t", index=False)
    want = people.table.merge(other, on="participant_id", how="left")
    got = people.join("iq.tsv").table
    assert got["participant_id"].tolist() == want["participant_id"].tolist()
    np.testing.assert_array_equal(got["iq"], want["iq"])


def test_joins_that_are_refused():
    people = cohort("01\t30\tx", "02\t40\tx")
    write("participant_id\tage\tscore\nsub-01\t1\t2\nsub-01\t1\t2\n", "other.tsv")
    with pytest.raises(BadInputsError) as caught:
        people.join("other.tsv")
    found = [one.found for one in caught.value.bad_inputs]
    assert found[0] == "2 rows of sub-01"
    assert found[1] == 'the column "age"'
    assert found[2].startswith("no id of participants.tsv")
    with pytest.raises(DataError, match='no column "ID"'):
        people.join("other.tsv", id_column="ID")


def test_exclude_notes_who_and_why():
    write_maps("1.nii", "2.nii", "3.nii")
    write("participant_id\tmap\na\t1.nii\nb\t2.nii\nc\t3.nii\n")
    people = read_participants("participants.tsv")
    left = people.exclude([True, False, False], "motion", "6 mm").exclude([1], "asked to leave")
    assert left.ids == ["b"]
    assert [path.name for path in left.maps] == ["2.nii"]
    assert left.excluded.to_numpy().tolist() == [["a", "motion", "6 mm"], ["c", "asked to leave", ""]]
    assert people.ids == ["a", "b", "c"]
    assert len(people.excluded) == 0
    assert people.exclude([], "nothing") is people
    for rows in ([3], [-1], [0.5], [[0]]):
        with pytest.raises(UsageError, match="rows are no mask"):
            people.exclude(rows, "wrong")
    with pytest.raises(UsageError, match="2 details for 1 rows"):
        people.exclude([0], "wrong", ["x", "y"])


def test_missing_covariates_of_the_columns_that_count():
    people = cohort("1\t30\tx", "2\tn/a\t", "3\t\ty", "4\t50\tNaN", "5\t60\ty")
    left = drop_missing(people, ["age"])
    assert left.ids == ["1", "4", "5"]
    assert left.table["age"].dtype == np.int64  # nothing is missing any more
    assert left.excluded.to_numpy().tolist() == [["2", "missing covariate", "age"], ["3", "missing covariate", "age"]]
    both = drop_missing(people, ["age", "group"])
    assert both.ids == ["1", "5"]
    assert both.excluded["detail"].tolist() == ["age, group", "age", "group"]
    assert drop_missing(people, []) is people


def test_missing_covariates_can_be_an_error():
    people = cohort("1\t30\tx", "2\tn/a\tx", "3\t\ty")
    with pytest.raises(BadInputsError) as caught:
        drop_missing(people, ["age"], missing="error")
    assert [one.participant_id for one in caught.value.bad_inputs] == ["2", "3"]
    assert caught.value.exit_code == 65
    with pytest.raises(UsageError, match='missing is "ignore"'):
        drop_missing(people, ["age"], missing="ignore")
    with pytest.raises(DataError, match="all 2 people lack a covariate"):
        drop_missing(cohort("1\t\tx", "2\tn/a\tx"), ["age"])


def test_a_biobank_is_read_in_seconds():
    """The work goes by column and by set: forty thousand ids are not compared one with another."""
    ids = [f"{k:07d}" for k in range(40_000)]
    write("participant_id\tx\n" + "\n".join(f"{who}\t{k % 97}" for k, who in enumerate(ids)))
    write("participant_id\ty\n" + "\n".join(f"{who}\t{k}" for k, who in enumerate(reversed(ids))), "other.tsv")
    started = time.perf_counter()
    table = read_participants("participants.tsv", map_column=None).join("other.tsv").table
    assert time.perf_counter() - started < 10
    assert table["x"].sum() == sum(k % 97 for k in range(40_000))
    assert table["y"].tolist() == list(range(39_999, -1, -1))
