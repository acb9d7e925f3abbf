// tfce: threshold-free cluster enhancement of a batch of maps on a graph: the algorithm of tfce.py, one warp a map and
// sign for what is sequential, one thread an element for the rest.
//   tfce_keys     (float) one 64-bit key an element: map, value from high to low, element; sorted, they are the order
//   tfce_order    (float) elements from the sorted keys
//   tfce_ranks    place of every element in the order of its map, G of its height, and how many lie above and below 0
//   tfce_grow     component tree: elements enter from the highest down and join the neighbours that are in already
//   tfce_sweep    T(child) = T(parent) + extent^E (G(child) - G(parent)), and the largest T
// The two signs share all arrays: elements above 0 are the first of the order, those below 0 the last, entering from the
// end. Nodes are numbered by their place in the order.
// Launch: tfce_keys, tfce_order and tfce_ranks 2-D, x strides over the elements of a map and y over the maps; tfce_grow and
// tfce_sweep 1-D, warps stride over pairs of a map and a sign. Blocks are whole warps; warps do not depend on each other.
// Layout: maps, out (n, v) REAL; order, rank, forest, latest, parents (n, v) int32; g, sizes, extents (n, v) float64; counts
// (n, 2) int32: zeros before tfce_ranks; maxima (n,) float64 as bits: zeros before tfce_sweep. CSR rows: indptr (v + 1,)
// int64, indices int32; weights (v,) float64 or null for 1 each.
#ifndef REAL
#define REAL float
#endif
#define ALL 0xffffffffu
typedef long long i64;
typedef unsigned long long u64;

__device__ __forceinline__ u64 ordered(float x)
{
    const unsigned bits = x > 0.0f || x < 0.0f ? __float_as_uint(x) : 0u;  // NaN and -0 are 0
    return ~((bits >> 31) ? ~bits : bits | 0x80000000u);
}

extern "C" __global__ void tfce_keys(const float* __restrict__ maps, u64* __restrict__ keys, int element_bits, i64 n,
                                     int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            const u64 place = (ordered(maps[map * v + i]) & 0xffffffffu) << element_bits | (u64)i;
            keys[map * v + i] = (u64)map << (32 + element_bits) | place;
        }
}

extern "C" __global__ void tfce_order(const u64* __restrict__ keys, int* __restrict__ order, int element_bits, i64 n,
                                      int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 q = (i64)blockIdx.x * blockDim.x + threadIdx.x; q < v; q += (i64)gridDim.x * blockDim.x)
            order[map * v + q] = (int)(keys[map * v + q] & (((u64)1 << element_bits) - 1));
}

__device__ __forceinline__ double power(double x, double exponent)
{
    return exponent == 2.0 ? x * x : exponent == 1.0 ? x : exponent == 0.5 ? sqrt(x) : pow(x, exponent);
}

// tops: largest finite |x| of each map; what is infinite counts as that. H, step, n_steps, sums, constant: a TfceRule.
extern "C" __global__ void tfce_ranks(const REAL* __restrict__ maps, const double* __restrict__ tops,
                                      const int* __restrict__ order, int* __restrict__ rank, double* __restrict__ g,
                                      int* __restrict__ counts, double H, double step, int n_steps,
                                      const double* __restrict__ sums, int n_sums, double constant, i64 n, int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y) {
        const REAL* values = maps + map * v;
        const int* at = order + map * v;
        for (i64 q = (i64)blockIdx.x * blockDim.x + threadIdx.x; q < v; q += (i64)gridDim.x * blockDim.x) {
            const double x = (double)values[at[q]];
            rank[map * v + at[q]] = (int)q;
            if (!(x > 0.0 || x < 0.0)) continue;
            const bool above = x > 0.0;
            if (above && (q == v - 1 || !(values[at[q + 1]] > 0))) counts[2 * map] = (int)q + 1;
            if (!above && (q == 0 || !(values[at[q - 1]] < 0))) counts[2 * map + 1] = v - (int)q;
            const double h = fmin(fabs(x), tops[map]);
            if (step == 0.0 && n_steps == 0) {
                g[map * v + q] = h * power(h, H) / (H + 1.0);
                continue;
            }
            const double highest = fmin(fabs((double)values[at[above ? 0 : v - 1]]), tops[map]);
            const double dh = n_steps > 0 ? highest / n_steps : step;
            double level = floor(h / dh);
            if (__dmul_rn(level + 1.0, dh) <= h) level += 1.0;  // the quotient was rounded
            else if (__dmul_rn(level, dh) > h) level -= 1.0;
            if (n_steps > 0 && h == highest) level = n_steps;
            double sum;
            if (level < n_sums) sum = sums[(int)level];
            else sum = power(level, H) * (level / (H + 1.0) + 0.5 + H / (12.0 * level)) + constant;
            g[map * v + q] = dh * power(dh, H) * sum;
        }
    }
}

__device__ __forceinline__ int find(int* forest, int a)
{
    int up = forest[a];
    while (up != a) {  // paths are halved; several lanes may do so at once, each to an ancestor
        const int above = forest[up];
        forest[a] = above;
        a = above;
        up = forest[a];
    }
    return a;
}

