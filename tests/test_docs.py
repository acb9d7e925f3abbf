"""The pages of docs/ are run: each Python block, in order; a `text` block below one is what it has to print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_pages import python_blocks, run_python

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_prints_what_the_page_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUROI_DEVICE", "cpu")
    run_python(page)


def test_the_pages_on_inference_have_code_that_prints() -> None:
    counts = {page.name: sum(printed is not None for _, printed, _ in python_blocks(page)) for page in PAGES}
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
        run_python(page)
    page.write_text("```python\nprint(1 + 1)\n```\n\nMore words, then:\n\n```text\n3\n```\n")
    with pytest.raises(AssertionError, match="does not show"):
        run_python(page)
