// SPDX-License-Identifier: Apache-2.0
//
// Parity with PyTorch: two models start from the weights and see the samples that tests/parity/make_golden.py has used,
// train with the CPU's kernels, and must have the losses and gradients that PyTorch has found in float64.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "host_memory.h"
#include "model/model.h"
#include "model/optimizer.h"

#define SEED 7

// What float32 gives: PyTorch's own is up to 1.2e-7 of a loss and 3.3e-6 of the root mean square of a gradient away
// from the files (make_golden.py --float32). A few times that.
#define LOSS_TOLERANCE     5e-7
#define GRADIENT_TOLERANCE 2e-5

struct experiment {
    const char *path;
    struct model_config model;
    struct optimizer_config optimizer;
    size_t batch;
    void (*sample)(uint64_t number, void *inputs, int32_t *targets);
};

struct training {
    const struct experiment *experiment;
    struct model *model;
    float *weights, *gradients, *states[OPTIMIZER_STATES_MAX];
    struct kernel_tally tally;
    struct list list; // of half a batch
    char *block;
};

static void training_init(struct training *training, const struct experiment *experiment)
{
    *training = (struct training){.experiment = experiment};
    assert_int_equal(model_create(&experiment->model, &training->model, NULL), STATUS_OK);
    const struct model *model = training->model;
    training->weights = host_array(4 * model->elements, 0);
    training->gradients = host_array(4 * model->elements, 0);
    for (size_t i = 0; i < OPTIMIZER_STATES_MAX; i++) {
        training->states[i] = host_array(4 * model->elements, 0);
    }
    assert_true(model_list(model, experiment->batch / 2, LIST_TRAIN, &training->list));
    training->block = host_array(training->list.block_bytes, 0xff);
    for (size_t i = 0; i < model->parameter_count; i++) {
        model_initial_values(model, i, SEED, training->weights + model->parameters[i].offset);
    }
}

static void training_finish(struct training *training)
{
    free(training->block);
    list_finish(&training->list);
    for (size_t i = 0; i < OPTIMIZER_STATES_MAX; i++) {
        free(training->states[i]);
    }
    free(training->gradients);
    free(training->weights);
    model_destroy(training->model);
}

static void run_micro_batch(struct training *training, uint64_t first)
{
    const struct list *list = &training->list;
    const struct model *model = training->model;
    char *inputs = training->block + list->tensors[list->inputs].offset_bytes;
    char *targets = training->block + list->tensors[list->targets].offset_bytes;
    for (uint64_t i = 0; i < training->experiment->batch / 2; i++) {
        training->experiment->sample(first + i, inputs + 4 * i * model->input_elements,
                                     (int32_t *)(void *)(targets + 4 * i * model->target_elements));
    }
    struct list_memory memory = {.parameters = address_of(training->weights),
                                 .gradients = address_of(training->gradients),
                                 .tally = address_of(&training->tally),
                                 .block = address_of(training->block)};
    list_run(list, kernels_find("cpu"), NULL, &memory);
}

static void compute_gradients(struct training *training, uint64_t step)
{
    uint64_t batch = training->experiment->batch;
    memset(training->gradients, 0, 4 * training->model->elements);
    training->tally = (struct kernel_tally){0};
    run_micro_batch(training, step * batch);
    run_micro_batch(training, step * batch + batch / 2);
}

static void apply_gradients(struct training *training, uint64_t step)
{
    const struct optimizer_config *optimizer = &training->experiment->optimizer;
    struct optimizer_memory memory = {.parameters = address_of(training->weights),
                                      .gradients = address_of(training->gradients)};
    for (size_t i = 0; i < optimizer_state_count(optimizer); i++) {
        memory.states[i] = address_of(training->states[i]);
    }
    optimizer_step(optimizer, training->model, kernels_find("cpu"), NULL, &memory, step, 1 / training->tally.count);
}

// Reading the golden file -------------------------------------------------------------------------------------------

static void check_loss(struct training *training, uint64_t step, double expected)
{
    if (step > 0) {
        apply_gradients(training, step - 1);
    }
    compute_gradients(training, step);
    double loss = training->tally.loss / training->tally.count;
    if (!(fabs(loss / expected - 1) <= LOSS_TOLERANCE)) {
        fail_msg("step %u: the loss is %.9f, PyTorch's %.9f", (unsigned)step, loss, expected);
    }
}

static const struct parameter *find_parameter(const struct model *model, const char *name)
{
    for (size_t i = 0; i < model->parameter_count; i++) {
        if (strcmp(model->parameters[i].name, name) == 0) {
            return &model->parameters[i];
        }
    }
    fail_msg("no parameter %s", name);
    return NULL;
}

