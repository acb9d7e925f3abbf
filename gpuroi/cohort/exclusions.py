"""Who is left out because a covariate is missing: said before the design is made, never by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from gpuroi.cohort.bad_inputs import BadInput, BadInputsError
from gpuroi.cohort.participants import MISSING, Participants
from gpuroi.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MISSING_COVARIATE", "Missing", "drop_missing"]

Missing = Literal["drop-subject", "error"]

MISSING_COVARIATE = "missing covariate"


def drop_missing(
    participants: Participants, columns: Sequence[str], *, missing: Missing = "drop-subject"
) -> Participants:
    """Take out everybody who has no value in one of the columns.

    Parameters
    ----------
    participants : Participants
    columns : sequence of str
        The columns that count; others may have gaps.
    missing : {"drop-subject", "error"}, default "drop-subject"
        Take them out and note it in `excluded`, with the columns as the detail; or refuse.

    Returns
    -------
    Participants

    Raises
    ------
    BadInputsError
        With "error", naming everybody and every column.
    DataError
        If nobody is left.
    UsageError
        For another word.
    """
    if missing not in ("drop-subject", "error"):
        raise UsageError(f'missing is "{missing}"', 'use "drop-subject" or "error"')
    if not columns:
        return participants
    gaps = participants.cells[list(columns)].isin(MISSING).to_numpy()  # (n, columns)
    rows = np.flatnonzero(gaps.any(axis=1))
    if not len(rows):
        return participants
    details = [", ".join(name for name, gap in zip(columns, gaps[row], strict=True) if gap) for row in rows]
    if missing == "error":
        ids = participants.ids
        bad = [
            BadInput(ids[row], str(participants.path), f"no value of {what}", "a value in every row")
            for row, what in zip(rows, details, strict=True)
        ]
        raise BadInputsError(bad, "complete the table, or leave these people out with --missing drop-subject")
    if len(rows) == len(participants):
        counts = ", ".join(f"{name} {int(n)}" for name, n in zip(columns, gaps.sum(axis=0), strict=True))
        raise DataError(
            f"{participants.path}: all {len(rows)} people lack a covariate (missing values: {counts})",
            "leave the covariate out of the formula, or complete it",
        )
    return participants.exclude(rows, MISSING_COVARIATE, details)
