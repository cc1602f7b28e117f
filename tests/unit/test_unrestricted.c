// SPDX-License-Identifier: Apache-2.0
//
// What levers would gain that the configuration forbids, on a made-up device whose micro-steps take SAMPLE_NS for each
// sample and something beside that, and under other levers as much more as their work is.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "mem/uint64.h"
#include "worker/job.h"
#include "worker/unrestricted.h"
#include "worker/worker.h"

#define SAMPLES   16
#define SAMPLE_NS UINT64_C(1000)

struct fixture {
    struct config config;
    struct model *model;
    struct price_book *prices;
    struct offers offers;
    struct unrestricted unrestricted;
    uint64_t length;
};

static struct fixture open_fixture(const char *recompute, uint64_t micro_batch)
{
    static const char text[] = "model: {kind: gpt, vocab_size: 65, seq_len: 32, block_count: 4, head_count: 2, "
                               "channels: 32}\n"
                               "optimizer: {kind: sgd, learning_rate: 0.1}\n"
                               "data: {kind: text, path: none}\n";
    struct fixture f;
    struct error error = {.text = ""};
    char whole[512];
    snprintf(whole, sizeof(whole), "%strain: {steps: 1, global_batch_size: %d, recompute: %s, micro_batch_size: %d}\n",
             text, SAMPLES, recompute, (int)micro_batch);
    if (micro_batch == 0) {
        snprintf(whole, sizeof(whole), "%strain: {steps: 1, global_batch_size: %d, recompute: %s}\n", text, SAMPLES,
                 recompute);
    }
    assert_int_equal(config_parse(&f.config, whole, "test", NULL, 0, &error), STATUS_OK);
    struct model_config model = job_model_config(&f.config);
    const struct optimizer_state_size state = {0};
    assert_int_equal(model_create(&model, &f.model, &error), STATUS_OK);
    f.prices = price_book_create(f.model, 1);
    f.length = f.model->target_elements;
    assert_int_equal(offers_init(&f.offers, &f.config, f.model, &state, f.prices, &error), STATUS_OK);
    assert_int_equal(unrestricted_init(&f.unrestricted, &f.config, f.model, &state, f.prices, &error), STATUS_OK);
    return f;
}

static void close_fixture(struct fixture *f)
{
    price_book_destroy(f->prices);
    model_destroy(f->model);
    config_finish(&f->config);
}

// Micro-steps of 1 and 2 samples, more than one of each.
static void measure(struct fixture *f, uint64_t levers, uint64_t overhead_ns)
{
    for (uint64_t i = 0; i < 16; i++) {
        uint64_t samples = 1 + i % 2, time_ns = overhead_ns + samples * SAMPLE_NS;
        offers_begin_step(&f->offers);
        unrestricted_begin_step(&f->unrestricted);
        offers_observe(&f->offers, levers, samples, time_ns);
        unrestricted_observe(&f->unrestricted, levers, samples, time_ns);
    }
}

static uint64_t block_bytes(const struct fixture *f, uint64_t levers, uint64_t samples)
{
    return price_block_bytes(f->prices, LIST_TRAIN, offers_shape(samples, f->length, levers));
}

static double gain(const struct fixture *f, uint64_t bytes)
{
    struct sched_report report = {0};
    struct sched_share share = {.samples = SAMPLES};
    offers_fill(&f->offers, f->length, bytes, &report);
    sched_share_cut(&report, &share);
    return unrestricted_gain(&f->unrestricted, &report, &share, false, f->length, bytes);
}

// How long the share takes under a set of levers; INFINITY: it does not fit.
static double share_ns(const struct fixture *f, uint64_t levers, uint64_t bytes, uint64_t overhead_ns)
{
    uint64_t fits = price_largest_fit(f->prices, LIST_TRAIN, offers_shape(0, f->length, levers), bytes,
                                      f->config.train.offload_bytes, SAMPLES);
    double work = f->unrestricted.offers.work[levers];
    if (fits == 0 || work == 0) {
        return INFINITY;
    }
    return work * (ceil((double)SAMPLES / (double)fits) * (double)overhead_ns + (double)(SAMPLES * SAMPLE_NS));
}

