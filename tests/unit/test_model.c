// SPDX-License-Identifier: Apache-2.0
//
// What a model promises: its parameters and their first values, gradients that are those of its loss and sums over any
// cut of a batch, training that learns, and a GPT that looks at no later token, gives no probability to padding and
// keeps no T x T matrix. Whatever runs does so on every device, in both precisions.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "every_target.h"
#include "host_memory.h"
#include "kernels/bfloat16.h"
#include "model/model.h"
#include "model/ops.h"
#include "model/optimizer.h"

#define SEED UINT64_C(20241105)

static const struct model_config mlp = {.kind = MODEL_MLP,
                                        .mlp = {.sizes = {33, 50, 20, 10}, .count = 4, .activation = MODEL_RELU}};
static const struct model_config gpt = {
    .kind = MODEL_GPT, .gpt = {.vocab_size = 65, .seq_len = 12, .blocks = 2, .heads = 4, .channels = 32}};

#define SAMPLES 12

// A model, its buffers and SAMPLES samples for it. They lie on the host, and on the target while it works.
struct workplace {
    struct target *target;
    struct model *model;
    float *weights, *gradients, *states[OPTIMIZER_STATES_MAX];
    uint16_t *copy; // of the weights, where the precision is bfloat16, else NULL
    struct kernel_tally tally;
    double squares;            // of the gradients, found by the last step
    int32_t *inputs, *targets; // inputs are tokens or the bits of floats
};

static size_t classes_of(const struct model_config *config)
{
    return config->kind == MODEL_GPT ? config->gpt.vocab_size : config->mlp.sizes[config->mlp.count - 1];
}

static void fill_samples(struct workplace *workplace, uint64_t seed)
{
    const struct model *model = workplace->model;
    size_t inputs = SAMPLES * model->input_elements, targets = SAMPLES * model->target_elements;
    size_t classes = classes_of(&model->config);
    for (size_t i = 0; i < inputs; i++) {
        float value = random_float(&seed);
        workplace->inputs[i] = (int32_t)random_below(&seed, classes);
        if (model->config.kind == MODEL_MLP) {
            memcpy(&workplace->inputs[i], &value, sizeof(value));
        }
    }
    for (size_t i = 0; i < targets; i++) {
        bool counts = random_below(&seed, 8) > 0;
        workplace->targets[i] = counts ? (int32_t)random_below(&seed, classes) : KERNEL_TARGET_NONE;
    }
}

// After the weights were changed on the host.
static void round_weights(struct workplace *workplace)
{
    for (size_t i = 0; i < workplace->model->elements && workplace->copy != NULL; i++) {
        workplace->copy[i] = bfloat16_from_float(workplace->weights[i]);
    }
}

static void workplace_init(struct workplace *workplace, struct target *target, const struct model_config *config)
{
    struct model_config precise = *config;
    precise.precision = target_precision(target);
    *workplace = (struct workplace){.target = target};
    assert_int_equal(model_create(&precise, &workplace->model, NULL), STATUS_OK);
    const struct model *model = workplace->model;
    workplace->weights = host_array(4 * model->elements, 0);
    workplace->gradients = host_array(4 * model->elements, 0);
    workplace->copy = model_copy_bytes(model) == 0 ? NULL : host_array(model_copy_bytes(model), 0xff);
    for (size_t i = 0; i < OPTIMIZER_STATES_MAX; i++) {
        workplace->states[i] = host_array(4 * model->elements, 0);
    }
    workplace->inputs = host_array(4 * SAMPLES * model->input_elements, 0);
    workplace->targets = host_array(4 * SAMPLES * model->target_elements, 0);
    for (size_t i = 0; i < model->parameter_count; i++) {
        model_initial_values(model, i, SEED, workplace->weights + model->parameters[i].offset);
    }
    round_weights(workplace);
    fill_samples(workplace, SEED);
}

static void workplace_finish(struct workplace *workplace)
{
    free(workplace->targets);
    free(workplace->inputs);
    for (size_t i = 0; i < OPTIMIZER_STATES_MAX; i++) {
        free(workplace->states[i]);
    }
    free(workplace->copy);
    free(workplace->gradients);
    free(workplace->weights);
    model_destroy(workplace->model);
}

// What is enough in the workplace's precision.
static double enough(const struct workplace *workplace, double fp32, double bf16)
{
    return target_precision(workplace->target) == KERNEL_BF16 ? bf16 : fp32;
}

// The first `length` of each row of `pitch`.
static void copy_rows(char *to, const int32_t *from, size_t pitch, size_t length, size_t rows)
{
    for (size_t i = 0; i < rows; i++) {
        memcpy(to + 4 * i * length, from + i * pitch, 4 * length);
    }
}

