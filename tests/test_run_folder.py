"""A run that is stopped at any moment goes on from there, and nobody else can do it harm."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gpuroi.errors import OutputError
from gpuroi.inference import PermutationState
from gpuroi.workflows.run_folder import RunFolder
from gpuroi.workflows.state_files import StateFiles

SETTINGS = {"formula": "map ~ age", "seed": 1, "cluster": {"p": 0.001, "scale": "t"}}


def state(done: int, key: str = "key") -> PermutationState:
    null = np.full(1000, np.nan)
    null[:done] = np.arange(done)
    return PermutationState(done, np.arange(50) * done, {"max_stat": null, "max_size": null + 1}, key)


def same(a: PermutationState, b: PermutationState) -> bool:
    assert a.null.keys() == b.null.keys()
    equal = all(np.array_equal(a.null[k], b.null[k], equal_nan=True) for k in a.null)
    return equal and (a.done, a.key) == (b.done, b.key) and np.array_equal(a.counts, b.counts)


def interrupted_run(out: Path, *states: PermutationState, settings: dict = SETTINGS) -> Path:
    """What a run leaves that was stopped; the folder."""
    with RunFolder(out, settings, every_s=0) as run:
        for one in states:
            run.checkpoint("age")(one)
    return run.path


def files_of(folder: Path) -> list[Path]:
    return sorted((folder / "states").glob("*.state"), key=lambda path: path.stat().st_mtime_ns)


class TestStates:
    def test_what_is_kept_comes_back(self, tmp_path):
        interrupted_run(tmp_path / "out", state(64), state(128))
        with RunFolder(tmp_path / "out", SETTINGS) as run:
            assert run.resumed
            found = run.state("age")
            assert found is not None
            assert same(found, state(128))
            assert run.state("sex") is None

    def test_the_last_two_are_kept(self, tmp_path):
        folder = interrupted_run(tmp_path / "out", *(state(64 * i) for i in range(1, 6)))
        assert len(files_of(folder)) == 2
        assert not [p for p in (folder / "states").iterdir() if p.suffix != ".state"]

    @pytest.mark.parametrize("where", [0, 10, 40, 100, 500, -1])
    def test_one_flipped_bit_is_noticed_and_the_one_before_is_taken(self, tmp_path, caplog, where):
        newest = files_of(interrupted_run(tmp_path / "out", state(64), state(128)))[-1]
        content = bytearray(newest.read_bytes())
        content[where] ^= 4
        newest.write_bytes(content)
        with RunFolder(tmp_path / "out", SETTINGS) as run:
            found = run.state("age")
        assert found is not None
        assert same(found, state(64))
        assert newest.name in caplog.text
        assert "damaged" in caplog.text

    @pytest.mark.parametrize("length", [0, 15, 80, 1000])
    def test_states_that_are_cut_short_are_begun_anew(self, tmp_path, caplog, length):
        for file in files_of(interrupted_run(tmp_path / "out", state(64), state(128))):
            os.truncate(file, length)
        with RunFolder(tmp_path / "out", SETTINGS, every_s=0) as run:
            assert run.state("age") is None
            run.checkpoint("age")(state(64))
        assert caplog.text.count("damaged") == 2
        again = StateFiles(run.path / "states").read("age")
        assert again is not None
        assert again.done == 64

    def test_a_pickle_with_the_right_checksum_is_not_loaded(self, tmp_path, caplog):
        (file,) = files_of(interrupted_run(tmp_path / "out", state(64)))
        content = io.BytesIO()
        np.savez(content, counts=np.array([{"an": "object"}], dtype=object), name="age", key="key", done=64)
        digest = hashlib.sha256(content.getvalue()).hexdigest().encode()
        file.write_bytes(b"gpuroi state 1\n" + digest + b"\n" + content.getvalue())
        with RunFolder(tmp_path / "out", SETTINGS) as run:
            assert run.state("age") is None
        assert "allow_pickle=False" in caplog.text

    def test_names_that_no_file_could_have(self, tmp_path):
        names = ["a/b", "a b", "../../etc", "Ж" * 200, "a" * 300, "", "A/B"]
        with RunFolder(tmp_path / "out", SETTINGS, every_s=0) as run:
            for i, name in enumerate(names):
                run.checkpoint(name)(state(i + 1))
            found = [run.state(name) for name in names]
        assert [one.done for one in found if one] == [1, 2, 3, 4, 5, 6, 7]
        assert sorted(p.name for p in tmp_path.iterdir()) == [".out.gpuroi-run"]

    def test_a_state_is_written_only_now_and_then_and_at_the_end(self, tmp_path, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        written = []
        write = StateFiles.write

        def noted(files: StateFiles, name: str, one: PermutationState) -> None:
            written.append((name, one.done))
            write(files, name, one)

        monkeypatch.setattr(StateFiles, "write", noted)
        with RunFolder(tmp_path / "out", SETTINGS, every_s=60) as run:
            for done in range(100, 1000, 100):
                now[0] += 25
                run.checkpoint("age")(state(done))
                found = run.state("age")
                assert found is not None
                assert found.done == done
            run.checkpoint("sex")(state(10))
        assert written == [("age", 300), ("age", 600), ("age", 900), ("sex", 10)]

    def test_what_is_forgotten_is_gone(self, tmp_path):
        folder = interrupted_run(tmp_path / "out", state(64), state(128))
        with RunFolder(tmp_path / "out", SETTINGS) as run:
            run.forget("age")
            assert run.state("age") is None
        assert files_of(folder) == []


class TestSettings:
    def test_other_settings_are_refused_and_named(self, tmp_path):
        folder = interrupted_run(tmp_path / "out", state(64))
        other = {**SETTINGS, "seed": 2, "cluster": {"p": 0.01, "scale": "t"}, "tfce": True}
        with pytest.raises(OutputError, match=r"other settings: cluster.p is 0.01, was 0.001; seed is 2, was 1; ") as e:
            RunFolder(tmp_path / "out", other).__enter__()
        assert e.value.exit_code == 73
        assert "tfce is true, was not given" in e.value.message
        assert "--overwrite" in e.value.hint
        assert len(files_of(folder)) == 1
        with RunFolder(tmp_path / "out", SETTINGS) as run:
            assert run.resumed

    def test_the_same_settings_in_other_clothes(self, tmp_path):
        interrupted_run(
            tmp_path / "out", state(64), settings={"mask": Path("m.nii"), "c": ("a", "b"), "n": np.int64(3)}
        )
        with RunFolder(tmp_path / "out", {"n": 3, "c": ["a", "b"], "mask": "m.nii"}) as run:
            assert run.resumed

    def test_another_version_is_another_run(self, tmp_path, monkeypatch):
        interrupted_run(tmp_path / "out", state(64))
        monkeypatch.setattr("gpuroi.__version__", "99.0")
        with pytest.raises(OutputError, match=r'gpuroi is "99.0", was'):
            RunFolder(tmp_path / "out", SETTINGS).__enter__()

    def test_overwrite_begins_anew_only_where_settings_differ(self, tmp_path, caplog):
        interrupted_run(tmp_path / "out", state(64))
        with RunFolder(tmp_path / "out", SETTINGS, overwrite=True) as run:
            assert run.resumed
        with RunFolder(tmp_path / "out", {**SETTINGS, "seed": 2}, overwrite=True) as run:
            assert not run.resumed
            assert run.state("age") is None
        assert "given up: seed is 2, was 1" in caplog.text

    def test_settings_that_cannot_be_read_begin_anew(self, tmp_path, caplog):
        folder = interrupted_run(tmp_path / "out", state(64))
        (folder / "settings.json").write_text('{"settings": {"se')
        with RunFolder(tmp_path / "out", SETTINGS) as run:
            assert not run.resumed
            assert run.state("age") is None
        assert "begins anew" in caplog.text

    def test_results_with_other_settings(self, tmp_path):
        results(tmp_path / "out", {"seed": 1, "device": "cpu"})
        with pytest.raises(OutputError, match="holds results with other settings: seed is 2, was 1"):
            RunFolder(tmp_path / "out", {"seed": 2, "tfce": True}).__enter__()
        with pytest.raises(OutputError, match="exists and is not empty"):
            RunFolder(tmp_path / "out", {"seed": 1, "tfce": True}).__enter__()
        assert [p.name for p in tmp_path.iterdir()] == ["out"]


def results(out: Path, settings: dict) -> None:
    out.mkdir(exist_ok=True)
    (out / "provenance.json").write_text(json.dumps({"settings": settings}))


class TestLeaving:
    def test_finish_leaves_nothing(self, tmp_path):
        with RunFolder(tmp_path / "out", SETTINGS, every_s=0) as run:
            run.checkpoint("age")(state(64))
            (run.scratch / "residuals").write_bytes(b"much")
            run.finish()
        assert list(tmp_path.iterdir()) == []

    def test_an_interrupt_keeps_the_newest_state_and_says_so(self, tmp_path):
        with pytest.raises(KeyboardInterrupt, match=r"128 of 1000 permutations of age are kept in .*the same command"):
            stopped_by(KeyboardInterrupt, tmp_path / "out", state(128))
        folder = tmp_path / ".out.gpuroi-run"
        assert sorted(p.name for p in folder.iterdir()) == ["lock", "settings.json", "states"]
        with RunFolder(tmp_path / "out", SETTINGS) as again:
            found = again.state("age")
        assert found is not None
        assert same(found, state(128))

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
    def test_a_run_that_got_nowhere_leaves_nothing(self, tmp_path, error):
        with pytest.raises(error):
            stopped_by(error, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_results_that_came_before_the_kill_are_known(self, tmp_path):
        """Stopped after the results were in place and before it had tidied up."""
        interrupted_run(tmp_path / "out", state(64))
        results(tmp_path / "out", SETTINGS)
        with RunFolder(tmp_path / "out", SETTINGS) as run:
            assert run.finished
            run.finish()
        assert [p.name for p in tmp_path.iterdir()] == ["out"]

    def test_results_that_are_to_be_replaced_are_not_those_of_the_run(self, tmp_path):
        results(tmp_path / "out", {"seed": 7})
        with RunFolder(tmp_path / "out", SETTINGS, overwrite=True, every_s=0) as run:
            run.checkpoint("age")(state(64))
        with RunFolder(tmp_path / "out", SETTINGS, overwrite=True) as run:
            assert run.resumed
            assert not run.finished

    def test_what_a_kill_left_beside_the_results_is_cleared_away(self, tmp_path):
        results(tmp_path / ".old-0123abcd-out", {"seed": 7})  # killed between two renames
        for name in (".partial-0123abcd-out", ".partial-89abcdef-out", ".partial-0123abcd-other", ".partial-x-out"):
            (tmp_path / name).mkdir()
        with RunFolder(tmp_path / "out", SETTINGS, overwrite=True) as run:
            assert json.loads((run.out / "provenance.json").read_text()) == {"settings": {"seed": 7}}
            run.finish()
        assert sorted(p.name for p in tmp_path.iterdir()) == [".partial-0123abcd-other", ".partial-x-out", "out"]

    def test_scratch_on_another_disk_is_emptied_when_the_run_goes_on(self, tmp_path):
        (tmp_path / "fast").mkdir()
        left = tmp_path / "fast" / ".out.gpuroi-run-scratch" / "residuals-0"
        left.parent.mkdir()
        left.write_bytes(b"of a run that was killed")
        with RunFolder(tmp_path / "out", SETTINGS, scratch=tmp_path / "fast") as run:
            assert not left.exists()
            assert run.scratch == left.parent
            run.finish()
        assert list((tmp_path / "fast").iterdir()) == []


def stopped_by(error: type[BaseException], out: Path, *states: PermutationState) -> None:
    with RunFolder(out, SETTINGS) as run:
        for one in states:
            run.checkpoint("age")(one)
        (run.scratch / "residuals").write_bytes(b"much")
        raise error


# --------------------------------------------------------------------------- others


def test_who_was_taken_for_dead_writes_nothing_more(tmp_path):
    with RunFolder(tmp_path / "out", SETTINGS, every_s=0) as run:
        run.checkpoint("age")(state(64))
        (run.path / "lock").write_text(json.dumps({"pid": 1, "host": "node8"}))
        with pytest.raises(OutputError, match="another process took it over"):
            run.checkpoint("age")(state(128))
        run.forget("sex")
        run.finish()
    assert len(files_of(run.path)) == 1
    assert json.loads((run.path / "lock").read_text())["host"] == "node8"


# --------------------------------------------------------------------------- disks and clocks


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write everywhere: be somebody else for a moment."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


FULL = """
import resource, sys
import numpy as np
from gpuroi.cli.errors import report
from gpuroi.inference import PermutationState
from gpuroi.workflows.run_folder import RunFolder
def state(done, size):
    return PermutationState(done, np.arange(size), {"max_stat": np.ones(1000)}, "key")
