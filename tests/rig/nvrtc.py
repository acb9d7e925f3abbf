"""Compile CUDA sources for any architecture without a GPU or a driver, and read what each kernel needs of it.

Works on the wheels nvidia-cuda-nvrtc-cu12 (12.9: sm_50 to sm_121) and nvidia-cuda-nvrtc (13: from sm_75).
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Compiled", "NvrtcError", "NvrtcMissing", "Resources", "compile_cuda", "compiler_for", "versions"]

_WHEELS = {"cu12": "cuda_nvrtc/lib", "cu13": "cu13/lib"}
# What CuPy adds by itself; -ftz flushes float32 denormals.
_CUPY_OPTIONS = ("--device-as-default-execution-space", "-ftz=true")


class NvrtcMissing(RuntimeError):  # noqa: N818 - the name says it
    """None of the nvidia-cuda-nvrtc wheels is installed, or not the one that knows the architecture."""


class NvrtcError(RuntimeError):
    """The compiler refused the source; the message is its log."""


@dataclass(frozen=True)
class Resources:
    """What one thread, or one block for `shared_bytes`, of a kernel needs, as ptxas says."""

    registers: int
    spill_store_bytes: int
    spill_load_bytes: int
    stack_bytes: int
    shared_bytes: int

    @property
    def spills(self) -> bool:
        """Registers did not suffice: values go through memory."""
        return self.spill_store_bytes > 0 or self.spill_load_bytes > 0


@dataclass(frozen=True)
class Compiled:
    """A cubin, what its kernels need, and the compiler's log."""

    cubin: bytes
    kernels: dict[str, Resources]
    log: str


def compile_cuda(source: str, architecture: int, options: Sequence[str] = (), *, name: str = "kernel.cu") -> Compiled:
    """Compile for `sm_<architecture>`, with the options that CuPy would use.

    Parameters
    ----------
    source : str
        CUDA C++.
    architecture : int
        Such as 90.
    options : sequence of str
        Such as `-DREAL=float`.
    name : str
        File name in messages.

    Raises
    ------
    NvrtcMissing
        No wheel that knows the architecture.
    NvrtcError
        The source does not compile.
    """
    library = compiler_for(architecture)
    program = ctypes.c_void_p()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None))
    try:
        words = [f"-arch=sm_{architecture}", "--std=c++17", "--ptxas-options=-v", *_CUPY_OPTIONS, *options]
        array = (ctypes.c_char_p * len(words))(*(word.encode() for word in words))
        status = library.nvrtcCompileProgram(program, len(words), array)
        log = _text(library, program, "ProgramLog").decode(errors="replace").rstrip("\0")
        if status:
            raise NvrtcError(f"sm_{architecture}, {' '.join(options)}:\n{log}")
        return Compiled(_text(library, program, "CUBIN"), _resources(log), log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def compiler_for(architecture: int) -> ctypes.CDLL:
    """The newest compiler among the wheels that knows the architecture."""
    libraries = _libraries()
    if not libraries:
        raise NvrtcMissing("no CUDA compiler: pip install nvidia-cuda-nvrtc nvidia-cuda-nvrtc-cu12")
    for library in reversed(libraries.values()):
        if architecture in _architectures(library):
            return library
    known = sorted({each for library in libraries.values() for each in _architectures(library)})
    raise NvrtcMissing(f"no installed CUDA compiler knows sm_{architecture}; they know {known}")


def versions() -> dict[str, tuple[int, int]]:
    """Wheel -> version of the compiler in it, for those that are installed."""
    found = {}
    for wheel, library in _libraries().items():
        major, minor = ctypes.c_int(), ctypes.c_int()
        _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        found[wheel] = (major.value, minor.value)
    return found


@functools.cache
def _libraries() -> dict[str, ctypes.CDLL]:
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    found = {}
    for wheel, folder in _WHEELS.items():
        for path in sorted(p for root in roots for p in (root / folder).glob("libnvrtc.so.*")):
            # NVRTC looks for its builtins by bare name: they have to be loaded before
            for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
            found[wheel] = ctypes.CDLL(str(path))
            found[wheel].nvrtcGetErrorString.restype = ctypes.c_char_p
    return found


def _architectures(library: ctypes.CDLL) -> list[int]:
    count = ctypes.c_int()
    _check(library, library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    numbers = (ctypes.c_int * count.value)()
    _check(library, library.nvrtcGetSupportedArchs(numbers))
    return list(numbers)


def _text(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _check(library: ctypes.CDLL, status: int) -> None:
    if status:
        raise NvrtcError(library.nvrtcGetErrorString(status).decode())


def _resources(log: str) -> dict[str, Resources]:
    """Read what ptxas says of each kernel, with the device functions that it did not inline."""
    kernels = {}
    for name, text in re.findall(
        r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry function|\Z)", log, re.DOTALL
    ):
        registers = _numbers(text, r"Used (\d+) registers")
        frames = _numbers(text, r"(\d+) bytes stack frame")
        if not registers or not frames:
            raise NvrtcError(f"ptxas does not say what {name} needs:\n{text}")
        kernels[name] = Resources(
            registers=max(registers),
            spill_store_bytes=sum(_numbers(text, r"(\d+) bytes spill stores")),
            spill_load_bytes=sum(_numbers(text, r"(\d+) bytes spill loads")),
            stack_bytes=max(frames),
            shared_bytes=max(_numbers(text, r"(\d+) bytes smem"), default=0),
        )
    return kernels


def _numbers(text: str, pattern: str) -> list[int]:
    return [int(number) for number in re.findall(pattern, text)]
