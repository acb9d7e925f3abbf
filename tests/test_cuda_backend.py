"""The CUDA backend's promises: where arrays go, in which layout, what waits, which device works."""

from __future__ import annotations

import dataclasses
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracles
import pytest
from hostile import HOSTILE
from rig.checking import check, host
from rig.standin_device import Meter

from gpuroi.backends import cuda_kernels
from gpuroi.backends.base import Backend
from gpuroi.errors import BackendError, DataError

pytestmark = pytest.mark.kernels

N, X, Y, Z = 3, 5, 6, 7


@pytest.fixture
def cuda(standin_cupy: Any) -> Backend:
    from gpuroi.backends.cuda import cuda_backend

    return cuda_backend(0)


@pytest.fixture
def second(standin_cupy: Any) -> Backend:
    from gpuroi.backends.cuda import cuda_backend

    return cuda_backend(1)


def nifti_batch(rng: np.random.Generator, dtype: Any = np.float32) -> np.ndarray:
    """Volumes as they come from a 4-D NIfTI image, X fastest."""
    return np.asfortranarray(rng.standard_normal((X, Y, Z, N))).astype(dtype).transpose(3, 0, 1, 2)


# ---- the record


def test_backends_are_made_once_a_device(standin_cupy: Any) -> None:
    from gpuroi.backends.cuda import cuda_backend

    assert cuda_backend(0) is cuda_backend(0)
    assert cuda_backend(1).device == "cuda:1"
    assert cuda_backend(0).xp is standin_cupy


def test_every_field_of_the_contract_is_there(cuda: Backend) -> None:
    assert cuda.name == "cuda"
    callables = {f.name for f in dataclasses.fields(Backend)} - {"name", "device", "xp"}
    assert all(callable(getattr(cuda, name)) for name in callables)
    assert issubclass(cuda.out_of_memory, MemoryError)


def test_owns_device_arrays_only(cuda: Backend) -> None:
    assert cuda.owns(cuda.xp.zeros(3))
    assert not cuda.owns(np.zeros(3))
    assert not cuda.owns([1, 2])


# ---- in and out


@pytest.mark.parametrize("name", HOSTILE)
def test_arrays_go_in_and_out_unchanged_with_one_copy_each(cuda: Backend, device_meter: Meter, name: str) -> None:
    array = HOSTILE[name]
    on_device = cuda.asarray(array)
    assert (device_meter.h2d_bytes, device_meter.syncs) == (array.nbytes, 0)
    back = cuda.to_numpy(on_device)
    assert device_meter.d2h_bytes == array.nbytes
    native = array.astype(array.dtype.newbyteorder("="))
    check(on_device, native, backend=cuda)
    check(back, native)


@pytest.mark.parametrize("name", ["fortran", "nifti-4d", "transposed"])
def test_the_memory_layout_survives_the_way(cuda: Backend, name: str) -> None:
    array = HOSTILE[name]
    on_device = cuda.asarray(array)
    assert on_device.strides == array.strides
    assert cuda.to_numpy(on_device).strides == array.strides


@pytest.mark.parametrize(
    ("source", "target", "travels"),
    [
        ("int16", "float32", 2),
        ("uint8", "float64", 1),
        ("float64", "float32", 4),
        ("float32", "float32", 4),
        (">i2", "f4", 2),
    ],
)
def test_the_smaller_of_the_two_types_travels(
    cuda: Backend, device_meter: Meter, source: str, target: str, travels: int
) -> None:
    array = np.asfortranarray(np.arange(24).reshape(2, 3, 4).astype(source))
    got = cuda.asarray(array, target)
    assert device_meter.h2d_bytes == travels * array.size
    check(got, array.astype(target), backend=cuda)
    assert got.flags.f_contiguous


def test_asarray_takes_scalars_lists_and_its_own_arrays(cuda: Backend, device_meter: Meter) -> None:
    check(cuda.asarray(2.5), np.array(2.5), backend=cuda)
    check(cuda.asarray([1, 2], np.float32), np.array([1, 2], np.float32), backend=cuda)
    here = cuda.xp.arange(3)
    device_meter.reset()
    assert cuda.asarray(here) is here
    check(cuda.asarray(here, np.float32), np.arange(3, dtype=np.float32), backend=cuda)
    assert cuda.to_numpy(cuda.xp.zeros((2, 2), np.float32)[:, 0]).tolist() == [0, 0]


# ---- nothing waits, nothing travels


