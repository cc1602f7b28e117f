// SPDX-License-Identifier: Apache-2.0
//
// Differentiation: the gradient that a list computes is held to central differences of its forward pass, for every kind
// of operation, for lists made up at random, and for whole models. Placement: a list gives the same bits in its block
// as with every tensor at a place of its own.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glob.h>

#include "host_memory.h"
#include "model/model.h"
#include "model/ops.h"

#define SEED UINT64_C(20241103)

// Every tensor of the small lists has BATCH * LENGTH rows of WIDTH elements, unless said otherwise.
#define BATCH  2
#define LENGTH 3
#define ROWS   (BATCH * LENGTH)
#define WIDTH  4
#define HEADS  2

#define INPUTS_MAX 32

// A list and what goes into it.
struct graph {
    struct list list;
    uint64_t random;
    size_t parameter_elements;
    size_t classes; // of the loss, whose logits have WIDTH columns
    struct {
        tensor_id tensor;
        void *values; // 4-byte elements, as many as the tensor has
    } inputs[INPUTS_MAX];
    size_t input_count;
    // Where it runs.
    float *parameters, *gradients;
    void *block;
};

// Building ----------------------------------------------------------------------------------------------------------

static tensor_id parameter(struct graph *graph, size_t elements)
{
    size_t offset = graph->parameter_elements;
    graph->parameter_elements += (elements + 3) / 4 * 4; // addresses are 16-byte aligned
    return list_tensor(&graph->list, TENSOR_PARAMETER, elements, 4 * offset, "parameter");
}

static void *input_values(struct graph *graph, tensor_id tensor)
{
    void *values = calloc(graph->list.tensors[tensor].elements, 4);
    assert_true(graph->input_count < INPUTS_MAX && values != NULL);
    graph->inputs[graph->input_count].tensor = tensor;
    graph->inputs[graph->input_count++].values = values;
    return values;
}

static tensor_id float_input(struct graph *graph, size_t elements)
{
    tensor_id tensor = list_tensor(&graph->list, TENSOR_INPUT, elements, 0, "input");
    float *values = input_values(graph, tensor);
    for (size_t i = 0; i < elements; i++) {
        values[i] = random_float(&graph->random);
    }
    return tensor;
}

static void fill_tokens(struct graph *graph, int32_t *tokens, size_t count, size_t bound)
{
    for (size_t i = 0; i < count; i++) {
        tokens[i] = (int32_t)random_below(&graph->random, bound);
    }
}

// A local tensor of which every element is a parameter, so that its gradient can be seen: the product of the identity
// and a parameter.
static tensor_id variable(struct graph *graph, size_t rows, size_t columns)
{
    tensor_id identity = list_tensor(&graph->list, TENSOR_INPUT, rows * rows, 0, "identity");
    float *values = input_values(graph, identity);
    for (size_t i = 0; i < rows; i++) {
        values[i * rows + i] = 1;
    }
    return op_linear(&graph->list, identity, parameter(graph, rows * columns), TENSOR_NONE, rows, rows, columns,
                     "variable");
}

static tensor_id square_variable(struct graph *graph)
{
    return variable(graph, ROWS, WIDTH);
}

static tensor_id linear(struct graph *graph, tensor_id x, size_t out)
{
    tensor_id weights = parameter(graph, out * WIDTH);
    return op_linear(&graph->list, x, weights, parameter(graph, out), ROWS, WIDTH, out, "linear");
}

static tensor_id layer_norm(struct graph *graph, tensor_id x)
{
    tensor_id gamma = parameter(graph, WIDTH);
    return op_layer_norm(&graph->list, x, gamma, parameter(graph, WIDTH), ROWS, WIDTH, "norm");
}

static tensor_id attention(struct graph *graph, tensor_id qkv)
{
    return op_attention(&graph->list, qkv, BATCH, LENGTH, WIDTH, HEADS, "attention");
}

static tensor_id add(struct graph *graph, tensor_id a, tensor_id b)
{
    return op_add(&graph->list, a, b, "sum");
}

