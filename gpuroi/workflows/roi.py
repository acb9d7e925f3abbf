"""Regions of interest from a contrast: runs and their condition labels in, an atlas and its signals out."""

from __future__ import annotations

import math
import numbers
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends import get_backend
from gpuroi.backends.memory import host_free_bytes, map_chunks, parse_bytes
from gpuroi.errors import DataError, UsageError
from gpuroi.workflows.conditions import label_volumes, read_conditions, split_contrast
from gpuroi.workflows.provenance import describe_inputs
from gpuroi.workflows.roi_result import RoiResult, make_result
from gpuroi.workflows.run_store import RunStore
from gpuroi.workflows.runs import open_runs, run_sources
from gpuroi.workflows.stopwatch import Stopwatch

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from gpuroi.backends.base import Backend
    from gpuroi.workflows.runs import Run

__all__ = ["roi"]

_VIEW_LIMIT = 10.0  # -log10 p at which the map for viewing is clipped
_LEAST_BYTES_PER_VOXEL = 64  # the maps, twice as float64, and one volume on its way through the smoothing
_BLOCK_BYTES = 256 << 20  # larger blocks were no faster, and would count as memory of their own


def roi(
    bold: Any,
    conditions: Any,
    contrast: str,
    *,
    fwhm: float | tuple[float, float, float] | None = 6.0,
    threshold: float = 5.0,
    mask: Any = None,
    dilate: int = 1,
    min_region_size: float = 0.0,
    connectivity: int = 6,
    equal_var: bool = True,
    tr: float | None = None,
    device: str = "auto",
    memory_limit: str | int | None = None,
) -> RoiResult:
    """Find the regions that tell two conditions apart, and extract their signals.

    In this order: smooth every volume; t-test, per voxel, the volumes of the first condition against those of the
    second; take -log10 of the two-sided p; keep voxels of at least `threshold`; intersect with the
    mask; dilate; label; drop regions smaller than `min_region_size`; average the smoothed data over every region.

    Parameters
    ----------
    bold : path, 4-D image, list of 3-D images, or a sequence of these
        One or several runs on one grid. Runs are concatenated.
    conditions : path, labels, or a sequence of these
        For each run its labels, one per volume, or events: see `gpuroi.workflows.conditions.read_conditions`.
    contrast : str
        "face-house": the first minus the second. Names may hold hyphens.
    fwhm : float, (float, float, float) or None, default 6.0
        Full width at half maximum of the smoothing, mm; 0 or None: none.
    threshold : float, default 5.0
        On -log10 of the two-sided p; voxels with ``-log10 p >= threshold`` are kept, whatever the sign of t.
    mask : path or image, optional
        Non-zero inside; on the grid of the runs. It restricts the thresholded voxels; what the dilation then
        adds may lie outside it. Without a mask the whole image counts.
    dilate : int, default 1
        Steps of dilation by the 6 face neighbours; 0: none.
    min_region_size : float, default 0.0
        Regions of at least this many mm3 are kept, measured after the dilation.
    connectivity : {6, 18, 26}, default 6
        Which neighbours make one region: faces; and edges; and corners.
    equal_var : bool, default True
        True: Student's t-test. False: Welch's.
    tr : float, optional
        Repetition time in seconds, for events; by default that of the image header.
    device : {"auto", "cpu", "cuda", "cuda:N"}
    memory_limit : int or str, optional
        Bytes, or text such as "2GB", for the volumes and the work on them, beside what the imports take. Volumes that
        do not fit lie in a temporary file; a compressed run is inflated whole while it is read.

    Returns
    -------
    RoiResult
        Also when nothing reaches the threshold: then with an empty table.

    Raises
    ------
    UsageError
        An argument outside its range; a memory limit below what one volume and its maps take.
    DataError
        Files that cannot be used: unreadable, of different grids (`GridError`), all NaN, with labels that do not fit
        their volumes, or fewer than 2 volumes in a condition.
    DeviceError
        If the device asked for cannot be used.

    Notes
    -----
    Results do not depend on `memory_limit` or on how the work was split. NaN and infinite values count as 0 in the
    smoothing of their neighbours, as in nilearn, but stay missing themselves: a voxel that is missing in one of the
    volumes compared has no t and lies in no thresholded map. Nor has a voxel that never changes.

    Volumes that follow each other are not independent, and p is not corrected for the number of voxels: the
    threshold selects voxels, it is no inference. The regions must not be tested for the same contrast again on the
    same data.

    Examples
    --------
    >>> import nibabel, numpy as np
    >>> volumes = np.random.default_rng(0).normal(100, 1, (8, 8, 8, 40)).astype("float32")
    >>> volumes[2:5, 2:5, 2:5, :20] += 5
    >>> run = nibabel.Nifti1Image(volumes, np.diag([3.0, 3.0, 3.0, 1.0]))
    >>> result = roi(run, ["face"] * 20 + ["house"] * 20, "face-house", fwhm=None, dilate=0, device="cpu")
    >>> len(result.table), int((np.asarray(result.atlas.dataobj) == 1).sum())
    (1, 27)
    """
    from gpuroi.images.masks import read_mask

    settings = _settings(fwhm, threshold, dilate, min_region_size, connectivity, equal_var, tr)
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    backend = get_backend(device)
    watch = Stopwatch()
    with watch("open"):
        runs = open_runs(bold)
        sources = _condition_sources(conditions, len(runs))
        names, first, second = _lay_out(runs, sources, contrast, tr)
        inside = None if mask is None else read_mask(mask, runs[0].images[0])
        inputs = describe_inputs([*run_sources(bold), *sources, mask])
    store, budget = _make_store(runs, limit)
    with store, backend.activate():
        mean = _load(runs, store, backend, fwhm, budget, watch)
        with watch("t-test"):
            t, log10p = _test(store, names == first, names == second, backend, equal_var, budget)
        with watch("regions"):
            labels, maps = _find_regions(log10p, inside, runs[0], settings, backend)
        with watch("signals"):
            signals = _signals(runs, names, labels, store, backend, budget)
    settings |= {"contrast": f"{first} - {second}", "first": first, "second": second, "mask": mask is not None}
    return make_result(
        labels,
        {"t": t, "log10p": log10p, **maps, "mean": mean},
        signals,
        like=runs[0].images[0],
        n_runs=len(runs),
        settings=settings,
        inputs=inputs,
        timings=watch.seconds,
        device=backend.device,
    )


