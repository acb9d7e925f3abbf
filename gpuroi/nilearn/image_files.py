"""Images from files, and images made like others."""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuroi.nilearn import exceptions
from gpuroi.nilearn.argument_checks import check_types
from gpuroi.nilearn.niimg import as_list, check_niimg, is_image, is_surface

__all__ = ["load_img", "new_img_like"]

_ZEROED = ("scl_slope", "scl_inter", "glmax")  # header fields that described the other image's voxels


def load_img(img: Any, wildcards: bool = True, dtype: DTypeLike | None = None) -> Any:
    """Open an image, or join a list of images; as `nilearn.image.load_img`.

    Parameters
    ----------
    img : str, path, nibabel image, or (nested) iterable of these
        "~" is the home folder; a pattern with `*`, `?` or `[...]` stands for its files, in ascending order.
    wildcards : bool, default True
        False takes `*`, `?` and "~" literally.
    dtype : dtype or "auto", optional
        Type of the result's data; "auto" is int32 for integers, else float32.

    Returns
    -------
    nibabel image
        3-D or 4-D; the one given, unchanged, where nothing had to be done. Voxels of files are read when asked for.

    Raises
    ------
    TypeError
        If it is no image, or the images of a list have different numbers of axes.
    DataError
        If a file or the files of a pattern are missing, or a file is damaged; a ValueError.
    GridError
        If images of a list lie on different grids; a ValueError.

    Examples
    --------
    >>> import nibabel
    >>> zeros = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.float32), np.eye(4))
    >>> load_img([zeros, zeros]).shape
    (2, 3, 4, 2)
    """
    return check_niimg(img, wildcards=wildcards, dtype=dtype)


def new_img_like(ref_niimg: Any, data: Any, affine: NDArray[Any] | None = None, copy_header: bool = True) -> Any:
    """Make an image of the kind of another; as `nilearn.image.new_img_like`.

    Parameters
    ----------
    ref_niimg : nibabel image, path, list of these, or SurfaceImage
        Of a list the first counts.
    data : array; for surfaces PolyData or dict of arrays
        bool becomes uint8; 64-bit integers become int32, with a warning, where they fit.
    affine : array, shape (4, 4), optional
        Default: that of `ref_niimg`.
    copy_header : bool, default True
        Keep the header of `ref_niimg` but for scaling and range of its voxels.

    Returns
    -------
    nibabel image of the class of `ref_niimg`, or SurfaceImage
        It holds `data` itself, not a copy.

    Raises
    ------
    TypeError
        If `ref_niimg` is no image.

    Examples
    --------
    >>> import nibabel
    >>> image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.float32), np.diag([2, 2, 2, 1]))
    >>> new_img_like(image, np.ones((2, 3, 4), bool)).dataobj.dtype
    dtype('uint8')
    """
    check_types(copy_header=copy_header)
    if is_surface(ref_niimg):
        return type(ref_niimg)(mesh=copy.deepcopy(ref_niimg.mesh), data=data)
    reference = _reference(ref_niimg)
    if data.dtype == bool:
        data = data.view(np.uint8)
    data = _without_int64(data)
    header = _header(reference, data) if copy_header else None
    return _class_of(reference)(data, reference.affine if affine is None else affine, header=header)


def _reference(given: Any) -> Any:
    one = given if isinstance(given, str | os.PathLike) or is_image(given) else as_list(given)
    if isinstance(one, list | tuple) and one:
        one = one[0]
    if isinstance(one, str | os.PathLike):
        import nibabel

        return nibabel.load(one)
    if not is_image(one):
        raise TypeError(f"The reference image should be a niimg. {given!r} was passed")
    return one


def _without_int64(data: NDArray[Any]) -> NDArray[Any]:
    """Return 64-bit integers as int32 where they fit: FSL and SPM cannot read them."""
    if data.dtype not in (np.int64, np.uint64):
        return data
    limits = np.iinfo(np.int32)
    fits = data.size > 0 and limits.min <= data.min() and data.max() <= limits.max
    exceptions.warn(
        "Data array used to create a new image contains 64-bit ints. "
        + (
            "Many tools, such as FSL and SPM, cannot read them: the data has been converted to int32."
            if fits
            else "Some values are too large to store in 32-bit ints, so they stay; other tools may not read the image."
        )
    )
    return data.astype(np.int32) if fits else data


def _header(reference: Any, data: NDArray[Any]) -> Any:
    if reference.header is None:
        return None
    header = reference.header.copy()
    if not hasattr(header, "keys"):
        return header
    fields = set(header.keys())
    for name in fields.intersection(_ZEROED):
        header[name] = 0.0
    for name, extreme in (("cal_max", np.max), ("cal_min", np.min)):
        if name in fields:
            header[name] = extreme(data) if data.size else 0.0
    return header


def _class_of(reference: Any) -> Any:
    """Return the class of images like this one; the two files of a NIfTI pair are not made anew."""
    from nibabel import Nifti1Image, Nifti1Pair

    return Nifti1Image if type(reference) is Nifti1Pair else type(reference)
