/* A live frame's arithmetic in one piece: what `live_hearing` and `renderer` otherwise ask of numpy
 * in some hundred small calls. It is the same arithmetic on the same tables, which Python makes and
 * hands over; where no compiler was at hand when v3audio was installed, numpy does it all.
 *
 * The functions hold Python's lock while they run, a tenth of a millisecond: giving it away and
 * winning it back is what makes a step late where other threads are busy.
 *
 * Sums run in lanes, as many as the processor that this is compiled for adds at once.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__)
#error "needs the vectors of GCC or Clang"
#endif
#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum {
    BLOCK = 4 * LANES,
    PAD = 16,   /* kernels' lengths are multiples of this */
    MOST = 4096 /* samples of a window and what is made of it */
};
typedef float vector __attribute__((vector_size(4 * LANES), aligned(4)));

/* ctypes loads this; it is never imported. */
EXPORT void *PyInit__frame(void) { return 0; }
EXPORT void *PyInit__frame_avx2(void) { return 0; }

EXPORT int version(void) { return 1; } /* of the functions below; see `compiled.VERSION` */

EXPORT int has_avx2(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}

INLINE vector at(const float *x) { return *(const vector *)x; }

INLINE float total(vector x)
{
    float s = x[0];
    for (int i = 1; i < LANES; i++)
        s += x[i];
    return s;
}

/* out[i] = sum of a[k] x[k + i], i < BLOCK */
INLINE void slide(int n, const float *a, const float *x, float *out)
{
    vector s = {0}, t = {0}, u = {0}, v = {0};
    for (int k = 0; k < n; k++) {
        s += a[k] * at(x + k);
        t += a[k] * at(x + k + LANES);
        u += a[k] * at(x + k + 2 * LANES);
        v += a[k] * at(x + k + 3 * LANES);
    }
    *(vector *)out = s;
    *(vector *)(out + LANES) = t;
    *(vector *)(out + 2 * LANES) = u;
    *(vector *)(out + 3 * LANES) = v;
}

INLINE float largest(float a, float b) { return a > b ? a : b; }

/* Complex FFT of n = 2^m values, Stockham's; turn[k * stride] holds cos and sin of 2 pi k / n. The
 * result lies in (re, im); (re2, im2) are as much room. */
INLINE void fft(int n, float *re, float *im, float *re2, float *im2, const float *turn, int stride)
{
    float *from_re = re, *from_im = im, *to_re = re2, *to_im = im2;
    for (int l = n / 2, m = 1; l >= 1; l /= 2, m *= 2) {
        for (int j = 0; j < l; j++) {
            const float c = turn[2 * j * m * stride], s = -turn[2 * j * m * stride + 1];
            const float *ar = from_re + j * m, *ai = from_im + j * m;
            const float *br = ar + l * m, *bi = ai + l * m;
            float *pr = to_re + 2 * j * m, *pi = to_im + 2 * j * m;
            for (int k = 0; k < m; k++) {
                const float dr = ar[k] - br[k], di = ai[k] - bi[k];
                pr[k] = ar[k] + br[k];
                pi[k] = ai[k] + bi[k];
                pr[m + k] = dr * c - di * s;
                pi[m + k] = dr * s + di * c;
            }
        }
        float *t = from_re;
        from_re = to_re;
        to_re = t;
        t = from_im;
        from_im = to_im;
        to_im = t;
    }
    if (from_re != re) {
        memcpy(re, from_re, n * sizeof(float));
        memcpy(im, from_im, n * sizeof(float));
    }
}

/* Spectrum of n real samples, n / 2 + 1 values; the rest of (re, im), PAD of it, becomes 0.
 * turn: cos and sin of 2 pi k / n. */
