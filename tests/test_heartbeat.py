"""Signs of life: lines in the log, bars where somebody watches, all lines in a file."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gpuroi.cli.progress import shown_progress
from gpuroi.errors import OutputError
from gpuroi.workflows import heartbeat
from gpuroi.workflows.heartbeat import Heartbeat, duration_in_words, log_to_file


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the heartbeat believes have passed."""
    now = [1000.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "gpuroi")
    return lambda: [record.getMessage() for record in caplog.records]


class TestLines:
    def test_one_at_the_start_and_then_one_a_minute(self, clock, lines):
        beat = Heartbeat()
        for second in range(0, 301):
            clock[0] = 1000.0 + second
            beat("patient", 10 * second, 5000)
        assert lines() == [
            "patient: 0 of 5000 permutations",
            "patient: 600 of 5000 permutations, 12 %, 7 min 20 s left",
            "patient: 1200 of 5000 permutations, 24 %, 6 min 20 s left",
            "patient: 1800 of 5000 permutations, 36 %, 5 min 20 s left",
            "patient: 2400 of 5000 permutations, 48 %, 4 min 20 s left",
            "patient: 3000 of 5000 permutations, 60 %, 3 min 20 s left",
        ]

    def test_what_a_resumed_run_had_already_tells_nothing_of_its_speed(self, clock, lines):
        beat = Heartbeat()
        beat("patient", 4000, 5000)
        clock[0] += 60
        beat("patient", 4100, 5000)
        assert lines() == [
            "patient: 4000 of 5000 permutations, 80 %",
            "patient: 4100 of 5000 permutations, 82 %, 9 min left",
        ]

    def test_every_stage_begins_with_a_line(self, clock, lines):
        beat = Heartbeat()
        beat("reading", 0, 60, "maps")
        beat("patient", 0, 100)
        beat("age", 0, 100)
        beat("age", 0, 200)
        assert lines()[0] == "reading: 0 of 60 maps"
        assert len(lines()) == 4

    def test_a_silent_stage_is_alive(self, lines):
        with Heartbeat(every_s=0.05) as beat:
            beat("patient", 64, 5000)
            end = time.monotonic() + 10
            while len(lines()) < 3 and time.monotonic() < end:
                time.sleep(0.01)
        assert lines()[:3] == ["patient: 64 of 5000 permutations, 1 %"] * 3

    def test_nothing_is_said_after_the_end(self, lines):
        with Heartbeat(every_s=0.02) as beat:
            beat("patient", 64, 5000)
        said = len(lines())
        time.sleep(0.1)
        assert len(lines()) == said

    def test_from_several_threads(self, lines):
        with Heartbeat() as beat:
            threads = [threading.Thread(target=beat, args=("reading", i, 60, "maps")) for i in range(60)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert all(re.fullmatch(r"reading: \d+ of 60 maps(, \d+ %)?(, .* left)?", line) for line in lines())

    def test_nothing_to_do(self, clock, lines):
        Heartbeat()("reading", 0, 0, "maps")
        assert lines() == ["reading: 0 of 0 maps"]

    def test_times_carry_over(self):
        """No "60 s", no "24 h": what rounds up moves to the larger unit."""
        said = {duration_in_words(s) for s in range(0, 200_000, 7)} | {
            duration_in_words(59.9),
            duration_in_words(3599.9),
        }
        assert {"1 min", "1 h"} <= said
        for text in said:
            numbers = re.findall(r"(\d+) (s|min|h)", text)
            assert all(int(n) < {"s": 60, "min": 60, "h": 24}[unit] for n, unit in numbers), text


class TestLogFile:
    def test_all_lines_with_their_times(self, tmp_path):
        log = logging.getLogger("gpuroi")
        for message in ("one", "two"):
            with log_to_file(tmp_path / "log"):
                log.info(message)
                log.debug("too much")
        log.info("nobody listens")
        found = (tmp_path / "log").read_text().splitlines()
        assert [line[19:] for line in found] == [" INFO one", " INFO two"]
        assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in found)

    def test_a_file_that_cannot_be_written(self, tmp_path):
        with pytest.raises(OutputError, match="log"), log_to_file(tmp_path / "none" / "log"):
            pass
        assert not logging.getLogger("gpuroi").handlers

    def test_heartbeat_lines_are_in_the_file_too(self, tmp_path):
        with shown_progress(tmp_path / "log") as progress:
            progress("patient", 64, 5000)
        assert "INFO patient: 64 of 5000 permutations, 1 %" in (tmp_path / "log").read_text()


