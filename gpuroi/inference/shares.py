"""A permutation test in shares: rearrangements are counted in any parts, in any order, on any number of devices."""

from __future__ import annotations

import itertools
import logging
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gpuroi.backends.base import Backend
from gpuroi.backends.threads import limited_threads, n_threads
from gpuroi.errors import DataError
from gpuroi.inference.columns import ColumnSource
from gpuroi.inference.early_stop import run_until_settled
from gpuroi.inference.memory import permutation_peak_bytes
from gpuroi.inference.permutation_result import Observed, ResultOf
from gpuroi.inference.permutation_run import PermutationRun
from gpuroi.inference.permutation_settings import PermutationSettings
from gpuroi.inference.permutation_tally import PermutationShare, PermutationTally
from gpuroi.inference.placing import new_folder, places
from gpuroi.inference.result import PermutationResult, PermutationState
from gpuroi.inference.share_counter import ShareCounter

__all__ = ["PermutationShares", "permutation_shares"]

_log = logging.getLogger("gpuroi")
_BATCHES_ON_DEVICE = 8  # counted in one go there: what has been counted is brought to the host after each go


def permutation_shares(
    data: Any,
    design: ArrayLike,
    contrast: ArrayLike,
    settings: PermutationSettings | None = None,
    device: str = "auto",
    scratch: str | os.PathLike[str] | None = None,
) -> PermutationShares:
    """Prepare a permutation test whose rearrangements can be counted in parts.

    Parameters
    ----------
    data, design, contrast, device, scratch
        As in `permutation_test`.
    settings : PermutationSettings, optional
        All else that decides the numbers.

    Returns
    -------
    PermutationShares
        To be closed, or used in a `with` statement: it may hold a scratch folder.

    Raises
    ------
    DataError, UsageError, OutputError, DeviceError
        As `permutation_test`.

    Notes
    -----
    Whoever is given the same arguments, in another process or on another machine, counts the same rearrangements. What
    travels is small: the counts of a share take 8 bytes an element, its maxima 8 bytes a rearrangement.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> data, group = rng.standard_normal((12, 50)), np.repeat([0.0, 1.0], 6)
    >>> design = np.column_stack([1 - group, group])
    >>> settings = PermutationSettings(n_permutations=500)
    >>> with permutation_shares(data, design, [1, -1], settings, "cpu") as here:
    ...     here.merge([here.count(100, 500), here.count(0, 100)])
    ...     result = here.result()
    >>> result.n_permutations, result.p_fwe.shape
    (500, (50,))
    """
    settings = settings or PermutationSettings()
    settings.plan()  # what it refuses is refused before a device is looked for
    backends, values, dtype = places(data, device)
    planned = settings.planned(design, contrast, values.shape)
    folder = None if scratch is None else new_folder(scratch)
    try:
        with backends[0].activate():
            run = PermutationRun(
                backends[0],
                values,
                planned,
                settings.method,
                dtype=dtype,
                variance_groups=settings.variance_groups,
                scratch=None if folder is None else Path(folder.name),
            )
    except BaseException:
        if folder is not None:
            folder.cleanup()
        raise
    itemsize = np.dtype(data.dtype).itemsize if isinstance(data, ColumnSource) else 0
    _log_memory(run, settings, itemsize)
    return PermutationShares(run, backends, settings, folder)


