"""`gpuroi pack`: the maps of a cohort in one store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

__all__ = ["pack"]

DType = Literal["float16", "float32", "float64", "int8", "uint8", "int16", "uint16"]


def pack(
    participants: Path,
    /,
    *,
    mask: Path | None = None,
    out: Path,
    dtype: DType | None = None,
    smoothing: Annotated[float | None, Parameter(name=("--fwhm", "--smoothing"))] = None,
    append: bool = False,
    map_column: str = "map",
    map_template: str | None = None,
    id_column: str = "participant_id",
    memory_limit: str | None = None,
    overwrite: bool = False,
) -> int:
    """Pack the maps of a table into one compressed store, which screen reads instead of the files.

    gpuroi pack participants.tsv --mask mask.nii.gz --out cohort.zarr

    Parameters
    ----------
    participants
        Table, TSV or CSV, one row a person: participant_id, map (a path, relative to the table).
    mask
        Image, non-zero inside, on the grid of the maps. With --append it may be left out.
    out
        Store to write, .zarr.
    dtype
        Type of the values: float16, float32, float64, int8, uint8, int16, uint16; by default as stored.
    smoothing
        Smooth the maps by this many mm.
    append
        Add the people who are not in the store yet.
    map_column
        Column with the paths of the maps.
    map_template
        Path of the maps instead, relative to the table: 'maps/{participant_id}.nii.gz'.
    id_column
        Column with the ids.
    memory_limit
        Bytes to work with, as 400MB or 8GB.
    overwrite
        Replace a store that stands already.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.cli.summary import show
    from gpuroi.workflows.pack import pack as pack_cohort

    result = pack_cohort(
        participants,
        mask=mask,
        out=out,
        dtype=dtype,
        smoothing=smoothing,
        append=append,
        map_column=map_column,
        map_template=map_template,
        id_column=id_column,
        memory_limit=memory_limit,
        overwrite=overwrite,
    )
    show(result.facts)
    return 0
