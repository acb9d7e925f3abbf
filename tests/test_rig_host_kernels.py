"""The CPU rig itself: what it computes, what it finds, what it refuses. The kernels here are small and inline."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rig import host_kernels
from rig.host_kernels import CompileError, CompilerMissing, HostModule, KernelError, Schedule, compiler, interleaving
from scipy import special

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("host_compiler")]

SEEDS = range(8)

BLOCK_SUM = """
extern "C" __global__ void block_sum(const float* __restrict__ x, double* out, int n)
{
    __shared__ double part[32];
    double s = 0.0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) s += x[i];
    for (int o = 16; o; o >>= 1) s += __shfl_down_sync(0xffffffffu, s, o);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x < 32) {
        s = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.0;
        for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(0xffffffffu, s, o);
        if (threadIdx.x == 0) atomicAdd(out, s);
    }
}
"""

# Union-find over the edges of a graph, lock-free; the body of `join` comes in as JOIN.
UNION = """
__device__ int root(const int* p, int i) { int q; while ((q = __ldcg(p + i)) != i) i = q; return i; }
__device__ void join(int* p, int a, int b)
{
    for (;;) {
        a = root(p, a); b = root(p, b);
        if (a == b) return;
        if (a < b) { int t = a; a = b; b = t; }
        JOIN
    }
}
extern "C" __global__ void edges(int* parent, const int* from, const int* to, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) join(parent, from[i], to[i]);
}
"""


def run(
    code: str, grid: int, block: int, args: Sequence[Any], *, options: tuple[str, ...] = (), shared_mem: int = 0
) -> None:
    """Launch the only kernel of a source."""
    module = HostModule(code, options)
    (name,) = module.kernels
    module.get_function(name)((grid,), (block,), args, shared_mem=shared_mem)


def kernel(parameters: str, body: str, before: str = "") -> str:
    return f'{before}\nextern "C" __global__ void k({parameters}) {{ int t = threadIdx.x; {body} }}'


# ---- what it computes


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("block", [32, 96, 256])
def test_shuffles_shared_memory_and_atomics_sum_as_numpy(seed: int, block: int) -> None:
    x = np.random.default_rng(seed).standard_normal(1000).astype("f4")
    out = np.zeros(1)
    with interleaving(seed, resident_blocks=3):
        run(BLOCK_SUM, 5, block, (x, out, np.int32(x.size)))
    assert_allclose(out[0], x.sum(dtype="f8"), rtol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_instructions_move_what_cuda_documents(seed: int) -> None:
    body = """
        int v = 100 + t;
        out[t] = __shfl_sync(~0u, v, 5, 8);             // lane 5 of each segment of 8
        out[64 + t] = __shfl_up_sync(~0u, v, 3);        // the first three keep their own
        out[128 + t] = __shfl_down_sync(~0u, v, 2, 16);
        out[192 + t] = __shfl_xor_sync(~0u, v, 1);
        out[256 + t] = __popc(__ballot_sync(~0u, t % 3 == 0));
        out[320 + t] = __any_sync(~0u, t == 40) * 2 + __all_sync(~0u, t < 32);
        out[384 + t] = __syncthreads_count(t % 5 == 0) * 4 + __syncthreads_or(t == 63) * 2 + __syncthreads_and(t < 63);
    """
    out = np.full((7, 64), -7, "i4")
    with interleaving(seed):
        run(kernel("int* out", body), 1, 64, (out,))
    t = np.arange(64)
    lane, warp = t % 32, t // 32
    v = 100 + t
    assert_array_equal(out[0], 100 + 8 * (t // 8) + 5)
    assert_array_equal(out[1], np.where(lane >= 3, v - 3, v))
    assert_array_equal(out[2], np.where(t % 16 + 2 < 16, v + 2, v))
    assert_array_equal(out[3], 100 + (t ^ 1))
    assert_array_equal(out[4], np.bincount(warp, t % 3 == 0).astype(int)[warp])
    assert_array_equal(out[5], 2 * (warp == 1) + (warp == 0))
    assert_array_equal(out[6], 13 * 4 + 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_part_of_a_warp_may_talk_before_all_of_it_does(seed: int) -> None:
    body = "int v = t; if (t < 16) v = __shfl_xor_sync(0xffffu, v, 15); out[t] = __shfl_xor_sync(~0u, v, 16);"
    out = np.zeros(32, "i4")
    with interleaving(seed):
        run(kernel("int* out", body), 1, 32, (out,))
    assert_array_equal(out, np.r_[16:32, 15:-1:-1])


@pytest.mark.parametrize("seed", SEEDS)
def test_atomics_of_every_width(seed: int) -> None:
    body = """
        t += blockIdx.x * blockDim.x;
        atomicAdd(f, 0.5f); atomicAdd(d, 0.25); atomicAdd(i, t); atomicAdd(u, 1ull << 33);
        atomicMin(i + 1, -t); atomicMax(i + 2, t); atomicOr(i + 3, 1 << (t % 31)); atomicXor(i + 4, t);
        atomicMax(l, (long long)t << 40); atomicInc(w, 9u);
        unsigned long long seen = 0, old;                // a product, by compare-and-swap
        do { old = seen; seen = atomicCAS(u + 1, old, (old ? old : 1) * (t % 2 + 1)); } while (seen != old);
    """
    f, d, i = np.zeros(1, "f4"), np.zeros(1), np.zeros(5, "i4")
    u, w, big = np.zeros(2, "u8"), np.zeros(1, "u4"), np.zeros(1, "i8")
    types = "float* f, double* d, int* i, unsigned long long* u, long long* l, unsigned* w"
    with interleaving(seed):
        run(kernel(types, body), 2, 40, (f, d, i, u, big, w))
    t = np.arange(80)
    assert (f[0], d[0], big[0], w[0]) == (40.0, 20.0, 79 << 40, 80 % 10)
    assert i.tolist() == [t.sum(), -79, 79, 2**31 - 1, np.bitwise_xor.reduce(t)]
    assert u.tolist() == [80 << 33, 1 << 40]


def test_double_precision_and_bits_agree_with_scipy() -> None:
    body = """
        double v = x[t];
        out[t] = lgamma(v); out[8 + t] = log1p(v); out[16 + t] = exp(-v); out[24 + t] = fma(v, v, 1.0);
        out[32 + t] = rsqrt(v); out[40 + t] = (double)__double2int_rn(v * 1e10);
        bits[t] = __double_as_longlong(v); bits[8 + t] = __clzll(bits[t]); bits[16 + t] = __popcll(bits[t]);
        bits[24 + t] = max(t, 3); out[48 + t] = max(v, 1.0f); out[56 + t] = __longlong_as_double(bits[t]);
    """
    x = np.array([0.1, 0.5, 1.0, 1.5, 2.0, 7.25, 100.0, 1e-3])
    out, bits = np.zeros((8, 8)), np.zeros((4, 8), "i8")
    run(kernel("const double* x, double* out, long long* bits", body), 1, 8, (x, out, bits))
    want = [special.gammaln(x), np.log1p(x), np.exp(-x), x * x + 1, x**-0.5]
    assert_allclose(out[:5], want, rtol=1e-14, atol=1e-15)
    assert_array_equal(out[5], np.clip(np.rint(x * 1e10), None, 2**31 - 1))
    assert_array_equal(bits[0], x.view("i8"))
    assert bits[1].tolist() == [64 - int(b).bit_length() for b in x.view("i8")]
    assert bits[2].tolist() == [int(b).bit_count() for b in x.view("i8")]
    assert_array_equal(bits[3], np.maximum(np.arange(8), 3))
    assert_array_equal(out[6:], [np.maximum(x, 1), x])


def test_shared_memory_in_templates_and_inline_functions() -> None:
    before = """
    struct Pair { int a, b; __device__ Pair(int x) : a(x), b(2 * x) {} __device__ int sum() const { return a + b; } };
    template <class T> __device__ __forceinline__ T turned(T v) {
        __shared__ T s[32];
        s[threadIdx.x] = v; __syncthreads(); return s[31 - threadIdx.x];
    }
    static __device__ __constant__ const int kTable[2] = {5, 6};
    """
    out = np.zeros((2, 32))
    body = "out[t] = turned((float)t) + kTable[1]; out[32 + t] = turned((double)Pair(t).sum());"
    run(kernel("double* out", body, before), 1, 32, (out,))
    assert_array_equal(out, [31 - np.arange(32) + 6, 3 * (31 - np.arange(32))])


@pytest.mark.parametrize("declaration", ["extern __shared__ __align__(16) float s[];", "DYN_SHARED(float, s);"])
@pytest.mark.parametrize("seed", SEEDS)
def test_dynamic_shared_memory_belongs_to_its_block(declaration: str, seed: int) -> None:
    body = f"{declaration} s[t] = 100 * blockIdx.x + t; __syncthreads(); out[blockIdx.x * 32 + t] = s[31 - t];"
    out = np.zeros((6, 32), "f4")
    with interleaving(seed, resident_blocks=4):
        run(kernel("float* out", body), 6, 32, (out,), shared_mem=4 * 32)
    assert_array_equal(out, 100 * np.arange(6)[:, None] + 31 - np.arange(32))


def test_options_choose_kernels_and_constants() -> None:
    code = """
    #define NAMED(n) extern "C" __global__ void __launch_bounds__(128, 2) n
    #ifdef TWICE
    NAMED(twice)(REAL* a) { a[threadIdx.x] *= 2; }
    #else
    NAMED(once)(REAL* a) { a[threadIdx.x] += 1; }
    #endif
    """
    assert HostModule(code, ("-DREAL=float", "--std=c++17")).kernels == ("once",)
    a = np.ones(3)
    run(code, 1, 3, (a,), options=("-DTWICE", "-DREAL=double"))
    assert a.tolist() == [2, 2, 2]


# ---- interleavings


def test_seed_zero_is_program_order_and_each_seed_an_order_of_its_own() -> None:
    def order(seed: int) -> list[int]:
        ticket, out = np.zeros(1, "i4"), np.zeros(64, "i4")
        with interleaving(seed):
            run(
                kernel("int* ticket, int* out", "out[atomicAdd(ticket, 1)] = blockIdx.x * 32 + t;"),
                2,
                32,
                (ticket, out),
            )
        return out.tolist()

    orders = [order(seed) for seed in SEEDS]
    assert orders[0] == list(range(64))
    assert all(sorted(each) == list(range(64)) for each in orders)
    assert len({tuple(each) for each in orders}) == len(orders)
    assert orders == [order(seed) for seed in SEEDS]


def test_schedule_ends_with_its_context() -> None:
    with interleaving(4, resident_blocks=7):
        assert host_kernels._schedule.get() == Schedule(4, 7)
    assert host_kernels._schedule.get() == Schedule()


@pytest.mark.parametrize(
    ("body", "races"), [("int v = __ldcg(n); __stcg(n, v + 1);", True), ("atomicAdd(n, 1);", False)]
)
def test_fuzz_finds_a_lost_update(body: str, races: bool) -> None:
    counts = []
    for seed in SEEDS:
        n = np.zeros(1, "i4")
        with interleaving(seed):
            run(kernel("int* n", body), 2, 32, (n,))
        counts.append(int(n[0]))
    assert counts[0] == 64, "program order hides the race"
    assert (min(counts) < 64) == races


@pytest.mark.parametrize(
    ("join", "right"),
    [
        ("if (atomicCAS(p + a, a, b) == a) return;", True),
        ("atomicCAS(p + a, a, b); return;", False),  # no second try: another thread's link wins
        ("if (__ldcg(p + a) == a) { p[a] = b; return; }", False),  # looks, then writes
        ("int old = atomicMin(p + a, b); if (old == a) return; a = old;", True),
    ],
    ids=["compare-and-swap", "no retry", "plain store", "minimum"],
)
def test_fuzz_finds_a_broken_union(join: str, right: bool) -> None:
    n = 96
    rng = np.random.default_rng(5)
    path = rng.permutation(n).astype("i4")  # one component: a path in random order
    edges = rng.permutation(n - 1)
    module = HostModule(UNION.replace("JOIN", join))
    whole = []
    for seed in range(16):
        parent = np.arange(n, dtype="i4")
        with interleaving(seed, resident_blocks=1 + seed % 3):
            args = (parent, path[:-1][edges], path[1:][edges], np.int32(n - 1))
            module.get_function("edges")((3,), (32,), args)
        for _ in range(n):
            parent = parent[parent]
        whole.append(bool((parent == 0).all()))
    assert whole[0], "program order is right even for a broken union"
    assert all(whole) == right


def test_threads_that_poll_come_to_an_end() -> None:
    body = """if (blockIdx.x == 0) { while (__ldcv(flag) == 0) {} out[0] = flag[1]; }
              else { flag[1] = 42; atomicExch(flag, 1); }"""
    for seed in SEEDS:
        flag, out = np.zeros(2, "i4"), np.zeros(1, "i4")
        with interleaving(seed):
            run(kernel("int* flag, int* out", body), 2, 1, (flag, out))
        assert out[0] == 42


# ---- what it finds


def test_missing_barrier_reads_poison() -> None:
    a, b = np.zeros(32, "f4"), np.zeros(32, "f4")
    body = "__shared__ float s[32]; s[t] = t; %s a[t] = s[31 - t];"
    run(kernel("float* a", body % "__syncthreads();"), 1, 32, (a,))
    run(kernel("float* a", body % ""), 1, 32, (b,))
    assert_array_equal(a, 31 - np.arange(32))
    assert np.isnan(b).any()


def test_missing_second_barrier_overwrites_what_others_still_read() -> None:
    body = """__shared__ int s[32];
        for (int r = 0; r < 3; ++r) { s[t] = 10 * r + t; __syncthreads(); out[32 * r + t] = s[31 - t]; %s }"""
    good, bad = np.zeros((3, 32), "i4"), np.zeros((3, 32), "i4")
    run(kernel("int* out", body % "__syncthreads();"), 1, 32, (good,))
    run(kernel("int* out", body % ""), 1, 32, (bad,))
    assert_array_equal(good, 10 * np.arange(3)[:, None] + 31 - np.arange(32))
    assert (bad != good).any()


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (t < 16) { __syncthreads(); a[0] = 1; } else {\n a[1] = 1; __syncthreads(); }", "different __syncthreads"),
        ("if (t < 16) __syncthreads(); else __syncwarp();", "deadlock"),
        (
            "if (t < 16) a[0] = __shfl_sync(~0u, t, 0); else\n a[1] = __shfl_sync(~0u, t, 0);",
            "different warp instructions",
        ),
        ("a[t % 2] = __shfl_sync(t < 16 ? 0x1ffffu : ~0u, t, 0);", "deadlock"),  # 16 is waited for, and waits
        ("a[0] = __ballot_sync(0xffu, 1);", "outside its mask"),
        ("DYN_SHARED(int, s); s[8 + t % 2] = 1; a[0] = s[0];", "past the dynamic shared memory"),
        ("volatile char big[140 << 10]; for (int i = 0; i < sizeof big; ++i) big[i] = 1; a[0] = big[7];", "stack"),
        ("assert(t < 31); a[0] = t;", "assertion failed: t < 31 \\(block 0,0,0 thread 31,0,0\\)"),
        ("if (t == 7) __trap(); a[0] = t;", "__trap"),
    ],
)
def test_wrong_kernels_are_reported(body: str, message: str, seed: int) -> None:
    with interleaving(seed), pytest.raises(KernelError, match=message):
        run(kernel("int* a", body), 1, 32, (np.zeros(2, "i4"),), shared_mem=32)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("\n a[0] = n + t * 100000000;", "signed integer overflow in [+*] at kernel.cu:3"),
        ("a[0] = 1 << (n & 63);", "shift"),
        ("int zero = n - n; a[0] = t / zero;", "division by zero"),
        ("__shared__ int s[8]; s[t] = t; a[0] = s[0];", "index outside an array"),
        ("a[0] = *(const int*)((const char*)a + 1 + t);", "misaligned"),
    ],
)
def test_undefined_behaviour_is_reported_at_its_line(body: str, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run(kernel("int* a, int n", body), 1, 32, (np.zeros(2, "i4"), np.int32(2**31 - 1)))


def test_a_module_works_on_after_an_error() -> None:
    function = HostModule(kernel("int* a, int n", "__syncthreads(); assert(n > 0); a[t] = n;")).get_function("k")
    a = np.zeros(64, "i4")
    with pytest.raises(KernelError, match="assertion"):
        function((1,), (64,), (a, np.int32(0)))
    function((1,), (64,), (a, np.int32(5)))
    assert (a == 5).all()


def test_launches_from_many_threads_do_not_meet() -> None:
    def count(threads: int) -> int:
        n = np.zeros(1, "i4")
        for _ in range(20):
            run(kernel("int* n", "__syncthreads(); atomicAdd(n, 1);"), 8, threads, (n,))
        return int(n[0])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(count, range(1, 17))) == [160 * threads for threads in range(1, 17)]


# ---- what it refuses

A = np.zeros(4, "f4")


@pytest.mark.parametrize(
    "args",
    [
        (A, 2.0, np.int32(1)),
        (A, np.float64(2), np.int32(1)),
        (A, np.float32(2), 1),
        (A, np.float32(2), True),
        (A, np.float32(2), np.int64(1)),
        (A, np.float32(2), np.uint32(1)),
        (A, np.float32(2), np.array(1, "i4")),
        (A, np.float32(2)),
        (A, np.float32(2), np.int32(1), np.int32(1)),
        (A.astype("f8"), np.float32(2), np.int32(1)),
        (A.view("i4"), np.float32(2), np.int32(1)),
        (A[::2], np.float32(2), np.int32(1)),
        (A.astype(">f4"), np.float32(2), np.int32(1)),
        (np.broadcast_to(np.float32(1), (1,)), np.float32(2), np.int32(1)),
        (None, np.float32(2), np.int32(1)),
        (0, np.float32(2), np.int32(1)),
        ([1.0], np.float32(2), np.int32(1)),
    ],
)
def test_arguments_must_have_the_exact_type(args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match=r"^k"):
        run(kernel("float* a, float b, int n", "a[0] = b * n;"), 1, 1, args)


def test_signedness_and_bool_bytes_and_null_are_taken() -> None:
    code = kernel("const unsigned* a, const unsigned char* b, const bool* c, const void* d, int* out",
                  "out[t] = a[t] + b[t] + c[t] + (d == nullptr);")  # fmt: skip
    out, yes = np.zeros(2, "i4"), np.array([True, False])
    run(code, 1, 2, (np.array([5, 6], "i4"), yes, yes.view("u1"), np.uint64(0), out))
    assert out.tolist() == [8, 7]


@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        ((0,), (32,), 0, "grid"),
        ((1, 65536), (32,), 0, "grid"),
        ((1,), (2048,), 0, "block"),
        ((1,), (1, 1, 65), 0, "block"),
        ((1,), (64, 32), 0, "2048 threads"),
        (1, (32,), 0, "tuple"),
        ((1,), (32,), 49153, "49153 bytes"),
    ],
)
def test_launches_that_no_device_takes(grid: Any, block: Any, shared: int, message: str) -> None:
    function = HostModule(kernel("int* a", "a[0] = t;")).get_function("k")
    with pytest.raises(ValueError, match=message):
        function(grid, block, (np.zeros(1, "i4"),), shared_mem=shared)


def test_more_shared_memory_has_to_be_asked_for() -> None:
    function = HostModule(kernel("int* a", "DYN_SHARED(int, s); s[50000] = 3; a[0] = s[50000];")).get_function("k")
    a = np.zeros(1, "i4")
    function.max_dynamic_shared_size_bytes = 227 << 10
    function((1,), (1,), (a,), shared_mem=4 * 50001)
    assert a[0] == 3


def test_compiler_messages_point_into_the_kernel_file() -> None:
    with pytest.raises(CompileError, match=r"moments\.cu:2:.*nonsense"):
        HostModule('#line 1 "moments.cu"\n\nextern "C" __global__ void k(int* a) { a[0] = nonsense; }')


@pytest.mark.parametrize(
    "call", ["atomicAdd(a, 1ll)", "atomicMin((float*)a, 1.f)", "atomicSub((unsigned long long*)a, 1)"]
)
def test_atomics_that_cuda_lacks_do_not_compile(call: str) -> None:
    with pytest.raises(CompileError, match="no such type in CUDA"):
        HostModule(kernel("long long* a", f"{call};"))


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(KeyError, match="there are: k"):
        HostModule(kernel("int* a", "a[0] = t;")).get_function("other")
    with pytest.raises(ValueError, match="--use_fast_math"):
        HostModule(kernel("int* a", "a[0] = t;"), ("--use_fast_math",))


# ---- building


def test_without_a_compiler_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiler.cache_clear()
    try:
        with pytest.raises(CompilerMissing, match="no-such-compiler is not installed"):
            HostModule("// a source that no other test has")
    finally:
        compiler.cache_clear()


def test_libraries_are_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    code = kernel("int* a", "a[0] = t;")
    first = HostModule(code)._library._name
    built = time.time_ns() - Path(first).stat().st_mtime_ns
    assert built >= 0
    os.utime(first, (1, 1))
    assert HostModule(code)._library._name == first
    assert Path(first).stat().st_mtime == 1, "found, not built again"
    assert HostModule(code, ("-DX",))._library._name != first
    assert HostModule(code, sanitize=False)._library._name != first
    assert len(list(Path(first).parent.iterdir())) == 3, "nothing else is left behind"


def test_a_folder_that_others_can_write_is_not_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    host_kernels._cache_folder().chmod(0o777)
    with pytest.raises(PermissionError, match="writable by others"):
        host_kernels._cache_folder()
