"""Threshold images, by value or percentile and by size, and say where the cutoff came to lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends import get_backend
from gpuroi.errors import DataError, UsageError
from gpuroi.images.grid import voxel_volume_mm3

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from gpuroi.backends.base import Array, Backend
    from gpuroi.images.read import Image

__all__ = ["ThresholdedImage", "as_cutoff", "keep_volumes", "refuse_empty", "rule_text", "smallest_voxels", "threshold"]


@dataclass(frozen=True)
class ThresholdedImage:
    """An image after a threshold, and what the threshold came to.

    Attributes
    ----------
    image : nibabel image
        The values that pass, 0 elsewhere; float32, or float64 where float32 would round what is stored.
    cutoff : float, or tuple of float
        What values were compared with; of a 4-D image one for each volume, NaN where that has no value to take the
        percentile of.
    rule : str
        In words, such as ``|x| >= 2.31 (97% of 228483 values of |x| inside the mask)``.
    voxels_kept : int, or tuple of int
    device : str
        Where it ran: "cpu", "cuda:0".
    """

    image: Any
    cutoff: float | tuple[float, ...]
    rule: str
    voxels_kept: int | tuple[int, ...]
    device: str


def threshold(
    img: Any,
    cutoff: float | str,
    *,
    two_sided: bool = True,
    cluster_threshold: int = 0,
    min_size_mm3: float = 0.0,
    connectivity: int = 6,
    mask: Any = None,
    device: str = "auto",
) -> ThresholdedImage:
    """Keep the values of an image that reach a cutoff and set all others to 0.

    Parameters
    ----------
    img : path or image
        3-D, or 4-D, whose volumes are thresholded one by one.
    cutoff : float or str
        A value, or a percentile such as "97%" of the voxels inside the mask (without a mask: of all, the zeros of the
        background too) that hold a finite value: of ``|x|`` if two-sided, else of the values that are not negative.
    two_sided : bool, default True
        True keeps ``|x| >= cutoff``. False keeps ``x >= cutoff``, or ``x <= cutoff`` if that is negative.
    cluster_threshold : int, default 0
        Keep only clusters of at least this many voxels. Positive and negative values form clusters apart.
    min_size_mm3 : float, default 0.0
        The same in mm3; give one of the two.
    connectivity : {6, 18, 26}, default 6
        Neighbours of a voxel: faces; and edges; and corners.
    mask : path or image, optional
        Non-zero inside, on the grid of the image. Applied first.
    device : {"auto", "cpu", "cuda", "cuda:N"}

    Returns
    -------
    ThresholdedImage

    Raises
    ------
    UsageError
        A negative cutoff with both sides kept; a percentile outside 0 to 100; both sizes given, or a negative one.
    DataError
        A file that cannot be used, or nothing to take the percentile of.
    GridError
        A mask on another grid.
    DeviceError
        If the device asked for cannot be used.

    Notes
    -----
    NaN and infinite values count for no percentile and become 0. A cutoff is compared in the precision of the data, so
    that a float32 map of 2.3 is kept at 2.3. A cluster of exactly the smallest size stays. nilearn's `threshold_img`
    takes percentiles over all voxels, also those outside the mask; here the mask comes first.

    See Also
    --------
    gpuroi.ops.threshold : the same for arrays.

    Examples
    --------
    >>> import nibabel
    >>> values = np.array([[[-3.0, -1.0, 0.0, 2.0, 3.0]]], np.float32)
    >>> result = threshold(nibabel.Nifti1Image(values, np.eye(4)), "75%", device="cpu")
    >>> result.image.get_fdata()[0, 0].tolist(), result.rule
    ([-3.0, 0.0, 0.0, 0.0, 3.0], '|x| >= 3 (75% of |x|, all voxels)')
    """
    from gpuroi.images.make_image import image_like
    from gpuroi.images.masks import read_mask
    from gpuroi.images.read import open_image

    wanted = as_cutoff(cutoff, two_sided)
    image = open_image(img)
    smallest = smallest_voxels(cluster_threshold, min_size_mm3, image.affine)
    backend = get_backend(device)
    inside = None if mask is None else read_mask(mask, image)
    values = image.read(dtype=np.float64 if _is_wide(image) else np.float32)
    with backend.activate():
        on_device, cutoffs = keep_volumes(
            backend.asarray(values),
            wanted,
            two_sided=two_sided,
            smallest=smallest,
            connectivity=connectivity,
            inside=None if inside is None else backend.asarray(inside),
            backend=backend,
        )
        kept = backend.to_numpy(on_device)
    refuse_empty(cutoffs, wanted, image.name)
    counts = tuple(int(np.count_nonzero(volume)) for volume in kept)
    return ThresholdedImage(
        image=image_like(kept if image.is_4d else kept[0], image),
        cutoff=tuple(cutoffs) if image.is_4d else cutoffs[0],
        rule=rule_text(cutoffs, wanted, two_sided=two_sided, masked=mask is not None),
        voxels_kept=counts if image.is_4d else counts[0],
        device=backend.device,
    )


def as_cutoff(cutoff: float | str, two_sided: bool) -> float | str:
    """Return a value as a float, be it written as text, and a percentile as text; refuse what is neither.

    Raises
    ------
    UsageError
        Text that is no number; NaN; a percentile outside 0 to 100; a negative value with both sides kept.

    Examples
    --------
    >>> as_cutoff("3.1", True), as_cutoff(" 97% ", True)
    (3.1, '97%')
    """
    text = cutoff.strip() if isinstance(cutoff, str) else ""
    try:
        value = float(text.removesuffix("%") if text else cutoff)
    except ValueError:
        raise UsageError(f'the threshold is "{cutoff}"', 'give a value such as 3.1, or a percentile: "97%"') from None
    if math.isnan(value):
        raise UsageError("the threshold is NaN", "give a number, or a percentile such as 97%")
    if text.endswith("%"):
        if not 0 <= value <= 100:
            raise UsageError(f"the percentile {text} is outside 0 to 100", "write it like 97%")
        return text
    if two_sided and value < 0:
        raise UsageError(
            f"the threshold {value:g} is negative, but both sides are kept",
            "give its absolute value, or keep one side: what lies below it (--one-sided, two_sided=False)",
        )
    return value


def smallest_voxels(cluster_threshold: int, min_size_mm3: float, affine: ArrayLike) -> int:
    """Return the smallest cluster kept in voxels, from voxels or from mm3.

    Raises
    ------
    UsageError
        If both are given, or one is negative or not finite.

    Examples
    --------
    >>> smallest_voxels(0, 100.0, np.diag([3.0, 3.0, 3.0, 1.0]))
    4
    """
    if cluster_threshold < 0:
        raise UsageError(f"cluster_threshold is {cluster_threshold} voxels", "give 0 or more")
    if not (math.isfinite(min_size_mm3) and min_size_mm3 >= 0):
        raise UsageError(f"min_size_mm3 is {min_size_mm3}", "give mm3, 0 to keep every size")
    if cluster_threshold and min_size_mm3:
        raise UsageError(
            f"cluster_threshold is {cluster_threshold} voxels and min_size_mm3 is {min_size_mm3:g}", "give one of them"
        )
    # A hair below the limit counts as the limit: 27 voxels of 0.1 mm3 are 2.7 mm3, whatever the last bit says.
    return cluster_threshold or math.ceil(min_size_mm3 * (1 - 1e-9) / voxel_volume_mm3(affine))


def keep_volumes(
    data: Array,
    cutoff: float | str,
    *,
    two_sided: bool,
    smallest: int,
    connectivity: int,
    inside: Array | None,
    backend: Backend,
) -> tuple[Array, list[float]]:
    """Threshold volumes that lie on the device.

    Parameters
    ----------
    data : float32 or float64 array, shape (n, X, Y, Z)
    cutoff : float or str
        From `as_cutoff`.
    two_sided, connectivity
        As in `threshold`.
    smallest : int
        Of the clusters kept, in voxels.
    inside : bool array, shape (X, Y, Z), optional
    backend : Backend

    Returns
    -------
    kept : array, shape, dtype and device of `data`
        What is not finite is 0.
    cutoffs : list of float
        What each volume was compared with; NaN where it has no value to take the percentile of: it keeps nothing.
    """
    from gpuroi.ops import percentile_cutoff
    from gpuroi.ops import threshold as threshold_array

    xp = backend.xp
    how: dict[str, Any] = {
        "two_sided": two_sided,
        "cluster_threshold": smallest,
        "connectivity": connectivity,
        "mask": inside,
    }
    finite = xp.isfinite(data)
    if not bool(finite.all()):  # sync: reads one bool
        data = xp.where(finite, data, data.dtype.type(np.nan))  # NaN is in no population and is never kept
    if not isinstance(cutoff, str):
        return threshold_array(data, cutoff, **how), [cutoff] * len(data)
    found = percentile_cutoff(data, cutoff, two_sided=two_sided, mask=inside)
    cutoffs = [float(number) for number in backend.to_numpy(found)]
    kept = [
        xp.zeros_like(data[i : i + 1]) if math.isnan(number) else threshold_array(data[i : i + 1], number, **how)
        for i, number in enumerate(cutoffs)
    ]
    return kept[0] if len(kept) == 1 else xp.concatenate(kept), cutoffs


def refuse_empty(cutoffs: Sequence[float], asked: float | str, name: str) -> None:
    """Raise `DataError` if no volume has a value to take the percentile of."""
    if all(math.isnan(number) for number in cutoffs):
        raise DataError(
            f"{name}: no voxel to take the percentile {asked} of: nothing inside the mask has a value",
            "check that the mask covers the map",
        )


def rule_text(cutoffs: Sequence[float], asked: float | str, *, two_sided: bool, masked: bool) -> str:
    """Say what was compared, and of what a percentile was taken.

    Examples
    --------
    >>> rule_text([2.5], "97%", two_sided=False, masked=True)
    'x >= 2.5 (97% of x >= 0, voxels inside the mask)'
    """
    numbers = [number for number in cutoffs if not math.isnan(number)]
    least, most = min(numbers), max(numbers)
    compared = "|x| >=" if two_sided else ("x >=" if least >= 0 else "x <=")
    number = f"{least:.6g}" if least == most else f"{least:.6g} to {most:.6g}"
    if not isinstance(asked, str):
        return f"{compared} {number}"
    population = "|x|" if two_sided else "x >= 0"
    return f"{compared} {number} ({asked} of {population}, {'voxels inside the mask' if masked else 'all voxels'})"


def _is_wide(image: Image) -> bool:
    """Whether float32 would round the stored numbers."""
    return image.stored_dtype.itemsize >= (8 if image.stored_dtype.kind == "f" else 4)
