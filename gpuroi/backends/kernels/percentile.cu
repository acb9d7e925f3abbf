// percentile: an order statistic of every map of a batch by radix select, interpolated as NumPy does.
// The bits of |x| order values as whole numbers. Each pass counts the next 11 of them among the values that agree with
// what is known so far; 3 passes settle float, 6 double. The next larger value, which interpolation needs, is found on
// the way: in the counts of the last pass, or as the least of what was beyond them.
// Launch: 1-D grid of blocks of 512 threads; blocks stride over the maps, one at a time.
// Layout: values (n, v) REAL, v fastest; inside (v,) bytes, or null; out (n,) float64. The population is what is inside
// and not NaN, as |x| if two_sided, else without what is negative; NaN where it is empty. Indices are 64-bit.
#ifndef REAL
#define REAL float
#endif
#define THREADS 512
#define DIGIT 11
#define BUCKETS (1 << DIGIT)
#define SPAN (BUCKETS / THREADS)  // buckets of a thread
#define LAST (8 * (int)sizeof(REAL) % DIGIT)  // bits of the last pass
typedef long long i64;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;

template <int bytes> struct Bits;
template <> struct Bits<4> { typedef u32 Key; };
template <> struct Bits<8> { typedef u64 Key; };
typedef Bits<sizeof(REAL)>::Key Key;
#define SIGN ((Key)1 << (8 * sizeof(REAL) - 1))

__device__ __forceinline__ u32 bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ u64 bits_of(double x) { return (u64)__double_as_longlong(x); }
__device__ __forceinline__ double value_of(u32 key) { return (double)__uint_as_float(key); }
__device__ __forceinline__ double value_of(u64 key) { return __longlong_as_double((i64)key); }

// Number of what was counted before the buckets of this thread; `sums` then ends with the total.
__device__ __forceinline__ u32 counted_before(const u32* counts, u32* sums)
{
    const int t = threadIdx.x;
    u32 own = 0;
    for (int k = 0; k < SPAN; ++k) own += counts[t * SPAN + k];
    sums[t] = own;
    __syncthreads();
    for (int reach = 1; reach < THREADS; reach *= 2) {
        const u32 before = t >= reach ? sums[t - reach] : 0u;
        __syncthreads();
        sums[t] += before;
        __syncthreads();
    }
    return sums[t] - own;
}

// Each operation rounded on its own, as on the CPU: a fused multiply-add would differ in the last digit.
__device__ __forceinline__ double between(double low, double high, double weight)
{
    if (low == high) return low;
    const double step = __dsub_rn(high, low);
    return weight >= 0.5 ? __dsub_rn(high, __dmul_rn(step, __dsub_rn(1.0, weight))) : __dadd_rn(low, __dmul_rn(step, weight));
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
percentile(const REAL* __restrict__ values, const u8* __restrict__ inside, double share, int two_sided,
           double* __restrict__ out, i64 n, i64 v)
{
    __shared__ u32 counts[BUCKETS], sums[THREADS];
    __shared__ Key found, beyond;
    __shared__ u32 left;  // members of the bucket that come before the one that is looked for
    __shared__ int next;
    const int t = threadIdx.x;
    const Key infinite = sizeof(REAL) == 4 ? (Key)0x7f800000u : (Key)0x7ff0000000000000ull;
    for (i64 map = blockIdx.x; map < n; map += gridDim.x) {
        const REAL* x = values + map * v;
        Key known = 0;
        u32 rank = 0, total = 0;
        double at = 0.0;
        for (int shift = 8 * sizeof(REAL), width = DIGIT; shift > 0;) {
            const int above = shift;
            width = shift < DIGIT ? shift : DIGIT;
            shift -= width;
            for (int b = t; b < BUCKETS; b += THREADS) counts[b] = 0;
            if (t == 0) {
                beyond = ~(Key)0;
                next = BUCKETS;
            }
            __syncthreads();
            Key least = ~(Key)0;
#pragma unroll 4
            for (i64 i = t; i < v; i += THREADS) {
                const Key bits = bits_of(x[i]), key = bits & ~SIGN;
                // not by comparing floats: on the device those count what is denormal as 0
                if (key > infinite || (!two_sided && bits != key && key != 0) || (inside && !inside[i])) continue;
                const Key head = total == 0 ? 0 : key >> above;
                if (head == known) atomicAdd(counts + (int)(key >> shift & (((Key)1 << width) - 1)), 1u);
                else if (shift == 0 && head > known && key < least) least = key;
            }
            if (least != ~(Key)0) atomicMin(&beyond, least);
            __syncthreads();
            u32 before = counted_before(counts, sums);
            if (total == 0) {
                total = sums[THREADS - 1];
                if (total == 0) break;
                at = __dmul_rn((double)(total - 1), share);
                rank = (u32)floor(at);
            }
            for (int k = 0; k < SPAN; ++k) {
                const u32 here = counts[t * SPAN + k];
                if (rank >= before && rank - before < here) {
                    found = known << width | (Key)(t * SPAN + k);
                    left = rank - before;
                }
                before += here;
            }
            __syncthreads();
            known = found;
            rank = left;
            __syncthreads();
        }
        if (total > 0) {
            const int bucket = (int)(known & (((Key)1 << LAST) - 1));
            for (int k = SPAN - 1; k >= 0; --k)
                if (t * SPAN + k > bucket && counts[t * SPAN + k] > 0) atomicMin(&next, t * SPAN + k);
            __syncthreads();
            if (t == 0) {
                const double low = value_of(known);
                double high = low;
                if (rank + 1 >= counts[bucket] && at > floor(at))
                    high = value_of(next < BUCKETS ? known - bucket + next : beyond);
                out[map] = between(low, high, at - floor(at));
            }
        } else if (t == 0)
            out[map] = nan("");
        __syncthreads();
    }
}
