"""The report on thresholded parcels."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.report.citations import references
from gpuroi.report.document import bullets, count, document, ordered, paragraph, table
from gpuroi.report.page import Picture, picture_html, records
from gpuroi.report.parcel_figures import save_graph_picture, save_threshold_picture

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["parcels_page", "parcels_pictures", "smallest_cluster"]

_CAVEATS = (
    "No p-value belongs to what is kept, and nothing is corrected for the number of parcels. "
    "For that, permute: gpuroi.inference.permutation_test with the graph of this result as its domain.",
    "Random field theory does not apply: parcels are few, large and of different sizes.",
    "Neighbours in an atlas may do different things: a border is often drawn where function changes. "
    "A parcel that stands out alone is no error; isolated parcels are listed.",
)
_COORDINATES = "x, y and z are the mean place of the parcel's voxels in mm: to the right, to the front and up."


def parcels_pictures(result: Any, folder: Path) -> list[Picture]:
    """Draw the pictures of a result of `gpuroi.threshold_parcels` into a folder.

    Parameters
    ----------
    result : ParcelThresholdResult
        With an affine.
    folder : path
        Must exist. Gets `thresholds.png` and `graph.png`.

    Returns
    -------
    list of Picture

    Raises
    ------
    OutputError
        If matplotlib is not installed.
    """
    if result.labels is None or result.map is None:  # made anew, and the inputs are no longer there
        return []
    settings, rows, affine = result.settings, result.table, result.affine
    cut, inside = float(settings["cutoff"]), result.labels > 0
    given = np.where(np.isfinite(result.map), result.map, 0.0)
    passing = given > cut if cut >= 0 else given < cut
    if settings["two_sided"]:
        passing = np.abs(given) > cut
    kept = f"parcel by parcel: {settings['rule']}, clusters of {smallest_cluster(settings)} or more"
    bands = [
        ("the map, inside the parcels", np.where(inside, given, 0.0)),
        (f"voxel by voxel: {settings['rule']}", np.where(passing & inside, given, 0.0)),
        (kept, result.painted),
    ]
    compared = save_threshold_picture(bands, result.labels, affine, folder / "thresholds.png", threshold=abs(cut))
    drawn = save_graph_picture(
        result.graph,
        result.labels,
        affine,
        folder / "graph.png",
        values=rows["value"].to_numpy(np.float64),
        kept=rows["kept"].to_numpy(bool),
        title="Parcels and their neighbours; kept ones have a dark rim",
    )
    found = count(len(result.kept), "parcel")
    return [
        Picture(
            compared,
            f"The same cuts three times: the map, its voxels past the threshold, and {found} kept.",
            "Lines are the borders of parcels. Orange: positive; blue: negative.",
        ),
        Picture(
            drawn,
            f"The graph of {count(result.graph.n_elements, 'parcel')} over the brain, {found} kept.",
            "Each dot is a parcel, its area goes with its weight. Lines join neighbours, dark ones kept neighbours.",
        ),
    ]


def parcels_page(result: Any, pictures: Sequence[Picture] | None = None) -> str:
    """Return the report on a result of `gpuroi.threshold_parcels` as one HTML page.

    Parameters
    ----------
    result : ParcelThresholdResult
    pictures : sequence of Picture, optional
        From `parcels_pictures`, if they are drawn already; empty for a page without pictures.

    Returns
    -------
    str
        HTML with all pictures inside; nothing is loaded from elsewhere.

    Raises
    ------
    OutputError
        If pictures must be drawn and matplotlib is not installed.
    """
    if pictures is None:
        with TemporaryDirectory() as folder:
            return parcels_page(result, parcels_pictures(result, Path(folder)))
    rows, clusters = result.table, result.clusters
    shown = rows[rows["cluster"] > 0].sort_values(["kept", "cluster", "value"], ascending=[False, True, False])
    levels = "".join(
        paragraph(f"{level.name}: {count(len(level.table), 'parent')}") + table(level.table) for level in result.levels
    )
    no_picture = "No pictures: not asked for, the place of the labels is not known, or matplotlib is not installed."
    return document(
        "Thresholded parcels",
        [
            ("What was asked and found", paragraph(_asked(result)) + paragraph(_found(result))),
            ("Where", picture_html(pictures) or paragraph(no_picture)),
            ("Clusters", table(clusters) if len(clusters) else ""),
            ("Parcels past the threshold", table(shown) + paragraph(_COORDINATES) if len(shown) else ""),
            ("Levels", levels),
            ("How", ordered(_steps(result.settings)) + paragraph("Mind:") + bullets(_CAVEATS)),
            *records(result),
            ("References", references(["label"], result.device)),
        ],
    )


def smallest_cluster(settings: dict[str, Any]) -> str:
    """Return the smallest size kept in words: "1 parcel", "250 mm3"."""
    size, unit = settings["cluster_threshold"], settings["weights"]
    return f"{size:g} {unit.removesuffix('s') if size == 1 else unit}"


def _asked(result: Any) -> str:
    settings = result.settings
    return (
        f"Which of {count(result.graph.n_elements, 'parcel')} pass the threshold, {settings['rule']}, together with "
        f"their neighbours: in a cluster of {smallest_cluster(settings)} or more?"
    )


def _found(result: Any) -> str:
    counts = result.counts
    passing = counts["parcels_above"] + counts["parcels_below"]
    if not passing:
        return "No parcel passes the threshold."
    text = (
        f"{count(passing, 'parcel')} pass in {count(counts['clusters'], 'cluster')}, {counts['parcels_above']} above "
        f"and {counts['parcels_below']} below. Kept: {count(counts['parcels_kept'], 'parcel')} "
        f"in {count(counts['clusters_kept'], 'cluster')}."
    )
    if counts["isolated"]:
        text += f" Isolated, with no neighbour that passes on their side: {', '.join(map(str, counts['isolated']))}."
    if counts["parcels_without_value"]:
        text += f" {count(counts['parcels_without_value'], 'parcel')} without a value."
    if counts["in_several_pieces"]:
        text += f" In several pieces: {count(len(counts['in_several_pieces']), 'parcel')} (see the table)."
    return text


def _steps(settings: dict[str, Any]) -> list[str]:
    over = {6: "faces", 18: "faces or edges", 26: "faces, edges or corners"}[settings["connectivity"]]
    neighbours = {
        "contact": f"Parcels are neighbours if {count(settings['min_contact'], 'pair')} of their voxels or more touch "
        f"over {over}.",
        "given": "Parcels are neighbours where the given graph says so.",
        "parents": f"Parcels are neighbours if they have the same parent ({', '.join(settings['levels'])}; what is "
        f"kept is of the first level).",
    }[settings["neighbours"]]
    if settings["homotopic"]:
        neighbours += " Counterparts in the other hemisphere are neighbours too."
    return [
        "Average the map over each parcel." if settings["summary"] else "Take the one value of each parcel.",
        f"A parcel passes where {settings['rule']}.",
        neighbours + (" Positive and negative parcels never join." if settings["two_sided"] else ""),
        f"Keep clusters whose weight, in {settings['weights']}, is {settings['cluster_threshold']:g} or more.",
    ]
