// SPDX-License-Identifier: Apache-2.0
#include "kernels/reference/reference.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/bfloat16.h"
#include "mem/device_cpu.h"

#define CHANNELS_AT_ONCE 64 // for which attention's backward pass makes a score once

// An array of the table's precision.
struct reals {
    void *data;
    enum kernel_precision precision;
};

static struct reals reals_at(const struct kernel_context *context, device_address address)
{
    return (struct reals){device_cpu_pointer(address), context->kernels->precision};
}

static struct reals floats_at(device_address address)
{
    return (struct reals){device_cpu_pointer(address), KERNEL_FP32};
}

static struct reals part_of(struct reals x, size_t first)
{
    return (struct reals){(char *)x.data + first * kernel_real_bytes(x.precision), x.precision};
}

static double get(struct reals x, size_t i)
{
    return (double)(x.precision == KERNEL_BF16 ? bfloat16_to_float(((const uint16_t *)x.data)[i])
                                               : ((const float *)x.data)[i]);
}

static void put(struct reals x, size_t i, double value)
{
    if (x.precision == KERNEL_BF16) {
        ((uint16_t *)x.data)[i] = bfloat16_from_float((float)value);
    } else {
        ((float *)x.data)[i] = (float)value;
    }
}

#define GELU_SCALE 0.7978845608028654 // sqrt(2 / pi)
#define GELU_CUBIC 0.044715

static double gelu_of(double x)
{
    return 0.5 * x * (1 + tanh(GELU_SCALE * (x + GELU_CUBIC * x * x * x)));
}

static double gelu_slope(double x)
{
    double t = tanh(GELU_SCALE * (x + GELU_CUBIC * x * x * x));
    double dt = (1 - t * t) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x * x);
    return 0.5 * (1 + t + x * dt);
}

static double element(struct reals x, size_t rows, size_t columns, bool transposed, size_t row, size_t column)
{
    return get(x, transposed ? column * rows + row : row * columns + column);
}

static void finish_product(const struct kernel_matmul *shape, struct reals c, struct reals gelu_input, size_t i,
                           double p)
{
    switch (shape->epilogue) {
    case KERNEL_EPILOGUE_NONE:
        put(c, i, shape->accumulate ? get(c, i) + p : p);
        return;
    case KERNEL_EPILOGUE_GELU:
        if (gelu_input.data != NULL) {
            put(gelu_input, i, p);
        }
        put(c, i, gelu_of(p));
        return;
    case KERNEL_EPILOGUE_GELU_BACKWARD:
        put(c, i, p * gelu_slope(get(gelu_input, i)));
        return;
    }
}

static void matmul(struct kernel_context *context, const struct kernel_matmul *shape, device_address c_at,
                   device_address a_at, device_address b_at, device_address bias_at, device_address gelu_input_at)
{
    const size_t m = shape->m, n = shape->n, k = shape->k;
    const struct reals a = reals_at(context, a_at), b = reals_at(context, b_at), bias = reals_at(context, bias_at);
    const struct reals c = shape->float_c ? floats_at(c_at) : reals_at(context, c_at);
    const struct reals gelu_input = reals_at(context, gelu_input_at);

    for (size_t row = 0; row < m; row++) {
        for (size_t column = 0; column < n; column++) {
            double p = bias_at == 0 ? 0 : get(bias, column);
            for (size_t i = 0; i < k; i++) {
                p += element(a, m, k, shape->transpose_a, row, i) * element(b, k, n, shape->transpose_b, i, column);
            }
            finish_product(shape, c, gelu_input, row * n + column, p);
        }
    }
}

static void bias_backward(struct kernel_context *context, device_address dbias_at, device_address dy_at, size_t rows,
                          size_t n)
{
    float *dbias = device_cpu_pointer(dbias_at);
    const struct reals dy = reals_at(context, dy_at);

    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t row = 0; row < rows; row++) {
            sum += get(dy, row * n + i);
        }
        dbias[i] = (float)((double)dbias[i] + sum);
    }
}

