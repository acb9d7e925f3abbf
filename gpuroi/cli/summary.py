"""What a command prints at its end: aligned facts, and a table; coloured on a terminal, plain elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["show"]

_MOST_ROWS = 10


def show(facts: Sequence[tuple[str, str]], table: pd.DataFrame | None = None, *, unit: str = "regions") -> None:
    """Print facts, one a line, and the first rows of a table.

    Parameters
    ----------
    facts : sequence of (str, str)
        Name and value.
    table : DataFrame, optional
        Its first 10 rows are printed.
    unit : str
        What a row of the table is.

    Examples
    --------
    >>> show([("device", "cpu"), ("volumes", "40")])
    device   cpu
    volumes  40
    """
    width = max((len(name) for name, _ in facts), default=0)
    if sys.stdout.isatty():
        _show_rich(facts, width, table)
    else:
        for name, value in facts:
            print(f"{name:<{width}}  {value}")
        if table is not None and len(table):
            print()
            print(_cells(table).to_string(index=False))
    if table is not None and len(table) > _MOST_ROWS:
        print(f"... and {len(table) - _MOST_ROWS} more {unit}")


def _show_rich(facts: Sequence[tuple[str, str]], width: int, table: pd.DataFrame | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for name, value in facts:
        console.print(Text.assemble((f"{name:<{width}}  ", "bold cyan"), value), soft_wrap=True)
    if table is None or not len(table):
        return
    cells = _cells(table)
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for name in cells.columns:
        drawn.add_column(str(name), justify="right")
    for row in cells.itertuples(index=False):
        drawn.add_row(*row)
    console.print()
    console.print(drawn)


def _cells(table: pd.DataFrame) -> pd.DataFrame:
    """The first rows, as text, without the columns that would not fit on a terminal of 80 characters."""
    table = table[[name for name in table.columns if not str(name).startswith("center_")]]
    return table.head(_MOST_ROWS).map(lambda cell: f"{cell:.4g}" if isinstance(cell, float) else str(cell))
