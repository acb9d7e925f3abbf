"""What a long run keeps while it is unfinished, so that it goes on after whatever stops it."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gpuroi.errors import OutputError
from gpuroi.images.write import as_output_error, json_text, write_json
from gpuroi.workflows.output import check_output
from gpuroi.workflows.run_lock import RunLock
from gpuroi.workflows.state_files import StateFiles, sync_folder

if TYPE_CHECKING:
    from types import TracebackType

    from gpuroi.inference.result import PermutationState

__all__ = ["RunFolder"]

_log = logging.getLogger("gpuroi")
_MOST_DIFFERENCES = 6
_MOST_UNWRITTEN = 4  # states in memory: of a map of 235 000 elements one takes 2 MB


class RunFolder:
    """The unfinished part of a run, in a hidden folder beside its results; a context manager.

    Parameters
    ----------
    out : path
        Where the results are to go. The folder is `.NAME.gpuroi-run` beside it.
    settings : dict
        All that the results depend on, as JSON knows it; paths and NumPy numbers are made so. What only decides how
        fast or in how much memory it is computed does not belong here: it may differ when the run goes on.
    overwrite : bool, default False
        Replace results that are there, and begin anew where an unfinished run has other settings.
    every_s : float, default 60
        A state is written at most this often.
    scratch : path, optional
        A folder on another disk for what does not fit into memory; by default it lies in the folder itself.

    Attributes
    ----------
    path : Path
        The folder.
    resumed : bool
        There are states of an earlier run with the same settings.
    finished : bool
        `out` holds the results of this very run: it was stopped after they were written, before it had tidied up.
        There is nothing left to do but `finish`.

    Raises
    ------
    OutputError
        On entering: `out` holds results; an unfinished run has other settings, which are named; another process is at
        work on it; the folder cannot be written.

    Notes
    -----
    Left by an error or an interrupt, the newest states are written, and the folder stays if it holds any; after an
    interrupt a `KeyboardInterrupt` says so. Left in peace without `finish` it stays too.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from gpuroi.inference import PermutationState
    >>> half = PermutationState(64, np.arange(3), {"max_stat": np.ones(128)}, "key")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with RunFolder(Path(folder, "out"), {"seed": 1}) as run:
    ...         run.checkpoint("age")(half)
    ...     with RunFolder(Path(folder, "out"), {"seed": 1}) as again:
    ...         again.resumed, again.state("age").done
    (True, 64)
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        every_s: float = 60.0,
        scratch: str | os.PathLike[str] | None = None,
    ) -> None:
        from gpuroi import __version__

        self.out = Path(out).expanduser().resolve()
        self.path = self.out.with_name(f".{self.out.name}.gpuroi-run")
        self.resumed = self.finished = False
        self._settings = _as_json({**settings, "gpuroi": __version__})
        self._overwrite, self._every_s = overwrite, every_s
        elsewhere = None if scratch is None else Path(scratch).expanduser().resolve()
        self._scratch = self.path / "scratch" if elsewhere is None else elsewhere / f"{self.path.name}-scratch"
        self._lock = RunLock(self.path / "lock")
        self._states = StateFiles(self.path / "states")
        self._unwritten: dict[str, PermutationState] = {}
        self._progress: dict[str, tuple[int, int]] = {}  # permutations done, and in all
        self._last_write = time.monotonic()
        self._tidied = False

    def __enter__(self) -> Self:
        with as_output_error(self.path):
            if not self.path.exists():
                self._refuse_results()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(exist_ok=True)
            self._lock.acquire()
            try:
                self._sweep()
                self._settle()
            except BaseException:
                if not (self.path / "settings.json").exists() and not self._states.any():
                    self._remove()
                self._lock.release()
                raise
        self._last_write = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tidied:
            return
        try:
            self._flush_at_the_end(error)
            if self._lock.is_ours():
                shutil.rmtree(self._scratch, ignore_errors=True)
                if error is not None and not self._states.any():
                    self._remove()
        finally:
            self._lock.release()
        if isinstance(error, KeyboardInterrupt) and self._states.any():
            raise KeyboardInterrupt(self._kept_in_words()) from error

    @property
    def scratch(self) -> Path:
        """A folder for temporary files, which is emptied when a run begins and gone when it ends."""
        with as_output_error(self._scratch):
            self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch

    @property
    def log_path(self) -> Path:
        """Where the lines of the log are kept, of all attempts at this run."""
        return self.path / "log"

    def state(self, name: str) -> PermutationState | None:
        """Return how far `name` had come, None where nothing (or nothing whole) is kept of it."""
        state = self._unwritten.get(name) or self._states.read(name)
        if state is not None:
            self._note(name, state)
        return state

    def checkpoint(self, name: str) -> Callable[[PermutationState], None]:
        """Return what keeps the states of `name`: the newest in memory, and on disk at most every `every_s` seconds."""

        def keep(state: PermutationState) -> None:
            self._unwritten[name] = state
            self._note(name, state)
            is_due = time.monotonic() - self._last_write >= self._every_s
            if is_due or len(self._unwritten) > _MOST_UNWRITTEN:
                self.flush()

        return keep

    def flush(self) -> None:
        """Write the newest states now.

        Raises
        ------
        OutputError
            If they cannot be written, or another process has taken the folder over.
        """
        if self._unwritten:
            self._lock.check()
        for name, state in list(self._unwritten.items()):
            self._states.write(name, state)
            if self._unwritten.get(name) is state:
                del self._unwritten[name]
        self._last_write = time.monotonic()

    def forget(self, name: str) -> None:
        """Remove what is kept of `name`: the data have changed since."""
        self._unwritten.pop(name, None)
        self._progress.pop(name, None)
        self._states.forget(name)

    def finish(self) -> None:
        """Remove the folder: the results are in place."""
        self._unwritten.clear()
        if self._lock.is_ours():
            self._remove()
        self._lock.release()
        self._tidied = True

    # ------------------------------------------------------------------ entering

    def _sweep(self) -> None:
        """Clear away what a kill has left beside the results: nobody else writes them while the lock is held."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        left = re.compile(rf"\.(partial|old)-[0-9a-f]{{8}}-{re.escape(self.out.name)}")
        for path in self.out.parent.iterdir():
            found = left.fullmatch(path.name)
            if found and found[1] == "old" and not self.out.exists():
                path.rename(self.out)  # killed between two renames: these are the results that were to be replaced
            elif found:
                shutil.rmtree(path, ignore_errors=True)

    def _settle(self) -> None:
        """Go on from what is there, begin anew, or refuse."""
        file = self.path / "settings.json"
        before = _read_record(file)
        if before is None:
            if file.exists() or self._states.any():
                _log.warning("%s: its settings cannot be read; the run begins anew", self.path)
            self._refuse_results()
            self._begin(file)
            return
        differing = _differences(before["settings"], self._settings)
        if differing:
            if not self._overwrite:
                raise OutputError(
                    f"{self.path}: an unfinished run has other settings: {_listed(differing)}",
                    "give the same settings to go on, --overwrite to begin anew, or another --out",
                )
            _log.warning("%s: an unfinished run with other settings is given up: %s", self.path, _listed(differing))
            self._begin(file)
            return
        self.finished = _identity(self.out) not in (None, before["replaces"])
        if not self.finished:
            self._refuse_results()
        self.resumed = self._states.any()

    def _begin(self, file: Path) -> None:
        """Write the settings of a new run; states of another go first."""
        shutil.rmtree(self._states.folder, ignore_errors=True)
        self.log_path.unlink(missing_ok=True)
        write_json(file, {"settings": self._settings, "replaces": _identity(self.out)}, overwrite=True)
        with as_output_error(self.path):
            sync_folder(self.path)

    def _refuse_results(self) -> None:
        """Refuse a folder of results that is not to be replaced; say what its settings were, if they differ."""
        try:
            check_output(self.out, overwrite=self._overwrite)
        except OutputError as error:
            record = None if self._overwrite else _read_record(self.out / "provenance.json")
            differing = [] if record is None else _differences(record["settings"], self._settings, shared_only=True)
            if differing:
                message = f"{self.out}: holds results with other settings: {_listed(differing)}"
                raise OutputError(message, error.hint) from error
            if record is not None and record["settings"].keys() == self._settings.keys() - {"gpuroi"}:
                message = f"{self.out}: holds results with these very settings already"
                raise OutputError(message, "look at them, or compute them anew with --overwrite") from error
            raise

    # ------------------------------------------------------------------ leaving

    def _flush_at_the_end(self, error: BaseException | None) -> None:
        try:
            self.flush()
        except OutputError as failed:
            if error is None:
                raise
            _log.warning("the newest state could not be kept: %s", failed.message)

    def _note(self, name: str, state: PermutationState) -> None:
        self._progress[name] = (state.done, max((len(null) for null in state.null.values()), default=state.done))

    def _kept_in_words(self) -> str:
        told = [f"{done} of {n} permutations of {name}" for name, (done, n) in self._progress.items()]
        what = "; ".join(told[-3:]) or "its states"
        return f"interrupted: {what} are kept in {self.path}; the same command goes on from there"

    def _remove(self) -> None:
        """Remove the folder, the settings last: what a kill leaves is known as this run."""
        for part in (self._scratch, self._states.folder):
            shutil.rmtree(part, ignore_errors=True)
        self.log_path.unlink(missing_ok=True)
        (self.path / "settings.json").unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a JSON file."""
    found: dict[str, Any] = json.loads(json_text(settings))
    return found


def _read_record(file: Path) -> dict[str, Any] | None:
    """Read a JSON file with settings; None where there is none, or none that can be read."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_whole = isinstance(record, dict) and isinstance(record.get("settings"), dict)
    return {"replaces": None, **record} if is_whole else None


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], *, shared_only: bool = False) -> list[str]:
    """Name what differs, in words: "seed is 2, was 1"."""
    a, b = _flat(before), _flat(now)
    names = sorted(a.keys() & b.keys() if shared_only else a.keys() | b.keys())
    return [
        f"{name} is {b.get(name, 'not given')}, was {a.get(name, 'not given')}"
        for name in names
        if a.get(name) != b.get(name)
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one level: "glm.seed"; values as JSON."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return found


def _listed(differing: list[str]) -> str:
    more = len(differing) - _MOST_DIFFERENCES
    return "; ".join(differing[:_MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _identity(out: Path) -> list[int] | None:
    """Tell one folder of results from the next in its place; None where there is none."""
    try:
        found = (out / "provenance.json").stat()
    except OSError:
        return None
    return [found.st_ino, found.st_mtime_ns, found.st_size]
