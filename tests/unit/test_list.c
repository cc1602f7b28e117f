// SPDX-License-Identifier: Apache-2.0
//
// Differentiation: the gradient that a list computes is held to central differences of its forward pass, for every kind
// of operation, for lists made up at random, and for whole models; in bfloat16 to that of float32. Fusion: what is
// joined, what is not, and that results stay. Placement: a list gives the same bits in its block, where tensors are
// written over others, as with every tensor at a place of its own, with the inputs of either slot, and in pieces.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glob.h>

#include "host_memory.h"
#include "kernels/bfloat16.h"
#include "mem/device_cpu.h"
#include "mem/uint64.h"
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
    void *copy; // of the parameters, in bfloat16
    void *block;
    struct list_transfers transfers;
};

// Building ----------------------------------------------------------------------------------------------------------

static tensor_id parameter(struct graph *graph, size_t elements)
{
    size_t offset = graph->parameter_elements;
    graph->parameter_elements += (elements + 7) / 8 * 8; // addresses are 16-byte aligned
    tensor_id tensor = list_tensor(&graph->list, TENSOR_PARAMETER, TENSOR_REAL, elements, "parameter");
    graph->list.tensors[tensor].first_element = offset;
    return tensor;
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
    tensor_id tensor = list_tensor(&graph->list, TENSOR_INPUT, TENSOR_FLOAT32, elements, "input");
    float *values = input_values(graph, tensor);
    for (size_t i = 0; i < elements; i++) {
        values[i] = random_float(&graph->random);
    }
    return op_convert(&graph->list, tensor, "input");
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
    tensor_id identity = list_tensor(&graph->list, TENSOR_INPUT, TENSOR_FLOAT32, rows * rows, "identity");
    float *values = input_values(graph, identity);
    for (size_t i = 0; i < rows; i++) {
        values[i * rows + i] = 1;
    }
    return op_linear(&graph->list, op_convert(&graph->list, identity, "identity"), parameter(graph, rows * columns),
                     TENSOR_NONE, rows, rows, columns, "variable");
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
    list->targets = list_tensor(list, TENSOR_INPUT, TENSOR_INT32, ROWS, "targets");
    int32_t *targets = input_values(graph, list->targets);
    fill_tokens(graph, targets, ROWS, graph->classes);
    targets[1] = KERNEL_TARGET_NONE;
    tensor_id tally = list_tensor(list, TENSOR_TALLY, TENSOR_FLOAT32, sizeof(struct kernel_tally) / 4, "tally");
    op_cross_entropy(list, tally, logits, list->targets, ROWS, graph->classes, WIDTH);
}

// Two slots of inputs, of which a run uses one, and the locals.
static uint64_t block_bytes(const struct list *list)
{
    return 2 * list->inputs_bytes + list->locals_bytes;
}

static struct device cpu = {.ops = &device_cpu}; // which has nothing but its name

static void graph_allocate(struct graph *graph)
{
    graph->transfers.host = (char *)host_array(graph->list.host_bytes + 1, 0);
    assert_int_equal(cpu.ops->event_create(&cpu, &graph->transfers.computed), STATUS_OK);
    assert_int_equal(cpu.ops->event_create(&cpu, &graph->transfers.copied), STATUS_OK);
    graph->parameters = host_array(4 * graph->parameter_elements, 0);
    graph->gradients = host_array(4 * graph->parameter_elements, 0);
    graph->copy = host_array(2 * graph->parameter_elements, 0);
    graph->block = host_array(block_bytes(&graph->list), 0);
    for (size_t i = 0; i < graph->parameter_elements; i++) {
        float value = random_float(&graph->random); // not near 0, where ReLU has a kink
        graph->parameters[i] = value + (value < 0 ? -0.25f : 0.25f);
    }
}

static void graph_init(struct graph *graph, uint64_t seed, enum kernel_precision precision)
{
    *graph = (struct graph){.random = seed, .classes = WIDTH};
    list_init(&graph->list, precision);
}

static void graph_differentiate(struct graph *graph, tensor_id logits)
{
    append_loss(graph, logits);
    list_differentiate(&graph->list);
}

static void graph_place(struct graph *graph)
{
    assert_true(list_place(&graph->list));
    graph_allocate(graph);
}

static void graph_complete(struct graph *graph, tensor_id logits)
{
    graph_differentiate(graph, logits);
    graph_place(graph);
}

static void graph_finish(struct graph *graph)
{
    cpu.ops->event_destroy(&cpu, graph->transfers.computed);
    cpu.ops->event_destroy(&cpu, graph->transfers.copied);
    free(graph->transfers.host);
    for (size_t i = 0; i < graph->input_count; i++) {
        free(graph->inputs[i].values);
    }
    free(graph->parameters);
    free(graph->gradients);
    free(graph->copy);
    free(graph->block);
    list_finish(&graph->list);
}

// Running -----------------------------------------------------------------------------------------------------------

static struct kernel_context *create_context(const char *table, enum kernel_precision precision)
{
    struct kernel_context *context;
    const struct kernels *kernels = kernels_find(table, precision);
    assert_int_equal(kernels->context_create(&cpu, NULL, 0, &context, NULL), STATUS_OK);
    return context;
}

static struct list_memory memory_of(const struct graph *graph, const struct list *list, struct kernel_tally *tally,
                                    size_t slot)
{
    bool copied = graph->list.precision == KERNEL_BF16;
    return (struct list_memory){.parameters = address_of(copied ? graph->copy : graph->parameters),
                                .gradients = address_of(graph->gradients),
                                .tally = address_of(tally),
                                .inputs = address_of(graph->block) + slot * list->inputs_bytes,
                                .locals = address_of(graph->block) + 2 * list->inputs_bytes,
                                .transfers = &graph->transfers};
}

static void write_inputs(const struct graph *graph, const struct list *list, const struct list_memory *memory)
{
    for (size_t i = 0; i < graph->input_count; i++) {
        tensor_id tensor = graph->inputs[i].tensor;
        memcpy((void *)(uintptr_t)list_address(list, memory, tensor), graph->inputs[i].values,
               list_tensor_bytes(list, tensor));
    }
}

