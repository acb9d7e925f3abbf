"""The report on a screening, made of the files of its folder alone."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpuroi.report.document import bullets, count, document, facts, markdown, number, paragraph, subheading, table
from gpuroi.report.methods import methods_text
from gpuroi.report.page import NO_PICTURES, Picture, picture_html, records
from gpuroi.report.saved_record import SavedRecord
from gpuroi.report.saved_screen import ALPHA, LOGP_OF_ALPHA, SavedContrast, SavedScreen
from gpuroi.report.screen_figures import MOST_CLUSTER_PLOTS, screen_pictures
from gpuroi.report.viewer import Layer, slice_viewer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

__all__ = ["cohort_sections", "screen_page", "screen_pictures", "screen_warnings"]

_COORDINATES = "X, Y and Z are the peak in mm: to the right, to the front and up, in the space of the image."
_CIRCULAR = (
    "Mean of the maps over each cluster, one point a person, adjusted for the other regressors of the design. The "
    "clusters were chosen because the contrast is large in them: the effect looks larger here than it would in new "
    "data, and no test on these means is valid. They show the shape of the effect, and whether a few people make it."
)
_CLUSTER_INFERENCE = (
    "A p of a cluster says that there is an effect somewhere in it; it does not say that there is one in every voxel."
)
_ROI_NOTE = (
    "Mean of the maps over each region of the atlas. t or F and p are those of the same design on these means: "
    "parametric, and not corrected for the number of regions."
)
_OF_VOXELS = {"voxelFWE": "familywise", "tfceFWE": "TFCE", "FDR": "false discovery rate"}  # corrections of voxels
_MOST_EXCLUDED = 200  # in the page
_MOST_LEVELS = 12  # of a factor
_MOST_ROIS = 500
_MOST_LISTED = 200  # clusters of a contrast
_MOST_PEAKS = 30  # in the viewer


def screen_page(folder: str | Path, pictures: Sequence[Picture] | None = None) -> str:
    """Return the report on a screening as one HTML page.

    Parameters
    ----------
    folder : path
        As `gpuroi screen` writes it.
    pictures : sequence of Picture, optional
        From `screen_pictures`, if they are drawn already; empty for a page without pictures.

    Returns
    -------
    str
        HTML with all pictures and a slice viewer inside; nothing is loaded from elsewhere.

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
            return screen_page(folder, screen_pictures(Path(folder), figures))
    screen = SavedScreen.read(folder)
    drawn = {picture.path.name: picture for picture in pictures}
    findings, sections, layers = [], [], []
    for contrast in screen.contrasts:  # one after the other: the maps of all at once are more than the test took
        findings.append(_finding(contrast))
        sections.append((f"Contrast {contrast.name}", _contrast(contrast, findings[-1], drawn)))
        layers.append(_layer(contrast))
        contrast.release()
    return document(
        f"Screening of {count(len(screen.people), 'person')}".replace("persons", "people"),
        [
            ("What was asked and found", _asked(screen) + bullets(findings) + screen_warnings(screen)),
            *cohort_sections(screen, drawn),
            *sections,
            ("Slice viewer", _viewer(screen, layers)),
            ("Regions of the atlas", _rois(screen)),
            ("Methods", markdown(methods_text(folder))),
            *records(SavedRecord(screen.provenance)),
        ],
    )


def cohort_sections(screen: SavedScreen, drawn: Mapping[str, Picture]) -> list[tuple[str, str]]:
    """Return what every screening says of its people, its design and its voxels."""
    formula = screen.about_design["Formula"]
    return [
        ("People", _people(screen)),
        ("Design", picture_html(_named(drawn, "design")) + facts(_design_facts(screen, formula))),
        ("Coverage", _coverage(screen) + picture_html(_named(drawn, "coverage"))),
    ]


