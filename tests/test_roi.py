"""`gpuroi.roi` on generated runs: against nilearn and SciPy, split and whole, and saved."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import textwrap

import nibabel
import numpy as np
import pandas as pd
import pytest
from roi_reference import reference_roi
from roi_runs import OBLIQUE, make_run

from gpuroi.errors import DataError, OutputError
from gpuroi.workflows import output, run_store
from gpuroi.workflows.output import check_output
from gpuroi.workflows.roi import roi
from gpuroi.workflows.run_store import RunStore


@pytest.fixture
def on(backend, monkeypatch):
    """The name of each backend's device in turn; the stand-in has no driver for a probe to find."""
    monkeypatch.setattr("gpuroi.workflows.roi.get_backend", lambda _device: backend)
    return backend.device


def half_mask(shape):
    inside = np.zeros(shape, bool)
    inside[:7] = True
    return inside


def check_against_reference(result, runs, names, **settings):
    atlas, t, log10p, signals = reference_roi(runs, names, "face", "house", **settings)
    np.testing.assert_array_equal(result.labels, atlas)
    assert result.atlas.get_data_dtype() == np.int32
    np.testing.assert_allclose(result.maps["t"], t, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(result.maps["log10p"], log10p, rtol=5e-4, atol=5e-4)
    columns = [f"region-{i}" for i in range(1, atlas.max() + 1)]
    assert list(result.signals.columns) == ["run", "volume", "condition", *columns]
    assert result.signals["condition"].tolist() == list(names)
    if columns:
        np.testing.assert_allclose(result.signals[columns].to_numpy(), signals, rtol=1e-5)
    return atlas


SETTINGS = [
    {},
    {"fwhm": None},
    {"fwhm": (4.0, 8.0, 0.0)},
    {"fwhm": 6, "dilate": 0},
    {"dilate": 3, "connectivity": 26},
    {"fwhm": 0, "dilate": 0, "threshold": 2.0, "connectivity": 18},
    {"fwhm": 0, "dilate": 0, "threshold": 1.0, "connectivity": 26, "min_region_size": 200.0},
    {"equal_var": False, "threshold": 3.0},
    {"threshold": 0.0, "fwhm": 0, "dilate": 0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_atlas_equals_that_of_nilearn_and_scipy(on, settings, masked):
    run, names = make_run()
    inside = half_mask(run.shape[:3]) if masked else None
    mask = nibabel.Nifti1Image(inside.astype(np.uint8), run.affine) if masked else None
    result = roi(run, names, "face-house", mask=mask, device=on, **settings)
    atlas = check_against_reference(result, [run], names, mask=inside, **settings)
    assert atlas.max() > 0
    assert result.device == on


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8])
def test_oblique_grids_and_stored_types(dtype):
    run, names = make_run(3, affine=OBLIQUE)
    if dtype == np.uint8:
        run = nibabel.Nifti1Image((np.asarray(run.dataobj) // 8).clip(0, 255).astype(np.uint8), OBLIQUE)
    else:
        run, names = make_run(3, affine=OBLIQUE, dtype=dtype)
    result = roi(run, names, "face - house", device="cpu")
    assert check_against_reference(result, [run], names).max() > 0


def test_the_region_size_limit_is_in_mm3_and_inclusive():
    run, names = make_run(affine=OBLIQUE)
    whole = roi(run, names, "face-house", dilate=0, device="cpu")
    sizes = np.sort(whole.table["mm3"].to_numpy())
    assert len(np.unique(sizes)) > 1
    voxel_mm3 = abs(np.linalg.det(OBLIQUE[:3, :3]))
    np.testing.assert_allclose(whole.table["mm3"], whole.table["voxels"] * voxel_mm3)
    for limit in sizes:
        kept = roi(run, names, "face-house", dilate=0, min_region_size=limit, device="cpu")
        np.testing.assert_array_equal(np.sort(kept.table["mm3"]), sizes[sizes >= limit])
        assert kept.table["id"].tolist() == list(range(1, len(kept.table) + 1))


def test_the_table_describes_the_atlas():
    run, names = make_run(affine=OBLIQUE)
    result = roi(run, names, "face-house", fwhm=None, dilate=0, device="cpu")
    assert len(result.table) > 1
    for row in result.table.itertuples():
        voxels = np.argwhere(result.labels == row.id)
        t = result.maps["t"][tuple(voxels.T)]
        peak = np.abs(t).argmax()
        assert row.voxels == len(voxels)
        assert row.peak_t == pytest.approx(t[peak])
        np.testing.assert_allclose(
            [row.peak_x, row.peak_y, row.peak_z], nibabel.affines.apply_affine(OBLIQUE, voxels[peak])
        )
        np.testing.assert_allclose(
            [row.center_x, row.center_y, row.center_z], nibabel.affines.apply_affine(OBLIQUE, voxels.mean(axis=0))
        )
    assert set(np.sign(result.table["peak_t"])) == {-1.0, 1.0}


def test_the_other_way_round_only_t_changes_its_sign():
    run, names = make_run()
    one, other = (roi(run, names, contrast, device="cpu") for contrast in ("face-house", "house-face"))
    np.testing.assert_array_equal(one.maps["t"], -other.maps["t"])
    np.testing.assert_array_equal(one.labels, other.labels)


def test_the_dilation_may_leave_the_mask_and_the_thresholded_voxels_may_not():
    run, names = make_run()
    inside = half_mask(run.shape[:3])
    result = roi(run, names, "face-house", mask=nibabel.Nifti1Image(inside.astype("u1"), run.affine), device="cpu")
    assert not (result.maps["in_mask"] & ~inside).any()
    assert (result.maps["dilated"] & ~inside).any()
    assert ((result.maps["thresholded"] > 0) & ~inside).any()  # the map itself is not masked


def test_runs_are_concatenated(tmp_path):
    runs, names = zip(*(make_run(seed) for seed in range(3)), strict=True)
    paths, labels = [], []
    for i, (run, its) in enumerate(zip(runs, names, strict=True)):
        paths.append(tmp_path / f"run-{i}.nii.gz")
        nibabel.save(run, paths[-1])
        labels.append(tmp_path / f"run-{i}.tsv")
        labels[-1].write_text("labels\tchunks\n" + "".join(f"{name}\t{i}\n" for name in its))
    all_names = [name for its in names for name in its]
    separate = roi(paths, labels, "face-house", device="cpu")
    joined = nibabel.Nifti1Image(np.concatenate([r.dataobj for r in runs], axis=-1), runs[0].affine)
    together = roi(joined, all_names, "face-house", device="cpu")
    check_against_reference(separate, list(runs), all_names)
    np.testing.assert_array_equal(separate.labels, together.labels)
    np.testing.assert_array_equal(separate.maps["log10p"], together.maps["log10p"])
    np.testing.assert_array_equal(separate.maps["mean"], together.maps["mean"])
    assert separate.signals["run"].tolist() == [1] * 60 + [2] * 60 + [3] * 60
    assert separate.signals["volume"].tolist() == [*range(60)] * 3
    pd.testing.assert_frame_equal(separate.signals.iloc[:, 2:], together.signals.iloc[:, 2:])


def test_lists_of_volumes_are_runs(tmp_path):
    run, names = make_run(n_blocks=2)
    volumes = [nibabel.Nifti1Image(np.asarray(run.dataobj)[..., i], run.affine) for i in range(run.shape[3])]
    for i, volume in enumerate(volumes):
        nibabel.save(volume, tmp_path / f"vol{i}.nii")
    want = roi(run, names, "face-house", device="cpu")
    for bold in (volumes, str(tmp_path / "vol*.nii")):
        np.testing.assert_array_equal(roi(bold, names, "face-house", device="cpu").labels, want.labels)
    two = roi([volumes, volumes], [names, names], "face-house", device="cpu")
    assert two.counts["runs"] == 2
    assert two.counts["volumes"] == 2 * len(names)


def test_events_are_the_same_as_labels(tmp_path):
    run, names = make_run()
    path = tmp_path / "run_events.tsv"
    rows = [(i * 2.5, 2.5, name) for i, name in enumerate(names) if name != "rest"]
    path.write_text("onset\tduration\ttrial_type\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    want = roi(run, names, "face-house", device="cpu")
    got = roi(run, path, "face-house", device="cpu")
    pd.testing.assert_frame_equal(got.signals, want.signals)
    run.header.set_zooms((*run.header.get_zooms()[:3], 0.0))
    with pytest.raises(DataError, match="no repetition time"):
        roi(run, path, "face-house", device="cpu")
    pd.testing.assert_frame_equal(roi(run, path, "face-house", tr=2.5, device="cpu").signals, want.signals)


def test_missing_and_constant_voxels_are_never_in_a_region(on):
    run, names = make_run(dtype=np.float32)
    values = np.asarray(run.dataobj).copy()
    values[4, 4, 4, names.index("face")] = np.nan  # in the middle of a blob, in one volume
    values[9, 7, 5] = np.inf
    values[3, 9, 3, names.index("rest")] = np.nan  # not among the volumes compared
    missing = np.zeros(values.shape[:3], bool)
    missing[4, 4, 4] = missing[9, 7, 5] = True
    run = nibabel.Nifti1Image(values, run.affine)
    clean = nibabel.Nifti1Image(np.where(np.isinf(values), np.nan, values), run.affine)
    result = roi(run, names, "face-house", dilate=0, device=on)
    atlas, t, _, _ = reference_roi([clean], names, "face", "house", dilate=0)
    np.testing.assert_array_equal(result.labels, atlas)
    np.testing.assert_allclose(result.maps["t"], t, rtol=2e-4, atol=2e-4)
    assert np.isnan(result.maps["t"][missing]).all()
    assert np.isnan(result.maps["log10p"][missing]).all()
    assert (result.maps["log10p_clipped"][missing] == 0).all()
    assert (result.maps["thresholded"][missing] == 0).all()
    assert not result.labels[missing].any()
    assert result.labels[3, 9, 3]
    assert np.isnan(result.signals[f"region-{result.labels[3, 9, 3]}"][names.index("rest")])
    constant = roi(run, names, "face-house", fwhm=0, dilate=0, threshold=0, device=on)
    outside = (values == values[..., :1]).all(axis=-1)
    assert outside.any()
    assert np.isnan(constant.maps["t"][outside]).all()
    assert not constant.labels[outside].any()


def test_the_map_for_viewing_is_clipped_at_ten():
    run, names = make_run(effect=400.0)
    maps = roi(run, names, "face-house", device="cpu").maps
    assert maps["log10p"][~np.isnan(maps["log10p"])].max() > 10
    np.testing.assert_allclose(maps["log10p_clipped"], np.nan_to_num(maps["log10p"], nan=0.0).clip(0, 10), rtol=1e-6)


def test_conditions_with_hyphens():
    run, names = make_run()
    renamed = [{"face": "x-ray", "house": "x-ray-2"}.get(name, name) for name in names]
    result = roi(run, renamed, "x-ray - x-ray-2", device="cpu")
    assert (result.settings["first"], result.settings["second"]) == ("x-ray", "x-ray-2")
    np.testing.assert_array_equal(result.labels, roi(run, names, "face-house", device="cpu").labels)


# --------------------------------------------------------------------------- memory


def same(one, other):
    for name in one.maps:
        np.testing.assert_array_equal(one.maps[name], other.maps[name], err_msg=name)
    np.testing.assert_array_equal(one.labels, other.labels)
    pd.testing.assert_frame_equal(one.signals, other.signals, check_exact=True)
    pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)


@pytest.mark.parametrize("limit", ["100kB", "400kB", "2MB", "1GB"])
def test_results_do_not_depend_on_the_memory_limit(on, limit):
    runs, names = zip(*(make_run(seed, n_blocks=2, dtype=np.float32) for seed in range(2)), strict=True)
    values = np.asarray(runs[1].dataobj).copy()
    values[5, 5, 5, 3] = np.nan
    runs = [runs[0], nibabel.Nifti1Image(values, runs[1].affine)]
    whole = roi(runs, list(names), "face-house", device=on)
    same(roi(runs, list(names), "face-house", device=on, memory_limit=limit), whole)


def test_volumes_that_do_not_fit_lie_in_a_file(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run_store.tempfile, "tempdir", str(tmp_path))
    with caplog.at_level(logging.INFO, logger="gpuroi"):
        store = RunStore(7, (5, 4, 3), budget=7 * 60 * 4 - 1)
    assert not store.in_memory
    assert str(tmp_path) in caplog.text
    assert list(tmp_path.iterdir()) == []  # no name: nothing stays behind, however the process ends
    values = np.random.default_rng(0).normal(size=(7, 5, 4, 3)).astype(np.float32)
    store.volumes[...] = values
    store.drop_pages()
    np.testing.assert_array_equal(store.volumes, values)
    rows = values.transpose(0, 3, 2, 1).reshape(7, 60)
    in_memory = RunStore(7, (5, 4, 3), budget=7 * 60 * 4)
    assert in_memory.in_memory
    in_memory.volumes[...] = values
    some = np.array([5, 0, 6])
    for one in (store, in_memory):
        with one:
            np.testing.assert_array_equal(one.series(some, slice(13, 41)), rows[some, 13:41])


def test_a_disk_that_is_full_is_said_before_the_work(monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_store.os, "posix_fallocate", full, raising=False)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        RunStore(7, (5, 4, 3), budget=0)
    assert "TMPDIR" in caught.value.hint


PEAK = """
import sys
import nibabel, numpy as np
from gpuroi.workflows.roi import roi

def peak_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

path, limit, n = sys.argv[1], sys.argv[2] or None, int(sys.argv[3])
names = (["rest", "face", "house", "cat"] * n)[:n]
small = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(8, 8, 8, 20)).astype("float32"), np.eye(4))
roi(small, names[:20], "face-house", device="cpu")  # the imports and the kernels
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = peak_bytes()
result = roi(path, names, "face-house", threshold=2, device="cpu", memory_limit=limit)
assert len(result.table) > 0
print(peak_bytes() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peak memory is read from /proc")  # noqa: PTH110
@pytest.mark.parametrize(("suffix", "limit"), [(".nii", None), (".nii.gz", None), (".nii", "20MB")])
def test_peak_memory(tmp_path, suffix, limit):
    # A 20th of 64 x 64 x 40 x 1452, which has to go through within 3 GB: float32 volumes of 47 MB within 150 MB.
    n = 72
    path = tmp_path / f"bold{suffix}"
    noise = np.random.default_rng(0).integers(900, 1100, 64 * 64 * 40 + n).astype(np.int16)
    volumes = np.lib.stride_tricks.sliding_window_view(noise, 64 * 64 * 40)[:n].reshape(n, 40, 64, 64).T
    nibabel.save(nibabel.Nifti1Image(volumes, np.diag([3, 3, 3, 1])), path)
    del volumes
    script = tmp_path / "peak.py"
    script.write_text(textwrap.dedent(PEAK))
    done = subprocess.run(
        [sys.executable, str(script), str(path), limit or "", str(n)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout)
    # The result itself, its maps and the table of signals, comes on top of a limit.
    assert peak < (150e6 if limit is None else 20e6 + 30e6), peak


# --------------------------------------------------------------------------- saving


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bold")
    run, names = make_run(affine=OBLIQUE)
    nibabel.save(run, folder / "bold.nii.gz")
    (folder / "labels.txt").write_text("labels chunks\n" + "".join(f"{name} 0\n" for name in names))
    return roi(folder / "bold.nii.gz", folder / "labels.txt", "face-house", threshold=3, fwhm=3, dilate=0, device="cpu")


def test_everything_is_written(found, tmp_path):
    folder = found.save(tmp_path / "out", region_masks=True)
    n = len(found.table)
    assert n > 1
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    maps = {f"maps/{name}{suffix}" for name in found.maps for suffix in (".nii.gz", ".json")}
    masks = {f"region_masks/region-{i}.nii.gz" for i in range(1, n + 1)}
    boxes = {f"figures/region-{i}_boxplot.png" for i in range(1, n + 1)}
    assert files == maps | masks | boxes | {
        "atlas.nii.gz", "atlas.json", "atlas.tsv", "signals.tsv", "figures/regions.png", "figures/log10p.png",
        "report.html", "provenance.json", "dataset_description.json",
    }  # fmt: skip
    atlas = nibabel.load(folder / "atlas.nii.gz")
    np.testing.assert_array_equal(np.asarray(atlas.dataobj), found.labels)
    assert atlas.get_data_dtype() == np.int32
    np.testing.assert_allclose(atlas.affine, OBLIQUE, rtol=1e-6)
    for name, values in found.maps.items():
        stored = nibabel.load(folder / "maps" / f"{name}.nii.gz").get_fdata()
        want = values if name == "t" else np.nan_to_num(values.astype(float), nan=0.0)
        np.testing.assert_allclose(stored, want, rtol=1e-6, err_msg=name)
    for i in range(1, n + 1):
        stored = nibabel.load(folder / "region_masks" / f"region-{i}.nii.gz")
        np.testing.assert_array_equal(np.asarray(stored.dataobj), found.labels == i)
    table = pd.read_csv(folder / "atlas.tsv", sep="\t")
    pd.testing.assert_frame_equal(table, found.table)
    signals = pd.read_csv(folder / "signals.tsv", sep="\t")
    pd.testing.assert_frame_equal(signals, found.signals)
    page = (folder / "report.html").read_text()
    assert page == found.report()
    assert page.count("data:image/png;base64,") >= 2 + n


def test_sidecars_and_provenance_say_what_was_done(found, tmp_path, monkeypatch):
    monkeypatch.setenv("GPUROI_CONTAINER", "ghcr.io/gpuroi/gpuroi:0.1.0")
    folder = found.save(tmp_path / "out", figures=False)
    sidecar = json.loads((folder / "maps" / "log10p.json").read_text())
    assert sidecar["Contrast"] == "face - house"
    assert sidecar["Settings"]["threshold_log10p"] == 3.0
    assert sidecar["Settings"]["connectivity"] == 6
    assert sidecar["Settings"]["two_sided"] is True
    record = json.loads((folder / "provenance.json").read_text())
    assert [entry["path"].rpartition("/")[2] for entry in record["inputs"]] == ["bold.nii.gz", "labels.txt"]
    for entry in record["inputs"]:
        with open(entry["path"], "rb") as file:  # noqa: PTH123
            content = file.read()
        assert entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["device"] == "cpu"
    assert record["counts"]["volumes_per_condition"] == {"face": 20, "house": 20, "rest": 20}
    assert record["counts"]["regions"] == len(found.table)
    assert record["counts"]["voxels_in_regions"] == int(found.table["voxels"].sum())
    assert record["packages"]["numpy"] == np.__version__
    assert record["date"].endswith("+00:00")
    assert set(record["timings_s"]) == {"open", "read", "smooth", "t-test", "regions", "signals"}
    described = json.loads((folder / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"][0]["Name"] == "gpuroi"
    assert described["GeneratedBy"][0]["Container"]["Tag"] == "ghcr.io/gpuroi/gpuroi:0.1.0"


def test_the_same_input_gives_the_same_bytes(found, tmp_path):
    again = roi(*[entry["path"] for entry in found.inputs], "face-house", threshold=3, fwhm=3, dilate=0, device="cpu")
    one, other = found.save(tmp_path / "one"), again.save(tmp_path / "other")
    for path in sorted(p for p in one.rglob("*") if p.is_file()):
        twin = other / path.relative_to(one)
        if path.name == "provenance.json":
            first, second = (json.loads(p.read_text()) for p in (path, twin))
            for record in (first, second):
                del record["date"], record["timings_s"]
            assert first == second
        elif path.name != "report.html":  # names the timings
            assert path.read_bytes() == twin.read_bytes(), path.name


def test_existing_results_stay_without_overwrite(found, tmp_path):
    folder = found.save(tmp_path / "out", figures=False)
    stamp = (folder / "provenance.json").stat().st_mtime_ns
    with pytest.raises(OutputError, match="not empty"):
        found.save(folder)
    assert (folder / "provenance.json").stat().st_mtime_ns == stamp
    (folder / "left-over.txt").write_text("of an earlier run")
    found.save(folder, overwrite=True, figures=False)
    assert not (folder / "left-over.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("...")
    with pytest.raises(OutputError, match="did not write"):
        found.save(tmp_path / "mine", overwrite=True)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_save_that_fails_leaves_nothing(found, tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpuroi.images.write.write_tsv", fail)
    with pytest.raises(OSError, match="No space left"):
        found.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_checked_before_the_work(found, tmp_path):
    check_output(tmp_path / "new" / "deep" / "out")
    assert list(tmp_path.iterdir()) == []
    folder = found.save(tmp_path / "out", figures=False)
    check_output(folder, overwrite=True)
    with pytest.raises(OutputError, match="not empty"):
        check_output(folder)
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError):
            check_output(place)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out"]


def test_without_matplotlib_figures_are_left_out_and_that_is_said_once(found, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(output.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(output, "_said", set())
    with caplog.at_level(logging.WARNING, logger="gpuroi"):
        for name in ("one", "two"):
            folder = found.save(tmp_path / name)
    assert [record.getMessage() for record in caplog.records] == [output._NO_FIGURES]
    assert "pip install 'gpuroi[report]'" in caplog.text
    assert not (folder / "figures").exists()
    assert "data:image/png" not in (folder / "report.html").read_text()
    assert json.loads((folder / "provenance.json").read_text())["notes"] == [output._NO_FIGURES]
    assert (folder / "atlas.nii.gz").exists()


def test_nothing_found_is_a_result(tmp_path):
    run, names = make_run(effect=0.0)
    result = roi(run, names, "face-house", threshold=50, device="cpu")
    assert len(result.table) == 0
    assert list(result.signals.columns) == ["run", "volume", "condition"]
    assert len(result.signals) == len(names)
    folder = result.save(tmp_path / "out", region_masks=True)
    assert not np.asarray(nibabel.load(folder / "atlas.nii.gz").dataobj).any()
    table = pd.read_csv(folder / "atlas.tsv", sep="\t")
    assert len(table) == 0
    assert list(table.columns) == list(result.table.columns)
    assert {"signals.tsv", "maps", "figures", "report.html", "provenance.json"} <= {p.name for p in folder.iterdir()}
