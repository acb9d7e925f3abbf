"""Counts of rearrangements, in parts that add up to the same whatever the parts are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import DataError, UsageError
from gpuroi.inference.result import PermutationState

__all__ = ["OtherTestError", "PermutationShare", "PermutationTally"]


class OtherTestError(DataError):
    """A state that data, design or settings of another test have led to."""


@dataclass(frozen=True)
class PermutationShare:
    """What rearrangements start..stop have given: NumPy arrays that travel between processes.

    Attributes
    ----------
    start, stop : int
    counts : int64 array, shape (w,)
        How many of them reach the observed statistic of each element that has one.
    null : dict of str to float64 array, shape (stop - start,)
        Their maxima.
    """

    start: int
    stop: int
    counts: NDArray[np.int64]
    null: dict[str, NDArray[np.float64]]


class PermutationTally:
    """The sum of shares, in any order.

    Parameters
    ----------
    n : int
        Rearrangements in all.
    n_elements : int
        Elements that have a statistic.
    names : sequence of str
        Of the null distributions.

    Attributes
    ----------
    done : int
        Rearrangements that are counted in.
    counts : int64 array, shape (n_elements,)
    null : dict of str to float64 array, shape (n,)
        NaN where nothing has been counted.

    Examples
    --------
    >>> tally = PermutationTally(3, 2, ["max_stat"])
    >>> tally.add(PermutationShare(2, 3, np.array([0, 1]), {"max_stat": np.array([4.0])}))
    >>> tally.done, tally.counts.tolist(), tally.left(2)
    (1, [0, 1], [(0, 2)])
    """

    def __init__(self, n: int, n_elements: int, names: Iterable[str]) -> None:
        self.n, self.done = n, 0
        self.counts = np.zeros(n_elements, dtype=np.int64)
        self.null = {name: np.full(n, np.nan) for name in names}

    def add(self, share: PermutationShare) -> None:
        """Count a share in.

        Raises
        ------
        UsageError
            If some of it is counted in already, or it is of another test.
        """
        here = slice(share.start, share.stop)
        fits = share.counts.shape == self.counts.shape and share.null.keys() == self.null.keys()
        if not (fits and 0 <= share.start < share.stop <= self.n):
            raise UsageError(
                f"rearrangements {share.start} to {share.stop} of {self.n}, {share.counts.size} elements: "
                f"a share of another test, which has {self.counts.size} elements",
                "add the shares of one test",
            )
        if not self._is_left[here].all():
            raise UsageError(
                f"rearrangements {share.start} to {share.stop} are counted in already", "add each share once"
            )
        self.counts += share.counts
        for name, values in share.null.items():
            self.null[name][here] = values
        self.done += share.stop - share.start

    def left(self, step: int) -> list[tuple[int, int]]:
        """Return start and stop of what is left, cut at every multiple of `step`."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], self._is_left, [False]]).astype(np.int8)))
        return [
            (max(int(start), cut), min(int(stop), cut + step))
            for start, stop in edges.reshape(-1, 2)
            for cut in range(int(start) // step * step, int(stop), step)
        ]

    def state(self, key: str) -> PermutationState:
        """Return a copy of what has been counted."""
        return PermutationState(self.done, self.counts.copy(), {k: v.copy() for k, v in self.null.items()}, key)

    def resume(self, state: PermutationState, key: str) -> None:
        """Go on from a state.

        Raises
        ------
        OtherTestError
            If it is of another test.
        """
        if state.key != key:
            raise OtherTestError(
                "the state to resume comes from another test: data, design, contrast or settings differ",
                "start anew, or call with the same arguments as before",
            )
        self.counts = state.counts.copy()
        self.null = {name: values.copy() for name, values in state.null.items()}
        self.done = self.n - int(self._is_left.sum())

    @property
    def _is_left(self) -> NDArray[np.bool_]:
        """Which rearrangements are not counted in: a maximum is never NaN."""
        return np.asarray(np.isnan(self.null["max_stat"]))
