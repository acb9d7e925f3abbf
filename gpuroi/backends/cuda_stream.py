"""Host to device in parts: threads fill one buffer while another travels and the device works on a third.

Two pinned buffers on the host and two on the device, one stream for copies beside the caller's. The buffers are handed
over by events, so that no stream waits for more than it needs and the host never waits for a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuroi.backends.base import Array
from gpuroi.backends.threads import one_ahead, run_blocks

if TYPE_CHECKING:
    from collections.abc import Generator

    Turns: TypeAlias = "Generator[tuple[int, _Slot], None, None]"

__all__ = ["stream"]


def stream(
    fill: Callable[[int, NDArray[Any]], None], n: int, shape: tuple[int, ...], dtype: DTypeLike, part: int
) -> Iterator[tuple[slice, Array]]:
    """Items on the device, part by part (`Backend.stream`)."""
    import cupy as cp

    parts = [slice(start, min(n, start + part)) for start in range(0, n, part)]
    slots = [_Slot.of((min(n, part), *shape), np.dtype(dtype)) for _ in parts[:2]]
    return _parts(fill, parts, slots, cp.cuda.Device())


@dataclass
class _Slot:
    host: NDArray[Any]
    there: Array
    copied: Any
    """The host buffer has left, and what is on the device is whole."""
    used: Any
    """The caller has launched all that reads what is on the device."""

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Slot:
        import cupy as cp
        import cupyx

        copied, used = (cp.cuda.Event(disable_timing=True) for _ in range(2))
        slot = cls(cupyx.empty_pinned(shape, dtype), cp.empty(shape, dtype), copied, used)
        used.record(cp.cuda.get_current_stream())  # what had this memory before may still be at work on it
        return slot


def _parts(
    fill: Callable[[int, NDArray[Any]], None], parts: list[slice], slots: list[_Slot], device: Any
) -> Iterator[tuple[slice, Array]]:
    import cupy as cp

    with device:
        copies = cp.cuda.Stream(non_blocking=True)

    def bring(turn: int) -> _Slot:
        slot, items = slots[turn % 2], parts[turn]
        slot.copied.synchronize()  # sync: of the thread that reads ahead, with the copy before the last
        host = slot.host[: items.stop - items.start]

        def some(start: int, stop: int) -> None:
            for i in range(start, stop):
                fill(items.start + i, host[i])

        run_blocks(some, len(host))
        with device:
            copies.wait_event(slot.used)
            slot.there[: len(host)].set(host, stream=copies)
            slot.copied.record(copies)
        return slot

    try:
        with closing(cast("Turns", one_ahead(bring, range(len(parts))))) as ahead:
            for turn, slot in ahead:
                with device:
                    cp.cuda.get_current_stream().wait_event(slot.copied)
                yield parts[turn], slot.there[: parts[turn].stop - parts[turn].start]
                with device:
                    slot.used.record(cp.cuda.get_current_stream())
    finally:
        for slot in slots:  # a caller that stops early: no copy may go on into memory that is free
            slot.copied.synchronize()  # sync: with the last copies
