"""One operation on image files: read, work where the device is, write whole or not at all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpuroi.errors import DataError, UsageError
from gpuroi.workflows.volume_job import VolumeJob, VolumesResult
from gpuroi.workflows.volume_ttest import ttest_image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gpuroi.backends import Array, Backend

__all__ = ["VolumesResult", "dilate_image", "label_image", "smooth_image", "threshold_image", "ttest_image"]

Mode = Literal["reflect", "nearest", "mirror", "wrap", "constant"]

_FINITE_BYTES = 9  # whether a voxel is finite, and a copy of the volume without those that are not
_MASK_BYTES = 3  # a voxel of which it is asked whether it is inside: three bools


def threshold_image(
    image: str | Path,
    out: str | Path,
    *,
    threshold: float | str,
    two_sided: bool = True,
    cluster_threshold: int = 0,
    min_size_mm3: float = 0.0,
    connectivity: int = 6,
    mask: str | Path | None = None,
    device: str = "auto",
    memory_limit: int | str | None = None,
    overwrite: bool = False,
) -> VolumesResult:
    """Keep the values of an image that reach a threshold and set all others to 0.

    Parameters
    ----------
    image, out : path
        NIfTI images, 3-D or 4-D; volumes are thresholded one by one.
    threshold : float or str
        A value, or a percentile such as "97%", taken in each volume over the finite values inside the mask (without
        one, of all voxels).
    two_sided : bool, default True
        True keeps ``|x| >= threshold``. False keeps ``x >= threshold``, or ``x <= threshold`` if that is negative.
    cluster_threshold : int, default 0
        Keep only clusters of at least this many voxels.
    min_size_mm3 : float, default 0.0
        The same in mm3; give one of the two.
    connectivity : {6, 18, 26}, default 6
    mask : path, optional
        Non-zero inside; what lies outside becomes 0.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default "auto"
    memory_limit : int or str, optional
        Bytes to work with on the device, as 4e9 or "4GB".
    overwrite : bool, default False

    Returns
    -------
    VolumesResult
        `counts` holds `voxels_kept` and `cutoff`, one a volume, and `rule`, which says in words what was compared.

    Raises
    ------
    UsageError, DataError, DeviceError, OutputError

    See Also
    --------
    gpuroi.images.threshold : the same as a function of an image, with the rules in full.
    """
    from gpuroi.images.threshold_image import as_cutoff, keep_volumes, refuse_empty, rule_text, smallest_voxels

    wanted = as_cutoff(threshold, two_sided)
    job = VolumeJob("threshold", image, [out], mask=mask, device=device, memory_limit=memory_limit, overwrite=overwrite)
    smallest = smallest_voxels(cluster_threshold, min_size_mm3, job.images[0].affine)
    how: dict[str, Any] = {"two_sided": two_sided, "smallest": smallest, "connectivity": connectivity}
    cutoffs = np.zeros(job.images[0].n_volumes)

    def keep(data: Array, part: slice) -> Array:
        kept, cutoffs[part] = keep_volumes(data, wanted, **how, inside=job.inside, backend=job.backend)
        return kept

    bytes_each = job.peak_bytes("threshold", clusters=smallest > 1, percentile=isinstance(wanted, str))
    kept = job.each_volume(keep, bytes_each=bytes_each + _FINITE_BYTES * math.prod(job.images[0].shape))
    refuse_empty(cutoffs.tolist(), wanted, job.images[0].name)
    counts = {
        "voxels_kept": [int(np.count_nonzero(volume)) for volume in kept],
        "cutoff": cutoffs.tolist(),
        "rule": rule_text(cutoffs.tolist(), wanted, two_sided=two_sided, masked=mask is not None),
    }
    settings = {
        "threshold": wanted,
        "two_sided": two_sided,
        "cluster_threshold": cluster_threshold,
        "min_size_mm3": min_size_mm3,
        "connectivity": connectivity,
    }
    return job.save([kept], settings, counts, contents=["values that pass, 0 elsewhere"])


def smooth_image(
    image: str | Path,
    out: str | Path,
    *,
    fwhm: float | Sequence[float],
    mode: Mode = "reflect",
    mask: str | Path | None = None,
    device: str = "auto",
    memory_limit: int | str | None = None,
    overwrite: bool = False,
) -> VolumesResult:
    """Smooth an image with a Gaussian.

    Parameters
    ----------
    image, out : path
        NIfTI images, 3-D or 4-D; volumes are smoothed one by one, in space only.
    fwhm : float or three floats
        Full width at half maximum in mm, along all axes or along each. The voxel size is the image's own.
    mode : {"reflect", "nearest", "mirror", "wrap", "constant"}
        What lies beyond the edge of the volume.
    mask : path, optional
        Non-zero inside: voxels inside are averaged with those inside only, and the result is 0 outside.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default "auto"
    memory_limit : int or str, optional
        Bytes to work with on the device, as 4e9 or "4GB".
    overwrite : bool, default False

    Returns
    -------
    VolumesResult

    Raises
    ------
    UsageError, DataError, DeviceError, OutputError

    See Also
    --------
    gpuroi.ops.smooth : the same for arrays.
    """
    from gpuroi.ops import smooth

    width = _one_or_three(fwhm)
    job = VolumeJob("smooth", image, [out], mask=mask, device=device, memory_limit=memory_limit, overwrite=overwrite)
    x_mm, y_mm, z_mm = job.images[0].zooms_mm.tolist()
    smoothed = job.each_volume(
        lambda data, _: smooth(data, width, (x_mm, y_mm, z_mm), mode=mode, mask=job.inside),
        bytes_each=job.peak_bytes("smooth"),
    )
    settings = {"fwhm_mm": width, "voxel_size_mm": [x_mm, y_mm, z_mm], "mode": mode}
    return job.save([smoothed], settings, {}, contents=["smoothed image"])


def dilate_image(
    image: str | Path,
    out: str | Path,
    *,
    iterations: int = 1,
    connectivity: int = 6,
    mask: str | Path | None = None,
    device: str = "auto",
    memory_limit: int | str | None = None,
    overwrite: bool = False,
) -> VolumesResult:
    """Grow a mask by its neighbours.

    Parameters
    ----------
    image, out : path
        NIfTI images, 3-D or 4-D. Non-zero is inside (NaN is not); what is written is 0 and 1.
    iterations : int, default 1
        How many voxels to grow by; 0 grows until nothing changes.
    connectivity : {6, 18, 26}, default 6
    mask : path, optional
        Grow only where it is not 0.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default "auto"
    memory_limit : int or str, optional
        Bytes to work with on the device, as 4e9 or "4GB".
    overwrite : bool, default False

    Returns
    -------
    VolumesResult
        `counts` holds `voxels_before` and `voxels_after`, one a volume.

    Raises
    ------
    UsageError, DataError, DeviceError, OutputError

    See Also
    --------
    gpuroi.ops.binary_dilation : the same for arrays, with any structuring element.
    """
    from gpuroi.ops import binary_dilation

    if iterations < 0:
        raise UsageError(f"iterations is {iterations}, must be 0 or more", "0 grows until nothing changes")
    job = VolumeJob("dilate", image, [out], mask=mask, device=device, memory_limit=memory_limit, overwrite=overwrite)
    before = np.zeros(job.images[0].n_volumes, np.int64)

    def grow(data: Array, part: slice) -> Array:
        seeds = _is_inside(job.backend, data)
        before[part] = job.backend.to_numpy(seeds.sum(axis=(1, 2, 3)))
        return binary_dilation(seeds, connectivity, iterations, job.inside)

    bytes_each = job.peak_bytes("binary_dilation", np.bool_, iterations=iterations) + _mask_bytes(job)
    grown = job.each_volume(grow, np.uint8, bytes_each=bytes_each)
    after = [int(np.count_nonzero(volume)) for volume in grown]
    settings = {"iterations": iterations, "connectivity": connectivity}
    return job.save(
        [grown], settings, {"voxels_before": before.tolist(), "voxels_after": after}, contents=["mask, 0 and 1"]
    )


def label_image(
    image: str | Path,
    out: str | Path,
    *,
    connectivity: int = 6,
    device: str = "auto",
    memory_limit: int | str | None = None,
    overwrite: bool = False,
) -> VolumesResult:
    """Number the connected components of a mask.

    Parameters
    ----------
    image, out : path
        NIfTI images, 3-D or 4-D. Non-zero is inside (NaN is not); what is written is int32, 0 outside, 1..n
        by the first voxel in C order, in each volume anew.
    connectivity : {6, 18, 26}, default 6
    device : {"auto", "cpu", "cuda", "cuda:N"}, default "auto"
    memory_limit : int or str, optional
        Bytes to work with on the device, as 4e9 or "4GB".
    overwrite : bool, default False

    Returns
    -------
    VolumesResult
        `counts` holds `components`, one a volume.

    Raises
    ------
    UsageError, DeviceError, OutputError
    DataError
        Also if there are values of both signs: those are clusters of a statistical map, of which a positive
        and a negative one that touch are not one component.

    See Also
    --------
    gpuroi.ops.label : the same for arrays.
    gpuroi.regions : regions of a statistical map.
    """
    from gpuroi.ops import label

    job = VolumeJob("label", image, [out], device=device, memory_limit=memory_limit, overwrite=overwrite)
    found = np.zeros(job.images[0].n_volumes, np.int64)

    def number(data: Array, part: slice) -> Array:
        if bool((data < 0).any()) and bool((data > 0).any()):  # sync: reads two bools
            raise DataError(
                f"{job.images[0].name} has positive and negative values: a mask, 0 outside, was expected",
                "for the regions of a statistical map use: gpuroi regions",
            )
        labels, counts = label(_is_inside(job.backend, data), connectivity)
        found[part] = job.backend.to_numpy(counts)
        return labels

    bytes_each = job.peak_bytes("label", np.bool_) + _mask_bytes(job)
    labels = job.each_volume(number, np.int32, bytes_each=bytes_each)
    settings = {"connectivity": connectivity}
    return job.save([labels], settings, {"components": found.tolist()}, contents=["labels 1..n, 0 outside"])


def _is_inside(backend: Backend, data: Array) -> Array:
    """Non-zero, and not NaN."""
    return (data != 0) & ~backend.xp.isnan(data)


def _mask_bytes(job: VolumeJob) -> int:
    return _MASK_BYTES * math.prod(job.images[0].shape)


def _one_or_three(fwhm: float | Sequence[float]) -> float | tuple[float, float, float]:
    if isinstance(fwhm, int | float):
        return float(fwhm)
    widths = [float(width) for width in fwhm]
    if len(widths) == 1:
        return widths[0]
    if len(widths) != 3:
        raise UsageError(f"fwhm has {len(widths)} numbers", "give one in mm, or three: X, Y and Z")
    return widths[0], widths[1], widths[2]
