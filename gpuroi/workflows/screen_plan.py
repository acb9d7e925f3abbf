"""What a screening will take, said before it begins: memory, disk, time, and what it will write."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpuroi.backends import get_backend
from gpuroi.backends.threads import limited_threads, n_threads
from gpuroi.cohort.maps import bytes_allowed, maps_peak_bytes
from gpuroi.errors import UsageError
from gpuroi.inference.memory import permutation_peak_bytes
from gpuroi.inference.projection import BATCH, batch_of, block_of, cached_width
from gpuroi.ops.volumes import float_dtype
from gpuroi.workflows.heartbeat import duration_in_words
from gpuroi.workflows.screen_timing import Workload, seconds_of

__all__ = ["ScreenPlan", "plan_screen"]

_ROWS_BYTES = 64 << 20  # of maps that are read before they go to a scratch file
_SHARE_OF_DEVICE = 0.8
_FIGURES_S = 1.6  # and for each contrast
_FIGURES_BYTES = 600_000  # for each contrast, in figures/ and in the report
_MARGIN = 1.08  # what was measured was 0.95 to 1.03 times the sum of what is known to be there
_WHERE = ((True, True), (False, True), (True, False), (False, False))  # maps, residuals in memory: the fastest first


@dataclass(frozen=True)
class ScreenPlan:
    """How a screening will be run, and what it takes.

    Attributes
    ----------
    n, n_voxels : int
        People, and voxels of the mask.
    dtype : dtype
        Of the maps as they are kept.
    device : str
        As it was found: "cpu" or "cuda".
    maps_in_memory, residuals_in_memory : bool
        Else they lie in a scratch folder (maps of a store: in the store).
    maps_limit : int
        What to give `read_maps` or `maps_from_store` as `memory_limit`, so that they do as planned.
    host_bytes, device_bytes : int
        At the peak; on the host above what the imports take.
    disk_bytes : int
        Of scratch files.
    blocks : int
        Of voxels, for one pass over the residuals.
    batch : int
        Rearrangements in one product.
    seconds : float or None
        From timed runs of the engine on made-up data; None without these.
    smallest_p : float or None
        None without permutations.
    n_files : int
        Of the results, figures left out.
    output_bytes : int
        About that much.
    out : str
        Where they will lie.
    """

    n: int
    n_voxels: int
    dtype: np.dtype[Any]
    device: str
    maps_in_memory: bool
    residuals_in_memory: bool
    maps_limit: int
    host_bytes: int
    device_bytes: int
    disk_bytes: int
    blocks: int
    batch: int
    seconds: float | None
    smallest_p: float | None
    n_files: int
    output_bytes: int
    out: str

    @property
    def facts(self) -> list[tuple[str, str]]:
        """The lines of `--dry-run`, each with its name."""
        from gpuroi.workflows.check_facts import spaced

        size = f"{spaced(self.n)} x {spaced(self.n_voxels)}"
        matrix = _in_units(self.n * self.n_voxels * self.dtype.itemsize)
        blocks = f"{self.blocks} block" + "s" * (self.blocks != 1)
        memory = [f"host {_in_gib(self.host_bytes)}"]
        if self.device_bytes:
            memory.append(f"{self.device} {_in_gib(self.device_bytes)}")
        if self.disk_bytes:
            memory.append(f"scratch files {_in_units(self.disk_bytes)}")
        if self.seconds is not None:
            memory.append(f"time ~{duration_in_words(self.seconds)} (calibrated)")
        if self.smallest_p is not None:
            memory.append(f"smallest p {self.smallest_p:.2g}")
        return [
            (
                "would fit",
                f"{size} ({matrix} {self.dtype})   device {self.device}, {blocks}, batch {self.batch}",
            ),
            ("memory", "   ".join(memory)),
            ("would write", f"{self.n_files} files, {_in_units(self.output_bytes)} under {self.out}/"),
        ]


def plan_screen(
    n: int,
    n_voxels: int,
    *,
    shape: tuple[int, int, int],
    stored_dtype: DTypeLike = np.float32,
    n_contrasts: int = 1,
    n_products: int = 2,
    n_permutations: int = 5000,
    cluster: bool = False,
    tfce: bool = False,
    as_z: bool = False,
    smoothing: bool = False,
    from_store: bool = False,
    some_left_out: bool = False,
    n_variance_groups: int = 1,
    atlas: bool = False,
    figures: bool = True,
    device: str = "auto",
    memory_limit: int | str | None = None,
    n_jobs: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "out",
    timed: bool = True,
) -> ScreenPlan:
    """Plan a screening: what lies in memory and what on disk, how long it takes and what it writes.

    Parameters
    ----------
    n, n_voxels : int
        People, and voxels of the mask.
    shape : (int, int, int)
        Of a map.
    stored_dtype : dtype, default float32
        That the maps are kept in.
    n_contrasts : int, default 1
    n_products : int, default 2
        Rank of the contrast with the most rows and of its nuisance, as `permutation_peak_bytes` takes them.
    n_permutations : int, default 5000
        0: none.
    cluster, tfce : bool
        What is computed of every rearranged map.
    as_z : bool
        These are taken on the z scale.
    smoothing : bool
        Maps are smoothed as they are read.
    from_store : bool
        Maps come from a packed store.
    some_left_out : bool
        Some voxels are constant.
    n_variance_groups : int, default 1
    atlas, figures : bool
        What is written.
    device, n_jobs
        As in `screen`.
    memory_limit : int or str, optional
        Bytes on the host, as 400MB or 8GB, above what the imports take; default 80 % of what is free.
    scratch : path, optional
        Folder for what memory does not hold; it must be there. Default the system's temporary folder.
    out : path
        Where results will lie, to be named.
    timed : bool, default True
        Say how long it will take, which takes about a second. A run itself needs to know only what lies where.
    timed : bool, default True
        Run the engine on made-up data, for a second or two, to say how long it takes. False: `seconds` is 0.

    Returns
    -------
    ScreenPlan

    Raises
    ------
    UsageError
        If the memory limit does not hold what is needed with all on disk; sizes below 1.
    DeviceError
        If the device asked for cannot be used.

    Examples
    --------
    >>> plan = plan_screen(60, 46_812, shape=(61, 73, 61), n_permutations=500, device="cpu", memory_limit="1GB")
    >>> plan.maps_in_memory, plan.residuals_in_memory, plan.smallest_p
    (True, True, 0.002)
    """
    if min(n, n_voxels, n_contrasts, n_products) < 1:
        raise UsageError("sizes below 1", "give people, voxels, contrasts and regressors")
    limit = bytes_allowed(memory_limit)
    with limited_threads(n_jobs):
        backend = get_backend(device)
        sizes = _Sizes(
            n=n,
            v=n_voxels,
            shape=shape,
            stored=np.dtype(stored_dtype),
            threads=n_threads(),
            n_contrasts=n_contrasts,
            n_products=n_products,
            permutes=n_permutations > 0,
            needs_maps=cluster or tfce,
            as_z=as_z,
            smoothing=smoothing,
            from_store=from_store,
            some_left_out=some_left_out,
            on_device=backend.name != "cpu",
        )
        room = int(_SHARE_OF_DEVICE * backend.free_bytes()) if sizes.on_device else 0
        may_store = n_variance_groups == 1
        maps, residuals = _where(sizes, limit, room, may_store)
        files = _files(n_contrasts, n_permutations > 0, cluster, tfce, atlas, figures)
        work = Workload(
            n=n,
            n_voxels=n_voxels,
            shape=shape,
            stored_dtype=sizes.stored,
            n_contrasts=n_contrasts,
            n_regressors=max(2, min(n_products, n - 2)),
            n_permutations=n_permutations,
            cluster=cluster,
            tfce=tfce,
            as_z=as_z,
            from_store=from_store,
            n_variance_groups=n_variance_groups,
            scratch=None,
            written_bytes=4 * math.prod(shape) * files.n_float_images * n_contrasts,
            device=device,
            n_jobs=n_jobs,
        )
        seconds = _seconds(work, residuals, scratch) + figures * _FIGURES_S * (1 + n_contrasts) if timed else None
    return ScreenPlan(
        n=n,
        n_voxels=n_voxels,
        dtype=sizes.stored,
        device=backend.name,
        maps_in_memory=maps,
        residuals_in_memory=residuals,
        maps_limit=sizes.maps_limit(maps),
        host_bytes=sizes.host_bytes(maps, residuals),
        device_bytes=sizes.device_bytes(residuals) if sizes.on_device else 0,
        disk_bytes=sizes.disk_bytes(maps, residuals),
        blocks=1 if residuals else math.ceil(n_voxels / block_of(n)),
        batch=batch_of(backend.name, needs_maps=cluster or tfce),
        seconds=seconds,
        smallest_p=1 / n_permutations if n_permutations else None,
        n_files=files.n_files,
        output_bytes=files.bytes_of(n, n_voxels, n_contrasts, n_permutations, figures),
        out=os.fspath(out).rstrip("/"),
    )


def _seconds(work: Workload, residuals: bool, scratch: str | os.PathLike[str] | None) -> float:
    """Time the work, with residuals on the disk where they will be."""
    if residuals:
        return seconds_of(work)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="gpuroi-plan-") as folder:
        return seconds_of(dataclasses.replace(work, scratch=folder))


@dataclass(frozen=True)
class _Sizes:
    """What the memory of a screening depends on; v voxels of the mask."""

    n: int
    v: int
    shape: tuple[int, int, int]
    stored: np.dtype[Any]
    threads: int
    n_contrasts: int
    n_products: int
    permutes: bool
    needs_maps: bool
    as_z: bool
    smoothing: bool
    from_store: bool
    some_left_out: bool
    on_device: bool

    @property
    def computed(self) -> np.dtype[Any]:
        """Type of the statistics."""
        return float_dtype(self.stored, "maps")

    @property
    def matrix(self) -> int:
        """Bytes of the maps as they are kept."""
        return self.stored.itemsize * self.n * self.v

    @property
    def residuals(self) -> int:
        """Bytes of the residuals."""
        return self.computed.itemsize * self.n * self.v

    def host_bytes(self, maps: bool, residuals: bool) -> int:
        """At the peak of reading, fitting and permuting."""
        kept = maps * self.matrix + 16 * self.v  # what coverage says of every voxel
        averaging = kept + self._estimates() + (9 + self.stored.itemsize) * self.n * min(512, self.v)  # over clusters
        most = max(self._reading(maps), averaging, kept + max(self._fitting(maps), self._permuting(maps, residuals)))
        return int(_MARGIN * most)

    def device_bytes(self, residuals: bool) -> int:
        """On a device: whole matrices where the residuals lie there, else a block of them."""
        width = self.v if residuals else block_of(self.n)
        item = self.computed.itemsize
        product = 2 * batch_of("cuda", needs_maps=self.needs_maps) * self.n_products * width * item
        maps = BATCH * item * self.v * (2 * self.needs_maps + self.as_z)
        projecting = 3 * 8 * self.n * block_of(self.n)
        return (2 if residuals else 1) * self.n * width * item + max(product + maps, projecting) + 60 * self.v

    def disk_bytes(self, maps: bool, residuals: bool) -> int:
        """Scratch files; residuals are twice there while constant voxels are left out."""
        of_maps = 0 if maps or self.from_store else self.matrix
        return of_maps + (0 if residuals or not self.permutes else self.residuals * (1 + self.some_left_out))

    def maps_limit(self, maps: bool) -> int:
        """A limit under which the readers put the matrix where it is planned to be."""
        beside = self._beside_reading()
        return beside + (2 * self.matrix + self.matrix // 4 if maps else self.matrix // 2)

    def _beside_reading(self) -> int:
        if self.from_store:
            return 0
        return maps_peak_bytes(0, self.v, self.shape, self.stored, smoothing=self.smoothing, threads=self.threads)

    def _reading(self, maps: bool) -> int:
        if maps:
            return self._beside_reading() + self.matrix
        if self.from_store:
            return 28 * self.v
        row = self.v * self.stored.itemsize
        return self._beside_reading() + row * min(self.n, max(1, _ROWS_BYTES // row))

    def _fitting(self, maps: bool) -> int:
        """Results of all contrasts, and the blocks at work."""
        return self._estimates() + 16 * self.v * self.n_contrasts + 40 * self.v + self._blocks(maps)

    def _estimates(self) -> int:
        """Effect, variance, statistic and z in the type that is computed in, p and log p in float64."""
        return self.n_contrasts * self.v * (4 * self.computed.itemsize + 16)

    def _blocks(self, maps: bool) -> int:
        """Of float64 while the model is fitted, and two a thread of what is read from disk meanwhile."""
        fitted = 4 * 8 * self.n * cached_width(self.n)
        read = 0 if maps else 2 * self.n * block_of(self.n) * self.stored.itemsize
        return self.threads * (fitted + read)

    def _permuting(self, maps: bool, residuals: bool) -> int:
        """One contrast, with the results of those before it."""
        if not self.permutes:
            return 0
        kept = self._estimates() + (self.n_contrasts - 1) * self.v * (36 + 20 * self.needs_maps)
        if self.on_device:
            return kept
        copied = maps * (self.stored != self.computed) * self.residuals  # integers become floats
        return (
            kept
            + copied
            + permutation_peak_bytes(
                self.n,
                self.v,
                self.computed,
                n_products=self.n_products,
                needs_maps=self.needs_maps,
                as_z=self.as_z,
                some_left_out=self.some_left_out,
                stored=not residuals,
                source_itemsize=0 if maps else self.stored.itemsize,
                threads=self.threads,
            )
        )


def _where(sizes: _Sizes, limit: int, room: int, may_store: bool) -> tuple[bool, bool]:
    """Return whether maps and residuals lie in memory: the fastest way that fits."""
    ways = [(maps, residuals) for maps, residuals in _WHERE if may_store or residuals]
    on_device = [way for way in ways if not sizes.on_device or sizes.device_bytes(way[1]) <= room]
    if not on_device:
        least = min(sizes.device_bytes(residuals) for _, residuals in ways)
        raise UsageError(
            f"the screening needs at least {_in_units(least)} on the device, which has {_in_units(room)} to give",
            "free some, or use --device cpu",
        )
    for maps, residuals in on_device:
        if sizes.host_bytes(maps, residuals) <= limit:
            return maps, residuals
    least = min(sizes.host_bytes(maps, residuals) for maps, residuals in on_device)
    raise UsageError(
        f"the screening needs at least {_in_units(least)} of memory with maps and residuals on disk; "
        f"the limit is {_in_units(limit)}",
        "raise --memory-limit, or use fewer threads: --n-jobs 1",
    )


@dataclass(frozen=True)
class _Files:
    n_files: int
    n_float_images: int  # of one contrast
    n_log_p: int

    def bytes_of(self, n: int, v: int, n_contrasts: int, n_permutations: int, figures: bool) -> int:
        """Sizes as measured: floats hardly shrink, ranks of p-values do."""
        images = 3.9 * v * (self.n_float_images - self.n_log_p) + 0.5 * v * self.n_log_p
        tables = 30 * n_permutations + 200 * n + 30_000
        return int(n_contrasts * (images + tables + figures * _FIGURES_BYTES) + 0.5 * v + 200 * n + 350_000)


def _files(n_contrasts: int, permutes: bool, cluster: bool, tfce: bool, atlas: bool, figures: bool) -> _Files:
    """Count what `ScreenResult.save` writes."""
    whole = 13 + 2 * atlas + figures  # records, design, people, mask, N map, report, logs; roi means; design.svg
    log_p = 1 + permutes * (1 + 2 * cluster + tfce)
    maps = 5 + (permutes and tfce) + log_p  # each with a sidecar
    return _Files(whole + n_contrasts * (2 * maps + 5 + permutes), maps, log_p)


def _in_gib(n: int) -> str:
    """As "0.3 GiB"."""
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 // 10 else f"{max(1, round(n / 2**20))} MiB"


def _in_units(n: int) -> str:
    """As "11 MB"."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if n >= size:
            return f"{n / size:.{0 if n >= 10 * size else 1}f} {unit}"
    return f"{max(1, round(n / 1000))} kB"
