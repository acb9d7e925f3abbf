"""The numbers behind TFCE that do not depend on the map: powers of heights, summed over steps."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BY_POWER", "BY_ROOT", "BY_SIZE", "TfceRule", "extent_code", "tfce_rule"]

BY_ROOT, BY_SIZE, BY_POWER = 0, 1, 2  # extent^E: E = 0.5; E = 1; any other E

_TABLE = 4096  # sums of powers that are looked up; beyond, their expansion is right to 1e-15


class TfceRule(NamedTuple):
    """How heights count: the integral of h^H if step and n_steps are 0, else the sum over steps of h^H, times the step.

    `step` is the distance of the steps, or 0 where it is the highest value of a map divided by `n_steps`.
    """

    H: float
    step: float
    n_steps: int
    sums: NDArray[np.float64]
    """`sums[k] = 1^H + ... + k^H`."""
    constant: float
    """For k beyond the table the sum is `k^(H+1) / (H+1) + k^H / 2 + H k^(H-1) / 12 + constant` (Euler, Maclaurin)."""


@lru_cache(maxsize=8)
def tfce_rule(H: float, step: float | str | None) -> TfceRule:
    """Return the rule for H and a step: `"exact"` (or None), `"max/100"` (of each map) or a number above 0.

    Examples
    --------
    >>> tfce_rule(2.0, 0.1).sums[:4]
    array([ 0.,  1.,  5., 14.])
    """
    if step is None or step == "exact":
        return TfceRule(H, 0.0, 0, np.zeros(1), 0.0)
    k = np.arange(_TABLE + 1.0)
    sums = np.cumsum(np.concatenate([[0.0], k[1:] ** H]))
    last = float(_TABLE)
    constant = float(sums[-1]) - (last ** (H + 1) / (H + 1) + last**H / 2 + H * last ** (H - 1) / 12)
    if step == "max/100":
        return TfceRule(H, 0.0, 100, sums, constant)
    return TfceRule(H, float(step), 0, sums, constant)


def extent_code(E: float) -> int:
    """Which way extent^E is computed: a root and a copy are far cheaper than a power."""
    return {0.5: BY_ROOT, 1.0: BY_SIZE}.get(E, BY_POWER)
