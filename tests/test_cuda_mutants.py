"""Bugs planted in the CUDA sources, one at a time: each has to be found by some interleaving of the threads.

Those of label.cu, graph_clusters.cu and tfce.cu are in `test_cuda_kernels.py` and `test_cuda_graph.py`. All bugs of a
source are compiled into one module and switched by the environment: a compilation a bug would take a second each.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
from rig.checking import host
from rig.host_kernels import KernelError, compiler, interleaving
from scipy import ndimage, special

from gpuroi.backends import cuda_kernels
from gpuroi.backends.base import Backend

pytestmark = pytest.mark.kernels

SCHEDULES = [(0, 2), (1, 1), (7, 5), (3, 8), (12, 2)]

# source -> name of the bug -> text after which it is planted, what stands there, what stands there instead
MUTANTS: dict[str, dict[str, tuple[str, str, str]]] = {
    "dilate": {
        "bytes are packed before all have come": ("halves[(at - start) / 16]", "__syncthreads();", ""),
        "a row goes on beyond its end": ("allowed", "(found & here) | (beyond & ~here)", "found"),
        "the row before the first is the last of the plane before": ("i64 p = ", "q >= 0 && q < nb", "q < nb"),
        "shifts end after 16 bits": ("u32 high = low_at", "(u32)(c & 31)", "(u32)(c & 15)"),
        "voxels outside lose their value": ("u32 allowed", "(source[at] & ~allowed)", "0u"),
        "offsets of one row take the row before": ("dilate_step(", "|| ob != offsets[3 * o - 2]", "|| false"),
        "the last bytes are left out": ("dilate_unpack(", "j < many; ++j", "j < many - 1; ++j"),
    },
    "mask": {
        "a tile is written before it is filled": ("tile[warp + 8 * k][lane] = scaled", "__syncthreads();", ""),
        "a tile is filled before it is written": ("= tile[lane][warp + 8 * k];", "__syncthreads();", ""),
        "the last map of a group is left out": ("const int column", "(int)(n - first) : MAPS", "(int)(n - first) : 7"),
        "tiles are not turned": ("column[k] >= 0) rows", "tile[lane][warp + 8 * k]", "tile[warp + 8 * k][lane]"),
        "a fused multiply-add": ("REAL scaled(", "__dadd_rn(__dmul_rn((double)value, scaling[2 * map]), "
            "scaling[2 * map + 1])", "fma((double)value, scaling[2 * map], scaling[2 * map + 1])"),
        "nothing fills what is outside": ("mask_scatter(", "column < 0 ? fill", "column < 0 ? (REAL)0"),
    },
    "percentile": {
        "counts without an atomic": (
            "if (head == known)", "atomicAdd(counts + (int)(key >> shift & (((Key)1 << width) - 1)), 1u);",
            "{ u32* at_ = counts + (int)(key >> shift & (((Key)1 << width) - 1)); u32 seen = __ldcv(at_); "
            "*at_ = seen + 1; }",
        ),
        "counts are cleared while others count": ("next = BUCKETS;", "__syncthreads();", ""),
        "the next larger value is forgotten": ("least = key;", "least != ~(Key)0", "false"),
        "one too many in a bucket": ("u32 here = counts", "rank - before < here", "rank - before <= here"),
        "NaN counts": ("bits_of(x[i])", "key > infinite", "false"),
        "denormals below zero count": ("key = bits", "bits != key && key != 0", "x[i] < (REAL)-1e-30"),
    },
    "moments": {
        "the shift is read before it is there": ("first[lane] = value;", "__syncthreads();", ""),
        "a row of observations is left out": ("row == 0 && j < v", "r < ROWS", "r < ROWS - 1"),
        "squares without the shift": ("double s = 0.0", "value - c", "value"),
    },
    "label_sums": {
        "partial sums are read too early": ("part[t] += part[t + half];", "__syncthreads();", ""),
        "the last voxel of a label is left out": ("starts[label] + t", "starts[label + 1]", "starts[label + 1] - 1"),
        "half of the threads too few": ("double sum", "half = THREADS / 2", "half = THREADS / 4"),
    },
    "threshold": {
        "one side only": ("bool passes", "x >= cutoff || x <= -cutoff", "x >= cutoff"),
        "clusters of the least size go": ("threshold_clusters", ">= min_size", "> min_size"),
        "signs are joined": ("threshold_classes", "value > 0 ? 1 : 2", "1"),
        "voxels outside are kept": ("threshold_keep", "!inside || inside[i]", "true"),
    },
    "sign_flips": {
        "bins are read before they are filled": ("sum += weight", "__syncthreads();", ""),
        "two bins are exchanged": ("at[0] = (a + b)", "(a - b) + (c - d)", "(a + b) - (c - d)"),
        "the last member of a bin is left out": ("REAL sum", "s < first[b + 1]", "s < first[b + 1] - 1"),
        "the odd bit is left out": ("if (bit < bits)", "a - b", "a + b"),
    },
    "gaussian": {
        "a plane is summed before it is there": (": in[map", "__syncthreads();", ""),
        "rows are summed before they are there": ("rows[row][x] = sum;", "__syncthreads();", ""),
        "the farthest neighbour along b is left out": ("REAL one = ", "t <= rb", "t < rb"),
        "the farthest neighbour along a is left out": ("REAL one = ", "t <= 2 * ra", "t < 2 * ra"),
        "reflection repeats no edge": ("const int period", "2 * n - 1 - q", "2 * n - 2 - q"),
        "two voxels share a row": ("REAL one = ", "rows[y + ROWS + rb + t][x]", "rows[y + rb + t][x]"),
    },
    "tfce_steps": {
        "no second try when another thread was first": (
            "the way down to a root?", "if (atomicCAS(parents + a, parent, b) != parent) continue;",
            "atomicCAS(parents + a, parent, b);",
        ),
        "a plain store in place of compare-and-swap": (
            "else { if (atomicCAS", "atomicCAS(parents + a, parent, b)",
            "(__ldcv(parents + a) == parent ? (parents[a] = b, parent) : parent - 1)",
        ),
        "the displaced parent is forgotten": ("the way down to a root?", "if (parent < 0) return;", "return;"),
        "what lies further down is put in between": (
            "const int parent = __ldcv", "lower(levels, b, parent)", "false",
        ),
        "the higher level is the lower one": ("bool lower(", "height_a < height_b", "height_a > height_b"),
        "paths are halved past their level": ("int node_of(", "levels[beyond] == levels[i]", "true"),
        "signs join": (
            "steps_join(", "level > 0 ? its[j] > 0 : its[j] < 0", "level > 0 ? its[j] > 0 : its[j] != 0",
        ),
        "the element just before is left out": ("steps_join(", "j >= i", "j >= i - 1"),
        "elements are counted without an atomic": (
            "steps_members(", "atomicAdd(own + map * v + node, 1);",
            "const int before = __ldcv(own + map * v + node); own[map * v + node] = before + 1;",
        ),
        "extents are added without an atomic": (
            "steps_sizes(", "atomicAdd(sizes + map * v + node, many);",
            "const int before = __ldcv(sizes + map * v + node); sizes[map * v + node] = before + many;",
        ),
        "a node counts twice": ("steps_sizes(", "own[map * v + i]", "own[map * v + i] * 2"),
        "an extent is that of the node alone": ("steps_sizes(", "node = parents[map * v + node]", "node = -1"),
        "quotients are not mended": ("steps_levels(", "level += 1.0;", ";"),
        "the last step is missed": ("steps_levels(", "h == highest ? n_steps", "h == highest ? level"),
        "both signs have the steps of one": ("double highest_of(", "above ? 1 : 2", "above ? 1 : 1"),
        "infinite values stay as they are": ("double highest_of(", "finite_top(tops)", "1e300"),
        "elements have the value of no node": ("steps_write(", "own[at] == 0", "false"),
    },
    "log_betainc": {
        "a term of the series is missing": ("k = 31", "k >= 3", "k >= 5"),
        "the fraction is off by one": ("double beta = n", "(odd + 2.0)", "(odd + 1.0)"),
        "the wrong side of the mean": ("double log_y", "x < (a + 1.0) / (a + b + 2.0)", "true"),
    },
}  # fmt: skip


# ---- is what the kernels of a source give right?


def dilate_is_right(cuda: Backend) -> bool:
    rng = np.random.default_rng(0)
    apart = np.zeros((1, 3, 37), bool)  # two steps apart: what leaves a row must not come back
    apart[0, [0, 2], [2, 30]] = True
    right = True
    for shape in ((2, 3, 4, 40), (1, 2, 3, 97)):
        mask, inside = rng.random(shape) < 0.02, rng.random(shape[1:]) < 0.8
        for structure, border, within in (
            (apart, 0, None),
            (oracles.STRUCTURES[26], 0, inside),
            (oracles.STRUCTURES[6], 1, inside),
        ):
            offsets = np.array(structure.shape) // 2 - np.argwhere(structure)
            given = None if within is None else cuda.asarray(within)
            got = cuda.dilate(cuda.asarray(mask), offsets, 2, given, bool(border))
            want = [ndimage.binary_dilation(m, structure, 2, within, border_value=border) for m in mask]
            right &= np.array_equal(host(got), want)
    return right


def mask_is_right(cuda: Backend) -> bool:
    rng = np.random.default_rng(1)
    volumes = rng.integers(-30000, 30000, (9, 6, 2, 35)).astype(np.int16)
    inside = rng.random(volumes.shape[1:]) < 0.6
    columns = np.where(inside, np.cumsum(inside).reshape(inside.shape) - 1, -1).astype(np.int32)
    scaling = rng.random((9, 2))
    want = (volumes[:, inside] * scaling[:, :1] + scaling[:, 1:]).astype(np.float64)
    right = True
    for given in (volumes, np.asfortranarray(volumes.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)):
        rows = cuda.gather(cuda.asarray(given), cuda.asarray(columns), int(inside.sum()), scaling, np.float64)
        right &= np.array_equal(host(rows), want)
    for order in "CF":
        back = host(cuda.scatter(cuda.asarray(want), cuda.asarray(columns), np.nan, order))
        right &= np.array_equal(back[:, inside], want) and bool(np.isnan(back[:, ~inside]).all())
    return right


def percentile_is_right(cuda: Backend) -> bool:
    rng = np.random.default_rng(2)
    values = rng.standard_normal((3, 700)).astype(np.float32)
    values[1] = np.round(values[1])
    values[2, ::5] = np.nan
    values[2, 1::5] = -1e-40
    right = True
    for q, two_sided in ((0.0, False), (41.7, True), (97.0, False), (100.0, True)):
        got = host(cuda.percentile(cuda.asarray(values), None, q, two_sided))
        for x, found in zip(values.astype(np.float64), got, strict=True):
            population = np.abs(x) if two_sided else x[x >= 0]
            right &= found == np.percentile(population[~np.isnan(population)], q)
    return bool(right)


def moments_is_right(cuda: Backend) -> bool:
    x = (1e5 + np.random.default_rng(3).standard_normal((33, 100))).astype(np.float32)
    got = cuda.moments(cuda.asarray(x), None, False)
    mean = x.astype(np.longdouble).mean(axis=0)
    ss = ((x - mean) ** 2).sum(axis=0)
    same = np.allclose(host(got.shift) + host(got.mean), mean.astype(float), rtol=1e-14, atol=0)
    return bool(same and np.allclose(host(got.ss), ss.astype(float), rtol=1e-12, atol=0))


def label_sums_is_right(cuda: Backend) -> bool:
    rng = np.random.default_rng(4)
    values, labels = rng.standard_normal((2, 900)), rng.integers(0, 4, 900).astype(np.int32)
    sums, _ = cuda.label_sums(cuda.asarray(values), cuda.asarray(labels), 3)
    want = [[math.fsum(m[labels == k]) for k in (1, 2, 3)] for m in values]
    return bool(np.allclose(host(sums), want, rtol=1e-12, atol=1e-12))


def threshold_is_right(cuda: Backend) -> bool:
    x = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal((2, 6, 7, 8)), (0, 0.5, 0.5, 0.5))
    inside, structure = np.random.default_rng(6).random(x.shape[1:]) < 0.8, oracles.STRUCTURES[6]
    right = True
    for size in (1, 2, 3):
        got = cuda.threshold(
            cuda.asarray(x), cuda.asarray(np.full(2, 0.1)), "both", size, structure, cuda.asarray(inside)
        )
        want = [oracles.threshold(m, 0.1, two_sided=True, min_size=size, structure=structure, mask=inside) for m in x]
        right &= np.array_equal(host(got), np.stack(want))
    return right


def sign_flips_is_right(cuda: Backend) -> bool:
    rng = np.random.default_rng(7)
    e, weights, codes = rng.standard_normal((20, 40)), rng.standard_normal((2, 20)), rng.integers(0, 32, 20)
    signs = np.array([[(-1.0) ** bin(g & int(c)).count("1") for c in codes] for g in range(32)])
    got = host(cuda.sign_flip_sums(cuda.asarray(e), weights, codes, 5))
    return bool(np.allclose(got, np.einsum("gi,ji,ix->gjx", signs, weights, e), rtol=0, atol=1e-12))


def gaussian_is_right(cuda: Backend) -> bool:
    x = np.random.default_rng(9).standard_normal((2, 6, 35, 40))
    right = True
    for radii, mode in (((2, 3, 1), "reflect"), ((0, 1, 7), "constant"), ((1, 0, 2), "mirror")):
        weights = tuple(np.hanning(2 * r + 3)[1:-1] for r in radii)
        want = x
        for axis, w in enumerate(weights, start=1):
            want = ndimage.correlate1d(want, w, axis=axis, mode=mode)
        right &= np.allclose(host(cuda.gaussian(cuda.asarray(x), weights, mode)), want, rtol=0, atol=1e-11)
    return bool(right)


def tfce_steps_is_right(cuda: Backend) -> bool:
    from gpuroi.backends import get_backend
    from gpuroi.domains import VoxelGrid

    grid = VoxelGrid(np.ones((5, 6, 7), bool), connectivity=18)
    rng = np.random.default_rng(10)
    maps = ndimage.gaussian_filter(rng.standard_normal((4, 5, 6, 7)), (0, 0.7, 0.7, 0.7)).reshape(4, 210)
    maps[1] = rng.standard_normal(210)
    maps[1, :2] = [np.inf, -np.inf]
    maps[2] = np.round(6 * maps[2])  # plateaus: many threads at one node
    maps[3] = 0.07 * rng.integers(-100, 101, 210)  # at the steps
    flags = (grid.graph, 2.0, 0.5, "max/100", True, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUROI_TFCE", "tree")
        got = cuda.tfce(cuda.asarray(maps), *flags)
    want = get_backend("cpu").tfce(maps, *flags)
    return all(np.allclose(host(g), w, rtol=1e-12, atol=0) for g, w in zip(got, want, strict=True))


def log_betainc_is_right(cuda: Backend) -> bool:
    x = np.linspace(0.1, 0.9, 60)
    right = True
    for a, b in ((0.5, 2.5), (30.0, 12.0), (90.0, 0.5)):
        got = host(cuda.log_betainc(a, b, cuda.asarray(x), cuda.asarray(1 - x)))
        want = np.log(special.betainc(a, b, x))
        right &= bool(np.all(np.abs(got - want) <= 2e-12 * np.maximum(np.abs(want), np.exp(want))))
    return right


CHECKS: dict[str, Callable[[Backend], bool]] = {
    "dilate": dilate_is_right,
    "mask": mask_is_right,
    "percentile": percentile_is_right,
    "moments": moments_is_right,
    "label_sums": label_sums_is_right,
    "threshold": threshold_is_right,
    "sign_flips": sign_flips_is_right,
    "gaussian": gaussian_is_right,
    "tfce_steps": tfce_steps_is_right,
    "log_betainc": log_betainc_is_right,
}


# ---- with AddressSanitizer

_ASAN_RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import test_cuda_mutants as tests
from rig import standin
from gpuroi.backends import cuda_kernels

with standin.installed() as cupy:
    from gpuroi.backends.cuda import cuda_backend

    if sys.argv[2] == "beyond":
        code = 'extern "C" __global__ void k(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x + 1]; }'
        cupy.RawModule(code=code).get_function("k")((1,), (32,), (cupy.ones(32, "f4"), cupy.ones(32, "f4")))
    else:
        cuda_kernels._MOST_BLOCKS = (2, 1)
        wrong = [stem for stem in tests.CHECKS if not tests.is_right(stem, cuda_backend(0), (7, 3))]
        wrong += [] if tests.graphs_are_right(cuda_backend(0)) else ["graphs"]
        print("wrong:", wrong)
"""


