// SPDX-License-Identifier: Apache-2.0
//
// The optimizers, held on every device to a float64 implementation of PyTorch's formulas, their copies of the weights,
// and the learning rate at exact steps.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "every_target.h"
#include "host_memory.h"
#include "kernels/bfloat16.h"
#include "model/optimizer.h"

#define SEED  UINT64_C(20241104)
#define STEPS 25

static const struct model_config gpt = {
    .kind = MODEL_GPT, .gpt = {.vocab_size = 11, .seq_len = 5, .blocks = 2, .heads = 2, .channels = 6}};

// The model's buffers, as they are on the target after a step, and the same in float64.
struct training {
    struct target *target;
    struct model *model;
    uint64_t random;
    float *weights, *gradients, *states[OPTIMIZER_STATES_MAX];
    uint16_t *copy; // where the precision is bfloat16, else NULL
    double *expected, *expected_states[OPTIMIZER_STATES_MAX];
    bool *decays;
};

static void training_init(struct training *training, struct target *target)
{
    struct model_config config = gpt;
    config.precision = target_precision(target);
    *training = (struct training){.target = target, .random = SEED};
    assert_int_equal(model_create(&config, &training->model, NULL), STATUS_OK);
    size_t elements = training->model->elements;
    training->weights = host_array(4 * elements, 0);
    training->gradients = host_array(4 * elements, 0);
    training->copy =
        model_copy_bytes(training->model) == 0 ? NULL : host_array(model_copy_bytes(training->model), 0xff);
    training->expected = host_array(8 * elements, 0);
    training->decays = host_array(elements * sizeof(bool), 0);
    for (size_t i = 0; i < OPTIMIZER_STATES_MAX; i++) {
        training->states[i] = host_array(4 * elements, 0);
        training->expected_states[i] = host_array(8 * elements, 0);
    }
}

static void training_finish(struct training *training)
{
    for (size_t i = 0; i < OPTIMIZER_STATES_MAX; i++) {
        free(training->states[i]);
        free(training->expected_states[i]);
    }
    free(training->decays);
    free(training->expected);
    free(training->copy);
    free(training->gradients);
    free(training->weights);
    model_destroy(training->model);
}

static bool name_ends_with(const struct parameter *parameter, const char *end)
{
    size_t length = strlen(parameter->name), end_length = strlen(end);
    return length >= end_length && strcmp(parameter->name + length - end_length, end) == 0;
}

// GPT-2's custom: matrices decay; biases and the gains of layer norms do not.
static bool decays_by_custom(const struct parameter *parameter)
{
    return !name_ends_with(parameter, "bias") && strstr(parameter->name, "ln_") == NULL;
}

static void fill_weights(struct training *training)
{
    const struct model *model = training->model;
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        for (size_t k = 0; k < parameter->rows * parameter->columns; k++) {
            size_t element = parameter->offset + k;
            training->weights[element] = random_float(&training->random);
            training->expected[element] = (double)training->weights[element];
            training->decays[element] = decays_by_custom(parameter);
        }
    }
}

static void fill_gradients(struct training *training)
{
    const struct model *model = training->model;
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        for (size_t k = 0; k < parameter->rows * parameter->columns; k++) {
            training->gradients[parameter->offset + k] = 8 * random_float(&training->random);
        }
    }
}

// As a whole, or the second of three steps in parts.
static void make_step(struct training *training, const struct optimizer_config *config,
                      const struct optimizer_memory *memory, uint64_t step)
{
    const struct model *model = training->model;
    uint64_t part = step % 3 == 1 ? 64 * (1 + step % 2) : model->elements;
    for (uint64_t first = 0; first < model->elements; first += part) {
        struct optimizer_memory there = *memory;
        for (size_t i = 0; i < optimizer_state_count(config); i++) {
            there.states[i] += first * sizeof(float);
        }
        uint64_t count = part < model->elements - first ? part : model->elements - first;
        optimizer_step(config, model, training->target->context, &there, step, first, count);
    }
}