// Runs the samples from `first` on, cut to the shape, as one micro-batch; answers the locals as they are afterwards,
// which the caller frees, and the list where `list_p` is not NULL. They start as NaN.
static char *run_shape(struct workplace *workplace, enum list_purpose purpose, size_t first, struct model_shape shape,
                       struct list *list_p)
{
    struct target *target = workplace->target;
    const struct model *model = workplace->model;
    struct list list;
    assert_true(model_list(model, shape, purpose, &list));
    char *inputs = host_array(list.inputs_bytes, 0xff), *locals = host_array(list.locals_bytes, 0xff);
    copy_rows(inputs + list.tensors[list.inputs].offset_bytes, workplace->inputs + first * model->input_elements,
              model->input_elements, model->input_elements * shape.length / model->target_elements, shape.samples);
    copy_rows(inputs + list.tensors[list.targets].offset_bytes, workplace->targets + first * model->target_elements,
              model->target_elements, shape.length, shape.samples);
    bool copied = workplace->copy != NULL;
    uint64_t parameter_bytes = copied ? model_copy_bytes(model) : 4 * model->elements;
    struct list_memory memory = {
        .parameters = target_copy_in(target, copied ? (void *)workplace->copy : workplace->weights, parameter_bytes),
        .gradients = target_copy_in(target, workplace->gradients, 4 * model->elements),
        .tally = target_copy_in(target, &workplace->tally, sizeof(workplace->tally)),
        .inputs = target_copy_in(target, inputs, list.inputs_bytes),
        .locals = target_copy_in(target, locals, list.locals_bytes)};
    list_run(&list, 0, list.op_count, target->context, &memory);
    target_copy_out(target, locals, memory.locals, list.locals_bytes);
    target_copy_out(target, &workplace->tally, memory.tally, sizeof(workplace->tally));
    target_copy_out(target, workplace->gradients, memory.gradients, 4 * model->elements);
    mem_pool_free(target->pool, memory.parameters, target->stream);
    mem_pool_free(target->pool, memory.inputs, target->stream);
    free(inputs);
    if (list_p != NULL) {
        *list_p = list;
    } else {
        list_finish(&list);
    }
    return locals;
}

static char *run_micro_batch(struct workplace *workplace, enum list_purpose purpose, size_t first, size_t count,
                             struct list *list_p)
{
    return run_shape(workplace, purpose, first, model_shape_max(workplace->model, count), list_p);
}

// One step of AdamW with the gradients and the tally that are there.
static void step(struct workplace *workplace, const struct optimizer_config *config, uint64_t number)
{
    struct target *target = workplace->target;
    const struct model *model = workplace->model;
    struct kernel_context *context = target->context;
    uint64_t bytes = 4 * model->elements;
    float scale = 0;
    struct optimizer_memory memory = {
        .parameters = target_copy_in(target, workplace->weights, bytes),
        .gradients = target_copy_in(target, workplace->gradients, bytes),
        .copy = workplace->copy == NULL ? 0 : target_copy_in(target, workplace->copy, model_copy_bytes(model)),
        .states = {target_copy_in(target, workplace->states[0], bytes),
                   target_copy_in(target, workplace->states[1], bytes)},
        .scale = target_copy_in(target, &scale, sizeof(scale))};
    device_address squares = target_copy_in(target, &workplace->squares, sizeof(workplace->squares));
    device_address tally = target_copy_in(target, &workplace->tally, sizeof(workplace->tally));
    context->kernels->sum_of_squares(context, squares, memory.gradients, model->elements);
    context->kernels->gradient_scale(context, memory.scale, tally, squares, 0);
    optimizer_step(config, model, context, &memory, number, 0, model->elements);
    target_copy_out(target, workplace->weights, memory.parameters, bytes);
    target_copy_out(target, workplace->states[0], memory.states[0], bytes);
    target_copy_out(target, workplace->states[1], memory.states[1], bytes);
    target_copy_out(target, &workplace->squares, squares, sizeof(workplace->squares));
    if (workplace->copy != NULL) {
        target_copy_out(target, workplace->copy, memory.copy, model_copy_bytes(model));
    }
    mem_pool_free(target->pool, memory.gradients, target->stream);
    mem_pool_free(target->pool, memory.scale, target->stream);
    mem_pool_free(target->pool, tally, target->stream);
}

static void train_shape(struct workplace *workplace, size_t first, struct model_shape shape)
{
    free(run_shape(workplace, LIST_TRAIN, first, shape, NULL));
}

static void train(struct workplace *workplace, size_t first, size_t count)
{
    free(run_micro_batch(workplace, LIST_TRAIN, first, count, NULL));
}

static void clear(struct workplace *workplace)
{
    memset(workplace->gradients, 0, 4 * workplace->model->elements);
    workplace->tally = (struct kernel_tally){0};
}

static double evaluate(struct workplace *workplace, size_t count)
{
    workplace->tally = (struct kernel_tally){0};
    free(run_micro_batch(workplace, LIST_EVALUATE, 0, count, NULL));
    return workplace->tally.loss;
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

// Gradients ---------------------------------------------------------------------------------------------------------

// Of each parameter, the norm of the difference from factor * expected is within `tolerance` of the norm.
static void assert_gradients_near(const struct workplace *workplace, const float *expected, double factor,
                                  double tolerance, const char *what)
{
    const struct model *model = workplace->model;
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        double norm = 0, distance = 0;
        for (size_t k = 0; k < parameter->rows * parameter->columns; k++) {
            double value = factor * (double)expected[parameter->offset + k];
            norm += value * value;
            distance += pow((double)workplace->gradients[parameter->offset + k] - value, 2);
        }
        if (!(norm > 0 && sqrt(distance) <= tolerance * sqrt(norm))) {
            fail_msg("%s: %s: gradients of %s differ by %g of %g", target_name(workplace->target), what,
                     parameter->name, sqrt(distance), sqrt(norm));
        }
    }
}

static float *whole_gradient(struct workplace *workplace)
{
    float *whole = host_array(4 * workplace->model->elements, 0);
    clear(workplace);
    train(workplace, 0, SAMPLES);
    memcpy(whole, workplace->gradients, 4 * workplace->model->elements);
    return whole;
}

// What cuts of the samples add up to is what all of them at once do.
static void assert_like_whole(const struct workplace *workplace, const float *whole,
                              const struct kernel_tally *expected, const char *what)
{
    assert_gradients_near(workplace, whole, 1, enough(workplace, 1e-5, 1e-2), what);
    assert_true(fabs(workplace->tally.loss - expected->loss) <= enough(workplace, 1e-6, 1e-3) * expected->loss);
    assert_true(workplace->tally.count == expected->count);
    assert_true(fabs(workplace->tally.correct - expected->correct) <= enough(workplace, 0, 2)); // two may be equal
}

