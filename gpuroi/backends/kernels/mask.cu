// mask: the voxels of a mask from volumes as they are stored to rows, and from rows back to volumes.
//   mask_gather          rows[m, columns[i]] = slope[m] volumes[m, i] + intercept[m], in float64, where columns[i] >= 0
//   mask_gather_turned   the same of volumes whose first axis is fastest, as in a NIfTI image
//   mask_scatter         volumes[m, i] = rows[m, columns[i]], `fill` where columns[i] < 0
//   mask_scatter_turned  the same into volumes whose first axis is fastest
// Neighbouring threads read and write neighbouring addresses: where the two orders differ, tiles of 32 x 32 voxels of one
// y are turned in shared memory; tiles outside the mask are passed over. A thread keeps the columns of its voxels for
// MAPS maps, so that the table costs little beside the volumes.
// Launch: grid x strides over voxels, or over tiles (32 x 8 threads), y over groups of MAPS maps.
// Layout: volumes (n, nx, ny, nz), the last axis fastest, or (n, nz, ny, nx) if turned, of the type that `type` says;
// columns (nx, ny, nz) int32; rows (n, w) REAL; scaling (n, 2) float64, slope and intercept, or null for values as
// they are. Indices are 64-bit across the batch, 32-bit within a volume.
#ifndef REAL
#define REAL float
#endif
#define MAPS 8
#define TILE 32
typedef long long i64;

// Runs `call` with T as the type of this code; other types are widened before.
#define WITH_TYPE(type, call)                          \
    switch (type) {                                    \
    case 0: { typedef unsigned char T; call; break; }  \
    case 1: { typedef short T; call; break; }          \
    case 2: { typedef unsigned short T; call; break; } \
    case 3: { typedef int T; call; break; }            \
    case 4: { typedef float T; call; break; }          \
    default: { typedef double T; call; break; }        \
    }

// Two roundings, as on the CPU: a fused multiply-add would differ in the last digit.
template <class T> __device__ __forceinline__ REAL scaled(T value, const double* scaling, i64 map)
{
    if (!scaling) return (REAL)value;
    return (REAL)__dadd_rn(__dmul_rn((double)value, scaling[2 * map]), scaling[2 * map + 1]);
}

template <class T>
__device__ __forceinline__ void gather(const T* __restrict__ volumes, const int* __restrict__ columns,
                                       const double* __restrict__ scaling, REAL* __restrict__ rows, i64 n, int v, i64 w)
{
    for (i64 first = (i64)blockIdx.y * MAPS; first < n; first += (i64)gridDim.y * MAPS)
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            const int column = columns[i];
            if (column < 0) continue;
            const int many = n - first < MAPS ? (int)(n - first) : MAPS;
#pragma unroll 4
            for (int k = 0; k < many; ++k) {
                const i64 map = first + k;
                rows[map * w + column] = scaled(volumes[map * v + i], scaling, map);
            }
        }
}

template <class T>
__device__ __forceinline__ void gather_turned(const T* __restrict__ volumes, const int* __restrict__ columns,
                                              const double* __restrict__ scaling, REAL* __restrict__ rows,
                                              REAL (*tile)[TILE + 1], i64 n, int nx, int ny, int nz, i64 w)
{
    const int lane = threadIdx.x, warp = threadIdx.y, across = (nx + TILE - 1) / TILE, deep = (nz + TILE - 1) / TILE;
    const i64 v = (i64)nx * ny * nz;
    for (int item = blockIdx.x; item < across * deep * ny; item += gridDim.x) {
        const int x0 = item % across * TILE, y = item / across % ny, z0 = item / across / ny * TILE;
        int column[TILE / 8], any = 0;
#pragma unroll
        for (int k = 0; k < TILE / 8; ++k) {
            const int x = x0 + warp + 8 * k, z = z0 + lane;
            column[k] = x < nx && z < nz ? columns[(x * ny + y) * nz + z] : -1;
            any |= column[k] >= 0;
        }
        if (!__syncthreads_or(any)) continue;
        for (i64 first = (i64)blockIdx.y * MAPS; first < n; first += (i64)gridDim.y * MAPS)
            for (i64 map = first; map < first + MAPS && map < n; ++map) {
#pragma unroll
                for (int k = 0; k < TILE / 8; ++k) {
                    const int x = x0 + lane, z = z0 + warp + 8 * k;
                    if (x < nx && z < nz)
                        tile[warp + 8 * k][lane] = scaled(volumes[map * v + (z * ny + y) * nx + x], scaling, map);
                }
                __syncthreads();
#pragma unroll
                for (int k = 0; k < TILE / 8; ++k)
                    if (column[k] >= 0) rows[map * w + column[k]] = tile[lane][warp + 8 * k];
                __syncthreads();
            }
    }
}

