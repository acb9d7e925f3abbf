"""`gpuroi report`: a page made anew from a folder is the page that the run has written, and replaces it whole."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from report_pages import check_page
from screen_folders import AFFINE, made_up_screen

import gpuroi
from gpuroi.errors import DataError, OutputError
from gpuroi.report import page as pages
from gpuroi.workflows.make_report import make_report

SHAPE = (14, 16, 12)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its labels, a map and an atlas."""
    home = tmp_path_factory.mktemp("inputs")
    random = np.random.default_rng(0)
    run = (100 + random.normal(0, 1, (*SHAPE, 24))).astype(np.float32)
    run[3:6, 4:8, 4:7, :12] += 6
    run[9:12, 4:8, 4:7, 12:] += 6
    nib.Nifti1Image(run, AFFINE).to_filename(home / "bold.nii.gz")
    labels = pd.DataFrame({"labels": ["face"] * 12 + ["house"] * 12, "chunks": 0})
    labels.to_csv(home / "labels.tsv", sep="\t", index=False)
    stat = random.normal(0, 1, SHAPE).astype(np.float32)
    stat[3:6, 4:8, 4:7], stat[9:12, 4:8, 4:7] = 6.0, -5.0
    nib.Nifti1Image(stat, AFFINE).to_filename(home / "stat.nii.gz")
    atlas = 1 + np.arange(14)[:, None, None] // 4 + 4 * (np.arange(16)[:, None] // 5) + np.zeros(SHAPE, np.int16)
    nib.Nifti1Image(atlas.astype(np.int16), AFFINE).to_filename(home / "atlas.nii.gz")
    return home


MAKERS: dict[str, Callable[[Path, Path], Path]] = {
    "roi": lambda home, out: gpuroi.roi(
        home / "bold.nii.gz", home / "labels.tsv", "face-house", fwhm=None, device="cpu"
    ).save(out),
    "regions": lambda home, out: gpuroi.regions(home / "stat.nii.gz", threshold=4.0, device="cpu").save(out),
    "clusters": lambda home, out: gpuroi.clusters(
        home / "stat.nii.gz", threshold=4.0, atlas=home / "atlas.nii.gz", device="cpu"
    ).save(out),
    "parcellate": lambda home, out: gpuroi.parcellate(home / "bold.nii.gz", n_parcels=12, device="cpu").save(out),
    "threshold_parcels": lambda home, out: gpuroi.threshold_parcels(
        home / "stat.nii.gz", home / "atlas.nii.gz", threshold=0.5, cluster_threshold=1, summary="mean", device="cpu"
    ).save(out),
    "screen": lambda home, out: _moved(made_up_screen(out.parent / "cohort", cluster_p=0.01, n_permutations=40), out),
}


def _moved(folder: Path, out: Path) -> Path:
    shutil.copytree(folder, out)
    make_report(out)  # the fixture comes without figures
    return out


def figures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "figures").iterdir())}


def pictures_of(html: str) -> list[str]:
    return re.findall(r'src="(data:image/[^"]+)"', html)


def others(folder: Path) -> dict[str, bytes]:
    """Everything but the page and its pictures."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "figures" and path.name not in ("report.html", "design.svg")
    }


@pytest.mark.parametrize("workflow", MAKERS)
def test_a_report_made_anew_shows_what_the_run_has_shown(inputs: Path, tmp_path: Path, workflow: str) -> None:
    folder = MAKERS[workflow](inputs, tmp_path / "out")
    first, drawn, kept = (folder / "report.html").read_text(), figures(folder), others(folder)
    shutil.rmtree(folder / "figures")
    (folder / "report.html").unlink()
    page = make_report(folder)
    assert page == folder / "report.html"
    again = page.read_text()
    assert figures(folder) == drawn
    assert pictures_of(again) == pictures_of(first)
    assert others(folder) == kept
    parsed = check_page(again, n_images=again.count("<img "))
    start = r"<h2>What was asked and found</h2>(.*?)</section>"
    assert re.search(start, again, re.DOTALL)[1] == re.search(start, first, re.DOTALL)[1]
    tables = r'<table class="sortable">.*?</table>'
    assert re.findall(tables, again, re.DOTALL) == re.findall(tables, first, re.DOTALL)
    assert len(parsed.all("details")) == (workflow in ("roi", "regions", "clusters", "screen"))


@pytest.mark.parametrize("workflow", ["regions", "clusters", "parcellate", "threshold_parcels"])
def test_without_the_inputs_the_page_comes_with_what_the_folder_holds(
    inputs: Path, tmp_path: Path, workflow: str
) -> None:
    home = shutil.copytree(inputs, tmp_path / "inputs")
    folder = MAKERS[workflow](home, tmp_path / "out")
    shutil.rmtree(home)
    html = make_report(folder).read_text()
    check_page(html, n_images=html.count("<img "))
    assert html.count("<img ") == {"regions": 2, "clusters": 1, "parcellate": 1, "threshold_parcels": 0}[workflow]


def test_an_input_that_has_changed_is_not_drawn(inputs: Path, tmp_path: Path) -> None:
    home = shutil.copytree(inputs, tmp_path / "inputs")
    folder = MAKERS["clusters"](home, tmp_path / "out")
    size = (home / "stat.nii.gz").stat().st_size
    raw = bytearray((home / "stat.nii.gz").read_bytes())
    raw[-9] ^= 1
    (home / "stat.nii.gz").write_bytes(raw)
    assert (home / "stat.nii.gz").stat().st_size == size
    assert make_report(folder).read_text().count("<img ") == 1


def test_an_error_on_the_way_leaves_the_old_report(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = MAKERS["regions"](inputs, tmp_path / "out")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def fails(*_: object) -> str:
        raise OutputError("no space left")

    monkeypatch.setattr(pages, "regions_page", fails)
    with pytest.raises(OutputError, match="no space left"):
        make_report(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_without_figures_those_that_are_there_stay(inputs: Path, tmp_path: Path) -> None:
    folder = MAKERS["regions"](inputs, tmp_path / "out")
    drawn = figures(folder)
    html = make_report(folder, figures=False).read_text()
    assert "No pictures" in html
    assert figures(folder) == drawn


def test_folders_that_are_not_ours_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no provenance\.json"):
        make_report(tmp_path)
    with pytest.raises(DataError, match=r"there is no provenance\.json"):
        make_report(tmp_path / "nowhere")
    (tmp_path / "provenance.json").write_text('{"workflow": "extract"}', encoding="utf-8")
    with pytest.raises(DataError, match="holds results of 'extract', for which there is no report"):
        make_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["provenance.json"]
