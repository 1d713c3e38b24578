/* The trunk of an encoder on a CPU: packed documents of any lengths, from embedded to final states, in float32
 * or with int8 matrices.
 *
 * Built and called by encoder.py. Plain C with the vector extensions of GCC and Clang, POSIX threads.
 *
 * Documents stand one behind the other without padding. Where there are enough of them a thread takes a few and
 * goes through all layers with them: their states stay in its cache, and nobody waits for anybody. Else all
 * threads share each phase of each layer. Either way a row's numbers follow from its document alone, to the last
 * bit: each product is one running sum over its inputs in ascending order.
 *
 * int8: weights are rounded to 7 bits by column, activations to 7 bits by row (between the row's smallest and
 * largest number), so that two products of pairs fit into 16 bits. Roads not taken: a scale for all rows of a
 * forward (answers would depend on neighbours); sums of 32 bits throughout (a fifth slower without VNNI).
 *
 * Key: N rows (tokens of all documents), D width, F width of the mlp, PW columns of a panel
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include "vector.h"

#define RB 48   /* rows of a block: its inner states stay in the second cache */
#define CHUNK 96 /* rows of a few documents that a thread takes, at most, unless one has more */

#define MOST 64  /* threads */

#if defined(__AVX2__)
#define SMALL_PRODUCTS 1
#else
#define SMALL_PRODUCTS 0
#endif

typedef struct {
    int n, k, kq, panels; /* outputs, inputs, inputs rounded up to 8 */
    float *w, *bias;      /* [panels][k][PW], [panels][PW] */
    int8_t *q;            /* [panels][kq / 4][PW][4] */
    float *s, *c;         /* [panels][PW]: scales, and scale times the sum of a column */
} Mat;

typedef struct { float *w, *b; } Norm;

typedef struct { Mat qkv, o, up, down; Norm n1, n2; int local; } Layer;

typedef struct {
    int32_t width, heads, dim, mlp, depth, window, context;
    int32_t gated, exact, post, quantised;
    float eps;
} Sizes;

typedef struct { /* what a thread writes for itself */
    float *h, *t;        /* [RB][F], [RB][D] */
    float *p, *k, *v;    /* scores; packed keys and values of a head */
    uint8_t *a;          /* [RB][largest kq] */
    float *as, *am;      /* of each row: scale, smallest */
    int room;            /* tokens of a document that p, k and v have room for */
} Own;

typedef struct Engine {
    Sizes z;
    Layer *layers;
    Norm last;
    float *cos[2], *sin[2]; /* global, local: [context][dim / 2] */
    Own *own;
    int threads, rows, most;
    float *qkv, *att, *q;  /* [N][3 inner], [N][inner], queries of the rows that are needed */
    /* this forward */
    float *x, *out;
    int N, docs, n, T, chunks;
    const int32_t *start, *pos, *need, *first; /* documents; places; needed rows, and where a document's begin */
    int32_t *chunk;
    _Atomic int *next, arrived, broken, go;
} Engine;

/* ---------------------------------------------------------------- products */

enum { SET, ADD, GELU, GATED };

/* erf form of GELU: Abramowitz and Stegun 7.1.26, to 1.5e-7 */
static inline vf gelu_erf(vf x) {
    vf z = x * 0.70710678118654752f, a = vmax(z, -z);
    vf t = 1.0f / (1.0f + 0.3275911f * a);
    vf p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vf tail = 0.5f * p * t * vexp(-a * a); /* (1 - erf |z|) / 2 */
    return x * (vf)(((vi)tail & (z < 0)) | ((vi)(1.0f - tail) & ~(z < 0)));
}

static inline vf gelu_tanh(vf x) {
    vf z = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    return x - x / (vexp(2.0f * z) + 1.0f);
}

