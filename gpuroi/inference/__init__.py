"""Inference on maps of any domain: arrays and neighbours in, statistics out; no files.

`clusters` and `tfce` are imported here, not lazily: a function and its module share a name, and the function has to
win. They import NumPy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuroi._lazy import lazy_names
from gpuroi.inference.clusters import ClusterResult, clusters
from gpuroi.inference.tfce import tfce

if TYPE_CHECKING:
    from gpuroi.inference.correct import fdr
    from gpuroi.inference.permute import permutation_test
    from gpuroi.inference.result import PermutationResult

__all__ = ["ClusterResult", "PermutationResult", "clusters", "fdr", "permutation_test", "tfce"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "gpuroi.inference.correct": ["fdr"],
        "gpuroi.inference.permute": ["permutation_test"],
        "gpuroi.inference.result": ["PermutationResult"],
    },
)
