"""Images in and out: files, voxel grids, masks, regions.

Names are imported when they are first used, so that `import gpuroi.images` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuroi._lazy import lazy_names

if TYPE_CHECKING:
    from gpuroi.images.grid import check_same_grid, voxel_sizes_mm, voxel_to_mm, voxel_volume_mm3
    from gpuroi.images.gunzip import inflater_name
    from gpuroi.images.masks import read_mask
    from gpuroi.images.read import Image, open_image, open_images, read_labels
    from gpuroi.images.regions import drop_small_regions, region_table
    from gpuroi.images.write import save_image, staged_file, staged_folder, write_json, write_tsv

__all__ = [
    "Image",
    "check_same_grid",
    "drop_small_regions",
    "inflater_name",
    "open_image",
    "open_images",
    "read_labels",
    "read_mask",
    "region_table",
    "save_image",
    "staged_file",
    "staged_folder",
    "voxel_sizes_mm",
    "voxel_to_mm",
    "voxel_volume_mm3",
    "write_json",
    "write_tsv",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "gpuroi.images.grid": ["check_same_grid", "voxel_sizes_mm", "voxel_to_mm", "voxel_volume_mm3"],
        "gpuroi.images.gunzip": ["inflater_name"],
        "gpuroi.images.masks": ["read_mask"],
        "gpuroi.images.read": ["Image", "open_image", "open_images", "read_labels"],
        "gpuroi.images.regions": ["drop_small_regions", "region_table"],
        "gpuroi.images.write": ["save_image", "staged_file", "staged_folder", "write_json", "write_tsv"],
    },
)