// The loss of random targets, of which the second does not count.
static void append_loss(struct graph *graph, tensor_id logits)
{
    struct list *list = &graph->list;
    list->targets = list_tensor(list, TENSOR_INPUT, ROWS, 0, "targets");
    int32_t *targets = input_values(graph, list->targets);
    fill_tokens(graph, targets, ROWS, graph->classes);
    targets[1] = KERNEL_TARGET_NONE;
    tensor_id tally = list_tensor(list, TENSOR_TALLY, sizeof(struct kernel_tally) / 4, 0, "tally");
    op_cross_entropy(list, tally, logits, list->targets, ROWS, graph->classes, WIDTH);
}

static void graph_allocate(struct graph *graph)
{
    graph->parameters = host_array(4 * graph->parameter_elements, 0);
    graph->gradients = host_array(4 * graph->parameter_elements, 0);
    graph->block = host_array(graph->list.block_bytes, 0);
    for (size_t i = 0; i < graph->parameter_elements; i++) {
        float value = random_float(&graph->random); // not near 0, where ReLU has a kink
        graph->parameters[i] = value + (value < 0 ? -0.25f : 0.25f);
    }
}

static void graph_init(struct graph *graph, uint64_t seed)
{
    *graph = (struct graph){.random = seed, .classes = WIDTH};
    list_init(&graph->list);
}

static void graph_complete(struct graph *graph, tensor_id logits)
{
    append_loss(graph, logits);
    list_differentiate(&graph->list);
    assert_true(list_place(&graph->list));
    graph_allocate(graph);
}

static void graph_finish(struct graph *graph)
{
    for (size_t i = 0; i < graph->input_count; i++) {
        free(graph->inputs[i].values);
    }
    free(graph->parameters);
    free(graph->gradients);
    free(graph->block);
    list_finish(&graph->list);
}

// Running -----------------------------------------------------------------------------------------------------------

// The block starts as NaN: whoever reads what nobody wrote is seen.
static struct kernel_tally run(const struct graph *graph, const struct list *list, const char *kernels)
{
    struct kernel_tally tally = {0};
    struct list_memory memory = {.parameters = address_of(graph->parameters),
                                 .gradients = address_of(graph->gradients),
                                 .tally = address_of(&tally),
                                 .block = address_of(graph->block)};
    memset(graph->block, 0xff, list->block_bytes);
    for (size_t i = 0; i < graph->input_count; i++) {
        const struct tensor *tensor = &list->tensors[graph->inputs[i].tensor];
        memcpy((char *)graph->block + tensor->offset_bytes, graph->inputs[i].values, 4 * tensor->elements);
    }
    list_run(list, kernels_find(kernels), NULL, &memory);
    return tally;
}

static double loss(const struct graph *graph)
{
    struct list forward = graph->list;
    forward.op_count = forward.forward_count;
    return run(graph, &forward, "reference").loss;
}

// Central difference of sixth order.
static double difference(const struct graph *graph, size_t element, float step)
{
    static const double coefficients[] = {45.0 / 60, -9.0 / 60, 1.0 / 60};
    float *weight = &graph->parameters[element], value = *weight;
    double slope = 0;
    for (size_t i = 0; i < 3; i++) {
        *weight = value + (float)(i + 1) * step;
        double above = loss(graph);
        *weight = value - (float)(i + 1) * step;
        slope += coefficients[i] * (above - loss(graph)) / (double)step;
    }
    *weight = value;
    return slope;
}

#define TOLERANCE 1e-5 // of the largest gradient, or of 1 where all are smaller

// Curvature spoils the difference of a long step, and a short one divides the 1e-7 that the reference loses when it
// rounds its tensors to float32. So one of a few must agree.
static void assert_gradient_agrees(const struct graph *graph, size_t element, double tolerance, const char *name)
{
    static const float steps[] = {0x1p-6f, 0x1p-5f, 0x1p-4f, 0x1p-7f, 0x1p-8f};
    double gradient = (double)graph->gradients[element], expected = NAN;
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        expected = difference(graph, element, steps[i]);
        if (fabs(gradient - expected) <= tolerance) {
            return;
        }
    }
    fail_msg("%s: element %zu has gradient %.7f, its difference is %.7f", name, element, gradient, expected);
}

