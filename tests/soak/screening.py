"""The screening that everything happens to: made-up people, one command, and the results of a run without faults."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import nibabel as nib
import numpy as np

from gpuroi.demo_data import demo

from .nursery import Ended, Nursery

__all__ = ["Bench", "bench", "content", "make_cohort"]

_PASSING = ("logs/", "figures/", "provenance.json", "report.html")  # tell of the moment, the machine, or are drawn


def make_cohort(folder: Path, n_subjects: int = 12) -> Path:
    """Write a cohort and a mask of four slices: a screening of it spends most of its time on what it computes."""
    demo(folder, n_subjects=n_subjects)
    mask = nib.load(folder / "mask.nii.gz")
    some = np.asarray(mask.dataobj)
    some[..., :14] = some[..., 18:] = 0
    nib.save(nib.Nifti1Image(some, mask.affine), folder / "slices.nii.gz")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Return the files whose bytes depend on inputs and settings alone; all of a folder that holds no results."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(_PASSING)}


@dataclass
class Bench:
    """A cohort, a process to run commands in, and a folder in which each fault finds an empty place.

    Attributes
    ----------
    folder : Path
    cohort : Path
    nursery : Nursery
    random : Random
    """

    folder: Path
    cohort: Path
    nursery: Nursery
    random: Random
    _n: int = 0

    def place(self) -> Path:
        """Return the name of a folder of results; nothing is beside it."""
        self._n += 1
        home = self.folder / f"place-{self._n}"
        home.mkdir()
        return home / "out"

    def words(self, out: Path, *more: str, cohort: Path | None = None) -> list[str]:
        """Return the command that screens into a folder."""
        chosen = [
            *([] if "--n-perm" in more else ["--n-perm", "300"]),
            *([] if "--figures" in more else ["--no-figures"]),
        ]
        return [*command(cohort or self.cohort), *chosen, *more, "--out", str(out)]

    def whole(self, *more: str, cohort: Path | None = None, **how: Any) -> tuple[dict[str, bytes], Ended]:
        """Run without a fault; return the results, and how it ended."""
        out = self.place()
        ended = self.nursery.run(self.words(out, *more, cohort=cohort), **how)
        assert ended.code == 0, ended.said
        found = content(out)
        self.clear(out)
        return found, ended

    def clear(self, out: Path) -> None:
        """Remove a place."""
        shutil.rmtree(out.parent)


def command(cohort: Path) -> list[str]:
    """Return the command without what differs from run to run."""
    formula = ["--formula", "map ~ group + age", "--contrast", "patient=group[T.patient]", "--contrast", "age"]
    table, mask = str(cohort / "participants.tsv"), str(cohort / "slices.nii.gz")
    return ["screen", table, *formula, "--mask", mask, "--cluster-threshold", "3"]


@contextmanager
def bench(folder: Path, seed: int = 0) -> Iterator[Bench]:
    """Make a cohort and the process."""
    cohort = make_cohort(folder / "cohort")
    (folder / "warm").mkdir()
    warm = [*command(cohort), "--n-perm", "100", "--no-figures", "--device", "cpu", "--tfce"]
    with Nursery([*warm, "--out", str(folder / "warm" / "out")]) as nursery:
        yield Bench(folder, cohort, nursery, Random(seed))


def provenance(out: Path) -> dict[str, Any]:
    """Return the record of a folder of results."""
    found: dict[str, Any] = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
    return found


def gpuroi_in_new_process(words: list[str]) -> list[str]:
    """Return the command line that runs a command in a process of its own."""
    return [sys.executable, "-m", "gpuroi", *words]
