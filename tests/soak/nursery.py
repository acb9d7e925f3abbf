"""Commands in forked children of a process that has imported and compiled everything: faults hit the work itself.

The process is asked by lines of JSON, and answers with them. A child notes what it is at: each stage of the work, each
file that it opens for writing. There it can be killed, held, or find the disk full.
"""

from __future__ import annotations

import faulthandler
import json
import locale
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

__all__ = ["Ended", "Nursery", "plain_name"]

_ROOT = Path(__file__).resolve().parents[2]
_EVERY_S = 0.02  # between states: a short run then has some to go on from
_MOST_SECONDS = 60  # of a child: then it says where it hangs


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes
    ----------
    code : int
        Exit code; negative for the signal that killed it.
    said : str
        On stdout and stderr.
    stages : list of (str, float)
        What it was at, and when that began (s).
    files : list of str
        What it opened for writing, in this order: names relative to the folder of its results.
    """

    code: int
    said: str
    stages: list[tuple[str, float]]
    files: list[str]

    @property
    def stage(self) -> str:
        """What it was at when it ended."""
        return self.stages[-1][0] if self.stages else "start"

    @property
    def durations(self) -> dict[str, float]:
        """Seconds of each stage, of one that comes again those of the last time."""
        ends = [began for _, began in self.stages[1:]]
        return {name: end - began for (name, began), end in zip(self.stages, ends, strict=False)}


class Nursery:
    """The process that forks; a context manager.

    Parameters
    ----------
    warm : list of str
        A command that is run once, so that all is imported and compiled.

    Notes
    -----
    Kernels run in one thread: a fork has none of the threads of its parent.
    """

    def __init__(self, warm: list[str]) -> None:
        env = {**os.environ, "GPUROI_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)}
        env["MALLOC_MMAP_THRESHOLD_"] = "65536"  # arrays are given back to the system: a limit is felt when it is set
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.nursery"],
            cwd=_ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        answer = self._ask({"warm": warm})
        if answer != {"code": 0}:
            self.__exit__()
            raise RuntimeError(f"without a fault: {answer}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_MOST_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def start(self, words: list[str], **fault: Any) -> int:
        """Start a command; return the number of its process.

        Parameters
        ----------
        words : list of str
        kill : dict
            `stage`, seconds `after` it began, and `signal`.
        hold : dict
            `stage` at which to wait `until` this file is there; `held`: the file that says that it waits.
        full : dict
            `file` whose opening leaves room for so many `bytes` in every file from there on.
        memory : dict
            `bytes` of address space beyond what the process has when a `stage` begins.
        device_memory : int
            Of a stand-in for a CUDA device.
        on_disk : bool
            Maps and residuals lie in files, whatever the memory would hold.
        user : int
            Who runs the command.
        """
        return int(self._ask({"words": words, **fault})["pid"])

    def wait(self, pid: int) -> Ended:
        """Return how a process ended."""
        answer = self._ask({"wait": pid})
        notes = [line.split(" ", 2) for line in answer["notes"].splitlines()]
        return Ended(
            answer["code"],
            answer["said"],
            [(name, float(when)) for when, kind, name in notes if kind == "stage"],
            [name for _, kind, name in notes if kind == "file"],
        )

    def run(self, words: list[str], **fault: Any) -> Ended:
        """Run a command to its end."""
        return self.wait(self.start(words, **fault))

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the nursery is dead: {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer


def plain_name(path: str, folder: str) -> str:
    """Return a name relative to a folder, as it will be when the file is in its place."""
    return re.sub(
        r"\.partial-[0-9a-f]{8}-|(?<=gpuroi)-[^/]{8}(?=/)|(?<=gpuroi-maps)-[^/]{8}(?=/)",
        "",
        os.path.relpath(path, folder),
    )


# ------------------------------------------------------------------ in the process


def _serve() -> None:
    from gpuroi.workflows.run_folder import RunFolder

    options = RunFolder.__init__.__kwdefaults__
    assert options is not None
    options["every_s"] = _EVERY_S
    answers = os.dup(1)
    os.dup2(2, 1)
    pipes: dict[int, tuple[int, int]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "warm" in request:
            from gpuroi.cli import main

            answer: dict[str, Any] = {"code": main(request["warm"])}
        elif "wait" in request:
            answer = _end_of(request["wait"], *pipes.pop(request["wait"]))
        else:
            pid, said, notes = _fork(request)
            pipes[pid] = (said, notes)
            answer = {"pid": pid}
        os.write(answers, (json.dumps(answer) + "\n").encode())


def _fork(request: dict[str, Any]) -> tuple[int, int, int]:
    said, notes = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.dup2(said[1], 1)
            os.dup2(said[1], 2)
            code = _child(request, notes[1])
        finally:
            os._exit(code)
    os.close(said[1])
    os.close(notes[1])
    return pid, said[0], notes[0]


def _end_of(pid: int, said: int, notes: int) -> dict[str, Any]:
    texts = []
    for pipe in (said, notes):  # to its end, which is that of the child; a pipe holds all that it notes meanwhile
        with os.fdopen(pipe, encoding="utf-8", errors="replace") as file:
            texts.append(file.read())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"code": code, "said": texts[0], "notes": texts[1]}


def _child(request: dict[str, Any], notes: int) -> int:
    from gpuroi.cli import main

    words: list[str] = request["words"]
    folder = str(Path(words[words.index("--out") + 1]).parent)
    _note_stages(request, notes)
    _note_files(request, notes, folder)
    faulthandler.dump_traceback_later(_MOST_SECONDS, exit=True, file=2)
    if request.get("on_disk"):
        from gpuroi.workflows import screen_plan

        screen_plan._WHERE = ((False, False),)
    if "user" in request:
        os.setuid(request["user"])
    if "device_memory" not in request:
        return main(words)
    from rig import standin
    from rig.standin_device import METER

    from gpuroi.backends import probe

    with standin.installed() as _:
        found = (probe.CudaDevice("stand-in", "9.0", 1 << 30, None),)
        probe.probe = lambda: probe.CudaStatus(usable=True, devices=found)  # type: ignore[assignment]
        METER.reset(request["device_memory"])
        return main([*words, "--device", "cuda"])


def _note_stages(request: dict[str, Any], notes: int) -> None:
    """Note every stage as it begins; be killed or held there."""
    from gpuroi.workflows.phenotype_result import PhenotypeScreenResult
    from gpuroi.workflows.run_folder import RunFolder
    from gpuroi.workflows.screen_result import ScreenResult
    from gpuroi.workflows.stopwatch import Stopwatch

    kill, hold, memory = request.get("kill"), request.get("hold"), request.get("memory")

    def begins(stage: str) -> None:
        os.write(notes, f"{time.monotonic():.6f} stage {stage}\n".encode())
        if kill is not None and kill["stage"] == stage:
            threading.Thread(target=_kill_soon, args=(kill,), daemon=True).start()
        if memory is not None and memory["stage"] == stage:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + memory["bytes"],) * 2)
        if hold is not None and hold["stage"] == stage:
            Path(hold["held"]).touch()
            while not Path(hold["until"]).exists():
                time.sleep(0.002)

    def announce(owner: Any, method: str, stage: str | None) -> None:
        whole = getattr(owner, method)

        def announced(self: Any, *given: Any, **more: Any) -> Any:
            begins(given[0] if stage is None else stage)
            return whole(self, *given, **more)

        setattr(owner, method, announced)

    announce(Stopwatch, "__call__", None)
    announce(ScreenResult, "save", "writing")
    announce(PhenotypeScreenResult, "save", "writing")
    announce(RunFolder, "finish", "tidying")
    begins("start")


def _kill_soon(kill: dict[str, Any]) -> None:
    time.sleep(kill["after"])
    os.kill(os.getpid(), getattr(signal, kill["signal"]))


def _note_files(request: dict[str, Any], notes: int, folder: str) -> None:
    """Note every file that is opened for writing below the folder; the disk is full from one of them on."""
    full = request.get("full")

    def opened(event: str, given: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(given[0], str | os.PathLike) or not given[2] & (os.O_WRONLY | os.O_RDWR):
            return
        path = os.fspath(given[0])
        if not isinstance(path, str) or not path.startswith(folder):
            return
        name = plain_name(path, folder)
        os.write(notes, f"{time.monotonic():.6f} file {name}\n".encode())
        if full is not None and full["file"] == name:
            resource.setrlimit(resource.RLIMIT_FSIZE, (full["bytes"], resource.RLIM_INFINITY))

    sys.addaudithook(opened)


if __name__ == "__main__":
    sys.path.insert(0, str(_ROOT / "tests"))
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    _serve()
