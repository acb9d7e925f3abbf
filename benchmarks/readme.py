"""Write the table of benchmarks into README.md from result files, or check that it is what they say.

python -m benchmarks.readme benchmarks/results/cpu-full-2026-11-21.json [more.json ...]
python -m benchmarks.readme --check
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import OURS
from benchmarks.machine import ROOT
from benchmarks.records import input_text, load, machine_text, package_text

__all__ = ["block", "main", "sources"]

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
_SOURCE = re.compile(r"^Source: \[`([^`]+)`\]", re.MULTILINE)


def main(words: Sequence[str] | None = None) -> int:
    """Command line; with --check returns 1 if the table is not what its result files say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "results", type=Path, nargs="*", help="result files, a table each; with --check: those named there"
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the README is out of date")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args(words)
    text = options.readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        print(f"{options.readme}: expected one {BEGIN} before one {END}", file=sys.stderr)
        return 65
    before, _, rest = text.partition(BEGIN)
    now, _, after = rest.partition(END)
    folder = options.readme.resolve().parent
    files = options.results or [folder / name for name in sources(now)]
    if not files:
        print(
            f"{options.readme}: names no result file; write the table: python -m benchmarks.readme FILE",
            file=sys.stderr,
        )
        return 1 if options.check else 2
    wanted = f"\n{block(files, folder)}\n"
    if options.check:
        if now == wanted:
            return 0
        print(
            f"{options.readme}: the table is not what its results say; run: python -m benchmarks.readme FILE",
            file=sys.stderr,
        )
        return 1
    options.readme.write_text(f"{before}{BEGIN}{wanted}{END}{after}", encoding="utf-8")
    return 0


def block(files: Sequence[Path], folder: Path) -> str:
    """The text between the markers: one table for each record of each file, with what it was measured on."""
    parts = []
    for file in files:
        name = Path(os.path.relpath(file.resolve(), folder)).as_posix()
        parts += ["\n".join(_section(record, name)) for record in load(file)]
    return "\n\n".join(parts)


def sources(text: str) -> list[str]:
    """Result files that the tables of a text name, each once."""
    return list(dict.fromkeys(_SOURCE.findall(text)))


def _section(record: Mapping[str, Any], name: str) -> Iterator[str]:
    mine = _mine(record)
    cuda = mine == "gpuroi-cuda"
    yield f"| operation | input | {mine}, ms | others, ms (times longer) | error | of copy bandwidth |"
    yield "|---|---|---:|---|---|---:|"
    for case in record["cases"]:
        found = case["implementations"]
        others = [
            f"{other} {_ms(row)} ({case['ratios'][mine][other]:.3g}x)"
            for other, row in found.items()
            if other != mine and "times" in row and mine in case["ratios"]
        ]
        own = found.get(mine, {"absent": "not measured"})
        time = _ms(own) if "times" in own else own.get("absent") or "failed"
        cells = [case["what"], input_text(case["input"]), time, ", ".join(others) or "-", _error(own), _share(own)]
        yield f"| {' | '.join(cells)} |"
    yield ""
    machine = record["machine"]
    yield f"Measured on {machine_text(machine, cuda=cuda)}, with {machine['threads']} threads of gpuroi;"
    yield f"{package_text(record)};"
    yield f"{_commit(record['commit'])}, {record['date'][:10]}, by `{record['command']}`."
    yield f"Medians of {record['repeats']} samples, taken in turns after a warm-up. The error is against NumPy and"
    yield "SciPy in float64: the largest difference over the largest value; for labels, masks and thresholds the share"
    yield "that differs; for probabilities the largest difference. Bandwidth: the input read once and the output"
    yield "written once, against a copy in memory in the same run."
    if any("steps" in row for case in record["cases"] for row in case["implementations"].values()):
        yield "A permutation is the difference between a long and a short run, divided by that of their lengths: setup"
        yield "is not in it, and stands in the file. TFCE is compared with a sum over 400 steps, itself 0.3 % from the"
        yield "integral."
    yield f"Source: [`{name}`]({name})."


def _mine(record: Mapping[str, Any]) -> str:
    """CUDA, if it was measured, else the CPU."""
    measured = {n for case in record["cases"] for n, row in case["implementations"].items() if "times" in row}
    return OURS[1] if OURS[1] in measured else OURS[0]


def _ms(row: Mapping[str, Any]) -> str:
    return f"{row['times']['median_ms']:.3g}"


def _error(row: Mapping[str, Any]) -> str:
    """The largest of the errors; that of a probability is absolute."""
    found = [e[e["measure"]] for e in row.get("errors", {}).values() if "measure" in e]
    if not found:
        return "-"
    return "0" if max(found) == 0 else f"{max(found):.0e}"


def _share(row: Mapping[str, Any]) -> str:
    share = row.get("of_copy_bandwidth")
    return "-" if share is None else f"{100 * share:.2g} %"


def _commit(commit: Mapping[str, Any]) -> str:
    if not commit["hash"]:
        return "commit unknown"
    return f"commit {commit['hash'][:10]}{' with changes' if commit['dirty'] else ''}"


if __name__ == "__main__":
    sys.exit(main())
