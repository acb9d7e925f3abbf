"""FSL's VEST files and CSV designs: files written by hand, round trips, PALM's inputs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpuroi.cohort import (
    CohortDesign,
    parse_contrast,
    read_csv_design,
    read_vest_contrasts,
    read_vest_ftests,
    read_vest_groups,
    read_vest_matrix,
    vest_contrasts,
    write_vest,
)
from gpuroi.errors import DataError, OutputError, UsageError
from gpuroi.inference.exchange_blocks import block_tree

pytestmark = pytest.mark.usefixtures("here")

# As FSL's Glm writes them.
MAT = """/NumWaves\t3
/NumPoints\t4
/PPheights\t\t1.000000e+00\t1.000000e+00\t4.500000e+00

/Matrix
1.000000e+00\t0.000000e+00\t-1.500000e+00\t
1.000000e+00\t0.000000e+00\t0.500000e+00\t
0.000000e+00\t1.000000e+00\t3.000000e+00\t
0.000000e+00\t1.000000e+00\t-2.000000e+00\t
"""
CON = """/ContrastName1\t"patients > controls"
/ContrastName2\tage
/NumWaves\t3
/NumContrasts\t2
/PPheights\t\t1.0\t1.0
/RequiredEffect\t\t2.3\t2.3

/Matrix
1 -1 0
0.000000e+00 0.000000e+00 1.000000e+00
"""
FTS = "/NumWaves\t2\n/NumContrasts\t1\n\n/Matrix\n1 1\n"
GRP = "/NumWaves\t1\n/NumPoints\t4\n\n/Matrix\n1\n1\n2\n2\n"
MATRIX = np.array([[1, 0, -1.5], [1, 0, 0.5], [0, 1, 3], [0, 1, -2]])


def write(name: str, text: str) -> Path:
    Path(name).write_bytes(text.encode())
    return Path(name)


@pytest.mark.parametrize("change", [str, lambda t: t.replace("\n", "\r\n"), lambda t: t.replace("\t", " "), str.rstrip])
def test_files_as_fsl_writes_them(change):
    np.testing.assert_array_equal(read_vest_matrix(write("d.mat", change(MAT))), MATRIX)
    names, weights = read_vest_contrasts(write("d.con", change(CON)))
    assert names == ["patients > controls", "age"]
    np.testing.assert_array_equal(weights, [[1, -1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(read_vest_ftests(write("d.fts", change(FTS))), [[True, True]])
    groups = read_vest_groups(write("d.grp", change(GRP)))
    np.testing.assert_array_equal(groups, [1, 1, 2, 2])
    assert groups.dtype == np.int64


def test_contrasts_and_f_tests_together():
    found = vest_contrasts(write("d.con", CON), write("d.fts", FTS), names=["patient", "control", "age"])
    assert [(c.name, c.kind) for c in found] == [("patients > controls", "t"), ("age", "t"), ("f1", "F")]
    np.testing.assert_array_equal(found[2].weights, [[1, -1, 0], [0, 0, 1]])
    assert found[0].text == "`patient` - `control`"
    assert found[0].label == "patientsControls"
    design = CohortDesign(MATRIX, ["patient", "control", "age"], list("abcd"))
    for contrast in found[:2]:
        np.testing.assert_array_equal(parse_contrast(contrast.text, design).weights, contrast.weights)


def test_contrasts_without_names_and_files_that_do_not_fit():
    names, _ = read_vest_contrasts(write("d.con", "/NumWaves 2\n/NumContrasts 2\n/Matrix\n1 0\n0 1\n"))
    assert names == ["c1", "c2"]
    with pytest.raises(DataError, match="2 weights in a row, the design has 3 columns"):
        vest_contrasts("d.con", names=["a", "b", "c"])
    with pytest.raises(DataError, match=r"3 columns, d.con has 2 contrasts"):
        vest_contrasts("d.con", write("d.fts", "/NumWaves 3\n/Matrix\n1 0 1\n"), names=["a", "b"])


tables = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=5),
    elements=st.floats(allow_nan=False, allow_infinity=False),
)


@given(tables)
def test_a_round_trip_keeps_every_bit(table):
    np.testing.assert_array_equal(read_vest_matrix(write_vest("t.mat", table, overwrite=True)), table)
    _, weights = read_vest_contrasts(write_vest("t.con", table, overwrite=True))
    np.testing.assert_array_equal(weights, table)


@given(hnp.arrays(np.int64, st.integers(1, 6), elements=st.integers(-(2**50), 2**50)))
def test_groups_keep_their_sign(groups):
    np.testing.assert_array_equal(read_vest_groups(write_vest("t.grp", groups, overwrite=True)), groups)


@given(st.lists(st.text(alphabet="ab >-_1", min_size=1, max_size=9).filter(str.strip), min_size=1, max_size=4))
def test_names_of_contrasts_come_back(names):
    rows = np.eye(len(names))
    got, _ = read_vest_contrasts(write_vest("t.con", rows, names=names, overwrite=True))
    assert got == [" ".join(name.split()) for name in names]


def test_what_is_written_says_its_size():
    text = write_vest("d.mat", MATRIX).read_text()
    assert text == (
        "/NumWaves\t3\n/NumPoints\t4\n/PPheights\t1\t1\t5\n\n/Matrix\n1\t0\t-1.5\n1\t0\t0.5\n0\t1\t3\n0\t1\t-2\n"
    )
    with pytest.raises(OutputError, match="exists already"):
        write_vest("d.mat", MATRIX)
    assert write_vest("f.fts", np.array([[True, False]])).read_text().endswith("/Matrix\n1\t0\n")
    with pytest.raises(UsageError, match="VEST files are"):
        write_vest("d.txt", MATRIX)
    for broken in ([[np.nan]], np.zeros((0, 2)), np.zeros((2, 2, 2))):
        with pytest.raises(UsageError, match="a table of finite numbers"):
            write_vest("e.mat", broken)
    assert not Path("e.mat").exists()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1 2\n3 4\n", 'no line "/Matrix"'),
        ("/Matrix\n", "no numbers"),
        ("/NumWaves 2\n/Matrix\n1 2\n3\n", "line 4 has 1 numbers, the first has 2"),
        ("/NumWaves 3\n/Matrix\n1 2\n", "/NumWaves is 3, but there are 2 columns"),
        ("/NumPoints 3\n/Matrix\n1 2\n", "/NumPoints is 3, but there are 1 rows"),
        ("/Matrix\n1 x\n", 'line 2: "x" is no finite number'),
        ("/Matrix\n1 nan\n", '"nan" is no finite number'),
        ("/Matrix\n1 1_0\n", '"1_0" is no finite number'),
    ],
)
def test_matrices_that_are_refused(text, what):
    with pytest.raises(DataError, match=what):
        read_vest_matrix(write("d.mat", text))


def test_groups_and_f_tests_that_are_refused():
    with pytest.raises(DataError, match="groups are whole numbers"):
        read_vest_groups(write("d.grp", "/Matrix\n1\n1.5\n"))
    with pytest.raises(DataError, match="0 and 1"):
        read_vest_ftests(write("d.fts", "/Matrix\n1 2\n"))
    with pytest.raises(DataError, match="at least one 1"):
        read_vest_ftests(write("d.fts", "/Matrix\n1 0\n0 0\n"))
    with pytest.raises(DataError, match="no such file"):
        read_vest_matrix("absent.mat")
    Path("binary.mat").write_bytes(b"/Matrix\n\xff\xfe")
    with pytest.raises(DataError, match="not a text file"):
        read_vest_matrix("binary.mat")


def test_csv_with_and_without_a_header():
    design = read_csv_design(write("d.csv", "participant_id,one,age\r\n02,1,30.5\r\n01,1,-4e1\r\n"))
    assert (design.names, design.ids) == (["one", "age"], ["02", "01"])
    np.testing.assert_array_equal(design.matrix, [[1, 30.5], [1, -40]])
    for separator in (",", "\t", " "):
        plain = read_csv_design(write("plain.csv", f"1{separator}2\n3{separator}4\n"))
        assert (plain.names, plain.ids) == (["ev1", "ev2"], None)
        np.testing.assert_array_equal(plain.matrix, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the file is empty"),
        ("a,b\n", "no numbers"),
        ("a,a\n1,2\n", "different names"),
        ("a,b\n1\n", "1 numbers in a row, 2 names"),
        ("a,b\n1,\n", '"" is no finite number'),
        ("a,b\n1,2\n3,n/a\n", 'line 3: "n/a" is no finite number'),
    ],
)
def test_csv_designs_that_are_refused(text, what):
    with pytest.raises(DataError, match=what):
        read_csv_design(write("d.csv", text))


@pytest.mark.parametrize("case", ["paired_blocks_exhaustive8", "wholeblock_exhaustive8", "anova3_covariate_F_n30"])
def test_inputs_of_palm(open_data, case):
    """PALM takes VEST as it takes CSV; both readers give what NumPy reads."""
    folder = open_data.parents[1] / "golden" / case
    want = np.loadtxt(folder / "design.csv", delimiter=",", ndmin=2)
    got = read_csv_design(folder / "design.csv").matrix
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(read_vest_matrix(write_vest("design.mat", got)), want)
    contrasts = read_csv_design(folder / "contrast.csv").matrix
    made = vest_contrasts(write_vest("d.con", contrasts), names=[f"ev{i + 1}" for i in range(want.shape[1])])
    np.testing.assert_array_equal(
        [c.weights for c in made], np.loadtxt(folder / "contrast.csv", delimiter=",", ndmin=2)
    )
    if (folder / "blocks.csv").exists():
        blocks = np.loadtxt(folder / "blocks.csv", delimiter=",").astype(int)
        read = read_vest_groups(write_vest("d.grp", blocks))
        np.testing.assert_array_equal(read, blocks)
        assert block_tree(len(want), read, errors="ee").size == len(want)
    if (folder / "ftest.csv").exists():
        tests = np.loadtxt(folder / "ftest.csv", delimiter=",", ndmin=2)
        np.testing.assert_array_equal(read_vest_ftests(write_vest("d.fts", tests)), tests)
