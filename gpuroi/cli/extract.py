"""`gpuroi extract`: what images hold in the regions of an atlas."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from gpuroi.cli.summary import show

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["extract"]

Statistic = Literal["mean", "median", "sum", "std", "min", "max"]

_MOST_VOLUMES = 10  # on a terminal; elsewhere all of them


def extract(
    images: list[Path],
    /,
    *,
    labels: Annotated[Path, Parameter(name=("--labels", "--atlas"))],
    out: Path | None = None,
    statistics: Annotated[list[Statistic], Parameter(consume_multiple=True)] = ("mean",),  # type: ignore[assignment]
    atlas_names: Path | None = None,
    mask: Path | None = None,
    missing: Literal["omit", "propagate"] = "omit",
    device: str = "auto",
    memory_limit: str | None = None,
    overwrite: bool = False,
) -> int:
    """Summarise images over the regions of an atlas: one row a volume, one column a label.

    gpuroi extract sub-*_bold.nii.gz --labels atlas_dseg.nii.gz --out roi_means.tsv

    Parameters
    ----------
    images
        NIfTI images on one grid, 3-D or 4-D.
    labels
        Label image on their grid, 0 outside. A label without a voxel has its column, n/a.
    out
        Table to write, .tsv; a sidecar .json comes with it. Without it the values are printed.
    statistics
        One or more of mean, median, sum, std, min, max.
    atlas_names
        Names of the labels: _dseg.tsv, FSL .xml, FreeSurfer table; by default the table beside the label image.
    mask
        Image, non-zero inside: voxels outside are left out of every region.
    missing
        NaN and infinite voxels: omit leaves them out, propagate computes with them.
    device
        auto, cpu, cuda, or cuda:N.
    memory_limit
        Bytes to work with, as 400MB or 8GB.
    overwrite
        Replace a table that stands already.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.workflows.extract import extract_table

    result = extract_table(
        images,
        labels=labels,
        out=out,
        statistics=statistics,
        atlas_names=atlas_names,
        mask=mask,
        missing=missing,
        device=device,
        memory_limit=memory_limit,
        overwrite=overwrite,
    )
    facts = [
        ("device", result.device),
        ("volumes", str(result.counts["volumes"])),
        ("regions", str(result.counts["regions"])),
    ]
    if result.counts["empty"]:
        facts.append(("empty", ", ".join(result.counts["empty"])))
    if result.path is not None:
        show([*facts, ("written", str(result.path))])
    elif len(result.table) == 1:
        show(facts, _upright(result.table), unit="rows", most=None)
    else:
        show(facts, result.table, unit="volumes", most=_MOST_VOLUMES if sys.stdout.isatty() else None)
    return 0


def _upright(table: pd.DataFrame) -> pd.DataFrame:
    """A single volume's values one below the other: dozens of regions side by side cannot be read."""
    values = table.drop(columns=["image", "volume"])
    return values.T.rename_axis("region").set_axis(["value"], axis="columns").reset_index()
