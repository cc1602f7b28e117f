// SPDX-License-Identifier: Apache-2.0
#include "worker/generate/generator.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/bfloat16.h"
#include "mem/pool.h"
#include "mem/uint64.h"

#define PIECE   (UINT64_C(1) << 18) // weights
#define AT_ONCE 128                 // tokens, so that a long text takes no more memory than a short one

struct generator {
    const struct model *model;
    struct device *device;
    struct stream *stream;
    struct mem_pool *pool;
    struct kernel_context *kernels;
    struct list_memory memory; // inputs and locals exist while a list runs
    size_t tokens;             // that were read
    void *reals;               // of logits as they come from the device
    float *logits;             // of the last
};

static enum status out_of_memory(const struct generator *generator, const char *what, struct error *error)
{
    char text[768];
    mem_out_of_memory_format(mem_pool_out_of_memory(generator->pool), generator->device->ops, text, sizeof(text));
    return error_set(error, STATUS_OUT_OF_MEMORY, "cannot hold the %s: %s", what, text);
}

static enum status hold(struct generator *generator, const char *what, uint64_t bytes, device_address *address_p,
                        struct error *error)
{
    enum status status = mem_pool_hold(generator->pool, bytes, generator->stream, what, address_p);
    if (status == STATUS_OUT_OF_MEMORY) {
        return out_of_memory(generator, what, error);
    }
    return status == STATUS_OK ? STATUS_OK : error_out_of_host_memory(error);
}

static uint64_t real_bytes(const struct generator *generator)
{
    return kernel_real_bytes(generator->model->config.precision);
}

static enum status open_device(struct generator *generator, const struct device_ops *ops, uint64_t limit_bytes,
                               struct error *error)
{
    const struct device_config config = {.capacity_bytes = limit_bytes, .sharers = 1};
    enum status status = ops->create(&config, &generator->device, error);
    if (status == STATUS_OK && ops->stream_create(generator->device, &generator->stream) != STATUS_OK) {
        return error_set(error, STATUS_ERROR, "cannot make a stream on device %s", ops->name);
    }
    return status == STATUS_OK ? mem_pool_create(generator->device, limit_bytes, &generator->pool, error) : status;
}

static enum status open_kernels(struct generator *generator, struct error *error)
{
    const struct kernels *kernels = kernels_find(generator->device->ops->name, generator->model->config.precision);
    device_address workspace = 0;
    enum status status = kernels->workspace_bytes == 0
                             ? STATUS_OK
                             : hold(generator, "workspace", kernels->workspace_bytes, &workspace, error);
    return status == STATUS_OK
               ? kernels->context_create(generator->device, generator->stream, workspace, &generator->kernels, error)
               : status;
}

// Weights on the way to the device: in host memory, and there as float32.
struct piece {
    uint64_t most;
    float *host;
    device_address there;
};

static enum status copy_parameter(struct generator *generator, const struct weights *weights, size_t number,
                                  const struct piece *piece, struct error *error)
{
    const struct device_ops *ops = generator->device->ops;
    const struct parameter *parameter = &generator->model->parameters[number];
    uint64_t elements = parameter->rows_used * parameter->columns;
    enum status status = STATUS_OK;
    for (uint64_t first = 0; first < elements && status == STATUS_OK; first += piece->most) {
        uint64_t count = uint64_min(piece->most, elements - first);
        status = weights->read(weights->context, number, first, count, piece->host, error);
        if (status == STATUS_OK) {
            device_address to = generator->memory.parameters + (parameter->offset + first) * real_bytes(generator);
            ops->copy_to_device(generator->device, generator->stream, piece->there, piece->host, count * sizeof(float));
            generator->kernels->kernels->convert(generator->kernels, to, piece->there, count);
            ops->stream_synchronize(generator->device, generator->stream);
        }
    }
    return status;
}

static enum status copy_weights(struct generator *generator, const struct weights *weights, struct error *error)
{
    const struct model *model = generator->model;
    struct piece piece = {.most = uint64_min(PIECE, model->elements)};
    piece.host = malloc(piece.most * sizeof(float));
    enum status status = piece.host == NULL
                             ? error_out_of_host_memory(error)
                             : hold(generator, "piece of weights", piece.most * sizeof(float), &piece.there, error);
    for (size_t i = 0; i < model->parameter_count && status == STATUS_OK; i++) {
        status = copy_parameter(generator, weights, i, &piece, error);
    }
    mem_pool_free(generator->pool, piece.there, generator->stream);
    free(piece.host);
    return status;
}

static enum status hold_weights(struct generator *generator, struct error *error)
{
    uint64_t bytes = generator->model->elements * real_bytes(generator);
    enum status status = hold(generator, "weights", bytes, &generator->memory.parameters, error);
    if (status == STATUS_OK) {
        generator->device->ops->fill_zero(generator->device, generator->stream, generator->memory.parameters, bytes);
    }
    return status;
}

