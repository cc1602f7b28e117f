// SPDX-License-Identifier: Apache-2.0
//
// On the simulated GPU: what a training step uses is told to a sanitizer, which finds nothing, and each wait that it is
// not told of. The sums of buckets run beside the last micro-step, by NCCL.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "mem/device_cuda.h"
#include "mem/sanitizer.h"
#include "worker/step.h"
#include "worker/worker.h"

#define STEPS 6

#define COMMON                                                                                                         \
    "data: {kind: synthetic, samples: 64}\ndevice: {kind: cuda, sanitize: true}\ncomm: {bucket_bytes: 1KiB}\n"

#define GPT                                                                                                            \
    "model: {kind: gpt, vocab_size: 50, seq_len: 8, block_count: 1, head_count: 2, channels: 16}\n"                    \
    "optimizer: {kind: adamw}\n" COMMON

static const char gpt_fp32[] = GPT "train: {steps: 100, global_batch_size: 12, micro_batch_size: 5}\n";
static const char gpt_bf16[] = GPT "train: {steps: 100, global_batch_size: 12, micro_batch_size: 5, precision: bf16}\n";
static const char gpt_offload[] =
    "model: {kind: gpt, vocab_size: 50, seq_len: 8, block_count: 3, head_count: 2, channels: 16}\n"
    "optimizer: {kind: adamw}\n" COMMON
    "train: {steps: 100, global_batch_size: 12, micro_batch_size: 5, recompute: offload}\n";
static const char mlp[] = "model: {kind: mlp, layers: [16, 64, 64, 10]}\n"
                          "optimizer: {kind: sgd, momentum: 0.9}\n" COMMON
                          "train: {steps: 100, global_batch_size: 12, micro_batch_size: 5}\n";

struct fixture {
    struct config config;
    struct worker worker;
    struct comm *comm;
    uint64_t steps; // started
    bool away;      // the optimizer's state, in each of them
};

static void assert_ok(enum status status, const struct error *error)
{
    if (status != STATUS_OK) {
        fail_msg("%s", error->text);
    }
}

// One rank, but its gradients go through NCCL.
static void connect_by_nccl(struct worker *worker)
{
    struct error error = {0};
    const struct list *list = price_list(worker->prices, LIST_TRAIN, model_shape_max(worker->model, 1));
    assert_true(worker->buckets[1].ready < list->op_count);
    assert_ok(reduce_nccl.create(worker->comm, worker->device, worker->staging, &worker->reducer, &error), &error);
    worker->early_buckets = true;
}

static void open_fixture(struct fixture *f, const char *text)
{
    struct error error = {0};
    f->steps = 0;
    f->away = false;
    assert_ok(config_parse(&f->config, text, "text", NULL, 0, &error), &error);
    assert_ok(comm_self.create(&f->comm, &error), &error);
    assert_ok(worker_open(&f->worker, &f->config, f->comm, &error), &error);
    assert_ok(worker_hold(&f->worker, &error), &error);
    connect_by_nccl(&f->worker);
    assert_ok(step_plan_first(&f->worker, &error), &error);
}

static void close_fixture(struct fixture *f)
{
    worker_finish(&f->worker);
    f->comm->ops->destroy(f->comm);
    config_finish(&f->config);
}

static void start_step(struct fixture *f)
{
    struct error error = {0};
    assert_true(optimizer_state_move(&f->worker, f->away));
    assert_ok(step_start(&f->worker, f->steps++, &error), &error);
}

// As train.c does it: a step is finished while the next one is under way.
static enum status run(struct fixture *f, struct error *error)
{
    const struct step_result *result;
    enum status status = STATUS_OK;
    start_step(f);
    for (int i = 1; i < STEPS && status == STATUS_OK; i++) {
        assert_ok(step_plan_next(&f->worker, error), error);
        start_step(f);
        status = step_finish(&f->worker, &result, error);
    }
    return status == STATUS_OK ? step_finish(&f->worker, &result, error) : status;
}

static void a_step_is_in_order(void **state)
{
    static const char *const texts[] = {gpt_fp32, gpt_bf16, gpt_offload, mlp};
    (void)state;
    for (size_t i = 0; i < 2 * sizeof(texts) / sizeof(texts[0]); i++) {
        struct fixture f;
        struct error error = {0};
        open_fixture(&f, texts[i / 2]);
        f.away = i % 2 == 1;
        assert_ok(run(&f, &error), &error);
        assert_int_equal(sanitizer_findings(f.worker.device), 0);
        close_fixture(&f);
    }
}

// Waits that the sanitizer is not told of. The device waits all the same, so that nothing else goes wrong.
enum missing {
    OF_SUMS,
    FOR_SUMS,
    FOR_SAMPLES,
    OF_SAMPLES,
    OF_TRANSFERS,
    FOR_TRANSFERS,
    FOR_STATE,
    OF_STATE,
    OF_UPDATE,
    OF_HOST
};

static enum missing missing;
static const struct worker *watched;
static struct device_ops own; // the sanitizer's entries

