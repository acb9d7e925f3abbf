"""Clusters and TFCE by labelling anew at every threshold, with SciPy; the domains that their tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from gpuroi.domains import ParcelGraph, SurfaceMesh, VoxelGrid

OCTAHEDRON = (
    np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]),
    np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]]),
)


def domains() -> dict[str, Any]:
    """Small ones of each kind: three neighbourhoods, weights that are all alike, whole or neither, hubs, loose ends."""
    rng = np.random.default_rng(0)
    mask = rng.random((7, 8, 9)) < 0.8
    edges = np.unique(np.sort(rng.integers(0, 150, (260, 2)), axis=1), axis=0)
    edges = edges[edges[:, 0] != edges[:, 1]]
    hub = np.array([[0, k] for k in range(1, 140)])
    ids = np.arange(150)
    affine = np.diag([2.0, -3.0, 4.0, 1.0])
    vertices, faces = _subdivided(*OCTAHEDRON, 3)
    return {
        "6": VoxelGrid(mask),
        "18": VoxelGrid(mask, connectivity=18),
        "26": VoxelGrid(mask, connectivity=26),
        "mm3": VoxelGrid(mask, affine, weights="mm3"),
        "parcels": ParcelGraph(ids + 1, edges + 1),
        "weighted": ParcelGraph(ids + 1, edges + 1, weights=rng.random(150) + 0.1),
        "hub": ParcelGraph(ids + 1, np.unique(np.concatenate([hub, edges]), axis=0) + 1),
        "surface": SurfaceMesh(vertices, faces),
        "mm2": SurfaceMesh(vertices, faces, weights="mm2"),
        "no-neighbours": ParcelGraph(ids + 1, np.empty((0, 2), int)),
        "one": VoxelGrid(np.ones((1, 1, 1), bool)),
    }


def _subdivided(vertices: np.ndarray, faces: np.ndarray, times: int) -> tuple[np.ndarray, np.ndarray]:
    """Each triangle cut into four, the new corners in the middle of its sides."""
    for _ in range(times):
        sides = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
        unique, which = np.unique(sides, axis=0, return_inverse=True)
        middle = len(vertices) + which.reshape(3, -1).T
        vertices = np.concatenate([vertices, vertices[unique].mean(axis=1)])
        (a, b, c), (ab, bc, ca) = faces.T, middle.T
        faces = np.concatenate([np.stack(t, axis=1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return vertices, faces


def values_on(domain: Any, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Values that vary slowly over the domain, so that clusters come in all sizes."""
    x = np.random.default_rng(seed).standard_normal(domain.n_elements)
    matrix = adjacency(domain)
    for _ in range(2):
        x = x + matrix @ x / np.maximum(np.diff(matrix.indptr), 1)
    return (x / (x.std() or 1.0)).astype(dtype)


def adjacency(domain: Any) -> sparse.csr_array:
    v = domain.n_elements
    ones = np.ones(len(domain.indices), np.int8)
    return sparse.csr_array((ones, domain.indices.astype(np.int64), domain.indptr), shape=(v, v))


def components(domain: Any, passing: np.ndarray) -> list[np.ndarray]:
    """Members of each component of the elements that pass, in the order of the first members."""
    inside = np.flatnonzero(passing)
    n, label = connected_components(adjacency(domain)[inside][:, inside], directed=False)
    found = [inside[label == k] for k in range(n)]
    return sorted(found, key=lambda members: int(members[0]))


def clusters(
    x: np.ndarray, domain: Any, threshold: float, *, two_sided: bool, strict: bool, excess: bool
) -> list[tuple[np.ndarray, float, float, int]]:
    """Members, size, mass and sign of each cluster, positive ones first."""
    cutoff = x.dtype.type(threshold)
    found = []
    for sign in (1, -1) if two_sided else (1,):
        y = sign * x
        for members in components(domain, y > cutoff if strict else y >= cutoff):
            values = y[members].astype(np.float64)
            mass = float(np.sum(values - float(cutoff) if excess else values))
            found.append((members, float(domain.weights[members].sum()), mass, sign))
    return found


def tfce(x: np.ndarray, domain: Any, H: float, E: float, step: float | str, *, two_sided: bool) -> np.ndarray:
    """TFCE by its definition: components at every height that an element has, or at every step."""
    out = np.zeros(len(x))
    for sign in (1, -1) if two_sided else (1,):
        y = sign * np.where(np.isnan(x), 0, x).astype(np.float64)
        top = y.max(initial=0)
        if top <= 0:
            continue
        for height, worth in _slices(y, top, H, step):
            for members in components(domain, y >= height):
                out[members] += sign * domain.weights[members].sum() ** E * worth
    return out


def _slices(y: np.ndarray, top: float, H: float, step: float | str) -> list[tuple[float, float]]:
    """Heights, and what each adds for an extent of 1."""
    if step == "exact":
        heights = np.unique(y[y > 0])
        below = np.concatenate([[0.0], heights[:-1]])
        return list(zip(heights, (heights ** (H + 1) - below ** (H + 1)) / (H + 1), strict=True))
    dh = top / 100 if step == "max/100" else float(step)
    heights = np.arange(1, int(top / dh) + 2) * dh
    if step == "max/100":
        heights = np.append(heights[:99], top)
    return [(h, h**H * dh) for h in heights if h <= top]
