"""Hostile files by name: false sizes, odd names, pipes, devices, links, wide tables, deep formulas; and no code."""

from __future__ import annotations

import ast
import contextlib
import gzip
import json
import os
import signal
import struct
import time
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from fuzz.images import _afni, _minc
from test_images_hostile import nifti, refused

import gpuroi
from gpuroi.cli import config_file
from gpuroi.cohort import BadInputsError, CohortDesign, parse_contrast, read_participants
from gpuroi.cohort.formula import read_formula
from gpuroi.cohort.vest import read_csv_design, read_vest_groups, read_vest_matrix
from gpuroi.errors import DataError, UsageError
from gpuroi.images import open_image
from gpuroi.images.atlas_names import read_label_names
from gpuroi.parcels.graph_files import load_graph
from gpuroi.parcels.values import read_id_table
from gpuroi.workflows.conditions import read_conditions

PACKAGE = Path(gpuroi.__file__).parent
READERS = {
    "image": (open_image, "x.nii.gz"),
    "pair": (open_image, "x.hdr"),
    "participants": (lambda path: read_participants(path, map_column=None), "x.tsv"),
    "VEST": (read_vest_matrix, "x.mat"),
    "CSV design": (read_csv_design, "x.csv"),
    "names": (read_label_names, "x.tsv"),
    "colours": (read_label_names, "x.ctab"),
    "FSL atlas": (read_label_names, "x.xml"),
    "conditions": (read_conditions, "x.tsv"),
    "parcel values": (read_id_table, "x.tsv"),
    "graph": (load_graph, "x.tsv"),
    "options": (config_file._read, "x.toml"),
}


@pytest.fixture(autouse=True)
def _no_waiting():
    """Nothing here may take long; a pipe that is opened would be waited for without end."""

    def ring(signum, frame):
        raise TimeoutError("nothing came back")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "dangling", "absent", "long name", "NUL"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, reader, kind):
    read, name = READERS[reader]
    path = tmp_path / name
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(path)
        case "dangling":
            path.symlink_to(tmp_path / "nowhere")
        case "long name":
            path = tmp_path / ("a" * 300 + path.suffix)
        case "NUL":
            path = Path(f"a\0b{path.suffix}")
    with pytest.raises(DataError) as caught:
        read(path)
    assert path.name[:80] in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("compressed", [False, True])
def test_400_bytes_that_claim_an_axis_of_32767_three_times(tmp_path, compressed):
    raw = nifti(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])[:400]
    path = tmp_path / ("x.nii.gz" if compressed else "x.nii")
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    tracemalloc.start()
    refused(path, "promises")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("length", [0, 1, 7, -16, 2**31 - 1, 1 << 28])
def test_extensions_of_a_pair_that_do_not_end_take_no_memory(tmp_path, length):
    raw = nifti(magic=b"ni1", vox_offset=0)
    (tmp_path / "x.hdr").write_bytes(raw[:348] + b"\1\0\0\0" + struct.pack("<ii", length, 6) + b"12345678")
    (tmp_path / "x.img").write_bytes(raw[352:])
    open_image(nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4)))  # nibabel is imported
    tracemalloc.start()
    refused(tmp_path / "x.hdr", "extension")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_netcdf_that_claims_gigabytes_takes_no_memory(tmp_path):
    path = tmp_path / "x.mnc"
    path.write_bytes(_minc())
    assert open_image(path).read_one().shape == (3, 4, 5)
    tracemalloc.start()
    for at in range(4, 400, 4):  # each of the lengths in its header, one after the other
        raw = bytearray(_minc())
        raw[at : at + 4] = (2**31 - 1).to_bytes(4, "big")
        path.write_bytes(raw)
        with contextlib.suppress(DataError):
            open_image(path).read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def test_a_place_in_space_that_two_readers_see_differently_is_refused(tmp_path):
    (tmp_path / "x.nii").write_bytes(nifti(sform_code=100, qform_code=1))
    refused(tmp_path / "x.nii", "the affine is in space 100; expected a code from 0 to 5")
    (tmp_path / "x.nii").write_bytes(nifti(sform_code=-1, qform_code=1, pixdim=[1, 2, 2, 9, 1, 1, 1, 1]))
    image = open_image(tmp_path / "x.nii")
    np.testing.assert_array_equal(image.affine, nib.load(tmp_path / "x.nii").affine)
    assert image.zooms_mm.tolist() == [2, 2, 9]
    (tmp_path / "x.nii").write_bytes(nifti(version=2, srow_x=[1e300, 0, 0, 0], sform_code=1))
    refused(tmp_path / "x.nii", "none may be infinite")


