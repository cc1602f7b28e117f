// SPDX-License-Identifier: Apache-2.0
//
// On the simulated GPU: a steady training step asks the device for no memory, and the host waits for it at most once.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "simulator.h"
#include "worker/step.h"
#include "worker/worker.h"

#define STEPS  10
#define STEADY 4 // steps before the first that is counted

static const char text[] =
    "model: {kind: gpt, vocab_size: 50, seq_len: 8, block_count: 3, head_count: 2, channels: 16}\n"
    "train: {steps: 100, global_batch_size: 12, micro_batch_size: 4, precision: bf16}\n"
    "optimizer: {kind: adamw}\n"
    "data: {kind: synthetic, samples: 64}\n"
    "device: {kind: cuda}\n";

static void check_steps(char *recompute)
{
    struct config config;
    struct worker worker;
    struct comm *comm;
    struct error error = {0};
    const struct step_result *result;
    assert_int_equal(config_parse(&config, text, "text", &recompute, 1, &error), STATUS_OK);
    assert_int_equal(comm_self.create(&comm, &error), STATUS_OK);
    if (worker_open(&worker, &config, comm, &error) != STATUS_OK || worker_hold(&worker, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
    assert_int_equal(worker_connect(&worker, &error), STATUS_OK);
    assert_int_equal(step_plan_first(&worker, &error), STATUS_OK);
    for (uint64_t step = 0; step < STEPS; step++) {
        simulator_reset_counters();
        assert_int_equal(step_start(&worker, step, &error), STATUS_OK);
        assert_int_equal(step_plan_next(&worker, &error), STATUS_OK);
        if (step > 0) {
            assert_int_equal(step_finish(&worker, &result, &error), STATUS_OK);
            assert_int_equal(result->step, step - 1);
        }
        if (step >= STEADY) {
            assert_int_equal(simulator_device_calls(), 0);
            assert_true(simulator_host_synchronizations() <= 1);
            assert_true(simulator_launches() > 3 * 20); // micro-steps of more operations than that
        }
    }
    assert_int_equal(step_finish(&worker, &result, &error), STATUS_OK);
    worker_finish(&worker);
    comm->ops->destroy(comm);
    config_finish(&config);
}

static void a_steady_step_is_quiet(void **state)
{
    (void)state;
    check_steps("train.recompute=auto");
    check_steps("train.recompute=offload");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_steady_step_is_quiet)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
