"""Cases of parcels: their graph, inference on them, and learning them."""

from __future__ import annotations

from functools import partial

from benchmarks import inputs_parcels, ours_parcels, peers_parcels, references_parcels
from benchmarks.case import Case, Check

__all__ = ["CASES"]


def _label_bytes(atlas: inputs_parcels.Atlas) -> int:
    return int(atlas.labels.nbytes)


def _product_bytes(cohort: inputs_parcels.ParcelCohort) -> int:
    return int(cohort.data.nbytes) + 4 * cohort.permutations * cohort.data.shape[1]


def _series_bytes(series: inputs_parcels.Series) -> int:
    return int(series.values.nbytes)


def _cut_bytes(series: inputs_parcels.Series) -> int:
    return 20 * int(series.values.shape[1])  # two children of each merge, and the labels


_Case = partial(Case, subject="parcels")
_GRAPH = {"edges": Check("differing", 0.0), "contact": Check("differing", 0.0)}

CASES: tuple[Case, ...] = (
    *(
        _Case(
            f"parcel_graph_{k}", f"graph of an atlas, {k} neighbours", inputs_parcels.label_volume,
            ours_parcels.graph(k), references_parcels.graph(k), _GRAPH, _label_bytes,
            {"numpy": peers_parcels.numpy_graph} if k == 6 else {}, main=k == 6,
        )
        for k in (6, 26)
    ),
    _Case(
        "parcel_permutation", "a permutation test on parcels: maximum of t, cluster extent and mass, TFCE",
        inputs_parcels.parcel_cohort, ours_parcels.permutation, references_parcels.permutation,
        {
            "t": Check("max_rel", 1e-5, 1e-4),
            "null_max_stat": Check("max_rel", 1e-5),
            "null_max_size": Check("max_rel", 0.0),
            "null_max_mass": Check("max_rel", 1e-5),
            "null_max_tfce": Check("max_rel", 5e-3),
        },
        _product_bytes, {"nilearn-max-t": peers_parcels.nilearn_max_t}, main=True,
    ),
    # Of elements that lie between two centres the last digits decide.
    _Case(
        "kmeans", "K-means, 20 iterations", inputs_parcels.series, ours_parcels.kmeans, references_parcels.kmeans,
        {"labels": Check("differing", 1e-4, 1e-3), "inertia": Check("max_rel", 1e-5, 1e-4)}, _series_bytes,
        {"scikit-learn": peers_parcels.sklearn_kmeans}, main=True,
    ),
    # nilearn makes other joins in the last round, and its parcels explain less.
    _Case(
        "rena", "ReNA", inputs_parcels.series, ours_parcels.rena, references_parcels.rena,
        {"parcels": Check("differing", 0.0), "explained": Check("max_rel", 1e-4, 1e-1)}, _series_bytes,
        {"nilearn": peers_parcels.nilearn_rena}, cpu_only=True, main=True,
    ),
    _Case(
        "ward", "Ward's parcels", inputs_parcels.series, ours_parcels.ward, references_parcels.ward(),
        {"labels": Check("differing", 0.0)}, _series_bytes, {"scikit-learn": peers_parcels.sklearn_ward()},
        cpu_only=True, main=True,
    ),
    _Case(
        "ward_second_cut", "Ward's parcels in another number, from the tree", inputs_parcels.series,
        ours_parcels.second_cut, references_parcels.ward(fewer=True), {"labels": Check("differing", 0.0)}, _cut_bytes,
        {"scikit-learn": peers_parcels.sklearn_ward(fewer=True)}, cpu_only=True, main=True,
    ),
)  # fmt: skip
