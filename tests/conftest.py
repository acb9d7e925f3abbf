"""Fixtures of all tests: the backends, the counters of the stand-in device, the real images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from rig import standin
from rig.host_kernels import CompilerMissing, compiler
from rig.standin_device import Meter

from gpuroi.backends.base import Backend

_ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("NUMBA_CACHE_DIR", str(_ROOT / ".numba"))  # before Numba is imported; kept between runs

# Derandomised: a failure seen once is seen by everybody. No deadline: a first call compiles.
# The `backend` fixture holds no state, so that all examples of a property may share it.
settings.register_profile(
    "gpuroi",
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("gpuroi")

_REAL_CUDA = os.environ.get("GPUROI_TEST_CUDA") == "1"
_CUDA = (
    pytest.param("cuda", marks=pytest.mark.cuda) if _REAL_CUDA else pytest.param("stand-in", marks=pytest.mark.kernels)
)


@pytest.fixture(params=[pytest.param("cpu"), _CUDA])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each backend in turn: the CPU, and CUDA on the stand-in (skipped, with the reason, without a C++ compiler).

    With GPUROI_TEST_CUDA=1 CUDA is the real device, and the test fails without one.
    """
    if request.param == "cpu":
        from gpuroi.backends import get_backend

        yield get_backend("cpu")
    elif request.param == "cuda":
        from gpuroi.backends import get_backend

        yield get_backend("cuda")
    else:
        request.getfixturevalue("host_compiler")
        with standin.installed():
            from gpuroi.backends.cuda import cuda_backend

            yield cuda_backend(0)


@pytest.fixture(scope="session")
def host_compiler() -> str:
    """The C++ compiler that runs kernels on the CPU; without one the test is skipped with the reason."""
    try:
        return compiler()[1]
    except CompilerMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def standin_cupy(host_compiler: str) -> Iterator[Any]:
    """The stand-in for CuPy, with two devices, for the duration of the test."""
    with standin.installed(n_devices=2) as cupy:
        yield cupy


@pytest.fixture
def standin_cuda(standin_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in, with two devices, is what "auto" finds."""
    from gpuroi.backends import get_backend
    from gpuroi.backends.probe import CudaDevice, CudaStatus

    found = (CudaDevice("stand-in", "9.0", 1 << 30, None),) * 2
    monkeypatch.setattr("gpuroi.backends.probe.probe", lambda: CudaStatus(usable=True, devices=found))
    monkeypatch.delenv("GPUROI_DEVICE", raising=False)
    assert get_backend("auto").name == "cuda"


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.kernels)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What "auto" finds, in turn: the CPU, and CUDA on the stand-in."""
    if request.param == "cuda":
        request.getfixturevalue("standin_cuda")
    else:
        monkeypatch.setenv("GPUROI_DEVICE", "cpu")
    return str(request.param)


@pytest.fixture
def device_meter() -> Iterator[Meter]:
    """Counters of the stand-in (transfers, waits, launches, bytes), at zero."""
    standin.METER.reset()
    yield standin.METER
    standin.METER.reset()


@pytest.fixture(scope="session")
def open_data() -> Path:
    """Folder of the real images, which lies beside the checkout; they are too large for the repository."""
    folder = _ROOT.parent / "shared" / "data" / "open"
    if not folder.is_dir():
        pytest.skip(f"the real images are not at {folder}")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and an environment that asks for nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("GPUROI_DEVICE", "GPUROI_DEBUG", "GPUROI_CONTAINER", "OPENBLAS_CORETYPE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
