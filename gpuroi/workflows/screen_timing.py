"""How long a screening will take: the real engine, timed for a moment on made-up data of the same kind."""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.threads import limited_threads, n_threads
from gpuroi.inference.projection import BATCH, block_of

__all__ = ["Workload", "seconds_of"]

_log = logging.getLogger("gpuroi")
_MOST_BYTES = 24 << 20  # of made-up data
_NARROW = 64  # voxels, for what a batch takes beside its voxels
_MOST_VOXELS = 20_000  # of a made-up map with neighbours
_PER_DOUBLING = 0.24  # larger maps leave the cache: TFCE took 3.0, 4.1, 5.0, 5.6 us a voxel at 20, 39, 125, 238 000
_FEW = 12  # people in the run that times clusters and TFCE: their share does not depend on how many there are
_ENOUGH_S = 0.25  # for one timed run
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class Workload:
    """What the time of a screening depends on.

    Attributes
    ----------
    n, n_voxels : int
    shape : (int, int, int)
        Of a map.
    stored_dtype : dtype
    n_contrasts, n_regressors, n_permutations : int
    cluster, tfce, as_z, from_store : bool
    n_variance_groups : int
        1 without.
    scratch : path or None
        Folder for residuals that lie on disk.
    written_bytes : int
        Of images, before they are compressed.
    device : str
    n_jobs : int or None
    """

    n: int
    n_voxels: int
    shape: tuple[int, int, int]
    stored_dtype: np.dtype[Any]
    n_contrasts: int
    n_regressors: int
    n_permutations: int
    cluster: bool
    tfce: bool
    as_z: bool
    from_store: bool
    n_variance_groups: int
    scratch: str | None
    written_bytes: int
    device: str
    n_jobs: int | None


class _EnoughError(Exception):
    """Ends a timed run."""


def seconds_of(work: Workload) -> float:
    """Return the seconds that a screening will take, without its figures, from about a second of timed runs.

    Parameters
    ----------
    work : Workload

    Returns
    -------
    float
        Within a factor of two where the disk keeps up: reading is taken to be inflating.
    """
    with _silence(), limited_threads(work.n_jobs):
        return _reading_and_writing(work) + _computing(work)


