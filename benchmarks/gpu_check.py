"""Check and measure gpuroi on a machine with a CUDA device, into one JSON file.

    python -m benchmarks.gpu_check [--steps tests,kernels,sanitizer,benchmarks] [--out FILE]

* tests: the conformance suite on the device
* kernels: every kernel at full size against the CPU backend
* sanitizer: the kernels under compute-sanitizer, where it is installed
* benchmarks: the table of cases, at the full size beside the CPU and at the size that fills a GPU

Needs gpuroi, CuPy, pytest and hypothesis; no network, and none of the peers. Without a device: exit 69 and the reason.
Steps that are run later with the same --out, on the same commit and device, join the same file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.inputs import SIZES
from benchmarks.kernels import compare_kernels
from benchmarks.machine import ROOT, commit, machine, packages
from benchmarks.run import RESULTS, find_backends, flawed, measure, write
from gpuroi.backends import Backend
from gpuroi.errors import DeviceError

__all__ = ["STEPS", "check", "main", "problems"]

STEPS = ("tests", "kernels", "sanitizer", "benchmarks")
_TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
# What the extras of the project bring: a bare machine with CuPy need not have it.
_PEERS = {
    "PIL", "cc3d", "dask", "deflate", "distributed", "isal", "jinja2", "matplotlib", "mpmath", "networkx", "nilearn",
    "numcodecs", "numpydoc", "polars", "pytest_benchmark", "skimage", "sklearn", "statsmodels", "tfce", "yaml", "zarr",
    "zlib_ng",
}  # fmt: skip
_TIMEOUT_S = 3600


def main(words: Sequence[str] | None = None) -> int:
    """Command line; 0 all well, 1 something failed or is out of tolerance, 69 no device."""
    options = _parse(words)
    try:
        backends = find_backends({"cpu", "cuda"}, demanded=True)
    except DeviceError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return error.exit_code
    steps = [step for step in STEPS if step in options.steps]
    record = check(
        backends, steps, sizes=options.sizes, repeats=options.repeats, tests=options.tests, given_commit=options.commit
    )
    target = options.out or RESULTS / _file_name(record)
    record = _joined(target, record)
    write(record, target)
    print(f"written: {target}")
    found = problems(record)
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


def check(
    backends: Mapping[str, Backend],
    steps: Sequence[str],
    *,
    sizes: Sequence[str] = ("full", "device"),
    repeats: int = 5,
    tests: Sequence[str] = ("tests",),
    given_commit: str | None = None,
) -> dict[str, Any]:
    """Run the steps and return the record.

    Parameters
    ----------
    backends : mapping
        "gpuroi-cpu" and "gpuroi-cuda".
    steps : sequence of names from `STEPS`
    sizes : sequence of str
        Of the benchmarks; the kernels run at the first. At "device" only what fills a GPU runs, beside CuPy and cuCIM.
    repeats : int
    tests : sequence of str
        Files or folders for pytest, of which the tests marked `cuda` run.
    given_commit : str, optional
        For checkouts without history.
    """
    cuda, cpu = backends["gpuroi-cuda"], backends["gpuroi-cpu"]
    record: dict[str, Any] = {
        "format": 1,
        "kind": "gpu-check",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.gpu_check",
        "machine": machine(cuda),
        "packages": packages(),
        "commit": commit(given_commit),
    }
    for step in steps:
        print(f"== {step}", flush=True)
        if step == "tests":
            record[step] = _run_tests(tests)
        elif step == "kernels":
            record[step] = compare_kernels(cuda, cpu, SIZES[sizes[0]])
        elif step == "sanitizer":
            record[step] = _sanitize()
        else:
            record[step] = [_benchmark(name, backends, repeats, given_commit) for name in sizes]
        cuda.release()
    return record


def problems(record: Mapping[str, Any]) -> list[str]:
    """All that went wrong, a line each."""
    found = []
    tests = record.get("tests")
    if tests is not None:
        found += [f"test failed: {name}" for name in tests["failures"]]
        if tests["passed"] == 0 or (tests["exit_code"] != 0 and not tests["failures"] and not tests["not_collected"]):
            found.append(f"tests: pytest ended with {tests['exit_code']}, {tests['passed']} passed\n{tests['tail']}")
    for row in record.get("kernels", []):
        if not row["conforms"]:
            reason = row.get("failed") or f"error {row['error']:.3g}, limit {row['limit']:.3g}"
            found.append(f"kernel {row['field']} ({row['variant']}): {reason}")
    for tool, run in record.get("sanitizer", {}).get("tools", {}).items():
        if run["exit_code"] != 0:
            found.append(f"compute-sanitizer {tool} ended with {run['exit_code']}\n{run['tail']}")
    for part in record.get("benchmarks", []):
        found += [f"{part['size']['name']}: {problem}" for problem in flawed(part)]
    return found


def _run_tests(paths: Sequence[str]) -> dict[str, Any]:
    """Run the tests marked `cuda` on the device, and count what came of them.

    Files that cannot be imported because a peer is not installed are listed, and are no failure: the conformance
    suite needs none of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # The options of pyproject.toml name plugins that this machine need not have.
        options = [
            "-c",
            str(ROOT / "pyproject.toml"),
            "--rootdir",
            str(ROOT),
            "-o",
            "addopts=--strict-markers --import-mode=importlib",
            "--continue-on-collection-errors",
            "-q",
        ]
        command = [sys.executable, "-m", "pytest", *paths, "-m", "cuda", *options, f"--junitxml={report}"]
        code, tail, seconds = _call(command, {"GPUROI_TEST_CUDA": "1"})
        counts = _count(report)
    return {**counts, "exit_code": code, "seconds": seconds, "tail": tail}


