"""Inflate gzip files with the fastest inflater that is installed, checked, and never beyond what deflate can hold."""

from __future__ import annotations

import io
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["MAX_RATIO", "check_inflated_size", "inflate", "inflate_start", "inflater_name", "most_inflated_bytes"]

MAGIC = b"\x1f\x8b"
"""The first bytes of every gzip member."""

MAX_RATIO = 1032
"""No deflate stream expands further: 258 bytes from two bits. What a header promises beyond that is not there."""

_CHUNK_IN = 1 << 16
_CHUNK_OUT = 1 << 20


def inflate(packed: bytes, size: int, *, name: str) -> NDArray[np.uint8]:
    """Return the first `size` bytes of a gzip file's content.

    Parameters
    ----------
    packed : bytes
        The whole file, of one or several gzip members.
    size : int
        Bytes wanted. At most `most_inflated_bytes(len(packed))` are ever allocated.
    name : str
        The file's name, for errors.

    Returns
    -------
    uint8 array, shape (size,), writable
        Lengths and CRCs of the members that were read are checked. The GIL is free meanwhile.

    Raises
    ------
    DataError
        If the stream is damaged, ends early, or holds less than `size` bytes.

    Examples
    --------
    >>> import gzip
    >>> inflate(gzip.compress(b"abc") + gzip.compress(b"def"), 6, name="two.gz").tobytes()
    b'abcdef'
    """
    if size > most_inflated_bytes(len(packed)):
        raise DataError(
            f"{name}: {size:,} bytes are expected, but {len(packed):,} compressed bytes cannot hold that many",
            "the file is cut off or its header is damaged: copy or make it again",
        )
    # The last four bytes are the length of the last member modulo 2^32. Where they agree with what is wanted there is
    # almost surely one member, which libdeflate inflates in one go. Otherwise, or if it fails: member by member.
    if _last_length(packed) == size % 2**32 and inflater_name() == "deflate":
        whole = _inflate_one_member(packed, size)
        if whole is not None:
            return whole
    out = np.empty(size, np.uint8)
    filled = 0
    for piece in _stream(io.BytesIO(packed).read, _CHUNK_OUT, name):
        part = np.frombuffer(piece, np.uint8)[: size - filled]
        out[filled : filled + len(part)] = part
        filled += len(part)
    if filled < size:
        raise too_short(name, size, filled)
    return out


def inflate_start(path: Path, size: int, *, name: str) -> bytes:
    """Return up to `size` bytes of the content's beginning, reading no more of the file than that takes."""
    start = b""
    with path.open("rb") as file:
        for piece in _stream(file.read, size, name, chunk_in=4096):
            start += piece
            if len(start) >= size:
                break
    return start[:size]


def check_inflated_size(path: Path, size: int, *, name: str) -> None:
    """Raise `DataError` unless the content has at least `size` bytes.

    Costs nothing where the recorded length agrees; otherwise the file is inflated in small pieces, which are dropped.
    """
    packed_bytes = path.stat().st_size
    if size > most_inflated_bytes(packed_bytes):
        raise DataError(
            f"{name}: the header promises {size:,} bytes, but {packed_bytes:,} compressed bytes cannot hold that many",
            "the file is cut off or its header is damaged: copy or make it again",
        )
    with path.open("rb") as file:
        file.seek(-min(4, packed_bytes), io.SEEK_END)
        if _last_length(file.read(4)) == size % 2**32:
            return
        file.seek(0)
        held = 0
        for piece in _stream(file.read, _CHUNK_OUT, name):
            held += len(piece)
            if held >= size:
                return
    raise too_short(name, size, held)


def too_short(name: str, size: int, held: int) -> DataError:
    """Return the error for a file that ends before what its header promises."""
    return DataError(
        f"{name}: the header promises {size:,} bytes, the file holds {held:,}",
        "the file is cut off or its header is damaged: copy or make it again",
    )


def most_inflated_bytes(packed_bytes: int) -> int:
    """Upper bound of what `packed_bytes` of gzip can expand to."""
    return packed_bytes * MAX_RATIO + 1024


def inflater_name() -> str:
    """Name the inflater in use: "deflate", "isal", "zlib_ng" (`pip install gpuroi[fast]`) or "zlib"."""
    return "deflate" if _deflate() is not None else _stream_library()[0]


def _last_length(packed: bytes) -> int:
    return int.from_bytes(packed[-4:], "little")


def _inflate_one_member(packed: bytes, size: int) -> NDArray[np.uint8] | None:
    """Inflate with libdeflate; None if that does not give `size` bytes, so that the caller finds out why."""
    module = _deflate()
    try:
        content = module.gzip_decompress(packed, size)  # checks length and CRC
    except (module.DeflateError, ValueError):  # the latter where not even the header is gzip
        return None
    return np.frombuffer(content, np.uint8) if len(content) == size else None


def _stream(read: Callable[[int], bytes], chunk_out: int, name: str, *, chunk_in: int = _CHUNK_IN) -> Iterator[bytes]:
    """Yield the content in pieces of at most `chunk_out` bytes, one member after the other.

    The inflater checks length and CRC at the end of each member. What follows the last one (zeros of a tape, or
    anything else that does not begin like a member) is passed over, as gzip does.
    """
    _, library = _stream_library()
    packed = read(chunk_in)
    while packed[:2] == MAGIC:
        member = library.decompressobj(31)
        while not member.eof:
            packed = packed or read(chunk_in)
            try:
                piece = member.decompress(packed, chunk_out)
            except library.error as error:
                raise DataError(
                    f"{name}: the compressed data are damaged ({error})", "copy the file again from its source"
                ) from error
            if piece:
                yield piece
            elif not packed and not member.eof:
                raise DataError(
                    f"{name}: the compressed data end in the middle: the file is cut off",
                    "copy or download the file again",
                )
            packed = member.unconsumed_tail
        packed = member.unused_data
        if len(packed) < 2:
            packed += read(chunk_in)


@cache
def _deflate() -> Any:
    try:
        import deflate
    except ImportError:
        return None
    return deflate


@cache
def _stream_library() -> tuple[str, Any]:
    """Return the fastest inflater that can stop in the middle. libdeflate cannot."""
    try:
        from isal import isal_zlib
    except ImportError:
        pass
    else:
        return "isal", isal_zlib
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        return "zlib", zlib
    return "zlib_ng", zlib_ng
