/* What native.c and encoder.c share: vectors of floats by the extensions of GCC and Clang, exp, memory, and the
 * tile of a product, M rows times NP panels of PW columns.
 */
#ifndef NIHIL_VECTOR
#define NIHIL_VECTOR
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define W 16
#else
#define W 8
#endif
#define PW (2 * W) /* columns of a panel */

typedef float vf __attribute__((vector_size(4 * W)));
typedef float vfu __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * W)));

static inline vf splat(float x) { return x - (vf){0}; }
static inline vf load(const float *p) { return *(const vfu *)p; }
static inline void store(float *p, vf x) { *(vfu *)p = x; }
static inline vf vmax(vf a, vf b) { return (vf)(((vi)a & (a > b)) | ((vi)b & ~(a > b))); }
static inline vf vmin(vf a, vf b) { return (vf)(((vi)a & (a < b)) | ((vi)b & ~(a < b))); }

static inline float sum(vf x) {
    float t[W], s = 0;
    memcpy(t, &x, sizeof t);
    for (int n = W / 2; n; n /= 2)
        for (int i = 0; i < n; i++) t[i] += t[i + n];
    s = t[0];
    return s;
}

/* exp to about 1e-7: 2^n by exponent bits, the rest by a polynomial (Cephes' coefficients). */
static inline vf vexp(vf x) {
    vi least = x > -87.3f; /* below: 0 */
    x = vmin(vmax(x, splat(-87.3f)), splat(88.3f));
    vf t = x * 1.44269504088896341f + 12582912.0f;
    vf n = t - 12582912.0f;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (vf)(((vi)p + ((vi)t << 23)) & least);
}

/* ---------------------------------------------------------------- memory */

static void *take(size_t bytes) { /* zeros, in large pages where they help */
    if (bytes < 64) bytes = 64;
    void *p = NULL;
    size_t align = bytes >= (4u << 20) ? (2u << 20) : 64;
    if (posix_memalign(&p, align, bytes)) return NULL;
#ifdef MADV_HUGEPAGE
    if (align > 64) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    memset(p, 0, bytes);
    return p;
}

/* ---------------------------------------------------------------- products */

/* M rows times NP panels; every sum runs over k in ascending order. With many rows, memory that will be wanted
 * soon is asked for on the way, `share` bytes of it each turn. */
#define TILE(M, NP)                                                                                      \
    static inline __attribute__((always_inline)) void tile_##M##_##NP(                                   \
        const float *restrict x, int64_t ldx, const float *restrict w, int64_t k, float *restrict out,   \
        const char *soon, int64_t share) {                                                               \
        vf a[M][2 * NP];                                                                                 \
        for (int m = 0; m < M; m++)                                                                      \
            for (int p = 0; p < 2 * NP; p++) a[m][p] = (vf){0};                                          \
        for (int64_t i = 0; i < k; i++) {                                                                \
            if (M > 3) __builtin_prefetch(soon + i * share);                                             \
            _Pragma("GCC unroll 8") for (int p = 0; p < NP; p++) {                                       \
                vf w0 = load(w + (p * k + i) * PW), w1 = load(w + (p * k + i) * PW + W);                 \
                _Pragma("GCC unroll 8") for (int m = 0; m < M; m++) {                                    \
                    vf b = splat(x[m * ldx + i]);                                                        \
                    a[m][2 * p] += b * w0;                                                               \
                    a[m][2 * p + 1] += b * w1;                                                           \
                }                                                                                        \
            }                                                                                            \
        }                                                                                                \
        for (int m = 0; m < M; m++)                                                                      \
            for (int p = 0; p < 2 * NP; p++) store(out + (m * NP * 2 + p) * W, a[m][p]);                 \
    }
TILE(1, 1) TILE(1, 2) TILE(1, 4) TILE(2, 1) TILE(2, 2) TILE(3, 1) TILE(3, 2) TILE(4, 1) TILE(5, 1) TILE(6, 1)

static void tile(int m, int np, const float *x, int64_t ldx, const float *w, int64_t k, float *out, const char *soon,
                 int64_t share) {
    switch (m * 8 + np) {
        case 9: tile_1_1(x, ldx, w, k, out, soon, share); break;
        case 10: tile_1_2(x, ldx, w, k, out, soon, share); break;
        case 12: tile_1_4(x, ldx, w, k, out, soon, share); break;
        case 17: tile_2_1(x, ldx, w, k, out, soon, share); break;
        case 18: tile_2_2(x, ldx, w, k, out, soon, share); break;
        case 25: tile_3_1(x, ldx, w, k, out, soon, share); break;
        case 26: tile_3_2(x, ldx, w, k, out, soon, share); break;
        case 33: tile_4_1(x, ldx, w, k, out, soon, share); break;
        case 41: tile_5_1(x, ldx, w, k, out, soon, share); break;
        default: tile_6_1(x, ldx, w, k, out, soon, share); break;
    }
}

#endif
