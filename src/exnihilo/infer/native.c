/* The decode step of a decoder in float32 on a CPU: one call reads any mixture of tokens (each with its slot
 * and place) and gives logits, or reads and draws many tokens in a row without returning.
 *
 * Built and called by native.py. Plain C with the vector extensions of GCC and Clang, POSIX threads.
 *
 * Matrices are packed in panels of PW output columns, [panel][input][PW]: a product reads memory in order, and
 * each result is one running sum over the inputs in ascending order, whatever the number of rows or threads.
 * So a row's numbers do not depend on its neighbours, to the last bit.
 *
 * Keys lie as [slot][head][block of KB places][dim][KB]: scores of KB places at once without sums across a
 * vector. Values lie as [slot][head][place][dim].
 *
 * Threads take chunks of a phase from a counter; a phase is over when its chunks are done. A thread that the
 * system has put aside holds up nobody, unless in the middle of a chunk.
 */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "vector.h"

#define KB 16      /* places of a block of keys */
#define QB 32      /* inputs that share a scale when quantised */
#define SMALL 8    /* rows up to which each thread normalises for itself */

/* ---------------------------------------------------------------- threads */

struct Engine;
typedef void (*Phase)(struct Engine *, int chunk, int thread);

typedef struct {
    _Atomic uint64_t ticket;            /* epoch:24 | chunks:20 | next:20 */
    char pad0[56];
    _Atomic uint32_t done;
    char pad1[60];
    _Atomic int sleepers;
    _Atomic int stop;
    _Atomic int use;                    /* threads that take part */
    Phase phase;
    int threads;
    pthread_t ids[256];
    pthread_mutex_t lock;
    pthread_cond_t wake, rest;
} Crew;

#define NEXT(t) ((uint32_t)((t) & 0xFFFFF))
#define CHUNKS(t) ((uint32_t)(((t) >> 20) & 0xFFFFF))

