"""Run the project's CUDA kernels on the CPU: the same source, compiled by g++ through `cudacpu.h`.

The call is that of `cupy.RawModule`, and stricter. CuPy packs a Python float as 8 bytes and a Python int as int64,
whatever the kernel declares, so that a wrong scalar is silent garbage on a device; here it is an error, and so is an
array of another type than the pointer's.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "CompileError",
    "CompilerMissing",
    "HostKernel",
    "HostModule",
    "KernelError",
    "Parameter",
    "Schedule",
    "compiler",
    "interleaving",
]

_LAUNCHING = threading.Lock()  # a library runs one launch at a time, and modules of equal source share it
_HERE = Path(__file__).resolve().parent
_HEADERS = ("cudacpu.h", "cudacpu_words.h")
_MAX_GRID = (2**31 - 1, 65535, 65535)
_MAX_BLOCK = (1024, 1024, 64)
_FLAGS = (
    "-std=c++17",
    "-O1",
    "-g",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-U_FORTIFY_SOURCE",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-Wno-unused",
    "-Wno-builtin-declaration-mismatch",
)


class CompilerMissing(RuntimeError):  # noqa: N818 - the name says it
    """No C++ compiler on this machine; tests that need one skip with this reason."""


class CompileError(RuntimeError):
    """The compiler refused the kernel source; the message is the compiler's, with the lines of the kernel's file."""


class KernelError(RuntimeError):
    """A launch that is wrong on a device too: divergent barrier, deadlock, undefined behaviour, ..."""


@dataclass(frozen=True)
class Schedule:
    """One interleaving of the threads.

    Parameters
    ----------
    seed : int, default 0
        0 is program order; any other number another legal order, the same each time.
    resident_blocks : int, default 2
        Blocks in flight at once.
    """

    seed: int = 0
    resident_blocks: int = 2


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: a pointer or a scalar, NumPy's letter for its kind, and the bytes of one element."""

    pointer: bool
    const: bool
    kind: str
    size: int

    def __str__(self) -> str:
        name = {"f": "float", "i": "int", "u": "uint"}.get(self.kind, "")
        text = "bool" if self.kind == "b" else f"{name}{8 * self.size}" if name else "void"
        return f"{'const ' if self.const else ''}{text}{'*' if self.pointer else ''}"


_schedule: ContextVar[Schedule] = ContextVar("schedule", default=Schedule())  # noqa: B039 - frozen


@contextmanager
def interleaving(seed: int, resident_blocks: int = 2) -> Iterator[Schedule]:
    """Run all launches of the context in the interleaving of `seed`.

    Examples
    --------
    >>> with interleaving(seed=3) as schedule:
    ...     schedule
    Schedule(seed=3, resident_blocks=2)
    """
    schedule = Schedule(seed, resident_blocks)
    token = _schedule.set(schedule)
    try:
        yield schedule
    finally:
        _schedule.reset(token)


class HostModule:
    """The kernels of one CUDA source, ready to run on the CPU.

    Parameters
    ----------
    code : str
        CUDA C++; kernels are `extern "C" __global__ void`.
    options : sequence of str
        As for NVRTC. `-D` and `-I` are passed on; options about the language, rounding and debugging are taken note of.
    sanitize : bool, default True
        Undefined behaviour (signed overflow, shifts, misaligned pointers, known bounds) fails the launch. With
        GPUROI_ASAN=1 in the environment AddressSanitizer looks on instead; it has to be preloaded into Python.
    filename : str, default "kernel.cu"
        Name in compiler messages, where the source has no `#line` of its own.

    Raises
    ------
    CompilerMissing
        No g++ (or `$CXX`).
    CompileError
        The source does not compile.
    """

    def __init__(
        self, code: str, options: Sequence[str] = (), *, sanitize: bool = True, filename: str = "kernel.cu"
    ) -> None:
        flags = _compiler_flags(options)
        names = _kernel_names(code, tuple(flags))
        self.kernels = tuple(names)
        self._library = ctypes.CDLL(str(_build(code, flags, names, sanitize=sanitize, filename=filename)))

    def get_function(self, name: str) -> HostKernel:
        """Return the kernel `name`."""
        if name not in self.kernels:
            raise KeyError(f'no kernel extern "C" __global__ void {name}(...); there are: {", ".join(self.kernels)}')
        return HostKernel(name, self._library)


