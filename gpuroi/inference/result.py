"""What a permutation test returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi._card import Card, HasCard

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["PermutationResult", "PermutationState"]


@dataclass(frozen=True)
class PermutationResult(HasCard):
    """Statistics of one contrast with their permutation p-values.

    Attributes
    ----------
    statistic : float array, shape (v,)
        t, F or v; NaN for elements that were left out.
    effect : float64 array, shape (v,), or None
        The contrast of the parameter estimates, for a t contrast.
    df : float, or float64 array, shape (v,)
        Degrees of freedom of the statistic (of the denominator, for F); an array with variance groups.
    p : float64 array, shape (v,)
        Uncorrected: the share of rearrangements whose statistic reaches the observed one, element by element.
    p_fwe : float64 array, shape (v,)
        Familywise: the share whose largest statistic reaches it. NaN after `early_stop`.
    p_fdr : float64 array, shape (v,)
        Benjamini and Hochberg's adjustment of `p`.
    cluster_labels : int32 array, shape (v,), or None
        0 outside; positive clusters first.
    cluster_table : DataFrame or None
        One row a cluster: `label`, `sign`, `size` (sum of weights), `mass`, `peak` (element), `peak_stat`,
        `p_size_fwe`, `p_mass_fwe`.
    tfce, tfce_p_fwe : float64 array, shape (v,), or None
        Signed enhancement of the statistic, and its familywise p.
    null : dict of str to float64 array, shape (n_permutations,)
        `max_stat` (with variance groups on the z scale) and, where computed, `max_size`, `max_mass`, `max_tfce`; the
        identity first. After `early_stop` it holds `n_run` instead: rearrangements that each tested element was in.
    n_permutations : int
        Rearrangements that were run, the identity counted.
    exhaustive : bool
        All that exist were run.
    n_left_out : int
        Elements without a statistic: constant, or with a missing value.
    tail_fit : dict of str to object
        With `tail`: the fit to each null distribution, and how good it is.
    settings : dict
        What was asked for, with the defaults filled in, and what the domain says of itself.
    """

    statistic: NDArray[Any]
    effect: NDArray[Any] | None
    df: float | NDArray[Any]
    p: NDArray[Any]
    p_fwe: NDArray[Any]
    p_fdr: NDArray[Any]
    cluster_labels: NDArray[Any] | None
    cluster_table: pd.DataFrame | None
    tfce: NDArray[Any] | None
    tfce_p_fwe: NDArray[Any] | None
    null: dict[str, NDArray[Any]]
    n_permutations: int
    exhaustive: bool
    n_left_out: int
    tail_fit: dict[str, Any] = field(repr=False)
    settings: dict[str, Any] = field(repr=False)

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that this many rearrangements can give."""
        return 1 / self.n_permutations

    def _card(self) -> Card:
        run = "all that exist" if self.exhaustive else f"p is {self.smallest_p:.3g} or more"
        facts = [
            ("elements", f"{self.statistic.size - self.n_left_out} tested, {self.n_left_out} left out"),
            ("permutations", f"{self.n_permutations} ({run})"),
            ("largest", f"{_largest(self.statistic):.4g}; familywise p {_smallest(self.p_fwe)}"),
            ("FWE p <= 0.05", f"{np.count_nonzero(self.p_fwe <= 0.05)} elements"),
        ]
        if self.tfce_p_fwe is not None:
            facts.append(("TFCE p <= 0.05", f"{np.count_nonzero(self.tfce_p_fwe <= 0.05)} elements"))
        clusters = self.cluster_table
        if clusters is not None:
            clusters = clusters.sort_values("mass", ascending=False, kind="stable")
        return Card("Permutation test", facts, clusters, "clusters")


@dataclass
class PermutationState:
    """How far a permutation test has come; what it takes to go on from there.

    Attributes
    ----------
    done : int
        Rearrangements that are counted in.
    counts : int64 array, shape (v,)
        Of these, how many reach the observed statistic.
    null : dict of str to float64 array, shape (n_permutations,)
        NaN where nothing has been counted: devices and workers do not finish in order.
    key : str
        Digest of data, design and settings: a state goes on only with what it began with.
    """

    done: int
    counts: NDArray[Any]
    null: dict[str, NDArray[Any]]
    key: str


def _largest(values: NDArray[Any]) -> float:
    """Return the value that is farthest from 0, with its sign."""
    there = values[~np.isnan(values)]
    return float(there[np.abs(there).argmax()]) if there.size else float("nan")


def _smallest(p: NDArray[Any]) -> str:
    there = p[~np.isnan(p)]
    return f"{there.min():.3g}" if there.size else "n/a"
