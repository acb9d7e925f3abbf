"""Figures and pages: what is drawn is where it should be, the same each time, and no name breaks the page."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from report_pages import HOSTILE, Page, check_page, pixels_of

import gpuroi
from gpuroi.errors import DataError, OutputError, UsageError
from gpuroi.report.canvas import HIGHLIGHTS
from gpuroi.report.document import document, paragraph, table
from gpuroi.report.map_figures import save_map_picture
from gpuroi.report.page import regions_page, regions_pictures, roi_page, roi_pictures
from gpuroi.report.roi_figures import region_colour, save_boxplots, save_regions_picture
from gpuroi.report.slices import best_cuts, covering_cuts, even_cuts, orient


def head(shape: tuple[int, ...] = (20, 24, 18)) -> np.ndarray:
    """A bright ellipsoid."""
    place = [(np.arange(n) - (n - 1) / 2) / (0.45 * n if n > 1 else 1) for n in shape]
    return 100.0 * (sum(axis**2 for axis in np.meshgrid(*place, indexing="ij")) < 1)


def signals(n_regions: int, n: int = 20) -> pd.DataFrame:
    random = np.random.default_rng(0)
    columns = {f"region-{i}": random.normal(100 + i, 1, 3 * n) for i in range(1, n_regions + 1)}
    return pd.DataFrame(
        {"run": 1, "volume": range(3 * n), "condition": np.repeat(["rest", "face", "house"], n), **columns}
    )


# --------------------------------------------------------------------------- box plots


def test_boxplots_one_file_a_region_then_pages(tmp_path: Path) -> None:
    few = save_boxplots(signals(2), tmp_path, conditions=["face", "house"])
    assert [path.name for path in few] == ["region-1_boxplot.png", "region-2_boxplot.png"]
    many = save_boxplots(signals(25), tmp_path)
    assert [path.name for path in many] == [f"regions-page-0{k}_boxplot.png" for k in (1, 2, 3)]
    assert save_boxplots(signals(0), tmp_path) == []


def test_boxplots_colour_only_the_contrasted_conditions_and_put_them_first(tmp_path: Path) -> None:
    (path,) = save_boxplots(signals(1, n=200), tmp_path, conditions=["house", "face"])
    plain = path.read_bytes()
    boxes = [tuple(0.55 * c + 0.45 for c in to_rgb(colour)) for colour in HIGHLIGHTS]
    house, face = (np.median(pixels_of(path, mpl.colors.to_hex(box))[:, 1]) for box in boxes)
    assert house < face < imread(path).shape[1] * 0.75  # rest is to the right of both
    (path,) = save_boxplots(signals(1, n=200), tmp_path)
    assert path.read_bytes() != plain
    assert not any(len(pixels_of(path, mpl.colors.to_hex(box))) for box in boxes)


def test_boxplots_leave_out_missing_values_and_volumes_without_a_condition(tmp_path: Path) -> None:
    rows = signals(1)
    (path,) = save_boxplots(rows, tmp_path)
    expected = path.read_bytes()
    missing = pd.concat([rows, rows.head(5).assign(condition=None, **{"region-1": 1e6})], ignore_index=True)
    missing = pd.concat([missing, rows.head(1).assign(**{"region-1": np.nan})], ignore_index=True)
    (path,) = save_boxplots(missing, tmp_path)
    assert path.read_bytes() == expected


def test_boxplots_of_an_unknown_condition_name_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no volume of faces; they have face, house, rest"):
        save_boxplots(signals(1), tmp_path, conditions=["faces", "house"])
    with pytest.raises(DataError, match='no column "condition"'):
        save_boxplots(signals(1).drop(columns="condition"), tmp_path)


# --------------------------------------------------------------------------- cuts


@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_covering_cuts_show_every_region_if_there_is_room(seed: int, axis: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.zeros((9, 8, 7), np.int32)
    for i in range(1, 6):
        labels[tuple(random.integers(0, n) for n in labels.shape)] = 3 * i
    cuts = covering_cuts(labels, axis, labels.shape[axis])
    seen = np.unique(np.take(labels, cuts, axis=axis))
    assert set(np.unique(labels)) - {0} == set(seen) - {0}
    assert cuts == sorted(set(cuts))
    assert len(covering_cuts(labels, axis, 2)) <= 2


def test_cuts_of_nothing() -> None:
    empty = np.zeros((9, 8, 7))
    assert covering_cuts(empty.astype(int), 2, 5) == best_cuts(empty, 2, 5) == []
    assert even_cuts(empty > 0, 0, 1) == [4]
    assert even_cuts(head() > 0, 2, 3) == sorted(even_cuts(head() > 0, 2, 3))


def test_best_cuts_start_with_the_slice_that_holds_most() -> None:
    weight = np.zeros((30, 4, 4))
    weight[20], weight[21], weight[5] = 3, 2, 1
    assert best_cuts(weight, 0, 1) == [20]
    assert best_cuts(weight, 0, 4) == [5, 20]  # 21 is too near to 20


@pytest.mark.parametrize("axcodes", ["RAS", "LPI", "AIR", "SLP"])
def test_orient_turns_volumes_as_nibabel_does(axcodes: str) -> None:
    volume = np.random.default_rng(0).normal(size=(5, 6, 7))
    img = nib.Nifti1Image(volume, np.diag([2.0, 3.0, 4.0, 1.0]))
    turned = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axcodes))
    )
    other = img.as_reoriented(turned)
    grid = orient(other.shape, other.affine)
    np.testing.assert_array_equal(grid.turn(np.asarray(other.dataobj)), volume)
    np.testing.assert_allclose(grid.affine, img.affine)
    np.testing.assert_allclose(grid.zooms_mm, (2, 3, 4))
    assert grid.tilt_degrees == pytest.approx(0, abs=1e-5)


# --------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("single_slice", [False, True])
def test_a_region_on_the_left_is_drawn_on_the_left(tmp_path: Path, flip: bool, single_slice: bool) -> None:
    background = head((21, 25, 1 if single_slice else 19))
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -30, -36, -27
    if flip:  # stored from right to left
        affine[0] *= -1
    atlas = np.zeros(background.shape, np.int32)
    atlas[(slice(13, 17) if flip else slice(4, 8)), 10:14] = 5
    path = save_regions_picture(atlas, background, affine, tmp_path / "regions.png")
    rows, columns = pixels_of(path, region_colour(0)).T
    height, width = imread(path).shape[:2]
    top = rows < 0.75 * height  # the legend below has the colour too
    panel = width if single_slice else width / 3  # three cuts in a row, the first axial
    in_first = top & (columns < panel)
    assert in_first.sum() > 50
    assert (columns[in_first] < panel / 2).all()


def test_every_region_has_its_colour(tmp_path: Path) -> None:
    atlas = np.zeros((20, 24, 18), np.int32)
    for i in range(6):
        atlas[3 + 2 * i : 5 + 2 * i, 8:16, 6:12] = 10 * (i + 1)
    path = save_regions_picture(atlas, head(), np.eye(4), tmp_path / "a.png", title=HOSTILE)
    assert all(len(pixels_of(path, region_colour(i))) > 50 for i in range(6))
    assert not len(pixels_of(path, region_colour(6)))


def numbers_drawn(path: Path, monkeypatch: pytest.MonkeyPatch, labels: np.ndarray) -> np.ndarray:
    """Places (x, y) of the numbers in a picture of one slice, in pixels of the slice."""
    places = []
    annotate = Axes.annotate

    def noted(axes: Axes, text: str, at: tuple[float, float], **settings: Any) -> Any:
        places.append(at)
        return annotate(axes, text, at, **settings)

    monkeypatch.setattr(Axes, "annotate", noted)
    save_regions_picture(labels, np.ones(labels.shape), np.eye(4), path)
    return np.array(places)


def test_the_number_of_a_region_stands_in_it_or_upon_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((30, 20, 1), np.int32)
    labels[2:16, 2:5], labels[2:5, 2:12], labels[11:16, 2:12] = 1, 1, 1  # a U, whose centre of mass lies outside
    labels[22, 4:7] = 2  # too small to write in
    (x, y), small = numbers_drawn(tmp_path / "a.png", monkeypatch, labels)
    assert (labels[int(x) - 1 : int(x) + 2, int(y) - 1 : int(y) + 2] == 1).all()
    assert small.tolist() == [22, 6.5]


@pytest.mark.parametrize("n_regions", [0, 1, 40])
def test_pictures_are_drawn_for_any_number_of_regions_and_tilt(tmp_path: Path, n_regions: int) -> None:
    atlas = np.zeros((20, 24, 18), np.int32)
    random = np.random.default_rng(0)
    where = random.permutation(np.flatnonzero(head().ravel()))[:n_regions]
    atlas.ravel()[where] = np.arange(1, n_regions + 1)
    straight = save_regions_picture(atlas, head(), np.eye(4), tmp_path / "straight.png")
    cosine, sine = np.cos(0.3), np.sin(0.3)
    tilted = np.eye(4)
    tilted[1:3, 1:3] = [[cosine, -sine], [sine, cosine]]
    oblique = save_regions_picture(atlas, head(), tilted, tmp_path / "oblique.png")
    assert straight.read_bytes() != oblique.read_bytes()  # the titles say so
    assert min(imread(straight).shape[:2]) > 200


@pytest.mark.parametrize("background", [np.zeros((6, 7, 8)), np.full((6, 7, 8), np.nan), -head((6, 7, 8))])
def test_pictures_survive_a_background_without_a_head(tmp_path: Path, background: np.ndarray) -> None:
    atlas = np.zeros((6, 7, 8), np.int32)
    atlas[2:4, 2:4, 2:4] = 1
    path = save_regions_picture(atlas, background, np.eye(4), tmp_path / "a.png")
    assert len(pixels_of(path, region_colour(0))) > 50


def test_map_picture_shows_both_signs_where_the_threshold_is_reached(tmp_path: Path) -> None:
    stat = np.zeros((20, 24, 18))
    stat[4:8, 8:16, 8:12], stat[12:16, 8:16, 8:12] = -6.0, 6.0
    stat[9, 9, 9] = np.nan
    path = save_map_picture(stat, np.eye(4), tmp_path / "a.png", background=head(), threshold=4.0, title="t")
    hot, cold = pixels_of(path, "#FFF3A0"), pixels_of(path, "#D8F3FF")
    assert len(hot) > 300
    assert len(cold) > 300
    above = save_map_picture(stat, np.eye(4), tmp_path / "b.png", background=head(), threshold=7.0)
    height = imread(above).shape[0]
    brain = [pixels_of(above, colour)[:, 0] < 0.8 * height for colour in ("#FFF3A0", "#D8F3FF")]  # above the colour bar
    assert not any(rows.any() for rows in brain)
    assert save_map_picture(stat * 0, np.eye(4), tmp_path / "c.png", threshold=0.0).stat().st_size > 1000


def test_pictures_refuse_what_they_cannot_draw(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"atlas has shape \(2, 2, 2\) and background \(2, 2, 3\)"):
        save_regions_picture(np.ones((2, 2, 2), int), np.ones((2, 2, 3)), np.eye(4), tmp_path / "a.png")
    with pytest.raises(UsageError, match="stat has shape"):
        save_map_picture(np.ones((2, 2, 2, 2)), np.eye(4), tmp_path / "a.png")
    with pytest.raises(UsageError, match="threshold is -1"):
        save_map_picture(np.ones((2, 2, 2)), np.eye(4), tmp_path / "a.png", threshold=-1.0)
    assert not list(tmp_path.iterdir())


def test_pictures_do_not_depend_on_the_settings_of_the_user_and_leave_them_alone(tmp_path: Path) -> None:
    atlas = (head() > 0).astype(np.int32)
    first = save_regions_picture(atlas, head(), np.eye(4), tmp_path / "a.png", title="a").read_bytes()
    with mpl.rc_context({"font.size": 30.0, "image.origin": "upper", "savefig.dpi": 30}):
        again = save_regions_picture(atlas, head(), np.eye(4), tmp_path / "a.png", title="a").read_bytes()
        assert mpl.rcParams["font.size"] == 30.0
    assert again == first


def test_pyplot_is_never_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from gpuroi.report.map_figures import save_map_picture\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"save_map_picture(np.ones((4, 4, 4)), np.eye(4), Path({str(tmp_path)!r}) / 'a.png')\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OutputError, match="matplotlib, which is not installed") as caught:
        save_boxplots(signals(1), tmp_path)
    assert caught.value.hint == "pip install 'gpuroi[report]'"


# --------------------------------------------------------------------------- pages


@pytest.fixture(scope="module")
def found() -> gpuroi.workflows.roi.RoiResult:
    random = np.random.default_rng(0)
    volumes = (head()[..., None] + random.normal(0, 1, (20, 24, 18, 40))).astype(np.float32)
    volumes[5:8, 10:14, 8:11, :20] += 5
    volumes[13:16, 10:14, 8:11, 20:] += 5
    run = nib.Nifti1Image(volumes, np.diag([3.0, 3.0, 3.0, 1.0]))
    labels = [HOSTILE] * 20 + ["house"] * 20
    return gpuroi.roi(run, labels, f"{HOSTILE}-house", fwhm=None, device="cpu")


def test_roi_page_says_what_was_asked_and_found(found: gpuroi.workflows.roi.RoiResult) -> None:
    html = roi_page(found)
    page = check_page(html, n_images=2 + 2)
    assert f"Which voxels tell {HOSTILE} (20 volumes) from house (20 volumes) in 1 run" in page.text
    assert "2 regions" in page.text
    assert f"{HOSTILE} is above house in 1 of them, below in 1" in page.text
    assert "No smoothing." in page.text
    assert "Student's t-test" in page.text
    assert "double dipping" in page.text
    for stage in found.timings:
        assert re.search(rf"{re.escape(stage)}\s*\d+\.\d{{3}} s", page.text), stage
    n_rows = html.count("<tr>", html.index("<h2>Regions</h2>"), html.index("<h2>Signals</h2>"))
    assert n_rows == 1 + len(found.table)


def test_roi_page_takes_pictures_that_are_drawn_already(found: gpuroi.workflows.roi.RoiResult, tmp_path: Path) -> None:
    pictures = roi_pictures(found, tmp_path)
    assert {picture.path for picture in pictures} == set(tmp_path.iterdir())
    assert roi_page(found, pictures) == roi_page(found)


def test_roi_page_without_pictures_needs_no_matplotlib(
    found: gpuroi.workflows.roi.RoiResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = check_page(roi_page(found, []), n_images=0)
    assert "No pictures" in page.text
    assert len(page.all("td")) > 20
    with pytest.raises(OutputError):
        roi_page(found)


def test_roi_page_without_a_region(found: gpuroi.workflows.roi.RoiResult) -> None:
    nothing = gpuroi.roi(
        nib.Nifti1Image(np.random.default_rng(0).normal(9, 1, (6, 6, 6, 12)).astype(np.float32), np.eye(4)),
        ["a"] * 6 + ["b"] * 6,
        "a-b",
        threshold=12.0,
        equal_var=False,
        device="cpu",
    )
    page = check_page(roi_page(nothing), n_images=2)
    assert "there is no region" in page.text
    assert "Welch's t-test" in page.text
    assert "10.1093/biomet/34.1-2.28" in page.text


def test_regions_page(tmp_path: Path) -> None:
    values = np.zeros((16, 16, 16), np.float32)
    values[2:6, 2:6, 2:6], values[10:13, 10:13, 10:13] = 4.0, -5.0
    values[0, 0, 0] = np.nan
    nib.Nifti1Image(values, np.diag([2.0, 2.0, 2.0, 1.0])).to_filename(tmp_path / "<t & z>.nii.gz")
    result = gpuroi.regions(tmp_path / "<t & z>.nii.gz", threshold=3.0, min_size_mm3=50.0, device="cpu")
    page = check_page(regions_page(result), n_images=2)
    assert "<t & z>.nii.gz pass the threshold, |x| >= 3" in page.text
    assert "2 regions, 728 mm³ in all. The largest is region 1, 512 mm³." in page.text
    assert "Drop regions smaller than 50 mm³." in page.text
    (tmp_path / "figures").mkdir()
    assert [picture.path.name for picture in regions_pictures(result, tmp_path / "figures")] == [
        "regions.png",
        "map.png",
    ]


def test_tables_write_missing_values_and_escape_names() -> None:
    rows = pd.DataFrame({HOSTILE: [1.5, np.nan], "n": [1, 2], "name": ["<i>", "b"]})
    page = Page(document("a & b", [("h", paragraph("<p>") + table(rows)), ("empty", "")]))
    assert "n/a" in page.text
    assert HOSTILE in page.text
    assert "empty" not in page.text
    assert len(page.all("td")) == 6
    assert not page.all("i")


def test_names_of_files_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "z_map_2.nii.gz"
    values = np.zeros((8, 8, 8), np.float32)
    values[2:5, 2:5, 2:5] = 4.0
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    page = check_page(regions_page(gpuroi.regions(path, threshold=3.0, device="cpu"), []), n_images=0)
    assert str(path) in page.text
    assert "min size mm3" in page.text


def test_roi_page_says_when_nothing_could_be_tested() -> None:
    volumes = np.random.default_rng(0).normal(9, 1, (6, 6, 6, 12)).astype(np.float32)
    volumes[..., 2] = np.nan
    names = ["a"] * 6 + ["b"] * 6
    nothing = gpuroi.roi(nib.Nifti1Image(volumes, np.eye(4)), names, "a-b", device="cpu")
    assert "No voxel can be tested" in check_page(roi_page(nothing, []), n_images=0).text


def test_a_page_on_a_gpu_cites_cupy(found: gpuroi.workflows.roi.RoiResult) -> None:
    assert "CuPy" in roi_page(dataclasses.replace(found, device="cuda:0"))
    assert "CuPy" not in roi_page(found)
