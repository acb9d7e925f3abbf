"""Split work over maps so that it fits: by the budget first, by halving when the budget was wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gpuroi.backends.base import Backend
from gpuroi.errors import UsageError

__all__ = ["host_free_bytes", "map_chunks", "parse_bytes"]

T = TypeVar("T")

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def map_chunks(
    f: Callable[[slice], T],
    n: int,
    bytes_each: int,
    *,
    backend: Backend,
    limit: int | None = None,
    fixed: int = 0,
    share: float = 0.6,
) -> list[T]:
    """Return `[f(part), ...]` over `range(n)`, in parts that fit the memory of the backend.

    A part that does not fit after all (the allocation fails) is halved and tried again, down to one
    item. `f` has to give results that do not depend on the split: then nothing here does.

    Parameters
    ----------
    f : callable
        Takes a `slice` of `range(n)`. A function, not a loop body: when it fails its arrays die with its
        frame, so that their memory is there for the next try.
    n : int
        Number of items.
    bytes_each : int
        Peak bytes that one item needs on the backend.
    backend : Backend
    limit : int, optional
        Upper bound in bytes, beside what is free.
    fixed : int, default 0
        Bytes needed whatever the size of the part.
    share : float, default 0.6
        Fraction of the free memory to plan with.

    Raises
    ------
    MemoryError
        If one item alone does not fit.

    Examples
    --------
    >>> from gpuroi.backends import get_backend
    >>> map_chunks(lambda part: part.stop - part.start, 10, 4, backend=get_backend("cpu"), limit=16)
    [4, 4, 2]
    """
    budget = int(backend.free_bytes() * share)
    if limit is not None:
        budget = min(budget, limit)
    size = max(1, min(n, (budget - fixed) // max(1, bytes_each)))
    results: list[T] = []
    start = 0
    while start < n:
        part = slice(start, min(n, start + size))
        failed = False
        try:
            results.append(f(part))
        except backend.out_of_memory:
            if size == 1:
                raise
            failed = True
        if failed:  # outside the except block: the traceback there keeps the arrays of `f` alive
            backend.release()
            size = max(1, size // 2)
        else:
            start = part.stop
    return results


def parse_bytes(text: str | int) -> int:
    """Read a number of bytes as people write it.

    Examples
    --------
    >>> parse_bytes("400MB"), parse_bytes("8GiB"), parse_bytes(1024)
    (400000000, 8589934592, 1024)
    """
    if isinstance(text, int):
        return text
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if found is None or found[2] == "I":
        raise UsageError(f'memory limit "{text}" is not a number of bytes', "write it like 400MB, 8GB or 8GiB")
    return int(float(found[1]) * _UNITS[found[2]])


def host_free_bytes() -> int:
    """Bytes of host memory that can be taken without swapping, within the limit of the control group."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 32
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    free = int(line.split()[1]) * 1024
                    break
    except OSError:
        pass  # not Linux: free pages are the best that is known
    for path in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
        limit, used = _first_int(f"{path}/memory.max"), _first_int(f"{path}/memory.current")
        if limit is not None and used is not None:
            free = min(free, max(0, limit - used))
    return free


def _first_int(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None
