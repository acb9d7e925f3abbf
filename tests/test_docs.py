"""The pages of docs/ are run: each Python block, in order; a `text` block below one is what it has to print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_pages import fenced, python_blocks, run_console, run_python

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


def test_the_guide_of_a_screening(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its commands run, and the tree that it explains is that of the folder, every file once."""
    from gpuroi.cli import main

    page = ROOT / "docs" / "screening.md"
    assert run_console(page, tmp_path, main, capsys) >= 8
    tree = re.search(r"<!-- tree.*?```text\nscreening/\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert tree is not None
    patterns = list(explained(tree[1]))
    written = list((tmp_path / "screening").iterdir())
    assert {path.name for path in written if path.is_dir()} == {"figures", "logs"}
    names = {path.name for path in written if path.is_file() and not path.name.startswith("contrast-age")}
    assert {name for name in names if not any(re.fullmatch(pattern, name) for pattern in patterns)} == set()
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in names)] == []
    table = (tmp_path / "demo" / "participants.tsv").read_text(encoding="utf-8").split()
    [shown] = [block.split() for block in fenced(page, "text") if block.startswith("participant_id")]
    assert shown == table[: len(shown)]


def test_the_configuration_of_a_batch_system_is_read(tmp_path: Path) -> None:
    from gpuroi.distributed.client import _configuration

    [block] = fenced(ROOT / "docs" / "screening.md", "toml")
    (tmp_path / "config.toml").write_text(block)
    jobs, settings = _configuration(tmp_path / "config.toml")
    assert jobs == 50
    assert set(settings) == {"queue", "cores", "memory", "walltime"}


def explained(tree: str) -> Iterator[str]:
    """Names in a tree as patterns: {a,b} is either, "  .json" another ending of the name before, the rest is words."""
    prefix = ""
    for line in tree.splitlines():
        prefix = prefix if line.startswith("    ") else ""
        words = re.findall(r"(?:^|(?<=\s))(?:[\w{},-]+(?:\.[a-z]+)+|\.[a-z]+|[\w-]+_)(?=\s|$)", line)
        last = ""
        for word in words:
            if word.endswith("_"):
                prefix = word
            elif word == "CITATION.md" or "(.toml)" in word:
                continue
            else:
                last = re.sub(r"(\.nii\.gz|\.\w+)$", word, last) if word.startswith(".") else word
                alternatives = re.sub(r"\{(.*?)\}", lambda m: f"({m[1].replace(',', '|')})", last.replace(".", r"\."))
                yield prefix + alternatives


def test_a_page_that_lies_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Words.\n\n```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    with pytest.raises(AssertionError, match=r"page\.md:3"):
        run_python(page)
    page.write_text("```python\nprint(1 + 1)\n```\n\nMore words, then:\n\n```text\n3\n```\n")
    with pytest.raises(AssertionError, match="does not show"):
        run_python(page)
