"""Permutation states on disk: whole or not there, checked when they are read, the last two kept."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpuroi.errors import DataError
from gpuroi.images.write import as_output_error

if TYPE_CHECKING:
    from gpuroi.inference.result import PermutationState

__all__ = ["StateFiles"]

_log = logging.getLogger("gpuroi")
_HEAD = b"gpuroi state 1\n"
_DIGEST = 65  # hexadecimal SHA-256 and a line end


class StateFiles:
    """The states of one run, two files for each name: the newest, and the one before it.

    Parameters
    ----------
    folder : Path
        Made when the first state is written.

    Examples
    --------
    >>> import tempfile
    >>> from gpuroi.inference.result import PermutationState
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = StateFiles(Path(folder))
    ...     files.write("age", PermutationState(64, np.arange(3), {"max_stat": np.ones(100)}, "key"))
    ...     files.read("age").done, files.read("sex")
    (64, None)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._next: dict[str, int] = {}  # which of the two files is the older one

    def write(self, name: str, state: PermutationState) -> None:
        """Put a state in the place of the older of the two that are there.

        Raises
        ------
        OutputError
            If it cannot be written. Both states that were there still are.
        """
        if name not in self._next:
            self.read(name)
        content = io.BytesIO()
        null = {f"null/{key}": values for key, values in state.null.items()}
        words = {"name": np.array(name), "key": np.array(state.key), "done": np.array(state.done)}
        np.savez(content, allow_pickle=False, **words, counts=state.counts, **null)
        target = self._path(name, self._next[name])
        staged = target.with_suffix(".partial")
        payload = content.getbuffer()
        with as_output_error(target):
            self.folder.mkdir(exist_ok=True)
            try:
                with staged.open("wb") as file:
                    file.write(_HEAD + hashlib.sha256(payload).hexdigest().encode() + b"\n")
                    file.write(payload)
                    file.flush()
                    os.fsync(file.fileno())
                staged.replace(target)
            except BaseException:
                staged.unlink(missing_ok=True)
                raise
            sync_folder(self.folder)
        self._next[name] = 1 - self._next[name]

    def read(self, name: str) -> PermutationState | None:
        """Return the newest state that is whole, None if there is none; a damaged one is said in the log."""
        found: list[tuple[int, int, PermutationState]] = []
        for slot in (0, 1):
            path = self._path(name, slot)
            try:
                state = _read(path, name)
            except FileNotFoundError:
                continue
            except (DataError, OSError) as error:
                _log.warning("%s: %s; it is not used", path, getattr(error, "message", error))
                continue
            found.append((state.done, slot, state))
        if not found:
            self._next[name] = 0
            return None
        _, slot, state = max(found, key=lambda one: one[0])
        self._next[name] = 1 - slot
        return state

    def forget(self, name: str) -> None:
        """Remove the states of this name."""
        for slot in (0, 1):
            self._path(name, slot).unlink(missing_ok=True)

    def any(self) -> bool:
        """Is there any state?"""
        return self.folder.is_dir() and any(path.suffix == ".state" for path in self.folder.iterdir())

    def _path(self, name: str, slot: int) -> Path:
        plain = re.sub(r"[^A-Za-z0-9]+", "-", name)[:40]
        return self.folder / f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:12]}.{slot}.state"


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    except OSError:
        pass  # some network disks have no such call; the names are there
    finally:
        os.close(opened)


def _read(path: Path, name: str) -> PermutationState:
    """Read one file; `DataError` where a byte differs from what was written."""
    from gpuroi.inference.result import PermutationState

    content = path.read_bytes()
    head, rest = content[: len(_HEAD)], content[len(_HEAD) :]
    digest, payload = rest[:_DIGEST].strip().decode("ascii", "replace"), rest[_DIGEST:]
    if head != _HEAD or hashlib.sha256(payload).hexdigest() != digest:
        raise DataError(f"is damaged or cut short: {len(content)} bytes that do not have their checksum")
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in arrays.files}
        null = {key.removeprefix("null/"): values for key, values in found.items() if key.startswith("null/")}
        state = PermutationState(int(found["done"]), found["counts"], null, str(found["key"]))
        owner = str(found["name"])
    except Exception as error:  # the checksum is right: somebody else's work, which fails in its own way
        raise DataError(f"is no state: {error}") from error
    if owner != name:
        raise DataError(f'holds the state of "{owner}"')
    return state