// Runs the list in two pieces, the first of `split` operations. The block starts as NaN: whoever reads what nobody
// wrote is seen.
static struct kernel_tally run_pieces(const struct graph *graph, const struct list *list, const char *table,
                                      size_t split, size_t slot)
{
    struct kernel_tally tally = {0};
    struct kernel_context *context = create_context(table, list->precision);
    struct list_memory memory = memory_of(graph, list, &tally, slot);
    if (list->precision == KERNEL_BF16) {
        context->kernels->convert(context, address_of(graph->copy), address_of(graph->parameters),
                                  graph->parameter_elements);
    }
    memset(graph->block, 0xff, block_bytes(list));
    memset(graph->transfers.host, 0xff, list->host_bytes);
    write_inputs(graph, list, &memory);
    list_run(list, 0, split, context, &memory);
    list_run(list, split, list->op_count, context, &memory);
    context->kernels->context_destroy(context);
    return tally;
}

static struct kernel_tally run(const struct graph *graph, const struct list *list, const char *table)
{
    return run_pieces(graph, list, table, list->op_count, 0);
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
    tensor_id tokens = list_tensor(&graph->list, TENSOR_INPUT, TENSOR_INT32, ROWS, "tokens");
    fill_tokens(graph, input_values(graph, tokens), ROWS, VOCAB);
    return op_embedding(&graph->list, tokens, wte, parameter(graph, LENGTH * WIDTH), BATCH, LENGTH, WIDTH, VOCAB,
                        "embedding");
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

static void graph_of_case(struct graph *graph, size_t i, enum kernel_precision precision, bool offloaded)
{
    graph_init(graph, SEED + i, precision);
    graph_differentiate(graph, cases[i].build(graph));
    if (offloaded) {
        list_offload(&graph->list);
    }
    graph_place(graph);
}

static void test_every_operation_agrees_with_differences(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * CASES; i++) {
        struct graph graph;
        graph_of_case(&graph, i / 2, KERNEL_FP32, i % 2 == 1);
        assert_gradients_agree(&graph, cases[i / 2].name);
        graph_finish(&graph);
    }
}

static bool any_case_runs(const char *type)
{
    bool found = false;
    for (size_t i = 0; i < CASES && !found; i++) {
        struct graph graph;
        graph_of_case(&graph, i, KERNEL_BF16, true); // where nothing is left out
        for (size_t k = 0; k < graph.list.op_count; k++) {
            found = found || strcmp(graph.list.ops[k].type->name, type) == 0;
        }
        graph_finish(&graph);
    }
    return found;
}