// Of what is allowed, no levers or a head in parts, the faster is in use; what comes after it may save time.
static double expected_gain(const struct fixture *f, uint64_t bytes, uint64_t overhead_ns)
{
    double none_ns = share_ns(f, MODEL_LEVERS_NONE, bytes, overhead_ns);
    double head_ns = share_ns(f, MODEL_LEVERS_HEAD, bytes, overhead_ns);
    double now_ns = fmin(none_ns, head_ns), best_ns = now_ns;
    for (uint64_t k = head_ns < none_ns ? MODEL_LEVERS_SELECTIVE : MODEL_LEVERS_HEAD; k < MODEL_LEVERS_COUNT; k++) {
        best_ns = fmin(best_ns, share_ns(f, k, bytes, overhead_ns));
    }
    return 1 - best_ns / now_ns;
}

static void assert_close(double value, double expected)
{
    if (!(value >= expected - 0.02 && value <= expected + 0.02)) {
        fail_msg("%g is not %g", value, expected);
    }
}

// The more a micro-step takes beside its samples, the more larger ones save.
static void larger_micro_batches_save_time(void **state)
{
    (void)state;
    double before = -1;
    for (uint64_t overhead_ns = 0; overhead_ns <= 8 * SAMPLE_NS; overhead_ns += SAMPLE_NS) {
        struct fixture f = open_fixture("none", 0);
        uint64_t bytes = block_bytes(&f, MODEL_LEVERS_NONE, 2) - 1;
        measure(&f, MODEL_LEVERS_NONE, overhead_ns);
        double saved = gain(&f, bytes);
        assert_close(saved, expected_gain(&f, bytes, overhead_ns));
        assert_true(saved >= before);
        before = saved;
        close_fixture(&f);
    }
    assert_true(before > 0.1);
}

static void where_memory_is_plenty_nothing_is_gained(void **state)
{
    (void)state;
    struct fixture f = open_fixture("none", 0);
    measure(&f, MODEL_LEVERS_NONE, 8 * SAMPLE_NS);
    assert_true(gain(&f, block_bytes(&f, MODEL_LEVERS_NONE, SAMPLES)) == 0);
    close_fixture(&f);
}

static void nothing_is_said_before_it_is_measured(void **state)
{
    (void)state;
    struct fixture f = open_fixture("none", 0);
    assert_true(gain(&f, block_bytes(&f, MODEL_LEVERS_NONE, 1)) == 0);
    close_fixture(&f);
}

static void a_size_that_is_asked_for_is_kept(void **state)
{
    (void)state;
    struct fixture f = open_fixture("none", 1);
    measure(&f, MODEL_LEVERS_NONE, 8 * SAMPLE_NS);
    assert_true(gain(&f, block_bytes(&f, MODEL_LEVERS_NONE, 2) - 1) == 0);
    close_fixture(&f);
}

static void all_is_gained_where_only_they_hold_a_sample(void **state)
{
    (void)state;
    struct fixture f = open_fixture("none", 0);
    uint64_t least = UINT64_MAX;
    for (uint64_t k = 0; k < MODEL_LEVERS_COUNT; k++) {
        least = uint64_min(least, block_bytes(&f, k, 1));
    }
    assert_true(least < block_bytes(&f, MODEL_LEVERS_HEAD, 1) && least < block_bytes(&f, MODEL_LEVERS_NONE, 1));
    assert_true(gain(&f, least) == 1);
    assert_true(gain(&f, least - 1) == 0);
    close_fixture(&f);
}

// Levers that come before those of the configuration take more memory: to forbid these is not what fills it.
static void what_takes_more_memory_is_no_gain(void **state)
{
    (void)state;
    struct fixture f = open_fixture("full", 0);
    measure(&f, MODEL_LEVERS_FULL, 0);
    assert_true(f.unrestricted.exists);
    assert_true(gain(&f, block_bytes(&f, MODEL_LEVERS_NONE, SAMPLES)) == 0);
    close_fixture(&f);
}

static void without_a_restriction_there_is_none(void **state)
{
    (void)state;
    static const char *const all[] = {"auto", "offload"};
    for (size_t i = 0; i < 2; i++) {
        struct fixture f = open_fixture(all[i], 0);
        assert_false(f.unrestricted.exists);
        assert_true(gain(&f, 1) == 0);
        close_fixture(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(larger_micro_batches_save_time),
        cmocka_unit_test(where_memory_is_plenty_nothing_is_gained),
        cmocka_unit_test(nothing_is_said_before_it_is_measured),
        cmocka_unit_test(a_size_that_is_asked_for_is_kept),
        cmocka_unit_test(all_is_gained_where_only_they_hold_a_sample),
        cmocka_unit_test(what_takes_more_memory_is_no_gain),
        cmocka_unit_test(without_a_restriction_there_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