INLINE void real_fft(int n, const float *x, float *re, float *im, const float *turn)
{
    float zr[MOST / 2 + 1], zi[MOST / 2 + 1], room[MOST];
    const int half = n / 2;
    zr[0] = x[0];
    zi[0] = x[1];
    for (int k = 1; k < half; k++) {
        zr[k] = x[2 * k];
        zi[k] = x[2 * k + 1];
    }
    fft(half, zr, zi, room, room + half, turn, 2);
    zr[half] = zr[0];
    zi[half] = zi[0];
    for (int k = 0; k < half; k++) {
        const float er = zr[k] + zr[half - k], ei = zi[k] - zi[half - k];
        const float or = zi[k] + zi[half - k], oi = zr[half - k] - zr[k];
        const float c = turn[2 * k], s = turn[2 * k + 1];
        re[k] = 0.5f * (er + c * or + s * oi);
        im[k] = 0.5f * (ei + c * oi - s * or);
    }
    re[half] = zr[0] - zi[0];
    im[half] = 0;
    memset(re + half + 1, 0, PAD * sizeof(float));
    memset(im + half + 1, 0, PAD * sizeof(float));
}

/* `live_hearing._FrontEnd`: three views of a window of n samples, into rows of `views`.
 *
 * rows: per bin of the long and then of the short view its first FFT bin and how many, a multiple
 * of PAD, of which the kernels follow one another. groups: samples correlated, shortest lag,
 * past the longest, bins. lags: per bin the first lag read and how many; their wvectors follow one
 * another. energy: that of the newest 0, 1, ... samples, and a last 1; near, shares: which of it,
 * and how much, makes a bin's energy. */
EXPORT void front_end(int n, const float *window, const float *turn, int n_bins, const int32_t *rows,
                    const float *kernel_re, const float *kernel_im, int n_groups,
                    const int32_t *groups, const int32_t *lags, const float *wvectors,
                    int n_energies, double *energy, int n_near, const int64_t *near,
                    const double *shares, int stride, float *views)
{
    float re[MOST / 2 + 1 + PAD], im[MOST / 2 + 1 + PAD];
    real_fft(n, window, re, im, turn);
    for (int view = 0; view < 2; view++, views += stride) {
        float peak = 1e-7f;
        for (int bin = 0; bin < n_bins; bin++, rows += 2) {
            const float *xr = re + rows[0], *xi = im + rows[0];
            vector rr = {0}, ii = {0}, ri = {0}, ir = {0};
            for (int k = 0; k < rows[1]; k += LANES) {
                const vector kr = at(kernel_re + k), ki = at(kernel_im + k);
                rr += kr * at(xr + k);
                ii += ki * at(xi + k);
                ri += kr * at(xi + k);
                ir += ki * at(xr + k);
            }
            kernel_re += rows[1];
            kernel_im += rows[1];
            const float a = total(rr - ii), b = total(ri + ir);
            views[bin] = sqrtf(a * a + b * b);
            peak = largest(peak, views[bin]);
        }
        const float scale = 100 / peak, unit = (float)(1 / log(101));
        for (int bin = 0; bin < n_bins; bin++)
            views[bin] = unit * logf(1 + scale * views[bin]);
    }

    float newest[MOST + BLOCK], products[MOST + BLOCK];
    for (int t = 0; t < n; t++)
        newest[t] = window[n - 1 - t];
    memset(newest + n, 0, BLOCK * sizeof(float));
    double sum = energy[0];
    for (int t = 0; t + 2 < n_energies; t++)
        energy[t + 1] = sum += (double)newest[t] * newest[t];
    int bin = 0;
    for (int group = 0; group < n_groups; group++, groups += 4) {
        for (int lag = groups[1]; lag < groups[2]; lag += BLOCK)
            slide(groups[0], newest, newest + lag, products + lag);
        for (int end = bin + groups[3]; bin < end; bin++, lags += 2) {
            float found = 0;
            for (int i = 0; i < lags[1]; i++)
                found += wvectors[i] * products[lags[0] + i];
            wvectors += lags[1];
            double both = 0;
            for (int k = 0; k < n_near; k++)
                both += shares[k * n_bins + bin] * energy[near[k * n_bins + bin]];
            const float share = (float)(2 * found / both);
            views[bin] = share < 0 ? 0 : share > 1 ? 1 : share;
        }
    }
}

/* `live_hearing._Attack`: how much each band rose from one stretch of n samples to the other, dB.
 *
 * bands: that of each FFT bin, or -1. */