// Answers the root mean square of the gradient's elements.
static double check_norm(const struct training *training, const struct parameter *parameter, double expected)
{
    size_t elements = parameter->rows_used * parameter->columns;
    double squares = 0;
    for (size_t i = 0; i < elements; i++) {
        squares += pow((double)training->gradients[parameter->offset + i], 2);
    }
    if (!(fabs(sqrt(squares) / expected - 1) <= GRADIENT_TOLERANCE)) {
        fail_msg("%s: the gradient's norm is %.9g, PyTorch's %.9g", parameter->name, sqrt(squares), expected);
    }
    return expected / sqrt((double)elements);
}

static void check_element(const struct training *training, const struct parameter *parameter, size_t element,
                          double expected, double rms)
{
    double gradient = (double)training->gradients[parameter->offset + element];
    if (!(fabs(gradient - expected) <= GRADIENT_TOLERANCE * rms)) {
        fail_msg("%s: element %zu of the gradient is %.9g, PyTorch's %.9g", parameter->name, element, gradient,
                 expected);
    }
}

static void follow(const struct experiment *experiment)
{
    struct training training;
    char line[256], name[64];
    double expected, rms = 0;
    size_t number, losses = 0, elements = 0;
    FILE *file = fopen(experiment->path, "r");
    assert_non_null(file);
    training_init(&training, experiment);
    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "loss %zu %lf", &number, &expected) == 2) {
            check_loss(&training, number, expected);
            losses++;
        } else if (sscanf(line, "norm %63s %lf", name, &expected) == 2) {
            rms = check_norm(&training, find_parameter(training.model, name), expected);
        } else if (sscanf(line, "gradient %63s %zu %lf", name, &number, &expected) == 3) {
            check_element(&training, find_parameter(training.model, name), number, expected, rms);
            elements++;
        } else {
            fail_msg("%s: cannot read: %s", experiment->path, line);
        }
    }
    assert_true(losses >= 10 && elements == 2 * 16 * training.model->parameter_count);
    training_finish(&training);
    fclose(file);
}

// The experiments ---------------------------------------------------------------------------------------------------

static uint64_t key_of_sample(uint64_t number)
{
    uint64_t key = SEED + number * UINT64_C(0x9e3779b97f4a7c15); // a place in SplitMix64's sequence
    return random_bits(&key);
}

// A class adds 0.5 to every tenth input.
static void mlp_sample(uint64_t number, void *inputs, int32_t *targets)
{
    uint64_t key = key_of_sample(number);
    float *values = inputs;
    *targets = (int32_t)random_below(&key, 10);
    for (int32_t i = 0; i < 1024; i++) {
        values[i] = (float)(random_bits(&key) >> 40) * 0x1p-24f - 0.5f + (i % 10 == *targets ? 0.5f : 0);
    }
}

// Each token follows from the one before, but for one in eight; one target does not count.
static void gpt_sample(uint64_t number, void *inputs, int32_t *targets)
{
    uint64_t key = key_of_sample(number);
    int32_t *tokens = inputs;
    uint64_t token = (random_bits(&key) >> 3) % 65;
    for (uint64_t t = 0; t < 16; t++) {
        uint64_t bits = random_bits(&key);
        tokens[t] = (int32_t)token;
        token = (bits % 8 == 0 ? bits >> 3 : 5 * token + 3) % 65;
        targets[t] = t == number % 16 ? KERNEL_TARGET_NONE : (int32_t)token;
    }
}

static void test_an_mlp_with_sgd(void **state)
{
    (void)state;
    static const struct experiment mlp = {
        .path = HEADROOM_SOURCE_DIR "/tests/parity/mlp.txt",
        .model = {.kind = MODEL_MLP, .mlp = {.sizes = {1024, 2048, 10}, .count = 3, .activation = MODEL_RELU}},
        .optimizer = {.kind = OPTIMIZER_SGD, .learning_rate = 0.01},
        .batch = 32,
        .sample = mlp_sample,
    };
    follow(&mlp);
}

static void test_a_gpt_with_adamw(void **state)
{
    (void)state;
    static const struct experiment gpt = {
        .path = HEADROOM_SOURCE_DIR "/tests/parity/gpt.txt",
        .model = {.kind = MODEL_GPT, .gpt = {.vocab_size = 65, .seq_len = 16, .blocks = 2, .heads = 2, .channels = 32}},
        .optimizer = {.kind = OPTIMIZER_ADAMW,
                      .learning_rate = 1e-3,
                      .weight_decay = 0.1,
                      .beta1 = 0.9,
                      .beta2 = 0.95,
                      .epsilon = 1e-8},
        .batch = 8,
        .sample = gpt_sample,
    };
    follow(&gpt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_mlp_with_sgd),
        cmocka_unit_test(test_a_gpt_with_adamw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