#if SMALL_PRODUCTS
/* A row as 7 bits between its smallest and its largest number: x = q * scale + smallest. */
static void quantise(const float *x, int k, int kq, uint8_t *q, float *scale, float *least) {
    float lo = x[0], hi = x[0];
    int i = 0;
    if (k >= W) {
        vf l = load(x), h = l;
        for (; i + W <= k; i += W) {
            l = vmin(l, load(x + i));
            h = vmax(h, load(x + i));
        }
        for (int j = 0; j < W; j++) {
            lo = l[j] < lo ? l[j] : lo;
            hi = h[j] > hi ? h[j] : hi;
        }
    }
    for (; i < k; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    float s = (hi - lo) / 127.0f, inverse = s > 0 ? 1.0f / s : 0.0f;
    *scale = s;
    *least = lo;
    __m256 m = _mm256_set1_ps(inverse), o = _mm256_set1_ps(lo);
    __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (i = 0; i + 32 <= k; i += 32) {
        __m256i v[4];
        for (int j = 0; j < 4; j++)
            v[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8 * j), o), m));
        __m256i a = _mm256_packs_epi32(v[0], v[1]), b = _mm256_packs_epi32(v[2], v[3]);
        _mm256_storeu_si256((__m256i *)(q + i), _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order));
    }
    for (; i < k; i++) q[i] = (uint8_t)lrintf((x[i] - lo) * inverse);
    for (; i < kq; i++) q[i] = 0;
}

/* M rows times one panel in whole numbers; pairs of pairs are added in 16 bits. */
#define TINY(M)                                                                                             \
    static inline __attribute__((always_inline)) void tiny_##M(const uint8_t *restrict a, int64_t lda,      \
                                                               const int8_t *restrict w, int64_t k,         \
                                                               int32_t *restrict out) {                     \
        __m256i s[M][PW / 8], one = _mm256_set1_epi16(1);                                                   \
        for (int m = 0; m < M; m++)                                                                         \
            for (int c = 0; c < PW / 8; c++) s[m][c] = _mm256_setzero_si256();                              \
        for (int64_t i = 0; i < k; i += 8) {                                                                \
            const __m256i *p = (const __m256i *)(w + i * PW);                                               \
            _Pragma("GCC unroll 4") for (int c = 0; c < PW / 8; c++) {                                      \
                __m256i w0 = _mm256_load_si256(p + c), w1 = _mm256_load_si256(p + PW / 8 + c);              \
                _Pragma("GCC unroll 8") for (int m = 0; m < M; m++) {                                       \
                    int32_t x0, x1;                                                                         \
                    memcpy(&x0, a + m * lda + i, 4);                                                        \
                    memcpy(&x1, a + m * lda + i + 4, 4);                                                    \
                    __m256i t = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_set1_epi32(x0), w0),           \
                                                 _mm256_maddubs_epi16(_mm256_set1_epi32(x1), w1));          \
                    s[m][c] = _mm256_add_epi32(s[m][c], _mm256_madd_epi16(t, one));                         \
                }                                                                                           \
            }                                                                                               \
        }                                                                                                   \
        for (int m = 0; m < M; m++)                                                                         \
            for (int c = 0; c < PW / 8; c++) _mm256_storeu_si256((__m256i *)(out + m * PW + 8 * c), s[m][c]); \
    }
TINY(1) TINY(2) TINY(3) TINY(4) TINY(5) TINY(6)
#endif

/* One row of a tile to where it belongs. */
static inline void place(const Engine *e, const Mat *a, int kind, const float *src, int panel, float *y, int limit) {
    int first = panel * PW, n = limit - first < PW ? limit - first : PW;
    float v[PW];
    for (int c = 0; c < PW; c += W) {
        vf t = load(src + c);
        if (a->bias) t += load(a->bias + first + c);
        if (kind == GELU) t = e->z.exact ? gelu_erf(t) : gelu_tanh(t);
        if (kind == ADD && n == PW) t += load(y + first + c);
        store(v + c, t);
    }
    if (n == PW) for (int c = 0; c < PW; c += W) store(y + first + c, load(v + c));
    else for (int c = 0; c < n; c++) y[first + c] = kind == ADD ? y[first + c] + v[c] : v[c];
}

/* gate and up stand in panels that take turns */
static inline void place_gated(const Engine *e, const Mat *a, const float *gate, const float *up, int pair, float *y) {
    int first = pair * PW, n = e->z.mlp - first < PW ? e->z.mlp - first : PW;
    float v[PW];
    for (int c = 0; c < PW; c += W) {
        vf g = load(gate + c), u = load(up + c);
        if (a->bias) {
            g += load(a->bias + 2 * first + c);
            u += load(a->bias + 2 * first + PW + c);
        }
        store(v + c, (e->z.exact ? gelu_erf(g) : gelu_tanh(g)) * u);
    }
    memcpy(y + first, v, sizeof(float) * n);
}