def _computing(work: Workload) -> float:
    """Linear models and permutations of all contrasts."""
    from gpuroi.inference import glm

    width = min(work.n_voxels, max(_NARROW * 4, min(_MOST_BYTES // (4 * work.n), 8 * n_threads() * block_of(work.n))))
    data, design, contrast = _made_up(work.n, width, work.n_regressors)
    began = time.perf_counter()
    glm(data, design, {str(i): contrast for i in range(work.n_contrasts)})
    seconds = (time.perf_counter() - began) * work.n_voxels / width
    n_batches = math.ceil(work.n_permutations / BATCH)
    if not n_batches:
        return seconds
    groups = None if work.n_variance_groups == 1 else np.arange(work.n) % work.n_variance_groups
    options: dict[str, Any] = {"variance_groups": groups, "scratch": work.scratch}
    wide = _timed(data, design, contrast, work, **options)
    each = wide[0] + n_batches * wide[1]
    if work.n_voxels > width:  # part of a batch is the same for any number of voxels: of 40 000 people it is half
        narrow = _timed(data[:, :_NARROW], design, contrast, work, **options)
        further = (work.n_voxels - width) / (width - _NARROW)
        each += further * (max(0.0, wide[0] - narrow[0]) + n_batches * max(0.0, wide[1] - narrow[1]))
    if work.cluster or work.tfce:
        each += n_batches * _neighbours(work)
    return seconds + work.n_contrasts * each


def _neighbours(work: Workload) -> float:
    """Seconds of clusters and TFCE for a batch of whole maps: with few people they are nearly all that takes time."""
    from gpuroi.domains import VoxelGrid
    from gpuroi.ops.smooth import smooth

    side = max(4, min(round(min(work.n_voxels, _MOST_VOXELS) ** (1 / 3)), 27))
    data, design, contrast = _made_up(_FEW, side**3, 2)
    maps = smooth(data.reshape(-1, side, side, side), 3.0)  # statistics are smooth, and have clusters
    data = np.asarray(maps).reshape(_FEW, -1)
    options: dict[str, Any] = {
        "domain": VoxelGrid(np.ones((side, side, side), bool)),
        "cluster_threshold": 3.1 if work.cluster else None,
        "cluster_scale": "z" if work.as_z else "t",
        "tfce": work.tfce,
    }
    _, with_them = _timed(data, design, contrast, work, **options)
    _, without = _timed(data, design, contrast, work)
    larger = work.n_voxels / side**3
    return float(max(0.0, with_them - without) * larger * (1 + _PER_DOUBLING * max(0.0, math.log2(larger))))


def _timed(
    data: NDArray[np.float32], design: NDArray[np.float64], contrast: list[float], work: Workload, **options: Any
) -> tuple[float, float]:
    """Seconds before the first batch, and of one batch, of a permutation test that is ended soon."""
    from gpuroi.inference import permutation_test

    # Of few people there are few permutations: made-up ones may come again.
    k = 64 * BATCH
    options |= {"device": work.device, "n_permutations": k}
    if len(data) < _FEW:
        options["permutations"] = _shuffles(len(data), k)

    def run(n_batches: int, seconds: float) -> list[float]:
        times = [time.perf_counter()]

        def enough(_done: int, _total: int) -> None:
            times.append(time.perf_counter())
            if len(times) > n_batches and times[-1] - times[0] > seconds:
                raise _EnoughError

        with suppress(_EnoughError):
            permutation_test(data, design, contrast, progress=enough, **options)
        return times

    run(1, 0.0)  # compiled and loaded by now
    began, first, *others = run(3, _ENOUGH_S)
    batch = float(np.median(np.diff([first, *others])))
    return max(0.0, first - began - batch), batch


def _reading_and_writing(work: Workload) -> float:
    """Seconds of inflating the maps and of compressing the results, at the rate of a sample."""
    from gpuroi.images.gunzip import inflate

    voxels = math.prod(work.shape)
    sample = np.zeros(_SAMPLE_BYTES // 4, np.float32)
    inside = round(sample.size * work.n_voxels / voxels)
    sample[:inside] = np.random.default_rng(0).standard_normal(inside, dtype=np.float32)
    raw = sample.tobytes()
    began = time.perf_counter()
    packer = zlib.compressobj(1, wbits=31)
    packed = packer.compress(raw) + packer.flush()
    written = time.perf_counter()
    inflate(packed, len(raw), name="sample")
    read = time.perf_counter()
    maps = 0.0 if work.from_store else work.n * voxels * work.stored_dtype.itemsize / n_threads()
    return float((work.written_bytes * (written - began) + maps * (read - written)) / len(raw))


def _made_up(n: int, width: int, n_regressors: int) -> tuple[NDArray[np.float32], NDArray[np.float64], list[float]]:
    """Noise, a design with that many regressors, and the contrast of the second one."""
    rng = np.random.default_rng(0)
    design = rng.standard_normal((n, n_regressors))
    design[:, 0] = 1
    return rng.standard_normal((n, width), dtype=np.float32), design, [0.0, 1.0] + [0.0] * (n_regressors - 2)


def _shuffles(n: int, k: int) -> NDArray[np.int64]:
    """Rearrangements as PALM lists them, the identity first."""
    rows = np.tile(np.arange(1, n + 1), (k, 1))
    rows[1:] = np.random.default_rng(0).permuted(rows[1:], axis=1)
    return rows


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the engine says of made-up data out of the log."""

    def refuse(_record: logging.LogRecord) -> bool:
        return False

    _log.addFilter(refuse)
    try:
        yield
    finally:
        _log.removeFilter(refuse)
