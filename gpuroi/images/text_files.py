"""Text files and tables of text: regular files in UTF-8, with every line where the file has it."""

from __future__ import annotations

import csv
import io
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from gpuroi.errors import DataError

__all__ = ["MISSING", "clipped", "listed", "read_columns", "read_rows", "read_text"]

MISSING = ("", "n/a", "N/A", "NA", "NaN", "nan")  # cells that hold no value; other words are text


def read_text(path: Path, *, name: str, expected: str, fallback: str | None = None) -> str:
    """Read a text file.

    Parameters
    ----------
    path : Path
    name : str
        What messages call the file.
    expected : str
        What to give, for the hint: "give a TSV or CSV file".
    fallback : str, optional
        Encoding of a file that is not UTF-8; default: there is none.

    Returns
    -------
    str
        Without a byte order mark.

    Raises
    ------
    DataError
        If it is missing, no regular file, cannot be read, or is not text.

    Examples
    --------
    >>> read_text(Path("/dev/null"), name="labels.tsv", expected="give a table")
    Traceback (most recent call last):
    ...
    gpuroi.errors.DataError: labels.tsv: cannot be read: it is no regular file
    give a table
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device has no end
            what = "a folder" if path.is_dir() else "no regular file"
            raise DataError(f"{name}: cannot be read: it is {what}", expected)
        raw = path.read_bytes()
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file (looked in {Path.cwd()})", "check the path") from error
    except (OSError, ValueError) as error:  # the latter for a NUL in the name
        raise DataError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}", expected) from error
    if b"\0" in raw:
        what = "it is UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "it holds NUL bytes"
        raise DataError(f"{name}: not a text file in UTF-8: {what}", expected)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if fallback is not None:
            return raw.decode(fallback)
        raise DataError(
            f"{name}: not a text file in UTF-8: byte {error.start}", "save the file as UTF-8 text"
        ) from error


def read_rows(
    path: Path, *, name: str, separator: str | None, fallback: str | None = None
) -> list[tuple[int, list[str]]]:
    """Read a table: the lines that are not empty, each with its number from 1, cells without blanks around them.

    A separator of None stands for any blanks.

    Raises
    ------
    DataError
        As `read_text`; if quotation marks do not close, or if there is no line.
    """
    text = read_text(path, name=name, expected="give a TSV or CSV file", fallback=fallback)
    if separator is None:
        read = [(line, words.split()) for line, words in enumerate(text.splitlines(), 1)]
    else:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        try:
            read = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
        except csv.Error as error:
            raise DataError(f"{name}: line {reader.line_num}: {error}", "check the quotation marks") from error
    rows = [(line, row) for line, row in read if any(row)]
    if not rows:
        raise DataError(f"{name}: the table is empty", "give a header and rows")
    return rows


def read_columns(
    path: Path, *, name: str, separator: str | None, fallback: str | None = None
) -> tuple[list[str], list[list[str]]]:
    """Read a table whose rows all are as long as its header; empty cells at the end of lines do not count.

    Returns
    -------
    header : list of str
    rows : list of list of str

    Raises
    ------
    DataError
        As `read_rows`; if rows have more or fewer cells than the header, or two columns have one name.
    """
    (_, header), *rows = read_rows(path, name=name, separator=separator, fallback=fallback)
    while not header[-1]:
        header.pop()
    width = len(header)
    repeated = [column for column, times in Counter(header).items() if times > 1]
    if repeated:
        raise DataError(f"{name}: more than one column is called {listed(repeated)}", "give every column its own name")
    odd = [f"{len(cells)} cells in line {line}" for line, cells in rows if len(cells) < width or any(cells[width:])]
    if odd:
        raise DataError(f"{name}: {listed(odd)}; expected {width}, as in the header", "correct these lines")
    return header, [cells[:width] for _, cells in rows]


def listed(names: Iterable[object], most: int = 12) -> str:
    """Return names for a message: the first of them, each cut to a readable length, and how many more there are.

    Examples
    --------
    >>> listed("abcd", most=2)
    'a, b and 2 more'
    """
    texts = [clipped(str(name)) for name in names]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def clipped(text: str, most: int = 80) -> str:
    """Return a text from a file for a message, cut to `most` characters.

    Examples
    --------
    >>> clipped("abcdef", 3)
    'abc...'
    """
    return text if len(text) <= most else f"{text[:most]}..."
