"""Many phenotypes of a cohort, each against every voxel beside the same covariates."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpuroi.errors import UsageError
from gpuroi.workflows.phenotype_result import PhenotypeScreenResult
from gpuroi.workflows.screen_settings import ScreenSettings
from gpuroi.workflows.stopwatch import Stopwatch

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from gpuroi.cohort.bad_inputs import BadInput
    from gpuroi.cohort.design import CohortDesign
    from gpuroi.cohort.maps import CohortMaps
    from gpuroi.cohort.participants import Participants
    from gpuroi.domains import VoxelGrid
    from gpuroi.inference.phenotype_tally import PhenotypeResult

__all__ = ["PhenotypeScreenResult", "Phenotypes", "read_phenotypes", "screen_phenotypes"]

_ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Phenotypes:
    """Columns of the table that are to be tested.

    Attributes
    ----------
    names : list of str
        In the order of the table.
    values : float64 array, shape (n_people, n_phenotypes)
        NaN where a person lacks one.
    maps : list of str
        Those whose maps are asked for.
    """

    names: list[str]
    values: NDArray[np.float64]
    maps: list[str]


def read_phenotypes(
    people: Participants,
    design: CohortDesign,
    phenotypes: Sequence[str],
    phenotype_maps: Sequence[str] = (),
) -> Phenotypes:
    """Choose phenotypes from the table by name or pattern, and check them; no map is read.

    Parameters
    ----------
    people : Participants
        The rows of the design.
    design : CohortDesign
        Of the covariates.
    phenotypes : sequence of str
        Columns, or patterns such as ``"q_*"``; ``"!q_note"`` takes columns out that earlier ones have chosen. The
        columns of ids and maps match no pattern.
    phenotype_maps : sequence of str
        Names or patterns of the chosen ones whose maps are to be kept.

    Returns
    -------
    Phenotypes

    Raises
    ------
    BadInputsError
        Phenotypes that are text, infinite, missing in everybody or in too many, constant, or determined by the
        covariates: all in one error.
    UsageError
        A name or a pattern that fits no column.
    """
    from gpuroi.cohort.bad_inputs import BadInputsError
    from gpuroi.inference.phenotypes import unusable_phenotypes

    names = _chosen(list(people.cells.columns), phenotypes, "phenotypes", apart=_not_measured(people))
    wanted = set(_chosen(names, phenotype_maps, "phenotype maps"))
    table = people.table
    text = [name for name in names if table[name].dtype == object and table[name].notna().any()]
    numbers = [name for name in names if name not in text]
    values = np.column_stack([table[name].to_numpy(np.float64) for name in numbers]) if numbers else np.empty((0, 0))
    bad = {name: f'the phenotype "{name}" holds text: {_example(table[name])}' for name in text}
    if numbers:
        found = unusable_phenotypes(values, design.matrix, numbers)
        bad |= {name: f'the phenotype "{name}" {reason}' for name, reason in found.items()}
    if bad:
        rows = [_row(people, bad[name]) for name in names if name in bad]
        out = " ".join(f'"!{name}"' for name in list(bad)[:3])
        raise BadInputsError(rows, f"leave these phenotypes out, as by {out} after the pattern, or correct the table")
    return Phenotypes(names, values, [name for name in names if name in wanted])


def screen_phenotypes(
    people: Participants,
    design: CohortDesign,
    maps: CohortMaps,
    *,
    phenotypes: Sequence[str] | Phenotypes,
    phenotype_maps: Sequence[str] = (),
    top: int = 100,
    n_permutations: int = 5000,
    errors: Literal["ee", "ise", "both"] = "ee",
    whole_blocks: bool = False,
    two_sided: bool = True,
    seed: int = 0,
    device: str = "auto",
    n_jobs: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    options: ScreenSettings | None = None,
    searched: VoxelGrid | None = None,
    facts: Sequence[tuple[str, str]] = (),
    warnings: Sequence[str] = (),
    inputs: Sequence[dict[str, Any]] = (),
    map_sha256: Sequence[str] = (),
    inputs_sha256: str = "",
    watch: Stopwatch | None = None,
) -> PhenotypeScreenResult:
    """Test each of many phenotypes at every voxel, beside the covariates of the design.

    Parameters
    ----------
    people : Participants
        The rows of the design.
    design : CohortDesign
        Of the covariates, which all phenotypes share; its contrasts are not used, its exchangeability blocks are.
    maps : CohortMaps
        Of the same people in the same order; in memory, on disk, or in a store.
    phenotypes : sequence of str, or Phenotypes
        Names and patterns as `read_phenotypes` takes them, or what it returned.
    phenotype_maps : sequence of str
        Names or patterns of phenotypes whose maps of t are kept.
    top : int, default 100
        How many of the largest statistics to keep of each phenotype.
    n_permutations : int, default 5000
        0: parametric p-values alone.
    errors, whole_blocks, two_sided, seed, device, n_jobs, scratch, progress
        As in `gpuroi.inference.phenotype_test`.
    options : ScreenSettings, optional
        As they were asked for, for the records; by default made of these arguments.
    searched : VoxelGrid, optional
        The mask that was given; by default that of the maps.
    facts, warnings, inputs, map_sha256, inputs_sha256, watch
        Of whoever calls: they become part of the result.

    Returns
    -------
    PhenotypeScreenResult

    Raises
    ------
    BadInputsError, DataError, UsageError
        As `read_phenotypes` and `gpuroi.inference.phenotype_test`.

    Notes
    -----
    People without a value of a phenotype are left out of its test alone. A table of phenotypes and voxels is never
    made: kept are the largest statistics, histograms, and the maps that were asked for.
    """
    from gpuroi.backends import get_backend
    from gpuroi.inference.phenotypes import phenotype_test

    _refuse_others(people, design, maps)
    clock = watch or Stopwatch()
    with clock("phenotypes"):
        chosen = (
            phenotypes
            if isinstance(phenotypes, Phenotypes)
            else read_phenotypes(people, design, phenotypes, phenotype_maps)
        )
    with clock("statistics"):
        found = phenotype_test(
            maps.data,
            chosen.values,
            design.matrix,
            names=chosen.names,
            n_permutations=n_permutations,
            errors=errors,
            blocks=design.blocks,
            whole_blocks=whole_blocks,
            two_sided=two_sided,
            top=top,
            maps=chosen.maps,
            seed=seed,
            device=device,
            n_jobs=n_jobs,
            scratch=scratch,
            progress=progress,
        )
    options = options or ScreenSettings(
        people.path,
        formula=design.formula or None,
        design=None if design.formula else design.matrix,
        n_permutations=n_permutations,
        errors=errors,
        whole_blocks=whole_blocks,
        two_sided=two_sided,
        seed=seed,
        phenotypes=chosen.names,
        phenotype_maps=chosen.maps,
        top=top,
    )
    searched = maps.mask if searched is None else searched
    return PhenotypeScreenResult(
        found=found,
        design=design,
        participants=people,
        mask=maps.mask,
        searched=searched,
        coverage=maps.coverage,
        map_sha256=list(map_sha256) or ["n/a"] * len(people),
        inputs_sha256=inputs_sha256,
        options=options,
        facts=[*facts, *_facts(found)],
        warnings=[*warnings, *_warnings(found)],
        timings=clock.seconds,
        counts=_counts(found, people, maps, searched),
        inputs=list(inputs),
        device=get_backend(device).device,
        like=maps.like,
    )


def _facts(found: PhenotypeResult) -> list[tuple[str, str]]:
    """What was asked and found, for the command to print."""
    table = found.table
    patterns = table["n"].nunique()
    people = f"{table['n'].min()} people" if patterns == 1 else f"{table['n'].min()} to {table['n'].max()} people"
    facts = [("phenotypes", f"{len(table)}, each in {people}")]
    largest = int(np.argmax(np.abs(table["t"].to_numpy())))
    said = f"largest |t| {abs(table['t'].iloc[largest]):.4g} ({table['phenotype'].iloc[largest]})"
    if found.n_permutations:
        n_own, n_all = (int((table[name] <= _ALPHA * (1 + 1e-12)).sum()) for name in ("p_fwe", "p_fwe_all"))
        said += f"; {n_own} with FWE p <= {_ALPHA:g} over voxels, {n_all} over voxels and phenotypes"
        said += f"; smallest p attainable {1 / found.n_permutations:.3g}"
    return [*facts, ("found", said)]


def _warnings(found: PhenotypeResult) -> list[str]:
    """What limits the results."""
    from gpuroi.inference.correct import coarse_p_warning

    warnings = []
    n_lacking = int((found.n_left_out > 0).sum())
    if n_lacking:
        warnings.append(
            f"{n_lacking} of {len(found.table)} phenotypes have no statistic in up to {found.n_left_out.max()} voxels: "
            "constant, or missing, in the people who have the phenotype"
        )
    if found.n_permutations:
        coarse = coarse_p_warning(found.n_permutations, exhaustive=bool(found.settings.get("exhaustive")))
        warnings += [coarse] if coarse else []
    return warnings


def _counts(found: PhenotypeResult, people: Participants, maps: CohortMaps, searched: VoxelGrid) -> dict[str, Any]:
    return {
        "participants": len(people),
        "excluded": len(people.excluded),
        "voxels_searched": searched.n_elements,
        "voxels_analysed": maps.mask.n_elements,
        "phenotypes": len(found.table),
        "permutations": found.n_permutations,
    }


def _chosen(columns: list[str], patterns: Sequence[str], what: str, *, apart: set[str] | None = None) -> list[str]:
    """Return the columns that names and patterns choose, in the order of the columns."""
    if isinstance(patterns, str):
        raise UsageError(f'{what}: "{patterns}" is one text', f'give a list of names: ["{patterns}"]')
    open_to_patterns = [name for name in columns if name not in (apart or set())]
    chosen: set[str] = set()
    lost = []
    for pattern in patterns:
        out = pattern not in columns and pattern.startswith("!")
        text = pattern[1:] if out else pattern
        fits = {text} if text in columns else set(fnmatch.filter(open_to_patterns, text))
        if not fits:
            lost.append(pattern)
        chosen = chosen - fits if out else chosen | fits
    if lost:
        listed = ", ".join(columns[:40]) + (f" and {len(columns) - 40} more" if len(columns) > 40 else "")
        raise UsageError(f"{what}: no column fits {', '.join(lost)}", f"the columns are {listed}")
    if patterns and not chosen:
        raise UsageError(f"{what}: nothing is left of {', '.join(patterns)}", "choose a column or more")
    return [name for name in columns if name in chosen]


def _not_measured(people: Participants) -> set[str]:
    """Columns that say who and where: the ids, and paths of maps."""
    there = {str(path) for path in people.maps[:1]}
    paths = {str(name) for name in people.cells if str(people.path.parent / str(people.cells[name].iloc[0])) in there}
    return {people.id_column, "map"} | paths


def _example(column: Any) -> str:
    """A cell that is no number, for the message."""
    import pandas as pd

    there = column.dropna()
    text = there[pd.to_numeric(there, errors="coerce").isna()]
    return f'"{str(text.iloc[0])[:40]}"'


def _row(people: Participants, found: str) -> BadInput:
    from gpuroi.cohort.bad_inputs import BadInput

    return BadInput("", str(people.path), found, "numbers that differ between people")


def _refuse_others(people: Participants, design: CohortDesign, maps: CohortMaps) -> None:
    if not list(people.ids) == list(design.ids) == list(maps.ids):
        raise UsageError(
            f"{len(people)} people, {len(design.ids)} rows of the design and {len(maps.ids)} maps are not the same "
            "people in the same order",
            "read the maps of design.participants",
        )
