// SPDX-License-Identifier: Apache-2.0
#include "kernels/reference/reference.h"

#include <math.h>

#include "mem/device_cpu.h"

static double element(const float *x, size_t rows, size_t columns, bool transposed, size_t row, size_t column)
{
    return (double)(transposed ? x[column * rows + row] : x[row * columns + column]);
}

static void matmul(struct stream *stream, const struct kernel_matmul *shape, device_address c_at, device_address a_at,
                   device_address b_at, device_address bias_at)
{
    (void)stream;
    const size_t m = shape->m, n = shape->n, k = shape->k;
    const float *a = device_cpu_pointer(a_at), *b = device_cpu_pointer(b_at), *bias = device_cpu_pointer(bias_at);
    float *c = device_cpu_pointer(c_at);

    for (size_t row = 0; row < m; row++) {
        for (size_t column = 0; column < n; column++) {
            double sum = shape->accumulate ? (double)c[row * n + column] : 0;
            for (size_t i = 0; i < k; i++) {
                sum += element(a, m, k, shape->transpose_a, row, i) * element(b, k, n, shape->transpose_b, i, column);
            }
            if (bias_at != 0) {
                sum += (double)bias[column];
            }
            c[row * n + column] = (float)sum;
        }
    }
}

static void bias_backward(struct stream *stream, device_address dbias_at, device_address dy_at, size_t rows, size_t n)
{
    (void)stream;
    float *dbias = device_cpu_pointer(dbias_at);
    const float *dy = device_cpu_pointer(dy_at);

    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t row = 0; row < rows; row++) {
            sum += (double)dy[row * n + i];
        }
        dbias[i] = (float)((double)dbias[i] + sum);
    }
}

static void relu(struct stream *stream, device_address x_at, size_t count)
{
    (void)stream;
    float *x = device_cpu_pointer(x_at);

    for (size_t i = 0; i < count; i++) {
        if (x[i] < 0) { // so that NaN stays
            x[i] = 0;
        }
    }
}

static void relu_backward(struct stream *stream, device_address dx_at, device_address dy_at, device_address y_at,
                          size_t count)
{
    (void)stream;
    float *dx = device_cpu_pointer(dx_at);
    const float *dy = device_cpu_pointer(dy_at), *y = device_cpu_pointer(y_at);

    for (size_t i = 0; i < count; i++) {
        dx[i] = y[i] > 0 ? dy[i] : 0;
    }
}

#define GELU_SCALE 0.7978845608028654 // sqrt(2 / pi)
#define GELU_CUBIC 0.044715

static void gelu(struct stream *stream, device_address y_at, device_address x_at, size_t count)
{
    (void)stream;
    float *y = device_cpu_pointer(y_at);
    const float *x = device_cpu_pointer(x_at);

    for (size_t i = 0; i < count; i++) {
        double v = (double)x[i];
        double t = tanh(GELU_SCALE * (v + GELU_CUBIC * v * v * v));
        y[i] = (float)(0.5 * v * (1 + t));
    }
}

static void gelu_backward(struct stream *stream, device_address dx_at, device_address dy_at, device_address x_at,
                          size_t count)
{
    (void)stream;
    float *dx = device_cpu_pointer(dx_at);
    const float *dy = device_cpu_pointer(dy_at), *x = device_cpu_pointer(x_at);

    for (size_t i = 0; i < count; i++) {
        double v = (double)x[i];
        double t = tanh(GELU_SCALE * (v + GELU_CUBIC * v * v * v));
        double dt = (1 - t * t) * GELU_SCALE * (1 + 3 * GELU_CUBIC * v * v);
        dx[i] = (float)((double)dy[i] * 0.5 * (1 + t + v * dt));
    }
}

static void add(struct stream *stream, device_address y_at, device_address a_at, device_address b_at, size_t count)
{
    (void)stream;
    float *y = device_cpu_pointer(y_at);
    const float *a = device_cpu_pointer(a_at), *b = device_cpu_pointer(b_at);

    for (size_t i = 0; i < count; i++) {
        y[i] = a[i] + b[i];
    }
}

static void layer_norm(struct stream *stream, device_address y_at, device_address mean_at, device_address rstd_at,
                       device_address x_at, device_address gamma_at, device_address beta_at, size_t rows,
                       size_t channels)
{
    (void)stream;
    float *y = device_cpu_pointer(y_at), *mean = device_cpu_pointer(mean_at), *rstd = device_cpu_pointer(rstd_at);
    const float *x = device_cpu_pointer(x_at), *gamma = device_cpu_pointer(gamma_at),
                *beta = device_cpu_pointer(beta_at);

    for (size_t row = 0; row < rows; row++) {
        double sum = 0, squares = 0;
        for (size_t i = 0; i < channels; i++) {
            sum += (double)x[row * channels + i];
        }
        double m = sum / (double)channels;
        for (size_t i = 0; i < channels; i++) {
            double centred = (double)x[row * channels + i] - m;
            squares += centred * centred;
        }
        double r = 1 / sqrt(squares / (double)channels + 1e-5);
        for (size_t i = 0; i < channels; i++) {
            double normal = ((double)x[row * channels + i] - m) * r;
            y[row * channels + i] = (float)(normal * (double)gamma[i] + (double)beta[i]);
        }
        mean[row] = (float)m;
        rstd[row] = (float)r;
    }
}