static inline void breathe(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---------------------------------------------------------------- the model */

typedef struct {
    int n, k, panels;   /* outputs, inputs */
    float *w;           /* [panels][k][PW] */
    float *bias;        /* [panels][PW] or NULL */
    int8_t *q;          /* [panels][k/QB][QB/4][PW][4] and their scales, when quantised */
    float *s;           /* [panels][k/QB][PW] */
} Mat;

typedef struct { float *w, *b; } Norm;

typedef struct { Mat qkv, o, up, down; Norm n1, n2, qn, kn; } Layer;

typedef struct {
    int32_t width, heads, kv, dim, mlp, vocab, depth, context;
    int32_t layer_norm, gated, rotary, qk_norm, quantised, threads;
    float eps;
} Sizes;

typedef struct { /* what a thread writes for itself */
    float *normed;   /* [SMALL][width] */
    float *scores;   /* [capacity], or [vocab] */
    int8_t *q8;      /* [SMALL][q8_pad] */
    float *q8s;
    uint32_t epoch;  /* of the phase that `normed` belongs to */
} Own;

typedef struct Engine {
    Crew crew;
    Sizes z;
    Layer *layers;
    Mat head;
    Norm last;
    float *embed, *positions, *cos, *sin;
    int qkv_width, panel_mlp;
    /* cache */
    int slots, capacity, vpad;
    float **keys, **values;  /* a layer */
    /* scratch */
    int rows;                /* room */
    int32_t *seen;           /* [slots] */
    float *x, *normed, *qkv, *att, *h, *picked, *logits;
    int8_t *q8;
    float *q8s;
    int q8_pad;
    Own *own;
    /* this forward */
    int R, Wn, layer, unique;
    const int32_t *token, *slot, *place, *wanted;
    const float *in;         /* what the current product reads */
    int in_stride;
    const Norm *norm;
    const Mat *mat;
    int kind, group;         /* epilogue; panels a chunk */
    uint32_t epoch;
    /* drawing */
    struct Board *board;
    const int32_t *who, *which;
    int count;
} Engine;

typedef struct Board {
    int32_t *last, *place, *made, *limit;
    float *temperature;
    uint64_t *stops;
    double *uniforms;
    int32_t *ids;
    float *raw, *warm, *processed;
    int64_t length;
} Board;

static void help(Engine *e, int thread) {
    Crew *c = &e->crew;
    for (;;) {
        uint64_t t = atomic_load_explicit(&c->ticket, memory_order_acquire);
        if (NEXT(t) >= CHUNKS(t)) return;
        if (!atomic_compare_exchange_weak_explicit(&c->ticket, &t, t + 1, memory_order_acq_rel, memory_order_relaxed))
            continue;
        c->phase(e, (int)NEXT(t), thread);
        atomic_fetch_add_explicit(&c->done, 1, memory_order_release);
    }
}

static void parallel(Engine *e, Phase phase, int chunks) {
    Crew *c = &e->crew;
    e->epoch++;
    if (atomic_load_explicit(&c->use, memory_order_relaxed) == 1 || chunks == 1) {
        for (int i = 0; i < chunks; i++) phase(e, i, 0);
        return;
    }
    c->phase = phase;
    atomic_store_explicit(&c->done, 0, memory_order_relaxed);
    atomic_store_explicit(&c->ticket, ((uint64_t)(e->epoch & 0xFFFFFF) << 40) | ((uint64_t)chunks << 20),
                          memory_order_release);
    atomic_thread_fence(memory_order_seq_cst); /* or a thread that lies down now might be overlooked */
    if (atomic_load_explicit(&c->sleepers, memory_order_seq_cst)) {
        pthread_mutex_lock(&c->lock);
        pthread_cond_broadcast(&c->wake);
        pthread_mutex_unlock(&c->lock);
    }
    help(e, 0);
    for (int spin = 0; atomic_load_explicit(&c->done, memory_order_acquire) < (uint32_t)chunks; spin++) {
        breathe();
        if (spin > 2000) { sched_yield(); spin = 1500; }
    }
}

typedef struct { Engine *e; int thread; } Start;

static void *worker(void *arg) {
    Start s = *(Start *)arg;
    free(arg);
    Crew *c = &s.e->crew;
    int idle = 0;
    while (!atomic_load_explicit(&c->stop, memory_order_acquire)) {
        if (s.thread >= atomic_load_explicit(&c->use, memory_order_relaxed)) {
            pthread_mutex_lock(&c->lock);
            while (s.thread >= atomic_load(&c->use) && !atomic_load(&c->stop)) pthread_cond_wait(&c->rest, &c->lock);
            pthread_mutex_unlock(&c->lock);
            continue;
        }
        uint64_t t = atomic_load_explicit(&c->ticket, memory_order_acquire);
        if (NEXT(t) < CHUNKS(t)) {
            help(s.e, s.thread);
            idle = 0;
        } else if (++idle < 4000) {
            breathe();
        } else if (idle < 4200) {
            sched_yield();
        } else {
            pthread_mutex_lock(&c->lock);
            atomic_fetch_add(&c->sleepers, 1);
            t = atomic_load_explicit(&c->ticket, memory_order_seq_cst);
            if (NEXT(t) >= CHUNKS(t) && !atomic_load(&c->stop) && s.thread < atomic_load(&c->use))
                pthread_cond_wait(&c->wake, &c->lock);
            atomic_fetch_sub(&c->sleepers, 1);
            pthread_mutex_unlock(&c->lock);
            idle = 0;
        }
    }
    return NULL;
}

/* ---------------------------------------------------------------- products */

enum { SET, ADD, GATED, GELU };

/* tanh form of GELU */
static inline vf gelu(vf x) {
    vf z = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    return x - x / (vexp(2.0f * z) + 1.0f);
}

/* Put a tile of m rows and np panels where it belongs. */
static void place_tile(Engine *e, int row, int m, int panel, int np, const float *t, int ti, int tp) {
    const Mat *a = e->mat;
    for (int i = 0; i < m; i++) {
        const float *src = t + i * ti;
        if (e->kind == GATED) { /* panels alternate: gate, up */
            float *h = e->h + (int64_t)(row + i) * e->panel_mlp;
            for (int p = 0; p + 1 < np; p += 2)
                for (int c = 0; c < PW; c += W) {
                    vf g = load(src + p * tp + c), u = load(src + (p + 1) * tp + c);
                    if (a->bias) {
                        g += load(a->bias + (panel + p) * PW + c);
                        u += load(a->bias + (panel + p + 1) * PW + c);
                    }
                    store(h + (panel + p) / 2 * PW + c, g / (1.0f + vexp(-g)) * u);
                }
            continue;
        }
        for (int p = 0; p < np; p++) {
            int first = (panel + p) * PW, n = a->n - first < PW ? a->n - first : PW;
            float v[PW];
            for (int c = 0; c < PW; c += W) {
                vf y = load(src + p * tp + c);
                if (a->bias) y += load(a->bias + first + c);
                if (e->kind == GELU) y = gelu(y);
                store(v + c, y);
            }
            if (e->kind == ADD) {
                float *x = e->x + (int64_t)(row + i) * e->z.width + first;
                if (n == PW) for (int c = 0; c < PW; c += W) store(x + c, load(x + c) + load(v + c));
                else for (int c = 0; c < n; c++) x[c] += v[c];
            } else {
                float *y = e->kind == GELU ? e->h + (int64_t)(row + i) * e->panel_mlp + first
                           : a == &e->head ? e->logits + (int64_t)(row + i) * e->z.vocab + first
                                           : e->qkv + (int64_t)(row + i) * e->qkv_width + first;
                memcpy(y, v, sizeof(float) * n);
            }
        }
    }
}

static void normalise(const Engine *e, const Norm *n, const float *x, float *y, int width) {
    if (!e->z.layer_norm) {
        vf s0 = {0}, s1 = {0};
        int i = 0;
        for (; i + 2 * W <= width; i += 2 * W) {
            vf a = load(x + i), b = load(x + i + W);
            s0 += a * a;
            s1 += b * b;
        }
        float s = sum(s0 + s1);
        for (; i < width; i++) s += x[i] * x[i];
        float r = 1.0f / sqrtf(s / width + e->z.eps);
        for (i = 0; i + W <= width; i += W) store(y + i, load(x + i) * r * load(n->w + i));
        for (; i < width; i++) y[i] = x[i] * r * n->w[i];
    } else {
        double m = 0, v = 0;
        for (int i = 0; i < width; i++) m += x[i];
        m /= width;
        for (int i = 0; i < width; i++) v += (x[i] - m) * (x[i] - m);
        float r = 1.0f / sqrtf((float)(v / width) + e->z.eps), mean = (float)m;
        for (int i = 0; i < width; i++) y[i] = (x[i] - mean) * r * n->w[i] + (n->b ? n->b[i] : 0.0f);
    }
}

/* Rows as int8 in blocks of QB with a scale each; k is padded with zeros. Adding 1.5 * 2^23 rounds to whole
 * numbers, halves to even. */
static void quantise(const float *x, int k, int8_t *q, float *s) {
    for (int b = 0; b * QB < k; b++) {
        int n = k - b * QB < QB ? k - b * QB : QB;
        float part[QB], top = 0, t[W];
        const float *from = x + b * QB;
        if (n < QB) {
            memset(part, 0, sizeof part);
            memcpy(part, from, sizeof(float) * n);
            from = part;
        }
        vf high = {0};
        for (int i = 0; i < QB; i += W) high = vmax(high, (vf)((vi)load(from + i) & 0x7FFFFFFF));
        memcpy(t, &high, sizeof t);
        for (int i = 0; i < W; i++) top = t[i] > top ? t[i] : top;
        float inverse = top > 1e-35f ? 127.0f / top : 0; /* below, it would be infinite */
        s[b] = inverse > 0 ? top / 127.0f : 0;
        for (int i = 0; i < QB; i += W) {
            vi whole = (vi)(load(from + i) * inverse + 12582912.0f) - 0x4B400000;
            int32_t y[W];
            memcpy(y, &whole, sizeof y);
            for (int j = 0; j < W; j++) q[b * QB + i + j] = (int8_t)y[j];
        }
    }
}

/* M rows times one panel, int8 */
#if defined(__AVX2__) && !defined(__AVX512F__)
static inline __attribute__((always_inline)) void tile8(const int m, const int8_t *q, const float *s, int64_t ldq,
                                                        int64_t lds, const int8_t *w, const float *ws, int blocks,
                                                        float *out) {
    __m256 a[4][2];
    for (int i = 0; i < m; i++) a[i][0] = a[i][1] = _mm256_setzero_ps();
    const __m256i ones = _mm256_set1_epi16(1);
    for (int b = 0; b < blocks; b++) {
        __m256i c[4][2];
        for (int i = 0; i < m; i++) c[i][0] = c[i][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int j = 0; j < QB / 4; j++) {
            __m256i w0 = _mm256_load_si256((const __m256i *)(w + ((int64_t)b * (QB / 4) + j) * PW * 4));
            __m256i w1 = _mm256_load_si256((const __m256i *)(w + ((int64_t)b * (QB / 4) + j) * PW * 4 + 32));
            for (int i = 0; i < m; i++) {
                int32_t four;
                memcpy(&four, q + i * ldq + b * QB + j * 4, 4);
                __m256i x = _mm256_set1_epi32(four), u = _mm256_abs_epi8(x);
                c[i][0] = _mm256_add_epi32(
                    c[i][0], _mm256_madd_epi16(_mm256_maddubs_epi16(u, _mm256_sign_epi8(w0, x)), ones));
                c[i][1] = _mm256_add_epi32(
                    c[i][1], _mm256_madd_epi16(_mm256_maddubs_epi16(u, _mm256_sign_epi8(w1, x)), ones));
            }
        }
        __m256 s0 = _mm256_load_ps(ws + b * PW), s1 = _mm256_load_ps(ws + b * PW + 8);
        for (int i = 0; i < m; i++) {
            __m256 sx = _mm256_set1_ps(s[i * lds + b]);
            a[i][0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(c[i][0]), _mm256_mul_ps(s0, sx), a[i][0]);
            a[i][1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(c[i][1]), _mm256_mul_ps(s1, sx), a[i][1]);
        }
    }
    for (int i = 0; i < m; i++) {
        _mm256_storeu_ps(out + i * PW, a[i][0]);
        _mm256_storeu_ps(out + i * PW + 8, a[i][1]);
    }
}
static void tile_q8(int m, const int8_t *q, const float *s, int64_t ldq, int64_t lds, const int8_t *w,
                    const float *ws, int blocks, float *out) {
    switch (m) {
        case 1: tile8(1, q, s, ldq, lds, w, ws, blocks, out); break;
        case 2: tile8(2, q, s, ldq, lds, w, ws, blocks, out); break;
        case 3: tile8(3, q, s, ldq, lds, w, ws, blocks, out); break;
        default: tile8(4, q, s, ldq, lds, w, ws, blocks, out); break;
    }
}
#else
static void tile_q8(int m, const int8_t *q, const float *s, int64_t ldq, int64_t lds, const int8_t *w,
                    const float *ws, int blocks, float *out) {
    for (int i = 0; i < m; i++) {
        float a[PW] = {0};
        for (int b = 0; b < blocks; b++) {
            int32_t c[PW] = {0};
            for (int j = 0; j < QB / 4; j++)
                for (int n = 0; n < PW; n++)
                    for (int l = 0; l < 4; l++)
                        c[n] += (int32_t)q[i * ldq + b * QB + j * 4 + l] *
                                w[(((int64_t)b * (QB / 4) + j) * PW + n) * 4 + l];
            for (int n = 0; n < PW; n++) a[n] += (float)c[n] * (ws[b * PW + n] * s[i * lds + b]);
        }
        memcpy(out + i * PW, a, sizeof a);
    }
}
#endif


/* ---------------------------------------------------------------- what products read */

static void ready_row(const Engine *e, int row, float *normed, int8_t *q8, float *q8s) {
    const float *in = e->in + (int64_t)row * e->in_stride;
    if (e->norm) {
        normalise(e, e->norm, in, normed, e->mat->k);
        in = normed;
    }
    if (e->mat->q) quantise(in, e->mat->k, q8, q8s);
}

static void ready(Engine *e, int chunk, int thread) {
    (void)thread;
    int last = (chunk + 1) * SMALL < e->R ? (chunk + 1) * SMALL : e->R;
    for (int r = chunk * SMALL; r < last; r++)
        ready_row(e, r, e->normed + (int64_t)r * e->z.width, e->q8 + (int64_t)r * e->q8_pad,
                  e->q8s + (int64_t)r * (e->q8_pad / QB));
}

static void product(Engine *e, int chunk, int thread) {
    const Mat *a = e->mat;
    const float *in = e->in, *q8s = e->q8s;
    const int8_t *q8 = e->q8;
    int stride = e->in_stride, pad = e->q8_pad;
    if (e->norm || a->q) {
        if (e->R <= SMALL) { /* each thread for itself: cheaper than a phase */
            Own *own = e->own + thread;
            if (own->epoch != e->epoch) {
                for (int r = 0; r < e->R; r++)
                    ready_row(e, r, own->normed + (int64_t)r * e->z.width, own->q8 + (int64_t)r * pad,
                              own->q8s + (int64_t)r * (pad / QB));
                own->epoch = e->epoch;
            }
            if (e->norm) in = own->normed;
            q8 = own->q8;
            q8s = own->q8s;
        } else if (e->norm) in = e->normed;
        if (e->norm) stride = e->z.width;
    }
    int first = chunk * e->group, last = first + e->group < a->panels ? first + e->group : a->panels;
    int most = a->q ? 4 : 6, blocks = (e->R + most - 1) / most;
    /* what this thread will probably read after this chunk: asked for while this one's rows keep it busy */
    int64_t panel = (int64_t)a->k * PW * sizeof(float), ahead = (int64_t)(chunk + e->crew.use) * e->group;
    const char *soon = (const char *)a->w + (ahead + e->group <= a->panels ? ahead : first) * panel;
    float t[2 * 6 * PW] __attribute__((aligned(64)));
    for (int b = 0; b < blocks; b++) {
        int row = (int)((int64_t)e->R * b / blocks), m = (int)((int64_t)e->R * (b + 1) / blocks) - row;
        for (int p = first; p < last;) {
            int left = last - p, np;
            if (a->q) {
                np = e->kind == GATED ? 2 : 1;
                int kb = (a->k + QB - 1) / QB;
                for (int j = 0; j < np; j++)
                    tile_q8(m, q8 + (int64_t)row * pad, q8s + (int64_t)row * (pad / QB), pad, pad / QB,
                            a->q + (int64_t)(p + j) * kb * QB * PW, a->s + (int64_t)(p + j) * kb * PW, kb,
                            t + j * 6 * PW);
                place_tile(e, row, m, p, np, t, PW, 6 * PW);
            } else if (m > 3) {
                np = e->kind == GATED ? 2 : 1;
                for (int j = 0; j < np; j++)
                    tile(m, 1, in + (int64_t)row * stride, stride, a->w + (int64_t)(p + j) * a->k * PW, a->k,
                         t + j * 6 * PW, soon + j * panel + b * (panel / blocks), (panel / blocks) / a->k);
                place_tile(e, row, m, p, np, t, PW, 6 * PW);
            } else {
                np = m == 1 && left >= 4 ? 4 : left >= 2 ? 2 : 1;
                tile(m, np, in + (int64_t)row * stride, stride, a->w + (int64_t)p * a->k * PW, a->k, t, NULL, 0);
                place_tile(e, row, m, p, np, t, np * PW, PW);
            }
            p += np;
        }
    }
}

static void multiply(Engine *e, const Norm *norm, const float *in, int stride, const Mat *mat, int kind) {
    e->norm = norm;
    e->in = in;
    e->in_stride = stride;
    e->mat = mat;
    e->kind = kind;
    e->group = e->R == 1 ? 4 : e->R <= 3 || kind == GATED ? 2 : 1;
    if ((norm || mat->q) && e->R > SMALL) parallel(e, ready, (e->R + SMALL - 1) / SMALL);
    parallel(e, product, (mat->panels + e->group - 1) / e->group);
}

/* ---------------------------------------------------------------- attention */

static void turn(const Engine *e, float *x, int place) {
    int half = e->z.dim / 2;
    const float *c = e->cos + (int64_t)place * half, *s = e->sin + (int64_t)place * half;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * c[i] - b * s[i];
        x[i + half] = b * c[i] + a * s[i];
    }
}

