"""SurfaceImages of nilearn: their data, whether meshes fit, means, and smoothing along the edges of the mesh."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.domains import SurfaceMesh
from gpuroi.errors import UsageError
from gpuroi.nilearn import exceptions

__all__ = [
    "all_surfaces",
    "check_same_mesh",
    "finite_parts",
    "mean_surface",
    "smooth_surface",
    "surface_data",
    "surface_like",
]

_FWHM_OF_SIGMA = math.sqrt(math.log(256.0))


def surface_like(img: Any, parts: Mapping[str, NDArray[Any]]) -> Any:
    """Return a SurfaceImage on a copy of the mesh of another."""
    return type(img)(mesh=copy.deepcopy(img.mesh), data=dict(parts))


def all_surfaces(images: Any) -> bool:
    """Is it a non-empty list or tuple of nothing but SurfaceImages?"""
    from gpuroi.nilearn.niimg import is_surface

    return isinstance(images, list | tuple) and len(images) > 0 and all(is_surface(one) for one in images)


def surface_data(img: Any) -> NDArray[Any]:
    """Return the data of all parts one after the other, (v,) or (v, n)."""
    return np.concatenate(list(img.data.parts.values()), axis=0)


def finite_parts(img: Any, *, warn: bool) -> dict[str, NDArray[Any]]:
    """Return a copy of the data of each part, NaN and infinity as 0."""
    parts = {name: np.array(values) for name, values in img.data.parts.items()}
    replaced = False
    for values in parts.values():
        if values.dtype.kind == "f":
            broken = ~np.isfinite(values)
            replaced |= bool(broken.any())
            values[broken] = 0
    if replaced and warn:
        exceptions.warn("Non-finite values detected. These values will be replaced with zeros.")
    return parts


def check_same_mesh(mesh: Any, other: Any) -> None:
    """Raise `MeshDimensionError` unless meshes have the same parts and numbers of vertices; warn if they differ."""
    different = set(mesh.parts) ^ set(other.parts)
    if different:
        raise exceptions.MeshDimensionError(f"PolyMeshes do not have the same keys. Offending keys: {different}")
    same = True
    for name, part in mesh.parts.items():
        n, n_other = part.n_vertices, other.parts[name].n_vertices
        if n != n_other:
            raise exceptions.MeshDimensionError(
                f"Number of vertices do not match for between meshes: {n} and {n_other} in part {name!r}."
            )
        same &= np.array_equal(part.coordinates, other.parts[name].coordinates)
        same &= np.array_equal(part.faces, other.parts[name].faces)
    if not same:
        exceptions.warn("Meshes are not identical but have compatible number of vertices.", RuntimeWarning)


def mean_surface(images: list[Any]) -> Any:
    """Return the mean of the means of SurfaceImages, each over its second axis.

    Raises
    ------
    MeshDimensionError
        If the meshes do not fit.
    """
    for img in images[1:]:
        check_same_mesh(img.mesh, images[0].mesh)
    means = [{name: _mean(values) for name, values in img.data.parts.items()} for img in images]
    if len(images) == 1:
        return surface_like(images[0], means[0])
    return surface_like(images[0], {k: _mean(np.stack([m[k] for m in means], axis=1)) for k in means[0]})


def smooth_surface(img: Any, fwhm: float | None) -> Any:
    """Return a SurfaceImage smoothed along the mesh: each vertex with the mean of its neighbours, again and again.

    Parameters
    ----------
    img : SurfaceImage
        Data (v,) or (v, n); NaN and infinity count as 0.
    fwhm : float or None
        mm; it decides how often, by the mean area of a vertex, as in FreeSurfer's mri_surf2surf.

    Returns
    -------
    SurfaceImage
        float64 where smoothed.
    """
    if fwhm is not None and not (math.isfinite(fwhm) and fwhm >= 0):
        raise UsageError(f"'fwhm' is {fwhm} mm", "give a finite width of 0 or more, or None")
    parts = finite_parts(img, warn=False)
    for name, values in parts.items():
        mesh = img.mesh.parts[name]
        n_times = _n_times(mesh, fwhm or 0.0)
        if n_times:
            matrix = _mean_of_neighbours(mesh)
            for _ in range(n_times):
                values = matrix @ values
            parts[name] = np.asarray(values)
    return surface_like(img, parts)


def _mean(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.ndim < 2 or values.shape[1] < 2 else values.mean(axis=1).astype(np.float64)


def _n_times(mesh: Any, fwhm: float) -> int:
    first, second, third = (mesh.coordinates[corner] for corner in mesh.faces.T)
    areas = 0.5 * np.sqrt((np.cross(second - first, third - first) ** 2).sum(axis=1))  # (faces,) mm2
    area = areas.sum() / mesh.n_vertices
    return math.floor(1.14 * 4 * math.pi * (fwhm / _FWHM_OF_SIGMA) ** 2 / (7 * area) + 0.5) if fwhm else 0


def _mean_of_neighbours(mesh: Any) -> Any:
    """Sparse (v, v): half of each value from itself, half from the mean of its neighbours; the lonely stay."""
    from scipy import sparse

    graph = SurfaceMesh(mesh.coordinates, mesh.faces).graph
    n_neighbours = np.diff(graph.indptr)  # (v,)
    share = 0.5 / np.maximum(n_neighbours, 1)
    shape = (graph.n_elements, graph.n_elements)
    around = sparse.csr_array((np.repeat(share, n_neighbours), graph.indices, graph.indptr), shape)
    return (around + sparse.diags_array(np.where(n_neighbours > 0, 0.5, 1.0))).tocsr()
