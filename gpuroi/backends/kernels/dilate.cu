// dilate: binary dilation by any set of offsets in a batch of volumes, 32 voxels of a row in a word.
//   dilate_pack    bytes to words: bit j of word w of a row is voxel 32 w + j
//   dilate_step    out[p] = any(in[p + o] for o in offsets), `border` outside the volume; where not inside, in[p]
//   dilate_unpack  words to bytes
// Steps follow each other on the device, an eighth of a byte a voxel each way; the host never looks at one. Bits of the
// last word of a row that lie beyond it hold the border's value, so that a step reads them like any other.
// Launch: any 1-D grid; dilate_pack blocks of 256 threads that stride over tiles of words, the others threads that stride
// over words and over groups of 16 voxels.
// Layout: bytes (n, na, nb, nc) and words (n, na, nb, nw), nw = ceil(nc / 32), the last axis fastest; what dilate_unpack
// writes is aligned to 16. offsets (k, 3) in the order a, b, c, those of one a and b together; inside null, or words that
// begin anew every inside_rows rows: na nb (one volume, shared by all) or n na nb. `flip` turns every voxel over: erosion
// is the dilation of what is False. 64-bit indices across the batch, 32-bit within a volume.
#define TILE 512  // words: at most 16 KB of bytes
typedef long long i64;
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

// Four bytes that hold 0 or 1, as the lowest four bits; and back.
__device__ __forceinline__ u32 nibble(u32 bytes) { return ((bytes & 0x01010101u) * 0x01020408u) >> 24 & 15u; }
__device__ __forceinline__ u32 spread(u32 bits) { return (bits & 15u) * 0x00204081u & 0x01010101u; }

// Bits 0 .. many - 1 of a word.
__device__ __forceinline__ u32 lowest(i64 many)
{
    return many >= 32 ? 0xffffffffu : many <= 0 ? 0u : (1u << many) - 1u;
}

extern "C" __global__ void dilate_pack(const u8* __restrict__ bytes, u32* __restrict__ words, int flip, int border,
                                       i64 rows, int nc, int nw)
{
    __shared__ u32 bits[TILE + 1];  // of the tile's bytes, from an address that is a multiple of 16
    unsigned short* const halves = (unsigned short*)bits;
    const i64 n_words = rows * nw, n_bytes = rows * nc, lead = (i64)((u64)bytes & 15);
    for (i64 tile = blockIdx.x; tile * TILE < n_words; tile += gridDim.x) {
        const i64 first = tile * TILE, last = first + TILE < n_words ? first + TILE : n_words;
        const i64 start = ((first / nw * nc + first % nw * 32 + lead) & ~(i64)15) - lead;
        const i64 end = (last - 1) / nw * nc + min((i64)nc, ((last - 1) % nw + 1) * 32);
        for (i64 at = start + (i64)threadIdx.x * 16; at < end; at += (i64)blockDim.x * 16) {
            u32 half = 0;
            if (at >= 0 && at + 16 <= n_bytes) {
                const uint4 four = *(const uint4*)(bytes + at);
                half = nibble(four.x) | nibble(four.y) << 4 | nibble(four.z) << 8 | nibble(four.w) << 12;
            } else
                for (i64 j = max(-at, (i64)0); j < 16 && at + j < n_bytes; ++j) half |= (u32)bytes[at + j] << j;
            halves[(at - start) / 16] = (unsigned short)half;
        }
        __syncthreads();
        for (i64 word = first + threadIdx.x; word < last; word += blockDim.x) {
            const i64 w = word % nw, from = word / nw * nc + w * 32 - start;
            const u32 here = lowest(nc - w * 32);
            const u32 low = bits[from / 32], high = from / 32 + 1 <= TILE ? bits[from / 32 + 1] : 0u;
            const u32 found = __funnelshift_r(low, high, (u32)(from % 32)) ^ (flip ? 0xffffffffu : 0u);
            words[word] = (found & here) | (border ? ~here : 0u);
        }
        __syncthreads();
    }
}

extern "C" __global__ void dilate_step(const u32* __restrict__ in, u32* __restrict__ out,
                                       const u32* __restrict__ inside, i64 inside_rows,
                                       const int* __restrict__ offsets, int k, int border, i64 n, int na, int nb,
                                       int nc, int nw)
{
    const i64 in_volume = (i64)na * nb * nw;
    const u32 beyond = border ? 0xffffffffu : 0u;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n * in_volume; i += (i64)gridDim.x * blockDim.x) {
        const u32* source = in + i / in_volume * in_volume;
        const int at = (int)(i % in_volume), w = at % nw, b = at / nw % nb, a = at / nw / nb;
        u32 found = 0;
        const u32* row = source;
        bool there = false;
        for (int o = 0; o < k; ++o) {
            const int oa = offsets[3 * o], ob = offsets[3 * o + 1];
            if (o == 0 || oa != offsets[3 * o - 3] || ob != offsets[3 * o - 2]) {
                // An offset may be of any size: added in 64 bits it cannot wrap round into the volume.
                const i64 p = (i64)a + oa, q = (i64)b + ob;
                there = p >= 0 && p < na && q >= 0 && q < nb;
                row = source + (there ? (p * nb + q) * nw : 0);
            }
            if (!there) {
                found |= beyond;
                continue;
            }
            const i64 c = (i64)offsets[3 * o + 2], low_at = w + (c >> 5);
            const u32 low = low_at >= 0 && low_at < nw ? row[low_at] : beyond;
            const u32 high = low_at >= -1 && low_at < nw - 1 ? row[low_at + 1] : beyond;
            found |= __funnelshift_r(low, high, (u32)(c & 31));
        }
        if (inside) {
            const u32 allowed = inside[i % (inside_rows * nw)];
            found = (found & allowed) | (source[at] & ~allowed);
        }
        const u32 here = lowest((i64)nc - (i64)w * 32);
        out[i] = (found & here) | (beyond & ~here);
    }
}

extern "C" __global__ void dilate_unpack(const u32* __restrict__ words, u8* __restrict__ bytes, int flip, i64 rows,
                                         int nc, int nw)
{
    const i64 n_bytes = rows * nc;
    for (i64 at = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 16; at < n_bytes;
         at += (i64)gridDim.x * blockDim.x * 16) {
        i64 row = at / nc;
        int c = (int)(at - row * nc), many = n_bytes - at < 16 ? (int)(n_bytes - at) : 16;
        u32 half = 0;
        for (int filled = 0; filled < many;) {  // up to the end of a word or of a row
            half |= words[row * nw + c / 32] >> (c % 32) << filled;
            const int step = min(32 - c % 32, nc - c);
            filled += step;
            half &= lowest(filled);
            c += step;
            if (c == nc) {
                c = 0;
                ++row;
            }
        }
        if (flip) half = ~half;
        if (many == 16)
            *(uint4*)(bytes + at) = make_uint4(spread(half), spread(half >> 4), spread(half >> 8), spread(half >> 12));
        else
            for (int j = 0; j < many; ++j) bytes[at + j] = (u8)(half >> j & 1u);
    }
}