class PermutationShares:
    """A test whose rearrangements are counted in shares; made by `permutation_shares`.

    Attributes
    ----------
    n : int
        Rearrangements, the identity counted.
    batch : int
        Rearrangements that are computed together: shares that begin and end at multiples of it waste nothing.
    observed : Observed
        What p-values need beside the counts.
    done : int
        Rearrangements that are merged.
    """

    def __init__(
        self,
        run: PermutationRun,
        backends: list[Backend],
        settings: PermutationSettings,
        folder: tempfile.TemporaryDirectory[str] | None,
    ) -> None:
        self.n, self.batch = run.arrangements.n, run.batch
        self._run, self._settings, self._backends = run, settings, backends
        self.observed: Observed = run.observed()
        self._tally = PermutationTally(self.n, self.observed.compared.size, run.plan.null_names)
        self.close: Callable[[], Any] = weakref.finalize(self, _clean, folder)
        """Remove the scratch folder; once."""

    def __enter__(self) -> PermutationShares:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def done(self) -> int:
        """Rearrangements that are merged."""
        return self._tally.done

    @cached_property
    def _counters(self) -> list[ShareCounter]:
        """One for each device, made when they are to count together: all but the first get a copy of the residuals."""
        first = self._run.counter
        return [first, *(first.on(backend) for backend in self._backends[1:])]

    @property
    def key(self) -> str:
        """Digest of data, design and settings; the residuals are read once when it is first asked for."""
        return self._run.key

    def count(self, start: int, stop: int) -> PermutationShare:
        """Return what rearrangements start..stop give; they are not merged. Threads may count at the same time."""
        return self._run.counter.count(start, stop)

    def merge(self, shares: Iterable[PermutationShare]) -> None:
        """Count shares in, in any order.

        Raises
        ------
        UsageError
            If one overlaps with what is merged already, or is of another test.
        """
        for share in shares:
            self._tally.add(share)

    def left(self, step: int | None = None) -> list[tuple[int, int]]:
        """Return start and stop of the shares that are left, of `step` rearrangements; default one batch."""
        return self._tally.left(step or self.batch)

    def state(self) -> PermutationState:
        """Return a copy of what is merged."""
        return self._tally.state(self.key)

    def resume(self, state: PermutationState) -> None:
        """Go on from a state.

        Raises
        ------
        DataError
            If it comes from another test.
        """
        self._tally.resume(state, self.key)

    def count_all(
        self,
        progress: Callable[[int, int], None] | None = None,
        checkpoint: Callable[[PermutationState], None] | None = None,
        resume: PermutationState | None = None,
    ) -> None:
        """Count and merge all that is left, on all devices; arguments as in `permutation_test`."""
        if resume is not None:
            self.resume(resume)
        for share in _counted(self._counters, self.left(self._step())):
            self._tally.add(share)
            if checkpoint is not None:
                checkpoint(self.state())
            if progress is not None:
                progress(self.done, self.n)

    def result(self, tail: str | None = None) -> PermutationResult:
        """Return p-values, clusters and TFCE; `tail` as in `permutation_test`.

        Raises
        ------
        DataError
            If some rearrangements are not merged.
        """
        if self.done < self.n:
            raise DataError(f"{self.n - self.done} of {self.n} rearrangements are not counted", "merge their shares")
        return self._result_of().all(self._tally.counts, self._tally.null, tail)

    def stopped_early(self, exceedances: int, progress: Callable[[int, int], None] | None) -> PermutationResult:
        """Return the result of sequential sampling, on the first device; arguments as in `permutation_test`."""
        run = self._run
        with run.backend.activate():
            p, n_run = run_until_settled(run, exceedances, progress, self._settings.seed)
        return self._result_of({"early_stop": exceedances}).stopped_early(p, n_run)

    def _result_of(self, more: dict[str, Any] | None = None) -> ResultOf:
        run, told = self._run, {**self._settings.describe(), **(more or {})}
        return ResultOf(run.backend, run.part, run.arrangements, run.plan, self.observed, told)

    def _step(self) -> int:
        """Rearrangements of a share: on devices several batches, but enough shares for all of them."""
        if self._run.backend.name == "cpu":
            return self.batch
        each = self.n // (4 * self.batch * len(self._backends))
        return self.batch * max(1, min(_BATCHES_ON_DEVICE, each))


def _log_memory(run: PermutationRun, settings: PermutationSettings, source_itemsize: int) -> None:
    if run.backend.name != "cpu" or settings.variance_groups is not None:
        return
    needs = permutation_peak_bytes(
        len(run.part.z),
        run.kept.size,
        run.e.dtype,
        n_products=run.part.r + run.part.z.shape[1],
        needs_maps=run.plan.needs_maps,
        as_z=run.plan.scale == "z",
        some_left_out=not run.kept.all(),
        stored=run.scratch is not None,
        source_itemsize=source_itemsize,
    )
    _log.info("peak memory about %.0f MB beside the data", needs / 1e6)


def _counted(counters: list[ShareCounter], spans: list[tuple[int, int]]) -> Iterator[PermutationShare]:
    """Yield the shares of all spans; several devices take the next one as they become free, each from a thread."""
    if len(counters) == 1:
        for start, stop in spans:
            yield counters[0].count(start, stop)
        return
    threads, waiting = max(1, n_threads() // len(counters)), iter(spans)

    def count(counter: ShareCounter, start: int, stop: int) -> PermutationShare:
        with limited_threads(threads):
            return counter.count(start, stop)

    with ThreadPoolExecutor(max_workers=len(counters), thread_name_prefix="gpuroi-device") as pool:
        busy: dict[Future[PermutationShare], ShareCounter] = {}
        for counter, span in zip(counters, waiting, strict=False):
            busy[pool.submit(count, counter, *span)] = counter
        while busy:
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                counter = busy.pop(future)
                share = future.result()
                for span in itertools.islice(waiting, 1):
                    busy[pool.submit(count, counter, *span)] = counter
                yield share


def _clean(folder: tempfile.TemporaryDirectory[str] | None) -> None:
    if folder is not None:
        folder.cleanup()