static void check_cuts(struct target *target, const struct model_config *config)
{
    struct workplace workplace;
    workplace_init(&workplace, target, config);
    float *whole = whole_gradient(&workplace);
    struct kernel_tally expected = workplace.tally;
    uint64_t cuts = target_is_cpu(target) ? 20 : 3;
    for (uint64_t seed = 1; seed <= cuts; seed++) {
        uint64_t random = seed;
        char what[32];
        snprintf(what, sizeof(what), "the cut of seed %u", (unsigned)seed);
        clear(&workplace);
        for (size_t first = 0; first < SAMPLES;) {
            size_t count = 1 + random_below(&random, SAMPLES - first);
            train(&workplace, first, count);
            first += count;
        }
        assert_like_whole(&workplace, whole, &expected, what);
    }
    free(whole);
    workplace_finish(&workplace);
}

static void check_any_cut(struct target *target)
{
    check_cuts(target, &mlp);
    check_cuts(target, &gpt);
}

static void test_any_cut_gives_the_same_gradient(void **state)
{
    (void)state;
    on_every_target(check_any_cut);
}

static void check_accumulation(struct target *target, const struct model_config *config)
{
    struct workplace workplace;
    workplace_init(&workplace, target, config);
    float *whole = whole_gradient(&workplace);
    double loss = workplace.tally.loss;
    train(&workplace, 0, SAMPLES);
    train(&workplace, 0, SAMPLES);
    assert_gradients_near(&workplace, whole, 3, 1e-6, "three times the batch");
    assert_true(fabs(workplace.tally.loss - 3 * loss) <= 1e-12 * loss);
    free(whole);
    workplace_finish(&workplace);
}

static void check_accumulations(struct target *target)
{
    check_accumulation(target, &mlp);
    check_accumulation(target, &gpt);
}

static void test_gradients_and_tally_accumulate(void **state)
{
    (void)state;
    on_every_target(check_accumulations);
}

// Lengths of the samples, of which each is cut down to its own.
static size_t length_of(const struct workplace *workplace, size_t sample)
{
    size_t longest = workplace->model->target_elements;
    return 1 + sample * 5 % longest;
}

static void pad_samples(struct workplace *workplace)
{
    size_t longest = workplace->model->target_elements;
    for (size_t sample = 0; sample < SAMPLES; sample++) {
        for (size_t t = length_of(workplace, sample); t < longest; t++) {
            workplace->inputs[sample * longest + t] = 0;
            workplace->targets[sample * longest + t] = KERNEL_TARGET_NONE;
        }
    }
}

static size_t longest_of(const struct workplace *workplace, size_t first, size_t count)
{
    size_t longest = 0;
    for (size_t sample = first; sample < first + count; sample++) {
        size_t length = length_of(workplace, sample);
        longest = length > longest ? length : longest;
    }
    return longest;
}

// Whether samples run by themselves, without padding, or padded to the longest of a few or to the model's.
static void check_padded_samples(struct target *target)
{
    struct workplace workplace;
    workplace_init(&workplace, target, &gpt);
    pad_samples(&workplace);
    float *whole = whole_gradient(&workplace);
    struct kernel_tally expected = workplace.tally;
    for (size_t count = 1; count <= SAMPLES; count += target_is_cpu(target) ? 1 : 4) {
        char what[48];
        snprintf(what, sizeof(what), "micro-steps of %zu, as long as their longest", count);
        clear(&workplace);
        for (size_t first = 0; first < SAMPLES; first += count) {
            size_t samples = count < SAMPLES - first ? count : SAMPLES - first;
            train_shape(&workplace, first,
                        (struct model_shape){.samples = samples, .length = longest_of(&workplace, first, samples)});
        }
        assert_like_whole(&workplace, whole, &expected, what);
    }
    free(whole);
    workplace_finish(&workplace);
}

static void test_padded_samples_count_for_what_they_are(void **state)
{
    (void)state;
    on_every_target(check_padded_samples);
}

// Norm of the difference of x from y, in norms of y.
static double distance(const float *x, const float *y, size_t count)
{
    double squares = 0, differences = 0;
    for (size_t i = 0; i < count; i++) {
        squares += (double)y[i] * (double)y[i];
        differences += pow((double)x[i] - (double)y[i], 2);
    }
    return sqrt(differences / squares);
}

static void add_scaled(float *sum, const float *x, double factor, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        sum[i] += (float)(factor * (double)x[i]);
    }
}

// Micro-steps of unlike sizes, as unequal ranks have, with padding: the mean of their means, which frameworks took for
// the gradient, is another; sums divided once are not.
static void check_means_of_means(struct target *target)
{
    static const size_t firsts[] = {0, 1, 4, SAMPLES};
    const size_t parts = sizeof(firsts) / sizeof(firsts[0]) - 1;
    struct workplace workplace;
    workplace_init(&workplace, target, &gpt);
    pad_samples(&workplace);
    size_t elements = workplace.model->elements;
    float *whole = whole_gradient(&workplace), *sum = host_array(4 * elements, 0), *mean = host_array(4 * elements, 0);
    double targets = workplace.tally.count;
    for (size_t i = 0; i < parts; i++) {
        clear(&workplace);
        train(&workplace, firsts[i], firsts[i + 1] - firsts[i]);
        add_scaled(sum, workplace.gradients, 1, elements);
        add_scaled(mean, workplace.gradients, targets / (double)parts / workplace.tally.count, elements);
    }
    assert_true(distance(sum, whole, elements) < enough(&workplace, 1e-5, 1e-2));
    assert_true(distance(mean, whole, elements) > 0.1);
    free(mean);
    free(sum);
    free(whole);
    workplace_finish(&workplace);
}

static void test_the_mean_of_means_is_another_gradient(void **state)
{
    (void)state;
    on_every_target(check_means_of_means);
}