// Counts the kinds of operation that a source file defines and demands a case of each, but of the one that has no
// backward pass.
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
            if (strcmp(type, "attention_cached") != 0 && !any_case_runs(type)) {
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
    assert_int_equal(glob("src/model/*.c", 0, NULL, &sources), 0);
    for (size_t i = 0; i < sources.gl_pathc; i++) {
        kinds += check_kinds_of(sources.gl_pathv[i]);
    }
    globfree(&sources);
    assert_true(kinds >= 15);
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
        graph_init(&graph, seed, KERNEL_FP32);
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

static void graph_of_model(struct graph *graph, const struct model_config *config, enum kernel_precision precision,
                           size_t micro_batch, enum model_levers levers)
{
    struct model *model;
    struct model_config precise = *config;
    precise.precision = precision;
    assert_int_equal(model_create(&precise, &model, NULL), STATUS_OK);
    graph_init(graph, SEED, precision);
    struct model_shape shape = model_shape_max(model, micro_batch);
    shape.levers = levers;
    assert_true(model_list(model, shape, LIST_TRAIN, &graph->list));
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

static const struct {
    const char *name;
    const struct model_config *config;
} models[] = {{"mlp with gelu", &mlp_gelu}, {"mlp with relu", &mlp_relu}, {"gpt", &gpt}};
#define MODELS (sizeof(models) / sizeof(models[0]))

static void test_models_agree_with_differences(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODELS; i++) {
        struct graph graph;
        graph_of_model(&graph, models[i].config, KERNEL_FP32, 3, MODEL_LEVERS_NONE);
        assert_gradients_agree(&graph, models[i].name);
        graph_finish(&graph);
    }
}

// Another way to the same --------------------------------------------------------------------------------------------

static double norm_of(const float *x, const float *y, size_t count)
{
    double squares = 0;
    for (size_t i = 0; i < count; i++) {
        squares += pow((double)x[i] - (y == NULL ? 0 : (double)y[i]), 2);
    }
    return sqrt(squares);
}

// Runs both lists; losses and gradients are apart by no more than `tolerance` of their sizes.
static void assert_same_results(struct graph *graph, struct graph *other, const char *table, double tolerance,
                                const char *name)
{
    size_t count = graph->parameter_elements;
    memset(graph->gradients, 0, 4 * count);
    memset(other->gradients, 0, 4 * count);
    assert_int_equal(other->parameter_elements, count);
    memcpy(other->parameters, graph->parameters, 4 * count);
    struct kernel_tally tally = run(graph, &graph->list, table), other_tally = run(other, &other->list, table);
    double size = norm_of(graph->gradients, NULL, count);
    double distance = norm_of(graph->gradients, other->gradients, count);
    if (!(distance <= tolerance * fmax(size, 1) && fabs(tally.loss - other_tally.loss) <= tolerance * tally.loss)) {
        fail_msg("%s: losses %.9g and %.9g, gradients apart by %g of %g", name, tally.loss, other_tally.loss, distance,
                 size);
    }
    assert_true(tally.count == other_tally.count && tally.count > 0);
}

// bfloat16 ----------------------------------------------------------------------------------------------------------

// Some ten roundings by up to 2^-9 lie between a weight and its gradient.
#define BF16_TOLERANCE 0.02

static void round_parameters(struct graph *graph)
{
    for (size_t i = 0; i < graph->parameter_elements; i++) {
        graph->parameters[i] = bfloat16_to_float(bfloat16_from_float(graph->parameters[i]));
    }
}

static void check_bfloat16(struct graph *graph, struct graph *half, const char *name)
{
    round_parameters(graph);
    assert_same_results(graph, half, "reference", BF16_TOLERANCE, name);
    assert_same_results(graph, half, "cpu", BF16_TOLERANCE, name);
    graph_finish(graph);
    graph_finish(half);
}

static void test_bfloat16_follows_float32(void **state)
{
    (void)state;
    struct graph graph, half;
    for (size_t i = 0; i < CASES; i++) {
        graph_init(&graph, SEED + i, KERNEL_FP32);
        graph_complete(&graph, cases[i].build(&graph));
        graph_init(&half, SEED + i, KERNEL_BF16);
        graph_complete(&half, cases[i].build(&half));
        check_bfloat16(&graph, &half, cases[i].name);
    }
    for (size_t i = 0; i < MODELS; i++) {
        graph_of_model(&graph, models[i].config, KERNEL_FP32, 3, MODEL_LEVERS_NONE);
        graph_of_model(&half, models[i].config, KERNEL_BF16, 3, MODEL_LEVERS_NONE);
        check_bfloat16(&graph, &half, models[i].name);
    }
}

// Data is turned once, forward, and what comes out is data too.
static void test_data_is_converted_where_reals_are_narrow(void **state)
{
    (void)state;
    static const size_t more[] = {[KERNEL_FP32] = 0, [KERNEL_BF16] = 1};
    for (enum kernel_precision precision = KERNEL_FP32; precision <= KERNEL_BF16; precision++) {
        struct graph graph;
        graph_of_model(&graph, &mlp_relu, precision, 2, MODEL_LEVERS_NONE);
        const struct op *first = &graph.list.ops[0];
        assert_string_equal(first->type->name, precision == KERNEL_BF16 ? "convert" : "linear");
        assert_int_equal(graph.list.forward_count, 3 + 2 + 1 + more[precision]);
        assert_int_equal(graph.list.op_count - graph.list.forward_count, 3 * 3 - 1 + 2); // no gradient of the inputs
        graph_finish(&graph);
    }
}

static void test_gradients_of_parameters_are_wide(void **state)
{
    (void)state;
    struct graph graph;
    graph_of_model(&graph, &gpt, KERNEL_BF16, 1, MODEL_LEVERS_NONE);
    size_t gradients = 0;
    for (size_t i = 0; i < graph.list.tensor_count; i++) {
        const struct tensor *tensor = &graph.list.tensors[i];
        if (tensor->kind == TENSOR_GRADIENT) {
            assert_int_equal(list_tensor_bytes(&graph.list, (tensor_id)i), 4 * tensor->elements);
            gradients++;
        }
    }
    assert_true(gradients >= 2 + 2 * 12 + 2);
    graph_finish(&graph);
}

// Fusion ------------------------------------------------------------------------------------------------------------

#define DESCRIPTION_MAX 512

static const char *joined_with(const struct op *op)
{
    bool product = strcmp(op->type->name, "linear") == 0 || strcmp(op->type->name, "matmul_backward") == 0;
    if (strcmp(op->type->name, "layer_norm") == 0 && op->tensors[5] != TENSOR_NONE) {
        return "+add";
    }
    if (product && op->matmul.epilogue == KERNEL_EPILOGUE_GELU) {
        return op->tensors[4] == TENSOR_NONE ? "+gelu" : "+gelu,kept";
    }
    return product && op->matmul.epilogue == KERNEL_EPILOGUE_GELU_BACKWARD ? "+gelu_backward" : "";
}

// The operations' names, with a bar before the backward pass.
static void describe(const struct list *list, char *text)
{
    size_t length = 0;
    for (size_t i = 0; i < list->op_count; i++) {
        const char *separator = i == 0 ? "" : i == list->forward_count ? " | " : " ";
        length += (size_t)snprintf(text + length, DESCRIPTION_MAX - length, "%s%s%s", separator,
                                   list->ops[i].type->name, joined_with(&list->ops[i]));
        assert_true(length < DESCRIPTION_MAX);
    }
}

static tensor_id gelu(struct graph *graph, tensor_id x)
{
    return op_gelu(&graph->list, x, "gelu");
}

static tensor_id build_norm_of_sum(struct graph *graph)
{
    tensor_id a = square_variable(graph);
    return layer_norm(graph, add(graph, a, square_variable(graph)));
}

static tensor_id build_norm_of_sum_needed_again(struct graph *graph)
{
    tensor_id a = square_variable(graph), sum = add(graph, a, square_variable(graph));
    return add(graph, sum, layer_norm(graph, sum));
}

static tensor_id build_norm_long_after_sum(struct graph *graph)
{
    tensor_id a = square_variable(graph), sum = add(graph, a, square_variable(graph)), between = gelu(graph, a);
    return add(graph, layer_norm(graph, sum), between);
}

static tensor_id build_norm_of_another(struct graph *graph)
{
    tensor_id a = square_variable(graph), sum = add(graph, a, square_variable(graph));
    return add(graph, layer_norm(graph, a), sum);
}

static tensor_id build_norm_of_sum_in_place(struct graph *graph)
{
    tensor_id a = square_variable(graph), b = square_variable(graph);
    op_add_into(&graph->list, a, a, b);
    return layer_norm(graph, a);
}

static tensor_id build_gelu_of_linear(struct graph *graph)
{
    return gelu(graph, linear(graph, square_variable(graph), WIDTH));
}

static tensor_id build_gelu_of_linear_needed_again(struct graph *graph)
{
    tensor_id x = linear(graph, square_variable(graph), WIDTH);
    return add(graph, x, gelu(graph, x));
}

static tensor_id build_gelu_long_after_linear(struct graph *graph)
{
    tensor_id x = square_variable(graph), y = linear(graph, x, WIDTH);
    tensor_id norm = layer_norm(graph, x);
    return add(graph, gelu(graph, y), norm);
}

static tensor_id build_perceptron(struct graph *graph)
{
    return linear(graph, gelu(graph, linear(graph, square_variable(graph), WIDTH)), WIDTH);
}

static tensor_id build_gelu_before_two_linears(struct graph *graph)
{
    tensor_id x = gelu(graph, square_variable(graph));
    return add(graph, linear(graph, x, WIDTH), linear(graph, x, WIDTH));
}

// The gradient of the sum is that of both terms, so gelu's backward pass may not write over it.
static tensor_id build_linear_of_gelu_residual(struct graph *graph)
{
    tensor_id a = square_variable(graph);
    return linear(graph, add(graph, a, gelu(graph, square_variable(graph))), WIDTH);
}

// Backward, another linear's product comes before gelu's turn.
static tensor_id build_gelu_beside_linear(struct graph *graph)
{
    tensor_id x = square_variable(graph), a = gelu(graph, square_variable(graph));
    return add(graph, a, linear(graph, x, WIDTH));
}

static const struct {
    struct graph_case graph;
    const char *forward;        // of a list without a backward pass
    const char *differentiated; // NULL: cannot be
} fusions[] = {
    {{"norm of a sum", build_norm_of_sum},
     "linear linear layer_norm+add cross_entropy",
     "linear linear layer_norm+add cross_entropy | layer_norm_backward matmul_backward matmul_backward"},
    {{"norm of a sum that is needed again", build_norm_of_sum_needed_again},
     "linear linear layer_norm+add add cross_entropy",
     "linear linear layer_norm+add add cross_entropy | layer_norm_backward add matmul_backward matmul_backward"},
    {{"norm long after a sum", build_norm_long_after_sum},
     "linear linear add gelu layer_norm add cross_entropy",
     "linear linear add gelu layer_norm add cross_entropy"
     " | layer_norm_backward gelu_backward add matmul_backward matmul_backward"},
    {{"norm of another tensor than the sum", build_norm_of_another},
     "linear linear add layer_norm add cross_entropy",
     "linear linear add layer_norm add cross_entropy | layer_norm_backward add matmul_backward matmul_backward"},
    {{"norm of a sum in place", build_norm_of_sum_in_place}, "linear linear add layer_norm cross_entropy", NULL},
    {{"gelu of linear", build_gelu_of_linear},
     "linear linear+gelu cross_entropy",
     "linear linear+gelu,kept cross_entropy"
     " | gelu_backward matmul_backward bias_backward matmul_backward matmul_backward"},
    {{"gelu of a linear that is needed again", build_gelu_of_linear_needed_again},
     "linear linear+gelu,kept add cross_entropy",
     "linear linear+gelu,kept add cross_entropy"
     " | gelu_backward add matmul_backward bias_backward matmul_backward matmul_backward"},
    {{"gelu long after linear", build_gelu_long_after_linear},
     "linear linear layer_norm gelu add cross_entropy",
     "linear linear layer_norm gelu add cross_entropy | gelu_backward layer_norm_backward"
     " matmul_backward bias_backward matmul_backward matmul_backward"},
    {{"perceptron", build_perceptron},
     "linear linear+gelu linear cross_entropy",
     "linear linear+gelu,kept linear cross_entropy | matmul_backward bias_backward matmul_backward+gelu_backward"
     " matmul_backward bias_backward matmul_backward matmul_backward"},
    {{"gelu before two linears", build_gelu_before_two_linears},
     "linear+gelu linear linear add cross_entropy",
     "linear+gelu,kept linear linear add cross_entropy | matmul_backward bias_backward matmul_backward"
     " matmul_backward bias_backward matmul_backward gelu_backward matmul_backward"},
    {{"linear of gelu and a residual", build_linear_of_gelu_residual},
     "linear linear+gelu add linear cross_entropy",
     "linear linear+gelu,kept add linear cross_entropy"
     " | matmul_backward bias_backward matmul_backward gelu_backward matmul_backward matmul_backward"},
    {{"gelu beside linear", build_gelu_beside_linear},
     "linear linear+gelu linear add cross_entropy",
     "linear linear+gelu,kept linear add cross_entropy"
     " | matmul_backward bias_backward matmul_backward gelu_backward matmul_backward matmul_backward"},
};
#define FUSIONS (sizeof(fusions) / sizeof(fusions[0]))

static void assert_fused(struct graph *graph, const char *expected, const char *name)
{
    char text[DESCRIPTION_MAX];
    list_fuse(&graph->list);
    describe(&graph->list, text);
    if (strcmp(text, expected) != 0) {
        fail_msg("%s: fused to\n%s, not\n%s", name, text, expected);
    }
    list_finish(&graph->list);
    for (size_t i = 0; i < graph->input_count; i++) {
        free(graph->inputs[i].values);
    }
}

static void test_what_is_fused(void **state)
{
    (void)state;
    for (size_t i = 0; i < FUSIONS; i++) {
        struct graph graph;
        graph_init(&graph, SEED, KERNEL_FP32);
        append_loss(&graph, fusions[i].graph.build(&graph));
        graph.list.forward_count = graph.list.op_count;
        assert_fused(&graph, fusions[i].forward, fusions[i].graph.name);
        if (fusions[i].differentiated != NULL) {
            graph_init(&graph, SEED, KERNEL_FP32);
            graph_differentiate(&graph, fusions[i].graph.build(&graph));
            assert_fused(&graph, fusions[i].differentiated, fusions[i].graph.name);
        }
    }
}

static tensor_id build_chain(struct graph *graph)
{
    tensor_id x = square_variable(graph);
    for (size_t i = 0; i < 5; i++) {
        x = gelu(graph, linear(graph, x, WIDTH));
    }
    return x;
}

// A product that nothing needs beside its gelu is never written: only a layer's input and output are alive together.
static void test_what_fusing_leaves_unused_takes_no_memory(void **state)
{
    (void)state;
    struct graph graph;
    graph_init(&graph, SEED, KERNEL_FP32);
    append_loss(&graph, build_chain(&graph));
    graph.list.forward_count = graph.list.op_count;
    list_fuse(&graph.list);
    graph_place(&graph);
    assert_int_equal(graph.list.locals_bytes, 2 * LIST_ALIGNMENT);
    assert_int_equal(graph.list.lower_bound_bytes, graph.list.locals_bytes);
    assert_true(isfinite(run(&graph, &graph.list, "reference").loss));
    graph_finish(&graph);
}

// Joined or not; answers how many operations were saved.
static size_t check_fusion(const struct graph_case *graph_case, uint64_t seed, enum kernel_precision precision,
                           double tolerance)
{
    struct graph graph, fused;
    graph_init(&graph, seed, precision);
    graph_complete(&graph, graph_case->build(&graph));
    graph_init(&fused, seed, precision);
    graph_differentiate(&fused, graph_case->build(&fused));
    list_fuse(&fused.list);
    graph_place(&fused);
    assert_same_results(&graph, &fused, "reference", tolerance, graph_case->name);
    assert_same_results(&graph, &fused, "cpu", tolerance, graph_case->name);
    size_t saved = graph.list.op_count - fused.list.op_count;
    graph_finish(&graph);
    graph_finish(&fused);
    return saved;
}

static void check_fusions(enum kernel_precision precision, double tolerance)
{
    size_t saved = 0;
    for (size_t i = 0; i < CASES; i++) {
        check_fusion(&cases[i], SEED, precision, tolerance);
    }
    for (size_t i = 0; i < FUSIONS; i++) {
        if (fusions[i].differentiated != NULL) {
            check_fusion(&fusions[i].graph, SEED, precision, tolerance);
        }
    }
    for (uint64_t seed = 1; seed <= 100; seed++) {
        char name[64];
        snprintf(name, sizeof(name), "random list, seed %u", (unsigned)seed);
        saved += check_fusion(&(struct graph_case){name, build_random}, seed, precision, tolerance);
    }
    assert_true(saved > 100);
}

static void test_fusion_changes_no_result(void **state)
{
    (void)state;
    check_fusions(KERNEL_FP32, 1e-6);
    check_fusions(KERNEL_BF16, BF16_TOLERANCE);
}

// A head in parts ---------------------------------------------------------------------------------------------------

static tensor_id build_random_below_a_head(struct graph *graph)
{
    return linear(graph, build_random(graph), WIDTH);
}

static void assert_parts_are_aligned(const struct list *list)
{
    const struct list_memory memory = {
        .parameters = 1 << 20, .gradients = 1 << 20, .inputs = 1 << 20, .locals = 1 << 20};
    for (size_t i = 0; i < list->tensor_count; i++) {
        if (list->tensors[i].kind == TENSOR_PART) {
            assert_int_equal(list_address(list, &memory, (tensor_id)i) % KERNEL_ALIGNMENT, 0);
        }
    }
}

// Rows are no multiple of the parts.
static void check_split(uint64_t seed, enum kernel_precision precision, double tolerance)
{
    char name[64];
    snprintf(name, sizeof(name), "random list, seed %u", (unsigned)seed);
    for (size_t parts = 1; parts <= 4; parts++) {
        struct graph whole, split;
        graph_init(&whole, seed, precision);
        graph_complete(&whole, build_random_below_a_head(&whole));
        graph_init(&split, seed, precision);
        graph_differentiate(&split, build_random_below_a_head(&split));
        list_split_head(&split.list, parts);
        graph_place(&split);
        size_t rows = parts == 1 ? ROWS : 4; // in 3 or 2 they would not be aligned
        assert_int_equal(list_tensor_bytes(&split.list, split.list.logits),
                         list_tensor_bytes(&whole.list, whole.list.logits) / ROWS * rows);
        assert_parts_are_aligned(&split.list);
        assert_same_results(&whole, &split, "reference", tolerance, name);
        graph_finish(&whole);
        graph_finish(&split);
    }
}

// Logits that are made otherwise than row by row stay as they are.
static void check_what_is_not_split(const struct graph_case *graph_case)
{
    struct graph graph;
    graph_init(&graph, SEED, KERNEL_FP32);
    graph_differentiate(&graph, graph_case->build(&graph));
    size_t count = graph.list.op_count;
    list_split_head(&graph.list, 2);
    assert_int_equal(graph.list.op_count, count);
    graph_place(&graph);
    graph_finish(&graph);
}

static void check_splits(enum kernel_precision precision, double tolerance)
{
    for (uint64_t seed = 1; seed <= 100; seed++) {
        check_split(seed, precision, tolerance);
    }
    for (size_t i = 0; i < MODELS; i++) {
        struct graph whole, split;
        graph_of_model(&whole, models[i].config, precision, 3, MODEL_LEVERS_NONE);
        graph_of_model(&split, models[i].config, precision, 3, MODEL_LEVERS_HEAD);
        assert_parts_are_aligned(&split.list);
        assert_true(models[i].config != &gpt || split.list.locals_bytes < whole.list.locals_bytes);
        assert_same_results(&whole, &split, "cpu", tolerance, models[i].name);
        graph_finish(&whole);
        graph_finish(&split);
    }
}

static void test_a_head_in_parts_changes_no_result(void **state)
{
    (void)state;
    check_what_is_not_split(&(struct graph_case){"layer norm", build_random});
    check_splits(KERNEL_FP32, 1e-6);
    check_splits(KERNEL_BF16, BF16_TOLERANCE);
}

// Recomputation -----------------------------------------------------------------------------------------------------

static void assert_recomputed(struct graph *kept, struct graph *again, enum kernel_precision precision,
                              const char *name)
{
    bool exact = precision == KERNEL_FP32;
    assert_same_results(kept, again, "cpu", exact ? 0 : BF16_TOLERANCE, name);
    assert_true(again->list.forward_count == kept->list.forward_count);
    graph_finish(kept);
    graph_finish(again);
}

static void random_graph_in_blocks(struct graph *graph, uint64_t seed, enum kernel_precision precision,
                                   enum list_recompute_mode recompute)
{
    graph_init(graph, seed, precision);
    tensor_id logits = build_random(graph);
    for (size_t i = 0; i < graph->list.op_count; i++) {
        graph->list.ops[i].block = 3 * i / graph->list.op_count; // 0: of none
    }
    graph_differentiate(graph, logits);
    list_recompute(&graph->list, recompute);
    if (seed % 2 == 0) {
        list_fuse(&graph->list);
    }
    graph_place(graph);
}

static void check_recomputation(enum kernel_precision precision, enum list_recompute_mode recompute,
                                enum model_levers levers)
{
    size_t added = 0;
    for (size_t i = 0; i < MODELS; i++) {
        struct graph kept, again;
        graph_of_model(&kept, models[i].config, precision, 3, MODEL_LEVERS_HEAD);
        graph_of_model(&again, models[i].config, precision, 3, levers);
        assert_recomputed(&kept, &again, precision, models[i].name);
    }
    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct graph kept, again;
        char name[64];
        snprintf(name, sizeof(name), "random list, seed %u", (unsigned)seed);
        random_graph_in_blocks(&kept, seed, precision, LIST_RECOMPUTE_NONE);
        random_graph_in_blocks(&again, seed, precision, recompute);
        added += again.list.op_count - kept.list.op_count;
        assert_recomputed(&kept, &again, precision, name);
    }
    assert_true(added > 100);
}

