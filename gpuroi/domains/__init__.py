"""Where data live: voxels, parcels or vertices, who touches whom, and what each one weighs. Arrays only.

The modules are imported here, not lazily: they import NumPy alone.
"""

from __future__ import annotations

from gpuroi.domains.domain import Domain
from gpuroi.domains.parcels import ParcelGraph
from gpuroi.domains.surface import SurfaceMesh
from gpuroi.domains.voxels import VoxelGrid

__all__ = ["Domain", "ParcelGraph", "SurfaceMesh", "VoxelGrid"]
