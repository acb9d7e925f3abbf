"""The benchmarks: every case gives the right answer, and results cannot silently rot."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rig import standin
from rig.host_kernels import CompilerMissing, compiler

from benchmarks import compare, gpu_check, peers, plot, readme, run, start_up
from benchmarks.cases import CASES, DEVICE_PEERS, OURS, Case, judge
from benchmarks.drop_ins import by_gpuroi
from benchmarks.inputs import SIZES, brain_mask, map_batch
from benchmarks.kernels import KERNELS, compare_kernels
from benchmarks.machine import ROOT
from benchmarks.measure import differences, take_turns
from benchmarks.records import input_text
from benchmarks.run import find_backends, flawed, measure, measure_case
from benchmarks.run import main as run_main
from benchmarks.settings import Later, Steps
from gpuroi.backends import Backend, get_backend
from gpuroi.backends.probe import CudaDevice, CudaStatus

TINY = SIZES["tiny"]


@pytest.fixture
def standin_backends() -> Iterator[dict[str, Backend]]:
    """CPU, and CUDA on the stand-in."""
    try:
        compiler()
    except CompilerMissing as missing:
        pytest.skip(str(missing))
    with standin.installed():
        from gpuroi.backends.cuda import cuda_backend

        yield {"gpuroi-cpu": get_backend("cpu"), "gpuroi-cuda": cuda_backend(0)}


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """A measured record of three cases, without the packages that only the benchmark environment has."""
    return measure(TINY, {"gpuroi-cpu": get_backend("cpu")}, {"cpu", "peers"}, only="smooth_6mm,ttest*", repeats=3)


# ---- the cases


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_is_right(case: Case) -> None:
    backends = {"gpuroi-cpu": get_backend("cpu")}
    row = measure_case(case, TINY, backends, {"cpu", "peers"}, repeats=1, bandwidth={"cpu": 1e10})
    found = row["implementations"]
    assert found["gpuroi-cpu"]["conforms"], found["gpuroi-cpu"]
    ran = [name for name, r in found.items() if "absent" not in r]
    assert [found[name] for name in ran if not found[name].get("conforms")] == []
    assert set(ran) >= {"gpuroi-cpu"} | ({"scipy"} & set(case.peers))
    assert row["least_bytes_moved"] > 0
    for name in ran[1:]:
        medians = [found[n]["times"]["median_ms"] for n in ("gpuroi-cpu", name)]
        assert row["ratios"]["gpuroi-cpu"][name] == pytest.approx(medians[1] / medians[0], rel=1e-2)


@pytest.mark.kernels
@pytest.mark.parametrize("case", [case for case in CASES if not case.cpu_only], ids=lambda case: case.name)
def test_every_case_is_right_on_the_standin(
    case: Case, standin_backends: dict[str, Backend], monkeypatch: pytest.MonkeyPatch
) -> None:

    # Functions for images ask for their device by name, and a probe would find that the stand-in has no driver.
    found = CudaStatus(usable=True, devices=(CudaDevice("stand-in", "9.0", 1 << 30, None),))
    monkeypatch.setattr("gpuroi.backends.probe.probe", lambda: found)
    small = dataclasses.replace(
        TINY, shape=(9, 8, 7), maps=2, observations=8, labels=3, labelled_maps=2, files=2, run_shape=(10, 12, 9)
    )
    row = measure_case(case, small, standin_backends, {"cuda"}, repeats=1, bandwidth={})
    assert row["implementations"]["gpuroi-cuda"]["conforms"], row["implementations"]


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_a_wrong_answer_is_out_of_tolerance() -> None:
    case = next(c for c in CASES if c.name == "label_6")
    maps = case.make(TINY)
    reference = case.reference(maps)
    wrong = {"labels": reference["labels"].copy(), "counts": reference["counts"]}
    assert judge(case, OURS[0], wrong, reference)[1]
    wrong["labels"][0, 3, 4, 5] += 1
    errors, fine = judge(case, OURS[0], wrong, reference)
    assert not fine
    assert errors["labels"]["differing"] == pytest.approx(1 / reference["labels"].size)


def test_an_output_of_ours_that_is_missing_is_no_conformance() -> None:
    case = next(c for c in CASES if c.name == "ttest_ind")
    reference = {key: np.zeros(3) for key in case.checks}
    partial = {key: np.zeros(3) for key in case.checks if key != "log10p"}
    assert not judge(case, OURS[0], partial, reference)[1]
    assert judge(case, "scipy", partial, reference)[1]


def test_differences_see_nan_and_infinity() -> None:
    want = np.array([1.0, np.nan, np.inf, -4.0])
    assert differences(want, want) == {"differing": 0.0, "max_abs": 0.0, "max_rel": 0.0}
    assert differences(np.array([1.0, 0.0, np.inf, -4.0]), want)["max_abs"] == np.inf
    assert differences(np.array([1.0, np.nan, 2.0, -4.0]), want)["max_abs"] == np.inf
    assert differences(np.array([1.0, np.nan, np.inf, -3.0]), want) == {
        "differing": 0.25,
        "max_abs": 1.0,
        "max_rel": 0.25,
    }
    assert differences(np.zeros(3), want)["max_rel"] == np.inf


def test_implementations_take_turns() -> None:
    order: list[str] = []
    calls = {name: (lambda n=name: order.append(n)) for name in "ab"}
    waits = {name: (lambda n=name: order.append(n.upper())) for name in "ab"}
    repeats = {"a": 3, "b": 2}
    seconds, loops = take_turns(calls, waits, repeats=repeats, least_s=0.01, warm_s={"a": 0.005, "b": 1.0})
    assert "".join(order) == "aaAbB" * 2 + "aaA"
    assert loops == {"a": 2, "b": 1}
    assert {name: len(s) for name, s in seconds.items()} == repeats


def test_slow_peers_have_two_samples_and_the_record_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SLOW_S", 0.0)
    case = next(c for c in CASES if c.name == "dilate_6")
    row = measure_case(case, TINY, {"gpuroi-cpu": get_backend("cpu")}, {"cpu", "peers"}, repeats=4, bandwidth={})
    counts = {name: r["times"]["samples"] for name, r in row["implementations"].items() if "times" in r}
    assert counts == {"gpuroi-cpu": 4, "scipy": 2}
    assert readme._samples({"repeats": 4, "cases": [row]}) == "4 samples (2 of peers that take more than a second)"


def test_an_output_can_be_worked_out_after_the_clock_has_stopped() -> None:
    case = next(c for c in CASES if c.name == "dilate_6")
    worked_out: list[int] = []
    later = Later(lambda: worked_out.append(1) or np.ones((1, 2, 2, 2), bool))
    assert worked_out == []
    assert judge(case, OURS[0], {"mask": later}, {"mask": np.ones((1, 2, 2, 2), bool)})[1]
    assert worked_out == [1]


def test_drop_ins_take_the_device_of_their_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUROI_DEVICE", "as before")
    seen: list[str] = []
    call = by_gpuroi(lambda made, library: lambda: seen.append(os.environ["GPUROI_DEVICE"]) or {"made": made})
    assert call(3, get_backend("cpu"))() == {"made": 3}
    assert seen == ["cpu"]
    assert os.environ["GPUROI_DEVICE"] == "as before"


def test_a_step_is_the_difference_between_two_lengths() -> None:
    done: list[int] = []
    steps = Steps(lambda n: done.append(n) or {}, 2, 12)
    assert [call() for call in run._parts("a", steps).values()] == [{}, {}]
    assert done == [2, 12]
    each, setup = run._per_step(steps, [12.0, 22.0, 1.0], [2.0, 4.0, 1.0])
    assert each == pytest.approx([1.0, 1.8, 1e-9])
    assert setup == pytest.approx([0.0, 0.4, 1.0])


def test_a_failing_implementation_is_recorded_and_counts() -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("broken on purpose")

    case = dataclasses.replace(CASES[0], ours=broken, peers={"scipy": broken})
    row = measure_case(case, TINY, {"gpuroi-cpu": get_backend("cpu")}, {"cpu", "peers"}, repeats=1, bandwidth={})
    assert all("broken on purpose" in r["failed"] for n, r in row["implementations"].items() if n != "gpuroi-cuda")
    assert len(flawed({"cases": [row]})) == 1


# ---- the inputs


def test_inputs_are_the_same_every_time_and_as_described() -> None:
    first, second = (map_batch(TINY, maps=25, labels=True, order=order) for order in "CF")
    np.testing.assert_array_equal(first.volumes, second.volumes)
    assert (first.describe()["order"], second.describe()["order"]) == ("C", "F")
    assert len(np.unique(first.volumes.reshape(25, -1), axis=0)) == 25  # no map twice: caches would tell lies
    assert first.labels is not None
    assert set(np.unique(first.labels)) == set(range(TINY.labels + 1))
    assert np.array_equal(first.labels > 0, first.mask)


def test_the_mask_is_as_large_as_a_brain() -> None:
    assert brain_mask((91, 109, 91)).sum() == pytest.approx(235_375, rel=0.01)


# ---- files, README, figure


def test_the_command_writes_a_whole_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "result.json"
    words = ["--cpu", "--tiny", "--only", "dilate_26", "--repeats", "2", "--out", str(target)]
    assert run_main(words) == 0
    found = json.loads(target.read_text())
    assert found["command"] == "python -m benchmarks.run --cpu --tiny --only 'dilate_26' --repeats 2"
    assert set(found) >= {"date", "size", "machine", "packages", "commit", "copy_bytes_per_s", "cases"}
    assert set(found["machine"]) >= {"cpu", "cores", "threads", "memory_gib", "system", "gpu"}
    assert [c["name"] for c in found["cases"]] == ["dilate_26"]
    times = found["cases"][0]["implementations"]["gpuroi-cpu"]["times"]
    assert times["min_ms"] <= times["q1_ms"] <= times["median_ms"] <= times["q3_ms"] <= times["max_ms"]
    assert "dilate_26" in capsys.readouterr().out


def test_the_table_is_written_and_checked(record: dict[str, Any], tmp_path: Path) -> None:
    result, page = tmp_path / "result.json", tmp_path / "README.md"
    result.write_text(json.dumps({**record, "command": "python -m benchmarks.run"}))
    page.write_text(f"before\n{readme.BEGIN}{readme.END}\nafter\n")
    check = ["--readme", str(page), "--check"]
    assert readme.main(check) == 1
    assert readme.main(["--readme", str(page), str(result)]) == 0
    assert readme.main(check) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert readme.sources(text) == ["result.json"]
    assert {row.split("|")[1].strip() for row in text.splitlines() if row.startswith("| ")} == {
        "what", *(case.what for case in CASES if case.main and case.name in {row["name"] for row in record["cases"]})
    }  # fmt: skip
    page.write_text(text.replace("scipy ", "scipy 1", 1))
    assert readme.main(check) == 1


def test_the_table_is_grouped_by_subject(tmp_path: Path) -> None:
    backends = {"gpuroi-cpu": get_backend("cpu")}
    files = []
    for i, only in enumerate(["parcel_graph_*,dilate_26", "dilate_26,mean_img"]):
        made = measure(TINY, backends, {"cpu"}, only=only, repeats=1)
        files.append(tmp_path / f"{i}.json")
        files[i].write_text(json.dumps({**made, "command": "python -m benchmarks.run"}))
    lines = readme.block(files, tmp_path).splitlines()
    shown = [line for line in lines if line.startswith("###") or line.startswith("| ")]
    whats = [line.split("|")[1].strip() if line.startswith("|") else line for line in shown]
    assert whats == [
        "### Operations", "what", "binary dilation, 26 neighbours", "binary dilation, 26 neighbours",
        "### Images", "what", "`mean_img`",
        "### Parcels", "what", "graph of an atlas, 6 neighbours", "graph of an atlas, 26 neighbours",
    ]  # fmt: skip
    assert [line.split("|")[-2].strip() for line in shown if "dilation" in line] == ["1", "2"]  # both runs, told apart
    assert readme.sources("\n".join(lines)) == ["0.json", "1.json"]
    main = readme.block(files, tmp_path, main_only=True)
    assert "graph of an atlas, 6 neighbours" in main
    assert "graph of an atlas, 26 neighbours" not in main


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dilate_6", "20 x 22 x 18"),
        ("dilate_6_batch", "3 volumes of 20 x 22 x 18"),
        ("read_maps", "4 files of 20 x 22 x 18"),
        ("read_maps_int16", "4 files of 20 x 22 x 18, int16"),
        ("parcel_permutation", "16 x 8, 64 permutations"),
        ("ward", "48 x 880, 12 parcels"),
    ],
)
def test_inputs_in_a_few_characters(name: str, text: str) -> None:
    case = next(case for case in CASES if case.name == name)
    assert input_text(case.make(TINY).describe()) == text


def test_a_row_of_a_case_that_is_gone_is_refused(record: dict[str, Any], tmp_path: Path) -> None:
    renamed = copy.deepcopy(record)
    renamed["cases"][0]["name"] = "poem"
    (tmp_path / "old.json").write_text(json.dumps({**renamed, "command": "python -m benchmarks.run"}))
    with pytest.raises(SystemExit, match=r"old\.json: no case is called poem"):
        readme.block([tmp_path / "old.json"], tmp_path)


def test_every_peer_has_a_module_and_a_colour() -> None:
    names = {name for case in CASES for name in case.peers}
    assert {part for name in names for part in name.split("+")} <= set(peers.MODULES)
    assert names | set(OURS) <= set(plot._COLOURS)


def test_the_readme_says_what_its_results_say() -> None:
    assert readme.main(["--check"]) == 0, "write the table: python -m benchmarks.readme benchmarks/results/FILE.json"


def test_the_figure_is_drawn(record: dict[str, Any], tmp_path: Path) -> None:
    from PIL import Image

    target = tmp_path / "figure.png"
    plot.draw(record, target)
    with Image.open(target) as image:
        colours = {c for _, c in image.convert("RGB").getcolors(maxcolors=1 << 20) or []}
    assert {(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)} <= colours  # ours and SciPy's


# ---- comparing


def _slowed(record: dict[str, Any], factor: float, name: str = "gpuroi-cpu") -> dict[str, Any]:
    changed = copy.deepcopy(record)
    for case in changed["cases"]:
        times = case["implementations"][name]["times"]
        times["median_ms"] *= factor
    return changed


def _files(tmp_path: Path, *records: dict[str, Any]) -> list[str]:
    paths = [tmp_path / f"{i}.json" for i in range(len(records))]
    for path, content in zip(paths, records, strict=True):
        path.write_text(json.dumps(content))
    return [str(path) for path in paths]


def test_the_same_result_is_no_regression(record: dict[str, Any], tmp_path: Path) -> None:
    assert compare.main(_files(tmp_path, record, record)) == 0


def test_a_slowdown_fails_only_beyond_both_limits(record: dict[str, Any], tmp_path: Path) -> None:
    files = _files(tmp_path, record, _slowed(record, 2.0))
    assert compare.main([*files, "--absolute-ms", "0"]) == 1
    assert compare.main([*files, "--absolute-ms", "0", "--relative", "1.5"]) == 0
    assert compare.main([*files, "--absolute-ms", "1e6"]) == 0
    assert compare.main([*reversed(files), "--absolute-ms", "0"]) == 0  # faster


def test_a_slow_peer_is_no_regression_of_ours(record: dict[str, Any], tmp_path: Path) -> None:
    assert compare.main([*_files(tmp_path, record, _slowed(record, 9.0, "scipy")), "--absolute-ms", "0"]) == 0


def test_what_vanishes_fails(record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fewer = copy.deepcopy(record)
    gone = fewer["cases"].pop()
    assert compare.main(_files(tmp_path, record, fewer)) == 1
    assert f"{gone['name']}" in capsys.readouterr().out
    assert compare.main(_files(tmp_path, fewer, record)) == 0  # a new case is none
    absent = copy.deepcopy(record)
    absent["cases"][0]["implementations"]["scipy"] = {"absent": "scipy is not installed"}
    assert compare.main(_files(tmp_path, record, absent)) == 1
    failed = copy.deepcopy(record)
    failed["cases"][0]["implementations"]["gpuroi-cpu"] = {"failed": "RuntimeError"}
    assert compare.main(_files(tmp_path, record, failed)) == 1


def test_lost_accuracy_fails(record: dict[str, Any], tmp_path: Path) -> None:
    worse = copy.deepcopy(record)
    worse["cases"][0]["implementations"]["gpuroi-cpu"]["conforms"] = False
    assert compare.main(_files(tmp_path, record, worse)) == 1


def test_what_cannot_be_compared_says_so(record: dict[str, Any], tmp_path: Path) -> None:
    other = copy.deepcopy(record)
    other["size"]["name"] = "full"
    assert compare.main(_files(tmp_path, record, other)) == 65
    broken = tmp_path / "broken.json"
    broken.write_text('{"kind": "poem"}')
    with pytest.raises(SystemExit, match="65"):
        compare.main([str(broken), str(broken)])


# ---- the check on a GPU


def test_kernels_cover_every_operation_of_the_contract() -> None:
    fields = [f.name for f in dataclasses.fields(Backend)]
    assert {kernel.field for kernel in KERNELS} == set(fields[fields.index("stream") :])


@pytest.mark.kernels
def test_gpu_check_on_the_standin(standin_backends: dict[str, Backend], tmp_path: Path, monkeypatch: Any) -> None:
    small = dataclasses.replace(TINY, shape=(9, 8, 7), maps=2, observations=8, labels=3, labelled_maps=2)
    monkeypatch.setitem(SIZES, "tiny", small)
    monkeypatch.setattr(gpu_check, "measure", _only_dilation)
    suite = tmp_path / "test_suite.py"
    suite.write_text(_SUITE)
    absent = tmp_path / "test_absent.py"
    absent.write_text("import nilearn_that_is_missing\n")
    result = gpu_check.check(
        standin_backends, ["tests", "kernels", "benchmarks"], sizes=["tiny"], repeats=1, tests=[str(tmp_path)]
    )
    assert result["machine"]["gpu"]["name"] == "CUDA stand-in on the CPU"
    assert (result["tests"]["passed"], result["tests"]["failed"], result["tests"]["skipped"]) == (1, 2, 1)
    assert [row for row in result["kernels"] if not row["conforms"]] == []
    assert result["benchmarks"][0]["cases"][0]["implementations"]["gpuroi-cuda"]["conforms"]
    found = gpu_check.problems(result)
    assert len(found) == 2
    assert any("is broken" in problem for problem in found)
    assert any("nilearn_that_is_missing" in problem for problem in found)
    json.dumps(result)


def _only_dilation(size: Any, backends: Any, groups: set[str], **options: Any) -> dict[str, Any]:
    return measure(size, backends, groups - {"peers"}, only="dilate_6", **options)


_SUITE = """
import os
import pytest

