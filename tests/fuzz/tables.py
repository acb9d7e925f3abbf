"""Tables of text: participants, designs, FSL's VEST files, names of regions, labels of volumes, parcels and graphs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd

from gpuroi.cohort import read_participants
from gpuroi.cohort.vest import (
    read_csv_design,
    read_vest_contrasts,
    read_vest_ftests,
    read_vest_groups,
    read_vest_matrix,
)
from gpuroi.errors import GpuroiError
from gpuroi.images.atlas_names import read_label_names
from gpuroi.parcels.graph_files import load_graph
from gpuroi.parcels.values import named_ids, read_id_table
from gpuroi.workflows.conditions import read_conditions

from .judge import Case, Target, WrongAnswerError
from .mutate import damaged_bytes, damaged_table

__all__ = ["TARGETS"]

_PEOPLE = b"participant_id\tgroup\tage\tmap\nsub-01\ta\t31\tm/sub-01.nii\nsub-02\tb\tn/a\tm/sub-02.nii\n\
sub-03\ta\t44.5\tm/sub-03.nii\nsub-04\tb\t29\tm/sub-04.nii\n"
_MAT = b"/NumWaves\t2\n/NumPoints\t4\n/PPheights\t0\t3\n\n/Matrix\n1\t0.5\n1\t-0.5\n1\t2.5e-01\n1\t-1\n"
_CON = b"/ContrastName1\tmean\n/ContrastName2\tage\n/NumWaves\t2\n/NumContrasts\t2\n\n/Matrix\n1 0\n0 1\n"
_FTS = b"/NumWaves\t2\n/NumContrasts\t1\n\n/Matrix\n1\t1\n"
_GRP = b"/NumWaves\t1\n/NumPoints\t3\n\n/Matrix\n1\n1\n2\n"
_CSV = b"participant_id,intercept,age\nsub-01,1,31\nsub-02,1,27.5\nsub-03,1,44\n"
_DSEG = b"index\tname\tcolor\n0\tBackground\t#000000\n1\tInsula\t#ff0000\n17\tV1 left\t#00ff00\n"
_LUT = b"# numbers, names, colours\n0   Unknown            0   0   0   0\n10  Left-Thalamus      0 118  14   0\n\
17  Left-Hippocampus  220 216  20   0\n"
_XML = (
    b'<?xml version="1.0" encoding="ISO-8859-1"?>\n<atlas version="1.0">\n<header><name>X</name>\n<type>Label</type>\n\
</header>\n<data>\n<label index="0" x="1" y="2" z="3">Frontal Pole</label>\n<label index="1">Insula &amp; co</label>\n\
</data>\n</atlas>\n'
)
_EVENTS = b"onset\tduration\ttrial_type\n0.0\t10\tface\n20\t10\thouse\n40\t10.5\tface\n60\tn/a\tn/a\n"
_LABELS = b"labels\tchunks\nrest\t0\nface\t0\nhouse\t0\nface\t1\n"
_VALUES = b"index\tvalue\tname\n1\t0.5\tA\n2\t-3.25\tB\n30\tn/a\tC\n"
_GRAPH = b"kind\tid\tneighbour\tcontact\tcontact_mm2\tweight\tunit\nparcel\t1\tn/a\tn/a\tn/a\t3\tvoxels\n\
parcel\t2\tn/a\tn/a\tn/a\t4\tvoxels\nparcel\t9\tn/a\tn/a\tn/a\t1\tvoxels\ncontact\t1\t2\t3\t12\tn/a\tn/a\n"

Compare = Callable[[Path, Any], str]


def _file(
    random: Random,
    folder: Path,
    *,
    raw: bytes,
    names: tuple[str, ...],
    separator: str | None,
    read: Callable[[Path], Any],
    compare: Compare,
) -> Case:
    path = folder / random.choice(names)
    if separator == "bytes":
        path.write_bytes(damaged_bytes(random, raw))
    else:
        text = raw.replace(b"\t", b",") if path.suffix == ".csv" else raw
        path.write_bytes(damaged_table(random, text, "," if path.suffix == ".csv" else separator))
    return Case(partial(read, path), lambda answer: _compared(compare, path, answer), path.name)


def _compared(compare: Compare, path: Path, answer: Any) -> str:
    return "refused" if isinstance(answer, GpuroiError) else compare(path, answer)


def _read_people(path: Path) -> Any:
    people = read_participants(path, check_files=False)
    return people, people.table, people.bad_inputs()


def _as_pandas(path: Path, answer: Any) -> str:
    """Hold a table against the one that pandas reads, where it reads one that is as wide."""
    people, values, bad = answer
    repeated = len(set(people.ids)) < len(people.ids)
    if repeated and not any("rows of" in one.found for one in bad):
        raise WrongAnswerError(f"ids {people.ids} pass for unique")
    if not len(people.maps) == len(people) == len(values):
        raise WrongAnswerError(f"{len(people)} people, {len(people.maps)} maps, {len(values)} rows of values")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        separator = "," if path.suffix == ".csv" else "\t"
        frame = pd.read_csv(io.StringIO(text, newline=""), sep=separator, dtype=str, keep_default_na=False)
    except (ValueError, pd.errors.ParserError):
        return "unchecked"
    frame = frame[~(frame.map(str.strip) == "").all(axis=1)]
    if frame.shape != people.cells.shape:
        return "unchecked"
    theirs = frame.map(str.strip).to_numpy().tolist()
    if theirs != people.cells.to_numpy().tolist():
        raise WrongAnswerError(f"cells {people.cells.to_numpy().tolist()}, pandas reads {theirs}")
    return "agrees"


def _as_loadtxt(path: Path, answer: Any) -> str:
    """Hold the numbers of a VEST file against those that NumPy reads below /Matrix."""
    ours = answer[1] if isinstance(answer, tuple) else answer
    if not np.isfinite(ours).all():
        raise WrongAnswerError(f"numbers that are none: {ours}")
    try:
        lines = path.read_bytes().decode("utf-8-sig").partition("/Matrix")[2].splitlines()
        theirs = np.loadtxt([line for line in lines if line.strip()], comments=None, ndmin=2)
    except ValueError:
        return "unchecked"
    return _same_numbers(ours[:, None] if ours.ndim == 1 else ours, theirs)


def _as_reader(path: Path, answer: Any) -> str:
    """Hold a CSV design against the numbers that Python's csv and float read, cell by cell."""
    if not np.isfinite(answer.matrix).all() or len(set(answer.names)) < len(answer.names):
        raise WrongAnswerError(f"{answer}")
    text = path.read_bytes().decode("utf-8-sig")
    mark = next((mark for mark in ",\t" if all(mark in line for line in text.splitlines() if line.strip())), None)
    if mark is None or '"' in text:
        return "unchecked"
    numbers = []
    for row in csv.reader([line for line in text.splitlines() if line.strip()], delimiter=mark):
        try:
            numbers.append([float(cell) for cell in row[-answer.matrix.shape[1] :]])
        except ValueError:
            continue  # the header
    if (
        {len(row) for row in numbers} != {answer.matrix.shape[1]}
        or answer.ids is None
        or len(numbers) != len(answer.ids)
    ):
        return "unchecked"
    return _same_numbers(answer.matrix, np.array(numbers))


