"""The Dask cluster that a run is spread over: one that is there, one on this machine, one of a batch system."""

from __future__ import annotations

import importlib
import logging
import os
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gpuroi.errors import DataError, DeviceError, UsageError

__all__ = ["dask_client", "need_dask"]

_log = logging.getLogger("gpuroi")
_SCHEMES = ("tcp", "tls", "ucx", "ws", "wss")
_BATCH_SYSTEMS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster"}
_ANSWER_S = 15


@contextmanager
def dask_client(where: Any) -> Iterator[Any]:
    """Connect to workers, and let those go at the end that were started here.

    Parameters
    ----------
    where : str or dask.distributed.Client
        * `tcp://host:8786`: a scheduler that runs already (or `tls://`, `ucx://`, `ws://`),
        * `local:4`: so many processes of this machine, which share its processors and memory,
        * `cuda`: one process for each GPU of this machine (needs dask-cuda),
        * `slurm:config.toml`, `pbs:`, `sge:` or `lsf:`: jobs of a batch system (needs dask-jobqueue). The file holds
          `jobs = 10` and a table `[cluster]` with what dask-jobqueue takes: `queue`, `cores`, `memory`, `walltime`.

        A client is used as it is, and stays open.

    Yields
    ------
    dask.distributed.Client

    Raises
    ------
    UsageError
        A text that is none of these; Dask, or what it needs for this, is not installed.
    DataError
        A configuration file that cannot be used.
    DeviceError
        No scheduler answers; the cluster cannot be started.

    Notes
    -----
    Dask sends functions to the workers as pickles. Connect to schedulers that you trust, over networks that you trust.

    Examples
    --------
    >>> with dask_client("local:0"):
    ...     pass
    Traceback (most recent call last):
    gpuroi.errors.UsageError: local:0: how many workers?
    give 1 or more, as in local:4
    """
    if not isinstance(where, str | os.PathLike):
        yield where
        return
    need_dask()
    kind, _, rest = str(where).partition(":")
    with ExitStack() as opened:
        if kind in _SCHEMES:
            client = _connected(str(where))
        elif kind == "local":
            client = opened.enter_context(_local(str(where), rest))
        elif str(where) == "cuda":
            client = opened.enter_context(_on_gpus())
        elif kind in _BATCH_SYSTEMS and rest:
            client = opened.enter_context(_batch_system(kind, Path(rest)))
        else:
            raise UsageError(
                f"{where}: not a place to run",
                "give tcp://host:8786, local:4, cuda or slurm:config.toml",
            )
        opened.callback(client.close)
        _log.info("dask: %s, dashboard %s", _in_words(client), client.dashboard_link or "off")
        yield client


def need_dask() -> None:
    """Raise `UsageError` unless Dask's scheduler is installed."""
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"running on several machines needs Dask: {error.name or error} is not installed",
            "pip install 'gpuroi[distributed]'",
        ) from error


def _connected(address: str) -> Any:
    from distributed import Client

    try:
        return Client(address, timeout=_ANSWER_S)
    except (OSError, ValueError) as error:  # a timeout is an OSError
        raise DeviceError(
            f"{address}: no Dask scheduler answers within {_ANSWER_S} s", "start one: dask scheduler; dask worker ..."
        ) from error


@contextmanager
def _local(where: str, rest: str) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    from gpuroi.backends.threads import n_threads

    if not rest.isdecimal() or int(rest) < 1:
        raise UsageError(f"{where}: how many workers?", "give 1 or more, as in local:4")
    threads = max(1, n_threads() // int(rest))
    # Each of our threads is a thread of our own pool: Dask has one, and tasks follow each other on a worker.
    with (
        LocalCluster(
            n_workers=int(rest),
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            env={"GPUROI_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)},
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _on_gpus() -> Iterator[Any]:
    from distributed import Client

    dask_cuda = _module("dask_cuda", "dask-cuda")
    try:
        cluster = dask_cuda.LocalCUDACluster(dashboard_address="127.0.0.1:0")
    except Exception as error:  # whatever the driver says
        raise DeviceError(f"cuda: no GPU to run on: {error}", "gpuroi info says why") from error
    with cluster, Client(cluster) as client:
        yield client


@contextmanager
def _batch_system(kind: str, path: Path) -> Iterator[Any]:
    from distributed import Client

    jobs, settings = _configuration(path)
    make = getattr(_module("dask_jobqueue", "dask-jobqueue"), _BATCH_SYSTEMS[kind])
    try:
        cluster = make(**{"processes": 1, **settings})
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: [cluster] is not what dask-jobqueue takes: {error}", "see its documentation"
        ) from error
    with cluster, Client(cluster) as client:
        cluster.scale(jobs=jobs)
        yield client


def _configuration(path: Path) -> tuple[int, dict[str, Any]]:
    """Return how many jobs, and the settings of each."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", "give a TOML file with `jobs` and a table [cluster]") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not TOML: {error}", "give a TOML file with `jobs` and a table [cluster]") from error
    jobs, settings = found.pop("jobs", 1), found.pop("cluster", {})
    if not isinstance(jobs, int) or jobs < 1 or not isinstance(settings, dict) or found:
        shown = ", ".join(found) or f"jobs = {jobs!r}"
        raise DataError(
            f"{path}: found {shown}; expected `jobs`, 1 or more, and a table [cluster]",
            'jobs = 10, then [cluster] with cores = 8, memory = "32GB", walltime = "02:00:00"',
        )
    return jobs, settings


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"this needs {package}, which is not installed", f"pip install {package}") from error


def _in_words(client: Any) -> str:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return f"{len(workers)} worker{'' if len(workers) == 1 else 's'} on {client.scheduler.address}"
