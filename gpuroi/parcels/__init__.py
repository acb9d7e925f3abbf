"""Parcels: values, graphs and clusters of the parcels of an atlas, and parcellations made from data.

Names are imported when they are first used, so that `import gpuroi.parcels` costs next to nothing.
`hierarchical_kmeans`, `kmeans` and `rena` are imported here: a function and its module share a name, and the function
has to win. They import NumPy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuroi._lazy import lazy_names
from gpuroi.parcels.hierarchical_kmeans import hierarchical_kmeans
from gpuroi.parcels.kmeans import KMeansResult, kmeans
from gpuroi.parcels.rena import rena

if TYPE_CHECKING:
    from gpuroi.parcels.drill_down import describe_voxels, voxel_inference
    from gpuroi.parcels.graph_files import load_graph, save_graph
    from gpuroi.parcels.hierarchy import family_graph, read_hierarchy, threshold_levels
    from gpuroi.parcels.parcellation import Parcellation
    from gpuroi.parcels.quality import Reproducibility, adjusted_rand, dice, explained_variance, reproducibility
    from gpuroi.parcels.smoothing import smooth_over_graph
    from gpuroi.parcels.threshold import find_clusters
    from gpuroi.parcels.values import paint, parcel_values
    from gpuroi.parcels.ward import WardTree, ward_tree

__all__ = [
    "KMeansResult",
    "Parcellation",
    "Reproducibility",
    "WardTree",
    "adjusted_rand",
    "describe_voxels",
    "dice",
    "explained_variance",
    "family_graph",
    "find_clusters",
    "hierarchical_kmeans",
    "kmeans",
    "load_graph",
    "paint",
    "parcel_values",
    "read_hierarchy",
    "rena",
    "reproducibility",
    "save_graph",
    "smooth_over_graph",
    "threshold_levels",
    "voxel_inference",
    "ward_tree",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "gpuroi.parcels.drill_down": ["describe_voxels", "voxel_inference"],
        "gpuroi.parcels.graph_files": ["load_graph", "save_graph"],
        "gpuroi.parcels.hierarchy": ["family_graph", "read_hierarchy", "threshold_levels"],
        "gpuroi.parcels.parcellation": ["Parcellation"],
        "gpuroi.parcels.quality": ["Reproducibility", "adjusted_rand", "dice", "explained_variance", "reproducibility"],
        "gpuroi.parcels.smoothing": ["smooth_over_graph"],
        "gpuroi.parcels.threshold": ["find_clusters"],
        "gpuroi.parcels.values": ["paint", "parcel_values"],
        "gpuroi.parcels.ward": ["WardTree", "ward_tree"],
    },
)
