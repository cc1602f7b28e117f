// SPDX-License-Identifier: Apache-2.0
//
// Which token comes next: against sorting, and against the probabilities that logits give.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "random_bits.h"
#include "worker/generate/sampler.h"

#define MOST 300

static int largest_first(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

// Many of them equal.
static void make_logits(uint64_t *bits, float *logits, size_t count)
{
    bool coarse = random_bits(bits) % 2 == 0;
    for (size_t i = 0; i < count; i++) {
        double logit = 8 * random_real(bits);
        logits[i] = (float)(coarse ? round(logit) : logit);
    }
}

// The least logit of those that may be chosen.
static float least_of(const float *logits, size_t count, size_t top_k)
{
    float sorted[MOST];
    memcpy(sorted, logits, count * sizeof(*logits));
    qsort(sorted, count, sizeof(*sorted), largest_first);
    return top_k == 0 || top_k >= count ? -INFINITY : sorted[top_k - 1];
}

// The sum of probabilities up to the chosen one passes the chance there.
static void check_choice(const struct sampler *sampler, const float *logits, size_t count, double chance, size_t chosen)
{
    float least = least_of(logits, count, sampler->top_k);
    double before = 0, own = 0, sum = 0;
    assert_true(chosen < count && logits[chosen] >= least);
    for (size_t i = 0; i < count; i++) {
        double weight = logits[i] >= least ? exp((double)logits[i] / sampler->temperature) : 0;
        before += i < chosen ? weight : 0;
        own = i == chosen ? weight : own;
        sum += weight;
    }
    assert_true(before / sum <= chance + 1e-9 && chance <= (before + own) / sum + 1e-9);
}

static void tokens_come_as_often_as_they_are_likely(void **unused)
{
    (void)unused;
    uint64_t bits = 5;
    for (int round = 0; round < 20000; round++) {
        float logits[MOST], scratch[MOST];
        size_t count = 1 + random_bits(&bits) % (round % 2 == 0 ? 5 : MOST);
        const struct sampler sampler = {.temperature = 0.05 + (1 + random_real(&bits)),
                                        .top_k = random_bits(&bits) % (count + 2)};
        double chance = (1 + random_real(&bits)) / 2;
        make_logits(&bits, logits, count);
        check_choice(&sampler, logits, count, chance, sampler_choose(&sampler, logits, count, chance, scratch));
    }
}

static void without_a_temperature_the_most_likely_comes(void **unused)
{
    (void)unused;
    const float logits[] = {1, 7, -3, 7, 2};
    float scratch[5];
    assert_int_equal(sampler_choose(&(struct sampler){0}, logits, 5, 0.99, scratch), 1);
    assert_int_equal(sampler_choose(&(struct sampler){.temperature = 1, .top_k = 1}, logits, 5, 0, scratch), 1);
    assert_int_equal(sampler_choose(&(struct sampler){.temperature = 1, .top_k = 1}, logits, 5, 0.999, scratch), 3);
    assert_int_equal(sampler_choose(&(struct sampler){.temperature = 1e-3}, logits, 5, 0.25, scratch), 1);
}

static void large_logits_do_not_overflow(void **unused)
{
    (void)unused;
    const float logits[] = {3e38F, 3e38F, -3e38F};
    float scratch[3];
    assert_int_equal(sampler_choose(&(struct sampler){.temperature = 1000}, logits, 3, 0.4, scratch), 0);
    assert_int_equal(sampler_choose(&(struct sampler){.temperature = 1000}, logits, 3, 0.6, scratch), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_come_as_often_as_they_are_likely),
        cmocka_unit_test(without_a_temperature_the_most_likely_comes),
        cmocka_unit_test(large_logits_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
