"""The stand-in for CuPy: it refuses what CuPy refuses, and counts what a device would pay for."""

from __future__ import annotations

import functools
import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rig import standin
from rig.checking import check
from rig.cupy_api import cupy_api
from rig.standin_device import Meter
from scipy import ndimage

from gpuroi.backends.base import Backend
from gpuroi.backends.select import _is_cupy


@pytest.fixture
def cp() -> Iterator[Any]:
    with standin.installed(n_devices=2) as cupy:  # not `standin_cupy`: no kernel runs here, no compiler is needed
        yield cupy


@pytest.fixture
def x(cp: Any) -> Any:
    return cp.asarray(np.arange(6, dtype="f4").reshape(2, 3))


# ---- installing


def test_it_is_there_and_gone_again() -> None:
    assert "cupy" not in sys.modules
    with standin.installed() as cp:
        assert sys.modules["cupy"] is cp
        from cupy.cuda.memory import OutOfMemoryError
        from cupyx.scipy.ndimage import correlate1d

        assert issubclass(OutOfMemoryError, MemoryError)
        assert callable(correlate1d)
        assert cp.cuda.is_available()
        assert cp.__version__.startswith("14.")
        with pytest.raises(RuntimeError, match="imported already"):
            standin.install()
    assert not [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupyx")]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("cupy")


def test_it_goes_away_when_the_test_fails() -> None:
    with pytest.raises(ZeroDivisionError), standin.installed():
        raise ZeroDivisionError
    assert "cupy" not in sys.modules


def test_what_the_backends_remember_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuroi.backends import select

    calls = []

    @functools.cache
    def found() -> int:
        calls.append(1)
        return len(calls)

    monkeypatch.setattr(select, "found", found, raising=False)
    assert (found(), found()) == (1, 1)
    with standin.installed():
        assert (found(), found()) == (2, 2)
    assert found() == 3


def test_arrays_are_told_from_numpy_by_their_module(x: Any) -> None:
    assert _is_cupy(x)
    assert not _is_cupy(x.get())
    assert not isinstance(x, np.ndarray)


# ---- no silent crossing


@pytest.mark.parametrize(
    "cross",
    [
        lambda cp, x: np.asarray(x),
        lambda cp, x: np.array(x),
        lambda cp, x: memoryview(x),
        lambda cp, x: np.float32(x),
        lambda cp, x: x + np.ones(3),
        lambda cp, x: np.ones(3) + x,
        lambda cp, x: x + np.array(1.0),
        lambda cp, x: x @ np.ones(3),
        lambda cp, x: x < np.ones(3),
        lambda cp, x: cp.add(x, np.ones(3)),
        lambda cp, x: cp.sqrt([1.0]),
        lambda cp, x: cp.sum([1.0]),
        lambda cp, x: x.__add__([1.0, 2.0, 3.0]),
        lambda cp, x: cp.concatenate([x, np.ones((1, 3))]),
        lambda cp, x: cp.where(x > 0, x, np.ones(3)),
        lambda cp, x: x[np.array([0])],
        lambda cp, x: x.__setitem__(0, np.ones(3)),
        lambda cp, x: x.__setitem__(0, [1, 2, 3]),
        lambda cp, x: np.sum(x),
        lambda cp, x: np.concatenate([x, x]),
        lambda cp, x: np.sqrt(x),
        lambda cp, x: np.add(np.ones(3), x),
        lambda cp, x: np.ones(3)[x[0]],
        lambda cp, x: list(range(5))[x[0, 0]],  # CuPy's arrays have no __index__
        lambda cp, x: x[: x[0, 1]],
        lambda cp, x: {x: 1},
        lambda cp, x: x.get(out=np.empty((2, 3))),
        lambda cp, x: x.set(np.ones((2, 3))),
    ],
)
def test_mixing_with_numpy_is_a_type_error(cp: Any, x: Any, cross: Callable[[Any, Any], Any]) -> None:
    with pytest.raises((TypeError, IndexError)):
        cross(cp, x)


def test_scalars_mix(cp: Any, x: Any) -> None:
    check((2 * x + np.float32(1)).get(), np.arange(1, 13, 2, dtype="f4").reshape(2, 3))
    check((np.float32(1) - x).get(), 1 - np.arange(6, dtype="f4").reshape(2, 3))
    x += 1
    x[0] = 7
    x[x > 5] = np.float32(0)
    assert x.get().tolist() == [[0, 0, 0], [4, 5, 0]]


# ---- what CuPy has


@pytest.mark.parametrize(
    "name",
    [
        "float128",
        "nditer",
        "matrix",
        "mask_indices_of",
        "nanquantiles",
        "memmap",
        "longdouble",
        "datetime64",
        "char",
        "vectorise",
    ],
)
def test_what_cupy_lacks_is_an_attribute_error(cp: Any, name: str) -> None:
    assert name not in cupy_api()["cupy"]
    with pytest.raises(AttributeError, match="CuPy 14"):
        getattr(cp, name)


def test_what_the_stand_in_lacks_says_so(cp: Any, x: Any) -> None:
    with pytest.raises(AttributeError, match="exists in CuPy, but the stand-in does not offer it"):
        _ = cp.scatter_add if "scatter_add" in cupy_api()["cupy"] else cp.fuse
    with pytest.raises(AttributeError, match=r"cupy\.ndarray has no setflags"):
        x.setflags(write=False)
    for name in ("__array_interface__", "__cuda_array_interface__", "__dlpack__", "ctypes", "__index__"):
        assert not hasattr(x, name)


@pytest.mark.parametrize(
    "call",
    [
        lambda cp, x: cp.sum(x, where=x > 1),
        lambda cp, x: cp.max(x, initial=0),
        lambda cp, x: x.sum(initial=1),
        lambda cp, x: x.mean(where=True),
        lambda cp, x: cp.percentile(x, 50, weights=x),
        lambda cp, x: cp.mean(x, 0, None, None, False, True),
        lambda cp, x: cp.add(x, 1, order="C"),
        lambda cp, x: cp.add.reduce(x, initial=0),
        lambda cp, x: cp.sort(x, stable=True),
        lambda cp, x: cp.empty(3, "f4", device="cpu"),
        lambda cp, x: cp.linalg.norm(x, order=2),
    ],
)
def test_arguments_that_cupy_lacks_are_refused(cp: Any, x: Any, call: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"CuPy|unexpected keyword"):
        call(cp, x)


@pytest.mark.parametrize("host", [np.array([None]), np.array(["a"]), np.arange(3).astype("M8[s]"), np.ones(2, "g")])
def test_dtypes_that_no_device_has(cp: Any, host: Any) -> None:
    with pytest.raises(ValueError, match="Unsupported"):
        cp.asarray(host)


def test_results_are_device_arrays_where_numpy_gives_scalars(cp: Any, x: Any) -> None:
    for value in (x.sum(), cp.max(x), x[0, 1], cp.allclose(x, x), cp.count_nonzero(x), cp.linalg.norm(x), x.mean()):
        assert isinstance(value, cp.ndarray)
        assert value.shape == ()
    q, r = cp.linalg.qr(x.astype(cp.float64))
    assert_allclose((q @ r).get(), x.get(), atol=1e-12)
    assert cp.result_type(x, cp.float64) == np.float64
    assert cp.finfo(x.dtype).bits == 32


def test_out_is_what_comes_back(cp: Any, x: Any) -> None:
    out = cp.empty_like(x)
    assert cp.add(x, 1, out=out) is out
    assert cp.multiply(x, 2, out) is out
    row = cp.empty(3, "f4")
    assert x.sum(axis=0, out=row) is row
    assert row.get().tolist() == [3, 5, 7]


def test_a_device_gives_nan_without_a_warning(cp: Any) -> None:
    zero = cp.zeros(3)
    assert np.isnan((zero / zero).get()).all()
    assert np.isneginf(cp.log(zero).get()).all()
    assert np.isnan(cp.mean(zero[:0]).get())
    assert np.isnan(cp.nanmean(zero / zero).get())


# ---- transfers and waits


def test_transfers_are_counted_in_bytes(cp: Any, device_meter: Meter) -> None:
    x = cp.asarray(np.ones((5, 7), "f4"))
    assert (device_meter.h2d_bytes, device_meter.d2h_bytes, device_meter.syncs) == (140, 0, 0)
    x.get()
    cp.asnumpy(x)
    assert (device_meter.d2h_bytes, device_meter.syncs) == (280, 2)
    x.set(np.zeros((5, 7), "f4"))
    assert device_meter.h2d_bytes == 280
    device_meter.reset()
    y = cp.zeros((3, 4)) + cp.full(4, 2.0) * cp.arange(4)
    y = cp.stack([y.sum(0), y.max(0)]).T[::2].copy().astype("f4").reshape(-1)
    y[1:] = y[:-1] + 1
    y[y > 3] = 0
    assert device_meter.quiet
    assert not device_meter.launches


@pytest.mark.parametrize(
    "wait",
    [
        lambda cp, x: float(x[0, 0]),
        lambda cp, x: int(x.sum()),
        lambda cp, x: bool((x > 1).any()),
        lambda cp, x: x.max().item(),
        lambda cp, x: x[x > 2],
        lambda cp, x: cp.nonzero(x),
        lambda cp, x: cp.unique(x),
        lambda cp, x: cp.bincount(x.ravel().astype("i4")),
        lambda cp, x: x.tolist(),
        lambda cp, x: repr(x),
        lambda cp, x: cp.cuda.Device().synchronize(),
        lambda cp, x: cp.cuda.Stream().synchronize(),
        lambda cp, x: cp.cuda.get_current_stream().synchronize(),
        lambda cp, x: importlib.import_module("cupyx.scipy.ndimage").label(x > 2),
        lambda cp, x: 1.0 if x[0, 0] == 0 else 2.0,
    ],
)
def test_waits_are_counted(cp: Any, x: Any, device_meter: Meter, wait: Callable[[Any, Any], Any]) -> None:
    wait(cp, x)
    assert device_meter.syncs == 1


# ---- memory


def test_memory_is_metered_and_freed(cp: Any, device_meter: Meter) -> None:
    pool = cp.get_default_memory_pool()
    pool.free_all_blocks()
    gc.collect()
    before = device_meter.used_bytes
    a = cp.zeros(1000, "f4")
    view = a[::2].reshape(10, 50).T
    assert device_meter.used_bytes - before == 4000, "views hold nothing of their own"
    b = a + 1
    assert (device_meter.used_bytes - before, pool.used_bytes() - before) == (8000, 8000)
    del a, b
    assert device_meter.used_bytes - before == 4000, "a view keeps the memory of its base"
    del view
    assert device_meter.used_bytes == before
    assert device_meter.peak_bytes - before == 8000
    assert pool.free_bytes() == 8000
    assert pool.total_bytes() - before == 8000
    free, total = cp.cuda.Device().mem_info
    assert total - free == before + 8000, "what the pool keeps is not free"
    pool.free_all_blocks()
    assert pool.free_bytes() == 0
    assert cp.cuda.runtime.memGetInfo()[0] == free + 8000


@pytest.mark.parametrize(
    "make",
    [
        lambda cp, x: cp.empty(1100, "u1"),
        lambda cp, x: cp.asarray(np.zeros(1100, "u1")),
        lambda cp, x: cp.arange(200),
        lambda cp, x: x.repeat(50),
        lambda cp, x: cp.add.outer(x.ravel(), cp.ones(30)),
        lambda cp, x: importlib.import_module("cupyx.scipy.ndimage").gaussian_filter(cp.repeat(x, 40, 0), 1),
    ],
)
def test_beyond_the_limit_is_out_of_memory(
    cp: Any, x: Any, device_meter: Meter, make: Callable[[Any, Any], Any]
) -> None:
    device_meter.reset(limit_bytes=1000)
    small = cp.empty(900, "u1")
    del small
    with pytest.raises(cp.cuda.memory.OutOfMemoryError, match="Out of memory allocating"):
        make(cp, x)
    device_meter.reset()
    assert make(cp, x) is not None


def test_the_pool_limit_of_the_user_is_obeyed(cp: Any) -> None:
    pool = cp.get_default_memory_pool()
    assert pool.get_limit() == 0
    pool.set_limit(size=pool.used_bytes() + 1000)
    with pytest.raises(MemoryError, match="limit set to"):
        cp.zeros(1001, "u1")
    pool.set_limit(fraction=0.5)
    assert pool.get_limit() == cp.cuda.Device().mem_info[1] // 2
    cp.zeros(1001, "u1")


def test_new_memory_is_poisoned(cp: Any) -> None:
    assert np.isnan(cp.empty(5).get()).all()
    assert (cp.empty_like(cp.zeros(3, "i4")).get() == -1).all()


def test_layouts_follow_numpy(cp: Any) -> None:
    host = np.asfortranarray(np.arange(24.0).reshape(2, 3, 4))
    x = cp.asarray(host)
    assert x.strides == host.strides
    assert (x.flags.f_contiguous, x.flags.c_contiguous) == (True, False)
    assert cp.zeros_like(x).strides == host.strides
    assert cp.ascontiguousarray(x).flags.c_contiguous
    assert x.get().flags.c_contiguous, "CuPy copies to C order unless told"
    assert_array_equal(x.get(), host)
    assert (x + 1).flags.c_contiguous, "an elementwise result is in C order, unlike NumPy's"
    assert cp.where(x > 1, x, 0).flags.c_contiguous
    assert x.sum(axis=0, keepdims=True).flags.c_contiguous
    assert x.copy("K").strides == cp.copy(x).strides == x.astype("i8").strides == x.strides
    assert x.copy().flags.c_contiguous
    turned = cp.asarray(host.transpose(0, 2, 1))
    assert turned.flags.c_contiguous, "of a host array only C and Fortran order are kept"
    assert cp.asarray(x) is x
    assert cp.array(x) is not x
    assert x.data.ptr % 256 == 0


# ---- devices


def test_arrays_know_their_device(cp: Any, x: Any, device_meter: Meter) -> None:
    assert (x.device.id, cp.cuda.runtime.getDeviceCount()) == (0, 2)
    with cp.cuda.Device(1) as second:
        y = cp.asarray(x)
        assert (y.device, y.device.id) == (second, 1)
        assert device_meter.d2d_bytes == x.nbytes
        assert device_meter.used_bytes == y.nbytes
        with pytest.raises(ValueError, match=r"array device = 0\s+while current = 1"):
            y + x
        with pytest.raises(ValueError, match="array device = 0"):
            cp.sum(x)
        with pytest.raises(ValueError, match="array device = 0"):
            x.sum()
        assert_array_equal(x.T.reshape(-1).get(), x.get().T.ravel())
    assert cp.cuda.Device().id == 0
    with pytest.raises(ValueError, match="array device = 1"):
        y *= 2
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="invalid device ordinal"):
        cp.cuda.Device(2)


