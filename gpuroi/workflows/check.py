"""Look at a cohort before anything is computed: who, which maps, what is missing, what the design can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi._card import Card, HasCard
from gpuroi.errors import UsageError
from gpuroi.workflows.check_facts import NO_MASK, cohort_facts
from gpuroi.workflows.cohort_input import CohortSource, design_table, read_cohort
from gpuroi.workflows.provenance import dataset_description, describe_inputs, provenance
from gpuroi.workflows.stopwatch import Stopwatch

if TYPE_CHECKING:
    import os

    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.cohort.bad_inputs import BadInputsError
    from gpuroi.cohort.coverage import CohortSummary
    from gpuroi.cohort.design import CohortDesign
    from gpuroi.cohort.exclusions import Missing
    from gpuroi.cohort.maps import MapReader
    from gpuroi.cohort.participants import Participants
    from gpuroi.domains import VoxelGrid

__all__ = ["CheckResult", "check", "save_bad_inputs"]

_KEPT_BYTES = 256 << 20  # of maps; more are read twice


@dataclass(frozen=True, eq=False)
class CheckResult(HasCard):
    """A cohort that can be used.

    Attributes
    ----------
    participants : Participants
        Those that stay, with the others in `excluded`.
    design : CohortDesign or None
    description : dict
        As `gpuroi.cohort.describe` returns it.
    summary : CohortSummary or None
        Of the maps; None where the table names none.
    facts : list of (str, str)
        What the command prints.
    warnings : list of str
        What can be computed, and should be looked at first.
    settings, timings, inputs
        For `provenance.json`.
    """

    participants: Participants = field(repr=False)
    design: CohortDesign | None = field(repr=False)
    description: dict[str, Any] = field(repr=False)
    summary: CohortSummary | None = field(repr=False)
    facts: list[tuple[str, str]]
    warnings: list[str]
    settings: dict[str, Any] = field(repr=False)
    timings: dict[str, float] = field(repr=False)
    inputs: list[dict[str, Any]] = field(repr=False)

    @property
    def text(self) -> str:
        """The facts and the warnings, one a line."""
        width = max(len(name) for name, _ in self.facts)
        lines = [f"{name:<{width}}  {value}" for name, value in self.facts]
        return "\n".join([*lines, *(f"{'warning':<{width}}  {warning}" for warning in self.warnings)])

    @property
    def maps_table(self) -> pd.DataFrame:
        """One row a map: voxels of the mask that are NaN or infinite, or 0, and its correlation with the others."""
        import pandas as pd

        if self.summary is None:
            return pd.DataFrame(columns=["participant_id", "map"])
        seen = self.summary
        columns = {
            "participant_id": self.participants.ids,
            "map": [str(path) for path in self.participants.maps],
            "nonfinite": seen.nonfinite,
            "zeros": seen.zeros,
            "correlation": seen.correlation,
            "outlier": seen.outlier.astype(np.int64),
        }
        return pd.DataFrame(columns)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write everything into a folder, whole or not at all.

        Parameters
        ----------
        folder : path
            Gets `design.tsv`, `design.json`, `participants_used.tsv`, `excluded.tsv`, `maps.tsv`, `bad_inputs.tsv`
            (a header alone: what is bad raises), `provenance.json` and `dataset_description.json`.
        overwrite : bool, default False
            Replace earlier results in this folder.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        OutputError
            If the folder holds results already, holds something else, or cannot be written.
        """
        from gpuroi.cohort.grid_check import write_bad_inputs
        from gpuroi.images.write import staged_folder, write_json, write_tsv

        with staged_folder(folder, overwrite=overwrite) as staged:
            if self.design is not None:
                write_tsv(staged / "design.tsv", design_table(self.design))
                write_json(staged / "design.json", _design_record(self.design, self.description))
            write_tsv(staged / "participants_used.tsv", self.participants.cells)
            write_tsv(staged / "excluded.tsv", self.participants.excluded)
            write_tsv(staged / "maps.tsv", self.maps_table)
            write_bad_inputs(staged / "bad_inputs.tsv", [])
            _write_records(staged, self.provenance())
        return Path(folder)

    def provenance(self) -> dict[str, Any]:
        """Return the record of this run, as `provenance.json` holds it."""
        counts = {"participants": len(self.participants), "excluded": len(self.participants.excluded)}
        return _provenance(self.settings, self.inputs, counts, self.timings, self.warnings)

    def _card(self) -> Card:
        warnings = [("warning", warning) for warning in self.warnings]
        return Card("Check of a cohort", [*self.facts, *warnings], self.participants.table, "participants")


