"""Result folders: checked before the work, described after it."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    import numpy as np
    from numpy.typing import NDArray

    from gpuroi.images.read import Image

__all__ = ["atlas_image", "can_draw", "check_output"]

_log = logging.getLogger("gpuroi")
_NO_FIGURES = "figures are left out: matplotlib is not installed; pip install 'gpuroi[report]'"
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
