"""Who takes part: the table of participants, one row a person, each with the path of their map."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpuroi.cohort.bad_inputs import BadInput, BadInputsError
from gpuroi.errors import DataError, UsageError
from gpuroi.images.text_files import MISSING, clipped, listed, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike

__all__ = [
    "MISSING",
    "Participants",
    "read_cells",
    "read_participants",
    "values_of",
]

_EXCLUDED = ("participant_id", "reason", "detail")
_FIELD = re.compile(r"\{([^{}]*)\}")
_SUBJECT = re.compile(r"(?:^|[_/\\])sub-([A-Za-z0-9]+)")


@dataclass(frozen=True, eq=False)
class Participants:
    """A cohort: its table and its maps.

    Made by `read_participants`. Nothing changes it: `join` and `exclude` return another one.

    Attributes
    ----------
    path : Path
        The table's file.
    cells : DataFrame
        The table as text, one row a person in the order of the file.
    maps : list of Path
        One for each row; empty if the table names none.
    id_column : str
        The column of the ids.
    excluded : DataFrame
        `participant_id`, `reason` and `detail` of everybody who was taken out.
    notes : tuple of str
        What was not as expected and did no harm, as ids without partner in a table that was joined.
    """

    path: Path
    cells: pd.DataFrame = field(repr=False)
    maps: list[Path] = field(repr=False)
    id_column: str
    excluded: pd.DataFrame = field(repr=False)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def ids(self) -> list[str]:
        """The ids, as text: "01" stays "01"."""
        return [str(value) for value in self.cells[self.id_column]]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The table with its values: a column is int64 or float64 where all that is not missing is a number, else text.

        What is missing is NaN in numbers and None in text. The ids are always text.
        """
        import pandas as pd

        columns = {name: values_of(self.cells[name]) for name in self.cells if name != self.id_column}
        columns[self.id_column] = self.cells[self.id_column].astype(object)
        return pd.DataFrame(columns, columns=list(self.cells.columns))

    def exclude(self, rows: ArrayLike, reason: str, detail: str | Sequence[str] = "") -> Participants:
        """Take people out, and note who and why.

        Parameters
        ----------
        rows : bool array, shape (n,), or positions from 0
        reason : str
        detail : str or sequence of str
            One for all, or one for each row that goes.

        Returns
        -------
        Participants
            The others, in their order.

        Raises
        ------
        UsageError
            If the rows or the details do not fit.
        """
        import pandas as pd

        gone = _as_mask(rows, len(self))
        ids = [name for name, out in zip(self.ids, gone, strict=True) if out]
        details = [detail] * len(ids) if isinstance(detail, str) else list(detail)
        if len(details) != len(ids):
            raise UsageError(f"{len(details)} details for {len(ids)} rows", "give one for each row that goes")
        if not ids:
            return self
        noted = pd.DataFrame({"participant_id": ids, "reason": reason, "detail": details}, columns=list(_EXCLUDED))
        return replace(
            self,
            cells=self.cells[~gone].reset_index(drop=True),
            maps=[path for path, out in zip(self.maps, gone, strict=True) if not out] if self.maps else [],
            excluded=pd.concat([self.excluded, noted], ignore_index=True) if len(self.excluded) else noted,
        )

    def join(self, path: str | os.PathLike[str], *, id_column: str | None = None) -> Participants:
        """Add the columns of another table, row by row by id, never by position.

        Parameters
        ----------
        path : path
            TSV or CSV.
        id_column : str, optional
            Its column of ids; default that of this table.

        Returns
        -------
        Participants
            The same people in the same order. Who is not in the other table has no value in its columns; that, and
            ids of the other table that are not here, stand in `notes`.

        Raises
        ------
        BadInputsError
            Ids that occur twice, columns that are in both tables, no id in common; all at once.
        """
        other_path = Path(path).expanduser()
        key = id_column or self.id_column
        other = read_cells(other_path, id_column=key)
        problems = _repeated_ids(other[key], other_path)
        problems += [
            BadInput("", str(other_path), f'the column "{name}"', f"a name that is not in {self.path.name} already")
            for name in other.columns
            if name != key and name in self.cells
        ]
        here, there = self.ids, [str(value) for value in other[key]]
        ours, theirs = set(here), set(there)
        alone, strangers = [i for i in here if i not in theirs], [i for i in there if i not in ours]
        if len(alone) == len(here):
            seen = f"no id of {self.path.name}; its ids are {listed(there)}"
            problems.append(BadInput("", str(other_path), seen, f"ids as {listed(here)}"))
        if problems:
            raise BadInputsError(problems, "ids are compared as text: sub-01, 01 and 1 are three people")
        added = other.set_index(key).reindex(here).fillna("").reset_index(drop=True)
        notes = list(self.notes)
        if alone:
            notes.append(f"{len(alone)} of {len(here)} people are not in {other_path.name}: {', '.join(alone)}")
        if strangers:
            notes.append(f"{len(strangers)} ids of {other_path.name} are not in the cohort: {', '.join(strangers)}")
        cells = self.cells.assign(**{name: added[name] for name in added.columns})
        return replace(self, cells=cells, notes=tuple(notes))

    def bad_inputs(self) -> list[BadInput]:
        """Return what is wrong with ids and maps: ids twice, files that are missing, twice, or somebody else's."""
        if not self.maps:
            return _repeated_ids(self.cells[self.id_column], self.path)
        return [
            *_repeated_ids(self.cells[self.id_column], self.path),
            *(bad for pair in zip(self.ids, self.maps, strict=True) for bad in self._bad_map(*pair)),
            *_repeated_maps(self.ids, self.maps),
        ]

    def n_named(self) -> int:
        """Count the maps whose file name holds an id (`sub-xx`)."""
        return sum(bool(_subjects(self._as_given(path))) for path in self.maps)

    def _bad_map(self, who: str, path: Path) -> list[BadInput]:
        others = [name for name in _subjects(self._as_given(path)) if name != _label(who)]
        bad = [BadInput(who, str(path), f"sub-{name} in the file name", f"the map of {who}") for name in others]
        found = _what_is_no_file(path)
        return [*bad, BadInput(who, clipped(str(path), 500), found, "a map")] if found else bad

    def _as_given(self, path: Path) -> str:
        """Return a path without the folder of the table, whose name says nothing of the person."""
        folder = self.path.parent
        return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def read_participants(
    path: str | os.PathLike[str],
    *,
    map_column: str | None = "map",
    template: str | None = None,
    id_column: str = "participant_id",
    check_files: bool = True,
) -> Participants:
    r"""Read the table of participants.

    Parameters
    ----------
    path : path
        A table with a header, in UTF-8 with or without byte-order mark: separated by commas if its name ends in .csv,
        else by tabs. Cells with "", n/a, N/A, NA, NaN or nan hold no value.
    map_column : str or None, default "map"
        Column with the path of each person's map, relative to the folder of the table. None: the maps are elsewhere.
    template : str, optional
        Path of the maps instead, with columns in braces: "maps/{participant_id}_{session}.nii.gz". Relative to the
        folder of the table.
    id_column : str, default "participant_id"
    check_files : bool, default True
        Raise if ids or maps are wrong. False leaves that to `Participants.bad_inputs`.

    Returns
    -------
    Participants

    Raises
    ------
    DataError
        If the table is missing, no text, empty, or lacks a column.
    BadInputsError
        Ids that occur twice or are empty, maps that are missing, that two people share, or whose name holds the
        `sub-xx` of somebody else: all of them in one error.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder) / "participants.tsv"
    ...     _ = table.write_text("participant_id\tage\n01\t34\n02\tn/a\n")
    ...     people = read_participants(table, map_column=None)
    >>> people.ids, people.table["age"].tolist()
    (['01', '02'], [34.0, nan])
    """
    import pandas as pd

    table_path = Path(path).expanduser()
    cells = read_cells(table_path, id_column=id_column)
    paths = _map_paths(cells, table_path, map_column, template, id_column)
    people = Participants(table_path, cells, paths, id_column, pd.DataFrame(columns=list(_EXCLUDED), dtype=object))
    if check_files and (bad := people.bad_inputs()):
        raise BadInputsError(bad, f"correct {table_path.name}, or leave these rows out of it")
    return people


