r"""Write whole or not at all: folders, files and images appear under their name only when they are complete.

Text is UTF-8. Names of files that are not, which Python holds as lone surrogates, are written as `\udcXX`.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import OutputError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from gpuroi.images.read import Image

__all__ = [
    "as_output_error",
    "json_text",
    "put_in_place",
    "save_image",
    "staged_file",
    "staged_files",
    "staged_folder",
    "write_json",
    "write_tsv",
]

_GZIP_LEVEL = 1  # as nibabel: on float maps 6 takes 1.2 to 2.5 times as long and saves 2 to 10 %
_NIFTI1_LONGEST_AXIS = 32767


@contextmanager
def staged_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Fill a temporary folder, which takes the place of `path` when the block has ended without an error.

    Parameters
    ----------
    path : str or path
        Must not exist, or be an empty folder, or, with `overwrite`, hold earlier results: a `provenance.json`, or a
        `dataset_description.json` that names gpuroi. Any other folder is never replaced.
    overwrite : bool, default False
        Replace earlier results. They stay in place until the new ones are complete.

    Yields
    ------
    Path
        The temporary folder, beside the target. Removed if the block fails or is interrupted.

    Raises
    ------
    OutputError
        If the folder exists already, is not ours to replace, or cannot be written.
    """
    target = _resolved(path)
    _check_folder(target, overwrite)
    staged = _beside(target, "partial")
    with as_output_error(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.mkdir()
    try:
        yield staged
        _check_folder(target, overwrite)  # somebody else may have been faster
        with as_output_error(target):
            if overwrite:
                put_in_place([(staged, target)])
            else:  # fails if another process has filled the folder since
                if target.is_dir():
                    target.rmdir()
                staged.rename(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)  # no longer there if all went well


@contextmanager
def staged_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Write to a temporary file, which takes the place of `path` when the block has ended without an error.

    Parameters
    ----------
    path : str or path
    overwrite : bool, default False
        Replace a file that exists. It stays in place until the new one is complete.

    Yields
    ------
    Path
        A name in the same folder with the same extension; nothing exists there yet. Removed if the block fails.

    Raises
    ------
    OutputError
        If the file exists already, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with staged_file(Path(folder) / "notes.txt") as file:
    ...         _ = file.write_text("done")
    ...     print([p.name for p in Path(folder).iterdir()])
    ['notes.txt']
    """
    with _staged_files([_resolved(path)], overwrite) as (staged,):
        yield staged


@contextmanager
def staged_files(paths: Sequence[str | os.PathLike[str]], *, overwrite: bool = False) -> Iterator[list[Path]]:
    """Do as `staged_file` with several files of one folder: all take their places, or none.

    Parameters
    ----------
    paths : sequence of path
    overwrite : bool, default False

    Yields
    ------
    list of Path
        Temporary files, in the order of `paths`.

    Raises
    ------
    OutputError
        If one exists already or cannot be written.
    """
    with _staged_files([_resolved(path) for path in paths], overwrite) as staged:
        yield staged


def save_image(
    path: str | os.PathLike[str],
    data: NDArray[Any],
    affine: ArrayLike,
    *,
    like: Image | None = None,
    dtype: DTypeLike | None = None,
    sidecar: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a NIfTI image, with a JSON sidecar if there is one: both or neither.

    Parameters
    ----------
    path : str or path
        Ends in `.nii` or `.nii.gz`.
    data : array, shape (X, Y, Z) or (n, X, Y, Z)
        One volume, or a batch of volumes, which becomes the fourth axis of the file.
    affine : array, shape (4, 4)
        Voxel indices to mm.
    like : Image, optional
        Whose space codes (sform, qform), units and time between volumes are kept.
    dtype : dtype, optional
        Default: float32 and float64 stay, other floats become float32, bool uint8, integers int32.
    sidecar : mapping, optional
        Written as `.json` beside the image, as `write_json` does.
    overwrite : bool, default False

    Returns
    -------
    Path
        Where the image lies.

    Raises
    ------
    OutputError
        If the file exists already or cannot be written, or has another extension.
    UsageError
        If the data have another shape, or integers do not fit `dtype`.

    Notes
    -----
    NIfTI-1, or NIfTI-2 where an axis is longer than 32767. The same input gives the same bytes: little-endian, no time
    and no name in the gzip header, and always zlib, so that the bytes do not depend on what else is installed.
    """
    target = _resolved(path)
    stem = re.fullmatch(r"(.+)\.nii(\.gz)?", target.name, re.IGNORECASE)
    if stem is None:
        raise OutputError(f"{target}: images are written as NIfTI", "name it .nii or .nii.gz")
    data = np.asarray(data)
    if data.ndim not in (3, 4) or 0 in data.shape:
        raise UsageError(f"{target.name}: data of shape {data.shape}; expected (X, Y, Z) or (n, X, Y, Z)")
    stored = _stored_dtype(data, dtype, target.name)
    header = _header(data.shape, stored, np.asarray(affine, dtype=np.float64), like)
    targets = [target] if sidecar is None else [target, target.with_name(f"{stem[1]}.json")]
    with _staged_files(targets, overwrite) as staged, as_output_error(target):
        with staged[0].open("wb") as file:
            if stem[2]:
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=_GZIP_LEVEL, mtime=0) as packed:
                    _write_nifti(packed, header, data, stored)
            else:
                _write_nifti(file, header, data, stored)
        if sidecar is not None:
            staged[1].write_text(json_text(sidecar), encoding="utf-8", errors="backslashreplace", newline="\n")
    return target


