"""What compiling costs: the first process of an installation, and every process after it.

python -m benchmarks.start_up                # writes benchmarks/results/start-up-DATE.json

Two processes with an empty cache of their own each do the same small permutation test twice. What the first of the two
calls takes longer is compiling in the first process, and reading compiled kernels from the cache in the second.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, commit, machine, packages
from benchmarks.run import write

__all__ = ["GOAL_S", "main", "process"]

GOAL_S = 0.5

_CHILD = """
import json, sys, time
start = time.perf_counter()
import logging
import numpy as np
logging.disable(logging.CRITICAL)
from gpuroi.domains import VoxelGrid
from gpuroi.inference import permutation_test
import numba, pandas, scipy.stats
imported = time.perf_counter() - start

rng = np.random.default_rng(0)
grid = VoxelGrid(np.ones((9, 8, 7), bool))
data = rng.standard_normal((16, grid.n_elements), dtype=np.float32)
design = np.column_stack([np.repeat([0.0, 1.0], 8), np.ones(16), rng.standard_normal(16)])

def call():
    start = time.perf_counter()
    permutation_test(
        data, design, [1, 0, 0], domain=grid, n_permutations=64, cluster_threshold=2.0, tfce=True, device="cpu"
    )
    return time.perf_counter() - start

first, second = call(), min(call() for _ in range(3))
kernels = [
    kernel
    for name, module in list(sys.modules.items())
    if name.startswith("gpuroi.backends.kernels.")
    for kernel in vars(module).values()
    if hasattr(kernel, "stats") and hasattr(kernel, "signatures")
]
print(json.dumps({
    "import_s": imported,
    "first_call_s": first,
    "later_call_s": second,
    "compile_s": first - second,
    "compiled": sum(sum(k.stats.cache_misses.values()) for k in set(kernels)),
    "read_from_cache": sum(sum(k.stats.cache_hits.values()) for k in set(kernels)),
}))
"""


def main(words: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if a second process compiles anything or takes longer than the goal to get ready."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start_up", description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="second processes (default: 5); the median counts")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/start-up-DATE.json")
    parser.add_argument("--commit", help="commit to record where the checkout has no history")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="gpuroi-bench-") as folder:
        first = process(folder)
        later = sorted((process(folder) for _ in range(options.repeats)), key=lambda found: found["compile_s"])
    median = later[len(later) // 2]
    record: dict[str, Any] = {
        "format": 1,
        "kind": "start-up",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.start_up",
        "machine": machine(None),
        "packages": packages(),
        "commit": commit(options.commit),
        "first_process": first,
        "second_process": median,
        "second_process_compile_s": [found["compile_s"] for found in later],
        "goal_s": GOAL_S,
    }
    print(f"first process: {first['compile_s']:.2f} s of compiling {first['compiled']} kernels")
    print(f"second process: {median['compile_s']:.2f} s for {median['read_from_cache']} kernels from the cache")
    target = options.out or ROOT / "benchmarks" / "results" / f"start-up-{record['date'][:10]}.json"
    write(record, target)
    print(f"written: {target}")
    return 1 if median["compiled"] or median["compile_s"] > GOAL_S else 0


def process(cache: str | None = None) -> dict[str, Any]:
    """Times in seconds and numbers of kernels of one new process; `cache`: folder of compiled kernels."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = cache
    ran = subprocess.run(
        [sys.executable, "-c", _CHILD], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    return {name: value if isinstance(value, int) else round(value, 4) for name, value in found.items()}


if __name__ == "__main__":
    sys.exit(main())
