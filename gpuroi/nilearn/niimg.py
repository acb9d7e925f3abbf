"""Images as nilearn takes them: paths, patterns, nibabel images, lists of these; checked, loaded, joined."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuroi.errors import DataError, GridError
from gpuroi.images import Image, open_image
from gpuroi.images.headers import check_dtype
from gpuroi.images.stores import unreadable
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.same_grid import same_grid

__all__ = [
    "as_list",
    "check_niimg",
    "check_niimg_3d",
    "check_niimg_4d",
    "files_of",
    "finite_data",
    "image_data",
    "image_name",
    "is_image",
    "is_surface",
    "is_volume_input",
    "opened_nifti",
]


def check_niimg(
    niimg: Any,
    *,
    ensure_ndim: int | None = None,
    atleast_4d: bool = False,
    dtype: DTypeLike | None = None,
    wildcards: bool = True,
) -> Any:
    """Return one image of what nilearn takes for an image: files are opened, lists joined along a fourth axis.

    Parameters
    ----------
    niimg : str, path, nibabel image, or (nested) iterable of these
        "~" is the home folder; a pattern with `*`, `?` or `[...]` is the list of its files.
    ensure_ndim : {3, 4}, optional
        Axes that the result must have. A 4-D image of one frame is one of three axes.
    atleast_4d : bool, default False
        A 3-D image becomes one of one frame.
    dtype : dtype or "auto", optional
        Type of the result's data; "auto" is int32 for integers, else float32.
    wildcards : bool, default True
        False takes `*`, `?` and "~" literally.

    Returns
    -------
    nibabel image
        The one given, unchanged, where nothing had to be done. A file is not read yet: use `image_data`.

    Raises
    ------
    TypeError
        If it is no image; `DimensionError` if it has other axes than `ensure_ndim`.
    DataError
        If a file is missing or cannot be opened.
    GridError
        If images of a list lie on different grids.
    """
    niimg = as_list(niimg)
    if not is_volume_input(niimg):
        raise TypeError(
            "input should be a NiftiLike object or an iterable of NiftiLike object. "
            f"Got: {type(niimg).__name__}. It is not compatible with nibabel format."
        )
    if isinstance(niimg, str | os.PathLike):
        niimg = files_of(os.fspath(niimg), wildcards=wildcards)
    if isinstance(niimg, list | tuple):
        return _joined(niimg, ensure_ndim, dtype)
    return _shaped(_typed(_opened(niimg), dtype), ensure_ndim, atleast_4d=atleast_4d)


def check_niimg_3d(niimg: Any, dtype: DTypeLike | None = None) -> Any:
    """Return one 3-D image; see `check_niimg`."""
    return check_niimg(niimg, ensure_ndim=3, dtype=dtype)


def check_niimg_4d(niimg: Any, dtype: DTypeLike | None = None) -> Any:
    """Return one 4-D image; see `check_niimg`."""
    return check_niimg(niimg, ensure_ndim=4, dtype=dtype)


def image_data(img: Any) -> NDArray[Any]:
    """Return the data of an image, (X, Y, Z) or (X, Y, Z, n), in their own type: read, never cached on the image.

    Parameters
    ----------
    img : nibabel image
        NIfTI files are read with the fastest inflater there is, others by nibabel.

    Returns
    -------
    array
        Scaled values are float64. Data in memory are returned themselves, not copied: do not write into them; use
        `finite_data`, or copy.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    cached = getattr(img, "_data_cache", None)
    if cached is not None:
        return np.asanyarray(cached)
    opened = opened_nifti(img)
    if opened is not None:
        return _read(img, opened)
    dataobj = getattr(img, "_dataobj", None) if not hasattr(img, "dataobj") else img.dataobj
    if dataobj is None or isinstance(dataobj, np.ndarray):
        return np.asanyarray(img.get_fdata() if dataobj is None else dataobj)
    try:
        return np.asanyarray(dataobj)
    except MemoryError:
        raise
    except Exception as error:  # what a broken file raises here depends on its format
        raise unreadable(image_name(img), error) from error


def opened_nifti(img: Any) -> Image | None:
    """Return the NIfTI file of an image that is not in memory, opened by ourselves; None for all other images."""
    if getattr(img, "_data_cache", None) is not None:
        return None
    filename = _untouched_nifti(img)
    if filename is None:
        return None
    try:
        opened = open_image(filename)
    except DataError:  # nibabel takes headers that we refuse, such as affines that cannot be inverted
        return None
    shape = (*opened.shape, opened.n_volumes) if opened.is_4d else opened.shape
    return opened if shape == img.shape and opened.stored_dtype == img.dataobj.dtype else None


