"""Every kernel of the CUDA backend at full size against the CPU backend, field by field of the contract.

    python -m benchmarks.kernels [--size tiny|full] [--no-pool]

Prints a JSON list; exit 1 if one is out of its limit, 69 without a device. `--no-pool` lets every array have an
allocation of its own, so that compute-sanitizer sees accesses beyond it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import to_host
from benchmarks.inputs import SIZES, Size, map_batch, samples
from benchmarks.measure import differences
from benchmarks.settings import CLUSTER_THRESHOLD, CUTOFF, MIN_VOXELS, PERCENTILE, SIGMA_VOX, structure
from gpuroi.backends import Backend, get_backend
from gpuroi.backends.graph import Graph
from gpuroi.domains import VoxelGrid
from gpuroi.errors import DeviceError

__all__ = ["KERNELS", "Kernel", "compare_kernels", "main"]


@dataclass(frozen=True)
class Kernel:
    """One call of one field of `Backend`."""

    field: str
    variant: str
    arguments: Callable[[Size], tuple[Any, ...]]
    on_device: tuple[int, ...]
    """Positions of the arguments that live on the device."""
    measure: Literal["differing", "max_abs", "max_rel"]
    limit: float
    overwrites: tuple[int, ...] = ()
    """Positions of the arguments that it writes into: each call gets copies of its own."""
    results: tuple[int, ...] = ()
    """Positions of the arguments that are results too."""
    then: Callable[[Size], tuple[Any, ...]] | None = None
    """Arguments of the function that is the result."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that choose the kernel."""


def main(words: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--no-pool", action="store_true", help="no memory pool of CuPy, for compute-sanitizer")
    options = parser.parse_args(words)
    try:
        cuda = get_backend("cuda")
    except DeviceError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if options.no_pool:
        cuda.xp.cuda.set_allocator(None)
    rows = compare_kernels(cuda, get_backend("cpu"), SIZES[options.size])
    print(json.dumps(rows, indent=1))
    return 0 if all(row["conforms"] for row in rows) else 1


def compare_kernels(cuda: Backend, cpu: Backend, size: Size) -> list[dict[str, Any]]:
    """Run every kernel on both backends; one row each: error, limit, milliseconds of a warm call on the device."""
    return [_compare(kernel, cuda, cpu, size) for kernel in KERNELS]


def _compare(kernel: Kernel, cuda: Backend, cpu: Backend, size: Size) -> dict[str, Any]:
    row: dict[str, Any] = {"field": kernel.field, "variant": kernel.variant, "size": size.name, "conforms": False}
    try:
        arguments = kernel.arguments(size)
        want = _called(kernel, cpu, _copied(kernel, arguments), size)
        with cuda.activate():
            there = [cuda.asarray(a) if i in kernel.on_device else a for i, a in enumerate(arguments)]
            got = _called(kernel, cuda, _copied(kernel, there), size)
            once_more = _copied(kernel, there)
            start = time.perf_counter()
            again = _called(kernel, cuda, once_more, size)  # to the host and all: an upper bound
            row["ms"] = float(f"{1e3 * (time.perf_counter() - start):.4g}")
        found = [differences(g, w) for g, w in zip(got, want, strict=True)]
        error = max(f[kernel.measure] for f in found)
        row["same_twice"] = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(got, again, strict=True))
        row.update({"measure": kernel.measure, "error": error, "limit": kernel.limit})
        row["conforms"] = bool(error <= kernel.limit and row["same_twice"])
    except Exception as error:  # the others are still of interest
        row["failed"] = f"{type(error).__name__}: {error}"[:500]
    return row


def _copied(kernel: Kernel, arguments: Sequence[Any]) -> list[Any]:
    return [a.copy() if i in kernel.overwrites else a for i, a in enumerate(arguments)]


def _called(kernel: Kernel, backend: Backend, arguments: Sequence[Any], size: Size) -> list[NDArray[Any]]:
    """Arrays of the result, on the host; plain numbers too."""
    with mock.patch.dict(os.environ, kernel.environment):
        result = getattr(backend, kernel.field)(*arguments)
    if kernel.then is not None:
        result = result(*kernel.then(size))
    elif isinstance(result, Iterator):
        return [np.concatenate([to_host(part).copy() for _, part in result])]
    parts = result if isinstance(result, tuple) else (result,)
    return [to_host(part) for part in (*parts, *(arguments[i] for i in kernel.results)) if part is not None]


def _volumes(size: Size, *, order: str = "C", dtype: Any = np.float32) -> NDArray[Any]:
    return map_batch(size, maps=size.maps, order=order).volumes.astype(dtype, copy=False)


def _rows(size: Size) -> NDArray[np.float32]:
    return _volumes(size).reshape(size.maps, -1)