NAMES = [
    "with spaces.nii.gz",
    "quotes\"'`.nii.gz",
    "line\nbreak\ttab.nii.gz",
    "\N{LATIN SMALL LETTER E WITH ACUTE}\N{GRINNING FACE}\N{RIGHT-TO-LEFT OVERRIDE}.nii.gz",
    os.fsdecode(b"latin-\xe9.nii.gz"),
    "<script>alert(1)<&amp;>.nii.gz",
    "[a-z]*?.nii.gz",
    "$x_{2}$ \\frac %s {0}.nii.gz",
    "-rf.nii.gz",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_file_goes_through_to_the_report(here, name):
    data = np.zeros((8, 8, 8), np.float32)
    data[2:5, 2:5, 2:5] = 4
    nib.save(nib.Nifti1Image(data, np.diag([2.0, 2, 2, 1])), "plain.nii.gz")
    Path("plain.nii.gz").rename(name)
    result = gpuroi.regions(name, threshold=3.0, device="cpu")
    result.save("out")
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    stored = json.loads(Path("out/provenance.json").read_text(encoding="utf-8"))["inputs"][0]["path"]
    assert Path(stored).name == name
    assert len(pd.read_csv("out/atlas.tsv", sep="\t")) == 1


def test_wide_and_odd_tables(here):
    columns = 100_000
    Path("wide.tsv").write_text(
        "participant_id\t" + "\t".join(f"c{k}" for k in range(columns)) + "\n" + "01" + "\t1" * columns + "\n"
    )
    started = time.perf_counter()
    assert read_participants("wide.tsv", map_column=None).cells.shape == (1, columns + 1)
    with pytest.raises(DataError) as caught:
        read_id_table("wide.tsv")
    assert time.perf_counter() - started < 5
    assert len(str(caught.value)) < 2000
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        Path("t.tsv").write_bytes("participant_id\tage\n01\t3\n".encode(encoding))
        with pytest.raises(DataError, match="not a text file"):
            read_participants("t.tsv", map_column=None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("index\tname\n1\n", "1 cells in line 2; expected 2"),
        ("index\tname\n1\ta\tb\n", "3 cells in line 2; expected 2"),  # pandas takes the first column for an index
        ("index\tname\tname\n1\ta\tb\n", "more than one column is called name"),
        ('index\tname\n1\t"a\n', "line 2"),
    ],
)
def test_ragged_tables_are_no_tables(here, text, said):
    Path("t.tsv").write_text(text)
    for read in (read_label_names, read_id_table):
        with pytest.raises(DataError, match=said):
            read("t.tsv")


def test_separators_at_the_ends_of_lines_do_no_harm(here):
    Path("t.tsv").write_text("index\tname\t\n1\ta\t\n2\tb\t\t\n")
    assert dict(read_label_names("t.tsv")) == {1: "a", 2: "b"}


def test_numbers_that_int64_cannot_hold(here):
    Path("d.grp").write_text("/Matrix\n1\n1e300\n")
    with pytest.raises(DataError, match="whole numbers"):
        read_vest_groups("d.grp")
    Path("g.tsv").write_text(
        "kind\tid\tneighbour\tweight\tunit\tvoxels\nparcel\t1\tn/a\t1\tvoxels\t1e30\nparcel\t2\tn/a\t1\tvoxels\t2\n"
    )
    with pytest.raises(DataError, match="no whole number"):
        load_graph("g.tsv")


def test_maps_that_are_no_files_are_listed(here):
    os.mkfifo("pipe.nii")
    Path("loop.nii").symlink_to("loop.nii")
    Path("p.tsv").write_text(f"participant_id\tmap\n1\tpipe.nii\n2\tloop.nii\n3\t{'a' * 300}\n4\t.\n")
    with pytest.raises(BadInputsError) as caught:
        read_participants("p.tsv")
    found = [one.found for one in caught.value.bad_inputs]
    assert found == ["no regular file", "Too many levels of symbolic links", "File name too long", "a folder"]


