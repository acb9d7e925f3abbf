"""The page about the kernels says what the sources give; occupancy is NVIDIA's calculator's; rooflines are drawn."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from rig.nvrtc import versions
from test_kernels_compile import KERNEL_NAME, SOURCES

from benchmarks import compare, kernel_page, plot, roofline, traffic
from benchmarks.occupancy import ARCHITECTURES, occupancy
from gpuroi.backends.cuda_kernels import KERNEL_VARIANTS

NAMES = {name for path in SOURCES for name in KERNEL_NAME.findall(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize(
    ("architecture", "threads", "registers", "shared", "want"),
    [  # from the occupancy calculator of Nsight Compute
        (90, 256, 32, 0, 1.0),
        (90, 256, 40, 0, 0.75),
        (90, 128, 64, 0, 0.5),
        (90, 256, 32, 48 << 10, 0.5),
        (80, 1024, 64, 0, 0.5),
        (80, 32, 16, 0, 0.5),
        (86, 256, 40, 0, 1.0),
        (86, 1024, 32, 0, 2 / 3),
        (75, 256, 64, 0, 1.0),
        (70, 256, 255, 0, 0.125),
    ],
)
def test_occupancy(architecture: int, threads: int, registers: int, shared: int, want: float) -> None:
    assert occupancy(architecture, threads, registers, shared) == pytest.approx(want)


def test_every_kernel_and_architecture_is_on_the_page() -> None:
    text = kernel_page.PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (\d+) \|", text, re.MULTILINE)
    assert {name for name, _, _ in rows} == NAMES
    assert {(name, int(threads)) for name, _, threads in rows} == {
        (name, kernel_page.THREADS.get(name, 256)) for name in NAMES
    }
    assert all(f"sm_{architecture}" in text for architecture in ARCHITECTURES)
    assert "spills**" not in text
    reals = {f"-DREAL={real}" for _, real, _ in rows if real != "-"}
    assert reals == {option for variants in KERNEL_VARIANTS.values() for options in variants for option in options}


def test_the_traffic_on_the_page_is_that_of_the_table() -> None:
    text = kernel_page.PAGE.read_text(encoding="utf-8")
    assert kernel_page.traffic_table() in text
    assert {name for each in traffic.OPERATIONS for name in each.kernels} <= NAMES
    for each in traffic.OPERATIONS:
        assert each.bytes_each >= each.least_each
        assert each.goal_ms is None or each.predicted_ms <= each.goal_ms
    # label images of a graph and p-values are no part of the reference workload; NIfTI images are turned
    left = NAMES - {name for each in traffic.OPERATIONS for name in each.kernels}
    assert left == {"clusters_roots", "log_betainc", "mask_gather", "mask_scatter"}


@pytest.mark.skipif(not versions(), reason="no CUDA compiler: pip install nvidia-cuda-nvrtc nvidia-cuda-nvrtc-cu12")
def test_the_compiler_says_what_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    text = kernel_page.PAGE.read_text(encoding="utf-8")
    if kernel_page._compilers(versions()).strip() not in text:
        pytest.skip("the page was written with other versions of NVRTC")
    few = {stem: KERNEL_VARIANTS[stem] for stem in ("dilate", "moments")}
    monkeypatch.setattr(kernel_page, "KERNEL_VARIANTS", few)
    header = re.search(r"^\| kernel .*$", text, re.MULTILINE)
    assert header is not None
    column = [cell.strip() for cell in header[0].split("|")].index("sm_90")
    on_page = {
        tuple(row.split("|")[i].strip() for i in (1, 2, column)) for row in text.splitlines() if row[:3] == "| `"
    }
    lines = kernel_page.resource_table((90,)).splitlines()
    found = {tuple(row.split("|")[i].strip() for i in (1, 2, 5)) for row in lines if row[:3] == "| `"}
    assert len(found) == 5
    assert found <= on_page


def test_the_page_is_written_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_page, "resource_table", lambda _: "| a table |")
    target = tmp_path / "kernels.md"
    target.write_text(kernel_page.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    assert kernel_page.main(["--page", str(target), "--check"]) == 1
    assert kernel_page.main(["--page", str(target)]) == 0
    assert kernel_page.main(["--page", str(target), "--check"]) == 0
    text = target.read_text(encoding="utf-8")
    assert text.count("| a table |") == 1
    assert text.endswith(kernel_page.PAGE.read_text(encoding="utf-8")[-200:])


# ---- results


def record(*names: str) -> dict[str, Any]:
    """A made-up result: a case that moves bytes alone, and one whose operations count."""
    times = {"median_ms": 2.0, "min_ms": 1.9, "max_ms": 2.2}
    row = {"conforms": True, "times": times, "of_copy_bandwidth": 0.5}
    both = dict.fromkeys(names, row)
    return {
        "kind": "benchmarks",
        "size": {"name": "full"},
        "machine": {"cpu": "a", "cores": 2, "memory_gib": 8, "system": "Linux", "gpu": {
            "name": "NVIDIA H200", "driver": "580", "cuda_runtime": "13.0"}},
        "copy_bytes_per_s": {"cpu": 4e10, "cuda": 4e12},
        "matrix_flops_per_s": {"cpu": 2e11, "cuda": 5e13},
        "cases": [
            {"name": "a", "what": "`a`", "least_bytes_moved": 10**9, "implementations": both},
            {"name": "b", "what": "b", "least_bytes_moved": 10**9, "least_flops": 4e9, "implementations": both},
            {"name": "c", "what": "c", "least_bytes_moved": 10**9, "implementations": {"gpuroi-cpu": {"failed": "x"}}},
        ],
    }  # fmt: skip


def test_points_of_the_roofline() -> None:
    found = roofline.points(record("gpuroi-cpu", "gpuroi-cuda", "scipy"))
    assert [(p["case"], p["implementation"]) for p in found] == [
        ("a", "gpuroi-cpu"), ("a", "gpuroi-cuda"), ("b", "gpuroi-cpu"), ("b", "gpuroi-cuda"),
    ]  # fmt: skip
    assert [p["intensity"] for p in found] == [None, None, 4.0, 4.0]
    assert found[2]["flops_per_s"] == pytest.approx(2e12)
    assert {p["share"] for p in found} == {0.5}


def test_the_roofline_is_drawn_from_a_record(tmp_path: Path) -> None:
    import json

    from PIL import Image

    source, target = tmp_path / "result.json", tmp_path / "roofline.png"
    source.write_text(json.dumps(record("gpuroi-cpu", "gpuroi-cuda")), encoding="utf-8")
    assert plot.main([str(source), "--roofline", "--out", str(target)]) == 0
    with Image.open(target) as image:
        colours = {c for _, c in image.convert("RGB").getcolors(maxcolors=1 << 20) or []}
    assert {(0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73)} <= colours
    nothing = copy.deepcopy(record())
    with pytest.raises(SystemExit, match="no case of ours"):
        roofline.draw_roofline(nothing, target)


def test_a_size_that_is_gone_has_vanished() -> None:
    full = record("gpuroi-cuda")
    device = {**full, "size": {"name": "device"}}
    limits = {"relative": 0.1, "absolute_ms": 0.1}
    assert not any(row.bad for row in compare.compare([full, device], [device, full], **limits) if row.case != "c")
    gone = compare.compare([full, device], [full], **limits)
    assert {row.case for row in gone if row.verdict == "vanished"} == {"a", "b", "c"}
    assert compare.compare([device], [full], **limits) == []


def test_what_needs_a_package_that_is_not_there_is_absent_and_no_failure() -> None:
    import dataclasses

    from benchmarks.cases import CASES
    from benchmarks.inputs import SIZES
    from benchmarks.run import flawed, measure_case
    from gpuroi.backends import get_backend
    from gpuroi.parcels.scikit_learn import MissingPackageError

    def lacking(*_: Any) -> Any:
        raise MissingPackageError("Ward's clustering needs scikit-learn, which is not installed", "pip install it")

    case = dataclasses.replace(CASES[0], ours=lacking, peers={})
    row = measure_case(case, SIZES["tiny"], {"gpuroi-cpu": get_backend("cpu")}, {"cpu"}, repeats=1, bandwidth={})
    assert "needs scikit-learn" in row["implementations"]["gpuroi-cpu"]["absent"]
    assert flawed({"cases": [row]}) == []
