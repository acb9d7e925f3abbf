// label: connected components of a batch of volumes by lock-free union-find, numbered as SciPy numbers them.
//   label_init    every voxel of a class is a tree of its own, the rest (-1) belongs to none
//   label_merge   join it with the neighbours of the same class that come before it
//   label_roots   count the roots in chunks of 512 voxels
//   label_scan    turn these counts into offsets, in each map anew
//   label_number  give each root its number, in ascending order
//   label_write   give every other voxel the number of its root
//   label_sizes   (for threshold.cu) count the voxels of each component at its root
// A root is the first voxel of its component, so ascending roots are SciPy's order, whatever the threads do.
// The union follows Jaiganesh and Burtscher 2018 (doi 10.1145/3208040.3208041): only a root is ever linked, by
// compare-and-swap and to a smaller root; other nodes are only moved up to one of their ancestors.
// Launch: 2-D grid, x strides over the voxels (chunks: one a warp) of a map and y over the maps; label_scan takes one
// block of 256 threads a map. Blocks are whole warps.
// Layout: (n, na, nb, nc), nc fastest; classes one byte a voxel, parents, labels and sizes int32; chunk counts
// (n, chunks) int32. 64-bit indices across the batch, 32-bit within a map.
#define CHUNK 512
#define SCANNERS 256
typedef long long i64;
typedef unsigned char u8;

// Root of voxel i, shortening the path on the way. __ldcv sees what other threads have stored meanwhile.
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

extern "C" __global__ void label_init(const u8* __restrict__ classes, int* __restrict__ parents, i64 n, int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x)
            parents[map * v + i] = classes[map * v + i] ? (int)i : -1;
}

// structure: bit 9 (da + 1) + 3 (db + 1) + (dc + 1) says that offset (da, db, dc) is a neighbour, for the 13 that come
// before the voxel; the other 13 are their mirror images.
extern "C" __global__ void label_merge(const u8* __restrict__ classes, int* parents, int structure, i64 n, int na,
                                       int nb, int nc)
{
    const i64 v = (i64)na * nb * nc;
    for (i64 map = blockIdx.y; map < n; map += gridDim.y) {
        const u8* cls = classes + map * v;
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            if (!cls[i]) continue;
            const int at = (int)i, c = at % nc, b = at / nc % nb, a = at / nc / nb;
            for (int bit = 0; bit < 13; ++bit) {
                if (!(structure >> bit & 1)) continue;
                const int p = a + bit / 9 - 1, q = b + bit / 3 % 3 - 1, r = c + bit % 3 - 1;
                if (p < 0 || q < 0 || q >= nb || r < 0 || r >= nc) continue;
                const int other = (p * nb + q) * nc + r;
                if (cls[other] == cls[at]) unite(parents + map * v, at, other);
            }
        }
    }
}

__device__ __forceinline__ unsigned root_lanes(const int* parent, i64 i, int v)
{
    return __ballot_sync(0xffffffffu, i < v && parent[i] == (int)i);
}

extern "C" __global__ void label_roots(const int* __restrict__ parents, int* __restrict__ counts, i64 n, int v,
                                       int chunks)
{
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 chunk = (i64)blockIdx.x * warps + threadIdx.x / 32; chunk < chunks; chunk += (i64)gridDim.x * warps) {
            int found = 0;
            for (int step = 0; step < CHUNK; step += 32)
                found += __popc(root_lanes(parents + map * v, chunk * CHUNK + step + lane, v));
            if (lane == 0) counts[map * chunks + chunk] = found;
        }
}

extern "C" __global__ void label_scan(int* counts, i64* totals, i64 n, int chunks)
{
    __shared__ int sums[SCANNERS];
    const int t = threadIdx.x;
    const i64 span = ((i64)chunks + SCANNERS - 1) / SCANNERS, start = t * span;
    const i64 stop = start + span < chunks ? start + span : chunks;
    for (i64 map = blockIdx.x; map < n; map += gridDim.x) {
        int* count = counts + map * chunks;
        int own = 0;
        for (i64 i = start; i < stop; ++i) own += count[i];
        sums[t] = own;
        __syncthreads();
        for (int reach = 1; reach < SCANNERS; reach *= 2) {
            const int before = t >= reach ? sums[t - reach] : 0;
            __syncthreads();
            sums[t] += before;
            __syncthreads();
        }
        int offset = sums[t] - own;
        for (i64 i = start; i < stop; ++i) {
            const int here = count[i];
            count[i] = offset;
            offset += here;
        }
        if (t == SCANNERS - 1) totals[map] = sums[t];
        __syncthreads();
    }
}

// Where voxel i of (na, nb, nc) lies in the labels: there, or, if these are reversed, in (nc, nb, na).
__device__ __forceinline__ i64 place(int i, int na, int nb, int nc, int reversed)
{
    return reversed ? ((i64)(i % nc) * nb + i / nc % nb) * na + i / nc / nb : i;
}

extern "C" __global__ void label_number(const int* __restrict__ parents, const int* __restrict__ offsets,
                                        int* __restrict__ labels, int reversed, i64 n, int na, int nb, int nc,
                                        int chunks)
{
    const int v = na * nb * nc, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 chunk = (i64)blockIdx.x * warps + threadIdx.x / 32; chunk < chunks; chunk += (i64)gridDim.x * warps) {
            int number = offsets[map * chunks + chunk];
            for (int step = 0; step < CHUNK; step += 32) {
                const i64 i = chunk * CHUNK + step + lane;
                const unsigned roots = root_lanes(parents + map * v, i, v);
                const int rank = __popc(roots & ((1u << lane) - 1)) + 1;
                if (roots >> lane & 1u) labels[map * v + place((int)i, na, nb, nc, reversed)] = number + rank;
                number += __popc(roots);
            }
        }
}

extern "C" __global__ void label_write(int* parents, int* labels, int reversed, i64 n, int na, int nb, int nc)
{
    const i64 v = (i64)na * nb * nc;
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            int* label = labels + map * v;
            const int at = (int)i;
            if (parents[map * v + i] < 0) {
                label[place(at, na, nb, nc, reversed)] = 0;
                continue;
            }
            const int root = find(parents + map * v, at);
            if (root != at) label[place(at, na, nb, nc, reversed)] = label[place(root, na, nb, nc, reversed)];
        }
}

// sizes: zeros before; after, the size of each component at its root, and zeros elsewhere.
extern "C" __global__ void label_sizes(int* parents, int* sizes, i64 n, int v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            int* parent = parents + map * v;
            if (parent[i] < 0) continue;
            atomicAdd(sizes + map * v + find(parent, (int)i), 1);
        }
}
