"""Tables of the benchmarks page, from the result files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.readme import block
from benchmarks.records import machine_text

__all__ = ["error_tables", "speed_tables"]

_RESULTS = ROOT / "benchmarks" / "results"
_STATISTICS = {"max_t": "maximum", "size": "cluster extent", "mass": "cluster mass", "tfce": "TFCE"}


def speed_tables() -> str:
    """Runtimes beside those of peers: one table for each record."""
    return block(list(_files("benchmarks", "gpu-check")), ROOT / "docs")


def error_tables() -> str:
    """Shares of data sets without an effect in which something was found: one table for each file."""
    files = _files("fwe-calibration", "parcel-fwe")
    return "\n\n".join("\n".join(_error_table(file)) for file in files)


def _files(*kinds: str) -> Iterator[Path]:
    for file in sorted(_RESULTS.glob("*.json")):
        if json.loads(file.read_text(encoding="utf-8"))["kind"] in kinds:
            yield file


def _error_table(file: Path) -> Iterator[str]:
    record = json.loads(file.read_text(encoding="utf-8"))
    found = record["familywise_error"]
    yield f"| data | {' | '.join(_STATISTICS.values())} | exact test |"
    yield f"|---|{'---:|' * len(_STATISTICS)}---|"
    for what, shares, lower, upper in _error_rows(found):
        yield f"| {what} | {' | '.join(f'{share:.1%}' for share in shares)} | {lower:.1%} to {upper:.1%} |"
    yield ""
    yield f"{found['n_sets']} data sets each, on {machine_text(record['machine'], cuda=False)}; {record['date'][:10]},"
    yield f"by `{record['command']}`. Source: [`{file.name}`](../benchmarks/results/{file.name})."


def _error_rows(found: dict[str, Any]) -> Iterator[tuple[str, list[float], float, float]]:
    """What was tested, the share of each statistic, and between which shares an exact test lies."""
    atlases = found.get("atlases", {"": found})
    for atlas, tested in atlases.items():
        for design, row in tested["designs"].items():
            limits = row if "lower" in row else found
            statistics = row.get("statistics", row)
            what = f"{atlas}: {design}" if atlas else design
            yield what, [statistics[name]["share"] for name in _STATISTICS], limits["lower"], limits["upper"]
