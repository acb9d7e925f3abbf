"""Measure the cases, ours and the peers' in turn, and write one JSON file.

python -m benchmarks.run                     # everything that this machine can run
python -m benchmarks.run --cpu --peers --only 'label*' --repeats 15
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cases import DEVICE_PEERS, OURS, Case, absence, judge, prepare, select
from benchmarks.inputs import SIZES, Size
from benchmarks.machine import ROOT, commit, machine, packages
from benchmarks.measure import copy_bytes_per_s, matrix_flops_per_s, summary, take_turns
from benchmarks.settings import Steps
from gpuroi.backends import Backend, get_backend
from gpuroi.errors import DeviceError
from gpuroi.parcels.scikit_learn import MissingPackageError

__all__ = ["SLOW_REPEATS", "SLOW_S", "find_backends", "flawed", "main", "measure", "measure_case", "write"]

RESULTS = ROOT / "benchmarks" / "results"
_REPEATS = 7
SLOW_S = 1.0  # peers that take longer a call get fewer samples; each row of the record says how many
SLOW_REPEATS = 2
_LEAST_S = 0.005  # faster calls are repeated within a sample
_MATRIX = {"tiny": 64, "full": 2048, "large": 2048, "device": 8192}
_COPIED_BYTES = {"tiny": 1 << 20, "full": 1 << 28, "large": 1 << 28, "device": 1 << 31}


def main(words: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if an implementation of ours fails or is out of tolerance."""
    options = _parse(words)
    size = SIZES["tiny" if options.tiny else "large" if options.large else "full"]
    groups = {name for name in ("cpu", "cuda", "peers") if getattr(options, name)} or {"cpu", "cuda", "peers"}
    try:
        backends = find_backends(groups, demanded=options.cuda)
    except DeviceError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    record = measure(size, backends, groups, only=options.only, repeats=options.repeats, given_commit=options.commit)
    record["command"] = _command(options)
    target = options.out or (None if options.tiny else RESULTS / _file_name(record))
    if target is not None:
        write(record, target)
        print(f"written: {target}")
    problems = flawed(record)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def find_backends(groups: set[str], *, demanded: bool) -> dict[str, Backend]:
    """The backends by the name of our implementation; CUDA where there is a device, or an error if it is demanded."""
    backends = {"gpuroi-cpu": get_backend("cpu")}
    if groups & {"cuda", "peers"}:
        try:
            backends["gpuroi-cuda"] = get_backend("cuda")
        except DeviceError:
            if demanded:
                raise
    return backends


def measure(
    size: Size,
    backends: Mapping[str, Backend],
    groups: set[str],
    *,
    only: str | None = None,
    repeats: int = _REPEATS,
    device_batch: bool = False,
    given_commit: str | None = None,
) -> dict[str, Any]:
    """Run the cases and return the record; progress goes to the standard output.

    Parameters
    ----------
    size : Size
    backends : mapping
        As `find_backends` gives them.
    groups : set of {"cpu", "cuda", "peers"}
        What is run. Device peers need a CUDA backend.
    only : str, optional
        Pattern of case names.
    repeats : int, default 7
        Samples of each implementation; two of peers that take more than a second a call.
    device_batch : bool, default False
        Only the cases that fill a GPU.
    given_commit : str, optional
        For checkouts without history.
    """
    chosen = select(only, device_batch=device_batch)
    if not chosen:
        raise SystemExit(f'no case is called "{only}"; there are: {", ".join(c.name for c in select(None))}')
    cuda = backends.get("gpuroi-cuda")
    used = [b for name, b in backends.items() if name == "gpuroi-cpu" or "cuda" in groups]
    record: dict[str, Any] = {
        "format": 1,
        "kind": "benchmarks",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "size": asdict(size),
        "repeats": repeats,
        "machine": machine(cuda),
        "packages": packages(),
        "commit": commit(given_commit),
        "copy_bytes_per_s": {b.name: float(f"{copy_bytes_per_s(b, _COPIED_BYTES[size.name]):.4g}") for b in used},
        "matrix_flops_per_s": {b.name: _short(matrix_flops_per_s(b, _MATRIX[size.name])) for b in used},
        "cases": [],
    }
    for case in chosen:
        started = time.perf_counter()
        row = measure_case(
            case,
            size,
            backends,
            groups,
            repeats=repeats,
            bandwidth=record["copy_bytes_per_s"],
            matrix_rate=record["matrix_flops_per_s"],
        )
        record["cases"].append(row)
        print(_line(row), f"  [{time.perf_counter() - started:.0f} s]", flush=True)
        for backend in backends.values():
            backend.release()
    return record


