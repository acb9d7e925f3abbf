"""The report of a screening: what it says is what the files say, and nothing that a cohort may be breaks it."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nibabel as nib
import nilearn.datasets
import nilearn.image
import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.image import imread
from report_pages import pixels_of
from screen_folders import AFFINE, made_up_screen

from gpuroi.images import open_image
from gpuroi.report.anatomy import anatomy_below
from gpuroi.report.cluster_plots import adjusted, predictor_of
from gpuroi.report.map_figures import Scale, colour_bar, save_count_picture, save_glass_picture
from gpuroi.report.saved_screen import SavedScreen, upper_limit
from gpuroi.report.screen_figures import save_qq_picture, screen_pictures
from gpuroi.report.viewer import Layer, slice_viewer

F_TOO = ("patient=group[T.patient]", "age", "either=group[T.patient]; age")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("screen") / "run"
    return made_up_screen(home, contrasts=F_TOO, cluster_p=0.01, tfce=True, n_permutations=200)


@pytest.fixture(scope="module")
def screen(folder: Path) -> SavedScreen:
    return SavedScreen.read(folder)


# --------------------------------------------------------------------------- what was saved


def test_a_folder_is_read_as_nibabel_and_pandas_read_it(folder: Path, screen: SavedScreen) -> None:
    assert [contrast.name for contrast in screen.contrasts] == ["patient", "age", "either"]
    patient, _, either = screen.contrasts
    expected = nib.load(folder / "contrast-patient_stat-t_statmap.nii.gz").get_fdata()
    np.testing.assert_array_equal(patient.statistic, expected)
    assert (patient.kind, either.kind, patient.signed, either.signed) == ("t", "F", True, False)
    assert patient.two_sided
    assert not either.two_sided
    assert screen.people["participant_id"].tolist() == [f"sub-{k:02d}" for k in range(1, 25)]
    assert screen.excluded["participant_id"].tolist() == ["sub-25"]
    assert set(patient.corrected) == {"voxelFWE", "sizeFWE", "massFWE", "tfceFWE", "FDR"}
    p = nib.load(folder / "contrast-patient_stat-p_statmap.nii.gz").get_fdata()[screen.mask]
    np.testing.assert_array_equal(patient.p, p)
    assert len(patient.p) == screen.mask.sum()


def test_significant_clusters_are_those_of_the_table(screen: SavedScreen) -> None:
    for contrast in screen.contrasts:
        rows = contrast.clusters
        best = rows[["p_size_FWE", "p_mass_FWE"]].min(axis=1)
        assert contrast.significant == rows.loc[best <= 0.05, "Cluster ID"].tolist()
        assert contrast.significant  # or the test would show nothing
        assert contrast.p_means == "familywise p of size or mass"


@given(st.lists(st.integers(0, 30), min_size=1, max_size=120))
def test_the_five_per_cent_line_parts_significant_maxima_from_the_others(null: list[int]) -> None:
    values = np.array(null, float)
    limit = upper_limit(values)
    p = np.array([(values >= one).mean() for one in values])
    np.testing.assert_array_equal(values > limit, p <= 0.05)


def test_what_is_shown_lies_above_the_threshold_on_both_sides(screen: SavedScreen) -> None:
    patient, _, either = screen.contrasts
    threshold = patient.sidecar["ClusterThreshold"]
    np.testing.assert_array_equal(patient.cut.inside, np.abs(patient.statistic) > threshold)
    assert (patient.statistic[patient.cut.inside] < 0).any()
    assert f"|t| > {threshold:.4g}" in patient.cut.text
    np.testing.assert_array_equal(either.cut.inside, either.statistic > either.sidecar["ClusterThreshold"])


@pytest.mark.parametrize(
    ("options", "name"),
    [({"tfce": True}, "tfceFWE"), ({}, "voxelFWE"), ({"n_permutations": 0}, "FDR")],
)
def test_without_a_threshold_the_corrected_p_decides(tmp_path: Path, options: dict[str, Any], name: str) -> None:
    (patient,) = SavedScreen.read(
        made_up_screen(tmp_path / "run", contrasts=("patient=group[T.patient]",), **{"n_permutations": 200, **options})
    ).contrasts
    passed = patient.corrected[name] >= -np.log10(0.05) - 1e-6
    np.testing.assert_array_equal(patient.cut.inside, passed & patient.mask)
    assert passed.any()
    assert patient.cut.value == pytest.approx(np.abs(patient.statistic[passed]).min())
    if name == "voxelFWE":
        assert patient.critical is not None
        np.testing.assert_array_equal(passed, np.abs(patient.statistic) > patient.critical * (1 + 1e-6))


# --------------------------------------------------------------------------- plots of clusters


def test_adjusted_means_are_partial_residuals_as_statsmodels_has_them() -> None:
    random = np.random.default_rng(0)
    design = np.column_stack([np.ones(30), random.integers(0, 2, 30), random.normal(40, 9, 30)])
    values = design @ [3.0, 2.0, 0.1] + random.normal(0, 1, 30)
    columns = np.array([False, False, True])
    stays, fit = adjusted(values, design, columns)
    model = sm.OLS(values, design).fit()
    partial = model.resid + model.params[2] * design[:, 2]
    np.testing.assert_allclose(stays - stays.mean(), partial - partial.mean(), atol=1e-10)
    np.testing.assert_allclose(stays - fit, model.resid, atol=1e-10)
    assert stays.mean() == pytest.approx(values.mean())
    slope = np.polyfit(design[:, 2], fit, 1)[0]
    assert slope == pytest.approx(model.params[2])


def test_missing_means_do_not_spoil_the_others() -> None:
    design = np.column_stack([np.ones(6), [0, 1, 0, 1, 0, 1]])
    values = np.array([1.0, 3, 1, 3, 1, np.nan])
    stays, fit = adjusted(values, design, np.array([False, True]))
    assert np.isnan(stays).tolist() == [False] * 5 + [True]
    np.testing.assert_allclose(fit, [1, 3, 1, 3, 1, 3])


@pytest.mark.parametrize(
    ("formula", "contrast", "groups", "x", "name"),
    [
        ("map ~ group + age", "group[T.patient]", {"patient", "control"}, None, "group"),
        ("map ~ group + age", "age", None, "age", "age"),
        ("map ~ group * age", "group[T.patient]:age", {"patient", "control"}, "age", "age"),
        ("map ~ 0 + group", "group[patient] - group[control]", {"patient", "control"}, None, "group"),
        ("map ~ 1", "Intercept", {"everybody"}, None, ""),
    ],
)
def test_the_axis_of_a_plot_is_what_the_contrast_tests(
    tmp_path: Path, formula: str, contrast: str, groups: set[str] | None, x: str | None, name: str
) -> None:
    ours = {"errors": "ise"} if contrast == "Intercept" else {}
    screen = SavedScreen.read(
        made_up_screen(tmp_path / "run", formula=formula, contrasts=(f"it={contrast}",), n_permutations=40, **ours)
    )
    found = predictor_of(screen, screen.contrasts[0])
    assert (None if found.groups is None else set(found.groups)) == groups
    assert found.name == name
    if x is None:
        assert found.x is None
    else:
        np.testing.assert_array_equal(found.x, screen.people[x].astype(float))


# --------------------------------------------------------------------------- pictures


def test_every_contrast_has_its_pictures(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "figures").mkdir(parents=True)
    first = screen_pictures(folder, tmp_path / "a" / "figures")
    assert {picture.path for picture in first} == {p for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert all(picture.alt for picture in first)
    names = {picture.path.name for picture in first}
    measures = ("stat", "size", "mass", "tfce")
    for label in ("patient", "age", "either"):
        assert names >= {f"contrast-{label}_{kind}.png" for kind in ("glass", "mosaic", "qq")}
        assert names >= {f"contrast-{label}_null-{measure}.png" for measure in measures}
    svg = (tmp_path / "a" / "design.svg").read_text()
    assert svg.startswith("<?xml")
    assert not re.search(r"<dc:date>|20\d\d-\d\d-\d\d", svg)


def test_what_is_on_the_right_is_drawn_warm_on_the_right(folder: Path, screen: SavedScreen, tmp_path: Path) -> None:
    patient, age, _ = screen.contrasts
    for contrast, side in ((patient, 1), (age, -1)):
        values = np.where(np.isin(contrast.labels, contrast.significant), contrast.statistic, 0)
        path = save_glass_picture(values, screen.mask, screen.affine, tmp_path / "glass.png", threshold=2.0)
        image = imread(path)[..., :3]
        height, width = image.shape[:2]
        view = image[: int(0.75 * height), int(0.38 * width) : int(0.66 * width)]  # from behind: left is left
        warm, cool = view[..., 0] - view[..., 2] > 0.3, view[..., 2] - view[..., 0] > 0.3
        shown = warm if side > 0 else cool
        assert shown.sum() > 200
        assert (warm if side < 0 else cool).sum() == 0
        middle = view.shape[1] / 2
        assert np.sign(np.nonzero(shown)[1].mean() - middle) == side


def test_the_colour_bar_marks_the_cut_and_is_alike_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = mpl.figure.Figure(figsize=(6, 3))
    colour_bar(figure, Scale(3.0, 10.0, note="shown: |t| > 3"))
    (bar,) = figure.axes
    assert [text.get_text() for text in bar.get_xticklabels()] == ["-10", "-3", "3", "10"]
    assert bar.get_xlim() == (-10, 10)
    assert bar.get_xlabel() == "shown: |t| > 3"
    figure = mpl.figure.Figure(figsize=(6, 3))
    colour_bar(figure, Scale(8.0, 60.0, signed=False))
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0", "8", "60"]
    assert figure.axes[0].get_xlim() == (0, 60)


def test_quantiles_of_uniform_p_lie_on_the_line(
    screen: SavedScreen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Any, ...]] = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *given, **how: drawn.append(given) or plot(self, *given, **how))
    contrast = screen.contrasts[0]
    n = 5000
    monkeypatch.setitem(contrast.__dict__, "p", np.random.default_rng(0).permutation((np.arange(n) + 0.5) / n))
    save_qq_picture(contrast, tmp_path / "qq.png")
    expected, observed = drawn[-1][:2]
    np.testing.assert_allclose(observed, expected, atol=1e-12)
    assert expected.max() == pytest.approx(-np.log10(0.5 / n))


def test_coverage_draws_few_and_many_apart(tmp_path: Path) -> None:
    counts = np.full((12, 12, 12), 20)
    counts[:6] = 10
    path = save_count_picture(counts, counts > 0, AFFINE, tmp_path / "a.png")
    low, high = (mpl.colors.to_hex(mpl.colormaps["cividis"](end)) for end in (0.0, 1.0))
    assert len(pixels_of(path, low)) > 500
    assert len(pixels_of(path, high)) > 500
    assert save_count_picture(counts * 0, counts < 0, AFFINE, tmp_path / "b.png").stat().st_size > 1000


# --------------------------------------------------------------------------- the viewer


def viewer_data(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def unpacked(layer: dict[str, Any], shape: list[int]) -> np.ndarray:
    raw = np.frombuffer(gzip.decompress(base64.b64decode(layer["values"])), np.uint8)
    high, low = raw[: raw.size // 2].astype(np.int32), raw[raw.size // 2 :]
    return ((high << 8 | low).astype(np.int16) * (layer["largest"] / 32767)).reshape(shape)


def test_the_viewer_holds_every_value_in_its_place() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(9, 11, 7)).astype(np.float32)
    values[0] = 0
    values[3, 3, 3] = np.nan
    flipped = AFFINE @ np.diag([-1.0, 1, 1, 1])  # stored from right to left
    layer = Layer("</script><b>", values, "t", 1.5, True, {"cluster 1": nib.affines.apply_affine(flipped, (2, 5, 4))})
    html = slice_viewer([layer], np.ones(values.shape), flipped)
    assert "<b>" not in html
    data = viewer_data(html)
    shown = unpacked(data["layers"][0], data["shape"])
    (x, y, z) = data["layers"][0]["peaks"][0]["voxel"]
    assert shown[x, y, z] == pytest.approx(values[2, 5, 4], abs=data["layers"][0]["largest"] / 65000)
    ends = np.array(data["affine"]) @ [[0, data["shape"][0] - 1], [0, 0], [0, 0], [1, 1]]
    assert ends[0, 0] < ends[0, 1]  # x grows to the right
    step = data["layers"][0]["largest"] / 32767
    np.testing.assert_allclose(shown, np.nan_to_num(values)[::-1], atol=0.51 * step)
    assert (shown != 0).sum() == np.count_nonzero(np.nan_to_num(values))


def test_a_large_viewer_is_thinned_and_says_so() -> None:
    values = np.random.default_rng(0).normal(size=(40, 40, 40))
    whole = slice_viewer([Layer("t", values, "t", 2.0)], np.ones(values.shape), AFFINE)
    thin = slice_viewer([Layer("t", values, "t", 2.0)], np.ones(values.shape), AFFINE, most_bytes=40_000)
    assert "every second voxel" not in whole
    assert "every second voxel is shown here" in thin
    data = viewer_data(thin)
    assert data["shape"] == [20, 20, 20]
    np.testing.assert_allclose(np.array(data["affine"])[:3, :3], 2 * AFFINE[:3, :3])
    np.testing.assert_allclose(unpacked(data["layers"][0], [20] * 3), values[::2, ::2, ::2], atol=1e-3)


# --------------------------------------------------------------------------- anatomy


def mask_image(sform: int, qform: int = 0) -> nib.Nifti1Image:
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -90, -126, -72
    image = nib.Nifti1Image(np.ones((46, 55, 46), np.uint8), affine)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    return image


@pytest.mark.parametrize(("sform", "qform", "is_mni"), [(4, 0, True), (0, 4, True), (2, 4, False), (1, 1, False)])
def test_the_template_is_drawn_where_the_header_names_its_space(sform: int, qform: int, is_mni: bool) -> None:
    image = mask_image(sform, qform)
    mask = np.asarray(image.dataobj) > 0
    background, text = anatomy_below(open_image(image), mask)
    assert bool(text) == is_mni
    if is_mni:
        expected = nilearn.image.resample_to_img(
            nilearn.datasets.load_mni152_template(resolution=1), image, "linear", force_resample=True, copy_header=True
        )
        inside = background > 0
        assert np.corrcoef(background[inside], expected.get_fdata()[inside])[0, 1] > 0.999
    else:
        assert background is mask


def test_without_nilearn_or_away_from_the_brain_the_mask_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    image = mask_image(4)
    mask = np.zeros(image.shape, bool)
    mask[0, 0, 0] = True  # where the template has no brain
    background, text = anatomy_below(open_image(image), mask)
    assert (background is mask, text) == (True, "")
    monkeypatch.setattr("gpuroi.report.anatomy.find_spec", lambda _: None)
    whole = np.ones(image.shape, bool)
    background, text = anatomy_below(open_image(image), whole)
    assert (background is whole, text) == (True, "")
