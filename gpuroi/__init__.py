"""Regions of interest in brain images: found, tested and measured, on the GPU where there is one.

Array functions take NumPy or CuPy arrays and work where these lie. Workflows take files and a `device`.
Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuroi._lazy import lazy_names

if TYPE_CHECKING:
    from gpuroi.demo_data import demo
    from gpuroi.images.extract_signals import extract
    from gpuroi.ops import (
        StatisticResult,
        binary_closing,
        binary_dilation,
        binary_erosion,
        binary_fill_holes,
        binary_opening,
        f_oneway,
        label,
        label_means,
        peak_bytes,
        percentile_cutoff,
        smooth,
        threshold,
        ttest_1samp,
        ttest_ind,
        ttest_rel,
    )
    from gpuroi.workflows.check import check
    from gpuroi.workflows.clusters import clusters
    from gpuroi.workflows.make_report import make_report
    from gpuroi.workflows.pack import pack
    from gpuroi.workflows.parcel_threshold import threshold_parcels
    from gpuroi.workflows.parcellate import parcellate
    from gpuroi.workflows.regions import regions
    from gpuroi.workflows.roi import roi
    from gpuroi.workflows.screen import screen

__version__ = "0.1.0"

__all__ = [
    "StatisticResult",
    "__version__",
    "binary_closing",
    "binary_dilation",
    "binary_erosion",
    "binary_fill_holes",
    "binary_opening",
    "check",
    "clusters",
    "demo",
    "extract",
    "f_oneway",
    "label",
    "label_means",
    "make_report",
    "pack",
    "parcellate",
    "peak_bytes",
    "percentile_cutoff",
    "regions",
    "roi",
    "screen",
    "smooth",
    "threshold",
    "threshold_parcels",
    "ttest_1samp",
    "ttest_ind",
    "ttest_rel",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "gpuroi.demo_data": ["demo"],
        "gpuroi.images.extract_signals": ["extract"],
        "gpuroi.ops": [
            "StatisticResult",
            "binary_closing",
            "binary_dilation",
            "binary_erosion",
            "binary_fill_holes",
            "binary_opening",
            "f_oneway",
            "label",
            "label_means",
            "peak_bytes",
            "percentile_cutoff",
            "smooth",
            "threshold",
            "ttest_1samp",
            "ttest_ind",
            "ttest_rel",
        ],
        "gpuroi.workflows.check": ["check"],
        "gpuroi.workflows.clusters": ["clusters"],
        "gpuroi.workflows.make_report": ["make_report"],
        "gpuroi.workflows.pack": ["pack"],
        "gpuroi.workflows.parcel_threshold": ["threshold_parcels"],
        "gpuroi.workflows.parcellate": ["parcellate"],
        "gpuroi.workflows.regions": ["regions"],
        "gpuroi.workflows.roi": ["roi"],
        "gpuroi.workflows.screen": ["screen"],
    },
)
