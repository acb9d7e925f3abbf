"""How often permutation inference is wrong where there is nothing, and how often right where there is something.

python -m benchmarks.fwe_calibration              # writes benchmarks/results/fwe-calibration-DATE.json
python -m benchmarks.fwe_calibration --tiny       # a few data sets, to see that it runs; writes nothing

Familywise error: in data sets of smooth noise without any effect, the share in which anything at all is found at 5 %,
beside the interval that holds 99 % of the shares of an exact test. Power: the same test and nilearn's on data sets with
one planted blob.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import ROOT, commit, machine, packages
from benchmarks.ours import one_thread
from benchmarks.run import write
from benchmarks.settings import short_runs
from gpuroi.domains import VoxelGrid
from gpuroi.inference import permutation_test
from gpuroi.inference.result import PermutationResult

__all__ = ["ALPHA", "DESIGNS", "STATISTICS", "Simulated", "calibrate", "expected", "flawed", "main", "power"]

ALPHA = 0.05
STATISTICS = ("max_t", "size", "mass", "tfce")
CONTINUOUS = ("max_t", "tfce")  # have no ties; cluster statistics do, and are 0 where no cluster is
COVERAGE = 0.99
_SHAPE = (12, 12, 12)
_SIGMA_VOX = 1.2
_CLUSTER_THRESHOLD = 2.6
_SETS, _PERMUTATIONS = 1500, 200  # 5 % of 200 is a whole number: an exact test rejects in 5 %, not in less
_POWER_SETS, _POWER_PERMUTATIONS = 50, 100
_BLOB_HEIGHT = 1.5  # standard deviations of the noise
_SEED = 20_261_121

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Simulated:
    """A data set with the test of it: what `permutation_test` takes."""

    data: NDArray[np.float32]
    design: NDArray[np.float64]
    contrast: list[float]
    options: dict[str, Any]


def main(words: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if the familywise error is not what it has to be."""
    options = _parse(words)
    started = time.perf_counter()
    sets, permutations, power_sets, power_permutations = (
        (12, 40, 2, 20) if options.tiny else (options.sets, _PERMUTATIONS, _POWER_SETS, _POWER_PERMUTATIONS)
    )
    record: dict[str, Any] = {
        "format": 1,
        "kind": "fwe-calibration",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.fwe_calibration{f' --sets {sets}' if sets != _SETS else ''}",
        "machine": machine(None),
        "packages": packages(),
        "commit": commit(options.commit),
        "settings": {
            "shape": list(_SHAPE),
            "noise_sigma_vox": _SIGMA_VOX,
            "cluster_threshold_t": _CLUSTER_THRESHOLD,
            "connectivity": 6,
            "two_sided": True,
            "tfce": "exact, H = 2, E = 0.5",
            "alpha": ALPHA,
            "coverage": COVERAGE,
            "seed": _SEED,
        },
        "familywise_error": calibrate(sets, permutations, say=print),
        "power": power(power_sets, power_permutations, say=print),
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


@short_runs()
@one_thread()  # the products are too small for two: they would wait for each other
def calibrate(n_sets: int, n_permutations: int, *, say: Progress = lambda line: None) -> dict[str, Any]:
    """Share of data sets without an effect in which something is found at 5 %, for each design and statistic.

    Parameters
    ----------
    n_sets : int
        Data sets of each design; set i is a function of the design and i alone.
    n_permutations : int
        Rearrangements of each, the identity counted.
    say : callable
        Told one line a design.
    """
    found: dict[str, Any] = {"n_sets": n_sets, "designs": {}}
    for number, (name, simulate) in enumerate(DESIGNS.items()):
        counts, n_run = dict.fromkeys(STATISTICS, 0), 0
        for i in range(n_sets):
            rng = np.random.default_rng([_SEED, number, i])
            result = _tested(simulate(rng, smooth_noise), n_permutations, seed=i)
            n_run = result.n_permutations  # a group of flips is a power of two
            smallest = _smallest_p(result)
            for statistic in STATISTICS:
                counts[statistic] += smallest[statistic] <= ALPHA
        lower, upper = expected(n_sets, n_run)
        found["designs"][name] = {
            "n_permutations": n_run,
            "expected_share": round(_attainable(n_run), 6),
            "lower": lower / n_sets,
            "upper": upper / n_sets,
            "statistics": {
                statistic: {
                    "rejections": count,
                    "share": round(count / n_sets, 6),
                    "not_above": count <= upper,
                    "not_below": count >= lower,
                }
                for statistic, count in counts.items()
            },
        }
        shares = "  ".join(f"{statistic} {count / n_sets:.3f}" for statistic, count in counts.items())
        say(f"{name:40s} {shares}  (99 % of exact tests: {lower / n_sets:.3f} to {upper / n_sets:.3f})")
    return found


@short_runs()
@one_thread()
def power(n_sets: int, n_permutations: int, *, say: Progress = lambda line: None) -> dict[str, Any]:
    """Detections of one planted blob, by this package and by nilearn's `permuted_ols`, in the same data sets.

    A data set counts as a detection if any voxel of the blob is found at 5 %; `voxels` is the mean share of the blob
    that is found; `outside` counts the data sets in which something is found that does not touch the blob.
    """
    try:
        from nilearn.mass_univariate import permuted_ols
    except ImportError:
        return {"absent": "nilearn is not installed"}
    blob = _blob()
    simulate = DESIGNS[_WITH_COVARIATES]
    found = {name: {s: [0, 0.0, 0] for s in STATISTICS} for name in ("gpuroi", "nilearn")}
    for i in range(n_sets):
        rng = np.random.default_rng([_SEED, len(DESIGNS), i])
        one = simulate(rng, smooth_noise)
        planted = Simulated(one.data + _planted(one.design, blob), one.design, one.contrast, one.options)
        maps = {
            "gpuroi": _ours_found(_tested(planted, n_permutations, seed=i)),
            "nilearn": _nilearn_found(permuted_ols, planted, n_permutations - 1, seed=i),
        }
        for name, kept in maps.items():
            for statistic, voxels in kept.items():
                score = found[name][statistic]
                score[0] += bool(voxels[blob].any())
                score[1] += float(voxels[blob].mean())
                score[2] += bool(_beside(voxels, blob))
    for name, scores in found.items():
        say(f"{name:8s} detections of {n_sets}: " + "  ".join(f"{s} {scores[s][0]}" for s in STATISTICS))
    return {
        "design": _WITH_COVARIATES,
        "n_sets": n_sets,
        "n_permutations": n_permutations,
        "blob_voxels": int(blob.sum()),
        "blob_height": _BLOB_HEIGHT,
        **{
            name: {
                s: {"detected": hits, "voxels": round(share / n_sets, 4), "outside": outside}
                for s, (hits, share, outside) in scores.items()
            }
            for name, scores in found.items()
        },
    }


def expected(n_sets: int, n_permutations: int) -> tuple[int, int]:
    """Smallest and largest number of rejections in the central 99 % of an exact test."""
    from scipy.stats import binom

    lower, upper = binom.interval(COVERAGE, n_sets, _attainable(n_permutations))
    return int(lower), int(upper)


def flawed(record: Mapping[str, Any]) -> list[str]:
    """What is above the interval; and, of statistics without ties, what is below it."""
    problems = []
    for name, row in record["familywise_error"]["designs"].items():
        for statistic, got in row["statistics"].items():
            if not got["not_above"] or (statistic in CONTINUOUS and not got["not_below"]):
                side = "below" if got["not_above"] else "above"
                problems.append(f"{name}: {statistic} rejects in {got['share']:.1%}, {side} the 99 % interval")
    return problems


# ---------------------------------------------------------------- designs

Noise = Callable[[np.random.Generator, int], NDArray[np.float32]]


def smooth_noise(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Smooth Gaussian noise with standard deviation 1, (n, v), as stationary as a torus is."""
    from scipy.ndimage import gaussian_filter

    white = rng.standard_normal((n, *_SHAPE), dtype=np.float32)
    smooth = gaussian_filter(white, (0, *[_SIGMA_VOX] * 3), mode="wrap").reshape(n, -1)
    return np.asarray(smooth / smooth.std(), np.float32)


def one_sample(rng: np.random.Generator, noise: Noise) -> Simulated:
    """18 subjects, is the mean 0? Signs are flipped."""
    n = 18
    return Simulated(noise(rng, n), np.ones((n, 1)), [1.0], {"errors": "ise"})


def one_sample_group(rng: np.random.Generator, noise: Noise) -> Simulated:
    """The same by a random group of flips."""
    one = one_sample(rng, noise)
    return Simulated(one.data, one.design, one.contrast, {"errors": "ise", "flips": "group"})


def two_samples(rng: np.random.Generator, noise: Noise) -> Simulated:
    """12 and 12 subjects who differ in age, with age and sex in the model and in the data. Freedman and Lane."""
    group = np.repeat([0.0, 1.0], 12)
    age = rng.normal(40 + 5 * group, 10)
    sex = rng.permutation(np.arange(24) % 2).astype(float)
    data = noise(rng, 24) + 3.0 + 0.05 * age[:, None] - 0.5 * sex[:, None]
    design = np.column_stack([group, np.ones(24), age, sex])
    return Simulated(data.astype(np.float32), design, [1.0, 0.0, 0.0, 0.0], {})


def paired(rng: np.random.Generator, noise: Noise) -> Simulated:
    """12 subjects measured twice; the two are exchanged within the subject."""
    subject = np.repeat(np.arange(12), 2)
    design = np.column_stack([np.tile([0.0, 1.0], 12), np.eye(12)[subject]])
    data = noise(rng, 24) + 2.0 * rng.standard_normal(12)[subject, None]
    return Simulated(data.astype(np.float32), design, [1.0] + [0.0] * 12, {"blocks": subject})


_WITH_COVARIATES = "two-sample with covariates, Freedman-Lane"
DESIGNS: dict[str, Callable[[np.random.Generator, Noise], Simulated]] = {
    "one-sample, sign flips": one_sample,
    "one-sample, a group of sign flips": one_sample_group,
    _WITH_COVARIATES: two_samples,
    "paired, exchanged within blocks": paired,
}


# ---------------------------------------------------------------- tests


_GRID = VoxelGrid(np.ones(_SHAPE, bool))


def _tested(one: Simulated, n_permutations: int, *, seed: int) -> PermutationResult:
    return permutation_test(
        one.data,
        one.design,
        one.contrast,
        domain=_GRID,
        n_permutations=n_permutations,
        cluster_threshold=_CLUSTER_THRESHOLD,
        tfce=True,
        seed=seed,
        device="cpu",
        **one.options,
    )


def _smallest_p(result: PermutationResult) -> dict[str, float]:
    table = result.cluster_table
    assert table is not None
    assert result.tfce_p_fwe is not None
    return {
        "max_t": float(np.nanmin(result.p_fwe)),
        "size": float(table["p_size_fwe"].min()) if len(table) else 1.0,
        "mass": float(table["p_mass_fwe"].min()) if len(table) else 1.0,
        "tfce": float(np.nanmin(result.tfce_p_fwe)),
    }


def _attainable(n_permutations: int) -> float:
    """The largest p that can come out and is at most 5 %: how often an exact test rejects."""
    return float(np.floor(ALPHA * n_permutations + 1e-9) / n_permutations)


# ---------------------------------------------------------------- power


def _blob() -> NDArray[np.bool_]:
    """A ball of radius 2 in the middle, (v,)."""
    place = np.indices(_SHAPE) - (np.array(_SHAPE).reshape(3, 1, 1, 1) // 2)
    return np.asarray((place**2).sum(0) <= 4).reshape(-1)


def _planted(design: NDArray[np.float64], blob: NDArray[np.bool_]) -> NDArray[np.float32]:
    return (_BLOB_HEIGHT * design[:, :1] * blob).astype(np.float32)


def _ours_found(result: PermutationResult) -> dict[str, NDArray[np.bool_]]:
    labels, table = result.cluster_labels, result.cluster_table
    assert labels is not None
    assert table is not None
    assert result.tfce_p_fwe is not None
    by_label = {s: np.concatenate([[False], table[f"p_{s}_fwe"].to_numpy() <= ALPHA]) for s in ("size", "mass")}
    return {
        "max_t": result.p_fwe <= ALPHA,
        "size": by_label["size"][labels],
        "mass": by_label["mass"][labels],
        "tfce": result.tfce_p_fwe <= ALPHA,
    }


def _nilearn_found(permuted_ols: Any, one: Simulated, n_perm: int, *, seed: int) -> dict[str, NDArray[np.bool_]]:
    """The same question to nilearn. It adds the intercept itself: among the confounds it would flip signs."""
    import nibabel
    from nilearn.maskers import NiftiMasker
    from scipy.stats import t as student

    image: Any = nibabel.Nifti1Image  # untyped there
    df = len(one.data) - one.design.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masker = NiftiMasker(image(np.ones(_SHAPE, np.uint8), np.eye(4)), standardize=None).fit()
        out = permuted_ols(
            one.design[:, :1],
            masker.transform(image(_volumes(one.data), np.eye(4))),
            one.design[:, 2:],
            n_perm=n_perm,
            random_state=seed,
            masker=masker,
            threshold=2 * student.sf(_CLUSTER_THRESHOLD, df),
            tfce=True,
        )
        names = {s: f"logp_{s if s == 'max_t' else f'max_{s}'}" for s in STATISTICS}
        logp = {s: masker.inverse_transform(out[name]).get_fdata().reshape(-1) for s, name in names.items()}
    return {s: values >= -np.log10(ALPHA) - 1e-9 for s, values in logp.items()}


def _volumes(data: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.moveaxis(_GRID.to_volume(data), 0, -1)


def _beside(voxels: NDArray[np.bool_], blob: NDArray[np.bool_]) -> bool:
    """Is there a connected piece that does not touch the blob?"""
    from scipy.ndimage import label

    labels, n = label(voxels.reshape(_SHAPE))
    return n > len(set(labels.reshape(-1)[blob]) - {0})


# ---------------------------------------------------------------- command line


def _file(record: Mapping[str, Any]) -> Path:
    return ROOT / "benchmarks" / "results" / f"fwe-calibration-{record['date'][:10]}.json"


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fwe_calibration", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--tiny", action="store_true", help="12 data sets, to see that everything runs")
    parser.add_argument("--sets", type=int, default=_SETS, help=f"data sets of each design (default: {_SETS})")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: benchmarks/results/fwe-calibration-DATE.json"
    )
    parser.add_argument("--commit", help="commit to record where the checkout has no history")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