# --------------------------------------------------------------------------- what was asked for


def _settings(
    fwhm: Any, threshold: float, dilate: int, min_region_size: float, connectivity: int, equal_var: bool, tr: Any
) -> dict[str, Any]:
    """Check the arguments before any file is read, and return them for the record."""
    if not (_is_finite(threshold) and threshold >= 0):
        raise UsageError(f"threshold is {threshold}", "give a -log10 p of 0 or more: 5 keeps p <= 0.00001")
    if not (_is_finite(dilate) and dilate == int(dilate) and dilate >= 0):
        raise UsageError(f"dilate is {dilate}", "give a whole number of steps, 0 for none")
    if not (_is_finite(min_region_size) and min_region_size >= 0):
        raise UsageError(f"min_region_size is {min_region_size}", "give mm3, 0 to keep every region")
    if connectivity not in (6, 18, 26):
        raise UsageError(f"connectivity is {connectivity!r}", "use 6 (faces), 18 (and edges) or 26 (and corners)")
    if tr is not None and not (_is_finite(tr) and tr > 0):
        raise UsageError(f"tr is {tr}", "give the repetition time in seconds")
    widths = np.ravel(np.asarray(0.0 if fwhm is None else fwhm))
    if widths.size not in (1, 3) or not all(_is_finite(width) and width >= 0 for width in widths):
        raise UsageError(f"fwhm is {fwhm}", "give one width in mm of 0 or more, or three")
    return {
        "fwhm_mm": float(widths[0]) if widths.size == 1 else [float(width) for width in widths],
        "threshold_log10p": float(threshold),
        "two_sided": True,
        "dilate": int(dilate),
        "min_region_size_mm3": float(min_region_size),
        "connectivity": int(connectivity),
        "equal_var": bool(equal_var),
        "tr_s": None if tr is None else float(tr),
    }


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _condition_sources(conditions: Any, n_runs: int) -> list[Any]:
    """Return one source of labels per run."""
    single = isinstance(conditions, (str, os.PathLike)) or hasattr(conditions, "columns")
    listed = [conditions] if single else list(conditions)
    are_labels = n_runs == 1 and len(listed) > 1 and not all(map(_is_source, listed))
    sources = [conditions] if are_labels else listed
    if len(sources) != n_runs:
        raise DataError(
            f"{n_runs} run{'s' * (n_runs != 1)}, but conditions for {len(sources)}",
            "give one label file per run, in the order of the runs",
        )
    return sources


