"""What a result was measured on, and with which code."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from gpuroi import __version__
from gpuroi.backends import Backend

__all__ = ["ROOT", "commit", "machine", "packages"]

ROOT = Path(__file__).resolve().parents[1]

_PACKAGES = (
    "numpy", "scipy", "numba", "nibabel", "pandas", "nilearn", "scikit-learn", "connected-components-3d", "tfce",
    "deflate", "isal", "zlib-ng", "cupy-cuda12x", "cupy-cuda13x", "cupy", "cucim-cu12", "cucim-cu13", "cucim",
)  # fmt: skip
_NOT_CODE = (
    "benchmarks/results/",
    "docs/images/benchmarks",
    "README.md",
)  # written from results, or the results themselves


def machine(cuda: Backend | None) -> dict[str, Any]:
    """Processor, memory and system; the GPU, its driver and CUDA where there is one."""
    from gpuroi.backends.threads import n_threads

    record: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": n_threads(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),
        "gpu": None,
    }
    if cuda is not None:
        from gpuroi.backends.probe import probe

        status = probe()
        index = int(cuda.device.partition(":")[2] or 0)
        found = status.devices[index] if index < len(status.devices) else None
        record["gpu"] = {
            "name": found.name if found else "CUDA stand-in on the CPU",
            "compute_capability": found.compute_capability if found else None,
            "memory_gib": round(found.total_bytes / 2**30, 1) if found else None,
            "driver": status.driver,
            "cuda_driver": status.driver_cuda,
            "cuda_runtime": status.runtime,
        }
    return record


def packages() -> dict[str, str]:
    """Versions of what is installed of ours, of what we use and of the peers."""
    found = {"gpuroi": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit(given: str | None = None) -> dict[str, Any]:
    """Hash of the checkout, and whether code differs from it; `given` where the checkout has no history."""
    if given:
        return {"hash": given, "dirty": None}
    head = _git("rev-parse", "HEAD")
    if head is None:
        return {"hash": None, "dirty": None}
    changed = [line[3:] for line in (_git("status", "--porcelain") or "").splitlines()]
    return {"hash": head.strip(), "dirty": any(not path.startswith(_NOT_CODE) for path in changed)}


def _git(*words: str) -> str | None:
    try:
        answer = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
