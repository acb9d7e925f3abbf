"""Open images, and read them batch first, without ever holding more than the stored bytes and the result."""

from __future__ import annotations

import glob
import io
import math
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import DataError, UsageError
from gpuroi.images import gunzip, headers
from gpuroi.images.stores import GzipStore, NibabelStore, PlainStore, Store, unreadable

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["Image", "open_image", "open_images", "read_labels"]

_FORMATS = ".nii, .nii.gz, .hdr/.img, .mgh, .mgz, .mnc, .BRIK/.HEAD"
_SINGLE_FILE = (".nii", ".nii.gz")
_MOST_HEADER_BYTES = 1 << 28  # of what is beside the voxels: the header of a pair, extensions included


class Image:
    """One image, opened: what its header says, and its voxels when they are asked for.

    Made by `open_image`. Nothing but the header is in memory until `read`.

    Attributes
    ----------
    name : str
        The path as given, or "image given as Nifti1Image".
    shape : tuple of int
        (X, Y, Z).
    n_volumes : int
        1 for 3-D images and for 4-D images of one frame.
    is_4d : bool
        True if a fourth axis is stored, be it of length 1.
    affine : float64 array, shape (4, 4)
        Voxel indices to mm, RAS+.
    zooms_mm : float64 array, shape (3,)
        Voxel size: the lengths of the affine's columns.
    tr_s : float or None
        Time between volumes in seconds, None where the header does not say.
    stored_dtype : numpy.dtype
        Type of the voxels as stored, before scaling.
    header : nibabel header
        A copy.
    """

    def __init__(
        self,
        source: Any,
        *,
        name: str,
        shape: tuple[int, int, int],
        n_volumes: int,
        is_4d: bool,
        affine: NDArray[np.float64],
        tr_s: float | None,
        stored_dtype: np.dtype[Any],
        header: Any,
        store: Store,
    ) -> None:
        self.name = name
        self.shape = shape
        self.n_volumes = n_volumes
        self.is_4d = is_4d
        self.affine = affine
        self.affine.flags.writeable = False
        self.zooms_mm: NDArray[np.float64] = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        self.tr_s = tr_s
        self.stored_dtype = stored_dtype
        self.header = header
        self._source = source
        self._store = store

    def __repr__(self) -> str:
        sizes = " x ".join(f"{z:.4g}" for z in self.zooms_mm)
        return f"Image({self.name!r}, shape={self.shape}, n_volumes={self.n_volumes}, voxels of {sizes} mm)"

    def __reduce__(self) -> tuple[Any, ...]:
        return open_image, (self._source,)  # the other process opens the file itself; locks and buffers stay here

    def read(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        dtype: DTypeLike | None = np.float32,
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return volumes `start` to `stop` with the header's scaling applied.

        Parameters
        ----------
        start, stop : int
            Range of volumes, as in a slice without negative numbers; default all.
        dtype : floating dtype or None, default float32
            None keeps the stored type (in native byte order) if nothing is scaled, else gives float64.
        out : array, shape (stop - start, X, Y, Z), optional
            Filled and returned; its type counts, not `dtype`.

        Returns
        -------
        array, shape (n, X, Y, Z)
            Batch first, each volume in the order of the disk (x fastest): `result.transpose(0, 3, 2, 1)` is
            C-contiguous. The caller's own: writable, and shared with nobody.

        Raises
        ------
        DataError
            If the file turns out damaged, shortened or unreadable.
        UsageError
            If the range, `dtype` or the shape of `out` does not fit.

        Notes
        -----
        Scaling happens in float64, volume by volume; values beyond the range of `dtype` become infinite.
        Bytes of a compressed file are kept after a read of a part, for the next part, until `release`;
        a read of everything keeps nothing. Inflating and reading free the GIL.
        """
        stop = self.n_volumes if stop is None else stop
        if not 0 <= start <= stop <= self.n_volumes:
            raise UsageError(f"{self.name}: volumes {start} to {stop} asked for, it has {self.n_volumes}")
        target = self._target_dtype(dtype, out)
        wanted = (stop - start, *self.shape)
        if out is not None and out.shape != wanted:
            raise UsageError(f"{self.name}: out has shape {out.shape}; expected {wanted}")
        store = self._store
        if out is None and stop > start and store.scaling().is_identity and store.dtype() == target:
            result = store.take(start, stop).transpose(0, 3, 2, 1)
        else:
            if out is None:
                out = np.empty((stop - start, *self.shape[::-1]), target).transpose(0, 3, 2, 1)
            result = out
            for i in range(stop - start):
                _convert(store.volume(start + i), store.scaling(), result[i].T)
        if stop - start == self.n_volumes:
            store.release()
        return result

    def view(self, start: int = 0, stop: int | None = None, *, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Return what `read` returns, but not to be written to: an array in memory of that type is not copied."""
        stop = self.n_volumes if stop is None else stop
        store = self._store
        if isinstance(store, NibabelStore) and store.dtype() == np.dtype(dtype) and store.scaling().is_identity:
            seen = store.view(start, stop).transpose(0, 3, 2, 1)
            seen.flags.writeable = False
            return seen
        return self.read(start, stop, dtype=dtype)

    def read_one(self, *, dtype: DTypeLike | None = np.float32) -> NDArray[Any]:
        """Return the only volume, shape (X, Y, Z); `DataError` if there are more."""
        if self.n_volumes != 1:
            raise DataError(f"{self.name}: {self.n_volumes} volumes; expected one", "choose one volume, or their mean")
        volume: NDArray[Any] = self.read(dtype=dtype)[0]
        return volume

    def release(self) -> None:
        """Drop the bytes that a read of a part has kept."""
        self._store.release()

    def _target_dtype(self, dtype: DTypeLike | None, out: NDArray[Any] | None) -> np.dtype[Any]:
        stored, is_scaled = self._store.dtype(), not self._store.scaling().is_identity
        if out is None and dtype is None:
            return np.dtype(np.float64) if is_scaled else stored.newbyteorder("=")
        target = np.dtype(dtype) if out is None else out.dtype
        if target.kind != "f" and (is_scaled or not np.can_cast(stored, target)):
            raise UsageError(
                f"{self.name}: cannot be read as {target}", "use float32 or float64; for an atlas use read_labels"
            )
        return target


def open_image(source: Any) -> Image:
    """Open one image and check everything that can be checked without loading its voxels.

    Parameters
    ----------
    source : str, path, nibabel image or Image
        NIfTI-1 and NIfTI-2 (.nii, .nii.gz; either byte order) are read directly; Analyze, SPM and NIfTI
        pairs, MGH/MGZ, AFNI and MINC through nibabel. "~" is the home folder.

    Returns
    -------
    Image

    Raises
    ------
    DataError
        If the file is missing, is no image, promises more voxels than it holds, or its header contradicts
        itself. The message names the file, what was found and what was expected.

    Examples
    --------
    >>> import nibabel, numpy
    >>> image = open_image(nibabel.Nifti1Image(numpy.ones((4, 5, 6, 7), "int16"), numpy.diag([3, 3, 4, 1])))
    >>> image
    Image('image given as Nifti1Image', shape=(4, 5, 6), n_volumes=7, voxels of 3 x 3 x 4 mm)
    >>> image.read(2, 4).shape
    (2, 4, 5, 6)
    """
    if isinstance(source, Image):
        return source
    if isinstance(source, str | os.PathLike):
        return _open_path(os.fspath(source))
    if hasattr(source, "dataobj") and hasattr(source, "affine"):
        return _wrap(source, source, _name_of(source))
    raise DataError(
        f"an image is expected, got {type(source).__name__}",
        "give a path, a nibabel image, or nibabel.Nifti1Image(array, affine)",
    )


def open_images(sources: Any) -> list[Image]:
    """Open many images, and report all that are broken at once.

    Parameters
    ----------
    sources : path, pattern, image, or (nested) iterable of these
        Patterns (`*`, `?`, `[...]`, `**`) give their files in natural order: run2 before run10.

    Returns
    -------
    list of Image
        In the order given; a 4-D image is one entry.

    Raises
    ------
    DataError
        One for all: every file that cannot be used, and every pattern without a match, is listed.
    """
    opened: list[Image] = []
    failed: list[DataError] = []
    n_given = 0
    for source in _flatten(sources):
        try:
            found = _expand(source)
        except DataError as error:
            failed.append(error)
            n_given += 1
            continue
        for one in found:
            n_given += 1
            try:
                opened.append(open_image(one))
            except DataError as error:
                failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        lines = "\n".join(f"  {e.message}" for e in failed)
        hints = list(dict.fromkeys(e.hint for e in failed if e.hint))
        raise DataError(f"{len(failed)} of {n_given} images cannot be used:\n{lines}", "\n".join(hints))
    if not opened:
        raise DataError("no image was given", "give one or more paths, or a pattern such as 'sub-*/func/*_bold.nii.gz'")
    return opened


def read_labels(image: Any) -> NDArray[np.int32]:
    """Return the ids of a label image (an atlas), exactly.

    Parameters
    ----------
    image : Image, path or nibabel image
        One volume of whole numbers from 0 to 2147483647, in any stored type.

    Returns
    -------
    int32 array, shape (X, Y, Z)

    Raises
    ------
    DataError
        If a value is not whole, negative, NaN, or beyond int32, naming the image and the value.
    """
    opened = open_image(image)
    values = opened.read_one(dtype=None)
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            broken = ~(np.rint(values) == values) | np.isinf(values)
        _refuse(values, broken, opened.name, "is not a whole number")
    if values.dtype.kind != "b":
        _refuse(values, values < 0, opened.name, "is negative")
        _refuse(values, values >= 2**31, opened.name, "is beyond int32")
    return values.astype(np.int32, copy=False)


def _open_path(given: str) -> Image:
    path = Path(given).expanduser()
    _check_file(path, given)
    try:
        if path.name.lower().endswith(_SINGLE_FILE):
            return _open_nifti(path, given)
    except OSError as error:
        raise unreadable(given, error) from error
    return _open_other(path, given)


def _check_file(path: Path, given: str) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            raise DataError(
                f"{given}: a link to {path.readlink()}, which is not there",
                "fetch the data first: `datalad get` or `git annex get`",
            ) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise DataError(f"{given}: no such file (looked in {Path.cwd()})", "check the path") from error
        raise unreadable(given, error) from error
    if stat.S_ISDIR(mode):
        raise DataError(f"{given}: a folder; expected an image file", f"give a pattern: '{given.rstrip('/')}/*.nii.gz'")
    if not stat.S_ISREG(mode):
        raise DataError(f"{given}: not a regular file; expected an image file", "copy the stream to a file first")
    if path.stat().st_size == 0:
        raise DataError(f"{given}: the file is empty", "copy or make it again")


def _open_nifti(path: Path, given: str) -> Image:
    with path.open("rb") as file:
        start = file.read(headers.HEADER_BYTES)
    # The content decides, not the name: a .nii that someone compressed without renaming it is as readable.
    compressed = start[:2] == gunzip.MAGIC
    if compressed:
        start = gunzip.inflate_start(path, headers.HEADER_BYTES, name=given)
    layout = headers.parse_nifti(start, name=given)
    if compressed:
        gunzip.check_inflated_size(path, layout.end, name=given)
    elif path.stat().st_size < layout.end:
        raise gunzip.too_short(given, layout.end, path.stat().st_size)
    store: Store = GzipStore(path, layout, given) if compressed else PlainStore(path, layout, given)
    return Image(
        given,
        name=given,
        shape=layout.shape,
        n_volumes=layout.n_volumes,
        is_4d=layout.is_4d,
        affine=layout.affine,
        tr_s=layout.tr_s,
        stored_dtype=layout.dtype,
        header=layout.header,
        store=store,
    )


def _open_other(path: Path, given: str) -> Image:
    try:
        with np.errstate(all="ignore"):  # what a header overflows into is looked for below
            image = _loaded_by_nibabel(path)
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise _other_half_missing(given, error.filename or error) from error
    except ImportError as error:
        raise DataError(f"{given}: {error}", "install what is missing, or convert the image to NIfTI") from error
    except Exception as error:  # what a broken file raises here depends on its format
        raise DataError(
            f"{given}: cannot be read as an image: {error or type(error).__name__}", f"expected one of {_FORMATS}"
        ) from error
    if not hasattr(image, "dataobj") or not hasattr(image, "affine"):
        raise DataError(f"{given}: {type(image).__name__} is not a volume", f"expected one of {_FORMATS}")
    _check_promise(image, given)
    return _wrap(image, given, given)


def _loaded_by_nibabel(path: Path) -> Any:
    """Do as nibabel.load, but with an end to the files of which nibabel takes memory for any length they claim."""
    from nibabel.analyze import AnalyzeImage
    from nibabel.filebasedimages import ImageFileError
    from nibabel.imageclasses import all_image_classes
    from nibabel.minc1 import Minc1Image

    sniff = None
    for kind in all_image_classes:
        fits, sniff = kind.path_maybe_image(path, sniff)
        if fits:
            break
    else:
        raise ImageFileError(f"cannot work out the file type of {path.name}")
    files = kind.filespec_to_file_map(path)
    # Extensions of a header, MATLAB files beside it, NetCDF.
    endless = {"image"} if kind is Minc1Image else {"header", "mat"} if issubclass(kind, AnalyzeImage) else set()
    for role in endless & set(files):
        place = Path(files[role].filename or "")
        if place.is_file():
            most = min(gunzip.most_inflated_bytes(place.stat().st_size), _MOST_HEADER_BYTES)
            with files[role].get_prepare_fileobj("rb") as stream:
                files[role].fileobj = io.BytesIO(stream.read(most))
    return kind.from_file_map(files)


def _check_promise(image: Any, given: str) -> None:
    """Refuse a header that promises more than its data file holds, where the format says how much that is."""
    data = image.dataobj
    if not all(hasattr(data, a) for a in ("offset", "shape", "dtype")):
        return
    headers.split_shape(tuple(data.shape), name=given)
    voxels = Path(image.file_map["image"].filename or given)
    if not voxels.is_file():
        raise _other_half_missing(given, voxels)
    end = int(data.offset) + math.prod(int(n) for n in data.shape) * data.dtype.itemsize
    with voxels.open("rb") as file:
        compressed = file.read(2) == gunzip.MAGIC
    if compressed:
        gunzip.check_inflated_size(voxels, end, name=given)
    elif voxels.suffix not in (".bz2", ".zst") and voxels.stat().st_size < end:
        raise gunzip.too_short(given, end, voxels.stat().st_size)


def _other_half_missing(given: str, other: Any) -> DataError:
    return DataError(f"{given}: its other half {other} is missing", "keep both files of a pair in one folder")


def _wrap(image: Any, source: Any, name: str) -> Image:
    shape, n_volumes, is_4d = headers.split_shape(tuple(image.shape), name=name)
    stored = np.dtype(getattr(image.dataobj, "dtype", None) or image.get_data_dtype())
    headers.check_dtype(stored, name=name)
    return Image(
        source,
        name=name,
        shape=shape,
        n_volumes=n_volumes,
        is_4d=is_4d,
        affine=headers.check_affine(image.affine, name=name),
        tr_s=headers.seconds_per_volume(image.header) if is_4d else None,
        stored_dtype=stored,
        header=image.header.copy(),
        store=NibabelStore(image, shape, name),
    )


def _name_of(image: Any) -> str:
    filename = image.get_filename() if hasattr(image, "get_filename") else None
    return str(filename) if filename else f"image given as {type(image).__name__}"


def _convert(volume: NDArray[Any], scaling: headers.Scaling, out: NDArray[Any]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if scaling.is_identity:
            np.copyto(out, volume, casting="unsafe")
            return
        # nibabel scales in float64 as well; float32 would lose the last digits of a large intercept.
        scaled = np.multiply(volume, scaling.slope, dtype=np.float64)
        scaled += scaling.inter
        np.copyto(out, scaled, casting="unsafe")


def _refuse(values: NDArray[Any], broken: NDArray[np.bool_], name: str, what: str) -> None:
    if broken.any():
        first = values[broken][0]
        raise DataError(
            f"{name}: value {first} {what} ({np.count_nonzero(broken)} voxels); a label image holds ids from 0",
            "give the atlas itself, resampled with nearest neighbour, not a probability map",
        )


def _flatten(sources: Any) -> Iterable[Any]:
    if isinstance(sources, str | os.PathLike | Image) or hasattr(sources, "dataobj"):
        yield sources
    elif isinstance(sources, Iterable) and not isinstance(sources, bytes) and not _is_numeric(sources):
        for source in sources:
            yield from _flatten(source)
    else:
        yield sources


def _is_numeric(sources: object) -> bool:
    return isinstance(sources, np.ndarray) and sources.dtype.kind not in "OU"


def _expand(source: Any) -> list[Any]:
    """Return the files of a pattern in natural order; anything else stays as it is."""
    if not isinstance(source, str | os.PathLike):
        return [source]
    text = os.fspath(source)
    pattern = str(Path(text).expanduser()) if text.startswith("~") else text
    if not glob.has_magic(pattern) or Path(pattern).exists():
        return [source]
    found = sorted(glob.glob(pattern, recursive=True), key=_natural)  # noqa: PTH207 (absolute patterns)
    if not found:
        raise DataError(f"{text}: no file matches this pattern (looked in {Path.cwd()})", "check the pattern")
    return list(found)


def _natural(path: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path)]
