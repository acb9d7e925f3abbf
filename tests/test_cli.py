"""The command line as a whole: its flags, its exit codes, what it says, and what it leaves behind."""

from __future__ import annotations

import gzip
import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import fake_cuda, in_a_process, noise, write, write_run

import gpuroi
from gpuroi.backends.probe import CudaFacts
from gpuroi.cli import clusters as cluster_commands
from gpuroi.cli import demo as demo_command
from gpuroi.cli import extract as extract_commands
from gpuroi.cli import main
from gpuroi.cli import pack as pack_command
from gpuroi.cli import report as report_command
from gpuroi.cli import roi as roi_commands
from gpuroi.cli import volumes as volume_commands
from gpuroi.cli.app import build_app
from gpuroi.errors import DataError, GpuroiError
from gpuroi.workflows import clusters, extract, make_report, volumes
from gpuroi.workflows import pack as pack_workflow
from gpuroi.workflows.regions import RegionsResult
from gpuroi.workflows.roi_result import RoiResult

COMMANDS = [
    "info", "demo", "roi", "regions", "clusters", "extract", "threshold-parcels", "parcellate", "check", "pack",
    "report", "threshold", "smooth", "ttest", "dilate", "label", "screen",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("here")


# Flags and functions: command, function, and what the command has beside the function's own parameters.
PAIRS = {
    "demo": (demo_command.demo, gpuroi.demo, None, set()),
    "roi": (roi_commands.roi, gpuroi.roi, RoiResult.save, {"out"}),
    "regions": (roi_commands.regions, gpuroi.regions, RegionsResult.save, {"out"}),
    "clusters": (cluster_commands.clusters, clusters.clusters, clusters.ClustersResult.save, {"out"}),
    "extract": (extract_commands.extract, extract.extract_table, None, set()),
    "report": (report_command.report, make_report.make_report, None, set()),
    "pack": (pack_command.pack, pack_workflow.pack, None, set()),
    "threshold": (volume_commands.threshold, volumes.threshold_image, None, set()),
    "smooth": (volume_commands.smooth, volumes.smooth_image, None, set()),
    "ttest": (volume_commands.ttest, volumes.ttest_image, None, set()),
    "dilate": (volume_commands.dilate, volumes.dilate_image, None, set()),
    "label": (volume_commands.label, volumes.label_image, None, set()),
}


@pytest.mark.parametrize("name", PAIRS)
def test_every_parameter_is_a_flag_with_the_same_default(name):
    command, function, save, beside = PAIRS[name]
    flags = dict(inspect.signature(command).parameters)
    wanted = dict(inspect.signature(function).parameters)
    if save is not None:
        saved = dict(inspect.signature(save).parameters)
        wanted |= {key: value for key, value in saved.items() if key not in ("self", "folder")}
    assert set(flags) == set(wanted) | beside
    for key, parameter in wanted.items():
        flag = flags[key]
        default = flag.default[0] if isinstance(flag.default, tuple) else flag.default
        assert default == parameter.default, key
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            assert flag.kind is inspect.Parameter.KEYWORD_ONLY, key


@pytest.mark.parametrize("name", PAIRS)
def test_every_flag_reaches_its_function(name, monkeypatch):
    """Commands are thin, but a flag that is forgotten on the way would go unseen."""
    command, function, _, _ = PAIRS[name]
    given = {key: object() for key in inspect.signature(command).parameters}
    given |= {key: True for key in ("two_sided", "equal_var") if key in given}
    for key, value in {"bold": [object()], "conditions": [object()], "fwhm": (4.0,), "out": Path("out")}.items():
        if key in given:
            given[key] = value
    reached: dict[str, object] = {}

    class Stop(Exception):  # noqa: N818
        pass

    def stand_in(*args: object, **keywords: object) -> None:
        reached.update(inspect.signature(function).bind(*args, **keywords).arguments)
        raise Stop

    monkeypatch.setattr("gpuroi.workflows.output.check_output", lambda *args, **keywords: None)
    monkeypatch.setattr(sys.modules[function.__module__], function.__name__, stand_in)
    if function.__module__ == "gpuroi.workflows.volume_ttest":
        monkeypatch.setattr(volumes, "ttest_image", stand_in)
    with pytest.raises(Stop):
        command(*[given.pop(key) for key, p in inspect.signature(command).parameters.items() if p.kind == 0], **given)
    keyword_only = {k for k, p in inspect.signature(function).parameters.items() if p.kind == p.KEYWORD_ONLY}
    assert keyword_only <= set(reached)
    for key in keyword_only - {"fwhm", "conditions"}:
        assert reached[key] is given[key], key


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_explained(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    app = build_app()[name]
    for argument in app.assemble_argument_collection(parse_docstring=True):
        assert argument.parameter.help, argument.name
        assert argument.name.upper().lstrip("-") in text.upper()


def test_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert f" {name} " in out
    assert "Exit codes" in out
    assert main([]) == 0
    assert capsys.readouterr().out == out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == gpuroi.__version__


def test_python_m_gpuroi():
    done = in_a_process("--version")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, gpuroi.__version__, "")


USAGE = {
    "unknown command": (["smoth", "map.nii.gz"], 'Unknown command "smoth". Did you mean "smooth"?'),
    "unknown flag": (["smooth", "map.nii.gz", "--fwhm", "4", "--outt", "o.nii"], "Did you mean --out"),
    "missing flag": (["smooth", "map.nii.gz", "--out", "o.nii"], "--fwhm"),
    "missing argument": (["smooth", "--fwhm", "4", "--out", "o.nii"], "parameter IMAGE requires"),
    "no number": (["smooth", "map.nii.gz", "--fwhm", "wide", "--out", "o.nii"], '"wide"'),
    "bad choice": (["label", "map.nii.gz", "--connectivity", "7", "--out", "o.nii"], "connectivity"),
    "two widths": (["smooth", "map.nii.gz", "--fwhm", "4", "5", "--out", "o.nii"], "fwhm has 2 numbers"),
    "negative width": (["smooth", "map.nii.gz", "--fwhm=-4", "--out", "o.nii"], "fwhm"),
    "percentile above 100": (["threshold", "map.nii.gz", "--threshold", "101%", "--out", "o.nii"], "101"),
    "no percentile": (["threshold", "map.nii.gz", "--threshold", "high", "--out", "o.nii"], "high"),
    "negative cutoff": (["threshold", "map.nii.gz", "--threshold=-3", "--out", "o.nii"], "-3"),
    "unknown device": (["label", "map.nii.gz", "--device", "gpu", "--out", "o.nii"], 'unknown device "gpu"'),
    "memory limit": (["label", "map.nii.gz", "--memory-limit", "lots", "--out", "o.nii"], 'memory limit "lots"'),
    "no contrast": (
        ["roi", "map.nii.gz", "--conditions", "l.tsv", "--contrast", "face", "--out", "o"],
        'contrast "face" does not name two conditions',
    ),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors_are_2(case, here, capsys):
    words, message = USAGE[case]
    write("map.nii.gz", abs(noise(4, 4, 4, 3)))
    Path("l.tsv").write_text("labels\nface\nhouse\nface\n")
    before = sorted(here.iterdir())
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "gpuroi: error: " in err
    assert message in err
    assert "Traceback" not in err
    assert sorted(here.iterdir()) == before


def cut_off(path: Path) -> None:
    write("whole.nii.gz", noise(9, 9, 9))
    path.write_bytes(Path("whole.nii.gz").read_bytes()[:1000])


def promising(path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    with gzip.open(path, "wb") as file:
        file.write(header.binaryblock + b"\0" * 100)


BROKEN = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "text": (lambda path: path.write_text("this is no image\n" * 40), "bad.nii.gz"),
    "cut off": (cut_off, "bad.nii.gz"),
    "promises 100 terabytes": (promising, "bad.nii.gz"),
    "folder": (lambda path: path.mkdir(), "a folder"),
}


@pytest.mark.parametrize(
    "command", ["threshold --threshold 3", "smooth --fwhm 4", "ttest", "dilate", "label", "regions"]
)
@pytest.mark.parametrize("case", BROKEN)
def test_broken_images_are_65(command, case, here, capsys):
    make, message = BROKEN[case]
    make(here / "bad.nii.gz")
    before = sorted(here.iterdir())
    name, *flags = command.split()
    out = "out" if name == "regions" else "out.nii.gz"
    assert main([name, "bad.nii.gz", *flags, "--out", out]) == 65
    err = capsys.readouterr().err
    assert "gpuroi: error: bad.nii.gz" in err
    assert message in err
    assert "Traceback" not in err
    assert sorted(here.iterdir()) == before


def test_all_broken_images_are_listed(capsys):
    write("good.nii.gz", noise(3, 3, 3))
    assert main(["ttest", "good.nii.gz", "bad1.nii.gz", "bad2.nii.gz", "--out", "t.nii.gz"]) == 65
    err = capsys.readouterr().err
    assert "bad1.nii.gz" in err
    assert "bad2.nii.gz" in err


def test_a_mask_on_another_grid_is_65(capsys):
    write("map.nii.gz", noise(4, 4, 4))
    write("mask.nii.gz", np.ones((4, 4, 5), np.uint8))
    assert main(["threshold", "map.nii.gz", "--threshold", "1", "--mask", "mask.nii.gz", "--out", "o.nii.gz"]) == 65
    err = capsys.readouterr().err
    assert "map.nii.gz" in err
    assert "mask.nii.gz" in err
    assert not Path("o.nii.gz").exists()


@pytest.mark.parametrize("standing", ["out.nii.gz", "out.json"])
def test_existing_outputs_are_73_and_stay(standing, capsys):
    write("map.nii.gz", noise(4, 4, 4))
    Path(standing).write_text("precious")
    words = ["smooth", "map.nii.gz", "--fwhm", "4", "--out", "out.nii.gz"]
    assert main(words) == 73
    err = capsys.readouterr().err
    assert standing in err
    assert "--overwrite" in err
    assert Path(standing).read_text() == "precious"
    assert main([*words, "--overwrite"]) == 0
    assert nibabel.load("out.nii.gz").shape == (4, 4, 4)


@pytest.mark.parametrize("out", ["file/out.nii.gz", "map.nii.gz/out.nii.gz", "folder.nii.gz", "out.png", "out"])
def test_outputs_that_cannot_be_are_73(out, here, capsys):
    write("map.nii.gz", noise(4, 4, 4))
    Path("file").write_text("no folder")
    Path("folder.nii.gz").mkdir()
    before = sorted(here.rglob("*"))
    assert main(["smooth", "map.nii.gz", "--fwhm", "4", "--out", out]) == 73
    assert "gpuroi: error: " in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_a_folder_without_the_right_to_write_is_73(monkeypatch, capsys):
    write("map.nii.gz", noise(4, 4, 4))
    Path("locked").mkdir(mode=0o500)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "locked")  # root may write there
    assert main(["smooth", "map.nii.gz", "--fwhm", "4", "--out", "locked/out.nii.gz"]) == 73
    assert "locked" in capsys.readouterr().err
    assert list(Path("locked").iterdir()) == []


def test_a_disk_that_fills_up_is_73_and_leaves_nothing(here, monkeypatch, capsys):
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    write("map.nii.gz", noise(4, 4, 4))
    before = sorted(here.iterdir())
    monkeypatch.setattr("gpuroi.images.write._write_nifti", full)
    assert main(["smooth", "map.nii.gz", "--fwhm", "4", "--out", "out.nii.gz"]) == 73
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("command", ["roi", "regions"])
def test_result_folders_are_refused_before_the_work(command, monkeypatch, capsys):
    monkeypatch.setattr("gpuroi.workflows.roi.open_runs", lambda bold: pytest.fail("work was begun"))
    Path("out").mkdir()
    Path("out/precious.txt").write_text("mine")
    words = {
        "roi": ["roi", "bold.nii.gz", "--conditions", "labels.tsv", "--contrast", "a-b"],
        "regions": ["regions", "map.nii.gz"],
    }[command]
    assert main([*words, "--out", "out"]) == 73
    assert "exists and is not empty" in capsys.readouterr().err
    assert main([*words, "--out", "out", "--overwrite"]) == 73
    assert "did not write" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == ["precious.txt"]


def test_cuda_that_cannot_be_used_is_69(monkeypatch, here, capsys):
    fake_cuda(monkeypatch, CudaFacts(driver="580.95.05", driver_cuda=13000))
    write("map.nii.gz", noise(4, 4, 4))
    before = sorted(here.iterdir())
    assert main(["smooth", "map.nii.gz", "--fwhm", "4", "--out", "out.nii.gz", "--device", "cuda"]) == 69
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        'gpuroi: error: device "cuda" asked for, but CuPy is not installed',
        "driver 580.95.05 found: pip install 'gpuroi[cuda13]'",
    ]
    assert sorted(here.iterdir()) == before


