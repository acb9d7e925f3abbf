// sign_flip_sums: signed sums of weighted rows for all flips of a group.
//   out[(h << bits) + g, j, x] = sum_i (-1)^popcount(g & low_i) weights[h, j, i] e[i, x]
// Rows of equal low code fill one bin, in order, so that there are no atomics and the last bit is the same every time.
// A fast Walsh-Hadamard transform of the 2^bits bins in shared memory follows, two bits of the flip in one pass. The
// signs of the high bits h are in the weights.
// Launch: any 1-D grid of 256 threads. Blocks stride over pairs of a tile of 32 elements (slow) and a transform (h, j)
// (fast), so that the transforms of a tile find its rows in the L2 cache. A warp is 32 neighbouring elements: rows are
// read and written coalesced, and in shared memory each lane has a bank of its own.
// Layout: e (n, w), out (2^bits * H, m, w), w fastest, REAL; weights (H, m, n) REAL; members[first[b] .. first[b + 1]]
// int64, the rows of bin b. bits <= 7: 16 KB of shared memory in float, 32 KB in double.
#ifndef REAL
#define REAL float
#endif
#define TILE 32
#define WARPS 8
#define MOST_BINS 128
typedef long long i64;

extern "C" __global__ void sign_flip_sums(const REAL* __restrict__ e, const REAL* __restrict__ weights,
                                          const i64* __restrict__ members, const i64* __restrict__ first,
                                          REAL* __restrict__ out, i64 n, i64 w, i64 m, i64 n_high, int bits)
{
    __shared__ REAL bins[MOST_BINS * TILE];
    const int lane = threadIdx.x % TILE, warp = threadIdx.x / TILE;
    const int n_bins = 1 << bits;
    const i64 transforms = n_high * m, tiles = (w + TILE - 1) / TILE;
    for (i64 item = blockIdx.x; item < tiles * transforms; item += gridDim.x) {
        const i64 transform = item % transforms, x = item / transforms * TILE + lane;
        const i64 high = transform / m, j = transform % m;
        const bool inside = x < w;
        const REAL* weight = weights + transform * n;
        for (int b = warp; b < n_bins; b += WARPS) {
            REAL sum = 0;
            if (inside)
                for (i64 s = first[b]; s < first[b + 1]; ++s) sum += weight[members[s]] * e[members[s] * w + x];
            bins[b * TILE + lane] = sum;
        }
        __syncthreads();
        int bit = 0;
        for (; bit + 2 <= bits; bit += 2) {
            for (int q = warp; q < n_bins / 4; q += WARPS) {
                const int below = q & ((1 << bit) - 1);
                REAL* at = bins + (((q - below) << 2) + below) * TILE + lane;
                const int step = TILE << bit;
                const REAL a = at[0], b = at[step], c = at[2 * step], d = at[3 * step];
                at[0] = (a + b) + (c + d);
                at[step] = (a - b) + (c - d);
                at[2 * step] = (a + b) - (c + d);
                at[3 * step] = (a - b) - (c - d);
            }
            __syncthreads();
        }
        if (bit < bits) {
            for (int q = warp; q < n_bins / 2; q += WARPS) {
                REAL* at = bins + q * TILE + lane;
                const int step = TILE << bit;
                const REAL a = at[0], b = at[step];
                at[0] = a + b;
                at[step] = a - b;
            }
            __syncthreads();
        }
        if (inside)
            for (int g = warp; g < n_bins; g += WARPS)
                out[((high * n_bins + g) * m + j) * w + x] = bins[g * TILE + lane];
        // No barrier: what a thread has just read is what it fills next; nobody else touches it before that barrier.
    }
}
