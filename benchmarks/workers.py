"""Permutations on one Dask worker and on two, each with one thread, beside the threads of one process.

python -m benchmarks.workers           # 100 people, 2 mm, 10 000 permutations with clusters; writes benchmarks/results/
python -m benchmarks.workers --tfce    # 1000 permutations with clusters and TFCE
python -m benchmarks.workers --tiny    # a small cohort; writes nothing

All of them read the same packed store, and give the same numbers to the last bit. Starting the workers is not counted,
reading and setting up on each of them is.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.inputs import SIZES, VOXEL_MM, Size, brain_mask, noise_maps
from benchmarks.machine import commit, machine, packages
from benchmarks.run import RESULTS, write
from gpuroi.cohort import CohortMaps, maps_from_store, pack_maps
from gpuroi.distributed.client import dask_client
from gpuroi.distributed.permutations import permutation_test_on
from gpuroi.inference.permutation_settings import PermutationSettings
from gpuroi.inference.result import PermutationResult
from gpuroi.inference.shares import permutation_shares

__all__ = ["main", "measure"]

_THRESHOLD = 3.1
_SUBJECTS, _PERMUTATIONS, _REPEATS = 100, 10_000, 3


def main(words: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if the numbers differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description="Measure Dask workers.")
    parser.add_argument("--tiny", action="store_true", help="a small cohort; writes nothing")
    parser.add_argument("--tfce", action="store_true", help="TFCE too, in fewer permutations")
    parser.add_argument("--out", type=Path, help="file to write")
    options = parser.parse_args(words)
    size, n, n_permutations = SIZES["full"], _SUBJECTS, _PERMUTATIONS // 10 if options.tfce else _PERMUTATIONS
    if options.tiny:
        size, n, n_permutations = SIZES["tiny"], 12, 200
    with tempfile.TemporaryDirectory(prefix="gpuroi-workers-") as folder:
        maps = _packed(Path(folder), size, n)
        measured = measure(maps, n_permutations, tfce=options.tfce, repeats=1 if options.tiny else _REPEATS)
    kind = "workers-tfce" if options.tfce else "workers"
    record: dict[str, Any] = {
        "format": 1,
        "kind": kind,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.workers{' --tfce' if options.tfce else ''}",
        "machine": machine(None),
        "packages": packages(),
        "commit": commit(),
        "settings": {
            "maps": n,
            "voxels": maps.mask.n_elements,
            "permutations": n_permutations,
            "cluster_threshold_t": _THRESHOLD,
            "tfce": options.tfce,
            "threads_of_a_worker": 1,
        },
        **measured,
    }
    target = options.out or (None if options.tiny else RESULTS / f"cpu-{kind}-{record['date'][:10]}.json")
    if target is not None:
        write(record, target)
        print(f"written: {target}")
    for name, seconds in measured["seconds"].items():
        print(f"{name:<14} {seconds['median']:.2f} s")
    print(f"two workers are {measured['speed_up_of_two_workers']:.2f} times faster than one")
    return 0 if measured["same_numbers"] else 1


def _packed(folder: Path, size: Size, n: int) -> CohortMaps:
    """Maps of noise in a packed store, which memory does not hold."""
    import nibabel

    affine = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])
    paths = [folder / f"sub-{i:03}.nii" for i in range(n)]
    for path, values in zip(paths, noise_maps(size.shape, n), strict=True):
        nibabel.save(nibabel.Nifti1Image(values, affine), path)
    mask = nibabel.Nifti1Image(brain_mask(size.shape).astype(np.uint8), affine)
    people = SimpleNamespace(ids=[path.stem for path in paths], maps=paths)
    return maps_from_store(pack_maps(people, mask, folder / "cohort.zarr"), memory_limit=1)


def measure(maps: CohortMaps, n_permutations: int, *, tfce: bool = False, repeats: int) -> dict[str, Any]:
    """Return the seconds of each way, in turns, and whether the numbers are the same."""
    design = np.column_stack([np.ones(len(maps.ids)), np.arange(len(maps.ids)) % 2])
    settings = PermutationSettings(
        domain=maps.mask, n_permutations=n_permutations, cluster_threshold=_THRESHOLD, tfce=tfce
    )

    def here() -> PermutationResult:
        with permutation_shares(maps.data, design, [0, 1], settings, "cpu") as shares:
            shares.count_all()
            return shares.result()

    before = os.environ.get("GPUROI_NUM_THREADS")
    os.environ["GPUROI_NUM_THREADS"] = "1"  # of each worker; this process has its threads already
    try:
        with dask_client("local:1") as one, dask_client("local:2") as two:
            ways: dict[str, Callable[[], PermutationResult]] = {
                "one worker": lambda: permutation_test_on(one, maps.data, design, [0, 1], settings),
                "two workers": lambda: permutation_test_on(two, maps.data, design, [0, 1], settings),
            }
            seconds, results = _in_turns(ways, repeats)
    finally:
        if before is None:
            del os.environ["GPUROI_NUM_THREADS"]
        else:
            os.environ["GPUROI_NUM_THREADS"] = before
    alone, own = _in_turns({"threads here": here}, repeats)
    seconds |= alone
    found = [*results, *own]
    same = all(
        np.array_equal(one.p_fwe, found[0].p_fwe) and np.array_equal(one.null["max_mass"], found[0].null["max_mass"])
        for one in found
    )
    speed_up = statistics.median(a / b for a, b in zip(seconds["one worker"], seconds["two workers"], strict=True))
    return {
        "seconds": {name: {"median": statistics.median(all_of), "all": all_of} for name, all_of in seconds.items()},
        "speed_up_of_two_workers": speed_up,
        "same_numbers": same,
    }


def _in_turns(
    ways: dict[str, Callable[[], PermutationResult]], repeats: int
) -> tuple[dict[str, list[float]], list[PermutationResult]]:
    """Run each way three times to warm up, so that every worker has compiled; then all of them in turns."""
    results = [way() for way in ways.values() for _ in range(3)]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return seconds, results


if __name__ == "__main__":
    raise SystemExit(main())
