// gaussian: separable correlation of a batch of volumes with three symmetric rows of weights, in one pass.
//   out[a, b, c] = sum over i, j, k of wa[|i|] wb[|j|] wc[|k|] in[a + i, b + j, c + k]
// A block goes along a through a column of 32 x 32 voxels: it loads a plane with its margins, sums along c and then along
// b in shared memory, and adds what comes out to the sums along a of its voxels, which are in registers: one for each
// plane that this one reaches. Every voxel is read once from device memory (margins again, from the L2 cache) and written
// once.
// Launch: any 1-D grid of 16 x 32 threads (y, x); blocks stride over pieces: a map, a tile and a slab of `span` planes.
// Layout: in and out (n, na, nb, nc), c fastest, REAL; weights (3, RADIUS + 1) REAL from the centre outwards, along a, b
// and c, with radii ra, rb, rc <= RADIUS. mode: 0 reflect, 1 nearest, 2 mirror, 3 wrap, 4 zeros, as SciPy names them.
// Sums are taken in REAL, in a fixed order. 64-bit indices across the batch, 32-bit within a volume.
#ifndef REAL
#define REAL float
#endif
#define RADIUS 7
#define TILE 32
#define ROWS 16  // a thread has two voxels, in rows y and y + 16
#define WIDE (TILE + 2 * RADIUS)
// Blocks of one multiprocessor: two where their registers fit without spills.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 750
#define RESIDENT 1
#else
#define RESIDENT sizeof(REAL) == 4 ? 2 : 1
#endif
typedef long long i64;

// Where position p of an axis of n is found, -1 for zeros; p may be any number of lengths away.
__device__ __forceinline__ int source(int p, int n, int mode)
{
    if (p >= 0 && p < n) return p;
    if (mode == 4) return -1;
    if (mode == 1) return p < 0 ? 0 : n - 1;
    const int period = mode == 3 ? n : mode == 2 ? (n > 1 ? 2 * (n - 1) : 1) : 2 * n;
    int q = p % period;
    if (q < 0) q += period;
    if (q < n) return q;
    return mode == 2 ? period - q : 2 * n - 1 - q;
}

extern "C" __global__ void __launch_bounds__(ROWS * TILE, RESIDENT)
gaussian(const REAL* __restrict__ in, REAL* __restrict__ out, const REAL* __restrict__ weights, int ra, int rb, int rc,
         int mode, int span, i64 n, int na, int nb, int nc)
{
    __shared__ REAL plane[WIDE][WIDE], rows[WIDE][TILE];
    __shared__ REAL taps[3][RADIUS + 1], taps_a[2 * RADIUS + 1];  // taps_a from end to end
    __shared__ int at_b[WIDE], at_c[WIDE];
    const int x = threadIdx.x, y = threadIdx.y, thread = y * TILE + x, threads = ROWS * TILE;
    const int tiles_c = (nc + TILE - 1) / TILE, tiles_b = (nb + TILE - 1) / TILE, slabs = (na + span - 1) / span;
    const int in_plane = nb * nc, wide_b = TILE + 2 * rb, wide_c = TILE + 2 * rc;
    for (int i = thread; i < 3 * (RADIUS + 1); i += threads) taps[i / (RADIUS + 1)][i % (RADIUS + 1)] = weights[i];
    for (int i = thread; i <= 2 * ra; i += threads) taps_a[i] = weights[i < ra ? ra - i : i - ra];
    for (i64 piece = blockIdx.x; piece < n * slabs * tiles_b * tiles_c; piece += gridDim.x) {
        const int c0 = (int)(piece % tiles_c) * TILE, b0 = (int)(piece / tiles_c % tiles_b) * TILE;
        const int a0 = (int)(piece / tiles_c / tiles_b % slabs) * span, a1 = min(a0 + span, na);
        const i64 map = piece / tiles_c / tiles_b / slabs * in_plane * na;
        for (int i = thread; i < wide_b; i += threads) at_b[i] = source(b0 + i - rb, nb, mode);
        for (int i = thread; i < wide_c; i += threads) at_c[i] = source(c0 + i - rc, nc, mode);
        REAL upper[2 * RADIUS + 2], lower[2 * RADIUS + 2];  // sums of planes a - ra, a - ra + 1, ...
#pragma unroll
        for (int t = 0; t <= 2 * RADIUS + 1; ++t) upper[t] = lower[t] = 0;
        for (int a = a0 - ra; a < a1 + ra; ++a) {
            const int from = source(a, na, mode);
            __syncthreads();
            for (int i = thread; i < wide_b * wide_c; i += threads) {
                const int row = i / wide_c, column = i - row * wide_c, b = at_b[row], c = at_c[column];
                plane[row][column] = from < 0 || b < 0 || c < 0 ? (REAL)0 : in[map + (i64)from * in_plane + b * nc + c];
            }
            __syncthreads();
            for (int row = y; row < wide_b; row += ROWS) {
                REAL sum = taps[2][0] * plane[row][x + rc];
#pragma unroll
                for (int t = 1; t <= RADIUS; ++t)
                    if (t <= rc) sum += taps[2][t] * (plane[row][x + rc - t] + plane[row][x + rc + t]);
                rows[row][x] = sum;
            }
            __syncthreads();
            REAL one = taps[1][0] * rows[y + rb][x], two = taps[1][0] * rows[y + ROWS + rb][x];
#pragma unroll
            for (int t = 1; t <= RADIUS; ++t)
                if (t <= rb) {
                    one += taps[1][t] * (rows[y + rb - t][x] + rows[y + rb + t][x]);
                    two += taps[1][t] * (rows[y + ROWS + rb - t][x] + rows[y + ROWS + rb + t][x]);
                }
#pragma unroll
            for (int t = 0; t <= 2 * RADIUS; ++t)
                if (t <= 2 * ra) {
                    upper[t] += taps_a[t] * one;
                    lower[t] += taps_a[t] * two;
                }
            one = upper[0];
            two = lower[0];
#pragma unroll
            for (int t = 0; t <= 2 * RADIUS; ++t) {
                upper[t] = upper[t + 1];
                lower[t] = lower[t + 1];
            }
            if (a < a0 + ra) continue;
            const i64 to = map + (i64)(a - ra) * in_plane;
            if (c0 + x < nc && b0 + y < nb) out[to + (b0 + y) * nc + c0 + x] = one;
            if (c0 + x < nc && b0 + y + ROWS < nb) out[to + (b0 + y + ROWS) * nc + c0 + x] = two;
        }
        __syncthreads();
    }
}
