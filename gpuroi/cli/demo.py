"""`gpuroi demo`: data to try the other commands on."""

from __future__ import annotations

from pathlib import Path

from gpuroi.cli.summary import show

__all__ = ["demo"]


def demo(folder: Path, /, *, n_subjects: int = 20, seed: int = 0, overwrite: bool = False) -> int:
    """Write a small, generated data set, with the commands to try on it.

    Parameters
    ----------
    folder
        Where to write it.
    n_subjects
        Number of subjects in the cohort.
    seed
        Equal seeds give equal files.
    overwrite
        Replace files that stand there already.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.demo_data import demo as write_demo

    written = write_demo(folder, n_subjects=n_subjects, seed=seed, overwrite=overwrite)
    show([("folder", str(folder)), ("written", f"{len(written)} files")])
    return 0
