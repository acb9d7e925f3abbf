"""Array operations: batch first, on the device where the data lies.

The modules are imported here, not lazily: a function and its module share a name, and the function has to win.
They import NumPy alone.
"""

from __future__ import annotations

from gpuroi.ops.label import label
from gpuroi.ops.label_means import label_means
from gpuroi.ops.morphology import (
    binary_closing,
    binary_dilation,
    binary_erosion,
    binary_fill_holes,
    binary_opening,
)
from gpuroi.ops.peak_bytes import peak_bytes
from gpuroi.ops.smooth import smooth
from gpuroi.ops.threshold import percentile_cutoff, threshold
from gpuroi.ops.ttest import StatisticResult, f_oneway, ttest_1samp, ttest_ind, ttest_rel

__all__ = [
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
]
