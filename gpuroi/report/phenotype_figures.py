"""Pictures of a screening of many phenotypes: the largest statistic of each, and their p against no effect at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.report.canvas import HIGHLIGHTS, NEUTRAL, render_png
from gpuroi.report.saved_screen import ALPHA

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from gpuroi.report.saved_phenotypes import SavedPhenotypes

__all__ = ["save_overview_picture", "save_phenotype_qq_picture"]

_NAMED = 8  # phenotypes with their names
_ROOM = 90  # letters that stand side by side below the points
_LINES = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")  # told apart with any colour vision
_ALL, _OWN = HIGHLIGHTS


def save_overview_picture(saved: SavedPhenotypes, path: Path) -> Path:
    """Draw the largest statistic of each phenotype, in the order of the table, beside what chance would give.

    Parameters
    ----------
    saved : SavedPhenotypes
    path : path
        The PNG file.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    OutputError
        If matplotlib is not installed.
    """
    sizes, limits = saved.sizes, saved.limits
    places = np.arange(1, len(sizes) + 1)
    named = np.argsort(-sizes, kind="stable")[: min(_NAMED, max(1, len(sizes) // 2))]

    def draw(figure: Any) -> None:
        ax = figure.add_axes((0.075, 0.14, 0.9, 0.76))
        shown = _coloured(saved)
        for colour, text, some in shown:
            ax.plot(places[some], sizes[some], "o", color=colour, markersize=4 if len(sizes) > 80 else 6, label=text)
        if limits is not None:
            steps = {"where": "mid", "linewidth": 1.2}
            ax.step(places, limits[0], color=NEUTRAL, label=f"{ALPHA:g} over voxels", linestyle="dotted", **steps)
            ax.step(places, limits[1], color="#333333", label=f"{ALPHA:g} over all", linestyle="dashed", **steps)
        _name(ax, saved, places, sizes, named)
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.12 * (high - low))
        ax.set_xlim(0.2, len(sizes) + 0.8)
        ax.set_xlabel("phenotypes, in the order of the table")
        names = [_short(str(name)) for name in saved.table["phenotype"]]
        if len(names) * max(map(len, names)) <= _ROOM:
            ax.set_xticks(places, names)
        else:
            ax.locator_params(axis="x", integer=True)
        ax.set_ylabel("largest |t|" if saved.two_sided else "largest t")
        ax.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=5, borderaxespad=0.2)

    path.write_bytes(render_png(draw, 9.0, 3.8))
    return path


def save_phenotype_qq_picture(saved: SavedPhenotypes, path: Path) -> Path:
    """Draw the uncorrected p of all voxels against those of no effect anywhere, a line a phenotype.

    Parameters
    ----------
    saved : SavedPhenotypes
    path : path
        The PNG file.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    OutputError
        If matplotlib is not installed.
    """
    # Of several steps that no voxel lies between, the last: otherwise a line would end in a vertical stroke.
    steps = saved.qq.drop_duplicates(["phenotype", "voxels_reaching"], keep="last")
    lines = {str(name): rows for name, rows in steps.groupby("phenotype", sort=False)}
    names = [str(name) for name in saved.table["phenotype"].iloc[np.argsort(-saved.sizes, kind="stable")]]
    first = [name for name in names if name in lines][: len(_LINES)]  # one-sided, t may be below 0 in every voxel
    end, top = (float(saved.qq[name].max()) * 1.04 + 0.05 if lines else 1.0 for name in ("log10p_expected", "log10p"))

    def draw(figure: Any) -> None:
        ax = figure.add_axes((0.12, 0.14, 0.84, 0.8))
        for name, rows in lines.items():
            if name not in first:
                ax.plot(rows["log10p_expected"], rows["log10p"], color=NEUTRAL, linewidth=0.7, alpha=0.5)
        ax.plot([0, end], [0, end], color="#333333", linewidth=1.0, linestyle="dashed", label="no effect anywhere")
        for name, colour in zip(first, _LINES, strict=False):
            rows = lines[name]
            ax.plot(rows["log10p_expected"], rows["log10p"], color=colour, linewidth=1.6, label=_short(name))
        if len(lines) > len(first):
            ax.plot([], [], color=NEUTRAL, linewidth=0.7, label=f"{len(lines) - len(first)} others")
        ax.set_xlim(0, end)
        ax.set_ylim(0, max(end, top))
        ax.set_xlabel("-log10 p expected")
        ax.set_ylabel("-log10 p observed, uncorrected")
        if not lines:
            ax.text(0.5, 0.5, "t is below 0 in every voxel", transform=ax.transAxes, ha="center", fontsize=8)
        ax.legend(fontsize=8, frameon=False, loc="upper left")

    path.write_bytes(render_png(draw, 5.2, 4.2))
    return path


def _coloured(saved: SavedPhenotypes) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """Colour, meaning, and which phenotypes."""
    n = len(saved.table)
    if not saved.n_permutations:
        return [(_OWN, "phenotypes", np.ones(n, np.bool_))]
    least = ALPHA * (1 + 1e-12)
    over_all = saved.table["p_FWE_all"].to_numpy(np.float64) <= least
    own = (saved.table["p_FWE"].to_numpy(np.float64) <= least) & ~over_all
    groups = [
        (_ALL, f"p <= {ALPHA:g} over voxels and phenotypes", over_all),
        (_OWN, f"p <= {ALPHA:g} over voxels", own),
        (NEUTRAL, "neither", ~over_all & ~own),
    ]
    return [group for group in groups if group[2].any()]


def _name(
    ax: Any, saved: SavedPhenotypes, places: NDArray[np.int64], sizes: NDArray[np.float64], named: NDArray[np.int64]
) -> None:
    """Write names beside the largest, away from the nearer edge, and none over another."""
    written: list[tuple[float, float]] = []
    reach, height = 0.16 * len(sizes), 0.05 * max(float(np.ptp(sizes)), 1e-9)
    for i in named:
        x, y = float(places[i]), float(sizes[i])
        if any(abs(x - other) < reach and abs(y - above) < height for other, above in written):
            continue
        written.append((x, y))
        right = x > 0.8 * len(sizes)
        name = _short(str(saved.table["phenotype"].iloc[i]))
        ax.annotate(
            name, (x, y), xytext=(-6 if right else 6, 0), textcoords="offset points", fontsize=8,
            ha="right" if right else "left", va="center",
        )  # fmt: skip


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
