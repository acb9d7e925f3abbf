"""Draw the runtimes of a result file: one bar an implementation, a group a case. Or its rooflines.

python -m benchmarks.plot benchmarks/results/cpu-full-2026-11-21.json [--roofline] [--out docs/images/FILE.png]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import OURS
from benchmarks.machine import ROOT
from benchmarks.records import input_text, load, machine_text
from benchmarks.roofline import draw_roofline

__all__ = ["draw", "main"]

IMAGES = ROOT / "docs" / "images"

# Okabe and Ito's colours, which the colour-blind can tell apart; ours is the dark one.
_COLOURS = {
    "gpuroi-cpu": "#0072B2", "gpuroi-cuda": "#009E73", "scipy": "#E69F00", "nilearn": "#CC79A7",
    "nilearn+scipy": "#CC79A7", "nilearn-jobs": "#882255", "cc3d": "#56B4E9", "tfce": "#44AA99",
    "nilearn-max-t": "#AA4499", "numpy": "#DDCC77", "scikit-learn": "#661100",
    "nibabel": "#999999", "cupy": "#D55E00", "cucim": "#F0E442",
}  # fmt: skip
_BAR_IN = 0.17  # height of a bar
_GAP_IN = 0.14  # between cases
_MARGIN_IN = 1.05  # below for the axis, above for the legend


def main(words: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--roofline", action="store_true", help="how near our implementations come to the hardware")
    parser.add_argument("--out", type=Path, help="default: docs/images/benchmarks_cpu.png, or roofline.png")
    options = parser.parse_args(words)
    target = options.out or IMAGES / ("roofline.png" if options.roofline else "benchmarks_cpu.png")
    (draw_roofline if options.roofline else draw)(load(options.results)[-1 if options.roofline else 0], target)
    print(f"written: {target}")
    return 0


def draw(record: Mapping[str, Any], target: Path) -> None:
    """Write the figure: milliseconds on a logarithmic axis, the spread from minimum to maximum as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = [(case, _measured(case)) for case in record["cases"]]
    groups = [(case, rows) for case, rows in groups if rows]
    height = sum(len(rows) * _BAR_IN + _GAP_IN for _, rows in groups)
    figure = Figure(figsize=(8.0, height + _MARGIN_IN))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.37, 0.65 / (height + _MARGIN_IN), 0.55, height / (height + _MARGIN_IN)))
    at, ticks, labels = 0.0, [], []
    for case, rows in groups:
        ticks.append(at + (len(rows) - 1) * _BAR_IN / 2)
        labels.append(f"{case['what']}\n{input_text(case['input'])}" if len(rows) > 1 else case["what"])
        own = next((row["times"]["median_ms"] for name, row in rows.items() if name in OURS), None)
        for name, row in rows.items():
            _bar(axes, at, name, row["times"], own)
            at += _BAR_IN
        at += _GAP_IN
    axes.set_ylim(at - _GAP_IN / 2 - _BAR_IN / 2, -_BAR_IN / 2 - _GAP_IN / 2)
    axes.set_yticks(ticks, labels, fontsize=7)
    _finish(axes, [row["times"] for _, rows in groups for row in rows.values()])
    names = dict.fromkeys(name for _, rows in groups for name in rows if name != "nilearn+scipy")
    handles = [axes.barh([0], [0], color=_COLOURS[name], label=name) for name in names]
    axes.legend(
        handles=handles,
        fontsize=7.5,
        frameon=False,
        ncols=6,
        loc="lower center",
        bbox_to_anchor=(0.3, 1.0),
        handlelength=1.0,
    )
    note = machine_text(record["machine"], cuda=any(name == OURS[1] for name in names))
    figure.text(0.99, 0.1 / (height + _MARGIN_IN), note, fontsize=6.5, color="0.4", ha="right")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=160, metadata={"Software": None})


def _measured(case: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row for name, row in case["implementations"].items() if "times" in row}


def _bar(axes: Any, at: float, name: str, times: Mapping[str, float], own_ms: float | None) -> None:
    median, low, high = times["median_ms"], times["min_ms"], times["max_ms"]
    axes.barh(at, median, height=0.9 * _BAR_IN, color=_COLOURS[name])
    axes.plot([low, high], [at, at], color="0.2", linewidth=0.8)
    text = f"{median:.3g} ms" if name in OURS or not own_ms else f"{median / own_ms:.3g}x"
    axes.annotate(text, (high, at), (3, 0), textcoords="offset points", va="center", fontsize=6.5)


def _finish(axes: Any, times: Sequence[Mapping[str, float]]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(t["min_ms"] for t in times) / 2, 3 * max(t["max_ms"] for t in times))
    axes.set_xlabel("milliseconds (x: times longer than gpuroi)", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
