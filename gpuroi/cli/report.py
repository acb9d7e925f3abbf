"""`gpuroi report`: the report of saved results, made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gpuroi.cli.summary import show

__all__ = ["report"]


def report(folder: Path, /, *, figures: Annotated[bool, Parameter(negative="--no-figures")] = True) -> int:
    """Make the report of saved results anew: report.html and its figures.

    gpuroi report out/

    Parameters
    ----------
    folder
        As screen, roi, regions, clusters, parcellate or threshold-parcels has written it.
    figures
        Draw figures, for the report too.

    Returns
    -------
    int
        Exit code.
    """
    from gpuroi.workflows.make_report import make_report

    page = make_report(folder, figures=figures)
    size = f"{page.stat().st_size / 1e6:.1f} MB, one file that needs no network"
    show([("report", str(page)), ("size", size)])
    return 0