static void convert(struct kernel_context *context, device_address y_at, device_address x_at, size_t count)
{
    const struct reals y = reals_at(context, y_at), x = floats_at(x_at);
    for (size_t i = 0; i < count; i++) {
        put(y, i, get(x, i));
    }
}

static void relu(struct kernel_context *context, device_address x_at, size_t count)
{
    const struct reals x = reals_at(context, x_at);
    for (size_t i = 0; i < count; i++) {
        if (get(x, i) < 0) { // so that NaN stays
            put(x, i, 0);
        }
    }
}

static void relu_backward(struct kernel_context *context, device_address dx_at, device_address dy_at,
                          device_address y_at, size_t count)
{
    const struct reals dx = reals_at(context, dx_at), dy = reals_at(context, dy_at), y = reals_at(context, y_at);
    for (size_t i = 0; i < count; i++) {
        put(dx, i, get(y, i) > 0 ? get(dy, i) : 0);
    }
}

static void gelu(struct kernel_context *context, device_address y_at, device_address x_at, size_t count)
{
    const struct reals y = reals_at(context, y_at), x = reals_at(context, x_at);
    for (size_t i = 0; i < count; i++) {
        put(y, i, gelu_of(get(x, i)));
    }
}

static void gelu_backward(struct kernel_context *context, device_address dx_at, device_address dy_at,
                          device_address x_at, size_t count)
{
    const struct reals dx = reals_at(context, dx_at), dy = reals_at(context, dy_at), x = reals_at(context, x_at);
    for (size_t i = 0; i < count; i++) {
        put(dx, i, get(dy, i) * gelu_slope(get(x, i)));
    }
}

static void add(struct kernel_context *context, device_address y_at, device_address a_at, device_address b_at,
                size_t count)
{
    const struct reals y = reals_at(context, y_at), a = reals_at(context, a_at), b = reals_at(context, b_at);
    for (size_t i = 0; i < count; i++) {
        put(y, i, get(a, i) + get(b, i));
    }
}

static void layer_norm(struct kernel_context *context, device_address y_at, device_address sum_at,
                       device_address mean_at, device_address rstd_at, device_address x_at, device_address residual_at,
                       device_address gamma_at, device_address beta_at, size_t rows, size_t channels)
{
    const struct reals y = reals_at(context, y_at), gamma = reals_at(context, gamma_at),
                       beta = reals_at(context, beta_at), s = reals_at(context, residual_at != 0 ? sum_at : x_at);
    float *mean = device_cpu_pointer(mean_at), *rstd = device_cpu_pointer(rstd_at);

    if (residual_at != 0) {
        add(context, sum_at, x_at, residual_at, rows * channels);
    }
    for (size_t row = 0; row < rows; row++) {
        double sum = 0, squares = 0;
        for (size_t i = 0; i < channels; i++) {
            sum += get(s, row * channels + i);
        }
        double m = sum / (double)channels;
        for (size_t i = 0; i < channels; i++) {
            double centred = get(s, row * channels + i) - m;
            squares += centred * centred;
        }
        double r = 1 / sqrt(squares / (double)channels + 1e-5);
        for (size_t i = 0; i < channels; i++) {
            put(y, row * channels + i, (get(s, row * channels + i) - m) * r * get(gamma, i) + get(beta, i));
        }
        mean[row] = (float)m;
        rstd[row] = (float)r;
    }
}