// A step by the sum of the gradients of `count` targets with that loss.
static void apply_tally(struct training *training, const struct optimizer_config *config, uint64_t step,
                        struct kernel_tally tally, double clip)
{
    struct target *target = training->target;
    struct kernel_context *context = target->context;
    uint64_t bytes = 4 * training->model->elements, copy_bytes = model_copy_bytes(training->model);
    size_t states = optimizer_state_count(config);
    double squares = NAN;
    float scale = NAN;
    device_address tally_at = target_copy_in(target, &tally, sizeof(tally));
    device_address squares_at = target_copy_in(target, &squares, sizeof(squares));
    struct optimizer_memory memory = {
        .parameters = target_copy_in(target, training->weights, bytes),
        .gradients = target_copy_in(target, training->gradients, bytes),
        .copy = training->copy == NULL ? 0 : target_copy_in(target, training->copy, copy_bytes),
        .scale = target_copy_in(target, &scale, sizeof(scale))};
    for (size_t i = 0; i < states; i++) {
        memory.states[i] = target_copy_in(target, training->states[i], bytes);
    }
    context->kernels->sum_of_squares(context, squares_at, memory.gradients, training->model->elements);
    context->kernels->gradient_scale(context, memory.scale, tally_at, squares_at, clip);
    make_step(training, config, &memory, step);
    for (size_t i = 0; i < states; i++) {
        target_copy_out(target, training->states[i], memory.states[i], bytes);
    }
    target_copy_out(target, training->weights, memory.parameters, bytes);
    if (training->copy != NULL) {
        target_copy_out(target, training->copy, memory.copy, copy_bytes);
    }
    mem_pool_free(target->pool, memory.gradients, target->stream);
    mem_pool_free(target->pool, memory.scale, target->stream);
    mem_pool_free(target->pool, squares_at, target->stream);
    mem_pool_free(target->pool, tally_at, target->stream);
}

static void apply_step(struct training *training, const struct optimizer_config *config, uint64_t step, double count)
{
    apply_tally(training, config, step, (struct kernel_tally){.loss = 1, .count = count}, 0);
}

// The copy is what the weights are when rounded.
static void assert_copied(const struct training *training)
{
    for (size_t i = 0; i < training->model->elements && training->copy != NULL; i++) {
        assert_int_equal(training->copy[i], bfloat16_from_float(training->weights[i]));
    }
}

static void expected_sgd(struct training *training, const struct optimizer_config *config, double rate, double scale)
{
    for (size_t i = 0; i < training->model->elements; i++) {
        double *weight = &training->expected[i], *velocity = &training->expected_states[0][i];
        double gradient = scale * (double)training->gradients[i] + config->weight_decay * *weight;
        *velocity = config->momentum * *velocity + gradient;
        *weight -= rate * *velocity;
    }
}

static void expected_adamw(struct training *training, const struct optimizer_config *config, uint64_t step, double rate,
                           double scale)
{
    for (size_t i = 0; i < training->model->elements; i++) {
        double *weight = &training->expected[i], gradient = scale * (double)training->gradients[i];
        double *first = &training->expected_states[0][i], *second = &training->expected_states[1][i];
        *first = config->beta1 * *first + (1 - config->beta1) * gradient;
        *second = config->beta2 * *second + (1 - config->beta2) * gradient * gradient;
        double mean = *first / (1 - pow(config->beta1, (double)(step + 1)));
        double variance = *second / (1 - pow(config->beta2, (double)(step + 1)));
        *weight *= 1 - (training->decays[i] ? rate * config->weight_decay : 0);
        *weight -= rate * mean / (sqrt(variance) + config->epsilon);
    }
}

// float32 loses 6e-8 of a weight at each step, and 1 - beta2 is 5e-5 off, of which the correction of the bias takes
// most back: of the way that a weight has gone, some 1e-6 remain.
#define TOLERANCE 3e-6

static void assert_follows(struct target *target, const struct optimizer_config *config)
{
    struct training training;
    training_init(&training, target);
    fill_weights(&training);
    for (uint64_t i = 0; i < STEPS; i++) {
        double count = (double)(8 + i), rate = optimizer_learning_rate(config, i);
        fill_gradients(&training);
        apply_step(&training, config, i, count);
        if (config->kind == OPTIMIZER_SGD) {
            expected_sgd(&training, config, rate, 1 / count);
        } else {
            expected_adamw(&training, config, i, rate, 1 / count);
        }
        assert_copied(&training);
    }
    for (size_t i = 0; i < training.model->elements; i++) {
        double weight = (double)training.weights[i];
        if (!(fabs(weight - training.expected[i]) <= TOLERANCE)) {
            fail_msg("%s: weight %zu is %.8f, expected %.8f", target_name(target), i, weight, training.expected[i]);
        }
    }
    training_finish(&training);
}

static void check_sgd(struct target *target)
{
    struct optimizer_config config = {.kind = OPTIMIZER_SGD, .learning_rate = 0.05};
    assert_follows(target, &config);
    config.weight_decay = 0.1;
    assert_follows(target, &config);
    config.momentum = 0.9;
    assert_follows(target, &config);
    config.weight_decay = 0;
    assert_follows(target, &config);
}

static void test_sgd(void **state)
{
    (void)state;
    on_every_target(check_sgd);
}

