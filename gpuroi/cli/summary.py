"""What a command prints at its end: aligned facts, and a table; coloured on a terminal, plain elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["show"]

_MOST_ROWS = 10
_MOST_LETTERS = 12  # of a cell that stay on one line where the terminal is narrow
_GAP = 2  # spaces between two columns
_LARGE, _TOO_LARGE = 9999.5, 1e12  # mm3 between these are written out: 51976, not 5.198e+04


def show(
    facts: Sequence[tuple[str, str]],
    table: pd.DataFrame | None = None,
    *,
    unit: str = "regions",
    most: int | None = _MOST_ROWS,
) -> None:
    """Print facts, one a line, and the first rows of a table.

    Parameters
    ----------
    facts : sequence of (str, str)
        Name and value.
    table : DataFrame, optional
        Its first rows are printed.
    unit : str
        What a row of the table is.
    most : int or None, default 10
        How many rows; None for all.

    Examples
    --------
    >>> show([("device", "cpu"), ("volumes", "40")])
    device   cpu
    volumes  40
    """
    cells = None if table is None or not len(table) else _cells(table, most)
    width = max((len(name) for name, _ in facts), default=0)
    left_out = 0
    if sys.stdout.isatty():
        left_out = _show_rich(facts, width, cells)
    else:
        for name, value in facts:
            print(f"{name:<{width}}  {value}")
        if cells is not None:
            print()
            print(cells.to_string(index=False))
    if table is not None and most is not None and len(table) > most:
        print(f"... and {len(table) - most} more {unit}")
    if left_out:
        print(f"... and {left_out} more columns")


def _show_rich(facts: Sequence[tuple[str, str]], width: int, cells: pd.DataFrame | None) -> int:
    """Print on a terminal, and return how many columns it is too narrow for."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for name, value in facts:
        console.print(Text.assemble((f"{name:<{width}}  ", "bold cyan"), value), soft_wrap=True)
    if cells is None:
        return 0
    widths = _widths(cells, console.width)
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for name, least in zip(cells.columns, widths, strict=False):
        drawn.add_column(Text(str(name)), justify="right", width=least, overflow="fold")
    for row in cells.iloc[:, : len(widths)].itertuples(index=False):
        drawn.add_row(*map(Text, row))
    console.print()
    console.print(drawn)
    return len(cells.columns) - len(widths)


def _widths(cells: pd.DataFrame, room: int) -> list[int]:
    """The widths of the first columns that fit: numbers stay whole, long text and names of columns may wrap."""
    names = [str(name) for name in cells.columns]
    longest = [max(map(len, cells[name])) for name in cells.columns]
    words = [max(map(len, name.split()), default=0) for name in names]
    widths = [max(min(text, _MOST_LETTERS), word) for text, word in zip(longest, words, strict=True)]
    while len(widths) > 1 and sum(widths) + _GAP * (len(widths) - 1) > room:
        widths.pop()
    left = room - sum(widths) - _GAP * (len(widths) - 1)
    for wanted in (longest, [len(name) for name in names]):  # what is left goes to the text first
        for k, width in enumerate(widths):
            more = max(0, min(wanted[k] - width, left))
            widths[k] += more
            left -= more
    return widths


def _cells(table: pd.DataFrame, most: int | None) -> pd.DataFrame:
    """The first rows, as text, without the columns that would not fit on a terminal of 80 characters."""
    table = table[[name for name in table.columns if not str(name).startswith("center_")]]
    return (table if most is None else table.head(most)).map(_cell)


def _cell(value: object) -> str:
    """A number in four digits or more, if whole; nothing for what is missing, as nilearn's cluster tables have it."""
    text = str(value)
    if isinstance(value, float):
        text = f"{value:.0f}" if _LARGE <= abs(value) < _TOO_LARGE else f"{value:.4g}"
    return "" if text in ("nan", "None", "<NA>") else text