// With n = (x - mean) rstd and g = dy gamma: dx = rstd (g - mean(g) - n mean(g n)), means over the channels.
static void layer_norm_backward(struct stream *stream, device_address dx_at, device_address dgamma_at,
                                device_address dbeta_at, device_address dy_at, device_address x_at,
                                device_address mean_at, device_address rstd_at, device_address gamma_at, size_t rows,
                                size_t channels, bool accumulate)
{
    (void)stream;
    float *dx = device_cpu_pointer(dx_at), *dgamma = device_cpu_pointer(dgamma_at),
          *dbeta = device_cpu_pointer(dbeta_at);
    const float *dy = device_cpu_pointer(dy_at), *x = device_cpu_pointer(x_at), *mean = device_cpu_pointer(mean_at),
                *rstd = device_cpu_pointer(rstd_at), *gamma = device_cpu_pointer(gamma_at);

    for (size_t row = 0; row < rows; row++) {
        const double m = (double)mean[row], r = (double)rstd[row];
        double g_mean = 0, gn_mean = 0;
        for (size_t i = 0; i < channels; i++) {
            double normal = ((double)x[row * channels + i] - m) * r;
            double g = (double)dy[row * channels + i] * (double)gamma[i];
            g_mean += g / (double)channels;
            gn_mean += g * normal / (double)channels;
        }
        for (size_t i = 0; i < channels; i++) {
            double normal = ((double)x[row * channels + i] - m) * r;
            double g = (double)dy[row * channels + i] * (double)gamma[i];
            double before = accumulate ? (double)dx[row * channels + i] : 0;
            dx[row * channels + i] = (float)(before + r * (g - g_mean - normal * gn_mean));
        }
    }
    for (size_t i = 0; i < channels; i++) {
        double gamma_sum = 0, beta_sum = 0;
        for (size_t row = 0; row < rows; row++) {
            double d = (double)dy[row * channels + i];
            gamma_sum += d * ((double)x[row * channels + i] - (double)mean[row]) * (double)rstd[row];
            beta_sum += d;
        }
        dgamma[i] = (float)((double)dgamma[i] + gamma_sum);
        dbeta[i] = (float)((double)dbeta[i] + beta_sum);
    }
}

static void embedding(struct stream *stream, device_address y_at, device_address tokens_at, device_address wte_at,
                      device_address wpe_at, size_t batch, size_t length, size_t channels)
{
    (void)stream;
    float *y = device_cpu_pointer(y_at);
    const int32_t *tokens = device_cpu_pointer(tokens_at);
    const float *wte = device_cpu_pointer(wte_at), *wpe = device_cpu_pointer(wpe_at);

    for (size_t b = 0; b < batch; b++) {
        for (size_t t = 0; t < length; t++) {
            size_t row = b * length + t, token = (size_t)tokens[row];
            for (size_t i = 0; i < channels; i++) {
                y[row * channels + i] = wte[token * channels + i] + wpe[t * channels + i];
            }
        }
    }
}

// Added one row at a time in float32: the number of rows with one token is small, and gradients have no wider home.
static void embedding_backward(struct stream *stream, device_address dwte_at, device_address dwpe_at,
                               device_address dy_at, device_address tokens_at, size_t batch, size_t length,
                               size_t channels)
{
    (void)stream;
    float *dwte = device_cpu_pointer(dwte_at), *dwpe = device_cpu_pointer(dwpe_at);
    const float *dy = device_cpu_pointer(dy_at);
    const int32_t *tokens = device_cpu_pointer(tokens_at);

    for (size_t b = 0; b < batch; b++) {
        for (size_t t = 0; t < length; t++) {
            size_t row = b * length + t, token = (size_t)tokens[row];
            for (size_t i = 0; i < channels; i++) {
                dwte[token * channels + i] += dy[row * channels + i];
                dwpe[t * channels + i] += dy[row * channels + i];
            }
        }
    }
}

