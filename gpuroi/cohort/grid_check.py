"""Every map of a cohort is looked at before any work: files, headers and grids, all offenders at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from gpuroi.cohort.bad_inputs import BadInput, BadInputsError
from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, GpuroiError, GridError, UsageError

if TYPE_CHECKING:
    from gpuroi.images.read import Image

__all__ = [
    "BadGridsError",
    "BadMapsError",
    "HasMaps",
    "check_maps",
    "in_threads",
    "open_maps",
    "read_grid",
    "refuse",
    "write_bad_inputs",
]

_LISTED = 20
_HEADER_THREADS = 8  # headers wait for the disk or the network, not for a processor

T = TypeVar("T")


class HasMaps(Protocol):
    """A cohort, as far as its maps go: `Participants` is one."""

    @property
    def ids(self) -> list[str]:
        """Participants, one a row."""

    @property
    def maps(self) -> list[Path]:
        """Their maps, in the order of `ids`."""


class BadMapsError(BadInputsError):
    """Maps that cannot be used; `bad_inputs` holds all of them, the message the first 20.

    Parameters
    ----------
    bad_inputs : sequence of BadInput
    n_maps : int
        Of the cohort.
    """

    def __init__(self, bad_inputs: Sequence[BadInput], n_maps: int) -> None:
        self.bad_inputs, self.n_maps = tuple(bad_inputs), n_maps
        lines = [f"{bad.participant_id}: {bad.file}: {bad.found}; expected {bad.expected}" for bad in bad_inputs]
        if len(lines) > _LISTED:
            lines[_LISTED:] = [f"... and {len(lines) - _LISTED} more"]
        GpuroiError.__init__(  # not the parent's, which lists all
            self,
            f"{len(bad_inputs)} of {n_maps} maps cannot be used:\n  " + "\n  ".join(lines),
            "mend or resample these files, or leave their participants out of the table",
        )

    def __reduce__(self) -> tuple[type[BadMapsError], tuple[object, ...]]:
        return type(self), (self.bad_inputs, self.n_maps)


class BadGridsError(BadMapsError, GridError):
    """Maps that are whole, but lie on another grid than the mask."""


def check_maps(participants: HasMaps, mask: Any, *, tolerance: float = 1e-3) -> list[BadInput]:
    """Look at the header of every map, and return those that cannot be used.

    Parameters
    ----------
    participants : Participants
    mask : path, image or VoxelGrid
        The grid that all maps must lie on.
    tolerance : float, default 1e-3
        Largest difference of affines, as in `gpuroi.images.check_same_grid`.

    Returns
    -------
    list of BadInput
        Missing, unreadable and shortened files, maps of several frames, maps of another shape or affine; in the
        order of the table. Empty if all is well.

    Raises
    ------
    DataError
        If the mask cannot be used.

    Notes
    -----
    Headers only: a compressed file is inflated whole where its recorded length contradicts its header. Damage in the
    middle of a file is found when it is read.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> mask = VoxelGrid(np.ones((2, 2, 2)), np.eye(4))
    >>> check_maps(SimpleNamespace(ids=["01"], maps=[Path("sub-01.nii.gz")]), mask)[0].found
    'no such file'
    """
    return open_maps(participants, read_grid(mask), tolerance=tolerance)[1]


def open_maps(
    participants: HasMaps, grid: VoxelGrid, *, tolerance: float = 1e-3
) -> tuple[list[Image | None], list[BadInput]]:
    """Return the opened maps, None where one cannot be used, and those that cannot."""
    ids, paths = list(participants.ids), list(participants.maps)
    if not paths or len(ids) != len(paths):
        raise DataError(f"{len(ids)} participants and {len(paths)} maps", "give one map for every participant")
    reference = _Reference("the mask", grid.mask.shape, np.asarray(grid.affine))

    def look(i: int) -> tuple[Image | None, BadInput | None]:
        found = _look(paths[i], reference, tolerance)
        return (None, BadInput(ids[i], os.fspath(paths[i]), *found)) if isinstance(found, tuple) else (found, None)

    seen = in_threads(look, len(paths), _HEADER_THREADS)
    return [image for image, _ in seen], [bad for _, bad in seen if bad is not None]


def read_grid(mask: Any) -> VoxelGrid:
    """Return the voxels of a mask, given as image or as the grid itself.

    Raises
    ------
    DataError
        If the mask is empty, or the grid has no affine.
    """
    if isinstance(mask, VoxelGrid):
        if mask.affine is None:
            raise UsageError("the grid has no affine, so that maps cannot be checked", "VoxelGrid(mask, affine)")
        return mask
    from gpuroi.images.masks import read_mask
    from gpuroi.images.read import open_image

    image = open_image(mask)
    return VoxelGrid(read_mask(image), image.affine)


def refuse(rows: Sequence[BadInput], n_maps: int) -> None:
    """Raise one error for all maps that cannot be used, if there are any."""
    if rows:
        only_grids = all(row.expected.startswith(("shape", "voxel size", "affine")) for row in rows)
        raise (BadGridsError if only_grids else BadMapsError)(rows, n_maps)


def write_bad_inputs(path: str | os.PathLike[str], rows: Sequence[BadInput]) -> Path:
    """Write a table of the maps that cannot be used: participant_id, file, found, expected.

    A table of that name from an earlier try is replaced.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    import pandas as pd

    from gpuroi.images.write import write_tsv

    table = pd.DataFrame(list(rows), columns=list(BadInput._fields))
    return write_tsv(path, table.replace(r"\s+", " ", regex=True), overwrite=True)


