"""What a permutation test computes of every rearranged map, checked before anything is run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from gpuroi.backends.graph import Graph
from gpuroi.errors import UsageError

__all__ = ["StatisticsPlan"]


@dataclass(frozen=True)
class StatisticsPlan:
    """Statistics beside the maximum, and the neighbourhood that they use.

    Attributes
    ----------
    domain : domain or None
    cluster_threshold : float or None
        On `scale`.
    scale : {"t", "z"}
    tfce : bool
    tfce_step : "exact", "max/100" or float
    tfce_graph : Graph or None
    tfce_connectivity : int or None
        Of a voxel grid; None elsewhere.
    tfce_exponents : (float, float)
        H and E.
    two_sided : bool
    is_t : bool
        False for F, which has one side.
    excess : bool
        Cluster mass is the sum of what exceeds the threshold, not of the whole statistic.
    """

    domain: Any
    cluster_threshold: float | None
    scale: str
    tfce: bool
    tfce_step: float | str
    tfce_graph: Graph | None
    two_sided: bool
    is_t: bool = True
    excess: bool = False
    tfce_connectivity: int | None = None
    tfce_exponents: tuple[float, float] = (2.0, 0.5)

    @classmethod
    def of(
        cls,
        domain: Any,
        cluster_threshold: float | None,
        scale: str,
        tfce: bool,
        tfce_step: float | str,
        tfce_connectivity: int | None,
        two_sided: bool,
        cluster_mass: str,
        tfce_exponents: tuple[float, float | None] = (2.0, None),
    ) -> StatisticsPlan:
        """Check the arguments of `permutation_test` that say what is wanted."""
        if scale not in ("t", "z"):
            raise UsageError(f'cluster_scale is "{scale}"', 'use "t" (the statistic itself) or "z"')
        if (cluster_threshold is not None or tfce) and domain is None:
            raise UsageError(
                "clusters and TFCE need to know which elements are neighbours",
                "pass domain=VoxelGrid(mask), ParcelGraph(...) or SurfaceMesh(...)",
            )
        if cluster_threshold is not None and not (math.isfinite(cluster_threshold) and cluster_threshold > 0):
            raise UsageError(
                f"cluster_threshold is {cluster_threshold}",
                f"give a value above 0 on the {scale} scale, such as 3.1; it is no p-value",
            )
        is_step = isinstance(tfce_step, (int, float)) and 0 < tfce_step < math.inf
        if tfce_step not in ("exact", "max/100") and not is_step:
            raise UsageError(f"tfce_step is {tfce_step!r}", 'use "exact", "max/100" or a step above 0')
        height, extent = tfce_exponents
        if extent is None:
            extent = 1.0 if hasattr(domain, "faces") else 0.5  # as FSL and PALM: 1 on surfaces
        for name, value in (("tfce_H", height), ("tfce_E", extent)):
            if not 0 < value < math.inf:
                raise UsageError(f"{name} is {value}", "give an exponent above 0: H = 2, E = 0.5 are usual")
        graph, neighbours = None, None
        if tfce:
            if tfce_connectivity is not None and not hasattr(domain, "with_connectivity"):
                raise UsageError(
                    "tfce_connectivity is for voxel grids", "leave it out: the domain knows its neighbours"
                )
            around = domain if tfce_connectivity is None else domain.with_connectivity(tfce_connectivity)
            graph, neighbours = around.graph, getattr(around, "connectivity", None)
        if cluster_mass not in ("sum", "excess"):
            raise UsageError(f'cluster_mass is "{cluster_mass}"', 'use "sum" or "excess"')
        return cls(
            domain,
            cluster_threshold,
            scale,
            tfce,
            tfce_step,
            graph,
            two_sided,
            excess=cluster_mass == "excess",
            tfce_connectivity=neighbours,
            tfce_exponents=(float(height), float(extent)),
        )

    def for_f(self) -> StatisticsPlan:
        """The same for an F contrast."""
        return dataclasses.replace(self, two_sided=False, is_t=False)

    def describe(self) -> dict[str, Any]:
        """What goes into the record of a test."""
        return {
            "two_sided": self.two_sided,
            "cluster_threshold": self.cluster_threshold,
            "cluster_scale": self.scale,
            "cluster_mass": "excess" if self.excess else "sum",
            "tfce": self.tfce,
            "tfce_step": self.tfce_step if self.tfce else None,
            "tfce_connectivity": self.tfce_connectivity,
            "tfce_H": self.tfce_exponents[0] if self.tfce else None,
            "tfce_E": self.tfce_exponents[1] if self.tfce else None,
            "domain": None if self.domain is None else self.domain.describe(),
        }

    @property
    def graph_for_tfce(self) -> Graph:
        """The neighbourhood of TFCE, which is there if TFCE was asked for."""
        assert self.tfce_graph is not None
        return self.tfce_graph

    @property
    def null_names(self) -> list[str]:
        """Null distributions that are kept."""
        clusters = ["max_size", "max_mass"] if self.cluster_threshold is not None else []
        return ["max_stat", *clusters, *(["max_tfce"] if self.tfce else [])]

    @property
    def step(self) -> float | str | None:
        """The step of TFCE as the backends take it: None is the exact integral."""
        return None if self.tfce_step == "exact" else self.tfce_step

    @property
    def needs_maps(self) -> bool:
        """Whole maps are needed, not their maxima alone."""
        return self.tfce or self.cluster_threshold is not None
