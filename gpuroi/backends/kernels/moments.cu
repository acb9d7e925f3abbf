// moments: sums over observations of x - minus, relative to a shift, in float64.
//   shift = first (first non-NaN) observation, mean = sum(d) / count,
//   ss = sum(d^2) - sum(d)^2 / count,  d = x - minus - shift
// As the shift is one of the observations, a large mean costs the difference in ss no digits.
// Launch: 1-D grid of blocks of 256 threads, 32 elements x 8 interleaved rows of observations. Blocks stride over the
// elements and add the 8 partial sums in a fixed order: the grid changes the speed and never a bit of the result.
// Layout: x and minus (n, v), v fastest, REAL; the results (v,). minus is null for sums of x alone. NaN is left out,
// and the rest counted, where count is not null. Indices are 64-bit.
#ifndef REAL
#define REAL float
#endif
#define LANES 32
#define ROWS 8
typedef long long i64;

__device__ __forceinline__ double observation(const REAL* x, const REAL* minus, i64 at)
{
    const double value = (double)x[at];
    return minus ? value - (double)minus[at] : value;
}

extern "C" __global__ void moments(const REAL* x, const REAL* minus, i64 n, i64 v, i64* count, double* shift,
                                   double* mean, double* ss)
{
    __shared__ double first[LANES];
    __shared__ double sums[ROWS][LANES];
    __shared__ double squares[ROWS][LANES];
    __shared__ i64 counts[ROWS][LANES];
    const int lane = threadIdx.x % LANES;
    const int row = threadIdx.x / LANES;

    for (i64 tile = blockIdx.x; tile * LANES < v; tile += gridDim.x) {
        const i64 j = tile * LANES + lane;
        if (row == 0 && j < v) {
            double value = observation(x, minus, j);
            if (count)
                for (i64 i = 1; i < n && value != value; ++i) value = observation(x, minus, i * v + j);
            first[lane] = value;
        }
        __syncthreads();

        double s = 0.0, q = 0.0;
        i64 m = 0;
        if (j < v) {
            const double c = first[lane];
#pragma unroll 4
            for (i64 i = row; i < n; i += ROWS) {
                const double value = observation(x, minus, i * v + j);
                if (count && value != value) continue;
                const double d = value - c;
                s += d;
                q = fma(d, d, q);
                ++m;
            }
        }
        sums[row][lane] = s;
        squares[row][lane] = q;
        counts[row][lane] = m;
        __syncthreads();

        if (row == 0 && j < v) {
            for (int r = 1; r < ROWS; ++r) {
                s += sums[r][lane];
                q += squares[r][lane];
                m += counts[r][lane];
            }
            const double average = m > 0 ? s / (double)m : 0.0;
            const double left = q - s * average;
            shift[j] = m > 0 ? first[lane] : 0.0;
            mean[j] = average;
            ss[j] = left < 0.0 ? 0.0 : left;  // not max(): NaN has to stay NaN
            if (count) count[j] = m;
        }
        // No barrier: the sums are filled again behind the first one of the next tile, which row 0 reaches after this.
    }
}
