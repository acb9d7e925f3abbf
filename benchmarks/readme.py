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

from benchmarks.cases import CASES, OURS, SUBJECTS
from benchmarks.machine import ROOT
from benchmarks.records import input_text, load, machine_text, package_text

__all__ = ["block", "main", "sources"]

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
_SOURCE = re.compile(r"Source: \[`([^`]+)`\]")


def main(words: Sequence[str] | None = None) -> int:
    """Command line; with --check returns 1 if the table is not what its result files say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, nargs="*", help="result files; with --check: those named there")
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
    wanted = f"\n{block(files, folder, main_only=True)}\n"
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


def block(files: Sequence[Path], folder: Path, *, main_only: bool = False) -> str:
    """The text between the markers: a table for each subject, then what each record was measured on.

    Parameters
    ----------
    files : sequence of path
        Result files; each may hold several records.
    folder : path
        Where the text will stand: links are relative to it.
    main_only : bool, default False
        Only the rows of the main cases.
    """
    names = [Path(os.path.relpath(file.resolve(), folder)).as_posix() for file in files]
    runs = [(record, name) for file, name in zip(files, names, strict=True) for record in load(file)]
    records = [record for record, _ in runs]
    _refuse_unknown(runs)
    implementations = [mine for mine in OURS if mine in map(_mine, records)]
    tables = [
        "\n".join(_table(subject, mine, records, main_only=main_only))
        for mine in reversed(implementations)
        for subject in SUBJECTS
    ]
    return "\n\n".join([*filter(None, tables), "\n".join(_notes(records)), "\n".join(_runs(runs))])


def sources(text: str) -> list[str]:
    """Result files that the tables of a text name, each once."""
    return list(dict.fromkeys(_SOURCE.findall(text)))


def _refuse_unknown(runs: Sequence[tuple[Mapping[str, Any], str]]) -> None:
    """No row may vanish because its case was renamed."""
    known = {case.name for case in CASES}
    for record, name in runs:
        unknown = [row["name"] for row in record["cases"] if row["name"] not in known]
        if unknown:
            raise SystemExit(f"{name}: no case is called {', '.join(unknown)} any more; measure again")


def _table(subject: str, mine: str, records: Sequence[Mapping[str, Any]], *, main_only: bool) -> Iterator[str]:
    """The rows of a subject in the order of the cases, those of several runs below each other; nothing without any."""
    place = {case.name: (i, case) for i, case in enumerate(CASES)}
    found = [
        (*place[row["name"]], number, row)
        for number, record in enumerate(records, start=1)
        for row in record["cases"]
        if _mine(record) == mine
    ]
    rows = [
        (case, number, row)
        for _, case, number, row in sorted(found, key=lambda entry: (entry[0], entry[2]))
        if case.subject == subject and (case.main or not main_only)
    ]
    if not rows:
        return
    several = len(records) > 1
    yield f"### {subject.capitalize()}"
    yield ""
    yield f"| what | input | {mine}, ms | others, ms (times longer) | error | of copy bandwidth |{' run |' * several}"
    yield f"|---|---|---:|---|---|---:|{'---:|' * several}"
    for case, number, row in rows:
        yield f"| {' | '.join([case.what, *_cells(row, mine), *([str(number)] if several else [])])} |"


def _cells(row: Mapping[str, Any], mine: str) -> list[str]:
    found = row["implementations"]
    others = [
        f"{other} {_ms(theirs)} ({row['ratios'][mine][other]:.3g}x)"
        for other, theirs in found.items()
        if other != mine and "times" in theirs and mine in row["ratios"]
    ]
    own = found.get(mine, {"absent": "not measured"})
    time = _ms(own) if "times" in own else own.get("absent") or "failed"
    return [input_text(row["input"]), time, ", ".join(others) or "-", _error(own), _share(own)]


def _notes(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = [row for record in records for case in record["cases"] for row in case["implementations"].values()]
    yield "Medians of samples taken in turns after a warm-up. The error is against NumPy and SciPy in float64: the"
    yield "largest difference over the largest value; for labels, masks and thresholds the share that differs; for"
    yield "probabilities the largest difference. Bandwidth: the input read once and the output written once, against a"
    yield "copy in memory in the same run."
    if any("steps" in row for row in rows):
        yield "A permutation, or an iteration, is the difference between a long and a short run, divided by that of"
        yield "their lengths: setup is not in it, and stands in the file. TFCE is compared with a sum over 400 steps,"
        yield "itself 0.3 % from the integral."


def _runs(runs: Sequence[tuple[Mapping[str, Any], str]]) -> Iterator[str]:
    """A line for each record: machine, packages, command, file."""
    for number, (record, name) in enumerate(runs, start=1):
        machine, cuda = record["machine"], _mine(record) == OURS[1]
        words = [
            f"{machine_text(machine, cuda=cuda)}, with {machine['threads']} threads of gpuroi; {package_text(record)};",
            f"{_commit(record['commit'])}, {record['date'][:10]}, {_samples(record)}, by `{record['command']}`.",
            f"Source: [`{name}`]({name}).",
        ]
        yield f"{f'{number}.' if len(runs) > 1 else 'Measured on'} {' '.join(words)}"


def _samples(record: Mapping[str, Any]) -> str:
    """How many samples a median is of; slow peers have fewer."""
    counts = {
        row["times"].get("samples", record["repeats"])
        for case in record["cases"]
        for row in case["implementations"].values()
        if "times" in row
    }
    fewer = min(counts, default=record["repeats"])
    slow = f" ({fewer} of peers that take more than a second)" if fewer < record["repeats"] else ""
    return f"{record['repeats']} sample{'s' * (record['repeats'] > 1)}{slow}"


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
