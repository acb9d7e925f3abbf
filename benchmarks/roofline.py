"""How near our implementations come to what the hardware can do: share of the copy's bandwidth, and a roofline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import OURS
from benchmarks.records import machine_text

__all__ = ["draw_roofline", "points"]

_COLOURS = {"gpuroi-cpu": "#0072B2", "gpuroi-cuda": "#009E73"}
_BAR_IN = 0.17


def draw_roofline(record: Mapping[str, Any], target: Path) -> None:
    """Write the figure: a bar for every case, and a point for every one whose operations are counted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = points(record)
    if not measured:
        raise SystemExit("no case of ours in this record says how many bytes a second it moves")
    names = [name for name in OURS if any(p["implementation"] == name for p in measured)]
    height = max(3.6, _BAR_IN * len(measured) + 1.3)
    figure = Figure(figsize=(11.0, height))
    FigureCanvasAgg(figure)
    bars = figure.add_axes((0.27, 0.75 / height, 0.27, 1 - 1.15 / height))
    roof = figure.add_axes((0.63, 0.75 / height, 0.35, 1 - 1.15 / height))
    _draw_shares(bars, measured)
    for name in names:
        _draw_roof(roof, record, name, [p for p in measured if p["implementation"] == name])
    _finish(roof)
    handles = [bars.barh([0], [0], color=_COLOURS[name], label=name) for name in names]
    roof.legend(handles=handles, fontsize=7.5, frameon=False, loc="upper left")
    note = machine_text(record["machine"], cuda="gpuroi-cuda" in names)
    figure.text(0.99, 0.1 / height, note, fontsize=6.5, color="0.4", ha="right")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=160, metadata={"Software": None})


def points(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was measured of ours: share of the bandwidth, operations a byte and a second where they are counted."""
    found = []
    for case in record["cases"]:
        for name in OURS:
            row = case["implementations"].get(name, {})
            if "of_copy_bandwidth" not in row:
                continue
            seconds, flops = 1e-3 * row["times"]["median_ms"], case.get("least_flops")
            found.append(
                {
                    "case": case["what"].replace("`", ""),
                    "implementation": name,
                    "share": row["of_copy_bandwidth"],
                    "intensity": flops / case["least_bytes_moved"] if flops else None,
                    "flops_per_s": flops / seconds if flops else None,
                }
            )
    return found


def _draw_shares(axes: Any, measured: list[dict[str, Any]]) -> None:
    for at, point in enumerate(measured):
        axes.barh(at, 100 * point["share"], height=0.8, color=_COLOURS[point["implementation"]])
        axes.annotate(
            f"{100 * point['share']:.2g} %", (100 * point["share"], at), (3, 0), textcoords="offset points",
            va="center", fontsize=6.5,
        )  # fmt: skip
    axes.axvline(100, color="0.3", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(0.01, 1000)
    axes.set_ylim(len(measured) - 0.4, -0.6)
    axes.set_yticks(range(len(measured)), [point["case"] for point in measured], fontsize=7)
    axes.set_xlabel("% of the measured bandwidth of a copy\n(least bytes: input once, output once)", fontsize=8)
    _plain(axes, grid="x")


def _draw_roof(axes: Any, record: Mapping[str, Any], name: str, measured: list[dict[str, Any]]) -> None:
    device = "cuda" if name == "gpuroi-cuda" else "cpu"
    bandwidth = record["copy_bytes_per_s"].get(device)
    ceiling = record.get("matrix_flops_per_s", {}).get(device)
    if not bandwidth or not ceiling:
        return
    ridge = ceiling / bandwidth
    counted = sorted((p for p in measured if p["flops_per_s"]), key=lambda p: float(p["flops_per_s"]))
    intensity = np.array([min([ridge, *(p["intensity"] for p in counted)]) / 10, ridge, ridge * 30])
    axes.plot(intensity, 1e-9 * np.minimum(intensity * bandwidth, ceiling), color=_COLOURS[name], linewidth=1.2)
    text = f"copy {1e-9 * bandwidth:.3g} GB/s, matrix product {1e-9 * ceiling:.3g} GFLOP/s"
    axes.annotate(text, (ridge * 30, 1e-9 * ceiling), (0, 4), textcoords="offset points", ha="right", fontsize=6.5)
    for number, point in enumerate(counted):
        at = (point["intensity"], 1e-9 * point["flops_per_s"])
        axes.plot(*at, "o", markersize=5, color=_COLOURS[name], label="_nolegend_")
        above = number % 2 == 0  # neighbours in height do not write over each other
        axes.annotate(
            point["case"], at, (0, 7 if above else -12), textcoords="offset points", fontsize=6.5, ha="center"
        )


def _finish(axes: Any) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_xlabel("operations a byte", fontsize=8)
    axes.set_ylabel("GFLOP/s", fontsize=8)
    _plain(axes)


def _plain(axes: Any, grid: str = "both") -> None:
    axes.tick_params(labelsize=7)
    axes.grid(axis=grid, color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
