"""Bytes that each operation of the CUDA backend moves through device memory, counted from the kernels' sources.

Per launch, an array that all maps share (a mask, a table of columns, neighbours) is left out: it stays in the L2 cache.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COPY_BYTES_PER_S", "OPERATIONS", "Operation"]

COPY_BYTES_PER_S = 4.3e12  # read plus written, measured on an H200
_VOXELS = 91 * 109 * 91
_INSIDE = 228_483
_WORD = 4 * -(-91 // 32) / 91  # bytes of a voxel in packed rows of 91


@dataclass(frozen=True)
class Operation:
    """One operation on the reference workload."""

    name: str
    kernels: tuple[str, ...]
    element: str
    elements: float
    bytes_each: float
    least_each: float
    """The input read once and the output written once."""
    goal_ms: float | None
    counted: str
    """Where the bytes come from, and what else may bound the time."""

    @property
    def predicted_ms(self) -> float:
        """At the rate of a copy."""
        return 1e3 * self.elements * self.bytes_each / COPY_BYTES_PER_S

    @property
    def of_roofline(self) -> float:
        """The least traffic over that of the kernels."""
        return self.least_each / self.bytes_each


_VOLUMES, _MASKED, _MAPS = 1000 * _VOXELS, 1000 * _INSIDE, 10_000 * _INSIDE

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "threshold, no clusters", ("threshold_keep",), "voxel, 1000 volumes", _VOLUMES, 8, 8, None, "4 in, 4 out"
    ),
    Operation(
        "threshold, clusters of a least size",
        ("threshold_classes", "label_init", "label_merge", "label_sizes", "threshold_clusters"),
        "voxel, 1000 volumes", _VOLUMES, 5 + 5 + 1 + 4 + 8 + 12, 8, None,
        "classes 4 + 1; forest 1 + 4; merge reads classes; sizes cleared (4), forest read twice (8), value 4, out 4; "
        "what is inside adds its unions",
    ),
    Operation(
        "percentile in a mask", ("percentile",), "value, 1000 maps", _MASKED, 12, 4, 1.3,
        "3 passes of 4; shared-memory atomics come next",
    ),
    Operation(
        "smoothing, 6 mm", ("gaussian",), "voxel, 1000 volumes", _VOLUMES, 8, 8, 3.4,
        "4 in, 4 out; margins of the tiles, 1.7 times the plane, come from the L2 cache; some 60 instructions and 25 "
        "reads of shared memory a voxel come next",
    ),
    Operation(
        "dilation, 6 neighbours, once", ("dilate_pack", "dilate_step", "dilate_unpack"), "voxel, 1000 masks", _VOLUMES,
        2 + 4 * _WORD, 2, 0.7, "1 in, 1 out; packed rows written and read twice",
    ),
    Operation(
        "dilation, 10 times", ("dilate_pack", "dilate_step", "dilate_unpack"), "voxel, 1000 masks", _VOLUMES,
        2 + 22 * _WORD, 2, None, "each further step reads and writes packed rows",
    ),
    Operation(
        "erosion, 6 neighbours, once", ("dilate_pack", "dilate_step", "dilate_unpack"), "voxel, 1000 masks", _VOLUMES,
        2 + 4 * _WORD, 2, None, "turned over while it is packed and unpacked",
    ),
    Operation(
        "label images, dense masks",
        ("label_init", "label_merge", "label_roots", "label_scan", "label_number", "label_write"),
        "voxel, 1000 masks", _VOLUMES, 5 + 1 + 4 + 4 + 8, 5, 15,
        "forest 1 + 4; merge 1; roots 4; numbers 4; labels 4 + 4; what is inside adds its unions",
    ),
    Operation(
        "t-test", ("moments",), "value, 1000 observations", _MASKED, 4 + 24 / 1000, 4 + 24 / 1000, 0.24,
        "4 in; three float64 out for an element",
    ),
    Operation(
        "mask gather, int16 to float32", ("mask_gather_turned",), "voxel, 1000 volumes", _VOLUMES,
        2 + 4 * _INSIDE / _VOXELS, 2 + 4 * _INSIDE / _VOXELS, 0.65, "2 in; 4 out for a voxel inside",
    ),
    Operation(
        "mask scatter, float32", ("mask_scatter_turned",), "voxel, 1000 volumes", _VOLUMES,
        4 + 4 * _INSIDE / _VOXELS, 4 + 4 * _INSIDE / _VOXELS, None, "4 out; 4 in for a voxel inside",
    ),
    Operation(
        "means over labels", ("label_sums",), "value, 1000 maps", _MASKED, 4, 4, None,
        "4 in; the order of the voxels is shared",
    ),
    Operation(
        "cluster size and mass, t > 3.1",
        ("clusters_begin", "clusters_merge", "clusters_sum", "clusters_max", "clusters_finish"),
        "value, 10 000 maps", _MAPS, 4 + 0.002 * 60, 4, 5, "4 in; 60 for each of the 0.2 % that pass",
    ),
    Operation(
        "sign flips as a group, 8192 maps written", ("sign_flip_sums",), "value, 8192 maps", 8192 * _INSIDE,
        4 + 4 * 1000 / 8192, 4 + 4 * 1000 / 8192, 6, "4 out; the 1000 observations read once, again from the L2 cache",
    ),
    Operation(
        "TFCE, exact, 6 neighbours",
        ("tfce_keys", "tfce_order", "tfce_ranks", "tfce_grow", "tfce_sweep"),
        "value, 10 000 maps", _MAPS, 12 + 128 + 12 + 20 + 60 + 36, 8, 3000,
        "keys 4 + 8; their sort 8 x 16; order 8 + 4; ranks 4 + 4 + 4 + 8; tree 60; sweep 36. Bound by the latency of "
        "dependent reads, not by bytes: a floor, not a prediction",
    ),
    Operation(
        "TFCE, 100 steps through trees, 6 neighbours, maps written",
        ("steps_tops", "steps_levels", "steps_join", "steps_members", "steps_sizes", "steps_sums", "steps_write"),
        "value, 10 000 maps", _MAPS, 4 + 17 + 9 + 17 + 4 + 4 + 17, 8, None,
        "tops 4; levels 4 + 13; join 1 + 8; members 1 + 8 + 8; extents 4; sums 4; maps 5 + 4 + 4 + 4. Some 45 further "
        "reads of parents, on the way down the tree, should hit the L2 cache: a floor, not a prediction",
    ),
)  # fmt: skip
