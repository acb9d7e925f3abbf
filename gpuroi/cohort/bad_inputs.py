"""All that is wrong with the input of a cohort, gathered into one error."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple

from gpuroi.errors import DataError
from gpuroi.images.text_files import clipped, listed

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BadInput", "BadInputsError", "unknown_name"]

_MOST_COMPARED = 2000  # names, to find the one that was meant: each takes time


class BadInput(NamedTuple):
    """One row of `bad_inputs.tsv`: whose, which file, what was found and what was expected."""

    participant_id: str
    file: str
    found: str
    expected: str


class BadInputsError(DataError):
    """All that is wrong with the input, in one error.

    Parameters
    ----------
    bad_inputs : sequence of BadInput
    hint : str, optional

    Attributes
    ----------
    bad_inputs : tuple of BadInput
    """

    def __init__(self, bad_inputs: Sequence[BadInput], hint: str = "") -> None:
        self.bad_inputs = tuple(bad_inputs)
        lines = [_line(row) for row in self.bad_inputs]
        said = lines[0] if len(lines) == 1 else f"{len(lines)} problems in the input:\n  " + "\n  ".join(lines)
        super().__init__(said, hint)

    def __reduce__(self) -> tuple[type[BadInputsError], tuple[object, ...]]:
        return type(self), (self.bad_inputs, self.hint)


def unknown_name(name: str, known: Sequence[str], where: str, kind: str) -> DataError:
    """Return the error for a name that does not exist; its hint lists those that do, and the nearest."""
    near = difflib.get_close_matches(clipped(name), known[:_MOST_COMPARED], n=1)
    hint = f' (did you mean "{clipped(near[0])}"?)' if near else ""
    return DataError(f'{where}: "{clipped(name)}" is none of the {kind}', f"{kind}: {listed(known, 40)}{hint}")


def _line(bad: BadInput) -> str:
    who = f"{bad.participant_id}: " if bad.participant_id else ""
    return f"{who}{bad.file}: {bad.found}; expected {bad.expected}"
