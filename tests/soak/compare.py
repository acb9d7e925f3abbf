"""What is the same in two folders of results, and small things that every fault needs."""

from __future__ import annotations

import hashlib
import io
import time
from pathlib import Path
from typing import TypeVar

import numpy as np

__all__ = ["beside", "other_files", "other_numbers", "sha256_of", "spread", "wait_for"]

T = TypeVar("T")


def spread(cases: list[T], n: int) -> list[T]:
    """Return some of the cases, from all over the list."""
    return cases if n >= len(cases) else [cases[k * len(cases) // n] for k in range(n)]


def beside(out: Path) -> list[str]:
    """Return what lies in the folder of the results, which was empty before."""
    return sorted(path.name for path in out.parent.iterdir())


def other_files(found: dict[str, bytes], expected: dict[str, bytes]) -> str:
    """Say which files are not as they should be."""
    other = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    return f"files differ: {', '.join(other[:5])}" if other else ""


def other_numbers(found: dict[str, bytes], expected: dict[str, bytes]) -> str:
    """Say which files differ by more than rounding; p-values and labels may not differ at all."""
    other = {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
    other -= {name for name in other if name.endswith(".tsv") and _near(found.get(name, b""), expected.get(name, b""))}
    return f"files differ: {', '.join(sorted(other)[:5])}" if other else ""


def _near(found: bytes, expected: bytes) -> bool:
    import pandas as pd

    ours, theirs = (pd.read_csv(io.BytesIO(one), sep="\t", na_values="n/a") for one in (found, expected))
    return list(ours) == list(theirs) and all(
        np.allclose(ours[name], theirs[name], rtol=0 if name.startswith("p_") else 1e-5, atol=0, equal_nan=True)
        if pd.api.types.is_numeric_dtype(theirs[name])
        else ours[name].equals(theirs[name])
        for name in theirs
    )


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_for(path: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.002)