static void test_recomputation_changes_no_result(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        check_recomputation(i == 0 ? KERNEL_FP32 : KERNEL_BF16, LIST_RECOMPUTE_SELECTIVE, MODEL_LEVERS_SELECTIVE);
        check_recomputation(i == 0 ? KERNEL_FP32 : KERNEL_BF16, LIST_RECOMPUTE_HALF, MODEL_LEVERS_HALF);
        check_recomputation(i == 0 ? KERNEL_FP32 : KERNEL_BF16, LIST_RECOMPUTE_FULL, MODEL_LEVERS_FULL);
    }
}

// Offloading --------------------------------------------------------------------------------------------------------

static size_t count_operations(const struct list *list, const char *name)
{
    size_t count = 0;
    for (size_t i = 0; i < list->op_count; i++) {
        count += strcmp(list->ops[i].type->name, name) == 0;
    }
    return count;
}

// Answers how many tensors are moved: each goes, comes back, and is waited for twice.
static size_t assert_offloaded(struct graph *stays, struct graph *goes, const char *name)
{
    size_t moved = count_operations(&goes->list, "offload");
    assert_same_results(stays, goes, "cpu", 0, name);
    assert_int_equal(count_operations(&goes->list, "offload_wait"), moved);
    assert_int_equal(count_operations(&goes->list, "fetch"), moved);
    assert_int_equal(count_operations(&goes->list, "fetch_wait"), moved);
    assert_int_equal(goes->list.op_count, stays->list.op_count + 4 * moved);
    assert_true((goes->list.host_bytes > 0) == (moved > 0));
    assert_int_equal(stays->list.host_bytes, 0);
    assert_true(goes->list.lower_bound_bytes <= stays->list.lower_bound_bytes);
    return moved;
}