def check(
    participants: str | os.PathLike[str],
    *,
    formula: str | None = None,
    contrasts: Sequence[str] = (),
    mask: Any = None,
    blocks: Sequence[str] = (),
    missing: Missing = "drop-subject",
    join: Sequence[str | os.PathLike[str]] = (),
    map_column: str | None = "map",
    map_template: str | None = None,
    id_column: str = "participant_id",
    design: str | os.PathLike[str] | None = None,
    con: str | os.PathLike[str] | None = None,
    fts: str | os.PathLike[str] | None = None,
    grp: str | os.PathLike[str] | None = None,
    min_coverage: float = 0.9,
    look_at_maps: bool = True,
) -> CheckResult:
    """Check a cohort: table, files, grids, covariates, design, contrasts, coverage and outliers.

    Parameters
    ----------
    participants : path
        TSV or CSV, one row a person.
    formula : str, optional
        `map ~ group + age`, as `gpuroi.cohort.design_of` takes it.
    contrasts : sequence of str
        As `gpuroi.cohort.parse_contrast` takes them.
    mask : path or image, optional
        Non-zero inside, on the grid of the maps. None: the whole grid of the first map.
    blocks : sequence of str
        Columns with exchangeability blocks, from the outermost to the innermost.
    missing : {"drop-subject", "error"}, default "drop-subject"
        What happens to people without a value in a column that the formula or the blocks use.
    join : sequence of path
        Further tables, joined by id.
    map_column, map_template, id_column
        As in `gpuroi.cohort.read_participants`; `map_column=None` for a table without maps.
    design : path, optional
        FSL `.mat` or CSV with a header, in place of the formula.
    con, fts, grp : path, optional
        FSL contrasts, F tests and exchangeability blocks of that design.
    min_coverage : float, default 0.9
        Share of the maps that must have a voxel for it to count as covered.
    look_at_maps : bool, default True
        Read all maps, for coverage and outliers; False looks at their headers alone.

    Returns
    -------
    CheckResult

    Raises
    ------
    BadInputsError
        Everything that is wrong with table, maps, covariates and contrasts, in one error.
    DataError
        A table that cannot be read.
    UsageError
        Arguments that contradict each other; a formula or a contrast that cannot be read.
    """
    if not 0 <= min_coverage <= 1:
        raise UsageError(f"min_coverage is {min_coverage}", "give a share of the maps from 0 to 1")
    watch = Stopwatch()
    source = CohortSource(
        participants,
        formula=formula,
        contrasts=contrasts,
        mask=mask,
        blocks=blocks,
        missing=missing,
        join=join,
        map_column=map_column,
        map_template=map_template,
        id_column=id_column,
        design=design,
        con=con,
        fts=fts,
        grp=grp,
    )
    cohort = read_cohort(source, watch, hint="nothing was computed; correct all of this and check again")
    used, made, grid = cohort.participants, cohort.design, cohort.grid
    with watch("maps"):
        summary = _summary(used, grid) if look_at_maps and grid is not None else None
    description, warnings = _describe(made, used, summary, min_coverage)
    if grid is not None and mask is None:
        warnings.append(NO_MASK)
    settings = {
        "formula": formula,
        "contrasts": list(source.contrasts),
        "mask": None if mask is None else str(mask),
        "blocks": list(source.blocks),
        "missing": missing,
        "join": [str(path) for path in source.join],
        "min_coverage": min_coverage,
    }
    inputs = describe_inputs(source.files)
    facts = cohort_facts(cohort.everybody, used, made, description, grid, mask, summary, min_coverage)
    return CheckResult(used, made, description, summary, facts, warnings, settings, watch.seconds, inputs)