def read_cells(path: Path, *, id_column: str | None) -> pd.DataFrame:
    """Read a table as text, cells stripped of blanks around them.

    Parameters
    ----------
    path : Path
    id_column : str or None
        A column that must be there, with a value in every row.

    Returns
    -------
    DataFrame of str
        One row a line; empty lines are passed over.

    Raises
    ------
    DataError
        As `read_participants`.
    """
    import pandas as pd

    rows = read_rows(path, name=str(path), separator=_separator(path))
    header = rows[0][1]
    repeated = [name for name, times in Counter(header).items() if times > 1]
    if repeated:
        raise DataError(
            f"{path}: more than one column is called {' or '.join(_quoted(repeated))}", "give every column its own name"
        )
    if "" in header:
        raise DataError(f"{path}: column {header.index('') + 1} has no name", "give every column a name")
    if id_column is not None and id_column not in header:
        raise DataError(
            f'{path}: no column "{id_column}"; found {listed(header)}',
            f"columns are separated by {'commas in .csv' if _separator(path) == ',' else 'tabs'}; "
            "name the column of the ids if it is another one: --id-column (id_column in Python)",
        )
    if len(rows) == 1:
        raise DataError(f"{path}: a header and no rows", "give one row for each participant")
    bad = [
        BadInput("", str(path), f"{len(cells)} cells in line {line}", f"{len(header)}, as in the header")
        for line, cells in rows[1:]
        if len(cells) != len(header)
    ]
    if not bad and id_column is not None:
        k = header.index(id_column)
        bad = [
            BadInput("", str(path), f"line {n} has no {id_column}", "an id in every row")
            for n, cells in rows[1:]
            if cells[k] in MISSING
        ]
    if bad:
        raise BadInputsError(bad, "correct these lines of the table")
    return pd.DataFrame([cells for _, cells in rows[1:]], columns=header, dtype=object)