static size_t check_random_offloading(uint64_t seed, enum kernel_precision precision)
{
    struct graph graphs[2];
    char name[64];
    snprintf(name, sizeof(name), "random list, seed %u", (unsigned)seed);
    for (size_t i = 0; i < 2; i++) {
        graph_init(&graphs[i], seed, precision);
        graph_differentiate(&graphs[i], build_random(&graphs[i]));
        list_fuse(&graphs[i].list);
        if (i == 1) {
            list_offload(&graphs[i].list);
        }
        graph_place(&graphs[i]);
    }
    size_t moved = assert_offloaded(&graphs[0], &graphs[1], name);
    graph_finish(&graphs[0]);
    graph_finish(&graphs[1]);
    return moved;
}

static void test_offloading_changes_no_result(void **state)
{
    (void)state;
    size_t moved = 0;
    for (size_t i = 0; i < 2 * MODELS; i++) {
        enum kernel_precision precision = i % 2 == 0 ? KERNEL_FP32 : KERNEL_BF16;
        struct graph stays, goes;
        graph_of_model(&stays, models[i / 2].config, precision, 3, MODEL_LEVERS_FULL);
        graph_of_model(&goes, models[i / 2].config, precision, 3, MODEL_LEVERS_OFFLOAD);
        assert_true(assert_offloaded(&stays, &goes, models[i / 2].name) > 0);
        graph_finish(&stays);
        graph_finish(&goes);
    }
    for (uint64_t seed = 1; seed <= 200; seed++) {
        moved += check_random_offloading(seed, seed % 2 == 0 ? KERNEL_FP32 : KERNEL_BF16);
    }
    assert_true(moved > 1000);
}