def write_json(path: str | os.PathLike[str], obj: Any, *, overwrite: bool = False) -> Path:
    """Write JSON: keys sorted, NumPy numbers and arrays as plain ones, NaN and infinity as null.

    Raises
    ------
    OutputError
        If the file exists already or cannot be written.
    """
    target, text = _resolved(path), json_text(obj)
    with _staged_files([target], overwrite) as (staged,), as_output_error(target):
        staged.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return target


def write_tsv(path: str | os.PathLike[str], table: pd.DataFrame, *, overwrite: bool = False) -> Path:
    r"""Write a table as BIDS wants it: tabs, "n/a" for what is missing, "\n" at line ends, no index.

    Raises
    ------
    OutputError
        If the file exists already or cannot be written.
    """
    target = _resolved(path)
    with _staged_files([target], overwrite) as (staged,), as_output_error(target):
        table.to_csv(
            staged,
            sep="\t",
            na_rep="n/a",
            index=False,
            lineterminator="\n",
            encoding="utf-8",
            errors="backslashreplace",
        )
    return target


@contextmanager
def _staged_files(targets: Sequence[Path], overwrite: bool) -> Iterator[list[Path]]:
    _check_files(targets, overwrite)
    staged = [_beside(target, "partial") for target in targets]
    with as_output_error(targets[0]):
        targets[0].parent.mkdir(parents=True, exist_ok=True)
        _check_writable(targets[0].parent)
    try:
        yield staged
        _check_files(targets, overwrite)
        with as_output_error(targets[0]):
            put_in_place(list(zip(staged, targets, strict=True)))
    finally:
        for path in staged:
            path.unlink(missing_ok=True)


def put_in_place(pairs: list[tuple[Path, Path]]) -> None:
    """Rename every staged file or folder to its target, on the same disk; if one fails, put back what was there."""
    if len(pairs) == 1 and not pairs[0][1].is_dir():
        pairs[0][0].replace(pairs[0][1])  # one file: a single atomic step
        return
    moved: list[tuple[Path, Path]] = []
    placed: list[tuple[Path, Path]] = []
    try:
        for staged, target in pairs:
            if target.exists():
                moved.append((_beside(target, "old"), target))  # noted first: an interrupt may come between
                target.rename(moved[-1][0])
            placed.append((staged, target))
            staged.rename(target)
    except BaseException:
        for staged, target in reversed(placed):
            if not staged.exists() and target.exists():
                target.rename(staged)
        for old, target in reversed(moved):
            if target.exists():  # another process was faster: its results are as new as ours would have been
                _delete(old)
            elif old.exists():
                old.rename(target)
        raise
    for old, _ in moved:
        _delete(old)