def measure_case(
    case: Case,
    size: Size,
    backends: Mapping[str, Backend],
    groups: set[str],
    *,
    repeats: int,
    bandwidth: Mapping[str, float],
    matrix_rate: Mapping[str, float] | None = None,
    least_s: float | None = None,
) -> dict[str, Any]:
    """One row of the record: input, errors, times, ratios. What cannot run is there with its reason."""
    made = case.make(size)
    reference = case.reference(made)
    rows: dict[str, dict[str, Any]] = {}
    calls, warm_s = {}, {}
    for name in _names(case, groups):
        reason = absence(name, backends.get("gpuroi-cuda"))
        if reason is not None:
            rows[name] = {"absent": reason}
            continue
        try:
            calls[name] = prepare(case, name, made, backends)
            start = time.perf_counter()
            outputs = calls[name]()  # the first call compiles
            warm_s[name] = time.perf_counter() - start
            errors, fine = judge(case, name, outputs, reference)
            del outputs
            if name in OURS or warm_s[name] <= SLOW_S:
                start = time.perf_counter()
                calls[name]()
                _wait(name, backends)
                warm_s[name] = time.perf_counter() - start
            rows[name] = {"conforms": fine, "errors": errors}
        except MissingPackageError as error:  # one that only some functions of ours need
            calls.pop(name, None)
            rows[name] = {"absent": str(error).partition("\n")[0]}
        except Exception as error:  # a peer that fails is a finding, and one of ours an exit code of 1
            calls.pop(name, None)
            where = traceback.extract_tb(error.__traceback__)[-1]
            rows[name] = {
                "failed": f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"[:500]
            }
    del reference
    gc.collect()
    least = least_s if least_s is not None else 0.0 if size.name == "tiny" else _LEAST_S
    timed = {part: call for name in calls for part, call in _parts(name, calls[name]).items()}
    waits = {part: (lambda n=part[0]: _wait(n, backends)) for part in timed}
    samples = {p: repeats if p[0] in OURS or warm_s[p[0]] <= SLOW_S else min(repeats, SLOW_REPEATS) for p in timed}
    lasted, loops = take_turns(timed, waits, repeats=samples, least_s=least, warm_s={p: warm_s[p[0]] for p in timed})
    moved = case.traffic(made)
    flops = case.flops(made) if case.flops else None
    for name, call in calls.items():
        seconds = lasted[name, "long"]
        if isinstance(call, Steps):
            seconds, setup = _per_step(call, seconds, lasted[name, "short"])
            rows[name]["steps"] = {"short": call.short, "long": call.long, "setup_ms": summary(setup)["median_ms"]}
        rows[name]["times"] = {**summary(seconds), "samples": len(seconds), "loops": loops[name, "long"]}
        where = "cuda" if name in ("gpuroi-cuda", *DEVICE_PEERS) else "cpu"
        median_s = 1e-3 * rows[name]["times"]["median_ms"]
        if rate := bandwidth.get(where):
            rows[name]["of_copy_bandwidth"] = _short(moved / rate / median_s)
        if flops and (rate := (matrix_rate or {}).get(where)):
            rows[name]["of_matrix_rate"] = _short(flops / rate / median_s)
    return {
        "name": case.name,
        "what": case.what,
        "input": made.describe(),
        "least_bytes_moved": moved,
        **({"least_flops": flops} if flops else {}),
        "implementations": rows,
        "ratios": _ratios(rows),
    }


def flawed(record: Mapping[str, Any]) -> list[str]:
    """What went wrong with our own implementations."""
    problems = []
    for case in record["cases"]:
        for name, row in case["implementations"].items():
            if name in OURS and "failed" in row:
                problems.append(f"{case['name']}: {name} failed: {row['failed']}")
            elif name in OURS and row.get("conforms") is False:
                problems.append(f"{case['name']}: {name} is out of tolerance: {row['errors']}")
    return problems


