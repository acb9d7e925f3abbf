"""Parts of many items in two buffers: threads fill one while the caller works on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuroi.backends.threads import one_ahead, run_blocks

__all__ = ["stream"]


def stream(
    fill: Callable[[int, NDArray[Any]], None], n: int, shape: tuple[int, ...], dtype: DTypeLike, part: int
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Items, part by part (`Backend.stream`)."""
    starts = range(0, n, part)
    buffers = [np.empty((min(n, part), *shape), dtype) for _ in starts[:2]]

    def bring(start: int) -> NDArray[Any]:
        items = buffers[start // part % 2][: min(part, n - start)]

        def some(first: int, last: int) -> None:
            for i in range(first, last):
                fill(start + i, items[i])

        run_blocks(some, len(items))
        return items

    for start, items in one_ahead(bring, starts):
        yield slice(start, start + len(items)), items
