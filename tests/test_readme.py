"""The README is run: its commands, what they print, and its Python; and what it points to is there."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Each command of the console blocks, with the output that is shown below it."""
    found: list[tuple[str, str]] = []
    for block in blocks("console"):
        for line in block.splitlines(keepends=True):
            if line.startswith("$ "):
                found.append((line[2:].strip(), ""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + line)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


def expanded(words: list[str], folder: Path) -> list[str]:
    """Words with a * as a shell expands them."""
    out: list[str] = []
    for word in words:
        out += sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if "*" in word else [word]
    return out


def test_commands_print_what_the_readme_shows(folder: Path) -> None:
    environment = {**os.environ, "GPUROI_DEVICE": "cpu", "PYTHONPATH": str(ROOT)}
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    shown = commands()
    assert [command.split()[1] for command, _ in shown] == [
        "demo", "roi", "ttest", "regions", "clusters", "extract", "extract", "threshold-parcels", "parcellate",
        "check", "screen", "report", "pack", "screen", "threshold", "smooth", "dilate", "label",
    ]  # fmt: skip
    for command, want in shown:
        program, *words = shlex.split(command)
        assert program == "gpuroi"
        line = [sys.executable, "-m", "gpuroi", *expanded(words, folder)]
        ran = subprocess.run(
            line, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert ran.returncode == 0, f"{command}\n{ran.stderr}"
        checker, example = doctest.OutputChecker(), doctest.Example(command, want)
        assert checker.check_output(want, ran.stdout, flags), checker.output_difference(example, ran.stdout, flags)
    for name in ("atlas.nii.gz", "atlas.tsv", "signals.tsv", "maps", "figures", "report.html", "provenance.json"):
        assert f"`{name}" in README
        assert (folder / "roi" / name).exists(), name


def test_python_runs() -> None:
    namespace: dict[str, object] = {}
    for block in blocks("python"):  # one after the other, as a reader would
        exec(compile(block, "README.md", "exec"), namespace)
    assert "labels" in namespace
    assert "result" in namespace


def test_the_names_taken_from_nilearn_are_counted() -> None:
    import gpuroi.nilearn

    assert f"has {len(gpuroi.nilearn.__all__)} of its names" in README


def test_links_and_make_targets_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 7
    assert all((ROOT / link).exists() for link in links), links
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([a-z-]+)", README))
    assert {"demo", "test", "bench", "gpu-check"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_figure_is_small() -> None:
    assert (ROOT / "docs/images/roi_regions.png").stat().st_size < 200_000


def test_whole_runs_are_as_their_records_say() -> None:
    def record(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}-2026-11-21.json").read_text())
        return found

    screening, store, workers = (record(name) for name in ("cpu-screening", "large-store", "cpu-workers"))
    ours, theirs = screening["gpuroi_s"], screening["nilearn_s"]["extrapolated"]
    for text in (
        f"{ours['command']:.1f} s,",
        f"{ours['with_report_and_figures']:.1f} s;",
        f"{theirs / ours['command']:.0f} times longer",
        f"{store['fit']['peak_mb'] / 1000:.2f} GB",
        f"{store['share']:.0%}".replace("%", " %"),
        f"{workers['speed_up_of_two_workers']:.2f} times",
    ):
        assert text in README, text
    assert workers["same_numbers"]
    assert screening["largest_difference_of_t"] < 1e-6
