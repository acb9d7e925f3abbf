"""`gpuroi parcellate`: the folder, whole or not at all; the numbers in it; bad input."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from cyclopts import App, Parameter
from scipy.ndimage import gaussian_filter

from gpuroi.backends.probe import CudaDevice, CudaStatus
from gpuroi.cli import parcellate as command
from gpuroi.errors import DataError, GridError, OutputError, UsageError
from gpuroi.report.parcellation_figures import parcel_colour, save_compressed_picture, save_parcels_picture
from gpuroi.workflows.parcellate import parcellate

SHAPE = (9, 10, 8)
AFFINE = np.array([[-3.0, 0, 0, 12], [0, 3, 0, -15], [0, 0, 4, -16], [0, 0, 0, 1]])


@pytest.fixture
def bold(tmp_path: Path) -> Path:
    """A run of 24 volumes with a head in it, int16 with a scale."""
    rng = np.random.default_rng(0)
    noise = np.stack([gaussian_filter(rng.standard_normal(SHAPE), 1.2) for _ in range(24)], axis=-1)
    head = gaussian_filter(np.pad(np.ones((5, 6, 4)), 2), 1.0)
    image: Any = nibabel.Nifti1Image((1000 * head[..., None] + 300 * noise).astype(np.float32), AFFINE)
    image.header.set_zooms((3, 3, 4, 2.5))
    nibabel.save(image, tmp_path / "bold.nii.gz")
    return tmp_path / "bold.nii.gz"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    inside = np.zeros(SHAPE, np.uint8)
    inside[1:8, 1:9, 1:7] = 1
    nibabel.save(nibabel.Nifti1Image(inside, AFFINE), tmp_path / "mask.nii.gz")
    return tmp_path / "mask.nii.gz"


def gpuroi(*words: object) -> Any:
    app = App(result_action="return_value", default_parameter=Parameter(negative=()))
    app.command(command.parcellate)
    return app(["parcellate", *map(str, words)], print_error=False, exit_on_error=False)


@pytest.mark.parametrize("method", ["ward", "kmeans", "rena", "hierarchical_kmeans"])
def test_the_folder(bold: Path, mask: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert gpuroi(bold, "--mask", mask, "--method", method, "--n-parcels", 12, "--n-resamples", 2, "--out", out) == 0
    said = capsys.readouterr().out
    assert "12 of" in said
    assert "halves agree" in said
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {
        "dseg.nii.gz", "dseg.json", "dseg.tsv", "signals.tsv", "compressed.nii.gz", "compressed.json", "quality.json",
        "report.html", "provenance.json", "dataset_description.json", "figures/parcels.png", "figures/compressed.png",
    }  # fmt: skip
    given, dseg = nibabel.load(bold), nibabel.load(out / "dseg.nii.gz")
    labels, values = np.asarray(dseg.dataobj), given.get_fdata()
    assert dseg.get_data_dtype() == np.int32
    np.testing.assert_array_equal(dseg.affine, AFFINE)
    np.testing.assert_array_equal(labels > 0, np.asarray(nibabel.load(mask).dataobj) > 0)
    table = pd.read_csv(out / "dseg.tsv", sep="\t")
    assert list(table["index"]) == list(range(1, 13))
    assert list(table["voxels"]) == np.bincount(labels[labels > 0])[1:].tolist()
    np.testing.assert_allclose(table["mm3"], table["voxels"] * 36)
    assert list(table["color"]) == [parcel_colour(i) for i in range(1, 13)]
    signals = pd.read_csv(out / "signals.tsv", sep="\t")
    np.testing.assert_allclose(signals["parcel-3"], values[labels == 3].mean(axis=0), rtol=1e-5, atol=1e-4)
    compressed = nibabel.load(out / "compressed.nii.gz")
    assert compressed.shape == given.shape
    assert compressed.header.get_zooms()[3] == 2.5
    expanded = compressed.get_fdata()
    np.testing.assert_allclose(expanded[labels == 3], np.tile(signals["parcel-3"], ((labels == 3).sum(), 1)), rtol=1e-5)
    assert not expanded[labels == 0].any()
    inside = values[labels > 0]
    rest = ((inside - expanded[labels > 0]) ** 2).sum() / ((inside - inside.mean(axis=0)) ** 2).sum()
    quality = json.loads((out / "quality.json").read_text())
    assert quality["explained_variance"] == pytest.approx(1 - rest, abs=1e-5)
    assert 0 < quality["adjusted_rand"] <= 1
    assert 0 < quality["dice"] <= 1
    record = json.loads((out / "provenance.json").read_text())
    assert record["settings"]["method"] == method
    assert {Path(one["path"]).name for one in record["inputs"]} == {"bold.nii.gz", "mask.nii.gz"}
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "doi.org" in page


def test_two_runs_and_options(bold: Path, tmp_path: Path) -> None:
    other = tmp_path / "second.nii.gz"
    image = nibabel.load(bold)
    nibabel.save(image.slicer[..., 23:13:-1], other)
    out = tmp_path / "out"
    gpuroi(
        bold, other, "--n-parcels", 9, "--method", "kmeans", "--fwhm-mm", 5, "--standardize", "--split-pieces",
        "--n-init", 2, "--seed", 7, "--no-compressed", "--no-figures", "--device", "cpu", "--out", out,
    )  # fmt: skip
    assert not (out / "compressed.nii.gz").exists()
    assert not (out / "figures").exists()
    assert len(pd.read_csv(out / "signals.tsv", sep="\t")) == 34
    table = pd.read_csv(out / "dseg.tsv", sep="\t")
    assert (table["pieces"] == 1).all()
    settings = json.loads((out / "provenance.json").read_text())["settings"]
    assert settings["fwhm_mm"] == 5
    assert settings["standardize"]


def test_flags_are_the_parameters_of_the_workflow() -> None:
    flags = inspect.signature(command.parcellate).parameters
    given = inspect.signature(parcellate).parameters
    extra = {"bold", "out", "compressed", "figures", "overwrite"}
    assert set(flags) - extra == set(given) - {"imgs"}
    assert all(flags[name].default == given[name].default for name in set(flags) - extra)


def test_results_are_not_replaced_unasked(bold: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    gpuroi(bold, "--n-parcels", 5, "--no-figures", "--out", out)
    before = (out / "dseg.nii.gz").read_bytes()
    with pytest.raises(OutputError):
        gpuroi(bold, "--n-parcels", 6, "--no-figures", "--out", out)
    assert (out / "dseg.nii.gz").read_bytes() == before
    gpuroi(bold, "--n-parcels", 6, "--no-figures", "--overwrite", "--out", out)
    assert np.asarray(nibabel.load(out / "dseg.nii.gz").dataobj).max() == 6


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["--n-parcels", 721], UsageError, "721 parcels asked for, but there are 720 elements"),
        (["--n-parcels", 0], UsageError, "n_parcels is 0"),
        (["--n-resamples", -1], UsageError, "n_resamples is -1"),
        (["--mask", "moved.nii.gz"], GridError, "moved.nii.gz"),
        (["--mask", "empty.nii.gz"], DataError, "the mask is empty"),
        (["--mask", "dead.nii.gz"], DataError, "constant over time"),
    ],
)
def test_bad_input_leaves_nothing(
    bold: Path, tmp_path: Path, words: list[object], error: type[Exception], says: str
) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 2
    everywhere = np.ones(SHAPE, np.uint8)
    nibabel.save(nibabel.Nifti1Image(everywhere, moved), tmp_path / "moved.nii.gz")
    nibabel.save(nibabel.Nifti1Image(0 * everywhere, AFFINE), tmp_path / "empty.nii.gz")
    nibabel.save(nibabel.Nifti1Image(everywhere, AFFINE), tmp_path / "dead.nii.gz")
    if "dead.nii.gz" in words:
        values = nibabel.load(bold).get_fdata(dtype=np.float32)
        values[3, 3, 3] = 5
        nibabel.save(nibabel.Nifti1Image(values, AFFINE), bold)
    paths = [tmp_path / word if str(word).endswith(".nii.gz") else word for word in words]
    with pytest.raises(error, match=says):
        gpuroi(bold, *paths, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.kernels
def test_devices_give_the_same_folder(
    bold: Path, tmp_path: Path, standin_cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = CudaStatus(usable=True, devices=(CudaDevice("stand-in", "9.0", 1 << 30, None),))
    monkeypatch.setattr("gpuroi.backends.probe.probe", lambda: found)  # there is no driver to ask
    how = {"method": "kmeans", "n_parcels": 8, "fwhm_mm": 5.0}
    cpu, cuda = (parcellate(bold, device=device, **how) for device in ("cpu", "cuda"))
    assert cuda.device == "cuda:0"
    np.testing.assert_array_equal(cpu.labels, cuda.labels)
    np.testing.assert_array_equal(cpu.signals, cuda.signals)


def test_the_report_without_pictures(bold: Path) -> None:
    from gpuroi.report.parcellation_page import parcellation_page

    result = parcellate(bold, n_parcels=5, device="cpu")
    page = parcellation_page(result, [])
    assert "<img" not in page
    assert "5 parcels" in page
    assert result.labels_img.get_data_dtype() == np.int32


def test_colours_are_stable_and_differ() -> None:
    colours = [parcel_colour(i) for i in range(1, 2001)]
    assert colours == [parcel_colour(i) for i in range(1, 2001)]
    assert len(set(colours)) > 1950
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours], float)
    assert np.linalg.norm(np.diff(rgb, axis=0), axis=1).min() > 60  # labels that follow each other


def test_pictures_refuse_other_shapes(tmp_path: Path) -> None:
    labels = np.ones((3, 4, 5), int)
    with pytest.raises(UsageError, match="both must be the same"):
        save_parcels_picture(labels, np.ones((3, 4)), AFFINE, tmp_path / "a.png")
    with pytest.raises(UsageError, match="both must be the same"):
        save_compressed_picture([("a", np.ones((3, 4, 6)))], labels > 0, AFFINE, tmp_path / "a.png")
