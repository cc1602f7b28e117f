// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "worker/doctor/doctor.h"

#define RANKS          2
#define STEPS_AT_FIRST DOCTOR_STEPS_AT_FIRST

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
    struct doctor_finding findings[DOCTOR_CAUSES];
    doctor_find(doctor, findings);
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        assert_int_equal(findings[k].found, (int)k == expected);
        assert_int_equal(findings[k].fix[0] != '\0', (int)k == expected);
    }
}

static struct doctor_finding find(const struct doctor *doctor, enum doctor_cause cause)
{
    struct doctor_finding findings[DOCTOR_CAUSES];
    doctor_find(doctor, findings);
    return findings[cause];
}

// A rank at the allowed figure of each cause, and just above it.
static struct record_rank allowed_rank(enum doctor_cause cause, bool above)
{
    struct record_rank rank = healthy_rank();
    if (cause == DOCTOR_GRADIENTS) {
        rank.kept_bytes = rank.kept_gradients_bytes = above;
    } else if (cause == DOCTOR_KEPT) {
        rank.kept_bytes = above;
    } else if (cause == DOCTOR_INTERMEDIATES) {
        rank.recompute_gain = above ? 0.11 : 0.1;
    } else if (cause == DOCTOR_BATCH) {
        rank.micro_batch = 4 - above;
    } else if (cause == DOCTOR_DATA) {
        rank.data_wait_ms = above ? 1.001 : 1;
    } else if (cause == DOCTOR_FRAGMENTATION) {
        rank.fragmented_bytes = 100 + above;
        rank.accumulation_steps = 2;
    }
    return rank;
}

static void test_what_is_allowed(void **state)
{
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        for (int above = 0; above <= 1; above++) {
            struct doctor *doctor = doctor_create(*state);
            show(doctor, 0, STEPS_AT_FIRST + 20, allowed_rank(k, above));
            assert_found(doctor, above ? (int)k : -1);
            if (above) {
                struct doctor_finding finding = find(doctor, k);
                uint64_t first = doctor_causes[k].is_bytes ? 0 : STEPS_AT_FIRST;
                assert_int_equal(finding.rank, 1);
                assert_int_equal(finding.first, first);
                assert_int_equal(finding.last, STEPS_AT_FIRST + 19);
                assert_int_equal(finding.steps, STEPS_AT_FIRST + 20 - first);
            }
            doctor_destroy(doctor);
        }
    }
}

static void test_pieces_that_nobody_needs_are_no_finding(void **state)
{
    struct record_rank rank = allowed_rank(DOCTOR_FRAGMENTATION, true);
    rank.accumulation_steps = 1;
    struct doctor *doctor = doctor_create(*state);
    show(doctor, 0, STEPS_AT_FIRST + 20, rank);
    assert_found(doctor, -1);
    doctor_destroy(doctor);
}

// Blocks that stay make pieces and small micro-batches, and recomputing makes room: one cause is named.
static void test_what_follows_from_another_cause_is_none(void **state)
{
    struct record_rank rank = allowed_rank(DOCTOR_BATCH, true);
    rank.recompute_gain = 0.11;
    struct doctor *doctor = doctor_create(*state);
    show(doctor, 0, STEPS_AT_FIRST + 20, rank);
    assert_found(doctor, DOCTOR_INTERMEDIATES);
    doctor_begin(doctor);
    rank.fragmented_bytes = 200;
    rank.accumulation_steps = 2;
    rank.kept_bytes = 1;
    show(doctor, 0, STEPS_AT_FIRST + 20, rank);
    assert_found(doctor, DOCTOR_KEPT);
    doctor_destroy(doctor);
}

