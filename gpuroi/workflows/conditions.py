"""What was shown when: label files and events tables, read into one condition per volume."""

from __future__ import annotations

import csv
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import DataError, UsageError
from gpuroi.images.text_files import listed, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["REST", "Conditions", "Event", "label_volumes", "read_conditions", "split_contrast"]

REST = "rest"  # what a volume is called that belongs to no event

_FORMS = (
    'expected a column "labels" (one row per volume), two columns without a header ("face 0"), '
    'or BIDS events ("onset", "duration", "trial_type")'
)
_MICROSECOND = 1e-6


@dataclass(frozen=True)
class Event:
    """One row of an events table: a condition from `onset_s` (included) to `onset_s + duration_s` (excluded)."""

    line: int
    onset_s: float
    duration_s: float
    condition: str


@dataclass(frozen=True)
class Conditions:
    """The conditions of one run, before they are laid out on its volumes.

    Either `labels`, one per volume, or `events`, whose volumes follow from the repetition time.
    """

    name: str
    labels: tuple[str, ...] | None = None
    events: tuple[Event, ...] = ()


def read_conditions(source: Any, *, name: str = "conditions") -> Conditions:
    """Read the conditions of one run.

    Parameters
    ----------
    source : path, pandas.DataFrame or sequence of labels
        A text file separated by tabs, commas or spaces, in one of three forms: a table with a column `labels`, one row
        per volume (other columns are passed over); one or two columns without a header, the label and, as an integer,
        the run; a BIDS events table with `onset` and `duration` in seconds and `trial_type`. A data frame has
        the columns of the first or the third form. A sequence holds one label per volume.
    name : str
        What messages call a source that is not a file.

    Returns
    -------
    Conditions

    Raises
    ------
    DataError
        If the file is missing, empty, not text, or has none of these forms.

    Examples
    --------
    >>> read_conditions(["face", "house"]).labels
    ('face', 'house')
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return _from_rows(_read_rows(path), str(path))
    if hasattr(source, "columns") and hasattr(source, "itertuples"):
        header = (1, [str(column) for column in source.columns])
        rows = [(i, [str(cell) for cell in row]) for i, row in enumerate(source.itertuples(index=False), 2)]
        return _from_rows([header, *rows], name)
    labels = np.asarray(source)
    if labels.ndim != 1:
        raise DataError(f"{name} has shape {labels.shape}", "pass one label per volume, or the path of a label file")
    return Conditions(name, tuple(str(label) for label in labels.tolist()))


def label_volumes(
    conditions: Conditions,
    n_volumes: int,
    *,
    image: str = "the image",
    tr_s: float | None = None,
    contrast: Sequence[str] = (),
) -> NDArray[np.str_]:
    """Return the condition of every volume.

    Volume i is acquired at `i * tr_s` and belongs to an event if that time lies in `[onset, onset + duration)`, told
    to the microsecond; a volume in no event is "rest". Where events of other conditions overlap, those of the
    contrast come first, then the later row of the table.

    Parameters
    ----------
    conditions : Conditions
    n_volumes : int
    image : str
        Name of the image, for messages.
    tr_s : float, optional
        Repetition time in seconds; needed for events.
    contrast : sequence of str
        The conditions compared: a volume in events of two of them is an error.

    Returns
    -------
    str array, shape (n_volumes,)

    Raises
    ------
    DataError
        If the number of labels is not the number of volumes, if events come without a repetition time, or if events of
        the conditions compared overlap.

    Examples
    --------
    >>> events = Conditions("run-1_events.tsv", events=(Event(2, 2.0, 4.0, "face"),))
    >>> label_volumes(events, 5, tr_s=2.0).tolist()
    ['rest', 'face', 'face', 'rest', 'rest']
    """
    if conditions.labels is not None:
        if len(conditions.labels) != n_volumes:
            raise DataError(
                f"{conditions.name} has {len(conditions.labels)} labels, but {image} has {n_volumes} volumes",
                "give one label per volume, rest included, in the order of the volumes",
            )
        return np.array(conditions.labels, dtype=np.str_)
    if tr_s is None or not math.isfinite(tr_s) or tr_s <= 0:
        raise DataError(
            f"{conditions.name} holds events, but {image} names no repetition time to place its volumes in time",
            "give it in seconds: tr=2.5 (on the command line --tr 2.5)",
        )
    times = np.arange(n_volumes) * _decimal(tr_s)  # (n,) s
    owner: list[Event | None] = [None] * n_volumes
    for event in conditions.events:
        start, stop = event.onset_s - _MICROSECOND, event.onset_s + event.duration_s - _MICROSECOND
        for i in np.flatnonzero((times >= start) & (times < stop)).tolist():
            owner[i] = _winner(owner[i], event, contrast, conditions.name, i, times[i])
    return np.array([REST if event is None else event.condition for event in owner], dtype=np.str_)


def split_contrast(contrast: str, counts: Mapping[str, int], *, found_in: str = "the labels") -> tuple[str, str]:
    """Split "face-house" into the two conditions, the first minus the second.

    Names may hold hyphens and spaces: every split is tried against the names that occur.

    Parameters
    ----------
    contrast : str
    counts : mapping of str to int
        The conditions that occur, and in how many volumes.
    found_in : str
        Where they were looked for, for messages.

    Returns
    -------
    first, second : str

    Raises
    ------
    UsageError
        If there is no "-", if both conditions are the same, or if two splits fit.
    DataError
        If a condition does not occur: the message lists those that do.

    Examples
    --------
    >>> split_contrast("x-ray - photo", {"x-ray": 9, "photo": 9, "rest": 30})
    ('x-ray', 'photo')
    """
    splits = [
        (contrast[:i].strip(), contrast[i + 1 :].strip()) for i, character in enumerate(contrast) if character == "-"
    ]
    splits = [(first, second) for first, second in splits if first and second]
    if not splits:
        raise UsageError(f'contrast "{contrast}" does not name two conditions', 'write it like "face-house"')
    fitting = [pair for pair in splits if pair[0] in counts and pair[1] in counts]
    if not fitting:
        nearest = max(splits, key=lambda pair: (pair[0] in counts) + (pair[1] in counts))
        absent = [f'"{name}"' for name in dict.fromkeys(nearest) if name not in counts]
        missing = f"{' and '.join(absent)} {'does' if len(absent) == 1 else 'do'} not occur"
        found = ", ".join(f"{name} ({counts[name]} volumes)" for name in sorted(counts))
        raise DataError(f'contrast "{contrast}": {missing} in {found_in}', f"found: {found}")
    if len(fitting) > 1:
        readings = " or ".join(f'"{first}" minus "{second}"' for first, second in fitting)
        raise UsageError(f'contrast "{contrast}" can be read as {readings}', "rename one of the conditions")
    if fitting[0][0] == fitting[0][1]:
        raise UsageError(f'contrast "{contrast}" compares a condition with itself', "name two conditions")
    return fitting[0]


def _winner(held: Event | None, event: Event, contrast: Sequence[str], name: str, volume: int, time_s: float) -> Event:
    """Return which of two events a volume belongs to."""
    if held is None or event.condition == held.condition or held.condition not in contrast:
        return event
    if event.condition not in contrast:
        return held
    raise DataError(
        f"{name}: the events of lines {held.line} ({held.condition}) and {event.line} ({event.condition}) both hold "
        f"volume {volume} (at {time_s:g} s), so that it belongs to both sides of the contrast",
        "mend the onsets or durations: the conditions compared must not overlap",
    )


def _decimal(tr_s: float) -> float:
    """Return the decimal number that a header meant: 2.1 s is stored in single precision as 2.0999999."""
    single = np.float32(tr_s)
    return float(str(single)) if float(single) == tr_s else tr_s


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a text table that are not blank, with their line numbers."""
    text = read_text(path, name=str(path), expected=f"label files are tables of text: {_FORMS}")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty", _FORMS)
    first = lines[0][1]
    delimiter = next((mark for mark in "\t," if mark in first), None)
    if delimiter is None:
        return [(number, line.split()) for number, line in lines]
    cells = csv.reader((line for _, line in lines), delimiter=delimiter)
    try:
        return [(number, [cell.strip() for cell in row]) for (number, _), row in zip(lines, cells, strict=False)]
    except csv.Error as error:
        raise DataError(f"{path}: line {cells.line_num}: {error}", _FORMS) from error


