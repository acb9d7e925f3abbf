"""Connected regions of a statistical map, each sign apart, whole or split around their local maxima."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpuroi.backends import get_backend
from gpuroi.errors import DataError, UsageError
from gpuroi.images.grid import voxel_sizes_mm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuroi.backends.base import Backend
    from gpuroi.images.read import Image

__all__ = ["ImageRegions", "check_rules", "label_regions", "regions"]

Seeds = Literal["local-maxima"]


@dataclass(frozen=True)
class ImageRegions:
    """Connected regions of a map.

    Attributes
    ----------
    labels : int32 array, shape (X, Y, Z)
        0 outside; the positive regions from 1, then the negative ones, each by first voxel in C order.
    n_positive, n_negative : int
    kept : float32 array, shape (X, Y, Z)
        The values that pass the threshold, 0 elsewhere, before small regions were left out.
    cutoff : float
        What values were compared with.
    rule : str
        In words, with the population of a percentile.
    voxels_inside : int
        Voxels of the mask, or of the image.
    device : str
        Where it ran: "cpu", "cuda:0".
    like : Image
        The map.
    """

    labels: NDArray[np.int32]
    n_positive: int
    n_negative: int
    kept: NDArray[np.float32] = field(repr=False)
    cutoff: float
    rule: str
    voxels_inside: int
    device: str
    like: Image = field(repr=False)

    @property
    def image(self) -> Any:
        """The labels as a nibabel image, int32, in the space of the map."""
        from gpuroi.images.make_image import image_like

        return image_like(self.labels, self.like)


def regions(
    img: Any,
    *,
    threshold: float | str = 0.0,
    two_sided: bool = True,
    min_size_mm3: float = 0.0,
    connectivity: int = 6,
    mask: Any = None,
    seeds: Seeds | None = None,
    seed_distance_mm: float = 20.0,
    seed_fwhm_mm: float = 6.0,
    device: str = "auto",
) -> ImageRegions:
    """Find the connected regions of a map.

    Parameters
    ----------
    img : path or image
        One volume.
    threshold : float or str, default 0.0
        A value, or a percentile such as "97%", as `gpuroi.images.threshold` takes it. 0 takes all that is not 0.
    two_sided : bool, default True
        True keeps ``|x| >= threshold``; positive and negative voxels never make one region. False keeps
        ``x >= threshold``, or ``x <= threshold`` if that is negative.
    min_size_mm3 : float, default 0.0
        Regions of at least this many mm3 are kept.
    connectivity : {6, 18, 26}, default 6
        Which neighbours make one region: faces; and edges; and corners.
    mask : path or image, optional
        Non-zero inside, on the grid of the map. Applied first.
    seeds : {"local-maxima"}, optional
        None: a region is a connected component. "local-maxima": components with several peaks are split by a random
        walker that starts at each; a component without a peak of its own stays whole.
    seed_distance_mm : float, default 20.0
        Peaks are the largest of a box that reaches so far along each axis.
    seed_fwhm_mm : float, default 6.0
        Peaks are sought in |x| after the threshold, smoothed by so much; 0 for not at all.
    device : {"auto", "cpu", "cuda", "cuda:N"}
        Local maxima and the random walker work on the CPU on any device, so that labels are the same on all.

    Returns
    -------
    ImageRegions

    Raises
    ------
    UsageError
        An argument outside its range.
    DataError
        A file that cannot be used, several volumes, or a map without a finite value.
    GridError
        A mask on another grid.
    DeviceError
        If the device asked for cannot be used.

    Notes
    -----
    Zeros, NaN and infinite values lie in no region. A region of exactly the smallest size stays, which nilearn's
    `connected_regions` drops. The defaults of the seeds are nilearn's for voxels of 2 mm.

    Examples
    --------
    >>> import nibabel
    >>> values = np.array([[[3.0, 5.0, 3.0, 1.0, 3.0, 6.0, 3.0, -4.0]]], np.float32)
    >>> img = nibabel.Nifti1Image(values, np.eye(4))
    >>> regions(img, threshold=1, device="cpu").labels[0, 0].tolist()
    [1, 1, 1, 1, 1, 1, 1, 2]
    >>> regions(img, seeds="local-maxima", seed_distance_mm=2, seed_fwhm_mm=0, device="cpu").labels[0, 0].tolist()
    [1, 1, 1, 1, 2, 2, 2, 3]
    """
    from gpuroi.images.masks import read_mask
    from gpuroi.images.read import open_image
    from gpuroi.images.threshold_image import as_cutoff, keep_volumes, refuse_empty, rule_text

    check_rules(min_size_mm3, connectivity, seeds, seed_distance_mm, seed_fwhm_mm)
    cutoff = as_cutoff(threshold, two_sided)
    image = open_image(img)
    values = image.read_one()
    if not np.isfinite(values).any():
        raise DataError(f"{image.name}: all values are NaN or infinite", "check how the map was made")
    backend = get_backend(device)
    inside = None if mask is None else read_mask(mask, image)
    how: dict[str, Any] = {"two_sided": two_sided, "smallest": 0, "connectivity": connectivity}
    with backend.activate():
        where = None if inside is None else backend.asarray(inside)
        passing, cutoffs = keep_volumes(backend.asarray(values[None]), cutoff, **how, inside=where, backend=backend)
        kept = backend.to_numpy(passing)[0]
        refuse_empty(cutoffs, cutoff, image.name)
        labels, n_positive, n_negative = label_regions(
            kept,
            image.affine,
            min_size_mm3=min_size_mm3,
            connectivity=connectivity,
            seed_distance_mm=None if seeds is None else seed_distance_mm,
            seed_fwhm_mm=seed_fwhm_mm,
            backend=backend,
        )
    rule = rule_text(cutoffs, cutoff, two_sided=two_sided, masked=mask is not None)
    n_inside = int(values.size if inside is None else inside.sum())
    return ImageRegions(labels, n_positive, n_negative, kept, cutoffs[0], rule, n_inside, backend.device, image)


def check_rules(
    min_size_mm3: float, connectivity: int, seeds: str | None, seed_distance_mm: float, seed_fwhm_mm: float
) -> None:
    """Raise `UsageError` unless all are in their range."""
    if not (math.isfinite(min_size_mm3) and min_size_mm3 >= 0):
        raise UsageError(f"min_size_mm3 is {min_size_mm3}", "give mm3, 0 to keep every region")
    if connectivity not in (6, 18, 26):
        raise UsageError(f"connectivity is {connectivity!r}", "use 6 (faces), 18 (and edges) or 26 (and corners)")
    if seeds not in (None, "local-maxima"):
        raise UsageError(f'seeds is "{seeds}"', 'use "local-maxima", or nothing for connected components')
    if seeds is None:
        return
    if not (math.isfinite(seed_distance_mm) and seed_distance_mm > 0):
        raise UsageError(f"seed_distance_mm is {seed_distance_mm}", "give mm, more than 0")
    if not (math.isfinite(seed_fwhm_mm) and seed_fwhm_mm >= 0):
        raise UsageError(f"seed_fwhm_mm is {seed_fwhm_mm}", "give mm, 0 for no smoothing")


def label_regions(
    kept: NDArray[np.float32],
    affine: NDArray[np.float64],
    *,
    min_size_mm3: float,
    connectivity: int,
    seed_distance_mm: float | None,
    seed_fwhm_mm: float,
    backend: Backend,
) -> tuple[NDArray[np.int32], int, int]:
    """Label what is positive, then what is negative.

    Parameters
    ----------
    kept : float32 array, shape (X, Y, Z)
        On the host; 0 where nothing is.
    affine : array, shape (4, 4)
    min_size_mm3, connectivity, seed_distance_mm, seed_fwhm_mm
        As in `regions`; without a distance regions are components.
    backend : Backend

    Returns
    -------
    labels : int32 array, shape (X, Y, Z)
    n_positive, n_negative : int
    """
    from gpuroi.images.small_regions import drop_small_regions
    from gpuroi.ops import label

    both = []
    for sign in (1, -1):
        found, n = label(backend.asarray(kept > 0 if sign > 0 else kept < 0), connectivity)
        labels = backend.to_numpy(found)
        if seed_distance_mm is not None and n:
            labels, n = _split(labels, n, np.abs(kept), affine, connectivity, seed_distance_mm, seed_fwhm_mm, backend)
        both.append(drop_small_regions(labels, n, min_size_mm3=min_size_mm3, affine=affine))
    (positive, n_positive), (negative, n_negative) = both
    labels = np.where(negative != 0, negative + np.int32(n_positive), positive).astype(np.int32, copy=False)
    return labels, n_positive, n_negative


def _split(
    pieces: NDArray[np.int32],
    n: int,
    height: NDArray[np.float32],
    affine: NDArray[np.float64],
    connectivity: int,
    distance_mm: float,
    fwhm_mm: float,
    backend: Backend,
) -> tuple[NDArray[np.int32], int]:
    """Split components around the peaks of the smoothed height."""
    from gpuroi.images.region_seeds import local_maxima, random_walker
    from gpuroi.ops import label, smooth

    alone = np.where(pieces != 0, height, np.float32(0))
    zooms = voxel_sizes_mm(affine)
    smoothed = alone
    if fwhm_mm:
        smoothed = backend.to_numpy(smooth(backend.asarray(alone), fwhm_mm, tuple(zooms.tolist())))
    half = np.maximum(1, np.floor(distance_mm / zooms * (1 + 1e-9))).astype(int)
    peaks = local_maxima(smoothed, min_distance=half.tolist(), threshold_rel=0.0) & (pieces != 0)
    marks, n_peaks = label(peaks, 26)
    owner = random_walker(alone, np.where(pieces != 0, marks, -1), connectivity=connectivity)
    return _renumbered(np.where((owner == 0) & (pieces != 0), pieces + np.int32(n_peaks), owner), n + n_peaks)


def _renumbered(labels: NDArray[np.int32], most: int) -> tuple[NDArray[np.int32], int]:
    """Number the labels that occur by their first voxels in C order."""
    found, first = np.unique(labels.ravel(), return_index=True)
    ordered = found[np.argsort(first, kind="stable")]
    ordered = ordered[ordered != 0]
    number = np.zeros(most + 1, np.int32)
    number[ordered] = np.arange(1, len(ordered) + 1)
    return number[labels], len(ordered)
