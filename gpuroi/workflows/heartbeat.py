"""Signs of life of a long run: lines in the log, and the log in a file."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from gpuroi.images.write import as_output_error

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

__all__ = ["Heartbeat", "Progress", "duration_in_words", "log_to", "log_to_file"]

_log = logging.getLogger("gpuroi")


class Progress(Protocol):
    """What is told how far each stage has come, from any thread."""

    def __call__(self, stage: str, done: int, total: int, unit: str = "permutations") -> None:
        """`done` of `total` of the stage are there."""


@dataclass
class _Stage:
    name: str
    unit: str
    began: float
    first: int  # done when it was first heard of: a resumed run does not begin with 0
    done: int
    total: int


class Heartbeat:
    """Tell the log how far a run has come: a line at the start of each stage, then one a minute.

    Parameters
    ----------
    every_s : float, default 60
    log : Logger, optional
        Default the package's own.

    Notes
    -----
    As a context manager it also speaks while a stage is silent, from a thread of its own: whoever reads the log then
    knows that the process lives. Times are those of a clock that nobody sets.

    Examples
    --------
    >>> with Heartbeat() as progress:
    ...     progress("patient", 0, 5000)
    ...     progress("patient", 1280, 5000)
    """

    def __init__(self, *, every_s: float = 60.0, log: logging.Logger | None = None) -> None:
        self._every_s, self._log = every_s, log or _log
        self._stage: _Stage | None = None
        self._last_line = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def __call__(self, stage: str, done: int, total: int, unit: str = "permutations") -> None:
        """Take note of a number, and write a line if it is time for one."""
        with self._lock:
            known = self._stage
            if known is None or known.name != stage or known.total != total or done < known.done:
                self._stage = _Stage(stage, unit, time.monotonic(), done, done, total)
                self._say()
            else:
                known.done = done
                self._say_if_due()

    def __enter__(self) -> Self:
        self._stop.clear()
        threading.Thread(target=self._beat, name="gpuroi-heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()

    def _beat(self) -> None:
        while not self._stop.wait(self._every_s / 10):
            with self._lock:
                if not self._stop.is_set():
                    self._say_if_due()

    def _say_if_due(self) -> None:
        if time.monotonic() - self._last_line >= self._every_s:
            self._say()

    def _say(self) -> None:
        if self._stage is not None:
            self._log.info("%s", _in_words(self._stage))
            self._last_line = time.monotonic()


@contextmanager
def log_to_file(path: str | os.PathLike[str]) -> Iterator[None]:
    r"""Add what the package logs to a file as well, each line with its time.

    Parameters
    ----------
    path : path
        Lines are added at its end.

    Raises
    ------
    OutputError
        If the file cannot be opened.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "gpuroi.log")
    ...     with log_to_file(file):
    ...         logging.getLogger("gpuroi").info("60 maps")
    ...     file.read_text().split(" ", 2)[2]
    'INFO 60 maps\n'
    """
    from pathlib import Path

    with as_output_error(Path(path)):
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    with log_to(handler):
        yield


@contextmanager
def log_to(handler: logging.Handler) -> Iterator[None]:
    """Let a handler have what the package logs, and close it at the end."""
    level = _log.level
    _log.addHandler(handler)
    if not _log.isEnabledFor(logging.INFO):
        _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.setLevel(level)
        _log.removeHandler(handler)
        handler.close()


class _LogFile(logging.FileHandler):
    """A log on a disk that may fill up: what follows is not in it, which is said once, and the run goes on."""

    _is_lost = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._is_lost:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name is logging's)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self._is_lost = True
        _log.warning("%s: cannot be written any more: %s; the run goes on without", self.baseFilename, error.strerror)

    def close(self) -> None:
        with suppress(OSError):  # what could not be written before cannot be now
            super().close()


def duration_in_words(seconds: float) -> str:
    """Return a time as people say it.

    Examples
    --------
    >>> [duration_in_words(s) for s in (0.2, 40, 200, 5000, 200_000)]
    ['1 s', '40 s', '3 min 20 s', '1 h 23 min', '2 d 7 h']
    """
    whole = max(1, math.ceil(seconds))
    for large, small, per, size in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= per:
            rest = round(whole % per // size)
            return f"{whole // per} {large} {rest} {small}" if rest else f"{whole // per} {large}"
    return f"{whole} s"


def _in_words(stage: _Stage) -> str:
    share = f", {100 * stage.done // stage.total} %" if stage.total and stage.done else ""
    new, seconds = stage.done - stage.first, time.monotonic() - stage.began
    left = f", {duration_in_words(seconds * (stage.total - stage.done) / new)} left" if new > 0 else ""
    return f"{stage.name}: {stage.done} of {stage.total} {stage.unit}{share}{left}"