try:
    with RunFolder(sys.argv[1], {"seed": 1}, every_s=0) as run:
        run.checkpoint("age")(state(64, 100))
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        run.checkpoint("age")(state(128, 100))
        run.checkpoint("age")(state(192, 100_000))
except Exception as error:
    sys.exit(report(error))
"""


class TestDisks:
    def test_a_full_disk(self, tmp_path):
        done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "out"], capture_output=True, text=True)
        assert done.returncode == 73, done.stderr
        assert "File too large" in done.stderr
        assert "free space" in done.stderr
        assert "Traceback" not in done.stderr
        folder = tmp_path / ".out.gpuroi-run"
        assert all(path.suffix == ".state" for path in (folder / "states").iterdir())
        with RunFolder(tmp_path / "out", {"seed": 1}) as run:
            found = run.state("age")
            assert found is not None
            assert found.done == 128

    def test_a_file_in_the_place_of_the_folder(self, tmp_path):
        (tmp_path / ".out.gpuroi-run").write_text("a file")
        with pytest.raises(OutputError, match=r"\.out\.gpuroi-run.*cannot be written"):
            RunFolder(tmp_path / "out", SETTINGS).__enter__()

    def test_a_file_where_folders_are_to_be_made(self, tmp_path):
        (tmp_path / "file").write_text("a file")
        with pytest.raises(OutputError, match="cannot be"):
            RunFolder(tmp_path / "file" / "out", SETTINGS).__enter__()

    @pytest.mark.parametrize("mode", [0o555, 0o700])
    def test_a_folder_of_somebody_else(self, tmp_path, mode):
        interrupted_run(tmp_path / "out", state(64))  # all is imported by now
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(mode if os.geteuid() == 0 else 0o500)
            with as_nobody(), pytest.raises(OutputError, match=r"Permission denied|no permission") as e:
                RunFolder(Path(name, "out"), SETTINGS).__enter__()
            assert list(Path(name).iterdir()) == []
            Path(name).chmod(0o700)
        assert e.value.exit_code == 73

    def test_a_folder_that_vanishes(self, tmp_path):
        with RunFolder(tmp_path / "out", SETTINGS, every_s=0) as run:
            run.checkpoint("age")(state(64))
            run.path.rename(tmp_path / "gone")
            with pytest.raises(OutputError, match="removed it"):
                run.checkpoint("age")(state(128))
            run.finish()
        assert [p.name for p in tmp_path.iterdir()] == ["gone"]

    def test_a_clock_that_is_set_back(self, tmp_path, monkeypatch):
        """States are told apart by how far they are, not by when they were written."""
        folder = interrupted_run(tmp_path / "out", state(64), state(128))
        monkeypatch.setattr(time, "time", lambda: 1e9)
        for i, file in enumerate(files_of(folder)):
            os.utime(file, (2e9 - i, 2e9 - i))  # the newest is dated before the other
        os.utime(folder / "lock", (3e9, 3e9))
        with RunFolder(tmp_path / "out", SETTINGS, every_s=0) as run:
            found = run.state("age")
            assert found is not None
            assert found.done == 128
            run.checkpoint("age")(state(192))
        again = StateFiles(folder / "states")
        newest = again.read("age")
        assert newest is not None
        assert newest.done == 192
        again.write("age", state(256))
        assert sorted(_done(file) for file in files_of(folder)) == [192, 256]


def _done(file: Path) -> int:
    content = file.read_bytes().split(b"\n", 2)[2]
    return int(np.load(io.BytesIO(content))["done"])


# --------------------------------------------------------------------------- killed for real

KILLED = """
import logging, os, random, signal, sys, time
import numpy as np
from gpuroi.domains import VoxelGrid
from gpuroi.inference import permutation_test
from gpuroi.workflows.run_folder import RunFolder

