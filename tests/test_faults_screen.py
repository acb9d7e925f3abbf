"""`gpuroi screen` killed, starved and lied to leaves the old or the new results, whole.

Each test does a few of the faults of `tests/soak/faults.py`, which says of every one what must not be. The long run is
`python -m tests.soak`.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import time
import weakref
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from soak import faults
from soak.__main__ import main
from soak.compare import other_files, other_numbers
from soak.faults import FAULTS, STAGES
from soak.nursery import Ended
from soak.screening import bench

from gpuroi.cli import main as cli
from gpuroi.errors import OutputError
from gpuroi.inference.columns import StoredColumns
from gpuroi.workflows.heartbeat import log_to_file

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
FEW = {
    "killed": 5,
    "killed over results": 2,
    "full disk": 8,
    "read-only": 2,
    "files change": 6,
    "damaged store": 5,
    "two at once": 2,
    "host memory": 6,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with bench(tmp_path_factory.mktemp("faults"), seed=1) as found:
        yield found


@pytest.mark.parametrize("fault", FEW)
def test_faults_leave_old_or_new_results_and_say_what_happened(place, fault):
    happened = list(FAULTS[fault][0](place, FEW[fault]))
    assert len(happened) >= FEW[fault]
    assert [one for one in happened if one.wrong] == []
    assert any(one.code for one in happened)  # the faults were felt


@pytest.mark.kernels
def test_a_device_that_is_too_small(place, host_compiler):
    happened = list(FAULTS["device memory"][0](place, 2))
    assert [one for one in happened if one.wrong] == []
    assert [one.code for one in happened] == [2, 0]


def test_a_log_that_cannot_be_written_any_more_stops_nothing(tmp_path, caplog, capsys):
    log = logging.getLogger("gpuroi")
    with log_to_file("/dev/full"):
        log.info("one")
        log.info("two")
    assert "/dev/full: cannot be written any more: No space left on device" in caplog.text
    assert caplog.text.count("cannot be written") == 1
    assert capsys.readouterr().err == ""  # no traceback of the logging package


def test_a_scratch_file_that_may_not_be_so_large(tmp_path, monkeypatch):
    def too_large(*_: object) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(os, "ftruncate", too_large)
    with pytest.raises(OutputError, match=r"scratch: cannot be written: File too large"):
        StoredColumns(tmp_path / "scratch", (10, 20), np.float32, block=4)


def test_an_interrupt_amid_a_finaliser_is_not_lost(monkeypatch, capsys):
    """Python drops what is raised there, as when a scratch file of many gigabytes is removed."""

    class Scratch:
        pass

    def work() -> None:
        weakref.finalize(Scratch(), os.kill, os.getpid(), signal.SIGTERM)  # at once: nobody holds it
        time.sleep(20)

    before = sys.unraisablehook, signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("gpuroi.cli.app.build_app", lambda: lambda *_, **__: work())
    began = time.monotonic()
    assert cli(["work"]) == 75
    assert time.monotonic() - began < 10
    assert capsys.readouterr().err == "gpuroi: interrupted; no half-written output is left\n"
    assert (sys.unraisablehook, signal.getsignal(signal.SIGTERM)) == before


def test_what_must_not_be_is_seen(place, monkeypatch):
    expected, ended = place.whole("--device", "cpu", "--n-perm", "100")
    kill = {"stage": "writing", "after": 0.0, "signal": "SIGTERM"}
    other = {**expected, "design.tsv": b"another"}
    happened = faults._killed(place, faults.Kind(("--n-perm", "100")), other, kill, "0")
    assert happened.wrong == "files differ: design.tsv"
    traced = Ended(75, "Traceback (most recent call last)", ended.stages, [])
    assert faults._wrong_kill(traced, "SIGTERM").startswith("exit code 75: ")
    out = place.place()
    for code, said in ((70, "internal error"), (69, "no reason"), (-9, "")):
        found = faults._short_of_memory("host memory", "", Ended(code, said, [], []), out, {}, other_files)
        assert found.wrong.startswith(f"exit code {code}")
    (out.parent / ".partial-01234567-out").mkdir()
    clear = Ended(69, "out of memory", [], [])
    assert "left" in faults._short_of_memory("host memory", "", clear, out, {}, other_files).wrong
    place.clear(out)


def test_numbers_beyond_rounding_are_seen():
    table = b"max_stat\tp_FWE\tname\n1.5\t0.05\ta\n"
    assert other_numbers({"a.tsv": table.replace(b"1.5", b"1.500001")}, {"a.tsv": table}) == ""
    for one, other in ((b"1.5", b"1.501"), (b"0.05", b"0.050001"), (b"\ta\n", b"\tb\n")):
        assert other_numbers({"a.tsv": table.replace(one, other)}, {"a.tsv": table}) == "files differ: a.tsv"


def test_the_record_of_a_run(place, tmp_path, monkeypatch):
    out = tmp_path / "record.json"
    monkeypatch.setattr("soak.__main__.bench", lambda _folder, _seed: nullcontext(place))
    assert main(["--fault", "two at once", "--share", "0.1", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert (record["kind"], record["done"], record["faults"]) == ("soak-faults", {"two at once": 1}, [])
    assert record["cases"][0]["fault"] == "two at once"


def test_the_committed_record_covers_every_stage_without_a_fault():
    records = sorted(RESULTS.glob("soak-faults-*.json"))
    assert records
    record = json.loads(records[-1].read_text())
    assert record["faults"] == []
    assert set(record["done"]) == set(FAULTS)
    assert set(record["kills"]) == set(STAGES)
    assert min(record["kills"].values()) >= 3
    assert sum(record["kills"].values()) >= 40
    assert record["done"]["damaged store"] >= 50
    assert all(one["wrong"] == "" for one in record["cases"])