/* Queries and key of one row and key-value head: norms, turns, and into the cache. */
static void file_row(Engine *e, int row, int g) {
    int dim = e->z.dim, per = e->z.heads / e->z.kv, vdim = (dim + W - 1) / W * W;
    float *base = e->qkv + (int64_t)row * e->qkv_width, *k = base + (int64_t)(e->z.heads + g) * dim;
    const float *v = base + (int64_t)(e->z.heads + e->z.kv + g) * dim;
    const Layer *l = e->layers + e->layer;
    int place = e->place[row];
    for (int h = g * per; h < (g + 1) * per; h++) {
        if (e->z.qk_norm) normalise(e, &l->qn, base + h * dim, base + h * dim, dim);
        if (e->z.rotary) turn(e, base + h * dim, place);
    }
    if (e->z.qk_norm) normalise(e, &l->kn, k, k, dim);
    if (e->z.rotary) turn(e, k, place);
    int64_t head = (int64_t)e->slot[row] * e->z.kv + g;
    float *keys = e->keys[e->layer] + head * e->capacity * dim + (int64_t)(place / KB) * KB * dim + place % KB;
    for (int i = 0; i < dim; i++) keys[i * KB] = k[i];
    memcpy(e->values[e->layer] + (head * e->capacity + place) * vdim, v, sizeof(float) * dim);
}

