"""What an op says that it needs is 1.0 to 1.2 times what it takes."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest

import gpuroi
from gpuroi.errors import UsageError
from gpuroi.ops import peak_bytes

SHAPE = (4, 50, 51, 52)
BINARY_OPS = ("label", "binary_dilation", "binary_erosion", "binary_fill_holes")
TWO_SAMPLES = ("ttest_rel", "ttest_ind", "f_oneway")
CASES = {
    "threshold": ("threshold", {}, lambda x, m: gpuroi.threshold(x, 1.0)),
    "threshold-mask": ("threshold", {"masked": True}, lambda x, m: gpuroi.threshold(x, 1.0, mask=m)),
    "threshold-clusters": (
        "threshold", {"clusters": True}, lambda x, m: gpuroi.threshold(x, 1.5, cluster_threshold=3)
    ),
    "threshold-percentile": ("threshold", {"percentile": True}, lambda x, m: gpuroi.threshold(x, "97%")),
    "smooth": ("smooth", {}, lambda x, m: gpuroi.smooth(x, 6.0, 2.0)),
    "smooth-mask": ("smooth", {"masked": True}, lambda x, m: gpuroi.smooth(x, 6.0, 2.0, mask=m)),
    "ttest_1samp": ("ttest_1samp", {}, lambda x, m: gpuroi.ttest_1samp(x)),
    "ttest_rel": ("ttest_rel", {}, lambda x, m: gpuroi.ttest_rel(x, x)),
    "ttest_ind": ("ttest_ind", {}, lambda x, m: gpuroi.ttest_ind(x, x)),
    "f_oneway": ("f_oneway", {}, lambda x, m: gpuroi.f_oneway(x, x)),
    "label": ("label", {}, lambda x, m: gpuroi.label(x)),
    "dilation": ("binary_dilation", {}, lambda x, m: gpuroi.binary_dilation(x)),
    "dilation-5": ("binary_dilation", {"iterations": 5}, lambda x, m: gpuroi.binary_dilation(x, 6, 5)),
    "erosion": ("binary_erosion", {}, lambda x, m: gpuroi.binary_erosion(x)),
    "fill-holes": ("binary_fill_holes", {}, lambda x, m: gpuroi.binary_fill_holes(x)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("case", CASES)
def test_what_is_said_is_what_is_taken(backend, device_meter, monkeypatch, case, dtype):
    monkeypatch.setenv("GPUROI_NUM_THREADS", "1")  # so that no thread is ahead of another's scratch
    if backend.name == "cuda" and os.environ.get("GPUROI_TEST_CUDA") == "1":
        pytest.skip("a real device has no meter: the stand-in's is what is asked here")
    op, options, work = CASES[case]
    rng = np.random.default_rng(0)
    values = (100 * rng.standard_normal(SHAPE)).astype(dtype) if dtype == np.int16 else rng.standard_normal(SHAPE)
    values = values > 1.0 if op in BINARY_OPS else values.astype(dtype)
    data, mask = backend.asarray(values), backend.asarray(rng.random(SHAPE[1:]) < 0.8)
    work(data, mask)  # compiled and loaded by now
    n = SHAPE[0] * (2 if op in TWO_SAMPLES else 1)
    said = peak_bytes(op, (n, *SHAPE[1:]), values.dtype, device=backend.device, **options)
    if backend.name == "cpu":
        tracemalloc.start()
        result = work(data, mask)
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    else:
        before = device_meter.used_bytes
        device_meter.reset()
        result = work(data, mask)
        taken = device_meter.peak_bytes - before
    assert result is not None
    assert 1.0 <= said / taken <= 1.2, f"said {said:,}, took {taken:,}"


def test_unknown_ops_are_refused():
    with pytest.raises(UsageError, match="no op"):
        peak_bytes("sharpen", (3, 3, 3))
