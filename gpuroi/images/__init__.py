"""Images in and out: files, voxel grids, masks, regions.

Names are imported when they are first used, so that `import gpuroi.images` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuroi._lazy import lazy_names

if TYPE_CHECKING:
    from gpuroi.images.atlas_labels import Atlas, read_atlas, region_overlaps
    from gpuroi.images.atlas_names import LabelNames, find_label_names, read_label_names
    from gpuroi.images.describe_regions import region_table
    from gpuroi.images.extract_signals import extract
    from gpuroi.images.find_peaks import region_peaks
    from gpuroi.images.find_regions import ImageRegions, regions
    from gpuroi.images.grid import check_same_grid, voxel_sizes_mm, voxel_to_mm, voxel_volume_mm3
    from gpuroi.images.gunzip import inflater_name
    from gpuroi.images.make_image import image_like
    from gpuroi.images.masks import read_mask
    from gpuroi.images.read import Image, open_image, open_images, read_labels
    from gpuroi.images.region_seeds import local_maxima, random_walker
    from gpuroi.images.resample import resample_to, resample_volume
    from gpuroi.images.small_regions import drop_small_regions
    from gpuroi.images.threshold_image import ThresholdedImage, threshold
    from gpuroi.images.write import save_image, staged_file, staged_files, staged_folder, write_json, write_tsv

__all__ = [
    "Atlas",
    "Image",
    "ImageRegions",
    "LabelNames",
    "ThresholdedImage",
    "check_same_grid",
    "drop_small_regions",
    "extract",
    "find_label_names",
    "image_like",
    "inflater_name",
    "local_maxima",
    "open_image",
    "open_images",
    "random_walker",
    "read_atlas",
    "read_label_names",
    "read_labels",
    "read_mask",
    "region_overlaps",
    "region_peaks",
    "region_table",
    "regions",
    "resample_to",
    "resample_volume",
    "save_image",
    "staged_file",
    "staged_files",
    "staged_folder",
    "threshold",
    "voxel_sizes_mm",
    "voxel_to_mm",
    "voxel_volume_mm3",
    "write_json",
    "write_tsv",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "gpuroi.images.atlas_labels": ["Atlas", "read_atlas", "region_overlaps"],
        "gpuroi.images.atlas_names": ["LabelNames", "find_label_names", "read_label_names"],
        "gpuroi.images.grid": ["check_same_grid", "voxel_sizes_mm", "voxel_to_mm", "voxel_volume_mm3"],
        "gpuroi.images.gunzip": ["inflater_name"],
        "gpuroi.images.make_image": ["image_like"],
        "gpuroi.images.masks": ["read_mask"],
        "gpuroi.images.read": ["Image", "open_image", "open_images", "read_labels"],
        "gpuroi.images.extract_signals": ["extract"],
        "gpuroi.images.find_peaks": ["region_peaks"],
        "gpuroi.images.find_regions": ["ImageRegions", "regions"],
        "gpuroi.images.describe_regions": ["region_table"],
        "gpuroi.images.small_regions": ["drop_small_regions"],
        "gpuroi.images.region_seeds": ["local_maxima", "random_walker"],
        "gpuroi.images.threshold_image": ["ThresholdedImage", "threshold"],
        "gpuroi.images.resample": ["resample_to", "resample_volume"],
        "gpuroi.images.write": [
            "save_image",
            "staged_file",
            "staged_files",
            "staged_folder",
            "write_json",
            "write_tsv",
        ],
    },
)