static void file(Engine *e, int chunk, int thread) {
    (void)thread;
    for (int g = 0; g < e->z.kv; g++) file_row(e, chunk, g);
}

static void look(Engine *e, int chunk, int thread) {
    int row = chunk / e->z.kv, g = chunk % e->z.kv;
    if (e->unique) file_row(e, row, g);
    int dim = e->z.dim, per = e->z.heads / e->z.kv, vdim = (dim + W - 1) / W * W;
    int n = e->place[row] + 1, blocks = (n + KB - 1) / KB;
    int64_t head = (int64_t)e->slot[row] * e->z.kv + g;
    const float *keys = e->keys[e->layer] + head * e->capacity * dim;
    const float *values = e->values[e->layer] + head * e->capacity * vdim;
    float *s = e->own[thread].scores, scale = 1.0f / sqrtf((float)dim);
    for (int h = g * per; h < (g + 1) * per; h++) {
        const float *q = e->qkv + (int64_t)row * e->qkv_width + h * dim;
        int b = 0;
        for (; b + 2 <= blocks; b += 2) {
            const float *k0 = keys + (int64_t)b * KB * dim, *k1 = k0 + (int64_t)KB * dim;
            vf a[2][KB / W];
            for (int j = 0; j < KB / W; j++) a[0][j] = a[1][j] = (vf){0};
            for (int i = 0; i < dim; i++) {
                vf x = splat(q[i]);
                for (int j = 0; j < KB / W; j++) {
                    a[0][j] += x * load(k0 + i * KB + j * W);
                    a[1][j] += x * load(k1 + i * KB + j * W);
                }
            }
            for (int j = 0; j < KB / W; j++) {
                store(s + b * KB + j * W, a[0][j] * scale);
                store(s + (b + 1) * KB + j * W, a[1][j] * scale);
            }
        }
        if (b < blocks) {
            const float *k0 = keys + (int64_t)b * KB * dim;
            vf a[KB / W];
            for (int j = 0; j < KB / W; j++) a[j] = (vf){0};
            for (int i = 0; i < dim; i++) {
                vf x = splat(q[i]);
                for (int j = 0; j < KB / W; j++) a[j] += x * load(k0 + i * KB + j * W);
            }
            for (int j = 0; j < KB / W; j++) store(s + b * KB + j * W, a[j] * scale);
        }
        for (int i = n; i < blocks * KB; i++) s[i] = -INFINITY;
        vf top = load(s), total = {0};
        for (int i = W; i < blocks * KB; i += W) top = vmax(top, load(s + i));
        float t[W], m;
        memcpy(t, &top, sizeof t);
        m = t[0];
        for (int i = 1; i < W; i++) m = t[i] > m ? t[i] : m;
        for (int i = 0; i < blocks * KB; i += W) {
            vf x = vexp(load(s + i) - m);
            total += x;
            store(s + i, x);
        }
        float inverse = 1.0f / sum(total);
        float *out = e->att + (int64_t)row * e->z.heads * dim + h * dim;
        for (int c = 0; c < vdim; c += 4 * W) {
            int nv = (vdim - c) / W < 4 ? (vdim - c) / W : 4;
            vf a[4] = {{0}};
            const float *v = values + c;
            if (nv == 4)
                for (int i = 0; i < n; i++, v += vdim) {
                    vf x = splat(s[i]);
                    for (int j = 0; j < 4; j++) a[j] += x * load(v + j * W);
                }
            else
                for (int i = 0; i < n; i++, v += vdim) {
                    vf x = splat(s[i]);
                    for (int j = 0; j < nv; j++) a[j] += x * load(v + j * W);
                }
            for (int j = 0; j < nv; j++) {
                float y[W];
                vf z = a[j] * inverse;
                memcpy(y, &z, sizeof y);
                int left = dim - c - j * W;
                memcpy(out + c + j * W, y, sizeof(float) * (left < W ? left : W));
            }
        }
    }
}