static void check_ignored(struct target *target, const struct model_config *config)
{
    struct workplace workplace;
    workplace_init(&workplace, target, config);
    memset(workplace.targets, 0xff, 4 * SAMPLES * workplace.model->target_elements); // KERNEL_TARGET_NONE
    train(&workplace, 0, SAMPLES);
    assert_true(workplace.tally.loss == 0 && workplace.tally.count == 0 && workplace.tally.correct == 0);
    for (size_t i = 0; i < workplace.model->elements; i++) {
        assert_true(workplace.gradients[i] == 0);
    }
    workplace_finish(&workplace);
}

static void check_ignored_targets(struct target *target)
{
    check_ignored(target, &mlp);
    check_ignored(target, &gpt);
}

static void test_ignored_targets_leave_nothing(void **state)
{
    (void)state;
    on_every_target(check_ignored_targets);
}

// The logits are made in parts. Elsewhere than on the CPU the product before gelu may be summed in another order where
// it need not be kept.
static void assert_same_tally(const struct workplace *workplace, const struct kernel_tally *expected)
{
    const struct kernel_tally *tally = &workplace->tally;
    if (target_is_cpu(workplace->target)) {
        assert_true(fabs(tally->loss - expected->loss) <= 1e-7 * expected->loss);
        assert_true(tally->count == expected->count && tally->correct == expected->correct);
    }
    assert_true(fabs(tally->loss - expected->loss) <= enough(workplace, 1e-6, 1e-3) * expected->loss);
    assert_true(tally->count == expected->count && fabs(tally->correct - expected->correct) <= 2);
}

static void check_evaluation(struct target *target, const struct model_config *config)
{
    struct workplace workplace;
    workplace_init(&workplace, target, config);
    train(&workplace, 0, SAMPLES);
    struct kernel_tally trained = workplace.tally;
    clear(&workplace);
    free(run_micro_batch(&workplace, LIST_EVALUATE, 0, SAMPLES, NULL));
    assert_same_tally(&workplace, &trained);
    for (size_t i = 0; i < workplace.model->elements; i++) {
        assert_true(workplace.gradients[i] == 0);
    }
    workplace_finish(&workplace);
}

static void check_evaluations(struct target *target)
{
    check_evaluation(target, &mlp);
    check_evaluation(target, &gpt);
}

static void test_evaluation_is_the_forward_pass(void **state)
{
    (void)state;
    on_every_target(check_evaluations);
}

// Moves the weights along the gradient, so far that the loss of a linear model would change by `part` of itself.
static double loss_along(struct workplace *workplace, const float *weights, double part, double loss, double norm)
{
    for (size_t i = 0; i < workplace->model->elements; i++) {
        workplace->weights[i] =
            (float)((double)weights[i] + part * loss / (norm * norm) * (double)workplace->gradients[i]);
    }
    round_weights(workplace);
    return evaluate(workplace, SAMPLES);
}

// Along the gradient the loss changes by the gradient's norm.
static void check_slope(struct target *target, const struct model_config *config)
{
    struct workplace workplace;
    workplace_init(&workplace, target, config);
    uint64_t bytes = 4 * workplace.model->elements;
    float *weights = host_array(bytes, 0);
    memcpy(weights, workplace.weights, bytes);
    train(&workplace, 0, SAMPLES);
    double loss = workplace.tally.loss, squares = 0, part = enough(&workplace, 0.001, 0.003);
    for (size_t i = 0; i < workplace.model->elements; i++) {
        squares += pow((double)workplace.gradients[i], 2);
    }
    double above = loss_along(&workplace, weights, part, loss, sqrt(squares));
    double slope = (above - loss_along(&workplace, weights, -part, loss, sqrt(squares))) / (2 * part * loss);
    if (!(fabs(slope - 1) <= enough(&workplace, 2e-3, 0.02))) {
        fail_msg("%s: the loss changes by %g of what its gradient says", target_name(target), slope);
    }
    free(weights);
    workplace_finish(&workplace);
}

static void check_slopes(struct target *target)
{
    check_slope(target, &mlp);
    check_slope(target, &gpt);
}

static void test_the_gradient_is_the_slope_of_the_loss(void **state)
{
    (void)state;
    on_every_target(check_slopes);
}

// Training ----------------------------------------------------------------------------------------------------------

static const struct optimizer_config adamw = {
    .kind = OPTIMIZER_ADAMW, .learning_rate = 0.01, .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8};

#define STEPS 10

// Trains on the samples in two micro-batches a step; the mean losses before each step.
static void follow(struct workplace *workplace, double *losses)
{
    for (uint64_t number = 0; number < STEPS; number++) {
        clear(workplace);
        train(workplace, 0, 7);
        train(workplace, 7, SAMPLES - 7);
        losses[number] = workplace->tally.loss / workplace->tally.count;
        step(workplace, &adamw, number);
    }
}

static void assert_losses_near(const double *losses, const double *expected, double tolerance, const char *name)
{
    for (size_t i = 0; i < STEPS; i++) {
        if (!(fabs(losses[i] - expected[i]) <= tolerance * expected[0])) {
            fail_msg("%s: the loss before step %zu is %g, the CPU's in float32 %g", name, i, losses[i], expected[i]);
        }
    }
}

static void check_training_of(struct target *target, const struct model_config *config, double *expected)
{
    struct workplace workplace;
    double losses[STEPS];
    workplace_init(&workplace, target, config);
    follow(&workplace, losses);
    assert_true(losses[STEPS - 1] < 0.75 * losses[0]);
    if (expected[0] == 0) {
        memcpy(expected, losses, sizeof(losses));
    }
    assert_losses_near(losses, expected, enough(&workplace, 1e-4, 0.005), target_name(target));
    for (size_t i = 0; i < workplace.model->elements && workplace.copy != NULL; i++) {
        assert_int_equal(workplace.copy[i], bfloat16_from_float(workplace.weights[i]));
    }
    workplace_finish(&workplace);
}

