"""The devices of the stand-in: their memory, metered and limited, and the counters that tests read."""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "METER",
    "CUDARuntimeError",
    "Device",
    "Event",
    "Memory",
    "MemoryPool",
    "Meter",
    "OutOfMemoryError",
    "Stream",
    "adopt",
    "allocate",
    "check_guards",
    "counted",
    "current_device",
    "device_of",
    "memory",
    "reset_devices",
]

_GUARD_BYTES = 256
_GUARD = 0xA5
_ALIGNMENT = 256
_MEMORY_BYTES = 16 << 30
_PROCESS = ctypes.CDLL(None)


class OutOfMemoryError(MemoryError):
    """`cupy.cuda.memory.OutOfMemoryError`."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes"
        super().__init__(f"{text}, limit set to: {limit:,} bytes)." if limit else f"{text}).")


class CUDARuntimeError(RuntimeError):
    """`cupy.cuda.runtime.CUDARuntimeError`."""


@dataclass
class Memory:
    """The memory of one device: what arrays hold, and what the pool keeps for the next ones.

    Bytes are counted as asked for; CuPy rounds each allocation up to 512. Fragmentation is not modelled.
    """

    total: int = _MEMORY_BYTES
    pool_limit: int = 0  # 0: none
    used: int = 0
    cached: int = 0
    peak: int = 0

    def take(self, size: int) -> None:
        """Count an allocation, or raise OutOfMemoryError."""
        if self.pool_limit and self.used + size > self.pool_limit:
            raise OutOfMemoryError(size, self.used, self.pool_limit)
        if self.used + size > self.total:
            raise OutOfMemoryError(size, self.used)
        reused = min(size, self.cached)
        self.cached -= reused
        self.used += size
        self.cached = min(self.cached, self.total - self.used)  # CuPy frees its cache before it gives up
        self.peak = max(self.peak, self.used)

    def give(self, size: int) -> None:
        """Count a release: to the pool, not to the device."""
        self.used -= size
        self.cached += size


@dataclass
class Meter:
    """What a test can ask about the device after the code has run.

    Parameters
    ----------
    syncs : int
        Times that the host waited for the device.
    h2d_bytes, d2h_bytes, d2d_bytes : int
        Bytes copied from host to device, back, and between devices.
    launches : Counter
        Launches of the project's kernels, by name.
    """

    syncs: int = 0
    h2d_bytes: int = 0
    d2h_bytes: int = 0
    d2d_bytes: int = 0
    launches: Counter[str] = field(default_factory=Counter)

    def reset(self, limit_bytes: int | None = None) -> None:
        """Begin to count anew; `limit_bytes` is all that the current device can hold beyond what it holds now."""
        self.syncs = self.h2d_bytes = self.d2h_bytes = self.d2d_bytes = 0
        self.launches = Counter()
        here = memory()
        here.cached = 0
        here.peak = here.used
        here.total = _MEMORY_BYTES if limit_bytes is None else here.used + limit_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes that arrays hold on the current device."""
        return memory().used

    @property
    def peak_bytes(self) -> int:
        """The most that arrays held on the current device since `reset`."""
        return memory().peak

    @property
    def quiet(self) -> bool:
        """Neither a transfer nor a wait since `reset`."""
        return not (self.syncs or self.h2d_bytes or self.d2h_bytes or self.d2d_bytes)


METER = Meter()
_memories: list[Memory] = [Memory()]
_owners: dict[int, tuple[int, int]] = {}  # id of the array that owns the memory -> device, bytes
_guarded: dict[int, tuple[int, int]] = {}  # the same -> where the array proper lies in it
_here = threading.local()


def reset_devices(n_devices: int) -> None:
    """Make `n_devices` devices; arrays of earlier ones stay counted on theirs."""
    del _memories[n_devices:]
    _memories.extend(Memory() for _ in range(n_devices - len(_memories)))
    for each in _memories:
        each.pool_limit, each.total, each.cached = 0, _MEMORY_BYTES, 0
    _here.device = 0


def current_device() -> int:
    """Index of the device that this thread works on."""
    return getattr(_here, "device", 0)


def memory(device: int | None = None) -> Memory:
    """Memory of a device; of the current one by default."""
    return _memories[current_device() if device is None else device]


def allocate(shape: Any, dtype: Any, template: NDArray[Any]) -> NDArray[Any]:
    """New, poisoned array (0xFF: NaN, -1) laid out as `template`, between guard bytes that kernels may not touch."""
    nbytes = template.nbytes
    memory().take(nbytes)
    root = np.full(nbytes + 2 * _GUARD_BYTES + _ALIGNMENT, _GUARD, np.uint8)
    start = _GUARD_BYTES + -(root.ctypes.data + _GUARD_BYTES) % _ALIGNMENT
    root[start : start + nbytes] = 0xFF
    _own(root, nbytes)
    _guarded[id(root)] = (start, start + nbytes)
    for first, last in ((0, start), (start + nbytes, root.size)):
        _watch(root.ctypes.data + first, last - first, guarded=True)
    return np.ndarray(shape, dtype, buffer=root[start : start + nbytes].data, strides=template.strides)


def adopt(array: NDArray[Any]) -> int:
    """Count an array that NumPy has made; return the device that it lies on."""
    root = _root(array)
    if id(root) not in _owners:
        memory().take(root.nbytes)
        _own(root, root.nbytes)
    return _owners[id(root)][0]