// The list adds to gradients, so they start from something.
static void assert_gradients_agree(const struct graph *graph, const char *name)
{
    double largest = 1;
    for (size_t i = 0; i < graph->parameter_elements; i++) {
        graph->gradients[i] = i % 2 == 0 ? 1 : -0.5f;
    }
    run(graph, &graph->list, "reference");
    for (size_t i = 0; i < graph->parameter_elements; i++) {
        graph->gradients[i] -= i % 2 == 0 ? 1 : -0.5f;
        largest = fmax(largest, fabs((double)graph->gradients[i]));
    }
    for (size_t i = 0; i < graph->parameter_elements; i++) {
        assert_gradient_agrees(graph, i, TOLERANCE * largest, name);
    }
}

// Every kind of operation -------------------------------------------------------------------------------------------

static tensor_id build_linear(struct graph *graph)
{
    return linear(graph, float_input(graph, ROWS * WIDTH), WIDTH);
}

static tensor_id build_linear_of_variable(struct graph *graph)
{
    return linear(graph, square_variable(graph), WIDTH);
}

static tensor_id build_linear_without_bias(struct graph *graph)
{
    tensor_id x = square_variable(graph);
    return op_linear(&graph->list, x, parameter(graph, WIDTH * WIDTH), TENSOR_NONE, ROWS, WIDTH, WIDTH, "linear");
}

static tensor_id build_two_linears_of_one(struct graph *graph)
{
    tensor_id x = square_variable(graph);
    return add(graph, linear(graph, x, WIDTH), linear(graph, x, WIDTH));
}

static tensor_id build_weights_used_twice(struct graph *graph)
{
    tensor_id weights = parameter(graph, WIDTH * WIDTH), bias = parameter(graph, WIDTH);
    tensor_id x = op_linear(&graph->list, square_variable(graph), weights, bias, ROWS, WIDTH, WIDTH, "first");
    return op_linear(&graph->list, x, weights, bias, ROWS, WIDTH, WIDTH, "second");
}

static tensor_id build_linear_residual(struct graph *graph)
{
    tensor_id x = square_variable(graph);
    return add(graph, x, linear(graph, x, WIDTH));
}

static tensor_id build_relu(struct graph *graph)
{
    return linear(graph, op_relu(&graph->list, square_variable(graph)), WIDTH);
}

static tensor_id build_relu_residual(struct graph *graph)
{
    tensor_id a = square_variable(graph);
    return add(graph, a, op_relu(&graph->list, square_variable(graph)));
}

static tensor_id build_relu_used_twice(struct graph *graph)
{
    tensor_id x = op_relu(&graph->list, square_variable(graph));
    return add(graph, linear(graph, x, WIDTH), op_gelu(&graph->list, x, "gelu"));
}

static tensor_id build_gelu(struct graph *graph)
{
    return op_gelu(&graph->list, square_variable(graph), "gelu");
}

static tensor_id build_gelu_residual(struct graph *graph)
{
    tensor_id x = square_variable(graph);
    return add(graph, x, op_gelu(&graph->list, x, "gelu"));
}

static tensor_id build_gelu_used_twice(struct graph *graph)
{
    tensor_id x = square_variable(graph);
    return add(graph, op_gelu(&graph->list, x, "a"), op_gelu(&graph->list, x, "b"));
}

static tensor_id build_add(struct graph *graph)
{
    tensor_id x = square_variable(graph);
    return add(graph, x, square_variable(graph));
}

static tensor_id build_add_to_itself(struct graph *graph)
{
    tensor_id x = square_variable(graph);
    return add(graph, x, x);
}

static tensor_id build_adds_that_share(struct graph *graph)
{
    tensor_id a = square_variable(graph), b = square_variable(graph);
    return add(graph, add(graph, add(graph, a, b), a), a);
}

static tensor_id build_layer_norm(struct graph *graph)
{
    return layer_norm(graph, square_variable(graph));
}

static tensor_id build_layer_norm_residual(struct graph *graph)
{
    tensor_id x = square_variable(graph);
    return add(graph, x, layer_norm(graph, x));
}

static tensor_id build_layer_norms_of_one(struct graph *graph)
{
    tensor_id x = square_variable(graph);
    return add(graph, layer_norm(graph, x), layer_norm(graph, x));
}

static tensor_id build_layer_norm_used_twice(struct graph *graph)
{
    tensor_id gamma = parameter(graph, WIDTH), beta = parameter(graph, WIDTH);
    tensor_id x = op_layer_norm(&graph->list, square_variable(graph), gamma, beta, ROWS, WIDTH, "first");
    return op_layer_norm(&graph->list, x, gamma, beta, ROWS, WIDTH, "second");
}