static void check_training(struct target *target)
{
    static double expected[2][STEPS]; // of the first target
    check_training_of(target, &mlp, expected[0]);
    check_training_of(target, &gpt, expected[1]);
}

static void test_training_lowers_the_loss_alike(void **state)
{
    (void)state;
    on_every_target(check_training);
}

// A loss that is not finite leaves everything as it was.
static void check_skipped_step(struct target *target)
{
    struct workplace workplace;
    workplace_init(&workplace, target, &gpt);
    uint64_t bytes = 4 * workplace.model->elements, copy_bytes = model_copy_bytes(workplace.model);
    train(&workplace, 0, SAMPLES);
    step(&workplace, &adamw, 0);
    float *weights = host_array(bytes, 0), *states[] = {host_array(bytes, 0), host_array(bytes, 0)};
    void *copy = host_array(copy_bytes, 0);
    memcpy(weights, workplace.weights, bytes);
    memcpy(states[0], workplace.states[0], bytes);
    memcpy(states[1], workplace.states[1], bytes);
    memcpy(copy, workplace.copy == NULL ? copy : workplace.copy, copy_bytes);
    workplace.tally.loss = NAN;
    step(&workplace, &adamw, 1);
    assert_memory_equal(weights, workplace.weights, bytes);
    assert_memory_equal(states[0], workplace.states[0], bytes);
    assert_memory_equal(states[1], workplace.states[1], bytes);
    if (workplace.copy != NULL) {
        assert_memory_equal(copy, workplace.copy, copy_bytes);
    }
    free(copy);
    free(states[1]);
    free(states[0]);
    free(weights);
    workplace_finish(&workplace);
}

static void test_a_loss_that_is_not_finite_changes_nothing(void **state)
{
    (void)state;
    on_every_target(check_skipped_step);
}

// Parameters --------------------------------------------------------------------------------------------------------

static void assert_parameters_apart(const struct model_config *config)
{
    struct model *model;
    assert_int_equal(model_create(config, &model, NULL), STATUS_OK);
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *a = &model->parameters[i];
        assert_true(a->offset % 64 == 0 && a->offset + a->rows * a->columns <= model->elements);
        for (size_t k = 0; k < i; k++) {
            const struct parameter *b = &model->parameters[k];
            assert_true(a->offset + a->rows * a->columns <= b->offset || b->offset + b->rows * b->columns <= a->offset);
            assert_string_not_equal(a->name, b->name);
        }
    }
    model_destroy(model);
}

static void test_parameters_do_not_overlap(void **state)
{
    (void)state;
    assert_parameters_apart(&mlp);
    assert_parameters_apart(&gpt);
}

static void test_bytes_of_the_copy(void **state)
{
    (void)state;
    struct model *model;
    struct model_config config = gpt;
    assert_int_equal(model_create(&config, &model, NULL), STATUS_OK);
    assert_int_equal(model_copy_bytes(model), 0);
    model_destroy(model);
    config.precision = KERNEL_BF16;
    assert_int_equal(model_create(&config, &model, NULL), STATUS_OK);
    assert_int_equal(model_copy_bytes(model), 2 * model->elements);
    model_destroy(model);
}

static uint64_t weights_of(const struct model_config *config)
{
    struct model *model;
    assert_int_equal(model_create(config, &model, NULL), STATUS_OK);
    uint64_t weights = model->weights;
    model_destroy(model);
    return weights;
}

static const struct model_config gpt_2 = {
    .kind = MODEL_GPT, .gpt = {.vocab_size = 50257, .seq_len = 1024, .blocks = 12, .heads = 12, .channels = 768}};

static void test_weights_are_counted(void **state)
{
    (void)state;
    assert_int_equal(weights_of(&mlp), 33 * 50 + 50 + 50 * 20 + 20 + 20 * 10 + 10);
    assert_int_equal(weights_of(&gpt_2), 124439808); // as published, with the head tied
}

static void assert_misfit(struct model_config config, const char *line)
{
    struct model *model = NULL;
    struct error error;
    assert_int_equal(model_create(&config, &model, &error), STATUS_INVALID);
    assert_null(model);
    assert_string_equal(error.text, line);
}

static void test_sizes_that_make_no_sense(void **state)
{
    (void)state;
    struct model_config config = mlp;
    config.mlp.count = 1;
    assert_misfit(config, "model: an mlp needs 2 to 64 layer sizes");
    config.mlp.count = MODEL_LAYERS_MAX + 1;
    assert_misfit(config, "model: an mlp needs 2 to 64 layer sizes");
    config = mlp;
    config.mlp.sizes[2] = 0;
    assert_misfit(config, "model: a layer size must be at least 1");
    config = gpt;
    config.gpt.heads = 5;
    assert_misfit(config, "model: channels must be a multiple of heads");
    config.gpt.heads = 0;
    assert_misfit(config, "model: every size of a gpt must be at least 1");
    config = gpt;
    config.gpt.seq_len = 0;
    assert_misfit(config, "model: every size of a gpt must be at least 1");
}

struct moments {
    double mean, deviation, largest;
};

