"""TFCE in equal steps through a lock-free tree: SciPy at every threshold, the other kernels, many interleavings.

Bugs planted in the source are in `test_cuda_mutants.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import graph_oracles as oracle
import numpy as np
import oracles
import pytest
from rig.checking import check, host
from rig.host_kernels import KernelError, interleaving
from rig.standin_device import Meter
from scipy import ndimage
from test_clusters import DOMAINS, flat_grid
from test_cuda_graph import hard_maps

from gpuroi.backends import cuda_kernels, cuda_tfce_steps, get_backend
from gpuroi.backends.base import Backend
from gpuroi.backends.tfce_rule import TfceRule
from gpuroi.domains import VoxelGrid
from gpuroi.errors import UsageError

pytestmark = pytest.mark.kernels

SCHEDULES = [(0, 2), (1, 1), (7, 5), (3, 8), (12, 3)]
STEPS = "max/100"


@pytest.fixture
def tree(standin_cupy: Any, monkeypatch: pytest.MonkeyPatch, device_meter: Meter) -> Iterator[Backend]:
    """The CUDA backend with trees where they can be built; the test fails if none was."""
    from gpuroi.backends.cuda import cuda_backend

    monkeypatch.setenv("GPUROI_TFCE", "tree")
    yield cuda_backend(0)
    assert device_meter.launches["steps_join"] > 0


def on(backend: Backend, maps: np.ndarray, graph: Any, **changes: Any) -> list[np.ndarray]:
    """Enhanced maps and their maxima, on the host."""
    asked: dict[str, Any] = {"H": 2.0, "E": 0.5, "step": STEPS, "two_sided": True, "keep": True} | changes
    return [host(a) for a in backend.tfce(backend.asarray(maps), graph, *asked.values())]


def by_labelling(volume: np.ndarray, connectivity: int, H: float, E: float, *, two_sided: bool) -> np.ndarray:
    """TFCE by its definition: SciPy's labels at each of the hundred thresholds of each sign."""
    out = np.zeros(volume.shape)
    for sign in (1, -1) if two_sided else (1,):
        y = sign * volume.astype(np.float64)
        top = y.max()
        if top <= 0:
            continue
        for height in np.append(np.arange(1, 100) * (top / 100), top):
            labels, n = ndimage.label(y >= height, oracles.STRUCTURES[connectivity])
            extents = np.bincount(labels.ravel(), minlength=n + 1).astype(float)
            extents[0] = 0
            out += sign * (extents**E)[labels] * height**H * (top / 100)
    return out


def volumes() -> np.ndarray:
    """Smooth, noisy, with plateaus, with ties everywhere, all alike, empty, of one voxel, below zero alone."""
    rng = np.random.default_rng(3)
    x = ndimage.gaussian_filter(rng.standard_normal((8, 6, 7, 8)), (0, 1, 1, 1)) * 5
    x[1] = rng.standard_normal(x[1].shape)
    x[2] = np.maximum(x[2], 0.3)
    x[3] = np.round(2 * x[3]) / 2
    x[4] = 1.5
    x[5] = 0
    x[6] = 0
    x[6, 2, 3, 4] = 2
    x[7] = -np.abs(x[7])
    return x.astype(np.float32)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"seed{s[0]}")
@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_equals_labelling_at_every_threshold(tree: Backend, connectivity: int, schedule: tuple[int, int]) -> None:
    x = volumes()
    graph = VoxelGrid(np.ones(x.shape[1:], bool), connectivity=connectivity).graph
    H, E, two_sided = {6: (2.0, 0.5, True), 18: (1.0, 1.0, False), 26: (1.7, 0.6, True)}[connectivity]
    want = np.stack([by_labelling(volume, connectivity, H, E, two_sided=two_sided) for volume in x])
    with interleaving(*schedule):
        out, largest = on(tree, x.reshape(len(x), -1), graph, H=H, E=E, two_sided=two_sided)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, want.reshape(out.shape), rtol=2e-7, atol=0)
    np.testing.assert_array_equal(largest, np.abs(out).max(axis=1))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, np.float32) for name in ("6", "26", "parcels", "hub", "surface", "no-neighbours", "one")),
        *((name, np.float64) for name in ("26", "hub")),
    ],
)
def test_equals_the_default_kernels_and_the_definition(
    tree: Backend, name: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN and infinite values among them; the same bits in every interleaving."""
    domain = DOMAINS[name]
    maps = hard_maps(domain, dtype)
    with np.errstate(over="ignore"):
        maps = np.concatenate([maps, maps[:1] * dtype(1e-3), np.where(maps[5:] < 0, np.nan, maps[5:])])
    rtol = 2e-7 if dtype == np.float32 else 1e-12
    for two_sided in (True, False):
        found = []
        for schedule in SCHEDULES[::2]:
            with interleaving(*schedule):
                found.append(on(tree, maps, domain.graph, two_sided=two_sided))
        for other in found[1:]:
            for one, first in zip(other, found[0], strict=True):
                np.testing.assert_array_equal(one, first)
        monkeypatch.setenv("GPUROI_TFCE", "warp")
        for backend in (tree, get_backend("cpu")):
            for got, want in zip(found[0], on(backend, maps, domain.graph, two_sided=two_sided), strict=True):
                np.testing.assert_allclose(got, want, rtol=rtol, atol=0)
        monkeypatch.setenv("GPUROI_TFCE", "tree")
        want = oracle.tfce(maps[1], domain, 2.0, 0.5, STEPS, two_sided=two_sided)
        np.testing.assert_allclose(found[0][0][1], want, rtol=rtol, atol=0)


def test_levels_are_those_of_the_default_where_quotients_are_rounded(
    tree: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heights at the steps, and the numbers next to them."""
    rng = np.random.default_rng(5)
    tops = rng.uniform(0.1, 9, 6)
    steps = tops[:, None] / 100 * np.arange(1, 101)
    for dtype in (np.float32, np.float64):
        given = steps.astype(dtype)
        maps = np.concatenate([given, np.nextafter(given, dtype(0)), np.nextafter(given, dtype(9))], axis=1)
        maps *= rng.choice([-1, 1], maps.shape).astype(dtype)
        graph = flat_grid(1, 1, 300).graph
        monkeypatch.setenv("GPUROI_TFCE", "warp")
        want = on(tree, maps, graph)
        monkeypatch.setenv("GPUROI_TFCE", "tree")
        np.testing.assert_allclose(on(tree, maps, graph)[0], want[0], rtol=2e-7 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("schedule", [(0, 2), (7, 5)], ids=lambda s: f"seed{s[0]}")
def test_long_paths_and_late_unions(tree: Backend, schedule: tuple[int, int]) -> None:
    """A comb whose teeth meet at its end, and a path that rises all the way: the deepest tree."""
    comb = np.tile(np.linspace(3, 1.1, 40), (20, 1))
    comb[1::2] = 0
    comb[:, -1] = 1.05
    path = np.linspace(0.02, 3, 900)
    for x, domain in (
        (comb.ravel(), flat_grid(1, 20, 40)),
        (path, flat_grid(1, 1, 900)),
        (path[::-1], flat_grid(1, 1, 900)),
    ):
        maps = x[None].astype(np.float32)
        with interleaving(*schedule):
            out, _ = on(tree, maps, domain.graph)
        np.testing.assert_allclose(out, on(get_backend("cpu"), maps, domain.graph)[0], rtol=2e-7)


def test_blocks_and_groups_give_the_same_bits(
    tree: Backend, device_meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block that strides; scratch for two maps at a time; maxima alone."""
    domain = flat_grid(10, 10, 10)
    maps = hard_maps(domain)
    want = on(tree, maps, domain.graph)
    on_device = tree.asarray(maps)
    nothing, largest = tree.tfce(on_device, domain.graph, 2.0, 0.5, STEPS, True, False)
    assert nothing is None
    check(largest, want[1], backend=tree)
    monkeypatch.setattr(cuda_kernels, "_MOST_BLOCKS", (1, 1))
    tree.release()
    pool = tree.xp.get_default_memory_pool()
    pool.set_limit(size=pool.used_bytes() + 2 * maps.nbytes + int(2.5 * 2 * cuda_tfce_steps.STEPS_BYTES * 1000))
    device_meter.reset()
    got = [host(a) for a in tree.tfce(on_device, domain.graph, 2.0, 0.5, STEPS, True, True)]
    pool.set_limit(size=0)
    assert 1 < device_meter.launches["steps_join"] <= len(maps)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_waits_and_memory_is_what_is_said(tree: Backend, device_meter: Meter) -> None:
    domain = flat_grid(20, 20, 20)
    maps = tree.asarray(np.random.default_rng(0).standard_normal((2, 8000)).astype(np.float32))
    tree.tfce(maps, domain.graph, 2.0, 0.5, STEPS, True, False)  # the graph is there afterwards
    device_meter.reset()
    start = device_meter.used_bytes
    tree.tfce(maps, domain.graph, 2.0, 0.5, STEPS, True, False)
    assert (device_meter.syncs, device_meter.d2h_bytes, device_meter.d2d_bytes) == (0, 0, 0)
    assert device_meter.launches == {
        f"steps_{name}": 1 for name in ("tops", "levels", "join", "members", "sizes", "sums")
    }
    table = 8 * 4097  # sums of powers
    assert device_meter.h2d_bytes == table
    assert device_meter.peak_bytes - start - table == pytest.approx(cuda_tfce_steps.STEPS_BYTES * maps.size, rel=0.05)


def test_empty_batches_and_maps(tree: Backend) -> None:
    graph = flat_grid(2, 3, 4).graph
    for n in (0, 3):
        out, largest = on(tree, np.zeros((n, 24), np.float32), graph)
        np.testing.assert_array_equal(out, np.zeros((n, 24)))
        np.testing.assert_array_equal(largest, np.zeros(n))


def test_works_on_its_own_device(tree: Backend) -> None:
    from gpuroi.backends.cuda import cuda_backend

    domain = DOMAINS["18"]
    second, maps = cuda_backend(1), hard_maps(domain)
    out, _ = second.tfce(second.asarray(maps), domain.graph, 2.0, 0.5, STEPS, True, True)
    check(out, on(tree, maps, domain.graph)[0], backend=second)


# ---- what would hang a device: a ring of parents

WATCHED = "while (watched() && up >= 0 && levels[up] == levels[i])"
WATCH = """
static bool watched() {
    static long turns = 0;
    if (++turns > 3000000) cudacpu::fail("a ring of parents");
    return true;
}
"""


@pytest.mark.parametrize("order", ["a < b", "a > b", "false"], ids=["first", "last", "none"])
def test_elements_of_a_level_need_an_order_and_any_will_do(
    tree: Backend, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, two threads may each make the element of the other a parent."""
    original = cuda_kernels.kernel_source

    def changed(stem: str) -> str:
        text = original(stem)
        if stem != "tfce_steps":
            return text
        for old, new in (
            ("while (up >= 0 && levels[up] == levels[i])", WATCHED),
            ("height_a == height_b && a < b", f"height_a == height_b && {order}"),
            ("// The node of an element", WATCH + "// The node of an element"),
        ):
            assert text.count(old) == 1
            text = text.replace(old, new)
        return text

    monkeypatch.setattr(cuda_kernels, "kernel_source", changed)
    graph = VoxelGrid(np.ones((5, 6, 7), bool), connectivity=18).graph
    maps = np.random.default_rng(6).integers(-2, 3, (2, 210)).astype(np.float32)
    want = on(get_backend("cpu"), maps, graph)[0]

    def enhance() -> None:
        for schedule in SCHEDULES:
            with interleaving(*schedule):
                np.testing.assert_allclose(on(tree, maps, graph)[0], want, rtol=2e-7)

    if order == "false":
        with pytest.raises(KernelError, match="a ring of parents"):
            enhance()
    else:
        enhance()


# ---- when the tree is taken


def test_all_else_stays_with_the_default_kernels(
    standin_cupy: Any, device_meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not asked for; the exact integral; steps whose number the host does not know; weights; too many levels."""
    from gpuroi.backends.cuda import cuda_backend

    cuda = cuda_backend(0)
    maps = {name: hard_maps(DOMAINS[name])[:2] for name in ("6", "weighted")}
    for asked, name, step in (
        (None, "6", STEPS),
        ("", "6", STEPS),
        ("warp", "6", STEPS),
        ("tree", "6", "exact"),
        ("tree", "6", 0.1),
        ("tree", "weighted", STEPS),
    ):
        if asked is None:
            monkeypatch.delenv("GPUROI_TFCE", raising=False)
        else:
            monkeypatch.setenv("GPUROI_TFCE", asked)
        device_meter.reset()
        on(cuda, maps[name], DOMAINS[name].graph, step=step)
        assert device_meter.launches["tfce_grow"] == 1
        assert device_meter.launches["steps_join"] == 0
    many = [TfceRule(2.0, 0.0, n, np.zeros(n + 1), 0.0) for n in (127, 128)]
    assert [cuda_tfce_steps.tree_is_asked_for(rule, unit_weights=True) for rule in many] == [True, False]


def test_another_word_is_refused(standin_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuroi.backends.cuda import cuda_backend

    monkeypatch.setenv("GPUROI_TFCE", "forest")
    with pytest.raises(UsageError, match='GPUROI_TFCE is "forest"'):
        on(cuda_backend(0), np.zeros((1, 27), np.float32), flat_grid(3, 3, 3).graph)


def test_p_values_are_those_of_the_cpu(tree: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole permutation test whose TFCE goes through trees."""
    from gpuroi.backends import probe
    from gpuroi.backends.probe import CudaDevice, CudaStatus
    from gpuroi.inference import permutation_test

    found = (CudaDevice("stand-in", "9.0", 1 << 30, None),)
    monkeypatch.setattr(probe, "probe", lambda: CudaStatus(usable=True, devices=found))
    rng = np.random.default_rng(11)
    grid = flat_grid(4, 5, 6)
    data = rng.standard_normal((12, 120)).astype(np.float32)
    data[:, :20] += 0.8
    results = {
        device: permutation_test(
            data,
            np.ones((12, 1)),
            [1],
            domain=grid,
            tfce=True,
            tfce_step=STEPS,
            n_permutations=60,
            errors="ise",
            seed=3,
            device=device,
        )
        for device in ("cpu", "cuda")
    }
    np.testing.assert_array_equal(results["cuda"].tfce_p_fwe, results["cpu"].tfce_p_fwe)
    assert results["cuda"].tfce is not None
    assert results["cpu"].tfce is not None
    np.testing.assert_allclose(results["cuda"].tfce, results["cpu"].tfce, rtol=1e-5)
