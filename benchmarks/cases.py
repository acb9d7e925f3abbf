"""The table of cases: what is measured, on what, beside whom, and how close every answer has to be.

One table drives the timed runs, the pytest-benchmark suite, the checks in the tests and the table of the README.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks import device_peers, inputs, ours, peers, references
from benchmarks.inputs import Size
from benchmarks.measure import differences
from benchmarks.settings import Call, Outputs, Steps
from gpuroi.backends import Backend

__all__ = ["CASES", "DEVICE_PEERS", "OURS", "Case", "Check", "absence", "judge", "prepare", "select", "to_host"]

OURS = ("gpuroi-cpu", "gpuroi-cuda")
DEVICE_PEERS = ("cupy", "cucim")


@dataclass(frozen=True)
class Check:
    """How close an output has to be to the reference."""

    measure: Literal["differing", "max_abs", "max_rel"]
    limit: float
    peer_limit: float | None = None
    """Where it is wider for peers: SciPy and CuPy take sums in the precision of the data, nilearn returns float32."""


@dataclass(frozen=True)
class Case:
    """One operation on one input."""

    name: str
    what: str
    """In the words of the README's table."""
    make: Callable[[Size], Any]
    ours: Callable[[Any, Backend], Call]
    reference: Callable[[Any], Outputs]
    checks: Mapping[str, Check]
    traffic: Callable[[Any], int]
    """Bytes that must be moved at least: the input read once, the output written once."""
    peers: Mapping[str, Callable[[Any], Call]] = field(default_factory=dict)
    device_batch: bool = False
    """Part of the run that fills a GPU."""
    cpu_only: bool = False
    """Says something of the CPU alone: one thread of it."""


def select(pattern: str | None, *, device_batch: bool = False) -> list[Case]:
    """Cases whose name matches a shell pattern, or holds it; several patterns are separated by commas."""
    wanted = [part.strip() for part in (pattern or "*").split(",")]
    found = [c for c in CASES if any(fnmatch(c.name, p) or p in c.name for p in wanted)]
    return [c for c in found if c.device_batch or not device_batch]


def absence(name: str, cuda: Backend | None) -> str | None:
    """Why an implementation cannot run here, or None."""
    if name in (*DEVICE_PEERS, "gpuroi-cuda") and cuda is None:
        return "no CUDA device"
    for part in () if name in OURS else name.split("+"):
        module = peers.MODULES[part]
        if module not in sys.modules and importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    return None


def prepare(case: Case, name: str, made: Any, backends: Mapping[str, Backend]) -> Call:
    """Return the call to time (`Steps`, if its time is that of a step), with its input in place.

    Warnings of peers are theirs.
    """
    call = case.ours(made, backends[name]) if name in OURS else case.peers[name](made)
    if name in OURS:
        return call
    if isinstance(call, Steps):
        return replace(call, run=partial(_quietly, call.run))
    return partial(_quietly, call)


def judge(case: Case, name: str, outputs: Outputs, reference: Outputs) -> tuple[dict[str, Any], bool]:
    """Differences from the reference, output by output, and whether all are within their limits.

    A peer may lack outputs that gpuroi returns beside the statistic; gpuroi itself may not.
    """
    missing = set(case.checks) - set(outputs) if name in OURS else set()
    errors: dict[str, Any] = {key: {"missing": True} for key in sorted(missing)}
    fine = not missing
    for key in [k for k in case.checks if k in outputs]:
        check = case.checks[key]
        limit = check.limit if name in OURS or check.peer_limit is None else check.peer_limit
        found = differences(to_host(outputs[key]), reference[key])
        errors[key] = {**found, "measure": check.measure, "limit": limit}
        fine &= found[check.measure] <= limit
    return errors, fine


def to_host(values: Any) -> NDArray[Any]:
    """An output as one NumPy array: stacks the volumes of those who work volume by volume."""
    if isinstance(values, list):
        return np.stack([to_host(value) for value in values])
    return np.asarray(values.get() if hasattr(values, "get") else values)


def _quietly(call: Callable[..., Outputs], *arguments: Any) -> Outputs:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments)


def _maps(size: Size) -> inputs.MapBatch:
    return inputs.map_batch(size)


def _map_batch(size: Size) -> inputs.MapBatch:
    return inputs.map_batch(size, maps=size.maps)


def _labelled_maps(size: Size) -> inputs.MapBatch:
    return inputs.map_batch(size, maps=size.labelled_maps, labels=True, order="F")


def _floats_to_floats(maps: inputs.MapBatch) -> int:
    return 2 * maps.volumes.nbytes


def _masks_to_masks(maps: inputs.MapBatch) -> int:
    return 2 * int(maps.volumes.size)


def _masks_to_labels(maps: inputs.MapBatch) -> int:
    return 5 * int(maps.volumes.size)


def _floats_and_labels(maps: inputs.MapBatch) -> int:
    return maps.volumes.nbytes + 4 * math.prod(maps.volumes.shape[1:])