def _same_numbers(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> str:
    if ours.shape != theirs.shape or not np.array_equal(ours, theirs):
        raise WrongAnswerError(f"numbers {ours.tolist()}, expected {theirs.tolist()}"[:400])
    return "agrees"


def _names_are_there(path: Path, names: Any) -> str:
    """Every number is a whole one of int32, and every name stands in the file."""
    raw = path.read_bytes()
    text = raw.decode("utf-8-sig", "replace") + raw.decode("latin-1")
    text = text.replace("&amp;", "&") + text.replace('""', '"')
    for number, name in names.items():
        if not 0 < number < 2**31 or not isinstance(name, str):
            raise WrongAnswerError(f"{number!r}: {name!r}")
        if path.suffix != ".xml" and not all(word in text for word in name.split()):
            raise WrongAnswerError(f"the name {name!r} is not in the file")
    return "unchecked"


def _times_are_times(path: Path, answer: Any) -> str:
    for event in answer.events or ():
        if not math.isfinite(event.onset_s) or not event.duration_s >= 0:
            raise WrongAnswerError(f"{event}")
    if not answer.events and not answer.labels:
        raise WrongAnswerError("neither events nor labels")
    return "unchecked"


def _read_values(path: Path) -> Any:
    table, key, name = read_id_table(path)
    return named_ids(table[key], name)


def _ids_are_ids(path: Path, ids: Any) -> str:
    if ids.dtype != np.int64 or len(set(ids.tolist())) < len(ids):
        raise WrongAnswerError(f"ids {ids}")
    return "unchecked"


def _graph_is_one(path: Path, graph: Any) -> str:
    if not set(graph.edges.ravel().tolist()) <= set(graph.ids.tolist()) or not np.isfinite(graph.weights).all():
        raise WrongAnswerError(f"ids {graph.ids}, edges {graph.edges.tolist()}, weights {graph.weights}")
    return "unchecked"


def _either(random: Random, folder: Path, makers: tuple[Any, ...]) -> Case:
    case: Case = random.choice(makers)(random, folder)
    return case


_Make = partial[Case]


def _kind(raw: bytes, names: tuple[str, ...], separator: str | None, read: Any, compare: Compare) -> _Make:
    return partial(_file, raw=raw, names=names, separator=separator, read=read, compare=compare)


_TABLE = ("t.tsv", "t.tsv", "t.csv")
_VEST = tuple(
    _kind(raw, (f"design.{suffix}",), separator, read, _as_loadtxt)
    for raw, suffix, read in (
        (_MAT, "mat", read_vest_matrix),
        (_CON, "con", read_vest_contrasts),
        (_FTS, "fts", read_vest_ftests),
        (_GRP, "grp", read_vest_groups),
    )
    for separator in ("\t", None, "bytes")
)
_NAMES = (
    _kind(_DSEG, _TABLE, "\t", read_label_names, _names_are_there),
    _kind(_LUT, ("t.txt", "t.lut", "t.ctab"), None, read_label_names, _names_are_there),
    _kind(_XML, ("t.xml",), " ", read_label_names, _names_are_there),
    _kind(_XML, ("t.xml",), "bytes", read_label_names, _names_are_there),
)
_RUNS = (
    _kind(_EVENTS, _TABLE, "\t", read_conditions, _times_are_times),
    _kind(_LABELS, ("t.tsv", "t.txt", "t.csv"), "\t", read_conditions, _times_are_times),
    _kind(_LABELS, ("t.txt",), None, read_conditions, _times_are_times),
)
_PARCELS = (
    _kind(_VALUES, _TABLE, "\t", _read_values, _ids_are_ids),
    _kind(_GRAPH, ("t.tsv",), "\t", load_graph, _graph_is_one),
)

TARGETS = (
    Target("participants", _kind(_PEOPLE, _TABLE, "\t", _read_people, _as_pandas), 8),
    Target("designs", _kind(_CSV, ("d.csv", "d.tsv", "d.txt"), ",", read_csv_design, _as_reader), 4),
    Target("vest", partial(_either, makers=_VEST), 5),
    Target("region-names", partial(_either, makers=_NAMES), 6),
    Target("conditions", partial(_either, makers=_RUNS), 5),
    Target("parcels", partial(_either, makers=_PARCELS), 5),
)
