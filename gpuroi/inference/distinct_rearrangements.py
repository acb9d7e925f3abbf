"""Count the rearrangements that change the design, and write down each of them once."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuroi.inference.exchange_blocks import BlockTree

__all__ = ["Orbit", "design_row_labels", "enumerate_rows", "survey"]

Labels = NDArray[np.int64]

# Values of a regressor closer than this, relative to the largest, are one value.
_SAME_VALUE = 1e-10


@dataclass(frozen=True)
class Orbit:
    """A branch of the block tree with the number of rearrangements inside it that differ.

    Attributes
    ----------
    tree : BlockTree
    children : tuple of Orbit
    label, negated : int
        Two branches have the same label if the rearrangements inside turn one into the other; `negated` is the label
        of this branch with all signs flipped.
    kinds : tuple of int
        Label of each child, whatever its sign where signs flip.
    arrangements : int
        Ways to lay the kinds out over the children's places.
    signs : int
        2 where flipping the whole branch gives something new, else 1.
    count : int
        Distinct rearrangements inside, `signs` not counted.
    """

    tree: BlockTree
    children: tuple[Orbit, ...]
    label: int
    negated: int
    kinds: tuple[int, ...]
    arrangements: int
    signs: int
    count: int


def design_row_labels(x: NDArray[np.float64] | None, n: int) -> tuple[Labels, Labels]:
    """Label the rows of a design: equal rows have equal labels; the second array labels the rows times -1.

    Examples
    --------
    >>> import numpy as np
    >>> design_row_labels(np.array([[1.0], [-1.0], [1.0], [0.0]]), 4)
    (array([2, 0, 2, 1]), array([0, 2, 0, 1]))
    """
    if x is None:
        return np.arange(1, n + 1), -np.arange(1, n + 1)
    codes = np.column_stack([_signed_codes(column) for column in x.T])  # (n, r)
    codes = np.unique(codes, axis=1)  # equal columns tell nothing more
    label = np.unique(np.concatenate([codes, -codes]), axis=0, return_inverse=True)[1].reshape(-1)
    return label[:n], label[n:]


def survey(tree: BlockTree, labels: tuple[Labels, Labels]) -> Orbit:
    """Count the rearrangements of the labels that the tree allows and that differ, exactly.

    Two rearrangements are one if they put the same label with the same sign at every observation.

    Notes
    -----
    What a branch can be turned into is told by a normal form, its children's forms sorted where they may trade places:
    two layouts of one branch are reachable from each other exactly if their forms are equal. So the count
    is a multinomial coefficient of the children's forms times the product of the children's own counts.
    """
    return _survey(tree, [int(v) for v in labels[0]], [int(v) for v in labels[1]], {})


def enumerate_rows(orbit: Orbit, ranks: Labels, n: int) -> NDArray[np.int32]:
    """Return the distinct rearrangements with these ranks, as signed observations from 1, (k, n); 0 is the identity."""
    k = len(ranks)
    sequence, _ = _fill(orbit, ranks.astype(np.int64, copy=True))
    out = np.empty((k, n), dtype=np.int32)
    out[:, leaf_rows(orbit.tree)] = sequence
    return out


def leaf_rows(tree: BlockTree) -> Labels:
    """Observations in the order of the tree's leaves, from 0."""
    if not tree.children:
        return np.array([tree.row])
    if not tree.children[0].children:
        return np.array([leaf.row for leaf in tree.children])
    return np.concatenate([leaf_rows(child) for child in tree.children])


def _signed_codes(column: NDArray[np.float64]) -> Labels:
    """Number the values of a column from below, 0 at zero, such that -value has minus the number of value."""
    magnitude = np.abs(column)
    order = np.argsort(magnitude)
    ascending = np.concatenate([[0.0], magnitude[order]])
    steps = np.diff(ascending) > _SAME_VALUE * max(ascending[-1], np.finfo(np.float64).tiny)
    codes = np.empty(len(column), dtype=np.int64)
    codes[order] = np.cumsum(steps)
    return np.where(column < 0, -codes, codes)


