"""Runs of a functional series: 4-D images, or lists of 3-D images that belong together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuroi.images.read import Image

__all__ = ["Run", "open_runs", "run_sources"]


class Run:
    """Volumes acquired one after the other, from one 4-D image or from one image per volume.

    Attributes
    ----------
    name : str
    images : list of Image
    shape : (int, int, int)
    affine : float64 array, shape (4, 4)
    n_volumes : int
    tr_s : float or None
    held_bytes : int
        What is held while the run is read in parts: all of it as stored, inflated; nothing of an uncompressed file.
    """

    def __init__(self, images: list[Image]) -> None:
        first = images[0]
        self.images = images
        self.name = first.name if len(images) == 1 else f"{first.name} and {len(images) - 1} more volumes"
        self.shape = first.shape
        self.affine = first.affine
        first_size = int(np.prod(first.shape))
        self.n_volumes = sum(image.n_volumes for image in images)
        self.tr_s = first.tr_s if len(images) == 1 else None
        self.held_bytes = max(
            0 if image.name.lower().endswith(".nii") else image.n_volumes * first_size * image.stored_dtype.itemsize
            for image in images
        )

    def read(self, start: int, stop: int, out: NDArray[np.float32]) -> None:
        """Read volumes `start` to `stop` into `out`, shape (stop - start, X, Y, Z)."""
        if len(self.images) == 1:
            self.images[0].read(start, stop, out=out)
            return
        for i, image in enumerate(self.images[start:stop]):
            image.read(out=out[i : i + 1])

    def release(self) -> None:
        """Drop what the images keep of a file that was read in parts."""
        for image in self.images:
            image.release()


def open_runs(bold: Any) -> list[Run]:
    """Open one or several runs and check that they lie on one grid.

    Parameters
    ----------
    bold : path, nibabel image, or a sequence of these
        Every 4-D image is a run. A list of 3-D images is one run, and so is every such list in a list.

    Returns
    -------
    list of Run

    Raises
    ------
    DataError
        If there is no image, or if 3-D and 4-D images are mixed in one list.
    GridError
        If they lie on different grids.
    """
    from gpuroi.images.grid import check_same_grid

    nested = _is_list(bold) and any(_is_list(item) for item in bold)
    runs = [run for item in (bold if nested else [bold]) for run in _runs_of(item)]
    check_same_grid([image for run in runs for image in run.images])
    return runs


def run_sources(bold: Any) -> list[Any]:
    """Return the files and images that `bold` stands for, patterns expanded."""
    from gpuroi.images.read import open_images

    if _is_list(bold):
        return [source for item in bold for source in run_sources(item)]
    if isinstance(bold, (str, os.PathLike)):
        return [Path(image.name).expanduser() for image in open_images(bold)]
    return [bold]


def _runs_of(item: Any) -> list[Run]:
    from gpuroi.images.read import open_images

    images = open_images(item)
    if len(images) > 1 and all(image.n_volumes == 1 for image in images):
        return [Run(images)]
    single = [image.name for image in images if image.n_volumes == 1]
    if len(images) > 1 and single:
        raise DataError(
            f"{single[0]} has one volume, but it stands in a list with images of several",
            "give 4-D images, one per run, or for every run a list of its 3-D images",
        )
    return [Run([image]) for image in images]


def _is_list(item: Any) -> bool:
    return isinstance(item, (list, tuple))
