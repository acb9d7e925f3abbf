"""The report on a screening of many phenotypes, made of the files of its folder alone."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from gpuroi.report.document import count, document, markdown, number, paragraph, subheading, table
from gpuroi.report.map_figures import save_glass_picture
from gpuroi.report.page import NO_PICTURES, Picture, picture_html, records
from gpuroi.report.phenotype_figures import save_overview_picture, save_phenotype_qq_picture
from gpuroi.report.phenotype_methods import phenotype_methods_text
from gpuroi.report.saved_phenotypes import SavedPhenotypes
from gpuroi.report.saved_record import SavedRecord
from gpuroi.report.saved_screen import ALPHA
from gpuroi.report.screen_figures import screen_pictures
from gpuroi.report.screen_page import cohort_sections, screen_warnings
from gpuroi.report.viewer import Layer, slice_viewer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["phenotype_page", "phenotype_pictures"]

_COORDINATES = "X, Y and Z are in mm: to the right, to the front and up, in the space of the image."
_CAVEATS = (
    "A phenotype may be related to a map for many reasons: t says how closely the two go together beside the "
    "covariates, not why. Phenotypes that go together have the same voxels among their largest."
)
_QQ_NOTE = (
    "Uncorrected p of all voxels against what they would be without any effect. Maps are smooth, so that neighbours "
    "rise and fall together: a line may leave the diagonal by chance. The corrected p take this into account."
)
_MOST_ROWS = 500  # phenotypes in the page
_MOST_MAPS = 6  # that are drawn
_SHOWN_P = 0.001  # uncorrected
_FIRST = 10  # of the largest statistics of a phenotype


def phenotype_pictures(folder: Path, figures: Path) -> list[Picture]:
    """Draw the pictures of a screening of phenotypes.

    Parameters
    ----------
    folder : path
        As `gpuroi screen --phenotypes` writes it.
    figures : path
        Must exist. Gets `overview.png`, `qq.png`, `coverage.png` and `phenotype-<k>_glass.png` of the first maps; the
        folder around it gets `design.svg`.

    Returns
    -------
    list of Picture

    Raises
    ------
    DataError
        If a file of the folder is missing or cannot be read.
    OutputError
        If matplotlib is not installed.
    """
    saved = SavedPhenotypes.read(folder)
    n, figures = len(saved.table), Path(figures)
    largest = saved.table["phenotype"].iloc[int(np.argmax(saved.sizes))]
    overview = save_overview_picture(saved, figures / "overview.png")
    limits = " Lines: what has to be exceeded for a corrected p of 0.05." if saved.n_permutations else ""
    pictures = [
        *screen_pictures(folder, figures),
        Picture(
            overview,
            f"The largest t of each of {count(n, 'phenotype')}; that of {largest} is the largest.",
            f"One point a phenotype: its largest {'|t|' if saved.two_sided else 't'} over all voxels.{limits}",
        ),
        Picture(
            save_phenotype_qq_picture(saved, figures / "qq.png"),
            f"Quantile plot of the uncorrected p-values of {count(n, 'phenotype')}, one line each.",
        ),
    ]
    for k, (name, values) in enumerate(list(saved.maps.items())[:_MOST_MAPS]):
        path = figures / f"phenotype-{k + 1}_glass.png"
        save_glass_picture(
            values, saved.screen.mask, saved.screen.affine, path, threshold=_cut(saved, name), title=f"t of {name}"
        )
        pictures.append(Picture(path, f"Glass brain of t of {name}, from three sides.", _shown(saved, name)))
    return pictures


def phenotype_page(folder: str | Path, pictures: Sequence[Picture] | None = None) -> str:
    """Return the report on a screening of phenotypes as one HTML page.

    Parameters
    ----------
    folder : path
        As `gpuroi screen --phenotypes` writes it.
    pictures : sequence of Picture, optional
        From `phenotype_pictures`, if they are drawn already; empty for a page without pictures.

    Returns
    -------
    str
        HTML with all pictures inside; nothing is loaded from elsewhere.

    Raises
    ------
    DataError
        If a file of the folder is missing or cannot be read.
    OutputError
        If pictures must be drawn and matplotlib is not installed.
    """
    if pictures is None:
        with TemporaryDirectory() as temporary:
            figures = Path(temporary) / "figures"
            figures.mkdir()
            return phenotype_page(folder, phenotype_pictures(Path(folder), figures))
    saved = SavedPhenotypes.read(folder)
    drawn = {picture.path.name: picture for picture in pictures}
    overview = [drawn[name] for name in ("overview.png",) if name in drawn]
    qq = [drawn[name] for name in ("qq.png",) if name in drawn]
    brains = [picture for name, picture in drawn.items() if name.endswith("_glass.png")]
    return document(
        f"Screening of {count(len(saved.table), 'phenotype')} in {len(saved.screen.people)} people",
        [
            ("What was asked and found", _asked(saved) + _found(saved) + screen_warnings(saved.screen)),
            ("The largest statistic of each phenotype", picture_html(overview) or paragraph(NO_PICTURES)),
            ("Phenotypes", _phenotypes(saved)),
            ("The largest voxels", _largest(saved)),
            ("p-values", picture_html(qq) + paragraph(_QQ_NOTE, "note") if qq else ""),
            ("Maps", _maps(saved, brains)),
            *cohort_sections(saved.screen, drawn),
            ("Methods", markdown(phenotype_methods_text(folder))),
            *records(SavedRecord(saved.screen.provenance)),
        ],
    )


def _asked(saved: SavedPhenotypes) -> str:
    covariates = [name for name in saved.about["Covariates"] if name != "Intercept"]
    beside = f" beside {', '.join(covariates)}" if covariates else ""
    text = (
        f"Which of {count(len(saved.table), 'phenotype')} go with the maps of {len(saved.screen.people)} people in any "
        f"of {count(int(saved.screen.mask.sum()), 'voxel')}{beside}?"
    )
    n = saved.n_permutations
    if n:
        text += f" p-values are corrected by {n} permutations; the smallest possible is {number(1 / n)}."
    else:
        text += " There were no permutations: p-values are parametric and not corrected."
    return paragraph(text, "lead")


def _found(saved: SavedPhenotypes) -> str:
    row = saved.table.iloc[int(np.argmax(saved.sizes))]
    text = (
        f"The largest t is {number(float(row['max_stat']))}, of {row['phenotype']} at {row['X']:.0f}, {row['Y']:.0f}, "
        f"{row['Z']:.0f} mm"
    )
    if not saved.n_permutations:
        return paragraph(f"{text}, uncorrected p = {number(float(row['p']))}.")
    least = ALPHA * (1 + 1e-12)
    n_own, n_all = int((saved.table["p_FWE"] <= least).sum()), int((saved.table["p_FWE_all"] <= least).sum())
    return paragraph(
        f"{count(n_all, 'phenotype') if n_all else 'No phenotype'} with a p of {ALPHA:g} or less, corrected over all "
        f"voxels and all phenotypes; {n_own or 'none'} if each is corrected over its own voxels alone. {text}, "
        f"p = {number(float(row['p_FWE_all']))} over all."
    )


def _phenotypes(saved: SavedPhenotypes) -> str:
    order = ["p_FWE_all", "p"] if saved.n_permutations else ["p"]
    rows = _tidy(saved.table.sort_values(order, kind="stable"))
    more = f" The first {_MOST_ROWS} of {len(rows)}; all are in phenotypes.tsv." if len(rows) > _MOST_ROWS else ""
    note = f"max stat is the largest t with its sign. {_COORDINATES} {_CAVEATS}{more}"
    return table(rows.head(_MOST_ROWS), "phenotypes") + paragraph(note, "note")


def _largest(saved: SavedPhenotypes) -> str:
    """The first few places of the phenotypes that stand out."""
    order = np.argsort(-saved.sizes, kind="stable")[:_FIRST]
    names = saved.table["phenotype"].iloc[order]
    some = saved.top[saved.top["phenotype"].isin(names) & (saved.top["rank"] <= _FIRST)]
    place = {name: i for i, name in enumerate(names)}
    rows = _tidy(some.sort_values("phenotype", key=lambda column: column.map(place), kind="stable"))
    note = f"The {_FIRST} largest of the {len(names)} phenotypes with the largest t; more are in top.tsv."
    return table(rows, "largest voxels") + paragraph(f"{note} Neighbouring voxels are not merged.", "note")


def _maps(saved: SavedPhenotypes, brains: Sequence[Picture]) -> str:
    maps = list(saved.maps.items())[:_MOST_MAPS]
    if not maps:
        return ""
    layers = [Layer(f"{name}: t", values, "t", _cut(saved, name)) for name, values in maps]
    viewer = subheading("Slice viewer") + slice_viewer(layers, saved.screen.mask, saved.screen.affine)
    return picture_html(brains) + viewer


def _cut(saved: SavedPhenotypes, name: str) -> float:
    """From where on a map is shown, significant or not: |t| of an uncorrected p of 0.001."""
    from scipy.stats import t

    df = saved.table["df"].to_numpy()[saved.table["phenotype"].to_numpy() == name]
    return float(t.isf(_SHOWN_P / (2 if saved.two_sided else 1), df[0]))


def _shown(saved: SavedPhenotypes, name: str) -> str:
    text = f"Shown from an uncorrected p of {_SHOWN_P:g} on. Orange: positive; blue: negative."
    if saved.limits is None:
        return text
    limit = saved.limits[0][saved.table["phenotype"].to_numpy() == name][0]
    return f"{text} The p corrected over voxels is {ALPHA:g} or less above {limit:.3g}."


def _tidy(rows: pd.DataFrame) -> pd.DataFrame:
    """mm to one digit; columns without any value left out."""
    rows = rows.drop(columns=[name for name in rows if rows[name].isna().all()])
    return rows.assign(**{axis: rows[axis].round(1) for axis in "XYZ"})
