"""Tasks on the workers of a Dask cluster, with names that its dashboard shows."""

from __future__ import annotations

import math
import pickle
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from gpuroi.errors import DeviceError

__all__ = ["forget", "n_task_threads", "run_tasks", "worker_memory"]


def run_tasks(
    client: Any,
    work: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    *,
    name: str,
    done: Callable[[int, Any], None] | None = None,
) -> list[Any]:
    """Run a function once for each tuple of arguments, anywhere, and return what it returned in their order.

    Parameters
    ----------
    client : dask.distributed.Client
    work : callable
        Sent to each worker once, which keeps it, with what it has set up, until it gets another or is told to `forget`.
        What it returns depends on its arguments alone, so that a task may be run again.
    arguments : sequence of tuple
    name : str
        On the dashboard: `pack`, `fit`, `permute`.
    done : callable, optional
        Called here with the position of a task and its result, as they come in. The results are then not kept.

    Returns
    -------
    list
        Empty with `done`.

    Raises
    ------
    DeviceError
        If workers die again and again.
    GpuroiError
        Whatever a task raised; the others are cancelled.
    """
    import cloudpickle
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    run = uuid.uuid4().hex[:8]
    # As bytes: the scheduler, which may not see the files, would open them. And by a task that returns them, not as
    # scattered data: these are gone with the worker that holds them.
    packed = client.submit(_same, cloudpickle.dumps(work), key=f"{name}-{run}-setup")
    futures = [client.submit(_run, packed, given, key=f"{name}-{run}-{k}") for k, given in enumerate(arguments)]
    place = {future.key: k for k, future in enumerate(futures)}
    results: list[Any] = [None] * len(futures)
    try:
        for future in as_completed(futures):
            result = future.result()
            if done is None:
                results[place[future.key]] = result
            else:
                done(place[future.key], result)
            future.release()
    except KilledWorker as error:
        raise DeviceError(
            f"{name}: workers died {error.allowed_failures + 1} times over one task",
            "look at their logs: out of memory, most often; give each worker more, or start fewer on a machine",
        ) from error
    finally:
        client.cancel([packed, *futures])
    return [] if done is not None else results


def forget(client: Any) -> None:
    """Let every worker drop what it has set up."""
    with suppress(OSError):  # the cluster may be gone
        client.run(_opened.cache_clear)


def n_task_threads() -> int:
    """Return how many tasks this worker runs at a time."""
    from distributed import get_worker

    return int(get_worker().state.nthreads)


def worker_memory() -> tuple[float, str]:
    """Return the bytes that this worker may take, infinite without a limit, and a folder of its own."""
    from distributed import get_worker

    worker = get_worker()
    return worker.memory_manager.memory_limit or math.inf, worker.local_directory


def _same(packed: bytes) -> bytes:
    return packed


def _run(packed: bytes, given: tuple[Any, ...]) -> Any:
    return _opened(packed)(*given)


@lru_cache(maxsize=1)
def _opened(packed: bytes) -> Callable[..., Any]:
    """Return the function, which keeps what it has set up from task to task."""
    work: Callable[..., Any] = pickle.loads(packed)  # noqa: S301 (from our own client, as is all that Dask runs)
    return work
