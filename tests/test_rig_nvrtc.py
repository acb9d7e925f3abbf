"""The CUDA compiler without a GPU: what it reports of a kernel, and what it refuses."""

from __future__ import annotations

import pytest
from rig import nvrtc
from rig.nvrtc import NvrtcError, NvrtcMissing, compile_cuda, versions

if not versions():
    pytest.skip("no CUDA compiler: pip install nvidia-cuda-nvrtc nvidia-cuda-nvrtc-cu12", allow_module_level=True)

SCALE = """
extern "C" __global__ void scale(const REAL* __restrict__ x, REAL* out, REAL by, long long n)
{
    __shared__ REAL part[64];
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        part[threadIdx.x % 64] = x[i];
        __syncthreads();
        out[i] = part[63 - threadIdx.x % 64] * by;
    }
}
extern "C" __global__ void empty() {}
"""

# More live values than the registers that the launch bounds leave: the rest goes through memory.
SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) spilling(const float* x, float* out, int n)
{
    float v[96];
    #pragma unroll
    for (int k = 0; k < 96; ++k) v[k] = x[threadIdx.x + 1024 * k];
    for (int i = 0; i < n; ++i) {
        #pragma unroll
        for (int k = 0; k < 96; ++k) v[k] = v[k] * v[(k + 7) % 96] + x[i];
    }
    #pragma unroll
    for (int k = 0; k < 96; ++k) out[threadIdx.x + 1024 * k] = v[k];
}
"""


@pytest.mark.parametrize(("real", "shared"), [("float", 256), ("double", 512)])
@pytest.mark.parametrize("architecture", [75, 90])
def test_registers_and_shared_memory_of_each_kernel(real: str, shared: int, architecture: int) -> None:
    made = compile_cuda(SCALE, architecture, (f"-DREAL={real}",))
    assert made.cubin[:4] == b"\x7fELF"
    assert set(made.kernels) == {"scale", "empty"}
    scale, empty = made.kernels["scale"], made.kernels["empty"]
    assert (scale.shared_bytes, scale.stack_bytes, scale.spills) == (shared, 0, False)
    assert 8 <= scale.registers <= 48
    assert empty.shared_bytes == 0
    assert empty.registers < scale.registers


def test_spills_are_seen() -> None:
    spilling = compile_cuda(SPILLING, 90).kernels["spilling"]
    assert spilling.spills
    assert spilling.spill_store_bytes > 0
    assert spilling.registers <= 32


def test_errors_name_file_and_line() -> None:
    with pytest.raises(NvrtcError, match=r"label\.cu\(3\): error: identifier .nonsense. is undefined"):
        compile_cuda('\n\nextern "C" __global__ void k(int* a) { a[0] = nonsense; }', 90, name="label.cu")


def test_an_architecture_that_no_wheel_knows() -> None:
    with pytest.raises(NvrtcMissing, match=r"knows sm_35; they know \[.*90.*\]"):
        compile_cuda(SCALE, 35)


def test_without_a_wheel_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_libraries", dict)
    with pytest.raises(NvrtcMissing, match="pip install nvidia-cuda-nvrtc"):
        compile_cuda(SCALE, 90)


@pytest.mark.skipif("cu12" not in versions(), reason="nvidia-cuda-nvrtc-cu12 is not installed")
def test_the_older_wheel_knows_volta() -> None:
    assert versions()["cu12"] < (13, 0)
    assert compile_cuda(SCALE, 70, ("-DREAL=float",)).kernels["scale"].registers > 0
