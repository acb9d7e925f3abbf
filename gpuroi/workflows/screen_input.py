"""What a screening needs to know before it reads a single voxel: cohort, design, atlas, rearrangements, phenotypes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import DataError, UsageError
from gpuroi.workflows.cohort_input import read_cohort
from gpuroi.workflows.provenance import describe_inputs
from gpuroi.workflows.screen_settings import read_permutations

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from gpuroi.cohort.contrasts import Contrast
    from gpuroi.cohort.design import CohortDesign
    from gpuroi.cohort.maps import CohortMaps
    from gpuroi.cohort.participants import Participants
    from gpuroi.cohort.store import MapStore
    from gpuroi.domains import VoxelGrid
    from gpuroi.images.atlas_labels import Atlas
    from gpuroi.workflows.screen_phenotypes import Phenotypes
    from gpuroi.workflows.screen_plan import ScreenPlan
    from gpuroi.workflows.screen_settings import ScreenSettings
    from gpuroi.workflows.screen_statistics import How
    from gpuroi.workflows.stopwatch import Stopwatch

__all__ = ["HashedInputs", "ScreenInput", "hash_inputs", "read_screen_input"]

_HASH_THREADS = 8  # they wait for the disk more than for a processor


@dataclass(frozen=True, eq=False)
class ScreenInput:
    """A screening that can be run.

    Attributes
    ----------
    settings : ScreenSettings
    everybody, people : Participants
        All of the table, and those that stay.
    design : CohortDesign
        With the contrasts to be tested.
    grid : VoxelGrid
        The mask that was given, or that of the store.
    dtype : dtype
        That the maps are kept in.
    store : MapStore or None
    atlas : Atlas or None
        On the same grid.
    permutations : int64 array, shape (k, n), or None
    variance_groups : int64 array, shape (n,), or None
    phenotypes : Phenotypes or None
    chose_contrasts : bool
        None were given: there is one for each term.
    """

    settings: ScreenSettings
    everybody: Participants
    people: Participants
    design: CohortDesign
    grid: VoxelGrid
    dtype: np.dtype[Any]
    store: MapStore | None = None
    atlas: Atlas | None = None
    permutations: NDArray[np.int64] | None = field(default=None, repr=False)
    variance_groups: NDArray[np.int64] | None = field(default=None, repr=False)
    phenotypes: Phenotypes | None = None
    chose_contrasts: bool = False

    def plan(self, how: How, *, out: str | os.PathLike[str] = "out", timed: bool = False) -> ScreenPlan:
        """Say what lies in memory and what on disk; with `timed` also how long it will take.

        Raises
        ------
        UsageError
            If the memory limit does not hold what is needed with all on disk.
        """
        from gpuroi.workflows.screen_plan import plan_screen

        settings, n = self.settings, len(self.people)
        permutations = settings.n_permutations if self.permutations is None else len(self.permutations)
        groups = 1 if self.variance_groups is None else len(np.unique(self.variance_groups))
        return plan_screen(
            n,
            self.grid.n_elements,
            shape=self._shape,
            stored_dtype=self.dtype,
            n_contrasts=max(1, len(self.design.contrasts)),
            n_products=self.design.basis.rank,
            n_permutations=permutations,
            cluster=settings.finds_clusters,
            tfce=settings.tfce,
            as_z=settings.scale == "z",
            smoothing=bool(settings.fwhm),
            from_store=self.store is not None,
            some_left_out=settings.mask is None and self.store is None,  # a whole grid has constant voxels
            n_variance_groups=groups,
            atlas=self.atlas is not None,
            device=how.devices[0],
            memory_limit=how.memory_limit,
            n_jobs=how.n_jobs,
            scratch=how.scratch,
            out=out,
            timed=timed,
        )

    @property
    def _shape(self) -> tuple[int, int, int]:
        x, y, z = self.grid.mask.shape
        return x, y, z

    @property
    def map_files(self) -> list[Path]:
        """The files of the maps; none where they lie in a store."""
        return list(self.people.maps) if self.store is None else []

    def read_maps(
        self,
        memory_limit: int | str | None,
        scratch: str | os.PathLike[str] | None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CohortMaps:
        """Read the maps, or open those of the store; what memory does not hold lies on disk.

        Raises
        ------
        DataError
            Damaged files; no voxel left.
        UsageError
            A memory limit that is too low.
        """
        from gpuroi.cohort.maps import read_maps
        from gpuroi.cohort.store import maps_from_store

        settings = self.settings
        rules: dict[str, Any] = {
            "missing_data": settings.missing_data,
            "min_coverage": settings.min_coverage,
            "zero_is_missing": settings.zero_is_missing,
            "memory_limit": memory_limit,
        }
        if self.store is None:
            rules |= {"smoothing_fwhm_mm": settings.fwhm, "dtype": settings.dtype, "scratch": scratch}
            return read_maps(self.people, self.grid, **rules, progress=progress)
        maps = maps_from_store(self.store, self.people.ids, **rules)
        return maps if settings.dtype is None else replace(maps, data=_as_type(maps.data, settings.dtype))


@dataclass(frozen=True)
class HashedInputs:
    """Which bytes the results come from.

    Attributes
    ----------
    files : list of dict
        For `provenance.json`: table, mask, atlas and the like, and the maps together.
    maps : list of str
        SHA-256 of each map, in the order of the rows.
    digest : str
        SHA-256 of all of these.
    """

    files: list[dict[str, Any]]
    maps: list[str]
    digest: str


def read_screen_input(settings: ScreenSettings, watch: Stopwatch) -> ScreenInput:
    """Read and check everything but the maps themselves.

    Raises
    ------
    BadInputsError
        Everything that is wrong with table, maps, covariates and contrasts, in one error.
    GridError
        An atlas on another grid.
    DataError, UsageError
    """
    cohort = read_cohort(settings.source, watch, hint="nothing was computed; correct all of this and screen again")
    people, design = cohort.participants, cohort.design
    assert design is not None  # settings insist on a formula or a file
    if cohort.grid is None:
        raise UsageError("the table names no maps", "name their column, a path template, or a packed store")
    chose = not design.contrasts and not settings.phenotypes
    if chose:
        design = design.with_contrasts(_of_every_term(design))
    _refuse_what_no_permutation_moves(settings, design)
    with watch("headers"):
        return ScreenInput(
            settings,
            cohort.everybody,
            people,
            design,
            cohort.grid,
            _kept_dtype(settings, cohort.dtype),
            cohort.store,
            _atlas(settings, cohort.grid),
            read_permutations(settings.permutations, len(people)),
            _variance_groups(people, settings.variance_groups),
            _phenotypes(people, design, settings),
            chose_contrasts=chose,
        )


def hash_inputs(found: ScreenInput, progress: Callable[[int, int], None] | None = None) -> HashedInputs:
    """Hash every file, the maps in threads; a store has the hashes of its maps already."""
    from gpuroi.cohort.file_hashes import hash_files

    settings = found.settings
    files = describe_inputs(settings.files)
    if found.store is None:
        maps = hash_files(found.map_files, _HASH_THREADS, progress)
        size = sum(path.stat().st_size for path in found.map_files)
    else:
        size = found.store.bytes_on_disk()
        known = dict(zip(found.store.ids, found.store.sha256, strict=True))
        maps = [known[who] for who in found.people.ids]
    lines = [f"{who} {digest}" for who, digest in zip(found.people.ids, maps, strict=True)]
    of_maps = _sha256(lines)
    digest = _sha256([of_maps, *(str(file.get("sha256", "in memory")) for file in files)])
    name = f"{len(maps)} maps" + ("" if found.store is None else f" of {settings.data}")
    return HashedInputs([*files, {"path": name, "bytes": size, "sha256": of_maps}], maps, digest)


def _kept_dtype(settings: ScreenSettings, stored: np.dtype[Any] | None) -> np.dtype[Any]:
    """Type of the matrix, of maps that are stored like this."""
    from gpuroi.cohort.missing import MissingData

    if settings.dtype is not None or stored is None:
        return settings.dtype or np.dtype(np.float32)
    read = np.result_type(stored, np.float32) if settings.fwhm else stored
    how = MissingData(settings.missing_data, settings.min_coverage, settings.zero_is_missing)
    return np.promote_types(read, how.dtype(read))


def _refuse_what_no_permutation_moves(settings: ScreenSettings, design: CohortDesign) -> None:
    """Refuse a test of a mean by permutations, before the maps are read."""
    from gpuroi.inference.design import partition

    if not settings.n_permutations or settings.permutations is not None or settings.errors != "ee":
        return
    for one in design.contrasts:
        if partition(design.matrix, one.weights).constant:
            raise DataError(
                f"contrast {one.name}: the regressor of interest is constant: permuting the subjects changes nothing",
                'use errors="ise" (sign flips), if errors are symmetric about 0',
            )


def _of_every_term(design: CohortDesign) -> list[Contrast]:
    """A contrast for each term of the formula: t of its column, F of several; of the mean where there is no term."""
    from gpuroi.cohort.contrasts import parse_contrast

    if not design.terms and design.names != ["Intercept"]:
        raise UsageError(
            "no contrasts are given for the design file",
            f"give a .con file, or contrasts of its columns: {', '.join(design.names)}",
        )
    chosen = []
    for term, places in (design.terms or {"Intercept": [0]}).items():
        text = design.names[places[0]] if len(places) == 1 else term
        chosen.append(replace(parse_contrast(f"`{text}`", design), name=term, text=text))
    return chosen


def _atlas(settings: ScreenSettings, grid: VoxelGrid) -> Atlas | None:
    if settings.atlas is None:
        return None
    from gpuroi.images.atlas_labels import Grid, read_atlas
    from gpuroi.images.grid import check_same_grid

    atlas = read_atlas(settings.atlas, settings.atlas_names)
    name = "the maps" if settings.mask is None else str(settings.mask)
    check_same_grid([atlas], reference=Grid(name, grid.mask.shape, np.asarray(grid.affine)))
    return atlas


def _variance_groups(people: Participants, column: str | None) -> NDArray[np.int64] | None:
    from gpuroi.cohort.design import blocks_of

    return None if column is None else blocks_of(people, [column])


def _phenotypes(people: Participants, design: CohortDesign, settings: ScreenSettings) -> Phenotypes | None:
    if not settings.phenotypes:
        return None
    from gpuroi.workflows.screen_phenotypes import read_phenotypes

    return read_phenotypes(people, design, settings.phenotypes, settings.phenotype_maps)


def _as_type(data: Any, dtype: np.dtype[Any]) -> Any:
    return data.astype(dtype, copy=False) if isinstance(data, np.ndarray) else _Converted(data, dtype)


class _Converted:
    """A source whose columns are converted as they are read: a `ColumnSource`."""

    def __init__(self, source: Any, dtype: np.dtype[Any]) -> None:
        self._source, self.shape, self.dtype = source, source.shape, dtype

    def columns(self, start: int, stop: int) -> NDArray[Any]:
        return np.asarray(self._source.columns(start, stop), dtype=self.dtype)


def _sha256(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
