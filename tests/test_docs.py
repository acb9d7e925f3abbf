"""The pages of docs/ are run: each Python block, in order; a `text` block below one is what it has to print."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```$(?:\n+^```text\n(?P<printed>.*?)^```$)?", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str | None, int]]:
    """Code, what it prints (None: not said) and the line of each block."""
    text = page.read_text(encoding="utf-8")
    return [(m["code"], m["printed"], text[: m.start("code")].count("\n")) for m in BLOCK.finditer(text)]


def check(page: Path) -> None:
    names: dict[str, object] = {"__name__": "docs"}
    checker, flags = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for code, wanted, line in blocks(page):
        printed = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore")  # nilearn warns of what its users would see too
            exec(compile("\n" * line + code, str(page), "exec"), names)
        got = printed.getvalue()
        if wanted is None:
            assert got == "", f"{page.name}:{line}: prints what the page does not show:\n{got}"
            continue
        example = doctest.Example(code, wanted)
        fits = checker.check_output(wanted, got, flags)
        assert fits, f"{page.name}:{line}\n{checker.output_difference(example, got, flags)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_prints_what_the_page_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUROI_DEVICE", "cpu")
    check(page)


def test_the_pages_on_inference_have_code_that_prints() -> None:
    counts = {page.name: sum(printed is not None for _, printed, _ in blocks(page)) for page in PAGES}
    assert counts["permutation.md"] >= 4
    assert counts["what-differs.md"] >= 7


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))]
    assert [link for link in links if link and "://" not in link and not (page.parent / link).exists()] == []


def test_a_page_that_lies_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Words.\n\n```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:3"):
        check(page)
    page.write_text("```python\nprint(1 + 1)\n```\n\nMore words, then:\n\n```text\n3\n```\n")
    with pytest.raises(AssertionError, match="does not show"):
        check(page)
