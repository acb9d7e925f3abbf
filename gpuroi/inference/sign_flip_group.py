"""Sign flips that form a group: every subject has a code, and a flip is a number.

All signed sums of an element are then one fast Walsh-Hadamard transform instead of a product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.backends.base import Array
from gpuroi.backends.sign_flip_bins import odd_parity
from gpuroi.errors import DataError, UsageError
from gpuroi.inference.distinct_rearrangements import design_row_labels
from gpuroi.inference.exchange_blocks import BlockTree, block_tree
from gpuroi.inference.projection import Rearranged

__all__ = ["GroupFlips", "SignFlipGroup", "sign_flip_group"]

Codes = NDArray[np.int64]

_MOST_BITS = 40  # more flips than can ever be run


@dataclass(frozen=True)
class SignFlipGroup:
    """A subgroup of the sign flips of `n_observations` observations; used as `Rearrangements` are.

    Flip g inverts observation i where ``popcount(g & codes[i])`` is odd, g = 0 inverts none, and g followed by h is
    ``g ^ h``.

    Attributes
    ----------
    codes : int64 array, shape (n_observations,)
        Together they span all `log2_n` bits, so that no two flips are the same.
    log2_n : int
        There are ``2 ** log2_n`` flips.
    exhaustive : bool
        Every flip that changes the design is in the group.
    n_distinct : int
        How many such there are.
    """

    codes: Codes
    log2_n: int
    exhaustive: bool
    n_distinct: int

    @property
    def n(self) -> int:
        """Flips in the group, the identity among them."""
        return 1 << self.log2_n

    @property
    def n_observations(self) -> int:
        """Observations that have a sign."""
        return len(self.codes)

    def signs(self, start: int = 0, stop: int | None = None) -> NDArray[np.int8]:
        """Return flips start..stop as 1 and -1, int8, shape (stop - start, n_observations)."""
        last = self.n if stop is None else stop
        if not 0 <= start <= last <= self.n:
            raise UsageError(f"flips {start} to {last} of {self.n}", "stay within the group")
        odd = odd_parity(np.arange(start, last, dtype=np.int64)[:, None] & self.codes)
        return (1 - 2 * odd.astype(np.int8)).astype(np.int8)

    def rows(self, start: int = 0, stop: int | None = None) -> NDArray[np.int32]:
        """Return flips start..stop as signed observations from 1, int32, as `Rearrangements.rows` does."""
        observations = np.arange(1, self.n_observations + 1, dtype=np.int32)
        return np.multiply(self.signs(start, stop), observations, dtype=np.int32)

    def describe(self) -> dict[str, Any]:
        """Return what a report says of the group."""
        return {"n": self.n, "exhaustive": self.exhaustive, "n_distinct": f"2^{self.n_distinct.bit_length() - 1}"}


def sign_flip_group(
    n: int,
    *,
    n_permutations: int = 5000,
    blocks: ArrayLike | None = None,
    whole_blocks: bool = False,
    seed: int = 0,
    x: ArrayLike | None = None,
) -> SignFlipGroup:
    """Draw a subgroup of the sign flips of `n` observations.

    Parameters
    ----------
    n : int
        Number of observations.
    n_permutations : int, default 5000
        How many flips are wanted, the identity included, rounded down to a power of two: 5000 gives 4096. Where there
        are no more flips than that, all of them.
    blocks, whole_blocks
        Exchangeability blocks, as `block_tree` takes them: whole blocks have one sign.
    seed : int, default 0
        The group is a function of the seed alone.
    x : array, shape (n, r), optional
        Rows of the design, nuisance included; the signs of rows that are 0 do not count.

    Returns
    -------
    SignFlipGroup

    Raises
    ------
    UsageError
        A number of permutations or a seed out of range.
    DataError
        Blocks or design rows of another length; no sign flip that changes the design.

    Notes
    -----
    A subgroup that is drawn without looking at the data gives an exact test where all flips together do [1]_: p is no
    Monte Carlo estimate, and there are no repeats. Codes are random, none twice and none 0 where the bits suffice, so
    that each observation is inverted by half of the flips. Where there are fewer flips than observations each
    code is taken equally often: every flip but the identity then inverts about half of them, which is what gains power
    in [1]_; with more flips than observations expect the power of random flips. A draw that does not span all bits, or
    whose group holds the flip of all signs, is drawn again: with that flip a two-sided test counts every |t| twice.

    The test asks for what every sign flip asks for: errors independent and symmetric about 0. With skewed errors p is
    approximate and right only as observations grow in number, one-sided tests the more slowly. Nuisance regressors
    make it approximate too, as they do all permutation tests.

    References
    ----------
    .. [1] Koning NW, Hemerik J (2024). More efficient exact group invariance testing: using a representative subgroup.
       Biometrika. doi:10.1093/biomet/asad050

    Examples
    --------
    >>> group = sign_flip_group(3)
    >>> group.exhaustive, group.signs(0, 4).tolist()
    (True, [[1, 1, 1], [-1, 1, 1], [1, -1, 1], [-1, -1, 1]])
    >>> group = sign_flip_group(100, n_permutations=5000)
    >>> group.n, group.exhaustive, group.rows(0, 1)[0, :4].tolist()
    (4096, False, [1, 2, 3, 4])
    """
    if n_permutations < 1:
        raise UsageError(f"n_permutations is {n_permutations}", "ask for one or more; the identity counts as one")
    if seed < 0:
        raise UsageError(f"seed is {seed}", "use a seed of 0 or more")
    unit = _units(n, block_tree(n, blocks, whole_blocks=whole_blocks, errors="ise"), x)
    n_units = int(unit.max()) + 1
    if n_units == 0:
        raise DataError("no sign flip changes the design: it is 0 everywhere", "give the regressors of the model")
    bits = min(n_permutations.bit_length() - 1, _MOST_BITS)
    exhaustive = n_units <= bits
    codes = 1 << np.arange(n_units, dtype=np.int64) if exhaustive else _draw(n_units, bits, seed)
    of_observation = np.append(codes, 0)[unit]  # -1: what never flips
    of_observation.setflags(write=False)
    return SignFlipGroup(of_observation, n_units if exhaustive else bits, exhaustive, 1 << n_units)


@dataclass(frozen=True)
class GroupFlips(Rearranged):
    """Statistics of flips of a group: a fast Walsh-Hadamard transform takes the place of the product of matrices.

    For the methods whose inner products are signed sums, Freedman-Lane and ter Braak.

    Attributes
    ----------
    group : SignFlipGroup
    """

    group: SignFlipGroup

    def prepare(self, rows: NDArray[np.int32]) -> Callable[[slice], Array]:
        """t or F, (k, part of w), of a block of elements.

        The transform takes flips a 2^b to (a + 1) 2^b - 1; other rows go through the product as any do.
        """
        k, backend, projection = len(rows), self.backend, self.projection
        first = np.sign(rows[0])  # the signs that the upper bits of these flips give
        if k & (k - 1) or k > self.group.n or not np.array_equal(np.sign(rows), first * self.group.signs(0, k)):
            return super().prepare(rows)
        effect, nuisance = projection.x.T * first, projection.z.T * first  # (r, n), (q, n)
        codes, log2_k = self.group.codes, k.bit_length() - 1

        def statistics(part: slice) -> Array:
            e = self.residuals(part)
            u = backend.sign_flip_sums(e, effect, codes, log2_k)  # (k, r, part)
            z = backend.sign_flip_sums(e, nuisance, codes, log2_k)  # (k, q, part)
            return backend.permutation_statistics(u, z, projection.df, projection.as_f)

        return statistics


def _units(n: int, tree: BlockTree, x: ArrayLike | None) -> Codes:
    """Number of the sign that each observation has, from 0, in order; -1 where it has none or needs none."""
    unit = np.full(n, -1, dtype=np.int64)
    for number, members in enumerate(_flipped_together(tree)):
        unit[members] = number
    if x is None:
        return unit
    rows = np.asarray(x, dtype=np.float64)
    if rows.shape[:1] != (n,):
        raise DataError(
            f"the design has shape {rows.shape}, but there are {n} observations", "give one row for each observation"
        )
    zero = np.equal(*design_row_labels(rows.reshape(n, -1), n))
    needed = np.unique(unit[~zero & (unit >= 0)])
    return np.where(np.isin(unit, needed), np.searchsorted(needed, unit), -1)


def _flipped_together(tree: BlockTree) -> list[list[int]]:
    """Observations under each branch that flips, from left to right."""
    if tree.flip:
        return [_leaves(tree)]
    return [rows for child in tree.children for rows in _flipped_together(child)]


def _leaves(tree: BlockTree) -> list[int]:
    return [row for child in tree.children for row in _leaves(child)] if tree.children else [tree.row]


def _draw(n: int, bits: int, seed: int) -> Codes:
    """Codes of `n` > `bits` signs that span all bits and do not add up to the flip of all signs."""
    attempt = 0
    while True:
        codes = _balanced_codes(n, bits, np.random.Philox(key=seed, counter=[0, 0, 0, attempt]))
        generators = [_as_integer((codes >> bit) & 1) for bit in range(bits)]
        if _rank([*generators, (1 << n) - 1]) == bits + 1:
            return codes
        attempt += 1  # about one draw in four passes where n is bits + 1, nearly all where it is well above


def _balanced_codes(n: int, bits: int, random: np.random.Philox) -> Codes:
    """Random codes: all of them equally often where n reaches their number, else distinct and not 0."""
    size = 1 << bits
    if n >= size:
        rounds = [np.argsort(random.random_raw(size), kind="stable") for _ in range(-(-n // size))]
        return np.asarray(np.concatenate(rounds)[:n], dtype=np.int64)
    found = np.empty(0, dtype=np.int64)
    while True:
        found = np.concatenate([found, (random.random_raw(2 * n + 16) >> np.uint64(64 - bits)).astype(np.int64)])
        found = found[np.sort(np.unique(found, return_index=True)[1])]
        nonzero = found[found != 0]
        if len(nonzero) >= n:
            return np.asarray(nonzero[:n])


def _as_integer(bits: Codes) -> int:
    """The vector of zeros and ones as one number."""
    return int.from_bytes(np.packbits(bits.astype(np.uint8), bitorder="little").tobytes(), "little")


def _rank(vectors: list[int]) -> int:
    """Rank over the field of two elements."""
    basis: list[int] = []
    for vector in vectors:
        for known in basis:
            vector = min(vector, vector ^ known)
        if vector:
            basis.append(vector)
    return len(basis)