def values_of(cells: pd.Series) -> pd.Series:
    """Return a column's values: numbers if all that is not missing is a number, else text and None."""
    import pandas as pd

    missing = cells.isin(MISSING)
    numbers = pd.to_numeric(cells.where(~missing), errors="coerce")
    if missing.all() or (numbers.isna() & ~missing).any():
        return cells.astype(object).where(~missing, None)
    whole = ~missing.any() and bool(cells.str.fullmatch(r"[+-]?\d{1,18}").all())
    return numbers.astype("int64" if whole else "float64")


def _separator(path: Path) -> str:
    return "," if path.suffix.lower() == ".csv" else "\t"


def _map_paths(
    cells: pd.DataFrame, table: Path, map_column: str | None, template: str | None, id_column: str
) -> list[Path]:
    """Return one path a row, all at once refused where a cell is missing."""
    if template is None and map_column is None:
        return []
    fields = _template_fields(template) if template is not None else [str(map_column)]
    absent = [name for name in fields if name not in cells]
    if absent:
        where = "" if template is None else " of the path template"
        raise DataError(
            f"{table}: no column {' and '.join(_quoted(absent))}{where}; found {listed(list(cells.columns))}",
            "name the column that holds the maps (--map-column), or give a path template, such as --map-template "
            "'maps/{participant_id}.nii.gz'",
        )
    bad = [
        BadInput(str(who), str(table), f'no value in the column "{name}"', "a path" if template is None else "a value")
        for name in fields
        for who, cell in zip(cells[id_column], cells[name], strict=True)
        if cell in MISSING
    ]
    if bad:
        raise BadInputsError(bad, "give every participant a map, or leave these rows out of the table")
    columns = [cells[name] for name in fields]
    filled = [_fill(template, dict(zip(fields, row, strict=True))) for row in zip(*columns, strict=True)]
    return [table.parent / Path(text).expanduser() for text in filled]


def _template_fields(template: str) -> list[str]:
    fields = _FIELD.findall(template)
    if not fields or "{" in _FIELD.sub("", template) or "}" in _FIELD.sub("", template):
        raise UsageError(
            f'path template "{template}" names no column in braces', "write it like 'maps/{participant_id}.nii.gz'"
        )
    return list(dict.fromkeys(fields))


def _fill(template: str | None, row: dict[str, str]) -> str:
    """Put cells into a template; not str.format, whose fields reach into objects."""
    if template is None:
        return next(iter(row.values()))
    return _FIELD.sub(lambda found: row[found[1]], template)


def _what_is_no_file(path: Path) -> str:
    """Return what is found in place of a regular file; "" for a file."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "no such file"
    except (OSError, ValueError) as error:  # a loop of links, a name that no file can have
        return str(getattr(error, "strerror", None) or error)
    return "" if stat.S_ISREG(mode) else "a folder" if stat.S_ISDIR(mode) else "no regular file"


def _repeated_ids(ids: Iterable[object], path: Path) -> list[BadInput]:
    counts = Counter(str(value) for value in ids)
    return [
        BadInput(name, str(path), f"{times} rows of {name}", "one row a person")
        for name, times in counts.items()
        if times > 1
    ]


def _repeated_maps(ids: list[str], maps: list[Path]) -> list[BadInput]:
    owners: dict[str, list[str]] = {}
    for who, path in zip(ids, maps, strict=True):
        owners.setdefault(os.path.normpath(path), []).append(who)
    return [
        BadInput(people[-1], path, f"the same map for {' and '.join(people)}", "a map of their own for each")
        for path, people in owners.items()
        if len(set(people)) > 1
    ]


def _subjects(given: str) -> list[str]:
    """Return the labels of every `sub-xx` in a path.

    Examples
    --------
    >>> _subjects("sub-01/func/sub-01_task-rest_bold.nii.gz")
    ['01']
    """
    return list(dict.fromkeys(_SUBJECT.findall(given)))


def _label(who: str) -> str:
    """Return what stands after `sub-` in the file names of a person; BIDS labels hold letters and digits alone.

    Examples
    --------
    >>> [_label(who) for who in ("01", "sub-01", "sub-01_ses-2", "AB-12")]
    ['01', '01', '01', 'AB12']
    """
    found = re.match(r"sub-([A-Za-z0-9]+)", who)
    return found[1] if found else re.sub(r"[^A-Za-z0-9]", "", who)


def _as_mask(rows: ArrayLike, n: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    given = np.asarray(rows)
    if given.dtype == np.bool_ and given.shape == (n,):
        return given
    gone = np.zeros(n, np.bool_)
    if given.size == 0:
        return gone
    if given.dtype.kind not in "iu" or given.ndim != 1 or given.min() < 0 or given.max() >= n:
        raise UsageError(f"rows are no mask of {n} and no positions from 0 to {n - 1}: {given!r}")
    gone[given] = True
    return gone


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{clipped(name)}"' for name in names]
