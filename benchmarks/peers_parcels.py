"""Each case of parcels as its peers compute it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs_images import as_image
from benchmarks.inputs_parcels import Atlas, ParcelCohort, Series
from benchmarks.references_parcels import explained, first_centers, partition, second_number
from benchmarks.settings import KMEANS_ITERATIONS, Call, Later, Outputs

__all__ = ["nilearn_max_t", "nilearn_rena", "numpy_graph", "sklearn_kmeans", "sklearn_ward"]


def numpy_graph(atlas: Atlas) -> Call:
    """Shift the volume by one voxel along each axis, and count the pairs that meet."""

    def call() -> Outputs:
        touching: list[NDArray[Any]] = []
        for axis in range(3):
            lines = np.moveaxis(atlas.labels, axis, 0)
            a, b = lines[:-1], lines[1:]
            meet = (a != b) & (a > 0) & (b > 0)
            touching.append(np.sort(np.stack([a[meet], b[meet]], axis=1), axis=1))
        edges, contact = np.unique(np.concatenate(touching), axis=0, return_counts=True)
        return {"edges": edges, "contact": contact}

    return call


def nilearn_max_t(cohort: ParcelCohort) -> Call:
    """The maximum of t alone: nilearn knows neither clusters nor TFCE of parcels."""
    from nilearn.mass_univariate import permuted_ols

    tested, others = cohort.design[:, :1], np.ascontiguousarray(cohort.design[:, 2:])

    def call() -> Outputs:
        out = permuted_ols(tested, cohort.data, others, n_perm=cohort.permutations, n_jobs=1, random_state=0)
        return {"t": out["t"][0]}

    return call


def sklearn_kmeans(series: Series) -> Call:
    from sklearn.cluster import KMeans

    points, start = np.ascontiguousarray(series.values.T), np.ascontiguousarray(first_centers(series).T, np.float32)

    def call() -> Outputs:
        lloyd = KMeans(series.parcels, init=start, n_init=1, max_iter=KMEANS_ITERATIONS, tol=0.0, algorithm="lloyd")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            found = lloyd.fit(points)
        return {"labels": found.labels_, "inertia": found.inertia_}

    return call


def nilearn_rena(series: Series) -> Call:
    from nilearn.regions import ReNA

    mask = as_image(series.mask)

    def call() -> Outputs:
        labels = ReNA(mask, n_clusters=series.parcels).fit(series.values).labels_
        return {"parcels": Later(lambda: len(np.unique(labels))), "explained": Later(lambda: explained(series, labels))}

    return call


def sklearn_ward(*, fewer: bool = False) -> Any:
    """Ward's parcels, by a new fit; `fewer`: the second number of them."""

    def prepare(series: Series) -> Call:
        from sklearn.cluster import FeatureAgglomeration
        from sklearn.feature_extraction.image import grid_to_graph

        links = grid_to_graph(*series.mask.shape, mask=series.mask)
        n_clusters = second_number(series) if fewer else series.parcels

        def call() -> Outputs:
            labels = FeatureAgglomeration(n_clusters, connectivity=links).fit(series.values).labels_
            return {"labels": Later(lambda: partition(labels))}

        return call

    return prepare
