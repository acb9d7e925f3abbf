"""`gpuroi clusters`: a table of the clusters of a statistical map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from gpuroi.cli.summary import show

__all__ = ["clusters"]

Connectivity = Literal[6, 18, 26]

_LABELS, _SHOWN = "Labels (%)", 3
_IN_FILE_ONLY = ["Mass", "Sign"]  # where labels need the room; the sign is that of the peak


def clusters(
    img: Path,
    /,
    *,
    threshold: float | str,
    out: Path | None = None,
    two_sided: Annotated[bool, Parameter(negative="--one-sided")] = True,
    min_size_mm3: float = 0.0,
    connectivity: Connectivity = 6,
    mask: Path | None = None,
    atlas: Annotated[Path | None, Parameter(name=("--atlas", "--labels"))] = None,
    atlas_names: Path | None = None,
    sub_peaks: int = 3,
    min_distance_mm: float = 8.0,
    figures: Annotated[bool, Parameter(negative="--no-figures")] = True,
    device: str = "auto",
    overwrite: bool = False,
) -> int:
    """List the clusters of a statistical map: peaks, sizes, and where they lie in an atlas.

    gpuroi clusters zstat1.nii.gz --threshold 3.1 --atlas atlas_dseg.nii.gz

    Parameters
    ----------
    img
        NIfTI image of a statistic, 3-D.
    threshold
        A value, or a percentile such as 97%.
    out
        Folder to write: clusters.tsv, the clusters as a label image, sidecars, a report.
    two_sided
        Positive and negative clusters where |x| >= threshold; one-sided: x >= threshold (<=, if it is negative).
    min_size_mm3
        Smallest cluster listed, in mm3.
    connectivity
        Which voxels make one cluster: over faces (6), and edges (18), and corners (26).
    mask
        Image, non-zero inside: where clusters are looked for, and the percentile is taken.
    atlas
        Label image on the grid of the map, 0 outside: names each peak, and what each cluster covers.
    atlas_names
        Names of the labels: _dseg.tsv, FSL .xml, FreeSurfer table; by default the table beside the atlas.
    sub_peaks
        At most so many further peaks for each cluster.
    min_distance_mm
        Smallest distance between two peaks of one cluster, in mm.
    figures
        Draw figures, for the report too.
    device
        auto, cpu, cuda, or cuda:N.
    overwrite
        Replace earlier results in the folder.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.workflows.clusters import clusters as find_clusters
    from gpuroi.workflows.output import check_output

    if out is not None:
        check_output(out, overwrite=overwrite)
    result = find_clusters(
        img,
        threshold=threshold,
        two_sided=two_sided,
        min_size_mm3=min_size_mm3,
        connectivity=connectivity,
        mask=mask,
        atlas=atlas,
        atlas_names=atlas_names,
        sub_peaks=sub_peaks,
        min_distance_mm=min_distance_mm,
        device=device,
    )
    if out is not None:
        result.save(out, overwrite=overwrite, figures=figures)
    n = result.counts["clusters"]
    found = f"{n}, {result.counts['voxels_in_clusters']} voxels"
    if not n:
        found = f"none of {min_size_mm3:g} mm3 or more" if min_size_mm3 else "none: nothing reaches the threshold"
    facts = [("device", result.device), ("threshold", result.settings["rule"]), ("clusters", found)]
    if out is not None:
        facts.append(("written", str(out / "report.html")))
    table = result.table
    if _LABELS in table:
        table = table.drop(columns=_IN_FILE_ONLY).assign(**{_LABELS: table[_LABELS].map(_largest)})
    show(facts, table, unit="rows", most=None)
    return 0


def _largest(labels: object) -> object:
    """The largest shares: all of them are in the file, where there is room."""
    return "; ".join(labels.split("; ")[:_SHOWN]) if isinstance(labels, str) else labels