static struct moments initial_moments(const struct model_config *config, const char *name, uint64_t seed)
{
    struct model *model;
    assert_int_equal(model_create(config, &model, NULL), STATUS_OK);
    const struct parameter *parameter = find_parameter(model, name);
    size_t used = parameter->rows_used * parameter->columns, count = parameter->rows * parameter->columns;
    float *values = host_array(4 * count, 0xff);
    model_initial_values(model, (size_t)(parameter - model->parameters), seed, values);
    double sum = 0, squares = 0, largest = 0;
    for (size_t i = 0; i < used; i++) {
        double value = (double)values[i];
        sum += value / (double)used;
        squares += value * value / (double)used;
        largest = fmax(largest, fabs(value));
    }
    for (size_t i = used; i < count; i++) {
        assert_true(values[i] == 0);
    }
    free(values);
    model_destroy(model);
    return (struct moments){.mean = sum, .deviation = sqrt(squares - sum * sum), .largest = largest};
}

static void assert_within(double value, double low, double high)
{
    if (!(low <= value && value <= high)) {
        fail_msg("%g is not in [%g, %g]", value, low, high);
    }
}

// Five standard errors around what the distribution has.
static void assert_normal(const struct model_config *config, const char *name, double scale, size_t count)
{
    struct moments moments = initial_moments(config, name, SEED);
    double error = 5 / sqrt((double)count);
    assert_within(moments.mean, -error * scale, error * scale);
    assert_within(moments.deviation, scale * (1 - error), scale * (1 + error));
    assert_within(moments.largest, 2.5 * scale, 6 * scale);
}

static void assert_constant(const struct model_config *config, const char *name, double value)
{
    struct moments moments = initial_moments(config, name, SEED);
    assert_true(moments.mean == value && moments.deviation == 0);
}

static void test_initial_values(void **state)
{
    (void)state;
    assert_normal(&gpt, "wte.weight", 0.02, 65 * 32);
    assert_normal(&gpt, "h.1.mlp.c_fc.weight", 0.02, 128 * 32);
    assert_normal(&gpt, "h.1.mlp.c_proj.weight", 0.01, 128 * 32); // 0.02 / sqrt(2 * 2 blocks)
    assert_normal(&gpt, "h.0.attn.c_proj.weight", 0.01, 32 * 32);
    assert_constant(&gpt, "h.0.attn.c_proj.bias", 0);
    assert_constant(&gpt, "h.1.ln_1.weight", 1);
    assert_constant(&gpt, "ln_f.bias", 0);
    struct moments moments = initial_moments(&mlp, "layers.1.weight", SEED);
    double bound = 1 / sqrt(50), error = 5 / sqrt(50 * 20);
    assert_within(moments.mean, -error * bound, error * bound);
    assert_within(moments.deviation, bound / sqrt(3) * (1 - error), bound / sqrt(3) * (1 + error));
    assert_within(moments.largest, 0.98 * bound, bound);
}

static void test_initial_values_depend_on_seed_and_parameter(void **state)
{
    (void)state;
    struct model *model;
    float values[3][1024];
    assert_int_equal(model_create(&gpt, &model, NULL), STATUS_OK);
    size_t first = (size_t)(find_parameter(model, "h.0.attn.c_proj.weight") - model->parameters);
    size_t second = (size_t)(find_parameter(model, "h.1.attn.c_proj.weight") - model->parameters);
    model_initial_values(model, first, 1, values[0]);
    model_initial_values(model, first, 1, values[1]);
    assert_memory_equal(values[0], values[1], sizeof(values[0]));
    model_initial_values(model, first, 2, values[1]);
    model_initial_values(model, second, 1, values[2]);
    for (size_t i = 0; i < 1024; i++) {
        assert_true(values[0][i] != values[1][i] && values[0][i] != values[2][i] && values[1][i] != values[2][i]);
    }
    model_destroy(model);
}

// The work ----------------------------------------------------------------------------------------------------------

static uint64_t flops_of(const struct model_config *config)
{
    struct model *model;
    assert_int_equal(model_create(config, &model, NULL), STATUS_OK);
    uint64_t flops = model_sample_flops(model);
    model_destroy(model);
    return flops;
}

static void test_flops_of_an_mlp(void **state)
{
    (void)state;
    // Every matrix three times, but no gradient of the inputs.
    assert_int_equal(flops_of(&mlp), 2 * (3 * (33 * 50 + 50 * 20 + 20 * 10) - 33 * 50));
}

static void test_flops_of_a_gpt(void **state)
{
    (void)state;
    const uint64_t length = 12, channels = 32, blocks = 2, padded_vocab = 128;
    uint64_t matrices = blocks * 12 * channels * channels + padded_vocab * channels;
    uint64_t attention = blocks * length * length * channels; // causal: half of two products
    assert_int_equal(flops_of(&gpt), length * 6 * matrices + 6 * attention);
}

// GPT ---------------------------------------------------------------------------------------------------------------

static void check_causality(struct target *target)
{
    struct workplace workplace;
    workplace_init(&workplace, target, &gpt);
    size_t length = gpt.gpt.seq_len, stride = target_is_cpu(target) ? 1 : 4;
    for (size_t i = 0; i < workplace.model->elements; i++) {
        workplace.weights[i] *= 4; // what a token says to another should show in bfloat16
    }
    round_weights(&workplace);
    for (size_t position = 0; position < length; position += stride) {
        memset(workplace.targets, 0xff, 4 * length); // KERNEL_TARGET_NONE
        workplace.targets[position] = 7;
        double loss = evaluate(&workplace, 1);
        for (size_t changed = 0; changed < length; changed += stride) {
            int32_t token = workplace.inputs[changed];
            workplace.inputs[changed] = (token + 1) % 65;
            bool same = evaluate(&workplace, 1) == loss;
            workplace.inputs[changed] = token;
            assert_int_equal(same, changed > position);
        }
    }
    workplace_finish(&workplace);
}

static void test_no_loss_depends_on_a_later_token(void **state)
{
    (void)state;
    on_every_target(check_causality);
}

