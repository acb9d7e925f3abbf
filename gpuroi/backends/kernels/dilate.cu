// dilate: one step of binary dilation by any set of offsets, in a batch of volumes.
//   out[p] = any(in[p + o] for o in offsets), `border` outside the volume; where not inside, out[p] = in[p]
// Launch: 2-D grid, x strides over the voxels of a volume and y over the volumes: no step crosses from one to the next.
// Layout: in and out (n, na, nb, nc), nc fastest, one byte a voxel; offsets (k, 3) in the order a, b, c;
// inside null, or bytes that begin anew every inside_step voxels: 0 (one volume, shared by all) or na nb nc. 64-bit
// indices across the batch, 32-bit within a volume.
typedef long long i64;
typedef unsigned char u8;

extern "C" __global__ void dilate(const u8* __restrict__ in, u8* __restrict__ out, const u8* __restrict__ inside,
                                  i64 inside_step, const int* __restrict__ offsets, int k, int border, i64 n, int na,
                                  int nb, int nc)
{
    const i64 v = (i64)na * nb * nc;
    for (i64 map = blockIdx.y; map < n; map += gridDim.y) {
        const u8* source = in + map * v;
        for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += (i64)gridDim.x * blockDim.x) {
            if (inside && !inside[map * inside_step + i]) {
                out[map * v + i] = source[i];
                continue;
            }
            const int at = (int)i, c = at % nc, b = at / nc % nb, a = at / nc / nb;
            bool hit = false;
            for (int o = 0; o < k && !hit; ++o) {
                // An offset may be of any size: added in 64 bits it cannot wrap round into the volume.
                const i64 p = (i64)a + offsets[3 * o], q = (i64)b + offsets[3 * o + 1], r = (i64)c + offsets[3 * o + 2];
                if (p < 0 || p >= na || q < 0 || q >= nb || r < 0 || r >= nc)
                    hit = border;
                else
                    hit = source[(p * nb + q) * nc + r];
            }
            out[map * v + i] = hit;
        }
    }
}
