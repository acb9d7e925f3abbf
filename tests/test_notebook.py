"""Results in notebooks: cards that are whole in themselves, and the map in nilearn and niivue."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser

import nibabel
import numpy as np
import pandas as pd
import pytest
from roi_runs import make_run

import gpuroi
from gpuroi._card import Card
from gpuroi.domains import VoxelGrid
from gpuroi.errors import OutputError, UsageError
from gpuroi.inference import permutation_test

VOID = {"img", "br"}


@pytest.fixture(scope="module")
def run():
    return make_run()


@pytest.fixture(scope="module")
def roi_result(run):
    image, names = run
    return gpuroi.roi(image, names, "face-house", fwhm=3, device="cpu")


@pytest.fixture(scope="module")
def regions_result(roi_result):
    return gpuroi.regions(roi_result.image("t"), threshold=4.0, device="cpu")


@pytest.fixture(scope="module")
def clusters_result(roi_result):
    return gpuroi.clusters(roi_result.image("t"), threshold=4.0, device="cpu")


@pytest.fixture(scope="module")
def parcellate_result(run):
    return gpuroi.parcellate(run[0], n_parcels=12, device="cpu")


@pytest.fixture(scope="module")
def parcels_result(parcellate_result):
    values = dict(zip(range(1, 13), np.linspace(-3, 3, 12), strict=True))
    return gpuroi.threshold_parcels(values, parcellate_result.labels_img, threshold=1.5, device="cpu")


@pytest.fixture(scope="module")
def permutation_result():
    grid = VoxelGrid(np.ones((6, 6, 6), bool))
    data = np.random.default_rng(0).normal(0, 1, (14, grid.n_elements)).astype(np.float32)
    data[:, :9] += 3
    return permutation_test(
        data, np.ones((14, 1)), [1], domain=grid, errors="ise", n_permutations=200, cluster_threshold=3.0, tfce=True
    )


@pytest.fixture(scope="module")
def check_result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    rows = []
    for k in range(8):
        path = folder / f"sub-{k:02d}_map.nii.gz"
        nibabel.save(nibabel.Nifti1Image(rng.normal(size=(4, 4, 4)).astype(np.float32), np.eye(4)), path)
        rows.append((f"sub-{k:02d}", path.name, "n/a" if k == 3 else 20 + k))
    table = folder / "participants.tsv"
    pd.DataFrame(rows, columns=["participant_id", "map", "age"]).to_csv(table, sep="\t", index=False)
    return gpuroi.check(table, formula="map ~ age")


@pytest.fixture
def pyplot():
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    yield plt
    plt.close("all")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    gpuroi.demo(folder)
    return folder


@pytest.fixture(scope="module")
def screen_result(demo):
    contrasts = ["patient=group[T.patient]", "age"]
    options = {"mask": demo / "mask.nii.gz", "n_permutations": 100, "cluster_threshold": 3.5, "device": "cpu"}
    return gpuroi.screen(demo / "participants.tsv", formula="map ~ group + age", contrasts=contrasts, **options)


@pytest.fixture(scope="module")
def phenotypes_result(demo):
    options = {"mask": demo / "mask.nii.gz", "n_permutations": 50, "device": "cpu"}
    return gpuroi.screen(demo / "participants.tsv", formula="map ~ 1", phenotypes=["age"], **options)


RESULTS = [
    "roi_result", "regions_result", "clusters_result", "parcellate_result", "parcels_result", "permutation_result",
    "check_result", "screen_result", "phenotypes_result",
]  # fmt: skip
MAPS = ["roi_result", "regions_result", "clusters_result", "parcels_result", "screen_result"]
WITHOUT_PICTURE = ["permutation_result", "check_result", "phenotypes_result"]


class Tags(HTMLParser):
    """The tags of a page, which must close in the order in which they open; and its text."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(html):
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    return tags


