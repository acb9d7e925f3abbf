"""Many phenotypes against every voxel: the input, ours, the reference and nilearn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import Size, brain_mask, noise_maps
from benchmarks.settings import Call, Outputs
from gpuroi.backends import Backend
from gpuroi.inference import phenotype_test

__all__ = ["Phenotypes", "make", "nilearn", "ours", "reference"]

_BLOCK = 4096  # voxels at a time
_PHENOTYPES = {"tiny": 20}
_MANY = 500


@dataclass
class Phenotypes:
    """Maps, float32 (n, v), phenotypes, float64 (n, p), and covariates, float64 (n, q), the intercept first."""

    data: NDArray[np.float32]
    phenotypes: NDArray[np.float64]
    covariates: NDArray[np.float64]

    def describe(self) -> dict[str, Any]:
        return {
            "shape": [list(self.data.shape)],
            "dtype": "float32",
            "order": "C",
            "phenotypes": self.phenotypes.shape[1],
            "covariates": self.covariates.shape[1],
        }


def make(size: Size) -> Phenotypes:
    """Smooth noise in which a few phenotypes have an effect everywhere."""
    rng = np.random.default_rng(9)
    n = size.subjects
    phenotypes = rng.standard_normal((n, _PHENOTYPES.get(size.name, _MANY)))
    data = noise_maps(size.shape, n)[:, brain_mask(size.shape)]
    data += 0.1 * phenotypes[:, :3].sum(axis=1, keepdims=True).astype(np.float32)
    return Phenotypes(data, phenotypes, np.column_stack([np.ones(n), rng.standard_normal((n, 3))]))


def ours(study: Phenotypes, backend: Backend) -> Call:
    data = backend.asarray(study.data)

    def call() -> Outputs:
        found = phenotype_test(data, study.phenotypes, study.covariates, top=10, device="cpu")
        return {"largest": np.abs(found.table["t"].to_numpy())}

    return call


def reference(study: Phenotypes) -> Outputs:
    """Partial correlations in float64, block by block."""
    n = len(study.data)
    q, _ = np.linalg.qr(study.covariates)
    df = n - q.shape[1] - 1
    x = study.phenotypes - q @ (q.T @ study.phenotypes)
    x /= np.linalg.norm(x, axis=0)
    largest = np.zeros(x.shape[1])
    for start in range(0, study.data.shape[1], _BLOCK):
        y = study.data[:, start : start + _BLOCK].astype(np.float64)
        y -= q @ (q.T @ y)
        y /= np.linalg.norm(y, axis=0)
        largest = np.maximum(largest, np.abs(x.T @ y).max(axis=1))
    return {"largest": largest * np.sqrt(df / (1 - largest**2))}


def nilearn(study: Phenotypes) -> Call:
    """`permuted_ols` without permutations, which adds the intercept: a table of all phenotypes and voxels."""
    from nilearn.mass_univariate import permuted_ols

    def call() -> Outputs:
        t = permuted_ols(study.phenotypes, study.data, np.ascontiguousarray(study.covariates[:, 1:]), n_perm=0)["t"]
        return {"largest": np.maximum(t.max(axis=1), -t.min(axis=1))}  # without a copy of 1 GB

    return call
