"""What a NIfTI header says, checked before any memory is taken for the voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "HEADER_BYTES",
    "Layout",
    "Scaling",
    "check_affine",
    "check_dtype",
    "parse_nifti",
    "seconds_per_volume",
    "split_shape",
]

HEADER_BYTES = 544
"""Bytes of a file that hold any NIfTI-1 or NIfTI-2 header."""

_MAGIC = {348: (344, b"n+1\0", b"ni1\0"), 540: (4, b"n+2\0", b"ni2\0")}
_SPACES = range(6)  # qform_code and sform_code: unknown, scanner, aligned, Talairach, MNI 152, another template
_SECONDS = {0: 1.0, 8: 1.0, 16: 1e-3, 24: 1e-6}  # xyzt_units, time part; 0 = not said, which in practice is seconds
_REMEDY = "the header is damaged or was written wrongly: make the file again, or mend the header"


@dataclass(frozen=True)
class Scaling:
    """Stored values become real values as `stored * slope + inter`."""

    slope: float = 1.0
    inter: float = 0.0

    @property
    def is_identity(self) -> bool:
        """True if the stored values are the values."""
        return self.slope == 1.0 and self.inter == 0.0


@dataclass(frozen=True)
class Layout:
    """Where the voxels of one image lie, and how they are stored."""

    shape: tuple[int, int, int]
    n_volumes: int
    is_4d: bool
    dtype: np.dtype[Any]
    offset: int
    scaling: Scaling
    affine: NDArray[np.float64]
    tr_s: float | None
    header: Any

    @property
    def end(self) -> int:
        """Bytes that the file must hold, header included."""
        return self.offset + math.prod(self.shape) * self.n_volumes * self.dtype.itemsize


def parse_nifti(start: bytes, *, name: str) -> Layout:
    """Read the header of a single-file NIfTI-1 or NIfTI-2 image.

    Parameters
    ----------
    start : bytes
        The beginning of the (inflated) file; `HEADER_BYTES` are enough.
    name : str
        The file's name, for errors.

    Raises
    ------
    DataError
        If these are not the first bytes of a NIfTI file, or the header contradicts itself: axes below 1, more
        than four axes, a type of voxel that has no real values, an affine that is not finite or not invertible.
    """
    size, order = _size_and_byte_order(start, name)
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    header_class: Any = Nifti1Header if size == 348 else Nifti2Header
    header = header_class(start[:size], endianness=order, check=False)
    if not 1 <= header["dim"][0] <= 7:
        raise DataError(f"{name}: {header['dim'][0]} axes, every axis must be 1 or more and there are 1 to 7", _REMEDY)
    try:
        stored_shape = header.get_data_shape()
        dtype = np.dtype(header.get_data_dtype())
        slope, inter = header.get_slope_inter()
    except Exception as error:  # nibabel raises a different kind for every field
        raise DataError(f"{name}: {error}", _REMEDY) from error
    shape, n_volumes, is_4d = split_shape(stored_shape, name=name)
    check_dtype(dtype, name=name)
    return Layout(
        shape=shape,
        n_volumes=n_volumes,
        is_4d=is_4d,
        dtype=dtype,
        offset=_offset(header, name),
        scaling=Scaling() if slope is None else Scaling(float(slope), float(inter)),
        affine=_affine(header, name),
        tr_s=seconds_per_volume(header) if is_4d else None,
        header=header,
    )


def split_shape(stored: tuple[int, ...], *, name: str) -> tuple[tuple[int, int, int], int, bool]:
    """Split a stored shape into `(X, Y, Z)`, the number of volumes, and whether there is a fourth axis.

    Axes of length 1 count for nothing after the third: (X, Y, Z, 1, n) holds n volumes.

    Examples
    --------
    >>> split_shape((4, 5, 6, 1, 20), name="bold.nii")
    ((4, 5, 6), 20, True)
    """
    dims = [int(d) for d in stored]
    if not dims or min(dims) < 1:
        raise DataError(f"{name}: shape {tuple(dims)}; every axis must be 1 or more", _REMEDY)
    x, y, z = (*dims, 1, 1)[:3]
    more = [d for d in dims[3:] if d > 1]
    if len(more) > 1:
        raise DataError(
            f"{name}: {len(dims)} axes {tuple(dims)}; expected three, or four with the volumes last",
            "split the image into 4-D files first",
        )
    return (x, y, z), math.prod(more), len(dims) > 3


def check_dtype(dtype: np.dtype[Any], *, name: str) -> None:
    """Raise `DataError` unless each voxel is one real number."""
    if dtype.kind in "iufb":
        return
    what = {"c": "complex numbers", "V": "RGB colours"}.get(dtype.kind, f"values of type {dtype}")
    raise DataError(
        f"{name}: voxels hold {what}; expected one real number each",
        "save the magnitude, or one channel, as an image of its own",
    )


def check_affine(affine: Any, *, name: str) -> NDArray[np.float64]:
    """Return the affine as float64 (4, 4); raise `DataError` if it is missing, not finite or not invertible."""
    if affine is None:
        raise DataError(f"{name}: no affine, so its place in space is unknown", "save the image with an affine")
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise DataError(f"{name}: affine of shape {matrix.shape}; expected (4, 4)", _REMEDY)
    if not np.isfinite(matrix).all():
        raise DataError(f"{name}: the affine holds NaN or infinity:\n{matrix}", _REMEDY)
    with np.errstate(over="ignore", under="ignore"):
        zooms = np.sqrt((matrix[:3, :3] ** 2).sum(axis=0))
    if not np.isfinite(zooms).all():
        raise DataError(f"{name}: voxel size {zooms.tolist()} mm; none may be infinite", _REMEDY)
    # |det| over the product of the columns' lengths is 1 for orthogonal axes and 0 where they lie in one plane.
    if not zooms.all() or abs(np.linalg.det(matrix[:3, :3] / zooms)) < 1e-6:
        raise DataError(f"{name}: the affine cannot be inverted: a voxel has no volume:\n{matrix}", _REMEDY)
    return matrix


def seconds_per_volume(header: Any) -> float | None:
    """Return the time between volumes in seconds, None where the header does not say."""
    zooms = header.get_zooms()
    if len(zooms) < 4:
        return None
    kind = type(header).__name__
    if "xyzt_units" in getattr(header, "keys", list)():
        unit = _SECONDS.get(int(header["xyzt_units"]) & 0x38)  # None: hertz, ppm or radians, not a time
    elif kind == "MGHHeader":
        unit = 1e-3
    elif kind == "AFNIHeader":
        unit = 1e-3 if header.info.get("TAXIS_NUMS", [0, 0, 0])[2] == 77001 else 1.0
    else:
        unit = 1.0
    if unit is None:
        return None
    seconds = float(zooms[3]) * unit
    # A float32 of milliseconds or seconds has seven digits; the rest is noise of the conversion.
    return float(f"{seconds:.7g}") if math.isfinite(seconds) and seconds > 0 else None


def _size_and_byte_order(start: bytes, name: str) -> tuple[int, str]:
    for order in "<>":
        size = int.from_bytes(start[:4], "little" if order == "<" else "big")
        if size in _MAGIC and len(start) >= size:
            break
    else:
        raise DataError(f"{name}: not a NIfTI file: {_what_it_looks_like(start)}", _what_to_do(start))
    place, single, pair = _MAGIC[size]
    magic = start[place : place + 4]
    if magic == pair:
        raise DataError(
            f"{name}: this is the header of a .hdr/.img pair; expected a NIfTI file with the voxels inside",
            "give the .hdr file under its own name, beside its .img",
        )
    if magic != single:
        raise DataError(f"{name}: magic bytes {magic!r}; a NIfTI file has {single!r}", _REMEDY)
    return size, order


def _offset(header: Any, name: str) -> int:
    least = int(header.single_vox_offset)
    stored = header["vox_offset"].item()
    if stored == 0:
        return least
    if not math.isfinite(stored) or stored != int(stored) or stored < least:
        raise DataError(f"{name}: voxels begin at byte {stored}; expected a whole number, {least} or more", _REMEDY)
    return int(stored)


def _affine(header: Any, name: str) -> NDArray[np.float64]:
    """Return the sform, else the qform, else voxel sizes alone, as nibabel chooses, but mend no zero in silence."""
    for field in ("sform_code", "qform_code"):
        header[field] = max(header[field], 0)  # below 0 is none, for nibabel as for FSL's library
    code = int(header["sform_code"] or header["qform_code"])
    if code not in _SPACES:  # nibabel goes on to the next affine, FSL's library takes this one
        raise DataError(f"{name}: the affine is in space {code}; expected a code from 0 to {_SPACES[-1]}", _REMEDY)
    if header["sform_code"] == 0:
        zooms = header["pixdim"][1:4]
        if not np.isfinite(zooms).all() or not zooms.all():
            raise DataError(f"{name}: voxel size {zooms.tolist()} mm; none may be zero, NaN or infinite", _REMEDY)
        header["pixdim"][1:4] = np.abs(zooms)  # as nibabel reads them
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # what the standard says of a qfac of 0
    try:
        with np.errstate(all="ignore"):
            affine = header.get_best_affine()
    except Exception as error:
        raise DataError(f"{name}: no affine can be made of the header: {error}", _REMEDY) from error
    return check_affine(affine, name=name)


def _what_it_looks_like(start: bytes) -> str:
    if not start:
        return "it is empty"
    if all(31 < b < 127 or b in b"\t\r\n" for b in start[:64]):
        return f"it begins with the text {start[:40].decode('ascii')!r}"
    return f"it begins with the bytes {start[:8].hex(' ')}"


def _what_to_do(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer: run `git lfs pull` to fetch the data"
    if b"annex/objects" in start[:200]:
        return "this is a git-annex pointer: run `datalad get` or `git annex get` to fetch the data"
    if start[:20].lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "this is a web page: the download failed; fetch the file again"
    return "expected NIfTI (.nii, .nii.gz), or another format under its own extension"
