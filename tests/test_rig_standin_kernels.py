"""Kernels on the stand-in for CuPy: run, counted, and refused where a device would compute garbage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rig.host_kernels import KernelError, interleaving
from rig.standin_device import Meter

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("host_compiler")]

ADD = """
extern "C" __global__ void add(const float* __restrict__ x, float* y, float by, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] + by;
}
extern "C" __global__ void order(int* ticket, int* out) { out[atomicAdd(ticket, 1)] = threadIdx.x; }
extern "C" __global__ void shared(int* out) { DYN_SHARED(int, s); s[threadIdx.x] = threadIdx.x; out[0] = s[0]; }
"""


@pytest.fixture
def cp(standin_cupy: Any) -> Any:
    return standin_cupy


@pytest.fixture
def x(cp: Any) -> Any:
    return cp.asarray(np.arange(6, dtype="f4").reshape(2, 3))


def test_kernels_run_and_are_counted(cp: Any, x: Any, device_meter: Meter) -> None:
    add = cp.RawModule(code=ADD, options=("--std=c++17",)).get_function("add")
    y = cp.empty(6, "f4")
    add((1,), (32,), (x, y, np.float32(2), np.int32(6)))
    add((1,), (32,), (y, y, np.float32(2), np.int32(3)))
    assert device_meter.quiet
    assert device_meter.launches == {"add": 2}
    assert y.get().tolist() == [4, 5, 6, 5, 6, 7]


def test_kernels_follow_the_interleaving(cp: Any) -> None:
    order = cp.RawKernel(ADD, "order")

    def run(seed: int) -> list[int]:
        out = cp.zeros(32, "i4")
        with interleaving(seed):
            order((1,), (32,), (cp.zeros(1, "i4"), out))
        return list(out.tolist())

    assert run(0) == list(range(32))
    assert run(3) != run(0)
    assert sorted(run(3)) == run(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda cp, x: (x, x, 2.0, np.int32(6)), "NumPy scalar"),
        (lambda cp, x: (x, x, np.float32(2), 6), "NumPy scalar"),
        (lambda cp, x: (x, x, np.float64(2), np.int32(6)), "NumPy scalar"),
        (lambda cp, x: (x, x, np.float32(2), np.int64(6)), "NumPy scalar"),
        (lambda cp, x: (x, x, x[0, 0], np.int32(6)), "NumPy scalar"),
        (lambda cp, x: (x.get(), x, np.float32(2), np.int32(6)), "a NumPy array cannot be"),
        (lambda cp, x: (x.T, x, np.float32(2), np.int32(6)), "not C-contiguous"),
        (lambda cp, x: (x[:, ::2], x, np.float32(2), np.int32(6)), "not C-contiguous"),
        (lambda cp, x: (x.astype("f8"), x, np.float32(2), np.int32(6)), "the array is float64"),
        (lambda cp, x: (x, None, np.float32(2), np.int32(6)), "null pointer"),
        (lambda cp, x: (x, x, np.float32(2)), "3 arguments for 4 parameters"),
    ],
)
def test_kernel_arguments_that_are_garbage_on_a_device(cp: Any, x: Any, arguments: Any, message: str) -> None:
    add = cp.RawModule(code=ADD).get_function("add")
    with pytest.raises(TypeError, match=message):
        add((1,), (32,), arguments(cp, x))


def test_an_address_passes_unchecked_for_kernels_that_know_strides(cp: Any, x: Any) -> None:
    y = cp.empty(6, "f4")
    cp.RawKernel(ADD, "add")((1,), (32,), (x.T.data, y, np.float32(0), np.int32(6)))
    assert y.get().tolist() == [0, 1, 2, 3, 4, 5]


def test_kernels_run_where_their_arrays_are(cp: Any, x: Any) -> None:
    add = cp.RawKernel(ADD, "add")
    with cp.cuda.Device(1), pytest.raises(ValueError, match="on device 0, the kernel runs on 1"):
        add((1,), (32,), (x, cp.empty(6, "f4"), np.float32(0), np.int32(6)))


def test_a_write_out_of_bounds_is_found(cp: Any, x: Any) -> None:
    add = cp.RawKernel(ADD, "add")
    with pytest.raises(KernelError, match="outside the memory of argument 1"):
        add((1,), (32,), (x, cp.empty(5, "f4"), np.float32(0), np.int32(6)))


def test_a_read_out_of_bounds_gives_poison(cp: Any) -> None:
    out = cp.empty(3, "f4")
    cp.RawKernel(ADD, "add")((1,), (32,), (cp.ones(2, "f4"), out, np.float32(0), np.int32(3)))
    assert out.get()[:2].tolist() == [1, 1]
    assert out.get()[2] != 1


def test_shared_memory_beyond_48_kib_has_to_be_asked_for(cp: Any) -> None:
    shared, out = cp.RawKernel(ADD, "shared"), cp.ones(1, "i4")
    with pytest.raises(ValueError, match="at most 49152"):
        shared((1,), (32,), (out,), shared_mem=100 << 10)
    shared.max_dynamic_shared_size_bytes = 100 << 10
    shared((1,), (32,), (out,), shared_mem=100 << 10)
    assert int(out[0]) == 0
    with pytest.raises(ValueError, match="227 KiB"):
        shared.max_dynamic_shared_size_bytes = 228 << 10


def test_source_that_does_not_compile_is_cupys_exception(cp: Any) -> None:
    module = cp.RawModule(code='extern "C" __global__ void k(int* a) { a[0] = nonsense; }')
    with pytest.raises(cp.cuda.compiler.CompileException, match="nonsense"):
        module.get_function("k")
    with pytest.raises(TypeError, match="tuple"):
        cp.RawModule(code=ADD, options=["-DX"])
