"""Make the report of a folder of results anew, from what the folder holds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gpuroi.errors import DataError
from gpuroi.workflows.output import can_draw

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from gpuroi.report.page import Picture

__all__ = ["make_report"]

_WORKFLOWS = ("roi", "regions", "clusters", "screen", "parcellate", "threshold_parcels")


class _Maker(NamedTuple):
    """How a folder becomes pictures, and these a page."""

    pictures: Callable[[Path], list[Picture]]
    page: Callable[[Sequence[Picture]], str]


def make_report(folder: str | os.PathLike[str], *, figures: bool = True) -> Path:
    """Make `report.html` and the figures of a folder of results anew.

    Parameters
    ----------
    folder : path
        As `gpuroi screen`, `roi`, `regions`, `clusters`, `parcellate` or `threshold-parcels` has written it.
    figures : bool, default True
        Draw. Without matplotlib the page comes without pictures, which is said in the log; figures that are there stay.

    Returns
    -------
    Path
        The page. Page and figures are replaced together or, after an error, not at all; nothing else changes.

    Raises
    ------
    DataError
        If the folder holds no such results, or a file is missing or cannot be read.
    OutputError
        If the folder cannot be written.

    Notes
    -----
    Maps that were given and not saved are read from where they were, if they have not changed; without them their
    pictures are left out.

    Examples
    --------
    >>> import nibabel, numpy as np
    >>> from gpuroi.workflows.clusters import clusters
    >>> values = np.zeros((6, 6, 6), np.float32)
    >>> values[1:3, 1:3, 1:3] = 4.0
    >>> with tempfile.TemporaryDirectory() as home:
    ...     result = clusters(nibabel.Nifti1Image(values, np.eye(4)), threshold=3.0, device="cpu")
    ...     page = make_report(result.save(f"{home}/out"), figures=False)
    ...     print(page.name, page.is_file())
    report.html True
    """
    from gpuroi.images.write import as_output_error, put_in_place

    home = Path(folder).expanduser().resolve()
    maker = _maker(home)
    with as_output_error(home):
        staged = Path(tempfile.mkdtemp(prefix=".partial-report-", dir=home))
    try:
        drawn: list[Picture] = []
        if figures and not can_draw():
            (staged / "figures").mkdir()
            drawn = maker.pictures(staged / "figures")
        (staged / "report.html").write_text(maker.page(drawn), encoding="utf-8", errors="backslashreplace")
        with as_output_error(home):
            put_in_place([(new, home / new.name) for new in sorted(staged.iterdir())])
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return home / "report.html"


def _maker(folder: Path) -> _Maker:
    from gpuroi.report.saved_screen import read_json

    if not (folder / "provenance.json").is_file():
        raise DataError(f"{folder}: there is no provenance.json", "give a folder that gpuroi has written")
    workflow = read_json(folder / "provenance.json").get("workflow")
    if workflow not in _WORKFLOWS:
        raise DataError(
            f"{folder}: holds results of {workflow!r}, for which there is no report",
            f"reports are made of {', '.join(_WORKFLOWS)}",
        )
    if workflow == "screen" and (folder / "phenotypes.tsv").is_file():
        from gpuroi.report.phenotype_page import phenotype_page, phenotype_pictures

        return _Maker(lambda figures: phenotype_pictures(folder, figures), lambda drawn: phenotype_page(folder, drawn))
    if workflow == "screen":
        from gpuroi.report.screen_page import screen_page, screen_pictures

        return _Maker(lambda figures: screen_pictures(folder, figures), lambda drawn: screen_page(folder, drawn))
    return _of_result(folder, workflow)


def _of_result(folder: Path, workflow: str) -> _Maker:
    from gpuroi.report import clusters_page, page, parcel_page, parcellation_page, saved_results

    known: dict[str, tuple[Any, Any, Any]] = {
        "roi": (saved_results.SavedRoi, page.roi_pictures, page.roi_page),
        "regions": (saved_results.SavedRegions, page.regions_pictures, page.regions_page),
        "clusters": (saved_results.SavedClusters, clusters_page.clusters_pictures, clusters_page.clusters_page),
        "parcellate": (
            saved_results.SavedParcellation,
            parcellation_page.parcellation_pictures,
            parcellation_page.parcellation_page,
        ),
        "threshold_parcels": (saved_results.SavedParcels, parcel_page.parcels_pictures, parcel_page.parcels_page),
    }
    read, pictures, make_page = known[workflow]
    saved = read(folder)
    return _Maker(lambda figures: pictures(saved, figures), lambda drawn: make_page(saved, drawn))