class HostKernel:
    """One kernel: call it with grid, block and arguments as a `cupy.RawKernel`.

    Arrays are C-contiguous NumPy arrays of the pointer's element type; scalars are NumPy scalars of the exact type.
    """

    def __init__(self, name: str, library: ctypes.CDLL) -> None:
        self.name = name
        self.parameters = _parameters(library, name)
        self.max_dynamic_shared_size_bytes = 48 << 10  # what a device grants unasked; settable, as in CuPy
        self._launch = getattr(library, f"cudacpu_launch_{name}")
        self._error = library.cudacpu_error
        self._error.restype = ctypes.c_char_p

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0
    ) -> None:
        """Run the kernel to its end.

        Raises
        ------
        TypeError
            Wrong number of arguments, or an argument that is not of the declared type.
        ValueError
            A grid, block or shared memory that no device takes.
        KernelError
            What went wrong in the kernel, with block and thread.
        """
        sizes = self._sizes(grid, block)
        if not 0 <= shared_mem <= self.max_dynamic_shared_size_bytes <= 227 << 10:
            raise ValueError(
                f"{self.name}: {shared_mem} bytes of dynamic shared memory, at most "
                f"{self.max_dynamic_shared_size_bytes} (max_dynamic_shared_size_bytes raises it, to 227 KiB)"
            )
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name}: {len(args)} arguments for {len(self.parameters)} parameters")
        cells = [self._pack(i, value) for i, value in enumerate(args)]
        pointers = (ctypes.c_void_p * len(cells))(*(ctypes.addressof(cell) for cell in cells))
        schedule = _schedule.get()
        with _LAUNCHING:
            failed = self._launch(
                (ctypes.c_uint * 6)(*sizes),
                ctypes.c_size_t(shared_mem),
                ctypes.c_uint(schedule.resident_blocks),
                ctypes.c_ulonglong(schedule.seed),
                pointers,
            )
            if failed:
                raise KernelError(f"{self.name}: {self._error().decode()}")

    def _sizes(self, grid: tuple[int, ...], block: tuple[int, ...]) -> list[int]:
        sizes = []
        for what, given, limits in (("grid", grid, _MAX_GRID), ("block", block, _MAX_BLOCK)):
            if not isinstance(given, tuple) or not 1 <= len(given) <= 3:
                raise ValueError(f"{self.name}: {what} {given!r} is not a tuple of 1 to 3 numbers")
            full = [*given, 1, 1][:3]
            if not all(1 <= n <= limit for n, limit in zip(full, limits, strict=True)):
                raise ValueError(f"{self.name}: {what} {given}: each must be between 1 and {limits}")
            sizes += [int(n) for n in full]
        if sizes[3] * sizes[4] * sizes[5] > 1024:
            raise ValueError(f"{self.name}: a block of {sizes[3] * sizes[4] * sizes[5]} threads, at most 1024")
        return sizes

    def _pack(self, index: int, value: Any) -> Any:
        wanted = self.parameters[index]
        where = f"{self.name} argument {index} ({wanted})"
        if wanted.pointer:
            return _pack_pointer(where, wanted, value)
        # CuPy packs a Python float as 8 bytes and a Python int as int64: only exact NumPy scalars are safe
        if not isinstance(value, np.generic) or (value.dtype.kind, value.dtype.itemsize) != (wanted.kind, wanted.size):
            raise TypeError(f"{where}: needs a NumPy scalar of this type, got {value!r} ({type(value).__name__})")
        return ctypes.create_string_buffer(value.tobytes(), max(8, wanted.size))


@functools.cache
def compiler() -> tuple[str, str]:
    """Return the path of the C++ compiler (`$CXX`, else g++) and its version line.

    Raises
    ------
    CompilerMissing
        There is none.
    """
    name = os.environ.get("CXX") or "g++"
    path = shutil.which(name)
    if path is None:
        raise CompilerMissing(f"no C++ compiler: {name} is not installed; CUDA kernels cannot run on the CPU")
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    return path, done.stdout.splitlines()[0]


def _pack_pointer(where: str, wanted: Parameter, value: Any) -> Any:
    if isinstance(value, np.integer) and value.dtype.itemsize == 8 and value == 0:
        return ctypes.c_void_p(0)  # a null pointer, said in 8 bytes
    if isinstance(value, ctypes.c_void_p):
        return value  # a bare address: the caller vouches for it
    if not isinstance(value, np.ndarray):
        raise TypeError(
            f"{where}: needs an array, got {value!r} ({type(value).__name__}); a null pointer is np.uint64(0)"
        )
    if not value.flags.c_contiguous:
        raise TypeError(f"{where}: the array is not C-contiguous; a kernel would read other elements")
    if not value.dtype.isnative:
        raise TypeError(f"{where}: the array is not in native byte order")
    if not wanted.const and not value.flags.writeable:
        raise TypeError(f"{where}: the array is read-only")
    if not _same_element(wanted, value.dtype):
        raise TypeError(f"{where}: the array is {value.dtype}; pass a view if that is meant")
    return ctypes.c_void_p(value.ctypes.data)


