"""Images in memory as their readers leave them, x fastest, and what the drop-ins for images work on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import VOXEL_MM, MapBatch, Size, map_batch
from benchmarks.settings import CUTOFF

__all__ = [
    "as_image",
    "as_new",
    "atlas_in_pieces",
    "labelled_images",
    "one_image",
    "positive_image",
    "several_images",
    "thresholded_image",
]


def one_image(size: Size) -> MapBatch:
    """One map."""
    return map_batch(size, order="F")


def several_images(size: Size) -> MapBatch:
    """A batch of maps."""
    return map_batch(size, maps=size.maps, order="F")


def labelled_images(size: Size) -> MapBatch:
    """Maps with an atlas on their grid."""
    return map_batch(size, maps=size.labelled_maps, labels=True, order="F")


def thresholded_image(size: Size) -> MapBatch:
    """One map, 0 where it does not reach the cutoff on either side."""
    maps = one_image(size)
    maps.volumes[np.abs(maps.volumes) < CUTOFF] = 0
    return replace(maps, region_mm3=size.region_mm3)


def positive_image(size: Size) -> MapBatch:
    """One map with ten blobs that hang together, 0 below the cutoff: what `local_regions` is for."""
    maps = one_image(size)
    maps.volumes[maps.volumes < CUTOFF] = 0
    return replace(maps, region_mm3=size.region_mm3)


def atlas_in_pieces(size: Size) -> MapBatch:
    """An atlas half of whose ids stand for two places each, as those of both hemispheres do."""
    maps = map_batch(size, labels=True, order="F")
    assert maps.labels is not None
    half = (size.labels + 1) // 2
    folded = np.where(maps.labels > half, maps.labels - half, maps.labels).astype(np.int32)
    return MapBatch(maps.volumes, maps.mask, np.asfortranarray(folded))


def as_image(values: NDArray[Any]) -> Any:
    """A volume (X, Y, Z), or several (n, X, Y, Z), as one image in memory; voxels are not copied."""
    import nibabel

    make: Any = nibabel.Nifti1Image  # untyped there
    if values.ndim == 4:
        values = values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)
    values = values.astype(np.uint8) if values.dtype == bool else values
    return make(values, np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0]))


def as_new(image: Any) -> Any:
    """The image without what an earlier call has left in its cache: a microsecond."""
    image.uncache()
    return image