extern "C" __global__ void mask_gather(const void* __restrict__ volumes, int type, const int* __restrict__ columns,
                                       const double* __restrict__ scaling, REAL* __restrict__ rows, i64 n, int v, i64 w)
{
    WITH_TYPE(type, gather((const T*)volumes, columns, scaling, rows, n, v, w))
}

extern "C" __global__ void __launch_bounds__(256, 4)
mask_gather_turned(const void* __restrict__ volumes, int type, const int* __restrict__ columns,
                   const double* __restrict__ scaling, REAL* __restrict__ rows, i64 n, int nx, int ny, int nz, i64 w)
{
    __shared__ REAL tile[TILE][TILE + 1];  // by z, then x; one more, so that no two lanes share a bank
    WITH_TYPE(type, gather_turned((const T*)volumes, columns, scaling, rows, tile, n, nx, ny, nz, w))
}

extern "C" __global__ void mask_scatter(const REAL* __restrict__ rows, const int* __restrict__ columns, REAL fill,
                                        REAL* __restrict__ volumes, i64 n, int v, i64 w)
{
    for (i64 first = (i64)blockIdx.y * MAPS; first < n; first += (i64)gridDim.y * MAPS)
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            const int column = columns[i], many = n - first < MAPS ? (int)(n - first) : MAPS;
#pragma unroll 4
            for (int k = 0; k < many; ++k)
                volumes[(first + k) * v + i] = column < 0 ? fill : rows[(first + k) * w + column];
        }
}

extern "C" __global__ void __launch_bounds__(256, 4)
mask_scatter_turned(const REAL* __restrict__ rows, const int* __restrict__ columns, REAL fill,
                    REAL* __restrict__ volumes, i64 n, int nx, int ny, int nz, i64 w)
{
    __shared__ REAL tile[TILE][TILE + 1];  // by x, then z
    const int lane = threadIdx.x, warp = threadIdx.y, across = (nx + TILE - 1) / TILE, deep = (nz + TILE - 1) / TILE;
    const i64 v = (i64)nx * ny * nz;
    for (int item = blockIdx.x; item < across * deep * ny; item += gridDim.x) {
        const int x0 = item % across * TILE, y = item / across % ny, z0 = item / across / ny * TILE;
        int column[TILE / 8];
#pragma unroll
        for (int k = 0; k < TILE / 8; ++k) {
            const int x = x0 + warp + 8 * k, z = z0 + lane;
            column[k] = x < nx && z < nz ? columns[(x * ny + y) * nz + z] : -1;
        }
        for (i64 first = (i64)blockIdx.y * MAPS; first < n; first += (i64)gridDim.y * MAPS)
            for (i64 map = first; map < first + MAPS && map < n; ++map) {
#pragma unroll
                for (int k = 0; k < TILE / 8; ++k)
                    tile[warp + 8 * k][lane] = column[k] < 0 ? fill : rows[map * w + column[k]];
                __syncthreads();
#pragma unroll
                for (int k = 0; k < TILE / 8; ++k) {
                    const int x = x0 + lane, z = z0 + warp + 8 * k;
                    if (x < nx && z < nz) volumes[map * v + (z * ny + y) * nx + x] = tile[lane][warp + 8 * k];
                }
                __syncthreads();
            }
    }
}