/* ---------------------------------------------------------------- a forward */

static void forward(Engine *e, int R, const int32_t *token, const int32_t *slot, const int32_t *place, int Wn,
                    const int32_t *wanted) {
    int D = e->z.width, mlp_in = e->panel_mlp;
    e->R = R;
    e->token = token;
    e->slot = slot;
    e->place = place;
    for (int i = 0; i < e->slots; i++) e->seen[i] = 0;
    e->unique = 1;
    for (int r = 0; r < R; r++) e->unique &= e->seen[slot[r]]++ == 0;
    for (int r = 0; r < R; r++) {
        float *x = e->x + (int64_t)r * D;
        memcpy(x, e->embed + (int64_t)token[r] * D, sizeof(float) * D);
        if (e->positions) for (int i = 0; i < D; i++) x[i] += e->positions[(int64_t)place[r] * D + i];
    }
    for (e->layer = 0; e->layer < e->z.depth; e->layer++) {
        Layer *l = e->layers + e->layer;
        multiply(e, &l->n1, e->x, D, &l->qkv, SET);
        if (!e->unique) parallel(e, file, R);
        parallel(e, look, R * e->z.kv);
        multiply(e, NULL, e->att, e->z.heads * e->z.dim, &l->o, ADD);
        multiply(e, &l->n2, e->x, D, &l->up, e->z.gated ? GATED : GELU);
        multiply(e, NULL, e->h, mlp_in, &l->down, ADD);
    }
    if (Wn) {
        for (int i = 0; i < Wn; i++)
            memcpy(e->picked + (int64_t)i * D, e->x + (int64_t)wanted[i] * D, sizeof(float) * D);
        e->R = Wn;
        multiply(e, &e->last, e->picked, D, &e->head, SET);
    }
}

/* ---------------------------------------------------------------- drawing */