def test_device_properties_have_cupys_keys(cp: Any) -> None:
    found = cp.cuda.runtime.getDeviceProperties(1)
    assert isinstance(found["name"], bytes)
    assert f"{found['major']}{found['minor']}" == cp.cuda.Device(1).compute_capability
    assert found["totalGlobalMem"] == cp.cuda.Device(1).mem_info[1]
    assert cp.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"] == 227 << 10
    assert cp.cuda.runtime.runtimeGetVersion() // 1000 == cp.cuda.nvrtc.getVersion()[0]


def test_streams_and_events(cp: Any) -> None:
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        assert cp.cuda.get_current_stream() is stream
        start = stream.record()
        end = cp.cuda.Event()
        end.record()
    assert cp.cuda.get_current_stream() is not stream
    assert cp.cuda.get_elapsed_time(start, end) >= 0


# ---- cupyx.scipy.ndimage


def test_ndimage_agrees_with_scipy(cp: Any, device_meter: Meter) -> None:
    from cupyx.scipy import ndimage as device_ndimage

    host = np.random.default_rng(2).standard_normal((6, 7, 8)).astype("f4")
    x = cp.asarray(host)
    check(device_ndimage.gaussian_filter(x, 1.5).get(), ndimage.gaussian_filter(host, 1.5))
    check(device_ndimage.correlate1d(x, cp.ones(3, "f4"), axis=1).get(), ndimage.correlate1d(host, np.ones(3), axis=1))
    check(device_ndimage.binary_dilation(x > 1).get(), ndimage.binary_dilation(host > 1))
    device_meter.reset()
    labels, n = device_ndimage.label(x > 0.5, structure=np.ones((3, 3, 3)))
    want, n_want = ndimage.label(host > 0.5, np.ones((3, 3, 3)))
    assert (type(n), n, device_meter.syncs) == (int, n_want, 1)
    check(labels.get(), want)


