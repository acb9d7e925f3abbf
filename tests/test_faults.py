"""Faults while outputs are written: a full disk, a read-only place, another writer, files that change, odd locales."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from roi_runs import make_run

import gpuroi
from gpuroi.cli import main
from gpuroi.cohort.maps import MapReader
from gpuroi.cohort.packing import pack_maps
from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, OutputError
from gpuroi.images import open_image, staged_folder

AFFINE = np.diag([3.0, 3.0, 3.5, 1.0])
COMMANDS = {
    "roi": "roi bold.nii.gz --conditions labels.tsv --contrast face-house --threshold 2",
    "regions": "regions map.nii.gz --threshold 3",
    "clusters": "clusters map.nii.gz --threshold 3",
    "check": "check participants.tsv --formula 'map ~ group' --contrast group[T.b]",
    "extract": "extract bold.nii.gz --atlas atlas.nii.gz",
    "threshold": "threshold map.nii.gz --cutoff 3",
    "pack": "pack participants.tsv --mask mask.nii.gz",
}
FILES = {"extract": "signals.tsv", "threshold": "thresholded.nii.gz", "pack": "cohort.zarr"}


def write_inputs() -> None:
    run, labels = make_run()
    nib.save(run, "bold.nii.gz")
    Path("labels.tsv").write_text("labels\n" + "\n".join(labels) + "\n")
    random = np.random.default_rng(0)
    data = random.normal(size=(14, 12, 9)).astype(np.float32)
    data[2:6, 2:6, 2:6] += 9
    save("map.nii.gz", data)
    labels3 = np.zeros((14, 12, 9), np.int16)
    labels3[3:6, 3:6, 3:6], labels3[8:11, 5:8, 3:6] = 1, 2
    nib.save(nib.Nifti1Image(labels3, run.affine), "atlas.nii.gz")
    save("mask.nii.gz", np.ones((14, 12, 9), np.uint8))
    for k in range(6):
        save(f"sub-{k:02d}.nii", random.normal(size=(14, 12, 9)).astype(np.float32))
    table = pd.DataFrame({"participant_id": [f"sub-{k:02d}" for k in range(6)], "group": list("aabbab")})
    table.assign(map=[f"{who}.nii" for who in table["participant_id"]]).to_csv(
        "participants.tsv", sep="\t", index=False
    )


def save(path: str, data: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(data, AFFINE), path)


def tree(folder: str | Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def words(command: str, out: str, *more: str) -> list[str]:
    import shlex

    return [*shlex.split(COMMANDS[command]), "--out", out, "--overwrite", *more]


# Runs a command once with room enough, then with less and less of it, over the result that is there and beside it.
FULL_DISK = """
import json, os, resource, sys
from pathlib import Path
from gpuroi.cli import main
command, out = json.loads(sys.argv[1]), Path(sys.argv[2])

def run(target):
    words = [str(target) if word == str(out) else word for word in command]
    try:
        return main(words)
    except SystemExit as error:
        return error.code

def tree(folder):
    return {str(p): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}