// All but the inputs of the first and the last blocks are away at some time.
static void test_a_peak_does_not_grow_with_what_is_offloaded(void **state)
{
    (void)state;
    uint64_t bytes[2] = {0};
    for (size_t blocks = 4; blocks <= 12; blocks++) {
        struct graph graph;
        struct model_config deep = gpt;
        deep.gpt.blocks = blocks;
        graph_of_model(&graph, &deep, KERNEL_FP32, 3, MODEL_LEVERS_OFFLOAD);
        uint64_t residual = 3 * gpt.gpt.seq_len * gpt.gpt.channels * 4;
        assert_int_equal(graph.list.host_bytes, blocks * uint64_round_up(residual, LIST_ALIGNMENT));
        bytes[0] = blocks == 4 ? graph.list.locals_bytes : bytes[0];
        bytes[1] = graph.list.locals_bytes;
        graph_finish(&graph);
    }
    assert_int_equal(bytes[0], bytes[1]);
}

// Placement ---------------------------------------------------------------------------------------------------------

// The same list with every local tensor at a place of its own. Shares the operations with `list`.
static struct list spread_out(const struct list *list)
{
    struct list apart = *list;
    apart.tensors = calloc(list->tensor_count, sizeof(*apart.tensors));
    apart.locals_bytes = 0;
    for (size_t i = 0; i < list->tensor_count; i++) {
        struct tensor *tensor = &apart.tensors[i];
        *tensor = list->tensors[i];
        if (tensor->kind == TENSOR_LOCAL) {
            tensor->offset_bytes = apart.locals_bytes;
            apart.locals_bytes += uint64_round_up(list_tensor_bytes(list, (tensor_id)i), LIST_ALIGNMENT);
        }
    }
    return apart;
}