EXPORT float attack(int n, const float *before, const float *now, const float *hann,
                  const float *turn, int n_bands, const int32_t *bands)
{
    float re[MOST], im[MOST], room[2 * MOST], power[2][MOST];
    memset(power[0], 0, n_bands * sizeof(float));
    memset(power[1], 0, n_bands * sizeof(float));
    for (int t = 0; t < n; t++) {
        re[t] = hann[t] * before[t];
        im[t] = hann[t] * now[t];
    }
    fft(n, re, im, room, room + n, turn, 1);
    for (int k = 0; k <= n / 2; k++) {
        if (bands[k] < 0)
            continue;
        const int back = k ? n - k : 0;
        const float ar = re[k] + re[back], ai = im[k] - im[back];
        const float br = im[k] + im[back], bi = re[back] - re[k];
        power[0][bands[k]] += 0.25f * (ar * ar + ai * ai);
        power[1][bands[k]] += 0.25f * (br * br + bi * bi);
    }
    float rise = 0;
    for (int b = 0; b < n_bands; b++)
        rise += largest(0, logf((power[1][b] + 1e-7f) / (power[0][b] + 1e-7f)));
    return 10 / logf(10) * rise / n_bands;
}

/* `live_hearing._ContentHead` and `_Partials`: probability of each position, of which BLOCK divides
 * the room, from the views in `padded`, (n_views, width) with `below` zeros before bin 0. */
EXPORT void content(int n_views, int width, int below, int n_bins, const float *padded, int channels,
                  int n_taps, int first_tap, const float *taps, int kernel_below, int n_kernel,
                  const float *kernel, int n_units, int n_partials, const int32_t *places,
                  const float *entry, int n_powers, const float *weigh, float gain,
                  int n_positions, float *position)
{
    float score[MOST], seen[MOST], near[MOST];
    memset(score, 0, (n_positions + BLOCK) * sizeof(float));
    memset(seen, 0, (n_positions + BLOCK + n_kernel) * sizeof(float));
    for (int c = 0; c < n_views * channels; c++, taps += n_taps + 1, kernel += n_kernel) {
        const float *x = padded + c / channels * width + first_tap;
        float *own = seen + kernel_below, mean = 0;
        for (int bin = 0; bin < n_bins; bin++)
            own[bin] = taps[n_taps];
        for (int k = 0; k < n_taps; k++)
            for (int bin = 0; bin < n_bins; bin++)
                own[bin] += taps[k] * x[k + bin];
        for (int bin = 0; bin < n_bins; bin++)
            mean += own[bin] = largest(own[bin], 0);
        mean /= n_bins;
        for (int bin = 0; bin < n_bins; bin++)
            own[bin] -= mean;
        for (int p = 0; p < n_positions; p += BLOCK) {
            const int first = kernel_below - p - BLOCK > 0 ? kernel_below - p - BLOCK : 0;
            const int end = kernel_below + n_bins - p; /* beyond these there is nothing */
            float sums[BLOCK];
            slide((end < n_kernel ? end : n_kernel) - first, kernel + first, seen + p + first, sums);
            for (int i = 0; i < BLOCK; i++)
                score[p + i] += sums[i];
        }
    }

    if (n_units) {
        memset(near, 0, (n_views * width + BLOCK) * sizeof(float));
        for (int view = 0; view < n_views; view++) {
            const float *x = padded + view * width;
            for (int bin = below; bin < below + n_bins; bin++)
                near[view * width + bin] = largest(x[bin], largest(x[bin - 1], x[bin + 1]));
        }
    }
    for (int u = 0; u < n_units; u++, entry += n_views * n_partials + 1)
        for (int p = 0; p < n_positions; p += 2 * LANES) {
            vector y = {0}, z = {0}, s = {0}, t = {0};
            y += entry[n_views * n_partials];
            z += entry[n_views * n_partials];
            for (int view = 0, k = 0; view < n_views; view++)
                for (int i = 0; i < n_partials; i++, k++) {
                    const float *x = near + view * width + places[i] + p;
                    y += entry[k] * at(x);
                    z += entry[k] * at(x + LANES);
                }
            const vector yy = y * y - 1, zz = z * z - 1;
            for (int k = n_powers; k > 0; k--) {
                s = (s + weigh[k * n_units + u]) * yy;
                t = (t + weigh[k * n_units + u]) * zz;
            }
            *(vector *)(score + p) += s + weigh[u] * y;
            *(vector *)(score + p + LANES) += t + weigh[u] * z;
        }

    float mean = 0, square = 0, peak = -INFINITY, mass = 0;
    for (int p = 0; p < n_positions; p++)
        mean += score[p];
    mean /= n_positions;
    for (int p = 0; p < n_positions; p++) {
        square += (score[p] - mean) * (score[p] - mean);
        peak = largest(peak, score[p]);
    }
    gain /= sqrtf(square / (n_positions - 1)) + 1e-5f;
    for (int p = 0; p < n_positions; p++)
        mass += position[p] = expf(gain * (score[p] - peak));
    for (int p = 0; p < n_positions; p++)
        position[p] /= mass;
}

