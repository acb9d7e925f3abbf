"""Where regions lie in an atlas: the label at a place, and how much of a region each label covers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import UsageError
from gpuroi.images.atlas_names import LabelNames, find_label_names, read_label_names
from gpuroi.images.grid import check_same_grid
from gpuroi.images.read import Image, open_image, read_labels
from gpuroi.images.region_voxels import RegionVoxels

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Atlas", "Grid", "on_grid", "overlap_texts", "read_atlas", "region_overlaps"]


@dataclass(frozen=True)
class Grid:
    """A shape and an affine under a name, for `check_same_grid`."""

    name: str
    shape: tuple[int, ...]
    affine: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Atlas:
    """A label image with the names of its labels.

    Attributes
    ----------
    labels : int32 array, shape (X, Y, Z)
        0 outside.
    affine : float64 array, shape (4, 4)
    names : LabelNames
        A label without a name is called "label 17".
    name : str
        For messages: the file.
    """

    labels: NDArray[np.int32]
    affine: NDArray[np.float64]
    names: LabelNames = field(default_factory=lambda: LabelNames({}))
    name: str = "atlas"

    @property
    def shape(self) -> tuple[int, ...]:
        """(X, Y, Z)."""
        return self.labels.shape


def read_atlas(image: Any, names: Any = None) -> Atlas:
    """Read a label image and the names of its labels.

    Parameters
    ----------
    image : path, nibabel image, Image or Atlas
        One volume of whole numbers, 0 outside.
    names : path, DataFrame, mapping or LabelNames, optional
        As `read_label_names` takes them. None: the table that lies beside a file under the same name, such as
        `atlas_dseg.tsv` beside `atlas_dseg.nii.gz`; without one labels are called by their numbers.

    Returns
    -------
    Atlas

    Raises
    ------
    DataError
        If the image holds anything but whole numbers of 0 or more, or a table cannot be read.

    Examples
    --------
    >>> import nibabel
    >>> image = nibabel.Nifti1Image(np.array([[[0, 7, 9]]], "int16"), np.eye(4))
    >>> atlas = read_atlas(image, {7: "Precentral Gyrus"})
    >>> atlas.names.name(7), atlas.names.name(9)
    ('Precentral Gyrus', 'label 9')
    """
    if isinstance(image, Atlas):
        return image if names is None else Atlas(image.labels, image.affine, read_label_names(names), image.name)
    opened = open_image(image)
    if names is not None:
        table = read_label_names(names)
    else:
        beside = find_label_names(image) if isinstance(image, str | os.PathLike) else None
        table = LabelNames({}) if beside is None else beside
    return Atlas(read_labels(opened), opened.affine, table, opened.name)


def region_overlaps(labels: Any, atlas: Any, affine: ArrayLike | None = None) -> pd.DataFrame:
    """Say for each region how many of its voxels lie in each label of an atlas.

    Parameters
    ----------
    labels : int array, shape (X, Y, Z), or label image
        0 outside.
    atlas : Atlas, path or nibabel image
        On the grid of the labels: nothing is resampled.
    affine : array, shape (4, 4), optional
        Of `labels`; needed where they are an array.

    Returns
    -------
    pandas.DataFrame
        `id` of the region, ascending; `label`, the number in the atlas, 0 outside it; `name`, "n/a" for 0; `voxels`;
        `percent` of the region's voxels. The largest part first, of equals the lower number.

    Raises
    ------
    GridError
        If the two lie on different grids, naming both.

    Examples
    --------
    >>> atlas = Atlas(np.array([[[4, 4, 2, 0]]], np.int32), np.eye(4), LabelNames({2: "Insula", 4: "Putamen"}))
    >>> region_overlaps(np.array([[[1, 1, 1, 1]]]), atlas, np.eye(4))[["name", "percent"]].values.tolist()
    [['Putamen', 50.0], ['n/a', 25.0], ['Insula', 25.0]]
    """
    import pandas as pd

    ids, grid = on_grid(labels, affine)
    known = read_atlas(atlas)
    check_same_grid([known], reference=grid)
    voxels = RegionVoxels(ids)
    region, label, count = _counts(voxels, known)
    return pd.DataFrame(
        {
            "id": voxels.ids[region],
            "label": label.astype(np.int64),
            "name": [known.names.name(number) for number in label.tolist()],
            "voxels": count.astype(np.int64),
            "percent": 100.0 * count / voxels.sizes[region],
        }
    )


def overlap_texts(voxels: RegionVoxels, atlas: Atlas) -> list[str]:
    """Return "Precentral Gyrus 61 %; Postcentral Gyrus 30 %; n/a 9 %" for each region; parts below 0.5 % left out."""
    region, label, count = _counts(voxels, atlas)
    parts: list[list[str]] = [[] for _ in voxels.ids]
    for r, number, n in zip(region.tolist(), label.tolist(), count.tolist(), strict=True):
        percent = 100 * n / int(voxels.sizes[r])
        if percent >= 0.5:
            parts[r].append(f"{atlas.names.name(number)} {percent:.0f} %")
    return ["; ".join(part) for part in parts]


def on_grid(labels: Any, affine: ArrayLike | None, name: str = "labels") -> tuple[NDArray[Any], Grid | Image]:
    """Return labels, an array or an image, as an array, and their grid."""
    if isinstance(labels, np.ndarray):
        if affine is None:
            raise UsageError(f"{name} are an array without an affine", "pass affine=, or an image")
        return labels, Grid(name, labels.shape, np.asarray(affine, dtype=np.float64))
    opened = open_image(labels)
    return read_labels(opened), opened


def _counts(voxels: RegionVoxels, atlas: Atlas) -> tuple[NDArray[np.intp], NDArray[np.int32], NDArray[np.intp]]:
    """Region, label and number of voxels of each pair that occurs, by region, the largest part first."""
    label, code = np.unique(atlas.labels.ravel()[voxels.place], return_inverse=True)
    pair, count = np.unique(voxels.region * len(label) + code, return_counts=True)
    region, code = pair // max(len(label), 1), pair % max(len(label), 1)
    order = np.lexsort((label[code], -count, region))
    return region[order], label[code][order], count[order]
