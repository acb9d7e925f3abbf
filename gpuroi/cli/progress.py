"""Progress of a command: bars where somebody watches, lines in the log everywhere."""

from __future__ import annotations

import importlib.util
import logging
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from gpuroi.workflows.heartbeat import Heartbeat, log_to, log_to_file

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from gpuroi.workflows.heartbeat import Progress

__all__ = ["shown_progress"]

_log = logging.getLogger("gpuroi")


@contextmanager
def shown_progress(log_file: str | os.PathLike[str] | None = None, *, every_s: float = 60.0) -> Iterator[Progress]:
    """Show how far a run has come: bars on a terminal (stderr) or in a notebook, else a line a minute in the log.

    Parameters
    ----------
    log_file : path, optional
        Gets all lines of the log with their times, those of the heartbeat among them.
    every_s : float, default 60
        Seconds between the lines.

    Yields
    ------
    callable
        Takes the stage, what is done and how much there is: ``progress("patient", 1280, 5000)``; and, where these are
        no permutations, what they are.

    Raises
    ------
    OutputError
        If the log file cannot be written.

    Examples
    --------
    >>> with shown_progress() as progress:
    ...     progress("reading", 20, 60, "maps")
    """
    with ExitStack() as stack:
        bars = _bars()
        if bars is None and not _log.handlers:  # a Python session, in which nobody shows lines but warnings
            stack.enter_context(log_to(logging.StreamHandler()))
        if log_file is not None:
            stack.enter_context(log_to_file(log_file))
        if bars is None:
            yield stack.enter_context(Heartbeat(every_s=every_s))
            return
        quiet = None if log_file is None else stack.enter_context(Heartbeat(every_s=every_s, log=_file_only(stack)))
        stack.enter_context(bars)
        stack.enter_context(_lines_above(bars))
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int, unit: str = "permutations") -> None:
            if stage not in tasks:
                # What a run had before it was resumed tells nothing of its speed: the first number is the start.
                tasks[stage] = bars.add_task(stage, total=total, completed=done, unit=unit)
            bars.update(tasks[stage], completed=done, total=total, refresh=done >= total)
            if quiet is not None:
                quiet(stage, done, total, unit)

        yield progress


def _bars() -> Any:
    """Bars of rich, None where nobody watches."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter:
        if importlib.util.find_spec("ipywidgets") is None:
            return None  # rich warns and draws nothing
    elif not console.is_terminal or console.is_dumb_terminal:
        return None
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _file_only(stack: ExitStack) -> logging.Logger:
    """A log whose lines go to the files of the package's log, not to the screen, where the bars are."""
    log = logging.Logger("gpuroi.progress", logging.INFO)
    for handler in _log.handlers:
        if isinstance(handler, logging.FileHandler):
            log.addHandler(handler)
    stack.callback(log.handlers.clear)
    return log


@contextmanager
def _lines_above(bars: Any) -> Iterator[None]:
    """Let lines of the log that go to the screen go through the bars, which then draw themselves below."""
    shown = [
        handler
        for handler in _log.handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
    ]
    before = [handler.setStream(sys.stderr) for handler in shown]  # rich has put its own in place of sys.stderr
    try:
        yield
    finally:
        for handler, stream in zip(shown, before, strict=True):
            if stream is not None:
                handler.setStream(stream)