static struct kernel_tally run_from_zero(struct graph *graph, const struct list *list)
{
    memset(graph->gradients, 0, 4 * graph->parameter_elements);
    return run(graph, list, "cpu");
}

static size_t written_over_others(const struct list *list)
{
    size_t count = 0;
    for (size_t i = 0; i < list->tensor_count; i++) {
        count += list->tensors[i].buffer != (tensor_id)i;
    }
    return count;
}

// Answers how many tensors are written over others.
static size_t assert_placement_changes_nothing(struct graph *graph, const char *name)
{
    struct list apart = spread_out(&graph->list);
    struct graph wide = *graph;
    wide.gradients = host_array(4 * graph->parameter_elements, 0);
    wide.block = host_array(block_bytes(&apart), 0);
    struct kernel_tally expected = run_from_zero(&wide, &apart);
    struct kernel_tally tally = run_from_zero(graph, &graph->list);
    if (memcmp(&tally, &expected, sizeof(tally)) != 0 ||
        memcmp(graph->gradients, wide.gradients, 4 * graph->parameter_elements) != 0) {
        fail_msg("%s: other bits than with every tensor apart", name);
    }
    assert_true(isfinite(tally.loss) && tally.count > 0);
    assert_true(graph->list.lower_bound_bytes <= graph->list.locals_bytes);
    assert_true(graph->list.locals_bytes < apart.locals_bytes);
    free(wide.gradients);
    free(wide.block);
    free(apart.tensors);
    return written_over_others(&graph->list);
}

static void check_placement(enum kernel_precision precision)
{
    struct graph graph;
    size_t over = 0;
    for (size_t micro_batch = 1; micro_batch <= 9; micro_batch++) {
        graph_of_model(&graph, &mlp_relu, precision, micro_batch + 1, MODEL_LEVERS_NONE);
        assert_placement_changes_nothing(&graph, "mlp");
        graph_finish(&graph);
        graph_of_model(&graph, &gpt, precision, micro_batch, MODEL_LEVERS_NONE);
        assert_true(assert_placement_changes_nothing(&graph, "gpt") >= 2 * 2); // in each block
        graph_finish(&graph);
    }
    for (uint64_t seed = 1; seed <= 100; seed++) {
        char name[64];
        snprintf(name, sizeof(name), "random list, seed %u", (unsigned)seed);
        graph_init(&graph, seed, precision);
        graph_differentiate(&graph, build_random(&graph));
        if (seed % 2 == 0) {
            list_fuse(&graph.list);
        }
        graph_place(&graph);
        over += assert_placement_changes_nothing(&graph, name);
        graph_finish(&graph);
    }
    assert_true(over > 500);
}

// A chain of elementwise operations on nothing else takes one buffer; what is needed once more is not written over.
static void test_what_is_written_over_what(void **state)
{
    (void)state;
    struct graph graph;
    graph_init(&graph, SEED, KERNEL_FP32);
    tensor_id a = square_variable(&graph), b = gelu(&graph, a), c = gelu(&graph, b), d = add(&graph, b, c);
    tensor_id e = layer_norm(&graph, d), f = linear(&graph, e, WIDTH);
    append_loss(&graph, f);
    graph.list.forward_count = graph.list.op_count;
    graph_place(&graph);
    const struct tensor *tensors = graph.list.tensors;
    assert_int_equal(tensors[a].buffer, a);
    assert_int_equal(tensors[b].buffer, a);
    assert_int_equal(tensors[c].buffer, c);
    assert_int_equal(tensors[d].buffer, a);
    assert_int_equal(tensors[e].buffer, a);
    assert_int_equal(tensors[f].buffer, f);
    assert_true(tensors[e].offset_bytes == tensors[a].offset_bytes &&
                tensors[f].offset_bytes != tensors[a].offset_bytes);
    graph_finish(&graph);
}

static void test_placement_changes_no_result(void **state)
{
    (void)state;
    check_placement(KERNEL_FP32);
    check_placement(KERNEL_BF16);
}

// Runs the list once more, another way; it must give the same bits.
static void assert_same_bits(struct graph *graph, size_t split, size_t slot, const struct kernel_tally *expected,
                             const float *expected_gradients, const char *name)
{
    memset(graph->gradients, 0, 4 * graph->parameter_elements);
    struct kernel_tally tally = run_pieces(graph, &graph->list, "cpu", split, slot);
    if (memcmp(&tally, expected, sizeof(tally)) != 0 ||
        memcmp(graph->gradients, expected_gradients, 4 * graph->parameter_elements) != 0) {
        fail_msg("%s: other bits when cut at %zu, with slot %zu", name, split, slot);
    }
}

static void test_pieces_are_the_whole(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * MODELS; i++) {
        struct graph graph;
        graph_of_model(&graph, models[i / 2].config, i % 2 == 0 ? KERNEL_FP32 : KERNEL_BF16, 3, MODEL_LEVERS_NONE);
        struct kernel_tally expected = run_from_zero(&graph, &graph.list);
        float *gradients = host_array(4 * graph.parameter_elements, 0);
        memcpy(gradients, graph.gradients, 4 * graph.parameter_elements);
        assert_true(norm_of(gradients, NULL, graph.parameter_elements) > 0);
        for (size_t split = 0; split <= graph.list.op_count; split++) {
            assert_same_bits(&graph, split, 0, &expected, gradients, models[i / 2].name);
        }
        free(gradients);
        graph_finish(&graph);
    }
}

// Slots -------------------------------------------------------------------------------------------------------------

