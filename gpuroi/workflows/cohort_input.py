"""A cohort from its table to its grid, as `check` and `screen` read it: all that is wrong with it in one error."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import DataError, OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from gpuroi.cohort.bad_inputs import BadInput, BadInputsError
    from gpuroi.cohort.design import CohortDesign
    from gpuroi.cohort.exclusions import Missing
    from gpuroi.cohort.participants import Participants
    from gpuroi.cohort.store import MapStore
    from gpuroi.domains import VoxelGrid
    from gpuroi.workflows.stopwatch import Stopwatch

__all__ = ["CohortInput", "CohortSource", "design_table", "list_bad_inputs", "read_cohort", "several"]

_GRID_WORDS = ("shape", "voxel size", "affine")  # what `expected` of a map on another grid begins with


@dataclass(frozen=True)
class CohortSource:
    """Where a cohort comes from, as the workflows take it.

    Attributes
    ----------
    participants : path
        TSV or CSV, one row a person.
    formula, contrasts, blocks, missing
        As `gpuroi.cohort.design_of` and `gpuroi.cohort.parse_contrast` take them.
    mask : path, image or VoxelGrid, optional
    join : sequence of path
        Further tables, joined by id.
    map_column, map_template, id_column
        As `gpuroi.cohort.read_participants` takes them.
    design, con, fts, grp : path, optional
        A design of files, in place of the formula.
    data : path, optional
        A packed store, in place of the maps of the table.
    variance_groups : str, optional
        Column that everybody must have a value in, beside those of the formula and the blocks.
    """

    participants: str | os.PathLike[str]
    formula: str | None = None
    contrasts: Sequence[str] = ()
    mask: Any = None
    blocks: Sequence[str] = ()
    missing: Missing = "drop-subject"
    join: Sequence[str | os.PathLike[str]] = ()
    map_column: str | None = "map"
    map_template: str | None = None
    id_column: str = "participant_id"
    design: str | os.PathLike[str] | None = None
    con: str | os.PathLike[str] | None = None
    fts: str | os.PathLike[str] | None = None
    grp: str | os.PathLike[str] | None = None
    data: str | os.PathLike[str] | None = None
    variance_groups: str | None = None

    def __post_init__(self) -> None:
        for name in ("contrasts", "blocks", "join"):
            object.__setattr__(self, name, several(getattr(self, name)))

    @property
    def files(self) -> list[Any]:
        """The files that it names, but for maps and store; None where there is none."""
        return [self.participants, *self.join, self.design, self.con, self.fts, self.grp, self.mask]


@dataclass(frozen=True, eq=False)
class CohortInput:
    """A cohort that can be used.

    Attributes
    ----------
    everybody, participants : Participants
        All of the table, and those that stay, in the order of the rows of the design.
    design : CohortDesign or None
        With its contrasts.
    grid : VoxelGrid or None
        The mask that was given, else the whole grid of the first map; None where there are no maps.
    dtype : dtype or None
        That holds all maps as they are stored.
    store : MapStore or None
    """

    everybody: Participants
    participants: Participants
    design: CohortDesign | None
    grid: VoxelGrid | None
    dtype: np.dtype[Any] | None
    store: MapStore | None = None


def read_cohort(source: CohortSource, watch: Stopwatch, *, hint: str) -> CohortInput:
    """Read the table, make the design and look at the header of every map.

    Parameters
    ----------
    source : CohortSource
    watch : Stopwatch
        Times the stages "table", "design" and "headers".
    hint : str
        Of the error, if there is one.

    Returns
    -------
    CohortInput

    Raises
    ------
    BadInputsError
        Everything that is wrong with table, maps, covariates and contrasts, in one error.
    DataError
        A table, a mask or a store that cannot be read.
    UsageError
        Arguments that contradict each other; a formula or a contrast that cannot be read.
    """
    from gpuroi.cohort.bad_inputs import BadInputsError

    _refuse_contradictions(source)
    with watch("table"):
        people = _read_table(source)
        bad = people.bad_inputs()
    with watch("design"):
        design, problems = _design(people, source)
        bad += problems
    used = design.participants if design is not None and design.participants is not None else people
    with watch("headers"):
        store, problems = (None, []) if source.data is None else _stored(used, source)
        bad += problems
        grid, dtype, problems = (store.mask, store.dtype, []) if store is not None else _grid(people, source)
        bad += problems
    if bad:
        raise BadInputsError(list(dict.fromkeys(bad)), hint)
    return CohortInput(people, used, design, grid, dtype, store)


def several(given: Any) -> Any:
    """Return what was given as a sequence: one name or path is a sequence of one, not of its letters.

    Examples
    --------
    >>> several("age"), several(["age", "group"])
    (('age',), ['age', 'group'])
    """
    return (given,) if isinstance(given, str | os.PathLike) else given


def design_table(design: CohortDesign) -> pd.DataFrame:
    """Return the matrix with its names, ids first."""
    import pandas as pd

    table = pd.DataFrame(design.matrix, columns=design.names)
    table.insert(0, "participant_id", design.ids, allow_duplicates=True)
    return table


def list_bad_inputs(out: str | os.PathLike[str], error: BadInputsError) -> None:
    """Write all that is wrong as `bad_inputs.tsv` beside what was to be written, and say where in the error's hint.

    A single problem stands in the message, and needs no table.
    """
    from gpuroi.cohort.grid_check import write_bad_inputs

    if len(error.bad_inputs) < 2:
        return
    with suppress(OutputError):  # what is wrong with the input is said first
        written = write_bad_inputs(Path(out).expanduser().resolve().parent / "bad_inputs.tsv", error.bad_inputs)
        error.hint = f"{error.hint}\nall of them are listed in {written}".lstrip()


def _refuse_contradictions(source: CohortSource) -> None:
    if source.formula is not None and source.design is not None:
        raise UsageError("both a formula and a design file are given", "give one of them")
    if source.design is None and any(file is not None for file in (source.con, source.fts, source.grp)):
        raise UsageError(
            "contrast, F test or group files are given without a design file", "give the .mat too: --design"
        )
    if source.fts is not None and source.con is None:
        raise UsageError("F tests are given without the contrasts they consist of", "give the .con too: --con")
    if source.grp is not None and len(source.blocks):
        raise UsageError("blocks are given by file and by column", "give one of them")
    if len(source.contrasts) and source.formula is None and source.design is None:
        raise UsageError("contrasts are given without a design", "give a formula, or a design file")


def _read_table(source: CohortSource) -> Participants:
    from gpuroi.cohort.participants import read_participants

    has_maps = source.map_template is None and source.data is None
    people = read_participants(
        source.participants,
        map_column=source.map_column if has_maps else None,
        template=source.map_template,
        id_column=source.id_column,
        check_files=False,
    )
    for other in source.join:
        people = people.join(other)
    return people


def _design(people: Participants, source: CohortSource) -> tuple[CohortDesign | None, list[BadInput]]:
    """Return the design with its contrasts, or what is wrong with it."""
    from gpuroi.cohort.bad_inputs import BadInput, BadInputsError, unknown_name
    from gpuroi.cohort.design import describe
    from gpuroi.cohort.exclusions import drop_missing
    from gpuroi.cohort.formula import design_of

    design, bad = None, []
    grouped = [] if source.variance_groups is None else [source.variance_groups]
    try:
        if not set(grouped) <= set(people.cells.columns):
            raise unknown_name(grouped[0], list(people.cells.columns), "variance groups", "columns")
        if source.formula is not None:
            there = drop_missing(people, grouped, missing=source.missing)
            design = design_of(there, source.formula, missing=source.missing, blocks=source.blocks)
        elif source.design is not None:
            design = _design_of_files(people, source)
        if design is not None:
            describe(design)  # refuses a design that leaves no degrees of freedom
    except BadInputsError as error:
        return None, list(error.bad_inputs)
    except DataError as error:
        return None, [BadInput("", str(people.path), error.message, f"a design that can be used: {error.hint}")]
    if design is None:
        return None, []
    for text in source.contrasts:
        try:
            design.with_contrasts([text])
        except DataError as error:
            bad.append(BadInput("", str(people.path), error.message, f"one that can be estimated: {error.hint}"))
    return (design, bad) if bad else (design.with_contrasts([*design.contrasts, *source.contrasts]), [])


def _design_of_files(people: Participants, source: CohortSource) -> CohortDesign:
    from gpuroi.cohort.design import blocks_of, design_from_matrix
    from gpuroi.cohort.vest import read_csv_design, read_vest_groups, read_vest_matrix, vest_contrasts

    assert source.design is not None  # the caller has asked
    name = str(source.design)
    if Path(name).suffix.lower() == ".mat":
        design = design_from_matrix(people, read_vest_matrix(name), source=name)
    else:
        table = read_csv_design(name, id_column=people.id_column)
        design = design_from_matrix(people, table.matrix, names=table.names, ids=table.ids, source=name)
    if source.con is not None:
        design = replace(design, contrasts=vest_contrasts(source.con, source.fts, names=design.names))
    if source.blocks:
        design = replace(design, blocks=blocks_of(people, source.blocks))
    if source.grp is not None:
        groups = read_vest_groups(source.grp)
        if len(groups) != len(people):
            raise DataError(f"{source.grp}: {len(groups)} rows for {len(people)} people", "check the file")
        design = replace(design, blocks=groups)
    return design


def _grid(people: Participants, source: CohortSource) -> tuple[VoxelGrid | None, np.dtype[Any] | None, list[BadInput]]:
    """Return the grid that all maps must lie on, the type that holds them, and those that do not lie on it."""
    from gpuroi.cohort.bad_inputs import BadInput
    from gpuroi.cohort.grid_check import open_maps, read_grid
    from gpuroi.cohort.maps import common_dtype
    from gpuroi.domains import VoxelGrid
    from gpuroi.images.read import open_image

    if not people.maps:
        return None, None, []
    missing = [i for i, path in enumerate(people.maps) if not path.is_file()]
    there = people.exclude(missing, "no such file")  # these are known already
    try:
        if source.mask is not None:
            grid = read_grid(source.mask)
        elif there.maps:
            first = open_image(there.maps[0])
            grid = VoxelGrid(np.ones(first.shape, np.bool_), first.affine)
        else:
            return None, None, []
    except DataError as error:
        name = str(there.maps[0] if source.mask is None else source.mask)
        found = error.message.removeprefix(f"{name}: ")
        return None, None, [BadInput("", name, found, "an image with voxels inside")]
    opened, bad = open_maps(there, grid) if there.maps else ([], [])
    if source.mask is not None and _is_of_the_mask(bad, len(opened)):
        expected = f"{bad[0].found}, which all {len(opened)} maps have"
        return grid, None, [BadInput("", str(source.mask), bad[0].expected, expected)]
    images = [image for image in opened if image is not None]
    return grid, common_dtype(images) if images else None, bad


def _is_of_the_mask(bad: list[BadInput], n_maps: int) -> bool:
    """Whether all maps lie on one grid, and the mask on another: then it is the mask that is wrong."""
    kinds = {(row.found, row.expected) for row in bad}
    return n_maps > 1 and len(bad) == n_maps and len(kinds) == 1 and bad[0].expected.startswith(_GRID_WORDS)


def _stored(used: Participants, source: CohortSource) -> tuple[MapStore, list[BadInput]]:
    """Return the store, and the people who are not in it."""
    from gpuroi.cohort.bad_inputs import BadInput
    from gpuroi.cohort.grid_check import read_grid
    from gpuroi.cohort.store import open_store

    assert source.data is not None  # the caller has asked
    store = open_store(source.data)
    known = set(store.ids)
    bad = [BadInput(who, str(source.data), "no map", "a packed map") for who in used.ids if who not in known]
    if source.mask is not None:
        asked = read_grid(source.mask)
        if not (np.array_equal(asked.mask, store.mask.mask) and np.allclose(_affine(asked), store.affine, atol=1e-3)):
            found = f"another mask ({asked.n_elements} voxels)"
            bad.append(BadInput("", str(source.mask), found, f"that of the store ({store.mask.n_elements} voxels)"))
    return store, bad


def _affine(grid: VoxelGrid) -> Any:
    return np.asarray(grid.affine)
