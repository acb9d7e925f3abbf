"""Rearrangements: counts and lists against brute force and against PALM's own, draws against their promises."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from gpuroi.errors import DataError, UsageError
from gpuroi.inference.design import partition
from gpuroi.inference.rearrange import make_rearrangements

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"


# --------------------------------------------------------------------------- oracle


def every_sequence(table, rows, level, errors, moved=False):
    """All sequences of signed observations that the levels allow at the places of a block, by brute force."""
    if level == table.shape[1]:
        return [[row + 1] for row in rows]
    exchange = table[rows[0], level] > 0
    if level == table.shape[1] - 1:
        parts = [[row] for row in rows]
    else:
        keys = list(dict.fromkeys(table[rows, level + 1]))
        parts = [[row for row in rows if table[row, level + 1] == key] for key in keys]
    inside = [every_sequence(table, part, level + 1, errors, moved or exchange) for part in parts]
    if errors != "ee" and exchange and not moved:
        inside = [own + [[-v for v in s] for s in own] for own in inside]
    orders = itertools.permutations(range(len(parts))) if exchange and errors != "ise" else [range(len(parts))]
    return [
        [v for piece in pieces for v in piece]
        for order in orders
        for pieces in itertools.product(*(inside[i] for i in order))
    ]


def at_rows(table, sequences):
    """Sequences along the tree's leaves, put at the observations' places."""
    leaves = np.array(every_sequence(np.where(table > 0, -table, table), list(range(len(table))), 0, "ee")[0]) - 1
    out = np.empty((len(sequences), len(table)), dtype=int)
    out[:, leaves] = sequences
    return out


def rearranged(rows, x):
    """The rearranged designs, as a list of hashable tables."""
    x = np.asarray(x, dtype=float).reshape(rows.shape[1], -1)
    moved = np.sign(rows)[:, :, None] * x[np.abs(rows) - 1] + 0.0
    return [tuple(map(tuple, one)) for one in moved]


FREE = np.ones((5, 1), dtype=int)
PAIRS = np.column_stack([-np.ones(6, dtype=int), [1, 1, 2, 2, 3, 3]])
WHOLE = np.column_stack([np.ones(6, dtype=int), [-1, -1, -2, -2, -3, -3]])
WHOLE_AND_WITHIN = np.column_stack([np.ones(6, dtype=int), [1, 1, 2, 2, 3, 3]])
MIXED_UP = np.column_stack([np.ones(6, dtype=int), [-7, -4, -7, -4, -9, -9]])
UNEQUAL = np.column_stack([-np.ones(6, dtype=int), [1, 1, 1, 2, 2, 3]])
NESTED = np.array([[-1, 1, 1], [-1, 1, 1], [-1, 1, 2], [-1, 1, 2], [-1, -2, 3], [-1, -2, 3], [-1, -2, 4]])
DEEP = np.array([[1, 1, -1], [1, 1, -2], [1, 2, -1], [1, 2, -2], [1, 3, -3], [1, 3, -4]])
PARTLY_FIXED = np.column_stack([-np.ones(5, dtype=int), [-1, -1, 2, 2, 2]])

VALUES = {
    "distinct": [3.0, 1, 4, 1.5, 9, 2, 6],
    "groups": [0.0, 1, 0, 1, 1, 0, 1],
    "signs": [1.0, -1, 1, -1, -1, 1, 1],
    "ones": [1.0] * 7,
    "blocks of twos": [1.0, 1, 0, 0, 1, 1, 0],
    "some zeros": [0.0, 2, -2, 2, 0, 0, 1],
}


@pytest.mark.parametrize("errors", ["ee", "ise", "both"])
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize(
    "table", [FREE, PAIRS, WHOLE, WHOLE_AND_WITHIN, MIXED_UP, UNEQUAL, NESTED, DEEP, PARTLY_FIXED],
    ids=["free", "pairs", "whole", "both", "mixed", "unequal", "nested", "deep", "partly"],
)  # fmt: skip
def test_exhaustive_lists_hold_every_distinct_design_once(table, values, errors):
    n = len(table)
    x = VALUES[values][:n]
    allowed = at_rows(table, every_sequence(table, list(range(n)), 0, errors))
    wanted = set(rearranged(allowed, x))
    if len(wanted) == 1:
        with pytest.raises(DataError, match="changes the design"):
            make_rearrangements(n, errors=errors, blocks=table, x=x)
        return
    made = make_rearrangements(n, errors=errors, blocks=table, x=x, n_permutations=10**6)
    assert made.exhaustive
    assert made.n == made.n_distinct == len(wanted)
    rows = made.rows()
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows[0], np.arange(1, n + 1))
    assert len(set(rearranged(rows, x))) == len(rows)
    assert set(rearranged(rows, x)) == wanted
    assert set(map(tuple, rows)) <= set(map(tuple, allowed))


@pytest.mark.parametrize("errors", ["ee", "ise", "both"])
@pytest.mark.parametrize("table", [FREE, PAIRS, WHOLE_AND_WITHIN, UNEQUAL, NESTED, DEEP, PARTLY_FIXED])
def test_random_draws_stay_within_the_blocks_and_reach_everything(table, errors):
    n = len(table)
    allowed = set(map(tuple, at_rows(table, every_sequence(table, list(range(n)), 0, errors))))
    # One fewer than there are: the list is drawn. Two lists joined reach all but a few.
    made = make_rearrangements(n, errors=errors, blocks=table, n_permutations=len(allowed) - 1)
    assert not made.exhaustive
    assert made.n_distinct == len(allowed)
    drawn = {tuple(row) for seed in range(12) for row in _drawn(n, errors, table, len(allowed) - 1, seed)}
    assert drawn <= allowed
    if len(allowed) < 200:
        assert drawn == allowed


def _drawn(n, errors, table, count, seed):
    return make_rearrangements(n, errors=errors, blocks=table, n_permutations=count, seed=seed).rows()


def test_random_draws_are_uniform():
    # 4 observations, sign flips and permutations: 384 outcomes, 382 * 60 draws beside the identity.
    counts = {}
    for seed in range(60):
        for row in make_rearrangements(4, errors="both", n_permutations=383, seed=seed).rows(1):
            counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    expected = 382 * 60 / 384
    chi2 = sum((c - expected) ** 2 for c in counts.values()) / expected
    assert len(counts) == 384
    assert abs(chi2 - 383) < 4 * math.sqrt(2 * 383)


def test_whole_blocks_keep_their_inside_in_order():
    labels = np.repeat(["b", "a", "c", "d", "e", "f", "g", "h"], 3)
    rows = make_rearrangements(24, blocks=labels, whole_blocks=True).rows()
    blocks = rows.reshape(len(rows), 8, 3)
    assert np.all(np.diff(blocks, axis=2) == 1)
    assert np.all(blocks[:, :, 0] % 3 == 1)


# --------------------------------------------------------------------------- counts


def test_counts_are_exact_where_they_are_large():
    groups = np.repeat([0.0, 1.0], 20_000)
    made = make_rearrangements(40_000, x=groups, n_permutations=100)
    assert made.n_distinct == math.comb(40_000, 20_000)
    assert made.describe()["n_distinct"].endswith("e12038")
    assert make_rearrangements(300).n_distinct == math.factorial(300)
    assert make_rearrangements(300, errors="ise").n_distinct == 2**300
    assert make_rearrangements(30, errors="both").n_distinct == math.factorial(30) * 2**30
    assert make_rearrangements(30, errors="both", x=np.ones(30)).n_distinct == 2**30
    assert make_rearrangements(40, blocks=np.repeat(range(20), 2)).n_distinct == 2**20
    assert make_rearrangements(60, blocks=np.repeat(range(20), 3), whole_blocks=True).n_distinct == math.factorial(20)


def test_equal_rows_are_told_in_spite_of_rounding():
    x = np.repeat([0.1 + 0.2, 0.3, 1e6], 3)[:, None] * [1, 1e-9]
    assert make_rearrangements(9, x=x).n_distinct == math.comb(9, 3)


def test_many_equal_observations_are_enumerated():
    made = make_rearrangements(400, x=np.arange(400) == 7, n_permutations=400)
    assert made.exhaustive
    assert sorted(np.flatnonzero(made.rows() == 8) % 400) == list(range(400))


# --------------------------------------------------------------------------- promises


@pytest.mark.parametrize("errors", ["ee", "ise", "both"])
@pytest.mark.parametrize("blocks", [None, np.repeat(range(15), 4)])
def test_a_row_depends_on_seed_and_number_alone(errors, blocks):
    made = make_rearrangements(60, errors=errors, blocks=blocks, n_permutations=200, seed=5)
    longer = make_rearrangements(60, errors=errors, blocks=blocks, n_permutations=900, seed=5)
    rows = made.rows()
    np.testing.assert_array_equal(rows[0], np.arange(1, 61))
    np.testing.assert_array_equal(np.concatenate([made.rows(0, 1), made.rows(1, 77), made.rows(77)]), rows)
    np.testing.assert_array_equal(longer.rows(0, 200), rows)
    other = make_rearrangements(60, errors=errors, blocks=blocks, n_permutations=200, seed=6).rows()
    assert np.all(np.any(other[1:] != rows[1:], axis=1))
    assert made.rows(3, 3).shape == (0, 60)


def test_large_lists_come_in_parts_of_bounded_memory():
    made = make_rearrangements(40_000, n_permutations=5000, seed=1)
    rows = made.rows(100, 160)
    np.testing.assert_array_equal(rows[59], made.rows(159, 160)[0])
    assert np.all(np.sort(rows, axis=1) == np.arange(1, 40_001))


def test_an_exhaustive_list_in_parts_is_the_same_list():
    made = make_rearrangements(8, x=[0, 0, 0, 0, 1, 1, 1, 1])
    assert made.n == 70
    np.testing.assert_array_equal(np.concatenate([made.rows(0, 13), made.rows(13, 70)]), made.rows())


def test_explicit_rows_pass_as_they_are():
    rows = np.array([[1, 2, 3], [-2, 1, 3], [-2, 1, 3]])
    made = make_rearrangements(3, explicit=rows)
    assert (made.n, made.n_distinct, made.exhaustive) == (3, 2, False)
    np.testing.assert_array_equal(made.rows(), rows)
    np.testing.assert_array_equal(made.rows(1, 2), rows[1:2])


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": [1, 2, 3, 4, 5, 6]}, "blocks allow no rearrangement"),
        ({"blocks": [1] * 6, "whole_blocks": True}, "blocks allow no rearrangement"),
        ({"blocks": np.full((6, 2), -1)}, "blocks allow no rearrangement"),
        ({"x": np.ones(6)}, "constant over all observations"),
        ({"x": [1, 1, 2, 2, 3, 3], "blocks": [1, 1, 2, 2, 3, 3]}, "constant within the blocks"),
        ({"x": np.zeros(6), "errors": "ise"}, "0 everywhere"),
        ({"blocks": [1, 1, 1]}, r"shape \(3,\), but there are 6 observations"),
        ({"blocks": [1, 1, 1, 2, 2, 3], "whole_blocks": True}, "sizes 1, 2, 3"),
        ({"blocks": np.array([[1, 1], [1, 1], [1, 1], [1, -2], [1, -2], [1, -2]])}, "different blocks inside"),
        ({"blocks": [1.0, 1, 1, np.nan, 2, 2]}, "blocks hold NaN"),
        ({"blocks": np.array([[1, 0]] * 6)}, "blocks hold a 0"),
        ({"blocks": np.array([[1, 0.5]] * 6)}, "no integers"),
        ({"x": np.ones(5)}, r"shape \(5, 1\), but there are 6"),
        ({"x": [1, 2, 3, 4, 5, np.nan]}, "NaN"),
        ({"explicit": np.ones((3, 5))}, r"shape \(3, 5\)"),
        ({"explicit": np.empty((0, 6), dtype=int)}, r"shape \(0, 6\)"),
        ({"explicit": [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 5]]}, "row 2 of permutations"),
        ({"explicit": [[1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5]]}, "row 2 of permutations"),
        ({"explicit": [[1, 2, 3, 4, 5, 6.5]]}, "row 1 of permutations"),
        ({"explicit": [[2, 1, 3, 4, 5, 6]]}, "not the identity"),
    ],
)
def test_bad_data_is_one_clear_error(arguments, message):
    with pytest.raises(DataError, match=message):
        make_rearrangements(6, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"errors": "iid"}, 'errors is "iid"'),
        ({"n_permutations": 0}, "n_permutations is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"whole_blocks": True}, "whole_blocks without blocks"),
        ({"whole_blocks": True, "blocks": np.ones((6, 2))}, "whole_blocks with a table"),
    ],
)
def test_bad_arguments_are_one_clear_error(arguments, message):
    with pytest.raises(UsageError, match=message):
        make_rearrangements(6, **arguments)


def test_rows_outside_the_list_are_refused():
    with pytest.raises(UsageError, match="rows 0 to 9 of 8"):
        make_rearrangements(3, errors="ise").rows(0, 9)


def test_a_single_observation_is_refused():
    with pytest.raises(DataError, match="1 observations allow no rearrangement"):
        make_rearrangements(1)


# --------------------------------------------------------------------------- PALM's lists


def golden(case, name):
    path = GOLDEN / case / name
    if not path.is_file():
        pytest.skip(f"PALM's outputs are not at {GOLDEN}")
    return np.loadtxt(path, delimiter=",", ndmin=2)


@pytest.mark.parametrize(
    ("case", "count", "arguments"),
    [
        ("onesample_flip_exhaustive10", 1024, {"errors": "ise"}),
        ("paired_blocks_exhaustive8", 256, {"blocks": True}),
        ("wholeblock_exhaustive8", 70, {"blocks": True, "whole_blocks": True}),
    ],
)
def test_exhaustive_lists_are_palms(case, count, arguments):
    x = golden(case, "design.csv")
    if "blocks" in arguments:
        arguments = arguments | {"blocks": golden(case, "blocks.csv")}
    part = partition(x, golden(case, "contrast.csv")[0])
    split = make_rearrangements(len(x), x=np.hstack([part.x, part.z]), **arguments)
    made = make_rearrangements(len(x), x=x, **arguments)
    np.testing.assert_array_equal(split.rows(), made.rows())
    assert (made.exhaustive, made.n, made.n_distinct) == (True, count, count)
    palm = golden(case, "palm_permidx.csv").astype(int)
    assert set(rearranged(made.rows(), x)) == set(rearranged(palm, x))