/* y = W x + b of n_out rows; returns where the next layer's wvectors begin. */
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

INLINE void minus_silu(int n, const float *z, float *y)
{
    for (int k = 0; k < n; k++)
        y[k] = z[k] / (1 + expf(z[k]));
}

/* `renderer.FrozenNet`: all layers' wvectors and biases stand one after the other. */
EXPORT void net(int n_in, int hidden, int n_blocks, int n_out, const float *wvectors, const float *x,
              float *out)
{
    float h[MOST], inner[MOST], outer[MOST];
    wvectors = affine(n_in, hidden, wvectors, x, inner);
    minus_silu(hidden, inner, h);
    for (int block = 0; block < n_blocks; block++) {
        wvectors = affine(hidden, hidden, wvectors, h, inner);
        minus_silu(hidden, inner, inner);
        wvectors = affine(hidden, hidden, wvectors, inner, outer);
        for (int k = 0; k < hidden; k++)
            h[k] += outer[k];
    }
    minus_silu(hidden, h, inner);
    affine(hidden, n_out, wvectors, inner, out);
}

/* `renderer.Renderer._make_table`: one period of n_harmonics, as loud as `rms`, into `table`, n
 * samples and the first once more. phasors: re, im; turn: cos and sin of 2 pi k / n. */
EXPORT void make_table(int n, int n_harmonics, const float *rms, const float *phasors,
                       const float *turn, float *table)
{
    const int half = n / 2;
    float xr[MOST / 2 + 1], xi[MOST / 2 + 1], zr[MOST / 2], zi[MOST / 2], room[MOST];
    memset(xr, 0, (half + 1) * sizeof(float));
    memset(xi, 0, (half + 1) * sizeof(float));
    for (int k = 0; k < n_harmonics; k++) {
        xr[k + 1] = rms[k] * phasors[2 * k] / n;
        xi[k + 1] = rms[k] * phasors[2 * k + 1] / n;
    }
    for (int k = 0; k < half; k++) {
        const float er = xr[k] + xr[half - k], ei = xi[k] - xi[half - k];
        const float dr = xr[k] - xr[half - k], di = xi[k] + xi[half - k];
        const float c = turn[2 * k], s = turn[2 * k + 1];
        zr[k] = er - (c * di + s * dr);
        zi[k] = ei + (c * dr - s * di);
    }
    fft(half, zi, zr, room, room + half, turn, 2); /* real and imaginary swapped: the inverse */
    for (int k = 0; k < half; k++) {
        table[2 * k] = zr[k];
        table[2 * k + 1] = zi[k];
    }
    table[n] = table[0];
}

