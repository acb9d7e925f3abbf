"""`cupy.RawModule` and `cupy.RawKernel` of the stand-in: the project's own kernels, run on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rig.host_kernels import CompileError, HostKernel, HostModule, KernelError
from rig.standin_array import MemoryPointer, ndarray
from rig.standin_device import METER, check_guards, current_device, device_of

__all__ = ["CompileException", "RawKernel", "RawModule"]


class CompileException(Exception):  # noqa: N818 - CuPy's name
    """`cupy.cuda.compiler.CompileException`."""


class RawKernel:
    """One kernel. Compiled at the first call, as in CuPy."""

    def __init__(
        self,
        code: str,
        name: str,
        options: Sequence[str] = (),
        backend: str = "nvrtc",
        translate_cucomplex: bool = False,
        *,
        enable_cooperative_groups: bool = False,
        jitify: bool | None = None,
    ) -> None:
        if enable_cooperative_groups or translate_cucomplex or jitify:
            raise ValueError("the CPU rig runs neither cooperative groups nor cuComplex nor jitify")
        self.code, self.name, self.options, self.backend = code, name, _options(options), backend
        self._kernel: HostKernel | None = None
        self._shared_limit = 48 << 10

    def compile(self, log_stream: Any = None) -> None:
        """Compile now."""
        if self._kernel is None:
            try:
                self._kernel = HostModule(self.code, self.options).get_function(self.name)
            except CompileError as error:
                raise CompileException(str(error)) from error

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """Dynamic shared memory that a launch may ask for; 48 KiB until it is raised."""
        return self._shared_limit

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if not 0 <= size <= 227 << 10:
            raise ValueError(f"{self.name}: {size} bytes of shared memory; no device has more than 227 KiB a block")
        self._shared_limit = size

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0
    ) -> None:
        """Launch the kernel on the current device."""
        self.compile()
        assert self._kernel is not None
        self._kernel.max_dynamic_shared_size_bytes = self._shared_limit
        host = [_argument(f"{self.name} argument {i}", value) for i, value in enumerate(args)]
        METER.launches[self.name] += 1
        self._kernel(grid, block, host, shared_mem=shared_mem)
        for i, value in enumerate(args):
            array = value._a if isinstance(value, ndarray) else getattr(value, "array", None)
            if array is not None and not check_guards(array):
                raise KernelError(f"{self.name} wrote outside the memory of argument {i}")


class RawModule:
    """The kernels of one source."""

    def __init__(
        self,
        *,
        code: str | None = None,
        path: str | None = None,
        options: Sequence[str] = (),
        backend: str = "nvrtc",
        translate_cucomplex: bool = False,
        enable_cooperative_groups: bool = False,
        name_expressions: Sequence[str] | None = None,
        jitify: bool | None = None,
    ) -> None:
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        if name_expressions or enable_cooperative_groups or translate_cucomplex or jitify:
            raise ValueError(
                "the CPU rig runs kernels that are extern C, without cooperative groups, cuComplex and jitify"
            )
        self.code = code if code is not None else Path(str(path)).read_text(encoding="utf-8")
        self.options, self.backend = _options(options), backend

    def compile(self, log_stream: Any = None) -> None:
        """Compile now."""
        try:
            HostModule(self.code, self.options)
        except CompileError as error:
            raise CompileException(str(error)) from error

    def get_function(self, name: str) -> RawKernel:
        """Return a kernel by name; it has to be there."""
        kernel = RawKernel(self.code, name, self.options, self.backend)
        kernel.compile()
        return kernel


def _options(options: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(options, tuple):
        raise TypeError(f"options must be a tuple of str, got {type(options).__name__}")
    return options


def _argument(where: str, value: Any) -> Any:
    """A device array becomes the NumPy array in it. CuPy takes a strided one in silence: garbage, so refused here."""
    if isinstance(value, np.ndarray):
        raise TypeError(f"{where}: a NumPy array cannot be a kernel argument; copy it to the device first")
    array = value._a if isinstance(value, ndarray) else getattr(value, "array", None)
    if array is None:
        return value
    if device_of(array) != current_device():
        raise ValueError(f"{where}: the array is on device {device_of(array)}, the kernel runs on {current_device()}")
    if isinstance(value, MemoryPointer):
        return value.address()
    if not array.flags.c_contiguous:
        raise TypeError(
            f"{where}: the array {array.shape} with strides {array.strides} is not C-contiguous; "
            "pass cupy.ascontiguousarray(x), or x.data if the kernel knows the strides"
        )
    return array
