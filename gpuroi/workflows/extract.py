"""A table of what images hold in the regions of an atlas, written with a record of how it was made."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gpuroi.errors import OutputError
from gpuroi.workflows.provenance import describe_inputs, provenance
from gpuroi.workflows.stopwatch import Stopwatch

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import pandas as pd

    from gpuroi.images.extract_signals import Statistic

__all__ = ["ExtractResult", "extract_table"]


@dataclass(frozen=True)
class ExtractResult:
    """What images hold in regions.

    Attributes
    ----------
    table : DataFrame
        As `gpuroi.images.extract` returns it.
    path : Path or None
        Where it was written; beside it lies its sidecar `.json`.
    counts : dict
        `volumes`, `regions`, and `empty`: the columns without a voxel.
    device : str
    timings : dict of str to float
    """

    table: pd.DataFrame = field(repr=False)
    path: Path | None
    counts: dict[str, Any]
    device: str
    timings: dict[str, float]


def extract_table(
    images: str | os.PathLike[str] | Sequence[Any],
    *,
    labels: Any,
    out: str | os.PathLike[str] | None = None,
    statistics: Statistic | Sequence[Statistic] = "mean",
    atlas_names: Any = None,
    mask: Any = None,
    missing: Literal["omit", "propagate"] = "omit",
    device: str = "auto",
    memory_limit: int | str | None = None,
    overwrite: bool = False,
) -> ExtractResult:
    """Summarise images over the regions of an atlas, and write the table with its sidecar: both or neither.

    Parameters
    ----------
    images : path, pattern, or sequence of paths and images
        3-D or 4-D; every volume is one row.
    labels : path or image
        Whole numbers, 0 outside, on the grid of the images.
    out : path, optional
        Ends in `.tsv`.
    statistics, mask, missing, device, memory_limit
        As in `gpuroi.images.extract`.
    atlas_names : path, DataFrame or mapping, optional
        Look-up table of the labels. None: the table beside the label image.
    overwrite : bool, default False
        Replace a table that stands already.

    Returns
    -------
    ExtractResult

    Raises
    ------
    UsageError, DataError, GridError, DeviceError, OutputError

    See Also
    --------
    gpuroi.images.extract : the table alone, with the rules in full.
    """
    from gpuroi.images.extract_signals import extract

    target = None if out is None else _checked_output(out, overwrite)
    watch = Stopwatch()
    with watch("extract"):
        table = extract(
            images,
            labels,
            statistics=statistics,
            names=atlas_names,
            mask=mask,
            missing=missing,
            device=device,
            memory_limit=memory_limit,
        )
    regions = table.attrs["regions"]
    counts = {
        "volumes": len(table),
        "regions": len({region["label"] for region in regions}),
        "empty": [region["column"] for region in regions if not region["voxels"]],
    }
    if target is not None:
        with watch("write"):
            record = provenance(
                "extract",
                settings={
                    "statistics": [statistics] if isinstance(statistics, str) else list(statistics),
                    "missing": missing,
                    "mask": mask is not None,
                },
                inputs=describe_inputs([*_flat(images), labels, atlas_names, mask]),
                counts=counts,
                timings=watch.seconds,
                device=table.attrs["device"],
            )
            _write(table, target, record, overwrite)
    return ExtractResult(table, target, counts, table.attrs["device"], dict(watch.seconds))


def _checked_output(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """Try now what will be done at the end, so that a result is not lost for its name."""
    from gpuroi.images.write import staged_files

    path = Path(out).expanduser()
    if path.suffix != ".tsv":
        raise OutputError(f"{path}: tables are written as .tsv", "name it .tsv")
    with suppress(_TriedError), staged_files([path, path.with_suffix(".json")], overwrite=overwrite):
        raise _TriedError
    return path


class _TriedError(Exception):
    """Ends a trial before anything is put in place."""


def _flat(images: Any) -> list[Any]:
    """Return the files and images behind patterns and lists."""
    from gpuroi.images.read import open_images

    opened = open_images(images)
    return [Path(i.name).expanduser() if Path(i.name).expanduser().is_file() else i for i in opened]


def _write(table: pd.DataFrame, target: Path, record: dict[str, Any], overwrite: bool) -> None:
    from gpuroi.images.write import staged_files, write_json, write_tsv

    columns: dict[str, Any] = {
        "image": {"Description": "Image that the values are from"},
        "volume": {"Description": "Its volume, from 0"},
    }
    for region in table.attrs["regions"]:
        columns[region["column"]] = {
            "Description": f"{region['statistic']} over {region['name']}",
            "Label": region["label"],
            "Statistic": region["statistic"],
            "Voxels": region["voxels"],
        }
    with staged_files([target, target.with_suffix(".json")], overwrite=overwrite) as (tsv, sidecar):
        write_tsv(tsv, table)
        write_json(sidecar, {**columns, "Provenance": record})
