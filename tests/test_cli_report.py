"""`gpuroi report`: from the command line, as its user meets it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import in_a_process, write
from report_pages import check_page

from gpuroi.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(10, 10, 10)).astype(np.float32)
    values[2:5, 2:5, 2:5] = 7.0
    write("map.nii.gz", values)
    assert main(["clusters", "map.nii.gz", "--threshold", "4", "--out", "out"]) == 0
    return tmp_path


def test_the_report_is_made_again(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out/report.html").write_text("spoilt", encoding="utf-8")
    Path("out/figures/map.png").unlink()
    assert main(["report", "out"]) == 0
    out = capsys.readouterr().out
    assert "out/report.html" in out
    assert "one file that needs no network" in out
    html = Path("out/report.html").read_text(encoding="utf-8")
    page = check_page(html, n_images=2)
    assert "1 cluster of 27 voxels: 1 positive, 0 negative." in page.text
    assert "gpuroi clusters map.nii.gz --threshold 4 --out out" not in page.text  # no command: it was called in Python
    assert Path("out/figures/map.png").is_file()


def test_the_command_of_the_run_is_in_the_report() -> None:
    done = in_a_process("clusters", "map.nii.gz", "--threshold", 4, "--out", "again")
    assert done.returncode == 0, done.stderr
    assert main(["report", "again"]) == 0
    assert "gpuroi clusters map.nii.gz --threshold 4 --out again" in Path("again/report.html").read_text()


def test_no_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "out", "--no-figures"]) == 0
    check_page(Path("out/report.html").read_text(encoding="utf-8"), n_images=0)
    assert main(["clusters", "map.nii.gz", "--threshold", "4", "--out", "plain", "--no-figures"]) == 0
    assert not Path("plain/figures").exists()


def test_without_matplotlib_the_page_comes_without_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name == "matplotlib" else find(name, package)
    )
    assert main(["report", "out"]) == 0
    check_page(Path("out/report.html").read_text(encoding="utf-8"), n_images=0)


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (lambda: Path("out/provenance.json").unlink(), 65, "there is no provenance.json"),
        (lambda: Path("out/clusters.tsv").unlink(), 65, "clusters.tsv: there is no such file"),
        (lambda: Path("out/provenance.json").write_text("[1]"), 65, "holds a list, expected an object"),
        (lambda: Path("out/provenance.json").write_text(json.dumps({"workflow": "pack"})), 65, "results of 'pack'"),
        (lambda: Path("out/clusters_dseg.nii.gz").write_bytes(b"no image"), 65, "clusters_dseg.nii.gz"),
    ],
)
def test_what_is_no_folder_of_ours_is_65_and_leaves_everything(
    spoil: object, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil()
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert main(["report", "out"]) == code
    assert says in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before