// The slot holds what was written to it, and the other one nothing.
static void assert_slots_untouched(const struct graph *graph, size_t slot)
{
    const unsigned char *other = (const unsigned char *)graph->block + (1 - slot) * graph->list.inputs_bytes;
    struct list_memory memory = memory_of(graph, &graph->list, NULL, slot);
    for (size_t i = 0; i < graph->list.inputs_bytes; i++) {
        assert_int_equal(other[i], 0xff);
    }
    for (size_t i = 0; i < graph->input_count; i++) {
        tensor_id tensor = graph->inputs[i].tensor;
        assert_memory_equal((void *)(uintptr_t)list_address(&graph->list, &memory, tensor), graph->inputs[i].values,
                            list_tensor_bytes(&graph->list, tensor));
    }
}

static void check_slots(const struct model_config *config, enum kernel_precision precision, const char *name)
{
    struct graph graph;
    graph_of_model(&graph, config, precision, 3, MODEL_LEVERS_NONE);
    struct kernel_tally expected = run_from_zero(&graph, &graph.list);
    float *gradients = host_array(4 * graph.parameter_elements, 0);
    memcpy(gradients, graph.gradients, 4 * graph.parameter_elements);
    for (size_t slot = 0; slot < 2; slot++) {
        assert_same_bits(&graph, graph.list.op_count, slot, &expected, gradients, name);
        assert_slots_untouched(&graph, slot);
    }
    free(gradients);
    graph_finish(&graph);
}

static void test_inputs_come_from_either_slot(void **state)
{
    (void)state;
    for (size_t i = 0; i < MODELS; i++) {
        check_slots(models[i].config, KERNEL_FP32, models[i].name);
        check_slots(models[i].config, KERNEL_BF16, models[i].name);
    }
}

static void check_addresses(enum kernel_precision precision, uint64_t real_bytes)
{
    struct list list;
    const struct list_memory memory = {
        .parameters = 1000000, .gradients = 2000000, .tally = 3000000, .inputs = 4000000, .locals = 5000000};
    list_init(&list, precision);
    tensor_id weights = list_tensor(&list, TENSOR_PARAMETER, TENSOR_REAL, 100, "weights");
    tensor_id gradient = list_tensor(&list, TENSOR_GRADIENT, TENSOR_FLOAT32, 100, "gradient");
    list.tensors[weights].first_element = list.tensors[gradient].first_element = 64;
    tensor_id inputs = list_tensor(&list, TENSOR_INPUT, TENSOR_FLOAT32, 65, "inputs"); // 4 bytes more than 256
    tensor_id targets = list_tensor(&list, TENSOR_INPUT, TENSOR_INT32, 1, "targets");
    tensor_id tally = list_tensor(&list, TENSOR_TALLY, TENSOR_FLOAT32, sizeof(struct kernel_tally) / 4, "tally");
    tensor_id y = op_linear(&list, op_convert(&list, inputs, "inputs"), weights, TENSOR_NONE, 1, 65, 1, "y");
    op_cross_entropy(&list, tally, y, targets, 1, 1, 1);
    assert_true(list_place(&list));
    assert_int_equal(list_tensor_bytes(&list, weights), 100 * real_bytes);
    assert_int_equal(list_tensor_bytes(&list, gradient), 400);
    assert_int_equal(list_tensor_bytes(&list, inputs), 260);
    assert_int_equal(list_tensor_bytes(&list, targets), 4);
    assert_int_equal(list_tensor_bytes(&list, tally), sizeof(struct kernel_tally));
    assert_int_equal(list.inputs_bytes, 512 + 256);
    assert_int_equal(list_address(&list, &memory, weights), 1000000 + 64 * real_bytes);
    assert_int_equal(list_address(&list, &memory, gradient), 2000000 + 64 * 4);
    assert_int_equal(list_address(&list, &memory, tally), 3000000);
    assert_int_equal(list_address(&list, &memory, inputs), 4000000);
    assert_int_equal(list_address(&list, &memory, targets), 4000000 + 512);
    assert_int_equal(list_address(&list, &memory, y), 5000000 + list.tensors[y].offset_bytes);
    assert_true(list.tensors[y].offset_bytes + list_tensor_bytes(&list, y) <= list.locals_bytes);
    assert_int_equal(list_address(&list, &memory, TENSOR_NONE), 0);
    list_finish(&list);
}

static void test_addresses(void **state)
{
    (void)state;
    check_addresses(KERNEL_FP32, 4);
    check_addresses(KERNEL_BF16, 2);
}

static void test_what_is_mentioned(void **state)
{
    (void)state;
    struct graph graph;
    graph_init(&graph, SEED, KERNEL_FP32);
    tensor_id a = square_variable(&graph), b = gelu(&graph, a), c = gelu(&graph, b);
    assert_true(list_mentions(&graph.list, a, 0) && list_mentions(&graph.list, a, 1));
    assert_false(list_mentions(&graph.list, a, 2));
    assert_true(list_mentions(&graph.list, c, 2));
    assert_false(list_mentions(&graph.list, c, 3));
    graph_complete(&graph, c);
    graph_finish(&graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_operation_agrees_with_differences),
        cmocka_unit_test(test_every_operation_has_a_case),
        cmocka_unit_test(test_random_lists_agree_with_differences),
        cmocka_unit_test(test_models_agree_with_differences),
        cmocka_unit_test(test_bfloat16_follows_float32),
        cmocka_unit_test(test_data_is_converted_where_reals_are_narrow),
        cmocka_unit_test(test_gradients_of_parameters_are_wide),
        cmocka_unit_test(test_what_is_fused),
        cmocka_unit_test(test_what_fusing_leaves_unused_takes_no_memory),
        cmocka_unit_test(test_fusion_changes_no_result),
        cmocka_unit_test(test_a_head_in_parts_changes_no_result),
        cmocka_unit_test(test_recomputation_changes_no_result),
        cmocka_unit_test(test_offloading_changes_no_result),
        cmocka_unit_test(test_a_peak_does_not_grow_with_what_is_offloaded),
        cmocka_unit_test(test_what_is_written_over_what),
        cmocka_unit_test(test_placement_changes_no_result),
        cmocka_unit_test(test_pieces_are_the_whole),
        cmocka_unit_test(test_inputs_come_from_either_slot),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_what_is_mentioned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