def test_the_choice_of_the_device_is_said_on_stderr(monkeypatch, capsys):
    monkeypatch.setattr("gpuroi.backends.select._said", set())
    fake_cuda(monkeypatch, CudaFacts())
    write("map.nii.gz", noise(4, 4, 4))
    assert main(["smooth", "map.nii.gz", "--fwhm", "4", "--out", "out.nii.gz"]) == 0
    assert capsys.readouterr().err == "gpuroi: device cpu (no NVIDIA driver is visible)\n"


def test_out_of_memory_is_69(monkeypatch, capsys):
    def too_much(*args: object, **keywords: object) -> None:
        raise MemoryError("Unable to allocate 9 TiB")

    write("map.nii.gz", noise(4, 4, 4))
    monkeypatch.setattr("gpuroi.ops.smooth", too_much)
    assert main(["smooth", "map.nii.gz", "--fwhm", "4", "--out", "out.nii.gz"]) == 69
    assert "out of memory: Unable to allocate 9 TiB" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["no", "flag", "variable"])
def test_a_fault_of_ours_is_70_and_traced_only_on_request(how, monkeypatch, capsys):
    def faulty(*args: object, **keywords: object) -> None:
        raise ZeroDivisionError("one\nover none")

    monkeypatch.setattr("gpuroi.workflows.volumes.label_image", faulty)
    monkeypatch.setenv("GPUROI_DEBUG", "1" if how == "variable" else "0")
    assert main(["label", "m.nii.gz", "--out", "o.nii.gz", *["--debug"] * (how == "flag")]) == 70
    err = capsys.readouterr().err
    assert "gpuroi: internal error: ZeroDivisionError: one over none" in err
    assert "please report it" in err
    assert ("Traceback" in err) == (how != "no")


