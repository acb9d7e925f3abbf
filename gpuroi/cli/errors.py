"""From an exception to a line on stderr and an exit code."""

from __future__ import annotations

import os
import re
import sys
import traceback
from typing import TYPE_CHECKING

from gpuroi.errors import GpuroiError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["asked_to_debug", "report"]

_USAGE, _UNAVAILABLE, _INTERNAL, _INTERRUPTED = 2, 69, 70, 75
_ARGUMENTS = "n_permutations|min_coverage|cluster_p|cluster_threshold|tfce_step|phenotype_maps"  # of screen
_ISSUES = "https://github.com/gpuroi/gpuroi/issues"


def asked_to_debug(words: Sequence[str]) -> tuple[bool, list[str]]:
    """Take --debug out of the words of a command line, wherever it stands before "--".

    Parameters
    ----------
    words : sequence of str

    Returns
    -------
    debug : bool
        True also where GPUROI_DEBUG is set to anything but "" and "0".
    rest : list of str

    Examples
    --------
    >>> asked_to_debug(["info", "--debug"])
    (True, ['info'])
    """
    end = words.index("--") if "--" in words else len(words)
    rest = [*(word for word in words[:end] if word != "--debug"), *words[end:]]
    return len(rest) < len(words) or os.environ.get("GPUROI_DEBUG", "0") not in ("", "0"), rest


def report(error: BaseException, *, debug: bool = False) -> int:
    """Say on stderr what went wrong and what to do about it.

    Parameters
    ----------
    error : exception
    debug : bool, default False
        Print the traceback too.

    Returns
    -------
    int
        Exit code.

    Examples
    --------
    >>> from gpuroi.errors import DataError
    >>> report(DataError("bold.nii.gz: no such file", "check the path"))
    65
    """
    if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, BrokenPipeError | SystemExit):  # rich makes the latter of the former
        # The reader of our output had enough, as `head` does. Python must not find the pipe again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if debug:
        traceback.print_exception(error)
    message, hint, code = _explain(error)
    print(f"gpuroi: {message}", file=sys.stderr)
    if hint:
        print(hint, file=sys.stderr)
    return code


def _as_options(text: str) -> str:
    """Write arguments of Python as the options that they are on the command line."""
    text = re.sub(r'\b(errors|flips|method)="([a-z-]+)"', r"--\1 \2", text)
    return re.sub(rf"(?<![-\w\"'])({_ARGUMENTS})(?= |$|,)", lambda name: f"--{name[0].replace('_', '-')}", text)


def _explain(error: BaseException) -> tuple[str, str, int]:
    """Message, hint and exit code."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted; no half-written output is left", "", _INTERRUPTED
    if isinstance(error, GpuroiError):
        return f"error: {_as_options(error.message)}", _as_options(error.hint), error.exit_code
    if type(error).__module__.partition(".")[0] == "cyclopts":
        return f"error: {' '.join(str(error).split())}", "see gpuroi --help, or --help after the command", _USAGE
    if isinstance(error, MemoryError) or "can't start new thread" in str(error):  # a thread begins with its stack
        said = " ".join(str(error).split())
        return (
            f"error: out of memory{f': {said}' if said else ''}",
            "free some, give fewer or smaller images, or work on the other device (--device cpu); gpuroi screen keeps "
            "within --memory-limit, and needs less with fewer threads (--n-jobs)",
            _UNAVAILABLE,
        )
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return (
        f"internal error: {said}",
        f"this is a fault of gpuroi: please report it at {_ISSUES} with the output of the same command with --debug, "
        "and of gpuroi info",
        _INTERNAL,
    )
