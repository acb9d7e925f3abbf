"""How often permutation inference on parcels is wrong where there is nothing: smooth noise painted on real atlases.

python -m benchmarks.parcel_fwe --atlases FOLDER    # writes benchmarks/results/parcel-fwe-DATE.json
python -m benchmarks.parcel_fwe --tiny              # a few data sets on a made-up atlas; writes nothing

Each data set is smooth Gaussian noise in the voxels of an atlas, averaged over its parcels: they are of unequal size,
their values vary unequally and go with those of their neighbours. The share of data sets in which anything is found at
5 % is given beside an interval: of exact tests, all shares of the table lie within it 99 times of 100. Atlases on one
grid share their noise.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.fwe_calibration import ALPHA, CONTINUOUS, COVERAGE, STATISTICS, Progress, Simulated
from benchmarks.machine import ROOT, commit, machine, packages
from benchmarks.ours import one_thread
from benchmarks.run import write
from benchmarks.settings import short_runs
from gpuroi.domains import ParcelGraph
from gpuroi.inference import permutation_test
from gpuroi.ops import label_means, smooth
from gpuroi.parcels import smooth_over_graph

__all__ = ["calibrate", "flawed", "interval", "made_up_atlas", "main", "read_atlases"]

ATLASES = {
    "Schaefer 100": "schaefer100x7MNI.nii.gz",
    "Schaefer 200": "schaefer200x7MNI.nii.gz",
    "Harvard-Oxford cortical": "HarvardOxford-cort-maxprob-thr25-2mm.nii.gz",
    "Yeo 17, split": "Yeo_17_Liberal_2mm_split.nii.gz",
}
_FINE = 1000
_EVERY = 3  # every third voxel along each axis: 6 mm, so that the noise is made in a minute
_FWHM_MM = 15.0
_SUBJECTS = 20
_CLUSTER_THRESHOLD = 2.1
_SETS, _PERMUTATIONS = 1000, 200  # 5 % of 200 is a whole number: an exact test rejects in 5 %, not in less
_SEED = 20_261_122

Atlases = Mapping[str, tuple[NDArray[np.int32], NDArray[np.float64]]]


def main(words: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if the familywise error is not what it has to be."""
    options = _parse(words)
    started = time.perf_counter()
    atlases = {"made up": made_up_atlas()} if options.tiny else read_atlases(options.atlases)
    sets, permutations = (12, 40) if options.tiny else (options.sets, _PERMUTATIONS)
    record: dict[str, Any] = {
        "format": 1,
        "kind": "parcel-fwe",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.parcel_fwe{f' --sets {sets}' if sets != _SETS else ''}",
        "machine": machine(None),
        "packages": packages(),
        "commit": commit(options.commit),
        "settings": {
            "every": _EVERY,
            "noise_fwhm_mm": _FWHM_MM,
            "subjects": _SUBJECTS,
            "cluster_threshold_t": _CLUSTER_THRESHOLD,
            "weights": "mm3",
            "connectivity": 6,
            "two_sided": True,
            "tfce": "exact, H = 2, E = 0.5",
            "alpha": ALPHA,
            "coverage": COVERAGE,
            "seed": _SEED,
        },
        "familywise_error": calibrate(atlases, sets, permutations, say=print),
    }
    record["seconds"] = round(time.perf_counter() - started, 1)
    target = options.out or (None if options.tiny else _file(record))
    if target is not None:
        write(record, target)
        print(f"written: {target}")
    problems = flawed(record)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def read_atlases(folder: Path) -> dict[str, tuple[NDArray[np.int32], NDArray[np.float64]]]:
    """Labels of every third voxel, and their affine."""
    from gpuroi.images import open_image, read_labels

    found = {}
    for name, file in ATLASES.items():
        image = open_image(folder / file)
        affine = image.affine @ np.diag([_EVERY, _EVERY, _EVERY, 1.0])
        found[name] = (np.ascontiguousarray(read_labels(image)[::_EVERY, ::_EVERY, ::_EVERY]), affine)
    labels, affine = found["Schaefer 200"]
    found[f"{_FINE} seeds in Schaefer's cortex"] = (_around_seeds(labels > 0, _FINE), affine)
    return found


