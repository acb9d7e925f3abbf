"""Run many inputs of one target, and count what became of them."""

from __future__ import annotations

import os
import shutil
import tempfile
import tracemalloc
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .judge import Target, arm_trap, input_of, judge

__all__ = ["Tally", "run"]

_WARM_UP = 12  # inputs that are not counted: the first ones import modules
_SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None


@dataclass
class Tally:
    """Inputs of one target, counted."""

    target: str
    outcomes: dict[str, int] = field(default_factory=dict)
    stricter: dict[str, int] = field(default_factory=dict)
    longest_s: float = 0.0
    longest_input: int = -1
    largest_bytes: int = 0
    largest_input: int = -1
    faults: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: dict[str, Any]) -> None:
        """Add what another process has counted."""
        self.outcomes = dict(Counter(self.outcomes) + Counter(other["outcomes"]))
        self.stricter = dict(Counter(self.stricter) + Counter(other["stricter"]))
        if other["longest_s"] > self.longest_s:
            self.longest_s, self.longest_input = other["longest_s"], other["longest_input"]
        if other["largest_bytes"] > self.largest_bytes:
            self.largest_bytes, self.largest_input = other["largest_bytes"], other["largest_input"]
        self.faults += other["faults"]

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def run(target: Target, seed: int, numbers: range, *, progress: Path | None = None) -> Tally:
    """Judge inputs of a target.

    Parameters
    ----------
    target : Target
    seed : int
    numbers : range
        Which of them.
    progress : Path, optional
        Holds the number of the input at work, for whoever finds this process dead.
    """
    tally, outcomes, stricter = Tally(target.name), Counter[str](), Counter[str]()
    arm_trap()
    file = os.open(progress, os.O_WRONLY | os.O_CREAT) if progress is not None else -1
    root = Path(tempfile.mkdtemp(dir=_SCRATCH, prefix="fuzz-"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # nibabel leaves files of images that it refuses to the collector
        tracemalloc.start()
        try:
            for number in range(_WARM_UP):
                judge(input_of(target, -1, number, _emptied(root)))
            for number in numbers:
                if file >= 0:
                    os.pwrite(file, f"{number:20d}".encode(), 0)
                verdict = judge(input_of(target, seed, number, _emptied(root)))
                outcomes[verdict.outcome] += 1
                stricter[verdict.detail] += verdict.outcome == "stricter"
                if verdict.is_fault:
                    tally.faults.append(
                        {"input": number, "outcome": verdict.outcome, "detail": verdict.detail.replace(str(root), "")}
                    )
                if verdict.seconds > tally.longest_s:
                    tally.longest_s, tally.longest_input = verdict.seconds, number
                if verdict.peak_bytes > tally.largest_bytes:
                    tally.largest_bytes, tally.largest_input = verdict.peak_bytes, number
        finally:
            tracemalloc.stop()
            shutil.rmtree(root, ignore_errors=True)
            if file >= 0:
                os.close(file)
    tally.outcomes = dict(outcomes)
    tally.stricter = {detail: times for detail, times in stricter.most_common(25) if times}
    tally.longest_s = round(tally.longest_s, 6)
    return tally


def _emptied(root: Path) -> Path:
    """Return an empty folder; one folder for all inputs, so that names are as long for each."""
    folder = root / "x"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