def _two_samples(samples: inputs.Samples) -> int:
    return int(samples.a.nbytes + samples.b.nbytes + 20 * samples.a.shape[1])


def _one_sample(sample: inputs.Sample) -> int:
    return int(sample.values.nbytes + 20 * sample.values.shape[1])


def _maps_to_maxima(maps: inputs.MapBatch) -> int:
    return 4 * int(maps.mask.sum()) * len(maps.volumes)


def _maps_to_maps(maps: inputs.MapBatch) -> int:
    return 2 * _maps_to_maxima(maps)


def _one_map(cohort: inputs.Cohort) -> int:
    return 4 * int(cohort.data.shape[1])


def _run_bytes(run: inputs.Run) -> int:
    return run.path.stat().st_size + 4 * math.prod(run.shape)


def _file_bytes(files: inputs.FileSet) -> int:
    return sum(p.stat().st_size for p in files.paths) + 4 * len(files.paths) * int(files.mask.sum())


_SAME = {"values": Check("differing", 0.0)}
_SMOOTH = {"values": Check("max_rel", 1e-6)}
_MASK = {"mask": Check("differing", 0.0)}
_LABELS = {"labels": Check("differing", 0.0), "counts": Check("differing", 0.0)}
_TEST = {
    "statistic": Check("max_rel", 1e-6, 1e-4),
    "pvalue": Check("max_abs", 1e-10, 1e-4),
    "log10p": Check("max_abs", 1e-9, 1e-2),
}

_LARGEST = {"size": Check("max_rel", 0.0), "mass": Check("max_rel", 1e-5, 1e-3)}
_ENHANCED = {"first": Check("max_rel", 5e-3, 5e-2)}  # the reference is a sum over steps, and nilearn takes fewer
_PERMUTED = {"t": Check("max_rel", 1e-5, 1e-4), "null_max_stat": Check("max_rel", 1e-5)}
_CLUSTERED = {
    "null_max_size": Check("max_rel", 0.0),
    "null_max_mass": Check("max_rel", 1e-5),
    "observed_size": Check("max_rel", 0.0, 1e-2),  # nilearn's t is right to 1e-4: a voxel more or less
}
_TFCE = {"null_max_tfce": Check("max_rel", 5e-3), "observed_tfce": Check("max_rel", 5e-3, 5e-2)}
_TESTED: dict[str, dict[str, Check]] = {
    "max_t": _PERMUTED,
    "clusters": _PERMUTED | _CLUSTERED,
    "tfce": _PERMUTED | _TFCE,
    "all": _PERMUTED | _CLUSTERED | _TFCE,
}
_WORDS = {
    "max_t": "maximum of t, a permutation",
    "clusters": "cluster size and mass, a permutation",
    "tfce": "exact TFCE, a permutation",
}

