"""Box or scatter plots of the means of clusters against what a contrast tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.report.canvas import render_png
from gpuroi.report.roi_figures import region_colour

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.report.saved_screen import SavedContrast, SavedScreen

__all__ = ["Predictor", "adjusted", "predictor_of", "save_cluster_plot"]

_MOST_POINTS = 150  # per box; beyond, points hide the box
_MOST_LEVELS = 12


@dataclass(frozen=True)
class Predictor:
    """What the plots of a contrast have on their axis.

    Attributes
    ----------
    columns : bool array, shape (p,)
        Regressors that the contrast weighs.
    groups : list of str or None
        Level of each person, where a category is tested or splits what is tested.
    x : float64 array, shape (n,), or None
        None: groups alone, as boxes. All NaN: the part that the columns fit, which differs between clusters.
    name : str
        Of the axis.
    """

    columns: NDArray[np.bool_]
    groups: list[str] | None
    x: NDArray[np.float64] | None
    name: str


def predictor_of(screen: SavedScreen, contrast: SavedContrast) -> Predictor:
    """Tell from the names of the regressors which columns of the table a contrast tests.

    Parameters
    ----------
    screen : SavedScreen
    contrast : SavedContrast
        Of it.

    Returns
    -------
    Predictor
        Boxes for a category; points for a number, in colours where a category goes with it; for anything else, such
        as two numbers or regressors without a column of that name, points over the regressor, or over what several
        regressors fit together.
    """
    columns = (contrast.weights != 0).any(axis=0)
    matrix = screen.matrix
    names = [name for name, used in zip(screen.about_design["Columns"], columns, strict=True) if used]
    found = _variables(names, screen.people)
    categories = [name for name, is_category in found.items() if is_category]
    numbers = [name for name, is_category in found.items() if not is_category]
    groups = _levels(screen.people, categories)
    if np.ptp(matrix[:, columns], axis=0).max(initial=0.0) == 0:
        return Predictor(columns, ["everybody"] * len(matrix), None, "")
    unknown = [name for name in names if not _variables([name], screen.people) and name != "Intercept"]
    if not unknown and not numbers and groups is not None:
        return Predictor(columns, groups, None, " and ".join(categories))
    if not unknown and len(numbers) == 1 and (groups is not None or not categories):
        return Predictor(columns, groups, screen.people[numbers[0]].to_numpy(np.float64), numbers[0])
    if len(names) == 1:
        return Predictor(columns, None, matrix[:, columns][:, 0], names[0])
    return Predictor(columns, None, np.full(len(matrix), np.nan), f"fitted by {', '.join(names)}")


def adjusted(
    values: NDArray[np.float64], matrix: NDArray[np.float64], columns: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take out of values what the other regressors fit, but not its mean.

    Parameters
    ----------
    values : float64 array, shape (n,)
        NaN is left out of the fit.
    matrix : float64 array, shape (n, p)
    columns : bool array, shape (p,)
        What stays.

    Returns
    -------
    adjusted, fitted : float64 arrays, shape (n,)
        The values, and what the columns fit, at the mean of the others.

    Examples
    --------
    >>> design = np.column_stack([np.ones(4), [0, 1, 0, 1], [1, 2, 3, 5]])
    >>> stays, fit = adjusted(design @ [10.0, 2.0, 1.0], design, np.array([False, True, False]))
    >>> stays.round(6).tolist(), fit.round(6).tolist()
    ([12.75, 14.75, 12.75, 14.75], [12.75, 14.75, 12.75, 14.75])
    """
    known = np.isfinite(values)
    beta = np.linalg.lstsq(matrix[known], values[known], rcond=None)[0]  # (p,)
    others = matrix[:, ~columns] @ beta[~columns]  # (n,)
    level = others[known].mean() if known.any() else 0.0
    return values - others + level, matrix[:, columns] @ beta[columns] + level


