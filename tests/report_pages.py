"""What every page of a report promises, without a browser: read as HTML, and picture by picture."""

from __future__ import annotations

import base64
import io
import itertools
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.image import imread

import gpuroi

__all__ = ["HOSTILE", "Page", "check_page", "pixels_of", "table_of"]

HOSTILE = '<b>"a" & $b</b>$'
_EMPTY = ("meta", "img", "br", "input")  # elements without an end
_LOADS = ("src", "srcset", "poster", "data", "action", "background", "xlink:href")
_HEADS = ("h1", "h2", "h3", "h4")


class Page(HTMLParser):
    """What a browser would see: tags and whether they nest, images, links, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def check_page(html: str, n_images: int) -> Page:
    """Assert what every report promises, and return it parsed."""
    page = Page(html)
    images = page.all("img")
    assert len(images) == n_images
    for image in images:
        assert image["alt"]
        kind, data = re.fullmatch(r"data:image/(png|svg\+xml);base64,(.+)", image["src"] or "").groups()
        raw = base64.b64decode(data, validate=True)
        if kind == "png":
            assert min(imread(io.BytesIO(raw)).shape[:2]) > 100
    _check_nothing_is_loaded(html, page)
    _check_accessible(page)
    assert "b" not in {tag for tag, _ in page.tags}  # no name has become markup
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert f"gpuroi {gpuroi.__version__}" in page.text
    return page


def pixels_of(path: Path, colour: str) -> np.ndarray:
    """Rows and columns, from the upper left, of the pixels of exactly this colour."""
    image = imread(path)[..., :3]
    return np.argwhere(np.abs(image - to_rgb(colour)).max(axis=-1) < 1.5 / 255)


def table_of(html: str, label: str) -> pd.DataFrame:
    """The table with this label, as text."""
    start = html.index(f'aria-label="{label}"')
    part = html[start : html.index("</table>", start)]
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    cells = [[unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]
    return pd.DataFrame(cells[1:], columns=cells[0])


def _check_nothing_is_loaded(html: str, page: Page) -> None:
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "iframe", "object", "embed", "base", "form"})
    for tag, attributes in page.tags:
        for name in _LOADS:
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        href = attributes.get("href")
        assert href is None or (tag == "a" and href.startswith(("#", "https://doi.org/10."))), (tag, attributes)
    assert "url(" not in html
    assert "@import" not in html
    policy = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert len(policy) == 1
    assert (policy[0] or "").startswith("default-src 'none'; img-src data:;")
    for call in ("fetch(", "XMLHttpRequest", "WebSocket", "import(", "sendBeacon", "eval("):
        assert call not in html


def _check_accessible(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if tag in _HEADS]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    links = [(a["href"] or "")[1:] for a in page.all("a") if (a["href"] or "").startswith("#")]
    assert set(links) <= set(names)
    assert links[0] == "main"  # the skip link comes first
    assert page.all("html")[0]["lang"] == "en"
    for tag, attributes in page.tags:
        if "scroll" in (attributes.get("class") or "").split():
            assert attributes["tabindex"] == "0", tag
            assert attributes["aria-label"], tag
