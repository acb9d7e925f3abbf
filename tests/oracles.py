"""Slow, obvious versions of what the project computes, and SciPy over batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

STRUCTURES = {c: ndimage.generate_binary_structure(3, k) for c, k in ((6, 1), (18, 2), (26, 3))}


def over_maps(data: np.ndarray, work: Callable[[np.ndarray], Any], dtype: Any) -> np.ndarray:
    """Apply `work` to every volume of (..., X, Y, Z)."""
    out = np.empty(data.shape, dtype)
    for index in np.ndindex(data.shape[:-3]):
        out[index] = work(data[index])
    return out


def label(mask: np.ndarray, structure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SciPy's labels and counts, map by map."""
    counts = np.zeros(mask.shape[:-3], np.int64)
    labels = np.zeros(mask.shape, np.int32)
    for index in np.ndindex(mask.shape[:-3]):
        if mask[index].size:
            labels[index], counts[index] = ndimage.label(mask[index], structure)
    return labels, counts


def threshold(
    data: np.ndarray,
    cutoff: float,
    *,
    two_sided: bool,
    min_size: int = 0,
    structure: np.ndarray = STRUCTURES[6],
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Keep what passes; clusters by one labelling per sign and a count per label."""
    value = data.dtype.type(cutoff) if data.dtype.kind == "f" else cutoff
    below = value if not two_sided else -value
    with np.errstate(invalid="ignore"):
        high = data >= value if two_sided or cutoff >= 0 else np.zeros(data.shape, bool)
        low = data <= below if two_sided or cutoff < 0 else np.zeros(data.shape, bool)
    if mask is not None:
        high, low = high & mask, low & mask
    out = np.zeros_like(data)
    with np.errstate(invalid="ignore"):
        parts = [high | low] if min_size <= 1 else [high & (data > 0), low & (data < 0)]
    for passing in parts:
        if min_size > 1:
            labels, n = ndimage.label(passing, structure)
            for k in range(1, n + 1):
                if np.count_nonzero(labels == k) < min_size:
                    passing = passing & (labels != k)
        out[passing] = data[passing]
    return out


def population(data: np.ndarray, *, two_sided: bool, mask: np.ndarray | None = None) -> np.ndarray:
    """What a percentile is taken of."""
    values = data[mask] if mask is not None else data.ravel()
    values = values[~np.isnan(values)].astype(np.float64)
    return np.abs(values) if two_sided else values[values >= 0]
