"""Contrasts in words: `patient=group[T.patient]`, `a - b/2`, `a; b`, read by a parser of our own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn

import numpy as np

from gpuroi.cohort.bad_inputs import unknown_name
from gpuroi.errors import DataError, UsageError
from gpuroi.images.text_files import clipped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from gpuroi.cohort.design import CohortDesign

__all__ = ["Contrast", "parse_contrast", "parse_contrasts", "refuse_same_label"]

_NAMED = re.compile(r"\s*([^\W\d][\w.-]*)\s*=(.*)", re.DOTALL)
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[^\s+*/();`-]+(?:\[[^\]]*\])?")
_MOST_DEEP, _MOST_CHARACTERS = 20, 20_000
_MOST_WEIGHT = 1e100  # its square is a number too


@dataclass(frozen=True, eq=False)
class Contrast:
    """What is tested: weights on the columns of a design.

    Attributes
    ----------
    name : str
        As given before "=", else the text.
    weights : float64 array, shape (p,) for t, (k, p) for F
    kind : {"t", "F"}
    text : str
        As it was written, without the name.
    """

    name: str
    weights: NDArray[np.float64]
    kind: Literal["t", "F"]
    text: str

    @property
    def label(self) -> str:
        """The name in letters and digits alone, as file names have it (`contrast-<label>_`)."""
        words = re.findall(r"[A-Za-z0-9]+", self.name)
        return "".join([*words[:1], *(word[:1].upper() + word[1:] for word in words[1:])]) or "contrast"


def parse_contrasts(texts: Iterable[str], design: CohortDesign) -> list[Contrast]:
    """Read contrasts, which must have different names.

    Parameters
    ----------
    texts : iterable of str
    design : CohortDesign

    Returns
    -------
    list of Contrast

    Raises
    ------
    UsageError, DataError
        As `parse_contrast`; two contrasts whose files would have the same name.
    """
    contrasts = [parse_contrast(text, design) for text in texts]
    refuse_same_label(contrasts)
    return contrasts


def refuse_same_label(contrasts: Iterable[Contrast]) -> None:
    """Raise `UsageError` if the files of two contrasts would have the same name, capitals or not."""
    seen: dict[str, str] = {}
    for contrast in contrasts:
        label = contrast.label.casefold()
        if label in seen:
            raise UsageError(
                f'contrasts "{clipped(seen[label])}" and "{clipped(contrast.name)}": their files would have '
                f"the same name, contrast-{clipped(contrast.label)}",
                "give them names of their own: 'first=...' and 'second=...'",
            )
        seen[label] = contrast.name


def parse_contrast(text: str, design: CohortDesign) -> Contrast:
    """Read a contrast.

    Parameters
    ----------
    text : str
        `[name=]row` or `[name=]row; row; ...`. A row is a sum of columns of the design, with weights: "age",
        "a - b", "2*a - (b + c)/2". One row is a t test, several are an F test. The name of a term with several
        columns, a factor or `poly(age, 2)`, stands for the F test of all of them; where the columns of a factor add up
        to the intercept, of their differences. A name in backticks is taken as it is.
    design : CohortDesign

    Returns
    -------
    Contrast

    Raises
    ------
    UsageError
        A text that cannot be read.
    DataError
        Names that the design does not have (the hint lists those that it has), weights of 0, a contrast that the
        design cannot estimate.

    Notes
    -----
    Of two names that fit, the longer one counts: `a-b` is the column of that name, if there is one.

    Examples
    --------
    >>> from gpuroi.cohort.design import CohortDesign
    >>> design = CohortDesign(np.eye(3)[[0, 1, 2, 0, 1, 2]], ["a", "b", "c"], list("uvwxyz"))
    >>> parse_contrast("mean of others=2*a - (b + c)", design).weights
    Traceback (most recent call last):
    ...
    gpuroi.errors.DataError: contrast "mean of others=2*a - (b + c)": "mean" is none of the columns ...
    >>> parse_contrast("others=2*a - (b + c)", design).weights
    array([ 2., -1., -1.])
    """
    from gpuroi.inference.design import contrast_rows

    if len(text) > _MOST_CHARACTERS:
        said = f'contrast "{clipped(text)}": {len(text):,} characters, more than {_MOST_CHARACTERS:,}'
        raise UsageError(said, "give the weights as a file: an FSL .con")
    name, body = _split_name(text, design)
    written = [part.strip() for part in _split_rows(body, design)]
    if not all(written):
        raise UsageError(
            f'contrast "{clipped(text)}" has an empty row', "write it like 'patient=group[T.patient]' or 'a; b'"
        )
    is_table = len(written) > 1
    rows: list[NDArray[np.float64]] = []
    for part in written:
        term = part[1:-1] if re.fullmatch(r"`[^`]+`", part) else part
        if term in design.names:  # the whole text: also where it looks like a sum
            rows.append(np.eye(len(design.names))[design.names.index(term)])
        elif term in design.terms:
            rows.extend(_term_rows(design, term))
            is_table = True
        else:
            rows.append(_Parser(part, text, design).parse())
    weights = np.array(rows)
    contrast_rows(design.basis, weights, name=f'contrast "{clipped(name)}"')  # refuses what cannot be estimated
    return Contrast(name, weights if is_table else weights[0], "F" if is_table else "t", body.strip())


def _split_name(text: str, design: CohortDesign) -> tuple[str, str]:
    """Split at the first "=", unless it belongs to the name of a column."""
    whole = text.strip()
    found = _NAMED.fullmatch(whole)
    if found is None or whole in design.terms or "=" in _name_at(whole, 0, _by_length(design)):
        return whole, whole
    return found[1], found[2]


def _split_rows(body: str, design: CohortDesign) -> list[str]:
    """Split at every ";" that is not inside a name, with backticks or without."""
    rows, start, at = [], 0, 0
    names = _by_length(design)
    while at < len(body):
        name = _name_at(body, at, names)
        end = body.find("`", at + 1) if body[at] == "`" else -1
        if name or end > 0:
            at = max(at + len(name), end + 1)
            continue
        if body[at] == ";":
            rows.append(body[start:at])
            start = at + 1
        at += 1
    return [*rows, body[start:]]


def _term_rows(design: CohortDesign, term: str) -> list[NDArray[np.float64]]:
    """Return one row for each column of a term, or their differences where every level has its own column."""
    places = design.terms[term]
    unit = np.eye(len(design.names))[places]  # (k, p)
    total = design.matrix[:, places].sum(axis=1)
    full = len(places) > 1 and bool(np.all(total == 1)) and bool(np.isin(design.matrix[:, places], (0, 1)).all())
    return list(unit[1:] - unit[0]) if full else list(unit)


class _Parser:
    """Sums, products and quotients of columns and numbers; a value is its weights on the columns and a constant."""

    def __init__(self, row: str, text: str, design: CohortDesign) -> None:
        self.row, self.text = row, text
        self.p = len(design.names)
        self.names = _by_length(design)
        self.place = {name: i for i, name in enumerate(design.names)}
        self.at = 0
        self.depth = 0

    def parse(self) -> NDArray[np.float64]:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
            value = self._sum()
        if self._peek():
            self._refuse(f'"{self.row[self.at :][:20]}" is not expected')
        if value[-1] != 0:
            self._refuse("a number stands without a column")
        weights = value[:-1]
        if not (np.abs(weights) < _MOST_WEIGHT).all():
            self._refuse(f"a weight is no finite number below {_MOST_WEIGHT:g}")
        if not weights.any():
            raise DataError(f'contrast "{clipped(self.text)}": all weights are 0', "give at least one other weight")
        return weights

    def _sum(self) -> NDArray[np.float64]:
        self.depth += 1
        if self.depth > _MOST_DEEP:
            self._refuse(f"more than {_MOST_DEEP} parentheses inside each other")
        sign = self._take() if self._peek() in ("+", "-") else "+"
        value = self._product() * (-1 if sign == "-" else 1)
        while self._peek() in ("+", "-"):
            sign = self._take()
            value = value + self._product() * (-1 if sign == "-" else 1)
        self.depth -= 1
        return value

    def _product(self) -> NDArray[np.float64]:
        value = self._operand()
        while self._peek() in ("*", "/"):
            operator, right = self._take(), self._operand()
            if operator == "/":
                if right[:-1].any():
                    self._refuse("division by a column")
                if right[-1] == 0:
                    self._refuse("division by 0")
                value = value / right[-1]
            elif right[:-1].any() and value[:-1].any():
                self._refuse("a column times a column; products belong into the formula")
            else:
                value = value * right[-1] if value[:-1].any() else right * value[-1]
        return value

    def _operand(self) -> NDArray[np.float64]:
        if self._peek() == "-":  # as in 2*-a
            self._take()
            return -self._operand_after_sign()
        return self._operand_after_sign()

    def _operand_after_sign(self) -> NDArray[np.float64]:
        value = np.zeros(self.p + 1)
        if self._peek() == "(" and not _name_at(self.row, self.at, self.names):
            self._take()
            value = self._sum()
            if self._peek() != ")":
                self._refuse('a ")" is missing')
            self._take()
            return value
        name = self._name()
        if name is not None:
            value[self.place[name]] = 1
            return value
        number = _NUMBER.match(self.row, self.at)
        if number is None:
            self._refuse("a column or a number is missing")
        if not np.isfinite(float(number[0])):
            self._refuse("the number is beyond what a float holds")
        self.at = number.end()
        value[-1] = float(number[0])
        return value

    def _name(self) -> str | None:
        """Take a name, longest first; a word that is none is an error that lists them."""
        if self._peek() == "`":
            end = self.row.find("`", self.at + 1)
            if end < 0:
                self._refuse("a backtick is missing")
            name = self.row[self.at + 1 : end]
            self.at = end + 1
            if name not in self.place:
                raise self._unknown(name)
            return name
        name = _name_at(self.row, self.at, self.names)
        if name:
            self.at += len(name)
            return name
        word = _WORD.match(self.row, self.at)
        if word is None or _NUMBER.fullmatch(word[0]) or _NUMBER.match(self.row, self.at):
            return None
        raise self._unknown(word[0])

    def _unknown(self, name: str) -> DataError:
        return unknown_name(name, list(self.place), f'contrast "{clipped(self.text)}"', "columns of the design")

    def _peek(self) -> str:
        while self.at < len(self.row) and self.row[self.at].isspace():
            self.at += 1
        return self.row[self.at : self.at + 1]

    def _take(self) -> str:
        character = self._peek()
        self.at += 1
        return character

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(
            f'contrast "{clipped(self.text)}", character {self.at + 1} of "{clipped(self.row)}": {what}',
            "write it like 'patient=group[T.patient]', '2*a - b/2', or 'a; b' for an F test",
        )


def _by_length(design: CohortDesign) -> list[str]:
    return sorted(design.names, key=len, reverse=True)


def _name_at(text: str, at: int, names: list[str]) -> str:
    """Return the longest name that stands here and does not go on as another word, or ""."""
    for name in names:
        end = at + len(name)
        if text.startswith(name, at) and not (
            _wordy(name[-1:]) and (_wordy(text[end : end + 1]) or text[end : end + 1] == "[")
        ):
            return name
    return ""


def _wordy(character: str) -> bool:
    return character.isalnum() or character == "_"
