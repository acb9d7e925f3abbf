"""Hostile inputs, a few hundred of each kind; the long run is `python -m tests.fuzz`."""

from __future__ import annotations

import builtins
import gc
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fuzz import __main__ as command
from fuzz.judge import FAULTS, FINE, TRAP, Case, Target, WrongAnswerError, arm_trap, input_of, judge
from fuzz.run import run
from fuzz.targets import TARGETS

from gpuroi.errors import DataError

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


# nibabel, whose answers ours are compared with, leaves files open that it refuses.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_every_input_is_read_rightly_or_refused(name):
    tally = run(TARGETS[name], 1, range(250 if name != "formulas" else 120))
    gc.collect()  # here, not in the test that happens to come next
    assert tally.faults == []
    assert set(tally.outcomes) <= set(FINE)
    assert tally.outcomes["refused"] > 20  # the inputs are hostile ...
    assert sum(tally.outcomes.values()) > tally.outcomes["refused"]  # ... and not all of them hopeless


def test_inputs_are_a_function_of_their_number(tmp_path):
    def files(name, seed, number):
        folder = tmp_path / f"{name}-{seed}-{number}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        input_of(TARGETS[name], seed, number, folder)
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    for name in ("nifti", "gzip", "participants", "stores"):
        assert files(name, 0, 7) == files(name, 0, 7)
        assert files(name, 0, 7) != files(name, 1, 7)
        assert files(name, 0, 7) != files(name, 0, 8)


def refuse(error):
    raise error


def wait():
    while True:
        pass


@pytest.mark.parametrize(
    ("read", "compare", "outcome"),
    [
        (lambda: 1, lambda answer: "agrees", "agrees"),
        (lambda: refuse(DataError("f.tsv: broken", "mend it")), lambda answer: "refused", "refused"),
        (lambda: refuse(DataError("broken", "mend it")), lambda answer: "refused", "wrong"),  # does not name the file
        (lambda: refuse(DataError("f.tsv" + "x" * 30_000)), lambda answer: "refused", "wrong"),
        (lambda: 1, lambda answer: refuse(WrongAnswerError("2")), "wrong"),
        (lambda: 1 / 0, lambda answer: "agrees", "error"),
        (lambda: [0] * (1 << 30), lambda answer: "agrees", "memory"),
        (lambda: refuse(RecursionError()), lambda answer: "agrees", "error"),
        (lambda: getattr(builtins, TRAP)(), lambda answer: "agrees", "wrong"),
        (wait, lambda answer: "agrees", "slow"),
    ],
)
def test_the_judge_sees_what_must_not_be(monkeypatch, read, compare, outcome):
    monkeypatch.setattr("fuzz.judge._MOST_WALL_SECONDS", 0.3)
    monkeypatch.setattr("fuzz.judge._MOST_BYTES", 1 << 20)
    arm_trap()
    size = [0] * (1 << 18) if outcome == "memory" else None
    verdict = judge(Case((lambda: list(size) and 1) if size else read, compare, "f.tsv"))
    assert verdict.outcome == outcome
    assert verdict.is_fault == (outcome in FAULTS)


def test_an_input_that_kills_its_process_is_noted_and_the_next_ones_follow(monkeypatch):
    def dead(words, **_):
        start, stop = int(words[words.index("--range") + 1]), int(words[words.index("--range") + 2])
        if start <= 3 < stop:
            Path(words[words.index("--progress") + 1]).write_text("3")
            return SimpleNamespace(returncode=-11, stdout="", stderr="Segmentation fault")
        tally = run(
            Target("x", lambda random, folder: Case(lambda: 1, lambda answer: "agrees"), 1), 0, range(start, stop)
        )
        return SimpleNamespace(returncode=0, stdout=json.dumps(tally.as_dict()), stderr="")

    monkeypatch.setattr(command.subprocess, "run", dead)
    monkeypatch.setitem(TARGETS, "x", Target("x", lambda random, folder: Case(lambda: 1, lambda answer: "agrees"), 1))
    tally = command._run_in_children("x", 0, 10)
    assert tally.outcomes == {"killed": 1, "agrees": 9}
    assert [(fault["input"], fault["outcome"]) for fault in tally.faults] == [(3, "killed")]


def test_the_committed_record_is_of_a_long_run_without_faults():
    records = sorted(RESULTS.glob("soak-[0-9]*.json"))
    assert records
    record = json.loads(records[-1].read_text())
    assert record["inputs"] == sum(record["outcomes"].values()) >= 50_000
    assert record["faults"] == []
    assert not any(record["outcomes"][name] for name in FAULTS)
    assert set(record["targets"]) == set(TARGETS)
    assert record["longest_s"] <= record["limits"]["seconds"]
    assert np.isfinite(record["largest_bytes"])
