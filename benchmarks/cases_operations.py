"""Cases of single operations on arrays."""

from __future__ import annotations

import math

from benchmarks import device_peers, inputs, ours, peers, references
from benchmarks.case import Case, Check
from benchmarks.inputs import Size
from benchmarks.settings import SIGMA_VOX

__all__ = ["CASES"]


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


def _smoothing_flops(maps: inputs.MapBatch) -> float:
    """A multiplication and an addition a weight, along three axes."""
    return 2.0 * 3 * (2 * int(4 * SIGMA_VOX + 0.5) + 1) * maps.volumes.size


def _moments_flops(sample: inputs.Sample) -> float:
    """Difference, sum and square of every value."""
    return 4.0 * sample.values.size


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

CASES: tuple[Case, ...] = (
    Case(
        "threshold_clusters", "threshold 2.0, clusters of 10 voxels and more", _maps, ours.threshold_clusters,
        references.threshold_clusters, _SAME, _floats_to_floats,
        {"nilearn": peers.nilearn_threshold, "cupy": device_peers.cupy_threshold}, main=True,
    ),
    Case(
        "threshold_clusters_batch", "threshold 2.0, clusters, a batch", _map_batch, ours.threshold_clusters,
        references.threshold_clusters, _SAME, _floats_to_floats,
        {"nilearn": peers.nilearn_threshold, "cupy": device_peers.cupy_threshold}, device_batch=True,
    ),
    Case(
        "threshold_percentile", "threshold at the 97th percentile", _maps, ours.threshold_percentile,
        references.threshold_percentile, _SAME, _floats_to_floats,
        {"nilearn": peers.nilearn_percentile, "cupy": device_peers.cupy_percentile}, main=True,
    ),
    Case(
        "threshold_percentile_batch", "threshold at the 97th percentile, a batch", _map_batch,
        ours.threshold_percentile, references.threshold_percentile, _SAME, _floats_to_floats,
        {"nilearn": peers.nilearn_percentile, "cupy": device_peers.cupy_percentile}, device_batch=True,
    ),
    Case(
        "smooth_6mm", "smoothing, 6 mm", _maps, ours.smooth, references.smooth, _SMOOTH, _floats_to_floats,
        {"scipy": peers.scipy_smooth, "nilearn": peers.nilearn_smooth, "cupy": device_peers.cupy_smooth,
         "cucim": device_peers.cucim_smooth},
    ),
    Case(
        "smooth_6mm_batch", "smoothing, 6 mm, a batch", _map_batch, ours.smooth, references.smooth, _SMOOTH,
        _floats_to_floats,
        {"scipy": peers.scipy_smooth, "nilearn": peers.nilearn_smooth, "cupy": device_peers.cupy_smooth,
         "cucim": device_peers.cucim_smooth}, flops=_smoothing_flops, device_batch=True, main=True,
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
        device_batch=True, main=True,
    ),
    *(
        Case(
            f"label_{k}", f"labelling, {k} neighbours", _maps, ours.label(k), references.label(k), _LABELS,
            _masks_to_labels,
            {"scipy": peers.scipy_label(k), "cc3d": peers.cc3d_label(k), "cupy": device_peers.cupy_label(k),
             "cucim": device_peers.cucim_label(k)}, main=k == 26,
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
        _two_samples, {"scipy": peers.scipy_ttest_ind, "cupy": device_peers.cupy_ttest_ind},
        device_batch=True, main=True,
    ),
    Case(
        "ttest_1samp", "one-sample t-test with p-values", inputs.sample, ours.ttest_1samp, references.ttest_1samp,
        _TEST, _one_sample, {"scipy": peers.scipy_ttest_1samp, "cupy": device_peers.cupy_ttest_1samp},
        flops=_moments_flops, device_batch=True, main=True,
    ),
    Case(
        "label_means", "means over the regions of an atlas", _labelled_maps, ours.label_means, references.label_means,
        {"means": Check("max_rel", 1e-12, 1e-5)}, _floats_and_labels,
        {"scipy": peers.scipy_means, "nilearn": peers.nilearn_means, "cupy": device_peers.cupy_means},
        device_batch=True, main=True,
    ),
    Case(
        "cluster_maxima", "largest cluster and mass, t > 3.1", _maps, ours.cluster_maxima, references.cluster_maxima,
        _LARGEST, _maps_to_maxima, {"scipy": peers.scipy_cluster_maxima, "nilearn": peers.nilearn_cluster_maxima},
        main=True,
    ),
    Case(
        "cluster_maxima_batch", "largest cluster and mass, t > 3.1, a batch", _map_batch, ours.cluster_maxima,
        references.cluster_maxima, _LARGEST, _maps_to_maxima, {"scipy": peers.scipy_cluster_maxima}, device_batch=True,
    ),
    *(
        Case(
            f"tfce_{k}", f"exact TFCE, {k} neighbours, on one thread", _maps, ours.tfce(k), references.tfce(k),
            _ENHANCED, _maps_to_maps, {"nilearn": peers.nilearn_tfce(k), "tfce": peers.tfce_tfce(k)},
            main=k == 6,
        )
        for k in (6, 26)
    ),
    Case(
        "tfce_6_batch", "exact TFCE, 6 neighbours, a batch", _map_batch, ours.tfce(6), references.tfce(6), _ENHANCED,
        _maps_to_maps, {"tfce": peers.tfce_tfce(6)}, device_batch=True, main=True,
    ),
)  # fmt: skip
