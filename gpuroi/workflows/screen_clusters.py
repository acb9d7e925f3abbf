"""The clusters of a contrast: which they are, their table, and the mean of every map over each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.domains import VoxelGrid
    from gpuroi.images.atlas_labels import Atlas
    from gpuroi.inference.glm import GlmResult
    from gpuroi.inference.result import PermutationResult
    from gpuroi.workflows.screen_settings import ScreenSettings

__all__ = ["ALPHA", "CLUSTER_COLUMNS", "ContrastClusters", "find_clusters", "region_means"]

ALPHA = 0.05  # of voxels that make clusters where there is no cluster-forming threshold
CLUSTER_COLUMNS = {
    "Cluster ID": ("Number of the cluster, as in the label image; positive ones first", ""),
    "X": ("Voxel of the largest |statistic|, to the right, in the space of the maps", "mm"),
    "Y": ("The same, to the front", "mm"),
    "Z": ("The same, up", "mm"),
    "Peak Stat": ("Statistic at the peak, with its sign", ""),
    "Cluster Size (mm3)": ("Voxels times the volume of one", "mm^3"),
    "Voxels": ("Number of voxels", ""),
    "Mass": ("Sum over the cluster of |statistic|, or of what exceeds the threshold; its scale is in the rule", ""),
    "p_size_FWE": ("Familywise corrected p of the size of the cluster", ""),
    "p_mass_FWE": ("Familywise corrected p of the mass of the cluster", ""),
    "p_peak_FWE": ("Familywise corrected p of the voxel at the peak", ""),
    "p_tfce_FWE": ("Smallest familywise corrected p of TFCE in the cluster", ""),
    "Sign": ("1 or -1; 1 for F", ""),
    "Peak Label": ("Region of the atlas at the peak", ""),
    "Labels (%)": ("Share of the cluster's voxels in each region of the atlas", ""),
}
_BLOCK_BYTES = 4 << 20  # of float64 at a time: small beside what the permutations took
_LEAST_COLUMNS = 512  # a chunk of a packed store


@dataclass(frozen=True, eq=False)
class ContrastClusters:
    """Clusters of one contrast.

    Attributes
    ----------
    labels : int32 array, shape (v,)
        0 outside, else the id of the table.
    table : DataFrame
        One row a cluster, positive ones first, those of each sign from the highest peak down.
    rule : str
        What makes a cluster, in words.
    """

    labels: NDArray[np.int32]
    table: pd.DataFrame
    rule: str


def find_clusters(
    fitted: GlmResult,
    permutation: PermutationResult | None,
    threshold: float | None,
    domain: VoxelGrid,
    settings: ScreenSettings,
    *,
    atlas: Atlas | None = None,
) -> ContrastClusters:
    """Find the clusters above the cluster-forming threshold, or without one those of the significant voxels.

    Parameters
    ----------
    fitted : GlmResult
        On the host.
    permutation : PermutationResult or None
    threshold : float or None
    domain : VoxelGrid
    settings : ScreenSettings
    atlas : Atlas, optional
        On the same grid.

    Returns
    -------
    ContrastClusters
    """
    from gpuroi.images.describe_regions import region_table

    statistic = np.asarray(fitted.statistic, dtype=np.float64)
    if permutation is not None:  # an exact fit leaves the linear model no variance, but is the largest of permutations
        statistic = np.where(np.isnan(statistic), permutation.statistic, statistic)
    if threshold is not None:
        labels, found, rule = _above(fitted, permutation, threshold, domain, settings)
    else:
        labels, found, rule = _significant(fitted, permutation, domain, settings)
    affine: Any = domain.affine
    seen = region_table(
        domain.to_volume(labels), domain.to_volume(statistic, fill=np.nan), affine, mass=True, atlas=atlas
    )
    signs = found["sign"].to_numpy(np.int64)
    order = np.lexsort((seen["id"], -np.abs(seen["peak_stat"]), -signs))  # positions in the table of regions
    number = np.zeros(len(seen) + 1, np.int32)
    number[order + 1] = np.arange(1, len(seen) + 1)
    table = _table(seen, found, signs, _peak_p(permutation, labels, len(seen)))
    return ContrastClusters(number[labels], _numbered(table.iloc[order]), rule)


def region_means(data: Any, label_sets: dict[str, tuple[NDArray[np.int32], int]]) -> dict[str, NDArray[np.float64]]:
    """Average each map over regions, in one pass over the data; what a map lacks takes no part.

    Parameters
    ----------
    data : array or ColumnSource, shape (n, v)
    label_sets : dict of (int32 array of shape (v,), int)
        Region of each element from 1, 0 for none; and how many there are.

    Returns
    -------
    dict of float64 array, shape (n, k)
        NaN where a map has no element of the region. The same bits wherever the data lie: they are read in blocks of
        columns whose width follows from n alone.
    """
    from gpuroi.backends import get_backend

    n, v = data.shape
    cpu = get_backend("cpu")
    sums = {name: np.zeros((n, k)) for name, (_, k) in label_sets.items()}
    counts = {name: np.zeros((n, k)) for name, (_, k) in label_sets.items()}
    width = max(_LEAST_COLUMNS, _BLOCK_BYTES // (8 * n) // _LEAST_COLUMNS * _LEAST_COLUMNS)
    for start in range(0, v, width):
        stop = min(v, start + width)
        wanted = {name: (labels[start:stop], k) for name, (labels, k) in label_sets.items() if labels[start:stop].any()}
        if not wanted:
            continue
        block = data[:, start:stop] if isinstance(data, np.ndarray) else data.columns(start, stop)
        values = np.ascontiguousarray(block, dtype=np.float64)  # (n, width)
        present = np.isfinite(values)
        is_whole = bool(present.all())
        values = values if is_whole else np.where(present, values, 0.0)
        for name, (labels, k) in wanted.items():
            total, count = cpu.label_sums(values, labels, k)
            sums[name] += total
            counts[name] += count if is_whole else cpu.label_sums(present.astype(np.float64), labels, k)[0]
    with np.errstate(invalid="ignore"):
        return {name: sums[name] / counts[name] for name in label_sets}


def _above(
    fitted: GlmResult,
    permutation: PermutationResult | None,
    threshold: float,
    domain: VoxelGrid,
    settings: ScreenSettings,
) -> tuple[NDArray[np.int32], pd.DataFrame, str]:
    """Clusters above the threshold, as the permutations counted them, or of the parametric map."""
    from gpuroi.inference.clusters import clusters

    signed = fitted.kind in ("t", "v")
    name = "z" if settings.scale == "z" else fitted.kind
    bars = f"|{name}|" if signed and settings.two_sided else name
    mass = f"sum of |{name}|" if settings.cluster_mass == "sum" else f"sum of what exceeds the threshold, on {name}"
    rule = f"connected voxels ({settings.connectivity} neighbours) with {bars} > {threshold:.4g}; mass: {mass}"
    if permutation is not None and permutation.cluster_labels is not None and permutation.cluster_table is not None:
        return permutation.cluster_labels, permutation.cluster_table, rule
    values = np.asarray(fitted.z if settings.scale == "z" else fitted.statistic)
    two_sided = signed and settings.two_sided
    found = clusters(values, domain, threshold, two_sided=two_sided, mass=settings.cluster_mass)
    return found.labels, found.table, rule


def _significant(
    fitted: GlmResult, permutation: PermutationResult | None, domain: VoxelGrid, settings: ScreenSettings
) -> tuple[NDArray[np.int32], pd.DataFrame, str]:
    """Clusters of the voxels whose corrected p is small, positive and negative ones apart."""
    from gpuroi.inference.clusters import clusters
    from gpuroi.inference.correct import fdr

    signs = np.sign(np.nan_to_num(np.asarray(fitted.statistic, dtype=np.float64)))
    if permutation is None:
        p, what = np.asarray(fdr(fitted.p)), "FDR-adjusted parametric p"
    elif permutation.tfce_p_fwe is not None and permutation.tfce is not None:
        p, what = permutation.tfce_p_fwe, "familywise corrected p of TFCE"
        signs = np.sign(np.nan_to_num(permutation.tfce))
    else:
        p, what = permutation.p_fwe, "familywise corrected p of the voxel"
    passing = np.where(p <= ALPHA * (1 + 1e-12), signs, 0.0)  # NaN does not pass
    found = clusters(passing, domain, 0.5)
    rule = f"connected voxels ({settings.connectivity} neighbours) with {what} <= {ALPHA:g}; mass: sum of |statistic|"
    return found.labels, found.table.drop(columns="mass"), rule


def _peak_p(permutation: PermutationResult | None, labels: NDArray[np.int32], n: int) -> dict[str, NDArray[Any]]:
    """Smallest corrected p in each cluster: of the voxels, which is that of the peak, and of TFCE."""

    def smallest(p: NDArray[Any]) -> NDArray[Any]:
        least = np.full(n + 1, np.inf)
        np.fmin.at(least, labels, p)
        return np.where(np.isinf(least), np.nan, least)[1:]

    if permutation is None:
        return {"p_peak_FWE": np.full(n, np.nan)}
    found = {"p_peak_FWE": smallest(permutation.p_fwe)}
    if permutation.tfce_p_fwe is not None:
        found["p_tfce_FWE"] = smallest(permutation.tfce_p_fwe)
    return found


def _table(
    seen: pd.DataFrame, found: pd.DataFrame, signs: NDArray[np.int64], p: dict[str, NDArray[Any]]
) -> pd.DataFrame:
    import pandas as pd

    unknown = np.full(len(seen), np.nan)
    columns: dict[str, Any] = {
        "X": seen["peak_x"],
        "Y": seen["peak_y"],
        "Z": seen["peak_z"],
        "Peak Stat": seen["peak_stat"],
        "Cluster Size (mm3)": seen["mm3"],
        "Voxels": seen["voxels"],
        "Mass": found["mass"] if "mass" in found else seen["mass"],
        "p_size_FWE": found.get("p_size_fwe", unknown),
        "p_mass_FWE": found.get("p_mass_fwe", unknown),
        **p,
        "Sign": signs,
    }
    if "peak_label" in seen:
        columns |= {"Peak Label": seen["peak_label"], "Labels (%)": seen["labels"]}
    return pd.DataFrame({name: np.asarray(values) for name, values in columns.items()})


def _numbered(table: pd.DataFrame) -> pd.DataFrame:
    table = table.reset_index(drop=True)
    table.insert(0, "Cluster ID", np.arange(1, len(table) + 1))
    return table
