"""What the functions for images have to give: NumPy and SciPy in float64, written to be read, never timed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import VOXEL_MM, FileSet, MapBatch
from benchmarks.references import large_clusters, read_maps
from benchmarks.settings import CLUSTER_THRESHOLD, FDR, MIN_VOXELS, PERCENTILE, SIGMA_VOX, Outputs

__all__ = [
    "cluster_level_inference",
    "clusters_table",
    "connected_label_regions",
    "connected_regions",
    "local_regions",
    "mean_img",
    "standardized_maps",
    "threshold_percentile",
    "threshold_stats_img",
]

_REACH, _LEAST_OF_MAXIMUM = 10, 0.1  # of peaks, voxels and share of the highest one
_ABOVE_PERCENTILE = 1e-5
_BETA, _EPSILON = 130.0, 1e-10  # of the random walker


def threshold_percentile(maps: MapBatch) -> Outputs:
    """What exceeds the percentile by more than nilearn adds to it."""
    size = np.abs(maps.volumes)
    cutoff = np.percentile(size.astype(np.float64), PERCENTILE) + _ABOVE_PERCENTILE
    return {"values": np.where(size >= np.float32(cutoff), maps.volumes, np.float32(0))}


def mean_img(maps: MapBatch) -> Outputs:
    return {"values": maps.volumes.mean(axis=0, dtype=np.float64)[None]}


def connected_regions(maps: MapBatch) -> Outputs:
    from scipy.ndimage import label

    return _regions(maps, label(maps.volumes[0] != 0)[0])


def local_regions(maps: MapBatch) -> Outputs:
    """Peaks of the smoothed map, and the exact solution of the random walker between them."""
    from scipy.ndimage import gaussian_filter, label, maximum_filter

    volume = maps.volumes[0].astype(np.float64)
    smoothed = gaussian_filter(volume, SIGMA_VOX, mode="reflect")
    highest = maximum_filter(smoothed, 2 * _REACH + 1, mode="constant")
    seeds, _ = label((smoothed == highest) & (smoothed > _LEAST_OF_MAXIMUM * smoothed.max()))
    return _regions(maps, _walk(volume, np.where(volume != 0, seeds, -1)))


def connected_label_regions(maps: MapBatch) -> Outputs:
    from scipy.ndimage import generate_binary_structure, label

    assert maps.labels is not None
    out = np.zeros(maps.labels.shape, np.int32)
    total = 0
    for number in np.unique(maps.labels[maps.labels > 0]):
        pieces, n = label(maps.labels == number, generate_binary_structure(3, 3))
        out[pieces > 0] = pieces[pieces > 0] + total
        total += n
    return {"labels": out}


def standardized_maps(files: FileSet) -> Outputs:
    matrix = read_maps(files)["matrix"].astype(np.float64)
    return {"matrix": (matrix - matrix.mean(axis=0)) / matrix.std(axis=0, ddof=1)}


def clusters_table(maps: MapBatch) -> Outputs:
    from scipy.ndimage import label

    rows = []
    for sign in (1, -1):
        signed = sign * maps.volumes[0]
        labels, n = label(signed >= CLUSTER_THRESHOLD)
        for number in range(1, n + 1):
            inside = labels == number
            if inside.sum() >= MIN_VOXELS:
                place = np.unravel_index(np.argmax(np.where(inside, signed, -np.inf)), signed.shape)
                xyz = VOXEL_MM * np.array(place)
                rows.append([*xyz, sign * signed[place], int(inside.sum() * VOXEL_MM**3)])
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return {"clusters": table[np.lexsort(table.T)]}


def cluster_level_inference(maps: MapBatch) -> Outputs:
    """Hommel's value as it is defined, found by halving, and the bound of each cluster from all its subsets."""
    from scipy.ndimage import label
    from scipy.stats import norm

    volume = np.where(maps.mask, maps.volumes[0], 0).astype(np.float64)
    p = np.sort(norm.sf(volume[maps.mask]))
    n = len(p)
    low, high = 0, n + 1  # Simes' test accepts the `low` largest p-values, and not the `high` largest
    while high - low > 1:
        i = (low + high) // 2
        accepted = (i * p[n - i :] > FDR * np.arange(1, i + 1)).all()
        low, high = (i, high) if accepted else (low, i)
    out = np.zeros(volume.shape)
    labels, found = label(volume > CLUSTER_THRESHOLD)
    for number in range(1, found + 1):
        of_cluster = norm.sf(volume[labels == number])
        u = np.arange(1, len(of_cluster) + 1)
        counts = (low * of_cluster <= u[:, None] * FDR).sum(axis=1)
        out[labels == number] = max(0, (1 - u + counts).max()) / len(u)
    return {"shares": out[None]}


def threshold_stats_img(maps: MapBatch) -> Outputs:
    """Benjamini and Hochberg's rule for |z|."""
    from scipy.stats import norm

    z = np.sort(np.abs(maps.volumes[:, maps.mask]).ravel())[::-1]
    passing = norm.sf(z.astype(np.float64)) < FDR / 2 * np.arange(1, len(z) + 1) / len(z)
    threshold = float(z[passing][-1]) if passing.any() else np.inf
    return {"values": large_clusters(maps.volumes, threshold), "threshold": threshold}


def _regions(maps: MapBatch, labels: NDArray[Any]) -> Outputs:
    """Regions above the smallest size: how many, and each voxel with the largest |value| of its region."""
    size = np.abs(maps.volumes[0])
    out = np.zeros(size.shape)
    numbers, counts = np.unique(labels[labels > 0], return_counts=True)
    kept = numbers[counts * VOXEL_MM**3 > maps.region_mm3]
    for number in kept:
        inside = labels == number
        out[inside] = size[inside].max()
    return {"regions": len(kept), "painted": out}


def _walk(volume: NDArray[np.float64], seeds: NDArray[Any]) -> NDArray[Any]:
    """Give each open voxel (0) to the seed that a walk from it most probably meets first; -1 is outside."""
    from scipy.ndimage import label
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import splu

    component, _ = label(seeds >= 0)
    seeded = np.isin(component, np.unique(component[seeds > 0])) & (seeds >= 0)
    numbers = np.unique(seeds[seeded & (seeds > 0)])
    place = np.cumsum((seeded & (seeds == 0)).ravel()).reshape(seeds.shape) - 1
    n = int(place.max(initial=-1)) + 1
    result = np.where(seeded, seeds, 0)
    if n == 0:
        return result
    steepness = _BETA / (10 * volume.std())
    entries: list[tuple[NDArray[Any], ...]] = []
    right = np.zeros((n, len(numbers)))
    for axis in range(3):
        for one, other in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
            a = tuple(one if k == axis else slice(None) for k in range(3))
            b = tuple(other if k == axis else slice(None) for k in range(3))
            linked = seeded[a] & seeded[b] & (seeds[a] == 0)
            weight = np.exp(-steepness * (volume[a] - volume[b])[linked] ** 2) + _EPSILON
            here, seed, there = place[a][linked], seeds[b][linked], place[b][linked]
            entries.append((here, here, weight))
            entries.append((here[seed == 0], there[seed == 0], -weight[seed == 0]))
            np.add.at(right, (here[seed > 0], np.searchsorted(numbers, seed[seed > 0])), weight[seed > 0])
    row, column, value = (np.concatenate(part) for part in zip(*entries, strict=True))
    laplacian = coo_array((value, (row, column)), shape=(n, n)).tocsc()
    result[seeded & (seeds == 0)] = numbers[np.argmax(splu(laplacian).solve(right), axis=1)]
    return result
