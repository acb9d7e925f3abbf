// log_betainc: natural log of the regularised incomplete beta function I_x(a, b), which never underflows.
//   I_x(a, b) = x^a y^b / B(a, b) / (beta1 + alpha2/(beta2 + alpha3/(beta3 + ...))),  y = 1 - x
// for x below the mean; above it log1p(-I_y(b, a)). The fraction is that of Didonato and Morris 1992
// (doi 10.1145/131766.131776), evaluated forwards (modified Lentz). That of DLMF 8.17.22 begins with
// 1 - (a + b) x / (a + 1), which cancels near the mean: at a = 20000, b = 30 its error was 1e-12, not 1e-15.
// Launch: any 1-D grid; threads stride over the elements.
// Layout: a (v,) float64, or null: then it is a_all everywhere; x, y = 1 - x and out (v,) float64. Indices are 64-bit.
typedef long long i64;

// Correction of Stirling's formula, log gamma(z) - ((z - 1/2) log z - z + log(2 pi) / 2), for z >= 10.
__device__ double stirling(double z)
{
    const double w = 1.0 / (z * z);
    const double series = 1.0 / 12 - w * (1.0 / 360 - w * (1.0 / 1260 - w * (1.0 / 1680 - w * (1.0 / 1188
                        - w * (691.0 / 360360 - w * (1.0 / 156))))));
    return series / z;
}

// log B(a, b), without the digits that lgamma(a + b) - lgamma(a) loses where the larger argument is large.
__device__ double log_beta(double a, double b)
{
    const double big = a > b ? a : b, small = a > b ? b : a, total = a + b;
    if (big < 10.0) return lgamma(a) + lgamma(b) - lgamma(total);
    const double log_ratio = (big - 0.5) * log1p(small / big) + small * log(total) - small
                           + (stirling(total) - stirling(big));  // log(gamma(total) / gamma(big))
    return lgamma(small) - log_ratio;
}

// u - log(1 + u) without cancellation near 0; log_1pu is what log(1 + u) is where u is not small.
__device__ double excess(double u, double log_1pu)
{
    if (fabs(u) > 0.4) return u - log_1pu;
    const double r = u / (u + 2.0), t = r * r;  // log(1 + u) = 2 (r + r^3/3 + r^5/5 + ...)
    double sum = 0.0;
    for (int k = 31; k >= 3; k -= 2) sum = sum * t + 1.0 / k;
    return r * (u - 2.0 * t * sum);
}

// a - (a + b) x, without cancellation near x = 1.
__device__ __forceinline__ double below_mean(double a, double b, double x, double y)
{
    return a > b ? (a + b) * y - b : a - (a + b) * x;
}

// log(x^a y^b / B(a, b))
__device__ double log_front(double a, double b, double x, double y, double log_x, double log_y)
{
    if (a < 10.0 || b < 10.0) return a * log_x + b * log_y - log_beta(a, b);
    // Both large: the powers and B(a, b) nearly cancel, so they are taken together, around the mean a / (a + b).
    const double off = below_mean(a, b, x, y);
    const double bulk = a * excess(-off / a, log_x + log1p(b / a)) + b * excess(off / b, log_y + log1p(a / b));
    const double two_pi = 6.283185307179586477;
    return 0.5 * log(a / (a + b) * b / two_pi) - bulk - (stirling(a) + stirling(b) - stirling(a + b));
}

__device__ __forceinline__ double away_from_zero(double z) { return fabs(z) > 1e-300 ? z : 1e-300; }

// beta1 + alpha2/(beta2 + alpha3/(beta3 + ...)); about sqrt(max(a, b)) turns.
__device__ double fraction(double a, double b, double x, double y)
{
    const double lambda = below_mean(a, b, x, y);
    double f = away_from_zero(a / (a + 1.0) * (lambda + 1.0)), c = f, d = 0.0;
    for (int turn = 1; turn < 100000; ++turn) {
        const double n = turn, odd = a + 2.0 * n - 1.0, w = n * (b - n) * x;
        const double alpha = (a + n - 1.0) / odd * ((a + b + n - 1.0) / odd) * w * x;
        const double beta = n + w / odd + (a + n) / (odd + 2.0) * (lambda + 1.0 + n * (1.0 + y));
        d = 1.0 / away_from_zero(beta + alpha * d);
        c = away_from_zero(beta + alpha / c);
        f *= c * d;
        if (fabs(c * d - 1.0) < 1e-15) break;
    }
    return f;
}

__device__ double log_i(double a, double b, double x, double y)
{
    if (!(x >= 0.0 && y >= 0.0 && a > 0.0 && b > 0.0)) return nan("");
    if (x == 0.0) return log(0.0);
    if (y == 0.0) return 0.0;
    const double log_x = x < y ? log(x) : log1p(-y);
    const double log_y = y < x ? log(y) : log1p(-x);
    const double front = log_front(a, b, x, y, log_x, log_y);
    if (x < (a + 1.0) / (a + b + 2.0)) return front - log(fraction(a, b, x, y));
    const double complement = exp(front) / fraction(b, a, y, x);
    return log1p(-(complement < 1.0 ? complement : 1.0));
}

extern "C" __global__ void log_betainc(const double* a, double a_all, double b, const double* x, const double* y,
                                       double* out, i64 v)
{
    const i64 stride = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < v; i += stride)
        out[i] = log_i(a ? a[i] : a_all, b, x[i], y[i]);
}
