"""Cases of functions for images and files: drop-ins beside nilearn, and what users wrote by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from benchmarks import drop_ins, inputs, inputs_images, ours, ours_images, peers, references, references_images
from benchmarks.case import Case, Check
from benchmarks.drop_ins import by_gpuroi, by_nilearn
from benchmarks.inputs import Size

__all__ = ["CASES"]


def _int16_files(size: Size) -> inputs.FileSet:
    return inputs.file_set(size, dtype="int16")


def _few_files(size: Size) -> inputs.FileSet:
    return inputs.file_set(replace(size, files=min(size.files, size.maps)))


def _there_and_back(maps: inputs.MapBatch) -> int:
    return 2 * maps.volumes.nbytes


def _many_to_one(maps: inputs.MapBatch) -> int:
    return maps.volumes.nbytes * (len(maps.volumes) + 1) // len(maps.volumes)


def _labels_to_labels(maps: inputs.MapBatch) -> int:
    return 8 * math.prod(maps.volumes.shape[1:])


def _floats_and_labels(maps: inputs.MapBatch) -> int:
    return maps.volumes.nbytes + 4 * math.prod(maps.volumes.shape[1:])


def _file_bytes(files: inputs.FileSet) -> int:
    return sum(p.stat().st_size for p in files.paths) + 4 * len(files.paths) * int(files.mask.sum())


def _run_bytes(run: inputs.Run) -> int:
    return run.path.stat().st_size + 4 * math.prod(run.shape)


_Case = partial(Case, subject="images")
_SAME = {"values": Check("differing", 0.0)}
_SMOOTH = {"values": Check("max_rel", 1e-6)}
_MEANS = {"means": Check("max_rel", 1e-6, 1e-5)}
_MATRIX = {"matrix": Check("differing", 0.0)}

CASES: tuple[Case, ...] = (
    _Case(
        "threshold_img", "`threshold_img`, 2.0, clusters of 10 voxels and more", inputs_images.one_image,
        by_gpuroi(drop_ins.threshold_img), references.threshold_clusters, _SAME, _there_and_back,
        {"nilearn": by_nilearn(drop_ins.threshold_img)}, main=True,
    ),
    _Case(
        "threshold_img_percentile", "`threshold_img`, 97th percentile", inputs_images.one_image,
        by_gpuroi(drop_ins.threshold_percentile), references_images.threshold_percentile, _SAME, _there_and_back,
        {"nilearn": by_nilearn(drop_ins.threshold_percentile)}, main=True,
    ),
    _Case(
        "smooth_img", "`smooth_img`, 6 mm", inputs_images.one_image, by_gpuroi(drop_ins.smooth_img), references.smooth,
        _SMOOTH, _there_and_back, {"scipy": peers.scipy_smooth, "nilearn": by_nilearn(drop_ins.smooth_img)},
    ),
    _Case(
        "smooth_img_batch", "`smooth_img`, 6 mm, a batch", inputs_images.several_images,
        by_gpuroi(drop_ins.smooth_img), references.smooth, _SMOOTH, _there_and_back,
        {"scipy": peers.scipy_smooth, "nilearn": by_nilearn(drop_ins.smooth_img)}, main=True,
    ),
    _Case(
        "mean_img", "`mean_img`", inputs_images.several_images, by_gpuroi(drop_ins.mean_img),
        references_images.mean_img, {"values": Check("max_rel", 1e-6, 1e-5)}, _many_to_one,
        {"numpy": peers.numpy_mean, "nilearn": by_nilearn(drop_ins.mean_img)}, cpu_only=True,
    ),
    _Case(
        "connected_regions", "`connected_regions`, components", inputs_images.thresholded_image,
        by_gpuroi(drop_ins.connected_regions("connected_components")), references_images.connected_regions,
        {"regions": Check("differing", 0.0), "painted": Check("differing", 0.0)}, _there_and_back,
        {"nilearn": by_nilearn(drop_ins.connected_regions("connected_components"))}, main=True,
    ),
    # nilearn's walker stops before it gets to the furthest voxels: these fall to a region elsewhere.
    _Case(
        "local_regions", "`connected_regions`, random walker", inputs_images.positive_image,
        by_gpuroi(drop_ins.connected_regions("local_regions")), references_images.local_regions,
        {"regions": Check("max_rel", 0.0, 0.5), "painted": Check("differing", 1e-4, 1e-1)}, _there_and_back,
        {"nilearn": by_nilearn(drop_ins.connected_regions("local_regions"))}, cpu_only=True,
    ),
    _Case(
        "connected_label_regions", "`connected_label_regions`", inputs_images.atlas_in_pieces,
        by_gpuroi(drop_ins.connected_label_regions), references_images.connected_label_regions,
        {"labels": Check("differing", 0.0)}, _labels_to_labels,
        {"nilearn": by_nilearn(drop_ins.connected_label_regions)}, cpu_only=True, main=True,
    ),
    _Case(
        "img_to_signals_labels", "`img_to_signals_labels`", inputs_images.labelled_images,
        by_gpuroi(drop_ins.img_to_signals_labels), references.label_means, _MEANS, _floats_and_labels,
        {"scipy": peers.scipy_means, "nilearn": by_nilearn(drop_ins.img_to_signals_labels)},
    ),
    _Case(
        "labels_masker", "`NiftiLabelsMasker`", inputs_images.labelled_images, by_gpuroi(drop_ins.labels_masker),
        references.label_means, _MEANS, _floats_and_labels, {"nilearn": by_nilearn(drop_ins.labels_masker)}, main=True,
    ),
    _Case(
        "extract", "`gpuroi.images.extract`, means", inputs_images.labelled_images, ours_images.extract,
        references.label_means, _MEANS, _floats_and_labels, {"scipy": peers.scipy_means},
    ),
    _Case(
        "read_maps", "reading .nii.gz maps into a masked matrix (`apply_mask`)", inputs.file_set,
        by_gpuroi(drop_ins.apply_mask), references.read_maps, _MATRIX, _file_bytes,
        {"nibabel": peers.nibabel_read, "nilearn": by_nilearn(drop_ins.apply_mask)}, main=True,
    ),
    _Case(
        "read_maps_int16", "reading .nii.gz maps of whole numbers (`apply_mask`)", _int16_files,
        by_gpuroi(drop_ins.apply_mask), references.read_maps, _MATRIX, _file_bytes,
        {"nibabel": peers.nibabel_read, "nilearn": by_nilearn(drop_ins.apply_mask)}, main=True,
    ),
    _Case(
        "nifti_masker", "`NiftiMasker`, .nii.gz maps, standardized", _few_files, by_gpuroi(drop_ins.nifti_masker),
        references_images.standardized_maps, {"matrix": Check("max_rel", 1e-5, 1e-4)}, _file_bytes,
        {"nilearn": by_nilearn(drop_ins.nifti_masker)},
    ),
    _Case(
        "clusters_table", "`get_clusters_table`", inputs_images.one_image, by_gpuroi(drop_ins.clusters_table),
        references_images.clusters_table, {"clusters": Check("max_rel", 1e-6)}, _there_and_back,
        {"nilearn": by_nilearn(drop_ins.clusters_table)}, main=True,
    ),
    _Case(
        "cluster_level_inference", "`cluster_level_inference`", inputs_images.one_image,
        by_gpuroi(drop_ins.cluster_level_inference), references_images.cluster_level_inference,
        {"shares": Check("max_abs", 1e-6)}, _there_and_back,
        {"nilearn": by_nilearn(drop_ins.cluster_level_inference)}, main=True,
    ),
    _Case(
        "threshold_stats_img", "`threshold_stats_img`, false discovery rate", inputs_images.one_image,
        by_gpuroi(drop_ins.threshold_stats_img), references_images.threshold_stats_img,
        {"values": Check("differing", 0.0), "threshold": Check("max_rel", 1e-6)}, _there_and_back,
        {"nilearn": by_nilearn(drop_ins.threshold_stats_img)}, main=True,
    ),
    _Case(
        "roi", "regions from a contrast, run in, atlas and signals out", inputs.run, ours.roi, references.roi,
        {"labels": Check("differing", 0.0, 1e-4), "signals": Check("max_rel", 1e-6, 1e-5)}, _run_bytes,
        {"nilearn+scipy": peers.nilearn_roi}, main=True,
    ),
)  # fmt: skip
