"""Products on tensor cores: how far split operands are from the truth, with the rounding of the accumulators emulated.

The stand-in's `gemmEx` adds as the least exact tensor core does (`rig.tensor_core`): what is asserted here holds on
every device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rig.checking import host
from rig.standin_device import Meter
from rig.tensor_core import tensor_core_product

from gpuroi.backends.base import Backend
from gpuroi.errors import UsageError


@pytest.fixture
def split(standin_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> Backend:
    from gpuroi.backends.cuda import cuda_backend

    monkeypatch.setenv("GPUROI_PRODUCT", "float16x2")
    return cuda_backend(0)


def unit_vectors(shape: tuple[int, int], axis: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape)
    values -= values.mean(axis=axis, keepdims=True)
    return values / np.linalg.norm(values, axis=axis, keepdims=True)


def t_of(u: np.ndarray, n: int) -> np.ndarray:
    """t of an inner product of unit vectors, one regressor and an intercept."""
    return u * np.sqrt((n - 2) / (1 - u * u))


def related(n: int, w: int, weights: np.ndarray) -> np.ndarray:
    """Columns of unit length whose t with the first rows of weights runs from 0 to 12, float32."""
    e = unit_vectors((n, w), 0, 1)
    t = np.linspace(0, 12, w)
    u = t / np.sqrt(n - 2 + t * t)
    e -= weights[0][:, None] * (weights[0] @ e)
    e = e / np.linalg.norm(e, axis=0) * np.sqrt(1 - u * u) + weights[0][:, None] * u
    return e.astype(np.float32)


@pytest.mark.kernels
@pytest.mark.parametrize("n", [24, 100, 1000, 4000])
@pytest.mark.parametrize("kind", ["covariate", "flips"])
def test_t_is_right_to_1e_5(split: Backend, n: int, kind: str) -> None:
    weights = unit_vectors((6, n), 1, 2)
    if kind == "flips":
        weights = np.where(weights > 0, 1, -1) / np.sqrt(n)
    e = related(n, 41, weights)
    u = weights @ e.astype(np.float64)
    got = host(split.products(split.asarray(e))(weights)).astype(np.float64)
    assert got.shape == (6, 41)
    assert np.abs(t_of(u, n)).max() > (11.9 if kind == "covariate" else 3)
    np.testing.assert_allclose(t_of(got, n), t_of(u, n), rtol=1e-5, atol=1e-5)
    # the margin within which permute.py takes two statistics for equal is wider than the error
    assert np.abs(got - u).max() < 32 * np.finfo(np.float32).eps


def test_one_part_alone_would_not_do() -> None:
    n = 1000
    weights = unit_vectors((6, n), 1, 2)
    e = related(n, 41, weights)
    u = weights @ e.astype(np.float64)
    alone = tensor_core_product(weights.astype(np.float16), e.astype(np.float16)).astype(np.float64)
    assert np.abs(t_of(alone, n) - t_of(u, n)).max() > 1e-4


@pytest.mark.parametrize("k", [1, 4, 9, 64])
def test_the_emulated_tensor_core_is_exact_where_nothing_is_cut(k: int) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(-9, 9, (5, k)).astype(np.float16), rng.integers(-9, 9, (k, 7)).astype(np.float16)
    np.testing.assert_array_equal(tensor_core_product(a, b), a.astype(np.float64) @ b.astype(np.float64))


def test_the_emulated_tensor_core_never_rounds_away_from_zero() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.random((5, 200)).astype(np.float16), rng.random((200, 7)).astype(np.float16)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    got = tensor_core_product(a, b)
    assert (got <= exact).all()
    np.testing.assert_allclose(got, exact, rtol=200 * 2.0**-24)


@pytest.mark.kernels
def test_shapes_that_are_no_multiples_of_eight(split: Backend) -> None:
    for m, n, w in [(1, 1, 1), (3, 8, 16), (2, 257, 5), (5, 513, 9)]:
        weights, e = unit_vectors((m, n + 1), 1, 5)[:, :n], unit_vectors((n + 1, w), 0, 6)[:n].astype(np.float32)
        got = split.products(split.asarray(e))(weights)
        assert (got.dtype, got.shape) == (np.float32, (m, w))
        np.testing.assert_allclose(host(got), weights @ e, atol=1e-6)


@pytest.mark.kernels
def test_the_matrix_is_split_once_and_nothing_waits(split: Backend, device_meter: Meter) -> None:
    weights, e = unit_vectors((8, 600), 1, 7), split.asarray(unit_vectors((600, 48), 0, 8).astype(np.float32))
    device_meter.reset()
    multiply = split.products(e)
    first, used = multiply(weights), device_meter.used_bytes
    assert (device_meter.syncs, device_meter.d2h_bytes) == (0, 0)
    assert device_meter.h2d_bytes == 8 * 1200 * 2  # the weights, in two parts
    assert device_meter.launches == {"gemmEx": 1 + 3}  # low parts; 600 observations in runs of 256
    again = multiply(weights)
    assert device_meter.used_bytes - used == first.nbytes
    np.testing.assert_array_equal(host(again), host(first))


@pytest.mark.kernels
def test_float32_is_the_default_and_float64_stays(
    standin_cupy: Any, device_meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpuroi.backends.cuda import cuda_backend

    cuda = cuda_backend(0)
    weights, e = unit_vectors((4, 30), 1, 9), unit_vectors((30, 8), 0, 10)
    monkeypatch.delenv("GPUROI_PRODUCT", raising=False)
    plain = cuda.products(cuda.asarray(e.astype(np.float32)))(weights)
    np.testing.assert_array_equal(host(plain), weights.astype(np.float32) @ e.astype(np.float32))
    monkeypatch.setenv("GPUROI_PRODUCT", "float16x2")
    np.testing.assert_array_equal(host(cuda.products(cuda.asarray(e))(weights)), weights @ e)
    monkeypatch.setattr(type(cuda.xp.cuda.Device()), "compute_capability", "61")  # no tensor cores
    older = cuda.products(cuda.asarray(e.astype(np.float32)))(weights)
    np.testing.assert_array_equal(host(older), host(plain))
    assert not device_meter.launches
    monkeypatch.setenv("GPUROI_PRODUCT", "tf32")
    with pytest.raises(UsageError, match='GPUROI_PRODUCT is "tf32"'):
        cuda.products(cuda.asarray(e.astype(np.float32)))


@pytest.mark.kernels
def test_p_values_are_those_of_the_cpu(split: Backend, monkeypatch: pytest.MonkeyPatch, device_meter: Meter) -> None:
    """A whole permutation test, whose products go through the tensor cores."""
    from gpuroi.backends import probe
    from gpuroi.backends.probe import CudaDevice, CudaStatus
    from gpuroi.inference import permutation_test

    found = (CudaDevice("stand-in", "9.0", 1 << 30, None),)
    monkeypatch.setattr(probe, "probe", lambda: CudaStatus(usable=True, devices=found))
    rng = np.random.default_rng(11)
    design = np.column_stack([np.ones(26), rng.standard_normal((26, 2))])
    data = rng.standard_normal((26, 150)).astype(np.float32)
    data[:, :9] += design[:, 1:2].astype(np.float32)
    results = {
        device: permutation_test(data, design, [0, 1, 0], n_permutations=160, seed=3, device=device)
        for device in ("cpu", "cuda")
    }
    assert device_meter.launches["gemmEx"] > 0
    np.testing.assert_array_equal(results["cuda"].p, results["cpu"].p)
    np.testing.assert_array_equal(results["cuda"].p_fwe, results["cpu"].p_fwe)
    np.testing.assert_allclose(results["cuda"].null["max_stat"], results["cpu"].null["max_stat"], rtol=1e-5)