/* y = x W^T + bias (or what `kind` says) for m rows (at most RB) and panels p0 to p1; columns below `limit`. */
static void product(const Engine *e, Own *o, const Mat *a, const float *x, int ldx, int m, int p0, int p1, float *y,
                    int ldy, int kind, int limit) {
    int each = kind == GATED ? 2 : 1;
    float t[2][6 * PW] __attribute__((aligned(64)));
#if SMALL_PRODUCTS
    if (a->q)
        for (int r = 0; r < m; r++) quantise(x + (int64_t)r * ldx, a->k, a->kq, o->a + (int64_t)r * a->kq, o->as + r, o->am + r);
#endif
    for (int p = p0; p < p1; p += each)
        for (int r = 0; r < m; r += 6) {
            int rows = m - r < 6 ? m - r : 6;
            for (int g = 0; g < each; g++) {
#if SMALL_PRODUCTS
                if (a->q) {
                    int32_t s[6 * PW] __attribute__((aligned(64)));
                    const uint8_t *from = o->a + (int64_t)r * a->kq;
                    const int8_t *w = a->q + (int64_t)(p + g) * a->kq * PW;
                    for (int i = 0; i < rows; i += 3) {
                        switch (rows - i) {
                            case 1: tiny_1(from + (int64_t)i * a->kq, a->kq, w, a->kq, s + i * PW); break;
                            case 2: tiny_2(from + (int64_t)i * a->kq, a->kq, w, a->kq, s + i * PW); break;
                            default: tiny_3(from + (int64_t)i * a->kq, a->kq, w, a->kq, s + i * PW); break;
                        }
                    }
                    const float *cs = a->s + (int64_t)(p + g) * PW, *cc = a->c + (int64_t)(p + g) * PW;
                    for (int i = 0; i < rows; i++)
                        for (int c = 0; c < PW; c++)
                            t[g][i * PW + c] = (float)s[i * PW + c] * (o->as[r + i] * cs[c]) + o->am[r + i] * cc[c];
                    continue;
                }
#endif
                tile(rows, 1, x + (int64_t)r * ldx, ldx, a->w + (int64_t)(p + g) * a->k * PW, a->k, t[g], (const char *)x, 0);
            }
            for (int i = 0; i < rows; i++) {
                float *to = y + (int64_t)(r + i) * ldy;
                if (kind == GATED) place_gated(e, a, t[0] + i * PW, t[1] + i * PW, p / 2, to);
                else place(e, a, kind, t[0] + i * PW, p, to, limit);
            }
        }
}

static void normalise(const Norm *n, const float *x, float *y, int D, float eps) {
    float mean = 0, square = 0;
    vf s = {0};
    int i = 0;
    for (; i + W <= D; i += W) s += load(x + i);
    mean = sum(s);
    for (; i < D; i++) mean += x[i];
    mean /= D;
    s = (vf){0};
    for (i = 0; i + W <= D; i += W) {
        vf d = load(x + i) - mean;
        s += d * d;
    }
    square = sum(s);
    for (; i < D; i++) square += (x[i] - mean) * (x[i] - mean);
    float r = 1.0f / sqrtf(square / D + eps);
    for (i = 0; i + W <= D; i += W) {
        vf v = (load(x + i) - mean) * r * load(n->w + i);
        store(y + i, n->b ? v + load(n->b + i) : v);
    }
    for (; i < D; i++) y[i] = (x[i] - mean) * r * n->w[i] + (n->b ? n->b[i] : 0);
}

/* Rows as a block of a layer reads them: normed, or as they are. */
static const float *read_rows(const Engine *e, Own *o, const Norm *n, const float *x, int m) {
    int D = e->z.width;
    if (e->z.post || !n->w) return x;
    for (int r = 0; r < m; r++) normalise(n, x + (int64_t)r * D, o->t + (int64_t)r * D, D, e->z.eps);
    return o->t;
}

