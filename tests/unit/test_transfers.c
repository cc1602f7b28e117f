// SPDX-License-Identifier: Apache-2.0
//
// Host memory for what is offloaded, and for the optimizer's state: it grows, steps have the same results with it, and
// where the host has none they go on without.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/samples.h"
#include "worker/step.h"

// Two samples fit where they are offloaded, or the optimizer's state is away, else one.
static const char text[] =
    "model: {kind: gpt, vocab_size: 256, seq_len: 64, block_count: 8, head_count: 2, channels: 32}\n"
    "train: {steps: 100, global_batch_size: 8, micro_batch_size: 2}\n"
    "optimizer: {kind: adamw}\n"
    "data: {kind: synthetic, samples: 64}\n"
    "device: {kind: cpu, capacity: 2112KiB}\n";

struct fixture {
    struct config config;
    struct worker worker;
    struct comm *comm;
    uint64_t step; // the next
};

static void assert_ok(enum status status, const struct error *error)
{
    if (status != STATUS_OK) {
        fail_msg("%s", error->text);
    }
}

static void open_fixture(struct fixture *f, char *override)
{
    struct error error = {0};
    assert_ok(config_parse(&f->config, text, "text", &override, override != NULL, &error), &error);
    assert_ok(comm_self.create(&f->comm, &error), &error);
    assert_ok(worker_open(&f->worker, &f->config, LIST_TRAIN, f->comm, &error), &error);
    assert_ok(worker_hold(&f->worker, &error), &error);
    assert_ok(worker_connect(&f->worker, &error), &error);
    f->step = 0;
}

static void close_fixture(struct fixture *f)
{
    worker_finish(&f->worker);
    f->comm->ops->destroy(f->comm);
    config_finish(&f->config);
}

// From now on the host has no memory for whoever asks.
static void empty_host(struct fixture *f)
{
    mem_pool_inject_failures(f->worker.staging, (struct mem_faults){.every = 1, .first = 1, .count = UINT64_MAX});
}

static void assert_planned(const struct fixture *f, uint64_t micro_batch, uint64_t levers)
{
    assert_int_equal(f->worker.plan[0].micro_batch, micro_batch);
    assert_int_equal(f->worker.plan[0].levers, levers);
}

static double step_loss(struct fixture *f)
{
    struct error error = {0};
    const struct step_result *result;
    assert_ok(step_start(&f->worker, f->step++, &error), &error);
    assert_ok(step_plan_next(&f->worker, &error), &error);
    assert_ok(step_finish(&f->worker, &result, &error), &error);
    assert_int_equal(result->samples, 8);
    return result->loss;
}

static double expected_loss(void)
{
    struct fixture f;
    struct error error = {0};
    open_fixture(&f, NULL);
    assert_ok(step_plan_first(&f.worker, &error), &error);
    assert_planned(&f, 2, MODEL_LEVERS_OFFLOAD);
    double loss = step_loss(&f);
    assert_planned(&f, 2, MODEL_LEVERS_OFFLOAD);
    close_fixture(&f);
    return loss;
}

static void what_the_host_lacks_is_a_no_to_the_plan(void **state)
{
    struct fixture f;
    struct error error = {0};
    (void)state;
    open_fixture(&f, NULL);
    empty_host(&f);
    assert_ok(step_plan_first(&f.worker, &error), &error);
    assert_planned(&f, 1, MODEL_LEVERS_FULL);
    assert_float_equal(step_loss(&f), expected_loss(), 1e-6);
    close_fixture(&f);
}

static void what_the_host_lacks_amid_a_step_stays_on_the_device(void **state)
{
    struct fixture f;
    struct error error = {0};
    (void)state;
    open_fixture(&f, NULL);
    assert_ok(step_plan_first(&f.worker, &error), &error);
    assert_planned(&f, 2, MODEL_LEVERS_OFFLOAD);
    f.worker.transfers.bytes = 0; // as if the step needed more than was planned
    empty_host(&f);
    assert_float_equal(step_loss(&f), expected_loss(), 1e-6);
    assert_int_equal(f.worker.messages[0].oom_retries, 0); // what fits without was chosen before
    assert_planned(&f, 1, MODEL_LEVERS_FULL);
    close_fixture(&f);
}