static enum status create(struct generator *generator, const struct device_ops *device, uint64_t limit_bytes,
                          const struct weights *weights, struct error *error)
{
    size_t vocab = generator->model->config.gpt.vocab_size;
    generator->reals = malloc(vocab * sizeof(float));
    generator->logits = calloc(vocab, sizeof(*generator->logits));
    if (generator->reals == NULL || generator->logits == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = open_device(generator, device, limit_bytes, error);
    if (status == STATUS_OK) {
        status = open_kernels(generator, error);
    }
    if (status == STATUS_OK) {
        status = hold_weights(generator, error);
    }
    if (status == STATUS_OK) {
        status =
            hold(generator, "keys and values", model_cache_bytes(generator->model), &generator->memory.cache, error);
    }
    if (status == STATUS_OK) {
        status = copy_weights(generator, weights, error);
    }
    return status;
}

enum status generator_create(const struct device_ops *device, uint64_t limit_bytes, const struct weights *weights,
                             struct generator **generator_p, struct error *error)
{
    assert(model_cache_bytes(weights->model) > 0);
    struct generator *generator = calloc(1, sizeof(*generator));
    if (generator == NULL) {
        return error_out_of_host_memory(error);
    }
    generator->model = weights->model;
    enum status status = create(generator, device, limit_bytes, weights, error);
    if (status != STATUS_OK) {
        generator_destroy(generator);
        return status;
    }
    *generator_p = generator;
    return STATUS_OK;
}

void generator_destroy(struct generator *generator)
{
    if (generator == NULL) {
        return;
    }
    if (generator->device != NULL) {
        generator->device->ops->synchronize(generator->device);
        if (generator->kernels != NULL) {
            generator->kernels->kernels->context_destroy(generator->kernels);
        }
        mem_pool_destroy(generator->pool);
        generator->device->ops->stream_destroy(generator->device, generator->stream);
        generator->device->ops->destroy(generator->device);
    }
    free(generator->logits);
    free(generator->reals);
    free(generator);
}

uint64_t generator_peak_bytes(const struct generator *generator)
{
    struct mem_pool_stats stats;
    mem_pool_stats(generator->pool, &stats);
    return stats.allocated_bytes.peak;
}

static enum status take_logits(struct generator *generator, struct error *error)
{
    size_t vocab = generator->model->config.gpt.vocab_size;
    enum status status = generator->device->ops->check(generator->device, error);
    for (size_t i = 0; i < vocab && status == STATUS_OK; i++) {
        bool bf16 = generator->model->config.precision == KERNEL_BF16;
        generator->logits[i] =
            bf16 ? bfloat16_to_float(((const uint16_t *)generator->reals)[i]) : ((const float *)generator->reals)[i];
        if (!isfinite(generator->logits[i])) {
            return error_set(error, STATUS_DIVERGED,
                             "a logit after %zu tokens is not finite: the weights are of no use", generator->tokens);
        }
    }
    return status;
}

// The block holds the list's inputs and locals.
static void run(struct generator *generator, const struct list *list, device_address block, const int32_t *tokens,
                size_t count)
{
    const struct device_ops *ops = generator->device->ops;
    struct list_memory memory = generator->memory;
    memory.inputs = block;
    memory.locals = block + list->inputs_bytes;
    ops->copy_to_device(generator->device, generator->stream, list_address(list, &memory, list->inputs), tokens,
                        count * sizeof(*tokens));
    list_run(list, 0, list->op_count, generator->kernels, &memory);
    ops->copy_to_host(generator->device, generator->stream, generator->reals, list_address(list, &memory, list->logits),
                      generator->model->config.gpt.vocab_size * real_bytes(generator));
    ops->stream_synchronize(generator->device, generator->stream);
}

static enum status read_some(struct generator *generator, const int32_t *tokens, size_t count, struct error *error)
{
    struct list list;
    device_address block;
    if (!model_next_list(generator->model, count, generator->tokens, &list)) {
        return error_out_of_host_memory(error);
    }
    enum status status =
        mem_pool_alloc(generator->pool, list.inputs_bytes + list.locals_bytes, generator->stream, "tokens", &block);
    if (status == STATUS_OK) {
        run(generator, &list, block, tokens, count);
        mem_pool_free(generator->pool, block, generator->stream);
        generator->tokens += count;
    } else {
        status = status == STATUS_OUT_OF_MEMORY ? out_of_memory(generator, "activations", error)
                                                : error_out_of_host_memory(error);
    }
    list_finish(&list);
    return status;
}

enum status generator_read(struct generator *generator, const int32_t *tokens, size_t count, const float **logits_p,
                           struct error *error)
{
    enum status status = STATUS_OK;
    for (size_t done = 0; done < count && status == STATUS_OK; done += AT_ONCE) {
        status = read_some(generator, tokens + done, uint64_min(AT_ONCE, count - done), error);
    }
    *logits_p = generator->logits;
    return status == STATUS_OK ? take_logits(generator, error) : status;
}
