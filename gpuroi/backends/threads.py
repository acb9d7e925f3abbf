"""One pool of threads for the CPU kernels, which all release the GIL.

Threads of our own rather than numba's `parallel=True`: its kernels cannot be entered from two threads at once with
every threading layer, and one that asks for its thread number cannot be cached (1.6 s at every start).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property
from typing import Any, TypeVar

__all__ = ["limited_threads", "n_threads", "one_ahead", "one_blas_thread", "run_blocks"]

T = TypeVar("T")
R = TypeVar("R")

_limit: ContextVar[int | None] = ContextVar("gpuroi_threads", default=None)


def run_blocks(work: Callable[[int, int], None], n: int, *, least: int = 1) -> None:
    """Call `work(start, stop)` over all of `range(n)`, one contiguous part a thread.

    What a part writes must not depend on where it starts and stops. Parts hold at least `least` items;
    where that leaves one part it runs in the calling thread. Blocks within blocks share the threads that are left.
    """
    threads = n_threads()
    parts = min(threads, max(1, n // max(1, least)))
    if parts == 1:
        if n:
            work(0, n)
        return
    edges = [n * i // parts for i in range(parts + 1)]

    def part(i: int) -> None:
        with limited_threads(threads // parts):
            work(edges[i], edges[i + 1])

    rest = [_pool(os.getpid()).submit(part, i) for i in range(1, parts)]
    try:
        part(0)
    finally:
        for future in rest:
            future.result()


def one_ahead(read: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
    """Yield each item with `read(item)`; a thread reads the next one while the caller uses the last.

    Examples
    --------
    >>> list(one_ahead(abs, [-1, 2, -3]))
    [(-1, 1), (2, 2), (-3, 3)]
    """
    limit = n_threads()

    def limited(item: T) -> R:
        with limited_threads(limit):
            return read(item)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="gpuroi-read") as reader:
        ahead = deque(reader.submit(limited, item) for item in items[:1])
        for i, item in enumerate(items):
            found = ahead.popleft().result()
            ahead.extend(reader.submit(limited, following) for following in items[i + 1 : i + 2])
            yield item, found
            del found  # the caller may have let go of it: memory then holds two, not three


@contextmanager
def limited_threads(n: int | None) -> Iterator[None]:
    """Use `n` threads within; None changes nothing."""
    token = _limit.set(_limit.get() if n is None else max(1, n))
    try:
        yield
    finally:
        _limit.reset(token)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS compute in the calling thread within: whoever runs products in threads of their own.

    The number of threads belongs to the process. Of several who ask at once the first sets it, and the last to leave
    sets it back. Where the caller keeps a limit of its own by threadpoolctl, that limit stays.
    """
    blas = _blas(os.getpid())
    blas.enter()
    try:
        yield
    finally:
        blas.leave()


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


class _Blas:
    """The threads of BLAS, set and set back by one thread: threadpoolctl listens to no other than the first."""

    def __init__(self) -> None:
        self._lock, self._asking = threading.Lock(), 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gpuroi-blas")
        self._limited: Any = None

    def enter(self) -> None:
        with self._lock:
            if self._asking == 0:
                self._thread.submit(self._limit).result()
            self._asking += 1

    def leave(self) -> None:
        with self._lock:
            self._asking -= 1
            if self._asking == 0:
                self._thread.submit(self._limited.__exit__, None, None, None).result()

    def _limit(self) -> None:
        self._limited = self._libraries.limit(limits=1, user_api="blas")
        self._limited.__enter__()

    @cached_property
    def _libraries(self) -> Any:
        import threadpoolctl  # looking for the libraries takes a millisecond

        return threadpoolctl.ThreadpoolController()


@cache
def _blas(process: int) -> _Blas:
    return _Blas()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The pool of this process: a forked child must not wait for threads that stayed with its parent."""
    return ThreadPoolExecutor(max_workers=64, thread_name_prefix="gpuroi")
