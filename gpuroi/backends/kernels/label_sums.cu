// label_sums: sum of the values of every label in every map, in a fixed order.
//   sums[m, l] = sum(values[m, i] for i in order[starts[l] : starts[l + 1]])
// No float atomics: thread t of a block of 128 adds items t, t + 128, ... and a tree of fixed shape adds the threads.
// The sums are the same to the last bit in every run and on every device.
// Launch: any 1-D grid of blocks of 128 threads; blocks stride over the pairs of a map and a label.
// Layout: values (n, v), v fastest, REAL; order: the voxels of label 1, then of label 2, ..., int64; starts
// (n_labels + 1,) int64; sums (n, n_labels) float64. Indices are 64-bit.
#ifndef REAL
#define REAL float
#endif
#define THREADS 128
typedef long long i64;

extern "C" __global__ void label_sums(const REAL* __restrict__ values, const i64* __restrict__ order,
                                      const i64* __restrict__ starts, double* __restrict__ sums, i64 n, i64 v,
                                      i64 n_labels)
{
    __shared__ double part[THREADS];
    const int t = threadIdx.x;
    for (i64 pair = blockIdx.x; pair < n * n_labels; pair += gridDim.x) {
        const i64 map = pair / n_labels, label = pair % n_labels;
        double sum = 0.0;
        for (i64 i = starts[label] + t; i < starts[label + 1]; i += THREADS)
            sum += (double)values[map * v + order[i]];
        part[t] = sum;
        __syncthreads();
        for (int half = THREADS / 2; half > 0; half /= 2) {
            if (t < half) part[t] += part[t + half];
            __syncthreads();
        }
        // No barrier: thread t is the only one to fill part[t] again, and thread 0 the only one to read after the last.
        if (t == 0) sums[pair] = part[0];
    }
}
