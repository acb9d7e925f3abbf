"""A cohort that memory does not hold: a linear model in one pass through a packed store, beside the disk's own rate.

python -m benchmarks.large_store                  # 10 000 x 235 000; writes benchmarks/results/large-store-DATE.json
python -m benchmarks.large_store --subjects 300   # less; writes nothing unless --out is given

The store is made in a temporary folder (`--folder`: a disk to measure), 8.5 GB for 10 000 maps. Reading its files from
end to end and fitting a model in a new process take turns; before each, the files are dropped from the page cache. The
rate of the fit counts the bytes that lie on the disk, which are fewer than those of the maps.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import ROOT, commit, machine, packages
from benchmarks.run import write

__all__ = ["GOAL_MB", "GOAL_SHARE", "flawed", "main", "make_store", "measure"]

GOAL_SHARE = 0.7
GOAL_MB = 2000
GOAL_ERROR = 1e-5  # of t: float32 out
_SUBJECTS, _VOXELS = 10_000, 235_000
_REPEATS = 3
_SAMPLE = 16  # elements at each of 16 places

_CHILD = """
import json, sys, time
from pathlib import Path
import numpy as np
from benchmarks.large_store import CONTRAST, design, peak_mb
from gpuroi.cohort import open_store
from gpuroi.inference import glm

path, n, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
x = design(n)
glm(np.random.default_rng(0).standard_normal((n, 16), dtype=np.float32), x, CONTRAST)  # compiles
before = peak_mb()
start, cpu = time.perf_counter(), time.process_time()
t = glm(open_store(path), x, CONTRAST, device="cpu").statistic
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
np.save(out, t)
print(json.dumps({"seconds": seconds, "cpu_s": cpu, "peak_mb": peak_mb(), "peak_mb_before": before}))
"""

CONTRAST = [0, 1, 0, 0, 0]


def main(words: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if a goal is missed at full size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_store", description=__doc__.partition("\n")[0])
    parser.add_argument("--subjects", type=int, default=_SUBJECTS)
    parser.add_argument("--voxels", type=int, default=_VOXELS)
    parser.add_argument("--folder", type=Path, help="where the store is made (default: the temporary folder)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/large-store-DATE.json")
    parser.add_argument("--commit", help="commit to record where the checkout has no history")
    options = parser.parse_args(words)
    full = (options.subjects, options.voxels) == (_SUBJECTS, _VOXELS)
    record: dict[str, Any] = {
        "format": 1,
        "kind": "large-store",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.large_store" + ("" if full else f" --subjects {options.subjects}"),
        "machine": machine(None),
        "packages": packages(),
        "commit": commit(options.commit),
        "goals": {"share": GOAL_SHARE, "peak_mb": GOAL_MB, "largest_error": GOAL_ERROR},
        **measure(options.subjects, options.voxels, options.folder),
    }
    target = options.out or ROOT / "benchmarks" / "results" / f"large-store-{record['date'][:10]}.json"
    if full or options.out:
        write(record, target)
        print(f"written: {target}")
    problems = flawed(record) if full else []
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def flawed(record: dict[str, Any]) -> list[str]:
    """Return the goals that a record misses, in words."""
    checks = [
        (record["share"] >= GOAL_SHARE, f"{record['share']:.0%} of the rate of reading, the goal is {GOAL_SHARE:.0%}"),
        (record["fit"]["peak_mb"] <= GOAL_MB, f"{record['fit']['peak_mb']:.0f} MB, the goal is {GOAL_MB} MB"),
        (record["error"]["largest"] <= GOAL_ERROR, f"t is off by {record['error']['largest']:.1e}"),
    ]
    return [text for good, text in checks if not good]


def measure(n: int, v: int, folder: Path | None = None) -> dict[str, Any]:
    """Make a store of n x v float32, measure, and remove it.

    Raises
    ------
    SystemExit
        With code 73 if the disk has no room.
    """
    with tempfile.TemporaryDirectory(prefix="gpuroi-large-", dir=folder) as name:
        needed, free = 1.05 * 4 * n * v, shutil.disk_usage(name).free
        if needed > free:
            print(f"{name}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free", file=sys.stderr)
            raise SystemExit(73)
        path = Path(name, "cohort.zarr")
        start = time.perf_counter()
        make_store(path, n, v)
        made_s = time.perf_counter() - start
        files = sorted(file for file in (path / "maps").rglob("*") if file.is_file())
        on_disk = sum(file.stat().st_size for file in files)
        print(f"{n} x {v}: {4 * n * v / 1e9:.2f} GB of maps, {on_disk / 1e9:.2f} GB on disk, made in {made_s:.0f} s")
        reads, fits = [], []
        for _ in range(_REPEATS):
            cold = _drop(files)
            reads.append(_read(files))
            _drop(files)
            fits.append(_fit(path, n, Path(name, "t.npy")))
            rates = on_disk / reads[-1] / 1e9, on_disk / fits[-1]["seconds"] / 1e9
            print(f"read {rates[0]:.2f} GB/s, fitted {rates[1]:.2f} GB/s ({fits[-1]['cpu_s']:.1f} s of processors)")
        fit_s, read_s = statistics.median(fit["seconds"] for fit in fits), statistics.median(reads)
        return {
            "input": {"shape": [n, v], "dtype": "float32", "regressors": len(CONTRAST)},
            "bytes": {"maps": 4 * n * v, "on_disk": on_disk},
            "page_cache": "dropped before each" if cold else "could not be dropped",
            "make_s": round(made_s, 1),
            "read": {"seconds": [round(s, 3) for s in reads], "gb_per_s": round(on_disk / read_s / 1e9, 3)},
            "fit": {
                "seconds": [round(fit["seconds"], 3) for fit in fits],
                "cpu_s": [round(fit["cpu_s"], 3) for fit in fits],
                "gb_per_s_of_disk": round(on_disk / fit_s / 1e9, 3),
                "gb_per_s_of_maps": round(4 * n * v / fit_s / 1e9, 3),
                "peak_mb": max(fit["peak_mb"] for fit in fits),
                "peak_mb_before": max(fit["peak_mb_before"] for fit in fits),
            },
            "share": round(read_s / fit_s, 3),
            "error": _error(path, n, np.load(Path(name, "t.npy"))),
        }


def design(n: int) -> NDArray[np.float64]:
    """Intercept, two groups, three covariates."""
    rng = np.random.default_rng(1)
    return np.column_stack([np.ones(n), np.arange(n) % 2, rng.standard_normal((n, 3))])


def make_store(path: Path, n: int, v: int) -> None:
    """Write noise, a tenth of which compresses away, with an effect in every 50th voxel, as `gpuroi pack` does."""
    from gpuroi.backends.threads import one_ahead
    from gpuroi.cohort import packing
    from gpuroi.cohort.store import FORMAT, attributes_checksum
    from gpuroi.domains import VoxelGrid

    array = packing._new_array(path, (n, v), np.dtype(np.float32))
    group = design(n)[:, 1].astype(np.float32)

    def make(start: int) -> NDArray[np.float32]:
        rng = np.random.Generator(np.random.SFC64([7, start]))
        rows = rng.standard_normal((min(n, start + 128) - start, v), dtype=np.float32)
        rows += 0.5
        rows[:, ::50] += 0.1 * group[start : start + 128, None]
        return rows

    for start, rows in one_ahead(make, range(0, n, 128)):
        packing._write_shards(array, rows, start, path)
    grid = VoxelGrid(np.ones((v, 1, 1), bool), np.eye(4))
    attributes = {
        "format": FORMAT,
        "gpuroi_version": packages()["gpuroi"],
        "participant_id": [f"sub-{i:05}" for i in range(n)],
        "source": [f"sub-{i:05}.nii.gz" for i in range(n)],
        "sha256": ["0" * 64] * n,
        "missing_values": [0] * n,
        "affine": np.eye(4).tolist(),
        "mask_sha256": hashlib.sha256(np.ascontiguousarray(grid.mask).tobytes()).hexdigest(),
        "dtype": "float32",
        "asked_dtype": None,
        "smoothing_fwhm_mm": None,
        "largest_relative_error": 0.0,
        "n_underflows": 0,
    }
    packing._write_group(path, {**attributes, "checksum": attributes_checksum(attributes)}, grid)


def peak_mb() -> float:
    """Most memory that this process has held, in MB (Linux), its imports included."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) * 1.024e-3, 1)
    raise SystemExit("no VmHWM in /proc/self/status")