static void check_adamw(struct target *target)
{
    struct optimizer_config config = {
        .kind = OPTIMIZER_ADAMW, .learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
    assert_follows(target, &config);
    config.weight_decay = 0.5;
    assert_follows(target, &config);
    config.beta1 = 0.8;
    config.beta2 = 0.95;
    config.epsilon = 1e-2;
    assert_follows(target, &config);
}

static void test_adamw(void **state)
{
    (void)state;
    on_every_target(check_adamw);
}

// The step's own learning rate is used, not that of the first.
static void check_schedule(struct target *target)
{
    struct optimizer_config config = {.kind = OPTIMIZER_SGD,
                                      .learning_rate = 0.1,
                                      .momentum = 0.5,
                                      .schedule = SCHEDULE_COSINE,
                                      .warmup_steps = 5,
                                      .steps = STEPS};
    assert_follows(target, &config);
    config.kind = OPTIMIZER_ADAMW;
    config.learning_rate = 0.01;
    config.beta1 = 0.9;
    config.beta2 = 0.999;
    config.epsilon = 1e-8;
    config.weight_decay = 0.1;
    assert_follows(target, &config);
}

static void test_follows_the_schedule(void **state)
{
    (void)state;
    on_every_target(check_schedule);
}

static void test_which_parameters_decay(void **state)
{
    (void)state;
    struct model *model;
    assert_int_equal(model_create(&gpt, &model, NULL), STATUS_OK);
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        uint64_t end = parameter->offset + parameter->rows * parameter->columns;
        assert_int_equal(parameter->decays, decays_by_custom(parameter));
        assert_true(parameter->decays ? end <= model->decaying_elements
                                      : parameter->offset >= model->decaying_elements);
    }
    model_destroy(model);
}

// One of each kind, with all the state that it may have.
static const struct optimizer_config decaying[] = {
    {.kind = OPTIMIZER_SGD, .learning_rate = 0.5, .weight_decay = 0.5},
    {.kind = OPTIMIZER_SGD, .learning_rate = 0.5, .weight_decay = 0.5, .momentum = 0.9},
    {.kind = OPTIMIZER_ADAMW, .learning_rate = 0.5, .weight_decay = 0.5, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8},
};
#define DECAYING (sizeof(decaying) / sizeof(decaying[0]))

// Where there is no gradient, AdamW shrinks what decays and leaves the rest; SGD shrinks everything.
static void check_decay_alone(struct target *target)
{
    for (size_t k = 0; k < DECAYING; k++) {
        struct training training;
        training_init(&training, target);
        fill_weights(&training);
        apply_step(&training, &decaying[k], 0, 1);
        for (size_t i = 0; i < training.model->elements; i++) {
            bool shrinks = decaying[k].kind == OPTIMIZER_SGD || training.decays[i];
            assert_true((double)training.weights[i] == (shrinks ? 0.75 : 1) * training.expected[i]);
        }
        assert_copied(&training);
        training_finish(&training);
    }
}

static void test_decay_alone(void **state)
{
    (void)state;
    on_every_target(check_decay_alone);
}

// Plain SGD moves the weights by the clipped gradient.
static void check_clipping(struct target *target)
{
    const struct optimizer_config config = {.kind = OPTIMIZER_SGD, .learning_rate = 1};
    struct training training;
    double squares = 0;
    training_init(&training, target);
    fill_gradients(&training); // the weights are 0
    apply_tally(&training, &config, 0, (struct kernel_tally){.loss = 1, .count = 3}, 0.25);
    for (size_t i = 0; i < training.model->elements; i++) {
        squares += pow((double)training.weights[i], 2);
    }
    assert_true(fabs(sqrt(squares) / 0.25 - 1) <= 1e-5);
    training_finish(&training);
}

static void test_the_clipped_gradient_is_applied(void **state)
{
    (void)state;
    on_every_target(check_clipping);
}

// Takes a step whose scale is not a number, after one that is: nothing may change, be the copy right or not.
static void check_skipped(struct target *target, const struct optimizer_config *config, struct kernel_tally tally,
                          float gradient)
{
    struct training training, before;
    training_init(&training, target);
    training_init(&before, target);
    uint64_t bytes = 4 * training.model->elements, copy_bytes = model_copy_bytes(training.model);
    fill_weights(&training);
    fill_gradients(&training);
    apply_step(&training, config, 0, 8);
    for (size_t i = 0; i < copy_bytes / 2; i++) {
        training.copy[i] = 0x5555;
    }
    memcpy(before.weights, training.weights, bytes);
    memcpy(before.states[0], training.states[0], bytes);
    memcpy(before.states[1], training.states[1], bytes);
    training.gradients[5] = gradient;
    apply_tally(&training, config, 1, tally, 0);
    assert_memory_equal(training.weights, before.weights, bytes);
    assert_memory_equal(training.states[0], before.states[0], bytes);
    assert_memory_equal(training.states[1], before.states[1], bytes);
    for (size_t i = 0; i < copy_bytes / 2; i++) {
        assert_int_equal(training.copy[i], 0x5555);
    }
    training_finish(&before);
    training_finish(&training);
}