/* Rows of a block, so that all blocks are about equally large. */
static int block_of(int m) {
    int blocks = (m + RB - 1) / RB;
    if (!blocks) return RB;
    int rows = ((m + blocks - 1) / blocks + 5) / 6 * 6;
    return rows < RB ? rows : RB;
}

/* ---------------------------------------------------------------- a layer */

static void turn(const Engine *e, const Layer *l, float *x, int place) {
    const float *c = e->cos[l->local], *s = e->sin[l->local];
    int half = e->z.dim / 2;
    if (!c) return;
    c += (int64_t)place * half;
    s += (int64_t)place * half;
    for (int h = 0; h < e->z.heads; h++, x += e->z.dim)
        for (int i = 0; i < half; i++) {
            float a = x[i], b = x[i + half];
            x[i] = a * c[i] - b * s[i];
            x[i + half] = b * c[i] + a * s[i];
        }
}

static int inner_of(const Engine *e) { return e->z.heads * e->z.dim; }

/* Queries, keys and values of rows r0 to r1; keys and values only, where queries come from `ask`. */
static void project(Engine *e, Own *o, int layer, int r0, int r1, int some) {
    const Layer *l = e->layers + layer;
    int D = e->z.width, inner = inner_of(e), ld = 3 * inner, step = block_of(r1 - r0);
    for (int r = r0; r < r1; r += step) {
        int m = r1 - r < step ? r1 - r : step;
        const float *in = read_rows(e, o, &l->n1, e->x + (int64_t)r * D, m);
        product(e, o, &l->qkv, in, D, m, some ? inner / PW : 0, l->qkv.panels, e->qkv + (int64_t)r * ld, ld, SET, ld);
        if (e->cos[l->local])
            for (int i = r; i < r + m; i++) {
                if (!some) turn(e, l, e->qkv + (int64_t)i * ld, e->pos[i]);
                turn(e, l, e->qkv + (int64_t)i * ld + inner, e->pos[i]);
            }
    }
}

/* Queries of the needed rows n0 to n1, and these rows themselves, into `q` and `out`. */
static void ask(Engine *e, Own *o, int layer, int n0, int n1) {
    const Layer *l = e->layers + layer;
    int D = e->z.width, inner = inner_of(e), step = block_of(n1 - n0);
    for (int r = n0; r < n1; r++)
        memcpy(e->out + (int64_t)r * D, e->x + (int64_t)e->need[r] * D, sizeof(float) * D);
    for (int r = n0; r < n1; r += step) {
        int m = n1 - r < step ? n1 - r : step;
        const float *in = read_rows(e, o, &l->n1, e->out + (int64_t)r * D, m);
        product(e, o, &l->qkv, in, D, m, 0, (inner + PW - 1) / PW, e->q + (int64_t)r * inner, inner, SET, inner);
        for (int i = r; i < r + m && e->cos[l->local]; i++) turn(e, l, e->q + (int64_t)i * inner, e->pos[e->need[i]]);
    }
}

static int own_room(const Engine *e, Own *o, int tokens) {
    if (tokens <= o->room) return 0;
    int pad = (tokens + PW - 1) / PW * PW, wide = (e->z.dim + PW - 1) / PW * PW;
    free(o->p); free(o->k); free(o->v);
    o->p = take((int64_t)RB * pad * 4);
    o->k = take((int64_t)pad * e->z.dim * 4);
    o->v = take((int64_t)pad * wide * 4);
    o->room = o->p && o->k && o->v ? pad : 0;
    return o->room ? 0 : -1;
}