static double power(float *to, const float *l, int V, float top, float inverse) {
    /* exp((l - top) / temperature) into `to`; returns their sum */
    double total = 0;
    int i = 0;
    while (i < V) {
        int end = i + 64 * W < V ? i + 64 * W : V;
        vf part = {0};
        for (; i + W <= end; i += W) {
            vf x = vexp((load(l + i) - top) * inverse);
            store(to + i, x);
            part += x;
        }
        total += sum(part);
        if (i < end) { /* the last few */
            float t[W];
            for (int j = 0; j < W; j++) t[j] = i + j < end ? l[i + j] : -INFINITY;
            vf x = vexp((load(t) - top) * inverse);
            memcpy(t, &x, sizeof t);
            for (; i < end; i++) {
                to[i] = t[i % W];
                total += t[i % W];
            }
        }
    }
    return total;
}

static void draw_one(Engine *e, int chunk, int thread) {
    Board *b = e->board;
    int slot = e->who[chunk], V = e->z.vocab, id = 0;
    const float *l = e->logits + (int64_t)e->which[chunk] * V;
    float *p = e->own[thread].scores, T = b->temperature[slot], top = l[0];
    for (int i = 1; i < V; i++) top = l[i] > top ? l[i] : top;
    while (id < V - 1 && !(l[id] == top)) id++;
    int64_t at = (int64_t)slot * b->length + b->made[slot];
    float raw, warm, processed = 0;
    if (T == 0) {
        raw = warm = (float)-log(power(p, l, V, top, 1.0f));
    } else {
        float inverse = 1.0f / T;
        double other = T == 1 ? 0 : power(p, l, V, top, 1.0f), total = power(p, l, V, top, inverse);
        double aim = b->uniforms[at] * total, running = 0;
        int last = id; /* the likeliest, should rounding leave the aim above the sum */
        id = -1;
        for (int i = 0; i < V; i++) {
            running += p[i];
            if (running > aim) { id = i; break; }
        }
        if (id < 0) id = last;
        warm = processed = (float)((double)(l[id] - top) * inverse - log(total));
        raw = T == 1 ? warm : (float)((double)(l[id] - top) - log(other));
    }
    b->ids[at] = b->last[slot] = id;
    b->raw[at] = raw;
    b->warm[at] = warm;
    b->processed[at] = processed;
    b->made[slot]++;
}

/* ---------------------------------------------------------------- what Python calls */

#define API __attribute__((visibility("default")))

API int nihil_panel(void) { return PW; }

static int room(Engine *e, int rows) {
    if (rows <= e->rows) return 0;
    free(e->x); free(e->normed); free(e->qkv); free(e->att); free(e->h); free(e->picked); free(e->logits);
    free(e->q8); free(e->q8s);
    int64_t n = rows;
    e->x = take(n * e->z.width * 4);
    e->normed = take(n * e->z.width * 4);
    e->qkv = take(n * e->qkv_width * 4);
    e->att = take(n * e->z.heads * e->z.dim * 4);
    e->h = take(n * e->panel_mlp * 4);
    e->picked = take(n * e->z.width * 4);
    e->logits = take(n * e->z.vocab * 4);
    e->q8 = take(e->z.quantised ? n * e->q8_pad : 0);
    e->q8s = take(e->z.quantised ? n * (e->q8_pad / QB) * 4 : 0);
    int good = e->x && e->normed && e->qkv && e->att && e->h && e->picked && e->logits && e->q8 && e->q8s;
    e->rows = good ? rows : 0;
    return good ? 0 : -1;
}

static void shape(Mat *m, int n, int k) {
    m->n = n;
    m->k = k;
    m->panels = (n + PW - 1) / PW;
}

API void nihil_free(Engine *e) {
    if (!e) return;
    atomic_store(&e->crew.stop, 1);
    pthread_mutex_lock(&e->crew.lock);
    pthread_cond_broadcast(&e->crew.wake);
    pthread_cond_broadcast(&e->crew.rest);
    pthread_mutex_unlock(&e->crew.lock);
    for (int i = 1; i < e->crew.threads; i++) pthread_join(e->crew.ids[i], NULL);
    Mat *heads[1] = {&e->head};
    for (int l = 0; l < e->z.depth; l++) {
        Layer *y = e->layers + l;
        Mat *m[4] = {&y->qkv, &y->o, &y->up, &y->down};
        for (int i = 0; i < 4; i++) { free(m[i]->w); free(m[i]->bias); free(m[i]->q); free(m[i]->s); }
        Norm *n[4] = {&y->n1, &y->n2, &y->qn, &y->kn};
        for (int i = 0; i < 4; i++) { free(n[i]->w); free(n[i]->b); }
        if (e->keys) { free(e->keys[l]); free(e->values[l]); }
    }
    free(heads[0]->w); free(heads[0]->bias); free(heads[0]->q); free(heads[0]->s);
    free(e->last.w); free(e->last.b); free(e->embed); free(e->positions); free(e->cos); free(e->sin);
    free(e->x); free(e->normed); free(e->qkv); free(e->att); free(e->h); free(e->picked); free(e->logits);
    free(e->q8); free(e->q8s); free(e->seen); free(e->keys); free(e->values); free(e->layers);
    for (int i = 0; e->own && i < e->z.threads; i++) {
        free(e->own[i].normed); free(e->own[i].scores); free(e->own[i].q8); free(e->own[i].q8s);
    }
    free(e->own);
    free(e);
}