def _survey(tree: BlockTree, labels: list[int], negated: list[int], known: dict[tuple[object, ...], int]) -> Orbit:
    if not tree.children:
        own = known.setdefault(("row", labels[tree.row]), len(known))
        mirror = known.setdefault(("row", negated[tree.row]), len(known))
        return Orbit(tree, (), own, mirror, (), 1, 2 if tree.flip and own != mirror else 1, 1)
    children = tuple(_survey(child, labels, negated, known) for child in tree.children)
    kinds = tuple(min(c.label, c.negated) if c.tree.flip else c.label for c in children)
    mirrored = tuple(kind if c.tree.flip else c.negated for kind, c in zip(kinds, children, strict=True))
    if tree.exchange:
        own = known.setdefault(("any", *sorted(kinds)), len(known))
        mirror = known.setdefault(("any", *sorted(mirrored)), len(known))
        arrangements = _multinomial(list(Counter(kinds).values()))
    else:
        own = known.setdefault(("fixed", *kinds), len(known))
        mirror = known.setdefault(("fixed", *mirrored), len(known))
        arrangements = 1
    count = arrangements * math.prod(c.count * c.signs for c in children)
    return Orbit(tree, children, own, mirror, kinds, arrangements, 2 if tree.flip and own != mirror else 1, count)


def _multinomial(counts: list[int]) -> int:
    return math.factorial(sum(counts)) // math.prod(math.factorial(c) for c in counts)


def _fill(orbit: Orbit, ranks: Labels) -> tuple[NDArray[np.int32], Labels]:
    """Observations at the places of a branch, (k, size), and what is left of the ranks after it."""
    k = len(ranks)
    if orbit.count == 1:
        sequence = np.broadcast_to((leaf_rows(orbit.tree) + 1).astype(np.int32), (k, orbit.tree.size))
        return _signed(orbit, sequence, ranks)
    ranks, digit = np.divmod(ranks, orbit.arrangements)
    parts = []
    for child in orbit.children:
        part, ranks = _fill(child, ranks)
        parts.append(part)
    if orbit.arrangements == 1:
        return _signed(orbit, np.concatenate(parts, axis=1), ranks)
    source = _children_at_places(orbit, digit)  # (k, m)
    stacked = np.stack(parts, axis=1)  # (k, m, size of a child): all alike, or they could not trade places
    moved = np.take_along_axis(stacked, source[:, :, None], axis=1)
    return _signed(orbit, moved.reshape(k, orbit.tree.size), ranks)


def _signed(orbit: Orbit, sequence: NDArray[np.int32], ranks: Labels) -> tuple[NDArray[np.int32], Labels]:
    if orbit.signs == 1:
        return sequence, ranks
    ranks, flipped = np.divmod(ranks, 2)
    return np.where(flipped[:, None] == 1, -sequence, sequence), ranks


def _children_at_places(orbit: Orbit, digit: Labels) -> Labels:
    """Child that goes to each place, (k, m): the layout of kinds of rank `digit`, children of a kind in order."""
    kinds = np.unique(np.array(orbit.kinds), return_inverse=True)[1].reshape(-1)
    counts = np.bincount(kinds)
    members = np.split(np.argsort(kinds, kind="stable"), np.cumsum(counts)[:-1])
    k, m = len(digit), len(kinds)
    total = np.full(k, orbit.arrangements, dtype=np.int64)  # layouts of what is left
    rank = (digit + _rank(kinds, counts, orbit.arrangements)) % orbit.arrangements  # the identity comes first
    left = np.tile(counts, (k, 1))
    source = np.empty((k, m), dtype=np.int64)
    every = np.arange(k)
    for place in range(m):
        begin_with = total[:, None] * left // (m - place)  # (k, kinds): layouts that begin with each kind
        before = np.cumsum(begin_with, axis=1)
        kind = np.sum(rank[:, None] >= before, axis=1)
        total = begin_with[every, kind]
        rank = rank - (before[every, kind] - total)
        for c, own in enumerate(members):
            here = kind == c
            source[here, place] = own[counts[c] - left[here, c]]
        left[every, kind] -= 1
    return source


def _rank(kinds: Labels, counts: Labels, arrangements: int) -> int:
    """Rank of a layout among all layouts of the same kinds in lexicographic order."""
    left = [int(c) for c in counts]
    total, rank = arrangements, 0
    for place, kind in enumerate(int(v) for v in kinds):
        remaining = len(kinds) - place
        rank += sum(total * left[c] // remaining for c in range(kind))
        total = total * left[kind] // remaining
        left[kind] -= 1
    return rank
