"""What a result looks like in a notebook: a heading, key facts, a small picture and the first rows of its table."""

from __future__ import annotations

import base64
import importlib.util
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

__all__ = ["Card", "HasCard"]

_MOST_ROWS = 8
_CELL = "text-align: left; padding: 0 1em 0 0; vertical-align: top"


@dataclass(frozen=True)
class Card:
    """A small piece of HTML that is whole in itself, in the colours of the notebook around it.

    Attributes
    ----------
    title : str
    facts : sequence of (str, str)
        Names and values, one a line.
    table : DataFrame, optional
        Its first rows are shown.
    rows : str
        What a row of the table is, in the plural.
    draw : callable, optional
        Takes a path and writes a PNG file there. Without matplotlib there is no picture.
    alt : str
        What the picture shows, in words.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    table: pd.DataFrame | None = None
    rows: str = "rows"
    draw: Callable[[Path], object] | None = None
    alt: str = ""

    def html(self) -> str:
        """Return the card as HTML; every text in it is escaped.

        Examples
        --------
        >>> Card("Cut at <3", [("device", "cpu")]).html().count("<3")
        0
        """
        parts = [f"<strong>{escape(self.title)}</strong>", self._facts(), self._picture(), self._table()]
        return f'<div class="gpuroi-card">{"".join(parts)}</div>'

    def _facts(self) -> str:
        cells = (
            f'<tr><th scope="row" style="{_CELL}">{escape(name)}</th><td style="{_CELL}">{escape(value)}</td></tr>'
            for name, value in self.facts
        )
        return f'<table style="margin: .4em 0">{"".join(cells)}</table>'

    def _picture(self) -> str:
        if self.draw is None or importlib.util.find_spec("matplotlib") is None:
            return ""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "picture.png"
            self.draw(path)
            data = base64.b64encode(path.read_bytes()).decode("ascii")
        return f'<img src="data:image/png;base64,{data}" alt="{escape(self.alt)}" style="max-width: min(100%, 40em)">'

    def _table(self) -> str:
        if self.table is None or not len(self.table):
            return ""
        more = len(self.table) - _MOST_ROWS
        shown = self.table.head(_MOST_ROWS).astype(object).map(_cell).to_html(index=False, border=0)
        return shown + (f"<p>... and {more} more {escape(self.rows)}</p>" if more > 0 else "")


class HasCard:
    """A result that notebooks show as a card; `_card` says what is on it."""

    def _card(self) -> Card:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return self._card().html()


def _cell(value: Any) -> str:
    """Write four digits, but whole numbers in full.

    Examples
    --------
    >>> _cell(0.0123456), _cell(51976.25), _cell(float("nan")), _cell(7), _cell("nan")
    ('0.01235', '51976', 'n/a', '7', 'nan')
    """
    import pandas as pd

    if not isinstance(value, str) and pd.isna(value):
        return "n/a"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 9999.5 else f"{value:.4g}"
    return str(value)