def graphs_are_right(cuda: Backend) -> bool:
    """Labels, clusters and TFCE, which have planted bugs elsewhere, on small maps."""
    from gpuroi.backends import get_backend
    from gpuroi.domains import VoxelGrid

    cpu, graph = get_backend("cpu"), VoxelGrid(np.ones((5, 6, 7), bool), connectivity=18).graph
    maps = np.random.default_rng(8).standard_normal((3, 210))
    labels, counts = cuda.label(cuda.asarray(maps.reshape(3, 5, 6, 7) > 0.3), oracles.STRUCTURES[18])
    want = oracles.label(maps.reshape(3, 5, 6, 7) > 0.3, oracles.STRUCTURES[18])
    right = np.array_equal(host(labels), want[0]) and np.array_equal(host(counts), want[1])
    for field, flags in (("cluster_maxima", (0.5, graph, True, True, False)),
                         ("tfce", (graph, 2.0, 0.5, "exact", True, True))):  # fmt: skip
        found = getattr(cuda, field)(cuda.asarray(maps), *flags)
        right &= all(np.allclose(host(g), w) for g, w in zip(found, getattr(cpu, field)(maps, *flags), strict=True))
    return bool(right)


@pytest.fixture(scope="module")
def asan() -> str:
    """The library of AddressSanitizer, to be preloaded."""
    path, _ = compiler()
    found = subprocess.run([path, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    library = found.stdout.strip()
    if not Path(library).is_file():
        pytest.skip(f"{path} comes without AddressSanitizer")
    return library


def run_with_asan(library: str, what: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", _ASAN_RUN, str(Path(__file__).parent), what]
    settings = {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0", "GPUROI_ASAN": "1"}
    return subprocess.run(words, env=os.environ | settings, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.usefixtures("host_compiler")
def test_no_kernel_touches_what_is_not_its_own(asan: str) -> None:
    done = run_with_asan(asan, "kernels")
    assert "AddressSanitizer" not in done.stderr, done.stderr
    assert (done.returncode, done.stdout) == (0, "wrong: []\n")


@pytest.mark.usefixtures("host_compiler")
def test_a_read_beyond_an_array_is_found_at_its_line(asan: str) -> None:
    done = run_with_asan(asan, "beyond")
    assert done.returncode != 0
    assert "use-after-poison" in done.stderr
    assert "kernel.cu:1" in done.stderr


# ---- planting


@pytest.fixture
def few_blocks(standin_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """The CUDA backend with two blocks a launch, so that blocks stride: most bugs between two rounds need that."""
    from gpuroi.backends.cuda import cuda_backend

    monkeypatch.setattr(cuda_kernels, "_MOST_BLOCKS", (2, 1))
    monkeypatch.delenv("GPUROI_PLANTED", raising=False)
    return cuda_backend(0)


@pytest.mark.parametrize("stem", MUTANTS)
def test_planted_bugs_are_found(stem: str, few_blocks: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    original = cuda_kernels.kernel_source
    monkeypatch.setattr(cuda_kernels, "kernel_source", lambda s: planted(original(s), MUTANTS.get(s, {})))
    assert all(is_right(stem, few_blocks, schedule) for schedule in SCHEDULES)
    survivors = []
    for number, name in enumerate(MUTANTS[stem], start=1):
        monkeypatch.setenv("GPUROI_PLANTED", str(number))
        if all(is_right(stem, few_blocks, schedule) for schedule in SCHEDULES):
            survivors.append(name)
    assert survivors == []


def test_every_source_has_planted_bugs() -> None:
    elsewhere = {"label", "graph_clusters", "tfce"}
    assert set(MUTANTS) == set(CHECKS) == set(cuda_kernels.KERNEL_VARIANTS) - elsewhere


def planted(source: str, mutants: dict[str, tuple[str, str, str]]) -> str:
    """The source with all bugs, each behind the number that `GPUROI_PLANTED` asks for."""
    for number, (after, old, new) in enumerate(mutants.values(), start=1):
        at = source.index(old, source.index(after))
        if old.endswith(";"):
            switched = f"if (PLANTED({number})) {{ {new} }} else {{ {old} }}"
        elif re.search(r"\+\+j$", old):
            switched = re.sub(r"many", f"many - PLANTED({number})", old)
        elif re.match(r"\w+ = ", old):
            name, _, value = old.partition(" = ")
            switched = f"{name} = (PLANTED({number}) ? {new.partition(' = ')[2]} : {value})"
        elif old.startswith(("|| ", ">= ", "(int)")) or " ? " in old:
            switched = _by_hand(old, new, number)
        else:
            switched = f"(PLANTED({number}) ? ({new}) : ({old}))"
        source = source[:at] + switched + source[at + len(old) :]
    return f'#define PLANTED(k) (getenv("GPUROI_PLANTED") && atoi(getenv("GPUROI_PLANTED")) == k)\n{source}'


def _by_hand(old: str, new: str, number: int) -> str:
    """Parts of expressions, which are no expressions themselves."""
    if old.startswith("|| "):
        return f"|| (PLANTED({number}) ? ({new[3:]}) : ({old[3:]}))"
    if old.startswith(">= "):
        return f">= {old[3:]} + PLANTED({number})"
    condition, _, value = old.partition(" : ") if " : " in old else old.partition(" ? ")
    other = new.partition(" : ")[2] if " : " in old else new.partition(" ? ")[2]
    return f"{condition} {':' if ' : ' in old else '?'} (PLANTED({number}) ? {other} : {value})"


def is_right(stem: str, cuda: Backend, schedule: tuple[int, int]) -> bool:
    with interleaving(*schedule):
        try:
            return CHECKS[stem](cuda)
        except KernelError:
            return False
