"""TFCE against its definition, a sum of many steps, nilearn, and PALM's and MRtrix3's output on real maps."""

from __future__ import annotations

import functools
import tracemalloc
import warnings
from typing import Any

import graph_oracles as oracle
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rig.checking import check, host
from test_clusters import DOMAINS, flat_grid, golden, z_of_flips

from gpuroi.backends import get_backend
from gpuroi.backends.graph import Graph
from gpuroi.backends.tfce_rule import tfce_rule
from gpuroi.backends.threads import limited_threads
from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, UsageError
from gpuroi.inference import tfce

RTOL = {np.float32: 3e-7, np.float64: 1e-12}


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("step", ["exact", 0.17, "max/100"])
def test_every_domain_against_the_definition(backend, name, dtype, step):
    domain = DOMAINS[name]
    for seed, two_sided in ((0, True), (1, False)):
        x = oracle.values_on(domain, seed, dtype)
        want = oracle.tfce(x, domain, 2.0, 0.5, step, two_sided=two_sided)
        got = tfce(backend.asarray(x), domain, step=step, two_sided=two_sided)
        check(got, want.astype(dtype), backend=backend, rtol=RTOL[dtype])
        assert (host(got)[x < 0] == 0).all() != two_sided or not (x < 0).any() or step != "exact"


@pytest.mark.parametrize(("H", "E"), [(2.0, 1.0), (1.0, 0.5), (1.0, 1.0), (1.7, 0.6), (3.0, 2.0), (0.5, 0.25)])
@pytest.mark.parametrize("name", ["6", "weighted"])
@pytest.mark.parametrize("step", ["exact", 0.05])
def test_other_exponents(backend, H, E, name, step):
    domain = DOMAINS[name]
    x = oracle.values_on(domain, 3, np.float64)
    want = oracle.tfce(x, domain, H, E, step, two_sided=True)
    check(tfce(backend.asarray(x), domain, H=H, E=E, step=step), want, backend=backend, rtol=1e-11)


@functools.cache
def many_steps() -> tuple[np.ndarray, np.ndarray]:
    """A small map and its sum over 10 000 thresholds, labelled one by one: no component tree anywhere."""
    x = oracle.values_on(flat_grid(3, 4, 4), 4, np.float64)
    return x, oracle.tfce(x, flat_grid(3, 4, 4), 2.0, 0.5, np.abs(x).max() / 10_000, two_sided=True)


def test_a_fine_step_comes_close_to_the_integral(backend):
    domain = flat_grid(3, 4, 4)
    x, summed = many_steps()
    exact = host(tfce(backend.asarray(x), domain))
    np.testing.assert_allclose(exact, summed, rtol=2e-4, atol=1e-4 * np.abs(exact).max())
    fine = tfce(backend.asarray(x), domain, step=np.abs(x).max() / 10_000)
    np.testing.assert_allclose(host(fine), summed, rtol=1e-10)


@pytest.mark.parametrize("H", [0.5, 1.0, 2.0, 2.5])
def test_sums_of_powers_go_on_beyond_their_table(H):
    rule = tfce_rule(H, 0.1)
    for k in (5_000.0, 100_000.0):
        want = np.sum(np.arange(1, k + 1, dtype=np.longdouble) ** H)
        got = k**H * (k / (H + 1) + 0.5 + H / (12 * k)) + rule.constant
        np.testing.assert_allclose(got, float(want), rtol=1e-14)


@pytest.mark.parametrize("H", [0.5, 2.0])
def test_more_steps_than_the_table_holds(backend, H):
    """Three elements in a row: extents of 3 up to 5, of 2 up to 4200, of 1 up to 50 000."""
    sums = np.cumsum(np.arange(0.0, 50_001) ** H)
    low = np.sqrt(3) * sums[5]
    middle = low + np.sqrt(2) * (sums[4200] - sums[5])
    high = middle + sums[50_000] - sums[4200]
    x = backend.asarray(np.array([5.0, 4200.0, 50_000.0]))
    check(tfce(x, flat_grid(1, 1, 3), H=H, step=1.0), np.array([low, middle, high]), backend=backend, rtol=1e-12)


@given(hnp.arrays(np.float32, (3, 3, 4), elements=st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, np.nan])))
def test_plateaus_and_missing_values(volume):
    domain = flat_grid(3, 3, 4)
    x = volume.ravel()
    for step in ("exact", 0.25, "max/100"):
        want = oracle.tfce(x, domain, 2.0, 0.5, step, two_sided=True)
        np.testing.assert_allclose(tfce(x, domain, step=step), want, rtol=3e-7, atol=1e-30)


@pytest.mark.parametrize("value", [2.0, -3.0])
def test_all_equal_is_one_cluster(backend, value):
    got = tfce(backend.asarray(np.full(60, value)), flat_grid(3, 4, 5))
    check(got, np.full(60, np.sign(value) * np.sqrt(60) * abs(value) ** 3 / 3), backend=backend, rtol=1e-14)


