"""The probe: every state of a machine, told without a GPU; and what it does when it meets one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gpuroi.backends import get_backend
from gpuroi.backends import probe as probe_module
from gpuroi.backends.probe import CudaDevice, CudaFacts, describe, gather, probe
from gpuroi.errors import DeviceError

H100 = CudaDevice("NVIDIA H100", "9.0", 80 << 30, 79 << 30)
V100 = CudaDevice("Tesla V100", "7.0", 16 << 30)
WORKS = CudaFacts(
    driver="580.95.05",
    driver_cuda=13000,
    wheels=(("cupy-cuda13x", "14.2.0"),),
    cupy="14.2.0",
    runtime=13000,
    devices=(H100,),
    self_test_ms=210.0,
    cucim="26.10.0",
)
NO_CUPY = CudaFacts(driver="580.95.05", driver_cuda=13000)

STATES = {
    "no driver": (CudaFacts(), "no NVIDIA driver is visible", ["--gpus all", "--nv", "GPU node"]),
    "macOS": (CudaFacts(system="Darwin"), "no NVIDIA driver is visible", ["no CUDA for macOS"]),
    "container without its libraries": (
        CudaFacts(driver="580.95.05", wheels=(("cupy-cuda13x", "14.2.0"),), cupy="14.2.0"),
        "libcuda.so.1 is missing, though the kernel runs driver 580.95.05",
        ["--gpus all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility", "--nv"],
    ),
    "no CuPy, new driver": (
        NO_CUPY,
        "CuPy is not installed",
        ["driver 580.95.05 found: pip install 'gpuroi[cuda13]'"],
    ),
    "no CuPy, older driver": (
        CudaFacts(driver="550.54.15", driver_cuda=12040),
        "CuPy is not installed",
        ["pip install 'gpuroi[cuda12]'"],
    ),
    "no CuPy, ancient driver": (
        CudaFacts(driver="470.82.01", driver_cuda=11040),
        "CuPy is not installed",
        ["update the driver to 525 or later", "gpuroi[cuda12]"],
    ),
    "no CuPy, driver without a version": (
        CudaFacts(driver_cuda=12020),
        "CuPy is not installed",
        ["the driver found: pip install 'gpuroi[cuda12]'"],
    ),
    "no CuPy, new driver, old GPU": (
        replace(NO_CUPY, capabilities=((6, 1),)),
        "CuPy is not installed",
        ["pip install 'gpuroi[cuda12]'"],
    ),
    "driver too old": (
        replace(WORKS, driver="550.54.15", driver_cuda=12040, runtime=None, devices=(), self_test_ms=None),
        "driver 550.54.15 supports CUDA 12.4, but the installed CuPy is built for CUDA 13 (needs driver 580 or later)",
        ["pip uninstall -y cupy-cuda13x; pip install 'gpuroi[cuda12]'"],
    ),
    "driver too old for any": (
        replace(WORKS, driver="470.82.01", driver_cuda=11040, runtime=None, devices=()),
        "supports CUDA 11.4",
        ["update the driver to 580 or later"],
    ),
    "driver too old, CuPy from elsewhere": (
        replace(
            WORKS,
            driver="550.54.15",
            driver_cuda=12040,
            wheels=(("cupy", "14.2.0"),),
            runtime=None,
            devices=(),
            failed_at="count",
            error="CUDARuntimeError: cudaErrorInsufficientDriver: CUDA driver version is insufficient",
        ),
        "too old for the installed CuPy",
        ["update the driver, or: pip install 'gpuroi[cuda12]'"],
    ),
    "two wheels": (
        replace(WORKS, wheels=(("cupy-cuda12x", "14.1.1"), ("cupy-cuda13x", "14.2.0"))),
        "2 CuPy packages are installed that overwrite each other's files: cupy-cuda12x 14.1.1 and cupy-cuda13x 14.2.0",
        ["pip uninstall -y cupy-cuda12x cupy-cuda13x; pip install 'gpuroi[cuda13]'"],
    ),
    "CuPy for AMD": (
        replace(WORKS, wheels=(("cupy-rocm-7-0", "14.0.1"),), runtime=None, devices=()),
        "cupy-rocm-7-0 is built for AMD GPUs",
        ["pip install 'gpuroi[cuda13]'"],
    ),
    "hidden by an empty variable": (
        replace(WORKS, visible="", devices=()),
        'CUDA_VISIBLE_DEVICES="" hides every GPU',
        ["unset CUDA_VISIBLE_DEVICES"],
    ),
    "hidden by -1": (replace(WORKS, visible="-1", devices=()), "hides every GPU", ["CUDA_VISIBLE_DEVICES=0"]),
    "no device": (
        replace(WORKS, devices=(), failed_at="count", visible="7"),
        'the driver shows no GPU to CuPy; CUDA_VISIBLE_DEVICES is "7"',
        ["nvidia-smi -L"],
    ),
    "CuPy broken": (
        replace(WORKS, devices=(), runtime=None, failed_at="import", error="ImportError: numpy.core"),
        "CuPy cannot be imported (ImportError: numpy.core)",
        ["pip install --force-reinstall 'gpuroi[cuda13]'"],
    ),
    "no compiler": (
        replace(WORKS, failed_at="nvrtc", error="RuntimeError: CuPy failed to load libnvrtc.so.13"),
        "the CUDA libraries that compile kernels are missing (RuntimeError: CuPy failed to load libnvrtc.so.13)",
        ["reinstall with the extra, which brings them: pip install 'gpuroi[cuda13]'"],
    ),
    "no compiler, seen by the kernel": (
        replace(WORKS, failed_at="kernel", error="DynamicLibNotFoundError: Failure finding nvrtc"),
        "the CUDA libraries that compile kernels are missing",
        ["pip install 'gpuroi[cuda13]'"],
    ),
    "GPU too old for CUDA 13": (
        replace(WORKS, devices=(V100,), failed_at="kernel", error="CompileException: nvrtc: invalid value for -arch"),
        "Tesla V100 has compute capability 7.0, and CUDA 13 needs 7.5 or later",
        ["pip uninstall -y cupy-cuda13x; pip install 'gpuroi[cuda12]'"],
    ),
    "GPU full": (
        replace(WORKS, failed_at="kernel", error="OutOfMemoryError: Out of memory allocating 512 bytes"),
        "the GPU has no room for another process",
        ["nvidia-smi"],
    ),
    "kernel fails": (
        replace(WORKS, failed_at="kernel", error="CUDADriverError: CUDA_ERROR_ILLEGAL_ADDRESS"),
        "a test kernel failed (CUDADriverError: CUDA_ERROR_ILLEGAL_ADDRESS)",
        ["cupy.show_config()"],
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_its_reason_and_its_remedy(state):
    facts, reason, hints = STATES[state]
    status = describe(facts)
    assert not status.usable
    assert reason in status.reason
    for hint in hints:
        assert hint in status.hint
    # It has to read well after "asked for, but": one line, no full stop, no capital unless a name.
    assert "\n" not in status.reason
    assert not status.reason.endswith(".")


def test_a_working_machine_is_usable():
    status = describe(WORKS)
    assert status.usable
    assert (status.reason, status.hint) == ("", "")
    assert status.devices == (H100,)
    assert (status.driver, status.driver_cuda, status.runtime) == ("580.95.05", "13.0", "13.0")
    assert (status.cupy, status.cucim, status.self_test_ms) == ("14.2.0", "26.10.0", 210.0)


@pytest.mark.parametrize(
    ("driver", "driver_cuda", "extra"),
    [("580.1", 13000, "cuda13"), ("595.2", 13010, "cuda13"), ("579.9", 12090, "cuda12"), ("525.60", 12000, "cuda12")],
)
def test_the_extra_follows_the_driver(driver, driver_cuda, extra):
    assert f"'gpuroi[{extra}]'" in describe(CudaFacts(driver=driver, driver_cuda=driver_cuda)).hint


def test_the_explicit_device_error_reads_as_a_sentence(monkeypatch):
    monkeypatch.setattr("gpuroi.backends.probe.probe", lambda: describe(NO_CUPY))
    with pytest.raises(DeviceError) as raised:
        get_backend("cuda")
    assert raised.value.message == 'device "cuda" asked for, but CuPy is not installed'
    assert raised.value.hint == "driver 580.95.05 found: pip install 'gpuroi[cuda13]'"
    assert raised.value.exit_code == 69


def test_the_probe_never_raises(monkeypatch):
    def broken() -> CudaFacts:
        raise RuntimeError("the\nsky falls")

    monkeypatch.setattr(probe_module, "gather", broken)
    status = probe.__wrapped__()
    assert not status.usable
    assert status.reason == "asking for CUDA failed (RuntimeError: the sky falls)"


def test_the_probe_here_answers_once_and_consistently():
    status = probe()
    assert status is probe()
    assert status.usable == (not status.reason)
    assert status.usable == (status.self_test_ms is not None)


def test_without_a_driver_cupy_is_not_imported(monkeypatch):
    monkeypatch.setattr(probe_module, "_driver_cuda", lambda: None)
    monkeypatch.setattr(probe_module, "_kernel_driver", lambda: None)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(probe_module, "_installed", lambda names: ((names[0], "1.0"),))
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it would raise
    facts = gather()
    assert facts.failed_at == ""
    assert describe(facts).reason == "no NVIDIA driver is visible"


def test_importing_the_probe_imports_neither_cupy_nor_numba():
    code = "import sys, gpuroi.backends.probe; print([m for m in ('cupy', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version: 12",
            "535.104.05",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n", "580.95.05"),
        ("something else\n", None),
    ],
)
def test_the_kernel_tells_its_driver(tmp_path, text, version):
    (tmp_path / "version").write_text(text)
    assert probe_module._kernel_driver(str(tmp_path / "version")) == version


def test_no_kernel_driver_no_version(tmp_path):
    assert probe_module._kernel_driver(str(tmp_path / "version")) is None


@pytest.mark.skipif(os.name == "nt", reason="writes a shell script")
@pytest.mark.parametrize(
    ("script", "driver", "capabilities"),
    [
        ('echo "570.10, 9.0"; echo "570.10, 6.1"', "570.10", ((9, 0), (6, 1))),
        ('echo "Field compute_cap is not a valid field"; exit 2', None, ()),
        ('echo "No devices were found"', None, ()),
    ],
)
def test_nvidia_smi_is_asked_and_not_trusted(tmp_path, monkeypatch, script, driver, capabilities):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    facts = probe_module._ask_nvidia_smi(CudaFacts(driver_cuda=12080))
    assert (facts.driver, facts.capabilities) == (driver, capabilities)


class FakeCupy(SimpleNamespace):
    """As much of CuPy as the probe touches, on NumPy; `broken` is the step at which it fails."""

    def __init__(self, broken: str = "", count: int = 2) -> None:
        def fails(step: str, value: object) -> object:
            if step == broken:
                raise RuntimeError(f"{step} is broken")
            return value

        class RawKernel:
            def __init__(self, source: str, name: str) -> None:
                assert name in source

            def __call__(self, grid: tuple[int], block: tuple[int], args: tuple[np.ndarray]) -> None:
                args[0][0] = fails("kernel", 41 if broken == "numbers" else 42)

        runtime = SimpleNamespace(
            runtimeGetVersion=lambda: 13000,
            getDeviceCount=lambda: fails("count", count),
            getDeviceProperties=lambda i: {
                "name": b"Fake GPU %d" % i,
                "major": 9,
                "minor": 0,
                "totalGlobalMem": 1 << 34,
            },
            memGetInfo=lambda: (1 << 33, 1 << 34),
        )
        cuda = SimpleNamespace(
            runtime=runtime,
            nvrtc=SimpleNamespace(getVersion=lambda: fails("nvrtc", (13, 0))),
            Device=lambda index: __import__("contextlib").nullcontext(index),
        )
        super().__init__(__version__="14.2.0", cuda=cuda, zeros=np.zeros, int32=np.int32, RawKernel=RawKernel)


@pytest.fixture
def machine_with(monkeypatch):
    """Gather the facts on a machine with driver 580 and a fake CuPy."""

    def gathered(cupy: FakeCupy | None) -> CudaFacts:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(probe_module, "_kernel_driver", lambda: "580.95.05")
        monkeypatch.setattr(probe_module, "_driver_cuda", lambda: 13000)
        wheels = {"cupy": "cupy-cuda13x", "cucim-cu13": "cucim-cu13"}
        monkeypatch.setattr(probe_module, "_installed", lambda names: ((wheels[names[0]], "14.2.0"),))
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        return gather()

    return gathered


def test_kernels_run_where_cupy_works(machine_with):
    status = describe(machine_with(FakeCupy()))
    assert status.usable
    assert [device.name for device in status.devices] == ["Fake GPU 0", "Fake GPU 1"]
    assert [device.free_bytes for device in status.devices] == [1 << 33, None]
    assert status.devices[0].compute_capability == "9.0"
    assert status.self_test_ms is not None
    assert status.self_test_ms >= 0


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("count", "shows no GPU"),
        ("nvrtc", "libraries that compile kernels are missing"),
        ("kernel", "a test kernel failed (RuntimeError: kernel is broken)"),
        ("numbers", "the kernels gave 1.0 and 41 where 1 and 42 are right"),
    ],
)
def test_a_step_that_fails_is_named(machine_with, broken, reason):
    status = describe(machine_with(FakeCupy(broken)))
    assert not status.usable
    assert reason in status.reason


def test_no_device_counted(machine_with):
    assert "shows no GPU" in describe(machine_with(FakeCupy(count=0))).reason


def test_cupy_that_cannot_be_imported(machine_with):
    assert "CuPy cannot be imported (ModuleNotFoundError" in describe(machine_with(None)).reason


def test_an_empty_variable_is_found_in_the_environment(machine_with, monkeypatch):
    machine_with(FakeCupy())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert describe(gather()).reason == 'CUDA_VISIBLE_DEVICES="" hides every GPU'