RUN = """
import logging, sys, time
from gpuroi.cli.app import _log_to_stderr
from gpuroi.cli.progress import shown_progress
log = logging.getLogger("gpuroi")
with _log_to_stderr():
    log.info("before")
    with shown_progress(sys.argv[1]) as progress:
        for done in range(0, 101, 20):
            progress("[red]patient", done, 100)
            time.sleep(0.02)
        log.warning("meanwhile")
        progress("reading", 3, 60, "maps")
    log.info("after")
print("result")
"""


def on_a_terminal(*command: str | Path, **env: str) -> tuple[str, str]:
    """What a command writes to stdout, and to a terminal as stderr."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", **env}
    with subprocess.Popen(
        [sys.executable, "-c", RUN, *command], stdout=subprocess.PIPE, stderr=follower, env=environment, text=True
    ) as process:
        os.close(follower)
        shown = bytearray()
        while True:
            try:
                some = os.read(leader, 4096)
            except OSError:  # the other end is closed
                break
            if not some:
                break
            shown += some
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(leader)
    assert process.returncode == 0
    return out, shown.decode()


class TestShown:
    def test_bars_on_a_terminal_and_lines_above_them(self, tmp_path):
        out, shown = on_a_terminal(tmp_path / "log")
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
        assert out == "result\n"
        assert "━" in plain
        assert re.search(r"\[red\]patient .* 100/100 permutations 100%", plain)
        assert re.search(r"reading .* 3/60 +maps", plain)
        assert plain.count("gpuroi: meanwhile") == 1
        assert "gpuroi: after" in plain
        assert "of 100 permutations" not in plain
        log = (tmp_path / "log").read_text()
        assert "INFO [red]patient: 0 of 100 permutations" in log
        assert "WARNING meanwhile" in log
        assert "before" not in log

    @pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TTY_INTERACTIVE": "0", "TERM": "dumb"}])
    def test_lines_on_a_terminal_that_cannot_draw(self, tmp_path, env):
        _, shown = on_a_terminal(tmp_path / "log", **env)
        assert "━" not in shown
        assert "gpuroi: [red]patient: 0 of 100 permutations" in shown

    def test_lines_where_nobody_watches(self, tmp_path):
        done = subprocess.run([sys.executable, "-c", RUN, tmp_path / "log"], capture_output=True, text=True, check=True)
        assert done.stdout == "result\n"
        assert done.stderr.splitlines() == [
            "gpuroi: before",
            "gpuroi: [red]patient: 0 of 100 permutations",
            "gpuroi: meanwhile",
            "gpuroi: reading: 3 of 60 maps, 5 %",
            "gpuroi: after",
        ]

    def test_a_notebook_without_widgets_gets_lines(self, monkeypatch, capsys):
        """Rich would warn and draw nothing."""
        monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
        monkeypatch.setattr("gpuroi.cli.progress.importlib.util.find_spec", lambda _name: None)
        with shown_progress() as progress:
            progress("patient", 0, 5000)
        assert capsys.readouterr().err == "patient: 0 of 5000 permutations\n"
        assert logging.getLogger("gpuroi").handlers == []

    def test_handlers_are_as_before(self, monkeypatch):
        from rich.console import Console

        monkeypatch.setattr(
            "rich.console.Console", lambda **_: Console(file=io.StringIO(), force_terminal=True, _environ={})
        )
        log, stream = logging.getLogger("gpuroi"), io.StringIO()
        handler = logging.StreamHandler(stream)
        log.addHandler(handler)
        try:
            with shown_progress() as progress:
                progress("patient", 0, 10)
                assert handler.stream is not stream
            assert handler.stream is stream
        finally:
            log.removeHandler(handler)
