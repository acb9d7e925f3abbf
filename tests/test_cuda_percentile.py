"""Order statistics by radix select: against `numpy.percentile`, to the last bit, whatever the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rig.checking import host
from rig.host_kernels import interleaving
from rig.standin_device import Meter

from gpuroi.backends.base import Backend

pytestmark = pytest.mark.kernels


@pytest.fixture
def cuda(standin_cupy: Any) -> Backend:
    from gpuroi.backends.cuda import cuda_backend

    return cuda_backend(0)


def expected(values: np.ndarray, inside: np.ndarray, q: float, two_sided: bool) -> list[float]:
    """NumPy's percentile of what counts, map by map."""
    found = []
    for x in values.astype(np.float64)[:, inside]:
        population = np.abs(x) if two_sided else x[x >= 0]
        population = population[~np.isnan(population)]
        found.append(np.percentile(population, q) if population.size else np.nan)
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("seed", "blocks"), [(0, 2), (7, 5)])
def test_percentiles_of_smooth_tied_and_denormal_values(cuda: Backend, dtype: Any, seed: int, blocks: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 3000)).astype(dtype)
    values[1] = np.round(values[1])
    values[2] *= np.finfo(dtype).tiny  # about half of them denormal
    values[3] = 2.5
    values[4] = 10.0 ** rng.uniform(-30, 30, 3000) * rng.choice([-1, 1], 3000)
    values[5, ::3] = -0.0
    inside = rng.random(3000) < 0.7
    with interleaving(seed, blocks):
        for q, two_sided in ((0, True), (2.5, False), (50, True), (97, False), (99.99, True), (100, False)):
            got = host(cuda.percentile(cuda.asarray(values), cuda.asarray(inside), q, two_sided))
            np.testing.assert_array_equal(got, expected(values, inside, q, two_sided))


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 40)), elements=st.floats(-5, 5, width=32)),
    st.floats(0, 100),
    st.booleans(),
)
def test_any_small_map(cuda: Backend, values: np.ndarray, q: float, two_sided: bool) -> None:
    got = host(cuda.percentile(cuda.asarray(values), None, q, two_sided))
    np.testing.assert_array_equal(got, expected(values, np.ones(values.shape[1], bool), q, two_sided))


def test_one_launch_and_nothing_else(cuda: Backend, device_meter: Meter) -> None:
    values = cuda.asarray(np.random.default_rng(1).standard_normal((50, 64)).astype(np.float32))
    device_meter.reset()
    before = device_meter.used_bytes
    cuda.percentile(values, None, 97.0, True)
    assert device_meter.quiet
    assert device_meter.launches == {"percentile": 1}
    assert device_meter.peak_bytes - before == 50 * 8  # the cutoffs: no copy of the maps