// With n = (x - mean) rstd and g = dy gamma: dx = rstd (g - mean(g) - n mean(g n)), means over the channels.
static void layer_norm_backward(struct kernel_context *context, device_address dx_at, device_address dgamma_at,
                                device_address dbeta_at, device_address dy_at, device_address x_at,
                                device_address mean_at, device_address rstd_at, device_address gamma_at, size_t rows,
                                size_t channels, bool accumulate)
{
    const struct reals dx = reals_at(context, dx_at), dy = reals_at(context, dy_at), x = reals_at(context, x_at),
                       gamma = reals_at(context, gamma_at);
    const float *mean = device_cpu_pointer(mean_at), *rstd = device_cpu_pointer(rstd_at);
    float *dgamma = device_cpu_pointer(dgamma_at), *dbeta = device_cpu_pointer(dbeta_at);

    for (size_t i = 0; i < channels; i++) { // first: dx may be dy or x
        double gamma_sum = 0, beta_sum = 0;
        for (size_t row = 0; row < rows; row++) {
            double d = get(dy, row * channels + i);
            gamma_sum += d * (get(x, row * channels + i) - (double)mean[row]) * (double)rstd[row];
            beta_sum += d;
        }
        dgamma[i] = (float)((double)dgamma[i] + gamma_sum);
        dbeta[i] = (float)((double)dbeta[i] + beta_sum);
    }
    for (size_t row = 0; row < rows; row++) {
        const double m = (double)mean[row], r = (double)rstd[row];
        double g_mean = 0, gn_mean = 0;
        for (size_t i = row * channels; i < (row + 1) * channels; i++) {
            double g = get(dy, i) * get(gamma, i % channels);
            g_mean += g / (double)channels;
            gn_mean += g * (get(x, i) - m) * r / (double)channels;
        }
        for (size_t i = row * channels; i < (row + 1) * channels; i++) {
            double g = get(dy, i) * get(gamma, i % channels);
            double before = accumulate ? get(dx, i) : 0;
            put(dx, i, before + r * (g - g_mean - (get(x, i) - m) * r * gn_mean));
        }
    }
}

static void embedding(struct kernel_context *context, device_address y_at, device_address tokens_at,
                      device_address wte_at, device_address wpe_at, size_t batch, size_t length, size_t channels)
{
    const struct reals y = reals_at(context, y_at), wte = reals_at(context, wte_at), wpe = reals_at(context, wpe_at);
    const int32_t *tokens = device_cpu_pointer(tokens_at);

    for (size_t row = 0; row < batch * length; row++) {
        for (size_t i = 0; i < channels; i++) {
            size_t token = (size_t)tokens[row] * channels, position = row % length * channels;
            put(y, row * channels + i, get(wte, token + i) + get(wpe, position + i));
        }
    }
}

// Added one row at a time in float32: the number of rows with one token is small, and gradients have no wider home.
static void embedding_backward(struct kernel_context *context, device_address dwte_at, device_address dwpe_at,
                               device_address dy_at, device_address tokens_at, size_t batch, size_t length,
                               size_t channels, size_t vocabulary)
{
    (void)vocabulary;
    float *dwte = device_cpu_pointer(dwte_at), *dwpe = device_cpu_pointer(dwpe_at);
    const struct reals dy = reals_at(context, dy_at);
    const int32_t *tokens = device_cpu_pointer(tokens_at);

    for (size_t row = 0; row < batch * length; row++) {
        for (size_t i = 0; i < channels; i++) {
            dwte[(size_t)tokens[row] * channels + i] += (float)get(dy, row * channels + i);
            dwpe[row % length * channels + i] += (float)get(dy, row * channels + i);
        }
    }
}

static double dot(struct reals a, size_t a_first, struct reals b, size_t b_first, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += get(a, a_first + i) * get(b, b_first + i);
    }
    return sum;
}

// One head of one sample: rows of q, k, v and their gradients are 3C apart, those of y and dy C.
struct head {
    size_t length, width, stride, y_stride;
    struct reals q, k, v, dy, y, dq, dk, dv;
    float *lse;
};