@pytest.mark.parametrize("name", RESULTS)
def test_a_card_is_small_and_whole_in_itself(name, request):
    html = request.getfixturevalue(name)._repr_html_()
    tags = parsed(html)
    assert tags.seen[0] == ("div", {"class": "gpuroi-card"})
    assert len(html) < 150_000
    assert not {"script", "link", "iframe", "style"} & {tag for tag, _ in tags.seen}
    assert not re.findall(r"https?://|@import|url\(", html)
    pictures = [attributes for tag, attributes in tags.seen if tag == "img"]
    assert len(pictures) == (name not in WITHOUT_PICTURE)
    for picture in pictures:
        assert len(picture["alt"]) > 20
        assert base64.b64decode(picture["src"].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("roi_result", ["face against house", "60 (face 20, house 20, rest 20)", "-log10 p >= 5", "peak_t"]),
        ("regions_result", ["|x| >= 4", "peak_stat", "device", "cpu"]),
        ("clusters_result", ["|x| >= 4", "Cluster ID", "Cluster Size (mm3)"]),
        ("parcellate_result", ["12 of", "variance kept", "... and 4 more parcels"]),
        ("parcels_result", ["|value| > 1.5", "of 12 parcels"]),
        ("permutation_result", ["216 tested, 0 left out", "200 (p is 0.005 or more)", "p_mass_fwe"]),
        ("screen_result", ["20 rows, 20 maps found", "patient (t) = group[T.patient]", "Cluster ID", "p_size_FWE"]),
        ("phenotypes_result", ["20 rows, 20 maps found", "phenotype", "p_FWE"]),
        ("check_result", ["8 rows, 8 maps found", "age: 1", "sub-00"]),
    ],
)
def test_a_card_says_what_was_found(name, words, request):
    text = "".join(parsed(request.getfixturevalue(name)._repr_html_()).text)
    assert [word for word in words if word not in text] == []
    assert "<NA>" not in text
    assert "nan" not in text


def test_the_counts_of_a_permutation_test_are_those_of_its_maps(permutation_result):
    text = "".join(parsed(permutation_result._repr_html_()).text)
    assert f"FWE p <= 0.05{(permutation_result.p_fwe <= 0.05).sum()} elements" in text
    assert f"TFCE p <= 0.05{(permutation_result.tfce_p_fwe <= 0.05).sum()} elements" in text
    largest = np.abs(permutation_result.statistic).max()
    assert f"{largest:.4g}; familywise p {permutation_result.p_fwe.min():.3g}" in text


def test_names_are_text_and_no_markup():
    evil = '<img src=x onerror="alert(1)">'
    tags = parsed(Card(evil, [(evil, evil)], pd.DataFrame({evil: [evil]}), evil, None, evil).html())
    assert [tag for tag, _ in tags.seen if tag in ("img", "script")] == []
    assert "".join(tags.text).count(evil) == 5


def test_without_matplotlib_a_card_has_no_picture(roi_result, monkeypatch):
    monkeypatch.setattr("gpuroi._card.importlib.util.find_spec", lambda name: None)
    assert "<img" not in roi_result._repr_html_()


def test_nothing_found_is_a_card_too(roi_result, run, pyplot):
    image, names = run
    nothing = gpuroi.roi(image, names, "face-house", threshold=300, device="cpu")
    assert "0, 0 voxels" in nothing._repr_html_()
    none = gpuroi.regions(roi_result.image("t"), threshold=1e6, device="cpu")
    assert "0, 0 voxels" in none._repr_html_()
    none.plot_glass_brain()  # nilearn's "empty mask" would be a warning, and so an error here


def test_maps_come_as_images(roi_result):
    t, inside = roi_result.image("t"), roi_result.image("in_mask")
    np.testing.assert_array_equal(np.asarray(t.dataobj), roi_result.maps["t"])
    np.testing.assert_array_equal(t.affine, roi_result.atlas.affine)
    assert (t.get_data_dtype(), inside.get_data_dtype()) == (np.float32, np.uint8)
    with pytest.raises(UsageError, match=r"no map is called 'z'\nmaps: t, log10p"):
        roi_result.image("z")


