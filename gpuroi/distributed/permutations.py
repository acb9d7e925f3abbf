"""A permutation test on many workers: each counts some of the rearrangements, on data that it reads itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.backends import get_backend
from gpuroi.backends.threads import limited_threads, n_threads
from gpuroi.distributed.tasks import (
    forget,
    n_task_threads,
    run_tasks,
    set_up_everywhere,
    worker_memory,
    workers_of,
)
from gpuroi.inference.columns import ColumnSource
from gpuroi.inference.memory import permutation_peak_bytes
from gpuroi.inference.permutation_result import Observed, ResultOf
from gpuroi.inference.permutation_settings import PermutationSettings
from gpuroi.inference.permutation_tally import PermutationShare, PermutationTally
from gpuroi.inference.result import PermutationResult, PermutationState
from gpuroi.inference.shares import PermutationShares, permutation_shares
from gpuroi.ops.volumes import float_dtype

__all__ = ["permutation_test_on"]

_TASKS_PER_WORKER = 8  # so that the last ones end at about the same time
_MOST_BATCHES = 16  # in a task: what is lost with a worker
_SHARE_OF_MEMORY = 0.6  # of a worker's limit, above which it also has to hold Python and its libraries
_setting_up = threading.Lock()


def permutation_test_on(
    client: Any,
    data: ColumnSource,
    design: ArrayLike,
    contrast: ArrayLike,
    settings: PermutationSettings,
    *,
    tail: str | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    checkpoint: Callable[[PermutationState], None] | None = None,
    resume: PermutationState | None = None,
) -> PermutationResult:
    """Test a contrast as `gpuroi.inference.permutation_test` does, on the workers of a Dask cluster.

    Parameters
    ----------
    client : dask.distributed.Client
    data : ColumnSource, shape (n, v)
        It is sent as a description, such as the path of a store.
    design, contrast
        As in `permutation_test`.
    settings : PermutationSettings
    tail, progress, checkpoint, resume
        As in `permutation_test`.
    device : {"auto", "cpu", "cuda"}
        Of the workers.

    Returns
    -------
    PermutationResult
        The same to the last bit as on one machine, whatever the number of workers, and whoever dies.

    Raises
    ------
    DataError, UsageError, DeviceError
        As `permutation_test`, and if workers die again and again.

    Notes
    -----
    Every worker reads all data once and keeps its residuals, in memory or, where its limit does not allow that, in a
    file of its own. A task returns 8 bytes an element and its maxima.
    """
    matrix, weights = np.asarray(design, dtype=np.float64), np.asarray(contrast, dtype=np.float64)
    planned = settings.planned(matrix, weights, data.shape)
    work = _CountShares(data, matrix, weights, settings, device)
    wants_key = checkpoint is not None or resume is not None
    try:
        with set_up_everywhere(client, work, (None, wants_key), name="observe") as setup:
            observed = setup.observed
            tally = PermutationTally(planned.arrangements.n, observed.compared.size, planned.plan.null_names)
            if resume is not None:
                tally.resume(resume, setup.key)

            def keep(_: int, share: PermutationShare) -> None:
                tally.add(share)
                if checkpoint is not None:
                    checkpoint(tally.state(setup.key))
                if progress is not None:
                    progress(tally.done, tally.n)

            batches = tally.n // (setup.batch * _TASKS_PER_WORKER * max(1, len(workers_of(client))))
            spans = tally.left(setup.batch * min(_MOST_BATCHES, max(1, batches)))
            run_tasks(client, work, [(span, False) for span in spans], name="permute", done=keep)
    finally:
        forget(client)
    result = ResultOf(
        get_backend("cpu"), planned.part, planned.arrangements, planned.plan, observed, settings.describe()
    )
    return result.all(tally.counts, tally.null, tail)


@dataclass(frozen=True)
class _Setup:
    observed: Observed
    batch: int
    key: str


@dataclass(frozen=True)
class _CountShares:
    """On a worker: the residuals, which stay from task to task, and what is counted with them."""

    data: ColumnSource
    design: NDArray[np.float64]
    contrast: NDArray[np.float64]
    settings: PermutationSettings
    device: str

    def __call__(self, span: tuple[int, int] | None, wants_key: bool) -> PermutationShare | _Setup:
        with limited_threads(max(1, n_threads() // n_task_threads())):
            with _setting_up:
                shares = self._shares
            if span is None:
                return _Setup(shares.observed, shares.batch, shares.key if wants_key else "")
            return shares.count(*span)

    @cached_property
    def _shares(self) -> PermutationShares:
        limit, folder = worker_memory()
        n, v = self.data.shape
        dtype = float_dtype(np.dtype(self.data.dtype), "data")
        maps = self.settings.plan().needs_maps
        needs = permutation_peak_bytes(n, v, dtype, needs_maps=maps, as_z=maps, some_left_out=True)
        fits = self.settings.variance_groups is not None or needs <= _SHARE_OF_MEMORY * limit
        return permutation_shares(
            self.data, self.design, self.contrast, self.settings, self.device, None if fits else folder
        )
