"""All that is wrong with the input of a cohort, gathered into one error."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple

from gpuroi.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BadInput", "BadInputsError", "unknown_name"]


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
        listed = lines[0] if len(lines) == 1 else f"{len(lines)} problems in the input:\n  " + "\n  ".join(lines)
        super().__init__(listed, hint)

    def __reduce__(self) -> tuple[type[BadInputsError], tuple[object, ...]]:
        return type(self), (self.bad_inputs, self.hint)


def unknown_name(name: str, known: Sequence[str], where: str, kind: str) -> DataError:
    """Return the error for a name that does not exist; its hint lists those that do, and the nearest."""
    near = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known[:40]) + (f" and {len(known) - 40} more" if len(known) > 40 else "")
    hint = f' (did you mean "{near[0]}"?)' if near else ""
    return DataError(f'{where}: "{name[:80]}" is none of the {kind}', f"{kind}: {listed}{hint}")


def _line(bad: BadInput) -> str:
    who = f"{bad.participant_id}: " if bad.participant_id else ""
    return f"{who}{bad.file}: {bad.found}; expected {bad.expected}"
