"""A cohort in words: who takes part, on which grid, what is missing, what the design is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gpuroi.cohort.coverage import CohortSummary
    from gpuroi.cohort.design import CohortDesign
    from gpuroi.cohort.participants import Participants
    from gpuroi.domains import VoxelGrid

__all__ = ["NO_MASK", "cohort_facts", "spaced"]

NO_MASK = "no mask: every voxel of the images is tested, outside the brain too, which costs power; give --mask"

_SHOWN = 5  # ids in a line


def cohort_facts(
    people: Participants,
    used: Participants,
    design: CohortDesign | None,
    description: dict[str, Any],
    grid: VoxelGrid | None,
    mask: Any,
    summary: CohortSummary | None,
    min_coverage: float,
) -> list[tuple[str, str]]:
    """Return the lines that a check prints, each with its name.

    Parameters
    ----------
    people, used : Participants
        Everybody in the table, and those that stay.
    design : CohortDesign or None
    description : dict
        As `gpuroi.cohort.describe` returns it; empty without a design.
    grid : VoxelGrid or None
    mask : path, image or None
        As it was given.
    summary : CohortSummary or None
    min_coverage : float

    Returns
    -------
    list of (str, str)
    """
    facts = [("participants", _who(people))]
    if grid is not None:
        facts.append(("grid", _grid_text(grid, mask)))
    facts.append(("missing", _missing_text(used, summary)))
    if design is not None:
        condition = f"condition {description['condition']:.3g}"
        rank = f"rank {description['rank']}/{description['p']}, {condition}, df {description['df']}"
        facts.append(("design", f"{', '.join(design.names)}   {rank}"))
        if design.contrasts:
            told = [f"{c.name} ({c.kind})" + (f" = {c.text}" if c.text != c.name else "") for c in design.contrasts]
            facts.append(("contrasts", ", ".join(told)))
        if design.blocks is not None:
            levels = design.blocks.reshape(len(design.blocks), -1).T
            facts.append(("blocks", " > ".join(str(len(np.unique(level))) for level in levels) + " blocks"))
    if summary is not None:
        covered = int(summary.covered(min_coverage).sum())
        whole = int(summary.covered(1.0).sum())
        facts.append(
            ("coverage", f"{spaced(covered)} voxels in {min_coverage:.0%} of the maps, {spaced(whole)} in all")
        )
        facts.append(("outliers", _outlier_text(summary)))
    return facts


def _who(people: Participants) -> str:
    if not people.maps:
        return f"{len(people)} rows"
    named = people.n_named()
    ids = "ids match file names" if named == len(people) else f"{named} file names hold an id, which matches"
    return f"{len(people)} rows, {len(people.maps)} maps found, {ids if named else 'file names hold no id'}"


def _grid_text(grid: VoxelGrid, mask: Any) -> str:
    from gpuroi.images.grid import voxel_sizes_mm

    assert grid.affine is not None
    sizes = [f"{size:.2f}" for size in voxel_sizes_mm(grid.affine)]
    told = sizes[0] if len(set(sizes)) == 1 else " x ".join(sizes)
    inside = f"{'mask' if mask is not None else 'no mask,'} {spaced(grid.n_elements)} voxels"
    return f"{'x'.join(str(n) for n in grid.mask.shape)} @ {told} mm, 1 affine, {inside}"


def _missing_text(used: Participants, summary: CohortSummary | None) -> str:
    excluded = used.excluded
    by_detail = Counter(detail for details in excluded["detail"] for detail in str(details).split(", "))
    told = []
    for detail, count in by_detail.items():
        who = [
            str(i)
            for i, d in zip(excluded["participant_id"], excluded["detail"], strict=True)
            if detail in d.split(", ")
        ]
        more = f", {count - _SHOWN} more" if count > _SHOWN else ""
        told.append(f"{detail}: {count} ({', '.join(who[:_SHOWN])}{more} -> excluded.tsv)")
    told = told or ["none"]
    if summary is not None:
        holes = int(summary.nonfinite.sum())
        maps = int((summary.nonfinite > 0).sum())
        told.append(f"constant voxels: {spaced(int(summary.constant.sum()))}")
        told.append(
            f"non-finite: {spaced(holes)} voxels in {maps} {'map' if maps == 1 else 'maps'}"
            if holes
            else "non-finite: 0"
        )
    return "   ".join(told)


def _outlier_text(summary: CohortSummary) -> str:
    known = summary.correlation[np.isfinite(summary.correlation)]
    span = (
        f"correlation with the mean of the others {known.min():.2f} to {known.max():.2f}"
        if known.size
        else "no variance"
    )
    count = int(summary.outlier.sum())
    return f"{count or 'none'}; {span}"


def spaced(n: int) -> str:
    """Return a number with its thousands apart."""
    return f"{n:,}"