static bool is_missing(const struct stream *stream, const struct event *event)
{
    const struct optimizer_state *state = &watched->state;
    if (event == state->filled[0] || event == state->filled[1]) {
        return missing == FOR_STATE;
    }
    if (event == state->emptied[0] || event == state->emptied[1]) {
        return missing == OF_STATE;
    }
    if (event == state->computed) {
        return missing == OF_UPDATE;
    }
    bool filled = event == watched->slot_filled[0] || event == watched->slot_filled[1];
    if (stream == watched->stream) {
        bool moved = event == watched->transfers.list.copied;
        return missing == (filled ? FOR_SAMPLES : moved ? FOR_TRANSFERS : FOR_SUMS);
    }
    if (stream == watched->transfers.list.stream) {
        return missing == OF_TRANSFERS;
    }
    return missing == (stream == watched->copy_stream ? OF_SAMPLES : OF_SUMS);
}

static void event_wait(struct device *device, struct stream *stream, struct event *event)
{
    (is_missing(stream, event) ? device_cuda : own).event_wait(device, stream, event);
}

static void event_synchronize(struct device *device, struct event *event)
{
    (missing == OF_HOST ? device_cuda : own).event_synchronize(device, event);
}

static void a_missing_wait_is_told_with_both_places(void **state)
{
    static const struct {
        const char *now, *before;
    } expected[] = {
        [OF_SUMS] = {"all-reduce on stream 4 writes bytes ", " on stream 1 writes without a dependency"},
        [FOR_SUMS] = {"sum_of_squares on stream 1 reads bytes ",
                      "of block 'gradients', which all-reduce on stream 4 writes without a dependency"},
        [FOR_SAMPLES] = {"embedding on stream 1 reads bytes ",
                         "of block 'micro-step', which copy_to_device on stream 2 writes without a dependency"},
        [OF_SAMPLES] = {"copy_to_device on stream 2 writes bytes ", " on stream 1 "},
        [OF_TRANSFERS] = {"copy_to_host on stream 3 reads bytes ", " on stream 1 writes without a dependency"},
        [FOR_TRANSFERS] = {" on stream 1 writes bytes ", "which copy_to_host on stream 3 reads without a dependency"},
        [FOR_STATE] = {"adamw on stream 1 writes bytes ", "which copy_to_device on stream 2 writes without"},
        [OF_STATE] = {"copy_to_device on stream 2 writes bytes ", "which adamw on stream 1 writes without"},
        [OF_UPDATE] = {"copy_to_host on stream 3 reads bytes ", "which adamw on stream 1 writes without"},
        [OF_HOST] = {"the step's values by the host reads bytes 0x",
                     ", which copy_to_host on stream 1 writes without a dependency"},
    };
    (void)state;
    for (missing = OF_SUMS; missing <= OF_HOST; missing++) {
        struct fixture f;
        struct error error = {0};
        open_fixture(&f, missing == OF_TRANSFERS || missing == FOR_TRANSFERS ? gpt_offload : gpt_bf16);
        f.away = missing >= FOR_STATE && missing <= OF_UPDATE;
        struct device_ops *table = (struct device_ops *)f.worker.device->ops; // the sanitizer's, which is memory
        watched = &f.worker;
        own = *table;
        table->event_wait = event_wait;
        table->event_synchronize = event_synchronize;
        assert_int_equal(run(&f, &error), STATUS_ERROR);
        if (strstr(error.text, expected[missing].now) == NULL || strstr(error.text, expected[missing].before) == NULL) {
            fail_msg("%d: %s", missing, error.text);
        }
        *table = own;
        close_fixture(&f);
    }
}

// Reads the bytes on the stream of copies, behind nothing, while a step is under way.
static void assert_told(const char *text, size_t offset, const char *block, const char *place)
{
    struct fixture f;
    struct error error = {0};
    char expected[128], value[4];
    open_fixture(&f, text);
    start_step(&f);
    struct device *device = f.worker.device;
    device_address address;
    memcpy(&address, (const char *)&f.worker + offset, sizeof(address));
    device->ops->copy_to_host(device, f.worker.copy_stream, value, address, sizeof(value));
    assert_int_equal(device->ops->check(device, &error), STATUS_ERROR);
    snprintf(expected, sizeof(expected), " of block '%s', which %s on stream 1 writes without", block, place);
    if (strstr(error.text, expected) == NULL) {
        fail_msg("%s", error.text);
    }
    close_fixture(&f);
}

static void the_update_is_told(void **state)
{
    (void)state;
    assert_told(gpt_bf16, offsetof(struct worker, optimizer_memory.parameters), "weights", "adamw");
    assert_told(gpt_bf16, offsetof(struct worker, optimizer_memory.copy), "weights' copy", "adamw");
    assert_told(gpt_bf16, offsetof(struct worker, optimizer_memory.states[0]), "optimizer state", "adamw");
    assert_told(gpt_bf16, offsetof(struct worker, optimizer_memory.states[1]), "optimizer state", "adamw");
    assert_told(mlp, offsetof(struct worker, optimizer_memory.parameters), "weights", "sgd");
    assert_told(mlp, offsetof(struct worker, optimizer_memory.states[0]), "optimizer state", "sgd");
    assert_told(mlp, offsetof(struct worker, values), "sums", "gradient_scale");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_in_order),
        cmocka_unit_test(a_missing_wait_is_told_with_both_places),
        cmocka_unit_test(the_update_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