def shown_map(result):
    return result._shown_map(None) if hasattr(result, "contrasts") else result._shown_map()


@pytest.mark.parametrize("name", MAPS)
def test_glass_brain_shows_the_map(name, request, pyplot, tmp_path):
    result = request.getfixturevalue(name)
    display = result.plot_glass_brain(display_mode="ortho", colorbar=False)
    assert set(display.axes) == {"x", "y", "z"}
    shown = shown_map(result)
    drawn = np.ma.compressed(display.axes["z"].ax.images[0].get_array())
    inside = shown.volume[np.abs(shown.volume) > shown.threshold]
    assert {np.sign(value) for value in drawn} <= {np.sign(value) for value in inside} | {0}
    result.plot_glass_brain(output_file=tmp_path / "glass.png")
    assert (tmp_path / "glass.png").stat().st_size > 5_000


@pytest.mark.parametrize("name", [*MAPS, "parcellate_result"])
def test_niivue_gets_the_map(name, request):
    pytest.importorskip("ipyniivue")
    result = request.getfixturevalue(name)
    *below, top = result.view().volumes
    image = nibabel.Nifti1Image.from_bytes(top.data)
    affine = result.affine if name == "screen_result" else result.like.affine
    np.testing.assert_allclose(image.affine, affine, rtol=1e-6, atol=1e-5)
    if name == "parcellate_result":
        np.testing.assert_array_equal(image.get_fdata(), result.labels)
        assert len(below) == 1
    else:
        np.testing.assert_allclose(image.get_fdata(), np.nan_to_num(shown_map(result).volume), rtol=1e-6)
        assert top.cal_max == pytest.approx(np.abs(image.get_fdata()).max())
        assert (len(below), top.colormap_negative) == (name == "roi_result", "winter")


def test_a_screening_shows_the_contrast_that_is_asked_for(screen_result, pyplot):
    patient, age = (screen_result._shown_map(name) for name in ("patient", "age"))
    np.testing.assert_array_equal(screen_result._shown_map(None).volume, patient.volume)
    one = screen_result.contrasts["patient"]
    kept = one.clusters[one.clusters[["p_size_FWE", "p_mass_FWE", "p_peak_FWE"]].min(axis=1) <= 0.05]
    assert 0 < len(kept) < len(one.clusters)
    np.testing.assert_array_equal(patient.volume != 0, np.isin(one.labels, kept["Cluster ID"].astype(int)))
    assert age.title == "t of age: no cluster was found"
    np.testing.assert_array_equal(age.volume, screen_result.volume(screen_result.contrasts["age"].glm.statistic))
    with pytest.raises(UsageError, match="no contrast is called 'sex'\ncontrasts: patient, age"):
        screen_result.plot_glass_brain("sex")


def test_a_missing_value_in_a_table_is_said():
    table = pd.DataFrame({"size": pd.array([3, None], dtype="Int64"), "t": [1.5, np.nan]})
    text = Card("Table", [], table).html()
    assert text.count("n/a") == 2
    assert "NA>" not in text


def test_what_is_missing_is_said(roi_result, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    monkeypatch.setitem(sys.modules, "nilearn.plotting", None)
    with pytest.raises(OutputError, match="ipyniivue, which is not installed\npip install"):
        roi_result.view()
    with pytest.raises(OutputError, match=r"not installed\npip install 'gpuroi\[report\]'"):
        roi_result.plot_glass_brain()


def test_parcels_of_an_array_have_no_place_in_space():
    labels = np.arange(8, dtype=np.int32).reshape(2, 2, 2)
    result = gpuroi.threshold_parcels({i: float(i) for i in range(1, 8)}, labels, threshold=5.5, device="cpu")
    assert "<img" not in result._repr_html_()
    with pytest.raises(UsageError, match="pass affine="):
        result.plot_glass_brain()


def test_cards_cost_no_import():
    code = "import gpuroi._card, gpuroi.workflows.notebook, sys; print(*{'nilearn', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