static struct head head_at(const struct kernel_context *context, size_t index, size_t length, size_t channels,
                           size_t heads, device_address qkv, device_address y, device_address lse)
{
    const size_t width = channels / heads, row = index / heads * length, column = index % heads * width;
    const struct reals q = part_of(reals_at(context, qkv), row * 3 * channels + column);

    return (struct head){
        .length = length,
        .width = width,
        .stride = 3 * channels,
        .y_stride = channels,
        .q = q,
        .k = part_of(q, channels),
        .v = part_of(q, 2 * channels),
        .y = part_of(reals_at(context, y), row * channels + column),
        .lse = (float *)device_cpu_pointer(lse) + index * length,
    };
}

static double score(const struct head *head, size_t t, size_t s)
{
    return dot(head->q, t * head->stride, head->k, s * head->stride, head->width) / sqrt((double)head->width);
}

static double log_sum_exp_of_scores(const struct head *head, size_t t, size_t keys)
{
    double max = -INFINITY, sum = 0;
    for (size_t s = 0; s < keys; s++) {
        max = fmax(max, score(head, t, s));
    }
    for (size_t s = 0; s < keys; s++) {
        sum += exp(score(head, t, s) - max);
    }
    return max + log(sum);
}

// Answers the log of the sum of exponentials.
static double row_forward(const struct head *head, size_t t, size_t keys)
{
    const double lse = log_sum_exp_of_scores(head, t, keys);
    for (size_t i = 0; i < head->width; i++) {
        double sum = 0;
        for (size_t s = 0; s < keys; s++) {
            sum += exp(score(head, t, s) - lse) * get(head->v, s * head->stride + i);
        }
        put(head->y, t * head->y_stride + i, sum);
    }
    return lse;
}

static void head_forward(const struct head *head)
{
    for (size_t t = 0; t < head->length; t++) {
        head->lse[t] = (float)row_forward(head, t, t + 1);
    }
}

static void attention(struct kernel_context *context, device_address y, device_address lse, device_address qkv,
                      size_t batch, size_t length, size_t channels, size_t heads)
{
    for (size_t i = 0; i < batch * heads; i++) {
        struct head head = head_at(context, i, length, channels, heads, qkv, y, lse);
        head_forward(&head);
    }
}

static void attention_cached(struct kernel_context *context, device_address y, device_address cache_at,
                             device_address qkv_at, size_t rows, size_t first, size_t capacity, size_t channels,
                             size_t heads)
{
    const struct reals cache = reals_at(context, cache_at), qkv = reals_at(context, qkv_at);
    const size_t width = channels / heads;
    for (size_t i = 0; i < rows * channels; i++) {
        const size_t row = i / channels, column = i % channels;
        put(cache, (first + row) * channels + column, get(qkv, (3 * row + 1) * channels + column));
        put(cache, (capacity + first + row) * channels + column, get(qkv, (3 * row + 2) * channels + column));
    }
    for (size_t i = 0; i < rows * heads; i++) {
        const size_t row = i / heads, column = i % heads * width;
        const struct head head = {
            .width = width,
            .stride = channels,
            .q = part_of(qkv, 3 * row * channels + column),
            .k = part_of(cache, column),
            .v = part_of(cache, capacity * channels + column),
            .y = part_of(reals_at(context, y), row * channels + column),
        };
        row_forward(&head, 0, first + row + 1);
    }
}

static double probability(const struct head *head, size_t t, size_t s)
{
    return exp(score(head, t, s) - (double)head->lse[t]);
}

// The gradient of score(t, s): p (dp - the mean of dp under p), and that mean is dy y.
static double score_gradient(const struct head *head, size_t t, size_t s)
{
    const size_t row = t * head->y_stride;
    double dp = dot(head->dy, row, head->v, s * head->stride, head->width);
    return probability(head, t, s) * (dp - dot(head->dy, row, head->y, row, head->width));
}

