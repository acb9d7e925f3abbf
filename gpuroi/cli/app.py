"""The commands, put together, and `main`, which runs one."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gpuroi import __version__
from gpuroi.cli.errors import asked_to_debug, report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cyclopts import App

__all__ = ["build_app", "main"]

_HELP = "Regions of interest in brain images: found, tested and measured, on the GPU where there is one."
_AGAIN_S = 0.05  # until an interrupt that was dropped comes again
_EPILOGUE = (
    "--debug (or GPUROI_DEBUG=1) shows the traceback of an error. GPUROI_DEVICE sets the device, GPUROI_NUM_THREADS "
    "the threads of the CPU. Exit codes: 0 done, 2 usage, 65 bad data, 69 device unavailable, 70 internal error, "
    "73 cannot write, 75 interrupted."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        Exit code: 0 done, 2 usage, 65 bad data, 69 device unavailable, 70 internal, 73 cannot write, 75 interrupted.

    Examples
    --------
    >>> main(["--version"])
    0.1...
    0
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug, words = asked_to_debug(words)
    try:
        with _terminated_as_interrupted(), _log_to_stderr():
            code = build_app()(words, print_error=False, exit_on_error=False)
            sys.stdout.flush()  # here, not at exit: a closed pipe is an error that `report` knows
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        return report(error, debug=debug)
    return code if isinstance(code, int) else 0


def build_app() -> App:
    """Return the application with all its commands.

    Returns
    -------
    cyclopts.App
    """
    from cyclopts import App, Group, Parameter

    from gpuroi.cli import check, clusters, demo, extract, info, pack, parcellate, parcels, roi, screen, volumes
    from gpuroi.cli import report as reports
    from gpuroi.cli.config_file import options_from_file

    app = App(
        name="gpuroi",
        help=_HELP,
        help_epilogue=_EPILOGUE,
        help_format="plaintext",  # stars and underscores in file names are no markup
        version=__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,  # 75 is ours to return
        default_parameter=Parameter(negative=()),  # no --no-x unless a flag says so
        config=options_from_file,
    )
    groups: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("Start here", (info.info, demo.demo)),
        ("From images to regions", (roi.roi, roi.regions, clusters.clusters, extract.extract)),
        ("Cohorts", (check.check, screen.screen, pack.pack)),
        ("Parcels", (parcels.threshold_parcels, parcellate.parcellate)),
        ("Results", (reports.report,)),
        ("One step", (volumes.threshold, volumes.smooth, volumes.ttest, volumes.dilate, volumes.label)),
    )
    for order, (title, commands) in enumerate(groups):
        group = Group(title, sort_key=order)
        for position, command in enumerate(commands):
            app.command(command, group=group, sort_key=position)
    return app


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C, so that temporary files are removed on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def dropped(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):  # amid a finaliser, where Python drops what is raised
            again.append(threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM)))
            again[-1].start()
        else:
            hook(unraisable)

    again: list[threading.Timer] = []
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        for timer in again:
            timer.cancel()
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Show what the package logs while a command runs."""
    log = logging.getLogger("gpuroi")
    handler, level = logging.StreamHandler(sys.stderr), log.level
    handler.setFormatter(logging.Formatter("gpuroi: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