def save_bad_inputs(folder: str | os.PathLike[str], error: BadInputsError, *, overwrite: bool = False) -> Path:
    """Write what is wrong as `bad_inputs.tsv` into a folder of its own, whole or not at all.

    Raises
    ------
    OutputError
        As `CheckResult.save`.
    """
    from gpuroi.cohort.grid_check import write_bad_inputs
    from gpuroi.images.write import staged_folder

    with staged_folder(folder, overwrite=overwrite) as staged:
        write_bad_inputs(staged / "bad_inputs.tsv", error.bad_inputs)
        _write_records(
            staged, _provenance({}, [], {"bad_inputs": len(error.bad_inputs)}, {}, ["the input is not usable"])
        )
    return Path(folder)


def _summary(people: Participants, grid: VoxelGrid) -> CohortSummary:
    from gpuroi.cohort.coverage import summarise_maps
    from gpuroi.cohort.maps import MapReader

    return summarise_maps(_Rows(MapReader(people, grid)))


class _Rows:
    """The maps as rows: read once and kept where they are small, else a block at a time when they are asked for."""

    def __init__(self, reader: MapReader) -> None:
        self.reader = reader
        self.shape = reader.shape
        n, v = reader.shape
        small = n * v * reader.dtype.itemsize <= _KEPT_BYTES
        self.kept = self._read(0, n) if small else None

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        return self._read(start, stop) if self.kept is None else self.kept[start:stop]

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        block = np.empty((stop - start, self.shape[1]), self.reader.dtype)
        self.reader.read(start, block)
        return block


def _describe(
    design: CohortDesign | None, used: Participants, summary: CohortSummary | None, min_coverage: float
) -> tuple[dict[str, Any], list[str]]:
    """Return the description of the design, and all warnings."""
    from gpuroi.cohort.bad_inputs import BadInput, BadInputsError
    from gpuroi.cohort.design import describe

    description = {} if design is None else describe(design)
    warnings = [*used.notes, *description.get("warnings", [])]
    if summary is None:
        return description, warnings
    if not summary.covered(min_coverage).any():
        found = f"no voxel of the mask is finite in {min_coverage:.0%} of the maps"
        raise BadInputsError(
            [BadInput("", str(used.path), found, "a mask that the maps cover")], "lower --min-coverage"
        )
    outliers = [
        f"{who} ({r:.2f})" for who, r, odd in zip(used.ids, summary.correlation, summary.outlier, strict=True) if odd
    ]
    if outliers:
        warnings.append(f"maps unlike the mean of the others (correlation): {', '.join(outliers)}")
    return description, warnings


def _design_record(design: CohortDesign, description: dict[str, Any]) -> dict[str, Any]:
    return {
        **description,
        "formula": design.formula or None,
        "columns": design.names,
        "terms": {term: [design.names[i] for i in places] for term, places in design.terms.items()},
        "contrasts": [{"name": c.name, "kind": c.kind, "text": c.text, "weights": c.weights} for c in design.contrasts],
        "blocks": None if design.blocks is None else design.blocks,
    }


def _provenance(settings: Any, inputs: Any, counts: Any, timings: Any, notes: Sequence[str]) -> dict[str, Any]:
    return provenance(
        "check", settings=settings, inputs=inputs, counts=counts, timings=timings, device="cpu", notes=notes
    )


def _write_records(staged: Path, record: dict[str, Any]) -> None:
    from gpuroi.images.write import write_json

    write_json(staged / "dataset_description.json", dataset_description("Check of a cohort"))
    write_json(staged / "provenance.json", record)