// Channels [first, first + count) of the gradients of one row's q, k and v.
static void row_backward(const struct head *head, size_t row, size_t first, size_t count)
{
    const double scale = 1 / sqrt((double)head->width);
    double dq[CHANNELS_AT_ONCE] = {0}, dk[CHANNELS_AT_ONCE] = {0}, dv[CHANNELS_AT_ONCE] = {0};

    for (size_t s = 0; s <= row; s++) {
        double ds = scale * score_gradient(head, row, s);
        for (size_t i = 0; i < count; i++) {
            dq[i] += ds * get(head->k, s * head->stride + first + i);
        }
    }
    for (size_t t = row; t < head->length; t++) {
        double ds = scale * score_gradient(head, t, row), p = probability(head, t, row);
        for (size_t i = 0; i < count; i++) {
            dk[i] += ds * get(head->q, t * head->stride + first + i);
            dv[i] += p * get(head->dy, t * head->y_stride + first + i);
        }
    }
    for (size_t i = 0; i < count; i++) {
        put(head->dq, row * head->stride + first + i, dq[i]);
        put(head->dk, row * head->stride + first + i, dk[i]);
        put(head->dv, row * head->stride + first + i, dv[i]);
    }
}

static void head_backward(const struct head *head)
{
    for (size_t row = 0; row < head->length; row++) {
        for (size_t first = 0; first < head->width; first += CHANNELS_AT_ONCE) {
            size_t left = head->width - first;
            row_backward(head, row, first, left < CHANNELS_AT_ONCE ? left : CHANNELS_AT_ONCE);
        }
    }
}

static void attention_backward(struct kernel_context *context, device_address dqkv, device_address delta,
                               device_address dy, device_address qkv, device_address y, device_address lse,
                               size_t batch, size_t length, size_t channels, size_t heads)
{
    (void)delta;
    for (size_t i = 0; i < batch * heads; i++) {
        struct head head = head_at(context, i, length, channels, heads, qkv, y, lse);
        struct head gradient = head_at(context, i, length, channels, heads, dqkv, dy, lse);
        head.dy = gradient.y;
        head.dq = gradient.q;
        head.dk = gradient.k;
        head.dv = gradient.v;
        head_backward(&head);
    }
}

static double log_sum_exp(struct reals x, size_t count)
{
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < count; i++) {
        max = fmax(max, get(x, i));
    }
    for (size_t i = 0; i < count; i++) {
        sum += exp(get(x, i) - max);
    }
    return max + log(sum);
}

static size_t first_largest(struct reals x, size_t count)
{
    size_t largest = 0;
    for (size_t i = 1; i < count; i++) {
        if (get(x, i) > get(x, largest)) {
            largest = i;
        }
    }
    return largest;
}

static void write_gradient(struct reals x, double lse, int32_t target, size_t classes, size_t stride)
{
    for (size_t i = 0; i < stride; i++) {
        if (target == KERNEL_TARGET_NONE || i >= classes) {
            put(x, i, 0);
        } else {
            put(x, i, exp(get(x, i) - lse) - (i == (size_t)target ? 1 : 0));
        }
    }
}

static void cross_entropy(struct kernel_context *context, device_address tally_at, device_address logits_at,
                          device_address targets_at, size_t rows, size_t classes, size_t stride, bool gradient)
{
    struct kernel_tally *tally = device_cpu_pointer(tally_at);
    const struct reals logits = reals_at(context, logits_at);
    const int32_t *targets = device_cpu_pointer(targets_at);

    for (size_t row = 0; row < rows; row++) {
        const struct reals x = part_of(logits, row * stride);
        const double lse = log_sum_exp(x, classes);
        if (targets[row] != KERNEL_TARGET_NONE) {
            size_t target = (size_t)targets[row];
            tally->loss += lse - get(x, target);
            tally->count += 1;
            tally->correct += first_largest(x, classes) == target ? 1 : 0;
        }
        if (gradient) {
            write_gradient(x, lse, targets[row], classes, stride);
        }
    }
}

static void sum_of_squares(struct kernel_context *context, device_address sum_at, device_address x_at, size_t count)
{
    (void)context;
    double *sum = device_cpu_pointer(sum_at);
    *sum = dot(floats_at(x_at), 0, floats_at(x_at), 0, count);
}

