"""Each case of parcels as gpuroi computes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.inputs_parcels import AFFINE, Atlas, ParcelCohort, Series
from benchmarks.references_parcels import explained, first_centers, partition, second_number
from benchmarks.settings import KMEANS_ITERATIONS, PARCEL_THRESHOLD, REARRANGED, Call, Later, Outputs, short_runs
from gpuroi.backends import Backend
from gpuroi.domains import ParcelGraph, VoxelGrid
from gpuroi.inference import permutation_test
from gpuroi.parcels import kmeans as kmeans_of
from gpuroi.parcels import rena as rena_of
from gpuroi.parcels import ward_tree

__all__ = ["graph", "kmeans", "permutation", "rena", "second_cut", "ward"]


def graph(connectivity: int) -> Any:
    def prepare(atlas: Atlas, backend: Backend) -> Call:
        labels = backend.asarray(atlas.labels)

        def call() -> Outputs:
            found = ParcelGraph.from_labels(labels, AFFINE, connectivity=connectivity)
            return {"edges": found.edges, "contact": found.contact}

        return call

    return prepare


def permutation(cohort: ParcelCohort, backend: Backend) -> Call:
    parcels = ParcelGraph.from_labels(cohort.labels, AFFINE)
    data = backend.asarray(cohort.data)

    def call() -> Outputs:
        with short_runs():
            result = permutation_test(
                data,
                cohort.design,
                [1, 0, 0],
                domain=parcels,
                n_permutations=cohort.permutations,
                cluster_threshold=PARCEL_THRESHOLD,
                tfce=True,
                device="cpu",  # of NumPy arrays; others stay where they are
            )
        return {"t": result.statistic, **{f"null_{name}": null[:REARRANGED] for name, null in result.null.items()}}

    return call


def kmeans(series: Series, backend: Backend) -> Call:
    values, start = backend.asarray(series.values), first_centers(series)

    def call() -> Outputs:
        # From the first iteration on: the first ones take longer, later ones leave out most distances.
        found = kmeans_of(values, series.parcels, init=start, max_iter=KMEANS_ITERATIONS, tol=0.0)
        return {"labels": found.labels, "inertia": found.inertia}

    return call


def rena(series: Series, backend: Backend) -> Call:
    neighbours = VoxelGrid(series.mask).graph

    def call() -> Outputs:
        labels = rena_of(series.values, neighbours, series.parcels)
        return {"parcels": Later(lambda: len(np.unique(labels))), "explained": Later(lambda: explained(series, labels))}

    return call


def ward(series: Series, backend: Backend) -> Call:
    neighbours = VoxelGrid(series.mask).graph

    def call() -> Outputs:
        labels = ward_tree(series.values, neighbours).cut(series.parcels)
        return {"labels": Later(lambda: partition(labels))}

    return call


def second_cut(series: Series, backend: Backend) -> Call:
    """Fewer parcels, from the tree that is there."""
    tree = ward_tree(series.values, VoxelGrid(series.mask).graph)

    def call() -> Outputs:
        labels = tree.cut(second_number(series))
        return {"labels": Later(lambda: partition(labels))}

    return call
