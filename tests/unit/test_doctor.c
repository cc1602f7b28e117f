// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "worker/doctor/doctor.h"

#define RANKS          2
#define STEPS_AT_FIRST 3 // that do not count

static const char config_text[] =
    "model: {kind: gpt, vocab_size: 8, seq_len: 4, block_count: 1, head_count: 1, channels: 8}\n"
    "train: {steps: 10, global_batch_size: 8, micro_batch_size: 4, recompute: none}\n"
    "optimizer: {kind: sgd, learning_rate: 0.1}\n"
    "data: {kind: synthetic, samples: 100}\n";

static int set_up(void **state)
{
    static struct config config;
    struct error error = {.text = ""};
    assert_int_equal(config_parse(&config, config_text, "test", NULL, 0, &error), STATUS_OK);
    *state = &config;
    return 0;
}

static int tear_down(void **state)
{
    config_finish(*state);
    return 0;
}

static struct record_rank healthy_rank(void)
{
    return (struct record_rank){
        .share = 4,
        .micro_batch = 4,
        .accumulation_steps = 1,
        .levers = "none",
        .limit_bytes = 1000,
        .headroom_bytes = 500,
        .allocated_peak_bytes = 900,
        .reserved_peak_bytes = 1000,
    };
}

// So many steps from `first` on, of which rank 1 is as given.
static void show(struct doctor *doctor, uint64_t first, uint64_t count, struct record_rank odd)
{
    struct record_rank ranks[RANKS] = {healthy_rank(), odd};
    for (uint64_t i = 0; i < count; i++) {
        const struct record_step step = {.step = first + i, .step_ms = 10, .ranks = {ranks, RANKS}};
        assert_true(doctor_step(doctor, &step));
    }
}

static void assert_found(const struct doctor *doctor, int expected)
{
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        assert_int_equal(doctor_find(doctor, k).found, (int)k == expected);
    }
}

// A rank at the allowed figure of each cause, and just above it.
static struct record_rank allowed_rank(enum doctor_cause cause, bool above)
{
    struct record_rank rank = healthy_rank();
    if (cause == DOCTOR_KEPT) {
        rank.kept_bytes = above;
    } else if (cause == DOCTOR_BATCH) {
        rank.micro_batch = 4 - above;
    } else if (cause == DOCTOR_DATA) {
        rank.data_wait_ms = above ? 1.001 : 1;
    } else if (cause == DOCTOR_FRAGMENTATION) {
        rank.fragmented_bytes = 100 + above;
    }
    return rank;
}

static void test_what_is_allowed(void **state)
{
    static const enum doctor_cause causes[] = {DOCTOR_KEPT, DOCTOR_BATCH, DOCTOR_DATA, DOCTOR_FRAGMENTATION};
    for (size_t i = 0; i < sizeof(causes) / sizeof(causes[0]); i++) {
        for (int above = 0; above <= 1; above++) {
            struct doctor *doctor = doctor_create(*state);
            show(doctor, 0, STEPS_AT_FIRST + 20, allowed_rank(causes[i], above));
            assert_found(doctor, above ? (int)causes[i] : -1);
            if (above) {
                struct doctor_finding finding = doctor_find(doctor, causes[i]);
                assert_int_equal(finding.rank, 1);
                assert_int_equal(finding.first, STEPS_AT_FIRST);
                assert_int_equal(finding.last, STEPS_AT_FIRST + 19);
                assert_int_equal(finding.steps, 20);
            }
            doctor_destroy(doctor);
        }
    }
}

// Micro-steps take all but 250 of a headroom of 500; with a size that is asked for that is no finding.
static void test_intermediates(void **state)
{
    struct config config = *(const struct config *)*state;
    struct record_rank rank = healthy_rank();
    rank.micro_batch = 2;
    rank.accumulation_steps = 2;
    for (int above = 0; above <= 1; above++) {
        rank.allocated_peak_bytes = (uint64_t)(750 + above);
        config.train.micro_batch_size = 0;
        struct doctor *doctor = doctor_create(&config);
        show(doctor, 0, STEPS_AT_FIRST + 20, rank);
        assert_found(doctor, above ? DOCTOR_INTERMEDIATES : -1);
        doctor_destroy(doctor);
    }
    config.train.recompute = CONFIG_RECOMPUTE_AUTO;
    struct doctor *doctor = doctor_create(&config);
    show(doctor, 0, STEPS_AT_FIRST + 20, rank);
    assert_found(doctor, -1);
    doctor_destroy(doctor);
}