/* What one head of a document reads: all its rows, or those that are needed. */
static void attend(Engine *e, Own *o, int layer, int doc, int head, int some) {
    const Layer *l = e->layers + layer;
    int dim = e->z.dim, inner = inner_of(e), ld = 3 * inner, t0 = e->start[doc], T = e->start[doc + 1] - t0;
    int pad = (T + PW - 1) / PW * PW, reach = l->local ? e->z.window : T;
    int q0 = some ? e->first[doc] : t0, q1 = some ? e->first[doc + 1] : t0 + T;
    float *to = some ? e->q : e->att; /* in place: nobody else reads these queries */
    if (q0 == q1) return;
    if (own_room(e, o, T)) { atomic_store(&e->broken, 1); return; }
    const float *keys = e->qkv + (int64_t)t0 * ld + inner + head * dim, *values = keys + inner;
    for (int j = T; j < pad; j++)
        for (int d = 0; d < dim; d++) o->k[((int64_t)(j / PW) * dim + d) * PW + j % PW] = 0;
    for (int j = 0; j < T; j++) {
        float *k = o->k + (int64_t)(j / PW) * dim * PW + j % PW;
        for (int d = 0; d < dim; d++) k[d * PW] = keys[(int64_t)j * ld + d];
    }
    for (int p = 0; p * PW < dim; p++) {
        int n = dim - p * PW < PW ? dim - p * PW : PW;
        for (int j = 0; j < T; j++) {
            float *v = o->v + ((int64_t)p * T + j) * PW;
            memcpy(v, values + (int64_t)j * ld + p * PW, sizeof(float) * n);
            if (n < PW) memset(v + n, 0, sizeof(float) * (PW - n));
        }
    }
    float scale = 1.0f / sqrtf((float)dim), t[6 * PW] __attribute__((aligned(64)));
    for (int b = q0; b < q1; b += RB) {
        int m = q1 - b < RB ? q1 - b : RB;
        int low = (some ? e->need[b] : b) - t0 - reach, high = (some ? e->need[b + m - 1] : b + m - 1) - t0 + reach + 1;
        low = low < 0 ? 0 : low / PW * PW;
        high = high > T ? T : high;
        const float *q = some ? e->q + (int64_t)b * inner + head * dim : e->qkv + (int64_t)b * ld + head * dim;
        int ldq = some ? inner : ld;
        for (int p = low / PW; p * PW < high; p++)
            for (int r = 0; r < m; r += 6) {
                int rows = m - r < 6 ? m - r : 6;
                tile(rows, 1, q + (int64_t)r * ldq, ldq, o->k + (int64_t)p * dim * PW, dim, t, (const char *)q, 0);
                for (int i = 0; i < rows; i++)
                    for (int c = 0; c < PW; c += W) store(o->p + (int64_t)(r + i) * pad + p * PW + c, load(t + i * PW + c) * scale);
            }
        int whole = (high + PW - 1) / PW * PW;
        for (int r = 0; r < m; r++) {
            float *s = o->p + (int64_t)r * pad;
            int at = (some ? e->need[b + r] : b + r) - t0, lo = at - reach < 0 ? 0 : at - reach;
            int hi = at + reach + 1 > T ? T : at + reach + 1;
            for (int j = low; j < lo; j++) s[j] = -INFINITY;
            for (int j = hi; j < whole; j++) s[j] = -INFINITY;
            vf top = splat(-INFINITY), total = {0};
            for (int j = low; j < whole; j += W) top = vmax(top, load(s + j));
            float most = top[0];
            for (int j = 1; j < W; j++) most = top[j] > most ? top[j] : most;
            for (int j = low; j < whole; j += W) {
                vf v = vexp(load(s + j) - most);
                store(s + j, v);
                total += v;
            }
            float share = 1.0f / sum(total);
            for (int j = low; j < whole; j += W) store(s + j, load(s + j) * share);
        }
        for (int p = 0; p * PW < dim; p++) {
            int n = dim - p * PW < PW ? dim - p * PW : PW;
            for (int r = 0; r < m; r += 6) {
                int rows = m - r < 6 ? m - r : 6;
                tile(rows, 1, o->p + (int64_t)r * pad + low, pad, o->v + ((int64_t)p * T + low) * PW, high - low, t, (const char *)q, 0);
                for (int i = 0; i < rows; i++)
                    memcpy(to + (int64_t)(b + r + i) * inner + head * dim + p * PW, t + i * PW, sizeof(float) * n);
            }
        }
    }
}

