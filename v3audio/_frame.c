/* A frame's arithmetic in one piece: what hearing, belief, renderer and mixer otherwise ask of numpy in
 * some hundred small calls. It is the same arithmetic on tables that Python makes and hands over; where no
 * compiler was at hand when v3audio was installed, numpy does it all.
 *
 * The functions hold Python's lock while they run, less than a tenth of a millisecond for a live frame:
 * giving it away and winning it back is what makes a step late where other threads are busy.
 *
 * Sums run in eight lanes, which the compiler makes of two times four where the processor has four;
 * the longest loops in sixteen where it has those.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if !defined(__GNUC__)
#error "needs the vectors of GCC or Clang"
#endif
#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

enum {
    LANES = 8,
    BLOCK = 4 * LANES,
#if defined(__AVX512F__)
    WIDE = 16, /* lanes of the longest loops */
#else
    WIDE = LANES,
#endif
    PAD = 16,   /* kernels' lengths are multiples of this */
    MOST = 4096 /* samples of a window and what is made of it */
};
typedef float vector __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float wide __attribute__((vector_size(4 * WIDE), aligned(4)));
typedef int32_t whole __attribute__((vector_size(4 * LANES), aligned(4)));

/* ctypes loads this; it is never imported. */
EXPORT void *PyInit__frame(void) { return 0; }
EXPORT void *PyInit__frame_avx2(void) { return 0; }
EXPORT void *PyInit__frame_avx512(void) { return 0; }

EXPORT int version(void) { return 8; } /* of the functions below; see `compiled.VERSION` */

/* What this processor can do: 0 nothing special, 1 AVX2, 2 AVX-512 too. */
EXPORT int level(void)
{
#if defined(__x86_64__)
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return avx2 + (avx2 && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")
                   && __builtin_cpu_supports("avx512dq"));
#else
    return 0;
#endif
}

static const double PI = 3.141592653589793;

INLINE vector at(const float *x) { return *(const vector *)x; }
INLINE vector all(float x) { return x - (vector){0}; }
INLINE wide wide_at(const float *x) { return *(const wide *)x; }
INLINE wide wide_all(float x) { return x - (wide){0}; }
INLINE vector chosen(whole mask, vector a, vector b)
{
    return (vector)(((whole)a & mask) | ((whole)b & ~mask));
}
INLINE vector most(vector a, vector b) { return chosen(a > b, a, b); }

INLINE float total(vector x)
{
    float s = x[0];
    for (int i = 1; i < LANES; i++)
        s += x[i];
    return s;
}

INLINE float largest(float a, float b) { return a > b ? a : b; }
INLINE int between(int low, int x, int high) { return x < low ? low : x > high ? high : x; }

INLINE float peak_of(vector x)
{
    float y = x[0];
    for (int i = 1; i < LANES; i++)
        y = largest(y, x[i]);
    return y;
}

/* Natural logarithm of normal numbers above 0, and e to the power of x; Moshier's polynomials, within
 * two units in the last place. */
INLINE vector log_of(vector x)
{
    const whole bits = (whole)x;
    vector y = (vector)((bits & 0x007fffff) | 0x3f000000); /* 0.5 .. 1 */
    const whole low = y < 0.70710678f;
    const vector e = __builtin_convertvector((bits >> 23) - 126 + low, vector);
    y = y + (vector)((whole)y & low) - 1;
    vector s = all(7.0376836292e-2f);
    s = s * y - 1.1514610310e-1f;
    s = s * y + 1.1676998740e-1f;
    s = s * y - 1.2420140846e-1f;
    s = s * y + 1.4249322787e-1f;
    s = s * y - 1.6668057665e-1f;
    s = s * y + 2.0000714765e-1f;
    s = s * y - 2.4999993993e-1f;
    s = s * y + 3.3333331174e-1f;
    const vector square = y * y;
    return y + (s * y * square - 2.12194440e-4f * e - 0.5f * square) + 0.693359375f * e;
}

INLINE vector exp_of(vector x)
{
    x = most(x, all(-87));
    x = chosen(x > 88, all(88), x);
    const vector e = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounded */
    x = x - e * 0.693359375f + e * 2.12194440e-4f;
    vector s = all(1.9875691500e-4f);
    s = s * x + 1.3981999507e-3f;
    s = s * x + 8.3334519073e-3f;
    s = s * x + 4.1665795894e-2f;
    s = s * x + 1.6666665459e-1f;
    s = s * x + 5.0000001201e-1f;
    s = s * (x * x) + x + 1;
    return (vector)((whole)s + (__builtin_convertvector(e, whole) << 23));
}

/* out[i] = sum of a[k] x[k + i], i < SLIDE. Four taps WIDE apart at a time share what they read. */
enum { SLIDE = 4 * WIDE };
INLINE void slide(int n, const float *a, const float *x, float *out)
{
    wide s[4] = {{0}}, t[4] = {{0}};
    int k = 0;
    for (; k + SLIDE <= n; k += SLIDE)
        for (int i = k; i < k + WIDE; i++) {
            wide y[7];
            for (int j = 0; j < 7; j++)
                y[j] = wide_at(x + i + j * WIDE);
            for (int j = 0; j < 4; j++) {
                s[j] += a[i] * y[j];
                t[j] += a[i + WIDE] * y[j + 1];
                s[j] += a[i + 2 * WIDE] * y[j + 2];
                t[j] += a[i + 3 * WIDE] * y[j + 3];
            }
        }
    for (; k < n; k++)
        for (int j = 0; j < 4; j++)
            s[j] += a[k] * wide_at(x + k + j * WIDE);
    for (int j = 0; j < 4; j++)
        *(wide *)(out + j * WIDE) = s[j] + t[j];
}

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (whole){__VA_ARGS__})
#endif