def _is_source(item: Any) -> bool:
    """True for what holds the labels of a run: a file, a table or a sequence; not for a label."""
    if isinstance(item, str):
        return os.path.isfile(item)  # noqa: PTH113 (pathlib raises for labels that are no paths)
    return isinstance(item, os.PathLike) or hasattr(item, "columns") or np.ndim(item) == 1


def _lay_out(runs: list[Run], sources: list[Any], contrast: str, tr: float | None) -> tuple[NDArray[np.str_], str, str]:
    """Return the condition of every volume of all runs, and the two that are compared."""
    read = [read_conditions(source, name=f"the conditions of run {i + 1}") for i, source in enumerate(sources)]

    def lay_out(*compared: str) -> NDArray[np.str_]:
        return np.concatenate(
            [
                label_volumes(one, run.n_volumes, image=run.name, tr_s=tr or run.tr_s, contrast=compared)
                for one, run in zip(read, runs, strict=True)
            ]
        )

    files = ", ".join(one.name for one in read[:3]) + (f" and {len(read) - 3} more" if len(read) > 3 else "")
    first, second = split_contrast(contrast, Counter(lay_out().tolist()), found_in=files)
    names = lay_out(first, second)
    for condition in (first, second):
        n = int((names == condition).sum())
        if n < 2:
            raise DataError(
                f'condition "{condition}" has {n} volume{"s" if n != 1 else ""} in {files}: a t-test needs 2 or more',
                "check the labels, or add runs",
            )
    return names, first, second