rng = np.random.default_rng(0)
grid = VoxelGrid(np.ones((8, 9, 10), bool))
y = rng.standard_normal((20, grid.n_elements)).astype(np.float32)
x = np.column_stack([np.ones(20), np.arange(20) % 2, rng.standard_normal(20)])

def test(**how):
    return permutation_test(y, x, [0, 1, 0], domain=grid, n_permutations=5000, cluster_threshold=2.5, tfce=True,
                            device="cpu", **how)

def attempt(out):
    with RunFolder(out, {"seed": 0}, every_s=0) as run:
        began = run.state("x")
        result = test(resume=began, checkpoint=run.checkpoint("x"))
        np.savez(out + ".npz", p=result.p_fwe, counts=result.p, began=began.done if began else 0, **result.null)
        run.finish()

test()  # compiled by now
started = time.perf_counter()
whole = test()
seconds = time.perf_counter() - started
random.seed(int(sys.argv[2]))
kills = 0
for i in range(60):
    child = os.fork()
    if child == 0:
        attempt(sys.argv[1])
        os._exit(0)
    time.sleep(random.uniform(0.1, 1) * seconds / 2)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        break
    kills += 1
    if kills == 12:
        attempt(sys.argv[1])
        break
resumed = np.load(sys.argv[1] + ".npz")
for name, values in whole.null.items():
    assert np.array_equal(resumed[name], values), name
