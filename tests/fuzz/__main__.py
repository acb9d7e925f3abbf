"""The long run: many inputs of every target, in child processes with little memory, into one JSON record."""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, commit, machine, packages

from .judge import FAULTS, FINE, MOST_SECONDS, input_of, judge
from .run import Tally, run
from .targets import TARGETS

_MEMORY = 1 << 31  # address space beyond what the imported modules take
_PIECE = 2000
_MOST_SECONDS_A_PIECE = 600


def main(words: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if an input was read wrongly, crashed a reader, or took too long or too much."""
    options = _parse(words)
    if options.child:
        return _child(options)
    if options.only is not None:
        return _show(options)
    names = [options.target] if options.target else list(TARGETS)
    started = time.perf_counter()
    shares = sum(TARGETS[name].share for name in names)
    tallies = []
    for name in names:
        n = -(-options.inputs * TARGETS[name].share // shares)
        tallies.append(_run_in_children(name, options.seed, n))
        print(f"{name:14s} {n:6d} inputs  {tallies[-1].outcomes}  longest {tallies[-1].longest_s:.2f} s", flush=True)
    record = _record(tallies, options, time.perf_counter() - started)
    if options.out is not None:
        options.out.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"written: {options.out}")
    for fault in record["faults"]:
        print(f"{fault['target']} {fault['input']}: {fault['outcome']}: {fault['detail']}", file=sys.stderr)
    return 1 if record["faults"] else 0


def _record(tallies: list[Tally], options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    total = {name: sum(tally.outcomes.get(name, 0) for tally in tallies) for name in (*FINE, *FAULTS)}
    return {
        "format": 1,
        "kind": "soak",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": f"python -m tests.fuzz --inputs {options.inputs} --seed {options.seed}",
        "machine": machine(None),
        "packages": packages(),
        "commit": commit(options.commit),
        "seed": options.seed,
        "limits": {"seconds": MOST_SECONDS, "address_space_bytes": _MEMORY},
        "inputs": sum(total.values()),
        "outcomes": total,
        "longest_s": max(tally.longest_s for tally in tallies),
        "largest_bytes": max(tally.largest_bytes for tally in tallies),
        "targets": {
            tally.target: {key: value for key, value in tally.as_dict().items() if key not in ("faults", "target")}
            for tally in tallies
        },
        "faults": [{"target": tally.target, **fault} for tally in tallies for fault in tally.faults],
        "seconds": round(seconds, 1),
    }


def _run_in_children(name: str, seed: int, n: int) -> Tally:
    """Judge inputs 0..n, piece by piece; an input that kills its process is noted, and the next ones follow."""
    tally, start = Tally(name), 0
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress"
        while start < n:
            stop = min(n, start + _PIECE)
            progress.unlink(missing_ok=True)
            words = ["--child", "--target", name, "--seed", str(seed), "--range", str(start), str(stop)]
            command = [sys.executable, "-m", "tests.fuzz", *words, "--progress", str(progress)]
            try:
                child = subprocess.run(
                    command, cwd=ROOT, capture_output=True, text=True, timeout=_MOST_SECONDS_A_PIECE, check=False
                )
                said = child.stdout if child.returncode == 0 else ""
                reason = f"exit code {child.returncode}: {child.stderr[-300:]}"
            except subprocess.TimeoutExpired:
                said, reason = "", f"no end within {_MOST_SECONDS_A_PIECE} s"
            if said:
                tally.add(json.loads(said.splitlines()[-1]))
                start = stop
                continue
            if not progress.exists():
                raise SystemExit(f"{name}: {reason}")
            culprit = int(progress.read_text())
            tally.add(Tally(name, {"killed": 1}, faults=[_killed(culprit, reason)]).as_dict())
            if culprit > start:  # what came before it, again: its counts are gone
                tally.add(run(TARGETS[name], seed, range(start, culprit)).as_dict())
            start = culprit + 1
    return tally


def _killed(number: int, reason: str) -> dict[str, Any]:
    return {"input": number, "outcome": "killed", "detail": reason}


def _child(options: argparse.Namespace) -> int:
    logging.disable(logging.CRITICAL)  # nibabel and we warn of what is odd, thousands of times
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
    tally = run(TARGETS[options.target], options.seed, range(*options.range), progress=options.progress)
    print(json.dumps(tally.as_dict()))
    return 0


def _show(options: argparse.Namespace) -> int:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    case = input_of(TARGETS[options.target], options.seed, options.only, folder)
    verdict = judge(case)
    print(f"{verdict}\nfiles, if there are any: {folder}")
    if verdict.outcome == "error":
        case.read()
    return 1 if verdict.is_fault else 0


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=50_000, help="in all, shared out over the targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=list(TARGETS), help="this one alone")
    parser.add_argument("--only", type=int, help="read one input of a target again, and say what becomes of it")
    parser.add_argument("--out", type=Path, help="where the record goes")
    parser.add_argument("--commit", help="hash of the checkout, where it has no history")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--range", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
