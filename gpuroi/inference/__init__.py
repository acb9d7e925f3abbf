"""Inference on maps of any domain: arrays and neighbours in, statistics out; no files.

`clusters`, `glm` and `tfce` are imported here, not lazily: a function and its module share a name, and the function
has to win. They import NumPy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuroi._lazy import lazy_names
from gpuroi.inference.clusters import ClusterResult, clusters
from gpuroi.inference.glm import GlmResult, glm
from gpuroi.inference.tfce import tfce

if TYPE_CHECKING:
    from gpuroi.inference.correct import fdr
    from gpuroi.inference.design import Partition, partition
    from gpuroi.inference.permutation_settings import PermutationSettings
    from gpuroi.inference.permute import permutation_test
    from gpuroi.inference.phenotype_tally import PhenotypeResult
    from gpuroi.inference.phenotypes import phenotype_test
    from gpuroi.inference.rearrange import Rearrangements, make_rearrangements
    from gpuroi.inference.result import PermutationResult, PermutationState
    from gpuroi.inference.shares import PermutationShares, permutation_shares

__all__ = [
    "ClusterResult",
    "GlmResult",
    "Partition",
    "PermutationResult",
    "PermutationSettings",
    "PermutationShares",
    "PermutationState",
    "PhenotypeResult",
    "Rearrangements",
    "clusters",
    "fdr",
    "glm",
    "make_rearrangements",
    "partition",
    "permutation_shares",
    "permutation_test",
    "phenotype_test",
    "tfce",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "gpuroi.inference.correct": ["fdr"],
        "gpuroi.inference.design": ["Partition", "partition"],
        "gpuroi.inference.permutation_settings": ["PermutationSettings"],
        "gpuroi.inference.permute": ["permutation_test"],
        "gpuroi.inference.phenotype_tally": ["PhenotypeResult"],
        "gpuroi.inference.phenotypes": ["phenotype_test"],
        "gpuroi.inference.rearrange": ["Rearrangements", "make_rearrangements"],
        "gpuroi.inference.result": ["PermutationResult", "PermutationState"],
        "gpuroi.inference.shares": ["PermutationShares", "permutation_shares"],
    },
)
