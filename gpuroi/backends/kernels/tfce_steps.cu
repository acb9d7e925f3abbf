// tfce_steps: threshold-free cluster enhancement of a batch of maps on a graph, summed over equal steps: all elements of
// all maps at once. The tree of components is built without locks or a sort, one union for each edge (Blin et al., Max-tree
// computation on GPUs, IEEE Transactions on Parallel and Distributed Systems 33, 2022).
//   steps_tops      largest finite |x|, largest x and largest -x of each map
//   steps_levels    level of every element: the number of steps that it reaches, negative below 0
//   steps_join      tree: the parent of an element is one of the same component that lies lower, or as high and before it
//   steps_members   parents become nodes; how many elements each node has of its own
//   steps_sizes     extent of each node: its elements and those of all nodes above it
//   steps_sums      TFCE of each node, and the largest
//   steps_write     (for maps) TFCE of the elements from their nodes
// A node is the first element of its level in its component. Which element that is does not depend on the order of the
// threads, and extents are whole numbers: neither do the results.
// The work of a union grows with the number of levels below an element: for few levels only.
// Launch: 2-D grid, x strides over the elements of a map and y over the maps. Blocks are whole warps.
// Layout: maps, out (n, v) REAL; levels (n, v) int8; parents, own, sizes (n, v) int32; tops (n, 3) and maxima (n,) float64
// as bits: zeros before. CSR rows: indptr (v + 1,) int64, indices int32, ascending; every element counts 1.
#ifndef REAL
#define REAL float
#endif
#define ALL 0xffffffffu
typedef long long i64;
typedef unsigned long long u64;
typedef signed char i8;

extern "C" __global__ void steps_tops(const REAL* __restrict__ maps, u64* tops, i64 n, int v)
{
    const int lane = threadIdx.x % 32;
    for (i64 map = blockIdx.y; map < n; map += gridDim.y) {
        double finite = 0.0, above = 0.0, below = 0.0;
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            const double x = (double)maps[map * v + i];
            if (isfinite(x)) finite = fmax(finite, fabs(x));
            above = fmax(above, x);  // NaN is never the larger one
            below = fmax(below, -x);
        }
        for (int half = 16; half > 0; half /= 2) {
            finite = fmax(finite, __shfl_xor_sync(ALL, finite, half));
            above = fmax(above, __shfl_xor_sync(ALL, above, half));
            below = fmax(below, __shfl_xor_sync(ALL, below, half));
        }
        if (lane != 0) continue;
        if (finite > 0.0) atomicMax(tops + 3 * map, (u64)__double_as_longlong(finite));  // of positive doubles
        if (above > 0.0) atomicMax(tops + 3 * map + 1, (u64)__double_as_longlong(above));
        if (below > 0.0) atomicMax(tops + 3 * map + 2, (u64)__double_as_longlong(below));
    }
}

// What infinite values count as: the largest finite |x| of the map, 1 where there is none but 0.
__device__ __forceinline__ double finite_top(const u64* tops)
{
    return tops[0] ? __longlong_as_double((i64)tops[0]) : 1.0;
}

// Largest height on the side of x: that of the last step.
__device__ __forceinline__ double highest_of(const u64* tops, bool above)
{
    return fmin(__longlong_as_double((i64)tops[above ? 1 : 2]), finite_top(tops));
}

// The levels are those of tfce.cu to the last bit.
extern "C" __global__ void steps_levels(const REAL* __restrict__ maps, const u64* __restrict__ tops, int two_sided,
                                        int n_steps, i8* __restrict__ levels, int* __restrict__ parents,
                                        int* __restrict__ own, int* __restrict__ sizes, i64 n, int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            const i64 at = map * v + i;
            const double x = (double)maps[at];
            const bool above = x > 0.0;
            double level = 0.0;
            if (above || (two_sided && x < 0.0)) {
                const double highest = highest_of(tops + 3 * map, above);
                const double h = fmin(fabs(x), finite_top(tops + 3 * map)), dh = highest / n_steps;
                level = floor(h / dh);
                if (__dmul_rn(level + 1.0, dh) <= h) level += 1.0;  // the quotient was rounded
                else if (__dmul_rn(level, dh) > h) level -= 1.0;
                level = h == highest ? n_steps : fmin(level, (double)n_steps);
            }
            levels[at] = (i8)(above ? level : -level);
            parents[at] = -1;
            own[at] = 0;
            sizes[at] = 0;
        }
}

// The node of an element, as far as its component is joined: follows parents of its level. Paths are halved on the way.
__device__ __forceinline__ int node_of(int* parents, const i8* levels, int i)
{
    int up = __ldcv(parents + i);
    while (up >= 0 && levels[up] == levels[i]) {
        const int beyond = __ldcv(parents + up);
        if (beyond >= 0 && levels[beyond] == levels[i]) atomicCAS(parents + i, up, beyond);  // unless it has changed
        i = up;
        up = beyond;
    }
    return i;
}

