// cudacpu_words.h: the words of CUDA C++ (qualifiers, indices, atomics, warp instructions, intrinsics) for cudacpu.h.
//
// Only what nvcc accepts: an atomic of a type that the hardware lacks does not compile here either.
// Rounding is that of the CPU: the _rn intrinsics are exact, __expf and its like are the accurate functions, nothing is
// contracted to a fused multiply-add, and denormals stay (CuPy compiles with -ftz=true, which flushes those of float).
#pragma once
#include <algorithm>
#include <cmath>

#define __global__
#define __device__ __attribute__((unused))
#define __host__
#define __constant__ __attribute__((unused))
#define __shared__ static __attribute__((section("cuda_shared"), used))
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __builtin_align__(n) alignas(n)

#define threadIdx (cudacpu::current->thread)
#define blockIdx (cudacpu::block->index)
#define blockDim (cudacpu::block_size)
#define gridDim (cudacpu::grid_size)
#define warpSize 32

// Dynamic shared memory. `extern __shared__ T name[];` is rewritten to the first form before compilation.
template <class T> static T* cudacpu_dynamic() { return reinterpret_cast<T*>(cudacpu::dynamic_memory); }
#define DYN_SHARED(T, name) T* const name = cudacpu_dynamic<T>()

// ---- barriers and fences
#define CUDACPU_LINE int line = __builtin_LINE()
static inline void __syncthreads(CUDACPU_LINE) { cudacpu::block_barrier(0, line); }
static inline int __syncthreads_count(int p, CUDACPU_LINE) { return int(cudacpu::block_barrier(p != 0, line) & 0xffffffffu); }
static inline int __syncthreads_or(int p, CUDACPU_LINE) { return __syncthreads_count(p, line) != 0; }
static inline int __syncthreads_and(int p, CUDACPU_LINE) {
    const uint64_t both = cudacpu::block_barrier(p != 0, line);
    return unsigned(both) == unsigned(both >> 32);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, CUDACPU_LINE) { cudacpu::ballot(mask, false, line); }
static inline void __threadfence() { cudacpu::maybe_yield(); }
static inline void __threadfence_block() { cudacpu::maybe_yield(); }
static inline void __threadfence_system() { cudacpu::maybe_yield(); }
static inline void __nanosleep(unsigned) { cudacpu::maybe_yield(); }
static inline void __trap() { cudacpu::fail("__trap"); }
#undef assert
#define assert(condition) ((condition) ? (void)0 : cudacpu::fail("assertion failed: " #condition))

// ---- warp instructions; a shuffle from outside its segment gives the lane its own value, as on a device
static inline unsigned cudacpu_lane() { return cudacpu::current->lane; }
template <class T> static T __shfl_sync(unsigned mask, T v, int from, int width = 32, CUDACPU_LINE) {
    return cudacpu::exchange(mask, v, (cudacpu_lane() & ~unsigned(width - 1)) | (unsigned(from) & unsigned(width - 1)), line);
}
template <class T> static T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, CUDACPU_LINE) {
    const unsigned lane = cudacpu_lane(), first = lane & ~unsigned(width - 1);
    return cudacpu::exchange(mask, v, lane >= first + by ? lane - by : lane, line);
}
template <class T> static T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, CUDACPU_LINE) {
    const unsigned lane = cudacpu_lane(), last = lane | unsigned(width - 1);
    return cudacpu::exchange(mask, v, lane + by <= last ? lane + by : lane, line);
}
template <class T> static T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, CUDACPU_LINE) {
    const unsigned lane = cudacpu_lane(), from = lane ^ unsigned(bits);
    return cudacpu::exchange(mask, v, from <= (lane | unsigned(width - 1)) ? from : lane, line);
}
static inline unsigned __ballot_sync(unsigned mask, int p, CUDACPU_LINE) { return cudacpu::ballot(mask, p != 0, line); }
static inline int __any_sync(unsigned mask, int p, CUDACPU_LINE) { return cudacpu::ballot(mask, p != 0, line) != 0; }
static inline int __all_sync(unsigned mask, int p, CUDACPU_LINE) { return cudacpu::ballot(mask, p == 0, line) == 0; }

// ---- loads and stores with a cache hint; the ones that go past the first cache let other threads in between
template <class T> static T __ldg(const T* p) { return *p; }
template <class T> static T __ldca(const T* p) { return *p; }
template <class T> static T __ldcs(const T* p) { return *p; }
template <class T> static T __ldcg(const T* p) { T v = *p; cudacpu::maybe_yield(); return v; }
template <class T> static T __ldcv(const T* p) { T v = *p; cudacpu::maybe_yield(); return v; }
template <class T> static void __stcs(T* p, T v) { *p = v; }
template <class T> static void __stcg(T* p, T v) { cudacpu::maybe_yield(); *p = v; cudacpu::maybe_yield(); }
template <class T> static void __stwt(T* p, T v) { __stcg(p, v); }

