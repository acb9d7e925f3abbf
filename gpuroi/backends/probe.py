"""Can CUDA be used here? If not: why, and the command that mends it.

Facts are gathered in one place (`gather`), words are found in another (`describe`): so every message is tested
without a GPU. CuPy is imported only where a driver is there for it to talk to.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["CudaDevice", "CudaFacts", "CudaStatus", "describe", "gather", "probe"]

# Drivers at which a CUDA major version begins, and the oldest compute capability that it still compiles for.
_FIRST_DRIVER = {13: 580, 12: 525}
_OLDEST_CAPABILITY = {13: (7, 5), 12: (5, 0)}

_CUPY_WHEELS = (
    "cupy", "cupy-cuda102", "cupy-cuda110", "cupy-cuda111", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x",
    "cupy-cuda14x", "cupy-rocm-4-3", "cupy-rocm-5-0", "cupy-rocm-7-0",
)  # fmt: skip
_CUCIM_WHEELS = ("cucim-cu13", "cucim-cu12", "cucim")

_PROBE_SOURCE = 'extern "C" __global__ void gpuroi_probe(int* out) { out[0] = 40 + 2; }'


@dataclass(frozen=True)
class CudaDevice:
    """One GPU.

    Attributes
    ----------
    name : str
    compute_capability : str
        Such as "9.0".
    total_bytes : int
    free_bytes : int or None
        Free when the probe ran; None for devices beyond the first, where asking would take 0.3 GB of each.
    """

    name: str
    compute_capability: str
    total_bytes: int
    free_bytes: int | None = None


@dataclass(frozen=True)
class CudaStatus:
    """What the probe found.

    Attributes
    ----------
    usable : bool
        A kernel was compiled, ran, and gave the right number.
    reason : str
        One clause: why not; empty where usable.
    hint : str
        What to type.
    devices : tuple of CudaDevice
    driver, driver_cuda, runtime, cupy, cucim : str or None
        Versions of the driver, of the newest CUDA that it supports, of the CUDA that CuPy was built for, and of the
        packages; None where it is missing or was not asked.
    self_test_ms : float or None
        Time of the probe kernels, with compilation unless CuPy had them in its cache.
    """

    usable: bool
    reason: str = ""
    hint: str = ""
    devices: tuple[CudaDevice, ...] = ()
    driver: str | None = None
    driver_cuda: str | None = None
    runtime: str | None = None
    cupy: str | None = None
    cucim: str | None = None
    self_test_ms: float | None = None


@dataclass(frozen=True)
class CudaFacts:
    """What was seen, before any judgement.

    Attributes
    ----------
    system : str
        `platform.system()`.
    visible : str or None
        CUDA_VISIBLE_DEVICES.
    driver : str or None
        Version of the driver, such as "580.95.05".
    driver_cuda : int or None
        Newest CUDA that the driver library supports, as in 13000; None where there is no such library.
    capabilities : tuple of (int, int)
        Compute capabilities of the GPUs, where `nvidia-smi` told them.
    wheels : tuple of (str, str)
        Name and version of each CuPy distribution.
    cupy : str or None
        Version of CuPy; None where there is none to import.
    runtime : int or None
        CUDA that CuPy was built for, as in 13000.
    devices : tuple of CudaDevice
    failed_at : {"", "import", "count", "nvrtc", "kernel"}
        Step at which CuPy failed.
    error : str
        What it said then.
    self_test_ms : float or None
    cucim : str or None
    """

    system: str = "Linux"
    visible: str | None = None
    driver: str | None = None
    driver_cuda: int | None = None
    capabilities: tuple[tuple[int, int], ...] = ()
    wheels: tuple[tuple[str, str], ...] = ()
    cupy: str | None = None
    runtime: int | None = None
    devices: tuple[CudaDevice, ...] = ()
    failed_at: str = ""
    error: str = ""
    self_test_ms: float | None = None
    cucim: str | None = None


@cache
def probe() -> CudaStatus:
    """Run a real kernel on the first GPU, once in a process, and say what came of it.

    Returns
    -------
    CudaStatus
        Never an exception, whatever state the machine is in.

    Examples
    --------
    >>> status = probe()
    >>> status.usable or bool(status.reason and status.hint)
    True
    """
    try:
        return describe(gather())
    except Exception as error:
        return CudaStatus(
            usable=False,
            reason=f"asking for CUDA failed ({type(error).__name__}: {_one_line(str(error))})",
            hint="please report this, with the output of: gpuroi info --json",
        )


def describe(facts: CudaFacts) -> CudaStatus:
    """Judge the facts: usable, or the first thing that has to be mended.

    Parameters
    ----------
    facts : CudaFacts

    Returns
    -------
    CudaStatus
    """
    reason, hint = _obstacle(facts)
    return CudaStatus(
        usable=not reason,
        reason=reason,
        hint=hint,
        devices=facts.devices,
        driver=facts.driver,
        driver_cuda=_dotted(facts.driver_cuda) if facts.driver_cuda else None,
        runtime=_dotted(facts.runtime) if facts.runtime else None,
        cupy=facts.cupy,
        cucim=facts.cucim,
        self_test_ms=facts.self_test_ms,
    )


def gather() -> CudaFacts:
    """Look at the driver, at the installed wheels, and, where both are there, at what CuPy can do.

    Returns
    -------
    CudaFacts
    """
    wheels = _installed(_CUPY_WHEELS)
    cucim = _installed(_CUCIM_WHEELS)
    facts = CudaFacts(
        system=platform.system(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        driver=_kernel_driver(),
        driver_cuda=_driver_cuda(),
        wheels=wheels,
        cupy=wheels[0][1] if wheels else "unknown" if _importable("cupy") else None,
        cucim=cucim[0][1] if cucim else None,
    )
    if facts.driver_cuda is not None and (facts.cupy is None or facts.driver is None):
        facts = _ask_nvidia_smi(facts)
    if _obstacle(facts)[0]:
        return facts  # importing CuPy, 0.3 s, would not change it
    return _ask_cupy(facts)


def _obstacle(facts: CudaFacts) -> tuple[str, str]:
    """Reason and hint for the first thing in the way; two empty strings if nothing is."""
    if facts.driver_cuda is None:
        return _no_driver(facts)
    if facts.visible is not None and facts.visible.strip() in ("", "-1", "NoDevFiles"):
        return (
            f'CUDA_VISIBLE_DEVICES="{facts.visible}" hides every GPU',
            "unset CUDA_VISIBLE_DEVICES, or give it the number of a GPU: export CUDA_VISIBLE_DEVICES=0",
        )
    if len(facts.wheels) > 1:
        names = " ".join(name for name, _ in facts.wheels)
        found = " and ".join(f"{name} {version}" for name, version in facts.wheels)
        return (
            f"{len(facts.wheels)} CuPy packages are installed that overwrite each other's files: {found}",
            f"remove all of them, then install the one for this driver: pip uninstall -y {names}; {_install(facts)}",
        )
    built = _built_for(facts)
    if facts.cupy is None or (facts.wheels and "rocm" in facts.wheels[0][0]):
        what = "CuPy is not installed" if facts.cupy is None else f"{facts.wheels[0][0]} is built for AMD GPUs"
        return what, f"{_driver(facts)} found: {_install(facts)}"
    if (built and facts.driver_cuda // 1000 < built) or "InsufficientDriver" in facts.error:
        return _driver_too_old(facts, built)
    if facts.failed_at:
        return _cupy_failed(facts)
    return "", ""


def _no_driver(facts: CudaFacts) -> tuple[str, str]:
    if facts.system == "Darwin":
        return "no NVIDIA driver is visible", "there is no CUDA for macOS: the CPU is the device to use here"
    if facts.driver is None:
        return (
            "no NVIDIA driver is visible",
            "in Docker add --gpus all, in Apptainer --nv; on a cluster ask for a GPU node (nvidia-smi lists it)",
        )
    return (
        f"the driver library libcuda.so.1 is missing, though the kernel runs driver {facts.driver}",
        "in Docker add --gpus all (and NVIDIA_DRIVER_CAPABILITIES=compute,utility), in Apptainer --nv; "
        "else install the driver's user-space libraries",
    )


def _driver_too_old(facts: CudaFacts, built: int | None) -> tuple[str, str]:
    supports = f"{_driver(facts)} supports CUDA {_dotted(facts.driver_cuda or 0)}"
    if built is None:
        return f"{supports}, which is too old for the installed CuPy", f"update the driver, or: {_install(facts)}"
    reason = f"{supports}, but the installed CuPy is built for CUDA {built}"
    first = _FIRST_DRIVER.get(built)
    reason += f" (needs driver {first} or later)" if first else ""
    return reason, _exchange(facts)


def _cupy_failed(facts: CudaFacts) -> tuple[str, str]:
    error = f" ({facts.error})" if facts.error else ""
    if facts.failed_at == "import":
        return f"CuPy cannot be imported{error}", f"reinstall it: {_install(facts, again=True)}"
    if facts.failed_at == "count":
        visible = f'; CUDA_VISIBLE_DEVICES is "{facts.visible}"' if facts.visible is not None else ""
        return (
            f"the driver shows no GPU to CuPy{visible}{error}",
            "see what nvidia-smi -L lists; in Docker add --gpus all, in Apptainer --nv; on a cluster ask for a GPU",
        )
    built = _built_for(facts)
    oldest = _OLDEST_CAPABILITY.get(built or 0)
    if facts.devices and oldest and _capability(facts.devices[0]) < oldest:
        device = facts.devices[0]
        return (
            f"{device.name} has compute capability {device.compute_capability}, "
            f"and CUDA {built} needs {oldest[0]}.{oldest[1]} or later",
            _exchange(facts),
        )
    if facts.failed_at == "nvrtc" or re.search(r"nvrtc|DynamicLibNotFound|CUDA headers", facts.error, re.IGNORECASE):
        return (
            f"the CUDA libraries that compile kernels are missing{error}",
            f"reinstall with the extra, which brings them: {_install(facts)}",
        )
    if re.search(r"OutOfMemory|out of memory|DevicesUnavailable|busy", facts.error):
        return (
            f"the GPU has no room for another process{error}",
            "see with nvidia-smi who uses it, or choose another GPU",
        )
    return f"a test kernel failed{error}", "see what nvidia-smi and: python -c 'import cupy; cupy.show_config()' say"


def _install(facts: CudaFacts, *, again: bool = False) -> str:
    """The command that installs the CuPy for this driver and these GPUs."""
    major = _best_cuda(facts)
    if major is None:
        return f"update the driver to {_FIRST_DRIVER[12]} or later, then: pip install 'gpuroi[cuda12]'"
    return f"pip install {'--force-reinstall ' if again else ''}'gpuroi[cuda{major}]'"


def _exchange(facts: CudaFacts) -> str:
    """The command that puts the CuPy for this driver in place of the one that is there."""
    there = facts.wheels[0][0] if facts.wheels else "cupy"
    if _best_cuda(facts) is None:
        return f"update the driver to {_FIRST_DRIVER.get(_built_for(facts) or 12, _FIRST_DRIVER[12])} or later"
    return f"pip uninstall -y {there}; {_install(facts)}"


def _best_cuda(facts: CudaFacts) -> int | None:
    """Newest CUDA major version that the driver and the GPUs support."""
    supported = (facts.driver_cuda or 0) // 1000
    if facts.driver is not None:
        number = int(facts.driver.partition(".")[0])
        supported = max([supported, *(major for major, first in _FIRST_DRIVER.items() if number >= first)])
    seen = [_capability(device) for device in facts.devices] or list(facts.capabilities)
    for major in sorted(_FIRST_DRIVER, reverse=True):
        if supported >= major and all(capability >= _OLDEST_CAPABILITY[major] for capability in seen):
            return major
    return None


def _built_for(facts: CudaFacts) -> int | None:
    if facts.runtime:
        return facts.runtime // 1000
    found = re.fullmatch(r"cupy-cuda(\d\d)x?\d?", facts.wheels[0][0]) if facts.wheels else None
    return int(found[1]) if found else None


def _driver(facts: CudaFacts) -> str:
    return f"driver {facts.driver}" if facts.driver else "the driver"


def _capability(device: CudaDevice) -> tuple[int, int]:
    major, _, minor = device.compute_capability.partition(".")
    return int(major), int(minor or 0)


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:197] + "..."


def _installed(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Name and version of those that are installed."""
    found = []
    for name in names:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)