def _around_seeds(inside: NDArray[np.bool_], n: int) -> NDArray[np.int32]:
    """Each voxel inside to the nearest of n random ones: as fine as the finest atlases are."""
    from scipy.spatial import cKDTree

    place = np.argwhere(inside)
    seeds = np.random.default_rng(_SEED).choice(place, n, replace=False)
    labels = np.zeros(inside.shape, np.int32)
    labels[inside] = 1 + cKDTree(seeds).query(place)[1]
    return labels


def made_up_atlas() -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Parcels around random seeds, each voxel to the nearest: of unequal size."""
    rng = np.random.default_rng(_SEED)
    place = np.argwhere(np.ones((16, 18, 16)))
    seeds = rng.choice(place, 40, replace=False)
    nearest = ((place[:, None] - seeds) ** 2).sum(axis=2).argmin(axis=1)
    return (nearest + 1).reshape(16, 18, 16).astype(np.int32), np.diag([6.0, 6.0, 6.0, 1.0])


@short_runs()
@one_thread()  # the products are too small for two: they would wait for each other
def calibrate(
    atlases: Atlases, n_sets: int, n_permutations: int, *, say: Progress = lambda line: None
) -> dict[str, Any]:
    """Share of data sets without an effect in which something is found at 5 %, by atlas, design and statistic.

    Parameters
    ----------
    atlases : mapping of name to labels and affine
    n_sets : int
        Data sets of each atlas, each tested in every design; set i is a function of the grid and i alone.
    n_permutations : int
    say : callable
        Told about every atlas and design.
    """
    n_cells = len(atlases) * len(_DESIGNS) * len(STATISTICS)
    lower, upper = interval(n_sets, n_permutations, n_cells)
    found: dict[str, Any] = {
        "n_sets": n_sets,
        "n_permutations": n_permutations,
        "n_cells": n_cells,
        "lower": lower / n_sets,
        "upper": upper / n_sets,
        "atlases": {},
    }
    grids: dict[tuple[Any, ...], list[str]] = {}
    for name, (labels, affine) in atlases.items():
        grids.setdefault((labels.shape, *np.abs(affine[:3, :3]).sum(axis=0)), []).append(name)
    for number, together in enumerate(grids.values()):
        graphs = {name: ParcelGraph.from_labels(*atlases[name], weights="mm3") for name in together}
        counts = {(name, design): dict.fromkeys(STATISTICS, 0) for name in together for design in _DESIGNS}
        for i in range(n_sets):
            rng = np.random.default_rng([_SEED, number, i])
            noise = _smooth_noise(rng, *atlases[together[0]])
            designs = {design: make(rng) for design, make in _DESIGNS.items()}
            for name in together:
                means = np.asarray(label_means(noise, atlases[name][0]), np.float32)  # (n, v)
                for design, one in designs.items():
                    smallest = _smallest_p(means, one, graphs[name], n_permutations, i)
                    for statistic in STATISTICS:
                        counts[name, design][statistic] += smallest[statistic] <= ALPHA
        for name in together:
            sizes = graphs[name].voxels
            assert sizes is not None
            rows = {design: _row(counts[name, design], n_sets, lower, upper) for design in _DESIGNS}
            found["atlases"][name] = {
                "parcels": graphs[name].n_elements,
                "edges": len(graphs[name].edges),
                "voxels_of_a_parcel": [int(sizes.min()), int(np.median(sizes)), int(sizes.max())],
                "designs": rows,
            }
            for design, row in rows.items():
                shares = "  ".join(f"{statistic} {one['share']:.3f}" for statistic, one in row.items())
                say(f"{name:24s} {design:34s} {shares}")
    say(f"exact tests lie between {lower / n_sets:.3f} and {upper / n_sets:.3f}, all of them, 99 times of 100")
    return found


def interval(n_sets: int, n_permutations: int, n_cells: int) -> tuple[int, int]:
    """Smallest and largest number of rejections such that those of `n_cells` exact tests all lie between, in 99 %."""
    from scipy.stats import binom

    attainable = np.floor(ALPHA * n_permutations + 1e-9) / n_permutations
    lower, upper = binom.interval(1 - (1 - COVERAGE) / n_cells, n_sets, attainable)
    return int(lower), int(upper)


def flawed(record: Mapping[str, Any]) -> list[str]:
    """What is above the interval; and, of statistics without ties, what is below it."""
    problems = []
    for name, atlas in record["familywise_error"]["atlases"].items():
        for design, row in atlas["designs"].items():
            for statistic, got in row.items():
                if not got["not_above"] or (statistic in CONTINUOUS and not got["not_below"]):
                    side = "below" if got["not_above"] else "above"
                    problems.append(f"{name}, {design}: {statistic} rejects in {got['share']:.1%}, {side} the interval")
    return problems


# ---------------------------------------------------------------- designs


def _one_sample(rng: np.random.Generator) -> Simulated:
    """Is the mean 0? Signs are flipped."""
    return Simulated(np.zeros((_SUBJECTS, 1), np.float32), np.ones((_SUBJECTS, 1)), [1.0], {"errors": "ise"})


def _two_samples(rng: np.random.Generator) -> Simulated:
    """Two groups that differ in age, with age in the model and in the data. Freedman and Lane."""
    group = np.repeat([0.0, 1.0], _SUBJECTS // 2)
    age = rng.normal(40 + 5 * group, 10)
    added = (0.02 * age[:, None]).astype(np.float32)
    return Simulated(added, np.column_stack([group, np.ones(_SUBJECTS), age]), [1.0, 0.0, 0.0], {})


def _smoothed(rng: np.random.Generator) -> Simulated:
    """Two groups, the values smoothed over the graph."""
    one = _two_samples(rng)
    return Simulated(one.data, one.design, one.contrast, {"smoothed": True})


_DESIGNS = {
    "one-sample, sign flips": _one_sample,
    "two-sample with a covariate": _two_samples,
    "the same, smoothed over the graph": _smoothed,
}


def _smooth_noise(
    rng: np.random.Generator, labels: NDArray[np.int32], affine: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Smooth Gaussian noise, (n, X, Y, Z); its scale does not matter."""
    white = rng.standard_normal((_SUBJECTS, *labels.shape), dtype=np.float32)
    zooms = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return np.asarray(smooth(white, _FWHM_MM, tuple(zooms)))


