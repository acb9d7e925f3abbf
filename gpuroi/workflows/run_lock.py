"""One process at a time on one folder: who holds it, whether that process lives, and how it is taken over."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from gpuroi.errors import OutputError
from gpuroi.images.write import as_output_error

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: what is written in the file decides alone
    fcntl = None

__all__ = ["RunLock"]

_log = logging.getLogger("gpuroi")
_BEAT_S = 5.0
_WATCH_S = 20.0  # four beats: a process elsewhere that gives none in this time is taken for dead


class RunLock:
    """A file that one process holds for as long as it lives.

    Parameters
    ----------
    path : Path
        The file. It is made, and stays; `release` empties it.
    beat_s, watch_s : float
        Seconds between signs of life, and for how long a process that cannot be looked up is watched for one.

    Notes
    -----
    The system's own lock on the file decides first: it ends with the process, whatever becomes of its number. File
    systems that have none, or one for each machine, leave what the file says: machine, number and start of the
    process. A process of this machine is looked up, by number and start; one of another machine is watched: while it
    lives, the time stamp of the file changes. That no two clocks are compared makes the answer right with any clock.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lock = RunLock(Path(folder, "lock"))
    ...     lock.acquire()
    ...     held = json.loads(Path(folder, "lock").read_text())["pid"]
    ...     lock.release()
    >>> held == os.getpid()
    True
    """

    def __init__(self, path: Path, *, beat_s: float = _BEAT_S, watch_s: float = _WATCH_S) -> None:
        self.path = path
        self._beat_s, self._watch_s = beat_s, watch_s
        self._file: int | None = None
        self._stop = threading.Event()
        self._written = b""

    def acquire(self) -> None:
        """Hold the file.

        Raises
        ------
        OutputError
            If a living process holds it, named by number and machine; or if the file cannot be written.
        """
        with as_output_error(self.path):
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if not _locked(file) or self._is_alive(_holder(file), file):
                    raise _held(self.path, _holder(file))
                self._written = json.dumps(_this_process()).encode()
                os.ftruncate(file, 0)
                os.pwrite(file, self._written, 0)
                os.fsync(file)
            except BaseException:
                os.close(file)
                raise
        self._file = file
        self.check()  # whoever held it before may have removed it meanwhile
        self._stop.clear()
        threading.Thread(target=self._beat, args=(self._stop,), name="gpuroi-lock", daemon=True).start()

    def check(self) -> None:
        """Raise `OutputError` if somebody else has taken the file over, or removed it."""
        if not self.is_ours():
            raise OutputError(
                f"{self.path.parent}: no longer belongs to this run: another process took it over, or removed it",
                "let one process work on one folder",
            )

    def is_ours(self) -> bool:
        """Is the file there, with what this process wrote?"""
        try:
            return self._file is not None and self.path.read_bytes() == self._written
        except OSError:
            return False

    def release(self) -> None:
        """Let go; does nothing if the file is not held."""
        if self._file is None:
            return
        self._stop.set()
        try:
            if os.pread(self._file, len(self._written) + 1, 0) == self._written:
                os.ftruncate(self._file, 0)
        except OSError:
            pass  # the end of the process says the same
        os.close(self._file)
        self._file = None

    def _beat(self, stop: threading.Event) -> None:
        file = self._file
        while file is not None and not stop.wait(self._beat_s):
            try:
                os.utime(self.path)
            except OSError:
                return  # `check` says what happened

    def _is_alive(self, holder: dict[str, Any], file: int) -> bool:
        """Does the process that wrote the file still run?"""
        if not holder and os.fstat(file).st_size == 0:
            return False  # new, or let go
        here = _this_process()
        if holder.get("machine") == here["machine"] and holder.get("started") and here["started"]:
            return bool(_start_of(int(holder["pid"])) == holder["started"])
        who = f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown machine')}"
        _log.info("%s: was left by %s; watching for %g s whether it lives", self.path.parent, who, self._watch_s)
        before = _stamp(self.path)
        end = time.monotonic() + self._watch_s
        while time.monotonic() < end:
            time.sleep(min(0.5, self._watch_s))
            if _stamp(self.path) != before:
                return True
        return False


def _locked(file: int) -> bool:
    """Take the system's lock, where there is one. False: another process has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # others: this disk has no locks
    return True


def _holder(file: int) -> dict[str, Any]:
    """What the holder wrote of itself; empty where that is not to be read."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
        return found if isinstance(found, dict) and isinstance(found.get("pid"), int) else {}
    except ValueError:
        return {}


def _held(path: Path, holder: dict[str, Any]) -> OutputError:
    who = f"process {holder['pid']} on {holder.get('host', '?')}" if holder else "another process"
    return OutputError(
        f"{path.parent}: {who} is at work on this run" + (f" since {holder['since']}" if "since" in holder else ""),
        "wait for it or end it, or choose another --out",
    )


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "machine": _machine(),
        "started": _start_of(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _machine() -> str:
    """Where process numbers mean the same: one boot of one machine, and one container if numbers are its own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()}"


def _start_of(pid: int) -> str:
    """When a process began, in ticks since the boot, which no setting of a clock changes; "" if it is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *rest = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return "" if state in "ZX" else rest[18]


def _stamp(path: Path) -> int:
    """Time stamp of a file, opened first: network file systems then ask the server."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns
