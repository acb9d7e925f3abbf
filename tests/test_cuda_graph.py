"""Clusters and TFCE in CUDA: the same source on the CPU, in several orders of its threads, and with planted bugs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import graph_oracles as oracle
import numpy as np
import pytest
from rig.checking import check, host
from rig.host_kernels import KernelError, interleaving
from rig.standin_device import Meter
from test_clusters import DOMAINS, flat_grid

from gpuroi.backends import cuda_graph, cuda_kernels, get_backend
from gpuroi.backends.base import Backend
from gpuroi.errors import BackendError

pytestmark = pytest.mark.kernels

SCHEDULES = [(0, 2), (1, 1), (7, 5), (3, 8)]


@pytest.fixture(params=SCHEDULES, ids=lambda p: f"seed{p[0]}")
def cuda(request: pytest.FixtureRequest, standin_cupy: Any) -> Iterator[Backend]:
    """The CUDA backend on the stand-in, its kernels in one interleaving."""
    from gpuroi.backends.cuda import cuda_backend

    seed, blocks = request.param
    with interleaving(seed, blocks):
        yield cuda_backend(0)


@pytest.fixture
def plain(standin_cupy: Any) -> Backend:
    from gpuroi.backends.cuda import cuda_backend

    return cuda_backend(0)


def hard_maps(domain: Any, dtype: Any = np.float32) -> np.ndarray:
    """Smooth, noisy, full of ties, one-sided, and with values that are not finite."""
    rng = np.random.default_rng(0)
    v = domain.n_elements
    maps = np.stack([oracle.values_on(domain, 1), oracle.values_on(domain, 2), *rng.standard_normal((4, v))])
    maps[1] = np.round(2 * maps[1]) / 2
    maps[3] = np.abs(maps[3])
    maps[4] = 2.0
    maps[5, rng.integers(0, v, 5)] = [np.nan, np.inf, -np.inf, np.nan, np.inf]
    return maps.astype(dtype)


@pytest.mark.parametrize("name", ["6", "26", "weighted", "hub", "mm2", "one"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clusters_equal_those_of_the_cpu(cuda: Backend, name: str, dtype: Any) -> None:
    graph, cpu = DOMAINS[name].graph, get_backend("cpu")
    maps = hard_maps(DOMAINS[name], dtype)
    for two_sided, strict, excess in ((True, True, False), (False, False, True)):
        flags = (1.0, graph, two_sided, strict, excess)
        for got, want in zip(
            cuda.cluster_maxima(cuda.asarray(maps), *flags), cpu.cluster_maxima(maps, *flags), strict=True
        ):
            check(got, want, backend=cuda, rtol=1e-12)
        for x in maps:
            found = cuda.cluster_labels(cuda.asarray(x), *flags)
            labels, sizes, masses, signs = cpu.cluster_labels(x, *flags)
            check(found[0], labels, backend=cuda)
            check(found[1], sizes, backend=cuda, rtol=1e-12)
            check(found[2], masses, backend=cuda, rtol=1e-12)
            check(found[3], signs, backend=cuda)


@pytest.mark.parametrize("name", ["6", "26", "weighted", "hub", "mm2", "one"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tfce_equals_that_of_the_cpu(cuda: Backend, name: str, dtype: Any) -> None:
    graph, cpu = DOMAINS[name].graph, get_backend("cpu")
    maps = hard_maps(DOMAINS[name], dtype)
    rtol = 2e-7 if dtype == np.float32 else 1e-12
    for H, E, step, two_sided in (
        (2.0, 0.5, "exact", True),
        (1.7, 0.6, None, False),
        (1.0, 1.0, 0.13, True),
        (2.0, 0.5, "max/100", True),
    ):
        out, largest = cuda.tfce(cuda.asarray(maps), graph, H, E, step, two_sided, True)
        want, want_largest = cpu.tfce(maps, graph, H, E, step, two_sided, True)
        check(out, want, backend=cuda, rtol=rtol)
        check(largest, want_largest, backend=cuda, rtol=rtol)


def test_one_block_gives_the_same_bits(cuda: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = DOMAINS["weighted"]
    maps = cuda.asarray(hard_maps(domain))

    def work() -> list[Any]:
        some = cuda.cluster_maxima(maps, 0.7, domain.graph, True, True, True)
        return [host(a) for a in (*some, *cuda.tfce(maps, domain.graph, 2.0, 0.5, None, True, True))]

    before = work()
    monkeypatch.setattr(cuda_kernels, "_MOST_BLOCKS", (1, 1))
    for one, many in zip(work(), before, strict=True):
        np.testing.assert_array_equal(one, many)


def test_groups_of_maps_give_the_same_bits(cuda: Backend, device_meter: Meter) -> None:
    """Little free memory: scratch for two maps at a time, then for one."""
    domain = flat_grid(10, 10, 10)
    maps = cuda.asarray(hard_maps(domain))
    pool = cuda.xp.get_default_memory_pool()
    for bytes_each, name, work in (
        (
            cuda_graph.CLUSTER_BYTES,
            "clusters_sum",
            lambda: cuda.cluster_maxima(maps, 1.0, domain.graph, True, True, False),
        ),
        (cuda_graph.TFCE_BYTES, "tfce_grow", lambda: cuda.tfce(maps, domain.graph, 2.0, 0.5, None, True, True)),
    ):
        want = [host(a) for a in work()]
        for at_once in (2, 1):
            cuda.release()
            pool.set_limit(size=pool.used_bytes() + maps.nbytes + int(2.3 * at_once * bytes_each * 1000))
            device_meter.reset()
            got = [host(a) for a in work()]
            pool.set_limit(size=0)
            assert device_meter.launches[name] == len(maps) // at_once
            for one, other in zip(got, want, strict=True):
                np.testing.assert_array_equal(one, other)


def test_long_paths_and_late_unions(cuda: Backend) -> None:
    """A comb whose teeth meet at its end, and a path that rises all the way."""
    comb = np.tile(np.linspace(3, 1.1, 70), (40, 1))
    comb[1::2] = 0
    comb[:, -1] = 1.05
    path = np.linspace(0.5, 3, 2800)
    for x, domain in (
        (comb.ravel(), flat_grid(1, 40, 70)),
        (path, flat_grid(1, 1, 2800)),
        (path[::-1], flat_grid(1, 1, 2800)),
    ):
        x = np.ascontiguousarray(x, np.float32)
        sizes, _ = cuda.cluster_maxima(cuda.asarray(x[None]), 1.0, domain.graph, True, True, False)
        check(sizes, [float(np.count_nonzero(x > 1))], backend=cuda)
        out, _ = cuda.tfce(cuda.asarray(x[None]), domain.graph, 2.0, 0.5, None, True, True)
        want, _ = get_backend("cpu").tfce(x[None], domain.graph, 2.0, 0.5, None, True, True)
        check(out, want, backend=cuda, rtol=3e-7)


# ---- planted bugs: what the interleavings are for

UNION = "if (atomicCAS(parent + high, high, low) == high) return;"
MUTANTS = {
    "no second try when another thread linked the root first": (
        UNION,
        "atomicCAS(parent + high, high, low); return;",
    ),
    "a plain store in place of compare-and-swap": (
        UNION,
        "if (__ldcv(parent + high) == high) { parent[high] = low; return; }",
    ),
    "signs join": ("side(x[j], limit, two_sided) == mine", "side(x[j], limit, two_sided) != 0"),
    "a list with holes": ("__popc(passing & ((1u << lane) - 1))", "lane"),
    "sizes are added without an atomic": (
        "atomicAdd((u64*)(sizes + map * v + root), (u64)weight);",
        "const i64 before = __ldcv(sizes + map * v + root); sizes[map * v + root] = before + weight;",
    ),
    "a component is joined once for each neighbour in it": (
        "todo &= ~__ballot_sync(ALL, component == c);",
        "todo &= todo - 1;",
    ),
    "the neighbour just before is passed over": ("(below ? v - 1 - r : r) < p", "(below ? v - 1 - r : r) < p - 1"),
    "the latest node is forgotten": ("latest[root] = q;", "if (root == q) latest[root] = q;"),
    "parents of the same 32 are summed once": ("hop < 5", "hop < 1"),
    "the number of neighbours ends at 32": ("for (int k = 0; k < all; k += 32)", "for (int k = 0; k < 1; k += 32)"),
}  # fmt: skip


def right(cuda: Backend, seed: int, blocks: int) -> bool:
    """Every output on a grid and on a graph with a hub, in one schedule."""
    same = True
    cpu = get_backend("cpu")
    try:
        with interleaving(seed, blocks):
            for name in ("18", "hub"):
                graph = DOMAINS[name].graph
                maps = hard_maps(DOMAINS[name])[:4]
                clustered = (0.3, graph, True, True, False)
                enhanced = (graph, 2.0, 0.5, None, True, True)
                got = (*cuda.cluster_maxima(cuda.asarray(maps), *clustered), *cuda.tfce(cuda.asarray(maps), *enhanced))
                want = (*cpu.cluster_maxima(maps, *clustered), *cpu.tfce(maps, *enhanced))
                same &= all(np.allclose(host(a), b, rtol=1e-6, atol=0) for a, b in zip(got, want, strict=True))
    except KernelError:
        return False
    return same


@pytest.mark.parametrize("name", [None, *MUTANTS], ids=lambda name: (name or "none").replace(" ", "-"))
def test_planted_bugs_are_found(name: str | None, plain: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    original = cuda_kernels.kernel_source
    old, new = MUTANTS.get(name or "", ("", ""))
    changed = []

    def planted(stem: str) -> str:
        text = original(stem)
        if old and old in text and stem in ("graph_clusters", "tfce"):
            changed.append(stem)
            text = text.replace(old, new)
        return text

    monkeypatch.setattr(cuda_kernels, "kernel_source", planted)
    found = [not right(plain, seed, blocks) for seed in range(1, 5) for blocks in (1, 8)]
    assert bool(changed) == (name is not None)
    assert any(found) == (name is not None)


# ---- waits, copies, devices, memory


def test_nothing_waits_and_the_graph_travels_once(plain: Backend, device_meter: Meter) -> None:
    domain = flat_grid(9, 10, 11)
    maps = plain.asarray(hard_maps(domain))
    plain.cluster_maxima(maps, 1.0, domain.graph, True, True, False)
    device_meter.reset()
    plain.cluster_maxima(maps, 1.0, domain.graph, True, True, False)
    plain.tfce(maps, domain.graph, 2.0, 0.5, None, True, True)
    assert (device_meter.syncs, device_meter.d2h_bytes, device_meter.d2d_bytes) == (0, 0, 0)
    assert device_meter.h2d_bytes <= 8  # the sums of powers, of which the exact integral needs none
    plain.cluster_labels(maps[0], 1.0, domain.graph, True, True, False)
    assert 0 < device_meter.syncs <= 2  # reads the number of clusters


def test_work_is_done_on_its_own_device(plain: Backend, standin_cupy: Any) -> None:
    from gpuroi.backends.cuda import cuda_backend

    second = cuda_backend(1)
    domain = DOMAINS["weighted"]
    maps = hard_maps(domain)
    for work in (
        lambda b: b.cluster_maxima(b.asarray(maps), 1.0, domain.graph, True, True, False),
        lambda b: b.cluster_labels(b.asarray(maps[0]), 1.0, domain.graph, True, True, False),
        lambda b: b.tfce(b.asarray(maps), domain.graph, 2.0, 0.5, None, True, True),
    ):
        for one, other in zip(work(plain), work(second), strict=True):
            check(other, host(one), backend=second)


def test_peak_memory_of_an_element(plain: Backend, device_meter: Meter) -> None:
    domain = flat_grid(20, 20, 20)
    for dtype in (np.float32, np.float64):
        maps = plain.asarray(np.random.default_rng(0).standard_normal((3, domain.n_elements)).astype(dtype))
        for bytes_each, work in (
            (cuda_graph.CLUSTER_BYTES, lambda x: plain.cluster_maxima(x, 1.0, domain.graph, True, True, False)),
            (cuda_graph.TFCE_BYTES, lambda x: plain.tfce(x, domain.graph, 2.0, 0.5, None, True, False)),
        ):
            work(maps)  # the graph is there afterwards
            device_meter.reset()
            start = device_meter.used_bytes
            work(maps)
            assert device_meter.peak_bytes - start == pytest.approx(bytes_each * maps.size, rel=0.05)


def test_other_dtypes_are_refused(plain: Backend) -> None:
    graph = flat_grid(3, 3, 3).graph
    maps = plain.xp.zeros((2, 27), np.float16)
    with pytest.raises(BackendError, match="expected float32 or float64"):
        plain.tfce(maps, graph, 2.0, 0.5, None, True, True)
    with pytest.raises(BackendError, match="expected float32 or float64"):
        plain.cluster_maxima(maps, 1.0, graph, True, True, False)