def test_all_negative_is_zero_when_one_sided(backend):
    x = backend.asarray(-np.arange(1, 28, dtype=np.float32))
    check(tfce(x, flat_grid(3, 3, 3), two_sided=False), np.zeros(27, np.float32), backend=backend)
    _, largest = backend.tfce(x[None], flat_grid(3, 3, 3).graph, 2.0, 0.5, None, False, False)
    check(largest, np.zeros(1), backend=backend)


def test_no_maps_and_no_elements(backend):
    grid = flat_grid(3, 3, 3)
    out, largest = backend.tfce(backend.xp.zeros((0, 27), np.float32), grid.graph, 2.0, 0.5, "exact", True, True)
    check(out, np.zeros((0, 27), np.float32), backend=backend)
    check(largest, np.zeros(0), backend=backend)
    none = Graph(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0))
    out, largest = backend.tfce(backend.xp.zeros((2, 0), np.float32), none, 2.0, 0.5, "exact", True, True)
    check(out, np.zeros((2, 0), np.float32), backend=backend)
    check(largest, np.zeros(2), backend=backend)
    assert backend.tfce(backend.xp.zeros((2, 27)), grid.graph, 2.0, 0.5, "exact", True, False)[0] is None


def test_infinite_values_count_as_the_largest_finite_one(backend):
    domain = flat_grid(1, 2, 3)
    x = np.array([np.inf, 3, 1, -np.inf, -2, np.nan], np.float32)
    finite = np.array([3, 3, 1, -3, -2, 0], np.float32)
    for step in ("exact", 0.3, "max/100"):
        with pytest.warns(RuntimeWarning, match="2 infinite values"):
            got = tfce(backend.asarray(x), domain, step=step)
        check(got, host(tfce(backend.asarray(finite), domain, step=step)), backend=backend, rtol=1e-6)
    with pytest.warns(RuntimeWarning, match="1 infinite"):
        alone = tfce(backend.asarray(np.array([np.inf])), flat_grid(1, 1, 1))
    check(alone, np.array([1 / 3]), backend=backend, rtol=1e-15)


def test_leading_axes_are_maps_apart_and_integers_become_floats(backend):
    domain = DOMAINS["6"]
    maps = np.stack([oracle.values_on(domain, seed) for seed in range(6)]).reshape(2, 3, -1)
    got = tfce(backend.asarray(maps), domain)
    assert got.shape == maps.shape
    for index in np.ndindex(2, 3):
        check(got[index], host(tfce(backend.asarray(maps[index]), domain)), backend=backend)
    whole = np.round(3 * maps[0, 0]).astype(np.int16)
    check(
        tfce(backend.asarray(whole), domain), host(tfce(backend.asarray(whole.astype("f4")), domain)), backend=backend
    )


def test_the_largest_is_that_of_the_map_to_the_bit(backend):
    """An observed map is compared with maxima: rounding must not part the two."""
    for name in ("6", "weighted"):
        domain = DOMAINS[name]
        for dtype in (np.float32, np.float64):
            maps = backend.asarray(np.stack([oracle.values_on(domain, seed, dtype) for seed in range(8)]))
            out, largest = backend.tfce(maps, domain.graph, 2.0, 0.5, "exact", True, True)
            check(largest, np.abs(host(out)).max(axis=1).astype(np.float64), backend=backend)
            none, same = backend.tfce(maps, domain.graph, 2.0, 0.5, None, True, False)
            assert none is None
            check(same, host(largest), backend=backend)


