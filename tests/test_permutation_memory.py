"""What a permutation test says that it needs is 1.0 to 1.2 times what it takes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from gpuroi.domains import VoxelGrid
from gpuroi.inference import permutation_test
from gpuroi.inference.memory import permutation_peak_bytes


@pytest.mark.parametrize(
    ("n", "dtype", "options", "said"),
    [
        (20, np.float32, {}, {}),
        (90, np.float32, {}, {}),
        (20, np.float64, {"cluster_threshold": 2.5}, {"needs_maps": True}),
        (20, np.float32, {"cluster_threshold": 2.5, "cluster_scale": "z"}, {"needs_maps": True, "as_z": True}),
    ],
)
def test_what_is_said_is_what_is_taken(monkeypatch, n, dtype, options, said):
    monkeypatch.setenv("GPUROI_NUM_THREADS", "1")
    rng = np.random.default_rng(0)
    shape = (32, 33, 34)
    grid = VoxelGrid(np.ones(shape, bool))
    x = np.column_stack([np.ones(n), np.arange(n) % 2, rng.standard_normal(n)])
    y = rng.standard_normal((n, grid.n_elements)).astype(dtype)

    def run():
        return permutation_test(y, x, [0, 1, 0], domain=grid, n_permutations=128, device="cpu", **options)

    run()  # compiled by now, and the neighbours found
    tracemalloc.start()
    result = run()
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.n_permutations == 128
    expected = permutation_peak_bytes(n, grid.n_elements, dtype, **said)
    assert 1.0 <= expected / taken <= 1.2, f"said {expected:,}, took {taken:,}"