#define VOCAB 5

static tensor_id embedding(struct graph *graph, tensor_id wte)
{
    tensor_id tokens = list_tensor(&graph->list, TENSOR_INPUT, ROWS, 0, "tokens");
    fill_tokens(graph, input_values(graph, tokens), ROWS, VOCAB);
    return op_embedding(&graph->list, tokens, wte, parameter(graph, LENGTH * WIDTH), BATCH, LENGTH, WIDTH, "embedding");
}

static tensor_id build_embedding(struct graph *graph)
{
    return embedding(graph, parameter(graph, VOCAB * WIDTH));
}

static tensor_id build_tied_head(struct graph *graph)
{
    tensor_id wte = parameter(graph, VOCAB * WIDTH);
    tensor_id x = layer_norm(graph, embedding(graph, wte));
    return op_linear(&graph->list, x, wte, TENSOR_NONE, ROWS, WIDTH, WIDTH, "head"); // of the first WIDTH tokens
}

// A linear layer follows, because attention's backward pass needs what the loss would overwrite.
static tensor_id build_attention(struct graph *graph)
{
    return linear(graph, attention(graph, variable(graph, ROWS, 3 * WIDTH)), WIDTH);
}

static tensor_id build_attentions_of_one(struct graph *graph)
{
    tensor_id qkv = variable(graph, ROWS, 3 * WIDTH);
    return add(graph, attention(graph, qkv), attention(graph, qkv));
}

static tensor_id build_cross_entropy(struct graph *graph)
{
    return square_variable(graph);
}

static tensor_id build_padded_cross_entropy(struct graph *graph)
{
    graph->classes = WIDTH - 1;
    return square_variable(graph);
}

struct graph_case {
    const char *name;
    tensor_id (*build)(struct graph *graph); // answers the logits
};

static const struct graph_case cases[] = {
    {"linear", build_linear},
    {"linear of a variable", build_linear_of_variable},
    {"linear without bias", build_linear_without_bias},
    {"two linears of one tensor", build_two_linears_of_one},
    {"weights used twice", build_weights_used_twice},
    {"residual around linear", build_linear_residual},
    {"relu", build_relu},
    {"residual beside relu", build_relu_residual},
    {"relu used twice", build_relu_used_twice},
    {"gelu", build_gelu},
    {"residual around gelu", build_gelu_residual},
    {"two gelus of one tensor", build_gelu_used_twice},
    {"add", build_add},
    {"a tensor added to itself", build_add_to_itself},
    {"adds that share a tensor", build_adds_that_share},
    {"layer norm", build_layer_norm},
    {"residual around layer norm", build_layer_norm_residual},
    {"two layer norms of one tensor", build_layer_norms_of_one},
    {"layer norm's parameters used twice", build_layer_norm_used_twice},
    {"embedding", build_embedding},
    {"tied head", build_tied_head},
    {"attention", build_attention},
    {"two attentions of one tensor", build_attentions_of_one},
    {"cross-entropy", build_cross_entropy},
    {"cross-entropy of padded logits", build_padded_cross_entropy},
};
#define CASES (sizeof(cases) / sizeof(cases[0]))

static void test_every_operation_agrees_with_differences(void **state)
{
    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        struct graph graph;
        graph_init(&graph, SEED + i);
        graph_complete(&graph, cases[i].build(&graph));
        assert_gradients_agree(&graph, cases[i].name);
        graph_finish(&graph);
    }
}

static bool any_case_runs(const char *type)
{
    bool found = false;
    for (size_t i = 0; i < CASES && !found; i++) {
        struct graph graph;
        graph_init(&graph, SEED + i);
        graph_complete(&graph, cases[i].build(&graph));
        for (size_t k = 0; k < graph.list.op_count; k++) {
            found = found || strcmp(graph.list.ops[k].type->name, type) == 0;
        }
        graph_finish(&graph);
    }
    return found;
}

// Counts the kinds of operation that a source file defines and demands a case of each.
static size_t check_kinds_of(const char *path)
{
    static const char start[] = "static const struct op_type ";
    char line[512], type[64];
    size_t kinds = 0;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, start, strlen(start)) == 0) {
            assert_int_equal(sscanf(line + strlen(start), "%63[a-z_0-9]", type), 1);
            if (!any_case_runs(type)) {
                fail_msg("%s: no case runs the operation %s", path, type);
            }
            kinds++;
        }
    }
    fclose(file);
    return kinds;
}

