"""The mean of images."""

from __future__ import annotations

import contextvars
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.nilearn.argument_checks import check_types, n_threads_of
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.mean_volume import mean_on_grid
from gpuroi.nilearn.niimg import as_list, check_niimg, is_image, is_surface
from gpuroi.nilearn.resampling import check_target
from gpuroi.nilearn.surface_images import all_surfaces, mean_surface
from gpuroi.nilearn.volume_series import open_series

__all__ = ["mean_img"]


def mean_img(
    imgs: Any,
    target_affine: Any = None,
    target_shape: Any = None,
    verbose: int = 0,
    n_jobs: int = 1,
    copy_header: bool = True,
) -> Any:
    """Average images over their fourth axis and over one another; as `nilearn.image.mean_img`.

    Parameters
    ----------
    imgs : str, path, nibabel image, SurfaceImage, or iterable of these
        Of several 4-D images the mean of each is taken first. Files are read volume by volume.
    target_affine : array, shape (3, 3) or (4, 4), optional
        Bring the means to this grid before they are averaged; default that of the first image.
    target_shape : sequence of three int, optional
        Only with an affine of four by four.
    verbose : int, default 0
        Nothing is printed.
    n_jobs : int, default 1
        Number of images that are read at once, in threads; -1: one a processor.
    copy_header : bool, default True
        Keep the header of the first image.

    Returns
    -------
    nibabel image or SurfaceImage
        float32 for float32 images, else float64.

    Raises
    ------
    TypeError
        If it is no image.
    DataError
        If an image has neither three nor four axes.

    Notes
    -----
    As nilearn, but float32 images are summed in float64, and integers are never added in their own type, where large
    values wrap around.

    Examples
    --------
    >>> import nibabel
    >>> ones = nibabel.Nifti1Image(np.ones((2, 2, 2, 3), np.int16), np.eye(4))
    >>> mean_img([ones, nibabel.Nifti1Image(np.full((2, 2, 2), 4, np.int16), np.eye(4))]).get_fdata()[0, 0]
    array([2.5, 2.5])
    """
    check_types(
        verbose=verbose, n_jobs=n_jobs, copy_header=copy_header, target_affine=target_affine, target_shape=target_shape
    )
    check_target(target_affine, target_shape)
    n_threads = n_threads_of(n_jobs)
    given = as_list(imgs)
    if is_surface(given) or all_surfaces(given):
        return mean_surface([given] if is_surface(given) else given)
    if isinstance(given, str | os.PathLike) or is_image(given) or not isinstance(given, list | tuple):
        given = [given]
    if not given:
        raise TypeError("Cannot average empty objects.")
    first = check_niimg(given[0])
    mean, affine = _mean_of(first, target_affine, target_shape)
    dtype = np.float32 if mean.dtype == np.float32 else np.float64
    if len(given) == 1:
        return new_img_like(first, mean.astype(dtype, copy=False), affine, copy_header=copy_header)
    total = mean.astype(np.float64)
    if target_affine is None or target_shape is None:
        target_affine, target_shape = affine, mean.shape
    for other in _means(given[1:], target_affine, target_shape, n_threads):
        total += other
    result = (total / len(given)).astype(dtype, copy=False)
    return new_img_like(first, result, np.asarray(target_affine), copy_header=copy_header)


def _means(images: Any, target_affine: Any, target_shape: Any, n_threads: int) -> Iterator[NDArray[Any]]:
    """Yield the means of images in their order, a few ahead of time."""
    with ThreadPoolExecutor(n_threads) as pool:
        waiting = []
        for image in images:
            context = contextvars.copy_context()  # the caller's limit of threads holds in them too
            waiting.append(pool.submit(context.run, _mean_of, image, target_affine, target_shape))
            if len(waiting) > n_threads:
                yield waiting.pop(0).result()[0]
        for future in waiting:
            yield future.result()[0]


def _mean_of(given: Any, target_affine: Any, target_shape: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the mean of one image (X, Y, Z) and its affine, on the target if there is one."""
    return mean_on_grid(open_series(given), target_affine, target_shape)