// Minus the log of the probability that logits[classes] give the target.
static double loss_of(const struct workplace *workplace, const char *logits, size_t classes, int32_t target)
{
    bool bf16 = target_precision(workplace->target) == KERNEL_BF16;
    double sum = 0, own = 0;
    for (size_t i = 0; i < classes; i++) {
        double logit = (double)(bf16 ? bfloat16_to_float(((const uint16_t *)logits)[i]) : ((const float *)logits)[i]);
        sum += exp(logit);
        own = (int32_t)i == target ? logit : own;
    }
    return log(sum) - own;
}

// The losses of the first sample's targets at the ends of parts of so many tokens, which go through the model one part
// after the other.
static double losses_of_parts(struct workplace *workplace, const size_t *parts)
{
    struct target *target = workplace->target;
    const struct model *model = workplace->model;
    bool copied = workplace->copy != NULL;
    char *nothing = host_array(model_cache_bytes(model), 0xff), *logits = host_array(4 * 128, 0);
    struct list_memory memory = {.parameters =
                                     target_copy_in(target, copied ? (void *)workplace->copy : workplace->weights,
                                                    copied ? model_copy_bytes(model) : 4 * model->elements),
                                 .cache = target_copy_in(target, nothing, model_cache_bytes(model))};
    double losses = 0;
    for (size_t first = 0; first < model->target_elements; first += *parts++) {
        struct list list;
        assert_true(model_next_list(model, *parts, first, &list));
        char *locals = host_array(list.locals_bytes, 0xff);
        memory.inputs = target_copy_in(target, workplace->inputs + first, 4 * *parts);
        memory.locals = target_copy_in(target, locals, list.locals_bytes);
        list_run(&list, 0, list.op_count, target->context, &memory);
        target_copy_out(target, locals, memory.locals, list.locals_bytes);
        memcpy(logits, locals + list.tensors[list.logits].offset_bytes, list_tensor_bytes(&list, list.logits));
        losses += loss_of(workplace, logits, classes_of(&model->config), workplace->targets[first + *parts - 1]);
        mem_pool_free(target->pool, memory.inputs, target->stream);
        free(locals);
        list_finish(&list);
    }
    mem_pool_free(target->pool, memory.parameters, target->stream);
    mem_pool_free(target->pool, memory.cache, target->stream);
    free(logits);
    free(nothing);
    return losses;
}

// Those of targets that do not count are left out.
static double losses_of_whole(struct workplace *workplace, const size_t *parts)
{
    size_t length = workplace->model->target_elements, end = 0;
    int32_t targets[12];
    memcpy(targets, workplace->targets, sizeof(targets));
    for (size_t i = 0; i < length; i++) {
        end += i == end ? *parts++ : 0;
        workplace->targets[i] = i + 1 == end ? targets[i] : KERNEL_TARGET_NONE;
    }
    double losses = evaluate(workplace, 1);
    memcpy(workplace->targets, targets, sizeof(targets));
    return losses;
}

static void check_parts(struct target *target)
{
    static const size_t cuts[][12] = {{12}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {5, 1, 2, 1, 3}, {1, 10, 1}};
    struct workplace workplace;
    workplace_init(&workplace, target, &gpt);
    for (size_t i = 0; i < workplace.model->target_elements; i++) {
        workplace.targets[i] = (int32_t)(7 * i % classes_of(&gpt));
    }
    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        double whole = losses_of_whole(&workplace, cuts[i]), parts = losses_of_parts(&workplace, cuts[i]);
        assert_true(fabs(parts - whole) <= enough(&workplace, 2e-6, 4e-3) * fabs(whole));
    }
    workplace_finish(&workplace);
}

static void test_tokens_one_after_the_other_are_as_all_at_once(void **state)
{
    (void)state;
    on_every_target(check_parts);
}

// The head is tied when both the embedding and the logits are made from wte, and from no copy of it.
static void test_the_head_is_tied(void **state)
{
    (void)state;
    struct model *model;
    struct list list;
    assert_int_equal(model_create(&gpt, &model, NULL), STATUS_OK);
    assert_true(model_list(model, model_shape_max(model, 1), LIST_TRAIN, &list));
    tensor_id wte = 0;
    while (strcmp(list.tensors[wte].name, "wte.weight") != 0) {
        wte++;
    }
    const struct op *first = &list.ops[0], *head = &list.ops[list.forward_count - 2];
    assert_string_equal(first->type->name, "embedding");
    assert_int_equal(first->tensors[2], wte);
    assert_string_equal(head->type->name, "linear");
    assert_int_equal(head->tensors[2], wte);
    assert_int_equal(model->parameter_count, 2 + 2 * 12 + 2);
    list_finish(&list);
    model_destroy(model);
}

// All real logits are made equal and far below those of the padding, which are 0.
static void check_padding(struct target *target)
{
    struct workplace workplace;
    workplace_init(&workplace, target, &gpt);
    const struct parameter *wte = find_parameter(workplace.model, "wte.weight");
    const struct parameter *bias = find_parameter(workplace.model, "ln_f.bias");
    memset(workplace.weights, 0, 4 * workplace.model->elements);
    for (size_t i = 0; i < wte->columns; i++) {
        workplace.weights[bias->offset + i] = 1;
    }
    for (size_t i = 0; i < wte->rows_used * wte->columns; i++) {
        workplace.weights[wte->offset + i] = -1;
    }
    round_weights(&workplace);
    memset(workplace.targets, 0, 4 * gpt.gpt.seq_len); // the first of the largest
    double loss = evaluate(&workplace, 1);
    assert_within(loss / (double)gpt.gpt.seq_len, log(65) - 1e-5, log(65) + 1e-5);
    assert_true(workplace.tally.correct == (double)gpt.gpt.seq_len);
    workplace_finish(&workplace);
}

static void test_padding_gets_no_probability(void **state)
{
    (void)state;
    on_every_target(check_padding);
}