def _make_store(runs: list[Run], limit: int | None) -> tuple[RunStore, int]:
    """Return room for all volumes, and the bytes left for the work on them."""
    n_voxels = math.prod(runs[0].shape)
    if limit is not None and limit < _LEAST_BYTES_PER_VOXEL * n_voxels:
        least = -(-_LEAST_BYTES_PER_VOXEL * n_voxels // 10**6)
        raise UsageError(
            f"memory_limit is {limit} bytes: too little for a volume and its maps", f"give {least}MB or more"
        )
    total = int(0.8 * host_free_bytes()) if limit is None else limit
    work = min(_BLOCK_BYTES, total // 4)
    held = max(run.held_bytes for run in runs)
    return RunStore(sum(run.n_volumes for run in runs), runs[0].shape, total - held - work), work


# --------------------------------------------------------------------------- the stages


def _load(
    runs: list[Run], store: RunStore, backend: Backend, fwhm: Any, budget: int, watch: Stopwatch
) -> NDArray[np.float32]:
    """Fill the store with smoothed volumes; return the mean of the volumes as they were."""
    total = np.zeros(runs[0].shape, np.float64, order="F")
    start = 0
    for run in runs:
        load = _Loader(run, store, start, total, backend, fwhm, watch)
        # Copies of a volume: on its way to the device, smoothed, and which voxels are finite.
        seen = map_chunks(load, run.n_volumes, 16 * total.size, backend=backend, limit=budget)
        if not any(seen):
            raise DataError(f"{run.name}: all values are NaN or infinite", "leave this run out, or mend the image")
        run.release()
        start += run.n_volumes
    return np.asarray(total / start, dtype=np.float32)


class _Loader:
    """Reads and smooths parts of one run into the store, from volume `start` on, and adds what it read to `total`."""

    def __init__(
        self,
        run: Run,
        store: RunStore,
        start: int,
        total: NDArray[np.float64],
        backend: Backend,
        fwhm: Any,
        watch: Stopwatch,
    ) -> None:
        from gpuroi.images.grid import voxel_sizes_mm

        self.run, self.store, self.start, self.total = run, store, start, total
        self.backend, self.watch = backend, watch
        self.fwhm = fwhm if fwhm is not None and np.any(np.asarray(fwhm) > 0) else None
        self.zooms_mm = tuple(voxel_sizes_mm(run.affine).tolist())

    def __call__(self, part: slice) -> bool:
        """Load one part; return whether it holds a finite value."""
        from gpuroi.ops import smooth

        block = self.store.volumes[self.start + part.start : self.start + part.stop]  # (k, X, Y, Z)
        with self.watch("read"):
            self.run.read(part.start, part.stop, block)
            finite = np.isfinite(block)
            complete = bool(finite.all())
        smoothed = block
        if self.fwhm is not None:
            with self.watch("smooth"):
                filled = block if complete else np.where(finite, block, np.float32(0))
                smoothed = smooth(self.backend.asarray(filled), self.fwhm, self.zooms_mm)
                smoothed = self.backend.to_numpy(smoothed)
        # Nothing is allocated from here on: a part that fails leaves no trace, and can be tried again in halves.
        with self.watch("read"), np.errstate(invalid="ignore"):
            for volume in block:  # one by one, so that the sum is the same for every split
                np.add(self.total, volume, out=self.total)
            if smoothed is not block:
                block[...] = smoothed
            if not complete:
                block[~finite] = np.nan
            self.store.drop_pages()
        return bool(finite.any())


def _test(
    store: RunStore,
    is_first: NDArray[np.bool_],
    is_second: NDArray[np.bool_],
    backend: Backend,
    equal_var: bool,
    budget: int,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return t and -log10 p, (X, Y, Z), of the first condition against the second."""
    from gpuroi.ops import ttest_ind

    first, second = np.flatnonzero(is_first), np.flatnonzero(is_second)
    n_voxels = math.prod(store.volumes.shape[1:])
    t, log10p = np.empty(n_voxels, np.float32), np.empty(n_voxels, np.float64)

    def test_slab(part: slice) -> None:
        a = backend.asarray(store.series(first, part))  # (n_a, w): a copy of the volumes of one condition
        b = backend.asarray(store.series(second, part))  # (n_b, w)
        result = ttest_ind(a, b, equal_var=equal_var)
        t[part] = backend.to_numpy(result.statistic)
        log10p[part] = 0.0 - backend.to_numpy(result.log10p)

    # The samples, as copied and in the layout that the kernel wants; sums, t and p in float64.
    map_chunks(test_slab, n_voxels, 8 * (len(first) + len(second)) + 256, backend=backend, limit=budget)
    shape = store.volumes.shape[1:]
    return t.reshape(shape, order="F"), log10p.reshape(shape, order="F")


def _find_regions(
    log10p: NDArray[np.float64],
    inside: NDArray[np.bool_] | None,
    run: Run,
    settings: dict[str, Any],
    backend: Backend,
) -> tuple[NDArray[np.int32], dict[str, NDArray[Any]]]:
    """Return the labels of the regions, and the maps on the way to them."""
    from gpuroi.images.small_regions import drop_small_regions
    from gpuroi.ops import binary_dilation, label

    reached = log10p >= settings["threshold_log10p"]  # NaN never
    in_mask = reached if inside is None else reached & inside
    dilated = backend.asarray(in_mask)
    if settings["dilate"]:
        dilated = binary_dilation(dilated, iterations=settings["dilate"])
    labels, n = label(dilated, settings["connectivity"])
    smallest = settings["min_region_size_mm3"]
    kept, _ = drop_small_regions(backend.to_numpy(labels), n, min_size_mm3=smallest, affine=run.affine)
    return kept, {
        "log10p_clipped": np.minimum(np.nan_to_num(log10p, nan=0.0), _VIEW_LIMIT).astype(np.float32),
        "thresholded": np.where(reached, log10p, 0.0),
        "in_mask": in_mask,
        "dilated": backend.to_numpy(dilated),
    }


def _signals(
    runs: list[Run],
    names: NDArray[np.str_],
    labels: NDArray[np.int32],
    store: RunStore,
    backend: Backend,
    budget: int,
) -> pd.DataFrame:
    """Return the mean of every region in every volume, one row per volume."""
    import pandas as pd

    from gpuroi.ops import label_means

    ids = list(range(1, int(labels.max(initial=0)) + 1))
    regions = backend.asarray(np.asfortranarray(labels))

    def average(part: slice) -> NDArray[np.float64]:
        means = label_means(backend.asarray(store.volumes[part]), regions, ids)  # (k, n_regions)
        on_host: NDArray[np.float64] = backend.to_numpy(means)
        store.drop_pages()
        return on_host

    means = np.empty((len(names), 0))
    if ids:
        fixed = 32 * labels.size  # the column of every voxel
        parts = map_chunks(average, len(names), 8 * labels.size, backend=backend, limit=budget, fixed=fixed)
        means = np.concatenate(parts)
    where = {
        "run": np.concatenate([np.full(run.n_volumes, i, np.int64) for i, run in enumerate(runs, 1)]),
        "volume": np.concatenate([np.arange(run.n_volumes) for run in runs]),
        "condition": names.astype(object),
    }
    return pd.DataFrame(where | {f"region-{i}": means[:, i - 1] for i in ids})
