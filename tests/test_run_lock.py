"""One process at a time: a living one is refused by name, a dead one is taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gpuroi.errors import OutputError
from gpuroi.workflows.run_folder import RunFolder
from gpuroi.workflows.run_lock import RunLock

SETTINGS = {"seed": 1}


def lock_of(path: Path, **changed: object) -> None:
    """What a process left that is gone."""
    lock = RunLock(path)
    lock.acquire()
    told = json.loads(path.read_text()) | changed
    lock.release()
    path.write_text(json.dumps(told))


HOLD = """
import sys, time
from gpuroi.workflows.run_folder import RunFolder
with RunFolder(sys.argv[1], {"seed": 1}):
    print("held", flush=True)
    time.sleep(60)
"""


class TestLock:
    def test_two_processes_on_one_folder(self, tmp_path):
        out = tmp_path / "out"
        with subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True) as first:
            assert first.stdout is not None
            assert first.stdout.readline() == "held\n"
            with pytest.raises(OutputError, match=f"process {first.pid} on .* is at work on this run since") as e:
                RunFolder(out, {"seed": 1}).__enter__()
            assert e.value.exit_code == 73
            with pytest.raises(OutputError, match="is at work"):
                RunFolder(out, {"seed": 2}, overwrite=True).__enter__()
            first.kill()
        with RunFolder(out, {"seed": 1}) as run:  # at once: a dead process is not waited for
            assert json.loads((run.path / "lock").read_text())["pid"] == os.getpid()

    def test_two_runs_in_one_process(self, tmp_path):
        with RunFolder(tmp_path / "out", SETTINGS), pytest.raises(OutputError, match=f"process {os.getpid()} "):
            RunFolder(tmp_path / "out", SETTINGS).__enter__()

    def test_a_number_that_another_process_has_now(self, tmp_path):
        lock_of(tmp_path / "lock", pid=os.getppid(), started="1")
        lock = RunLock(tmp_path / "lock", watch_s=100)
        lock.acquire()
        assert lock.is_ours()
        lock.release()

    def test_where_the_system_has_no_locks_a_living_process_is_known_by_its_start(self, tmp_path, monkeypatch):
        monkeypatch.setattr("gpuroi.workflows.run_lock.fcntl", None)
        first, second = RunLock(tmp_path / "lock"), RunLock(tmp_path / "lock")
        first.acquire()
        with pytest.raises(OutputError, match=f"process {os.getpid()}"):
            second.acquire()
        first.release()
        second.acquire()
        second.release()

    def test_a_process_elsewhere_that_gives_signs_of_life(self, tmp_path):
        path, stop = tmp_path / "lock", threading.Event()
        lock_of(path, machine="elsewhere", host="node7", pid=1234)

        def beat() -> None:
            while not stop.wait(0.05):
                os.utime(path)

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            with pytest.raises(OutputError, match="process 1234 on node7 is at work"):
                RunLock(path, watch_s=5).acquire()
        finally:
            stop.set()
            thread.join()

    @pytest.mark.parametrize("content", [None, "", "not JSON", "[1]"])
    def test_a_process_elsewhere_that_is_dead_and_locks_that_say_nothing(self, tmp_path, content):
        path = tmp_path / "lock"
        lock_of(path, machine="elsewhere", host="node7", pid=1234)
        if content is not None:
            path.write_text(content)
        os.utime(path, (2e9, 2e9))  # whatever its clock said
        lock = RunLock(path, watch_s=0.3)
        lock.acquire()
        assert lock.is_ours()
        lock.release()

    def test_signs_of_life_are_given(self, tmp_path):
        lock = RunLock(tmp_path / "lock", beat_s=0.02)
        lock.acquire()
        os.utime(lock.path, (1e9, 1e9))
        end = time.monotonic() + 10
        while lock.path.stat().st_mtime < 1.1e9 and time.monotonic() < end:
            time.sleep(0.02)
        lock.release()
        assert lock.path.stat().st_mtime > 1.1e9