def write(record: Mapping[str, Any], target: Path) -> None:
    """Write a record, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(target)


def _parts(name: str, call: Any) -> dict[tuple[str, str], Callable[[], Any]]:
    """What is timed of a call: itself, or two lengths of it."""
    if not isinstance(call, Steps):
        return {(name, "long"): call}
    return {(name, length): partial(call.run, getattr(call, length)) for length in ("short", "long")}


def _per_step(call: Steps, long: Sequence[float], short: Sequence[float]) -> tuple[list[float], list[float]]:
    """Seconds a step and seconds of setup, sample by sample."""
    # A difference can come out below zero where steps are short beside the noise; a clock has no finer tick than 1 ns.
    steps = [max((b - a) / (call.long - call.short), 1e-9) for a, b in zip(short, long, strict=True)]
    return steps, [max(a - call.short * step, 0.0) for a, step in zip(short, steps, strict=True)]


def _names(case: Case, groups: set[str]) -> list[str]:
    ours = [name for name, group in zip(OURS, ("cpu", "cuda"), strict=True) if group in groups]
    ours = [name for name in ours if name == OURS[0] or not case.cpu_only]
    peers = [name for name in case.peers if "peers" in groups]
    if groups == {"cuda", "peers"}:
        peers = [name for name in peers if name in DEVICE_PEERS]  # beside the device, what runs on the device
    return ours + peers


def _ratios(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """How many times longer each other implementation takes than ours: ratio of medians."""
    medians = {name: row["times"]["median_ms"] for name, row in rows.items() if "times" in row}
    return {
        mine: {name: _short(median / medians[mine]) for name, median in medians.items() if name != mine}
        for mine in OURS
        if mine in medians
    }


def _wait(name: str, backends: Mapping[str, Backend]) -> None:
    if name in ("gpuroi-cuda", *DEVICE_PEERS):
        backends["gpuroi-cuda"].xp.cuda.get_current_stream().synchronize()


def _line(row: Mapping[str, Any]) -> str:
    parts = [f"{row['name']:28s}"]
    for name, found in row["implementations"].items():
        if "times" in found:
            mark = "" if found["conforms"] else " (differs)"
            parts.append(f"{name} {found['times']['median_ms']:.4g} ms{mark}")
        elif "failed" in found:
            parts.append(f"{name} failed")
    return "  ".join(parts)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _file_name(record: Mapping[str, Any]) -> str:
    gpu = record["machine"]["gpu"]
    has_cuda = any("gpuroi-cuda" in case["implementations"] for case in record["cases"])
    device = re.sub(r"[^a-z0-9]+", "-", gpu["name"].lower()).strip("-") if gpu and has_cuda else "cpu"
    return f"{device}-{record['size']['name']}-{record['date'][:10]}.json"


def _command(options: argparse.Namespace) -> str:
    """The command that repeats this measurement, without what only says where the result goes."""
    words = ["python -m benchmarks.run"]
    words += [f"--{name}" for name in ("cpu", "cuda", "peers", "tiny", "large") if getattr(options, name)]
    words += [f"--only '{options.only}'"] if options.only else []
    words += [f"--repeats {options.repeats}"] if options.repeats != _REPEATS else []
    return " ".join(words)


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="gpuroi on the CPU (default: all three groups)")
    parser.add_argument("--cuda", action="store_true", help="gpuroi on the CUDA device; exit 69 without one")
    parser.add_argument("--peers", action="store_true", help="the other packages")
    parser.add_argument("--tiny", action="store_true", help="small inputs, to see that everything runs")
    parser.add_argument("--large", action="store_true", help="1000 observations, batches of 100 volumes")
    parser.add_argument("--only", metavar="PATTERN", help="names of cases: 'label*', or several: 'smooth*,roi'")
    parser.add_argument(
        "--repeats",
        type=int,
        default=_REPEATS,
        help=f"samples of each; {SLOW_REPEATS} of peers slower than {SLOW_S:g} s (default: {_REPEATS})",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/DEVICE-SIZE-DATE.json")
    parser.add_argument("--commit", help="commit to record where the checkout has no history")
    options = parser.parse_args(words)
    if options.repeats < 1:
        parser.error("--repeats must be 1 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
