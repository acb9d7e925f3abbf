"""Every CUDA kernel compiles for every architecture that we support, without spills and within its registers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rig.nvrtc import NvrtcMissing, compile_cuda, compiler_for

import gpuroi.backends
from gpuroi.backends.cuda import KERNEL_VARIANTS

FOLDER = Path(gpuroi.backends.__file__).parent / "kernels"
SOURCES = sorted(FOLDER.glob("*.cu"))
VARIANTS = [(path.stem, options) for path in SOURCES for options in KERNEL_VARIANTS.get(path.stem, [])]

_BOUNDS = r"(?:__launch_bounds__\s*\([^)]*\)\s*)?"
KERNEL_NAME = re.compile(rf'^extern "C" __global__\s+{_BOUNDS}void\s+{_BOUNDS}(\w+)\s*\(', re.MULTILINE)

# V100, T4, A100, RTX 30, RTX 40 and L40, H100 and H200, B200, RTX 50
ARCHITECTURES = (70, 75, 80, 86, 89, 90, 100, 120)

# At 64 a multiprocessor still holds 1024 threads, which is what hides the latency of its memory. A kernel that needs
# more says why here.
REGISTERS = 64
MORE_REGISTERS = {
    "log_betainc": 80,  # a continued fraction in doubles: it waits for arithmetic, not for memory
    "gaussian": 128,  # the sums of 15 planes: one block of doubles, or of floats on the V100, at a time
}


def test_every_source_has_its_variants() -> None:
    assert {path.stem for path in SOURCES} == set(KERNEL_VARIANTS)
    assert all(KERNEL_VARIANTS.values())


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"sm_{a}")
@pytest.mark.parametrize(
    ("stem", "options"), VARIANTS, ids=lambda v: v if isinstance(v, str) else " ".join(v) or "plain"
)
def test_compiles_without_spills(stem: str, options: tuple[str, ...], architecture: int) -> None:
    try:
        compiler_for(architecture)
    except NvrtcMissing as missing:
        pytest.skip(str(missing))
    source = (FOLDER / f"{stem}.cu").read_text(encoding="utf-8")
    kernels = compile_cuda(source, architecture, options, name=f"{stem}.cu").kernels
    assert set(kernels) >= set(KERNEL_NAME.findall(source))
    assert {name: k for name, k in kernels.items() if k.spills} == {}
    assert {name: k.stack_bytes for name, k in kernels.items() if k.stack_bytes} == {}
    assert {name: k.registers for name, k in kernels.items() if k.registers > MORE_REGISTERS.get(name, REGISTERS)} == {}
    assert {name: k.shared_bytes for name, k in kernels.items() if k.shared_bytes > 48 << 10} == {}
