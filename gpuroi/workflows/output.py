"""Result folders: checked before the work, filled whole or not at all, described after it."""

from __future__ import annotations

import importlib.util
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuroi.workflows.provenance import dataset_description

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.images.read import Image

__all__ = ["atlas_image", "can_draw", "check_output", "described_columns", "result_folder"]

_log = logging.getLogger("gpuroi")
_NO_FIGURES = "figures are left out: matplotlib is not installed; pip install 'gpuroi[report]'"
_COLUMNS = {
    "id": ("Number in the label image", ""),
    "name": ("Name of the region", ""),
    "sign": ("1: positive, -1: negative, 0: neither", ""),
    "voxels": ("Number of voxels", ""),
    "mm3": ("Volume", "mm^3"),
    "peak_x": ("Voxel of the largest |value|, to the right, in the space of the image", "mm"),
    "peak_y": ("The same, to the front", "mm"),
    "peak_z": ("The same, up", "mm"),
    "peak_stat": ("Value at the peak, with its sign", ""),
    "peak_t": ("t at the peak, with its sign", ""),
    "center_x": ("Mean of the voxels, to the right, in the space of the image", "mm"),
    "center_y": ("The same, to the front", "mm"),
    "center_z": ("The same, up", "mm"),
}
_said: set[str] = set()  # that figures are left out is said once in a process


class _CheckedError(Exception):
    """Leaves a staged folder, so that nothing of it stays."""


def check_output(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise now what `save` would raise after the computation.

    Parameters
    ----------
    folder : path
        Where results are to go. Nothing is left there.
    overwrite : bool, default False

    Raises
    ------
    OutputError
        If the folder holds results already, or something else, or cannot be written.
    """
    from gpuroi.images.write import staged_folder

    parents = Path(folder).expanduser().resolve().parents
    made = [parent for parent in parents if not parent.exists()]
    try:
        with staged_folder(folder, overwrite=overwrite):
            raise _CheckedError
    except _CheckedError:
        pass
    finally:
        for parent in made:  # innermost first
            if parent.is_dir():
                parent.rmdir()


@contextmanager
def result_folder(
    result: Any,
    folder: str | os.PathLike[str],
    *,
    name: str,
    page: Callable[..., str] | None = None,
    pictures: Callable[..., list[Any]] | None = None,
    texts: Mapping[str, Callable[[], str]] | None = None,
    overwrite: bool = False,
    figures: bool = True,
) -> Iterator[Path]:
    """Stage the folder of a result: images and tables are written inside, what every folder has is added here.

    Parameters
    ----------
    result : object
        Its `provenance(notes)` is the record that is written.
    folder : path
        Gets `report.html` if there is a `page`, `figures/` if there are `pictures`, `dataset_description.json` and
        `provenance.json`, when the block has ended without an error.
    name : str
        What the folder holds, for `dataset_description.json`.
    page : callable, optional
        Takes the result and its pictures, returns the report as HTML.
    pictures : callable, optional
        Takes the result and the folder to draw in, returns pictures for `page`.
    texts : mapping of str to callable, optional
        Further files, and what makes their text. This, pictures and page come last: they may read the folder.
    overwrite : bool, default False
        Replace earlier results in this folder.
    figures : bool, default True
        Draw. Without matplotlib figures are left out, which is said in the log and in `provenance.json`.

    Yields
    ------
    Path
        The temporary folder, which takes the place of `folder` at the end.

    Raises
    ------
    OutputError
        If the folder holds results already, holds something else, or cannot be written.
    """
    from gpuroi.images.write import as_output_error, staged_folder, write_json

    reason = can_draw() if figures and pictures is not None else ""
    with staged_folder(folder, overwrite=overwrite) as staged, as_output_error(Path(folder)):
        yield staged
        write_json(staged / "dataset_description.json", dataset_description(name))
        write_json(staged / "provenance.json", result.provenance([reason] if reason else []))
        for file, text in (texts or {}).items():
            (staged / file).parent.mkdir(parents=True, exist_ok=True)
            (staged / file).write_text(text(), encoding="utf-8", errors="backslashreplace", newline="\n")
        drawn = []
        if pictures is not None and figures and not reason:
            (staged / "figures").mkdir()
            drawn = pictures(result, staged / "figures")
        if page is not None:
            (staged / "report.html").write_text(page(result, drawn), encoding="utf-8", errors="backslashreplace")


def described_columns(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return what the columns of a table of regions mean, for its sidecar."""
    found = {name: _COLUMNS[name] for name in table.columns if name in _COLUMNS}
    return {name: {"Description": text, **({"Units": unit} if unit else {})} for name, (text, unit) in found.items()}


def can_draw() -> str:
    """Return "" where figures can be drawn, else the reason, which is also said once in the log."""
    if importlib.util.find_spec("matplotlib") is not None:
        return ""
    if _NO_FIGURES not in _said:
        _said.add(_NO_FIGURES)
        _log.warning(_NO_FIGURES)
    return _NO_FIGURES


def atlas_image(labels: NDArray[np.int32], like: Image) -> Any:
    """Return labels as a nibabel image, int32, in the space of `like`."""
    import numpy as np

    from gpuroi.images.make_image import image_like

    return image_like(np.asarray(labels, dtype=np.int32), like)