static void gradient_scale(struct kernel_context *context, device_address scale_at, device_address tally_at,
                           device_address squares_at, double clip)
{
    (void)context;
    float *scale = device_cpu_pointer(scale_at);
    const struct kernel_tally *tally = device_cpu_pointer(tally_at);
    const double *squares = device_cpu_pointer(squares_at);
    const double count = tally->count > 0 ? tally->count : 1, norm = sqrt(*squares) / count;

    *scale = (float)(clip > 0 && norm > clip ? clip / norm / count : 1 / count);
    if (!isfinite(tally->loss) || !isfinite(norm)) {
        *scale = NAN;
    }
}

static bool fits(double term, int64_t limit)
{
    return fabs(term) < 0x1p63 && (int64_t)term >= -limit && (int64_t)term <= limit;
}

static void fixed_add(struct kernel_context *context, device_address sums_at, device_address x_at, size_t count,
                      double scale, int64_t limit, device_address spilled_at)
{
    (void)context;
    int64_t *sums = device_cpu_pointer(sums_at), *spilled = device_cpu_pointer(spilled_at);
    const struct reals x = floats_at(x_at);

    for (size_t i = 0; i < count; i++) {
        const double term = rint(get(x, i) * scale);
        if (fits(term, limit)) {
            sums[i] += (int64_t)term;
        } else {
            (*spilled)++;
        }
    }
}

static void fixed_get(struct kernel_context *context, device_address x_at, device_address sums_at, size_t count,
                      double scale, device_address largest_at)
{
    (void)context;
    const struct reals x = floats_at(x_at);
    const int64_t *sums = device_cpu_pointer(sums_at);
    double largest = 0;

    for (size_t i = 0; i < count; i++) {
        put(x, i, (double)sums[i] / scale);
        largest = fmax(largest, fabs(get(x, i)));
    }
    put(floats_at(largest_at), 0, largest);
}

static void fixed_add_tally(struct kernel_context *context, device_address sums_at, device_address tally_at)
{
    (void)context;
    struct kernel_fixed_tally *sums = device_cpu_pointer(sums_at);
    struct kernel_tally *tally = device_cpu_pointer(tally_at);

    if (fabs(tally->loss) <= KERNEL_FIXED_LOSS_MAX) {
        double nats = floor(tally->loss);
        sums->nats += (int64_t)nats;
        sums->fraction += (int64_t)rint((tally->loss - nats) * KERNEL_FIXED_LOSS_SCALE);
    } else {
        sums->not_finite++;
    }
    sums->count += (int64_t)rint(tally->count);
    sums->correct += (int64_t)rint(tally->correct);
    *tally = (struct kernel_tally){0};
}

static void fixed_get_tally(struct kernel_context *context, device_address tally_at, device_address sums_at)
{
    (void)context;
    struct kernel_tally *tally = device_cpu_pointer(tally_at);
    const struct kernel_fixed_tally *sums = device_cpu_pointer(sums_at);

    double loss = (double)sums->nats + (double)sums->fraction / KERNEL_FIXED_LOSS_SCALE;
    tally->loss = sums->not_finite > 0 ? (double)NAN : loss;
    tally->count = (double)sums->count;
    tally->correct = (double)sums->correct;
}

static void copy_weights(struct kernel_context *context, device_address copy, device_address weights, size_t count)
{
    if (copy != 0) {
        convert(context, copy, weights, count);
    }
}

static void sgd(struct kernel_context *context, const struct kernel_sgd *args, device_address weights,
                device_address copy, device_address gradients, device_address velocity, device_address scale_at,
                size_t count)
{
    float *w = device_cpu_pointer(weights), *v = device_cpu_pointer(velocity);
    const float *g = device_cpu_pointer(gradients), *scale = device_cpu_pointer(scale_at);

    for (size_t i = 0; i < count && isfinite(*scale); i++) {
        double d = (double)*scale * (double)g[i] + (double)args->weight_decay * (double)w[i];
        if (velocity != 0) {
            d += (double)args->momentum * (double)v[i];
            v[i] = (float)d;
        }
        w[i] = (float)((double)w[i] - (double)args->learning_rate * d);
    }
    copy_weights(context, isfinite(*scale) ? copy : 0, weights, count);
}