// Does a come after b on the way down to a root? Parents come after their children.
__device__ __forceinline__ bool lower(const i8* levels, int a, int b)
{
    const int height_a = abs((int)levels[a]), height_b = abs((int)levels[b]);
    return height_a < height_b || (height_a == height_b && a < b);
}

__device__ __forceinline__ void unite(int* parents, const i8* levels, int a, int b)
{
    for (;;) {
        a = node_of(parents, levels, a);
        b = node_of(parents, levels, b);
        if (a == b) return;
        if (lower(levels, a, b)) {
            const int swapped = a;
            a = b;
            b = swapped;
        }
        const int parent = __ldcv(parents + a);
        if (parent == b) return;
        if (parent >= 0 && lower(levels, b, parent)) {  // b belongs further down
            a = parent;
            continue;
        }
        if (atomicCAS(parents + a, parent, b) != parent) continue;  // another thread was first: look again
        if (parent < 0) return;
        a = b;  // b came between a and its parent, which is to be joined with b now
        b = parent;
    }
}

extern "C" __global__ void steps_join(const i8* __restrict__ levels, const i64* __restrict__ indptr,
                                      const int* __restrict__ indices, int* parents, i64 n, int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y) {
        const i8* its = levels + map * v;
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            const int level = its[i];
            if (level == 0) continue;
            for (i64 e = indptr[i]; e < indptr[i + 1]; ++e) {
                const int j = indices[e];
                if (j >= i) break;
                if (level > 0 ? its[j] > 0 : its[j] < 0) unite(parents + map * v, its, (int)i, j);
            }
        }
    }
}

extern "C" __global__ void steps_members(const i8* __restrict__ levels, int* parents, int* own, i64 n, int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y) {
        const i8* its = levels + map * v;
        int* parent = parents + map * v;
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            if (its[i] == 0) continue;
            const int node = node_of(parent, its, (int)i);
            int target = node;
            if (node == i) {
                const int up = __ldcv(parent + i);
                target = up < 0 ? up : node_of(parent, its, up);
            }
            __stcg(parent + i, target);  // others may read it before or after: both lead to the same node
            atomicAdd(own + map * v + node, 1);
        }
    }
}

extern "C" __global__ void steps_sizes(const int* __restrict__ parents, const int* __restrict__ own, int* sizes, i64 n,
                                       int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            const int many = own[map * v + i];
            if (many == 0) continue;  // no node
            for (int node = (int)i; node >= 0; node = parents[map * v + node]) atomicAdd(sizes + map * v + node, many);
        }
}

__device__ __forceinline__ double power(double x, double exponent)
{
    return exponent == 2.0 ? x * x : exponent == 1.0 ? x : exponent == 0.5 ? sqrt(x) : pow(x, exponent);
}

// powers: 1^H + ... + k^H for k from 0 to n_steps. out may be null.
extern "C" __global__ void steps_sums(const i8* __restrict__ levels, const int* __restrict__ parents,
                                      const int* __restrict__ own, const int* __restrict__ sizes,
                                      const u64* __restrict__ tops, int n_steps, double H, double E,
                                      const double* __restrict__ powers, REAL* __restrict__ out, u64* maxima, i64 n,
                                      int v)
{
    const int lane = threadIdx.x % 32;
    for (i64 map = blockIdx.y; map < n; map += gridDim.y) {
        const i64 base = map * v;
        REAL largest = 0;
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            if (own[base + i] == 0) continue;  // no node
            const bool above = levels[base + i] > 0;
            double sum = 0.0;
            for (int node = (int)i; node >= 0;) {
                const int down = parents[base + node];
                const double from = down < 0 ? 0.0 : powers[abs((int)levels[base + down])];
                sum += power((double)sizes[base + node], E) * (powers[abs((int)levels[base + node])] - from);
                node = down;
            }
            const double dh = highest_of(tops + 3 * map, above) / n_steps;
            const REAL t = (REAL)(dh * power(dh, H) * sum);
            if (out) out[base + i] = above ? t : -t;
            largest = fmax(largest, t);
        }
        for (int half = 16; half > 0; half /= 2) largest = fmax(largest, __shfl_xor_sync(ALL, largest, half));
        if (lane == 0 && largest > 0) atomicMax(maxima + map, (u64)__double_as_longlong((double)largest));
    }
}

extern "C" __global__ void steps_write(const i8* __restrict__ levels, const int* __restrict__ parents,
                                       const int* __restrict__ own, REAL* out, i64 n, int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            const i64 at = map * v + i;
            if (levels[at] != 0 && own[at] == 0) out[at] = out[map * v + parents[at]];
        }
}