def test_the_same_bits_for_every_batch_and_number_of_threads(backend):
    domain = DOMAINS["26"]
    maps = backend.asarray(np.stack([oracle.values_on(domain, seed) for seed in range(9)]))
    whole = host(tfce(maps, domain))
    for n in (1, 3):
        with limited_threads(n):
            parts = [host(tfce(maps[i : i + n], domain)) for i in range(0, 9, n)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_scratch_is_left_clean_from_map_to_map():
    """One thread goes through maps of all kinds: nothing of one may show in the next."""
    domain = DOMAINS["18"]
    rng = np.random.default_rng(5)
    maps = [oracle.values_on(domain, seed) * rng.choice([1, -1]) for seed in range(6)]
    maps[2:2] = [np.zeros_like(maps[0]), np.full_like(maps[0], 2), np.full_like(maps[0], np.nan)]
    with limited_threads(1):
        together = tfce(np.stack(maps), domain)
    for x, got in zip(maps, together, strict=True):
        np.testing.assert_array_equal(got, tfce(x, domain))


@pytest.mark.parametrize("name", ["6", "surface", "hub"])
def test_scale_sign_and_order_of_the_elements(name):
    domain = DOMAINS[name]
    x = oracle.values_on(domain, 6, np.float64)
    enhanced = tfce(x, domain)
    np.testing.assert_allclose(tfce(3 * x, domain), 27 * enhanced, rtol=1e-12)
    np.testing.assert_array_equal(tfce(-x, domain), -enhanced)
    np.testing.assert_array_equal(np.maximum(enhanced, 0), tfce(x, domain, two_sided=False))
    order = np.random.default_rng(7).permutation(domain.n_elements)
    shuffled = oracle.adjacency(domain)[order][:, order].tocsr()
    shuffled.sort_indices()
    graph = Graph(shuffled.indptr.astype(np.int64), shuffled.indices.astype(np.int32), domain.weights[order])
    got, _ = get_backend("cpu").tfce(x[order][None], graph, 2.0, 0.5, "exact", True, True)
    np.testing.assert_allclose(got[0], enhanced[order], rtol=1e-12)


def test_many_keys_and_few_keys_sort_alike():
    """More than 2048 elements take longer digits."""
    domain = flat_grid(20, 20, 20)
    for dtype in (np.float32, np.float64):
        x = oracle.values_on(domain, 8, dtype)
        part = tfce(x, domain)
        heights = np.unique(np.abs(x))
        assert len(heights) > 7000
        summed = oracle.tfce(x, domain, 2.0, 0.5, 0.05, two_sided=True)
        np.testing.assert_allclose(tfce(x, domain, step=0.05), summed, rtol=RTOL[dtype], atol=1e-30)
        assert np.abs(part - summed).max() < 0.05 * np.abs(summed).max()


# ---- other programs


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_one_hundred_steps_equal_nilearn_times_dh(connectivity):
    from nilearn.mass_univariate._utils import calculate_tfce

    mask = np.ones((9, 8, 7), bool)
    domain = VoxelGrid(mask, connectivity=connectivity)
    x = oracle.values_on(domain, 9, np.float64)
    theirs = calculate_tfce(
        x.reshape(9, 8, 7, 1), oracles.STRUCTURES[connectivity], dh="auto", two_sided_test=False
    ).ravel()
    np.testing.assert_allclose(
        tfce(x, domain, step="max/100", two_sided=False), theirs * x.max() / 100, rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("case", ["onesample_flip_exhaustive10", "onesample_flip_n30"])
def test_one_hundred_steps_equal_palm(case):
    z, grid = z_of_flips(case, slice(0, 25))
    graph = grid.with_connectivity(6).graph
    enhanced, largest = get_backend("cpu").tfce(z, graph, 2.0, 0.5, "max/100", False, True)
    np.testing.assert_allclose(largest, golden(case, "palm_tfce_tstat_max.csv")[:25, 0], rtol=1e-6)
    observed = golden(case, "palm_tfce_tstat.nii.gz")[grid.mask][:, 0]
    np.testing.assert_allclose(enhanced[0], observed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("connectivity", [6, 26])
def test_steps_of_a_tenth_equal_mrtrix_over_ten(connectivity):
    case = "regression_freedmanlane_n30"
    mask = golden(case, "mask.nii.gz")[..., 0] > 0
    z = golden(case, "mrtrix_Zstat.nii.gz")[mask][:, 0]
    theirs = golden(case, f"mrtrix_t{connectivity}_tfce.nii.gz")[mask][:, 0]
    ours = tfce(z, VoxelGrid(mask, connectivity=connectivity), step=0.1, two_sided=False)
    np.testing.assert_allclose(10 * ours, theirs, rtol=1e-5, atol=1e-5)
    assert theirs.max() > 100


# ---- memory and errors


@pytest.mark.parametrize(("connectivity", "dtype", "bytes_each"), [(6, "f4", 84), (26, "f4", 164), (6, "f8", 92)])
def test_peak_memory_of_an_element(connectivity, dtype, bytes_each):
    domain = flat_grid(50, 50, 50).with_connectivity(connectivity)
    x = np.random.default_rng(0).standard_normal((1, domain.n_elements)).astype(dtype)
    backend, graph = get_backend("cpu"), domain.graph
    backend.tfce(x, graph, 2.0, 0.5, "exact", True, False)
    tracemalloc.start()
    backend.tfce(x, graph, 2.0, 0.5, "exact", True, False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak == pytest.approx(bytes_each * x.size, rel=0.02)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"H": 0}, UsageError, "H is 0"),
        ({"E": -0.5}, UsageError, "E is -0.5"),
        ({"E": np.inf}, UsageError, "E is inf"),
        ({"step": 0}, UsageError, "step is 0"),
        ({"step": "auto"}, UsageError, "step is 'auto'"),
        ({"step": np.nan}, UsageError, "step is nan"),
        ({"map": np.zeros(26)}, DataError, "27 elements"),
        ({"map": np.zeros((27, 2))}, DataError, "27 elements"),
        ({"domain": None}, DataError, "VoxelGrid"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], error: type[Exception], words: str) -> None:
    given: dict[str, Any] = {"map": np.zeros(27), "domain": flat_grid(3, 3, 3), **change}
    with pytest.raises(error, match=words):
        tfce(**given)


def test_no_warning_for_ordinary_maps():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tfce(np.zeros((2, 27)), flat_grid(3, 3, 3)).tolist() == np.zeros((2, 27)).tolist()
