"""What a case is: one operation on one input, for gpuroi and its peers, with how close the answers have to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.inputs import Size
from benchmarks.settings import Call, Outputs
from gpuroi.backends import Backend

__all__ = ["SUBJECTS", "Case", "Check", "Subject"]

Subject = Literal["operations", "images", "permutation", "parcels"]
SUBJECTS: tuple[Subject, ...] = ("operations", "images", "permutation", "parcels")


@dataclass(frozen=True)
class Check:
    """How close an output has to be to the reference."""

    measure: Literal["differing", "max_abs", "max_rel"]
    limit: float
    peer_limit: float | None = None
    """Where it is wider for peers: SciPy and CuPy take sums in the precision of the data, nilearn returns float32."""


@dataclass(frozen=True)
class Case:
    """One operation on one input."""

    name: str
    what: str
    """In the words of the README's table."""
    make: Callable[[Size], Any]
    ours: Callable[[Any, Backend], Call]
    reference: Callable[[Any], Outputs]
    checks: Mapping[str, Check]
    traffic: Callable[[Any], int]
    """Bytes that must be moved at least: the input read once, the output written once."""
    peers: Mapping[str, Callable[[Any], Call]] = field(default_factory=dict)
    flops: Callable[[Any], float] | None = None
    """Floating-point operations at least, where they count beside the bytes."""
    subject: Subject = "operations"
    main: bool = False
    """In the table of the README; the others are in the result files alone."""
    device_batch: bool = False
    """Part of the run that fills a GPU."""
    cpu_only: bool = False
    """Says something of the CPU alone: one thread of it, or what runs there on any machine."""
