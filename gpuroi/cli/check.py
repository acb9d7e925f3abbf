"""`gpuroi check`: a cohort before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

__all__ = ["check"]

Missing = Literal["drop-subject", "error"]


def check(
    participants: Path,
    /,
    *,
    formula: str | None = None,
    contrast: Annotated[list[str] | None, Parameter(allow_leading_hyphen=True)] = None,
    mask: Path | None = None,
    out: Path | None = None,
    blocks: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    missing: Missing = "drop-subject",
    join: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    map_column: str = "map",
    map_template: str | None = None,
    id_column: str = "participant_id",
    design: Path | None = None,
    con: Path | None = None,
    fts: Path | None = None,
    grp: Path | None = None,
    min_coverage: float = 0.9,
    headers_only: bool = False,
    overwrite: bool = False,
) -> int:
    """Check a cohort before anything is computed: table, maps, covariates, design, contrasts, coverage, outliers.

    gpuroi check participants.tsv --formula 'map ~ group + age' --contrast 'patient=group[T.patient]' --mask mask.nii.gz

    Parameters
    ----------
    participants
        Table, TSV or CSV, one row a person: participant_id, map (a path, relative to the table), covariates.
    formula
        Columns, + - : * / ** ( ) 0 1, and C(x) center(x) scale(x) log(x) poly(x, k) bs(x, df=k).
    contrast
        Tested: age, 'a - b/2', 'name=group[T.patient]'; F test: 'a; b', or a factor. Give it once for each.
    mask
        Image, non-zero inside, on the grid of the maps.
    out
        Folder to write: design, who is used and who is not, the maps, or all that is wrong.
    blocks
        Columns with exchangeability blocks, from the outermost to the innermost.
    missing
        People without a value in a covariate: leave them out and say so, or refuse.
    join
        Further tables, joined by id.
    map_column
        Column with the paths of the maps.
    map_template
        Path of the maps instead, relative to the table: 'maps/{participant_id}.nii.gz'.
    id_column
        Column with the ids.
    design
        FSL .mat, or CSV with a header, instead of a formula.
    con
        FSL contrasts of that design.
    fts
        FSL F tests over these contrasts.
    grp
        FSL file of exchangeability blocks.
    min_coverage
        Share of the maps that must have a voxel.
    headers_only
        Do not read the maps: no coverage, no outliers.
    overwrite
        Replace earlier results in the folder.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.cli.summary import show
    from gpuroi.cohort.bad_inputs import BadInputsError
    from gpuroi.workflows.check import check as check_cohort
    from gpuroi.workflows.check import save_bad_inputs
    from gpuroi.workflows.output import check_output

    if out is not None:
        check_output(out, overwrite=overwrite)
    try:
        result = check_cohort(
            participants,
            formula=formula,
            contrasts=contrast or [],
            mask=mask,
            blocks=blocks or [],
            missing=missing,
            join=join or [],
            map_column=map_column,
            map_template=map_template,
            id_column=id_column,
            design=design,
            con=con,
            fts=fts,
            grp=grp,
            min_coverage=min_coverage,
            look_at_maps=not headers_only,
        )
    except BadInputsError as error:
        if out is not None:
            save_bad_inputs(out, error, overwrite=overwrite)
        raise
    if out is not None:
        result.save(out, overwrite=overwrite)
    facts = [*result.facts, *(("warning", warning) for warning in result.warnings)]
    if out is not None:
        facts.append(("written", str(out)))
    show(facts)
    return 0
