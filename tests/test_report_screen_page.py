"""The page on a screening: it says what the files say, and nothing that a cohort may be breaks it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import statsmodels.api as sm
from report_pages import check_page, table_of
from screen_folders import made_up_screen

from gpuroi.errors import DataError, OutputError
from gpuroi.report.saved_screen import SavedScreen
from gpuroi.report.screen_page import screen_page

F_TOO = ("patient=group[T.patient]", "age", "either=group[T.patient]; age")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("screen") / "run"
    return made_up_screen(home, contrasts=F_TOO, cluster_p=0.01, tfce=True, n_permutations=200)


@pytest.fixture(scope="module")
def screen(folder: Path) -> SavedScreen:
    return SavedScreen.read(folder)


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return screen_page(folder)


def test_a_folder_that_is_not_whole_is_named(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "out")
    (broken / "contrast-age_clusters.tsv").unlink()
    with pytest.raises(DataError, match=r"contrast-age_clusters\.tsv: there is no such file"):
        screen_page(broken, [])
    (broken / "design.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"design\.json: is no JSON"):
        screen_page(broken, [])


def test_the_page_says_who_and_what_and_how(folder: Path, html: str, screen: SavedScreen) -> None:
    page = check_page(html, n_images=html.count("<img "))
    text = " ".join(page.text.split())
    assert "24 people were analysed, 1 of 25 were not" in text
    assert "missing covariate: 1" in text
    sizes = screen.people["group"].value_counts()
    assert f"control: {sizes['control']}, patient: {sizes['patient']}" in text
    age = screen.people["age"]
    assert f"from {age.min():g} to {age.max():g}" in text
    assert "map ~ group + age" in text
    assert "200 permutations; the smallest possible is 0.005" in text
    assert "3 of 3 columns" in text
    for contrast in screen.contrasts:
        threshold = contrast.sidecar["ClusterThreshold"]
        assert f"{threshold:.4g}, the cluster-forming threshold" in html
        assert f"{len(contrast.clusters)} clusters" in text
    assert "they show the shape of the effect" in text.lower()  # the caveat on circularity
    assert "10.1016/j.neuroimage.2014.01.060" in html
    assert "Left <Area & one>" in page.text
    n_plots = sum(min(12, len(contrast.significant)) for contrast in screen.contrasts)
    assert html.count("<img ") == 2 + n_plots + 3 * (2 + 4 + 1)
    assert len(html) < 4e6


def test_cluster_tables_of_the_page_hold_the_numbers_of_the_files(html: str, screen: SavedScreen) -> None:
    for contrast in screen.contrasts:
        shown = table_of(html, f"clusters of {contrast.name}")
        assert len(shown) == len(contrast.clusters)
        for name in ("X", "Y", "Z", "Voxels"):
            np.testing.assert_allclose(shown[name].astype(float), contrast.clusters[name].round(1))
        np.testing.assert_allclose(shown["p size FWE"].astype(float), contrast.clusters["p_size_FWE"], rtol=0.06)


def test_regions_of_the_atlas_are_tested_as_statsmodels_tests_them(html: str, screen: SavedScreen) -> None:
    shown = table_of(html, "means over the regions of the atlas")
    fitted = sm.OLS(screen.roi_means["Right Two"], screen.matrix).fit()
    row = shown[shown["region"] == "Right Two"].iloc[0]
    assert float(row["t of patient"]) == pytest.approx(fitted.tvalues.iloc[1], abs=0.006)
    assert float(row["p of age"]) == pytest.approx(fitted.pvalues.iloc[2], rel=0.05)
    assert shown[shown["region"] == "Empty Area"].iloc[0]["t of patient"] == "n/a"


def test_a_page_without_pictures_needs_no_matplotlib(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = check_page(screen_page(folder, []), n_images=0)
    assert "No pictures" in page.text
    assert len(page.all("details")) == 1  # the viewer is there all the same
    with pytest.raises(OutputError, match="matplotlib"):
        screen_page(folder)


TILTED = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, 0.2, 0.1) * 4, (-36, -44, -30))
ONE_VOXEL = np.zeros((18, 22, 16), bool)
ONE_VOXEL[13, 12, 8] = True


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"effect": 0.0, "cluster_threshold": 30.0}, "no cluster"),
        ({"effect": 0.0, "seed": 3}, "no cluster"),
        ({"n_permutations": 0}, "There were no permutations"),
        ({"n_permutations": 0, "cluster_p": 0.01}, "parametric"),
        ({"two_sided": False, "cluster_p": 0.01}, "one-sided: positive values only"),
        ({"cluster_p": 0.01, "cluster_scale": "z"}, "|z| >"),
        ({"affine": TILTED, "cluster_p": 0.01}, "The image is tilted by"),
        ({"mask": ONE_VOXEL}, "In which of 1 voxel do"),
        ({"shape": (18, 22, 1), "cluster_p": 0.01}, "24 people were analysed"),
        ({"variance_groups": "group", "n_permutations": 40}, "v with"),
        ({"formula": "map ~ group * age", "contrasts": ("slopes=group[T.patient]:age",)}, "slopes"),
    ],
    ids=[
        "no cluster",
        "nothing significant",
        "no permutation",
        "parametric clusters",
        "one-sided",
        "z",
        "oblique",
        "one voxel",
        "one slice",
        "variance groups",
        "interaction",
    ],
)
def test_no_cohort_breaks_the_page(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    given = {"contrasts": ("patient=group[T.patient]",), "n_permutations": 60, **options}
    html = screen_page(made_up_screen(tmp_path / "run", **given))
    page = check_page(html, n_images=html.count("<img "))
    assert says in " ".join(page.text.split())


def test_the_peak_is_named_by_its_own_scale_and_no_map_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = made_up_screen(tmp_path / "run", cluster_p=0.01, cluster_scale="z", n_permutations=20)
    screen = SavedScreen.read(out)
    monkeypatch.setattr(SavedScreen, "read", lambda _folder: screen)
    text = " ".join(check_page(screen_page(out, []), n_images=0).text.split())
    for contrast in screen.contrasts:
        assert not {"statistic", "p", "corrected", "labels", "cut"} & vars(contrast).keys()
        assert contrast.shown == "z"
        peak = np.nanmax(np.abs(nib.load(out / f"contrast-{contrast.label}_stat-t_statmap.nii.gz").get_fdata()))
        assert np.abs(contrast.clusters["Peak Stat"]).max() == pytest.approx(peak, rel=1e-5)
    assert text.count("The largest t is") == 2 * len(screen.contrasts)
    assert "The largest z is" not in text