@pytest.mark.parametrize("error", [GpuroiError("what", "hint"), DataError("what")])
def test_an_error_is_a_message_a_hint_and_a_code(error, monkeypatch, capsys):
    def failing(*args: object, **keywords: object) -> None:
        raise error

    monkeypatch.setattr("gpuroi.workflows.volumes.label_image", failing)
    assert main(["label", "m.nii.gz", "--out", "o.nii.gz"]) == error.exit_code
    assert capsys.readouterr().err.splitlines() == ["gpuroi: error: what", *[error.hint] * bool(error.hint)]


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_is_75_and_leaves_nothing(number, here):
    """The process writes its output slowly; the signal comes in the middle of it."""
    write("map.nii.gz", noise(4, 4, 4))
    before = {path.name for path in here.iterdir()}
    code = """
import sys, time
import gpuroi.images.write as write
def slowly(file, *args):
    file.write(b"half of it")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
write._write_nifti = slowly
from gpuroi.cli import main
sys.exit(main(["smooth", "map.nii.gz", "--fwhm", "4", "--out", "out.nii.gz", "--device", "cpu"]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert len(list(here.iterdir())) > len(before)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert err == "gpuroi: interrupted; no half-written output is left\n"
    assert {path.name for path in here.iterdir()} == before


def test_the_signal_handler_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    assert main(["--version"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
@pytest.mark.parametrize("words", [["info"], ["--help"]])
def test_a_reader_that_leaves_early_is_no_error(words):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-W", "error", "-m", "gpuroi", *words]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["smoth"], 2, "gpuroi: error: Unknown command"),
        (["label", "missing.nii.gz", "--out", "o.nii.gz"], 65, "gpuroi: error: missing.nii.gz: no such file"),
        (["smooth", "map.nii.gz", "--fwhm", "4", "--out", "map.nii.gz"], 73, "exists already"),
    ],
)
def test_a_process_ends_with_the_code(words, code, message, here):
    write("map.nii.gz", noise(3, 3, 3))
    before = sorted(here.iterdir())
    done = in_a_process(*words)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(here.iterdir()) == before


def test_a_process_writes_the_whole_result():
    write_run()
    words = ["--contrast", "face-house", "--fwhm", 0, "--dilate", 0, "--out", "roi", "--no-figures", "--device", "cpu"]
    done = in_a_process("roi", "bold.nii.gz", "--conditions", "labels.tsv", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "volumes  40 (face 20, house 20)" in done.stdout
    assert "regions  2, 54 voxels" in done.stdout
    labels = np.asarray(nibabel.load("roi/atlas.nii.gz").dataobj)
    assert (labels[2:5, 2:5, 2:5] == 1).all()
    assert (labels[6:9, 6:9, 6:9] == 2).all()
    assert json.loads(Path("roi/provenance.json").read_text())["command"][:2] == ["gpuroi", "roi"]
