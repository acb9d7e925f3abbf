"""Inflating against the standard library, with every inflater, on whole and on broken streams."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib
from zlib_ng import zlib_ng

from gpuroi.errors import DataError
from gpuroi.images import gunzip

LIBRARIES = {"deflate": None, "isal": isal_zlib, "zlib_ng": zlib_ng, "zlib": zlib}


@pytest.fixture(params=LIBRARIES)
def inflater(request, monkeypatch):
    """Each library in turn, as if it were the only one that is installed."""
    if request.param != "deflate":
        monkeypatch.setattr(gunzip, "_deflate", lambda: None)
        monkeypatch.setattr(gunzip, "_stream_library", lambda: (request.param, LIBRARIES[request.param]))
    assert gunzip.inflater_name() == request.param
    return request.param


@pytest.fixture(scope="module")
def content():
    rng = np.random.default_rng(0)
    return rng.integers(0, 4, 3_000_000, dtype=np.uint8).tobytes()


def test_whole_and_part(inflater, content):
    packed = gzip.compress(content, 1)
    whole = gunzip.inflate(packed, len(content), name="x.gz")
    assert whole.dtype == np.uint8
    assert whole.flags.writeable
    assert whole.tobytes() == content
    assert gunzip.inflate(packed, 1000, name="x.gz").tobytes() == content[:1000]


@pytest.mark.parametrize("cut", [1, 65_536, 1_500_000])
def test_several_members(inflater, content, cut):
    packed = gzip.compress(content[:cut], 1) + gzip.compress(content[cut:], 9)
    assert gunzip.inflate(packed, len(content), name="x.gz").tobytes() == content


def test_equal_members_are_not_taken_for_one(inflater):
    member = gzip.compress(b"abcd" * 1000)
    assert gunzip.inflate(member * 3, 12_000, name="x.gz").tobytes() == b"abcd" * 3000
    # The recorded length of the last member equals what is wanted, and the first member is shorter than that.
    packed = gzip.compress(b"first") + gzip.compress(b"second!")
    assert gunzip.inflate(packed, 7, name="x.gz").tobytes() == b"firstse"


def test_empty_member_and_padding(inflater):
    packed = gzip.compress(b"") + gzip.compress(b"abc") + bytes(512)
    assert gunzip.inflate(packed, 3, name="x.gz").tobytes() == b"abc"


def test_damage_is_found(inflater, content):
    packed = gzip.compress(content, 1)
    wrong_crc = packed[:-8] + bytes(4) + packed[-4:]
    flipped = packed[:500_000] + bytes([packed[500_000] ^ 0x55]) + packed[500_001:]
    for broken in (wrong_crc, flipped):
        with pytest.raises(DataError, match=r"x\.gz: the compressed data are damaged"):
            gunzip.inflate(broken, len(content), name="x.gz")


@pytest.mark.parametrize("keep", [20, 1000, 400_000])
def test_cut_off_is_found(inflater, content, keep):
    packed = gzip.compress(content, 1)[:keep]
    wanted = min(len(content), gunzip.most_inflated_bytes(keep))
    with pytest.raises(DataError, match=r"x\.gz: .*cut off"):
        gunzip.inflate(packed, wanted, name="x.gz")


def test_too_short_says_both_sizes(inflater):
    with pytest.raises(DataError, match="promises 1,000 bytes, the file holds 4"):
        gunzip.inflate(gzip.compress(b"abcd"), 1000, name="x.gz")


def test_nothing_is_allocated_for_what_cannot_be_there(inflater):
    packed = gzip.compress(bytes(1000))
    tracemalloc.start()
    with pytest.raises(DataError, match="cannot hold that many"):
        gunzip.inflate(packed, 10**12, name="x.gz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_bound_holds_for_the_most_compressible_data():
    for size in (0, 1, 10_000, 10_000_000):
        assert size <= gunzip.most_inflated_bytes(len(gzip.compress(bytes(size), 9)))


def test_start_reads_little(inflater, tmp_path, content):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(content, 1)[:9000])  # cut off: the beginning is still there
    assert gunzip.inflate_start(path, 544, name="x") == content[:544]


def test_size_is_checked_without_keeping_anything(inflater, tmp_path, content):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(content[:100], 1) + gzip.compress(content[100:], 1))
    tracemalloc.start()
    gunzip.check_inflated_size(path, len(content), name="x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(content)
    with pytest.raises(DataError, match="the file holds 3,000,000"):
        gunzip.check_inflated_size(path, len(content) + 1, name="x")


def test_recorded_length_is_not_believed_beyond_what_deflate_can_hold(tmp_path):
    path = tmp_path / "x.gz"
    promise = 3_000_000_000
    path.write_bytes(gzip.compress(b"abc")[:-4] + promise.to_bytes(4, "little"))
    with pytest.raises(DataError, match="cannot hold that many"):
        gunzip.check_inflated_size(path, promise, name="x")


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400), st.binary(max_size=40), st.data())
def test_any_bytes_give_the_content_or_a_data_error(start, tail, data):
    packed = bytearray(gzip.compress(start) + tail)
    for _ in range(data.draw(st.integers(0, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    size = data.draw(st.integers(0, 500))
    try:
        got = gunzip.inflate(bytes(packed), size, name="x.gz")
    except DataError:
        return
    assert got.size == size
