"""Faces against houses in the runs of Haxby and others (2001): known answers, and nilearn and SciPy voxel for voxel."""

from __future__ import annotations

import csv

import nibabel
import numpy as np
import pytest
from roi_reference import reference_roi

from gpuroi.workflows.roi import roi


@pytest.fixture
def on(backend, monkeypatch):
    """The name of each backend's device in turn; the stand-in has no driver for a probe to find."""
    monkeypatch.setattr("gpuroi.workflows.roi.get_backend", lambda _device: backend)
    return backend.device


@pytest.fixture
def native(open_data):
    """One slice in native resolution, twelve runs joined; its labels."""
    folder = open_data / "haxby2001_pymvpa"
    names = [line.split()[0] for line in (folder / "attributes_literal.txt").read_text().splitlines()]
    return folder / "bold.nii.gz", folder / "attributes_literal.txt", names


@pytest.fixture
def twelve(open_data):
    """Twelve runs of the whole brain at 25 mm, with their events; the condition of every volume."""
    subject = open_data / "haxby2001_pymvpa" / "haxby2001" / "sub001"
    folders = [subject / "BOLD" / f"task001_run{run:03d}" for run in range(1, 13)]
    names = []
    for folder in folders:
        with (folder / "bold_events.tsv").open(newline="") as file:
            rows = [
                (float(r["onset"]), float(r["duration"]), r["trial_type"]) for r in csv.DictReader(file, delimiter="\t")
            ]
        for time_s in np.arange(121) * 2.5:
            names.append(next((name for start, lasts, name in rows if start <= time_s < start + lasts), "rest"))
    return [f / "bold_25mm.nii.gz" for f in folders], [f / "bold_events.tsv" for f in folders], names


@pytest.mark.parametrize(("fwhm", "voxels", "regions"), [(None, 41, 21), (6.0, 91, 7)], ids=["as-it-is", "6mm"])
def test_known_answers_of_the_native_slice(on, native, fwhm, voxels, regions):
    bold, labels, names = native
    result = roi(bold, labels, "face-house", fwhm=fwhm, dilate=0, device=on)
    assert int((result.labels > 0).sum()) == voxels
    assert len(result.table) == regions
    assert result.counts["volumes_per_condition"]["face"] == names.count("face") == 108
    if fwhm is None:
        assert np.nanmax(result.maps["log10p"]) == pytest.approx(50.66397388429672, rel=1e-6)


def test_known_answers_of_the_twelve_runs(on, twelve):
    runs, events, _ = twelve
    result = roi(runs, events, "face-house", dilate=0, device=on)
    assert int((result.labels > 0).sum()) == 5
    assert len(result.table) == 5
    assert result.maps["log10p"].max() == pytest.approx(7.704944219182201, rel=1e-6)
    assert result.counts["runs"] == 12


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fwhm": None, "dilate": 0},
        {"fwhm": 9.0, "dilate": 2, "connectivity": 26, "min_region_size": 500.0},
        {"threshold": 3.0, "equal_var": False, "connectivity": 18},
    ],
    ids=str,
)
def test_the_native_slice_against_nilearn_and_scipy(on, native, open_data, settings):
    bold, labels, names = native
    mask = open_data / "haxby2001_pymvpa" / "mask.nii.gz"
    inside = np.asarray(nibabel.load(mask).dataobj) != 0
    result = roi(bold, labels, "face-house", mask=mask, device=on, **settings)
    atlas, t, log10p, signals = reference_roi([nibabel.load(bold)], names, "face", "house", mask=inside, **settings)
    assert atlas.max() > 0
    np.testing.assert_array_equal(result.labels, atlas)
    # Smoothed in float32 here and in float64 by SciPy.
    np.testing.assert_allclose(result.maps["t"], t, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(result.maps["log10p"], log10p, rtol=5e-4, atol=5e-4)
    np.testing.assert_allclose(result.signals.iloc[:, 3:].to_numpy(), signals, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("vt", {"threshold": 0.5}), ("brain", {"threshold": 3.0, "fwhm": 40.0}), (None, {"dilate": 2})],
    ids=str,
)
def test_the_twelve_runs_against_nilearn_and_scipy(on, twelve, open_data, name, settings):
    runs, events, names = twelve
    masks = open_data / "haxby2001_pymvpa" / "haxby2001" / "sub001" / "masks" / "25mm"
    mask = None if name is None else masks / f"{name}.nii.gz"
    inside = None if mask is None else np.asarray(nibabel.load(mask).dataobj) != 0
    result = roi(runs, events, "face-house", mask=mask, device=on, **settings)
    images = [nibabel.load(run) for run in runs]
    atlas, _, log10p, signals = reference_roi(images, names, "face", "house", mask=inside, **settings)
    assert atlas.max() > 0
    np.testing.assert_array_equal(result.labels, atlas)
    np.testing.assert_allclose(result.maps["log10p"], log10p, rtol=5e-4, atol=5e-4)
    np.testing.assert_allclose(result.signals.iloc[:, 3:].to_numpy(), signals, rtol=1e-5)
    assert result.signals["condition"].tolist() == names


def test_the_answer_holds_in_little_memory(native):
    bold, labels, _ = native
    whole = roi(bold, labels, "face-house", device="cpu")
    little = roi(bold, labels, "face-house", device="cpu", memory_limit="3MB")  # the volumes alone take 4.6 MB
    np.testing.assert_array_equal(little.labels, whole.labels)
    np.testing.assert_array_equal(little.maps["log10p"], whole.maps["log10p"])
    np.testing.assert_array_equal(little.signals.iloc[:, 3:], whole.signals.iloc[:, 3:])
