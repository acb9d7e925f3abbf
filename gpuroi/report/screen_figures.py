"""The pictures of a screening: design, coverage, brains, null distributions, p-values, clusters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.report.canvas import HIGHLIGHTS, NEUTRAL, render_png, render_svg
from gpuroi.report.cluster_plots import predictor_of, save_cluster_plot
from gpuroi.report.document import count, number
from gpuroi.report.map_figures import COLD, HOT, save_count_picture, save_glass_picture, save_map_picture
from gpuroi.report.page import Picture
from gpuroi.report.saved_screen import ALPHA, SavedContrast, SavedScreen, upper_limit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MOST_CLUSTER_PLOTS", "save_design_picture", "save_null_pictures", "save_qq_picture", "screen_pictures"]

MOST_CLUSTER_PLOTS = 12  # of a contrast
_FEW_PLOTS = 3  # where no cluster is significant
_MOST_ROWS = 400  # of a design that can be told apart
_MOST_CORRELATED = 12  # regressors whose correlations there is room for
_SMALLEST_P = 1e-45  # below, float32 is 0
_OBSERVED, _LIMIT = HIGHLIGHTS
_MEASURES = {
    "max_stat": "largest {} of a permutation",
    "max_size": "largest cluster, size",
    "max_mass": "largest cluster, mass",
    "max_tfce": "largest TFCE",
}


def screen_pictures(folder: Path, figures: Path) -> list[Picture]:
    """Draw the pictures of a screening.

    Parameters
    ----------
    folder : path
        As `gpuroi screen` writes it.
    figures : path
        Must exist. Gets `coverage.png` and, for each contrast, `contrast-<label>_{glass,mosaic,qq,null-*}.png` and
        `contrast-<label>_cluster-<id>.png`; the folder around it gets `design.svg`.

    Returns
    -------
    list of Picture
        In the order of the page.

    Raises
    ------
    DataError
        If a file of the folder is missing or cannot be read.
    OutputError
        If matplotlib is not installed.
    """
    screen = SavedScreen.read(folder)
    about = screen.about_design
    design = save_design_picture(screen, Path(figures).parent / "design.svg")
    covered = save_count_picture(screen.coverage, screen.mask, screen.affine, Path(figures) / "coverage.png")
    pictures = [
        Picture(
            design,
            f"Design matrix: {count(about['N'], 'row')}, one a person, and the columns {', '.join(about['Columns'])}; "
            "below it the weights of each contrast; beside it the correlations of the columns.",
            "Each column from its smallest value (dark) to its largest (bright); a constant one is grey.",
        ),
        Picture(covered, "Cuts through the number of maps that have each voxel."),
    ]
    for contrast in screen.contrasts:
        pictures += _brains(screen, contrast, figures)
        pictures += _distributions(contrast, figures)
        pictures += _clusters(screen, contrast, figures)
        contrast.release()
    return pictures


def save_design_picture(screen: SavedScreen, path: Path) -> Path:
    """Draw the design matrix, the weights of the contrasts and the correlations of the columns, as SVG."""
    matrix, names = screen.matrix, [_shortened(str(name), 30) for name in screen.about_design["Columns"]]
    n, p = matrix.shape
    rows = np.unique(np.linspace(0, n - 1, min(n, _MOST_ROWS)).round().astype(int))
    low, span = matrix.min(axis=0), np.ptp(matrix, axis=0)
    shade = np.where(span > 0, (matrix[rows] - low) / np.where(span > 0, span, 1), 0.5)
    cell = 0.5 if p <= 14 else max(0.12, 7 / p)
    wide, contrasts = cell * p, screen.contrasts
    lines = [(contrast, row) for contrast in contrasts for row in contrast.weights]
    named = 0.085 * max(map(len, names)) * 0.75 + 0.15  # inches of the tilted names
    left = 0.55 + 0.075 * max((len(_shortened(c.name, 24)) for c in contrasts), default=0)
    below = 0.3 * len(lines) + (0.35 if lines else 0.1)
    correlated = 1 < p <= _MOST_CORRELATED
    height = 3.0 + below + named + 0.1

    def draw(figure: Any) -> None:
        width_in = figure.get_size_inches()[0]
        top = (height - named) / height
        ax = figure.add_axes((left / width_in, below / height, wide / width_in, 3.0 / height))
        ax.imshow(shade, cmap="cividis", aspect="auto", vmin=0, vmax=1, interpolation="nearest")
        ax.set_xticks(range(p), names, rotation=40, ha="left", fontsize=8)
        ax.xaxis.tick_top()
        ax.tick_params(length=2)
        ax.set_yticks([])
        ax.set_ylabel(
            f"{count(n, 'person')}" if n == 1 else f"{n} people" + (f", {len(rows)} shown" if n > len(rows) else "")
        )
        for line, (contrast, weights) in enumerate(lines):
            y = (below - 0.2 - 0.3 * (line + 1)) / height
            _weights(figure, (left / width_in, y, wide / width_in, 0.26 / height), contrast, weights, line, lines)
        if correlated:
            _correlations(figure, matrix, names, (left + wide + 0.9, height * top - 3.0), width_in, height)

    width = left + wide + (0.9 + min(3.0, cell * p) + 1.2 if correlated else named + 0.2)
    path.write_bytes(render_svg(draw, width, height))
    return path


def save_null_pictures(contrast: SavedContrast, figures: Path) -> list[Path]:
    """Draw the distributions of the largest statistics over the permutations; none if nothing was permuted."""
    null = contrast.null
    if null is None or len(null) < 2:
        return []
    kind = "z" if contrast.kind in "vG" else contrast.kind
    stat = f"|{kind}|" if contrast.two_sided else kind
    paths = []
    for name, text in _MEASURES.items():
        if name not in null or not np.isfinite(null[name]).any():
            continue

        def draw(figure: Any, name: str = name, text: str = text) -> None:
            ax = figure.add_axes((0.15, 0.18, 0.81, 0.62))
            _histogram(ax, null[name].to_numpy(np.float64), text.format(stat))

        paths.append(figures / f"contrast-{contrast.label}_null-{name.removeprefix('max_')}.png")
        paths[-1].write_bytes(render_png(draw, 4.2, 2.9))
    return paths


def save_qq_picture(contrast: SavedContrast, path: Path) -> Path | None:
    """Draw the uncorrected p of all voxels against those of no effect anywhere; None if there is no p."""
    p = np.sort(np.clip(contrast.p, _SMALLEST_P, 1.0))
    if not p.size:
        return None
    ranks = np.unique(np.concatenate([np.arange(min(len(p), 400)), np.geomspace(1, len(p), 600).astype(int) - 1]))
    observed, expected = -np.log10(p[ranks]), -np.log10((ranks + 0.5) / len(p))

    def draw(figure: Any) -> None:
        ax = figure.add_axes((0.14, 0.16, 0.82, 0.76))
        end = float(expected.max(initial=0.0)) * 1.04 + 0.05
        ax.plot([0, end], [0, end], color="#333333", linewidth=0.9, linestyle="dashed", label="no effect anywhere")
        ax.plot(expected, observed, ".", color=_LIMIT, markersize=4, label=count(len(p), "voxel"))
        ax.set_xlim(0, end)
        ax.set_ylim(0, max(end, float(observed.max()) * 1.04))
        ax.set_xlabel("-log10 p expected")
        ax.set_ylabel("-log10 p observed, uncorrected")
        ax.legend(fontsize=8, frameon=False, loc="upper left")

    path.write_bytes(render_png(draw, 4.3, 3.6))
    return path


def _brains(screen: SavedScreen, contrast: SavedContrast, figures: Path) -> list[Picture]:
    cut = contrast.cut
    values = np.where(cut.inside, np.nan_to_num(contrast.statistic), 0.0)
    threshold = min(cut.value, float(np.abs(values[cut.inside]).min())) if cut.inside.any() else cut.value
    how: dict[str, Any] = {"threshold": max(threshold, 0.0), "signed": contrast.signed, "note": f"shown: {cut.text}"}
    glass = save_glass_picture(
        values, screen.mask, screen.affine, figures / f"contrast-{contrast.label}_glass.png", **how
    )
    outlined = np.isin(contrast.labels, contrast.significant)
    mosaic = save_map_picture(
        values,
        screen.affine,
        figures / f"contrast-{contrast.label}_mosaic.png",
        background=screen.anatomy[0],
        outlined=outlined,
        **how,
    )
    voxels = count(int(cut.inside.sum()), "voxel")
    colours = "Orange: positive; blue: negative." if contrast.signed else ""
    lined = f"A white line surrounds clusters with a {contrast.p_means} of {ALPHA:g} or less." if outlined.any() else ""
    return [
        Picture(
            glass,
            f"Glass brain of {contrast.name}, from three sides: {voxels} shown where {cut.text}.",
            f"{colours} Along each line of sight, the value that is furthest from 0.".strip(),
        ),
        Picture(
            mosaic,
            f"Cuts through {contrast.name}: {voxels} shown where {cut.text}.",
            " ".join(filter(None, [colours, lined, screen.anatomy[1]])),
        ),
    ]


def _distributions(contrast: SavedContrast, figures: Path) -> list[Picture]:
    pictures = []
    for path in save_null_pictures(contrast, figures):
        measure = {"stat": "statistic", "size": "cluster size", "mass": "cluster mass", "tfce": "TFCE"}[path.stem[-4:]]
        alt = f"Histogram of the largest {measure} of {count(contrast.n_permutations, 'permutation')}."
        text = "Orange: observed. What lies right of the blue line has a familywise p of 0.05 or less."
        pictures.append(Picture(path, alt, text))
    qq = save_qq_picture(contrast, figures / f"contrast-{contrast.label}_qq.png")
    if qq is not None:
        alt = f"Quantile plot of the uncorrected p-values of {contrast.name}."
        text = "Above the line: smaller p than without any effect. Neighbours are alike, so that no band is drawn."
        pictures.append(Picture(qq, alt, text))
    return pictures


def _clusters(screen: SavedScreen, contrast: SavedContrast, figures: Path) -> list[Picture]:
    by_p = contrast.cluster_p.sort_values(kind="stable")
    chosen = by_p.index[by_p <= ALPHA][:MOST_CLUSTER_PLOTS] if contrast.significant else by_p.index[:_FEW_PLOTS]
    if not len(chosen):
        return []
    tested, matrix, means = predictor_of(screen, contrast), screen.matrix, contrast.cluster_means
    pictures = []
    for row in sorted(chosen):
        i = int(contrast.clusters.loc[row, "Cluster ID"])
        path = figures / f"contrast-{contrast.label}_cluster-{i}.png"
        where = contrast.clusters.loc[row].get("Peak Label")
        name = f" {where}" if isinstance(where, str) else ""
        title = _shortened(f"cluster {i}{name}, p = {number(float(contrast.cluster_p[row]))}", 46)
        save_cluster_plot(means[f"cluster-{i}"].to_numpy(np.float64), matrix, tested, path, title)
        kind = "Box plot" if tested.x is None else "Scatter plot"
        against = f" against {tested.name}" if tested.name else ""
        pictures.append(Picture(path, f"{kind} of the adjusted mean of cluster {i}{name} of each person{against}."))
    return pictures


def _weights(
    figure: Any,
    box: tuple[float, float, float, float],
    contrast: SavedContrast,
    weights: NDArray[np.float64],
    line: int,
    lines: list[tuple[SavedContrast, NDArray[np.float64]]],
) -> None:
    """One row of weights: warm where positive, cool where negative; the name beside the first row of a contrast."""
    ax = figure.add_axes(box)
    for k, weight in enumerate(weights):
        colour = "#f2f2f2" if weight == 0 else HOT[2] if weight > 0 else COLD[2]
        ax.axvspan(k - 0.5, k + 0.5, facecolor=colour, edgecolor="white")
        if len(weights) <= 30:
            ax.text(k, 0.46, f"{weight:.3g}", ha="center", va="center", fontsize=8)
    ax.set_xlim(-0.5, len(weights) - 0.5)
    ax.set_ylim(0, 1)
    ax.set_xticks([])
    ax.spines[:].set_visible(False)
    first = line == 0 or lines[line - 1][0] is not contrast
    ax.set_yticks([0.46], [_shortened(contrast.name, 24) if first else ""], fontsize=8.5)
    ax.tick_params(length=0)


def _correlations(
    figure: Any,
    matrix: NDArray[np.float64],
    names: list[str],
    corner: tuple[float, float],
    width: float,
    height: float,
) -> None:
    """Correlations of the columns that vary, with their numbers."""
    varies = np.ptp(matrix, axis=0) > 0
    kept = [name for name, is_kept in zip(names, varies, strict=True) if is_kept]
    if len(kept) < 2:
        return
    r = np.atleast_2d(np.corrcoef(matrix[:, varies].T))
    side = min(3.0, 0.5 * len(kept))
    ax = figure.add_axes((corner[0] / width, (corner[1] + 3.0 - side) / height, side / width, side / height))
    ax.imshow(r, cmap="PuOr_r", vmin=-1, vmax=1)
    ax.set_xticks(range(len(kept)), kept, rotation=40, ha="left", fontsize=8)
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(kept)), kept, fontsize=8)
    ax.yaxis.tick_right()
    ax.tick_params(length=0)
    for i in range(len(kept)):
        for j in range(len(kept)):
            text = f"{r[i, j]:.2f}".replace("0.", ".", 1)
            colour = "white" if abs(r[i, j]) > 0.6 else "black"
            ax.text(j, i, text, color=colour, ha="center", va="center", fontsize=7.5)
    ax.set_xlabel("correlations", fontsize=8.5)


def _histogram(ax: Any, values: NDArray[np.float64], name: str) -> None:
    observed, limit = float(values[0]), upper_limit(values)
    p = float((values >= observed * (1 - 1e-6) if observed > 0 else values >= observed).mean())
    ax.hist(values[np.isfinite(values)], bins=40, color=NEUTRAL, alpha=0.7)
    ax.axvline(limit, color=_LIMIT, linewidth=1.6, linestyle="dashed", label=f"{ALPHA * 100:g} % above {limit:.4g}")
    ax.axvline(observed, color=_OBSERVED, linewidth=2.2, label=f"observed {observed:.4g}, p = {number(p)}")
    ax.set_xlabel(name)
    ax.set_ylabel("permutations")
    ax.locator_params(axis="x", nbins=5)
    ax.legend(fontsize=7.5, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
