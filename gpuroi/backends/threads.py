"""One pool of threads for the CPU kernels, which all release the GIL.

Threads of our own rather than numba's `parallel=True`: its kernels cannot be entered from two threads at once with
every threading layer, and one that asks for its thread number cannot be cached (1.6 s at every start).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

__all__ = ["limited_threads", "n_threads", "run_blocks"]

_limit: ContextVar[int | None] = ContextVar("gpuroi_threads", default=None)


def run_blocks(work: Callable[[int, int], None], n: int, *, least: int = 1) -> None:
    """Call `work(start, stop)` over all of `range(n)`, one contiguous part a thread.

    What a part writes must not depend on where it starts and stops. Parts hold at least `least` items;
    where that leaves one part it runs in the calling thread.
    """
    parts = min(n_threads(), max(1, n // max(1, least)))
    if parts == 1:
        if n:
            work(0, n)
        return
    edges = [n * i // parts for i in range(parts + 1)]
    rest = [_pool(os.getpid()).submit(work, edges[i], edges[i + 1]) for i in range(1, parts)]
    try:
        work(edges[0], edges[1])
    finally:
        for future in rest:
            future.result()


@contextmanager
def limited_threads(n: int | None) -> Iterator[None]:
    """Use `n` threads within; None changes nothing."""
    token = _limit.set(_limit.get() if n is None else max(1, n))
    try:
        yield
    finally:
        _limit.reset(token)


def n_threads() -> int:
    """Threads that the CPU kernels use.

    Those of `limited_threads`, else GPUROI_NUM_THREADS, else the processors that this process may use.
    """
    limit = _limit.get()
    if limit is not None:
        return limit
    asked = os.environ.get("GPUROI_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The pool of this process: a forked child must not wait for threads that stayed with its parent."""
    return ThreadPoolExecutor(max_workers=64, thread_name_prefix="gpuroi")