def save_cluster_plot(
    values: NDArray[np.float64], matrix: NDArray[np.float64], tested: Predictor, path: Path, title: str
) -> Path:
    """Draw the means of one cluster, adjusted for the other regressors.

    Parameters
    ----------
    values : float64 array, shape (n,)
        Mean of each person's map over the cluster.
    matrix : float64 array, shape (n, p)
        The design.
    tested : Predictor
        From `predictor_of`.
    path : path
        The PNG file.
    title : str

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    OutputError
        If matplotlib is not installed.
    """
    stays, fit = adjusted(values, matrix, tested.columns)
    levels = sorted(set(tested.groups)) if tested.groups else []

    def draw(figure: Any) -> None:
        width, height = figure.get_size_inches()
        ax = figure.add_axes((0.78 / width, 0.62 / height, (width - 0.9) / width, (height - 0.95) / height))
        if tested.x is None:
            _boxes(ax, stays, tested.groups or [], levels)
        else:
            _points(ax, stays, fit, tested, levels)
        ax.set_xlabel(_shortened(tested.name, 44))
        ax.set_ylabel("mean of the cluster, adjusted")
        ax.set_title(title)
        ax.grid(axis="y", color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)

    width = 3.7 if tested.x is not None else max(3.4, 0.8 * len(levels) + 1.4)
    path.write_bytes(render_png(draw, width, 3.1))
    return path


def _variables(names: list[str], people: pd.DataFrame) -> dict[str, bool]:
    """Columns of the table that occur in the names of regressors, and whether each is a category there."""
    found: dict[str, bool] = {}
    for column in map(str, people.columns):
        # a level, as in group[T.patient], is no column of the table
        word = re.compile(rf"(?<![\w.]){re.escape(column)}(?![\w.])(\)?\[)?")
        for name in names:
            match = word.search(re.sub(r"\[[^\]]*\]", "[]", name))
            if match:
                text = people[column].dtype.kind not in "iufb"
                found[column] = found.get(column, False) or bool(match[1]) or text
    return found


def _levels(people: pd.DataFrame, categories: list[str]) -> list[str] | None:
    if not categories:
        return None
    levels = [", ".join(map(str, row)) for row in people[categories].itertuples(index=False, name=None)]
    return levels if len(set(levels)) <= _MOST_LEVELS else None


def _boxes(ax: Any, values: NDArray[np.float64], groups: list[str], levels: list[str]) -> None:
    member = np.asarray(groups)
    parts = [values[(member == level) & np.isfinite(values)] for level in levels]
    places = np.arange(1, len(levels) + 1)
    drawn = ax.boxplot(
        parts,
        positions=places,
        widths=0.6,
        patch_artist=True,
        showfliers=max(map(len, parts), default=0) > _MOST_POINTS,
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": "#444444"},
        medianprops={"color": "black", "linewidth": 1.6},
    )
    for k, (place, box, part) in enumerate(zip(places, drawn["boxes"], parts, strict=True)):
        box.set(facecolor=region_colour(k), alpha=0.5, edgecolor="#333333")
        if len(part) <= _MOST_POINTS:
            # Golden-ratio steps spread the points evenly, and alike each time.
            spread = (np.arange(len(part)) * 0.6180339887 % 1 - 0.5) * 0.42
            ax.plot(place + spread, part, ".", color="#333333", markersize=3.4, alpha=0.7, zorder=3)
    names = [f"{_shortened(level, 14)}\nn = {len(part)}" for level, part in zip(levels, parts, strict=True)]
    ax.set_xticks(places, names, fontsize=8)
    if len(levels) == 1:
        ax.axhline(0, color="#333333", linewidth=0.9, linestyle="dashed")


def _points(
    ax: Any, values: NDArray[np.float64], fit: NDArray[np.float64], tested: Predictor, levels: list[str]
) -> None:
    x = fit if tested.x is None or np.isnan(tested.x).all() else tested.x
    member = np.asarray(tested.groups) if tested.groups else np.full(len(x), "")
    size = 14 if len(x) <= 500 else 4
    for k, level in enumerate(levels or [""]):
        rows = np.flatnonzero((member == level) & np.isfinite(x) & np.isfinite(values))
        rows = rows[np.argsort(x[rows], kind="stable")]
        colour = region_colour(k if levels else 1)
        label = f"{_shortened(level, 18)} (n = {len(rows)})" if level else None
        ax.scatter(x[rows], values[rows], s=size, color=colour, alpha=0.7, linewidths=0.3, edgecolors="#222222")
        ax.plot(x[rows], fit[rows], color="black" if not level else colour, linewidth=1.8, label=label)
    if levels:
        ax.legend(fontsize=7.5, frameon=False)


def _shortened(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
