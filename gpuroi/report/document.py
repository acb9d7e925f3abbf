"""Pieces of an HTML page that is whole in itself; every text that goes in is escaped here."""

from __future__ import annotations

import base64
import math
import re
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gpuroi

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

__all__ = [
    "bullets",
    "count",
    "document",
    "facts",
    "figure",
    "gallery",
    "markdown",
    "number",
    "ordered",
    "paragraph",
    "subheading",
    "table",
]

_HERE = Path(__file__).parent
_SCRIPTS = {"page.js": '<table class="sortable"', "viewer.js": '<details class="viewer"'}  # where they are needed
_LONG = 28  # letters of a cell that may break into lines
# The browser itself refuses whatever would be loaded from elsewhere.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def document(title: str, sections: Iterable[tuple[str, str]]) -> str:
    """Return a page of titled sections; a section without content is left out.

    Parameters
    ----------
    title : str
    sections : iterable of (heading, HTML)

    Returns
    -------
    str
    """
    shown = [(name, html) for name, html in sections if html]
    body = "\n".join(
        f'<section id="s{k}">\n<h2>{escape(name)}</h2>\n{html}\n</section>' for k, (name, html) in enumerate(shown)
    )
    links = "".join(f'<li><a href="#s{k}">{escape(name)}</a></li>' for k, (name, _) in enumerate(shown))
    scripts = [name for name, mark in _SCRIPTS.items() if mark in body]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="gpuroi {escape(gpuroi.__version__)}">
<title>{escape(title)}</title>
<style>
{_packaged("page.css")}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
<header><h1>{escape(title)}</h1></header>
<nav class="contents" aria-label="Contents"><ul>{links}</ul></nav>
<main id="main" tabindex="-1">
{body}
</main>
<footer><p>Written by gpuroi {escape(gpuroi.__version__)}. This page needs no network and no other file.</p></footer>
{"".join(f"<script>{_packaged(name)}</script>" for name in scripts)}
</body>
</html>
"""


def figure(path: Path, alt: str, caption: str = "", *, wide: bool = False) -> str:
    """Return a picture, PNG or SVG, held in the page itself; a wide one scrolls on a narrow screen."""
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    image = f'<img src="data:image/{kind};base64,{data}" alt="{escape(alt)}">'
    if wide:
        image = f'<div class="wide" role="group" aria-label="picture" tabindex="0">{image}</div>'
    return f"<figure>{image}{below}</figure>"


def gallery(figures: Iterable[str]) -> str:
    """Return figures side by side, as many as fit."""
    return f'<div class="gallery">{"".join(figures)}</div>'


def paragraph(text: str, kind: Literal["", "lead", "note"] = "") -> str:
    """Return a paragraph: plain, larger, or smaller and softer."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def markdown(text: str) -> str:
    r"""Return sections, paragraphs and numbered lists written in Markdown; the title is left out.

    Examples
    --------
    >>> markdown("# Methods\n\n## Model\n\n`a < b` was fitted.\n\n1. Bayes T. An essay.")
    '<h3>Model</h3><p><code>a &lt; b</code> was fitted.</p><ol><li>Bayes T. An essay.</li></ol>'
    """
    html = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if block.startswith("## "):
            html.append(subheading(block.removeprefix("## ")))
        elif re.match(r"\d+\. ", block):
            items = (f"<li>{_inline(line.partition('. ')[2])}</li>" for line in lines)
            html.append(f"<ol>{''.join(items)}</ol>")
        elif not block.startswith("# "):
            html.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "".join(html)


def subheading(text: str) -> str:
    """Return a heading within a section."""
    return f"<h3>{escape(text)}</h3>"


def ordered(items: Iterable[str]) -> str:
    """Return a numbered list."""
    return f"<ol>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ol>"


def bullets(items: Iterable[str]) -> str:
    """Return a list."""
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def table(rows: pd.DataFrame, label: str = "table") -> str:
    """Return a data frame as a table that scrolls within itself and sorts by its columns.

    Parameters
    ----------
    rows : DataFrame
    label : str
        What it is a table of, for who hears the page.

    Returns
    -------
    str
    """
    head = "".join(map(_table_head, rows.columns, (rows.iloc[:, k] for k in range(rows.shape[1]))))
    body = "".join(f"<tr>{''.join(map(_table_cell, row))}</tr>\n" for row in rows.itertuples(index=False, name=None))
    whole = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>'
    return f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">{whole}</div>'


def facts(items: Iterable[tuple[str, Any]]) -> str:
    """Return names and values, one a row."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(_plain(value))}</td></tr>' for name, value in items
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>' if rows else ""


def number(value: float) -> str:
    """Return a number with one digit after the point from 100 on, two below, three that count below 1.

    Examples
    --------
    >>> number(1234.56), number(2.5), number(0.9984), number(-0.00123), number(0.0)
    ('1234.6', '2.5', '0.998', '-0.00123', '0')
    """
    if abs(value) < 1:
        return f"{value:.3g}"
    text = f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".")


def count(n: int, noun: str) -> str:
    """Return a number and its noun.

    Examples
    --------
    >>> count(1, "region"), count(36162, "voxel")
    ('1 region', '36,162 voxels')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


@cache
def _packaged(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _plain(value: Any) -> str:
    """Write a setting as a person would."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _inline(text: str) -> str:
    """Code between backquotes, and DOIs as links."""
    marked = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
    return re.sub(r"https://doi\.org/(10\.[^\s<]*[^\s<.,;])", r'<a href="https://doi.org/\1">doi:\1</a>', marked)


def _table_head(name: Any, values: pd.Series) -> str:
    kind = ' class="text"' if any(isinstance(value, str) for value in values) else ""
    return f'<th scope="col"{kind}>{escape(str(name).replace("_", " "))}</th>'


def _table_cell(value: Any) -> str:
    text = _cell(value)
    kind = "" if not isinstance(value, str) or text == "n/a" else "text long" if len(text) > _LONG else "text"
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value) if math.isfinite(value) else "n/a" if math.isnan(value) else str(value)
    return str(value)