/* From what was read to the layer's result, rows r0 to r1 of x, or of what is needed. */
static void finish(Engine *e, Own *o, int layer, int some, int r0, int r1) {
    float *states = some ? e->out : e->x;
    const float *att = some ? e->q : e->att;
    const Layer *l = e->layers + layer;
    int D = e->z.width, F = e->z.mlp, inner = inner_of(e), step = block_of(r1 - r0);
    for (int r = r0; r < r1; r += step) {
        int m = r1 - r < step ? r1 - r : step;
        float *x = states + (int64_t)r * D;
        product(e, o, &l->o, att + (int64_t)r * inner, inner, m, 0, l->o.panels, x, D, ADD, D);
        if (e->z.post) for (int i = 0; i < m; i++) normalise(&l->n1, x + (int64_t)i * D, x + (int64_t)i * D, D, e->z.eps);
        const float *in = read_rows(e, o, &l->n2, x, m);
        product(e, o, &l->up, in, D, m, 0, l->up.panels, o->h, F, e->z.gated ? GATED : GELU, F);
        product(e, o, &l->down, o->h, F, m, 0, l->down.panels, x, D, ADD, D);
        const Norm *last = e->z.post ? &l->n2 : layer == e->z.depth - 1 ? &e->last : NULL;
        if (last && last->w) for (int i = 0; i < m; i++) normalise(last, x + (int64_t)i * D, x + (int64_t)i * D, D, e->z.eps);
    }
}

/* ---------------------------------------------------------------- threads */

/* A few documents through all layers. */
static void through(Engine *e, Own *o, int chunk) {
    int d0 = e->chunk[chunk], d1 = e->chunk[chunk + 1], r0 = e->start[d0], r1 = e->start[d1];
    for (int layer = 0; layer < e->z.depth; layer++) {
        int some = e->need && layer == e->z.depth - 1;
        project(e, o, layer, r0, r1, some);
        if (some) ask(e, o, layer, e->first[d0], e->first[d1]);
        for (int d = d0; d < d1; d++)
            for (int h = 0; h < e->z.heads; h++) attend(e, o, layer, d, h, some);
        finish(e, o, layer, some, some ? e->first[d0] : r0, some ? e->first[d1] : r1);
    }
}

static int blocks(int rows) { return (rows + RB - 1) / RB; }

/* The units of a phase that all threads share: 0 projects, 1 attends, 2 finishes. */
static int units(const Engine *e, int layer, int what) {
    int some = e->need && layer == e->z.depth - 1;
    if (what == 0) return blocks(e->N) + (some ? blocks(e->n) : 0);
    return what == 1 ? e->docs * e->z.heads : blocks(some ? e->n : e->N);
}

static void unit(Engine *e, Own *o, int layer, int what, int u) {
    int some = e->need && layer == e->z.depth - 1, rows = blocks(e->N);
    if (what == 1) { attend(e, o, layer, u / e->z.heads, u % e->z.heads, some); return; }
    if (what == 0 && u >= rows) {
        u -= rows;
        ask(e, o, layer, u * RB, (u + 1) * RB < e->n ? (u + 1) * RB : e->n);
        return;
    }
    int most = what == 2 && some ? e->n : e->N, r0 = u * RB, r1 = r0 + RB < most ? r0 + RB : most;
    if (what == 0) project(e, o, layer, r0, r1, some);
    else finish(e, o, layer, some, r0, r1);
}

typedef struct { Engine *e; int thread; } Start;

static void *work(void *arg) {
    Start *s = arg;
    Engine *e = s->e;
    Own *o = e->own + s->thread;
    while (!atomic_load(&e->go)) sched_yield(); /* until it is known how many there are */
    if (e->chunks) {
        for (int c; (c = atomic_fetch_add(&e->next[0], 1)) < e->chunks;) through(e, o, c);
        return NULL;
    }
    for (int phase = 0; phase < 3 * e->z.depth; phase++) {
        int layer = phase / 3, what = phase % 3, most = units(e, layer, what);
        for (int u; (u = atomic_fetch_add(&e->next[phase], 1)) < most;) unit(e, o, layer, what, u);
        atomic_fetch_add(&e->arrived, 1);
        for (int spin = 0; atomic_load(&e->arrived) < e->T * (phase + 1); spin++)
            if (spin > 2000) sched_yield();
    }
    return NULL;
}

/* ---------------------------------------------------------------- what Python calls */

#define API __attribute__((visibility("default")))

/* Whether int8 products are those of this file: with VNNI others are faster. */
API int encoder_small(void) {
#if SMALL_PRODUCTS && !defined(__AVXVNNI__) && !defined(__AVX512VNNI__)
    return 1;
#else
    return 0;
#endif
}