def _inside(size: Size) -> NDArray[np.bool_]:
    return map_batch(size).mask


def _labels(size: Size) -> NDArray[np.int32]:
    labels = map_batch(size, labels=True).labels
    assert labels is not None
    return labels.reshape(-1)


def _with_nan(size: Size) -> NDArray[np.float32]:
    values = samples(size).a.copy()
    values[::3, ::7] = np.nan
    return values


def _paired(size: Size) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    both = samples(size)
    n = min(len(both.a), len(both.b))
    return both.a[:n].astype(np.float64) + 1e6, both.b[:n].astype(np.float64) + 1e6, False


def _beta(size: Size) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and 1 - x for t from 1e-8 to 1e8, both exact to the last digit."""
    squared = np.logspace(-16, 16, int(np.prod(size.shape))) / 98.0
    return 1 / (1 + squared), 1 / (1 + 1 / squared)


def _taps(dtype: Any = np.float64) -> tuple[NDArray[np.float64], ...]:
    radius = int(4 * SIGMA_VOX + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / SIGMA_VOX) ** 2)
    return ((taps / taps.sum()).astype(dtype),) * 3


def _offsets(connectivity: int) -> NDArray[np.int64]:
    return np.argwhere(structure(connectivity)).astype(np.int64) - 1


def _cutoffs(size: Size, value: float) -> NDArray[np.float32]:
    return np.full(size.maps, value, np.float32)


def _maps(size: Size) -> NDArray[np.float32]:
    return _volumes(size)[:, _inside(size)]


def _graph(size: Size, connectivity: int = 6) -> Graph:
    return VoxelGrid(_inside(size), connectivity=connectivity).graph


def _coordinates(size: Size, r: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of unit vectors, in the effect space and in that of the nuisance: (16, r, w), (16, 2, w)."""
    w = int(_inside(size).sum())
    both = 0.3 * np.random.default_rng(8).uniform(-1, 1, (16, r + 2, w)).astype(np.float32)
    return np.ascontiguousarray(both[:, :r]), np.ascontiguousarray(both[:, r:])


def _tally(size: Size) -> tuple[Any, ...]:
    statistics = _coordinates(size, 1)[0][:, 0]
    return statistics, np.abs(statistics[0]), True, np.zeros(statistics.shape[1], np.int64)


def _stored(size: Size, order: str) -> tuple[Any, ...]:
    """Volumes as int16 with a slope and an intercept each, and the columns of the mask."""
    volumes = np.rint(1000 * _volumes(size, order=order)).astype(np.int16)
    scaling = np.stack([np.linspace(0.001, 0.002, size.maps), np.linspace(-1, 1, size.maps)], axis=1)
    return volumes, _columns(size), int(_inside(size).sum()), scaling, np.float32


def _columns(size: Size) -> NDArray[np.int32]:
    inside = _inside(size)
    return np.where(inside, np.cumsum(inside).reshape(inside.shape) - 1, -1).astype(np.int32)


def _unit_columns(size: Size) -> tuple[Any, ...]:
    values = samples(size).a
    return (values / np.linalg.norm(values, axis=0),)


def _unit_rows(size: Size) -> tuple[Any, ...]:
    rows = np.random.default_rng(10).standard_normal((64, len(samples(size).a)))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True),)


def _items(size: Size) -> tuple[Any, ...]:
    volumes, *_ = _stored(size, "C")

    def fill(i: int, out: NDArray[np.int16]) -> None:
        out[...] = volumes[i]

    return fill, len(volumes), volumes.shape[1:], np.int16, 2


def _flips(size: Size) -> tuple[Any, ...]:
    e = samples(size).a
    return e, np.ones((1, len(e))), np.random.default_rng(9).integers(0, 64, len(e)), 6