def operations(backend: Backend, rng: np.random.Generator) -> dict[str, Any]:
    """Each operation on device arrays, ready to be called; with the bytes of its host arguments that have to travel."""
    xp = backend.xp
    volumes = backend.asarray(nifti_batch(rng))
    mask = backend.asarray(nifti_batch(rng) > 0.5)
    inside = backend.asarray(rng.random((X, Y, Z)) < 0.9)
    flat = backend.asarray(rng.standard_normal((9, 40)).astype(np.float32))
    labels = backend.asarray(rng.integers(0, 5, 40).astype(np.int32))
    half = xp.full(40, 0.5)
    df, inner = xp.arange(1.0, 41.0), xp.arange(40) % 3 > 0
    cutoffs = xp.full(N, 0.5, np.float32)
    structure = oracles.STRUCTURES[18]
    offsets = np.argwhere(structure) - 1
    w = np.array([0.25, 0.5, 0.25])
    return {
        "moments": (lambda: backend.moments(flat, None, False), 0),
        "moments, NaN left out": (lambda: backend.moments(flat, flat, True), 0),
        "log_betainc": (lambda: backend.log_betainc(20.0, 0.5, half, half), 0),
        "log_betainc, df each": (lambda: backend.log_betainc(df, 0.5, half, half), 0),
        "gaussian": (lambda: backend.gaussian(volumes, (w, w, w), "reflect"), 3 * 8 * 4),
        "dilate": (lambda: backend.dilate(mask, offsets, 3, inside, False), offsets.size * 4),
        "label": (lambda: backend.label(mask, structure), 0),
        "threshold": (lambda: backend.threshold(volumes, cutoffs, "both", 1, structure, inside), 0),
        "threshold, clusters": (lambda: backend.threshold(volumes, cutoffs, "both", 4, structure, inside), 0),
        "percentile": (lambda: backend.percentile(flat, inner, 97.0, True), 0),
        "label_sums": (lambda: backend.label_sums(flat, labels, 4), 0),
    }


OPERATIONS = [
    "moments", "moments, NaN left out", "log_betainc", "log_betainc, df each", "gaussian", "dilate", "label",
    "threshold", "threshold, clusters", "percentile", "label_sums",
]  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_neither_wait_nor_copy(cuda: Backend, device_meter: Meter, name: str) -> None:
    work, travels = operations(cuda, np.random.default_rng(0))[name]
    device_meter.reset()
    work()
    assert (device_meter.syncs, device_meter.d2h_bytes, device_meter.d2d_bytes) == (0, 0, 0)
    assert device_meter.h2d_bytes == travels  # host arguments alone: weights, offsets


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_work_on_their_own_device_whichever_is_current(cuda: Backend, second: Backend, name: str) -> None:
    """Device 0 is current; arrays and results lie on device 1, and equal those of device 0."""
    results = []
    for backend in (cuda, second):
        with backend.activate():
            work, _ = operations(backend, np.random.default_rng(0))[name]
        result = work()
        results.append(result if isinstance(result, tuple) else (result,))
    for one, other in zip(*results, strict=True):
        if not isinstance(one, int):
            check(other, host(one), backend=second)


@pytest.mark.parametrize("name", ["gaussian", "dilate", "label", "threshold", "threshold, clusters"])
def test_volumes_keep_their_memory_layout(cuda: Backend, name: str) -> None:
    work, _ = operations(cuda, np.random.default_rng(0))[name]
    result = work()
    volumes = result[0] if isinstance(result, tuple) else result
    assert volumes.shape == (N, X, Y, Z)
    assert volumes.transpose(0, 3, 2, 1).flags.c_contiguous


def test_operations_leave_their_arguments_alone(cuda: Backend) -> None:
    rng = np.random.default_rng(3)
    volumes, flat = cuda.asarray(nifti_batch(rng)), cuda.asarray(rng.standard_normal((9, 40)))
    before = host(volumes).copy(), host(flat).copy()
    w, structure = np.ones(1), oracles.STRUCTURES[6]
    same = cuda.gaussian(volumes, (w, w, w), "reflect")  # nothing to do: still a new array
    same += 1
    cuda.percentile(flat, None, 50.0, False)
    cuda.threshold(volumes, cuda.xp.zeros(N, np.float32), "above", 3, structure, None)
    mask = volumes > 0
    again = cuda.dilate(mask, np.zeros((1, 3), np.int64), 0, None, False)
    again |= True
    check(volumes, before[0], backend=cuda)
    check(flat, before[1], backend=cuda)
    check(mask, before[0] > 0, backend=cuda)