def finite_data(img: Any, *, ensure_finite: bool = True, warn: bool = True, copy: bool = True) -> NDArray[Any]:
    """Return the data of an image, NaN and infinity as 0, in native byte order.

    Parameters
    ----------
    img : nibabel image
    ensure_finite : bool, default True
        False keeps NaN and infinity.
    warn : bool, default True
        Say so where values were replaced, as nilearn does.
    copy : bool, default True
        The result is the caller's own. False: it may be the memory of the image; do not write into it.

    Returns
    -------
    array, shape of the image
        In the memory order of the data.

    Raises
    ------
    DataError
        If voxels hold complex numbers or colours.
    """
    given = image_data(img)
    check_dtype(given.dtype, name=image_name(img))
    is_fresh = getattr(img, "in_memory", True) is False and given.flags.writeable and type(given) is np.ndarray
    has_holes = ensure_finite and given.dtype.kind == "f" and not np.isfinite(given).all()
    own = copy or has_holes
    data = np.array(given, given.dtype.newbyteorder("="), order="K", copy=True if own and not is_fresh else None)
    if has_holes:
        if warn:
            exceptions.warn("Non-finite values detected. These values will be replaced with zeros.")
        data[~np.isfinite(data)] = 0
    return data


def files_of(text: str, *, wildcards: bool = True) -> str | list[str]:
    """Return the file of a path, or the files of a pattern in ascending order; DataError where there are none.

    Parameters
    ----------
    text : str
    wildcards : bool, default True
        False takes `*`, `?` and "~" literally, and so does `nilearn.EXPAND_PATH_WILDCARDS = False`.
    """
    nilearn = sys.modules.get("nilearn")  # users of nilearn switch patterns off there
    if not wildcards or not getattr(nilearn, "EXPAND_PATH_WILDCARDS", True):
        if not Path(text).exists():
            raise DataError(f"File not found: '{text}'", "check the path")
        return text
    path = str(Path(text).expanduser())
    found = sorted(glob.glob(path))  # noqa: PTH207 (absolute patterns)
    if found and glob.has_magic(text):
        return found
    if found == [path]:
        return path
    if glob.has_magic(text):
        raise DataError(
            f"No files matching the entered niimg expression: '{text}'.\nYou may have left wildcards usage activated: "
            "please set the global constant 'nilearn.EXPAND_PATH_WILDCARDS' to False to deactivate this behavior."
        )
    raise DataError(f"File not found: '{text}'", "check the path")


def image_name(img: Any) -> str:
    """Return the file of an image, or say what it is."""
    if isinstance(img, str | os.PathLike):
        return os.fspath(img)
    filename = img.get_filename() if hasattr(img, "get_filename") else None
    return str(filename) if filename else f"image given as {type(img).__name__}"


def as_list(niimg: Any) -> Any:
    """Return an iterable of images as a list, which can be gone through twice; anything else as it is."""
    is_one = isinstance(niimg, str | bytes | os.PathLike | dict) or is_image(niimg) or is_surface(niimg)
    if is_one or isinstance(niimg, list | tuple) or not isinstance(niimg, Iterable):
        return niimg
    if isinstance(niimg, np.ndarray) and niimg.dtype.kind not in "OU":
        return niimg
    return list(niimg)


def is_image(value: object) -> bool:
    """Is it a volume in memory: nibabel's, or of its manners?"""
    names = ("affine", "get_fdata", "shape")
    return all(hasattr(type(value), name) or hasattr(value, name) for name in names)


def is_surface(value: object) -> bool:
    """Is it a nilearn SurfaceImage?"""
    return hasattr(value, "mesh") and hasattr(value, "data")


def is_volume_input(value: object) -> bool:
    """Is it a path, a volume, or a (nested) iterable of these only? Iterators are used up."""
    if isinstance(value, str | os.PathLike) or is_image(value):
        return True
    value = as_list(value)
    return isinstance(value, list | tuple) and all(is_volume_input(one) for one in value)


def _opened(niimg: Any) -> Any:
    if is_image(niimg):
        return niimg
    import nibabel

    return nibabel.load(niimg)


