"""`cupy.ndarray` of the stand-in: a wrapper, never a subclass, so that nothing crosses to NumPy unnoticed."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from rig.cupy_api import Signature, cupy_api
from rig.standin_device import METER, Device, adopt, allocate, counted, current_device, device_of

__all__ = ["Flags", "MemoryPointer", "Ufunc", "copy_in", "device_array", "lift", "lower", "ndarray", "wrap"]

_ARITHMETIC = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "divmod", "matmul",
    "and", "or", "xor", "lshift", "rshift",
)  # fmt: skip
_KINDS = "biufc"  # no object, text, dates or long double on a device
_VIEWS = {"reshape", "transpose", "swapaxes", "view", "squeeze", "diagonal"}  # no kernel: any device will do
_COPIES = {"astype", "copy"}  # keep the layout of their operand
_SYNCING = {"nonzero", "compress", "tolist", "tobytes", "choose"}


def device_array(shape: Any, dtype: Any = float, order: str = "C", like: NDArray[Any] | None = None) -> ndarray:
    """Poisoned array on the current device, between guards."""
    dtype = check_dtype(dtype)
    template = np.empty(shape, dtype, order=order) if like is None else np.empty_like(like, dtype, order=order)  # type: ignore[call-overload]
    return ndarray._of(allocate(template.shape, dtype, template))


def copy_in(host: NDArray[Any], order: str = "K") -> ndarray:
    """Device copy of a host array; the caller counts the transfer."""
    result = device_array(host.shape, host.dtype, order, like=host)
    result._a[...] = host
    return result


def check_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype, if a device has it."""
    found: np.dtype[Any] = np.dtype(dtype)
    if found.kind not in _KINDS or found.itemsize > (16 if found.kind == "c" else 8):
        raise ValueError(f"Unsupported dtype {found}")
    if not found.isnative:
        raise ValueError(f"Unsupported byte order {found.str}; convert on the host first")
    return found


def lower(value: Any, where: str, *, any_device: bool = False) -> Any:
    """The NumPy array inside, for an operand; NumPy arrays and arrays of other devices are refused."""
    if isinstance(value, ndarray):
        if not any_device and device_of(value._a) != current_device():
            raise ValueError(
                f"{where}: Array device must be same as the current device: array device = {device_of(value._a)} "
                f"while current = {current_device()}"
            )
        return value._a
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {np.ndarray} in {where}: copy it to the device with cupy.asarray first")
    if type(value) in (list, tuple):
        return type(value)(lower(item, where, any_device=any_device) for item in value)
    if isinstance(value, slice) and any(isinstance(x, ndarray) for x in (value.start, value.stop, value.step)):
        raise TypeError(f"{where}: a slice takes integers, not device arrays")
    return value


def lift(value: Any, out: Any = None, *, keep_layout: bool = False) -> Any:
    """What NumPy returned, as CuPy returns it: arrays, also 0-d ones where NumPy has scalars.

    New arrays are in C order whatever the operands' order, except copies and casts.
    """
    if isinstance(value, np.ndarray):
        if isinstance(out, ndarray) and value is out._a:
            return out
        new = value.base is None and not counted(value)
        return ndarray._of(value.copy("C") if new and not keep_layout and not value.flags.c_contiguous else value)
    if isinstance(value, np.generic):
        return ndarray._of(np.asarray(value))
    if isinstance(value, tuple):
        items = tuple(lift(item, out[i] if isinstance(out, tuple) else None) for i, item in enumerate(value))
        return type(value)(*items) if hasattr(value, "_fields") else items
    return [lift(item) for item in value] if isinstance(value, list) else value


def wrap(
    function: Callable[..., Any], name: str, signature: Signature, *, syncs: bool = False, as_array: bool = False
) -> Callable[..., Any]:
    """Give a NumPy or SciPy function CuPy's arguments, types and costs."""
    where = name.rpartition(".")[2]

    def call(*args: Any, **kwargs: Any) -> Any:
        signature.refuse(name, len(args), frozenset(kwargs))
        METER.syncs += syncs
        views = where in _VIEWS
        host_args = [lower(a, name, any_device=views) for a in args]
        host_kwargs = {key: lower(a, name) for key, a in kwargs.items()}
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a device gives NaN and says nothing
            result = function(*host_args, **host_kwargs)
        return lift(np.asarray(result) if as_array else result, kwargs.get("out"), keep_layout=where in _COPIES)

    call.__name__ = call.__qualname__ = where
    call.__doc__ = function.__doc__
    return call