# ---- memory


def test_free_bytes_obey_the_device_the_pool_and_its_limit(cuda: Backend, device_meter: Meter) -> None:
    pool = cuda.xp.get_default_memory_pool()
    device_meter.reset(limit_bytes=10_000)
    assert cuda.free_bytes() == 10_000
    held = cuda.xp.zeros(4000, np.uint8)
    assert cuda.free_bytes() == 6000
    del held  # kept by the pool: to be had again
    assert (pool.free_bytes(), cuda.free_bytes()) == (4000, 10_000)
    cuda.release()
    assert (pool.free_bytes(), cuda.free_bytes()) == (0, 10_000)
    pool.set_limit(size=pool.used_bytes() + 1500)
    assert cuda.free_bytes() == 1500
    with pytest.raises(cuda.out_of_memory):
        cuda.xp.zeros(1501, np.uint8)


@pytest.mark.parametrize(
    ("name", "bytes_each"),
    [("label", 9), ("threshold", 4), ("threshold, clusters", 13), ("dilate", 1.2), ("gaussian", 4)],
)
def test_peak_memory_of_a_voxel(cuda: Backend, device_meter: Meter, name: str, bytes_each: int) -> None:
    """What chunks are planned with: bytes a voxel beyond the arguments, results included."""
    volumes = np.asfortranarray(np.random.default_rng(1).standard_normal((20, 20, 20, 2)).astype(np.float32))
    x = cuda.asarray(volumes.transpose(3, 0, 1, 2))
    mask = cuda.asarray(volumes.transpose(3, 0, 1, 2) > 1)
    cutoffs, structure = cuda.xp.full(2, 1, np.float32), oracles.STRUCTURES[6]
    w = np.array([0.25, 0.5, 0.25])
    work = {
        "label": lambda: cuda.label(mask, structure),
        "threshold": lambda: cuda.threshold(x, cutoffs, "both", 1, structure, None),
        "threshold, clusters": lambda: cuda.threshold(x, cutoffs, "both", 5, structure, None),
        "dilate": lambda: cuda.dilate(mask, np.argwhere(structure) - 1, 4, None, False),
        "gaussian": lambda: cuda.gaussian(x, (w, w, w), "reflect"),
    }[name]
    device_meter.reset()
    start = device_meter.used_bytes
    work()
    assert device_meter.peak_bytes - start == pytest.approx(bytes_each * x.size, rel=0.05)


# ---- errors and sources


@pytest.mark.parametrize("dtype", [np.float16, np.int32])
def test_values_that_are_no_float32_or_float64_are_refused(cuda: Backend, dtype: Any) -> None:
    with pytest.raises(BackendError, match="expected float32 or float64"):
        cuda.moments(cuda.xp.zeros((3, 4), dtype), None, False)


def test_a_volume_too_large_for_int32_labels_is_refused(cuda: Backend) -> None:
    from gpuroi.backends.cuda_ops import _forest

    with pytest.raises(DataError, match="2147483648 voxels"):
        _forest(SimpleNamespace(shape=(1, 2048, 1024, 1024)), oracles.STRUCTURES[6])


def test_every_source_is_listed_and_every_listed_variant_compiles(cuda: Backend) -> None:
    found = {p.name.removesuffix(".cu") for p in files("gpuroi.backends.kernels").iterdir() if p.name.endswith(".cu")}
    assert found == set(cuda_kernels.KERNEL_VARIANTS)
    for stem, variants in cuda_kernels.KERNEL_VARIANTS.items():
        for options in variants:
            cuda.xp.RawModule(code=cuda_kernels.kernel_source(stem), options=options).compile()
            assert all(option.startswith("-D") for option in options)


def test_compile_errors_point_into_the_file() -> None:
    first, second = cuda_kernels.kernel_source("label").splitlines()[:2]
    assert first == '#line 1 "label.cu"'
    assert second.startswith("// label: ")


def test_a_variant_that_no_test_compiles_is_refused(cuda: Backend) -> None:
    with pytest.raises(KeyError, match="not in KERNEL_VARIANTS"):
        cuda_kernels.kernel("moments", "moments", ("-DREAL=half",))


def test_kernels_are_loaded_once_a_device(cuda: Backend, standin_cupy: Any) -> None:
    first = cuda_kernels.kernel("label", "label_init")
    assert cuda_kernels.kernel("label", "label_init") is first
    with standin_cupy.cuda.Device(1):
        assert cuda_kernels.kernel("label", "label_init") is not first