def in_threads(
    work: Callable[[int], T], n: int, threads: int, progress: Callable[[int, int], None] | None = None
) -> list[T]:
    """Return `[work(0), ..., work(n - 1)]`; after an error, or Ctrl-C, nothing more is begun.

    `progress` is told how many are done, and of how many, one call at a time.
    """
    if progress is not None:
        work = _counted(work, n, progress)
    if min(threads, n) <= 1:
        return [work(i) for i in range(n)]
    pool = ThreadPoolExecutor(min(threads, n), thread_name_prefix="gpuroi-maps")
    try:
        return list(pool.map(work, range(n)))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _counted(work: Callable[[int], T], n: int, progress: Callable[[int, int], None]) -> Callable[[int], T]:
    lock, done = threading.Lock(), 0
    progress(0, n)

    def counted(i: int) -> T:
        nonlocal done
        result = work(i)
        with lock:
            done += 1
            progress(done, n)
        return result

    return counted


@dataclass(frozen=True)
class _Reference:
    name: str
    shape: tuple[int, ...]
    affine: Any


def _look(path: Path, reference: _Reference, tolerance: float) -> Image | tuple[str, str]:
    """Return the opened map, or in words what was found and what was expected."""
    from gpuroi.images.grid import check_same_grid
    from gpuroi.images.read import open_image

    try:
        image = open_image(path)
    except DataError as error:
        return _without_name(error, path), "a readable image of one frame"
    if image.n_volumes != 1:
        return f"{image.n_volumes} frames", "one frame"
    try:
        check_same_grid([image], reference=reference, tolerance=tolerance)
    except GridError as error:
        found, _, expected = _without_name(error, path).partition(f", {reference.name}: ")
        kind = next(kind for kind in ("shape", "voxel size", "affine") if found.startswith(kind))
        expected, _, apart = expected.partition(" (")
        return f"{found} ({apart}" if apart else found, f"{kind} {expected}"
    return image


def _without_name(error: DataError, path: Path) -> str:
    """The message without the file's name and the folder, which the row has."""
    message = error.message.removeprefix(f"{path}: ")
    return message.partition(" (looked in ")[0] if message.startswith("no such file") else message
