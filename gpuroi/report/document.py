"""Pieces of an HTML page that is whole in itself; every text that goes in is escaped here."""

from __future__ import annotations

import base64
import math
from html import escape
from typing import TYPE_CHECKING, Any

import gpuroi

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pandas as pd

__all__ = ["bullets", "count", "document", "facts", "figure", "gallery", "number", "ordered", "paragraph", "table"]

_CSS = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b6470; --paper: #fff; --line: #d9dee4; --tint: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #a3acb6; --paper: #14171a; --line: #343a41; --tint: #1d2126; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1.2rem 3rem; max-width: 72rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p, li { max-width: 46rem; } a { color: inherit; }
figure { margin: 1rem 0; } figcaption, footer { color: var(--soft); font-size: .9rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.gallery { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
.gallery figure { margin: 0; }
.scroll { overflow: auto; max-height: 34rem; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { position: sticky; top: 0; background: var(--tint); }
.facts th, .facts td { text-align: left; white-space: normal; vertical-align: top; overflow-wrap: anywhere; }
.facts th { width: 14rem; font-weight: 600; }
@media (max-width: 40rem) { body { padding: .6rem .8rem 2rem; } h1 { font-size: 1.4rem; } .facts th { width: 40%; } }
@media print { .scroll { overflow: visible; max-height: none; } }
"""


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
    body = "\n".join(f"<section>\n<h2>{escape(name)}</h2>\n{html}\n</section>" for name, html in sections if html)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="gpuroi {escape(gpuroi.__version__)}">
<title>{escape(title)}</title>
<style>{_CSS}</style>
</head>
<body>
<header><h1>{escape(title)}</h1></header>
<main>
{body}
</main>
<footer><p>Written by gpuroi {escape(gpuroi.__version__)}. This page needs no network and no other file.</p></footer>
</body>
</html>
"""


def figure(png: Path, alt: str, caption: str = "") -> str:
    """Return a picture, held in the page itself."""
    data = base64.b64encode(png.read_bytes()).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}">{below}</figure>'


def gallery(figures: Iterable[str]) -> str:
    """Return figures side by side, as many as fit."""
    return f'<div class="gallery">{"".join(figures)}</div>'


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(text)}</p>"


def ordered(items: Iterable[str]) -> str:
    """Return a numbered list."""
    return f"<ol>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ol>"


def bullets(items: Iterable[str]) -> str:
    """Return a list."""
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def table(rows: pd.DataFrame) -> str:
    """Return a data frame as a table that scrolls within itself."""
    head = "".join(f'<th scope="col">{escape(str(name).replace("_", " "))}</th>' for name in rows.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row) + "</tr>\n"
        for row in rows.itertuples(index=False, name=None)
    )
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
    return f'<div class="scroll" role="region" aria-label="table" tabindex="0">{whole}</div>'


def facts(items: Iterable[tuple[str, Any]]) -> str:
    """Return names and values, one a row."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(_plain(value))}</td></tr>' for name, value in items
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>' if rows else ""


def number(value: float) -> str:
    """Return a number with one digit after the point from 100 on, two below, three that count below 0.1.

    Examples
    --------
    >>> number(1234.56), number(2.5), number(-0.00123), number(0.0)
    ('1234.6', '2.5', '-0.00123', '0')
    """
    if abs(value) < 0.1:
        return f"{value:.3g}"
    text = f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".")


def count(n: int, noun: str) -> str:
    """Return a number and its noun.

    Examples
    --------
    >>> count(1, "region"), count(0, "region")
    ('1 region', '0 regions')
    """
    return f"{n} {noun}{'' if n == 1 else 's'}"


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


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value) if math.isfinite(value) else "n/a" if math.isnan(value) else str(value)
    return str(value)