static void a_host_that_lacks_what_was_asked_for_ends_the_job(void **state)
{
    struct fixture f;
    struct error error = {0};
    (void)state;
    open_fixture(&f, "train.recompute=offload");
    empty_host(&f);
    assert_int_equal(step_plan_first(&f.worker, &error), STATUS_OUT_OF_MEMORY);
    assert_string_equal(error.text, "the host has no 131072 bytes for what is offloaded. Lower train.offload_bytes.");
    close_fixture(&f);
}

// Weights after as many steps, in which the state goes where `away` says, bit by bit.
static void train_weights(unsigned away, float **weights_p, uint64_t *elements_p)
{
    enum { STEPS = 6 };
    struct fixture f;
    struct error error = {0};
    const struct step_result *result;
    open_fixture(&f, "device.capacity=8MiB");
    struct worker *worker = &f.worker;
    assert_ok(step_plan_first(worker, &error), &error);
    for (uint64_t step = 0; step < STEPS; step++) {
        assert_true(optimizer_state_move(worker, away >> step & 1));
        assert_int_equal(worker->state.away, away >> step & 1);
        struct mem_pool_stats stats;
        mem_pool_stats(worker->pool, &stats);
        assert_int_equal(stats.allocated_bytes.current, worker->resting_bytes);
        assert_ok(step_start(worker, step, &error), &error);
        assert_ok(step_finish(worker, &result, &error), &error);
    }
    *elements_p = worker->model->elements;
    *weights_p = malloc(*elements_p * sizeof(float));
    worker->device->ops->copy_to_host(worker->device, worker->stream, *weights_p, worker->optimizer_memory.parameters,
                                      *elements_p * sizeof(float));
    close_fixture(&f);
}

static void wherever_the_state_is_a_step_has_the_same_bits(void **state)
{
    float *expected, *weights;
    uint64_t elements;
    (void)state;
    train_weights(0, &expected, &elements);
    const unsigned wheres[] = {0x3f, 0x2a, 0x15, 0x0c, 0x33};
    for (size_t i = 0; i < sizeof(wheres) / sizeof(wheres[0]); i++) {
        train_weights(wheres[i], &weights, &elements);
        assert_memory_equal(weights, expected, elements * sizeof(float));
        free(weights);
    }
    free(expected);
}

static void a_device_that_refuses_the_state_leaves_it_away(void **state)
{
    struct fixture f;
    (void)state;
    open_fixture(&f, "device.capacity=8MiB");
    assert_true(optimizer_state_move(&f.worker, true));
    uint64_t resting_bytes = f.worker.resting_bytes;
    mem_pool_inject_failures(f.worker.pool, (struct mem_faults){.every = 1, .first = 1, .count = 1});
    assert_false(optimizer_state_move(&f.worker, false));
    assert_true(f.worker.state.away);
    assert_int_equal(f.worker.resting_bytes, resting_bytes);
    assert_true(optimizer_state_move(&f.worker, false));
    assert_false(f.worker.state.away);
    close_fixture(&f);
}

static void before_a_job_ends_the_host_is_asked_again(void **state)
{
    static char *const recompute[] = {"train.recompute=none", "train.recompute=offload"};
    (void)state;
    for (size_t i = 0; i < sizeof(recompute) / sizeof(recompute[0]); i++) {
        struct fixture f;
        struct error error = {0};
        open_fixture(&f, recompute[i]);
        mem_pool_inject_failures(f.worker.staging, (struct mem_faults){.every = 1, .first = 1, .count = 1});
        assert_ok(step_plan_first(&f.worker, &error), &error);
        assert_float_equal(step_loss(&f), expected_loss(), 1e-6);
        close_fixture(&f);
    }
}

static void a_host_that_refused_is_asked_again_many_steps_later(void **state)
{
    enum { GROWTH = 4 }; // steps until a second sample is believed
    struct fixture f;
    struct error error = {0};
    (void)state;
    open_fixture(&f, NULL);
    mem_pool_inject_failures(f.worker.staging, (struct mem_faults){.every = 1, .first = 1, .count = 1});
    assert_ok(step_plan_first(&f.worker, &error), &error);
    for (int i = 0; i < OFFERS_REFUSED_STEPS; i++) {
        assert_planned(&f, 1, MODEL_LEVERS_FULL);
        step_loss(&f);
    }
    for (int i = 0; i < GROWTH; i++) {
        step_loss(&f);
    }
    assert_planned(&f, 2, MODEL_LEVERS_OFFLOAD);
    close_fixture(&f);
}