def _importable(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None
    return importlib.util.find_spec(name) is not None


def _kernel_driver(path: str = "/proc/driver/nvidia/version") -> str | None:
    """Version of the kernel's driver. Containers see it too, without the right to use it."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)*)\s", text)
    return found[1] if found else None


def _driver_cuda() -> int | None:
    """Ask the driver library for its CUDA version: needs neither CuPy nor a context on the device."""
    for name in ("nvcuda.dll",) if os.name == "nt" else ("libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"):
        try:
            version = ctypes.c_int(0)
            if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(version)) == 0:
                return version.value
        except (OSError, AttributeError):
            continue
    return None


def _ask_nvidia_smi(facts: CudaFacts) -> CudaFacts:
    """Add the driver's version and the GPUs' compute capabilities, where nvidia-smi is there and tells them."""
    command = ["nvidia-smi", "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return facts
    rows = re.findall(r"^\s*(\d+[\d.]*)\s*,\s*(\d+)\.(\d+)\s*$", answer.stdout, re.MULTILINE)
    if not rows:
        return facts
    capabilities = tuple((int(major), int(minor)) for _, major, minor in rows)
    return replace(facts, driver=facts.driver or rows[0][0], capabilities=capabilities)


def _ask_cupy(facts: CudaFacts) -> CudaFacts:
    """Import CuPy, list the GPUs, compile and run two kernels on the first; stop at the first failure."""
    step = "import"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy warns of what `describe` says better
            import cupy
        facts = replace(facts, cupy=str(cupy.__version__))
        step = "count"
        runtime = cupy.cuda.runtime
        facts = replace(facts, runtime=int(runtime.runtimeGetVersion()))
        count = int(runtime.getDeviceCount())
        if count == 0:
            return replace(facts, failed_at=step)
        facts = replace(facts, devices=tuple(_device(runtime, index) for index in range(count)))
        step = "nvrtc"
        cupy.cuda.nvrtc.getVersion()  # CuPy's cache of kernels can hide that the compiler is missing
        step = "kernel"
        start = time.perf_counter()
        _run_kernels(cupy)
        took_ms = (time.perf_counter() - start) * 1e3
        free = int(runtime.memGetInfo()[0])
        first = replace(facts.devices[0], free_bytes=free)
        return replace(facts, devices=(first, *facts.devices[1:]), self_test_ms=round(took_ms, 1))
    except Exception as error:
        return replace(facts, failed_at=step, error=_one_line(f"{type(error).__name__}: {error}"))


def _device(runtime: Any, index: int) -> CudaDevice:
    found = runtime.getDeviceProperties(index)
    name = found["name"]
    return CudaDevice(
        name=name.decode(errors="replace") if isinstance(name, bytes) else str(name),
        compute_capability=f"{found['major']}.{found['minor']}",
        total_bytes=int(found["totalGlobalMem"]),
    )


def _run_kernels(cupy: Any) -> None:
    """One kernel that CuPy writes and one of our own; both have to give the right number."""
    with cupy.cuda.Device(0):
        one = (cupy.zeros(1) + 1).item()
        out = cupy.zeros(1, dtype=cupy.int32)
        cupy.RawKernel(_PROBE_SOURCE, "gpuroi_probe")((1,), (1,), (out,))
        answer = out.item()
    if (one, answer) != (1, 42):
        raise RuntimeError(f"the kernels gave {one} and {answer} where 1 and 42 are right")