FORMULAS = {
    "nested functions": ("log(" * 3000 + "age" + ")" * 3000, "parentheses inside each other"),
    "nested parentheses": ("(" * 5000 + "age" + ")" * 5000, "parentheses inside each other"),
    "very long": ("age" + " + age" * 100_000, "characters in all"),
    "all interactions": ("*".join(f"c{k}" for k in range(40)), "more than 1000 terms"),
    "powers of powers": ("(age + iq)**4**4**4", "more than 1000 terms"),
    "a power in disguise": ("(age + iq)**0000000021", "after [*][*]"),
    "a huge number": ("1" * 5000, "only 0 and 1 stand alone"),
}


@pytest.mark.parametrize("case", FORMULAS)
def test_formulas_without_end_are_refused_at_once(case):
    formula, said = FORMULAS[case]
    started = time.perf_counter()
    with pytest.raises(UsageError, match=said) as caught:
        read_formula(formula, ["age", "iq", *(f"c{k}" for k in range(40))])
    assert time.perf_counter() - started < 0.5
    assert len(str(caught.value)) < 1000


def test_interactions_that_people_use_are_within_the_limit():
    names = [f"c{k}" for k in range(40)]
    assert len(read_formula(" + ".join(names) + " + c0*c1*c2 + (c3 + c4 + c5)**2", names).columns) == 40
    assert read_formula("*".join(names[:9]), names).text.count("*") == 8  # 511 terms


@pytest.mark.parametrize(
    "text", ["(" * 5000 + "a", "-" * 5000 + "a", "a" + " + a" * 100_000, "`" * 9999, "2*" * 9000 + "a", "1e308*10*a"]
)
def test_contrasts_without_end_are_refused_at_once(text):
    design = CohortDesign(np.random.default_rng(0).normal(size=(9, 2)), ["a", "b"], list("123456789"))
    started = time.perf_counter()
    with pytest.raises((UsageError, DataError)) as caught:
        parse_contrast(text, design)
    assert time.perf_counter() - started < 1
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["a = " + "[" * 50_000, "a = " + "{a=" * 50_000, "a." * 50_000 + "b = 1", "a = 1\0"])
def test_options_without_end_are_refused_at_once(here, text):
    Path("c.toml").write_text(text)
    started = time.perf_counter()
    with pytest.raises(DataError, match=r"c\.toml"):
        config_file._read(Path("c.toml"))
    assert time.perf_counter() - started < 2


def test_afni_headers_are_text_and_no_code(tmp_path):
    (tmp_path / "x+orig.HEAD").write_bytes(_afni().replace(b"3 4 5 0 0", b"__import__('os')"))
    (tmp_path / "x+orig.BRIK").write_bytes(bytes(120))
    refused(tmp_path / "x+orig.HEAD", "cannot be read as an image")


# ------------------------------------------------------------------ no data are code, in the whole package

CODE = {"eval", "exec", "compile", "__import__", "execfile"}
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle", "yaml"}
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALLOWED = {
    "distributed/tasks.py": {"pickle", "cloudpickle"},  # what Dask sends to its own workers
    "nilearn/scikit_learn.py": {"joblib"},  # nilearn's argument `memory`: a cache that the user asks for
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_source_evaluates_code_or_loads_pickles(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            assert not (isinstance(node.func, ast.Name) and node.func.id in CODE), where
            assert ast.unparse(node.func) not in ("os.system", "os.popen"), where
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else "?"
                assert keyword.arg != "allow_pickle" or value is False, where
                assert keyword.arg != "shell" or value is False, where
            if isinstance(node.func, ast.Attribute) and node.func.attr == "load":
                owner = ast.unparse(node.func.value)
                words = {keyword.arg for keyword in node.keywords}
                assert owner not in ("np", "numpy") or "allow_pickle" in words, where  # the default may change
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        allowed = ALLOWED.get(path.relative_to(PACKAGE).as_posix(), set())
        assert not {name.partition(".")[0] for name in names} & PICKLES - allowed, where


def test_the_check_of_the_sources_sees_them():
    assert len(SOURCES) > 100
