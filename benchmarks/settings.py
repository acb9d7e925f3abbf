"""What is computed, the same for gpuroi, for its peers and for the reference."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import VOXEL_MM

__all__ = [
    "CLUSTER_THRESHOLD",
    "CONTRAST",
    "CUTOFF",
    "FDR",
    "FOREGROUND",
    "FWHM_MM",
    "KMEANS_ITERATIONS",
    "LOG10P",
    "MIN_VOXELS",
    "PARCEL_THRESHOLD",
    "PERCENTILE",
    "REARRANGED",
    "SIGMA_VOX",
    "Call",
    "Later",
    "Outputs",
    "Steps",
    "short_runs",
    "structure",
]

Outputs = dict[str, Any]
Call = Callable[[], Outputs]

CUTOFF = 2.0
MIN_VOXELS = 10
PERCENTILE = 97.0
FWHM_MM = 6.0
SIGMA_VOX = FWHM_MM / VOXEL_MM / math.sqrt(8 * math.log(2))
FOREGROUND = 1.0  # where maps exceed it lie the masks that are dilated and labelled
CONTRAST = ("face", "house")
LOG10P = 5.0
CLUSTER_THRESHOLD = 3.1  # of t
PARCEL_THRESHOLD = 2.0  # of t, where the elements are parcels
FDR = 0.05
KMEANS_ITERATIONS = 20  # from the same start
REARRANGED = 3  # rearrangements, the identity among them, whose maxima are compared with the reference


@dataclass(frozen=True)
class Steps:
    """A call that takes steps after a setup. Its time is that of a step: the difference between two lengths."""

    run: Callable[[int], Outputs]
    short: int
    long: int

    def __call__(self) -> Outputs:
        return self.run(self.short)


@dataclass(frozen=True)
class Later:
    """An output that is worked out of an answer when it is judged: that is not part of the time."""

    get: Callable[[], Any]


@contextmanager
def short_runs() -> Iterator[None]:
    """Say nothing about runs that are too short for inference: they are so on purpose."""
    log = logging.getLogger("gpuroi")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def structure(connectivity: int) -> NDArray[np.bool_]:
    """SciPy's structuring element for 6, 18 or 26 neighbours."""
    from scipy.ndimage import generate_binary_structure

    return np.asarray(generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity]))
