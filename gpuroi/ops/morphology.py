"""Binary morphology: SciPy's meaning, over batches of volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import backend_of
from gpuroi.backends.base import Array, Backend
from gpuroi.errors import DataError, UsageError
from gpuroi.ops.label import connectivity_structure
from gpuroi.ops.volumes import as_bool, as_volumes

__all__ = ["binary_closing", "binary_dilation", "binary_erosion", "binary_fill_holes", "binary_opening"]


def binary_dilation(
    data: Any, structure: Any = None, iterations: int = 1, mask: Any = None, border_value: int = 0
) -> Any:
    """Grow the True voxels by a structuring element.

    Parameters
    ----------
    data : array, shape (..., X, Y, Z)
        Non-zero is True. NumPy or CuPy. Nothing crosses the leading axes.
    structure : array of three axes, {6, 18, 26} or None
        Structuring element, its centre at ``size // 2`` along each axis as in SciPy. None: the 6 face neighbours.
    iterations : int, default 1
        How often; below 1: until nothing changes (which reads one bool a step from a CuPy device, none where the
        structure is a symmetric neighbourhood of shape (3, 3, 3) with its centre).
    mask : array, shape (X, Y, Z) or that of `data`, optional
        Only voxels where it is True change.
    border_value : {0, 1}
        What lies outside the volume.

    Returns
    -------
    bool array, shape and device of `data`

    Raises
    ------
    UsageError
        A structure that is empty or has not three axes.
    DataError
        Fewer than three axes; a mask of another shape.

    Notes
    -----
    Equal to `scipy.ndimage.binary_dilation` voxel for voxel, for every structure, iteration, mask and border.

    Examples
    --------
    >>> import numpy as np
    >>> seed = np.zeros((3, 3, 3), bool)
    >>> seed[1, 1, 1] = True
    >>> int(binary_dilation(seed).sum()), int(binary_dilation(seed, 26).sum())
    (7, 27)
    """
    offsets = _offsets(structure, reflect=True)
    return _apply(data, mask, lambda b, m, inside: _dilate(b, m, offsets, iterations, inside, bool(border_value)))


def binary_erosion(
    data: Any, structure: Any = None, iterations: int = 1, mask: Any = None, border_value: int = 0
) -> Any:
    """Shrink the True voxels by a structuring element.

    Parameters and errors are those of `binary_dilation`.

    Parameters
    ----------
    data : array, shape (..., X, Y, Z)
    structure : array of three axes, {6, 18, 26} or None
    iterations : int, default 1
    mask : array, optional
    border_value : {0, 1}
        0: voxels at the edge of the volume are eroded from outside.

    Returns
    -------
    bool array, shape and device of `data`

    Examples
    --------
    >>> import numpy as np
    >>> int(binary_erosion(np.ones((5, 5, 5), bool)).sum())
    27
    """
    offsets = _offsets(structure, reflect=False)
    return _apply(data, mask, lambda b, m, inside: _erode(b, m, offsets, iterations, inside, bool(border_value)))


def binary_opening(
    data: Any, structure: Any = None, iterations: int = 1, mask: Any = None, border_value: int = 0
) -> Any:
    """Erode, then dilate: parts that the structuring element does not fit into vanish.

    Parameters and errors are those of `binary_dilation`.

    Parameters
    ----------
    data : array, shape (..., X, Y, Z)
    structure : array of three axes, {6, 18, 26} or None
    iterations : int, default 1
        Of the erosion, and then of the dilation.
    mask : array, optional
    border_value : {0, 1}

    Returns
    -------
    bool array, shape and device of `data`

    Examples
    --------
    >>> import numpy as np
    >>> speck = np.zeros((5, 5, 5), bool)
    >>> speck[2, 2, 2] = True
    >>> bool(binary_opening(speck).any())
    False
    """
    eroded = binary_erosion(data, structure, iterations, mask, border_value)
    return binary_dilation(eroded, structure, iterations, mask, border_value)


def binary_closing(
    data: Any, structure: Any = None, iterations: int = 1, mask: Any = None, border_value: int = 0
) -> Any:
    """Dilate, then erode: gaps that the structuring element does not fit into are closed.

    Parameters and errors are those of `binary_dilation`.

    Parameters
    ----------
    data : array, shape (..., X, Y, Z)
    structure : array of three axes, {6, 18, 26} or None
    iterations : int, default 1
        Of the dilation, and then of the erosion.
    mask : array, optional
    border_value : {0, 1}

    Returns
    -------
    bool array, shape and device of `data`

    Examples
    --------
    >>> import numpy as np
    >>> ring = np.ones((5, 5, 5), bool)
    >>> ring[2, 2, 2] = False
    >>> bool(binary_closing(ring)[2, 2, 2])
    True
    """
    dilated = binary_dilation(data, structure, iterations, mask, border_value)
    return binary_erosion(dilated, structure, iterations, mask, border_value)


def binary_fill_holes(data: Any, structure: Any = None) -> Any:
    """Set to True what cannot be reached from outside the volume.

    Parameters
    ----------
    data : array, shape (..., X, Y, Z)
        Non-zero is True. NumPy or CuPy.
    structure : array of three axes, {6, 18, 26} or None
        How the outside spreads through False voxels. None: through faces.

    Returns
    -------
    bool array, shape and device of `data`

    Raises
    ------
    UsageError
        A structure that is empty or has not three axes.
    DataError
        Fewer than three axes.

    Examples
    --------
    >>> import numpy as np
    >>> shell = np.ones((3, 3, 3), bool)
    >>> shell[1, 1, 1] = False
    >>> bool(binary_fill_holes(shell)[1, 1, 1])
    True
    """
    offsets = _offsets(structure, reflect=True)

    def fill(backend: Backend, volumes: Array, _: Array | None) -> Array:
        nothing = backend.xp.zeros_like(volumes)
        return ~_dilate(backend, nothing, offsets, -1, ~volumes, True)

    return _apply(data, None, fill)


# --------------------------------------------------------------------------- one definition for all


def _apply(data: Any, mask: Any, work: Any) -> Any:
    """Call `work(backend, volumes, mask)` on bool volumes, and return its result in the shape of the data."""
    backend = backend_of(data, mask)
    given = as_bool(backend, data)
    volumes = as_volumes(given, "data")
    inside = None
    if mask is not None:
        inside = as_bool(backend, mask)
        if inside.shape == given.shape:
            inside = as_volumes(inside, "mask")
        elif tuple(inside.shape) != tuple(given.shape[-3:]):
            raise DataError(
                f"mask has shape {tuple(inside.shape)}, but data has {tuple(given.shape)}",
                "give a mask of one volume's shape (X, Y, Z), or of the shape of data",
            )
    return work(backend, volumes, inside).reshape(given.shape)


def _offsets(structure: Any, *, reflect: bool) -> NDArray[np.int64]:
    """Positions (k, 3) that a voxel looks at: those of the structure, or of its mirror image for dilation."""
    element = connectivity_structure(6 if structure is None else structure) if np.ndim(structure) == 0 else structure
    if type(element).__module__.partition(".")[0] == "cupy":
        raise UsageError("structure is a CuPy array", "structures are small and stay on the host: pass a NumPy array")
    element = np.asarray(element, dtype=bool)
    if element.ndim != 3:
        raise UsageError(f"structure has shape {element.shape}", "give it three axes")
    if not element.any():
        raise UsageError("structure is empty", "set at least one of its elements")
    relative: NDArray[np.int64] = np.argwhere(element) - np.array(element.shape) // 2
    return -relative if reflect else relative


def _erode(
    backend: Backend, volumes: Array, offsets: NDArray[np.int64], iterations: int, inside: Array | None, border: bool
) -> Array:
    """Erosion is the dilation of what is False; the backend saves the two passes that turn the mask over."""
    if iterations >= 1 and volumes.size:
        return backend.erode(volumes, offsets, iterations, inside, border)
    return ~_dilate(backend, ~volumes, offsets, iterations, inside, not border)


def _dilate(
    backend: Backend, volumes: Array, offsets: NDArray[np.int64], iterations: int, inside: Array | None, border: bool
) -> Array:
    if volumes.size == 0:
        return volumes.copy()
    if iterations >= 1:
        return backend.dilate(volumes, offsets, iterations, inside, border)
    structure = _neighbourhood(offsets)
    if structure is None:
        return _dilate_until_stable(backend, volumes, offsets, inside, border)
    # What a neighbourhood reaches in the end are whole components of the mask: one step, one labelling.
    xp = backend.xp
    reached = backend.dilate(volumes, offsets, 1, inside, border)
    allowed = xp.ones_like(volumes) if inside is None else xp.broadcast_to(inside, volumes.shape)
    labels, _ = backend.label(allowed, structure)
    per_map = volumes[0].size + 1  # more labels than a map can have: maps stay apart without reading their counts
    first = xp.arange(len(volumes), dtype=np.int64).reshape((-1, 1, 1, 1)) * per_map
    hit = xp.zeros(len(volumes) * per_map, dtype=np.bool_)
    keys = first + labels
    hit[xp.where(reached & allowed, keys, first)] = True
    hit[xp.arange(len(volumes)) * per_map] = False  # label 0: outside the mask
    return volumes | hit[keys]


def _dilate_until_stable(
    backend: Backend, volumes: Array, offsets: NDArray[np.int64], inside: Array | None, border: bool
) -> Array:
    now = volumes
    for _ in range(volumes[0].size + 1):
        then = backend.dilate(now, offsets, 1, inside, border)
        if bool((then == now).all()):  # sync: reads one bool
            return then
        now = then
    raise DataError(
        "the result never settles: the structure, which leaves out its own centre, moves voxels to and fro",
        "include the centre in the structure, or give the number of iterations",
    )


def _neighbourhood(offsets: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """The (3, 3, 3) structure if the offsets are a symmetric one with its centre, else None."""
    if np.abs(offsets).max() > 1:
        return None
    structure = np.zeros((3, 3, 3), np.bool_)
    structure[tuple((offsets + 1).T)] = True
    symmetric = np.array_equal(structure, structure[::-1, ::-1, ::-1])
    return structure if symmetric and structure[1, 1, 1] else None