def _count(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "failures": [], "skips": [], "not_collected": []}
    if not report.exists():
        return found
    for case in ElementTree.parse(report).getroot().iter("testcase"):  # written by our own pytest
        name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
        failure = next((child for child in case if child.tag in ("failure", "error")), None)
        skip = case.find("skipped")
        if failure is not None and _lacks_peer(failure.text or ""):
            found["not_collected"].append(name)
        elif failure is not None:
            found["failed"] += 1
            found["failures"].append(f"{name}: {_reason(failure)}"[:500])
        elif skip is not None:
            found["skipped"] += 1
            found["skips"].append(f"{name}: {skip.get('message', '')}"[:200])
        else:
            found["passed"] += 1
    return found


def _reason(failure: ElementTree.Element) -> str:
    message = failure.get("message", "")
    lines = (failure.text or "").strip().splitlines()
    return lines[-1] if message == "collection failure" and lines else message


def _lacks_peer(text: str) -> bool:
    missing = re.search(r"No module named '(\w+)", text)
    return missing is not None and missing[1] in _PEERS


def _sanitize() -> dict[str, Any]:
    """Run the kernels, tiny, under each tool of compute-sanitizer."""
    program = shutil.which(
        "compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    )
    if program is None:
        return {"absent": "compute-sanitizer is not installed", "tools": {}}
    tools = {}
    for tool in _TOOLS:
        inner = [sys.executable, "-m", "benchmarks.kernels", "--size", "tiny", "--no-pool"]
        code, tail, seconds = _call([program, "--tool", tool, "--error-exitcode", "99", *inner], {})
        tools[tool] = {"exit_code": code, "seconds": seconds, "tail": tail}
        print(f"{tool}: {code}", flush=True)
    return {"tools": tools}


def _benchmark(name: str, backends: Mapping[str, Backend], repeats: int, given_commit: str | None) -> dict[str, Any]:
    fills = name == "device"
    groups = {"cuda", "peers"} if fills else {"cpu", "cuda", "peers"}
    record = measure(SIZES[name], backends, groups, repeats=repeats, device_batch=fills, given_commit=given_commit)
    record["command"] = "python -m benchmarks.gpu_check"
    return record


def _call(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str, float]:
    """Exit code, the end of the output, and seconds; a program that hangs is ended."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        code, text = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        code, text = 124, str(error.stdout or "")
    return code, text.replace(str(ROOT), ".")[-3000:], round(time.perf_counter() - start, 1)


def _joined(target: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Add the steps of an earlier part of the same check, if the file holds one."""
    try:
        before = json.loads(target.read_text(encoding="utf-8"))
        same = all(before[key] == record[key] for key in ("kind", "commit", "machine", "packages"))
    except (OSError, ValueError, KeyError, TypeError):
        return record
    return {**before, **record} if same else record


def _file_name(record: Mapping[str, Any]) -> str:
    device = re.sub(r"[^a-z0-9]+", "-", record["machine"]["gpu"]["name"].lower()).strip("-")
    return f"gpu-{device}-{record['date'][:10]}.json"


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    def listed(allowed: Sequence[str]) -> Any:
        def split(text: str) -> list[str]:
            names = [name.strip() for name in text.split(",")]
            unknown = [name for name in names if name not in allowed]
            if unknown:
                raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(allowed)}")
            return names

        return split

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=listed(STEPS), default=list(STEPS), help=f"of {','.join(STEPS)} (default: all)")
    parser.add_argument("--sizes", type=listed(tuple(SIZES)), default=["full", "device"], help="default: full,device")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="files or folders for pytest (default: tests)")
    parser.add_argument("--repeats", type=int, default=5, help="samples of each implementation (default: 5)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/gpu-DEVICE-DATE.json")
    parser.add_argument("--commit", help="commit to record where the checkout has no history")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