static void shape(Mat *m, int n, int k, int times) {
    m->n = n;
    m->k = k;
    m->kq = (k + 7) / 8 * 8;
    m->panels = (n + PW - 1) / PW * times;
}

static void drop(Mat *m) { free(m->w); free(m->bias); free(m->q); free(m->s); free(m->c); }

API void encoder_free(Engine *e) {
    if (!e) return;
    for (int l = 0; e->layers && l < e->z.depth; l++) {
        Layer *y = e->layers + l;
        drop(&y->qkv); drop(&y->o); drop(&y->up); drop(&y->down);
        free(y->n1.w); free(y->n1.b); free(y->n2.w); free(y->n2.b);
    }
    for (int t = 0; e->own && t < e->threads; t++) {
        Own *o = e->own + t;
        free(o->h); free(o->t); free(o->p); free(o->k); free(o->v); free(o->a); free(o->as); free(o->am);
    }
    for (int i = 0; i < 2; i++) { free(e->cos[i]); free(e->sin[i]); }
    free(e->last.w); free(e->last.b); free(e->layers); free(e->own);
    free(e->qkv); free(e->att); free(e->q); free((void *)e->next);
    free(e);
}

API Engine *encoder_new(const Sizes *z, int threads) {
    Engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->z = *z;
    e->threads = threads;
    e->layers = calloc(z->depth, sizeof(Layer));
    e->own = calloc(threads, sizeof(Own));
    e->next = calloc(3 * z->depth, sizeof *e->next);
    int good = e->layers && e->own && e->next, inner = inner_of(e), most = z->width > z->mlp ? z->width : z->mlp;
    most = most > inner ? most : inner;
    for (int l = 0; good && l < z->depth; l++) {
        Layer *y = e->layers + l;
        shape(&y->qkv, 3 * inner, z->width, 1);
        shape(&y->o, z->width, inner, 1);
        shape(&y->up, z->mlp, z->width, z->gated ? 2 : 1);
        shape(&y->down, z->width, z->mlp, 1);
    }
    for (int t = 0; good && t < threads; t++) {
        Own *o = e->own + t;
        o->h = take((int64_t)RB * z->mlp * 4 + 4 * PW);
        o->t = take((int64_t)RB * z->width * 4);
        o->a = take((int64_t)RB * (most + 8));
        o->as = take(RB * 4);
        o->am = take(RB * 4);
        good = o->h && o->t && o->a && o->as && o->am;
    }
    if (good) return e;
    encoder_free(e);
    return NULL;
}

/* Rows [first, first + n) of a matrix, (n, k) in row order; panel of row c is c / PW * step + offset. */
API int encoder_pack(Engine *e, int layer, int which, const float *src, const float *bias, int first, int n, int step,
                     int offset) {
    Layer *l = e->layers + layer;
    Mat *m = which == 0 ? &l->qkv : which == 1 ? &l->o : which == 2 ? &l->up : &l->down;
    int k = m->k;
    if (e->z.quantised && !m->q) {
        m->q = take((int64_t)m->panels * m->kq * PW);
        m->s = take((int64_t)m->panels * PW * 4);
        m->c = take((int64_t)m->panels * PW * 4);
        if (!m->q || !m->s || !m->c) return -1;
    }
    if (!e->z.quantised && !m->w && !(m->w = take((int64_t)m->panels * k * PW * 4))) return -1;
    if (bias && !m->bias && !(m->bias = take((int64_t)m->panels * PW * 4))) return -1;
    for (int i = 0; i < n; i++) {
        int c = first + i, lane = c % PW;
        int64_t panel = c / PW * step + offset;
        const float *row = src + (int64_t)i * k;
        if (bias) m->bias[panel * PW + lane] = bias[i];
        if (!e->z.quantised) {
            for (int x = 0; x < k; x++) m->w[(panel * k + x) * PW + lane] = row[x];
            continue;
        }
        float most = 0, inverse;
        int total = 0;
        for (int x = 0; x < k; x++) most = fabsf(row[x]) > most ? fabsf(row[x]) : most;
        m->s[panel * PW + lane] = most / 63.0f;
        inverse = most > 0 ? 63.0f / most : 0;
        for (int x = 0; x < k; x++) {
            int q = (int)lrintf(row[x] * inverse);
            m->q[(panel * (m->kq / 4) + x / 4) * PW * 4 + lane * 4 + x % 4] = (int8_t)q;
            total += q;
        }
        m->c[panel * PW + lane] = most / 63.0f * (float)total;
    }
    return 0;
}

