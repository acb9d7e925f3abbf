// graph_clusters: clusters of a batch of maps above a threshold on a graph; only what passes is touched again.
//   clusters_begin   list the elements that pass, each a tree of its own; largest finite |x| of each map
//   clusters_merge   join each with the neighbours of its sign that come before it
//   clusters_sum     add weights and masses at the roots
//   clusters_max     largest sum of each map
//   clusters_finish  both as float64
//   clusters_roots   (for label images) root of every element that passes
// Sums are whole numbers: a weight or mass times a power of two, chosen so that no sum of a map can overflow. No order of
// the atomics changes them; each term is right to 2^-60 of the largest sum that the map could have.
// The lists are in no fixed order, the results do not depend on it. The union is that of label.cu: only a root is ever
// linked, by compare-and-swap and to a smaller root, so that a root is the first element of its cluster.
// Launch: 2-D grid, x strides over the elements (or the list) of a map and y over the maps; clusters_finish 1-D over maps.
// Blocks are whole warps.
// Layout: maps (n, v) REAL; parents, members (n, v) int32 and sizes, masses (n, v) int64, set only where an element
// passes; counts (n,) int32, tops (n,) float64 as bits, largest (n, 2) int64: zeros before clusters_begin. CSR rows: indptr
// (v + 1,) int64, indices int32, ascending; weights (v,) float64 or null for 1 each.
#ifndef REAL
#define REAL float
#endif
#define ALL 0xffffffffu
typedef long long i64;
typedef unsigned long long u64;

__device__ __forceinline__ int find(int* parent, int i)
{
    int at = __ldcv(parent + i);
    if (at == i) return i;
    int before = i, next = __ldcv(parent + at);
    while (next != at) {
        *(volatile int*)(parent + before) = next;
        before = at;
        at = next;
        next = __ldcv(parent + at);
    }
    return at;
}

__device__ __forceinline__ void unite(int* parent, int a, int b)
{
    for (;;) {
        a = find(parent, a);
        b = find(parent, b);
        if (a == b) return;
        const int high = a > b ? a : b, low = a > b ? b : a;
        if (atomicCAS(parent + high, high, low) == high) return;  // else another thread linked it first: look again
    }
}

// 1 or -1 where x passes on this side, 0 where it does not; NaN passes no comparison.
__device__ __forceinline__ int side(REAL x, REAL limit, int two_sided)
{
    return x > limit ? 1 : two_sided && -x > limit ? -1 : 0;
}

// Exponent k such that v sums of values up to `top`, times 2^k, stay below 2^62.
__device__ __forceinline__ int exponent(double top, int v)
{
    return 62 - ilogb(top) - 1 - ilogb((double)v) - 1;
}

__device__ __forceinline__ double finite_top(u64 bits)
{
    return bits ? __longlong_as_double((i64)bits) : 1.0;
}

extern "C" __global__ void clusters_begin(const REAL* __restrict__ maps, REAL limit, int two_sided,
                                          int* __restrict__ parents, int* __restrict__ members,
                                          i64* __restrict__ sizes, i64* __restrict__ masses, int* counts, u64* tops,
                                          i64 n, int v)
{
    const int lane = threadIdx.x % 32;
    for (i64 map = blockIdx.y; map < n; map += gridDim.y) {
        const REAL* x = maps + map * v;
        double top = 0.0;
        for (i64 first = (i64)blockIdx.x * blockDim.x + threadIdx.x - lane; first < v;
             first += (i64)gridDim.x * blockDim.x) {
            const i64 i = first + lane;
            const REAL value = i < v ? x[i] : (REAL)0;
            const double size = fabs((double)value);
            if (size > top && isfinite(size)) top = size;
            const bool passes = side(value, limit, two_sided) != 0;
            const unsigned passing = __ballot_sync(ALL, passes);
            if (!passing) continue;
            int place = 0;
            if (lane == 0) place = atomicAdd(counts + map, __popc(passing));
            place = __shfl_sync(ALL, place, 0);
            if (!passes) continue;
            members[map * v + place + __popc(passing & ((1u << lane) - 1))] = (int)i;
            parents[map * v + i] = (int)i;
            sizes[map * v + i] = 0;
            masses[map * v + i] = 0;
        }
        for (int half = 16; half > 0; half /= 2) top = fmax(top, __shfl_xor_sync(ALL, top, half));
        if (lane == 0 && top > 0.0) atomicMax(tops + map, (u64)__double_as_longlong(top));  // of positive doubles
    }
}