static void a_host_that_refuses_the_state_keeps_it_here(void **state)
{
    struct fixture f;
    struct error error = {0};
    (void)state;
    open_fixture(&f, "train.recompute=none"); // two samples fit where the state is away
    empty_host(&f);
    assert_int_equal(step_plan_first(&f.worker, &error), STATUS_OUT_OF_MEMORY);
    assert_non_null(strstr(error.text, " bytes for the optimizer's state. Lower train.offload_bytes."));
    assert_false(f.worker.state.away);
    close_fixture(&f);
}

static void state_that_never_fits_starts_away(void **state)
{
    struct fixture f;
    struct error error = {0};
    (void)state;
    open_fixture(&f, "device.capacity=1152KiB");
    assert_true(f.worker.state.away);
    assert_ok(step_plan_first(&f.worker, &error), &error);
    assert_planned(&f, 1, OFFERS_ALL);
    step_loss(&f);
    close_fixture(&f);
}

static void lists_and_the_state_share_what_they_may_take(void **state)
{
    struct fixture f;
    (void)state;
    open_fixture(&f, "train.offload_bytes=1MiB");
    assert_true(samples_hold_host(&f.worker, 1 << 20));
    assert_true(samples_send_state_away(&f.worker));
    assert_int_equal(f.worker.transfers.bytes, 0);
    assert_true(samples_hold_host(&f.worker, 64 << 10));
    assert_true(optimizer_state_move(&f.worker, false));
    assert_true(f.worker.state.staged != 0); // for the next time
    assert_true(samples_hold_host(&f.worker, 1 << 20));
    assert_true(f.worker.state.staged == 0);
    close_fixture(&f);
}

static void host_memory_grows(void **state)
{
    struct fixture f;
    struct mem_pool_stats before, after;
    (void)state;
    open_fixture(&f, NULL);
    struct transfers *transfers = &f.worker.transfers;
    mem_pool_stats(f.worker.staging, &before);
    assert_true(transfers_hold(transfers, 0));
    assert_null(transfers->list.host);
    for (uint64_t bytes = 512; bytes <= 1 << 20; bytes *= 2) {
        assert_true(transfers_hold(transfers, bytes));
        assert_true(transfers_hold(transfers, bytes / 2)); // as before
        assert_int_equal(transfers->bytes, bytes);
        memset(transfers->list.host, 1, bytes);
        mem_pool_stats(f.worker.staging, &after);
        assert_int_equal(after.allocated_bytes.current, before.allocated_bytes.current + bytes);
    }
    empty_host(&f);
    assert_true(transfers_hold(transfers, 1 << 20));
    memset(transfers->list.host, 2, 1 << 20);
    assert_false(transfers_hold(transfers, 2 << 20));
    assert_true(transfers_hold(transfers, 1 << 20)); // as before
    assert_int_equal(transfers->list.host[(1 << 20) - 1], 2);
    mem_pool_stats(f.worker.staging, &after);
    assert_int_equal(after.allocated_bytes.current, before.allocated_bytes.current + (1 << 20));
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_host_lacks_is_a_no_to_the_plan),
        cmocka_unit_test(what_the_host_lacks_amid_a_step_stays_on_the_device),
        cmocka_unit_test(a_host_that_lacks_what_was_asked_for_ends_the_job),
        cmocka_unit_test(wherever_the_state_is_a_step_has_the_same_bits),
        cmocka_unit_test(a_device_that_refuses_the_state_leaves_it_away),
        cmocka_unit_test(a_host_that_refuses_the_state_keeps_it_here),
        cmocka_unit_test(before_a_job_ends_the_host_is_asked_again),
        cmocka_unit_test(a_host_that_refused_is_asked_again_many_steps_later),
        cmocka_unit_test(state_that_never_fits_starts_away),
        cmocka_unit_test(lists_and_the_state_share_what_they_may_take),
        cmocka_unit_test(host_memory_grows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
