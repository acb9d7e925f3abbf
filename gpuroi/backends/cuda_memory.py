"""How much of the current device can be taken."""

from __future__ import annotations

__all__ = ["free_bytes"]


def free_bytes() -> int:
    """Bytes that can be allocated: free memory and what the pool keeps, within the limit of the pool."""
    import cupy

    free, total = cupy.cuda.runtime.memGetInfo()
    pool = cupy.get_default_memory_pool()
    limit = pool.get_limit() or total  # 0: the pool has none
    return int(max(0, min(free + pool.free_bytes(), limit - pool.used_bytes())))