static double dot(const float *a, const float *b, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

// One head of one sample: rows of q, k, v and their gradients are 3C apart, those of y and dy C.
struct head {
    size_t length, width, stride, y_stride;
    const float *q, *k, *v, *dy;
    float *y, *lse, *dq, *dk, *dv;
};

static struct head head_at(size_t b, size_t h, size_t length, size_t channels, size_t heads, const float *qkv, float *y,
                           float *lse)
{
    const size_t width = channels / heads;
    const float *q = qkv + b * length * 3 * channels + h * width;

    return (struct head){
        .length = length,
        .width = width,
        .stride = 3 * channels,
        .y_stride = channels,
        .q = q,
        .k = q + channels,
        .v = q + 2 * channels,
        .y = y + b * length * channels + h * width,
        .lse = lse + (b * heads + h) * length,
    };
}

static double score(const struct head *head, size_t t, size_t s)
{
    return dot(head->q + t * head->stride, head->k + s * head->stride, head->width) / sqrt((double)head->width);
}

static double log_sum_exp_of_scores(const struct head *head, size_t t)
{
    double max = -INFINITY, sum = 0;
    for (size_t s = 0; s <= t; s++) {
        max = fmax(max, score(head, t, s));
    }
    for (size_t s = 0; s <= t; s++) {
        sum += exp(score(head, t, s) - max);
    }
    return max + log(sum);
}

static void head_forward(const struct head *head)
{
    for (size_t t = 0; t < head->length; t++) {
        const double lse = log_sum_exp_of_scores(head, t);
        for (size_t i = 0; i < head->width; i++) {
            double sum = 0;
            for (size_t s = 0; s <= t; s++) {
                sum += exp(score(head, t, s) - lse) * (double)head->v[s * head->stride + i];
            }
            head->y[t * head->y_stride + i] = (float)sum;
        }
        head->lse[t] = (float)lse;
    }
}

static void attention(struct stream *stream, device_address y_at, device_address lse_at, device_address qkv_at,
                      size_t batch, size_t length, size_t channels, size_t heads)
{
    (void)stream;
    for (size_t b = 0; b < batch; b++) {
        for (size_t h = 0; h < heads; h++) {
            struct head head = head_at(b, h, length, channels, heads, device_cpu_pointer(qkv_at),
                                       device_cpu_pointer(y_at), device_cpu_pointer(lse_at));
            head_forward(&head);
        }
    }
}

static double probability(const struct head *head, size_t t, size_t s)
{
    return exp(score(head, t, s) - (double)head->lse[t]);
}

// The gradient of score(t, s): p (dp - the mean of dp under p), and that mean is dy y.
static double score_gradient(const struct head *head, size_t t, size_t s)
{
    const float *y = head->y + t * head->y_stride, *dy = head->dy + t * head->y_stride;
    double dp = dot(dy, head->v + s * head->stride, head->width);
    return probability(head, t, s) * (dp - dot(dy, y, head->width));
}

static void head_backward(const struct head *head)
{
    const double scale = 1 / sqrt((double)head->width);

    for (size_t row = 0; row < head->length; row++) {
        for (size_t i = 0; i < head->width; i++) {
            double dq = 0, dk = 0, dv = 0;
            for (size_t s = 0; s <= row; s++) {
                dq += scale * score_gradient(head, row, s) * (double)head->k[s * head->stride + i];
            }
            for (size_t t = row; t < head->length; t++) {
                dk += scale * score_gradient(head, t, row) * (double)head->q[t * head->stride + i];
                dv += probability(head, t, row) * (double)head->dy[t * head->y_stride + i];
            }
            head->dq[row * head->stride + i] = (float)dq;
            head->dk[row * head->stride + i] = (float)dk;
            head->dv[row * head->stride + i] = (float)dv;
        }
    }
}

static void attention_backward(struct stream *stream, device_address dqkv_at, device_address dy_at,
                               device_address qkv_at, device_address y_at, device_address lse_at, size_t batch,
                               size_t length, size_t channels, size_t heads)
{
    (void)stream;
    const float *dy = device_cpu_pointer(dy_at);
    float *dqkv = device_cpu_pointer(dqkv_at);

    for (size_t b = 0; b < batch; b++) {
        for (size_t h = 0; h < heads; h++) {
            struct head head = head_at(b, h, length, channels, heads, device_cpu_pointer(qkv_at),
                                       device_cpu_pointer(y_at), device_cpu_pointer(lse_at));
            head.dy = dy + b * length * channels + h * head.width;
            head.dq = dqkv + b * length * 3 * channels + h * head.width;
            head.dk = head.dq + channels;
            head.dv = head.dk + channels;
            head_backward(&head);
        }
    }
}

static double log_sum_exp(const float *x, size_t count)
{
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < count; i++) {
        max = fmax(max, (double)x[i]);
    }
    for (size_t i = 0; i < count; i++) {
        sum += exp((double)x[i] - max);
    }
    return max + log(sum);
}