extern "C" __global__ void clusters_merge(const REAL* __restrict__ maps, REAL limit, int two_sided, int* parents,
                                          const int* __restrict__ members, const int* __restrict__ counts,
                                          const i64* __restrict__ indptr, const int* __restrict__ indices, i64 n, int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y) {
        const REAL* x = maps + map * v;
        for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < counts[map]; k += (i64)gridDim.x * blockDim.x) {
            const int i = members[map * v + k];
            const int mine = side(x[i], limit, two_sided);
            for (i64 e = indptr[i]; e < indptr[i + 1]; ++e) {
                const int j = indices[e];
                if (j >= i) break;
                if (side(x[j], limit, two_sided) == mine) unite(parents + map * v, i, j);
            }
        }
    }
}

// weight_exponent: 2^k times a weight is what is added.
extern "C" __global__ void clusters_sum(const REAL* __restrict__ maps, double offset, int* parents,
                                        const int* __restrict__ members, const int* __restrict__ counts,
                                        const u64* __restrict__ tops, const double* __restrict__ weights,
                                        int weight_exponent, i64* sizes, i64* masses, i64 n, int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y) {
        const double top = finite_top(tops[map]);
        const int k_mass = exponent(fmax(top, offset), v);
        for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < counts[map]; k += (i64)gridDim.x * blockDim.x) {
            const int i = members[map * v + k];
            const int root = find(parents + map * v, i);
            const double x = fmin(fabs((double)maps[map * v + i]), top);
            const i64 weight = weights ? llrint(ldexp(weights[i], weight_exponent)) : 1;
            atomicAdd((u64*)(sizes + map * v + root), (u64)weight);
            atomicAdd((u64*)(masses + map * v + root), (u64)llrint(ldexp(x - offset, k_mass)));
        }
    }
}

extern "C" __global__ void clusters_max(const int* __restrict__ members, const int* __restrict__ counts,
                                        const i64* __restrict__ sizes, const i64* __restrict__ masses, i64* largest,
                                        i64 n, int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y) {
        i64 size = 0, mass = 0;
        for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < counts[map]; k += (i64)gridDim.x * blockDim.x) {
            const int i = members[map * v + k];  // 0 where it is no root
            size = max(size, sizes[map * v + i]);
            mass = max(mass, masses[map * v + i]);
        }
        if (size > 0) atomicMax(largest + 2 * map, size);
        if (mass > 0) atomicMax(largest + 2 * map + 1, mass);
    }
}

// sums: (rows, 2) int64, row r of map r or, if `one_map`, all of one map.
extern "C" __global__ void clusters_finish(const i64* __restrict__ sums, const u64* __restrict__ tops, double offset,
                                           int weight_exponent, int one_map, double* __restrict__ sizes,
                                           double* __restrict__ masses, i64 rows, int v)
{
    for (i64 r = (i64)blockIdx.x * blockDim.x + threadIdx.x; r < rows; r += (i64)gridDim.x * blockDim.x) {
        const int k_mass = exponent(fmax(finite_top(tops[one_map ? 0 : r]), offset), v);
        sizes[r] = ldexp((double)sums[2 * r], -weight_exponent);
        masses[r] = ldexp((double)sums[2 * r + 1], -k_mass);
    }
}

extern "C" __global__ void clusters_roots(int* parents, const int* __restrict__ members,
                                          const int* __restrict__ counts, int* __restrict__ roots, i64 n, int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 k = (i64)blockIdx.x * blockDim.x + threadIdx.x; k < counts[map]; k += (i64)gridDim.x * blockDim.x) {
            const int i = members[map * v + k];
            roots[map * v + i] = find(parents + map * v, i);
        }
}