// As many steps as DOCTOR_STEPS, and a quarter of all; one where blocks stay.
static void test_how_many_steps_it_takes(void **state)
{
    struct record_rank slow = allowed_rank(DOCTOR_DATA, true);
    struct doctor *doctor = doctor_create(*state);
    show(doctor, 0, STEPS_AT_FIRST + DOCTOR_STEPS - 1, slow);
    assert_found(doctor, -1);
    assert_int_equal(doctor_steps(doctor), DOCTOR_STEPS - 1);
    show(doctor, 10, 1, slow);
    assert_found(doctor, DOCTOR_DATA);
    show(doctor, 11, 3 * DOCTOR_STEPS, healthy_rank());
    assert_found(doctor, DOCTOR_DATA);
    show(doctor, 35, 1, healthy_rank());
    assert_found(doctor, -1);
    show(doctor, 36, 1, allowed_rank(DOCTOR_KEPT, true));
    assert_found(doctor, DOCTOR_KEPT);
    doctor_destroy(doctor);
}

// Neither its steps nor its end nor what stayed then speaks for the one that goes on, on fewer ranks.
static void test_a_process_before_is_forgotten(void **state)
{
    struct record_rank rank = healthy_rank();
    const struct record_step step = {.step = 50, .step_ms = 10, .ranks = {&rank, 1}};
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        struct doctor *doctor = doctor_create(*state);
        show(doctor, 0, 50, allowed_rank(k, true));
        doctor_tag(doctor, 1, "logits", 20);
        assert_found(doctor, (int)k);
        doctor_end(doctor, &(struct record_end){.step = 50, .status = STATUS_OUT_OF_MEMORY});
        doctor_begin(doctor);
        assert_int_equal(doctor_steps(doctor), 0);
        assert_found(doctor, -1);
        assert_true(doctor_step(doctor, &step));
        assert_found(doctor, -1);
        doctor_destroy(doctor);
    }
}

static void test_what_stays_is_named(void **state)
{
    struct record_rank both = allowed_rank(DOCTOR_KEPT, true);
    struct doctor *doctor = doctor_create(*state);
    both.kept_bytes = 30;
    both.kept_gradients_bytes = 20;
    show(doctor, 0, 1, both);
    doctor_tag(doctor, 1, "gradients", 20); // that is a cause's name already
    doctor_tag(doctor, 1, "norm", 4);
    doctor_tag(doctor, 1, "logits", 6);        // of the most bytes
    doctor_tag(doctor, RANKS, "weights", 100); // there is no such rank
    struct doctor_finding gradients = find(doctor, DOCTOR_GRADIENTS), kept = find(doctor, DOCTOR_KEPT);
    assert_true(gradients.found && kept.found);
    assert_true(gradients.figure == 20 && kept.figure == 10);
    assert_string_equal(gradients.tag, "");
    assert_string_equal(kept.tag, "logits");
    doctor_destroy(doctor);
}

// It is what a run that ended for want of memory has, if it has nothing else, and no others were on its devices.
static void test_a_sample_too_large(void **state)
{
    struct record_end end = {.step = 5, .status = STATUS_OUT_OF_MEMORY};
    struct record_rank beside = healthy_rank();
    struct doctor *doctor = doctor_create(*state);
    doctor_end(doctor, &end);
    assert_found(doctor, DOCTOR_BATCH);
    assert_non_null(strstr(find(doctor, DOCTOR_BATCH).fix, "not a single sample fits"));
    end.recompute_gain = 1;
    doctor_end(doctor, &end);
    assert_found(doctor, DOCTOR_INTERMEDIATES);
    assert_non_null(strstr(find(doctor, DOCTOR_INTERMEDIATES).fix, "train.recompute: auto"));
    beside.others_bytes = 1;
    show(doctor, 0, 5, beside);
    assert_found(doctor, -1);
    show(doctor, 5, 5, allowed_rank(DOCTOR_KEPT, true));
    assert_found(doctor, DOCTOR_KEPT);
    doctor_begin(doctor);
    doctor_end(doctor, &(struct record_end){.step = 5, .status = STATUS_OK});
    assert_found(doctor, -1);
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
    assert_int_equal(find(doctor, DOCTOR_FRAGMENTATION).rank, 2);
    doctor_destroy(doctor);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_allowed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pieces_that_nobody_needs_are_no_finding, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_follows_from_another_cause_is_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_how_many_steps_it_takes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_process_before_is_forgotten, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_stays_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_sample_too_large, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_more_ranks_when_it_goes_on, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