def _asked(screen: SavedScreen) -> str:
    formula = screen.about_design["Formula"]
    model = f"the model {formula}" if formula else "a design that was given as a matrix"
    n, names = len(screen.people), ", ".join(contrast.name for contrast in screen.contrasts)
    voxels = count(int(screen.mask.sum()), "voxel")
    text = f"In which of {voxels} do the maps of {n} people go with {names}? Each voxel was fitted with {model}."
    permutations = max((contrast.n_permutations for contrast in screen.contrasts), default=0)
    if permutations:
        text += (
            f" p-values are corrected for the number of voxels by {permutations} permutations; "
            f"the smallest possible is {number(1 / permutations)}."
        )
    else:
        text += " There were no permutations: p-values are parametric, and only the false discovery rate is controlled."
    return paragraph(text, "lead")


def _finding(contrast: SavedContrast) -> str:
    """What came out of one contrast, in a sentence or two."""
    rows, sure = contrast.clusters, contrast.significant
    if not len(rows):
        return _nothing(contrast)
    peak = rows.iloc[int(np.abs(rows["Peak Stat"]).to_numpy().argmax())]
    where = f"{peak['X']:.0f}, {peak['Y']:.0f}, {peak['Z']:.0f} mm"
    where += f" ({peak['Peak Label']})" if isinstance(peak.get("Peak Label"), str) else ""
    text = f"{contrast.name}: {count(len(rows), 'cluster')}, {len(sure) or 'none'} with a {contrast.p_means} of "
    text += f"{ALPHA:g} or less"
    if contrast.signed and sure:
        signs = rows.loc[rows["Cluster ID"].isin(sure), "Sign"]
        text += f": {int((signs > 0).sum())} positive, {int((signs < 0).sum())} negative"
    text += f". The largest {contrast.kind} is {number(float(peak['Peak Stat']))} at {where}"
    p = peak.get("p_peak_FWE")
    text += f", familywise p = {number(float(p))}." if p is not None and np.isfinite(p) else "."
    return f"{text} Voxels with a corrected p of {ALPHA:g} or less: {_voxels(contrast)}."


def _nothing(contrast: SavedContrast) -> str:
    """What is to be said of a contrast that nothing passed: how far away it was."""
    values = contrast.statistic[contrast.mask]
    size = np.abs(values) if contrast.two_sided else values
    text = f"{contrast.name}: no cluster. Nothing passes the threshold ({contrast.cut.text})."
    if np.isfinite(size).any():
        name = f"|{contrast.shown}|" if contrast.two_sided else contrast.shown
        text += f" The largest {name} is {number(float(np.nanmax(size)))}."
    least = {
        name: 10 ** -float(np.nanmax(logp[contrast.mask], initial=0.0)) for name, logp in contrast.corrected.items()
    }
    said = ", ".join(f"{number(least[name])} ({text})" for name, text in _OF_VOXELS.items() if name in least)
    return f"{text} Smallest corrected p of a voxel: {said}." if said else text


def _voxels(contrast: SavedContrast) -> str:
    """How many voxels pass each correction of voxels."""
    numbers = {name: int((contrast.corrected[name] >= LOGP_OF_ALPHA).sum()) for name in contrast.corrected}
    said = ", ".join(f"{numbers[name]} ({text})" for name, text in _OF_VOXELS.items() if name in numbers)
    if numbers.get("voxelFWE") and not numbers.get("FDR", 1):  # its p are counts of permutations, the least 1 / n
        said += f"; {contrast.n_permutations} permutations are too few for the false discovery rate of so many voxels"
    return said


def screen_warnings(screen: SavedScreen) -> str:
    """Return what should be looked at first."""
    said = [*screen.about_design.get("Warnings", []), *screen.provenance.get("notes", [])]
    unique = list(dict.fromkeys(map(str, said)))
    return paragraph("Mind:") + bullets(unique) if unique else ""


def _people(screen: SavedScreen) -> str:
    n, left_out = len(screen.people), screen.excluded
    if not len(left_out):
        return paragraph(f"All {n} people of the table were analysed.") + facts(_makeup(screen))
    text = f"{n} people were analysed, {len(left_out)} of {n + len(left_out)} were not:"
    reasons = left_out["reason"].value_counts()
    shown = left_out.head(_MOST_EXCLUDED)
    rest = len(left_out) - len(shown)
    more = paragraph(f"{rest} more are in excluded.tsv.", "note") if rest else ""
    return (
        paragraph(text)
        + bullets(f"{reason}: {n_of}" for reason, n_of in reasons.items())
        + table(shown, "excluded")
        + more
        + subheading("Who was analysed")
        + facts(_makeup(screen))
    )


