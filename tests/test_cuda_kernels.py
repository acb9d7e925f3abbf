"""The CUDA kernels against SciPy and brute force: the same source, run on the CPU in several orders of its threads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import oracles
import pytest
from rig.checking import check, host
from rig.host_kernels import KernelError, interleaving
from scipy import ndimage, special, stats

from gpuroi.backends import cuda_kernels
from gpuroi.backends.base import Backend

pytestmark = pytest.mark.kernels

SHAPES = [(1, 1, 1), (6, 9, 11), (1, 1, 700), (17, 1, 3), (2, 3, 130), (16, 17, 33)]


@pytest.fixture(params=[(0, 2), (1, 1), (7, 5)], ids=lambda p: f"seed{p[0]}")
def cuda(request: pytest.FixtureRequest, standin_cupy: Any) -> Iterator[Backend]:
    """The CUDA backend on the stand-in, its kernels in one interleaving."""
    from gpuroi.backends.cuda import cuda_backend

    seed, blocks = request.param
    with interleaving(seed, blocks):
        yield cuda_backend(0)


@pytest.fixture
def one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every launch stride over its whole work in a single block."""
    monkeypatch.setattr(cuda_kernels, "_MOST_BLOCKS", (1, 1))


LAYOUTS = ("c", "nifti", "strided")


def on_device(cuda: Backend, volumes: np.ndarray, layout: str) -> Any:
    """Copy a batch to the device: as it is, as a NIfTI image lies in memory (X fastest, maps slowest), or with gaps."""
    if layout == "nifti":
        return cuda.asarray(np.asfortranarray(volumes.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2))
    if layout == "c":
        return cuda.asarray(volumes)
    wide = cuda.xp.zeros((*volumes.shape[:3], 2 * volumes.shape[3]), volumes.dtype)
    wide[..., ::2] = cuda.asarray(volumes)
    return wide[..., ::2]


# ---- moments