KERNELS: tuple[Kernel, ...] = (
    Kernel("stream", "int16, 2 volumes at a time", _items, (), "differing", 0.0),
    Kernel("moments", "float32", lambda s: (samples(s).a, None, False), (0,), "max_rel", 1e-12),
    Kernel("moments", "float32, NaN left out", lambda s: (_with_nan(s), None, True), (0,), "max_rel", 1e-12),
    Kernel("moments", "float64, pairs at a mean of 1e6", _paired, (0, 1), "max_rel", 1e-9),
    Kernel("log_betainc", "one a", lambda s: (49.0, 0.5, *_beta(s)), (2, 3), "max_rel", 1e-12),
    Kernel("log_betainc", "an a each", lambda s: (np.linspace(0.5, 500, _beta(s)[0].size), 0.5, *_beta(s)),
           (0, 2, 3), "max_rel", 1e-12),
    Kernel("gaussian", "float32", lambda s: (_volumes(s), _taps(), "reflect"), (0,), "max_rel", 1e-6),
    Kernel("gaussian", "float64, zeros outside, Fortran order",
           lambda s: (_volumes(s, order="F", dtype=np.float64), _taps(), "constant"), (0,), "max_rel", 1e-12),
    Kernel("dilate", "6 neighbours", lambda s: (_volumes(s) > 1, _offsets(6), 1, None, False), (0,), "differing", 0.0),
    Kernel("dilate", "26 neighbours, 3 times, in a mask",
           lambda s: (_volumes(s) > 1, _offsets(26), 3, _inside(s), True), (0, 3), "differing", 0.0),
    Kernel("erode", "6 neighbours, twice", lambda s: (_volumes(s, order="F") > -1, _offsets(6), 2, None, True), (0,),
           "differing", 0.0),
    *(
        Kernel("label", f"{k} neighbours", lambda s, k=k: (_volumes(s) > 1, structure(k)),  # type: ignore[misc]
               (0,), "differing", 0.0)
        for k in (6, 18, 26)
    ),
    Kernel("label", "26 neighbours, Fortran order, dense",
           lambda s: (_volumes(s, order="F") > -0.5, structure(26)), (0,), "differing", 0.0),
    Kernel("threshold", "both sides, clusters",
           lambda s: (_volumes(s), _cutoffs(s, CUTOFF), "both", MIN_VOXELS, structure(6), None), (0, 1),
           "differing", 0.0),
    Kernel("threshold", "above, in a mask",
           lambda s: (_volumes(s), _cutoffs(s, CUTOFF), "above", 0, structure(6), _inside(s)), (0, 1, 5),
           "differing", 0.0),
    Kernel("threshold", "below, clusters, in a mask",
           lambda s: (_volumes(s), _cutoffs(s, -CUTOFF), "below", MIN_VOXELS, structure(26), _inside(s)), (0, 1, 5),
           "differing", 0.0),
    Kernel("percentile", "both sides", lambda s: (_rows(s), None, PERCENTILE, True), (0,), "max_rel", 1e-15),
    Kernel("percentile", "not negative, in a mask",
           lambda s: (_rows(s), _inside(s).reshape(-1), PERCENTILE, False), (0, 1), "max_rel", 1e-15),
    Kernel("label_sums", "float32", lambda s: (_rows(s), _labels(s), s.labels), (0, 1), "max_rel", 1e-12),
    *(
        Kernel("gather", f"int16, {name}", lambda s, order=order: _stored(s, order), (0, 1), "differing", 0.0)  # type: ignore[misc]
        for name, order in (("C order", "C"), ("Fortran order", "F"))
    ),
    *(
        Kernel("scatter", f"{order} order", lambda s, order=order: (_maps(s), _columns(s), 0.0, order), (0, 1),  # type: ignore[misc]
               "differing", 0.0)
        for order in ("C", "F")
    ),
    Kernel("products", "64 rows", _unit_columns, (0,), "max_rel", 1e-5, then=_unit_rows),
    Kernel("permutation_statistics", "t", lambda s: (*_coordinates(s, 1), 50.0, False), (0, 1), "max_rel", 1e-6,
           overwrites=(0,)),
    Kernel("permutation_statistics", "F", lambda s: (*_coordinates(s, 2), 50.0, True), (0, 1), "max_rel", 1e-6,
           overwrites=(0,)),
    Kernel("exceedances", "both sides", _tally, (0, 1, 3), "differing", 0.0, overwrites=(3,), results=(3,)),
    Kernel("sign_flip_sums", "64 flips", _flips, (0,), "max_rel", 1e-6),
    Kernel("cluster_maxima", "6 neighbours", lambda s: (_maps(s), CLUSTER_THRESHOLD, _graph(s), True, True, False),
           (0,), "max_rel", 1e-12),
    Kernel("cluster_maxima", "26 neighbours, one side, excess",
           lambda s: (_maps(s), CUTOFF, _graph(s, 26), False, False, True), (0,), "max_rel", 1e-12),
    Kernel("cluster_labels", "6 neighbours", lambda s: (_maps(s)[0], CUTOFF, _graph(s), True, True, False), (0,),
           "max_rel", 1e-12),
    *(
        Kernel("tfce", f"{k} neighbours, {step}",
               lambda s, k=k, step=step: (_maps(s), _graph(s, k), 2.0, 0.5, step, True, True),  # type: ignore[misc]
               (0,), "max_rel", 1e-6)
        for k, step in ((6, "exact"), (26, "exact"), (6, "max/100"))
    ),
    *(
        Kernel("tfce", f"{k} neighbours, max/100, trees",
               lambda s, k=k: (_maps(s), _graph(s, k), 2.0, 0.5, "max/100", True, True),  # type: ignore[misc]
               (0,), "max_rel", 1e-6, environment=(("GPUROI_TFCE", "tree"),))
        for k in (6, 26)
    ),
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
