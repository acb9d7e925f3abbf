"""`gpuroi threshold-parcels`: from a map and an atlas to the parcels that stand out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from gpuroi.cli.summary import show

__all__ = ["threshold_parcels"]

Connectivity = Literal[6, 18, 26]


def threshold_parcels(
    values: Path,
    /,
    *,
    labels: Annotated[Path, Parameter(name=("--labels", "--atlas"))],
    out: Path,
    threshold: float | str,
    cluster_threshold: float = 1,
    weights: Literal["parcels", "voxels", "mm3", "graph"] = "parcels",
    two_sided: Annotated[bool, Parameter(negative="--one-sided")] = True,
    connectivity: Connectivity = 6,
    graph: Path | None = None,
    min_contact: int = 1,
    homotopic: Literal["mirror", "names"] | None = None,
    summary: Literal["mean"] | None = None,
    column: str | None = None,
    names: Annotated[Path | None, Parameter(name=("--names", "--atlas-names"))] = None,
    hierarchy: Path | None = None,
    levels: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    figures: Annotated[bool, Parameter(negative="--no-figures")] = True,
    device: str = "auto",
    overwrite: bool = False,
) -> int:
    """Find the parcels of an atlas that stand out together with their neighbours.

    gpuroi threshold-parcels t.nii.gz --labels atlas_dseg.nii.gz --summary mean
    --threshold 2.5 --cluster-threshold 3 --out parcels/

    Parameters
    ----------
    values
        Image with one value in each parcel, or a table (.tsv, .csv) of ids and values.
    labels
        Label image of the atlas, on the same grid; 0 is outside.
    out
        Folder to write.
    threshold
        A parcel passes where |value| is above this; or a percentile of the parcels, such as 90%.
    cluster_threshold
        Smallest cluster kept, in what --weights counts.
    weights
        What the size of a cluster counts: parcels, their voxels, their mm3, or the weights of --graph.
    two_sided
        Positive and negative parcels, in clusters apart; one-sided keeps those above the threshold.
    connectivity
        Parcels touch where their voxels do: by faces (6), and edges (18), and corners (26).
    graph
        Table of neighbours, as graph.tsv of an earlier result, instead of contact.
    min_contact
        Pairs of voxels that have to touch.
    homotopic
        Make counterparts in the other hemisphere neighbours: found by mirroring x = 0, or by LH and RH in --names.
    summary
        mean takes a map of voxels and averages it over each parcel.
    column
        Column of a table of values.
    names
        Look-up table with the columns index and name; by default the table beside the label image.
    hierarchy
        Look-up table whose --levels are the parents of each parcel: these stand in for contact.
    levels
        Columns of the hierarchy, from fine to coarse.
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
    from gpuroi.report.document import count
    from gpuroi.report.parcel_page import smallest_cluster
    from gpuroi.workflows.output import check_output
    from gpuroi.workflows.parcel_threshold import threshold_parcels as find_parcels

    check_output(out, overwrite=overwrite)
    result = find_parcels(
        values,
        labels,
        threshold=threshold,
        cluster_threshold=cluster_threshold,
        weights=weights,
        two_sided=two_sided,
        connectivity=connectivity,
        graph=graph,
        min_contact=min_contact,
        homotopic=homotopic,
        summary=summary,
        column=column,
        names=names,
        hierarchy=hierarchy,
        levels=levels,
        device=device,
    )
    result.save(out, overwrite=overwrite, figures=figures)
    counts, settings = result.counts, result.settings
    passing = counts["parcels_above"] + counts["parcels_below"]
    smallest = smallest_cluster(settings)
    kept = f"{counts['parcels_kept']} in {count(counts['clusters_kept'], 'cluster')} of {smallest} or more"
    if not passing:
        kept = "none: no parcel passes the threshold"
    elif not counts["parcels_kept"]:
        kept = f"none: no cluster has {smallest}"
    facts = [
        ("device", result.device),
        ("parcels", f"{counts['parcels']}, {counts['edges']} pairs of neighbours"),
        ("threshold", settings["rule"]),
        ("passing", f"{counts['parcels_above']} above, {counts['parcels_below']} below"),
        ("isolated", ", ".join(map(str, counts["isolated"])) or "none"),
        ("kept", kept),
        ("written", str(out / "report.html")),
    ]
    table = result.table
    shown = [name for name in ("id", "name", "value", "cluster", "cluster_weight", "isolated") if name in table]
    show(facts, table.loc[table["kept"], shown], unit="parcels")
    return 0
