"""The table of cases: what is measured, on what, beside whom, and how close every answer has to be.

One table drives the timed runs, the pytest-benchmark suite, the checks in the tests and the table of the README. It is
kept by subject in `benchmarks.cases_operations` and its neighbours.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import cases_images, cases_operations, cases_parcels, cases_permutation, peers
from benchmarks.case import SUBJECTS, Case, Check
from benchmarks.measure import differences
from benchmarks.settings import Call, Outputs, Steps
from gpuroi.backends import Backend

__all__ = [
    "CASES",
    "DEVICE_PEERS",
    "OURS",
    "SUBJECTS",
    "Case",
    "Check",
    "absence",
    "judge",
    "prepare",
    "select",
    "to_host",
]

CASES: tuple[Case, ...] = (
    *cases_operations.CASES,
    *cases_images.CASES,
    *cases_permutation.CASES,
    *cases_parcels.CASES,
)
OURS = ("gpuroi-cpu", "gpuroi-cuda")
DEVICE_PEERS = ("cupy", "cucim")


def select(pattern: str | None, *, device_batch: bool = False) -> list[Case]:
    """Cases whose name matches a shell pattern, or holds it; several patterns are separated by commas."""
    wanted = [part.strip() for part in (pattern or "*").split(",")]
    found = [c for c in CASES if any(fnmatch(c.name, p) or p in c.name for p in wanted)]
    return [c for c in found if c.device_batch or not device_batch]


def absence(name: str, cuda: Backend | None) -> str | None:
    """Why an implementation cannot run here, or None."""
    if name in (*DEVICE_PEERS, "gpuroi-cuda") and cuda is None:
        return "no CUDA device"
    for part in () if name in OURS else name.split("+"):
        module = peers.MODULES[part]
        if module not in sys.modules and importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    return None


def prepare(case: Case, name: str, made: Any, backends: Mapping[str, Backend]) -> Call:
    """Return the call to time (`Steps`, if its time is that of a step), with its input in place.

    Warnings of peers are theirs.
    """
    call = case.ours(made, backends[name]) if name in OURS else case.peers[name](made)
    if name in OURS:
        return call
    if isinstance(call, Steps):
        return replace(call, run=partial(_quietly, call.run))
    return partial(_quietly, call)


def judge(case: Case, name: str, outputs: Outputs, reference: Outputs) -> tuple[dict[str, Any], bool]:
    """Differences from the reference, output by output, and whether all are within their limits.

    A peer may lack outputs that gpuroi returns beside the statistic; gpuroi itself may not.
    """
    missing = set(case.checks) - set(outputs) if name in OURS else set()
    errors: dict[str, Any] = {key: {"missing": True} for key in sorted(missing)}
    fine = not missing
    for key in [k for k in case.checks if k in outputs]:
        check = case.checks[key]
        limit = check.limit if name in OURS or check.peer_limit is None else check.peer_limit
        found = differences(to_host(outputs[key]), reference[key])
        errors[key] = {**found, "measure": check.measure, "limit": limit}
        fine &= found[check.measure] <= limit
    return errors, fine


def to_host(values: Any) -> NDArray[Any]:
    """An output as one NumPy array: stacks the volumes of those who work volume by volume."""
    if isinstance(values, list):
        return np.stack([to_host(value) for value in values])
    return np.asarray(values.get() if hasattr(values, "get") else values)


def _quietly(call: Callable[..., Outputs], *arguments: Any) -> Outputs:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments)