static void test_every_operation_has_a_case(void **state)
{
    (void)state;
    glob_t sources;
    size_t kinds = 0;
    assert_int_equal(glob(HEADROOM_SOURCE_DIR "/src/model/*.c", 0, NULL, &sources), 0);
    for (size_t i = 0; i < sources.gl_pathc; i++) {
        kinds += check_kinds_of(sources.gl_pathv[i]);
    }
    globfree(&sources);
    assert_true(kinds >= 14);
}

// Lists made up at random -------------------------------------------------------------------------------------------

#define POOL_MAX 24

static tensor_id random_operation(struct graph *graph, const tensor_id *pool, size_t count)
{
    tensor_id x = pool[random_below(&graph->random, count)], y = pool[random_below(&graph->random, count)];
    switch (random_below(&graph->random, 5)) {
    case 0:
        return linear(graph, x, WIDTH);
    case 1:
        return op_gelu(&graph->list, x, "gelu");
    case 2:
        return layer_norm(graph, x);
    case 3:
        return attention(graph, linear(graph, x, 3 * WIDTH));
    default:
        return add(graph, x, y);
    }
}

// A few variables, some after a ReLU; operations on any of what is there; the sum of everything. Only variables go
// through a ReLU, since differences need distance from its kink.
static tensor_id build_random(struct graph *graph)
{
    tensor_id pool[POOL_MAX];
    size_t count = 0, variables = 2 + random_below(&graph->random, 2), operations = random_below(&graph->random, 9);
    for (; count < variables; count++) {
        pool[count] = square_variable(graph);
        if (random_below(&graph->random, 2) == 0) {
            op_relu(&graph->list, pool[count]);
        }
    }
    for (size_t i = 0; i < operations; i++) {
        pool[count] = random_operation(graph, pool, count);
        count++;
    }
    tensor_id sum = pool[0];
    for (size_t i = 1; i < count; i++) {
        sum = add(graph, sum, pool[i]);
    }
    return layer_norm(graph, sum);
}

static void test_random_lists_agree_with_differences(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        char name[64];
        snprintf(name, sizeof(name), "random list, seed %u", (unsigned)seed);
        struct graph graph;
        graph_init(&graph, seed);
        graph_complete(&graph, build_random(&graph));
        assert_gradients_agree(&graph, name);
        graph_finish(&graph);
    }
}

// Whole models ------------------------------------------------------------------------------------------------------

static const struct model_config mlp_gelu = {.kind = MODEL_MLP,
                                             .mlp = {.sizes = {5, 7, 6, 4}, .count = 4, .activation = MODEL_GELU}};
static const struct model_config mlp_relu = {.kind = MODEL_MLP,
                                             .mlp = {.sizes = {5, 7, 6, 4}, .count = 4, .activation = MODEL_RELU}};
static const struct model_config gpt = {
    .kind = MODEL_GPT, .gpt = {.vocab_size = 11, .seq_len = 5, .blocks = 2, .heads = 2, .channels = 6}};

static void fill_model_inputs(struct graph *graph, const struct model *model)
{
    size_t inputs = graph->list.tensors[graph->list.inputs].elements;
    size_t targets = graph->list.tensors[graph->list.targets].elements;
    bool tokens = model->config.kind == MODEL_GPT;
    size_t classes = tokens ? model->config.gpt.vocab_size : model->config.mlp.sizes[model->config.mlp.count - 1];
    float *values = input_values(graph, graph->list.inputs);
    if (tokens) {
        fill_tokens(graph, (int32_t *)(void *)values, inputs, classes);
    }
    for (size_t i = 0; i < inputs && !tokens; i++) {
        values[i] = random_float(&graph->random);
    }
    int32_t *target_values = input_values(graph, graph->list.targets);
    fill_tokens(graph, target_values, targets, classes);
    target_values[1] = KERNEL_TARGET_NONE;
}