def counted(array: NDArray[Any]) -> bool:
    """Has the array, or what it is a view of, been counted?"""
    return id(_root(array)) in _owners


def device_of(array: NDArray[Any]) -> int:
    """Device of an array that has been counted."""
    return _owners[id(_root(array))][0]


def check_guards(array: NDArray[Any]) -> bool:
    """True unless something was written just outside the array's memory."""
    root = _root(array)
    start, stop = _guarded.get(id(root), (0, root.nbytes))
    flat = root if id(root) in _guarded else np.empty(0, np.uint8)
    return bool(np.all(flat[:start] == _GUARD) and np.all(flat[stop:] == _GUARD))


def _own(root: NDArray[Any], nbytes: int) -> None:
    _owners[id(root)] = (current_device(), nbytes)
    place = (root.ctypes.data, root.nbytes)
    weakref.finalize(root, _release, id(root), place, memory(), nbytes).atexit = False


def _release(key: int, place: tuple[int, int], where: Memory, nbytes: int) -> None:
    del _owners[key]
    if _guarded.pop(key, None) is not None:
        _watch(*place, guarded=False)
    where.give(nbytes)


def _watch(address: int, size: int, *, guarded: bool) -> None:
    """Where AddressSanitizer is loaded, make every access to guards an error at its line, or let them be free again."""
    name = "__asan_poison_memory_region" if guarded else "__asan_unpoison_memory_region"
    watch = getattr(_PROCESS, name, None)
    if watch is not None:
        watch(ctypes.c_void_p(address), ctypes.c_size_t(size))


def _root(array: Any) -> Any:
    """The array whose memory it is; through views, memoryviews and the wrappers of broadcast arrays."""
    while True:
        base = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
        if base is None:
            return array
        array = base


class Device:
    """`cupy.cuda.Device`: a context that makes it the current device of this thread."""

    def __init__(self, device: int | Device | None = None) -> None:
        index = current_device() if device is None else int(device)
        if not 0 <= index < len(_memories):
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.id = index
        self._before: list[int] = []

    compute_capability = "90"
    cublas_handle = 0
    attributes = {  # noqa: RUF012 - as CuPy's, a plain dict
        "MultiProcessorCount": 132,
        "WarpSize": 32,
        "MaxThreadsPerBlock": 1024,
        "MaxThreadsPerMultiProcessor": 2048,
        "MaxSharedMemoryPerBlock": 48 << 10,
        "MaxSharedMemoryPerBlockOptin": 227 << 10,
        "MaxSharedMemoryPerMultiprocessor": 228 << 10,
        "L2CacheSize": 60 << 20,
    }

    @property
    def mem_info(self) -> tuple[int, int]:
        """Free and total bytes; what the pool keeps is not free."""
        here = memory(self.id)
        return here.total - here.used - here.cached, here.total

    def synchronize(self) -> None:
        """Wait for the device."""
        METER.syncs += 1

    def use(self) -> None:
        """Make it the current device."""
        _here.device = self.id

    def __enter__(self) -> Device:
        self._before.append(current_device())
        self.use()
        return self

    def __exit__(self, *_: object) -> None:
        _here.device = self._before.pop()

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"


class MemoryPool:
    """`cupy.get_default_memory_pool()`: the pool of the current device."""

    def used_bytes(self) -> int:
        """Bytes that arrays hold."""
        return memory().used

    def free_bytes(self) -> int:
        """Bytes kept for the next arrays."""
        return memory().cached

    def total_bytes(self) -> int:
        """Bytes taken from the device."""
        return memory().used + memory().cached

    def get_limit(self) -> int:
        """Bytes that the pool may take; 0 is no limit."""
        return memory().pool_limit

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """Limit the pool, by bytes or by fraction of the device's memory."""
        if (size is None) == (fraction is None):
            raise ValueError("size and fraction cannot be specified at one time, and one is needed")
        memory().pool_limit = int(size if size is not None else (fraction or 0) * memory().total)

    def free_all_blocks(self, stream: object = None) -> None:
        """Give what is kept back to the device."""
        memory().cached = 0

    def n_free_blocks(self) -> int:
        """Number of blocks kept; they are not told apart here."""
        return int(memory().cached > 0)


class Event:
    """`cupy.cuda.Event`."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.seconds: float | None = None
        self.done = True

    def record(self, stream: Stream | None = None) -> None:
        """Note the time; nothing runs asynchronously here."""
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        """Wait for it."""
        METER.syncs += 1


class Stream:
    """`cupy.cuda.Stream`. Work is done when it is called, so that streams order nothing here."""

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        self.device_id = current_device()
        self.ptr = 0 if null else id(self)
        self.done = True
        self._before: list[Stream | None] = []

    def __enter__(self) -> Stream:
        self._before.append(getattr(_here, "stream", None))
        return self.use()

    def __exit__(self, *_: object) -> None:
        _here.stream = self._before.pop()

    def use(self) -> Stream:
        """Make it the current stream."""
        _here.stream = self
        return self

    def synchronize(self) -> None:
        """Wait for it."""
        METER.syncs += 1

    def record(self, event: Event | None = None) -> Event:
        """Note the time in an event."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Later work on this stream waits for the event; the host does not."""

    @staticmethod
    def current(device_id: int = -1) -> Stream:
        """The current stream of this thread (`cupy.cuda.get_current_stream`)."""
        return getattr(_here, "stream", None) or Stream(null=True)
