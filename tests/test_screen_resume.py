"""`gpuroi screen` killed at random moments and run again writes the bytes of a run that nobody disturbed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from gpuroi.cli import main
from gpuroi.demo_data import demo

# The commands run in forked children, which have all imported and compiled: the moments are those of the work itself.
# States are written many times a second, not once a minute, so that there is one to go on from.
NURSERY = """
import json, os, random, signal, sys, time
from gpuroi.cli import main
from gpuroi.workflows.run_folder import RunFolder

RunFolder.__init__.__kwdefaults__["every_s"] = 0.05
asked = json.loads(sys.argv[1])
command, out, kind = asked["command"], asked["out"], asked["signal"]

warm = command + ["--out", out + "-warm"]
warm[warm.index("--n-perm") + 1] = "100"

def start(folder, said="/dev/null"):
    child = os.fork()
    if child == 0:
        code = 70
        try:
            told = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(told, 1)
            os.dup2(told, 2)
            code = main([*command, "--out", folder])
        finally:
            os._exit(code)
    return child

def end_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

assert main(warm) == 0
began = time.perf_counter()
assert end_of(start(out + "-whole")) == 0
seconds = time.perf_counter() - began
random.seed(asked["seed"])
codes = []
for attempt in range(60):
    child = start(out, out + ".said")
    if attempt < asked["kills"]:
        time.sleep(random.uniform(0.05, 0.5) * seconds)
        os.kill(child, getattr(signal, kind))
    codes.append(end_of(child))
    if os.path.isdir(out):
        break
print(json.dumps(codes))
"""

# These tell of the moment: when, how long, on which machine.
OF_THE_MOMENT = ("logs/", "figures/", "provenance.json", "report.html")


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of every file whose bytes depend on inputs and settings alone."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if not name.startswith(OF_THE_MOMENT)
    }


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "demo"
    demo(folder, n_subjects=12)
    mask = nibabel.load(folder / "mask.nii.gz")
    some = np.asarray(mask.dataobj)
    some[..., :14] = some[..., 18:] = 0  # four slices: of two seconds a screening spends most on its permutations
    nibabel.save(nibabel.Nifti1Image(some, mask.affine), folder / "slices.nii.gz")
    return folder


def screening(cohort: Path, *options: str) -> list[str]:
    table, mask = str(cohort / "participants.tsv"), str(cohort / "slices.nii.gz")
    formula = ["--formula", "map ~ group + age", "--contrast", "patient=group[T.patient]", "--contrast", "age"]
    return ["screen", table, *formula, "--mask", mask, "--device", "cpu", "--no-figures", *options]


def run_and_kill(tmp_path: Path, command: list[str], kind: str, kills: int, seed: int = 0) -> list[int]:
    asked = {"command": command, "out": str(tmp_path / "out"), "signal": kind, "kills": kills, "seed": seed}
    env = {**os.environ, "GPUROI_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", NURSERY, json.dumps(asked)], capture_output=True, text=True, env=env, timeout=300
    )
    assert done.returncode == 0, done.stderr
    codes: list[int] = json.loads(done.stdout.splitlines()[-1])
    return codes


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SIGKILL", ("--n-perm", "3000", "--cluster-threshold", "3")),
        ("SIGTERM", ("--n-perm", "3000", "--cluster-threshold", "3")),
        ("SIGKILL", ("--n-perm", "3000", "--memory-limit", "10MB")),
    ],
)
def test_the_same_bytes(cohort, tmp_path, kind, options):
    codes = run_and_kill(tmp_path, screening(cohort, *options), kind, kills=6)
    stopped = {"SIGKILL": {-9}, "SIGTERM": {75, -15}}[kind]
    assert len(codes) >= 4, codes
    assert set(codes[:-1]) <= stopped, codes
    assert content(tmp_path / "out") == content(tmp_path / "out-whole")
    assert len(content(tmp_path / "out")) > 45
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"out", "out-whole", "out-warm", "out.said"}
    if kind == "SIGTERM":
        said = (tmp_path / "out.said").read_text()
        assert "the same command goes on from there" in said
        assert "Traceback" not in said


def test_other_settings_and_what_to_do(cohort, tmp_path, monkeypatch, capsys):
    """An unfinished run goes on with its own settings alone; a finished one is not replaced unasked."""
    command = screening(cohort, "--n-perm", "200", "--out", str(tmp_path / "out"))

    def stop(_self: object, stage: str, done: int, _total: int, _unit: str = "") -> None:
        if stage == "patient" and done > 100:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("gpuroi.workflows.heartbeat.Heartbeat.__call__", stop)
        assert main(command) == 75
    assert "128 of 200 permutations of patient are kept in" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".out.gpuroi-run"]
    assert main([*command, "--seed", "3"]) == 73
    assert "seed is 3, was 0" in capsys.readouterr().err
    assert main(command) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert main(command) == 73
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--seed", "3"]) == 73
    assert "holds results with other settings: seed is 3, was 0" in capsys.readouterr().err
