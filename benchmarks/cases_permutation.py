"""Cases of permutation tests on voxels."""

from __future__ import annotations

from functools import partial

from benchmarks import inputs, ours, peers, phenotypes, references
from benchmarks.case import Case, Check

__all__ = ["CASES"]


def _one_map(cohort: inputs.Cohort) -> int:
    return 4 * int(cohort.data.shape[1])


def _product_flops(cohort: inputs.Cohort) -> float:
    """Of one permutation: the products of the data with the tested column and with the nuisance."""
    return 2.0 * cohort.data.size * cohort.design.shape[1]


def _study_bytes(study: phenotypes.Phenotypes) -> int:
    return int(study.data.nbytes)


_Case = partial(Case, subject="permutation")
_PERMUTED = {"t": Check("max_rel", 1e-5, 1e-4), "null_max_stat": Check("max_rel", 1e-5)}
_CLUSTERED = {
    "null_max_size": Check("max_rel", 0.0),
    "null_max_mass": Check("max_rel", 1e-5),
    "observed_size": Check("max_rel", 0.0, 1e-2),  # nilearn's t is right to 1e-4: a voxel more or less
}
_TFCE = {"null_max_tfce": Check("max_rel", 5e-3), "observed_tfce": Check("max_rel", 5e-3, 5e-2)}
_TESTED: dict[str, dict[str, Check]] = {
    "max_t": _PERMUTED,
    "clusters": _PERMUTED | _CLUSTERED,
    "tfce": _PERMUTED | _TFCE,
    "all": _PERMUTED | _CLUSTERED | _TFCE,
}
_WORDS = {
    "max_t": "maximum of t, a permutation",
    "clusters": "cluster size and mass, a permutation",
    "tfce": "exact TFCE, a permutation",
}

CASES: tuple[Case, ...] = (
    *(
        _Case(
            f"permutation_{statistic}", _WORDS[statistic], inputs.cohort, ours.permutation(statistic),
            references.permutation(statistic), _TESTED[statistic], _one_map,
            {"nilearn": peers.nilearn_permutation(statistic),
             "nilearn-jobs": peers.nilearn_permutation(statistic, jobs=True)},
            flops=_product_flops, device_batch=True, main=True,
        )
        for statistic in _WORDS
    ),
    *(
        _Case(
            f"permutation_{statistic}_one_thread", f"{_WORDS[statistic]}, on one thread", inputs.cohort,
            ours.permutation(statistic, threads=1), references.permutation(statistic), _TESTED[statistic], _one_map,
            {"nilearn": peers.nilearn_permutation(statistic, threads=1)}, cpu_only=True,
        )
        for statistic in _WORDS
    ),
    _Case(
        "permutation_all", "all of these together, a permutation", inputs.cohort, ours.permutation("all"),
        references.permutation("all"), _TESTED["all"], _one_map, device_batch=True, main=True,
    ),
    _Case(
        "phenotypes", "largest t of each of 500 phenotypes beside covariates", phenotypes.make, phenotypes.ours,
        phenotypes.reference, {"largest": Check("max_rel", 1e-5, 1e-4)}, _study_bytes,
        {"nilearn": phenotypes.nilearn}, main=True,
    ),
)  # fmt: skip