/* Rows become columns. */
INLINE void transpose(vector x[LANES])
{
    vector y[LANES];
    for (int i = 0; i < LANES; i += 2) {
        y[i] = SHUFFLE(x[i], x[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        y[i + 1] = SHUFFLE(x[i], x[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    vector z[LANES];
    for (int i = 0; i < LANES; i += 4)
        for (int k = 0; k < 2; k++) {
            z[i + 2 * k] = SHUFFLE(y[i + k], y[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            z[i + 2 * k + 1] = SHUFFLE(y[i + k], y[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; i++) {
        x[i] = SHUFFLE(z[i], z[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        x[i + 4] = SHUFFLE(z[i], z[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

typedef struct {
    vector re, im;
} pair;
INLINE pair plus(pair a, pair b) { return (pair){a.re + b.re, a.im + b.im}; }
INLINE pair minus(pair a, pair b) { return (pair){a.re - b.re, a.im - b.im}; }
INLINE pair turned(pair a) { return (pair){a.im, -a.re}; } /* by -i */
INLINE pair times(pair a, vector c, vector s) /* c - i s */
{
    return (pair){a.re * c + a.im * s, a.im * c - a.re * s};
}

/* LANES complex FFTs side by side, each of n = 2^m values, Stockham's; turn[k * stride] holds cos and
 * sin of 2 pi k / n. The result lies in what is returned, `x` or `room`. */
INLINE pair *fft_lanes(int n, pair *x, pair *room, const float *turn, int stride)
{
    int m = 1;
    for (int l = n / 4; l >= 1; l /= 4, m *= 4) {
        for (int j = 0; j < l; j++) {
            const int place = 2 * j * m * stride;
            const vector c1 = all(turn[place]), s1 = all(turn[place + 1]);
            const vector c2 = all(turn[2 * place]), s2 = all(turn[2 * place + 1]);
            const vector c3 = all(turn[3 * place]), s3 = all(turn[3 * place + 1]);
            const pair *from = x + j * m;
            pair *to = room + 4 * j * m;
            for (int k = 0; k < m; k++) {
                const pair a = from[k], b = from[k + l * m], c = from[k + 2 * l * m];
                const pair d = from[k + 3 * l * m];
                const pair ac = plus(a, c), bd = plus(b, d), a_c = minus(a, c);
                const pair b_d = turned(minus(b, d));
                to[k] = plus(ac, bd);
                to[k + m] = times(plus(a_c, b_d), c1, s1);
                to[k + 2 * m] = times(minus(ac, bd), c2, s2);
                to[k + 3 * m] = times(minus(a_c, b_d), c3, s3);
            }
        }
        pair *t = x;
        x = room;
        room = t;
    }
    if (m == n)
        return x;
    for (int k = 0; k < m; k++) {
        room[k] = plus(x[k], x[k + m]);
        room[k + m] = minus(x[k], x[k + m]);
    }
    return room;
}

INLINE void fft_of_4(pair x[4])
{
    const pair a = plus(x[0], x[2]), b = minus(x[0], x[2]), c = plus(x[1], x[3]);
    const pair d = turned(minus(x[1], x[3]));
    x[0] = plus(a, c);
    x[1] = plus(b, d);
    x[2] = minus(a, c);
    x[3] = minus(b, d);
}

/* Complex FFT of n = 2^m values, 64 and more. turn: `fft.turn(2 n)`. */
INLINE void fft(int n, float *re, float *im, const float *turn)
{
    pair x[MOST / LANES], room[MOST / LANES];
    const int m = n / LANES;
    for (int k = 0; k < m; k++)
        x[k] = (pair){at(re + k * LANES), at(im + k * LANES)};
    const pair *found = fft_lanes(m, x, room, turn, 2 * LANES);
    const float *lane = turn + 4 * n, half = 0.70710678f;
    for (int q = 0; q < m; q += LANES) {
        vector xr[LANES], xi[LANES];
        for (int b = 0; b < LANES; b++) {
            xr[b] = found[q + b].re;
            xi[b] = found[q + b].im;
        }
        transpose(xr);
        transpose(xi);
        pair even[4], odd[4];
        for (int b = 0; b < LANES; b++, lane += 2 * LANES) {
            const pair y = times((pair){xr[b], xi[b]}, at(lane), at(lane + LANES));
            *(b % 2 ? odd + b / 2 : even + b / 2) = y;
        }
        fft_of_4(even);
        fft_of_4(odd);
        odd[1] = times(odd[1], all(half), all(half));
        odd[2] = turned(odd[2]);
        odd[3] = times(odd[3], all(-half), all(half));
        for (int b = 0; b < 4; b++) {
            const pair low = plus(even[b], odd[b]), high = minus(even[b], odd[b]);
            *(vector *)(re + b * m + q) = low.re;
            *(vector *)(im + b * m + q) = low.im;
            *(vector *)(re + (b + 4) * m + q) = high.re;
            *(vector *)(im + (b + 4) * m + q) = high.im;
        }
    }
}

/* The first n_bins of the n / 2 + 1 values of the spectrum of n real samples. turn: `fft.turn(n)`. */
INLINE void real_fft(int n, const float *x, int n_bins, float *re, float *im, const float *turn)
{
    float zr[MOST / 2 + 1], zi[MOST / 2 + 1];
    const int half = n / 2;
    for (int k = 0; k < half; k++) {
        zr[k] = x[2 * k];
        zi[k] = x[2 * k + 1];
    }
    fft(half, zr, zi, turn);
    zr[half] = zr[0];
    zi[half] = zi[0];
    for (int k = 0; k < n_bins; k++) {
        const float er = zr[k] + zr[half - k], ei = zi[k] - zi[half - k];
        const float or = zi[k] + zi[half - k], oi = zr[half - k] - zr[k];
        const float c = turn[2 * k], s = turn[2 * k + 1];
        re[k] = 0.5f * (er + c * or + s * oi);
        im[k] = 0.5f * (ei + c * oi - s * or);
    }
}

/* The way back, n times as large: n samples from n / 2 + 1 values. */
INLINE void real_ifft(int n, const float *re, const float *im, float *x, const float *turn)
{
    float zr[MOST / 2], zi[MOST / 2];
    const int half = n / 2;
    for (int k = 0; k < half; k++) {
        const float er = re[k] + re[half - k], ei = im[k] - im[half - k];
        const float dr = re[k] - re[half - k], di = im[k] + im[half - k];
        const float c = turn[2 * k], s = turn[2 * k + 1];
        zr[k] = er - (c * di + s * dr);
        zi[k] = ei + (c * dr - s * di);
    }
    fft(half, zi, zr, turn); /* real and imaginary swapped: the inverse */
    for (int k = 0; k < half; k++) {
        x[2 * k] = zr[k];
        x[2 * k + 1] = zi[k];
    }
}

/* `live_hearing._FrontEnd`: three views of the newest n samples. */
typedef struct {
    int n, n_bins, n_spectra, n_bands, n_groups, n_energies, level, brief;
    float silence;          /* power per sample */
    const int32_t *spectra; /* per spectrum: newest samples, values used */
    const float *turns;     /* theirs, one after the other */
    const int32_t *bands;   /* per LANES bins: first value used of all spectra's, and how many, even */
    const float *kernels;   /* of each of those, LANES real and LANES imaginary parts */
    const int32_t *groups;  /* samples correlated, shortest lag, past the longest, bins */
    const int32_t *lags;    /* per bin: the first lag read, and whole lag of its energy */
    const float *shares;    /* the fraction of the latter */
    const float *weights;   /* PAD per bin, of the lags read */
} front_end;

enum {
    FRAMES = 8,          /* heard together: each kernel is read from afar but once */
    VALUES = MOST / 2 + 16 /* of a frame's spectra */
};

/* Power of LANES bins in one or two frames. */
INLINE void weigh_spectrum(int frames, int n, const float *kernel, const float *re, const float *im,
                           vector power[2])
{
    wide sums[2][2][2 * LANES / WIDE][2] = {{{{{0}}}}}; /* of kernels, real and imaginary parts side by side */
    for (int k = 0; k < n; k += 2)
        for (int i = 0; i < 2; i++, kernel += 2 * LANES)
            for (int f = 0; f < frames; f++)
                for (int j = 0; j < 2 * LANES / WIDE; j++) {
                    wide *sum = sums[frames > 1 && WIDE == LANES ? 0 : i][f][j];
                    sum[0] += wide_at(kernel + j * WIDE) * re[f * VALUES + k + i];
                    sum[1] += wide_at(kernel + j * WIDE) * im[f * VALUES + k + i];
                }
    for (int f = 0; f < frames; f++) {
        float x[2 * LANES], y[2 * LANES];
        for (int j = 0; j < 2 * LANES / WIDE; j++) {
            *(wide *)(x + j * WIDE) = sums[0][f][j][0] + sums[1][f][j][0];
            *(wide *)(y + j * WIDE) = sums[0][f][j][1] + sums[1][f][j][1];
        }
        const vector a = at(x) - at(y + LANES), b = at(y) + at(x + LANES);
        power[f] = a * a + b * b;
    }
}

/* The two spectral views of `frames` windows, `hop` samples apart. */
INLINE void spectral_views(const front_end *e, int frames, const float *now, int hop, int stride,
                           float *views, int apart)
{
    float re[FRAMES][VALUES], im[FRAMES][VALUES];
    for (int f = 0; f < frames; f++) {
        const float *turn = e->turns;
        for (int s = 0, first = 0; s < e->n_spectra; s++) {
            const int n = e->spectra[2 * s], n_used = e->spectra[2 * s + 1];
            real_fft(n, now + f * hop - n, n_used, re[f] + first, im[f] + first, turn);
            first += n_used;
            turn += 3 * n;
        }
    }
    const float *kernel = e->kernels;
    const float unit = (float)(1 / log(101));
    for (int view = 0, band = 0; view < 2; view++, views += stride) {
        for (int bin = 0; bin < e->n_bins; bin += LANES, band++) {
            const int first = e->bands[2 * band], n = e->bands[2 * band + 1];
            for (int f = 0; f < frames; f += 2) {
                vector power[2];
                if (f + 1 < frames)
                    weigh_spectrum(2, n, kernel, re[f] + first, im[f] + first, power);
                else
                    weigh_spectrum(1, n, kernel, re[f] + first, im[f] + first, power);
                *(vector *)(views + f * apart + bin) = power[0];
                if (f + 1 < frames)
                    *(vector *)(views + (f + 1) * apart + bin) = power[1];
            }
            kernel += 2 * LANES * n;
        }
        for (int f = 0; f < frames; f++) {
            float *x = views + f * apart;
            vector peak = all(1e-14f);
            for (int bin = 0; bin < e->n_bins; bin += LANES)
                peak = most(peak, at(x + bin));
            const float scale = 100 / sqrtf(peak_of(peak));
            for (int bin = 0; bin < e->n_bins; bin++)
                x[bin] = 1 + scale * sqrtf(x[bin]);
            for (int bin = 0; bin < e->n_bins; bin += LANES)
                *(vector *)(x + bin) = unit * log_of(at(x + bin));
            memset(x + e->n_bins, 0, LANES * sizeof(float));
        }
    }
}

/* Products of windows of n samples, `hop` apart, the newest first, with what lies SLIDE lags before:
 * out[f * VALUES + i] = sum of x[f * hop + k] y[f * hop + k + i]. What windows share is summed once. */
INLINE void slide_frames(int frames, int n, int hop, const float *x, const float *y, float *out)
{
    if (frames == 1 || n < hop || n > FRAMES * hop) { /* little or nothing is shared */
        for (int f = 0; f < frames; f++)
            slide(n, x + f * hop, y + f * hop, out + f * VALUES);
        return;
    }
    const int shared = n / hop, rest = n % hop; /* a window is so many hops and the rest of one more */
    for (int f = 0; f < frames; f++)
        memset(out + f * VALUES, 0, SLIDE * sizeof(float));
    for (int k = 0; k < frames + shared; k++, x += hop, y += hop) {
        float head[SLIDE], tail[SLIDE];
        slide(rest, x, y, head);
        if (k >= shared)
            for (int i = 0; i < SLIDE; i++)
                out[(k - shared) * VALUES + i] += head[i];
        if (k == frames + shared - 1)
            break;
        slide(hop - rest, x + rest, y + rest, tail);
        for (int i = 0; i < SLIDE; i++)
            tail[i] += head[i];
        for (int f = between(0, k - shared + 1, k); f <= k && f < frames; f++)
            for (int i = 0; i < SLIDE; i++)
                out[f * VALUES + i] += tail[i];
    }
}

/* The lag view, periodicity at each bin's lag, of `frames` windows, `hop` apart, of the newest of which
 * `now` is just past the end; views are in their order, `apart` numbers from one to the next. energy
 * becomes that of the newest 0, 1, ... samples of all: a window's is the difference of two. */
INLINE void lag_views(const front_end *e, int frames, const float *now, int hop, double *energy,
                      float *views, int apart)
{
    float newest[MOST + SLIDE], products[FRAMES * VALUES];
    const int n_older = (frames - 1) * hop, n_energies = e->n_energies + n_older;
    for (int t = 0; t < n_energies + SLIDE; t++)
        newest[t] = t < e->n + n_older ? now[-1 - t] : 0;
    double sum = energy[0] = 0;
    for (int t = 0; t < n_energies; t += 4) { /* a chain of one addition in four */
        double part[4];
        for (int i = 0; i < 4; i++)
            part[i] = (double)newest[t + i] * newest[t + i];
        part[1] += part[0];
        part[2] += part[1];
        part[3] += part[2];
        for (int i = 0; i < 4; i++)
            energy[t + i + 1] = sum + part[i];
        sum += part[3];
    }
    for (int f = 0; f < frames; f++)
        memset(products + f * VALUES, 0, VALUES * sizeof(float));
    const float *weights = e->weights;
    for (int g = 0, end = 0; g < e->n_groups; g++) {
        const int32_t *group = e->groups + 4 * g;
        const int n = group[0], begin = end;
        end += group[3];
        for (int lag = group[1]; lag < group[2]; lag += SLIDE)
            slide_frames(frames, n, hop, newest, newest + lag, products + lag);
        for (int f = 0; f < frames; f++) {
            const double *own = energy + f * hop;
            float *view = views + (frames - 1 - f) * apart;
            for (int bin = begin; bin < end; bin += LANES) {
                const int n_here = end - bin < LANES ? end - bin : LANES;
                vector found[LANES] = {{0}}, both = all(1), sums = {0};
                for (int i = 0; i < n_here; i++) {
                    const int32_t *lag = e->lags + 2 * (bin + i);
                    const float *w = weights + (bin + i) * PAD, *read = products + f * VALUES + lag[0];
                    found[i] = at(w) * at(read) + at(w + LANES) * at(read + LANES);
                    const double *older = own + lag[1], share = e->shares[bin + i];
                    both[i] = (float)(own[n] - own[0] + 2 * n * e->silence + older[n] - older[0]
                        + share * (older[n + 1] - older[n] + older[0] - older[1]));
                }
                transpose(found);
                for (int i = 0; i < LANES; i++)
                    sums += found[i];
                const vector part = most(2 * sums / both, all(0));
                *(vector *)(view + bin) = chosen(part > 1, all(1), part);
            }
        }
    }
    for (int f = 0; f < frames; f++)
        memset(views + f * apart + e->n_bins, 0, LANES * sizeof(float));
}

/* `live_hearing._Attack`: how much each band rose from one stretch of n samples to the other, dB. */
typedef struct {
    int n, lag, n_bands;
    const float *hann, *turn;
    const int32_t *bands; /* that of each FFT bin, or -1 */
} attack;

INLINE float rise_db(const attack *a, const float *now)
{
    float re[MOST], im[MOST], power[2][MOST];
    const int n = a->n;
    for (int i = 0; i < 2; i++)
        memset(power[i], 0, (a->n_bands + LANES) * sizeof(float));
    for (int t = 0; t < n; t++) {
        re[t] = a->hann[t] * now[t - n - a->lag];
        im[t] = a->hann[t] * now[t - n];
    }
    fft(n, re, im, a->turn);
    for (int k = 0; k <= n / 2; k++) {
        if (a->bands[k] < 0)
            continue;
        const int back = k ? n - k : 0;
        const float ar = re[k] + re[back], ai = im[k] - im[back];
        const float br = im[k] + im[back], bi = re[back] - re[k];
        power[0][a->bands[k]] += 0.25f * (ar * ar + ai * ai);
        power[1][a->bands[k]] += 0.25f * (br * br + bi * bi);
    }
    vector rise = {0};
    for (int b = 0; b < a->n_bands; b += LANES) /* those past the last did not rise */
        rise += most(all(0), log_of((at(power[1] + b) + 1e-7f) / (at(power[0] + b) + 1e-7f)));
    return 4.3429448f * total(rise) / a->n_bands;
}

/* `live_hearing._ContentHead`: probability of each position, from `views` with zeros around. */
typedef struct {
    int n_views, width, below, n_bins, channels, n_taps, first_tap, n_fft, n_units, n_partials, n_powers,
        n_positions;
    float gain;
    const float *taps;      /* per view and channel: its taps, and the bias */
    const float *turn;      /* `fft.turn(n_fft)` */
    const float *kernel;    /* per value of the spectrum and LANES channels: what it and its mirror weigh */
    const int32_t *places;  /* of the partials, from a position on */
    const float *entry;     /* per unit: partials of each view, and a bias */
    const float *weigh;     /* what a unit's value and its powers weigh, per unit */
} content;

/* CHANNELS detectors of peaks in one view: n_bins of each, less their mean. */
enum { CHANNELS = 4, SEEN = 512 + BLOCK };
INLINE void detect(const content *c, const float *taps, const float *view, float seen[CHANNELS][SEEN])
{
    vector sums[CHANNELS] = {{0}};
    const int n_taps = c->n_taps;
    view += c->first_tap;
    for (int bin = 0; bin < c->n_bins; bin += 2 * LANES) {
        vector x[CHANNELS], y[CHANNELS];
        for (int i = 0; i < CHANNELS; i++)
            x[i] = y[i] = all(taps[i * (n_taps + 1) + n_taps]);
        for (int k = 0; k < n_taps; k++) {
            const vector a = at(view + bin + k), b = at(view + bin + k + LANES);
            for (int i = 0; i < CHANNELS; i++) {
                x[i] += taps[i * (n_taps + 1) + k] * a;
                y[i] += taps[i * (n_taps + 1) + k] * b;
            }
        }
        for (int i = 0; i < CHANNELS; i++) {
            *(vector *)(seen[i] + bin) = most(x[i], all(0));
            *(vector *)(seen[i] + bin + LANES) = most(y[i], all(0));
        }
    }
    for (int i = 0; i < CHANNELS; i++) {
        memset(seen[i] + c->n_bins, 0, 2 * LANES * sizeof(float));
        for (int bin = 0; bin < c->n_bins; bin += LANES)
            sums[i] += at(seen[i] + bin);
        const float mean = total(sums[i]) / c->n_bins;
        for (int bin = 0; bin < c->n_bins; bin++)
            seen[i][bin] -= mean;
    }
}

/* All detectors, each correlated with its kernel: LANES channels at a time through the spectrum. */
INLINE void correlate(const content *c, const float *views, float *score)
{
    enum { HALF = 256 };
    pair sums[HALF + LANES] = {{{0}}};
    const int half = c->n_fft / 2, n_channels = c->n_views * c->channels;
    const int n_groups = (n_channels + LANES - 1) / LANES;
    for (int g = 0; g < n_groups; g++) {
        float seen[LANES][SEEN];
        pair x[HALF], room[HALF];
        for (int i = 0; i < LANES; i += CHANNELS) {
            const int channel = g * LANES + i;
            if (channel < n_channels)
                detect(c, c->taps + channel * (c->n_taps + 1),
                       views + channel / c->channels * c->width, seen + i);
            else
                memset(seen[i], 0, CHANNELS * sizeof(seen[i]));
        }
        memset(x + c->n_bins / 2, 0, (half - c->n_bins / 2) * sizeof(pair));
        for (int bin = 0; bin < c->n_bins; bin += LANES) {
            vector part[LANES];
            for (int i = 0; i < LANES; i++)
                part[i] = at(seen[i] + bin);
            transpose(part);
            for (int i = 0; i < LANES; i += 2)
                x[(bin + i) / 2] = (pair){part[i], part[i + 1]};
        }
        const pair *found = fft_lanes(half, x, room, c->turn, 2);
        const float *kernel = c->kernel + g * 4 * LANES;
        for (int k = 0; k <= half; k++, kernel += n_groups * 4 * LANES) {
            const pair a = found[k & (half - 1)], b = found[(half - k) & (half - 1)];
            const vector ar = at(kernel), ai = at(kernel + LANES);
            const vector br = at(kernel + 2 * LANES), bi = at(kernel + 3 * LANES);
            sums[k].re += ar * a.re - ai * a.im + br * b.re + bi * b.im;
            sums[k].im += ar * a.im + ai * a.re + bi * b.re - br * b.im;
        }
    }
    float re[HALF + LANES], im[HALF + LANES];
    for (int k = 0; k <= half; k += LANES) {
        vector r[LANES], i[LANES], sum_r = {0}, sum_i = {0};
        for (int b = 0; b < LANES; b++) {
            r[b] = sums[k + b].re;
            i[b] = sums[k + b].im;
        }
        transpose(r);
        transpose(i);
        for (int b = 0; b < LANES; b++) {
            sum_r += r[b];
            sum_i += i[b];
        }
        *(vector *)(re + k) = sum_r;
        *(vector *)(im + k) = sum_i;
    }
    real_ifft(c->n_fft, re, im, score, c->turn);
}

/* What a position's partials say of it, added to its score. */
INLINE void weigh_partials(const content *c, const float *views, float *score)
{
    enum { UNITS = 6 };
    float near[MOST + 4 * WIDE];
    memset(near, 0, (c->n_views * c->width + 4 * WIDE) * sizeof(float));
    for (int view = 0; view < c->n_views; view++) {
        const float *x = views + view * c->width;
        float *y = near + view * c->width;
        for (int bin = c->below; bin < c->below + c->n_bins; bin++)
            y[bin] = largest(x[bin], largest(x[bin - 1], x[bin + 1]));
    }
    const int n_in = c->n_views * c->n_partials;
    for (int p = 0; p < c->n_positions; p += 2 * WIDE)
        for (int u = 0; u < c->n_units; u += UNITS) {
            const float *entry = c->entry + u * (n_in + 1);
            wide y[UNITS], z[UNITS], sum_y = {0}, sum_z = {0};
            for (int i = 0; i < UNITS; i++)
                y[i] = z[i] = wide_all(entry[i * (n_in + 1) + n_in]);
            for (int view = 0, k = 0; view < c->n_views; view++)
                for (int j = 0; j < c->n_partials; j++, k++) {
                    const float *x = near + view * c->width + c->places[j] + p;
                    const wide a = wide_at(x), b = wide_at(x + WIDE);
                    for (int i = 0; i < UNITS; i++) {
                        y[i] += entry[i * (n_in + 1) + k] * a;
                        z[i] += entry[i * (n_in + 1) + k] * b;
                    }
                }
            wide s[UNITS] = {{0}}, t[UNITS] = {{0}};
            for (int i = 0; i < UNITS; i++) {
                sum_y += c->weigh[u + i] * y[i];
                sum_z += c->weigh[u + i] * z[i];
                y[i] = y[i] * y[i] - 1;
                z[i] = z[i] * z[i] - 1;
            }
            for (int k = c->n_powers; k > 0; k--)
                for (int i = 0; i < UNITS; i++) {
                    const float weigh = c->weigh[k * c->n_units + u + i];
                    s[i] = s[i] * y[i] + weigh;
                    t[i] = t[i] * z[i] + weigh;
                }
            for (int i = 0; i < UNITS; i++) {
                sum_y += s[i] * y[i];
                sum_z += t[i] * z[i];
            }
            *(wide *)(score + p) += sum_y;
            *(wide *)(score + p + WIDE) += sum_z;
        }
}

INLINE void find_position(const content *c, const float *views, float *position)
{
    float score[2 * MOST];
    const int n = c->n_positions;
    correlate(c, views, score);
    weigh_partials(c, views, score);
    vector sum = {0}, square = {0}, peak = all(-INFINITY), mass = {0};
    memset(score + n, 0, LANES * sizeof(float));
    for (int p = 0; p < n; p += LANES)
        sum += at(score + p);
    const float mean = total(sum) / n;
    for (int p = n; p < n + LANES; p++)
        score[p] = mean;
    for (int p = 0; p < n; p += LANES) {
        const vector apart = at(score + p) - mean;
        square += apart * apart;
        peak = most(peak, apart);
    }
    const float gain = c->gain / (sqrtf(total(square) / (n - 1)) + 1e-5f), top = mean + peak_of(peak);
    for (int p = n; p < n + LANES; p++)
        score[p] = -INFINITY;
    for (int p = 0; p < n; p += LANES) {
        const vector x = exp_of(gain * (at(score + p) - top));
        *(vector *)(score + p) = x;
        mass += x;
    }
    const float share = 1 / total(mass);
    for (int p = 0; p < n; p++)
        position[p] = share * score[p];
}

/* `live_hearing.LiveHearing`: n_frames windows, `hop` samples apart, of the first of which `now` is the
 * newest sample. Of each: level_db, onset, periodicity, pitch_midi, confidence, brief_db, fine_midi;
 * position; views, with zeros around. */
typedef struct {
    const front_end *front_end;
    const attack *attack;
    const content *content;
    int reach; /* positions around the peak that belong to it */
    float clear_peak, offset_bins, midi_low, per_semitone, floor_db;
} ear;

INLINE float level_db(const ear *e, const double *energy, int n)
{
    return largest((float)(10 * log10((energy[n] - energy[0]) / n + 1e-12)), e->floor_db);
}

/* `live_hearing.fine_pitch` of a frame; bin: that of the pitch heard, with its fraction. */
INLINE float fine_midi(const ear *e, const float *lag, int n_bins, float bin)
{
    const int reach = 2, near = between(reach + 1, (int)lrintf(bin), n_bins - reach - 2);
    int top = near - reach;
    for (int k = top + 1; k <= near + reach; k++)
        if (lag[k] > lag[top])
            top = k;
    const float below = lag[top - 1], peak = lag[top], above = lag[top + 1];
    const float bend = 2 * peak - below - above;
    if (peak >= below && peak >= above && peak > e->clear_peak && bend > 1e-4f) {
        const float place = top + (above - below) / (2 * bend);
        if (fabsf(place - bin) <= reach + 0.5f)
            bin = place;
    }
    return e->midi_low + bin / e->per_semitone;
}

/* `energy`: of `lag_views`, this window's. */
INLINE void hear_frame(const ear *e, const float *now, const double *energy, float *numbers,
                       float *position, const float *views)
{
    const content *c = e->content;
    const float *lag = views + 2 * c->width + c->below;
    find_position(c, views, position);
    int peak = 0;
    for (int p = 1; p < c->n_positions; p++)
        if (position[p] > position[peak])
            peak = p;
    float mass = 0, moment = 0, periodicity = 0;
    for (int p = peak - e->reach; p <= peak + e->reach; p++) { /* beyond an end: as that end */
        const int near = between(0, p, c->n_positions - 1);
        mass += position[near];
        moment += position[near] * near;
    }
    const float where = moment / largest(mass, 1e-9f) + e->offset_bins;
    for (int bin = (int)lrintf(where) - 1, end = bin + 3; bin < end; bin++)
        periodicity = largest(periodicity, lag[between(0, bin, c->n_bins - 1)]);
    numbers[0] = level_db(e, energy, e->front_end->level);
    numbers[1] = rise_db(e->attack, now);
    numbers[2] = periodicity;
    numbers[3] = e->midi_low + where / e->per_semitone;
    numbers[4] = mass;
    numbers[5] = level_db(e, energy, e->front_end->brief);
    numbers[6] = fine_midi(e, lag, c->n_bins, where);
}

EXPORT void hear(const ear *e, int n_frames, const float *now, int hop, float *numbers, float *position,
                 float *views)
{
    const content *c = e->content;
    const int apart = c->n_views * c->width, n_older = MOST - e->front_end->n_energies;
    const int most_at_once = hop > 0 ? between(1, 1 + n_older / hop, FRAMES) : 1;
    now++;
    while (n_frames > 0) {
        double energy[MOST + LANES];
        const int n = n_frames < most_at_once ? n_frames : most_at_once, last = (n - 1) * hop;
        float *lags = views + 2 * c->width + c->below;
        spectral_views(e->front_end, n, now, hop, c->width, views + c->below, apart);
        lag_views(e->front_end, n, now + last, hop, energy, lags, apart);
        for (int f = 0; f < n; f++, now += hop, numbers += 7, position += c->n_positions)
            hear_frame(e, now, energy + last - f * hop, numbers, position, views + f * apart);
        views += n * apart;
        n_frames -= n;
    }
}

/* `live_hearing._Codes`: of n_frames positions, how probable each of N_NOTES notes is, the nearest code
 * and its squared distance. Atoms are PAD wide at most. */
enum { N_NOTES = 128 };
typedef struct {
    int n_positions, reach, n_codes;
    float temperature;
    const float *blur;     /* 2 reach + 1 */
    const int32_t *firsts; /* where an atom begins */
    const float *atoms;    /* PAD of each, LANES at a time */
    const float *squares;  /* its squared norm, and 1 */
    const int32_t *notes;
} codes;

EXPORT void name(const codes *c, int n_frames, const float *position, float *probs, int64_t *code,
                 float *squares)
{
    const int n = c->n_positions;
    for (int f = 0; f < n_frames; f++, position += n, probs += N_NOTES) {
        float around[MOST], content[MOST], apart[MOST];
        memset(around, 0, (n + 2 * c->reach + LANES) * sizeof(float));
        memcpy(around + c->reach, position, n * sizeof(float));
        vector square = {0};
        for (int p = 0; p < n; p += LANES) {
            vector sum = {0};
            for (int k = 0; k <= 2 * c->reach; k++)
                sum += c->blur[k] * at(around + p + k);
            *(vector *)(content + p) = sum;
        }
        memset(content + n, 0, PAD * sizeof(float));
        for (int p = 0; p < n; p += LANES)
            square += at(content + p) * at(content + p);
        const float scale = 2 / sqrtf(total(square));
        vector least = all(INFINITY), mass = {0};
        for (int k = 0; k < c->n_codes; k += LANES) {
            vector found[LANES], sum = {0};
            for (int i = 0; i < LANES; i++) {
                const float *x = content + c->firsts[k + i], *atom = c->atoms + (k + i) * PAD;
                found[i] = at(atom) * at(x) + at(atom + LANES) * at(x + LANES);
            }
            transpose(found);
            for (int i = 0; i < LANES; i++)
                sum += found[i];
            sum = most(at(c->squares + k) - scale * sum, all(0));
            *(vector *)(apart + k) = sum;
            least = -most(-least, -sum);
        }
        const float nearest = squares[f] = -peak_of(-least);
        for (code[f] = 0; apart[code[f]] != nearest; code[f]++)
            ;
        for (int k = 0; k < c->n_codes; k += LANES) {
            const vector x = exp_of((nearest - at(apart + k)) / c->temperature);
            *(vector *)(apart + k) = x;
            mass += x;
        }
        const float share = 1 / total(mass);
        memset(probs, 0, N_NOTES * sizeof(float));
        for (int k = 0; k < c->n_codes; k++)
            probs[c->notes[k]] += share * apart[k];
    }
}

/* `hear_file._top`: of n_frames times N_NOTES probabilities the n_kept greatest, and whose they are. */
EXPORT void keep_top(int n_kept, int n_frames, const float *probs, uint8_t *notes, float *kept)
{
    for (int f = 0; f < n_frames; f++, probs += N_NOTES) {
        float left[N_NOTES];
        memcpy(left, probs, sizeof(left));
        for (int k = 0; k < n_kept; k++) {
            vector most_of = at(left);
            for (int note = LANES; note < N_NOTES; note += LANES)
                most_of = most(most_of, at(left + note));
            const float peak = peak_of(most_of);
            int note = 0;
            while (note < N_NOTES - 1 && left[note] != peak)
                note++;
            left[note] = -1;
            *notes++ = note;
            *kept++ = peak;
        }
    }
}

/* `onsets.traits`: a byte each of what stands near the heard pitch. */
typedef struct {
    int apart, short_view, n_positions, per, n_bands, n_places, n_mass;
    float midi_low;
    const int32_t *bands;  /* bins of the short view from which on each band's are, and past the last */
    const int32_t *places; /* in the views, of the heard bin 0, and how many bins to both sides */
    const int32_t *mass;   /* bins from the heard one */
} traits;

INLINE uint8_t byte_of(float x) { return (uint8_t)lrintf(largest(0, x < 1 ? 255 * x : 255)); }

EXPORT void tell_traits(const traits *t, int n_frames, const float *views, const float *position,
                        const float *midi, uint8_t *out)
{
    for (int f = 0; f < n_frames; f++, views += t->apart, position += t->n_positions, midi++) {
        const int bin = between(0, (int)lrintf((*midi - t->midi_low) * t->per), t->n_positions - 1);
        const float *seen = views + t->short_view;
        for (int b = 0; b < t->n_bands; b++) {
            float sum = 0;
            for (int k = t->bands[b]; k < t->bands[b + 1]; k++)
                sum += seen[k];
            *out++ = byte_of(sum / (t->bands[b + 1] - t->bands[b]));
        }
        for (int i = 0; i < t->n_places; i++) {
            const float *x = views + t->places[2 * i] + bin;
            float peak = *x;
            for (int k = -t->places[2 * i + 1]; k <= t->places[2 * i + 1]; k++)
                peak = largest(peak, x[k]);
            *out++ = byte_of(peak);
        }
        for (int i = 0; i < t->n_mass; i++) {
            const int first = between(0, bin + t->mass[i] - t->per, t->n_positions);
            const int end = between(first, bin + t->mass[i] + t->per + 1, t->n_positions);
            float sum = 0;
            for (int p = first; p < end; p++)
                sum += position[p];
            *out++ = byte_of(sqrtf(sum));
        }
    }
}

/* y = W x + b of n_out rows; returns where the next layer's weights begin. */
INLINE const float *affine(int n_in, int n_out, const float *w, const float *x, float *y)
{
    const float *bias = w + n_in * n_out;
    for (int row = 0; row < n_out; row++, w += n_in) {
        vector a = {0}, b = {0}, c = {0}, d = {0};
        int k = 0;
        for (; k + 4 * LANES <= n_in; k += 4 * LANES) {
            a += at(w + k) * at(x + k);
            b += at(w + k + LANES) * at(x + k + LANES);
            c += at(w + k + 2 * LANES) * at(x + k + 2 * LANES);
            d += at(w + k + 3 * LANES) * at(x + k + 3 * LANES);
        }
        float sum = total(a + b + c + d) + bias[row];
        for (; k < n_in; k++)
            sum += w[k] * x[k];
        y[row] = sum;
    }
    return bias + n_out;
}

INLINE float dot(int n, const float *a, const float *b)
{
    vector s = {0};
    int k = 0;
    for (; k + LANES <= n; k += LANES)
        s += at(a + k) * at(b + k);
    float sum = total(s);
    for (; k < n; k++)
        sum += a[k] * b[k];
    return sum;
}

/* WIDE of them as numbers to compute with. GCC 12 makes six instructions of the plain conversion. */
INLINE wide widened(const int16_t *x)
{
#if defined(__AVX512F__)
    return (wide)_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)x)));
#elif defined(__AVX2__)
    return (wide)_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)x)));
#else
    typedef int16_t small __attribute__((vector_size(2 * LANES), aligned(2)));
    return __builtin_convertvector(__builtin_convertvector(*(const small *)x, whole), wide);
#endif
}

/* y = W x + b in 16 bits: BLOCK rows after the other, of each W column by column, then the rows' steps
 * and b, as `renderer._laid` lays them. Returns where the next layer's begin. */
INLINE const int16_t *affine_16(int n_in, int n_out, const int16_t *w, const float *x, float *y)
{
    for (int row = 0; row < n_out; row += BLOCK) {
        wide s[2][BLOCK / WIDE] = {{{0}}};
        for (int k = 0; k < n_in; k += 2)
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < BLOCK / WIDE; j++, w += WIDE)
                    s[i][j] += x[k + i] * widened(w);
        const float *step = (const float *)w, *bias = step + BLOCK;
        for (int j = 0; j < BLOCK; j += WIDE)
            *(wide *)(y + row + j) =
                (s[0][j / WIDE] + s[1][j / WIDE]) * wide_at(step + j) + wide_at(bias + j);
        w = (const int16_t *)(bias + BLOCK);
    }
    return w;
}

INLINE void minus_silu(int n, const float *z, float *y)
{
    for (int k = 0; k < n; k += LANES)
        *(vector *)(y + k) = at(z + k) / (1 + exp_of(at(z + k)));
}

typedef struct {
    int n_style, n_in, hidden, n_blocks, n_harmonics, n_noise, n_cycles, n_ages, n_colours;
    float reference_db, lowest_db, highest_db, oldest_s, colour_low, colour_step;
    float loudness_db, softest, loudest, top_hz, taper_hz;
    const double *cycles, *ages; /* periods in semitones, time constants in seconds */
    const int16_t *layers;       /* for `affine_16` */
    float *out;                  /* BLOCK more than harmonics and noise bands */
} frozen_net;

/* `renderer.FrozenNet.__call__`: a voice of n numbers, pitch, level and age to the RMS of each harmonic
 * and noise band of a frame of RMS 1. */
EXPORT void spectrum(const frozen_net *e, const float *voice, int n, double pitch, double level,
                     double age)
{
    float x[MOST], h[MOST], inner[MOST], outer[MOST];
    const int n_out = e->n_harmonics + e->n_noise;
    x[e->n_in - 1] = 0; /* where the number of columns was odd */
    memcpy(x, voice, e->n_style * sizeof(float));
    float *control = x + e->n_style;
    *control++ = (pitch - 64) / 18;
    for (int k = 0; k < e->n_cycles; k++) {
        const double angle = 2 * PI / e->cycles[k] * pitch;
        *control++ = sin(angle);
        *control++ = cos(angle);
    }
    level = level < e->lowest_db ? e->lowest_db : level > e->highest_db ? e->highest_db : level;
    age = age < 0 ? 0 : age > e->oldest_s ? e->oldest_s : age;
    const float loudness = (level - e->reference_db) / e->loudness_db;
    *control++ = loudness;
    *control++ = age - 1;
    for (int k = 0; k < e->n_ages; k++)
        *control++ = 2 * exp(-age / e->ages[k]) - 0.5;

    const int16_t *w = affine_16(e->n_in, e->hidden, e->layers, x, inner);
    minus_silu(e->hidden, inner, h);
    for (int block = 0; block < e->n_blocks; block++) {
        w = affine_16(e->hidden, e->hidden, w, h, inner);
        minus_silu(e->hidden, inner, inner);
        w = affine_16(e->hidden, e->hidden, w, inner, outer);
        for (int k = 0; k < e->hidden; k++)
            h[k] += outer[k];
    }
    minus_silu(e->hidden, h, inner);
    float *out = e->out;
    affine_16(e->hidden, n_out, w, inner, out);

    if (n > e->n_style) { /* `renderer.colour_at` */
        const float last = e->n_colours - 1.001f, place = (pitch - e->colour_low) / e->colour_step;
        const float where = place < 0 ? 0 : place > last ? last : place;
        const float *row = voice + e->n_style + (int)where * n_out, part = where - (int)where;
        const float *slope = voice + e->n_style + e->n_colours * n_out;
        const float loud =
            loudness < e->softest ? e->softest : loudness > e->loudest ? e->loudest : loudness;
        for (int k = 0; k < n_out; k++)
            out[k] += row[k] + part * (row[n_out + k] - row[k]) + loud * slope[k];
    }
    for (int k = 0; k < n_out; k += LANES)
        *(vector *)(out + k) = exp_of(at(out + k));
    const float hz = 440 * exp2((pitch - 69) / 12);
    for (int k = 0; k < e->n_harmonics; k++) { /* `renderer._taper` */
        const float gain = (e->top_hz - hz * (k + 1)) / e->taper_hz;
        out[k] *= gain < 0 ? 0 : gain > 1 ? 1 : gain;
    }
    const float share = 1 / sqrtf(dot(n_out, out, out));
    for (int k = 0; k < n_out; k++)
        out[k] *= share;
}

INLINE float read(const float *table, int n, double place)
{
    const int64_t whole = (int64_t)place;
    const float *here = table + (whole & (n - 1));
    return here[0] + (float)(place - whole) * (here[1] - here[0]);
}

typedef struct {
    int n_table, n_harmonics, n_noise, n_loop;
    float *rms;           /* of the harmonics, then the noise bands */
    const float *phasors; /* of the harmonics: re, im */
    const float *turn;    /* `fft.turn(n_table)` */
    float *tables;        /* one period of each of two sounds, and its first sample once more */
    float *gains;         /* theirs, of the noise bands */
    const float *noise;   /* a loop of n_loop samples of every band */
    float *out;
} voice;

/* `renderer.Renderer._make_sound`: the sound of `rms` times `gain` becomes number `which` of the two. */
INLINE void make_sound(const voice *v, int which, float gain)
{
    float re[MOST / 2 + 1], im[MOST / 2 + 1];
    memset(re, 0, (v->n_table / 2 + 1) * sizeof(float));
    memset(im, 0, (v->n_table / 2 + 1) * sizeof(float));
    float *table = v->tables + which * (v->n_table + 1), *gains = v->gains + which * v->n_noise;
    for (int k = 0; k < v->n_harmonics; k++) {
        const float rms = gain * v->rms[k] / v->n_table;
        re[k + 1] = rms * v->phasors[2 * k];
        im[k + 1] = rms * v->phasors[2 * k + 1];
    }
    real_ifft(v->n_table, re, im, table, v->turn);
    table[v->n_table] = table[0];
    for (int k = 0; k < v->n_noise; k++)
        gains[k] = gain * v->rms[v->n_harmonics + k];
}

/* `renderer.Renderer._make_sound` and `_turned`: n samples that turn from sound `now` of the two into
 * the other, which is made first. place, slopes, bend: where in their tables sample s is read,
 * place + s (slope + s bend); ramp: how far the turn comes with each sample. */
EXPORT void play(const voice *v, int n, int now, int noise_at, double gain, double place,
                 double slope_now, double slope_new, double bend, double ramp)
{
    make_sound(v, !now, gain);
    const int n_noise = v->n_noise;
    const float *table = v->tables + now * (v->n_table + 1);
    const float *new_table = v->tables + !now * (v->n_table + 1);
    const float *gains = v->gains + now * n_noise, *new_gains = v->gains + !now * n_noise;
    for (int s = 1; s <= n; s++, noise_at++) {
        const float *x = v->noise + (int64_t)(noise_at % v->n_loop) * n_noise;
        const float old = read(table, v->n_table, place + s * (slope_now + s * bend));
        const float new = read(new_table, v->n_table, place + s * (slope_new + s * bend));
        const float turn = s * ramp;
        vector noise = {0};
        int k = 0;
        for (; k + LANES <= n_noise; k += LANES)
            noise += at(x + k) * (at(gains + k) + turn * (at(new_gains + k) - at(gains + k)));
        float sum = total(noise);
        for (; k < n_noise; k++)
            sum += x[k] * (gains[k] + turn * (new_gains[k] - gains[k]));
        v->out[s - 1] = old + turn * (new - old) + sum;
    }
}

/* `renderer._fade`. */
INLINE double fade(double age_s, double release_s)
{
    const double t = age_s / release_s;
    if (t >= 1)
        return 0;
    return release_s <= 0.020 ? 0.5 + 0.5 * cos(PI * t) : (pow(10, -3 * t) - 1e-3) / (1 - 1e-3);
}

/* `renderer.Renderer._release`: n samples of sound `now`, which fades; returns how much of it is left. */
EXPORT double let_go(const voice *v, int n, int now, int noise_at, double place, double slope,
                     double faded_s, double rate, double release_s)
{
    float *table = v->tables + now * (v->n_table + 1), *gains = v->gains + now * v->n_noise;
    const double whole = fade(faded_s, release_s), start = whole > 1e-9 ? whole : 1e-9;
    double left = 1;
    for (int s = 1; s <= n; s++, noise_at++) {
        const float *x = v->noise + (int64_t)(noise_at % v->n_loop) * v->n_noise;
        left = fade(faded_s + s / rate, release_s) / start;
        const float sound = read(table, v->n_table, place + s * slope) + dot(v->n_noise, x, gains);
        v->out[s - 1] = sound * (float)left;
    }
    for (int k = 0; k <= v->n_table; k++)
        table[k] *= (float)left;
    for (int k = 0; k < v->n_noise; k++)
        gains[k] *= (float)left;
    return left;
}

/* `belief.NoteBelief.hear`: a frame's position, views (`stride` apart) and numbers, n_rows of them, come
 * before those of the frames before. Of positions also slow means are kept, of spectra the newest long
 * one after the short ones. */
EXPORT void remember(int n_back, int n_slow, const float *rates, int n_positions, float *mass, int n_bins,
                     float *apart, int n_spectra, float *spectra, int n_rows, int n_past, float *past,
                     const float *position, const float *views, int stride, const double *numbers)
{
    const int n_sums = n_positions + 1;
    memmove(mass + n_sums, mass, (n_back - 1) * n_sums * sizeof(float));
    for (int p = 0; p < n_positions; p++)
        mass[p + 1] = mass[p] + position[p];
    for (int k = 0; k < n_slow; k++) {
        float *slow = mass + (n_back + k) * n_sums;
        for (int p = 0; p < n_sums; p++)
            slow[p] += rates[k] * (mass[p] - slow[p]);
    }
    memmove(apart + n_bins, apart, 2 * n_bins * sizeof(float));
    for (int bin = 0; bin < n_bins; bin++)
        apart[bin] = 1 - views[2 * stride + bin];
    memmove(spectra + n_bins, spectra, (n_spectra - 2) * n_bins * sizeof(float));
    memcpy(spectra, views + stride, n_bins * sizeof(float));
    memcpy(spectra + (n_spectra - 1) * n_bins, views, n_bins * sizeof(float));
    for (int row = 0; row < n_rows; row++, past += n_past) {
        memmove(past + 1, past, (n_past - 1) * sizeof(float));
        past[0] = numbers[row];
    }
}

/* `belief.NoteBelief`: where its features are read, as in `belief._Tables` and `_PAST_AT`, and its
 * perceptron: sizes of the input and of each layer; all layers' weights and biases, one after the other. */
typedef struct {
    int n_candidates, n_back, n_positions;
    const float *mass;
    const int64_t *edges;
    int n_bins;
    const float *apart;
    const int64_t *periods;
    const float *scale, *floors, *offsets;
    int n_spectrum;
    const float *spectrum;
    const int64_t *bins;
    const float *inside, *outside;
    int n_read, n_past;
    const float *past;
    const int64_t *past_at, *past_less;
    const float *past_scale, *low, *high;
    int n_layers;
    const int32_t *sizes;
    const float *weights;
    float *x, *scores;
} belief;

/* `belief.NoteBelief._look_up`: features of a frame whose pitch lies in bin `at`; returns their end. */
INLINE float *look_up(const belief *b, int at, double level, double pitch)
{
    const int n_candidates = b->n_candidates, n_seen = n_candidates * (b->n_back + 2);
    const int64_t *edges = b->edges + at * 2 * n_candidates;
    const int64_t *periods = b->periods + at * n_candidates * 3;
    const float *mass = b->mass, *apart = b->apart, *scale = b->scale + at * n_seen;
    float *seen = b->x;
    for (int back = 0; back < b->n_back; back++, mass += b->n_positions + 1)
        for (int c = 0; c < n_candidates; c++)
            *seen++ = mass[edges[n_candidates + c]] - mass[edges[c]];
    for (int frame = 0; frame < 2; frame++, apart += 2 * b->n_bins)
        for (int c = 0; c < n_candidates; c++) {
            const int64_t *near = periods + 3 * c;
            const float least = -largest(-apart[near[0]], -apart[near[1]]);
            *seen++ = -largest(-least, -apart[near[2]]);
        }
    for (int k = 0; k < n_seen; k++)
        b->x[k] = logf(b->x[k] + b->floors[k]) * scale[k] + b->offsets[k];
    for (int k = at * b->n_spectrum; k < (at + 1) * b->n_spectrum; k++) {
        const int64_t *near = b->bins + 3 * k;
        const float *y = b->spectrum;
        const float most = largest(y[near[0]], largest(y[near[1]], y[near[2]]));
        *seen++ = most * b->inside[k] + b->outside[k];
    }
    const float less[3] = {(float)level, (float)pitch, 0};
    for (int k = 0; k < b->n_read; k++) {
        const float value = (b->past[b->past_at[k]] - less[b->past_less[k]]) * b->past_scale[k];
        *seen++ = value < b->low[k] ? b->low[k] : value > b->high[k] ? b->high[k] : value;
    }
    return seen;
}

/* `belief.perceive`, of one frame. */
INLINE void perceive(const belief *b)
{
    float values[MOST], next[MOST];
    const float *weights = b->weights;
    memcpy(values, b->x, b->sizes[0] * sizeof(float));
    for (int layer = 0; layer < b->n_layers; layer++) {
        const int n = b->sizes[layer + 1], last = layer + 1 == b->n_layers;
        weights = affine(b->sizes[layer], n, weights, values, last ? b->scores : next);
        for (int k = 0; k < n && !last; k++)
            values[k] = largest(next[k], 0);
    }
}

/* `belief.NoteBelief._describe_frame`, and what the perceptron says of all features. */
EXPORT void believe(const belief *b, int at, double pitch, double level, double periodicity,
                    double confidence, double attack_db)
{
    float *x = look_up(b, at, level, pitch);
    const float *levels = b->past, *pitches = b->past + 3 * b->n_past, *attacks = pitches + b->n_past;
    float loudest = levels[0], low = pitches[0], high = pitches[0];
    int steepest = 0;
    for (int k = 1; k < b->n_past; k++)
        loudest = largest(loudest, levels[k]);
    for (int k = 1; k < 8; k++) {
        low = -largest(-low, -pitches[k]);
        high = largest(high, pitches[k]);
    }
    for (int k = 1; k < 12; k++)
        steepest = attacks[k] > attacks[steepest] ? k : steepest;
    const double height = (pitch - 60) / 20, off = pitch - rint(pitch);
    const double below = (loudest - level) / 15, moved = high - low;
    *x++ = height;
    *x++ = height * height;
    *x++ = confidence;
    *x++ = periodicity;
    *x++ = 2 * off;
    *x++ = 2 * fabs(off);
    *x++ = below < 0 ? 0 : below > 3 ? 3 : below;
    *x++ = moved > 3 ? 3 : moved;
    *x++ = attack_db / 15;
    *x++ = attacks[steepest] / 15;
    *x++ = steepest / 12.0;
    perceive(b);
}

/* `notes._dearest_path`: n_frames of evidence for n_states, the price of a change in each; score begins
 * with the first frame's evidence; stay: room for as many as there is evidence. */
EXPORT void dearest_path(int n_frames, int n_states, const float *evidence, const float *price,
                         double *score, uint8_t *stay, int64_t *path)
{
    int64_t state = 0;
    for (int t = 1; t <= n_frames; t++) {
        int64_t top = 0;
        for (int s = 1; s < n_states; s++)
            top = score[s] > score[top] ? s : top;
        state = top;
        if (t == n_frames)
            break;
        path[t] = top;
        evidence += n_states;
        stay += n_states;
        const double arrive = score[top] - price[t];
        for (int s = 0; s < n_states; s++) {
            stay[s] = score[s] >= arrive;
            score[s] = (score[s] >= arrive ? score[s] : arrive) + evidence[s];
        }
    }
    for (int t = n_frames - 1; t > 0; t--, stay -= n_states) {
        const int64_t from = path[t];
        path[t] = state;
        state = stay[state] ? state : from;
    }
    path[0] = state;
}

typedef double precise __attribute__((vector_size(32), aligned(8)));

/* `streaming.StreamingResampler._outputs`: n of them, the first at x[at] and in this phase of `up`,
 * and each `down` phases later. Each is summed in the same order, whatever stands beside it. */
EXPORT void resample(int up, int down, int width, const double *bank, const double *x, float *y,
                     int at, int phase, int n)
{
    for (int m = 0; m < n; m++) {
        const double *taps = bank + phase * width, *own = x + at;
        precise sums[4] = {{0}};
        double sum = 0;
        int k = 0;
        for (; k + 16 <= width; k += 16)
            for (int i = 0; i < 4; i++)
                sums[i] += *(const precise *)(taps + k + 4 * i) * *(const precise *)(own + k + 4 * i);
        for (; k + 4 <= width; k += 4)
            sums[0] += *(const precise *)(taps + k) * *(const precise *)(own + k);
        for (; k < width; k++)
            sum += taps[k] * own[k];
        sums[0] += sums[1] + sums[2] + sums[3];
        for (int i = 0; i < 4; i++)
            sum += sums[0][i];
        y[m] = (float)sum;
        phase += down;
        for (; phase >= up; phase -= up)
            at++;
    }
}

/* `streaming.Newest.step`: from n_held samples to `hop` at the analysis rate, the first of them at
 * held[at], in this phase; what comes before `keep` is no longer needed. */
EXPORT void listen(int up, int down, int width, const double *bank, double *held, int window, int hop,
                   float *newest, int n_held, int at, int phase, int keep)
{
    memmove(newest, newest + hop, (window - hop) * sizeof(float));
    resample(up, down, width, bank, held, newest + window - hop, at, phase, hop);
    memmove(held, held + keep, (n_held - keep) * sizeof(double));
}

/* `mixer._limit`, of n samples. */
EXPORT void limit(float *x, int n, double knee)
{
    const float k = knee;
    int n_over = 0;
    for (int s = 0; s < n; s++)
        n_over += fabsf(x[s]) > k;
    for (int s = 0; s < n && n_over; s++) {
        const float size = fabsf(x[s]);
        if (size > k)
            x[s] = copysignf(k < 1 ? k + (1 - k) * tanhf((size - k) / (1 - k)) : 1, x[s]);
    }
}

INLINE float clipped(float x, float size) { return x > size ? size : x < -size ? -size : x; }

typedef struct {
    float loudest;
    const float *part;
    float *heard;
    const float *wet;
    float *out;
    double *square;
} mixer;

/* `mixer.Mixer.mix`: n samples, from `at` of the segment on, and how many of them were not finite.
 * gains: rows, `apart`, of what is heard, of the dry part and of the wet one, which move or not. */
EXPORT int mix(const mixer *m, int at, int n, const float *gains, int apart, int move, double knee)
{
    const float *restrict part = m->part, *restrict wet = m->wet + at;
    float *restrict heard = m->heard + at, *restrict out = m->out;
    const float loudest = m->loudest;
    int n_finite = 0;
    for (int s = 0; s < n; s++) {
        const int finite = fabsf(part[s]) < INFINITY;
        const float x = finite ? part[s] : 0;
        n_finite += finite;
        heard[s] = clipped(x, loudest);
        out[s] = clipped(x, 1);
    }
    const float *dry = gains + apart, *new = gains + 2 * apart;
    if (move)
        for (int s = 0; s < n; s++) {
            heard[s] *= gains[s];
            out[s] = out[s] * dry[s] + wet[s] * new[s];
        }
    else
        for (int s = 0; s < n; s++) {
            heard[s] *= gains[0];
            out[s] = out[s] * dry[0] + wet[s] * new[0];
        }
    limit(out, n, knee);
    *m->square = dot(n, out, out);
    return n - n_finite;
}
