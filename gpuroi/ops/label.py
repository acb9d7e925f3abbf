"""Connected components."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import backend_of
from gpuroi.errors import UsageError
from gpuroi.ops.volumes import as_bool, as_volumes

__all__ = ["connectivity_structure", "label"]


def label(mask: Any, /, structure_or_connectivity: Any = 6) -> tuple[Any, Any]:
    """Number the connected components of `mask`.

    Parameters
    ----------
    mask : array, shape (..., X, Y, Z)
        Non-zero inside. NumPy or CuPy. Leading axes are separate maps: components never cross them.
    structure_or_connectivity : {6, 18, 26} or bool array of shape (3, 3, 3), default 6
        Neighbours of a voxel: faces; and edges; and corners. Or SciPy's structuring element, symmetric
        about its centre.

    Returns
    -------
    labels : int32 array, shape and device of `mask`
        0 outside, 1..n inside, numbered by first voxel in C order on every backend, in each map anew.
    n : int, or int64 array of shape (...) for a batch
        Number of components. Reading the int of a single CuPy volume synchronises the device once.

    Raises
    ------
    UsageError
        Any other connectivity; a structure of another shape, or not symmetric.
    DataError
        Fewer than three axes.

    Notes
    -----
    SciPy's numbers. Defaults elsewhere: SPM 18, FSL's cluster 26, nilearn and PALM 6 neighbours.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.zeros((2, 2, 2), bool)
    >>> mask[0, 0, 0] = mask[1, 1, 1] = True
    >>> label(mask)[1], label(mask, 26)[1]
    (2, 1)
    """
    backend = backend_of(mask)
    structure = connectivity_structure(structure_or_connectivity)
    inside = as_bool(backend, mask)
    labels, counts = backend.label(as_volumes(inside, "mask"), structure)
    if inside.ndim == 3:
        return labels.reshape(inside.shape), int(counts[0])  # sync: reads one int
    return labels.reshape(inside.shape), counts.reshape(inside.shape[:-3])


def connectivity_structure(structure_or_connectivity: Any) -> NDArray[np.bool_]:
    """Return the (3, 3, 3) neighbourhood for 6, 18 or 26 neighbours, or check a given one.

    Examples
    --------
    >>> int(connectivity_structure(18).sum())
    19
    """
    if np.ndim(structure_or_connectivity) == 0:
        furthest = {6: 1, 18: 2, 26: 3}.get(structure_or_connectivity)
        if furthest is None:
            raise UsageError(
                f"connectivity is {structure_or_connectivity!r}",
                "use 6 (faces), 18 (and edges) or 26 (and corners), or a structure of shape (3, 3, 3)",
            )
        return np.asarray(np.abs(np.indices((3, 3, 3)) - 1).sum(axis=0) <= furthest)
    structure = np.asarray(structure_or_connectivity, dtype=bool)
    if structure.shape != (3, 3, 3):
        raise UsageError(f"structure has shape {structure.shape}", "labelling takes a structure of shape (3, 3, 3)")
    if not np.array_equal(structure, structure[::-1, ::-1, ::-1]):
        raise UsageError("structure is not symmetric about its centre", "a neighbour's neighbour must be oneself")
    return structure
