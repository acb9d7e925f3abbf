"""How long a linear model and permutation tests take as subjects, voxels and permutations grow.

python -m benchmarks.scaling               # writes benchmarks/results/scaling-DATE.json and its picture
python -m benchmarks.scaling --draw FILE   # draws the picture of a result anew

One of the three grows at a time; in one more measurement people and permutations have both grown. The exponent is the
slope of log seconds over log size: 1 is linear. A model of five terms, each linear in each size, is fitted to all that
was measured of a statistic and says what 40 000 x 230 000 x 5000 would take on this machine::

    seconds = a + b V + c N V + P V (d + e N)
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import brain_mask, noise_maps
from benchmarks.machine import ROOT, commit, machine, packages
from benchmarks.records import machine_text
from benchmarks.run import write
from benchmarks.settings import CLUSTER_THRESHOLD, short_runs
from gpuroi.domains import VoxelGrid
from gpuroi.inference import glm, permutation_test

__all__ = ["TARGET", "draw", "main", "measure", "summary"]

TARGET = {"subjects": 40_000, "voxels": 230_000, "permutations": 5000}
_STATISTICS: dict[str, dict[str, Any]] = {
    "glm": {},
    "max-T": {},
    "clusters": {"cluster_threshold": CLUSTER_THRESHOLD},
    "TFCE": {"tfce": True},
}
_SUBJECTS = (100, 200, 400, 800, 1600)
_EDGES = (38, 48, 60, 76, 96)  # of a cube of voxels, a quarter of which is brain
_PERMUTATIONS = (128, 256, 512, 1024, 2048)
_BASE = {"subjects": 100, "edge": 48, "permutations": 256}
_TINY = ((10, 20, 40), (10, 12), (64, 128), {"subjects": 10, "edge": 10, "permutations": 64})
_SHORT_S = 1.0  # what takes less is measured again: the least of three
_COLOURS = {"glm": "#999999", "max-T": "#0072B2", "clusters": "#E69F00", "TFCE": "#009E73"}


def main(words: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="a few small sizes; writes nothing unless --out is given")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/scaling-DATE.json")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "benchmarks_scaling.png")
    parser.add_argument("--draw", type=Path, metavar="RESULT", help="measure nothing, draw the picture of this result")
    parser.add_argument("--commit", help="commit to record where the checkout has no history")
    options = parser.parse_args(words)
    if options.draw:
        draw(json.loads(options.draw.read_text(encoding="utf-8")), options.picture)
        print(f"written: {options.picture}")
        return 0
    started = time.perf_counter()
    points = measure(tiny=options.tiny, say=print)
    record: dict[str, Any] = {
        "format": 1,
        "kind": "scaling",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.scaling",
        "machine": machine(None),
        "packages": packages(),
        "commit": commit(options.commit),
        "settings": {"dtype": "float32", "regressors": 3, "cluster_threshold_t": CLUSTER_THRESHOLD, "tfce": "exact"},
        "points": points,
        "statistics": summary(points),
        "target": TARGET,
        "seconds": round(time.perf_counter() - started, 1),
    }
    for name, found in record["statistics"].items():
        slopes = ", ".join(f"{axis} {slope:.2f}" for axis, slope in found["exponents"].items())
        print(f"{name}: exponents {slopes}; target {found['target_s'] / 3600:.2g} h")
    if options.tiny and not options.out:
        return 0
    target = options.out or ROOT / "benchmarks" / "results" / f"scaling-{record['date'][:10]}.json"
    write(record, target)
    draw(record, options.picture)
    print(f"written: {target}, {options.picture}")
    return 0


def measure(*, tiny: bool = False, say: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """Return the seconds of every statistic at every size."""
    subjects, edges, permutations, base = _TINY if tiny else (_SUBJECTS, _EDGES, _PERMUTATIONS, _BASE)
    sizes = [
        *({**base, "subjects": n} for n in subjects),
        *({**base, "edge": edge} for edge in edges),
        *({**base, "permutations": k} for k in permutations),
        # Lines through one point cannot tell N + P from N P: a corner can.
        {**base, "subjects": subjects[-1], "permutations": permutations[-1]},
    ]
    points: list[dict[str, Any]] = []
    for size in [dict(pairs) for pairs in dict.fromkeys(tuple(size.items()) for size in sizes)]:
        data, grid = _cohort(size["subjects"], size["edge"])
        for name in _STATISTICS:
            if name == "glm" and size["permutations"] != base["permutations"]:
                continue
            point = {
                "statistic": name,
                "subjects": len(data),
                "voxels": grid.n_elements,
                "permutations": 0 if name == "glm" else size["permutations"],
                "seconds": round(_seconds(name, data, grid, size["permutations"]), 5),
            }
            points.append(point)
            say(
                f"{name}: {point['subjects']} x {point['voxels']}, {point['permutations']} permutations: "
                f"{point['seconds']:.3f} s"
            )
    return points


def summary(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return exponents, the model and what it says of the target, for each statistic.

    Parameters
    ----------
    points : sequence of dict
        `statistic`, `subjects`, `voxels`, `permutations` and `seconds` of each.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(point["statistic"] for point in points):
        mine = [point for point in points if point["statistic"] == name]
        model = _model(mine)
        fitted = np.array([_predicted(model, point) for point in mine])
        off = np.abs(fitted / [point["seconds"] for point in mine] - 1)
        found[name] = {
            "exponents": {axis: round(_exponent(line, axis), 3) for axis, line in _lines(mine).items()},
            "model": dict(zip("abcde", model.tolist(), strict=True)),
            "model_off_by_at_most": round(float(off.max()), 3),
            "target_s": round(_predicted(model, TARGET if name != "glm" else {**TARGET, "permutations": 0}), 1),
        }
    return found


def draw(record: Mapping[str, Any], target: Path) -> None:
    """Write the picture: seconds over each size on logarithmic axes, what was measured as dots, the model as lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.3))
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, sharey=True)
    figure.subplots_adjust(left=0.075, right=0.985, bottom=0.2, top=0.9, wspace=0.13)
    for panel, axis in zip(panels, ("subjects", "voxels", "permutations"), strict=True):
        for name, found in record["statistics"].items():
            line = _lines([p for p in record["points"] if p["statistic"] == name]).get(axis)
            if line is None:
                continue
            x, colour = [p[axis] for p in line], _COLOURS[name]
            model = np.array(list(found["model"].values()))
            fine = np.geomspace(min(x), max(x), 50)
            panel.plot(fine, [_predicted(model, {**line[0], axis: v}) for v in fine], color=colour, linewidth=1)
            text = f"{name} ({found['exponents'][axis]:.2f})"
            panel.plot(x, [p["seconds"] for p in line], "o", color=colour, markersize=4, label=text)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xticks(x, [_grouped(v) for v in x], minor=False)
        panel.set_xticks([], minor=True)
        panel.tick_params(labelsize=6.5)
        panel.set_xlabel(axis, fontsize=8)
        panel.grid(color="0.9", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.legend(
            fontsize=6.5, frameon=False, loc="upper left", handlelength=0.8, title="exponent", title_fontsize=6.5
        )
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low, 6 * high)
    panels[0].set_ylabel("seconds", fontsize=8)
    figure.text(0.075, 0.94, _others(record["points"]), fontsize=8)
    figure.text(0.985, 0.02, machine_text(record["machine"], cuda=False), fontsize=6.5, color="0.4", ha="right")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=160, metadata={"Software": None})


