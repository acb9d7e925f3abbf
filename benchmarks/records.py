"""Read result files: those of `benchmarks.run`, and those of `benchmarks.gpu_check`, which hold several records."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["input_text", "load", "machine_text", "package_text"]


def load(path: Path) -> list[dict[str, Any]]:
    """Return the benchmark records of a file.

    Raises
    ------
    SystemExit
        With code 65 and the reason, if the file is no result.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["kind"] == "benchmarks":
            return [content]
        if content["kind"] == "gpu-check":
            return list(content.get("benchmarks", []))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _refusal(path, f"{type(error).__name__}: {error}") from error
    raise _refusal(path, f'its kind is "{content["kind"]}"')


def input_text(described: Mapping[str, Any]) -> str:
    """The input in a few characters: "20 x 91 x 109 x 91", "(100 + 100) x 234 881, 5000 permutations"."""
    shape = described["shape"]
    if "files" in described:
        whole = ", int16" if described["dtype"] == "int16" else ""
        return f"{described['files']} files of {_times(shape)}{whole}"
    if isinstance(shape[0], list):
        counts = " + ".join(str(s[0]) for s in shape)
        size = f"{counts if len(shape) == 1 else f'({counts})'} x {shape[0][1]:,}".replace(",", " ")
        return ", ".join(
            [size, *(f"{described[key]} {key}" for key in ("permutations", "parcels") if key in described)]
        )
    if described["dtype"] == "int16":
        return f"{shape[3]} volumes of {_times(shape[:3])}, .nii.gz"
    return _times(shape[1:]) if shape[0] == 1 else f"{shape[0]} volumes of {_times(shape[1:])}"


def machine_text(machine: Mapping[str, Any], *, cuda: bool) -> str:
    """The hardware in one line."""
    host = (
        f"{machine['cpu']}, {machine['cores']} cores, {math.ceil(machine['memory_gib'] or 0)} GiB, {machine['system']}"
    )
    gpu = machine["gpu"]
    if not cuda or not gpu:
        return host
    return f"{gpu['name']} (driver {gpu['driver']}, CUDA {gpu['cuda_runtime']}), {host}"


def package_text(record: Mapping[str, Any]) -> str:
    """Python and the packages that took part, with their versions."""
    named = (
        "numpy", "scipy", "numba", "nilearn", "scikit-learn", "nibabel", "connected-components-3d", "tfce", "cupy",
        "cucim",
    )  # fmt: skip
    found = [f"{name} {version}" for name, version in record["packages"].items() if name.startswith(named)]
    return ", ".join([f"Python {record['machine']['python']}", *found])


def _times(shape: list[int]) -> str:
    return " x ".join(str(n) for n in shape)


def _refusal(path: Path, reason: str) -> SystemExit:
    print(f"{path}: not a result of benchmarks.run or benchmarks.gpu_check ({reason})")
    return SystemExit(65)