def _makeup(screen: SavedScreen) -> list[tuple[str, str]]:
    """The columns that the formula names, among those who were analysed: how many of each kind, or mean and range."""
    import pandas as pd

    formula, said = screen.about_design["Formula"] or "", []
    for name in screen.people.columns:
        word = rf"(?<![\w.]){re.escape(name)}(?![\w.])"
        if name in ("participant_id", "map") or not re.search(word, formula):
            continue
        values = screen.people[name]
        if pd.api.types.is_numeric_dtype(values) and not re.search(rf"C\(\s*{re.escape(name)}\b", formula):
            spread = f"mean {number(values.mean())}, standard deviation {number(values.std())}"
            said.append((name, f"{spread}, from {number(values.min())} to {number(values.max())}"))
            continue
        sizes = values.astype(str).value_counts().sort_index()
        shown = ", ".join(f"{level}: {n}" for level, n in sizes.head(_MOST_LEVELS).items())
        said.append((name, f"{shown}, and {len(sizes) - _MOST_LEVELS} more" if len(sizes) > _MOST_LEVELS else shown))
    return said


def _design_facts(screen: SavedScreen, formula: str) -> list[tuple[str, Any]]:
    about = screen.about_design
    return [
        ("formula", formula or "given as a matrix"),
        ("rows", about["N"]),
        ("rank", f"{about['Rank']} of {len(about['Columns'])} columns"),
        ("degrees of freedom", about["DegreesOfFreedom"]),
        ("condition number", number(float(about["Condition"]))),
        ("blocks", about.get("Blocks")),
        ("warnings", "; ".join(map(str, about.get("Warnings", []))) or None),
    ]


def _coverage(screen: SavedScreen) -> str:
    n, inside = len(screen.people), screen.coverage[screen.mask]
    searched = int((screen.coverage > 0).sum())
    text = f"{count(int(screen.mask.sum()), 'voxel')} were analysed, of {searched:,} that some map has."
    if inside.size and inside.min() < n:
        short = int((inside < n).sum())
        text += (
            f" In {count(short, 'voxel')} of them some maps have no value: the fewest are {inside.min():.0f} of {n}."
        )
    elif inside.size:
        text += f" Each of them has a value in all {n} maps."
    return paragraph(text)


def _contrast(contrast: SavedContrast, finding: str, drawn: dict[str, Picture]) -> str:
    stem = f"contrast-{contrast.label}_"
    mine = {name.removeprefix(stem).split(".")[0]: one for name, one in drawn.items() if name.startswith(stem)}
    brains = [mine[name] for name in ("glass", "mosaic") if name in mine]
    spread = [one for name, one in mine.items() if name.startswith(("null-", "qq"))]
    plots = [one for name, one in mine.items() if name.startswith("cluster-")]
    rows = contrast.clusters.drop(columns=[name for name in contrast.clusters if contrast.clusters[name].isna().all()])
    html = paragraph(_tested(contrast)) + paragraph(finding)
    html += picture_html(brains) or paragraph(NO_PICTURES)
    if len(rows):
        html += subheading("Clusters") + table(_tidy(rows.head(_MOST_LISTED)), f"clusters of {contrast.name}")
        more = (
            f" The first {_MOST_LISTED} of {len(rows)}; the others are in the .tsv." if len(rows) > _MOST_LISTED else ""
        )
        html += paragraph(f"{_COORDINATES} {_CLUSTER_INFERENCE}{more}", "note")
    if plots:
        n = len(contrast.significant)
        shown = "" if n else f" No cluster is significant; the {len(plots)} with the smallest p are shown."
        shown = f" The {len(plots)} with the smallest p are shown." if n > MOST_CLUSTER_PLOTS else shown
        html += subheading("Means of the clusters") + paragraph(_CIRCULAR + shown) + picture_html(plots)
    if spread:
        title = "Permutations and p-values" if contrast.n_permutations else "p-values"
        html += subheading(title) + picture_html(spread)
    return html