class Ufunc:
    """A universal function of CuPy: device arrays and scalars, no lists; no `initial`, no `where` in reductions."""

    _CALL = frozenset({"out", "dtype", "casting", "where"})

    def __init__(self, function: np.ufunc, name: str) -> None:
        self._function = function
        self._name = name
        self.nin, self.nout, self.nargs = function.nin, function.nout, function.nargs
        self.__name__ = name.rpartition(".")[2]
        self.reduce = wrap(function.reduce, f"{name}.reduce", _method("array axis dtype out keepdims"))
        self.accumulate = wrap(function.accumulate, f"{name}.accumulate", _method("array axis dtype out"))
        self.reduceat = wrap(function.reduceat, f"{name}.reduceat", _method("array indices axis dtype out"))
        self.outer = wrap(function.outer, f"{name}.outer", _method("A B dtype"))
        self.at = wrap(function.at, f"{name}.at", _method("a indices b"))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if unknown := sorted(set(kwargs) - self._CALL):
            raise TypeError(f"{self._name}() of CuPy has no argument {', '.join(unknown)}")
        for value in args:
            if isinstance(value, list | tuple | str):
                raise TypeError(f"Unsupported type {type(value)} in {self._name}")
        host_kwargs = {key: lower(value, self._name) for key, value in kwargs.items()}
        with np.errstate(all="ignore"):
            result = self._function(*(lower(value, self._name) for value in args), **host_kwargs)
        return lift(result, kwargs.get("out", args[self.nin] if len(args) > self.nin else None))

    def __repr__(self) -> str:
        return f"<ufunc '{self._name}' of the CuPy stand-in>"


def _method(names: str) -> Signature:
    return Signature("function", tuple(names.split()), frozenset(names.split()))


class Flags:
    """`ndarray.flags`: CuPy has only these."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.c_contiguous = array.flags.c_contiguous
        self.f_contiguous = array.flags.f_contiguous
        self.owndata = array.flags.owndata
        self.forc, self.fnc = array.flags.forc, array.flags.fnc


class MemoryPointer:
    """`ndarray.data`. As a kernel argument it is a bare address: neither the type nor the layout is checked."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array  # keeps the memory alive
        self.ptr = array.ctypes.data
        self.device_id = device_of(array)

    def address(self) -> ctypes.c_void_p:
        """The bare address."""
        return ctypes.c_void_p(self.ptr)


