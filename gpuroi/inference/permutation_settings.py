"""What a permutation test is asked for, and what follows from that before any data are read."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from gpuroi.errors import DataError, UsageError
from gpuroi.inference.correct import coarse_p_warning
from gpuroi.inference.design import Partition, partition
from gpuroi.inference.exchange_blocks import BlockTree, block_tree, places_to_reach
from gpuroi.inference.plan import StatisticsPlan
from gpuroi.inference.rearrange import Rearrangements, make_rearrangements
from gpuroi.inference.sign_flip_group import SignFlipGroup, sign_flip_group

__all__ = ["PermutationSettings", "PlannedTest"]

_log = logging.getLogger("gpuroi")


@dataclass(frozen=True, kw_only=True)
class PermutationSettings:
    """The arguments of `permutation_test` that decide its numbers, under the same names and with the same defaults.

    They travel to other processes by pickle.
    """

    domain: Any = None
    n_permutations: int = 5000
    errors: Literal["ee", "ise", "both"] = "ee"
    flips: Literal["random", "group"] = "random"
    method: str = "freedman-lane"
    blocks: Any = None
    whole_blocks: bool = False
    two_sided: bool = True
    cluster_threshold: float | None = None
    cluster_scale: str = "t"
    cluster_mass: str = "sum"
    tfce: bool = False
    tfce_step: float | str = "exact"
    tfce_connectivity: int | None = None
    tfce_H: float = 2.0  # noqa: N815 (as they are called everywhere)
    tfce_E: float | None = None  # noqa: N815
    permutations: Any = None
    variance_groups: Any = None
    seed: int = 0

    def plan(self) -> StatisticsPlan:
        """Return which statistics are computed of every map.

        Raises
        ------
        UsageError
            An argument outside its range; clusters or TFCE without a domain.
        """
        return StatisticsPlan.of(
            self.domain,
            self.cluster_threshold,
            self.cluster_scale,
            self.tfce,
            self.tfce_step,
            self.tfce_connectivity,
            self.two_sided,
            self.cluster_mass,
            (self.tfce_H, self.tfce_E),
        )

    def planned(self, design: ArrayLike, contrast: ArrayLike, shape: tuple[int, int]) -> PlannedTest:
        """Check everything against data of a shape (n, v); return what is to be run, and log what that means.

        Raises
        ------
        DataError, UsageError
            As `permutation_test`.
        """
        plan = self.plan()
        n, n_elements = shape
        x = np.asarray(design, dtype=np.float64)
        if x.ndim != 2 or len(x) != n:
            raise DataError(
                f"design has shape {x.shape} but data has {n} rows: both must have one row per subject",
                "check that no subject is missing from one of them",
            )
        part = partition(x, contrast)
        if part.kind == "F":
            plan = plan.for_f()
        if part.constant and self.errors == "ee" and self.permutations is None:
            raise DataError(
                "the regressor of interest is constant: permuting the subjects changes nothing",
                'use errors="ise" (sign flips), if errors are symmetric about 0',
            )
        arrangements = self._arrangements(part)
        if self.errors == "ee" and self.permutations is None:
            tree = block_tree(n, self.blocks, whole_blocks=self.whole_blocks, errors=self.errors)
            _warn_of_effect_that_stays(part, tree)
        if plan.domain is not None and plan.domain.n_elements != n_elements:
            raise DataError(
                f"data has {n_elements} elements but the domain has {plan.domain.n_elements}",
                "take the data from the same mask, parcels or vertices as the domain",
            )
        _say(arrangements, self.n_permutations, self.permutations is not None)
        threshold = self.cluster_threshold
        if threshold is not None and threshold < 1:
            _log.warning("cluster_threshold is %g on the %s scale: is it a p-value?", threshold, self.cluster_scale)
        signs = self.errors != "ee" if self.permutations is None else bool(np.any(np.asarray(self.permutations) < 0))
        return PlannedTest(part, plan, arrangements, signs)

    def describe(self) -> dict[str, Any]:
        """Return what the record of a test says of how observations were exchanged."""
        groups = self.variance_groups
        return {
            "errors": self.errors,
            "flips": self.flips,
            "seed": self.seed,
            "method": self.method,
            "blocks": self._blocks_in_words(),
            "n_variance_groups": 1 if groups is None else len(np.unique(groups)),
        }

    def _arrangements(self, part: Partition) -> Rearrangements | SignFlipGroup:
        rows = np.hstack([part.x, part.z])
        if self._flips_are_a_group():
            return sign_flip_group(
                len(rows),
                n_permutations=self.n_permutations,
                blocks=self.blocks,
                whole_blocks=self.whole_blocks,
                seed=self.seed,
                x=rows,
            )
        return make_rearrangements(
            len(rows),
            n_permutations=self.n_permutations,
            errors=self.errors,
            blocks=self.blocks,
            whole_blocks=self.whole_blocks,
            seed=self.seed,
            x=rows,
            explicit=self.permutations,
        )

    def _flips_are_a_group(self) -> bool:
        """Are the sign flips to form a group? Refuses what does not go with that."""
        if self.flips not in ("random", "group"):
            raise UsageError(f'flips is "{self.flips}"', 'use "random" or "group"')
        if self.flips == "group" and (self.errors != "ise" or self.permutations is not None):
            found = f'errors="{self.errors}"' if self.permutations is None else "permutations of your own"
            raise UsageError(f'flips="group" with {found}', 'a group is of sign flips alone: use errors="ise"')
        return self.flips == "group"

    def _blocks_in_words(self) -> str | None:
        """How exchangeability blocks restrict the rearrangements, for whoever reads the result."""
        if self.blocks is None or self.permutations is not None:
            return None
        given = np.asarray(self.blocks)
        if given.ndim == 2 and given.shape[1] > 1:
            return f"nested in {given.shape[1]} levels"
        return f"{len(np.unique(given))} blocks, exchanged {'as wholes' if self.whole_blocks else 'within'}"


@dataclass(frozen=True)
class PlannedTest:
    """A test that can be run on data.

    Attributes
    ----------
    part : Partition
        The design, split by the contrast.
    plan : StatisticsPlan
    arrangements : Rearrangements or SignFlipGroup
    signs : bool
        Rearrangements may change signs.
    """

    part: Partition
    plan: StatisticsPlan
    arrangements: Rearrangements | SignFlipGroup
    signs: bool


def _warn_of_effect_that_stays(part: Partition, tree: BlockTree) -> None:
    """Warn of an effect that is, but for the nuisance, the same wherever a permutation may bring an observation.

    Such as a mean beside a covariate that is not centred, or a group of blocks where subjects trade places within them.
    """
    place = places_to_reach(tree)
    columns = np.hstack([part.x_orth, part.z])
    sums = np.stack([np.bincount(place, weights=column) for column in columns.T], axis=1)  # (places, rank)
    columns = columns - (sums / np.bincount(place)[:, None])[place]
    x, z = columns[:, : part.r], columns[:, part.r :]
    left = x - z @ np.linalg.lstsq(z, x, rcond=1e-10)[0]
    if np.linalg.norm(left) < 1e-8:
        _log.warning(
            "the effect is constant, but for the nuisance, wherever observations may trade places: permutations move "
            'it by way of the nuisance alone, and p is not to be relied on; errors="ise" flips signs, if errors are '
            "symmetric about 0"
        )


def _say(arrangements: Rearrangements | SignFlipGroup, n_asked: int, explicit: bool) -> None:
    """Say what the number of rearrangements means for the p-values."""
    n = arrangements.n
    if arrangements.exhaustive and not explicit and n < n_asked:
        _log.info("%d rearrangements exist, fewer than the %d asked for: all are run", n, n_asked)
    _log.info("the smallest p that %d rearrangements can give is %.3g", n, 1 / n)
    warning = coarse_p_warning(n, exhaustive=arrangements.exhaustive)
    if warning and n > 1:  # the identity alone: only the statistic is wanted
        _log.warning(warning)