def _from_rows(rows: list[tuple[int, list[str]]], name: str) -> Conditions:
    header = [cell.lower() for cell in rows[0][1]]
    if "onset" in header:
        return _events(rows, header, name)
    if "labels" in header:
        _check_width(rows, name)
        return Conditions(name, _labels(rows[1:], header.index("labels"), name))
    if len(header) == 1 or (len(header) == 2 and _is_integer(header[1])):
        _check_width(rows, name)
        for number, row in rows:
            if len(row) == 2 and not _is_integer(row[1]):
                raise DataError(
                    f'{name}, line {number}: the second column is "{row[1]}", not the number of a run', _FORMS
                )
        return Conditions(name, _labels(rows, 0, name))
    raise DataError(f"{name} starts with {listed(rows[0][1])}", _FORMS)


def _labels(rows: list[tuple[int, list[str]]], column: int, name: str) -> tuple[str, ...]:
    for number, row in rows:
        if not row[column]:
            raise DataError(f"{name}, line {number}: the label is empty", f'write "{REST}" where nothing was shown')
    if not rows:
        raise DataError(f"{name} has a header and no labels", "give one label per volume")
    return tuple(row[column] for _, row in rows)


def _events(rows: list[tuple[int, list[str]]], header: list[str], name: str) -> Conditions:
    missing = [column for column in ("duration", "trial_type") if column not in header]
    if missing:
        raise DataError(f"{name} has the columns {listed(header)} and lacks {', '.join(missing)}", _FORMS)
    _check_width(rows, name)
    columns = [header.index(column) for column in ("onset", "duration", "trial_type")]
    events = []
    for number, row in rows[1:]:
        onset, duration, condition = (row[column] for column in columns)
        if condition.lower() in ("", "n/a", "nan"):
            continue  # BIDS: a row whose condition is not available is no event of any condition
        events.append(Event(number, _seconds(onset, name, number), _seconds(duration, name, number), condition))
        if events[-1].duration_s < 0:
            raise DataError(f"{name}, line {number}: the duration is {duration} s", "durations are 0 or more seconds")
    if not events:
        raise DataError(f"{name} has a header and no events", "give one row per event: onset, duration, trial_type")
    return Conditions(name, None, tuple(events))


def _check_width(rows: list[tuple[int, list[str]]], name: str) -> None:
    width = len(rows[0][1])
    for number, row in rows:
        if len(row) != width:
            raise DataError(
                f"{name}, line {number}: {len(row)} columns, but the first line has {width}",
                "separate all lines alike, by tabs, commas or spaces (names with spaces need tabs or commas)",
            )


def _seconds(text: str, name: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f'{name}, line {line}: "{text}" is not a time in seconds', "onset and duration are numbers")
    return value


def _is_integer(text: str) -> bool:
    return text.lstrip("+-").isdecimal()
