"""Label files, events tables and contrasts: what is read, and what is refused."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from gpuroi.errors import DataError, UsageError
from gpuroi.workflows.conditions import label_volumes, read_conditions, split_contrast

if TYPE_CHECKING:
    from pathlib import Path

THREE = ("rest", "face", "house")


def write(folder: Path, text: str, name: str = "labels.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "labels chunks\nrest 0\nface 0\nhouse 1\n",
        "labels\tchunks\nrest\t0\nface\t0\nhouse\t1\n",
        "chunks,labels\n0,rest\n0,face\n1,house\n",
        '"labels","chunks"\n"rest",0\n"face",0\n"house",1\n',
        "rest 0\nface 0\nhouse 1\n",
        "rest,0\nface,0\nhouse,1",
        "rest\nface\nhouse\n",
        "labels\nrest\nface\nhouse\n",
        "labels chunks\r\nrest 0\r\nface 0\r\nhouse 1\r\n",
        "\ufefflabels chunks\nrest 0\n\nface 0\nhouse 1\n\n",
        "  labels   chunks\n  rest   0\n  face 0\n house    1  \n",
    ],
    ids=["spaces", "tabs", "commas", "quoted", "two", "two-commas", "one", "one-header", "crlf", "bom", "aligned"],
)
def test_label_files(tmp_path, text):
    read = read_conditions(write(tmp_path, text))
    assert read.labels == THREE
    assert label_volumes(read, 3).tolist() == list(THREE)


def test_names_with_spaces_need_a_separator_that_is_none(tmp_path):
    read = read_conditions(write(tmp_path, "labels\tchunks\nleft hand\t0\nx-ray\t0\n"))
    assert read.labels == ("left hand", "x-ray")


@pytest.mark.parametrize("make", [list, tuple, np.array, pd.Series], ids=["list", "tuple", "array", "series"])
def test_labels_in_memory(make):
    assert read_conditions(make(THREE)).labels == THREE


def test_data_frames(tmp_path):
    assert read_conditions(pd.DataFrame({"chunks": [0, 0, 1], "labels": THREE})).labels == THREE
    events = pd.DataFrame({"onset": [2.0], "duration": [4.0], "trial_type": ["face"]})
    assert label_volumes(read_conditions(events), 4, tr_s=2.0).tolist() == ["rest", "face", "face", "rest"]


def brute_force(events: list[tuple[float, float, str]], n: int, tr_s: float) -> list[str]:
    """One volume and one event at a time, in whole microseconds."""
    micro = [(round(o * 1e6), round((o + d) * 1e6), name) for o, d, name in events]
    names = []
    for i in range(n):
        at = i * round(tr_s * 1e6)
        names.append(next((name for start, stop, name in micro if start <= at < stop), "rest"))
    return names


@pytest.mark.parametrize("tr_s", [0.1, 0.72, 0.8, 2.0, 2.1, 2.5, 1 / 3])
@pytest.mark.parametrize("stored", [float, np.float32], ids=["exact", "as-in-a-header"])
def test_events_on_the_grid_of_acquisitions(tmp_path, tr_s, stored):
    # Onsets and ends that fall on acquisitions are where a rounded repetition time would shift a volume.
    tr_s = round(tr_s, 6)
    n = 600
    names = ["face", "house", "x-ray"]
    events = [(round(k * 10 * tr_s, 6), round(7 * tr_s, 6), names[k % 3]) for k in range(n // 10)]
    text = "onset\tduration\ttrial_type\n" + "".join(f"{o}\t{d}\t{name}\n" for o, d, name in events)
    read = read_conditions(write(tmp_path, text, "events.tsv"))
    assert label_volumes(read, n, tr_s=float(stored(tr_s))).tolist() == brute_force(events, n, tr_s)


def test_events_between_acquisitions_and_beyond_the_run(tmp_path):
    text = "onset duration trial_type\n-3 4 early\n3.9 0.3 short\n5 0.5 missed\n8 100 late\n7 0 nothing\n"
    read = read_conditions(write(tmp_path, text))
    assert label_volumes(read, 6, tr_s=2.0).tolist() == ["early", "rest", "short", "rest", "late", "late"]


def test_rows_without_a_condition_are_no_events(tmp_path):
    text = "onset\tduration\ttrial_type\n0\t2\tn/a\n2\t2\tface\n"
    assert label_volumes(read_conditions(write(tmp_path, text)), 2, tr_s=2.0).tolist() == ["rest", "face"]


def test_overlap_between_the_conditions_compared_is_refused(tmp_path):
    text = "onset\tduration\ttrial_type\n0\t6\tface\n4\t4\thouse\n"
    path = write(tmp_path, text, "run-1_events.tsv")
    with pytest.raises(DataError) as caught:
        label_volumes(read_conditions(path), 5, tr_s=2.0, contrast=("face", "house"))
    for part in (str(path), "lines 2 (face) and 3 (house)", "volume 2", "at 4 s"):
        assert part in caught.value.message
    assert "must not overlap" in caught.value.hint


@pytest.mark.parametrize("order", [0, 1])
def test_overlap_with_another_condition_goes_to_the_contrast(tmp_path, order):
    rows = ["0\t4\tface\n", "2\t4\tbutton\n"][:: 1 - 2 * order]
    read = read_conditions(write(tmp_path, "onset\tduration\ttrial_type\n" + "".join(rows)))
    got = label_volumes(read, 4, tr_s=2.0, contrast=("face", "house")).tolist()
    assert got == ["face", "face", "button", "rest"]


def test_overlap_of_two_other_conditions_goes_to_the_later_row(tmp_path):
    read = read_conditions(write(tmp_path, "onset\tduration\ttrial_type\n0\t4\tcat\n2\t4\tshoe\n"))
    assert label_volumes(read, 3, tr_s=2.0, contrast=("face", "house")).tolist() == ["cat", "shoe", "shoe"]


@pytest.mark.parametrize("tr_s", [None, 0.0, float("nan"), float("inf"), -2.0])
def test_events_without_a_repetition_time(tmp_path, tr_s):
    read = read_conditions(write(tmp_path, "onset\tduration\ttrial_type\n0\t4\tface\n"))
    with pytest.raises(DataError, match="no repetition time") as caught:
        label_volumes(read, 3, tr_s=tr_s, image="bold.nii.gz")
    assert "bold.nii.gz" in caught.value.message
    assert "tr=2.5" in caught.value.hint


def test_the_number_of_labels_has_to_be_the_number_of_volumes(tmp_path):
    path = write(tmp_path, "labels chunks\nface 0\nhouse 0\n")
    with pytest.raises(DataError) as caught:
        label_volumes(read_conditions(path), 5, image="bold.nii.gz")
    assert f"{path} has 2 labels, but bold.nii.gz has 5 volumes" in caught.value.message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n \n\t\n", "is empty"),
        (b"\x1f\x8b\x08\x00\x00\x00", "not a text file"),
        (b"face\0house\0", "not a text file"),
        (b"labels\xff\xfe\n", "not a text file"),
        (b"condition\trun\nface\t1\n", "starts with condition, run"),
        (b"face 0 extra\nhouse 0 extra\n", "starts with face, 0, extra"),
        (b"labels chunks\nface 0\nhouse\n", "line 3: 1 columns, but the first line has 2"),
        (b"labels chunks\n", "a header and no labels"),
        (b"labels,chunks\n,0\n", "line 2: the label is empty"),
        (b"face 0\nhouse one\n", 'line 2: the second column is "one"'),
        (b"onset\tduration\n0\t2\n", "lacks trial_type"),
        (b"onset\ttrial_type\n0\tface\n", "lacks duration"),
        (b"onset\tduration\ttrial_type\n", "a header and no events"),
        (b"onset\tduration\ttrial_type\n0\tn/a\tface\n", 'line 2: "n/a" is not a time'),
        (b"onset\tduration\ttrial_type\nx\t2\tface\n", 'line 2: "x" is not a time'),
        (b"onset\tduration\ttrial_type\n0\t-2\tface\n", "line 2: the duration is -2 s"),
        (b"onset\tduration\ttrial_type\n0\tinf\tface\n", 'line 2: "inf" is not a time'),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, said):
    path = tmp_path / "labels.tsv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_conditions(path)
    assert said in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 65


@pytest.mark.parametrize(("name", "said"), [("missing.tsv", "no such file"), (".", "cannot be read: it is a folder")])
def test_paths_that_cannot_be_read(tmp_path, name, said):
    with pytest.raises(DataError, match=said) as caught:
        read_conditions(tmp_path / name)
    assert str(tmp_path) in caught.value.message


def test_labels_in_two_dimensions_are_refused():
    with pytest.raises(DataError, match=r"shape \(2, 2\)"):
        read_conditions(np.zeros((2, 2)), name="the conditions of run 1")


@pytest.mark.parametrize(
    ("contrast", "expected"),
    [
        ("face-house", ("face", "house")),
        (" face - house ", ("face", "house")),
        ("x-ray-face", ("x-ray", "face")),
        ("face-x-ray", ("face", "x-ray")),
        ("x-ray - x-ray-2", ("x-ray", "x-ray-2")),
        ("left hand - x-ray", ("left hand", "x-ray")),
    ],
)
def test_contrasts(contrast, expected):
    known = dict.fromkeys(["face", "house", "x-ray", "x-ray-2", "left hand"], 9)
    assert split_contrast(contrast, known) == expected


def test_an_unknown_condition_lists_those_that_occur():
    with pytest.raises(DataError) as caught:
        split_contrast("face-hose", {"house": 108, "face": 107, "rest": 588}, found_in="labels.txt")
    assert caught.value.message == 'contrast "face-hose": "hose" does not occur in labels.txt'
    assert caught.value.hint == "found: face (107 volumes), house (108 volumes), rest (588 volumes)"


def test_two_unknown_conditions_are_both_named():
    with pytest.raises(DataError, match='"a" and "b" do not occur'):
        split_contrast("a-b", {"face": 2})


@pytest.mark.parametrize("contrast", ["face", "", "-", "face-", "-house", " - "])
def test_contrasts_that_name_no_two_conditions(contrast):
    with pytest.raises(UsageError, match="does not name two conditions"):
        split_contrast(contrast, {"face": 2, "house": 2})


def test_a_condition_against_itself():
    with pytest.raises(UsageError, match="with itself"):
        split_contrast("face-face", {"face": 2, "house": 2})


def test_a_contrast_that_can_be_read_in_two_ways():
    with pytest.raises(UsageError, match='"a" minus "b-c" or "a-b" minus "c"'):
        split_contrast("a-b-c", dict.fromkeys(["a", "b-c", "a-b", "c"], 2))


def test_haxby_attributes(open_data):
    labels = label_volumes(read_conditions(open_data / "haxby2001_pymvpa" / "attributes_literal.txt"), 1452)
    names, counts = np.unique(labels, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True))["rest"] == 588
    assert counts[names != "rest"].tolist() == [108] * 8


@pytest.mark.parametrize("run", range(1, 13))
def test_haxby_events(open_data, run):
    path = (
        open_data / "haxby2001_pymvpa" / "haxby2001" / "sub001" / "BOLD" / f"task001_run{run:03d}" / "bold_events.tsv"
    )
    with path.open(newline="") as file:
        rows = [
            (float(r["onset"]), float(r["duration"]), r["trial_type"]) for r in csv.DictReader(file, delimiter="\t")
        ]
    got = label_volumes(read_conditions(path), 121, tr_s=2.5)
    assert got.tolist() == brute_force(rows, 121, 2.5)
    assert (got == "face").sum() == 9
