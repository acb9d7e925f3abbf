"""A linear model on many workers: each fits some of the elements, which it reads itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.distributed.tasks import run_tasks
from gpuroi.inference.columns import ColumnSource
from gpuroi.inference.glm import GlmResult, fit_results, prepared_fit
from gpuroi.inference.glm_fit import FitPart
from gpuroi.inference.projection import block_of
from gpuroi.ops.tails import Alternative

__all__ = ["glm_on"]

_TASK_BYTES = 256 << 20  # of maps that one task reads


def glm_on(
    client: Any,
    data: ColumnSource,
    design: ArrayLike,
    contrasts: Mapping[str, ArrayLike],
    *,
    variance_groups: ArrayLike | None = None,
    missing: Literal["raise", "pattern"] = "raise",
    alternative: Alternative = "two-sided",
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, GlmResult]:
    """Fit a model to every element as `gpuroi.inference.glm` does, on the workers of a Dask cluster.

    Parameters
    ----------
    client : dask.distributed.Client
    data : ColumnSource, shape (n, v)
        It is sent as a description, such as the path of a store: workers read their elements themselves.
    design, contrasts, variance_groups, missing, alternative
        As in `glm`.
    device : {"auto", "cpu", "cuda"}
        Of the workers.
    progress : callable, optional
        Called with the elements done and in all.

    Returns
    -------
    dict of str to GlmResult
        The same to the last bit as on one machine: tasks are whole blocks of the elements.

    Raises
    ------
    DataError, UsageError
        As `glm`.
    """
    given = {name: np.asarray(c) for name, c in contrasts.items()}
    whole, names = prepared_fit(data, design, given, variance_groups=variance_groups, missing=missing, device="cpu")
    n, v = data.shape
    block = block_of(n)
    step = block * max(1, _TASK_BYTES // (block * n * np.dtype(data.dtype).itemsize))
    spans = [(start, min(v, start + step)) for start in range(0, v, step)]
    n_done = 0

    def keep(k: int, part: FitPart) -> None:
        nonlocal n_done
        whole.take(part, spans[k][0])
        n_done += spans[k][1] - spans[k][0]
        if progress is not None:
            progress(n_done, v)

    work = _FitSpan(data, np.asarray(design), given, variance_groups, missing, device)
    run_tasks(client, work, spans, name="fit", done=keep)
    return fit_results(whole, names, alternative)


@dataclass(frozen=True)
class _FitSpan:
    data: ColumnSource
    design: NDArray[Any]
    contrasts: dict[str, NDArray[Any]]
    variance_groups: Any
    missing: Literal["raise", "pattern"]
    device: str

    def __call__(self, start: int, stop: int) -> FitPart:
        fit, _ = prepared_fit(
            _Span(self.data, start, stop),
            self.design,
            self.contrasts,
            variance_groups=self.variance_groups,
            missing=self.missing,
            device=self.device,
        )
        fit.run()
        return fit.part()


class _Span:
    """Elements start..stop of a source: a `ColumnSource`."""

    def __init__(self, source: ColumnSource, start: int, stop: int) -> None:
        self._source, self._start = source, start
        self.shape, self.dtype = (source.shape[0], stop - start), source.dtype

    def columns(self, start: int, stop: int) -> NDArray[Any]:
        return self._source.columns(self._start + start, self._start + stop)
