"""How many threads of a kernel fit a multiprocessor, from what ptxas says of it (CUDA Programming Guide, tables of
compute capabilities)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ARCHITECTURES", "Multiprocessor", "occupancy"]

_REGISTER_UNIT = 256  # a warp takes registers in these
_WARP_UNIT = 4  # and warps take them by four, one for each quarter of the multiprocessor


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one multiprocessor."""

    devices: str
    warps: int
    blocks: int
    shared_bytes: int
    shared_unit: int = 128
    shared_of_system: int = 1024
    """Of each block, since compute capability 8.0."""
    registers: int = 65536


ARCHITECTURES = {
    70: Multiprocessor("V100", 64, 32, 96 << 10, 256, 0),
    75: Multiprocessor("T4", 32, 16, 64 << 10, 256, 0),
    80: Multiprocessor("A100", 64, 32, 164 << 10),
    86: Multiprocessor("RTX 30, A40", 48, 16, 100 << 10),
    89: Multiprocessor("RTX 40, L40", 48, 24, 100 << 10),
    90: Multiprocessor("H100, H200", 64, 32, 228 << 10),
    100: Multiprocessor("B200", 64, 32, 228 << 10),
    120: Multiprocessor("RTX 50", 48, 24, 100 << 10),
}


def occupancy(architecture: int, threads: int, registers: int, shared_bytes: int) -> float:
    """Share of the warps of a multiprocessor that blocks of a kernel can fill.

    Examples
    --------
    >>> occupancy(90, 256, 32, 0), occupancy(90, 256, 64, 0), occupancy(75, 1024, 64, 0)
    (1.0, 0.5, 1.0)
    """
    limits = ARCHITECTURES[architecture]
    warps = -(-threads // 32)
    per_warp = -(-registers * 32 // _REGISTER_UNIT) * _REGISTER_UNIT
    by_registers = limits.registers // per_warp // _WARP_UNIT * _WARP_UNIT // warps
    each = -(-(shared_bytes + limits.shared_of_system) // limits.shared_unit) * limits.shared_unit
    by_shared = limits.shared_bytes // each if each else limits.blocks
    blocks = min(limits.blocks, limits.warps // warps, by_registers, by_shared)
    return blocks * warps / limits.warps
