"""Tasks on the workers of a Dask cluster, with names that its dashboard shows."""

from __future__ import annotations

import ctypes
import math
import pickle
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from typing import Any

from gpuroi.errors import DeviceError

__all__ = ["forget", "n_task_threads", "run_tasks", "set_up_everywhere", "worker_memory", "workers_of"]

_MALLOC = {-3: 32 << 20, -1: 256 << 20}  # M_MMAP_THRESHOLD, the most that glibc takes, and M_TRIM_THRESHOLD


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
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    run = uuid.uuid4().hex[:8]
    packed = _sent(client, work, f"{name}-{run}-setup")
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
        raise _died(name, error) from error
    finally:
        client.cancel([packed, *futures])
    return [] if done is not None else results


@contextmanager
def set_up_everywhere(client: Any, work: Callable[..., Any], given: tuple[Any, ...], *, name: str) -> Iterator[Any]:
    """Run a function with the same arguments on all workers at once, and yield what the first of them returned.

    Parameters
    ----------
    client : dask.distributed.Client
    work : callable
        As in `run_tasks`; it sets up what later tasks on the same worker use.
    given : tuple
        Arguments.
    name : str
        On the dashboard.

    Yields
    ------
    object
        While the others go on.

    Raises
    ------
    DeviceError, GpuroiError
        As `run_tasks`.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    run = uuid.uuid4().hex[:8]
    packed = _sent(client, work, f"{name}-{run}-setup")
    futures = [
        client.submit(_run, packed, given, key=f"{name}-{run}-{k}", workers=[address], allow_other_workers=True)
        for k, address in enumerate(workers_of(client))
    ]
    try:
        yield next(iter(as_completed(futures))).result()
    except KilledWorker as error:
        raise _died(name, error) from error
    finally:
        client.cancel([packed, *futures])


def workers_of(client: Any) -> list[str]:
    """Return the addresses of the workers that are there now."""
    return list(client.scheduler_info(n_workers=-1)["workers"])


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


def _sent(client: Any, work: Callable[..., Any], key: str) -> Any:
    """Bring a function to all workers, as bytes: the scheduler, which may not see the files, would open them.

    By a task that returns it, not as scattered data: these are gone with the worker that holds them. And to all of them
    before the first task: a worker that has what a task needs would be given nearly all of the tasks.
    """
    import cloudpickle

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sending large graph")  # it is sent once
        packed = client.submit(_same, cloudpickle.dumps(work), key=key)
    client.replicate([packed])
    return packed


def _died(name: str, error: Any) -> DeviceError:
    return DeviceError(
        f"{name}: workers died {error.allowed_failures + 1} times over one task",
        "look at their logs: out of memory, most often; give each worker more, or start fewer on a machine",
    )


def _same(packed: bytes) -> bytes:
    return packed


def _run(packed: bytes, given: tuple[Any, ...]) -> Any:
    return _opened(packed)(*given)


@cache
def _keep_freed_memory() -> None:
    """Let malloc keep what is freed: Dask has it given back at once, and every batch would fetch its pages anew."""
    with suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        for option, value in _MALLOC.items():
            libc.mallopt(option, value)


@lru_cache(maxsize=1)
def _opened(packed: bytes) -> Callable[..., Any]:
    """Return the function, which keeps what it has set up from task to task."""
    _keep_freed_memory()
    work: Callable[..., Any] = pickle.loads(packed)  # noqa: S301 (from our own client, as is all that Dask runs)
    return work
