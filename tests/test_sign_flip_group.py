"""Sign flips that form a group: against the dense product, the laws of a group, and the ordinary engine."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.checking import check
from rig.host_kernels import interleaving
from scipy import stats

from gpuroi.backends import cuda_kernels
from gpuroi.backends.base import Backend
from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, UsageError
from gpuroi.inference import permutation_test
from gpuroi.inference.design import partition
from gpuroi.inference.projection import Projection, Rearranged, residuals
from gpuroi.inference.sign_flip_group import GroupFlips, sign_flip_group


def dense(e: np.ndarray, weights: np.ndarray, codes: np.ndarray, log2_k: int) -> np.ndarray:
    """Every sign by counting bits, every sum by a product in float64."""
    signs = np.array([[(-1.0) ** bin(g & int(c)).count("1") for c in codes] for g in range(1 << log2_k)])
    return np.einsum("gi,ji,ix->gjx", signs, weights, e.astype(np.float64))


# ---- the sums


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n", "w", "m", "log2_k"),
    [(1, 1, 1, 0), (5, 70, 1, 1), (13, 64, 2, 5), (40, 131, 3, 7), (9, 33, 1, 8), (70, 20, 2, 10), (6, 0, 1, 3)],
)
def test_sums_equal_the_dense_product(backend: Backend, dtype: Any, n: int, w: int, m: int, log2_k: int) -> None:
    rng = np.random.default_rng(n + w)
    e, weights = rng.standard_normal((n, w)).astype(dtype), rng.standard_normal((m, n))
    codes = rng.integers(0, 1 << (log2_k + 2), n)  # bits beyond log2_k are not looked at
    got = backend.sign_flip_sums(backend.asarray(e), weights, codes, log2_k)
    want = dense(e, weights, codes & ((1 << log2_k) - 1), log2_k)
    scale = np.abs(weights).sum() * max(1.0, np.abs(e).max(initial=0.0))
    check(got, want.astype(dtype), backend=backend, rtol=0, atol=4 * np.finfo(dtype).eps * scale)


@pytest.mark.kernels
@pytest.mark.parametrize(("seed", "blocks"), [(0, 2), (1, 1), (7, 5)])
@pytest.mark.parametrize("most_blocks", [65536, 1])
@pytest.mark.parametrize("log2_k", [3, 8])
def test_the_kernel_does_not_depend_on_the_order_of_its_threads(
    standin_cupy: Any, monkeypatch: pytest.MonkeyPatch, seed: int, blocks: int, most_blocks: int, log2_k: int
) -> None:
    from gpuroi.backends.cuda import cuda_backend

    monkeypatch.setattr(cuda_kernels, "_MOST_BLOCKS", (most_blocks, most_blocks))
    cuda, rng = cuda_backend(0), np.random.default_rng(9)
    e, codes = rng.integers(-9, 9, (50, 45)).astype(np.float32), rng.integers(0, 1 << log2_k, 50)
    with interleaving(seed, blocks):
        got = cuda.sign_flip_sums(cuda.asarray(e), np.ones((2, 50)), codes, log2_k)
    check(got, dense(e, np.ones((2, 50)), codes, log2_k).astype(np.float32), backend=cuda, rtol=0, atol=0)


def test_sums_of_no_weights_are_none(backend: Backend) -> None:
    e = backend.asarray(np.ones((4, 9), np.float32))
    assert backend.sign_flip_sums(e, np.empty((0, 4)), np.arange(4), 3).shape == (8, 0, 9)


def test_whole_numbers_are_summed_exactly(backend: Backend) -> None:
    rng = np.random.default_rng(5)
    e, codes = rng.integers(-50, 50, (60, 77)).astype(np.float32), rng.integers(0, 512, 60)
    got = backend.sign_flip_sums(backend.asarray(e), np.ones((1, 60)), codes, 9)
    check(got, dense(e, np.ones((1, 60)), codes, 9).astype(np.float32), backend=backend, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_do_not_depend_on_the_split_nor_on_the_layout(backend: Backend, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    e, weights, codes = rng.standard_normal((30, 1501)), rng.standard_normal((2, 30)), rng.integers(0, 256, 30)
    whole = backend.asarray(e.astype(dtype))
    want = backend.to_numpy(backend.sign_flip_sums(whole, weights, codes, 8))
    for cuts in ([0, 1, 1501], [0, 64, 700, 1501], [0, 333, 1000, 1500, 1501]):
        parts = [backend.sign_flip_sums(whole[:, a:b], weights, codes, 8) for a, b in itertools.pairwise(cuts)]
        np.testing.assert_array_equal(np.concatenate([backend.to_numpy(p) for p in parts], axis=2), want)
    gaps = backend.asarray(np.repeat(e.astype(dtype), 2, axis=1))[:, ::2]
    np.testing.assert_array_equal(backend.to_numpy(backend.sign_flip_sums(gaps, weights, codes, 8)), want)


# ---- the group


@given(st.integers(1, 40), st.integers(1, 600), st.integers(0, 2**63))
def test_the_flips_are_a_group(n: int, n_permutations: int, seed: int) -> None:
    group = sign_flip_group(n, n_permutations=n_permutations, seed=seed)
    signs = group.signs()
    assert signs.shape == (group.n, n)
    assert signs.dtype == np.int8
    assert (signs[0] == 1).all()  # the identity is the first
    assert group.n <= n_permutations < 2 * group.n or group.exhaustive
    assert group.exhaustive == (2**n <= n_permutations)
    assert group.n_distinct == 2**n
    flips = {row.tobytes() for row in signs}
    assert len(flips) == group.n  # no repeats
    some = np.random.default_rng(0).integers(0, group.n, (50, 2))
    for g, h in some:
        np.testing.assert_array_equal(signs[g] * signs[h], signs[g ^ h])  # closed, and the number of the product
    if not group.exhaustive:
        assert np.full(n, -1, np.int8).tobytes() not in flips


def test_codes_are_distinct_and_balanced() -> None:
    sparse = sign_flip_group(100, n_permutations=4096, seed=7)
    assert len(np.unique(sparse.codes)) == 100
    assert sparse.codes.min() > 0
    np.testing.assert_array_equal((sparse.signs() == 1).sum(0), 2048)  # every subject is flipped by half of them
    np.testing.assert_array_equal(np.sort(sign_flip_group(15, n_permutations=16).codes), np.arange(1, 16))
    dense_codes = sign_flip_group(70, n_permutations=16, seed=7)
    assert set(np.bincount(dense_codes.codes, minlength=16).tolist()) <= {4, 5}
    balanced = sign_flip_group(64, n_permutations=16, seed=7)
    np.testing.assert_array_equal(balanced.signs()[1:].sum(1, dtype=int), 0)  # as unlike the identity as can be


def test_a_group_is_a_function_of_the_seed() -> None:
    a, b, other = (sign_flip_group(50, n_permutations=1000, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a.codes, b.codes)
    assert not np.array_equal(a.codes, other.codes)
    assert a.n == 512
    assert a.describe() == {"n": 512, "exhaustive": False, "n_distinct": "2^50"}


def test_rows_are_signed_observations_in_any_chunks() -> None:
    group = sign_flip_group(20, n_permutations=300, seed=1)
    rows = group.rows()
    assert rows.dtype == np.int32
    assert rows.shape == (256, 20)
    np.testing.assert_array_equal(np.abs(rows), np.tile(np.arange(1, 21), (256, 1)))
    np.testing.assert_array_equal(np.sign(rows), group.signs())
    np.testing.assert_array_equal(np.concatenate([group.rows(0, 7), group.rows(7, 200), group.rows(200)]), rows)
    assert group.rows(9, 9).shape == (0, 20)
    with pytest.raises(UsageError, match="of 256"):
        group.rows(0, 257)


def test_whole_blocks_have_one_sign() -> None:
    blocks = np.array([2, 2, 1, 1, 1, 3])
    group = sign_flip_group(6, n_permutations=100, blocks=blocks, whole_blocks=True)
    assert group.exhaustive
    assert group.n == 8
    signs = group.signs()
    for block in (1, 2, 3):
        members = signs[:, blocks == block]
        assert (members == members[:, :1]).all()
    assert sign_flip_group(6, n_permutations=64, blocks=blocks).n == 64  # within blocks: a sign each


def test_observations_that_the_design_leaves_at_zero_need_no_sign() -> None:
    x = np.array([1.0, 0, 1, 1, 0, 1])
    group = sign_flip_group(6, n_permutations=100, x=x)
    assert group.exhaustive
    assert group.n == group.n_distinct == 16
    assert (group.signs()[:, x == 0] == 1).all()


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"n_permutations": 0}, UsageError, "n_permutations is 0"),
        ({"seed": -1}, UsageError, "seed is -1"),
        ({"x": np.zeros((9, 2))}, DataError, "0 everywhere"),
        ({"x": np.ones(4)}, DataError, r"shape \(4,\)"),
        ({"blocks": np.ones(4)}, DataError, "blocks have shape"),
    ],
)
def test_bad_input_is_refused(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sign_flip_group(9, **keywords)


# ---- the test


def one_sample(n: int = 23, v: int = 90, dtype: Any = np.float64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), rng.standard_normal(n), np.arange(n) % 2])
    return x, (rng.standard_normal((n, v)) + rng.standard_normal(v) / 2).astype(dtype)


@pytest.mark.parametrize("method", ["freedman-lane", "ter-braak", "draper-stoneman"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("contrast", [[1, 0, 0], [[1, 0, 0], [0, 1, 0]]], ids=["t", "F"])
def test_the_transform_and_the_product_give_the_same_test(
    backend: Backend, contrast: Any, dtype: Any, method: str
) -> None:
    x, y = one_sample(dtype=dtype)
    group = sign_flip_group(23, n_permutations=1000, seed=4)
    keywords: dict[str, Any] = {"method": method, "n_permutations": 1000, "seed": 4}
    got = permutation_test(backend.asarray(y), x, contrast, errors="ise", flips="group", **keywords)
    want = permutation_test(backend.asarray(y), x, contrast, permutations=group.rows(), method=method)
    assert got.n_permutations == 512
    assert got.settings["flips"] == "group"
    assert not got.exhaustive
    np.testing.assert_array_equal(got.statistic, want.statistic)
    np.testing.assert_allclose(got.null["max_stat"], want.null["max_stat"], rtol=200 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(got.p, want.p)
    np.testing.assert_array_equal(got.p_fwe, want.p_fwe)


def test_whole_blocks_of_flips_take_the_transform_and_others_the_product(backend: Backend) -> None:
    calls: list[int] = []

    def counted(e: Any, weights: Any, codes: Any, log2_k: int) -> Any:
        calls.append(log2_k)
        return backend.sign_flip_sums(e, weights, codes, log2_k)

    x, y = one_sample(n=21, v=70)
    part, group = partition(x, [1, 0, 0]), sign_flip_group(21, n_permutations=512)
    e, *_ = residuals(backend, backend.asarray(y), part, y.dtype)
    projection = Projection.of(part, "freedman-lane", flips=True)
    plain = Rearranged(backend, e, projection, 64, 50)
    fast = GroupFlips(dataclasses.replace(backend, sign_flip_sums=counted), e, projection, 64, 50, group)
    for start, stop, log2_k in [(0, 64, 6), (448, 512, 6), (96, 104, 3), (511, 512, 0), (1, 65, None), (64, 70, None)]:
        calls.clear()
        got, want = (source.prepare(group.rows(start, stop)) for source in (fast, plain))
        assert fast.parts() == plain.parts() == [slice(0, 50), slice(50, 70)]
        for block in fast.parts():
            check(got(block), backend.to_numpy(want(block)), backend=backend, rtol=1e-11, atol=1e-12)
        assert set(calls) == (set() if log2_k is None else {log2_k})


def test_clusters_and_tfce_are_those_of_the_product(backend: Backend) -> None:
    rng = np.random.default_rng(8)
    domain = VoxelGrid(np.ones((5, 6, 7), bool))
    y = rng.standard_normal((18, domain.n_elements))
    y[:, :30] += 0.8
    group = sign_flip_group(18, n_permutations=256, seed=2)
    keywords: dict[str, Any] = {"domain": domain, "cluster_threshold": 2.0, "tfce": True}
    data, x = backend.asarray(y), np.ones((18, 1))
    got = permutation_test(data, x, [1], errors="ise", flips="group", n_permutations=256, seed=2, **keywords)
    want = permutation_test(data, x, [1], permutations=group.rows(), **keywords)
    for name, values in want.null.items():
        np.testing.assert_allclose(got.null[name], values, rtol=1e-9, err_msg=name)
    assert got.cluster_table is not None
    assert want.cluster_table is not None
    np.testing.assert_array_equal(got.cluster_table["p_size_fwe"], want.cluster_table["p_size_fwe"])
    np.testing.assert_array_equal(got.tfce_p_fwe, want.tfce_p_fwe)


def test_elements_that_stop_early_are_those_of_the_product() -> None:
    x, y = one_sample(v=150)
    group = sign_flip_group(23, n_permutations=1024, seed=6)
    keywords: dict[str, Any] = {"early_stop": 8, "device": "cpu"}
    got = permutation_test(y, x, [1, 0, 0], errors="ise", flips="group", n_permutations=1024, seed=6, **keywords)
    want = permutation_test(y, x, [1, 0, 0], permutations=group.rows(), **keywords)
    np.testing.assert_array_equal(got.p, want.p)
    np.testing.assert_array_equal(got.null["n_run"], want.null["n_run"])
    assert 0 < (want.null["n_run"] < 1024).sum() < 150


def test_all_flips_are_the_exhaustive_test(backend: Backend) -> None:
    y = backend.asarray(np.random.default_rng(1).standard_normal((9, 40)))
    got = permutation_test(y, np.ones((9, 1)), [1], errors="ise", flips="group")
    want = permutation_test(y, np.ones((9, 1)), [1], errors="ise")
    assert got.exhaustive
    assert got.n_permutations == want.n_permutations == 512
    np.testing.assert_allclose(got.null["max_stat"], want.null["max_stat"], rtol=1e-10)
    np.testing.assert_array_equal(got.p, want.p)


def test_results_do_not_depend_on_threads_nor_on_a_stop_in_between() -> None:
    x, y = one_sample(v=3000)
    keywords: dict[str, Any] = {"errors": "ise", "flips": "group", "n_permutations": 1024, "device": "cpu"}
    states: list[Any] = []
    want = permutation_test(y, x, [1, 0, 0], n_jobs=1, checkpoint=states.append, **keywords)
    assert [state.done for state in states] == [256, 512, 768, 1024]
    for state in (None, states[1]):
        got = permutation_test(y, x, [1, 0, 0], n_jobs=3, resume=state, **keywords)
        np.testing.assert_array_equal(got.null["max_stat"], want.null["max_stat"])
        np.testing.assert_array_equal(got.p, want.p)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"errors": "ise", "flips": "subgroup"}, 'flips is "subgroup"'),
        ({"errors": "both", "flips": "group"}, 'errors="both"'),
        ({"errors": "ise", "flips": "group", "permutations": [[1, 2, 3]]}, "permutations of your own"),
    ],
)
def test_a_group_goes_with_sign_flips_alone(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        permutation_test(np.eye(3), np.ones((3, 1)), [1], device="cpu", **keywords)


@pytest.mark.parametrize("two_sided", [True, False])
def test_size_of_the_maximum_under_the_null(two_sided: bool) -> None:
    """FWE at 5 % lies in the 99 % binomial interval: 600 data sets of correlated, heavy-tailed, symmetric errors."""
    rng = np.random.default_rng(20)
    n_sets, v, rejected = 600, 200, 0
    for k in range(n_sets):
        n = 12 + k % 9
        scale = rng.uniform(0.5, 2, (n, 1))  # subjects differ in variance: symmetry is all that is asked for
        y = scale * (rng.standard_t(5, (n, v)) + rng.standard_t(5, (n, 1)))
        result = permutation_test(
            y, np.ones((n, 1)), [1], errors="ise", flips="group", n_permutations=256, seed=k, two_sided=two_sided
        )
        rejected += bool(np.nanmin(result.p_fwe) <= 0.05)
    level = np.floor(0.05 * 256) / 256
    low, high = stats.binom.ppf([0.005, 0.995], n_sets, level)
    assert low <= rejected <= high