extern "C" __global__ void tfce_grow(const int* __restrict__ order, const int* __restrict__ rank,
                                     const i64* __restrict__ indptr, const int* __restrict__ indices,
                                     const double* __restrict__ weights, const int* __restrict__ counts, int n_sides,
                                     int* forests, int* latests, int* parents, double* sizes, double* extents, i64 n,
                                     int v)
{
    const int lane = threadIdx.x % 32;
    const i64 n_warps = (i64)gridDim.x * (blockDim.x / 32);
    for (i64 pair = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; pair < n * n_sides; pair += n_warps) {
        const i64 base = pair / n_sides * v;
        const int below = (int)(pair % n_sides), many = counts[pair / n_sides * 2 + below];
        const int *at = order + base, *ranks = rank + base;
        int *forest = forests + base, *latest = latests + base, *parent = parents + base;
        double *size = sizes + base, *extent_of = extents + base;
        for (int start = 0; start < many; start += 32) {
            // one node a lane: where its neighbours are
            int i = 0, degree = 0;
            i64 first = 0;
            if (start + lane < many) {
                i = at[below ? v - 1 - start - lane : start + lane];
                first = indptr[i];
                degree = (int)(indptr[i + 1] - first);
            }
            double weight = weights && start + lane < many ? weights[i] : 1.0;
            int ahead = 0;  // rank of this lane's neighbour of the next node: on its way while the last one is joined
            {
                const i64 from = __shfl_sync(ALL, first, 0);
                if (lane < __shfl_sync(ALL, degree, 0)) ahead = ranks[indices[from + lane]];
            }
            for (int s = 0; s < 32 && start + s < many; ++s) {
                const int p = start + s, q = below ? v - 1 - p : p;
                const i64 from = __shfl_sync(ALL, first, s);
                const int all = __shfl_sync(ALL, degree, s);
                int r = ahead;
                {
                    const int next = s < 31 ? s + 1 : 31;
                    const i64 from_next = __shfl_sync(ALL, first, next);
                    if (lane < __shfl_sync(ALL, degree, next)) ahead = ranks[indices[from_next + lane]];
                }
                int root = q;
                double extent = __shfl_sync(ALL, weight, s);
                if (lane == 0) {
                    forest[q] = q;
                    parent[q] = q;
                }
                for (int k = 0; k < all; k += 32) {
                    if (k > 0 && k + lane < all) r = ranks[indices[from + k + lane]];
                    const bool in = k + lane < all && (below ? v - 1 - r : r) < p;
                    int component = -1;
                    if (in) component = find(forest, r);
                    unsigned todo = __ballot_sync(ALL, in);
                    __syncwarp();
                    while (todo) {  // components in the order of the first neighbour in them
                        const int c = __shfl_sync(ALL, component, __ffs((int)todo) - 1);
                        todo &= ~__ballot_sync(ALL, component == c);
                        if (c == root) continue;
                        const double its = size[c];
                        const int child = latest[c];
                        if (lane == 0) {
                            parent[child] = q;
                            forest[its > extent ? root : c] = its > extent ? c : root;
                        }
                        if (its > extent) root = c;
                        extent += its;
                    }
                    __syncwarp();
                }
                if (lane == 0) {
                    size[root] = extent;
                    latest[root] = q;
                    extent_of[q] = extent;
                }
                __syncwarp();
            }
        }
    }
}

// extents holds extents on entry and T on return; out may be null.
extern "C" __global__ void tfce_sweep(const int* __restrict__ order, const int* __restrict__ parents,
                                      const double* __restrict__ g, const int* __restrict__ counts, int n_sides,
                                      double E, double* extents, REAL* __restrict__ out, u64* maxima, i64 n, int v)
{
    const int lane = threadIdx.x % 32;
    const i64 n_warps = (i64)gridDim.x * (blockDim.x / 32);
    for (i64 pair = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; pair < n * n_sides; pair += n_warps) {
        const i64 map = pair / n_sides, base = map * v;
        const int below = (int)(pair % n_sides), many = counts[2 * map + below];
        REAL largest = 0;
        for (int start = (many - 1) / 32 * 32; start >= 0 && many > 0; start -= 32) {
            const int p = start + lane, q = below ? v - 1 - p : p;
            double t = 0.0;
            int above = -1;  // lane of the parent, if it is one of these 32
            if (p < many) {
                const int parent = parents[base + q];
                const double rise = g[base + q] - (parent == q ? 0.0 : g[base + parent]);
                t = power(extents[base + q], E) * rise;
                const int place = below ? v - 1 - parent : parent;  // parents enter later
                if (place >= start + 32) t += extents[base + parent];
                else if (parent != q) above = place - start;
            }
            for (int hop = 0; hop < 5; ++hop) {  // sums along the way up, twice as far each time
                const int from = above < 0 ? lane : above;
                const double their = __shfl_sync(ALL, t, from);
                const int beyond = __shfl_sync(ALL, above, from);
                if (above >= 0) {
                    t += their;
                    above = beyond;
                }
            }
            __syncwarp();
            if (p < many) {
                extents[base + q] = t;
                if (out) out[base + order[base + q]] = (REAL)(below ? -t : t);
                largest = fmax(largest, (REAL)t);
            }
            __syncwarp();
        }
        for (int half = 16; half > 0; half /= 2) largest = fmax(largest, __shfl_xor_sync(ALL, largest, half));
        if (lane == 0 && largest > 0) atomicMax(maxima + map, (u64)__double_as_longlong((double)largest));
    }
}
