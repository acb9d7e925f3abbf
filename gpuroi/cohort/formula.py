"""From a formula to a design: `map ~ group + age`, read by a parser of our own before formulaic sees any of it."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from gpuroi.cohort.bad_inputs import BadInput, BadInputsError, unknown_name
from gpuroi.cohort.design import CohortDesign, blocks_of
from gpuroi.cohort.exclusions import Missing, drop_missing
from gpuroi.cohort.participants import Participants, values_of
from gpuroi.errors import DataError, UsageError
from gpuroi.images.text_files import clipped, listed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TRANSFORMS", "design_of", "read_formula"]

TRANSFORMS = {
    "C": "C(x): the values of x are levels, also where they are numbers",
    "center": "center(x): x less its mean",
    "scale": "scale(x): x less its mean, over its standard deviation (n - 1)",
    "log": "log(x): natural logarithm",
    "poly": "poly(x, k): orthogonal polynomials up to the power k",
    "bs": "bs(x, df=k): cubic B-spline with k columns, at least 3",
}

_WITH_NUMBER = {"poly": ("", "degree", 1), "bs": ("df", "df", 3)}  # how it is written, its name, the least
_NESTED = ("center", "scale", "log")
_MOST_DEEP, _MOST_POWER, _MOST_COLUMNS, _MOST_TERMS, _MOST_CHARACTERS = 20, 4, 60, 1000, 20_000
_BINDING = (("**",), (":",), ("*", "/"), ("+", "-"))  # from the tightest

_TOKEN = re.compile(
    r"\s*(?:(?P<quoted>`[^`]+`)|(?P<name>[^\W\d]\w*)|(?P<number>\d+(?!\w))|(?P<operator>\*\*|[-+:*/(),=~]))", re.UNICODE
)
_CELL_PREFIX = "column"


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


@dataclass
class _Read:
    """A formula that was read: what formulaic may see, and which columns of the table it stands for.

    Attributes
    ----------
    text : str
        The formula with `{0}`, `{1}` in place of the columns.
    columns : list of str
        Those columns.
    levels, numbers, logs : set of str
        Columns inside C(), columns inside the other functions, and of these the ones right inside log().
    plain : set of str
        Columns that stand for themselves: what they are is for their values to say.
    """

    text: str = ""
    columns: list[str] = field(default_factory=list)
    levels: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    logs: set[str] = field(default_factory=set)
    plain: set[str] = field(default_factory=set)


def design_of(
    participants: Participants, formula: str, *, missing: Missing = "drop-subject", blocks: Sequence[str] = ()
) -> CohortDesign:
    r"""Make the design of a formula.

    Parameters
    ----------
    participants : Participants
    formula : str
        `map ~ group + age + sex`; "map ~" may be left out. Columns of the table, `+ - : * / ** ( )`, 0 and 1 for
        the intercept, and the functions of `TRANSFORMS`. A name with other characters stands in backticks. Columns
        of text are factors: their levels in sorted order, of which the first is the reference.
    missing : {"drop-subject", "error"}, default "drop-subject"
        What is done with people who lack a value in a column that the formula or `blocks` uses.
    blocks : sequence of str, optional
        Columns with exchangeability blocks, from the outermost to the innermost.

    Returns
    -------
    CohortDesign
        Rows as the participants that are left; columns with formulaic's names: "Intercept", "group[T.patient]".

    Raises
    ------
    UsageError
        A formula that cannot be read, or that asks for anything else than the above.
    DataError
        Columns that the table does not have, values that a function cannot take.
    BadInputsError
        Covariates that are constant or mix numbers and text, levels with one person; all in one error.

    Notes
    -----
    formulaic evaluates Python: it never gets the formula as it was written, but one that is put together here, in
    which columns have other names.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from gpuroi.cohort.participants import read_participants
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder) / "participants.csv"
    ...     _ = table.write_text("participant_id,group,age\na,x,20\nb,x,30\nc,y,41\nd,y,n/a\ne,y,50\n")
    ...     design = design_of(read_participants(table, map_column=None), "map ~ group + age")
    >>> design.names, design.ids
    (['Intercept', 'group[T.y]', 'age'], ['a', 'b', 'c', 'e'])
    """
    read = read_formula(formula, list(participants.cells.columns))
    used = drop_missing(
        participants, list(dict.fromkeys([*read.columns, *_known(participants, blocks)])), missing=missing
    )
    values = {name: values_of(used.cells[name]) for name in read.columns}
    _refuse_unusable(used, read, values)
    names, matrix, terms = _evaluate(read, values, formula, used)
    return CohortDesign(
        matrix=matrix,
        names=names,
        ids=used.ids,
        terms=terms,
        blocks=blocks_of(used, blocks) if blocks else None,
        formula=formula,
        participants=used,
    )


def read_formula(formula: str, columns: Sequence[str]) -> _Read:
    """Read a formula, and refuse all that is not in the grammar of `design_of`.

    Parameters
    ----------
    formula : str
    columns : sequence of str
        The names that it may use.

    Raises
    ------
    UsageError
        Naming the place.
    DataError
        A name that is no column.

    Examples
    --------
    >>> read_formula("map ~ 0 + `body mass`:sex", ["body mass", "sex"]).columns
    ['body mass', 'sex']
    """
    return _Parser(formula, columns).parse()


class _Parser:
    """Recursive descent over the tokens; every method reads one thing and returns the text that stands for it."""

    def __init__(self, formula: str, columns: Sequence[str]) -> None:
        self.formula = formula
        self.known = set(columns)
        self.read = _Read()
        self.tokens = self._tokens()
        self.next = 0
        self.depth = 0

    def parse(self) -> _Read:
        self._left_side()
        self.read.text, _ = self._sum()
        if self._peek().kind != "end":
            self._refuse(f'"{clipped(self._peek().text)}" is not expected')
        if len(self.read.columns) > _MOST_COLUMNS:
            self._refuse(f"{len(self.read.columns)} columns, more than {_MOST_COLUMNS}")
        return self.read

    def _tokens(self) -> list[_Token]:
        if len(self.formula) > _MOST_CHARACTERS:
            self._refuse(f"{len(self.formula):,} characters in all, more than {_MOST_CHARACTERS:,}", 0)
        found, at = [], 0
        text = self.formula.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                start = at + len(text[at:]) - len(text[at:].lstrip())
                self._refuse(f'"{text[start : start + 12]}" is no part of a formula', start)
            assert match.lastgroup is not None
            found.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
            at = match.end()
        return [*found, _Token("end", "the end", len(text))]

    def _left_side(self) -> None:
        tilde = [i for i, token in enumerate(self.tokens) if token.text == "~"]
        if not tilde:
            return
        left = [token.text for token in self.tokens[: tilde[0]]]
        if left not in ([], ["map"]):
            self._refuse(f'"{clipped(" ".join(left))}" stands left of "~"; the maps are what is explained: "map ~ ..."')
        self.next = tilde[0] + 1

    def _sum(self) -> tuple[str, int]:
        """Return the text, and how many terms it stands for at most: formulaic would make them all."""
        self._go_deeper()
        sign = self._take().text if self._peek().text in ("+", "-") else ""
        text, count = self._operand()
        parts, counts, operators = [sign, text], [count], []
        while self._peek().text in ("+", "-", ":", "*", "/", "**"):
            operators.append(self._take().text)
            text, count = self._power() if operators[-1] == "**" else self._operand()
            parts += [operators[-1], text]
            counts.append(count)
        self.depth -= 1
        total = _most_terms(counts, operators)
        if total > _MOST_TERMS:
            self._refuse(f"it stands for more than {_MOST_TERMS} terms")
        return " ".join(part for part in parts if part), total

    def _go_deeper(self) -> None:
        self.depth += 1
        if self.depth > _MOST_DEEP:
            self._refuse(f"more than {_MOST_DEEP} parentheses inside each other")

    def _operand(self) -> tuple[str, int]:
        token = self._take()
        if token.text == "(":
            inside, count = self._sum()
            self._expect(")")
            return f"({inside})", count
        if token.kind == "number":
            if token.text not in ("0", "1"):
                self._refuse(f"the number {clipped(token.text)}: only 0 and 1 stand alone", token.at)
            return token.text, 1
        if token.kind == "name" and self._peek().text == "(":
            return self._call(token), 1
        name = self._column(token)
        self.read.plain.add(name)
        return self._placed(name), 1

    def _power(self) -> tuple[str, int]:
        token = self._take()
        if token.kind != "number" or not 1 <= _whole(token.text) <= _MOST_POWER:
            self._refuse(
                f'"{clipped(token.text)}" after **: a whole number from 1 to {_MOST_POWER} is expected', token.at
            )
        return str(int(token.text)), int(token.text)

    def _call(self, function: _Token) -> str:
        if function.text not in TRANSFORMS:
            self._refuse(f'"{clipped(function.text)}" is no function of a formula', function.at)
        self._go_deeper()
        self._expect("(")
        argument = self._argument(function.text)
        number = self._number(function.text) if function.text in _WITH_NUMBER else ""
        self._expect(")")
        self.depth -= 1
        return f"{function.text}({argument}{number})"

    def _argument(self, function: str) -> str:
        token = self._take()
        if token.kind == "name" and self._peek().text == "(":
            if function == "C" or token.text not in _NESTED:
                self._refuse(f'"{token.text}(" inside {function}(): expected a column', token.at)
            return self._call(token)
        name = self._column(token)
        (self.read.levels if function == "C" else self.read.numbers).add(name)
        if function == "log":
            self.read.logs.add(name)
        return self._placed(name)

    def _number(self, function: str) -> str:
        written, keyword, least = _WITH_NUMBER[function]
        self._expect(",")
        if self._peek().kind == "name":
            self._expect(keyword)
            self._expect("=")
        elif written:
            self._refuse(f"{function}() takes its number by name: {TRANSFORMS[function]}")
        token = self._take()
        if token.kind != "number" or not least <= _whole(token.text) <= 20:
            self._refuse(f'"{clipped(token.text)}": {keyword} is a whole number from {least} to 20', token.at)
        return f", {written}={int(token.text)}" if written else f", {int(token.text)}"

    def _column(self, token: _Token) -> str:
        if token.kind not in ("name", "quoted"):
            self._refuse(f'"{clipped(token.text)}" where a column is expected', token.at)
        if token.kind == "name" and token.text.startswith("__"):
            self._refuse(f'the name "{clipped(token.text)}"', token.at)
        name = token.text.strip("`")
        if name not in self.known:
            raise unknown_name(name, sorted(self.known), f'formula "{clipped(self.formula)}"', "columns")
        return name

    def _placed(self, name: str) -> str:
        if name not in self.read.columns:
            self.read.columns.append(name)
        return f"{{{self.read.columns.index(name)}}}"

    def _peek(self) -> _Token:
        return self.tokens[self.next]

    def _take(self) -> _Token:
        token = self.tokens[self.next]
        self.next = min(self.next + 1, len(self.tokens) - 1)
        return token

    def _expect(self, text: str) -> None:
        token = self._take()
        if token.text != text:
            self._refuse(f'"{clipped(token.text)}" where "{text}" is expected', token.at)

    def _refuse(self, what: str, at: int | None = None) -> NoReturn:
        place = self.tokens[self.next].at if at is None and hasattr(self, "tokens") else at or 0
        raise UsageError(
            f'formula "{clipped(self.formula)}", character {place + 1}: {what}',
            "a formula holds columns, + - : * / ** ( ) 0 1, and the functions "
            f"{', '.join(TRANSFORMS)}; a name with other characters stands in backticks",
        )


def _whole(digits: str) -> int:
    """Return a number that is small; all others are as good as any large one."""
    return int(digits) if len(digits) < 10 else 10**9


def _most_terms(counts: list[int], operators: list[str]) -> int:
    """Return how many terms operands of so many terms make at most.

    Examples
    --------
    >>> _most_terms([1, 1, 1], ["+", "*"]), _most_terms([3, 2], ["**"])
    (4, 15)
    """
    for tight in _BINDING:
        left, rest = [counts[0]], []
        for operator, right in zip(operators, counts[1:], strict=True):
            if operator in tight:
                left[-1] = min(_combined(left[-1], operator, right), 10 * _MOST_TERMS)
            else:
                left.append(right)
                rest.append(operator)
        counts, operators = left, rest
    return counts[0]


def _combined(left: int, operator: str, right: int) -> int:
    if operator == "**":
        return int((left + 1) ** right) - 1
    if operator == ":":
        return left * right
    return left + right + (left * right if operator == "*" else 0)


def _known(participants: Participants, columns: Sequence[str]) -> list[str]:
    for name in columns:
        if name not in participants.cells:
            raise unknown_name(name, list(participants.cells.columns), "exchangeability blocks", "columns")
    return list(columns)


def _refuse_unusable(used: Participants, read: _Read, values: dict[str, pd.Series]) -> None:
    """Refuse covariates that cannot tell anything, all in one error."""
    bad = [
        BadInput("", str(used.path), found, expected)
        for name in read.columns
        for found, expected in _unusable(name, used, read, values[name])
    ]
    if bad:
        raise BadInputsError(bad, "change the formula, the table, or who is in it")


def _unusable(name: str, used: Participants, read: _Read, values: pd.Series) -> list[tuple[str, str]]:
    import pandas as pd

    cells = used.cells[name]
    numeric = values.dtype.kind in "if"
    parsed = pd.to_numeric(cells, errors="coerce")
    if not numeric and name in read.numbers | read.plain and parsed.notna().any():
        odd = [f'"{cell}" ({who})' for cell, who, x in zip(cells, used.ids, parsed, strict=True) if x != x]
        return [(f"{name} mixes numbers with text: {listed(odd, 8)}", f"numbers, or C({name}) where all are levels")]
    if not numeric and name in read.numbers:
        return [(f"{name} is text", "numbers, inside a function of numbers")]
    if numeric and not np.isfinite(values.to_numpy(float)).all():
        who = [i for i, x in zip(used.ids, values.to_numpy(float), strict=True) if not np.isfinite(x)]
        return [(f"{name} is infinite for {', '.join(who)}", "finite numbers")]
    if name in read.logs and (values <= 0).any():
        told = [f"{cell} ({who})" for cell, who, x in zip(cells, used.ids, values, strict=True) if x <= 0]
        return [(f"log({name}) of {listed(told, 8)}", "numbers above 0")]
    counts = Counter(values.tolist())
    if len(counts) == 1:
        return [(f'{name} is "{cells.iloc[0]}" for all {len(used)} people', "a covariate that varies")]
    single = [level for level, n in counts.items() if n == 1] if not numeric or name in read.levels else []
    who_has = dict(zip(values.tolist(), used.ids, strict=True))
    return [(f'level "{level}" of {name} has one person ({who_has[level]})', "two or more") for level in single]


def _evaluate(
    read: _Read, values: dict[str, pd.Series], formula: str, used: Participants
) -> tuple[list[str], np.ndarray[tuple[int, int], np.dtype[np.float64]], dict[str, list[int]]]:
    """Let formulaic make the matrix of the formula that was put together here."""
    import pandas as pd
    from formulaic import model_matrix

    prefix = _unused_prefix(values)
    stand_ins = [f"{prefix}{i}_" for i in range(len(read.columns))]
    data = {stand_in: values[name] for stand_in, name in zip(stand_ins, read.columns, strict=True)}
    frame = pd.DataFrame(data, index=pd.RangeIndex(len(used)))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # what they tell of is looked for below
            made = model_matrix(read.text.format(*stand_ins), frame, context={}, na_action="raise")
    except Exception as error:  # formulaic's own, and what its functions raise
        said = " ".join(re.sub(r"\x1b\[[0-9;]*m|[⧛⧚]", "", str(error)).split())
        raise DataError(
            f'formula "{clipped(formula)}" cannot be evaluated: {_restored(said, prefix, read.columns)}',
            "compare it with the values in the table",
        ) from error
    matrix = np.ascontiguousarray(made, dtype=np.float64).reshape(len(used), -1)
    names = [_restored(str(name), prefix, read.columns) for name in made.columns]
    if not names:
        raise UsageError(
            f'formula "{clipped(formula)}" leaves the design without a column', "leave the intercept in: map ~ 1"
        )
    _refuse_not_finite(matrix, names, used.ids, formula)
    spec = made.model_spec.term_indices
    terms = {_restored(str(term), prefix, read.columns): list(places) for term, places in spec.items() if places}
    terms.pop("1", None)
    return names, matrix, terms


def _refuse_not_finite(matrix: np.ndarray, names: list[str], ids: list[str], formula: str) -> None:
    bad = ~np.isfinite(matrix)
    if bad.any():
        who = [name for name, row in zip(ids, bad.any(axis=1), strict=True) if row]
        which = [name for name, column in zip(names, bad.any(axis=0), strict=True) if column]
        raise DataError(
            f'formula "{clipped(formula)}": {", ".join(which)} is no finite number for {listed(who, 8)}',
            "give the covariates smaller units",
        )


def _unused_prefix(values: dict[str, pd.Series]) -> str:
    """Return a prefix that occurs in no level, so that names can be told from levels afterwards."""
    texts = {str(level) for column in values.values() if column.dtype.kind not in "if" for level in column}
    prefix = _CELL_PREFIX
    while any(prefix in text for text in texts):
        prefix += "_"
    return prefix


def _restored(text: str, prefix: str, columns: list[str]) -> str:
    """Put the names of columns back; in backticks inside a function, where they are no plain words."""

    def name(found: re.Match[str]) -> str:
        column = columns[int(found[2])]
        return f"{found[1]}`{column}`" if found[1] and not column.isidentifier() else f"{found[1]}{column}"

    return re.sub(rf"(\(?){re.escape(prefix)}(\d+)_", name, text)