def _untouched_nifti(img: Any) -> str | None:
    """Return the file if the image is all of a NIfTI file, as that file's own header describes it."""
    from nibabel import Nifti1Image, Nifti2Image
    from nibabel.arrayproxy import ArrayProxy

    dataobj = getattr(img, "dataobj", None)
    if type(img) not in (Nifti1Image, Nifti2Image) or type(dataobj) is not ArrayProxy:
        return None
    filename = dataobj.file_like
    # 5-D images, complex numbers, float128 and other rarities are left to nibabel.
    is_plain = dataobj.dtype.kind in "iuf" and dataobj.dtype.itemsize <= 8 and 3 <= len(dataobj.shape) <= 4
    return filename if isinstance(filename, str) and is_plain else None


def _read(img: Any, opened: Image) -> NDArray[Any]:
    values = opened.read(dtype=None)  # (n, X, Y, Z)
    return values.transpose(1, 2, 3, 0).reshape(img.shape, order="F")


def _typed(img: Any, dtype: DTypeLike | None) -> Any:
    """Return the image with its data in another type; "auto" is int32 or float32."""
    if dtype is None:
        return img
    data = image_data(img)
    target = _target_dtype(data.dtype, dtype)
    if target == data.dtype:
        return img
    from gpuroi.nilearn.image_files import new_img_like

    typed = new_img_like(img, data.astype(target), img.affine)
    if typed.header is not None:
        typed.header.set_data_dtype(target)
    return typed


def _target_dtype(stored: np.dtype[Any], dtype: DTypeLike | None) -> np.dtype[Any]:
    if isinstance(dtype, str) and dtype == "auto":
        return np.dtype(np.int32 if stored.kind == "i" else np.float32)
    return stored if dtype is None else np.dtype(dtype)


def _shaped(img: Any, ensure_ndim: int | None, *, atleast_4d: bool) -> Any:
    """Return the image with the axes asked for; `DimensionError` if it has others."""
    from gpuroi.nilearn.image_files import new_img_like

    if ensure_ndim == 3 and len(img.shape) == 4 and img.shape[3] == 1:
        img = new_img_like(img, image_data(img)[..., 0], img.affine)
    if atleast_4d and len(img.shape) == 3:
        img = new_img_like(img, image_data(img)[..., None], img.affine)
    if ensure_ndim is not None and len(img.shape) != ensure_ndim:
        raise exceptions.DimensionError(len(img.shape), ensure_ndim, _file_of(img))
    return img


def _joined(images: list[Any] | tuple[Any, ...], ensure_ndim: int | None, dtype: DTypeLike | None) -> Any:
    """Return a list of images as one, (X, Y, Z, n), in the type of the first."""
    if not images:
        raise TypeError("Cannot concatenate empty objects.")
    first = _member(images, 0, None if ensure_ndim is None else ensure_ndim - 1)
    ndim = len(first.shape)
    if ndim not in (3, 4):
        raise TypeError(f"Concatenated images must be 3D or 4D. You gave a list of {ndim}D images")
    members = [first, *(_member(images, i, ndim) for i in range(1, len(images)))]
    for i, member in enumerate(members):
        _check_same_grid(i, images[i], member, first)
    n_frames = [member.shape[3] if ndim == 4 else 1 for member in members]
    values = image_data(first)
    joined = np.empty((*first.shape[:3], sum(n_frames)), _target_dtype(values.dtype, dtype), order="F")
    stop = 0
    for i, member in enumerate(members):
        start, stop = stop, stop + n_frames[i]
        values = values if i == 0 else image_data(member)
        joined[..., start:stop] = values.reshape(*first.shape[:3], -1)
    from gpuroi.nilearn.image_files import new_img_like

    return new_img_like(first, joined, first.affine)


def _member(images: list[Any] | tuple[Any, ...], index: int, ndim: int | None) -> Any:
    try:
        return check_niimg(images[index], ensure_ndim=ndim)
    except TypeError as error:
        if isinstance(error, exceptions.DimensionError):
            error.increment_stack_counter()  # one list around it
        elif error.args:
            error.args = (f"Error encountered while loading image #{index}: {error.args[0]}", *error.args[1:])
        raise


def _check_same_grid(index: int, given: Any, img: Any, first: Any) -> None:
    if same_grid(img, first):
        return
    raise GridError(
        f"Field of view of image #{index} ({image_name(given)}) is different from reference FOV.\n"
        f"Reference affine:\n{first.affine!r}\nImage affine:\n{img.affine!r}\n"
        f"Reference shape:\n{first.shape[:3]!r}\nImage shape:\n{img.shape!r}",
        "resample the images to one grid first",
    )


def _file_of(img: Any) -> str:
    filename = img.get_filename() if hasattr(img, "get_filename") else None
    return str(filename) if filename else ""