def exact_moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sum of squared deviations over axis 0, two passes in extended precision."""
    wide = x.astype(np.longdouble)
    mean = wide.mean(axis=0)
    return mean, ((wide - mean) ** 2).sum(axis=0)


@pytest.mark.parametrize("shape", [(1, 1), (2, 33), (9, 31), (45, 77), (300, 5), (3, 0)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("paired", [False, True])
def test_moments_keep_their_digits_at_a_large_mean(
    cuda: Backend, shape: tuple[int, int], dtype: Any, paired: bool
) -> None:
    rng = np.random.default_rng(1)
    x = (1e6 + rng.standard_normal(shape)).astype(dtype)
    minus = (3e5 + rng.standard_normal(shape)).astype(dtype) if paired else None
    got = cuda.moments(cuda.asarray(x), None if minus is None else cuda.asarray(minus), False)
    values = x.astype(np.float64) if minus is None else x.astype(np.float64) - minus.astype(np.float64)
    mean, ss = exact_moments(values)
    assert got.count == shape[0]
    check(got.shift, values[0], backend=cuda)
    check(got.mean, (mean - values[0]).astype(np.float64), backend=cuda, rtol=1e-12, atol=1e-12)
    check(got.ss, ss.astype(np.float64), backend=cuda, rtol=1e-13, atol=0 if shape[0] > 1 else 1e-300)


def test_moments_of_a_constant_and_of_a_first_outlier(cuda: Backend) -> None:
    x = np.full((50, 3), 0.1, np.float32)
    x[0, 1] = 1e6
    x[1:, 2] += np.random.default_rng(0).standard_normal(49).astype(np.float32)
    got = cuda.moments(cuda.asarray(x), None, False)
    mean, ss = exact_moments(x)
    assert host(got.ss)[0] == 0.0
    check(got.ss, ss.astype(np.float64), backend=cuda, rtol=1e-13)
    np.testing.assert_allclose(host(got.shift) + host(got.mean), mean.astype(np.float64), rtol=1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 6])
def test_what_is_not_finite_stays_in_the_moments(cuda: Backend, value: float, row: int) -> None:
    x = np.random.default_rng(2).standard_normal((12, 40)).astype(np.float32)
    x[row, 7] = value
    got = cuda.moments(cuda.asarray(x), None, False)
    assert np.flatnonzero(~np.isfinite(host(got.ss))).tolist() == [7]
    assert not np.isfinite((host(got.shift) + host(got.mean))[7])


@pytest.mark.parametrize("paired", [False, True])
def test_moments_leave_nan_out_and_count_the_rest(cuda: Backend, paired: bool) -> None:
    rng = np.random.default_rng(3)
    x = (1e4 + rng.standard_normal((37, 90))).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = np.nan
    x[:, 5] = np.nan
    x[:-1, 6] = np.nan
    minus = rng.standard_normal(x.shape).astype(np.float32)
    minus[rng.random(x.shape) < 0.2] = np.nan
    got = cuda.moments(cuda.asarray(x), cuda.asarray(minus) if paired else None, True)
    values = x.astype(np.float64) - minus if paired else x.astype(np.float64)
    for j in range(x.shape[1]):
        there = values[~np.isnan(values[:, j]), j]
        mean, ss = exact_moments(there) if there.size else (0.0, 0.0)
        first = there[0] if there.size else 0.0
        assert host(got.count)[j] == there.size
        assert host(got.shift)[j] == first
        np.testing.assert_allclose(host(got.mean)[j], np.float64(mean - first), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(host(got.ss)[j], np.float64(ss), rtol=1e-12, atol=1e-300)


def test_moments_are_the_same_bits_in_one_block(cuda: Backend, request: pytest.FixtureRequest) -> None:
    x = cuda.asarray(np.random.default_rng(4).standard_normal((31, 200)).astype(np.float32))
    many = cuda.moments(x, None, False)
    request.getfixturevalue("one_block")
    one = cuda.moments(x, None, False)
    check(one.ss, host(many.ss), backend=cuda)
    check(one.mean, host(many.mean), backend=cuda)


# ---- log_betainc


def log_i_by_terms(a: float, b: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """log I_x(a, b) for whole b, as x^a sum_j (a)_j y^j / j!: every term is positive, so that none cancels."""
    j = np.arange(b)
    steps = np.concatenate([[0.0], np.cumsum(np.log((a + j[:-1]) / (j[:-1] + 1.0)))])
    with np.errstate(divide="ignore"):
        log_x = np.where(x < y, np.log(x), np.log1p(-y))
        log_y = np.where(y < x, np.log(y), np.log1p(-x))
    return a * log_x + special.logsumexp(steps + j * log_y[:, None], axis=1)


def check_log(got: Any, want: np.ndarray) -> None:
    """Right to 1e-12 in the log, or in I itself where the log is near 0."""
    error = np.abs(host(got) - want)
    assert np.all(error <= 1e-12 * np.maximum(np.abs(want), np.exp(want))), (error / np.abs(want)).max()


@pytest.mark.parametrize("a", [0.5, 1.0, 3.5, 9.9, 10.1, 400.0, 20000.0])
@pytest.mark.parametrize("b", [1, 2, 9, 12, 300])
def test_log_betainc_against_a_finite_sum(cuda: Backend, a: float, b: int) -> None:
    centre, spread = a / (a + b), math.sqrt(a * b / (a + b + 1)) / (a + b)
    y = np.concatenate([1 - centre + spread * np.arange(-6, 7), [0.1, 0.5, 0.9, 0.999]])
    y = y[(y > 1e-9) & (y < 1)]
    x = np.concatenate([1 - y, [1e-5, 1e-100, 1e-300]])
    y = np.concatenate([y, [1 - 1e-5, 1.0, 1.0]])
    got = cuda.log_betainc(a, float(b), cuda.asarray(x), cuda.asarray(y))
    assert got.dtype == np.float64
    check_log(got, log_i_by_terms(a, b, x, y))


@pytest.mark.parametrize("b", [0.5, 1.5, 30.25])
def test_log_betainc_against_scipy(cuda: Backend, b: float) -> None:
    rng = np.random.default_rng(5)
    a = rng.choice([0.5, 2.5, 12.5, 499.0, 19998.5], 400)
    y = rng.beta(b, a)
    x = 1 - y
    got = cuda.log_betainc(cuda.asarray(a), b, cuda.asarray(x), cuda.asarray(y))
    # SciPy takes one argument: the complement where x is nearly 1, so that nothing is lost on its side
    want = np.where(x < y, special.betainc(a, b, x), special.betaincc(b, a, y))
    check_log(got, np.log(want))


def test_the_tail_of_t_goes_on_where_the_probability_underflows(cuda: Backend) -> None:
    t, df = (g.ravel() for g in np.meshgrid([0.1, 2.0, 8.0, 37.0], [1.0, 7.0, 30.0, 998.0, 40000.0]))
    x, y = df / (df + t * t), t * t / (df + t * t)
    got = host(cuda.log_betainc(cuda.asarray(df / 2), 0.5, cuda.asarray(x), cuda.asarray(y)))
    there = stats.t.sf(t, df) > 1e-300
    np.testing.assert_allclose(got[there], np.log(2 * stats.t.sf(t, df)[there]), rtol=1e-12, atol=1e-13)
    assert np.isfinite(got).all()
    assert got.min() < -600
    # near t = 0 the probability is 1 - 2 t times the density there
    df, t = np.array([1.0, 30.0, 40000.0]), 1e-8
    x, y = df / (df + t * t), t * t / (df + t * t)
    got = host(cuda.log_betainc(cuda.asarray(df / 2), 0.5, cuda.asarray(x), cuda.asarray(y)))
    np.testing.assert_allclose(got, np.log1p(-2 * t * stats.t.pdf(0, df)), rtol=1e-12)
    deep = host(cuda.log_betainc(20000.0, 1.0, cuda.asarray(np.array([1e-300])), cuda.asarray(np.array([1.0]))))
    np.testing.assert_allclose(deep, 20000 * math.log(1e-300), rtol=1e-15)


def test_log_betainc_at_the_ends_and_of_nan(cuda: Backend) -> None:
    x, y = np.array([0.0, 1.0, np.nan, 0.5, -0.1]), np.array([1.0, 0.0, 0.5, np.nan, 1.1])
    check(
        cuda.log_betainc(2.5, 0.5, cuda.asarray(x), cuda.asarray(y)),
        np.array([-np.inf, 0.0, np.nan, np.nan, np.nan]),
        backend=cuda,
    )
    check(cuda.log_betainc(2.5, 0.5, cuda.asarray(x[:0]), cuda.asarray(y[:0])), np.empty(0), backend=cuda)


# ---- dilate


def brute_dilate(
    mask: np.ndarray, offsets: np.ndarray, iterations: int, inside: np.ndarray | None, border: bool
) -> np.ndarray:
    """Dilation of one volume, voxel by voxel."""
    out = mask.copy()
    for _ in range(iterations):
        before = out.copy()
        for p in np.ndindex(mask.shape):
            if inside is not None and not inside[p]:
                continue
            places = [tuple(np.add(p, o)) for o in offsets]
            out[p] = any(
                before[q] if all(0 <= c < s for c, s in zip(q, mask.shape, strict=True)) else border for q in places
            )
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", ["no", "shared", "each"])
@pytest.mark.parametrize("border", [False, True])
def test_dilate_by_any_offsets(cuda: Backend, layout: str, masked: str, border: bool) -> None:
    rng = np.random.default_rng(6)
    mask = rng.random((2, 4, 5, 6)) < 0.1
    offsets = np.array([[0, 0, 0], [1, 0, -1], [-2, 1, 0], [3, -3, 2], [99, 0, 0]])
    inside = {"no": None, "shared": rng.random((4, 5, 6)) < 0.7, "each": rng.random((2, 4, 5, 6)) < 0.7}[masked]
    for iterations, some in itertools.product((0, 1, 2, 3), (offsets, offsets[1:3], offsets[:0])):
        given = None if inside is None else cuda.asarray(inside)
        got = cuda.dilate(on_device(cuda, mask, layout), some, iterations, given, border)
        per_map = [None, None] if inside is None else np.broadcast_to(inside, mask.shape)
        want = [brute_dilate(m, some, iterations, i, border) for m, i in zip(mask, per_map, strict=True)]
        check(got, np.stack(want), backend=cuda)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_dilate_against_scipy(cuda: Backend, shape: tuple[int, ...], connectivity: int) -> None:
    structure = oracles.STRUCTURES[connectivity]
    mask = np.random.default_rng(7).random((3, *shape)) < 0.05
    got = cuda.dilate(cuda.asarray(mask), np.argwhere(structure) - 1, 2, None, False)
    check(got, np.stack([ndimage.binary_dilation(m, structure, 2) for m in mask]), backend=cuda)


# ---- label


def random_structure(rng: np.random.Generator) -> np.ndarray:
    """Any centro-symmetric structure, connected or not, with the centre in it or not."""
    half = rng.random(13) < 0.4
    return np.concatenate([half, [rng.random() < 0.5], half[::-1]]).reshape(3, 3, 3)


def check_labels(cuda: Backend, mask: np.ndarray, structure: np.ndarray, layout: str = "c") -> None:
    labels, counts = cuda.label(on_device(cuda, mask, layout), structure)
    want, want_counts = oracles.label(mask, structure)
    check(labels, want, backend=cuda)
    check(counts, want_counts, backend=cuda)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_label_against_scipy(cuda: Backend, shape: tuple[int, ...], connectivity: int, layout: str) -> None:
    mask = np.random.default_rng(8).random((3, *shape)) < np.array([0.15, 0.4, 0.7])[:, None, None, None]
    check_labels(cuda, mask, oracles.STRUCTURES[connectivity], layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_label_with_any_symmetric_structure(cuda: Backend, layout: str) -> None:
    rng = np.random.default_rng(9)
    for _ in range(12):
        check_labels(cuda, rng.random((2, 5, 6, 7)) < 0.5, random_structure(rng), layout)


def serpentine(shape: tuple[int, int, int]) -> np.ndarray:
    """One component that runs through the whole volume: the longest paths that a forest can have."""
    mask = np.zeros(shape, bool)
    mask[:, ::2, :] = True
    mask[:, 1::4, -1] = True
    mask[:, 3::4, 0] = True
    mask[1::2] = False
    mask[1::4, -1, -1] = mask[3::4, 0, 0] = True
    return mask


@pytest.mark.parametrize("fill", ["all", "none", "checkerboard", "serpentine", "comb"])
def test_label_of_hard_masks(cuda: Backend, fill: str) -> None:
    shape = (9, 11, 40)
    parity = np.indices(shape).sum(axis=0) % 2 == 0
    comb = np.indices(shape)[1] % 2 == 0  # separate teeth that only the last plane joins: roots meet late
    comb[-1] = True
    mask = {
        "all": np.ones(shape, bool),
        "none": np.zeros(shape, bool),
        "checkerboard": parity,
        "serpentine": serpentine(shape),
        "comb": comb,
    }[fill]
    for connectivity in (6, 26):
        check_labels(cuda, np.stack([mask, ~mask, mask[::-1]]), oracles.STRUCTURES[connectivity], "nifti")


@pytest.mark.parametrize("shape", [(2500, 2, 1, 3), (0, 3, 4, 5), (2, 3, 0, 5)], ids=str)
def test_label_of_thousands_of_tiny_maps_and_of_nothing(cuda: Backend, shape: tuple[int, ...]) -> None:
    check_labels(cuda, np.random.default_rng(10).random(shape) < 0.6, oracles.STRUCTURES[6])


def test_label_in_one_block_is_the_same(cuda: Backend, one_block: None) -> None:
    mask = np.random.default_rng(11).random((3, 10, 11, 12)) < 0.35
    check_labels(cuda, mask, oracles.STRUCTURES[18], "nifti")


# ---- planted bugs: what the interleavings are for

UNION = "if (atomicCAS(parent + high, high, low) == high) return;"
WALK = "while (root >= 0 && parents[map * v + root] != root) root = parents[map * v + root];"
COUNT = "atomicAdd(sizes + map * v + find(parent, (int)i), 1);"
FLATTEN = (
    "const int root = find(parent, (int)i); *(volatile int*)(parent + i) = root; atomicAdd(sizes + map * v + root, 1);"
)
MUTANTS: dict[str, list[tuple[str, str]]] = {
    "no second try when another thread linked the root first": [
        (UNION, UNION[4:-1].replace(" == high) return", "; return;"))
    ],
    "a plain store in place of compare-and-swap": [
        (UNION, "if (__ldcv(parent + high) == high) { parent[high] = low; return; }")
    ],
    "roots are the last voxels": [("a > b ? a : b, low = a > b ? b : a", "a < b ? a : b, low = a < b ? b : a")],
    "a neighbour is missing": [("bit < 13", "bit < 12")],
    "the first voxel of a row touches the last of the row before": [("r < 0 || r >= nc", "r < -1 || r >= nc")],
    "chunks do not follow each other": [("int offset = sums[t] - own;", "int offset = sums[t];")],
    "a voxel is trusted to point at its root": [(COUNT, FLATTEN), (WALK, "")],
}


def label_and_filter_are_right(cuda: Backend) -> bool:
    x = ndimage.gaussian_filter(np.random.default_rng(12).standard_normal((3, 7, 9, 11)), (0, 0.7, 0.7, 0.7))
    right = True
    for connectivity in (6, 26):
        structure = oracles.STRUCTURES[connectivity]
        want, want_counts = oracles.label(x > 0.05, structure)
        labels, counts = cuda.label(cuda.asarray(x > 0.05), structure)
        kept = cuda.threshold(cuda.asarray(x), cuda.asarray(np.full(3, 0.05)), "both", 3, structure, None)
        want_kept = [oracles.threshold(m, 0.05, two_sided=True, min_size=3, structure=structure) for m in x]
        right &= np.array_equal(host(labels), want) and np.array_equal(host(counts), want_counts)
        right &= np.array_equal(host(kept), np.stack(want_kept))
    return right


def survives(cuda: Backend, seed: int, blocks: int) -> bool:
    with interleaving(seed, blocks):
        try:
            return label_and_filter_are_right(cuda)
        except KernelError:
            return False


SCHEDULES = [(seed, blocks) for seed in range(1, 7) for blocks in (1, 8)]


@pytest.mark.parametrize("name", [None, *MUTANTS], ids=lambda name: (name or "none").replace(" ", "-"))
def test_planted_bugs_are_found(name: str | None, standin_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuroi.backends.cuda import cuda_backend

    changed: set[str] = set()
    original = cuda_kernels.kernel_source

    def planted(stem: str) -> str:
        text = original(stem)
        for old, new in MUTANTS.get(name or "", []):
            if old in text:
                changed.add(old)
                text = text.replace(old, new)
        return text

    monkeypatch.setattr(cuda_kernels, "kernel_source", planted)
    found = [not survives(cuda_backend(0), seed, blocks) for seed, blocks in SCHEDULES]
    assert len(changed) == len(MUTANTS.get(name or "", []))
    assert any(found) == (name is not None)


# ---- threshold


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("min_size", [0, 1, 2, 6])
def test_threshold_against_scipy(cuda: Backend, dtype: Any, layout: str, masked: bool, min_size: int) -> None:
    rng = np.random.default_rng(13)
    x = ndimage.gaussian_filter(rng.standard_normal((4, 7, 6, 8)), (0, 0.6, 0.6, 0.6)).astype(dtype)
    x[0, 0, 0, 0], x[1, 2], x[2, 3, 3] = np.nan, np.inf, -np.inf
    x[3, 1, 1, 1] = 0.3
    cutoffs = np.array([0.3, 0.7, np.nan, 0.3], dtype)
    mask = rng.random(x.shape[1:]) < 0.8 if masked else None
    structure = oracles.STRUCTURES[18]
    given = None if mask is None else cuda.asarray(mask)
    for side, sign in (("both", 1), ("above", 1), ("below", -1)):
        got = cuda.threshold(on_device(cuda, x, layout), cuda.asarray(sign * cutoffs), side, min_size, structure, given)
        want = [
            oracles.threshold(m, sign * c, two_sided=side == "both", min_size=min_size, structure=structure, mask=mask)
            if np.isfinite(c)
            else np.zeros_like(m)
            for m, c in zip(x, cutoffs, strict=True)
        ]
        check(got, np.stack(want), backend=cuda)


def test_threshold_below_zero_keeps_signs_apart_and_drops_zeros_from_clusters(cuda: Backend) -> None:
    x = np.array([[[[1.0, -1.0, 0.0, 2.0, 3.0]]]])
    for min_size, want in ((1, [1, -1, 0, 2, 3]), (2, [0, 0, 0, 2, 3])):
        got = cuda.threshold(
            cuda.asarray(x), cuda.asarray(np.array([-5.0])), "above", min_size, oracles.STRUCTURES[6], None
        )
        check(got, np.array(want, float).reshape(x.shape), backend=cuda)


# ---- percentile


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_percentile_is_numpys_to_the_bit(cuda: Backend, dtype: Any, two_sided: bool, masked: bool) -> None:
    rng = np.random.default_rng(14)
    for v in (1, 2, 7, 900):
        values = rng.standard_normal((5, v)).astype(dtype)
        values[rng.random(values.shape) < 0.1] = np.nan
        values[4] = np.nan
        inside = rng.random(v) < 0.6 if masked else None
        for q in (0, 3, 37.5, 50, 97, 99.9, 100):
            got = cuda.percentile(cuda.asarray(values), None if inside is None else cuda.asarray(inside), q, two_sided)
            members = [oracles.population(m, two_sided=two_sided, mask=inside) for m in values]
            check(got, np.array([np.percentile(m, q) if m.size else np.nan for m in members]), backend=cuda)


def test_percentile_of_infinite_and_of_no_values(cuda: Backend) -> None:
    values = np.array([[1.0, np.inf, np.inf], [-1.0, -2.0, -3.0]])
    check(cuda.percentile(cuda.asarray(values), None, 100, False), np.array([np.inf, np.nan]), backend=cuda)
    check(cuda.percentile(cuda.asarray(values[:, :0]), None, 50, True), np.array([np.nan, np.nan]), backend=cuda)


# ---- label_sums


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 1000), (1, 1), (4, 127), (2, 0), (0, 5)], ids=str)
def test_label_sums_against_exact_sums(cuda: Backend, dtype: Any, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(15)
    values = (1e3 * rng.standard_normal(shape)).astype(dtype)
    labels = rng.integers(-2, 12, shape[1]).astype(np.int32)
    labels[labels == 5] = 0  # a label without voxels
    sums, counts = cuda.label_sums(cuda.asarray(values), cuda.asarray(labels), 9)
    want = [[math.fsum(m[labels == k].tolist()) for k in range(1, 10)] for m in values]
    check(sums, np.array(want, float).reshape(shape[0], 9), backend=cuda, rtol=1e-13, atol=1e-10)
    check(counts, np.array([np.count_nonzero(labels == k) for k in range(1, 10)], np.int64), backend=cuda)


def test_label_sums_are_the_same_bits_in_every_schedule(standin_cupy: Any, request: pytest.FixtureRequest) -> None:
    from gpuroi.backends.cuda import cuda_backend

    cuda = cuda_backend(0)
    rng = np.random.default_rng(16)
    values, labels = rng.standard_normal((2, 700)), rng.integers(0, 4, 700).astype(np.int32)
    results = []
    for seed in (0, 1, 2):
        with interleaving(seed, 3):
            results.append(host(cuda.label_sums(cuda.asarray(values), cuda.asarray(labels), 3)[0]))
    request.getfixturevalue("one_block")
    results.append(host(cuda.label_sums(cuda.asarray(values), cuda.asarray(labels), 3)[0]))
    assert len({r.tobytes() for r in results}) == 1
    # one map at a time gives the same bits as the batch
    alone = cuda.label_sums(cuda.asarray(values[1:]), cuda.asarray(labels), 3)[0]
    check(alone, results[0][1:], backend=cuda)


# ---- gaussian


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["reflect", "nearest", "mirror", "wrap", "constant"])
def test_gaussian_against_scipy(cuda: Backend, dtype: Any, layout: str, mode: str) -> None:
    x = np.random.default_rng(17).standard_normal((2, 5, 1, 8)).astype(dtype)
    for radii in ((2, 0, 3), (0, 0, 0), (9, 2, 1), (1, 1, 1)):
        weights = tuple(np.hanning(2 * r + 3)[1:-1] / (r + 1) for r in radii)
        got = cuda.gaussian(on_device(cuda, x, layout), weights, mode)
        want = x.astype(np.float64)
        for axis, w in enumerate(weights, start=1):
            want = ndimage.correlate1d(want, w, axis=axis, mode=mode)
        check(got, want.astype(dtype), backend=cuda, rtol=0, atol=1e-6 if dtype == np.float32 else 1e-14)
