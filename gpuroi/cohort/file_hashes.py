"""Which bytes a matrix of maps comes from: hashes of files, and a watch on files while they are read."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gpuroi.cohort.grid_check import in_threads
from gpuroi.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["hash_files", "unchanged_files"]

_OTHER_HALF = {".hdr": ".img", ".img": ".hdr"}
_LISTED = 5


def hash_files(paths: Sequence[Path], threads: int, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Return the SHA-256 of each file, read by several threads; of a pair (.hdr, .img) that of both.

    Parameters
    ----------
    paths : sequence of Path
    threads : int
    progress : callable, optional
        Called with the numbers done and in all, from any thread.

    Raises
    ------
    DataError
        If a file cannot be read.
    """
    return in_threads(lambda i: _sha256(paths[i]), len(paths), threads, progress)


@contextmanager
def unchanged_files(paths: Sequence[Path]) -> Iterator[None]:
    """Watch over files that are hashed and read within: both must be of the same bytes.

    Parameters
    ----------
    paths : sequence of Path
        Sizes and times of change are compared; of a pair (.hdr, .img) those of both.

    Raises
    ------
    DataError
        At the end, if a file was replaced, written to or removed meanwhile.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "map.nii")
    ...     _ = path.write_bytes(b"one")
    ...     with unchanged_files([path]):
    ...         digest = hash_files([path], 1)[0]
    >>> digest[:8]
    '7692c3ad'
    """
    before = [_stamps(path) for path in paths]
    yield
    changed = [path for path, stamps in zip(paths, before, strict=True) if _stamps(path) != stamps]
    if changed:
        listed = ", ".join(str(path) for path in changed[:_LISTED])
        more = f" and {len(changed) - _LISTED} more" if len(changed) > _LISTED else ""
        was = "was" if len(changed) == 1 else "were"
        raise DataError(
            f"{listed}{more}: {was} replaced or written to while being read",
            "run again when nothing writes the maps any more",
        )


def _parts(path: Path) -> list[Path]:
    """The file that is named, and the other half of a pair."""
    path = path.expanduser()
    other = _OTHER_HALF.get(path.suffix)
    return [path, path.with_suffix(other)] if other else [path]


def _stamps(path: Path) -> list[tuple[int, int] | None]:
    """Size and time of change of each part, None where it is not there."""
    stamps: list[tuple[int, int] | None] = []
    for part in _parts(path):
        try:
            found = part.stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((found.st_size, found.st_mtime_ns))
    return stamps


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    named, *other = _parts(path)
    for part in (named, *other):
        try:
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            if part == named:
                raise DataError(f"{path}: cannot be read: {error.strerror}", "check the path") from error
    return digest.hexdigest()
