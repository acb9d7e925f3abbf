"""`gpuroi roi`, `regions`, `demo` and `info`: what they print and what they write."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import fake_cuda, noise, write, write_run

import gpuroi
from gpuroi.backends.probe import CudaDevice, CudaFacts
from gpuroi.cli import info as info_command
from gpuroi.cli import main
from gpuroi.workflows.output import result_folder

pytestmark = pytest.mark.usefixtures("here")


def test_roi_with_two_runs_and_everything(capsys):
    write_run()
    words = [
        "--labels",
        "labels.tsv",
        "labels.tsv",
        "--contrast",
        "face-house",
        "--fwhm",
        "3",
        "3",
        "4",
        "--out",
        "roi",
    ]
    more = ["--min-region-size", "100", "--welch", "--region-masks", "--no-figures", "--device", "cpu"]
    assert main(["roi", "bold.nii.gz", "bold.nii.gz", *words, *more]) == 0
    assert "volumes  80" in capsys.readouterr().out
    settings = json.loads(Path("roi/provenance.json").read_text())["settings"]
    assert settings["fwhm_mm"] == [3, 3, 4]
    assert settings["equal_var"] is False
    assert settings["min_region_size_mm3"] == 100
    atlas = np.asarray(nibabel.load("roi/atlas.nii.gz").dataobj)
    assert atlas.max() >= 2
    masks = {path.name: np.asarray(nibabel.load(path).dataobj) for path in Path("roi/region_masks").iterdir()}
    assert set(masks) == {f"region-{i}.nii.gz" for i in range(1, atlas.max() + 1)}
    for i in range(1, atlas.max() + 1):
        np.testing.assert_array_equal(masks[f"region-{i}.nii.gz"], atlas == i)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threshold", "300"], "none: no voxel reaches -log10 p 300"),
        (["--mask", "corner.nii.gz"], "voxels reach -log10 p 5, but none inside the mask"),
        (["--min-region-size", "99999"], "none of 99999 mm3 or more"),
    ],
)
def test_no_region_is_a_result(words, message, capsys):
    write_run()
    corner = np.zeros((10, 10, 10), np.uint8)
    corner[0, 9, 0] = 1
    write("corner.nii.gz", corner)
    base = ["roi", "bold.nii.gz", "--conditions", "labels.tsv", "--contrast", "face-house", "--fwhm", "0"]
    assert main([*base, *words, "--no-figures", "--out", "roi", "--device", "cpu"]) == 0
    assert message in capsys.readouterr().out
    assert not np.asarray(nibabel.load("roi/atlas.nii.gz").dataobj).any()


def test_a_volume_without_values_leaves_nothing_to_test_and_that_is_said(capsys):
    write_run()
    run = nibabel.load("bold.nii.gz")
    volumes = run.get_fdata(dtype=np.float32)
    labels = Path("labels.tsv").read_text().split("\n")[1:]
    volumes[..., next(i for i, line in enumerate(labels) if line.startswith("face"))] = np.nan
    nibabel.save(nibabel.Nifti1Image(volumes, run.affine), "holes.nii.gz")
    words = ["roi", "holes.nii.gz", "--conditions", "labels.tsv", "--contrast", "face-house", "--no-figures"]
    assert main([*words, "--out", "roi", "--device", "cpu"]) == 0
    assert "none: no voxel can be tested" in capsys.readouterr().out


def test_regions(capsys):
    data = np.zeros((8, 8, 8), np.float32)
    data[1:3, 1:3, 1:3], data[5:7, 5:7, 5:7], data[4, 1, 1] = 4, -5, 6
    write("map.nii.gz", data)
    words = ["regions", "map.nii.gz", "--threshold", "3.5", "--min-size-mm3", "100", "--no-figures", "--device", "cpu"]
    assert main([*words, "--out", "regions"]) == 0
    out = capsys.readouterr().out
    assert "threshold  |x| >= 3.5" in out
    assert "written    regions/report.html" in out
    assert "regions    2" in out
    table = out[out.index("id sign") :].splitlines()
    assert len(table) == 3
    assert table[1].split()[:4] == ["1", "1", "8", "216"]
    assert main([*words, "--one-sided", "--out", "one-sided"]) == 0
    assert "regions    1" in capsys.readouterr().out
    words[3] = "99"
    assert main([*words[:4], *words[6:], "--out", "nothing"]) == 0
    assert "regions    none: nothing reaches the threshold" in capsys.readouterr().out


def test_only_the_first_rows_are_shown(capsys):
    data = np.zeros((30, 5, 5), np.float32)
    data[::2, ::2, 2] = 3
    write("map.nii.gz", data)
    assert main(["regions", "map.nii.gz", "--threshold", "2", "--no-figures", "--out", "o", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "... and 35 more regions"
    assert len(out[out.index("id sign") :].splitlines()) == 12


def test_the_summary_on_a_terminal(monkeypatch, capsys):
    write("map.nii.gz", noise(4, 4, 4))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    words = ["--threshold", "2", "--no-figures", "--out", "[bold]o", "--device", "cpu"]
    assert main(["regions", "map.nii.gz", *words]) == 0
    out = capsys.readouterr().out
    assert "[bold]o" in out, "file names are no markup"
    assert "peak_stat" in out
    assert "regions    " in out


def test_demo(capsys):
    assert main(["demo", "data", "--n-subjects", "4", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    n_files = sum(path.is_file() for path in Path("data").rglob("*"))
    assert f"written  {n_files} files" in out
    assert main(["demo", "data", "--n-subjects", "4"]) == 73
    assert main(["demo", "data", "--n-subjects", "1", "--overwrite"]) == 2
    assert Path("data/bold.nii.gz").exists()


def test_info_without_a_gpu(monkeypatch, capsys):
    fake_cuda(monkeypatch, CudaFacts())
    assert main(["info"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"gpuroi    {gpuroi.__version__}" in out
    assert "device    cpu (no NVIDIA driver is visible)" in out
    assert "--gpus all" in out
    assert f"numpy {np.__version__}" in out


def test_info_as_json(monkeypatch, capsys):
    fake_cuda(monkeypatch, CudaFacts(driver="550.54.15", driver_cuda=12040))
    monkeypatch.setenv("GPUROI_CONTAINER", "gpuroi:0.1")
    monkeypatch.setenv("GPUROI_NUM_THREADS", "3")
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"]["name"] == "cpu"
    assert found["device"]["hint"] == "driver 550.54.15 found: pip install 'gpuroi[cuda12]'"
    assert found["cuda"]["driver"] == "550.54.15"
    assert found["cuda"]["driver_cuda"] == "12.4"
    assert found["cpu"]["threads"] == 3
    assert found["cpu"]["free_bytes"] > 0
    assert found["packages"]["numpy"] == np.__version__
    assert found["container"] == "gpuroi:0.1"


def test_info_with_a_gpu(monkeypatch, capsys):
    gpu = CudaDevice("NVIDIA H200", "9.0", 150 << 30, 140 << 30)
    facts = CudaFacts(
        driver="580.95.05",
        driver_cuda=13000,
        wheels=(("cupy-cuda13x", "14.2.0"),),
        cupy="14.2.0",
        runtime=13000,
        devices=(gpu,),
        self_test_ms=123.4,
        cucim="26.10.0",
    )
    fake_cuda(monkeypatch, facts)
    monkeypatch.setattr("gpuroi.backends.select._cuda", lambda index: type("B", (), {"device": f"cuda:{index}"}))
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "device    cuda:0 (a test kernel ran)" in out
    assert "cuda:0    NVIDIA H200, compute capability 9.0, 150.0 GiB, 140.0 GiB free" in out
    assert "driver 580.95.05, runtime 13.0, CuPy 14.2.0, cuCIM 26.10.0, self-test 123.4 ms" in out


@pytest.mark.parametrize(
    ("asked", "code", "line"),
    [
        ("cpu", 0, "device    cpu (GPUROI_DEVICE=cpu)"),
        ("cuda", 69, 'device    none: device "cuda" asked for, but no NVIDIA driver is visible'),
        ("gpu", 2, 'device    none: unknown device "gpu"'),
    ],
)
def test_info_obeys_the_variable(asked, code, line, monkeypatch, capsys):
    fake_cuda(monkeypatch, CudaFacts())
    monkeypatch.setenv("GPUROI_DEVICE", asked)
    assert main(["info"]) == code
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("core_type", "flags", "warned"),
    [
        ("Haswell", {"avx2", "avx512f"}, True),
        ("Haswell", {"avx2"}, False),
        ("SkylakeX", {"avx2", "avx512f"}, False),
        ("", {"avx2", "avx512f"}, False),
    ],
)
def test_a_slowed_openblas_is_said_and_left_alone(core_type, flags, warned, monkeypatch, capsys):
    monkeypatch.setattr(info_command, "_processor_flags", lambda: frozenset(flags))
    monkeypatch.setenv("OPENBLAS_CORETYPE", core_type)
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert ("OPENBLAS_CORETYPE=Haswell keeps OpenBLAS from AVX-512" in out) == warned
    assert os.environ["OPENBLAS_CORETYPE"] == core_type


def test_regions_that_were_found_are_an_atlas_for_the_next_command(capsys):
    data = np.zeros((8, 8, 8), np.float32)
    data[1:3, 1:3, 1:3], data[5:7, 5:7, 5:7] = 4, -5
    write("map.nii.gz", data)
    assert (
        main(["regions", "map.nii.gz", "--threshold", "3.5", "--no-figures", "--out", "found", "--device", "cpu"]) == 0
    )
    capsys.readouterr()
    header = Path("found/atlas.tsv").read_text().splitlines()[0].split("\t")
    assert set(json.loads(Path("found/atlas.json").read_text())) == {*header, "Description", "Settings"}
    assert main(["extract", "map.nii.gz", "--labels", "found/atlas.nii.gz", "--device", "cpu"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert rows == [["region-1", "4"], ["region-2", "-5"]]
    assert (
        main(["clusters", "map.nii.gz", "--threshold", "3", "--labels", "found/atlas.nii.gz", "--device", "cpu"]) == 0
    )
    assert "region-2 100 %" in capsys.readouterr().out


def test_sizes_have_one_name_everywhere():
    write_run()
    words = ["--conditions", "labels.tsv", "--contrast", "face-house", "--no-figures", "--device", "cpu"]
    assert main(["roi", "bold.nii.gz", *words, "--min-size-mm3", "100", "--out", "roi"]) == 0
    assert json.loads(Path("roi/provenance.json").read_text())["settings"]["min_region_size_mm3"] == 100
    header = Path("roi/atlas.tsv").read_text().splitlines()[0].split("\t")
    assert set(json.loads(Path("roi/atlas.json").read_text())) == {*header, "Contrast", "Description", "Settings"}


def test_a_report_that_cannot_be_made_leaves_no_folder(tmp_path):
    class Result:
        def provenance(self, notes):
            return {"notes": notes}

    def page(result, pictures):
        raise RuntimeError("no page")

    with (
        pytest.raises(RuntimeError, match="no page"),
        result_folder(Result(), tmp_path / "out", name="Test", page=page, figures=False) as staged,
    ):
        (staged / "values.txt").write_text("1")
    assert not any("out" in path.name for path in tmp_path.iterdir())
    with result_folder(Result(), tmp_path / "out", name="Test") as staged:
        (staged / "values.txt").write_text("1")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"values.txt", "dataset_description.json", "provenance.json"}
