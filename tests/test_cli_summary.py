"""What commands print at their end: numbers as people write them, tables that fit a terminal of 80 characters."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from gpuroi.cli.summary import show


def on_a_terminal(monkeypatch):
    """Let the output be a terminal of 80 characters."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")  # no escape codes for colour
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (51976.0, "51976"),
        (-51976.4, "-51976"),
        (5.836113, "5.836"),
        (9999.96, "10000"),
        (1.2e-7, "1.2e-07"),
        (3e15, "3e+15"),
        (np.nan, ""),
        (np.inf, "inf"),
    ],
)
def test_volumes_are_not_written_in_powers_of_ten(value, text, capsys):
    show([], pd.DataFrame({"mm3": [value]}))
    assert capsys.readouterr().out.split()[1:] == ([text] if text else [])


def test_words_wrap_and_numbers_stay_whole_on_a_terminal(monkeypatch, capsys):
    on_a_terminal(monkeypatch)
    words = "Inferior Frontal Gyrus pars opercularis 47 %; Precentral Gyrus 26 %; n/a 15 %"
    show([], pd.DataFrame({"ID": ["1"], "X": [-46.0], "mm3": [36720.0], "Mass": [16480.0], "Labels (%)": [words]}))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for number in ("-46", "36720", "16480"):
        assert number in out
    assert "…" not in out
    assert " ".join(" ".join(line[22:] for line in out.splitlines()[2:]).split()) == words


def test_columns_that_do_not_fit_a_terminal_are_counted(monkeypatch, capsys):
    on_a_terminal(monkeypatch)
    columns = {f"region-{k}": [k / 7] * 12 for k in range(1, 49)}
    show([("volumes", "12")], pd.DataFrame({"volume": range(12), **columns}), unit="volumes")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "region-1" in out
    assert "region-48" not in out
    shown = out.count("region-")
    assert out.splitlines()[-2:] == ["... and 2 more volumes", f"... and {48 - shown} more columns"]


def test_elsewhere_every_column_is_printed(capsys):
    show([], pd.DataFrame({f"region-{k}": [float(k)] for k in range(1, 49)}))
    assert "region-48" in capsys.readouterr().out
