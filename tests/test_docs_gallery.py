"""The scripts of the gallery run, find what they say, and draw figures that show something; so do the commands."""

from __future__ import annotations

import doctest
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import gpuroi

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "docs" / "gallery"
SCRIPTS = sorted(path.stem for path in GALLERY.glob("*.py"))
FIGURES = {
    "many_phenotypes": 3,
    "parcellate_a_run": 2,
    "regions_of_a_map": 1,
    "roi_from_contrast": 2,
    "screen_a_cohort": 4,
    "threshold_an_image": 2,
    "threshold_parcels": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gallery")


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Run a script as its reader would, without a window; returns its names and its figures."""
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    plt.close("all")
    monkeypatch.setattr(plt, "show", lambda: None)
    monkeypatch.setenv("GPUROI_DEVICE", "cpu")
    monkeypatch.chdir(folder)

    def run_script(name: str) -> tuple[SimpleNamespace, list[np.ndarray]]:
        names = runpy.run_path(str(GALLERY / f"{name}.py"))
        return SimpleNamespace(**names), [drawn(plt.figure(number)) for number in plt.get_fignums()]

    yield run_script
    plt.close("all")


def drawn(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def test_every_script_has_a_test() -> None:
    assert set(SCRIPTS) == set(FIGURES)
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in SCRIPTS if f'run("{name}")' not in text] == []


def check_figures(name: str, figures: list[np.ndarray]) -> None:
    """Each shows many shades, over a good part of its area."""
    assert len(figures) == FIGURES[name]
    for image in figures:
        _, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
        assert len(counts) > 40
        assert counts.max() < 0.97 * counts.sum()


def test_roi_finds_the_planted_regions(run, folder: Path) -> None:
    import nibabel

    shown, figures = run("roi_from_contrast")
    check_figures("roi_from_contrast", figures)
    truth = np.asarray(nibabel.load(folder / "demo" / "truth.nii.gz").dataobj)
    found = shown.result.labels
    assert sorted({int(truth[found == i].max()) for i in shown.result.table["id"]}) == [1, 2, 3, 4]
    assert np.abs(shown.change.loc["rest"].mean()).max() < 1e-9
    medians = shown.change.groupby("condition").median()
    assert (
        np.sign(medians.loc["face"] - medians.loc["house"]) == np.sign(shown.result.table["peak_t"].to_numpy())
    ).all()


def test_the_cohort_shows_what_was_planted(run, folder: Path) -> None:
    """Two clusters, of either sign, where they were planted, in the people who have an age; their t is that of OLS."""
    import nibabel
    import pandas as pd
    import statsmodels.api as sm

    shown, figures = run("screen_a_cohort")
    check_figures("screen_a_cohort", figures)
    truth = np.asarray(nibabel.load(folder / "demo" / "cohort_truth.nii.gz").dataobj)
    table = pd.read_table(folder / "demo" / "participants.tsv").dropna().set_index("participant_id")
    design = sm.add_constant(pd.DataFrame({"patient": table["group"] == "patient", "age": table["age"]}).astype(float))
    assert list(shown.found.index.get_level_values("contrast")) == ["patient", "age"]
    for planted, sign, (name, one) in zip((1, 2), (1, -1), shown.result.contrasts.items(), strict=True):
        row = shown.found.loc[name].iloc[0]
        assert np.sign(row["Peak Stat"]) == sign
        assert row["p_peak_FWE"] == one.permutation.smallest_p == 1 / 2000
        where = truth[one.labels == row["Cluster ID"]]
        assert (where == planted).mean() > 0.4  # smoothing widens it
        means = one.cluster_means.set_index("participant_id")[f"cluster-{row['Cluster ID']}"]
        assert list(means.index) == list(table.index)
        assert np.sign(sm.OLS(means, design).fit().tvalues[name]) == sign
        peak = np.unravel_index(np.nanargmax(sign * shown.result.volume(one.glm.statistic)), truth.shape)
        smoothed = [gpuroi.smooth(volume, 8.0, 3.5)[peak] for volume in maps_of(table, folder / "demo")]
        assert row["Peak Stat"] == pytest.approx(sm.OLS(smoothed, design.to_numpy()).fit().tvalues[planted], rel=1e-4)


def maps_of(table, folder: Path) -> Iterator[np.ndarray]:
    import nibabel

    return (nibabel.load(folder / path).get_fdata(dtype=np.float32) for path in table["map"])


def test_two_of_a_dozen_phenotypes_are_found(run, folder: Path) -> None:
    import nibabel
    import pandas as pd

    shown, figures = run("many_phenotypes")
    check_figures("many_phenotypes", figures)
    table = shown.table.set_index("phenotype")
    assert list(table.index[table["p_FWE_all"] <= 0.05]) == ["q_empathy", "q_planning"]
    assert np.sign(table.loc[["q_empathy", "q_planning"], "max_stat"]).tolist() == [1, -1]
    truth = nibabel.load(folder / "demo" / "cohort_truth.nii.gz")
    to_voxel = np.linalg.inv(truth.affine)
    for planted, name in enumerate(["q_empathy", "q_planning"], start=1):
        x, y, z = np.rint((to_voxel @ [*table.loc[name, ["X", "Y", "Z"]], 1])[:3]).astype(int)
        assert planted in np.asarray(truth.dataobj)[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2]
    scores = pd.read_table(folder / "demo" / "questionnaires.tsv")
    counted = scores.dropna(subset="age").filter(like="q_").notna().sum()
    assert table["n"].to_dict() == counted.to_dict()
    assert counted.min() < 39  # some have gaps


def test_regions_of_a_map_are_those_of_scipy(run) -> None:
    import nibabel
    from scipy import ndimage

    shown, figures = run("regions_of_a_map")
    check_figures("regions_of_a_map", figures)
    t = np.abs(nibabel.load(shown.motor_map).get_fdata(dtype=np.float32))
    assert shown.by_percentile.settings["cutoff"] == pytest.approx(np.percentile(t, 97))
    for result, cutoff in ((shown.by_value, 3.0), (shown.by_percentile, np.percentile(t, 97))):
        labels, _ = ndimage.label(t >= np.float32(cutoff))  # the signs do not touch in this map
        large = np.bincount(labels.ravel()) * 27 >= 1500
        assert np.array_equal(result.labels != 0, (large & (np.arange(len(large)) > 0))[labels])
        assert (result.table["mm3"] >= 1500).all()


def test_thresholds_keep_what_they_say(run) -> None:
    import nibabel

    shown, figures = run("threshold_an_image")
    check_figures("threshold_an_image", figures)
    t = nibabel.load(shown.motor_map).get_fdata()
    wanted = (np.abs(t) >= 2, t >= 2, t <= -2)
    for result, keep in zip(shown.ways.values(), wanted, strict=True):
        assert np.array_equal(result.image.get_fdata(), np.where(keep, t, 0))


def test_parcels_are_thresholded_with_their_neighbours(run) -> None:
    import networkx

    shown, figures = run("threshold_parcels")
    check_figures("threshold_parcels", figures)
    labels, values = shown.atlas.get_fdata().astype(int), shown.parcel_map.get_fdata()
    t = shown.motor_map.get_fdata()
    mean = {i: t[labels == i].mean() for i in range(1, 401)}
    assert all(values[labels == i] == pytest.approx(m) for i, m in mean.items())
    graph = networkx.Graph()
    graph.add_nodes_from(i for i, m in mean.items() if abs(m) > 2)
    for axis in range(3):
        a, b = labels.swapaxes(0, axis)[:-1], labels.swapaxes(0, axis)[1:]
        pairs = np.unique(np.stack([a[a != b], b[a != b]], axis=1), axis=0)
        graph.add_edges_from((i, j) for i, j in pairs if i in graph and j in graph and mean[i] * mean[j] > 0)
    kept = sorted(i for part in networkx.connected_components(graph) if len(part) >= 2 for i in part)
    assert shown.parcelwise.kept == kept
    alone = np.isin(labels, sorted(set(graph) - set(kept)))
    assert alone.any()
    assert np.array_equal(shown.dropped.get_fdata() != 0, alone)


def test_parcels_compress_a_run(run) -> None:
    shown, figures = run("parcellate_a_run")
    check_figures("parcellate_a_run", figures)
    result = shown.result
    assert result.labels.max() == 2000
    inside = result.labels > 0
    sums = np.bincount(result.labels[inside], result.first_volume[inside].astype(float))[1:]
    means = sums / np.bincount(result.labels[inside])[1:]
    compressed = shown.compressed.get_fdata()
    assert compressed[inside] == pytest.approx(means[result.labels[inside] - 1], rel=1e-5)
    first = result.first_volume[inside]
    assert np.corrcoef(first, compressed[inside])[0, 1] > 0.97
    fine, coarse = shown.ward.labels, shown.coarse.labels_img_.get_fdata().astype(int)
    assert coarse.max() == shown.kmeans.labels.max() == 100
    assert len(np.unique(np.stack([fine[inside], coarse[inside]]), axis=1).T) == 2000  # each lies in one


def test_commands_of_the_quickstart_print_what_it_shows(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8").replace("\\\n", "")
    blocks = re.findall(r"^```console\n\$ ([^\n]*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert [command.split()[:2] for command, _ in blocks] == [["gpuroi", name] for name in ("demo", "roi", "screen")]
    environment = {**os.environ, "GPUROI_DEVICE": "cpu", "PYTHONPATH": str(ROOT)}
    for command, shown in blocks:
        words = [sys.executable, "-m", *shlex.split(command)]
        ran = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert doctest.OutputChecker().check_output(shown, ran.stdout, flags), ran.stdout


def test_commands_of_the_gallery_have_options_that_exist() -> None:
    shown = [
        re.sub(r"\\\n#\s+", "", command)
        for script in SCRIPTS
        for command in re.findall(
            r"\$ (gpuroi [^\\\n]*(?:\\\n[^\\\n]*)*)", (GALLERY / f"{script}.py").read_text(encoding="utf-8")
        )
    ]
    assert len(shown) >= 4
    environment = {**os.environ, "COLUMNS": "200"}
    for command in shown:
        _, name, *words = shlex.split(command)
        line = [sys.executable, "-m", "gpuroi", name, "--help"]
        ran = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
        assert [word for word in words if word.startswith("--") and word not in ran.stdout] == [], name


def test_benchmarks_page_has_every_result() -> None:
    tables = runpy.run_path(str(ROOT / "docs" / "benchmark_tables.py"))
    text = tables["speed_tables"]() + tables["error_tables"]()
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert re.findall(r"<!-- benchmarks: (\w+) -->", page) == ["speed", "error"]
    assert not re.search(r"\d", re.sub(r"5 %|99 times of 100", "", page))  # no number is written by hand
    files = {file.name: json.loads(file.read_text()) for file in (ROOT / "benchmarks" / "results").glob("*.json")}
    kinds = {"benchmarks", "gpu-check", "fwe-calibration", "parcel-fwe"}
    assert {name for name, record in files.items() if record["kind"] in kinds} == set(
        re.findall(r"results/([^)`]+)\)", text)
    )
    shares = [
        f"{statistic['share']:.1%}"
        for record in files.values()
        if record["kind"] == "fwe-calibration"
        for design in record["familywise_error"]["designs"].values()
        for statistic in design["statistics"].values()
    ]
    assert len(shares) >= 16
    assert [share for share in shares if f"| {share} |" not in text] == []