static double logit_of(const struct workplace *workplace, const char *logits, size_t place)
{
    return (double)(workplace->copy == NULL ? ((const float *)(const void *)logits)[place]
                                            : bfloat16_to_float(((const uint16_t *)(const void *)logits)[place]));
}

// In nats, from the row of logits of which the first 65 are of tokens.
static double loss_of_row(const struct workplace *workplace, const char *logits, size_t row, int32_t expected)
{
    double sum = 0;
    for (size_t i = 0; i < 65; i++) {
        sum += exp(logit_of(workplace, logits, row * 128 + i));
    }
    return log(sum) - logit_of(workplace, logits, row * 128 + (size_t)expected);
}

static void check_probabilities(struct target *target)
{
    struct workplace workplace;
    struct list list;
    workplace_init(&workplace, target, &gpt);
    size_t rows = SAMPLES * gpt.gpt.seq_len, last = 140; // the last of parts of 20 rows
    assert_int_equal(rows, 144);
    memset(workplace.targets, 0xff, last * 4); // KERNEL_TARGET_NONE
    char *locals = run_micro_batch(&workplace, LIST_EVALUATE, 0, SAMPLES, &list);
    const char *logits = locals + list.tensors[list.logits].offset_bytes;
    double loss = 0;
    for (size_t row = last; row < rows; row++) {
        loss += loss_of_row(&workplace, logits, row - last, workplace.targets[row]);
    }
    assert_within(workplace.tally.loss / loss, 1 - 1e-6, 1 + 1e-6);
    free(locals);
    list_finish(&list);
    workplace_finish(&workplace);
}

static void test_the_loss_is_that_of_probabilities_of_real_tokens(void **state)
{
    (void)state;
    on_every_target(check_probabilities);
}

static void check_padding_in_training(struct target *target)
{
    struct workplace workplace;
    workplace_init(&workplace, target, &gpt);
    const struct parameter *wte = find_parameter(workplace.model, "wte.weight");
    for (uint64_t number = 0; number < 3; number++) {
        clear(&workplace);
        train(&workplace, 0, SAMPLES);
        step(&workplace, &adamw, number);
    }
    for (size_t i = wte->offset + 65 * wte->columns; i < wte->offset + wte->rows * wte->columns; i++) {
        assert_true(workplace.weights[i] == 0 && workplace.gradients[i] == 0);
        assert_true(workplace.copy == NULL || bfloat16_to_float(workplace.copy[i]) == 0);
    }
    workplace_finish(&workplace);
}

static void test_padding_stays_zero_in_training(void **state)
{
    (void)state;
    on_every_target(check_padding_in_training);
}

static uint64_t largest_local(const struct model_config *config, size_t micro_batch, uint64_t *locals_bytes_p)
{
    struct model *model;
    struct list list;
    uint64_t largest = 0;
    assert_int_equal(model_create(config, &model, NULL), STATUS_OK);
    assert_true(model_list(model, model_shape_max(model, micro_batch), LIST_TRAIN, &list));
    for (size_t i = 0; i < list.tensor_count; i++) {
        bool local = list.tensors[i].kind == TENSOR_LOCAL;
        largest = local && list.tensors[i].elements > largest ? list.tensors[i].elements : largest;
    }
    *locals_bytes_p = list.locals_bytes;
    list_finish(&list);
    model_destroy(model);
    return largest;
}

// Not even for one head of one sample; and so a sequence of twice the length takes twice the memory.
static void test_no_matrix_of_all_pairs_of_tokens(void **state)
{
    (void)state;
    struct model_config config = {.kind = MODEL_GPT,
                                  .gpt = {.vocab_size = 65, .seq_len = 1024, .blocks = 2, .heads = 4, .channels = 32}};
    uint64_t long_bytes, short_bytes;
    assert_true(largest_local(&config, 4, &long_bytes) < 1024 * 1024);
    config.gpt.seq_len = 512;
    largest_local(&config, 4, &short_bytes);
    assert_true(long_bytes <= 2 * short_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_cut_gives_the_same_gradient),
        cmocka_unit_test(test_gradients_and_tally_accumulate),
        cmocka_unit_test(test_padded_samples_count_for_what_they_are),
        cmocka_unit_test(test_the_mean_of_means_is_another_gradient),
        cmocka_unit_test(test_ignored_targets_leave_nothing),
        cmocka_unit_test(test_evaluation_is_the_forward_pass),
        cmocka_unit_test(test_the_gradient_is_the_slope_of_the_loss),
        cmocka_unit_test(test_training_lowers_the_loss_alike),
        cmocka_unit_test(test_a_loss_that_is_not_finite_changes_nothing),
        cmocka_unit_test(test_parameters_do_not_overlap),
        cmocka_unit_test(test_bytes_of_the_copy),
        cmocka_unit_test(test_weights_are_counted),
        cmocka_unit_test(test_sizes_that_make_no_sense),
        cmocka_unit_test(test_initial_values),
        cmocka_unit_test(test_initial_values_depend_on_seed_and_parameter),
        cmocka_unit_test(test_flops_of_an_mlp),
        cmocka_unit_test(test_flops_of_a_gpt),
        cmocka_unit_test(test_no_loss_depends_on_a_later_token),
        cmocka_unit_test(test_tokens_one_after_the_other_are_as_all_at_once),
        cmocka_unit_test(test_the_head_is_tied),
        cmocka_unit_test(test_padding_gets_no_probability),
        cmocka_unit_test(test_the_loss_is_that_of_probabilities_of_real_tokens),
        cmocka_unit_test(test_padding_stays_zero_in_training),
        cmocka_unit_test(test_no_matrix_of_all_pairs_of_tokens),
    };
    return cmocka_run_group_tests(tests, open_every_target, close_every_target);
}