static void check_skipped_steps(struct target *target)
{
    for (size_t k = 0; k < DECAYING; k++) {
        check_skipped(target, &decaying[k], (struct kernel_tally){.loss = NAN, .count = 8}, 1);
        check_skipped(target, &decaying[k], (struct kernel_tally){.loss = INFINITY, .count = 8}, 1);
        check_skipped(target, &decaying[k], (struct kernel_tally){.loss = 1, .count = 8}, NAN);
        check_skipped(target, &decaying[k], (struct kernel_tally){.loss = 1, .count = 8}, -INFINITY);
    }
}

static void test_a_scale_that_is_not_finite_changes_nothing(void **state)
{
    (void)state;
    on_every_target(check_skipped_steps);
}

static void test_state_count(void **state)
{
    (void)state;
    struct optimizer_config config = {.kind = OPTIMIZER_SGD};
    assert_int_equal(optimizer_state_count(&config), 0);
    config.momentum = 0.9;
    assert_int_equal(optimizer_state_count(&config), 1);
    config = (struct optimizer_config){.kind = OPTIMIZER_ADAMW};
    assert_int_equal(optimizer_state_count(&config), 2);
}

// Schedules ---------------------------------------------------------------------------------------------------------

#define ROUNDING 1e-15

static void assert_rate(const struct optimizer_config *config, uint64_t step, double expected)
{
    double rate = optimizer_learning_rate(config, step);
    if (!(fabs(rate - expected) <= ROUNDING)) {
        fail_msg("the rate of step %u is %.17g, expected %.17g", (unsigned)step, rate, expected);
    }
}

static const struct optimizer_config scheduled = {
    .learning_rate = 0.5, .warmup_steps = 4, .steps = 12, .final_learning_rate = 0.1};

static void test_warmup_rises_to_the_rate(void **state)
{
    (void)state;
    static const enum optimizer_schedule schedules[] = {SCHEDULE_CONSTANT, SCHEDULE_COSINE, SCHEDULE_LINEAR};
    for (size_t i = 0; i < 3; i++) {
        struct optimizer_config config = scheduled;
        config.schedule = schedules[i];
        assert_rate(&config, 0, 0.125);
        assert_rate(&config, 1, 0.25);
        assert_rate(&config, 2, 0.375);
        assert_rate(&config, 3, 0.5);
        assert_rate(&config, 4, 0.5);
    }
}

static void test_constant_stays(void **state)
{
    (void)state;
    struct optimizer_config config = scheduled;
    config.schedule = SCHEDULE_CONSTANT;
    assert_rate(&config, 11, 0.5);
    assert_rate(&config, 12, 0.5);
    assert_rate(&config, 1000000, 0.5);
    config.warmup_steps = 0;
    assert_rate(&config, 0, 0.5);
}

static void test_cosine_falls_to_the_final_rate(void **state)
{
    (void)state;
    struct optimizer_config config = scheduled;
    config.schedule = SCHEDULE_COSINE;
    assert_rate(&config, 6, 0.3 + 0.2 * sqrt(0.5)); // a quarter of the way
    assert_rate(&config, 8, 0.3);
    assert_rate(&config, 10, 0.3 - 0.2 * sqrt(0.5));
    assert_rate(&config, 12, 0.1);
    assert_rate(&config, 13, 0.1);
}

static void test_linear_falls_to_the_final_rate(void **state)
{
    (void)state;
    struct optimizer_config config = scheduled;
    config.schedule = SCHEDULE_LINEAR;
    assert_rate(&config, 5, 0.45);
    assert_rate(&config, 6, 0.4);
    assert_rate(&config, 8, 0.3);
    assert_rate(&config, 11, 0.15);
    assert_rate(&config, 12, 0.1);
    assert_rate(&config, 1000, 0.1);
}

static void test_a_decay_without_room(void **state)
{
    (void)state;
    struct optimizer_config config = {.learning_rate = 0.5, .schedule = SCHEDULE_COSINE, .warmup_steps = 4, .steps = 4};
    assert_rate(&config, 3, 0.5);
    assert_rate(&config, 4, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sgd),
        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_follows_the_schedule),
        cmocka_unit_test(test_which_parameters_decay),
        cmocka_unit_test(test_decay_alone),
        cmocka_unit_test(test_the_clipped_gradient_is_applied),
        cmocka_unit_test(test_a_scale_that_is_not_finite_changes_nothing),
        cmocka_unit_test(test_state_count),
        cmocka_unit_test(test_warmup_rises_to_the_rate),
        cmocka_unit_test(test_constant_stays),
        cmocka_unit_test(test_cosine_falls_to_the_final_rate),
        cmocka_unit_test(test_linear_falls_to_the_final_rate),
        cmocka_unit_test(test_a_decay_without_room),
    };
    return cmocka_run_group_tests(tests, open_every_target, close_every_target);
}
