"""TFCE in equal steps through one tree of components a map, which all elements build at once (`tfce_steps.cu`).

`GPUROI_TFCE=tree` asks for it; the default is `warp`, the kernels of `tfce.cu`, one warp a map and sign. The tree needs
no sort and less than a third of the memory, but the work of a union grows with the number of levels. So it is for
`"max/100"` on graphs whose elements all weigh 1: how many levels a step given as a number has is known on the device
alone, and the host does not wait to learn it. All else stays with the default.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends.cuda_kernels import NULL, kernel, launch_maps
from gpuroi.errors import UsageError

if TYPE_CHECKING:
    from gpuroi.backends.base import Array
    from gpuroi.backends.tfce_rule import TfceRule

__all__ = ["STEPS_BYTES", "enhance_by_tree", "tree_is_asked_for"]

STEPS_BYTES = 13  # levels int8; parents, own, sizes int32

_VARIABLE = "GPUROI_TFCE"
_MOST_LEVELS = 127  # of each sign, in an int8


def tree_is_asked_for(rule: TfceRule, *, unit_weights: bool) -> bool:
    """True where the environment asks for the tree and the rule and the graph are such that it can be built.

    Raises
    ------
    UsageError
        The variable holds neither of its two values.
    """
    asked = os.environ.get(_VARIABLE) or "warp"
    if asked not in ("warp", "tree"):
        raise UsageError(f'{_VARIABLE} is "{asked}"', "use warp (the default) or tree")
    return asked == "tree" and unit_weights and 0 < rule.n_steps <= _MOST_LEVELS


def enhance_by_tree(
    maps: Array,
    rows: tuple[Array, Array],
    options: tuple[str, ...],
    rule: TfceRule,
    powers: Array,
    E: float,
    two_sided: bool,
    out: Any,
    maxima: Array,
) -> None:
    """Write TFCE to `out` (zeros, or a null pointer) and its largest values, as the bits of float64, to `maxima`.

    `rows` are indptr and indices of the graph, `powers` the sums of `rule`; all on the device.
    """
    import cupy as cp

    n, v = maps.shape
    tops = cp.zeros((n, 3), np.uint64)
    levels = cp.empty((n, v), np.int8)
    parents, own, sizes = (cp.empty((n, v), np.int32) for _ in range(3))
    steps, exponents = np.int32(rule.n_steps), (np.float64(rule.H), np.float64(E))

    def over_maps(name: str, *args: Any) -> None:
        launch_maps(kernel("tfce_steps", name, options), n, v, (*args, np.int64(n), np.int32(v)))

    over_maps("steps_tops", maps, tops)
    over_maps("steps_levels", maps, tops, np.int32(two_sided), steps, levels, parents, own, sizes)
    over_maps("steps_join", levels, *rows, parents)
    over_maps("steps_members", levels, parents, own)
    over_maps("steps_sizes", parents, own, sizes)
    over_maps("steps_sums", levels, parents, own, sizes, tops, steps, *exponents, powers, out, maxima)
    if out is not NULL:
        over_maps("steps_write", levels, parents, own, out)
