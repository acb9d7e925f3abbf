"""The long run: every fault many times, into one JSON record."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, commit, machine, packages

from .faults import FAULTS, STAGES, Happened
from .screening import bench


def main(words: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if a fault left anything but the old or the new results, or was not told clearly."""
    options = _parse(words)
    started = time.perf_counter()
    happened: list[Happened] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, bench(Path(folder), options.seed) as place:
        for name in options.fault or FAULTS:
            fault, n = FAULTS[name]
            before = time.perf_counter()
            for one in fault(place, max(1, round(n * options.share))):
                happened.append(one)
                if one.wrong:
                    print(f"{one.fault}, {one.case}: {one.wrong}", file=sys.stderr, flush=True)
            print(f"{name:22s} {time.perf_counter() - before:6.1f} s  {len(happened)} faults in all", flush=True)
        record = _record(happened, options, time.perf_counter() - started)
        text = json.dumps(record, indent=1, sort_keys=True).replace(folder, "")
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
        print(f"written: {options.out}")
    return 1 if record["faults"] else 0


def _record(happened: list[Happened], options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    killed = [one for one in happened if one.fault.startswith("killed") and one.code != 0]
    return {
        "format": 1,
        "kind": "soak-faults",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": f"python -m tests.soak --seed {options.seed} --share {options.share:g}",
        "machine": machine(None),
        "packages": packages(),
        "commit": commit(options.commit),
        "seed": options.seed,
        "done": dict(Counter(one.fault for one in happened)),
        "exit_codes": {
            fault: {str(code): n for code, n in sorted(Counter(o.code for o in happened if o.fault == fault).items())}
            for fault in dict.fromkeys(one.fault for one in happened)
        },
        "kills": {group: sum(one.stage in stages for one in killed) for group, stages in STAGES.items()},
        "cases": [one.as_dict() for one in happened],
        "faults": [one.as_dict() for one in happened if one.wrong],
        "seconds": round(seconds, 1),
    }


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="how much of the long run")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="this one alone; may be given again")
    parser.add_argument("--out", type=Path, help="where the record goes")
    parser.add_argument("--commit", help="hash of the checkout, where it has no history")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    sys.exit(main())