static void adamw(struct kernel_context *context, const struct kernel_adamw *args, device_address weights,
                  device_address copy, device_address gradients, device_address first_moment,
                  device_address second_moment, device_address scale_at, size_t count)
{
    float *w = device_cpu_pointer(weights), *first = device_cpu_pointer(first_moment),
          *second = device_cpu_pointer(second_moment);
    const float *g = device_cpu_pointer(gradients), *scale = device_cpu_pointer(scale_at);
    const double beta1 = (double)args->beta1, beta2 = (double)args->beta2, rate = (double)args->learning_rate;
    const double correction1 = 1 - pow(beta1, (double)args->step), correction2 = 1 - pow(beta2, (double)args->step);

    for (size_t i = 0; i < count && isfinite(*scale); i++) {
        double d = (double)*scale * (double)g[i];
        double m = beta1 * (double)first[i] + (1 - beta1) * d;
        double v = beta2 * (double)second[i] + (1 - beta2) * d * d;
        double decay = i < args->decaying ? rate * (double)args->weight_decay : 0;
        w[i] = (float)((double)w[i] * (1 - decay) -
                       rate * (m / correction1) / (sqrt(v / correction2) + (double)args->epsilon));
        first[i] = (float)m;
        second[i] = (float)v;
    }
    copy_weights(context, isfinite(*scale) ? copy : 0, weights, count);
}

static enum status context_create(const struct kernels *kernels, struct device *device, struct stream *stream,
                                  struct kernel_context **context_p, struct error *error)
{
    struct kernel_context *context = malloc(sizeof *context);
    if (context == NULL) {
        return error_out_of_host_memory(error);
    }
    *context = (struct kernel_context){.kernels = kernels, .device = device, .stream = stream};
    *context_p = context;
    return STATUS_OK;
}

static enum status context_create_fp32(struct device *device, struct stream *stream, device_address workspace,
                                       struct kernel_context **context_p, struct error *error)
{
    (void)workspace;
    return context_create(&kernels_reference_fp32, device, stream, context_p, error);
}

static enum status context_create_bf16(struct device *device, struct stream *stream, device_address workspace,
                                       struct kernel_context **context_p, struct error *error)
{
    (void)workspace;
    return context_create(&kernels_reference_bf16, device, stream, context_p, error);
}

static void context_destroy(struct kernel_context *context)
{
    free(context);
}

#define REFERENCE(of_precision, create)                                                                                \
    {                                                                                                                  \
        .name = "reference", .precision = (of_precision), .context_create = (create),                                  \
        .context_destroy = context_destroy, .matmul = matmul, .bias_backward = bias_backward, .convert = convert,      \
        .relu = relu, .relu_backward = relu_backward, .gelu = gelu, .gelu_backward = gelu_backward, .add = add,        \
        .layer_norm = layer_norm, .layer_norm_backward = layer_norm_backward, .embedding = embedding,                  \
        .embedding_backward = embedding_backward, .attention = attention, .attention_backward = attention_backward,    \
        .attention_cached = attention_cached, .cross_entropy = cross_entropy, .sum_of_squares = sum_of_squares,        \
        .gradient_scale = gradient_scale, .fixed_add = fixed_add, .fixed_get = fixed_get,                              \
        .fixed_add_tally = fixed_add_tally, .fixed_get_tally = fixed_get_tally, .sgd = sgd, .adamw = adamw,            \
    }

const struct kernels kernels_reference_fp32 = REFERENCE(KERNEL_FP32, context_create_fp32);
const struct kernels kernels_reference_bf16 = REFERENCE(KERNEL_BF16, context_create_bf16);
