"""Voxel grids: sizes, places in mm, and whether images lie on the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpuroi.errors import GridError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["check_same_grid", "voxel_sizes_mm", "voxel_to_mm", "voxel_volume_mm3"]


class OnGrid(Protocol):
    """Anything with a name, a shape and an affine: `gpuroi.images.Image`."""

    name: str
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]


def voxel_sizes_mm(affine: ArrayLike) -> NDArray[np.float64]:
    """Return the edge lengths of a voxel in mm: the lengths of the affine's columns, shape (3,).

    Examples
    --------
    >>> voxel_sizes_mm([[-2, 0, 0, 90], [0, 0, 3, -126], [0, 4, 0, -72], [0, 0, 0, 1]])
    array([2., 4., 3.])
    """
    return np.asarray(np.sqrt((_three_by_three(affine) ** 2).sum(axis=0)), dtype=np.float64)


def voxel_volume_mm3(affine: ArrayLike) -> float:
    """Return the volume of a voxel in mm3: |det|, which holds for oblique and sheared grids too.

    Examples
    --------
    >>> voxel_volume_mm3([[0, -2, 0, 0], [2, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])
    12.0
    """
    x, y, z = _three_by_three(affine).T
    return float(abs(x @ np.cross(y, z)))  # the triple product: exact where linalg.det divides first


def voxel_to_mm(affine: ArrayLike, ijk: ArrayLike) -> NDArray[np.float64]:
    """Return where voxel indices lie in space.

    Parameters
    ----------
    affine : array, shape (4, 4)
    ijk : array, shape (n, 3)
        Voxel indices; fractions are places between voxel centres.

    Returns
    -------
    float64 array, shape (n, 3)
        Coordinates in mm, RAS+.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    points = np.asarray(ijk, dtype=np.float64).reshape(-1, 3)
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


def check_same_grid(images: Sequence[Any], *, reference: Any = None, tolerance: float = 1e-3) -> None:
    """Raise unless all images have the same shape and the same affine.

    Parameters
    ----------
    images : sequence of Image
    reference : Image, optional
        What the others must agree with; default the first.
    tolerance : float, default 1e-3
        Largest difference allowed, as a fraction of the reference's smallest voxel edge: of the voxel size, and of
        the place of any corner of the volume. Writers round affines to float32, which moves corners by about 1e-5.

    Raises
    ------
    GridError
        Naming every image that differs, what differs, and both values.
    """
    if reference is None:
        if not images:
            return
        reference = images[0]
    found = [(image.name, _difference(image, reference, tolerance)) for image in images if image is not reference]
    differing = [(name, what) for name, what in found if what]
    if not differing:
        return
    lines = [f"{name}: {what}" for name, what in differing]
    message = (
        lines[0]
        if len(lines) == 1
        else (
            f"{len(lines)} of {len(found)} images lie on another grid than {reference.name}:\n  " + "\n  ".join(lines)
        )
    )
    raise GridError(message, f"resample them to the grid of {reference.name} first: gpuroi.images.resample_to")


def _difference(image: OnGrid, reference: OnGrid, tolerance: float) -> str:
    """Say in words what differs, the coarsest difference first; "" if nothing does."""
    if tuple(image.shape) != tuple(reference.shape):
        return f"shape {_times(image.shape)}, {reference.name}: {_times(reference.shape)}"
    sizes, expected = voxel_sizes_mm(image.affine), voxel_sizes_mm(reference.affine)
    allowed = tolerance * float(expected.min())
    if not np.allclose(sizes, expected, rtol=0, atol=allowed):
        return f"voxel size {_millimetres(sizes)}, {reference.name}: {_millimetres(expected)}"
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in reference.shape])).reshape(3, -1).T
    shift = np.abs(voxel_to_mm(image.affine, corners) - voxel_to_mm(reference.affine, corners)).max()
    if not shift <= allowed:
        return (
            f"affine {_rows(image.affine)}, {reference.name}: {_rows(reference.affine)}"
            f" (corners lie up to {shift:.4g} mm apart)"
        )
    return ""


def _three_by_three(affine: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(affine, dtype=np.float64)[:3, :3]


def _times(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape)


def _millimetres(sizes: NDArray[np.float64]) -> str:
    texts = [f"{s:.6g}" for s in sizes]
    return f"{texts[0]} mm" if len(set(texts)) == 1 else f"{' x '.join(texts)} mm"


def _rows(affine: NDArray[np.float64]) -> str:
    return "[" + "; ".join(" ".join(f"{v:.6g}" for v in row) for row in np.asarray(affine)[:3]) + "]"
