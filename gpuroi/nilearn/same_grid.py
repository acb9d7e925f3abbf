"""Do images lie on one grid? With the tolerances and the messages that nilearn has in each place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuroi.errors import GridError

__all__ = ["check_same_fov", "check_same_space", "same_grid"]

_SAME_AFFINE = 1000 * float(np.finfo(np.float32).eps)


def same_grid(a: Any, b: Any) -> bool:
    """Have two images the same voxels?

    Parameters
    ----------
    a, b : image, or anything else with a `shape` and an `affine`
        Axes beyond the third do not count; affines are compared as by `numpy.allclose`.

    Examples
    --------
    >>> import nibabel
    >>> maps, mask = (nibabel.Nifti1Image(np.zeros(shape), np.eye(4)) for shape in [(2, 3, 4, 5), (2, 3, 4)])
    >>> same_grid(maps, mask)
    True
    """
    return _same_shape(a, b) and _close(a, b)


def check_same_fov(images: Mapping[str, Any], hint: str = "resample the images to one grid first") -> None:
    """Raise GridError, naming all that differ, unless images have the voxels of the first.

    Parameters
    ----------
    images : mapping of str to image or None
        What each is called in the message; None is passed over.
    hint : str
        What to do.
    """
    given = [(name, image) for name, image in images.items() if image is not None]
    errors = []
    for name, image in given[1:]:
        if not _same_shape(given[0][1], image):
            errors.append(f"- {given[0][0]} and {name} do not have the same shape")
        if not _close(given[0][1], image):
            errors.append(f"- {given[0][0]} and {name} do not have the same affine")
    if errors:
        raise GridError("Following field of view errors were detected:\n" + "\n".join(errors), hint)


def check_same_space(a: Any, b: Any, a_name: str = "", b_name: str = "") -> None:
    """Raise GridError unless two images have the same voxels, affines to 1.2e-4; for signals of regions."""
    between = f" ({a_name}, {b_name})" if a_name or b_name else ""
    hint = "resample one of them to the grid of the other first"
    if not _same_shape(a, b):
        shapes = f"{tuple(a.shape[:3])} and {tuple(b.shape[:3])}"
        raise GridError(f"Images have incompatible shapes.{between} {shapes}", hint)
    if np.shape(a.affine) != np.shape(b.affine) or not np.abs(a.affine - b.affine).max() <= _SAME_AFFINE:
        raise GridError(f"Images have different affine matrices.{between}", hint)


def _same_shape(a: Any, b: Any) -> bool:
    return tuple(a.shape[:3]) == tuple(b.shape[:3])


def _close(a: Any, b: Any) -> bool:
    return bool(np.allclose(a.affine, b.affine))
