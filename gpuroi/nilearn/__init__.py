"""nilearn's functions, computed by gpuroi: same names, arguments, defaults and kinds of results.

Change ``from nilearn.image import threshold_img`` into ``from gpuroi.nilearn import threshold_img`` and nothing else.
Where nilearn is wrong these are right, and the Notes of each say what differs. nilearn need not be installed; the
estimators need scikit-learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuroi._lazy import lazy_names

if TYPE_CHECKING:
    from gpuroi.nilearn.cluster_inference import cluster_level_inference
    from gpuroi.nilearn.clusters_table import get_clusters_table
    from gpuroi.nilearn.connected import connected_label_regions, connected_regions
    from gpuroi.nilearn.epi_mask import compute_epi_mask
    from gpuroi.nilearn.image_files import load_img, new_img_like
    from gpuroi.nilearn.image_means import mean_img
    from gpuroi.nilearn.image_smoothing import smooth_img
    from gpuroi.nilearn.image_threshold import threshold_img
    from gpuroi.nilearn.label_signals import img_to_signals_labels, signals_to_img_labels
    from gpuroi.nilearn.labels_masker import NiftiLabelsMasker
    from gpuroi.nilearn.masking import apply_mask, intersect_masks, unmask
    from gpuroi.nilearn.parcellations import Parcellations
    from gpuroi.nilearn.permuted_least_squares import permuted_ols
    from gpuroi.nilearn.region_extractor import RegionExtractor
    from gpuroi.nilearn.second_level import non_parametric_inference
    from gpuroi.nilearn.stat_threshold import fdr_threshold, threshold_stats_img
    from gpuroi.nilearn.volume_masker import NiftiMasker

__all__ = [
    "NiftiLabelsMasker",
    "NiftiMasker",
    "Parcellations",
    "RegionExtractor",
    "apply_mask",
    "cluster_level_inference",
    "compute_epi_mask",
    "connected_label_regions",
    "connected_regions",
    "fdr_threshold",
    "get_clusters_table",
    "img_to_signals_labels",
    "intersect_masks",
    "load_img",
    "mean_img",
    "new_img_like",
    "non_parametric_inference",
    "permuted_ols",
    "signals_to_img_labels",
    "smooth_img",
    "threshold_img",
    "threshold_stats_img",
    "unmask",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "gpuroi.nilearn.cluster_inference": ["cluster_level_inference"],
        "gpuroi.nilearn.clusters_table": ["get_clusters_table"],
        "gpuroi.nilearn.connected": ["connected_label_regions", "connected_regions"],
        "gpuroi.nilearn.epi_mask": ["compute_epi_mask"],
        "gpuroi.nilearn.image_files": ["load_img", "new_img_like"],
        "gpuroi.nilearn.image_means": ["mean_img"],
        "gpuroi.nilearn.image_smoothing": ["smooth_img"],
        "gpuroi.nilearn.image_threshold": ["threshold_img"],
        "gpuroi.nilearn.label_signals": ["img_to_signals_labels", "signals_to_img_labels"],
        "gpuroi.nilearn.labels_masker": ["NiftiLabelsMasker"],
        "gpuroi.nilearn.masking": ["apply_mask", "intersect_masks", "unmask"],
        "gpuroi.nilearn.parcellations": ["Parcellations"],
        "gpuroi.nilearn.permuted_least_squares": ["permuted_ols"],
        "gpuroi.nilearn.region_extractor": ["RegionExtractor"],
        "gpuroi.nilearn.second_level": ["non_parametric_inference"],
        "gpuroi.nilearn.stat_threshold": ["fdr_threshold", "threshold_stats_img"],
        "gpuroi.nilearn.volume_masker": ["NiftiMasker"],
    },
)