def _cohort(n: int, edge: int) -> tuple[NDArray[np.float32], VoxelGrid]:
    mask = brain_mask((edge, edge, edge))
    return noise_maps(mask.shape, n)[:, mask], VoxelGrid(mask)


@short_runs()
def _seconds(name: str, data: NDArray[np.float32], grid: VoxelGrid, permutations: int) -> float:
    """Least of three calls, of one where it is long; compiled before."""
    n = len(data)
    x = np.column_stack([np.ones(n), np.arange(n) % 2, np.random.default_rng(1).standard_normal(n)])

    def call(y: NDArray[np.float32], domain: VoxelGrid, k: int) -> float:
        start = time.perf_counter()
        if name == "glm":
            glm(y, x[: len(y)], [0, 1, 0])
        else:
            permutation_test(
                y, x[: len(y)], [0, 1, 0], domain=domain, n_permutations=k, device="cpu", **_STATISTICS[name]
            )
        return time.perf_counter() - start

    call(*_cohort(10, 10), 64)
    times = [call(data, grid, permutations)]
    while len(times) < 3 and times[0] < _SHORT_S:
        times.append(call(data, grid, permutations))
    return min(times)


def _lines(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """For each size the points in which it alone grows: those that share the commonest values of the others."""
    axes = ("subjects", "voxels", "permutations")
    common = {axis: max((values := [p[axis] for p in points]), key=values.count) for axis in axes}
    lines = {}
    for axis in axes:
        line = [p for p in points if all(p[other] == common[other] for other in axes if other != axis)]
        if len({p[axis] for p in line}) > 1:
            lines[axis] = sorted(line, key=lambda p: p[axis])
    return lines


def _exponent(line: Sequence[Mapping[str, Any]], axis: str) -> float:
    slope, _ = np.polyfit(np.log([p[axis] for p in line]), np.log([p["seconds"] for p in line]), 1)
    return float(slope)


def _terms(point: Mapping[str, float]) -> NDArray[np.float64]:
    n, v, k = (float(point[axis]) for axis in ("subjects", "voxels", "permutations"))
    return np.array([1.0, v, n * v, k * v, k * n * v])


def _model(points: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Coefficients, none below 0, that make the relative errors small."""
    from scipy.optimize import nnls

    seconds = np.array([p["seconds"] for p in points])
    terms = np.array([_terms(p) for p in points])
    scale = terms.max(axis=0)
    scale[scale == 0] = 1.0
    found, _ = nnls(terms / scale / seconds[:, None], np.ones(len(points)))
    return np.asarray(found / scale)


def _predicted(model: NDArray[np.float64], point: Mapping[str, float]) -> float:
    return float(model @ _terms(point))


def _others(points: Sequence[Mapping[str, Any]]) -> str:
    """What stays while one size grows."""
    mine = [p for p in points if p["permutations"]]
    line = _lines(mine)
    n, v, k = (line[b][0][a] for a, b in (("subjects", "voxels"), ("voxels", "subjects"), ("permutations", "voxels")))
    stay = f"{_grouped(n)} subjects, {_grouped(v)} voxels, {_grouped(k)} permutations"
    return f"One of the three grows, the others stay: {stay}. Dots: measured; lines: the model"


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ") if number >= 10_000 else str(number)


if __name__ == "__main__":
    sys.exit(main())
