"""A strict stand-in for CuPy on machines without a GPU.

It holds its arrays in NumPy and runs our kernels through `host_kernels`. It is at least as strict as CuPy 14:

* arrays are a type of their own: implicit conversion, NumPy operands and NumPy functions raise TypeError;
* functions and arguments are those that CuPy has (`cupy_api.txt`), everything else is an AttributeError or TypeError;
* reductions give 0-d arrays; what makes the host wait, and every transfer, is counted (`METER`);
* memory is metered, limited and poisoned, and guarded against writes of kernels out of bounds;
* kernel arguments must have the exact type, contiguous and on the current device.

It cannot show speed, rounding of the device, asynchrony, or races between warps of real hardware.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rig import standin_device as device
from rig.cupy_api import cupy_api
from rig.standin_array import Ufunc, check_dtype, copy_in, device_array, lift, lower, ndarray, wrap
from rig.standin_device import METER, current_device, device_of
from rig.standin_kernels import CompileException, RawKernel, RawModule
from rig.tensor_core import cublas_modules

__all__ = ["METER", "install", "installed", "uninstall"]

_VERSION = "14.2.0"
_WAITING = {  # functions whose result has a size, or a Python number, that only the device knows
    "argwhere", "bincount", "compress", "extract", "flatnonzero", "histogram", "intersect1d", "nonzero", "setdiff1d",
    "setxor1d", "union1d", "unique", "unique_all", "unique_counts", "unique_inverse", "unique_values",
}  # fmt: skip
_AS_ARRAY = {"allclose", "array_equal", "array_equiv", "count_nonzero"}  # NumPy: a Python number
_NO_LISTS = {"a", "x", "x1", "m", "arr", "ar"}  # names of first arguments for which CuPy takes no lists
_OWN_MODULES = ("cupy", "cupyx", "cupy_backends", "cucim")


def install(n_devices: int = 1) -> types.ModuleType:
    """Put the stand-in in `sys.modules` as cupy and cupyx, and return it.

    Parameters
    ----------
    n_devices : int, default 1
        How many devices there are.

    Raises
    ------
    RuntimeError
        The real CuPy was imported before.
    """
    if "cupy" in sys.modules:
        raise RuntimeError("cupy is imported already; the stand-in cannot take its place in this process")
    device.reset_devices(n_devices)
    METER.reset()
    modules = _modules()
    sys.modules.update(modules)
    _forget()
    return modules["cupy"]


def uninstall() -> None:
    """Take the stand-in out of `sys.modules`, and what the backends remember of it."""
    for name in list(sys.modules):
        if name.partition(".")[0] in _OWN_MODULES:
            del sys.modules[name]
    _forget()


@contextmanager
def installed(n_devices: int = 1) -> Iterator[types.ModuleType]:
    """The stand-in for the duration of the context."""
    cupy = install(n_devices)
    try:
        yield cupy
    finally:
        uninstall()


def _forget() -> None:
    """The backends cache what they found and compiled; a new CuPy needs a new look."""
    for name, module in list(sys.modules.items()):
        if name.startswith("gpuroi.backends."):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()


class _Namespace(types.ModuleType):
    """A module of CuPy over one of NumPy or SciPy: the names that CuPy has, and no others."""

    def __init__(self, name: str, source: types.ModuleType | None = None, **own: Any) -> None:
        super().__init__(name)
        self.__dict__.update(own)
        self.__path__: list[str] = []
        self._source = source

    def __getattr__(self, name: str) -> Any:
        signature = cupy_api().get(self.__name__, {}).get(name)
        if name.startswith("_") or signature is None:
            raise AttributeError(f"module {self.__name__!r} of CuPy {_VERSION} has no attribute {name!r}")
        value = getattr(self._source, name, None)
        if value is None:
            raise AttributeError(f"{self.__name__}.{name} exists in CuPy, but the stand-in does not offer it")
        if isinstance(value, np.ufunc):
            made: Any = Ufunc(value, f"{self.__name__}.{name}")
        elif callable(value) and not isinstance(value, type):
            made = self._function(name, value)
        else:
            made = value
        setattr(self, name, made)
        return made

    def _function(self, name: str, value: Callable[..., Any]) -> Callable[..., Any]:
        signature = cupy_api()[self.__name__][name]
        waits = self.__name__ == "cupy" and name in _WAITING
        call = wrap(value, f"{self.__name__}.{name}", signature, syncs=waits, as_array=name in _AS_ARRAY)
        if not signature.positional or signature.positional[0] not in _NO_LISTS:
            return call

        @functools.wraps(call)
        def no_lists(*args: Any, **kwargs: Any) -> Any:
            if args and isinstance(args[0], list | tuple):
                raise TypeError(
                    f"{self.__name__}.{name} of CuPy takes no {type(args[0]).__name__}: make an array first"
                )
            return call(*args, **kwargs)

        return no_lists


# ---- creation: device memory, between guards


def _empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return device_array(shape, dtype, order)


def _full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    if isinstance(fill_value, np.ndarray):
        raise TypeError("cupy.full takes a scalar or a device array")
    if dtype is None:
        dtype = fill_value.dtype if hasattr(fill_value, "dtype") else np.asarray(fill_value).dtype
    result = device_array(shape, dtype, order)
    result._a[...] = lower(fill_value, "cupy.full")
    return result


def _zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _full(shape, 0, check_dtype(dtype), order)


def _ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _full(shape, 1, check_dtype(dtype), order)


def _like(fill: Any) -> Callable[..., ndarray]:
    def make(a: ndarray, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None) -> ndarray:
        host = lower(a, "a _like function", any_device=True)
        if not isinstance(a, ndarray):
            raise TypeError(f"needs a device array, got {type(a).__name__}")
        template = np.empty_like(host, dtype, order, shape=shape)  # type: ignore[call-overload]
        result = device_array(template.shape, template.dtype, "K", like=template)
        if fill is not None:
            result._a[...] = fill
        return result

    return make


def _full_like(
    a: ndarray, fill_value: Any, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None
) -> ndarray:
    result = _like(None)(a, dtype, order, subok, shape)
    result._a[...] = lower(fill_value, "cupy.full_like")
    return result


def _array(
    obj: Any,
    dtype: Any = None,
    copy: bool | None = True,
    order: str = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    if isinstance(obj, ndarray):
        return _array_from_device(obj, dtype, copy, order, ndmin)
    if isinstance(obj, list | tuple) and any(isinstance(item, ndarray) for item in obj):
        host = np.stack([lower(item, "cupy.array") for item in obj])  # on the device: no transfer
        return copy_in(np.array(host, dtype=dtype, ndmin=ndmin))
    if order in ("K", "A"):  # of a host array CuPy keeps no other order than these two
        order = "F" if isinstance(obj, np.ndarray) and obj.flags.fnc else "C"
    host = np.array(obj, dtype=dtype, ndmin=ndmin, order=order, copy=None)  # type: ignore[call-overload]
    host = host.astype(host.dtype.newbyteorder("="), copy=False)
    check_dtype(host.dtype)
    METER.h2d_bytes += host.nbytes
    METER.syncs += blocking
    return copy_in(host)


def _array_from_device(obj: ndarray, dtype: Any, copy: bool | None, order: str, ndmin: int) -> ndarray:
    if dtype is not None:
        check_dtype(dtype)
    if device_of(obj._a) == current_device():
        host = np.array(obj._a, dtype=dtype, copy=copy or None, order=order, ndmin=ndmin)  # type: ignore[call-overload]
        return lift(host, keep_layout=True)  # type: ignore[no-any-return]
    METER.d2d_bytes += obj._a.nbytes
    return copy_in(np.array(obj._a, dtype=dtype, order=order, ndmin=ndmin))  # type: ignore[call-overload]


def _asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, copy: bool | None = None, blocking: bool = False
) -> ndarray:
    if isinstance(a, ndarray) and not copy and device_of(a._a) == current_device():
        laid_out = {"C": a.flags.c_contiguous, "F": a.flags.f_contiguous}.get(order or "K", True)
        if laid_out and dtype in (None, a.dtype):
            return a
    return _array(a, dtype, bool(copy), order or "K", blocking=blocking)


def _ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    return _asarray(a, dtype, "C")


def _asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else np.asarray(a, order=order)  # type: ignore[call-overload]


def _copy(a: ndarray, order: str = "K") -> ndarray:
    return copy_in(lower(a, "cupy.copy"), order)


# ---- the modules


def _modules() -> dict[str, types.ModuleType]:
    import scipy.ndimage
    import scipy.special

    cuda = _cuda()
    cupy: Any = _Namespace(
        "cupy",
        np,
        __version__=_VERSION,
        linalg=_Namespace("cupy.linalg", np.linalg),
        cuda=cuda,
        ndarray=ndarray,
        RawKernel=RawKernel,
        RawModule=RawModule,
        is_available=lambda: True,
        empty=_empty,
        zeros=_zeros,
        ones=_ones,
        full=_full,
        empty_like=_like(None),
        zeros_like=_like(0),
        ones_like=_like(1),
        full_like=_full_like,
        array=_array,
        asarray=_asarray,
        asanyarray=_asarray,
        ascontiguousarray=_ascontiguousarray,
        asnumpy=_asnumpy,
        copy=_copy,
        get_array_module=lambda *args: cupy if any(isinstance(a, ndarray) for a in args) else np,
        get_default_memory_pool=lambda: _POOL,
        get_default_pinned_memory_pool=lambda: types.SimpleNamespace(
            free_all_blocks=lambda: None, n_free_blocks=lambda: 0
        ),
    )
    ndimage = _Namespace("cupyx.scipy.ndimage", scipy.ndimage, label=_label, **_morphology(scipy.ndimage))
    special = _Namespace("cupyx.scipy.special", scipy.special)
    scipy_modules = _Namespace("cupyx.scipy", None, ndimage=ndimage, special=special)
    cupyx = _Namespace(
        "cupyx",
        None,
        scipy=scipy_modules,
        empty_pinned=lambda shape, dtype=float, order="C": np.empty(shape, dtype, order),
        zeros_pinned=lambda shape, dtype=float, order="C": np.zeros(shape, dtype, order),
    )
    every = [cupy, cupy.linalg, cuda, *_submodules(cuda), cupyx, scipy_modules, ndimage, special]
    return {module.__name__: module for module in every} | cublas_modules()


_POOL = device.MemoryPool()


def _cuda() -> types.ModuleType:
    memory = _Namespace("cupy.cuda.memory", OutOfMemoryError=device.OutOfMemoryError, MemoryPool=device.MemoryPool)
    compiler = _Namespace("cupy.cuda.compiler", CompileException=CompileException)
    runtime = _Namespace(
        "cupy.cuda.runtime",
        CUDARuntimeError=device.CUDARuntimeError,
        is_hip=False,
        getDeviceCount=lambda: len(device._memories),
        getDevice=current_device,
        setDevice=lambda index: device.Device(index).use(),
        getDeviceProperties=_properties,
        runtimeGetVersion=lambda: 13000,
        driverGetVersion=lambda: 13000,
        memGetInfo=lambda: device.Device().mem_info,
        deviceSynchronize=lambda: device.Device().synchronize(),
    )
    nvrtc = _Namespace("cupy.cuda.nvrtc", getVersion=lambda: (13, 0))
    stream = _Namespace("cupy.cuda.stream", Stream=device.Stream, Event=device.Event)
    return _Namespace(
        "cupy.cuda",
        memory=memory,
        compiler=compiler,
        nvrtc=nvrtc,
        runtime=runtime,
        stream=stream,
        is_available=lambda: True,
        get_local_runtime_version=lambda: 13000,
        get_device_id=current_device,
        Device=device.Device,
        MemoryPool=device.MemoryPool,
        Stream=device.Stream,
        Event=device.Event,
        get_current_stream=device.Stream.current,
        get_elapsed_time=lambda start, end: 1e3 * (end.seconds - start.seconds),
    )


def _submodules(cuda: types.ModuleType) -> list[types.ModuleType]:
    return [cuda.memory, cuda.compiler, cuda.nvrtc, cuda.runtime, cuda.stream]


def _properties(index: int) -> dict[str, Any]:
    chosen = device.Device(index)
    return {
        "name": f"stand-in {chosen.id}".encode(),
        "major": 9,
        "minor": 0,
        "totalGlobalMem": device.memory(index).total,
        "multiProcessorCount": chosen.attributes["MultiProcessorCount"],
        "sharedMemPerBlock": chosen.attributes["MaxSharedMemoryPerBlock"],
        "sharedMemPerBlockOptin": chosen.attributes["MaxSharedMemoryPerBlockOptin"],
        "l2CacheSize": chosen.attributes["L2CacheSize"],
        "maxThreadsPerBlock": 1024,
        "warpSize": 32,
        "pciBusID": index,
        "pciDeviceID": 0,
        "pciDomainID": 0,
        "uuid": bytes([index] * 16),
    }


# ---- cupyx.scipy.ndimage, where it differs from scipy.ndimage


def _label(input: ndarray, structure: Any = None, output: Any = None) -> Any:
    """Labels and their number; the structure is a host array, and the number makes the host wait."""
    import scipy.ndimage

    if isinstance(structure, ndarray):
        raise TypeError("Implicit conversion to a NumPy array is not allowed: label wants a structure on the host")
    METER.syncs += 1
    host = scipy.ndimage.label(lower(input, "label"), structure, lower(output, "label"))
    return lift(host)


def _morphology(source: types.ModuleType) -> dict[str, Callable[..., Any]]:
    """CuPy iterates by brute force only, and waits after each iteration; the structure is a device array or a shape."""
    made: dict[str, Callable[..., Any]] = {}
    for name in ("binary_dilation", "binary_erosion"):
        call = wrap(getattr(source, name), f"cupyx.scipy.ndimage.{name}", cupy_api()["cupyx.scipy.ndimage"][name])
        made[name] = functools.wraps(call)(functools.partial(_iterated, call))
    return made


def _iterated(
    call: Callable[..., Any], input: Any, structure: Any = None, iterations: int = 1, *args: Any, **kwargs: Any
) -> Any:
    if iterations != 1:
        if not kwargs.get("brute_force", False):
            raise NotImplementedError("only brute_force iteration has been implemented")
        METER.syncs += max(1, iterations)
    if isinstance(structure, tuple):
        structure = lift(np.ones(structure, bool))
    return call(input, structure, iterations, *args, **kwargs)