CASES: tuple[Case, ...] = (
    Case(
        "threshold_clusters", "threshold 2.0, clusters of 10 voxels and more", _maps, ours.threshold_clusters,
        references.threshold_clusters, _SAME, _floats_to_floats,
        {"nilearn": peers.nilearn_threshold, "cupy": device_peers.cupy_threshold},
    ),
    Case(
        "threshold_clusters_batch", "the same, a batch", _map_batch, ours.threshold_clusters,
        references.threshold_clusters, _SAME, _floats_to_floats,
        {"nilearn": peers.nilearn_threshold, "cupy": device_peers.cupy_threshold}, device_batch=True,
    ),
    Case(
        "threshold_percentile", "threshold at the 97th percentile", _maps, ours.threshold_percentile,
        references.threshold_percentile, _SAME, _floats_to_floats,
        {"nilearn": peers.nilearn_percentile, "cupy": device_peers.cupy_percentile},
    ),
    Case(
        "threshold_percentile_batch", "the same, a batch", _map_batch, ours.threshold_percentile,
        references.threshold_percentile, _SAME, _floats_to_floats,
        {"nilearn": peers.nilearn_percentile, "cupy": device_peers.cupy_percentile}, device_batch=True,
    ),
    Case(
        "smooth_6mm", "smoothing, 6 mm", _maps, ours.smooth, references.smooth, _SMOOTH, _floats_to_floats,
        {"scipy": peers.scipy_smooth, "nilearn": peers.nilearn_smooth, "cupy": device_peers.cupy_smooth,
         "cucim": device_peers.cucim_smooth},
    ),
    Case(
        "smooth_6mm_batch", "the same, a batch", _map_batch, ours.smooth, references.smooth, _SMOOTH, _floats_to_floats,
        {"scipy": peers.scipy_smooth, "nilearn": peers.nilearn_smooth, "cupy": device_peers.cupy_smooth,
         "cucim": device_peers.cucim_smooth}, device_batch=True,
    ),
    *(
        Case(
            f"dilate_{k}", f"binary dilation, {k} neighbours", _maps, ours.dilate(k), references.dilate(k), _MASK,
            _masks_to_masks,
            {"scipy": peers.scipy_dilate(k), "cupy": device_peers.cupy_dilate(k),
             "cucim": device_peers.cucim_dilate(k)},
        )
        for k in (6, 26)
    ),
    Case(
        "dilate_6_batch", "binary dilation, 6 neighbours, a batch", _map_batch, ours.dilate(6), references.dilate(6),
        _MASK, _masks_to_masks,
        {"scipy": peers.scipy_dilate(6), "cupy": device_peers.cupy_dilate(6), "cucim": device_peers.cucim_dilate(6)},
        device_batch=True,
    ),
    *(
        Case(
            f"label_{k}", f"labelling, {k} neighbours", _maps, ours.label(k), references.label(k), _LABELS,
            _masks_to_labels,
            {"scipy": peers.scipy_label(k), "cc3d": peers.cc3d_label(k), "cupy": device_peers.cupy_label(k),
             "cucim": device_peers.cucim_label(k)},
        )
        for k in (6, 18, 26)
    ),
    Case(
        "label_26_batch", "labelling, 26 neighbours, a batch", _map_batch, ours.label(26), references.label(26),
        _LABELS, _masks_to_labels,
        {"scipy": peers.scipy_label(26), "cc3d": peers.cc3d_label(26), "cupy": device_peers.cupy_label(26),
         "cucim": device_peers.cucim_label(26)}, device_batch=True,
    ),
    Case(
        "ttest_ind", "two-sample t-test with p-values", inputs.samples, ours.ttest_ind, references.ttest_ind, _TEST,
        _two_samples, {"scipy": peers.scipy_ttest_ind, "cupy": device_peers.cupy_ttest_ind}, device_batch=True,
    ),
    Case(
        "ttest_1samp", "one-sample t-test with p-values", inputs.sample, ours.ttest_1samp, references.ttest_1samp,
        _TEST, _one_sample, {"scipy": peers.scipy_ttest_1samp, "cupy": device_peers.cupy_ttest_1samp},
        device_batch=True,
    ),
    Case(
        "label_means", "means over the regions of an atlas", _labelled_maps, ours.label_means, references.label_means,
        {"means": Check("max_rel", 1e-12, 1e-5)}, _floats_and_labels,
        {"scipy": peers.scipy_means, "nilearn": peers.nilearn_means, "cupy": device_peers.cupy_means},
        device_batch=True,
    ),
    Case(
        "cluster_maxima", "largest cluster and mass, t > 3.1", _maps, ours.cluster_maxima, references.cluster_maxima,
        _LARGEST, _maps_to_maxima, {"scipy": peers.scipy_cluster_maxima, "nilearn": peers.nilearn_cluster_maxima},
    ),
    Case(
        "cluster_maxima_batch", "the same, a batch", _map_batch, ours.cluster_maxima, references.cluster_maxima,
        _LARGEST, _maps_to_maxima, {"scipy": peers.scipy_cluster_maxima}, device_batch=True,
    ),
    *(
        Case(
            f"tfce_{k}", f"exact TFCE, {k} neighbours, on one thread", _maps, ours.tfce(k), references.tfce(k),
            _ENHANCED, _maps_to_maps, {"nilearn": peers.nilearn_tfce(k), "tfce": peers.tfce_tfce(k)},
        )
        for k in (6, 26)
    ),
    Case(
        "tfce_6_batch", "exact TFCE, 6 neighbours, a batch", _map_batch, ours.tfce(6), references.tfce(6), _ENHANCED,
        _maps_to_maps, {"tfce": peers.tfce_tfce(6)}, device_batch=True,
    ),
    *(
        Case(
            f"permutation_{statistic}", _WORDS[statistic], inputs.cohort, ours.permutation(statistic),
            references.permutation(statistic), _TESTED[statistic], _one_map,
            {"nilearn": peers.nilearn_permutation(statistic),
             "nilearn-jobs": peers.nilearn_permutation(statistic, jobs=True)},
            device_batch=True,
        )
        for statistic in _WORDS
    ),
    *(
        Case(
            f"permutation_{statistic}_one_thread", "the same, on one thread", inputs.cohort,
            ours.permutation(statistic, threads=1), references.permutation(statistic), _TESTED[statistic], _one_map,
            {"nilearn": peers.nilearn_permutation(statistic, threads=1)}, cpu_only=True,
        )
        for statistic in _WORDS
    ),
    Case(
        "permutation_all", "all of these together, a permutation", inputs.cohort, ours.permutation("all"),
        references.permutation("all"), _TESTED["all"], _one_map, device_batch=True,
    ),
    Case(
        "roi", "regions from a contrast, run in, atlas and signals out", inputs.run, ours.roi, references.roi,
        {"labels": Check("differing", 0.0, 1e-4), "signals": Check("max_rel", 1e-6, 1e-5)}, _run_bytes,
        {"nilearn+scipy": peers.nilearn_roi},
    ),
    Case(
        "read_maps", "reading .nii.gz maps into a masked matrix", inputs.file_set, ours.read_maps, references.read_maps,
        {"matrix": Check("differing", 0.0)}, _file_bytes,
        {"nibabel": peers.nibabel_read, "nilearn": peers.nilearn_read},
    ),
)  # fmt: skip