@pytest.mark.cuda
def test_device():
    assert os.environ["GPUROI_TEST_CUDA"] == "1"

@pytest.mark.cuda
def test_broken():
    assert 1 == 2, "is broken"

@pytest.mark.cuda
def test_skipped():
    pytest.skip("a reason")

def test_of_the_cpu():
    raise AssertionError("is not selected")
"""


def test_a_missing_peer_is_told_from_a_broken_import() -> None:
    assert gpu_check._lacks_peer("E   ModuleNotFoundError: No module named 'skimage.measure'")
    assert not gpu_check._lacks_peer("E   ModuleNotFoundError: No module named 'gpuroi.ops'")


def test_kernels_that_differ_are_problems() -> None:
    row = {"field": "label", "variant": "6", "conforms": False, "error": 0.5, "limit": 0.0}
    (problem,) = gpu_check.problems({"kernels": [row]})
    assert "label" in problem
    sanitizer = {"tools": {"memcheck": {"exit_code": 99, "tail": "Invalid __global__ write"}}}
    (problem,) = gpu_check.problems({"sanitizer": sanitizer})
    assert "Invalid __global__ write" in problem


def test_a_kernel_that_raises_is_a_row(standin_backends: dict[str, Backend]) -> None:
    def broken(*_: Any) -> Any:
        raise MemoryError("no room")

    cuda = dataclasses.replace(standin_backends["gpuroi-cuda"], label=broken)
    small = dataclasses.replace(TINY, shape=(5, 6, 4), maps=1, observations=4, labels=2)
    rows = compare_kernels(cuda, standin_backends["gpuroi-cpu"], small)
    assert {row["field"] for row in rows if not row["conforms"]} == {"label"}


def test_steps_of_one_check_join_in_one_file(tmp_path: Path) -> None:
    target = tmp_path / "check.json"
    same = {"kind": "gpu-check", "commit": {"hash": "a"}, "machine": {}, "packages": {}}
    target.write_text(json.dumps({**same, "date": "1", "tests": {"passed": 3}}))
    joined = gpu_check._joined(target, {**same, "date": "2", "kernels": []})
    assert joined == {**same, "date": "2", "tests": {"passed": 3}, "kernels": []}
    other = {**same, "commit": {"hash": "b"}, "kernels": []}
    assert gpu_check._joined(target, other) == other


def test_without_a_device_the_check_ends_with_69(monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from gpuroi.errors import DeviceError

    def none(*_: Any, **__: Any) -> Any:
        raise DeviceError("no NVIDIA driver is visible", "in Docker add --gpus all")

    monkeypatch.setattr(gpu_check, "find_backends", none)
    assert gpu_check.main([]) == 69
    assert "no NVIDIA driver is visible" in capsys.readouterr().err


def test_device_peers_are_absent_without_a_device() -> None:
    backends = find_backends({"cpu"}, demanded=False)
    row = measure_case(CASES[0], TINY, backends, {"cuda", "peers"}, repeats=1, bandwidth={})
    assert {name: r["absent"] for name, r in row["implementations"].items()} == dict.fromkeys(
        ["gpuroi-cuda", *(p for p in CASES[0].peers if p in DEVICE_PEERS)], "no CUDA device"
    )


_OF_THEIR_OWN = (
    "cpu-screening-", "cpu-workers-", "fwe-calibration-", "large-store-", "parcel-", "scaling-", "soak-", "start-up-",
)  # fmt: skip
"""Results that are no records of `benchmarks.run`."""


def test_committed_results_are_readable_and_right() -> None:
    from benchmarks.records import load

    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        if path.name.startswith(_OF_THEIR_OWN):
            continue  # read by tests of their own
        records = load(path)
        assert [problem for r in records for problem in flawed(r)] == [], path
        assert str(ROOT) not in path.read_text(), path


def test_a_second_process_compiles_nothing() -> None:
    start_up.process()  # fills the cache, where that has not been done
    found = start_up.process()
    assert found["compiled"] == 0
    assert found["read_from_cache"] >= 4