API Engine *nihil_new(const Sizes *z) {
    Engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->z = *z;
    e->qkv_width = (z->heads + 2 * z->kv) * z->dim;
    e->panel_mlp = (z->mlp + PW - 1) / PW * PW;
    int most = z->width > z->mlp ? z->width : z->mlp;
    if (most < z->heads * z->dim) most = z->heads * z->dim;
    e->q8_pad = (most + QB - 1) / QB * QB;
    e->layers = calloc(z->depth, sizeof(Layer));
    e->own = calloc(z->threads, sizeof(Own));
    e->keys = calloc(z->depth, sizeof(float *));
    e->values = calloc(z->depth, sizeof(float *));
    int good = e->layers && e->own && e->keys && e->values;
    for (int i = 0; good && i < z->threads; i++) {
        e->own[i].normed = take((int64_t)SMALL * z->width * 4);
        e->own[i].scores = take((int64_t)(z->context + KB > z->vocab ? z->context + KB : z->vocab) * 4 + 256);
        e->own[i].q8 = take((int64_t)SMALL * e->q8_pad);
        e->own[i].q8s = take((int64_t)SMALL * (e->q8_pad / QB) * 4);
        good = e->own[i].normed && e->own[i].scores && e->own[i].q8 && e->own[i].q8s;
    }
    pthread_mutex_init(&e->crew.lock, NULL);
    pthread_cond_init(&e->crew.wake, NULL);
    pthread_cond_init(&e->crew.rest, NULL);
    e->crew.use = z->threads;
    e->crew.threads = 1;
    for (int l = 0; good && l < z->depth; l++) {
        Layer *y = e->layers + l;
        shape(&y->qkv, e->qkv_width, z->width);
        shape(&y->o, z->width, z->heads * z->dim);
        shape(&y->up, z->mlp, z->width);
        if (z->gated) y->up.panels *= 2;
        shape(&y->down, z->width, z->mlp);
    }
    shape(&e->head, z->vocab, z->width);
    if (!good) { nihil_free(e); return NULL; }
    for (int i = 1; i < z->threads; i++) {
        Start *s = malloc(sizeof *s);
        if (!s) break;
        *s = (Start){e, i};
        if (pthread_create(&e->crew.ids[i], NULL, worker, s)) { free(s); break; }
        e->crew.threads = i + 1;
    }
    return e;
}

API int nihil_threads(Engine *e) { return e->crew.threads; }

/* So many threads take part from now on; the others sleep. Not during a forward. */
API void nihil_use(Engine *e, int threads) {
    Crew *c = &e->crew;
    if (atomic_load(&c->use) == threads) return;
    pthread_mutex_lock(&c->lock);
    atomic_store(&c->use, threads);
    pthread_cond_broadcast(&c->wake);
    pthread_cond_broadcast(&c->rest);
    pthread_mutex_unlock(&c->lock);
}

/* A mark of what memory holds: eight running products of 64 bits, so that it is read at memory's speed. */
API uint64_t nihil_mark(const void *from, int64_t bytes) {
    uint64_t h[8], w;
    const unsigned char *p = from;
    for (int i = 0; i < 8; i++) h[i] = 0x9E3779B97F4A7C15ull * (uint64_t)(i + 1) + (uint64_t)bytes;
    for (; bytes >= 64; bytes -= 64, p += 64)
        for (int i = 0; i < 8; i++) {
            memcpy(&w, p + 8 * i, 8);
            h[i] = (h[i] ^ w) * 0xD6E8FEB86659FD93ull;
            h[i] ^= h[i] >> 32;
        }
    for (int i = 0; bytes > 0; bytes--, p++, i = (i + 1) % 8) h[i] = (h[i] ^ *p) * 0xD6E8FEB86659FD93ull;
    w = 0;
    for (int i = 0; i < 8; i++) w = (w ^ h[i] ^ (h[i] >> 29)) * 0xBF58476D1CE4E5B9ull;
    return w ^ (w >> 31);
}

static Mat *matrix(Engine *e, int layer, int which) {
    if (layer < 0) return &e->head;
    Layer *l = e->layers + layer;
    return which == 0 ? &l->qkv : which == 1 ? &l->o : which == 2 ? &l->up : &l->down;
}

/* Rows [first, first + n) of a matrix, (n, k) in row order; panel of row c is c / PW * step + offset. */
API int nihil_pack(Engine *e, int layer, int which, const float *src, const float *bias, int first, int n, int step,
                   int offset) {
    Mat *m = matrix(e, layer, which);
    int k = m->k, kb = (k + QB - 1) / QB;
    if (!e->z.quantised && !m->w && !(m->w = take((int64_t)m->panels * k * PW * 4))) return -1;
    if (e->z.quantised && !m->q) {
        m->q = take((int64_t)m->panels * kb * QB * PW);
        m->s = take((int64_t)m->panels * kb * PW * 4);
        if (!m->q || !m->s) return -1;
    }
    if (bias && !m->bias && !(m->bias = take((int64_t)m->panels * PW * 4))) return -1;
    for (int i = 0; i < n;) {
        int c = first + i, lane = c % PW, panel = c / PW * step + offset;
        int lanes = PW - lane < n - i ? PW - lane : n - i;
        if (bias) memcpy(m->bias + (int64_t)panel * PW + lane, bias + i, sizeof(float) * lanes);
        if (!e->z.quantised) {
            float *to = m->w + (int64_t)panel * k * PW + lane;
            const float *from = src + (int64_t)i * k;
            if (lanes == PW)
                for (int64_t x = 0; x < k; x++)
                    for (int j = 0; j < PW; j++) to[x * PW + j] = from[(int64_t)j * k + x];
            else
                for (int64_t x = 0; x < k; x++)
                    for (int j = 0; j < lanes; j++) to[x * PW + j] = from[(int64_t)j * k + x];
        } else {
            for (int j = 0; j < lanes; j++) {
                const float *row = src + (int64_t)(i + j) * k;
                for (int b = 0; b < kb; b++) {
                    int8_t q[QB];
                    quantise(row + b * QB, k - b * QB < QB ? k - b * QB : QB, q,
                             m->s + ((int64_t)panel * kb + b) * PW + lane + j);
                    for (int x = 0; x < QB; x++)
                        m->q[(((int64_t)panel * kb + b) * (QB / 4) + x / 4) * PW * 4 + (lane + j) * 4 + x % 4] = q[x];
                }
            }
        }
        i += lanes;
    }
    return 0;
}

