// SPDX-License-Identifier: Apache-2.0
#include "worker/generate/sampler.h"

#include <math.h>
#include <string.h>

static size_t most_likely(const float *logits, size_t count)
{
    size_t best = 0;
    for (size_t i = 1; i < count; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

static void exchange(float *a, float *b)
{
    float held = *a;
    *a = *b;
    *b = held;
}

// Puts those above the middle one in front of it, and answers how many these are and how many equal it.
static size_t split(float *values, size_t count, size_t *equal_p)
{
    const float pivot = values[count / 2];
    size_t above = 0, read = 0, below = count;
    while (read < below) {
        if (values[read] > pivot) {
            exchange(&values[above++], &values[read++]);
        } else if (values[read] < pivot) {
            exchange(&values[read], &values[--below]);
        } else {
            read++;
        }
    }
    *equal_p = below - above;
    return above;
}

// The `rank`-th largest, from 1; the values change places. Hoare, "Algorithm 65: find" (1961).
static float find_largest(float *values, size_t count, size_t rank)
{
    for (;;) {
        size_t equal, above = split(values, count, &equal);
        if (rank <= above) {
            count = above;
        } else if (rank <= above + equal) {
            return values[above];
        } else {
            values += above + equal;
            count -= above + equal;
            rank -= above + equal;
        }
    }
}

// e^(logit / temperature), relative to the largest.
static double weight_of(float logit, float largest, double temperature)
{
    return exp(((double)logit - (double)largest) / temperature);
}

size_t sampler_choose(const struct sampler *sampler, const float *logits, size_t count, double chance, float *scratch)
{
    const size_t best = most_likely(logits, count);
    if (sampler->temperature == 0) {
        return best;
    }
    float least = -INFINITY;
    if (sampler->top_k > 0 && sampler->top_k < count) {
        memcpy(scratch, logits, count * sizeof(*logits));
        least = find_largest(scratch, count, sampler->top_k);
    }
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += logits[i] >= least ? weight_of(logits[i], logits[best], sampler->temperature) : 0;
    }
    double left = chance * sum;
    for (size_t i = 0; i < count; i++) {
        double weight = logits[i] >= least ? weight_of(logits[i], logits[best], sampler->temperature) : 0;
        if (left < weight) {
            return i;
        }
        left -= weight;
    }
    return best; // rounding left nothing
}
