"""The maps of a group as a table (n, v), and the way back from a row to an image."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError
from gpuroi.images import Image, check_same_grid, open_image, open_images, read_mask
from gpuroi.nilearn.background_mask import background_mask
from gpuroi.nilearn.niimg import is_surface
from gpuroi.nilearn.second_level_input import GroupInput
from gpuroi.ops import smooth

__all__ = ["GroupMaps", "read_group_maps"]


@dataclass(frozen=True)
class GroupMaps:
    """Maps inside a mask.

    Attributes
    ----------
    data : float array, shape (n, v)
    domain : VoxelGrid or None
        None for surfaces.
    to_image : callable
        Turns a row (v,) into an image: Nifti1Image or SurfaceImage.
    """

    data: NDArray[Any]
    domain: VoxelGrid | None
    to_image: Callable[[NDArray[Any]], Any]


def read_group_maps(group: GroupInput, maps: list[Any], mask: Any, fwhm: float | None) -> GroupMaps:
    """Read maps inside a mask, smoothed.

    Parameters
    ----------
    group : GroupInput
    maps : list
        Of images or paths, one a row of the design; or one 4-D image.
    mask : None, image, path or masker
        None makes one of the images. A masker is cloned, and fits and transforms itself.
    fwhm : float or None
        mm. NaN and infinity count as 0 where images are smoothed.
    """
    surfaces = is_surface(maps[0])
    if surfaces or (hasattr(mask, "fit") and hasattr(mask, "transform")):
        return _through_masker(group, maps, mask, fwhm, surfaces=surfaces)
    images = open_images(maps)
    check_same_grid(images)
    inside = background_mask(_sample(group)) if mask is None else read_mask(mask, like=images[0])
    grid = VoxelGrid(inside, images[0].affine)
    return GroupMaps(_read(images, grid, fwhm), grid, _to_volume(grid))


def _through_masker(group: GroupInput, maps: list[Any], mask: Any, fwhm: float | None, *, surfaces: bool) -> GroupMaps:
    if hasattr(mask, "fit"):
        masker = type(mask)(**mask.get_params(deep=False))
        if fwhm is not None and masker.smoothing_fwhm is not None:
            warnings.warn("Parameter 'smoothing_fwhm' of the masker overridden.", UserWarning, stacklevel=4)
        if fwhm is not None:
            masker.smoothing_fwhm = fwhm
    else:
        from nilearn.maskers import SurfaceMasker  # surface images are nilearn's own

        masker = SurfaceMasker(mask_img=mask, smoothing_fwhm=fwhm, standardize=None)
    given = maps[0] if len(maps) == 1 else maps
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*Generation of a mask.*")  # it has a mask already
        masker.fit(given if surfaces else _first_image(group, maps))
    if surfaces:
        rows = np.concatenate([np.atleast_2d(masker.transform(surface)) for surface in maps])
        return GroupMaps(rows, None, masker.inverse_transform)
    image = open_image(masker.mask_img_)
    grid = VoxelGrid(read_mask(image), image.affine)
    return GroupMaps(np.atleast_2d(masker.transform(given)), grid, _to_volume(grid))


def _first_image(group: GroupInput, maps: list[Any]) -> Any:
    """What a masker without a mask of its own looks at: the mean of images, or the first map of a table or model."""
    mean = _sample(group)
    like = maps[0] if group.kind == "images" else _sample_source(group)
    return _nifti(mean, open_image(like).affine)


def _sample(group: GroupInput) -> NDArray[np.float64]:
    """Mean of the images that the mask is made of, float64 (X, Y, Z)."""
    images = open_images(group.source if group.kind == "images" else _sample_source(group))
    check_same_grid(images)
    total = np.zeros(images[0].shape)
    for image in images:
        for i in range(image.n_volumes):
            total += image.read(i, i + 1, dtype=np.float64)[0]
    return total / sum(image.n_volumes for image in images)


def _sample_source(group: GroupInput) -> Any:
    if group.kind == "table":
        return group.source["effects_map_path"].iloc[0]
    model = group.source[0]
    return model.compute_contrast(model.design_matrices_[0].columns[0], output_type="effect_size")


def _read(images: list[Image], grid: VoxelGrid, fwhm: float | None) -> NDArray[Any]:
    """Values inside the mask, float32, or float64 where an image is stored in more than float32 holds."""
    wide = any(image.stored_dtype.itemsize > (4 if image.stored_dtype.kind == "f" else 2) for image in images)
    dtype = np.float64 if wide else np.float32
    data = np.empty((sum(image.n_volumes for image in images), grid.n_elements), dtype)
    row = 0
    for image in images:
        for i in range(image.n_volumes):
            volume = image.read(i, i + 1, dtype=dtype)
            if fwhm:
                finite = np.nan_to_num(volume, nan=0.0, posinf=0.0, neginf=0.0)
                volume = smooth(finite, fwhm, tuple(image.zooms_mm))
            data[row] = grid.from_volume(volume)[0]
            row += 1
        image.release()
    return data


def _to_volume(grid: VoxelGrid) -> Callable[[NDArray[Any]], Any]:
    affine = grid.affine
    if affine is None:
        raise DataError("the mask has no affine", "give an image, not an array")

    def to_image(row: NDArray[Any]) -> Any:
        volume = grid.to_volume(row)
        # 64-bit integers are refused by nibabel: FSL and SPM cannot read them.
        return _nifti(volume.astype(np.int32) if volume.dtype.kind == "i" else volume, affine)

    return to_image


def _nifti(volume: NDArray[Any], affine: NDArray[np.float64]) -> Any:
    from nibabel import Nifti1Image

    make: Any = Nifti1Image
    return make(volume, affine)
