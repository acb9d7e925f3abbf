"""Compare two result files of one machine; exit 1 on regressions and on cases that have vanished.

python -m benchmarks.compare OLD.json NEW.json [--relative 0.15] [--absolute-ms 0.1]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import OURS
from benchmarks.records import load

__all__ = ["Row", "compare", "main"]

_BAD = ("slower", "vanished", "failed", "out of tolerance")


@dataclass(frozen=True)
class Row:
    """One implementation of one case, before and after."""

    case: str
    implementation: str
    old_ms: float | None
    new_ms: float | None
    verdict: str

    @property
    def bad(self) -> bool:
        return self.verdict in _BAD


def main(words: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if anything got worse, 65 if the files cannot be compared."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--relative", type=float, default=0.15, help="slower by more than this share (default: 0.15) ..."
    )
    parser.add_argument("--absolute-ms", type=float, default=0.1, help="... and by more than this, ms (default: 0.1)")
    options = parser.parse_args(words)
    rows = compare(load(options.old), load(options.new), relative=options.relative, absolute_ms=options.absolute_ms)
    if not rows:
        print(f"{options.old} and {options.new} have no size of input in common", file=sys.stderr)
        return 65
    print("\n".join(_table(rows)))
    bad = [row for row in rows if row.bad]
    print(f"{len(rows)} compared, {len(bad)} worse")
    return 1 if bad else 0


def compare(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], *, relative: float, absolute_ms: float
) -> list[Row]:
    """Judge every implementation that stands in either.

    Ours is slower when its median grew by more than both limits: `relative` alone would cry at microseconds,
    `absolute_ms` alone at seconds. Peers are compared too, but only their vanishing counts: a table without
    them says nothing. Records are matched by the size of their inputs; where one of several sizes is gone, all of its
    cases have vanished.
    """
    rows: list[Row] = []
    later = {record["size"]["name"]: record for record in new}
    if not any(before["size"]["name"] in later for before in old):
        return rows
    for before in old:
        after = later.get(before["size"]["name"])
        was, now = dict(_found(before)), {} if after is None else dict(_found(after))
        rows += [_judge(key, was.get(key), now.get(key), relative, absolute_ms) for key in dict.fromkeys([*was, *now])]
    return rows


def _found(record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
    for case in record["cases"]:
        for name, row in case["implementations"].items():
            if "absent" not in row:
                yield (case["name"], name), row


def _judge(
    key: tuple[str, str],
    old: Mapping[str, Any] | None,
    new: Mapping[str, Any] | None,
    relative: float,
    absolute_ms: float,
) -> Row:
    mine = key[1] in OURS
    old_ms, new_ms = _median(old), _median(new)
    verdict = "same"
    if new is None:
        verdict = "vanished"
    elif "failed" in new:
        verdict = "failed" if mine or old_ms is not None else "still fails"
    elif mine and not new["conforms"]:
        verdict = "out of tolerance"
    elif old_ms is None or new_ms is None:
        verdict = "new"
    elif new_ms - old_ms > max(absolute_ms, relative * old_ms):
        verdict = "slower" if mine else "peer slower"
    elif old_ms - new_ms > max(absolute_ms, relative * old_ms):
        verdict = "faster" if mine else "peer faster"
    return Row(*key, old_ms, new_ms, verdict)


def _median(row: Mapping[str, Any] | None) -> float | None:
    return None if row is None or "times" not in row else float(row["times"]["median_ms"])


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield f"{'case':28s} {'implementation':16s} {'old ms':>10s} {'new ms':>10s} {'new/old':>8s}"
    for row in rows:
        ratio = f"{row.new_ms / row.old_ms:8.2f}" if row.old_ms and row.new_ms else f"{'-':>8s}"
        times = " ".join(f"{'-' if t is None else format(t, '.4g'):>10s}" for t in (row.old_ms, row.new_ms))
        verdict = row.verdict.upper() if row.bad else row.verdict
        yield f"{row.case:28s} {row.implementation:16s} {times} {ratio}  {verdict}"


if __name__ == "__main__":
    sys.exit(main())