// As many steps as DOCTOR_STEPS, and a quarter of all; two where blocks stay.
static void test_how_many_steps_it_takes(void **state)
{
    struct record_rank slow = allowed_rank(DOCTOR_DATA, true);
    struct doctor *doctor = doctor_create(*state);
    show(doctor, 0, STEPS_AT_FIRST + DOCTOR_STEPS - 1, slow);
    assert_found(doctor, -1);
    show(doctor, 10, 1, slow);
    assert_found(doctor, DOCTOR_DATA);
    show(doctor, 11, 3 * DOCTOR_STEPS, healthy_rank());
    assert_found(doctor, DOCTOR_DATA);
    show(doctor, 35, 1, healthy_rank());
    assert_found(doctor, -1);
    show(doctor, 36, 1, allowed_rank(DOCTOR_KEPT, true));
    assert_found(doctor, -1);
    show(doctor, 37, 1, allowed_rank(DOCTOR_KEPT, true));
    assert_found(doctor, DOCTOR_KEPT);
    doctor_destroy(doctor);
}

static void test_first_steps_of_a_process(void **state)
{
    struct doctor *doctor = doctor_create(*state);
    for (uint64_t i = 0; i < 10; i++) {
        doctor_begin(doctor);
        show(doctor, STEPS_AT_FIRST * i, STEPS_AT_FIRST, allowed_rank(DOCTOR_KEPT, true));
    }
    assert_found(doctor, -1);
    doctor_destroy(doctor);
}

static void test_tags_tell_gradients_from_others(void **state)
{
    struct doctor *doctor = doctor_create(*state);
    show(doctor, 0, STEPS_AT_FIRST + 2, allowed_rank(DOCTOR_KEPT, true));
    doctor_tag(doctor, 1, "gradients", 10);
    assert_found(doctor, DOCTOR_GRADIENTS);
    assert_string_equal(doctor_find(doctor, DOCTOR_GRADIENTS).tag, "gradients");
    doctor_tag(doctor, 1, "logits", 20); // of the most bytes
    assert_found(doctor, DOCTOR_KEPT);
    assert_string_equal(doctor_find(doctor, DOCTOR_KEPT).tag, "logits");
    doctor_tag(doctor, RANKS, "gradients", 30); // there is no such rank
    assert_found(doctor, DOCTOR_KEPT);
    doctor_destroy(doctor);
}

// It is what a run that ended for want of memory has, if it has nothing else.
static void test_a_sample_too_large(void **state)
{
    const struct record_end end = {.step = 5, .status = STATUS_OUT_OF_MEMORY};
    char fix[DOCTOR_FIX_MAX];
    struct doctor *doctor = doctor_create(*state);
    doctor_end(doctor, &end);
    assert_found(doctor, DOCTOR_BATCH);
    assert_non_null(strstr(doctor_fix(doctor, DOCTOR_BATCH, fix), "not a single sample fits"));
    show(doctor, 0, STEPS_AT_FIRST + 2, allowed_rank(DOCTOR_KEPT, true));
    assert_found(doctor, DOCTOR_KEPT);
    doctor_begin(doctor);
    doctor_end(doctor, &(struct record_end){.step = 5, .status = STATUS_OK});
    assert_found(doctor, DOCTOR_KEPT);
    doctor_destroy(doctor);
}

static void test_more_ranks_when_it_goes_on(void **state)
{
    struct record_rank ranks[3] = {healthy_rank(), healthy_rank(), allowed_rank(DOCTOR_FRAGMENTATION, true)};
    struct doctor *doctor = doctor_create(*state);
    show(doctor, 0, STEPS_AT_FIRST, healthy_rank());
    for (uint64_t i = 0; i < 8; i++) {
        const struct record_step step = {.step = STEPS_AT_FIRST + i, .step_ms = 10, .ranks = {ranks, 3}};
        assert_true(doctor_step(doctor, &step));
    }
    assert_found(doctor, DOCTOR_FRAGMENTATION);
    assert_int_equal(doctor_find(doctor, DOCTOR_FRAGMENTATION).rank, 2);
    doctor_destroy(doctor);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_allowed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_intermediates, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_how_many_steps_it_takes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_first_steps_of_a_process, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_tags_tell_gradients_from_others, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_sample_too_large, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_more_ranks_when_it_goes_on, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