def _check_folder(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise OutputError(f"{target}: a file of this name exists; expected a folder", "choose another folder")
    try:
        is_empty = next(target.iterdir(), None) is None
    except OSError as error:
        raise OutputError(f"{target}: cannot be read: {error.strerror}", "choose another folder") from error
    if is_empty:
        return
    if not overwrite:
        raise OutputError(f"{target}: exists and is not empty", "choose another folder, or replace it with --overwrite")
    if not _is_ours(target):
        raise OutputError(
            f"{target}: holds files that gpuroi did not write (no provenance.json); it is left alone",
            "choose another folder, or empty this one yourself",
        )


def _is_ours(folder: Path) -> bool:
    """True for earlier results; a BIDS dataset of somebody else has a dataset_description.json too."""
    if (folder / "provenance.json").is_file():
        return True
    try:
        return b"gpuroi" in (folder / "dataset_description.json").read_bytes()
    except OSError:
        return False


def _check_files(targets: Sequence[Path], overwrite: bool) -> None:
    for target in targets:
        if target.is_dir():
            raise OutputError(f"{target}: a folder of this name exists; expected a file", "choose another name")
        if target.exists() and not overwrite:
            raise OutputError(f"{target}: exists already", "choose another name, or replace it with --overwrite")


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: no permission to write here", "choose a folder of your own")


def _resolved(path: str | os.PathLike[str]) -> Path:
    """Absolute, so that a change of folder meanwhile does no harm; links are followed, not replaced."""
    return Path(path).expanduser().resolve()


def _beside(target: Path, what: str) -> Path:
    """Return a new hidden name in the target's folder, with its extension, by which the kind of image is told."""
    return target.with_name(f".{what}-{secrets.token_hex(4)}-{target.name}")


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def as_output_error(target: Path) -> Iterator[None]:
    """Turn errors of the file system into `OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written: {error.strerror or error}",
            "check the free space and your permissions, or choose another place",
        ) from error


def _stored_dtype(data: NDArray[Any], dtype: DTypeLike | None, name: str) -> np.dtype[Any]:
    if data.dtype.kind not in "biuf":
        raise UsageError(f"{name}: cannot store values of type {data.dtype}", "give real numbers")
    if dtype is None:
        by_kind = {"b": np.uint8, "i": np.int32, "u": np.int32, "f": np.float32}
        dtype = data.dtype if data.dtype in (np.float32, np.float64) else by_kind[data.dtype.kind]
    stored: np.dtype[Any] = np.dtype(dtype).newbyteorder("<")
    if stored.kind in "iu" and data.dtype.kind in "iuf":
        limits = np.iinfo(stored.str)
        low, high = data.min(), data.max()
        if not (limits.min <= low and high <= limits.max):
            raise UsageError(f"{name}: values from {low} to {high} do not fit {stored.name}", "give a wider dtype")
    return stored


def _header(shape: tuple[int, ...], stored: np.dtype[Any], affine: NDArray[np.float64], like: Image | None) -> Any:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    on_disk = shape if len(shape) == 3 else (*shape[1:], shape[0])
    header_class: Any = Nifti1Header if max(on_disk) <= _NIFTI1_LONGEST_AXIS else Nifti2Header
    header = header_class(endianness="<")
    header.set_data_dtype(stored)
    header.set_data_shape(on_disk)
    sform, qform, units, time_step = 2, 0, 2 | 8, None  # codes as nibabel's: aligned, unknown; mm and seconds
    if like is not None:
        time_step = like.tr_s
        if "sform_code" in getattr(like.header, "keys", list)():
            qform = int(like.header["qform_code"])
            sform = int(like.header["sform_code"]) or qform or sform
            units = int(like.header["xyzt_units"])
            time_step = float(like.header["pixdim"][4]) if like.is_4d else None
    header.set_qform(affine, code=qform)
    header.set_sform(affine, code=sform)  # after the qform: it alone can hold shears
    header["xyzt_units"] = units
    if len(on_disk) == 4 and time_step is not None:
        header["pixdim"][4] = time_step
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset
    return header


def _write_nifti(file: IO[bytes] | gzip.GzipFile, header: Any, data: NDArray[Any], stored: np.dtype[Any]) -> None:
    block = header.binaryblock
    file.write(block + b"\0" * (header.single_vox_offset - len(block)))  # four bytes more: no extensions
    volumes = data if data.ndim == 4 else data[None]
    with np.errstate(over="ignore", invalid="ignore"):
        for volume in volumes:  # one at a time: a change of type or order never copies the whole
            file.write(np.ascontiguousarray(volume.T, dtype=stored).reshape(-1).view(np.uint8).data)


def json_text(obj: Any) -> str:
    """Return what `write_json` writes."""
    return json.dumps(_plain(obj), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(obj: Any) -> Any:
    """Return only what JSON knows."""
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, np.ndarray):
        return _plain(obj.tolist())
    if isinstance(obj, np.generic):
        return _plain(obj.item())
    if isinstance(obj, set | frozenset):
        return sorted(_plain(value) for value in obj)
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    return obj