static int copied(float **to, const float *from, int64_t n) {
    if (!from) return 0;
    if (!*to && !(*to = take(n * 4))) return -1;
    memcpy(*to, from, n * 4);
    return 0;
}

/* which: 0 of attention, 1 of the mlp, 2 the last one (of no layer) */
API int encoder_norm(Engine *e, int layer, int which, const float *w, const float *b) {
    Norm *to = which == 2 ? &e->last : which ? &e->layers[layer].n2 : &e->layers[layer].n1;
    return copied(&to->w, w, e->z.width) | copied(&to->b, b, e->z.width);
}

API int encoder_turns(Engine *e, int local, const float *cos, const float *sin) {
    int64_t n = (int64_t)e->z.context * (e->z.dim / 2);
    return copied(&e->cos[local], cos, n) | copied(&e->sin[local], sin, n);
}

API void encoder_local(Engine *e, int layer) { e->layers[layer].local = 1; }

/* x (N, D), embedded, becomes final states; with `need` only these rows (ascending), in `out` (n, D), and x is
 * lost. start: docs + 1 rows at which documents begin; first: docs + 1 places in `need`. 0, or -1: no memory. */
API int encoder_forward(Engine *e, float *x, int docs, const int32_t *start, const int32_t *pos, const int32_t *need,
                        const int32_t *first, float *out, int threads) {
    int N = start[docs], inner = inner_of(e);
    e->x = x; e->out = out; e->N = N; e->docs = docs; e->start = start; e->pos = pos; e->need = need; e->first = first;
    e->n = need ? first[docs] : 0;
    if (N > e->rows) {
        free(e->qkv); free(e->att); free(e->q);
        e->qkv = take((int64_t)N * 3 * inner * 4);
        e->att = take((int64_t)N * inner * 4);
        e->q = take((int64_t)N * inner * 4);
        e->rows = e->qkv && e->att && e->q ? N : 0;
        if (!e->rows) return -1;
    }
    e->T = threads < e->threads ? threads : e->threads;
    e->T = e->T < MOST ? e->T : MOST;
    int size = N / (4 * e->T);
    size = size > CHUNK ? CHUNK : size < RB / 2 ? RB / 2 : size;
    int32_t *chunk = malloc(sizeof(int32_t) * (docs + 1));
    if (!chunk) return -1;
    int chunks = 0;
    for (int d = 0, held = -1; d < docs; d++) {
        int rows = start[d + 1] - start[d];
        if (held < 0 || held + rows > size) {
            chunk[chunks++] = d;
            held = 0;
        }
        held += rows;
    }
    chunk[chunks] = docs;
    e->chunk = chunk;
    e->chunks = e->T == 1 || chunks >= 2 * e->T ? chunks : 0;
    if (!e->chunks && N <= RB / 2) { e->T = 1; e->chunks = chunks; } /* over before another thread is awake */
    for (int i = 0; i < 3 * e->z.depth; i++) atomic_store(&e->next[i], 0);
    atomic_store(&e->arrived, 0);
    atomic_store(&e->broken, 0);
    Start starts[MOST];
    pthread_t ids[MOST];
    int made = 1, asked = e->T;
    atomic_store(&e->go, 0);
    pthread_attr_t kind;
    pthread_attr_init(&kind);
    pthread_attr_setstacksize(&kind, 1 << 20);
    for (; made < asked; made++) {
        starts[made] = (Start){e, made};
        if (pthread_create(&ids[made], &kind, work, &starts[made])) break;
    }
    pthread_attr_destroy(&kind);
    e->T = made;
    atomic_store(&e->go, 1);
    starts[0] = (Start){e, 0};
    work(&starts[0]);
    for (int i = 1; i < made; i++) pthread_join(ids[i], NULL);
    free(chunk);
    return atomic_load(&e->broken) ? -1 : 0;
}
