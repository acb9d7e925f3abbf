"""Timing: implementations take turns, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import Backend

__all__ = ["copy_bytes_per_s", "differences", "matrix_flops_per_s", "summary", "take_turns"]

Call = Callable[[], Any]
Name = TypeVar("Name")
_PART = 1 << 18


def take_turns(
    calls: Mapping[Name, Call],
    waits: Mapping[Name, Call],
    *,
    repeats: Mapping[Name, int],
    least_s: float,
    warm_s: Mapping[Name, float],
) -> tuple[dict[Name, list[float]], dict[Name, int]]:
    """Time the calls in turn, A B A B, each as often as `repeats` says.

    Parameters
    ----------
    calls : mapping of name to function
        All of them have run before: compilers and caches are warm.
    waits : mapping of name to function
        Called at the end of a sample, and timed with it: waits for the device.
    repeats : mapping of name to int
        Samples of each; those of few take no part in the later turns.
    least_s : float
        A sample lasts about this long at least: fast calls run several times in it.
    warm_s : mapping of name to float
        Seconds that one call took, for the number of calls in a sample.

    Returns
    -------
    seconds : dict of name to list
        Seconds a call, one entry a sample.
    loops : dict of name to int
        Calls in a sample.
    """
    loops = {name: max(1, min(1000, math.ceil(least_s / max(warm_s[name], 1e-9)))) for name in calls}
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(max(repeats.values(), default=0)):
            for name, call in calls.items():
                if turn >= repeats[name]:
                    continue
                wait = waits[name]
                start = time.perf_counter()
                for _ in range(loops[name]):
                    call()
                wait()
                seconds[name].append((time.perf_counter() - start) / loops[name])
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return seconds, loops


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and spread, in milliseconds."""
    q1, median, q3 = np.percentile(seconds, [25, 50, 75])
    numbers = {"median": median, "q1": q1, "q3": q3, "iqr": q3 - q1, "min": min(seconds), "max": max(seconds)}
    return {f"{name}_ms": float(f"{1e3 * value:.4g}") for name, value in numbers.items()}


def differences(got: NDArray[Any], want: NDArray[Any]) -> dict[str, Any]:
    """How far an array is from the reference.

    Returns
    -------
    dict
        `differing`: share of elements that are not equal (NaN equals NaN); `max_abs`; `max_rel`: `max_abs` over
        the largest finite |reference|. Both are infinite if shapes differ, or where one is finite and the other not.
    """
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return {"differing": 1.0, "max_abs": math.inf, "max_rel": math.inf, "shape": [*got.shape]}
    parts = zip(_parts(got), _parts(want), strict=True)
    found = np.array([(0, 0.0, 0.0), *(_compare(g, w) for g, w in parts)])
    differing, (largest, scale) = int(found[:, 0].sum()), found[:, 1:].max(axis=0)
    relative = largest / scale if scale else (0.0 if largest == 0 else math.inf)
    return {"differing": differing / max(1, got.size), "max_abs": float(largest), "max_rel": float(relative)}


def _parts(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The values in parts that fit the cache: a thousand volumes in float64 would not fit the memory."""
    flat = values.reshape(-1)
    return (flat[start : start + _PART] for start in range(0, flat.size, _PART))


def _compare(got: NDArray[Any], want: NDArray[Any]) -> tuple[int, float, float]:
    """Number of elements that differ, the largest difference, and the largest finite |want|."""
    got, want = got.astype(np.float64), want.astype(np.float64)
    differ = ~((got == want) | (np.isnan(got) & np.isnan(want)))
    with np.errstate(invalid="ignore"):
        gap = np.abs(got[differ] - want[differ])
    gap[np.isnan(gap)] = math.inf  # one is NaN, the other is not
    return int(differ.sum()), float(gap.max(initial=0.0)), float(np.abs(want[np.isfinite(want)]).max(initial=0.0))


def copy_bytes_per_s(backend: Backend, n_bytes: int) -> float:
    """Bytes read plus written a second by a copy with all threads, or on the device: the best of several."""
    xp = backend.xp
    with backend.activate():
        source = xp.ones(n_bytes // 8, dtype=np.float64)
        target = xp.zeros(n_bytes // 8, dtype=np.float64)
        best = math.inf
        for _ in range(8):
            _wait(backend)
            start = time.perf_counter()
            _copy(backend, source, target)
            _wait(backend)
            best = min(best, time.perf_counter() - start)
    return float(2 * source.nbytes / best)


def matrix_flops_per_s(backend: Backend, n: int) -> float:
    """Float32 operations a second of a product of square matrices, (n, n), on the device: the best of several."""
    xp = backend.xp
    with backend.activate():
        left, right = (xp.full((n, n), 0.5, dtype=np.float32) for _ in range(2))
        best = math.inf
        for _ in range(4):
            _wait(backend)
            start = time.perf_counter()
            left @ right
            _wait(backend)
            best = min(best, time.perf_counter() - start)
    return float(2 * n**3 / best)


def _copy(backend: Backend, source: Any, target: Any) -> None:
    if backend.name != "cpu":
        target[...] = source
        return
    from gpuroi.backends.threads import run_blocks

    def part(start: int, stop: int) -> None:
        np.copyto(target[start:stop], source[start:stop])

    run_blocks(part, len(source), least=1 << 16)


def _wait(backend: Backend) -> None:
    if backend.name != "cpu":
        backend.xp.cuda.get_current_stream().synchronize()