static size_t first_largest(const float *x, size_t count)
{
    size_t largest = 0;
    for (size_t i = 1; i < count; i++) {
        if (x[i] > x[largest]) {
            largest = i;
        }
    }
    return largest;
}

static void cross_entropy(struct stream *stream, device_address tally_at, device_address lse_at,
                          device_address logits_at, device_address targets_at, size_t rows, size_t classes,
                          size_t stride)
{
    (void)stream;
    struct kernel_tally *tally = device_cpu_pointer(tally_at);
    float *lse = device_cpu_pointer(lse_at);
    const float *logits = device_cpu_pointer(logits_at);
    const int32_t *targets = device_cpu_pointer(targets_at);

    for (size_t row = 0; row < rows; row++) {
        const float *x = logits + row * stride;
        double l = log_sum_exp(x, classes);
        lse[row] = (float)l;
        if (targets[row] != KERNEL_TARGET_NONE) {
            size_t target = (size_t)targets[row];
            tally->loss += l - (double)x[target];
            tally->count += 1;
            tally->correct += first_largest(x, classes) == target ? 1 : 0;
        }
    }
}

static void cross_entropy_backward(struct stream *stream, device_address logits_at, device_address lse_at,
                                   device_address targets_at, size_t rows, size_t classes, size_t stride)
{
    (void)stream;
    float *logits = device_cpu_pointer(logits_at);
    const float *lse = device_cpu_pointer(lse_at);
    const int32_t *targets = device_cpu_pointer(targets_at);

    for (size_t row = 0; row < rows; row++) {
        float *x = logits + row * stride;
        for (size_t i = 0; i < stride; i++) {
            if (targets[row] == KERNEL_TARGET_NONE || i >= classes) {
                x[i] = 0;
            } else {
                double onehot = i == (size_t)targets[row] ? 1 : 0;
                x[i] = (float)(exp((double)x[i] - (double)lse[row]) - onehot);
            }
        }
    }
}

static void sum_of_squares(struct stream *stream, device_address sum_at, device_address x_at, size_t count)
{
    (void)stream;
    double *sum = device_cpu_pointer(sum_at);
    const float *x = device_cpu_pointer(x_at);

    *sum = dot(x, x, count);
}

static void sgd(struct stream *stream, const struct kernel_sgd *args, device_address weights, device_address gradients,
                device_address velocity, size_t count)
{
    (void)stream;
    float *w = device_cpu_pointer(weights), *v = device_cpu_pointer(velocity);
    const float *g = device_cpu_pointer(gradients);

    for (size_t i = 0; i < count; i++) {
        double d = (double)args->gradient_scale * (double)g[i] + (double)args->weight_decay * (double)w[i];
        if (velocity != 0) {
            d += (double)args->momentum * (double)v[i];
            v[i] = (float)d;
        }
        w[i] = (float)((double)w[i] - (double)args->learning_rate * d);
    }
}

static void adamw(struct stream *stream, const struct kernel_adamw *args, device_address weights,
                  device_address gradients, device_address first_moment, device_address second_moment, size_t count)
{
    (void)stream;
    float *w = device_cpu_pointer(weights), *first = device_cpu_pointer(first_moment),
          *second = device_cpu_pointer(second_moment);
    const float *g = device_cpu_pointer(gradients);
    const double beta1 = (double)args->beta1, beta2 = (double)args->beta2, rate = (double)args->learning_rate;
    const double correction1 = 1 - pow(beta1, (double)args->step), correction2 = 1 - pow(beta2, (double)args->step);

    for (size_t i = 0; i < count; i++) {
        double d = (double)args->gradient_scale * (double)g[i];
        double m = beta1 * (double)first[i] + (1 - beta1) * d;
        double v = beta2 * (double)second[i] + (1 - beta2) * d * d;
        double decayed = (double)w[i] * (1 - rate * (double)args->weight_decay);
        w[i] = (float)(decayed - rate * (m / correction1) / (sqrt(v / correction2) + (double)args->epsilon));
        first[i] = (float)m;
        second[i] = (float)v;
    }
}

const struct kernels kernels_reference = {
    .name = "reference",
    .matmul = matmul,
    .bias_backward = bias_backward,
    .relu = relu,
    .relu_backward = relu_backward,
    .gelu = gelu,
    .gelu_backward = gelu_backward,
    .add = add,
    .layer_norm = layer_norm,
    .layer_norm_backward = layer_norm_backward,
    .embedding = embedding,
    .embedding_backward = embedding_backward,
    .attention = attention,
    .attention_backward = attention_backward,
    .cross_entropy = cross_entropy,
    .cross_entropy_backward = cross_entropy_backward,
    .sum_of_squares = sum_of_squares,
    .sgd = sgd,
    .adamw = adamw,
};
