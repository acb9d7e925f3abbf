"""`gpuroi info`: which device, and why; what the numbers will be made with."""

from __future__ import annotations

import logging
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from gpuroi.cli.summary import show
from gpuroi.errors import GpuroiError

__all__ = ["info"]

_PACKAGES = ("numpy", "scipy", "numba", "nibabel", "pandas", "nilearn", "matplotlib")
_AVX512_CORES = ("SKYLAKEX", "COOPERLAKE", "SAPPHIRERAPIDS")


def info(*, as_json: Annotated[bool, Parameter(name="--json")] = False) -> int:
    """Show the device that will be used and why, the processor, and the versions of everything.

    Where there is no usable GPU it says what is missing and the command that mends it.

    Parameters
    ----------
    as_json
        Print JSON instead.

    Returns
    -------
    int
        0; or 69 if GPUROI_DEVICE asks for a GPU that cannot be used, 2 if it is not the name of a device.
    """
    logging.getLogger("gpuroi").setLevel(logging.WARNING)  # the choice of device is told below
    found = _gather()
    if as_json:
        import json

        print(json.dumps(found, indent=2))
    else:
        show(_lines(found))
    return int(found["device"]["exit_code"])


def _gather() -> dict[str, Any]:
    from gpuroi import __version__
    from gpuroi.backends.memory import host_free_bytes
    from gpuroi.backends.threads import n_threads
    from gpuroi.images.gunzip import inflater_name

    return {
        "gpuroi": __version__,
        "device": _device(),
        "cuda": _cuda(),
        "cpu": {
            "threads": n_threads(),
            "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "free_bytes": host_free_bytes(),
            "inflater": inflater_name(),
            "warning": _openblas_warning(os.environ.get("OPENBLAS_CORETYPE", ""), _processor_flags()),
        },
        "packages": {name: _version(name) for name in _PACKAGES},
        "container": os.environ.get("GPUROI_CONTAINER") or None,
    }


def _device() -> dict[str, Any]:
    """The device that `auto` means here, and why."""
    from gpuroi.backends import get_backend
    from gpuroi.backends.probe import probe

    asked = os.environ.get("GPUROI_DEVICE") or None
    try:
        name = get_backend("auto").device
    except GpuroiError as error:
        return {"name": None, "why": error.message, "hint": error.hint, "exit_code": error.exit_code}
    status = probe()
    if asked not in (None, "auto"):
        return {"name": name, "why": f"GPUROI_DEVICE={asked}", "hint": "", "exit_code": 0}
    why = "a test kernel ran" if status.usable else status.reason
    return {"name": name, "why": why, "hint": status.hint, "exit_code": 0}


def _cuda() -> dict[str, Any]:
    from dataclasses import asdict

    from gpuroi.backends.probe import probe

    return asdict(probe())


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    device, cuda, cpu = found["device"], found["cuda"], found["cpu"]
    lines = [("gpuroi", found["gpuroi"])]
    lines.append(("device", f"{device['name']} ({device['why']})" if device["name"] else f"none: {device['why']}"))
    if device["hint"]:
        lines.append(("", device["hint"]))
    for index, gpu in enumerate(cuda["devices"]):
        free = "" if gpu["free_bytes"] is None else f", {_gib(gpu['free_bytes'])} free"
        lines.append(
            (
                f"cuda:{index}",
                f"{gpu['name']}, compute capability {gpu['compute_capability']}, {_gib(gpu['total_bytes'])}{free}",
            )
        )
    lines.append(("CUDA", _cuda_line(cuda)))
    if not cuda["usable"] and device["why"] != cuda["reason"]:
        lines.append(("", f"{cuda['reason']}; {cuda['hint']}"))
    lines.append(
        ("CPU", f"{cpu['threads']} threads on {cpu['cores_usable']} usable cores, {_gib(cpu['free_bytes'])} free")
    )
    lines.append(("packages", ", ".join(f"{name} {number or 'missing'}" for name, number in found["packages"].items())))
    lines.append((".nii.gz", f"inflated by {cpu['inflater']}"))
    if found["container"]:
        lines.append(("container", found["container"]))
    if cpu["warning"]:
        lines.append(("warning", cpu["warning"]))
    return lines


def _cuda_line(cuda: dict[str, Any]) -> str:
    driver = cuda["driver"] or (f"for CUDA {cuda['driver_cuda']}" if cuda["driver_cuda"] else "none")
    parts = [f"driver {driver}", f"runtime {cuda['runtime'] or 'none'}"]
    parts += [f"CuPy {cuda['cupy'] or 'none'}", f"cuCIM {cuda['cucim'] or 'none'}"]
    if cuda["self_test_ms"] is not None:
        parts.append(f"self-test {cuda['self_test_ms']:g} ms")
    return ", ".join(parts)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _processor_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def _openblas_warning(core_type: str, flags: frozenset[str]) -> str | None:
    """Said, never mended silently: the numbers of a run must not depend on what we do to the environment."""
    if not core_type or core_type.upper() in _AVX512_CORES or "avx512f" not in flags:
        return None
    return (
        f"OPENBLAS_CORETYPE={core_type} keeps OpenBLAS from AVX-512, which this processor has: matrix products take "
        "about twice as long; unset it where you may"
    )