def _smallest_p(
    means: NDArray[np.float32], one: Simulated, graph: ParcelGraph, n_permutations: int, seed: int
) -> dict[str, float]:
    options = dict(one.options)
    data = means + one.data
    if options.pop("smoothed", False):
        data = smooth_over_graph(data, graph)
    result = permutation_test(
        data,
        one.design,
        one.contrast,
        domain=graph,
        n_permutations=n_permutations,
        cluster_threshold=_CLUSTER_THRESHOLD,
        tfce=True,
        seed=seed,
        device="cpu",
        **options,
    )
    table = result.cluster_table
    assert table is not None
    assert result.tfce_p_fwe is not None
    return {
        "max_t": float(result.p_fwe.min()),
        "size": float(table["p_size_fwe"].min()) if len(table) else 1.0,
        "mass": float(table["p_mass_fwe"].min()) if len(table) else 1.0,
        "tfce": float(result.tfce_p_fwe.min()),
    }


def _row(counts: Mapping[str, int], n_sets: int, lower: int, upper: int) -> dict[str, Any]:
    return {
        statistic: {
            "rejections": count,
            "share": round(count / n_sets, 6),
            "not_above": count <= upper,
            "not_below": count >= lower,
        }
        for statistic, count in counts.items()
    }


# ---------------------------------------------------------------- command line


def _file(record: Mapping[str, Any]) -> Path:
    return ROOT / "benchmarks" / "results" / f"parcel-fwe-{record['date'][:10]}.json"


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parcel_fwe", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="12 data sets on a made-up atlas, to see that it runs")
    parser.add_argument("--sets", type=int, default=_SETS, help=f"data sets of each atlas (default: {_SETS})")
    parser.add_argument("--atlases", type=Path, metavar="FOLDER", help=f"holds {', '.join(ATLASES.values())}")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/parcel-fwe-DATE.json")
    parser.add_argument("--commit", help="commit to record where the checkout has no history")
    options = parser.parse_args(words)
    if not options.tiny and options.atlases is None:
        parser.error("give --atlases, the folder of the atlases, or --tiny")
    return options


if __name__ == "__main__":
    sys.exit(main())