class ndarray:  # noqa: N801 - CuPy's name
    """Array on a fake device.

    Implicit conversion to NumPy, NumPy operands and NumPy functions raise TypeError; what makes the host wait counts.
    """

    __slots__ = ("__weakref__", "_a")
    _a: NDArray[Any]
    __array_priority__ = 100
    __array_ufunc__ = None  # NumPy's ufuncs refuse, its operators defer to ours
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Any, dtype: Any = float, memptr: None = None, strides: None = None, order: str = "C"):
        if memptr is not None or strides is not None:
            raise TypeError("the stand-in makes no arrays from pointers; use a view of an array")
        self._a = device_array(shape, dtype, order)._a

    @classmethod
    def _of(cls, array: NDArray[Any]) -> ndarray:
        check_dtype(array.dtype)
        adopt(array)
        self = cls.__new__(cls)
        self._a = array
        return self

    # ---- no way out but get()

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_function__(self, function: Any, *_: Any) -> NoReturn:
        raise TypeError(f"numpy.{function.__name__} was called with a device array: call the same function of cupy")

    def get(self, stream: Any = None, order: str = "C", out: NDArray[Any] | None = None, blocking: bool = True) -> Any:
        """Copy to the host."""
        METER.d2h_bytes += self._a.nbytes
        METER.syncs += blocking
        if out is None:
            return np.array(self._a, order=order)  # type: ignore[call-overload]
        if not isinstance(out, np.ndarray) or (out.shape, out.dtype) != (self._a.shape, self._a.dtype):
            raise TypeError("get(out=): a NumPy array of the same shape and dtype is needed")
        out[...] = self._a
        return out

    def set(self, arr: NDArray[Any], stream: Any = None) -> None:
        """Copy from the host, in place."""
        if not isinstance(arr, np.ndarray) or (arr.shape, arr.dtype) != (self._a.shape, self._a.dtype):
            raise TypeError("set(): a NumPy array of the same shape and dtype is needed")
        METER.h2d_bytes += arr.nbytes
        self._a[...] = arr

    def item(self) -> Any:
        """The one element, as a Python number."""
        METER.syncs += 1
        METER.d2h_bytes += self._a.itemsize
        return self._a.item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __repr__(self) -> str:
        return f"standin.{self.get()!r}"

    # ---- attributes

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    flags = property(lambda self: Flags(self._a))
    device = property(lambda self: Device(device_of(self._a)))
    data = property(lambda self: MemoryPointer(self._a))
    base = property(lambda self: lift(self._a.base) if isinstance(self._a.base, np.ndarray) else None)
    T = property(lambda self: lift(self._a.T))
    mT = property(lambda self: lift(self._a.mT))  # noqa: N815
    real = property(lambda self: lift(self._a.real))
    imag = property(lambda self: lift(self._a.imag))

    def __getattr__(self, name: str) -> Any:
        signature = cupy_api()["cupy.ndarray"].get(name)
        if signature is None or signature.kind != "function" or not hasattr(np.ndarray, name):
            raise AttributeError(f"cupy.ndarray has no {name}, or the stand-in does not offer it")
        if name not in _VIEWS:
            lower(self, f"ndarray.{name}")
        if name in ("astype", "view"):
            return lambda dtype=None, *args, **kwargs: self._typed(name, signature, dtype, args, kwargs)
        return wrap(getattr(self._a, name), f"ndarray.{name}", signature, syncs=name in _SYNCING)

    def _typed(self, name: str, signature: Signature, dtype: Any, args: Any, kwargs: Any) -> Any:
        if dtype is not None:
            check_dtype(dtype)
        call = wrap(getattr(self._a, name), f"ndarray.{name}", signature)
        return call(*args, **kwargs) if dtype is None else call(dtype, *args, **kwargs)

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Iterator[ndarray]:
        if self._a.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self._a)))

    def __copy__(self) -> ndarray:
        return copy_in(self._a)

    def __deepcopy__(self, _: Any) -> ndarray:
        return copy_in(self._a)

    def __getitem__(self, key: Any) -> Any:
        METER.syncs += _masks(key)  # the True elements have to be counted: the host waits
        return lift(self._a[lower(key, "an index")])

    def __setitem__(self, key: Any, value: Any) -> None:
        lower(self, "an assignment")
        if isinstance(value, list | tuple):
            raise TypeError("an assignment takes a device array or a scalar, not a list")
        METER.syncs += _masks(key) * isinstance(value, ndarray)  # a scalar goes through a mask without counting
        with np.errstate(all="ignore"):
            self._a[lower(key, "an index")] = lower(value, "an assignment")


def _masks(key: Any) -> int:
    keys = key if isinstance(key, tuple) else (key,)
    return sum(isinstance(each, ndarray) and each._a.dtype == bool for each in keys)


def _operators() -> None:
    for name in _ARITHMETIC:
        for prefix in ("", "r"):
            setattr(ndarray, f"__{prefix}{name}__", _binary(f"__{prefix}{name}__"))
        if hasattr(np.ndarray, f"__i{name}__") and name != "matmul":
            setattr(ndarray, f"__i{name}__", _binary(f"__i{name}__", inplace=True))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(ndarray, f"__{name}__", _binary(f"__{name}__"))
    for name in ("neg", "pos", "abs", "invert"):
        setattr(ndarray, f"__{name}__", _unary(f"__{name}__"))


def _binary(name: str, *, inplace: bool = False) -> Callable[[ndarray, Any], Any]:
    def operate(self: ndarray, other: Any) -> Any:
        if isinstance(other, list | tuple):
            raise TypeError(f"Unsupported type {type(other)} in {name}")
        mine, theirs = lower(self, name), lower(other, name)
        with np.errstate(all="ignore"):
            result = getattr(mine, name)(theirs)
        if result is NotImplemented:
            return result
        return self if inplace else lift(result)

    return operate


def _unary(name: str) -> Callable[[ndarray], Any]:
    def operate(self: ndarray) -> Any:
        return lift(getattr(lower(self, name), name)())

    return operate


_operators()
ndarray.__module__ = "cupy"
