"""Numbers are those of yesterday, on any machine: `tests/golden/numbers.json`, written by `tests/golden/make.py`."""

from __future__ import annotations

import json

import pytest
from golden import make

KEPT = json.loads(make.FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", make.MEASURED)
def test_numbers_have_not_moved(name):
    told = make.moved(name, make.computed(name), KEPT[name])
    assert not told, (
        f"{told}\nIf that is meant: say so in CHANGELOG.md under Numbers, and write them anew with "
        "python -m tests.golden.make"
    )


def test_all_that_is_kept_is_compared_and_says_something():
    assert set(KEPT) == set(make.MEASURED)
    assert make.FILE.stat().st_size < 60_000
    for name, values in KEPT.items():
        assert len({value for value in values if value is not None}) > 2, name


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda values: [*values[:7], values[7] + 1e-6, *values[8:]],
            r"t: 1 of 120 values moved.*number 7.*is .*, was ",
        ),
        (lambda values: values[:-1], "t: 119 values, were 120"),
        (lambda values: [None, *values[1:]], r"t: 1 of 120 values moved.*number 0 .*by inf: is None, was "),
        (lambda values: [value * (1 + 1e-12) for value in values], "^$"),
    ],
)
def test_what_moved_is_said(change, told):
    import re

    assert re.search(told, make.moved("t", change(KEPT["t"]), KEPT["t"]))
