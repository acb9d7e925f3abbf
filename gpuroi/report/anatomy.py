"""The anatomy below maps: the MNI template, where they say that they lie in its space; else the mask's silhouette."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuroi.images.read import Image

__all__ = ["anatomy_below"]

_MNI152 = 4  # NIfTI's code of the space
_TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_TEXT = "Grey: the MNI152 template, whose space the header of the images names."


def anatomy_below(like: Image, mask: NDArray[np.bool_]) -> tuple[NDArray[Any], str]:
    """Return what to draw in grey below maps.

    Parameters
    ----------
    like : Image
        On the grid of the maps.
    mask : bool array, shape (X, Y, Z)

    Returns
    -------
    background : array, shape (X, Y, Z)
        The T1 template that nilearn carries, brought to the grid, if the header of `like` says MNI152 (`sform_code` or
        `qform_code` 4) and nilearn is installed; else `mask`.
    text : str
        What it is; "" for the mask.
    """
    from gpuroi.images.resample import resample_to

    path = _template()
    if path is None or not _is_mni(like):
        return mask, ""
    template = np.asarray(resample_to(path, like, interpolation="linear").dataobj)
    return (template, _TEXT) if template[mask].any() else (mask, "")  # a header may be wrong


def _is_mni(image: Image) -> bool:
    header = image.header
    known: Any = getattr(header, "keys", list)()
    codes = [int(header[name]) for name in ("sform_code", "qform_code") if name in known]
    return bool(codes) and (codes[0] or codes[-1]) == _MNI152


def _template() -> Path | None:
    """Found without the seconds that an import of nilearn takes."""
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / _TEMPLATE
    return path if path.is_file() else None
