"""Names of the regions of an atlas: look-up tables from BIDS, FSL, FreeSurfer and nilearn."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuroi.errors import DataError
from gpuroi.images.text_files import clipped, listed, read_columns, read_text

if TYPE_CHECKING:
    pass

__all__ = ["LabelNames", "find_label_names", "read_label_names"]

_KINDS = ".tsv and .csv (columns index and name), .xml (FSL), .txt, .lut and .ctab (FreeSurfer: number, name, colour)"
_SUFFIXES = (".tsv", ".xml", ".txt", ".csv", ".lut", ".ctab")
_OLD_ENCODING = "latin-1"  # of FreeSurfer's and older FSL's tables


class LabelNames(Mapping[int, str]):
    """Names keyed by the number that a region has in its label image, never by position.

    Parameters
    ----------
    names : mapping or iterable of pairs, int to str
        In the order of the table. The number 0 is the background: its name is not kept.
    source : str
        Where they are from, for messages.

    Raises
    ------
    DataError
        If a number is not whole, negative or there twice.

    Examples
    --------
    >>> names = LabelNames({0: "Background", 400: "Precentral Gyrus"})
    >>> names[400], names.name(7), list(names)
    ('Precentral Gyrus', 'label 7', [400])
    """

    def __init__(self, names: Mapping[Any, Any] | Iterable[tuple[Any, Any]], source: str = "names") -> None:
        pairs = names.items() if isinstance(names, Mapping) else names
        self.source = source
        self._names: dict[int, str] = {}
        for key, name in pairs:
            number = _whole(key, source)
            if number in self._names:
                both = f"{clipped(self._names[number])!r} and {clipped(str(name))!r}"
                both = f"{clipped(self._names[number])!r} and {clipped(str(name))!r}"
                raise DataError(
                    f"{source}: the number {number} is there twice, as {both}", "leave one row for each number"
                )
            if number != 0:
                self._names[number] = str(name).strip()

    def __getitem__(self, number: int) -> str:
        return self._names[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"LabelNames({len(self)} names from {self.source})"

    def name(self, number: int) -> str:
        """Return the name, "label 17" for a number without one, "n/a" for 0: outside all regions."""
        if number == 0:
            return "n/a"
        return self._names.get(int(number)) or f"label {number}"


def read_label_names(source: Any) -> LabelNames:
    """Return the names of an atlas's regions from a table of any of the usual kinds.

    Parameters
    ----------
    source : path, DataFrame, mapping or LabelNames
        A BIDS `_dseg.tsv` or nilearn's look-up table (columns `index` and `name`), a .csv of the same columns, an FSL
        atlas .xml, a FreeSurfer colour table, or the table of regions that `gpuroi roi` and `gpuroi regions` write
        (column `id`): these are called region-1, region-2, ..., as in their signals.

    Returns
    -------
    LabelNames

    Raises
    ------
    DataError
        If the table cannot be read, lacks a column, or has a number twice; the message names the file and the line.

    Notes
    -----
    FSL numbers its labels from 0. In the label image of a probabilistic atlas ("maxprob") region k has the value
    k + 1, as in the Harvard-Oxford atlases; in that of a label atlas, k. A `value` attribute goes before both.

    Text is taken as it stands: a region named "NA" or "None" keeps its name.

    Examples
    --------
    >>> import pandas as pd
    >>> read_label_names(pd.DataFrame({"index": [0, 17], "name": ["Background", "Insula"]}))[17]
    'Insula'
    """
    if isinstance(source, LabelNames):
        return source
    if isinstance(source, Mapping):
        return LabelNames(source)
    if hasattr(source, "columns") and hasattr(source, "iloc"):
        return _from_columns(list(source.columns), source.itertuples(index=False, name=None), "look-up table")
    if not isinstance(source, str | os.PathLike):
        raise DataError(f"names of regions are expected, got {type(source).__name__}", f"give a table: {_KINDS}")
    path, name = Path(source).expanduser(), os.fspath(source)
    suffix = path.suffix.lower()
    if suffix in (".tsv", ".csv"):
        return _from_table(path, name, "\t" if suffix == ".tsv" else ",")
    text = read_text(path, name=name, expected=f"known: {_KINDS}", fallback=_OLD_ENCODING)
    if suffix == ".xml":
        return _from_fsl(text, name)
    if suffix in (".txt", ".lut", ".ctab"):
        return LabelNames(_colour_table(text, name), name)
    raise DataError(f"{name}: not a known table of names", f"known: {_KINDS}")


def find_label_names(image: str | os.PathLike[str]) -> LabelNames | None:
    """Return the names that lie beside a label image under the same name, such as `atlas_dseg.tsv`; None if none do.

    Raises
    ------
    DataError
        If the table that is there cannot be read.
    """
    path = Path(image).expanduser()
    stem = Path(path.name[:-3] if path.name.lower().endswith(".gz") else path.name).stem
    for suffix in _SUFFIXES:
        beside = path.with_name(stem + suffix)
        if beside.is_file():
            return read_label_names(beside)
    return None


def _whole(value: Any, source: str) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (0 <= number < 2**31 and number == int(number)) or isinstance(value, bool):
        raise DataError(
            f"{source}: {clipped(repr(value))} is not the number of a region",
            "numbers are whole, 0 (background) to 2147483647",
        )
    return int(number)


def _from_table(path: Path, name: str, separator: str) -> LabelNames:
    header, rows = read_columns(path, name=name, separator=separator, fallback=_OLD_ENCODING)
    return _from_columns(header, rows, name)


def _from_columns(header: Sequence[Any], rows: Iterable[Sequence[Any]], name: str) -> LabelNames:
    place = {str(column).strip().lower(): k for k, column in reversed(list(enumerate(header)))}
    if {"id", "voxels"} <= set(place) and "name" not in place:  # regions that were found here
        return LabelNames(((row[place["id"]], f"region-{row[place['id']]}") for row in rows), name)
    missing = [wanted for wanted in ("index", "name") if wanted not in place]
    if missing:
        raise DataError(
            f"{name}: no column {' and no column '.join(missing)}, it has {listed(header)}",
            "the number in the image is `index`, its name `name`, as in a BIDS _dseg.tsv",
        )
    return LabelNames(((row[place["index"]], row[place["name"]]) for row in rows), name)


def _from_fsl(text: str, name: str) -> LabelNames:
    from xml.etree import ElementTree

    if "<!ENTITY" in text:  # atlases have none, attacks on parsers have
        raise DataError(f"{name}: the file defines entities", "FSL's atlases do not: write it without")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 (entities are refused above)
    except ElementTree.ParseError as error:
        raise DataError(f"{name}: not readable as XML: {error}", "an FSL atlas description is expected") from error
    labels = list(root.iter("label"))
    if not labels:
        raise DataError(f"{name}: no <label> in it", "an FSL atlas description is expected")
    # FSL itself writes "Probabalistic" in some files.
    shift = 1 if (root.findtext(".//type") or "").strip().lower().startswith("prob") else 0
    pairs = []
    for label in labels:
        value = label.get("value")
        pairs.append((value if value is not None else _whole(label.get("index"), name) + shift, label.text or ""))
    return LabelNames(pairs, name)


def _colour_table(text: str, name: str) -> Iterator[tuple[str, str]]:
    """Lines of a number, a name and three or four numbers of its colour, which may be missing."""
    for place, line in enumerate(text.splitlines(), start=1):
        row = line.split("#", 1)[0].strip()
        if not row:
            continue
        fields = [field.strip() for field in row.split("\t")] if "\t" in row else row.split()
        n_colours = next((n for n in (4, 3) if len(fields) > n + 1 and all(map(_is_number, fields[-n:]))), 0)
        words = fields[1 : len(fields) - n_colours]
        if not words or not fields[0].isdigit():
            raise DataError(
                f"{name}: line {place} is {clipped(line.strip())!r}", "expected: number, name, and its colour"
            )
        yield fields[0], " ".join(words)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
