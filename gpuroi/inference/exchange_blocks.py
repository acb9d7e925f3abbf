"""Exchangeability blocks as a tree: which observations may trade places, which change sign together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.errors import DataError, UsageError

__all__ = ["BlockTree", "Errors", "block_tree", "places_to_reach"]

Errors = Literal["ee", "ise", "both"]


@dataclass(frozen=True)
class BlockTree:
    """A branch of the tree of blocks.

    Attributes
    ----------
    children : tuple of BlockTree
        Blocks in this block, in order of their first observation; empty for a single observation.
    row : int
        The observation, from 0; -1 for a block.
    exchange : bool
        May the children trade places, each as a whole?
    flip : bool
        May the sign of this branch be flipped, as a whole?
    size : int
        Number of observations.
    """

    children: tuple[BlockTree, ...]
    row: int
    exchange: bool
    flip: bool
    size: int


def block_tree(n: int, blocks: ArrayLike | None = None, *, whole_blocks: bool = False, errors: Errors) -> BlockTree:
    """Return the tree of exchangeability blocks of `n` observations.

    Parameters
    ----------
    n : int
        Number of observations.
    blocks : array, shape (n,) or (n, levels), optional
        Labels: exchange within blocks, or of whole blocks where `whole_blocks`. A table of levels from the outermost
        to the innermost, of integers other than 0: the blocks inside one with a positive number may trade
        places as wholes, those inside one with a negative number keep theirs.
    whole_blocks : bool, default False
        For labels: blocks trade places as wholes, and the order inside stays.
    errors : {"ee", "ise", "both"}
        Exchangeable errors: permutations. Independent and symmetric: flips of sign.

    Returns
    -------
    BlockTree
        All observations at the same depth.

    Raises
    ------
    UsageError
        Unknown `errors`; `whole_blocks` without labels.
    DataError
        Blocks of another length, a 0 or a fraction in a table, blocks to be exchanged that differ in size or make-up.

    Notes
    -----
    Signs flip at the outermost blocks that may trade places, as wholes: one sign for each observation without blocks
    or with exchange within blocks, one for each block that is exchanged as a whole.

    References
    ----------
    .. [1] Winkler AM, Webster MA, Vidaurre D, Nichols TE, Smith SM (2015). Multi-level block permutation. NeuroImage
       123, 253-268. doi:10.1016/j.neuroimage.2015.05.092

    Examples
    --------
    >>> tree = block_tree(4, ["a", "a", "b", "b"], errors="ee")
    >>> tree.exchange, [child.exchange for child in tree.children]
    (False, [True, True])
    """
    if errors not in ("ee", "ise", "both"):
        raise UsageError(f'errors is "{errors}"', 'use "ee" (permute), "ise" (flip signs) or "both"')
    table = _levels(n, blocks, whole_blocks)
    tree = _grow(table, np.arange(n), 0, under_exchange=False)
    if errors != "ise":  # sign flips alone need no two blocks of the same size
        _structure(tree, {})
    return _allow(tree, exchange=errors != "ise", flip=errors != "ee")


def places_to_reach(tree: BlockTree) -> NDArray[np.int64]:
    """Number the observations, (n,), such that two have the same number if permutations bring one to the other's place.

    Examples
    --------
    >>> places_to_reach(block_tree(4, ["a", "a", "b", "b"], errors="ee")).tolist()
    [0, 0, 1, 1]
    >>> places_to_reach(block_tree(4, ["a", "a", "b", "b"], whole_blocks=True, errors="ee")).tolist()
    [0, 1, 0, 1]
    """
    number = np.empty(tree.size, dtype=np.int64)
    for i, together in enumerate(_together(tree)):
        number[together] = i
    return number


def _together(tree: BlockTree) -> list[list[int]]:
    if not tree.children:
        return [[tree.row]]
    inside = [_together(child) for child in tree.children]
    if not tree.exchange:
        return [rows for child in inside for rows in child]
    return [[row for rows in alike for row in rows] for alike in zip(*inside, strict=True)]


def _levels(n: int, blocks: ArrayLike | None, whole_blocks: bool) -> NDArray[np.int64]:
    """Every form of blocks as a table of levels with one block at the top."""
    if blocks is None:
        if whole_blocks:
            raise UsageError("whole_blocks without blocks", "give blocks, one label for each observation")
        return np.ones((n, 1), dtype=np.int64)
    given = np.asarray(blocks)
    if given.ndim not in (1, 2) or len(given) != n or given.size == 0:
        raise DataError(
            f"blocks have shape {given.shape}, but there are {n} observations",
            "give one label for each observation, or a table with one row for each",
        )
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if given.ndim == 1:
        if given.dtype.kind == "f" and np.isnan(given).any():
            raise DataError("blocks hold NaN", "give a block to every observation")
        codes = np.unique(given, return_inverse=True)[1].reshape(n).astype(np.int64) + 1
        top = np.ones(n, dtype=np.int64)
        return np.column_stack([top, -codes] if whole_blocks else [-top, codes])
    if whole_blocks:
        raise UsageError(
            "whole_blocks with a table of blocks", "the signs in the table say what is exchanged: leave it out"
        )
    if given.dtype.kind not in "fiu" or not np.all(np.isfinite(given)) or not np.all(given == np.floor(given)):
        raise DataError("blocks hold values that are no integers", "a table of blocks is of integers other than 0")
    table = given.astype(np.int64)
    if np.any(table == 0):
        raise DataError("blocks hold a 0", "number blocks from 1: positive to exchange what is inside, negative not to")
    if len(np.unique(table[:, 0])) > 1:  # several blocks at the top stay where they are, as labels do
        table = np.column_stack([-np.ones(n, dtype=np.int64), table])
    return table


def _grow(table: NDArray[np.int64], rows: NDArray[np.int64], level: int, under_exchange: bool) -> BlockTree:
    exchange = bool(table[rows[0], level] > 0)
    unit = exchange and not under_exchange  # the children are the outermost that may move
    if level == table.shape[1] - 1:
        children = tuple(BlockTree((), int(row), False, unit, 1) for row in rows)
    else:
        inside = under_exchange or exchange
        parts = _groups(rows, table[rows, level + 1])
        children = tuple(replace(_grow(table, part, level + 1, inside), flip=unit) for part in parts)
    return BlockTree(children, -1, exchange, False, len(rows))


def _groups(rows: NDArray[np.int64], keys: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows by key, groups in order of their first row."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[group.reshape(-1)]
    order = np.argsort(place, kind="stable")
    return np.split(rows[order], np.cumsum(np.bincount(place))[:-1])


def _structure(tree: BlockTree, known: dict[tuple[object, ...], int]) -> int:
    """Number of the make-up of a branch; blocks that trade places must have the same."""
    inside = [_structure(child, known) for child in tree.children]
    if tree.exchange and len(set(inside)) > 1:
        sizes = sorted({child.size for child in tree.children})
        found = f"sizes {', '.join(map(str, sizes))}" if len(sizes) > 1 else "the same size but different blocks inside"
        raise DataError(
            f"blocks that are to trade places have {found} (the first begins at observation {_first(tree) + 1})",
            "exchange whole blocks of one size and make-up only: put blocks of each kind into one of their own, "
            "negative above, as levels",
        )
    key = (tree.exchange, tree.size, tuple(sorted(inside)) if tree.exchange else tuple(inside))
    return known.setdefault(key, len(known))


def _first(tree: BlockTree) -> int:
    return tree.row if not tree.children else _first(tree.children[0])


def _allow(tree: BlockTree, exchange: bool, flip: bool) -> BlockTree:
    """The tree with permutations, flips, or both."""
    if exchange and flip:
        return tree
    children = tuple(_allow(child, exchange, flip) for child in tree.children)
    return replace(tree, children=children, exchange=tree.exchange and exchange, flip=tree.flip and flip)