def _drop(files: list[Path]) -> bool:
    """Write the files out and drop them from the page cache; False where the system cannot."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in files:
        opened = os.open(file, os.O_RDWR)
        try:
            os.fsync(opened)  # what is not on the disk yet cannot be dropped
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(opened)
    return True


def _read(files: list[Path]) -> float:
    """Seconds to read the files from end to end, one after the other."""
    room = bytearray(4 << 20)
    start = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(room):
                pass
    return time.perf_counter() - start


def _fit(path: Path, n: int, out: Path) -> dict[str, Any]:
    """Seconds and peak memory of the fit in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path), str(n), str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def _error(path: Path, n: int, t: NDArray[np.float32]) -> dict[str, Any]:
    """Largest difference from t in float64 by the normal equations, relative where t is above 1, over some elements."""
    from gpuroi.cohort import open_store

    store, x = open_store(path), design(n)
    places = np.unique(np.linspace(0, max(0, store.shape[1] - _SAMPLE), 16).astype(int))
    inverse = np.linalg.inv(x.T @ x)
    worst = 0.0
    for start in places:
        stop = min(store.shape[1], int(start) + _SAMPLE)
        y = store.columns(int(start), stop).astype(np.float64)
        beta = inverse @ (x.T @ y)
        rest = y - x @ beta
        want = beta[1] / np.sqrt(inverse[1, 1] * np.sum(rest * rest, axis=0) / (n - x.shape[1]))
        worst = max(worst, float(np.max(np.abs(t[start:stop] - want) / np.maximum(1, np.abs(want)))))
    return {"largest": worst, "elements": int(len(places) * _SAMPLE)}


if __name__ == "__main__":
    sys.exit(main())