def test_ndimage_refuses_what_cupyx_does(cp: Any, x: Any, device_meter: Meter) -> None:
    from cupyx.scipy import ndimage as device_ndimage

    with pytest.raises(NotImplementedError, match="brute_force"):
        device_ndimage.binary_dilation(x > 1, iterations=3)
    device_ndimage.binary_dilation(x > 1, iterations=3, brute_force=True)
    assert device_meter.syncs == 3, "one wait an iteration"
    calls: list[Callable[[], Any]] = [
        lambda: device_ndimage.correlate1d(x, np.ones(3), axis=1),
        lambda: device_ndimage.binary_dilation(x > 1, structure=np.ones((3, 3), bool)),
        lambda: device_ndimage.label(x > 1, structure=cp.ones((3, 3))),
        lambda: device_ndimage.gaussian_filter(x.get(), 1.0),
        lambda: device_ndimage.label(x > 1, connectivity=2),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    with pytest.raises(AttributeError, match="no attribute 'watershed_ift'"):
        _ = device_ndimage.watershed_ift


# ---- the comparison


def test_check_sees_kind_shape_dtype_and_values(x: Any) -> None:
    want = np.arange(3.0)
    check(want, want)
    check(want + 1e-9, want, atol=1e-8)
    for wrong in (x, want[:2], want.astype("f4"), want + 1e-9, [0.0, 1.0, 2.0]):
        with pytest.raises(AssertionError):
            check(wrong, want)


def test_check_sees_the_device(cp: Any, x: Any) -> None:
    from gpuroi.backends.cuda import cuda_backend

    check(x, x.get(), backend=cuda_backend(0))
    with pytest.raises(AssertionError, match="on cuda:0, not on cuda:1"):
        check(x, x.get(), backend=cuda_backend(1))
    with pytest.raises(AssertionError, match="expected an array of cuda"):
        check(x.get(), x.get(), backend=cuda_backend(0))


def test_each_backend_of_the_fixture_takes_and_gives_arrays(backend: Backend) -> None:
    host = np.arange(6, dtype="f4").reshape(2, 3)
    array = backend.asarray(host)
    check(array, host, backend=backend)
    check(backend.to_numpy(array), host)
    with backend.activate():
        check(backend.xp.sum(array, axis=0), host.sum(axis=0), backend=backend)
    assert backend.free_bytes() > 0