static void graph_of_model(struct graph *graph, const struct model_config *config, size_t micro_batch)
{
    struct model *model;
    assert_int_equal(model_create(config, &model, NULL), STATUS_OK);
    graph_init(graph, SEED);
    assert_true(model_list(model, micro_batch, LIST_TRAIN, &graph->list));
    fill_model_inputs(graph, model);
    graph->parameter_elements = model->elements;
    graph_allocate(graph);
    for (size_t i = 0; i < model->parameter_count; i++) {
        const struct parameter *parameter = &model->parameters[i];
        bool bias = parameter->rows == 1;
        for (size_t k = 0; k < parameter->columns * parameter->rows; k++) {
            float value = random_float(&graph->random);
            // Large biases keep ReLU away from its kink.
            graph->parameters[parameter->offset + k] = bias && config == &mlp_relu ? (value < 0 ? -3 : 3) : value;
        }
    }
    model_destroy(model);
}

static void test_models_agree_with_differences(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const struct model_config *config;
    } models[] = {{"mlp with gelu", &mlp_gelu}, {"mlp with relu", &mlp_relu}, {"gpt", &gpt}};
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        struct graph graph;
        graph_of_model(&graph, models[i].config, 3);
        assert_gradients_agree(&graph, models[i].name);
        graph_finish(&graph);
    }
}

// Placement ---------------------------------------------------------------------------------------------------------

// The same list with every tensor at a place of its own. Shares the operations with `list`.
static struct list spread_out(const struct list *list)
{
    struct list apart = *list;
    apart.tensors = calloc(list->tensor_count, sizeof(*apart.tensors));
    apart.block_bytes = 0;
    for (size_t i = 0; i < list->tensor_count; i++) {
        struct tensor *tensor = &apart.tensors[i];
        *tensor = list->tensors[i];
        if (tensor->kind == TENSOR_INPUT || tensor->kind == TENSOR_LOCAL) {
            tensor->offset_bytes = apart.block_bytes;
            apart.block_bytes += (4 * tensor->elements + LIST_ALIGNMENT - 1) / LIST_ALIGNMENT * LIST_ALIGNMENT;
        }
    }
    return apart;
}

static struct kernel_tally run_from_zero(struct graph *graph, const struct list *list)
{
    memset(graph->gradients, 0, 4 * graph->parameter_elements);
    return run(graph, list, "cpu");
}

static void assert_placement_changes_nothing(struct graph *graph, const char *name)
{
    struct list apart = spread_out(&graph->list);
    struct graph wide = *graph;
    wide.gradients = host_array(4 * graph->parameter_elements, 0);
    wide.block = host_array(apart.block_bytes, 0);
    struct kernel_tally expected = run_from_zero(&wide, &apart);
    struct kernel_tally tally = run_from_zero(graph, &graph->list);
    if (memcmp(&tally, &expected, sizeof(tally)) != 0 ||
        memcmp(graph->gradients, wide.gradients, 4 * graph->parameter_elements) != 0) {
        fail_msg("%s: other bits than with every tensor apart", name);
    }
    assert_true(isfinite(tally.loss) && tally.count > 0);
    assert_true(graph->list.lower_bound_bytes <= graph->list.block_bytes);
    assert_true(graph->list.block_bytes < apart.block_bytes);
    free(wide.gradients);
    free(wide.block);
    free(apart.tensors);
}

static void test_placement_changes_no_result(void **state)
{
    (void)state;
    struct graph graph;
    for (size_t micro_batch = 1; micro_batch <= 9; micro_batch++) {
        graph_of_model(&graph, &mlp_relu, micro_batch + 1);
        assert_placement_changes_nothing(&graph, "mlp");
        graph_finish(&graph);
        graph_of_model(&graph, &gpt, micro_batch);
        assert_placement_changes_nothing(&graph, "gpt");
        graph_finish(&graph);
    }
    for (uint64_t seed = 1; seed <= 100; seed++) {
        char name[64];
        snprintf(name, sizeof(name), "random list, seed %u", (unsigned)seed);
        graph_init(&graph, seed);
        graph_complete(&graph, build_random(&graph));
        assert_placement_changes_nothing(&graph, name);
        graph_finish(&graph);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_operation_agrees_with_differences),
        cmocka_unit_test(test_every_operation_has_a_case),
        cmocka_unit_test(test_random_lists_agree_with_differences),
        cmocka_unit_test(test_models_agree_with_differences),
        cmocka_unit_test(test_placement_changes_no_result),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
