"""Atlases, subjects with a value for each parcel, and runs to learn parcels from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import VOXEL_MM, Size, atlas, brain_mask, noise_maps

__all__ = ["AFFINE", "Atlas", "ParcelCohort", "Series", "label_volume", "parcel_cohort", "series"]

AFFINE = np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0])


@dataclass
class Atlas:
    """Parcel of each voxel, int32 (X, Y, Z); 0 is outside."""

    labels: NDArray[np.int32]

    def describe(self) -> dict[str, Any]:
        parcels = int(self.labels.max())
        return {"shape": [1, *self.labels.shape], "dtype": "int32", "order": "F", "parcels": parcels}


@dataclass
class ParcelCohort:
    """Subjects with a value for each parcel, float32 (n, v); the first column of the design is tested."""

    data: NDArray[np.float32]
    design: NDArray[np.float64]
    labels: NDArray[np.int32]
    permutations: int

    def describe(self) -> dict[str, Any]:
        return {
            "shape": [list(self.data.shape)],
            "dtype": "float32",
            "order": "C",
            "design": list(self.design.shape),
            "permutations": self.permutations,
        }


@dataclass
class Series:
    """A run in a mask, float32 (n, v), to learn `parcels` parcels from."""

    values: NDArray[np.float32]
    mask: NDArray[np.bool_]
    parcels: int

    def describe(self) -> dict[str, Any]:
        return {"shape": [list(self.values.shape)], "dtype": "float32", "order": "C", "parcels": self.parcels}


def label_volume(size: Size) -> Atlas:
    """The atlas as its file holds it, x fastest."""
    return Atlas(np.asfortranarray(atlas(size.shape, size.labels)))


def parcel_cohort(size: Size) -> ParcelCohort:
    """Two groups of different age, told apart by some parcels that lie side by side."""
    labels = atlas(size.shape, size.labels)
    n, v = size.parcel_subjects, size.labels
    rng = np.random.default_rng(8)
    group = np.arange(n) % 2
    design = np.column_stack([group, np.ones(n), rng.normal(40 + 5 * group, 10)])
    data = rng.standard_normal((n, v), dtype=np.float32)
    middle = labels[tuple(k // 2 - k // 8 for k in labels.shape)], labels[tuple(k // 2 for k in labels.shape)]
    data[:, np.array(middle) - 1] += 0.5 * group[:, None].astype(np.float32)
    return ParcelCohort(data, design, labels, size.parcel_permutations)


def series(size: Size) -> Series:
    """Smooth noise and blobs, a volume a sample."""
    mask = brain_mask(size.run_shape)
    values = np.ascontiguousarray(noise_maps(size.run_shape, size.run_volumes)[:, mask])
    return Series(values, mask, size.learned_parcels)