// ---- atomics: plain code is atomic on one operating-system thread; others get in before and after
template <class T> struct cudacpu_same { using type = T; };       // no deduction from the value, as with nvcc's overloads
template <class T> using cudacpu_value = typename cudacpu_same<T>::type;
template <class T, class... Allowed> constexpr bool cudacpu_is = (std::is_same_v<T, Allowed> || ...);
using cudacpu_u64 = unsigned long long;

template <class T, class F> static T cudacpu_atomic(T* p, F f) {
    cudacpu::maybe_yield();
    const T old = *p;
    *p = f(old);
    cudacpu::maybe_yield();
    return old;
}
#define CUDACPU_ATOMIC(name, expression, ...) \
    template <class T> static T name(T* p, cudacpu_value<T> v) { \
        static_assert(cudacpu_is<T, __VA_ARGS__>, #name " has no such type in CUDA"); \
        return cudacpu_atomic(p, [&](T old) { return T(expression); }); \
    } \
    template <class T> static T name##_block(T* p, cudacpu_value<T> v) { return name(p, v); }
CUDACPU_ATOMIC(atomicSub, unsigned(old) - unsigned(v), int, unsigned)
CUDACPU_ATOMIC(atomicMin, v < old ? v : old, int, unsigned, long long, cudacpu_u64)
CUDACPU_ATOMIC(atomicMax, old < v ? v : old, int, unsigned, long long, cudacpu_u64)
CUDACPU_ATOMIC(atomicAnd, old & v, int, unsigned, cudacpu_u64)
CUDACPU_ATOMIC(atomicOr, old | v, int, unsigned, cudacpu_u64)
CUDACPU_ATOMIC(atomicXor, old ^ v, int, unsigned, cudacpu_u64)
CUDACPU_ATOMIC(atomicExch, v, int, unsigned, cudacpu_u64, float)
CUDACPU_ATOMIC(atomicInc, old >= v ? 0 : old + 1, unsigned)
CUDACPU_ATOMIC(atomicDec, old == 0 || old > v ? v : old - 1, unsigned)
template <class T> static T cudacpu_plus(T a, T b) {              // integers wrap on a device
    if constexpr (std::is_integral_v<T>) return T(std::make_unsigned_t<T>(a) + std::make_unsigned_t<T>(b));
    else return a + b;
}
CUDACPU_ATOMIC(atomicAdd, cudacpu_plus<T>(old, v), int, unsigned, cudacpu_u64, float, double)
template <class T> static T atomicCAS(T* p, cudacpu_value<T> expected, cudacpu_value<T> v) {
    static_assert(cudacpu_is<T, int, unsigned, cudacpu_u64, unsigned short>, "atomicCAS has no such type in CUDA");
    return cudacpu_atomic(p, [&](T old) { return old == expected ? v : old; });
}

// ---- vector types
#define CUDACPU_VECTOR(type, name, bytes) \
    struct alignas(2 * bytes) name##2 { type x, y; }; \
    struct name##3 { type x, y, z; }; \
    struct alignas(4 * bytes < 16 ? 4 * bytes : 16) name##4 { type x, y, z, w; }; \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; } \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; } \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
#define uint3 cudacpu_unused_uint3                                // dim3's partner is defined in cudacpu.h
CUDACPU_VECTOR(unsigned, uint, 4)
#undef uint3
CUDACPU_VECTOR(signed char, char, 1)
CUDACPU_VECTOR(unsigned char, uchar, 1)
CUDACPU_VECTOR(short, short, 2)
CUDACPU_VECTOR(unsigned short, ushort, 2)
CUDACPU_VECTOR(int, int, 4)
CUDACPU_VECTOR(long long, longlong, 8)
CUDACPU_VECTOR(unsigned long long, ulonglong, 8)
CUDACPU_VECTOR(float, float, 4)
CUDACPU_VECTOR(double, double, 8)

// ---- bits
template <class To, class From> static To cudacpu_cast(From v) {
    static_assert(sizeof(To) == sizeof(From), "");
    To r;
    memcpy(&r, &v, sizeof r);
    return r;
}
static inline int __float_as_int(float v) { return cudacpu_cast<int>(v); }
static inline unsigned __float_as_uint(float v) { return cudacpu_cast<unsigned>(v); }
static inline float __int_as_float(int v) { return cudacpu_cast<float>(v); }
static inline float __uint_as_float(unsigned v) { return cudacpu_cast<float>(v); }
static inline long long __double_as_longlong(double v) { return cudacpu_cast<long long>(v); }
static inline double __longlong_as_double(long long v) { return cudacpu_cast<double>(v); }
static inline int __double2hiint(double v) { return int(cudacpu_cast<long long>(v) >> 32); }
static inline int __double2loint(double v) { return int(cudacpu_cast<long long>(v)); }
static inline double __hiloint2double(int hi, int lo) {
    return cudacpu_cast<double>((cudacpu_u64)(unsigned)hi << 32 | (unsigned)lo);
}
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(cudacpu_u64 v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll(cudacpu_u64(v)) : 64; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline cudacpu_u64 __brevll(cudacpu_u64 v) {
    cudacpu_u64 r = 0;
    for (int i = 0; i < 64; ++i, v >>= 1) r = r << 1 | (v & 1);
    return r;
}
static inline unsigned __brev(unsigned v) { return unsigned(__brevll(v) >> 32); }
static inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((cudacpu_u64)a * b >> 32); }
static inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
static inline cudacpu_u64 __umul64hi(cudacpu_u64 a, cudacpu_u64 b) { return cudacpu_u64((unsigned __int128)a * b >> 64); }
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) {
    return unsigned((((cudacpu_u64)hi << 32 | lo) << (n & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) {
    return unsigned(((cudacpu_u64)hi << 32 | lo) >> (n & 31));
}

// ---- arithmetic
template <class A, class B> static constexpr std::common_type_t<A, B> max(A a, B b) {
    using C = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<C>) return std::fmax(C(a), C(b)); else return C(a) < C(b) ? C(b) : C(a);
}
template <class A, class B> static constexpr std::common_type_t<A, B> min(A a, B b) {
    using C = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<C>) return std::fmin(C(a), C(b)); else return C(b) < C(a) ? C(b) : C(a);
}
using std::abs; using std::ceil; using std::exp; using std::exp2; using std::expm1; using std::fabs; using std::floor; using std::fma;
using std::fmod; using std::isfinite; using std::isinf; using std::isnan; using std::ldexp; using std::log; using std::log10;
using std::log1p; using std::log2; using std::pow; using std::rint; using std::round; using std::signbit; using std::sqrt;
using std::trunc; using std::erf; using std::erfc; using std::lgamma; using std::tgamma; using std::copysign; using std::hypot;
static inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
static inline double rsqrt(double v) { return 1.0 / std::sqrt(v); }
static inline float __saturatef(float v) { return v > 0.0f ? (v < 1.0f ? v : 1.0f) : 0.0f; }
static inline float fdividef(float a, float b) { return a / b; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return std::sqrt(a); }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return std::sqrt(a); }
static inline double __drcp_rn(double a) { return 1.0 / a; }
static inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
// glibc declares functions of these names, with other linkage: hence macros
#define __expf(v) std::exp(float(v))
#define __logf(v) std::log(float(v))
#define __log2f(v) std::log2(float(v))
#define __powf(a, b) std::pow(float(a), float(b))

