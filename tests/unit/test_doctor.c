// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

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

static void end(struct doctor *doctor, const char *cause, bool recompute)
{
    doctor_end(doctor, &(struct record_end){.step = 5,
                                            .status = STATUS_OUT_OF_MEMORY,
                                            .shortage = {.rank = 1, cause, recompute, "Do that."}});
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
        rank.oom_retries = 1;
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

// The rank holds the micro-batch that is asked for, or all of its share, without levers.
static void test_pieces_that_nobody_needs_are_no_finding(void **state)
{
    struct record_rank rank = allowed_rank(DOCTOR_FRAGMENTATION, true);
    struct config config = *(const struct config *)*state;
    rank.oom_retries = 0;
    rank.share = 8;
    rank.accumulation_steps = 2;
    struct doctor *doctor = doctor_create(&config);
    show(doctor, 0, STEPS_AT_FIRST + 20, rank);
    assert_found(doctor, -1);
    doctor_begin(doctor);
    config.train.micro_batch_size = 0;
    show(doctor, 0, STEPS_AT_FIRST + 20, rank);
    assert_found(doctor, DOCTOR_FRAGMENTATION);
    doctor_begin(doctor);
    rank.micro_batch = 8;
    show(doctor, 0, STEPS_AT_FIRST + 20, rank);
    assert_found(doctor, -1);
    doctor_begin(doctor);
    snprintf(rank.levers, sizeof(rank.levers), "full");
    config.train.recompute = CONFIG_RECOMPUTE_AUTO;
    show(doctor, 0, STEPS_AT_FIRST + 20, rank);
    assert_found(doctor, DOCTOR_FRAGMENTATION);
    doctor_destroy(doctor);
}

// Blocks that stay lie between others, pieces leave no room for intermediates, and these none for a micro-batch: one
// cause is named.
static void test_what_follows_from_another_cause_is_none(void **state)
{
    struct record_rank rank = allowed_rank(DOCTOR_BATCH, true);
    struct doctor *doctor = doctor_create(*state);
    rank.recompute_gain = 0.11;
    show(doctor, 0, STEPS_AT_FIRST + 20, rank);
    assert_found(doctor, DOCTOR_INTERMEDIATES);
    doctor_begin(doctor);
    rank.fragmented_bytes = 101;
    show(doctor, 0, STEPS_AT_FIRST + 20, rank);
    assert_found(doctor, DOCTOR_FRAGMENTATION);
    doctor_begin(doctor);
    rank.kept_bytes = 1;
    show(doctor, 0, STEPS_AT_FIRST + 20, rank);
    assert_found(doctor, DOCTOR_KEPT);
    doctor_destroy(doctor);
}

// Rank 0 has more of it, but too seldom.
static void test_a_rank_hides_no_other(void **state)
{
    struct record_rank ranks[RANKS] = {healthy_rank(), allowed_rank(DOCTOR_DATA, true)};
    struct doctor *doctor = doctor_create(*state);
    for (uint64_t i = 0; i < 100; i++) {
        ranks[0].data_wait_ms = i % 5 == 0 ? 9 : 0;
        const struct record_step step = {.step = i, .step_ms = 10, .ranks = {ranks, RANKS}};
        assert_true(doctor_step(doctor, &step));
    }
    assert_found(doctor, DOCTOR_DATA);
    assert_int_equal(find(doctor, DOCTOR_DATA).rank, 1);
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
        end(doctor, "capacity", false);
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

// A step is timed on rank 0; the other waited longer.
static void test_no_more_than_all_of_a_step_is_waited(void **state)
{
    struct record_rank rank = healthy_rank();
    struct doctor *doctor = doctor_create(*state);
    rank.data_wait_ms = 30;
    show(doctor, 0, STEPS_AT_FIRST + 20, rank);
    assert_true(find(doctor, DOCTOR_DATA).figure == 1);
    doctor_destroy(doctor);
}

// What a file tells of an earlier process names nothing.
static void test_a_tag_of_what_is_not_found(void **state)
{
    struct doctor *doctor = doctor_create(*state);
    show(doctor, 0, 1, healthy_rank());
    doctor_tag(doctor, 0, "logits", 6);
    assert_string_equal(find(doctor, DOCTOR_KEPT).tag, "");
    doctor_destroy(doctor);
}

static bool is_unexplained(const struct doctor *doctor)
{
    struct doctor_finding findings[DOCTOR_CAUSES];
    doctor_find(doctor, findings);
    return doctor_unexplained(doctor, findings) != NULL;
}

static void test_memory_runs_out(void **state)
{
    static const struct {
        const char *cause;
        bool recompute;
        int found; // -1: it is none of the six
    } ends[] = {
        {"capacity", false, DOCTOR_BATCH},
        {"capacity", true, DOCTOR_INTERMEDIATES},
        {"fragmented", true, DOCTOR_FRAGMENTATION},
        {"pending", false, DOCTOR_FRAGMENTATION},
        {"external", true, DOCTOR_INTERMEDIATES},
        {"external", false, -1},
        {"injected", false, -1},
    };
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        struct doctor *doctor = doctor_create(*state);
        assert_null(doctor_shortage(doctor));
        end(doctor, ends[i].cause, ends[i].recompute);
        assert_found(doctor, ends[i].found);
        assert_string_equal(doctor_shortage(doctor)->cause, ends[i].cause);
        assert_int_equal(is_unexplained(doctor), ends[i].found < 0);
        if (ends[i].found >= 0) {
            struct doctor_finding finding = find(doctor, (enum doctor_cause)ends[i].found);
            assert_true(finding.ended);
            assert_int_equal(finding.rank, 1);
            assert_string_equal(finding.fix, "Do that.");
        }
        doctor_destroy(doctor);
    }
}

// Blocks that stay explain the end, other causes do not; and a run that ended otherwise has no such cause.
static void test_what_explains_an_end(void **state)
{
    struct doctor *doctor = doctor_create(*state);
    show(doctor, 0, 5, allowed_rank(DOCTOR_KEPT, true));
    end(doctor, "external", false);
    assert_found(doctor, DOCTOR_KEPT);
    assert_false(is_unexplained(doctor));
    end(doctor, "capacity", false);
    assert_found(doctor, DOCTOR_KEPT);
    doctor_begin(doctor);
    show(doctor, 0, STEPS_AT_FIRST + 20, allowed_rank(DOCTOR_DATA, true));
    end(doctor, "capacity", false);
    assert_true(find(doctor, DOCTOR_DATA).found && find(doctor, DOCTOR_BATCH).ended);
    doctor_begin(doctor);
    doctor_end(doctor, &(struct record_end){.step = 5, .status = STATUS_OK});
    assert_found(doctor, -1);
    assert_null(doctor_shortage(doctor));
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
        cmocka_unit_test_setup_teardown(test_a_rank_hides_no_other, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_how_many_steps_it_takes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_process_before_is_forgotten, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_stays_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_more_than_all_of_a_step_is_waited, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_tag_of_what_is_not_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_memory_runs_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_explains_an_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_more_ranks_when_it_goes_on, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