assert run(out) == 0
files = tree(out.parent)
largest = max(len(content) for name, content in files.items() if name.startswith(str(out)))
sizes = sorted({len(content) for name, content in files.items() if name.startswith(str(out))})
most = largest - 64  # times and dates in the records differ by some characters
limits = sorted({0, largest // 2, most, *(size - 1 for size in sizes[:: max(1, len(sizes) // 2)] if size <= most)})
found = []
for limit in limits:
    for target in (out, out.with_name("new-" + out.name))[: 2 if limit in (0, most) else 1]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        code = run(target)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        found.append([limit, code, tree(out.parent) == files])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    before = Path.cwd()
    os.chdir(folder)
    write_inputs()
    os.chdir(before)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_full_disk_leaves_the_old_output_or_none(inputs, tmp_path, command):
    out = tmp_path / FILES.get(command, "out")
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, json.dumps(words(command, str(out))), str(out)],
        cwd=inputs,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert len(found) >= 4
    assert [line for line in found if line[1] != 73] == [], ran.stderr[-1000:]
    assert [line for line in found if not line[2]] == []
    assert "cannot be written" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no file system here that nobody can write to")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_nobody_can_write_to(inputs, monkeypatch, capsys, command):
    monkeypatch.chdir(inputs)
    assert main(words(command, f"/sys/kernel/{FILES.get(command, 'out')}")) == 73
    assert "/sys/kernel" in capsys.readouterr().err


ODD = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": ":/no/such/zone"},
    "Turkish": {"LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "SOURCE_DATE_EPOCH": "-1"},
}


def test_locale_and_time_zone_change_no_byte(inputs, tmp_path):
    children = {
        name: subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "gpuroi", *words("regions", str(tmp_path / name))],
            cwd=inputs,
            env={**os.environ, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for name, more in {"plain": {}, **ODD}.items()
    }
    for child in children.values():
        _, said = child.communicate(timeout=120)
        assert child.returncode == 0, said.decode()
    expected = tree(tmp_path / "plain")
    record = json.loads(expected.pop("provenance.json"))
    expected.pop("report.html")  # holds the record
    for name in ODD:
        found = tree(tmp_path / name)
        told = json.loads(found.pop("provenance.json"))
        found.pop("report.html")
        assert found == expected
        assert {key for key in told if told[key] != record[key]} <= {"command", "date", "timings_s"}
        assert told["date"].endswith("+00:00")


def test_two_writers_of_one_folder_leave_one_whole_result(inputs, tmp_path):
    """Both begin to put their results in place at the same moment, again and again."""
    code = textwrap.dedent(
        """
        import json, sys, time
        from pathlib import Path
        from gpuroi.errors import OutputError
        from gpuroi.images import staged_folder
        folder, who, overwrite = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "1"
        codes = []
        for turn in range(40):
            out = folder / f"out{turn if not overwrite else 0}"
            while time.time() < float(sys.argv[4]) + 0.02 * turn:
                pass
            try:
                with staged_folder(out, overwrite=overwrite) as staged:
                    for name in ("provenance.json", "a.txt", "b.txt"):
                        (staged / name).write_text(json.dumps([who, turn]))
                codes.append(0)
            except OutputError as error:
                codes.append(error.exit_code)
        print(json.dumps(codes))
        """
    )
    import time

    for overwrite in (False, True):
        folder = tmp_path / str(overwrite)
        folder.mkdir()
        start = str(time.time() + 1.5)
        children = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(folder), who, str(int(overwrite)), start],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for who in "AB"
        ]
        codes = []
        for child in children:
            out, said = child.communicate(timeout=60)
            assert child.returncode == 0, said
            codes.append(json.loads(out))
        assert set(codes[0]) | set(codes[1]) <= {0, 73}
        for place in folder.iterdir():
            assert not place.name.startswith("."), place
            assert sorted(p.name for p in place.iterdir()) == ["a.txt", "b.txt", "provenance.json"]
            assert len({p.read_text() for p in place.iterdir()}) == 1  # one writer's, whole
        if not overwrite:
            assert all(sorted(pair) == [0, 73] for pair in zip(*codes, strict=True))


# ------------------------------------------------------------------ inputs that change between check and use


def cohort(folder: Path, n: int = 4) -> SimpleNamespace:
    maps = np.random.default_rng(3).normal(size=(n, 6, 5, 4)).astype(np.float32)
    paths = [folder / f"sub-{k}.nii" for k in range(n)]
    for path, one in zip(paths, maps, strict=True):
        nib.save(nib.Nifti1Image(one, AFFINE), path)
    return SimpleNamespace(ids=[f"{k}" for k in range(n)], maps=paths)


def replaced(path: Path) -> None:
    """Other values of the same size, on the same grid, a second later: no header tells."""
    when = path.stat().st_mtime
    save(str(path), np.full(nib.load(path).shape, 7, np.float32))
    os.utime(path, (when + 1, when + 1))


CHANGES = {
    "has other values": replaced,
    "vanishes": lambda path: path.unlink(),
    "is cut short": lambda path: path.write_bytes(path.read_bytes()[:400]),
    "is empty": lambda path: path.write_bytes(b""),
    "becomes a folder": lambda path: (path.unlink(), path.mkdir()),
    "becomes text": lambda path: path.write_text("participant_id\tage\n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_map_that_changes_after_the_check_is_named_and_nothing_is_written(tmp_path, monkeypatch, change):
    people = cohort(tmp_path)
    grid = VoxelGrid(np.ones((6, 5, 4), bool), AFFINE)
    made = MapReader.__init__

    def then_change(self, *arguments, **keywords):
        made(self, *arguments, **keywords)  # checks every file
        CHANGES[change](people.maps[2])

    monkeypatch.setattr(MapReader, "__init__", then_change)
    with pytest.raises(DataError, match=r"sub-2\.nii"):
        pack_maps(people, grid, tmp_path / "cohort.zarr")
    assert not list(tmp_path.glob("*.zarr")) + list(tmp_path.glob(".*"))


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_that_changes_after_it_was_opened_is_named(here, change):
    write_inputs()
    image = open_image("map.nii.gz")
    CHANGES[change](Path("map.nii.gz"))
    with pytest.raises(DataError, match=r"map\.nii\.gz"):
        gpuroi.regions(image, threshold=3.0, device="cpu").save("out")
    assert not Path("out").exists()


def test_an_output_folder_that_is_filled_during_the_run_stays(here):
    write_inputs()
    result = gpuroi.regions("map.nii.gz", threshold=3.0, device="cpu")
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("mine")
    with pytest.raises(OutputError):
        result.save("out", overwrite=True)
    assert tree("out") == {"thesis.txt": b"mine"}
    assert [p.name for p in Path().iterdir() if p.name.startswith(".")] == []
    with pytest.raises(OutputError), staged_folder("out"):
        raise AssertionError("never reached")