static int copy_to(float **to, const float *from, int64_t n) {
    if (!from) return 0;
    if (!*to && !(*to = take(n * 4))) return -1;
    memcpy(*to, from, n * 4);
    return 0;
}

/* which: 0 attention, 1 mlp, 2 queries, 3 keys; layer -1: the last one */
API int nihil_norm(Engine *e, int layer, int which, const float *w, const float *b, int n) {
    Norm *to = &e->last;
    if (layer >= 0) {
        Layer *l = e->layers + layer;
        to = which == 0 ? &l->n1 : which == 1 ? &l->n2 : which == 2 ? &l->qn : &l->kn;
    }
    return copy_to(&to->w, w, n) | copy_to(&to->b, b, n);
}

API int nihil_tables(Engine *e, const float *embed, const float *positions, const float *cos, const float *sin) {
    int64_t half = e->z.dim / 2, C = e->z.context;
    return copy_to(&e->embed, embed, (int64_t)e->z.vocab * e->z.width) |
           copy_to(&e->positions, positions, C * e->z.width) | copy_to(&e->cos, cos, C * half) |
           copy_to(&e->sin, sin, C * half);
}

/* Room for so many slots of so many places (a multiple of KB); what the slots hold is kept. */
API int nihil_cache(Engine *e, int slots, int capacity) {
    int dim = e->z.dim, vdim = (dim + W - 1) / W * W;
    if (!e->seen && !(e->seen = calloc(slots, sizeof(int32_t)))) return -1;
    for (int l = 0; l < e->z.depth; l++) {
        int64_t heads = (int64_t)slots * e->z.kv;
        /* calloc: pages that no text reaches are never touched */
        float *k = calloc(heads * capacity * dim + 64, 4), *v = calloc(heads * capacity * vdim + 64, 4);
        if (!k || !v) { free(k); free(v); return -1; }
        if (e->keys[l]) {
            int64_t old = e->capacity;
            for (int64_t h = 0; h < heads; h++) {
                memcpy(k + h * capacity * dim, e->keys[l] + h * old * dim, old * dim * 4);
                memcpy(v + h * capacity * vdim, e->values[l] + h * old * vdim, old * vdim * 4);
            }
            free(e->keys[l]);
            free(e->values[l]);
        }
        e->keys[l] = k;
        e->values[l] = v;
    }
    e->slots = slots;
    e->capacity = capacity;
    return 0;
}

API void nihil_copy(Engine *e, int source, const int32_t *targets, int n, int length) {
    int dim = e->z.dim, vdim = (dim + W - 1) / W * W;
    int64_t whole = (int64_t)(length + KB - 1) / KB * KB;
    for (int l = 0; l < e->z.depth; l++)
        for (int t = 0; t < n; t++)
            for (int g = 0; g < e->z.kv; g++) {
                int64_t a = (int64_t)source * e->z.kv + g, b = (int64_t)targets[t] * e->z.kv + g;
                memcpy(e->keys[l] + b * e->capacity * dim, e->keys[l] + a * e->capacity * dim, whole * dim * 4);
                memcpy(e->values[l] + b * e->capacity * vdim, e->values[l] + a * e->capacity * vdim,
                       (int64_t)length * vdim * 4);
            }
}

API const float *nihil_forward(Engine *e, int R, const int32_t *token, const int32_t *slot, const int32_t *place,
                               int Wn, const int32_t *wanted) {
    if (room(e, R > Wn ? R : Wn)) return NULL;
    forward(e, R, token, slot, place, Wn, wanted);
    return e->logits;
}

/* The next token of slots who[i] from row which[i] of the last logits. */
API void nihil_draw(Engine *e, Board *board, int n, const int32_t *who, const int32_t *which) {
    e->board = board;
    e->who = who;
    e->which = which;
    parallel(e, draw_one, n);
}

/* Read the last token of each slot and draw the next, until one of them is over or `most` were drawn. */
API int nihil_decode(Engine *e, Board *b, int n, const int32_t *live, int most, int32_t *work) {
    int32_t *token = work, *place = work + n, *rows = work + 2 * n;
    if (room(e, n)) return -1;
    for (int i = 0; i < n; i++) rows[i] = i;
    for (int step = 1;; step++) {
        for (int i = 0; i < n; i++) {
            token[i] = b->last[live[i]];
            place[i] = b->place[live[i]]++;
        }
        forward(e, n, token, live, place, n, rows);
        nihil_draw(e, b, n, live, rows);
        int over = step >= most;
        for (int i = 0; i < n; i++) {
            int s = live[i];
            const uint8_t *stops = (const uint8_t *)(uintptr_t)b->stops[s];
            over |= b->made[s] >= b->limit[s] || (stops && stops[b->last[s]]);
        }
        if (over) return step;
    }
}
