"""What became of one hostile input: an answer that is right, a refusal, or something that must never be."""

from __future__ import annotations

import builtins
import re
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from gpuroi.errors import GpuroiError

__all__ = ["FAULTS", "FINE", "TRAP", "Case", "Target", "Verdict", "WrongAnswerError", "arm_trap", "input_of", "judge"]

FINE = ("agrees", "unchecked", "refused", "stricter")
"""The independent reader answers the same; it has no answer; both refuse or there is none to ask; only we refuse."""

FAULTS = ("wrong", "error", "slow", "memory", "killed")

TRAP = "gpuroi_trap"
"""A builtin that no input may ever get called."""

MOST_SECONDS = 2.0
_MOST_WALL_SECONDS = 10.0  # where nothing is computed and nothing ends: a pipe, a lock
_MOST_BYTES = 16 << 20
_MOST_PER_ANSWER = 8  # bytes for one byte of the answer: doubles on disk, float32 in memory, and some room
_MOST_MESSAGE = 20_000

_sprung: list[str] = []


class WrongAnswerError(AssertionError):
    """The answer is not that of the independent reader, or contradicts itself."""


class _HangError(BaseException):
    """Nothing came back in time."""


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes
    ----------
    read : callable
        Reads it with the code under test, and returns the answer.
    compare : callable
        Takes the answer, or the refusal, and returns an outcome of `FINE`; `WrongAnswerError` if it is wrong.
    name : str
        Of the file or argument, which a refusal has to mention; "" for none.
    size_of : callable
        Bytes of the answer.
    """

    read: Callable[[], Any]
    compare: Callable[[Any], str]
    name: str = ""
    size_of: Callable[[Any], int] = lambda answer: 0


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes
    ----------
    name : str
    make : callable
        Takes a generator of random numbers and an empty folder for files, returns a `Case`.
    share : int
        Part of a long run, in relation to the others.
    """

    name: str
    make: Callable[[Random, Path], Case]
    share: int


@dataclass(frozen=True)
class Verdict:
    """What became of an input, what it took, and what was said."""

    outcome: str
    seconds: float
    peak_bytes: int
    detail: str = ""

    @property
    def is_fault(self) -> bool:
        """True if this must never be."""
        return self.outcome in FAULTS


def input_of(target: Target, seed: int, number: int, folder: Path) -> Case:
    """Make input `number` of a target in an empty folder."""
    return target.make(Random(f"{seed} {target.name} {number}"), folder)


def judge(case: Case) -> Verdict:
    """Read one input, within limits of time and memory, and compare the answer."""
    _sprung.clear()
    answer, refusal, failure = None, None, ""
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    held = tracemalloc.get_traced_memory()[0]
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        with _alarm():
            answer = case.read()
    except GpuroiError as error:
        refusal = error
    except _HangError:
        failure = "hang"
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"[:500]
    seconds = min(time.perf_counter() - wall, time.process_time() - cpu)  # others may have had the processor
    peak = tracemalloc.get_traced_memory()[1] - held
    if not tracing:
        tracemalloc.stop()
    outcome, detail = _outcome(case, answer, refusal, failure)
    if outcome in FINE:
        allowed = _MOST_BYTES + (_MOST_PER_ANSWER * case.size_of(answer) if refusal is None else 0)
        if seconds > MOST_SECONDS:
            outcome, detail = "slow", f"{seconds:.1f} s"
        elif peak > allowed:
            outcome, detail = "memory", f"{peak:,} bytes, allowed are {allowed:,}"
    return Verdict(outcome, seconds, max(0, peak), detail)


def arm_trap() -> None:
    """Put `TRAP` where every Python expression would find it."""

    def spring(*arguments: Any, **keywords: Any) -> NoReturn:
        _sprung.append(f"called with {arguments} {keywords}")
        raise RuntimeError("an input ran code")

    setattr(builtins, TRAP, spring)


def _outcome(case: Case, answer: Any, refusal: GpuroiError | None, failure: str) -> tuple[str, str]:
    if _sprung:
        return "wrong", f"an input ran code: {_sprung[0]}"
    if failure:
        return ("slow" if failure == "hang" else "error"), failure
    try:
        if refusal is not None:
            _check_refusal(refusal, case.name)
        return case.compare(answer if refusal is None else refusal), _kind(refusal)
    except WrongAnswerError as wrong:
        return "wrong", str(wrong)[:500]


def _check_refusal(refusal: GpuroiError, name: str) -> None:
    if refusal.exit_code not in (2, 65) or not refusal.message:
        raise WrongAnswerError(f"exit code {refusal.exit_code} and message {refusal.message!r}")
    if name not in refusal.message:
        raise WrongAnswerError(f"the refusal does not name {name!r}: {refusal.message}")
    if len(str(refusal)) > _MOST_MESSAGE:
        raise WrongAnswerError(f"a message of {len(str(refusal)):,} characters: {refusal.message[:200]}")


def _kind(refusal: GpuroiError | None) -> str:
    """Return a refusal without what differs from input to input."""
    if refusal is None:
        return ""
    first = refusal.message.splitlines()[0].rpartition(": ")[2] or refusal.message
    return re.sub(r"\d[\d.,e+-]*", "0", first)[:80]


@contextmanager
def _alarm() -> Iterator[None]:
    """Break off what does not end; only the main thread can be broken off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: Any) -> NoReturn:
        raise _HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, _MOST_WALL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
