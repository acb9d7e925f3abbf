"""What a command prints at its end: aligned facts, and a table; coloured on a terminal, plain elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["show"]

_MOST_ROWS = 10


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
    width = max((len(name) for name, _ in facts), default=0)
    if sys.stdout.isatty():
        _show_rich(facts, width, table, most)
    else:
        for name, value in facts:
            print(f"{name:<{width}}  {value}")
        if table is not None and len(table):
            print()
            print(_cells(table, most).to_string(index=False))
    if table is not None and most is not None and len(table) > most:
        print(f"... and {len(table) - most} more {unit}")


def _show_rich(facts: Sequence[tuple[str, str]], width: int, table: pd.DataFrame | None, most: int | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for name, value in facts:
        console.print(Text.assemble((f"{name:<{width}}  ", "bold cyan"), value), soft_wrap=True)
    if table is None or not len(table):
        return
    cells = _cells(table, most)
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for name in cells.columns:
        drawn.add_column(str(name), justify="right")
    for row in cells.itertuples(index=False):
        drawn.add_row(*row)
    console.print()
    console.print(drawn)


def _cells(table: pd.DataFrame, most: int | None) -> pd.DataFrame:
    """The first rows, as text, without the columns that would not fit on a terminal of 80 characters."""
    table = table[[name for name in table.columns if not str(name).startswith("center_")]]
    return (table if most is None else table.head(most)).map(_cell)


def _cell(value: object) -> str:
    """A number in four digits; nothing for what is missing, as nilearn's cluster tables have it."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return "" if text in ("nan", "None", "<NA>") else text
