"""The table of cases under pytest-benchmark: `pytest benchmarks --benchmark-only`.

The size of the inputs is in GPUROI_BENCH_SIZE: tiny, full (default), large or device. Each answer is checked before
it is timed. To compare implementations fairly use `python -m benchmarks.run`, which takes them in turns.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from benchmarks.cases import CASES, DEVICE_PEERS, OURS, Case, absence, judge, prepare
from benchmarks.inputs import SIZES
from benchmarks.run import SLOW_REPEATS, SLOW_S, find_backends
from gpuroi.backends import Backend

_PAIRS = [
    (case, name) for case in CASES for name in (*OURS, *case.peers) if not (case.cpu_only and name == "gpuroi-cuda")
]
_ON_DEVICE = ("gpuroi-cuda", *DEVICE_PEERS)
_SIZE = SIZES[os.environ.get("GPUROI_BENCH_SIZE", "full")]


@pytest.fixture(scope="module")
def backends() -> dict[str, Backend]:
    return find_backends({"cpu", "cuda", "peers"}, demanded=False)


@pytest.fixture(scope="module")
def problem(request: pytest.FixtureRequest) -> tuple[Case, Any, Any]:
    """A case with its input and the reference, made once for all implementations."""
    case: Case = request.param
    made = case.make(_SIZE)
    return case, made, case.reference(made)


@pytest.mark.parametrize(
    ("problem", "name"), _PAIRS, indirect=["problem"], ids=lambda part: getattr(part, "name", part)
)
def test_speed(benchmark: Any, problem: tuple[Case, Any, Any], backends: dict[str, Backend], name: str) -> None:
    case, made, reference = problem
    reason = absence(name, backends.get("gpuroi-cuda"))
    if reason is not None:
        pytest.skip(reason)
    call = prepare(case, name, made, backends)
    start = time.perf_counter()
    outputs = call()
    slow = name not in OURS and time.perf_counter() - start > SLOW_S
    errors, fine = judge(case, name, outputs, reference)
    wait = backends["gpuroi-cuda"].xp.cuda.get_current_stream().synchronize if name in _ON_DEVICE else _no_wait
    benchmark.group = case.name
    benchmark.extra_info.update({"implementation": name, "input": made.describe(), "errors": errors})
    if slow:
        benchmark.pedantic(lambda: (call(), wait()), rounds=SLOW_REPEATS)
    else:
        benchmark(lambda: (call(), wait()))
    assert fine, errors


def _no_wait() -> None:
    """The host computes at once."""
