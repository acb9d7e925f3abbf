// threshold: keep the values that pass a cutoff, and of these only clusters of a least size.
//   threshold_keep      out = x where it passes, else 0
//   threshold_classes   1 where a positive value passes, 2 where a negative one does, else 0; label.cu joins the voxels
//                       of one class, so that positive and negative clusters stay apart
//   threshold_clusters  out = x in the components of at least min_size voxels, else 0
// A value passes if |x| >= cutoff (side 0), x >= cutoff (1) or x <= cutoff (2); NaN never does.
// Launch: 2-D grid, x strides over the voxels of a map and y over the maps.
// Layout: x and out (n, v), v fastest, REAL; cutoffs (n,) REAL; inside (v,) bytes, or null; classes (n, v)
// bytes; parents and sizes of label.cu (n, v) int32. Indices are 64-bit across the batch.
#ifndef REAL
#define REAL float
#endif
typedef long long i64;
typedef unsigned char u8;

__device__ __forceinline__ bool passes(REAL x, REAL cutoff, int side)
{
    if (side == 1) return x >= cutoff;
    if (side == 2) return x <= cutoff;
    return x >= cutoff || x <= -cutoff;
}

extern "C" __global__ void threshold_keep(const REAL* __restrict__ x, const REAL* __restrict__ cutoffs, int side,
                                          const u8* __restrict__ inside, REAL* __restrict__ out, i64 n, i64 v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            const REAL value = x[map * v + i];
            const bool keep = passes(value, cutoffs[map], side) && (!inside || inside[i]);
            out[map * v + i] = keep ? value : (REAL)0;
        }
}

extern "C" __global__ void threshold_classes(const REAL* __restrict__ x, const REAL* __restrict__ cutoffs, int side,
                                             const u8* __restrict__ inside, u8* __restrict__ classes, i64 n, i64 v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            const REAL value = x[map * v + i];
            const bool keep = passes(value, cutoffs[map], side) && (!inside || inside[i]);
            classes[map * v + i] = !keep || value == 0 ? 0 : value > 0 ? 1 : 2;
        }
}

extern "C" __global__ void threshold_clusters(const REAL* __restrict__ x, const int* __restrict__ parents,
                                              const int* __restrict__ sizes, i64 min_size, REAL* __restrict__ out,
                                              i64 n, i64 v)
{
    for (i64 map = blockIdx.y; map < n; map += gridDim.y)
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            int root = parents[map * v + i];
            // Not the root yet, perhaps: threads of label_sizes may have moved a voxel back to a lower ancestor.
            while (root >= 0 && parents[map * v + root] != root) root = parents[map * v + root];
            const bool keep = root >= 0 && sizes[map * v + root] >= min_size;
            out[map * v + i] = keep ? x[map * v + i] : (REAL)0;
        }
}