assert np.array_equal(resumed["p"], whole.p_fwe, equal_nan=True) and np.array_equal(resumed["counts"], whole.p)
print(kills, int(resumed["began"]))
"""


def test_killed_at_random_moments_the_null_is_that_of_one_run(tmp_path):
    env = {**os.environ, "GPUROI_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    kills = 0
    for seed in range(2):
        command = [sys.executable, "-c", KILLED, str(tmp_path / f"out{seed}"), str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
        assert done.returncode == 0, done.stderr
        n, began = map(int, done.stdout.split())
        assert began > 0, "the last attempt was to go on from a state"
        kills += n
    assert kills >= 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out0.npz", "out1.npz"]


TERMINATED = """
import sys, time
from gpuroi.cli.app import _terminated_as_interrupted
from gpuroi.cli.errors import report
sys.path.insert(0, sys.argv[2])
from test_run_folder import state
from gpuroi.workflows.run_folder import RunFolder
try:
    with _terminated_as_interrupted(), RunFolder(sys.argv[1], {"seed": 1}) as run:
        run.checkpoint("age")(state(128))
        print("ready", flush=True)
        time.sleep(60)
except BaseException as error:
    sys.exit(report(error))
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals_write_the_newest_state_and_exit_75(tmp_path, sent):
    command = [sys.executable, "-c", TERMINATED, tmp_path / "out", Path(__file__).parent]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(sent)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "interrupted: 128 of 1000 permutations of age are kept in" in told
    with RunFolder(tmp_path / "out", {"seed": 1}) as run:
        found = run.state("age")
    assert found is not None
    assert same(found, state(128))