def _same_element(wanted: Parameter, dtype: np.dtype[Any]) -> bool:
    """Equal up to signedness, and bool as bytes; a pointer to void or to a struct takes anything."""
    family = {"i": "iu", "u": "iub" if wanted.size == 1 else "iu", "b": "bu", "f": "f"}.get(wanted.kind)
    return family is None or (dtype.kind in family and dtype.itemsize == wanted.size)


def _parameters(library: ctypes.CDLL, name: str) -> tuple[Parameter, ...]:
    buffer = ctypes.create_string_buffer(1024)
    count = getattr(library, f"cudacpu_signature_{name}")(buffer)
    words = [buffer.raw[4 * i : 4 * i + 4].decode("latin1") for i in range(count)]
    return tuple(Parameter(w[0] == "*", w[1] == "c", w[2], ord(w[3]) - ord("0")) for w in words)


def _compiler_flags(options: Sequence[str]) -> list[str]:
    """NVRTC's options that mean something to g++; an option unknown here is an error rather than ignored."""
    flags = []
    for option in options:
        if option.startswith(("-D", "-I")):
            flags.append(option)
        elif option.startswith("--define-macro="):
            flags.append("-D" + option.partition("=")[2])
        elif option not in (
            "--fmad=false",
            "--fmad=true",
            "-lineinfo",
            "--generate-line-info",
        ) and not option.startswith(("-std=", "--std=", "--ptxas-options=", "-arch=", "--gpu-architecture=")):
            raise ValueError(f"compiler option {option!r} is not known to the CPU rig")
    return flags


@functools.lru_cache(maxsize=256)
def _kernel_names(code: str, flags: tuple[str, ...]) -> list[str]:
    """Names of the kernels, after the preprocessor, so that conditions and macros count."""
    path, _ = compiler()
    done = subprocess.run(
        [path, "-E", "-P", "-x", "c++", *flags, "-"], input=code, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CompileError(done.stderr)
    bounds = r"(?:__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)\s*)?"
    names = re.findall(rf'extern\s+"C"\s+__global__\s+{bounds}void\s+{bounds}(\w+)\s*\(', done.stdout)
    return list(dict.fromkeys(names))


def _rewrite(code: str) -> str:
    """Give dynamic shared memory an address: `extern __shared__ T name[];` is the one spelling that g++ cannot take."""
    return re.sub(
        r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s*|alignas\s*\(\s*\d+\s*\)\s*)?([\w:\s]+?)\s*\b(\w+)\s*\[\s*\]",
        r"\1* const \2 = cudacpu_dynamic<\1>()",
        code,
    )


def _build(code: str, flags: list[str], names: list[str], *, sanitize: bool, filename: str) -> Path:
    """Compile, or find what was compiled before; the key holds everything that matters."""
    path, version = compiler()
    address = ["-fsanitize=address"] if os.environ.get("GPUROI_ASAN") == "1" else []
    if sanitize and not address:  # both at once take twice as long to compile
        checks = "-fno-sanitize=vptr,float-cast-overflow,float-divide-by-zero"
        flags = [*flags, "-DCUDACPU_SANITIZE", "-fsanitize=undefined", checks]
    flags = [*flags, *address]
    exports = "\n".join(f"CUDACPU_EXPORT({name})" for name in names)
    tail = "CUDACPU_API const char* cudacpu_error() { return cudacpu::error; }"
    # an anonymous namespace: shared variables of templates and inline functions may not be merged by the linker
    unit = f'#include "cudacpu.h"\nnamespace {{\n#line 1 "{filename}"\n{_rewrite(code)}\n}}\n{exports}\n{tail}\n'
    headers = [(_HERE / name).read_text(encoding="utf-8") for name in _HEADERS]
    key = hashlib.sha256("\0".join([path, version, *_FLAGS, *flags, *headers, unit]).encode()).hexdigest()[:24]
    target = _cache_folder() / f"{key}.so"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        source, objects, library = (Path(folder) / name for name in ("unit.cc", "unit.o", "unit.so"))
        source.write_text(unit, encoding="utf-8")
        _run([path, *_FLAGS, *flags, f"-I{_HERE}", "-c", str(source), "-o", str(objects)])
        # linked without -fsanitize: the handlers are cudacpu.h's, not libubsan's
        _run([path, "-shared", "-Wl,-z,defs", *address, str(objects), "-o", str(library), "-lm"])
        library.replace(target)  # atomic: two processes may build at once
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(done.stderr)


def _cache_folder() -> Path:
    """A folder of this user alone, so that nobody else's library is ever loaded."""
    owner = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"gpuroi-host-kernels-{owner}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and (folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022):
        raise PermissionError(f"{folder} belongs to somebody else or is writable by others; remove it")
    return folder
