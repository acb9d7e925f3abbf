"""The report on the clusters of a map."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.report.citations import references
from gpuroi.report.document import bullets, count, document, number, ordered, paragraph, table
from gpuroi.report.map_figures import save_map_picture
from gpuroi.report.page import NO_PICTURES, Picture, background_of, map_name, map_viewer, picture_html, records
from gpuroi.report.roi_figures import save_regions_picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

__all__ = ["clusters_page", "clusters_pictures"]

_CAVEATS = (
    "No p-value belongs to these clusters, and nothing is corrected for the number of voxels: they are where the map "
    "passes the threshold.",
    "The name of a region says where a voxel lies in the atlas, not which area is at work.",
)
_COORDINATES = (
    "X, Y and Z are the peak in mm: to the right, to the front and up, in the space of the image. A letter behind the "
    "number marks a further peak of the same cluster."
)
_MOST_PEAKS = 30  # in the viewer


def clusters_pictures(result: Any, folder: Path) -> list[Picture]:
    """Draw the pictures of a result of `gpuroi.clusters` into a folder.

    Parameters
    ----------
    result : ClustersResult or SavedClusters
    folder : path
        Must exist. Gets `clusters.png` and, where the map is known, `map.png`.

    Returns
    -------
    list of Picture

    Raises
    ------
    OutputError
        If matplotlib is not installed.
    """
    affine, (background, below) = result.like.affine, background_of(result.like)
    title = f"{map_name(result)}: {result.settings['rule']}"
    found = count(result.counts["clusters"], "cluster")
    drawn = save_regions_picture(
        result.labels, background, affine, folder / "clusters.png", title=title, noun="cluster"
    )
    pictures = [Picture(drawn, f"Cuts through the map with {found} in colour, numbered.", below)]
    if not _has_map(result):
        return pictures
    inside = save_map_picture(
        np.where(result.labels > 0, result.like.read_one(), 0),
        affine,
        folder / "map.png",
        background=background,
        threshold=abs(float(result.settings["cutoff"])),
        title="The map inside the clusters",
    )
    text = "Orange: positive; blue: negative."
    return [*pictures, Picture(inside, f"Cuts through the values of the map inside {found}.", text)]


def clusters_page(result: Any, pictures: Sequence[Picture] | None = None) -> str:
    """Return the report on a result of `gpuroi.clusters` as one HTML page.

    Parameters
    ----------
    result : ClustersResult or SavedClusters
    pictures : sequence of Picture, optional
        From `clusters_pictures`, if they are drawn already; empty for a page without pictures.

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
            return clusters_page(result, clusters_pictures(result, Path(folder)))
    settings, rows = result.settings, result.table
    asked = f"Which voxels of {map_name(result)} pass the threshold, {settings['rule']}, and how do they hang together?"
    viewer = map_viewer(result.like, abs(float(settings["cutoff"])), _peaks(rows)) if _has_map(result) else ""
    return document(
        "Clusters of a statistical map",
        [
            ("What was asked and found", paragraph(asked, "lead") + paragraph(_found(result))),
            ("Where", picture_html(pictures) or paragraph(NO_PICTURES)),
            ("Clusters", table(rows, "clusters") + paragraph(_COORDINATES, "note") if len(rows) else ""),
            ("Slice viewer", viewer),
            ("How", ordered(_steps(settings)) + paragraph("Mind:") + bullets(_CAVEATS)),
            *records(result),
            ("References", references(["label"], result.device)),
        ],
    )


def _has_map(result: Any) -> bool:
    """False where a report is made anew and the map is no longer there."""
    return bool(getattr(result, "has_map", True))


def _found(result: Any) -> str:
    rows, counts = result.table, result.counts
    if not counts["clusters"]:
        return "Nothing passes the threshold and the smallest size: there is no cluster."
    peak = rows.iloc[int(np.abs(rows["Peak Stat"]).to_numpy(np.float64).argmax())]
    name = peak.get("Peak Label")
    where = f" ({name})" if isinstance(name, str) else ""
    positive = counts["clusters_positive"]
    return (
        f"{count(counts['clusters'], 'cluster')} of {count(counts['voxels_in_clusters'], 'voxel')}: "
        f"{positive} positive, {counts['clusters'] - positive} negative. "
        f"The largest value is {number(float(peak['Peak Stat']))}, at "
        f"{peak['X']:.0f}, {peak['Y']:.0f}, {peak['Z']:.0f} mm{where}, in cluster {peak['Cluster ID']}."
    )


def _peaks(rows: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    shown = rows.head(_MOST_PEAKS)
    return {f"cluster {row['Cluster ID']}": (row["X"], row["Y"], row["Z"]) for _, row in shown.iterrows()}


def _steps(settings: Mapping[str, Any]) -> list[str]:
    within = "inside the mask" if settings["mask"] else "of the whole image"
    over = {6: "faces", 18: "faces or edges", 26: "faces, edges or corners"}[settings["connectivity"]]
    smallest, distance = settings["min_size_mm3"], settings["min_distance_mm"]
    return [
        f"Keep voxels {within} where {settings['rule']}.",
        f"Voxels that touch over {over} are one cluster; positive and negative ones never are.",
        f"Drop clusters smaller than {smallest:g} mm³." if smallest else "Keep clusters of any size.",
        "Number them: positive first, each sign from the highest peak down.",
        f"List up to {settings['sub_peaks']} further peaks of each, {distance:g} mm apart or more."
        if settings["sub_peaks"]
        else "List the highest peak of each.",
        f"Name the peaks, and say what each cluster covers, by {settings['atlas']}."
        if settings["atlas"]
        else "No atlas.",
    ]