INLINE float read(const float *table, int n, double place)
{
    const int64_t whole = (int64_t)place;
    const float *here = table + (whole & (n - 1));
    return here[0] + (float)(place - whole) * (here[1] - here[0]);
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

/* `renderer.Renderer.render`, once both sounds are there: n samples that turn from sound `now` of
 * the two into the other. place, slopes, bend: where in their tables of n_table + 1 samples sample
 * s is read, place + s (slope + s bend); ramp: how far the turn comes with each sample. */
EXPORT void play(int n_table, const float *tables, int n_noise, const float *gains, int n_loop,
                 const float *noise, float *out, int n, int now, int noise_at, double place,
                 double slope_now, double slope_new, double bend, double ramp)
{
    const float *table = tables + now * (n_table + 1), *new_table = tables + !now * (n_table + 1);
    const float *gain = gains + now * n_noise, *new_gain = gains + !now * n_noise;
    for (int s = 1; s <= n; s++, noise_at++) {
        const float *x = noise + (int64_t)(noise_at % n_loop) * n_noise;
        const float old = read(table, n_table, place + s * (slope_now + s * bend))
            + dot(n_noise, x, gain);
        const float new = read(new_table, n_table, place + s * (slope_new + s * bend))
            + dot(n_noise, x, new_gain);
        out[s - 1] = old + (float)(s * ramp) * (new - old);
    }
}

/* `belief.NoteBelief._describe_frame`, up to the plain numbers: features of a frame whose pitch lies
 * in bin `at`, read where the tables of `belief._Tables` and `_PAST_AT` say. */
EXPORT void describe(int n_candidates, int n_back, int n_positions, const float *mass,
                     const int64_t *edges, int n_bins, const float *apart, const int64_t *periods,
                     const float *scale, const float *floors, const float *offsets, int n_spectrum,
                     const float *spectrum, const int64_t *bins, const float *inside,
                     const float *outside, int n_read, const float *past, const int64_t *past_at,
                     const int64_t *past_less, const float *past_scale, const float *low,
                     const float *high, float *x, int at, double level, double pitch)
{
    const int n_seen = n_candidates * (n_back + 2);
    edges += at * 2 * n_candidates;
    periods += at * n_candidates * 3;
    float *seen = x;
    for (int back = 0; back < n_back; back++, mass += n_positions + 1)
        for (int c = 0; c < n_candidates; c++)
            *seen++ = mass[edges[n_candidates + c]] - mass[edges[c]];
    for (int frame = 0; frame < 2; frame++, apart += 2 * n_bins)
        for (int c = 0; c < n_candidates; c++) {
            const int64_t *near = periods + 3 * c;
            const float least = -largest(-apart[near[0]], -apart[near[1]]);
            *seen++ = -largest(-least, -apart[near[2]]);
        }
    for (int k = 0; k < n_seen; k++)
        x[k] = logf(x[k] + floors[k]) * scale[at * n_seen + k] + offsets[k];
    for (int k = at * n_spectrum; k < (at + 1) * n_spectrum; k++) {
        const int64_t *near = bins + 3 * k;
        const float most = largest(spectrum[near[0]], largest(spectrum[near[1]], spectrum[near[2]]));
        *seen++ = most * inside[k] + outside[k];
    }
    const float less[3] = {(float)level, (float)pitch, 0};
    for (int k = 0; k < n_read; k++) {
        const float value = (past[past_at[k]] - less[past_less[k]]) * past_scale[k];
        *seen++ = value < low[k] ? low[k] : value > high[k] ? high[k] : value;
    }
}

/* A multi-layer perceptron: sizes of the input and of each layer; all layers' weights and biases
 * stand one after the other. */
EXPORT void perceptron(int n_layers, const int32_t *sizes, const float *weights, const float *x,
                       float *out)
{
    float values[MOST], next[MOST];
    memcpy(values, x, sizes[0] * sizeof(float));
    for (int layer = 0; layer < n_layers; layer++) {
        const int n = sizes[layer + 1], last = layer + 1 == n_layers;
        weights = affine(sizes[layer], n, weights, values, last ? out : next);
        for (int k = 0; k < n && !last; k++)
            values[k] = largest(next[k], 0);
    }
}

/* `streaming.StreamingResampler._outputs`: n of them, the first at x[at] and in this phase of `up`,
 * and each `down` phases later. Each is summed in the same order, whatever stands beside it. */
EXPORT void resample(int up, int down, int width, const double *bank, const double *x, float *y,
                     int at, int phase, int n)
{
    for (int m = 0; m < n; m++) {
        const double *taps = bank + phase * width, *own = x + at;
        double sums[8] = {0}, sum = 0;
        int k = 0;
        for (; k + 8 <= width; k += 8)
            for (int i = 0; i < 8; i++)
                sums[i] += taps[k + i] * own[k + i];
        for (; k < width; k++)
            sum += taps[k] * own[k];
        for (int i = 0; i < 8; i++)
            sum += sums[i];
        y[m] = (float)sum;
        phase += down;
        at += phase / up;
        phase %= up;
    }
}