// ---- conversions: out of range saturates and NaN is 0, as on a device
template <class To, class From> static To cudacpu_saturate(From v) {
    if (v != v) return To(0);
    const From low = From(std::is_signed_v<To> ? -std::ldexp(1.0, 8 * sizeof(To) - 1) : 0.0);
    const From high = From(std::ldexp(1.0, 8 * sizeof(To) - std::is_signed_v<To>));
    const To top = To(std::is_signed_v<To> ? ~To(0) ^ (To(1) << (8 * sizeof(To) - 1)) : ~To(0));
    return v >= high ? top : v <= low ? To(std::is_signed_v<To> ? To(cudacpu_u64(1) << (8 * sizeof(To) - 1)) : 0) : To(v);
}
#define CUDACPU_ROUND(from, type, to, result) \
    static inline result __##from##2##to##_rn(type v) { return cudacpu_saturate<result>(std::nearbyint(v)); } \
    static inline result __##from##2##to##_rz(type v) { return cudacpu_saturate<result>(std::trunc(v)); } \
    static inline result __##from##2##to##_rd(type v) { return cudacpu_saturate<result>(std::floor(v)); } \
    static inline result __##from##2##to##_ru(type v) { return cudacpu_saturate<result>(std::ceil(v)); }
CUDACPU_ROUND(float, float, int, int)
CUDACPU_ROUND(float, float, uint, unsigned)
CUDACPU_ROUND(float, float, ll, long long)
CUDACPU_ROUND(float, float, ull, cudacpu_u64)
CUDACPU_ROUND(double, double, int, int)
CUDACPU_ROUND(double, double, uint, unsigned)
CUDACPU_ROUND(double, double, ll, long long)
CUDACPU_ROUND(double, double, ull, cudacpu_u64)
static inline float __int2float_rn(int v) { return float(v); }
static inline float __uint2float_rn(unsigned v) { return float(v); }
static inline float __ll2float_rn(long long v) { return float(v); }
static inline double __ll2double_rn(long long v) { return double(v); }
static inline float __double2float_rn(double v) { return float(v); }