def _tested(contrast: SavedContrast) -> str:
    about = contrast.sidecar
    dfs = " and ".join(_degrees(one) for one in np.atleast_1d(about["DegreesOfFreedom"]))
    sides = "" if not contrast.signed else ", two-sided" if contrast.two_sided else ", one-sided: positive values only"
    text = f"Tested: {contrast.about['Text'] or contrast.name}; {contrast.kind} with {dfs} degrees of freedom{sides}."
    if contrast.n_permutations:
        text += f" {contrast.n_permutations} permutations, seed {about.get('Seed')}."
    return f"{text} A cluster: {contrast.rule}." if contrast.rule else text


def _degrees(df: Any) -> str:
    return f"{df['Least']:.4g} to {df['Largest']:.4g}" if isinstance(df, dict) else f"{df:g}"


def _tidy(rows: pd.DataFrame) -> pd.DataFrame:
    """Where and how large first, then p; whole numbers without a point, mm to one digit. Peak Stat has the sign."""
    first = ("Cluster ID", "Peak Label", "X", "Y", "Z", "Peak Stat", "Voxels")
    last = ("Cluster Size (mm3)", "Mass", "Labels (%)")
    between = [name for name in rows if name not in (*first, *last, "Sign")]
    rows = rows[[name for name in (*first, *between, *last) if name in rows]]
    whole = [name for name in ("Cluster ID", "Voxels") if name in rows]
    rounded = {name: rows[name].round(1) for name in ("X", "Y", "Z", "Cluster Size (mm3)") if name in rows}
    return rows.assign(**{name: rows[name].astype("int64") for name in whole}, **rounded)


def _layer(contrast: SavedContrast) -> Layer:
    return Layer(
        f"{contrast.name}: {contrast.shown}",
        contrast.statistic,
        contrast.shown,
        contrast.cut.value,
        contrast.signed,
        {
            f"cluster {row['Cluster ID']:.0f}": (row["X"], row["Y"], row["Z"])
            for _, row in contrast.clusters.head(_MOST_PEAKS).iterrows()
        },
    )


def _viewer(screen: SavedScreen, layers: list[Layer]) -> str:
    text = "All values of each map; a slider sets from where on they are shown. What it shows is not corrected."
    return paragraph(text) + slice_viewer(layers, screen.anatomy[0], screen.affine) if layers else ""


def _rois(screen: SavedScreen) -> str:
    if screen.roi_means is None:
        return ""
    import pandas as pd

    values = screen.roi_means.drop(columns="participant_id").astype(np.float64)
    rows = pd.DataFrame(
        {
            "region": list(values.columns),
            "people": values.notna().sum().to_numpy(),
            "mean": values.mean().to_numpy(),
            "standard deviation": values.std().to_numpy(),
        }
    )
    whole = values.notna().all(axis=0).to_numpy() & (values.std() > 0).to_numpy()
    for contrast in screen.contrasts:
        for name, found in _roi_tests(screen, contrast, values.loc[:, whole].to_numpy()).items():
            rows[name] = np.nan
            rows.loc[whole, name] = found
    shown = paragraph(f"The first {_MOST_ROIS} of {len(rows)}.", "note") if len(rows) > _MOST_ROIS else ""
    return paragraph(_ROI_NOTE) + table(rows.head(_MOST_ROIS), "means over the regions of the atlas") + shown


def _roi_tests(screen: SavedScreen, contrast: SavedContrast, values: Any) -> dict[str, Any]:
    from gpuroi.inference import glm

    if not values.shape[1]:
        return {}
    weights = contrast.weights[0] if contrast.signed else contrast.weights
    one_sided = contrast.signed and not contrast.two_sided
    side: Literal["two-sided", "greater"] = "greater" if one_sided else "two-sided"
    found = glm(values, screen.matrix, weights, alternative=side, device="cpu")
    return {f"{found.kind} of {contrast.name}": found.statistic, f"p of {contrast.name}": found.p}


def _named(drawn: Mapping[str, Picture], stem: str) -> list[Picture]:
    return [picture for name, picture in drawn.items() if name.split(".")[0] == stem]
