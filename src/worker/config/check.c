// SPDX-License-Identifier: Apache-2.0
#include "worker/config/check.h"

#include <arpa/inet.h>
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/device.h"
#include "mem/ledger.h"

static bool is_given(const struct config_place *place)
{
    return place->file != NULL || place->override != NULL;
}

// The file as a whole for a key that was given nowhere.
static struct config_place find_place(const struct config *config, const char *path)
{
    size_t i = 0;
    while (strcmp(config_keys[i].path, path) != 0) {
        i++;
        assert(i < config_keys_count);
    }
    return is_given(&config->places[i]) ? config->places[i] : (struct config_place){.file = config->name};
}

static enum status __attribute__((format(printf, 4, 5)))
refuse(const struct config *config, const char *path, struct error *error, const char *format, ...)
{
    char complaint[512];
    struct config_place place = find_place(config, path);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(complaint, sizeof(complaint), format, arguments);
    va_end(arguments);
    return config_refuse(error, &place, path, "%s", complaint);
}

static enum status check_required(const struct config *config, struct error *error)
{
    const struct config_place file = {.file = config->name};
    for (size_t i = 0; i < config_keys_count; i++) {
        const struct config_key *key = &config_keys[i];
        if (key->fallback == NULL && !is_given(&config->places[i])) {
            return config_refuse_value(error, &file, key, "the key", "is missing");
        }
    }
    return STATUS_OK;
}

struct rule {
    bool broken;
    const char *path;
    const char *complaint;
};

static enum status check_rules(const struct config *config, const struct rule *rules, size_t count, struct error *error)
{
    for (size_t i = 0; i < count; i++) {
        if (rules[i].broken) {
            return refuse(config, rules[i].path, error, "%s", rules[i].complaint);
        }
    }
    return STATUS_OK;
}

static enum status check_train(const struct config *config, struct error *error)
{
    bool reproducible = config->train.reproducible;
    const struct rule rules[] = {
        {config->train.steps == 0 && config->train.epochs == 0, "train.steps",
         "one of train.steps and train.epochs must be more than 0"},
        {reproducible && config->train.micro_batch_size != 0, "train.micro_batch_size",
         "with train.reproducible micro-steps are of train.grain_size samples; allowed here: auto"},
        {reproducible && config->train.precision == CONFIG_BF16 && config->train.recompute == CONFIG_RECOMPUTE_AUTO,
         "train.recompute",
         "in bf16 what is recomputed is rounded anew; allowed with train.reproducible: none, selective, half, "
         "full, offload"},
        {config->train.recompute == CONFIG_RECOMPUTE_OFFLOAD && config->train.offload_bytes == 0, "train.offload_bytes",
         "with train.recompute: offload it must be more than 0"},
        {!reproducible && config->train.grain_size != 1, "train.grain_size",
         "is for train.reproducible; allowed here: 1"},
        {config->train.grain_size > config->train.global_batch_size, "train.grain_size",
         "is larger than train.global_batch_size"},
    };
    return check_rules(config, rules, sizeof(rules) / sizeof(rules[0]), error);
}

static enum status check_model(const struct config *config, struct error *error)
{
    bool mlp = config->model.kind == CONFIG_MODEL_MLP;
    bool gpt = config->model.kind == CONFIG_MODEL_GPT;
    const struct rule rules[] = {
        {mlp && config->model.layers_count < 2, "model.layers", "model.kind mlp needs at least 2 sizes"},
        {gpt && config->model.vocab_size == 0, "model.vocab_size", "model.kind gpt needs it"},
        {gpt && config->model.seq_len == 0, "model.seq_len", "model.kind gpt needs it"},
        {gpt && config->model.block_count == 0, "model.block_count", "model.kind gpt needs it"},
        {gpt && config->model.head_count == 0, "model.head_count", "model.kind gpt needs it"},
        {gpt && config->model.channels == 0, "model.channels", "model.kind gpt needs it"},
    };
    return check_rules(config, rules, sizeof(rules) / sizeof(rules[0]), error);
}

static enum status check_heads(const struct config *config, struct error *error)
{
    uint64_t channels = config->model.channels, heads = config->model.head_count;
    if (config->model.kind != CONFIG_MODEL_GPT || heads == 0 || channels % heads == 0) {
        return STATUS_OK;
    }
    return refuse(config, "model.channels", error, "%" PRIu64 " is not a multiple of model.head_count %" PRIu64,
                  channels, heads);
}

static enum status check_data(const struct config *config, struct error *error)
{
    bool mlp = config->model.kind == CONFIG_MODEL_MLP;
    bool idx = config->data.kind == CONFIG_DATA_IDX;
    bool npy = config->data.kind == CONFIG_DATA_NPY;
    bool text = config->data.kind == CONFIG_DATA_TEXT;
    bool tokens = config->data.kind == CONFIG_DATA_TOKENS;
    bool synthetic = config->data.kind == CONFIG_DATA_SYNTHETIC;
    bool half = (config->data.validation_images == NULL) != (config->data.validation_labels == NULL);
    const struct rule rules[] = {
        {(idx || npy) && !mlp, "data.kind", "idx and npy need model.kind mlp"},
        {text && mlp, "data.kind", "text needs model.kind gpt"},
        {tokens && mlp, "data.kind", "tokens needs model.kind gpt"},
        {(idx || npy) && config->data.images == NULL, "data.images", "data.kind idx and npy need it"},
        {(idx || npy) && config->data.labels == NULL, "data.labels", "data.kind idx and npy need it"},
        {(idx || npy) && half, "data.validation_images", "needs data.validation_labels, and the other way round"},
        {text && config->data.path == NULL, "data.path", "data.kind text needs it"},
        {tokens && config->data.path == NULL, "data.path", "data.kind tokens needs it"},
        {!config->data.pack && !text && !tokens, "data.pack",
         "false is for data.kind text, whose lines are samples then, and tokens, whose documents are; allowed here: "
         "true"},
        {config->data.end_of_text != CONFIG_END_OF_TEXT && !tokens, "data.end_of_text",
         "is for data.kind tokens; allowed here: 50256"},
        {synthetic && config->data.samples == 0, "data.samples", "data.kind synthetic needs it"},
    };
    return check_rules(config, rules, sizeof(rules) / sizeof(rules[0]), error);
}

static enum status check_end_of_text(const struct config *config, struct error *error)
{
    uint64_t token = config->data.end_of_text, vocab_size = config->model.vocab_size;
    if (config->data.kind != CONFIG_DATA_TOKENS || config->data.pack || token < vocab_size) {
        return STATUS_OK;
    }
    return refuse(config, "data.end_of_text", error,
                  "%" PRIu64 " is no token where model.vocab_size is %" PRIu64 "; allowed: 0 to %" PRIu64, token,
                  vocab_size, vocab_size - 1);
}

const char *config_cpu_key(const struct config *config)
{
    const struct {
        bool used;
        const char *path;
    } keys[] = {
        {config->device.name != NULL, "device.name"},
        {config->device.ranks_per_device > 1, "device.ranks_per_device"},
        {config->device.faulting_addresses, "device.faulting_addresses"},
        {config->device.neighbours_count > 0, "device.neighbours"},
    };
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (keys[i].used) {
            return keys[i].path;
        }
    }
    return NULL;
}

static enum status check_device(const struct config *config, struct error *error)
{
    const char *cpu_key = config_cpu_key(config);
    bool cuda = config->device.kind == CONFIG_DEVICE_CUDA;
    bool nccl = config->comm.reduce == CONFIG_REDUCE_NCCL;
    const struct rule rules[] = {
        {cuda && device_find("cuda") == NULL, "device.kind",
         "cuda: this program was built without it; allowed: auto, cpu"},
        {cuda && cpu_key != NULL, cpu_key, "device.kind cuda has no such thing; it is the CPU device's"},
        {nccl && config->device.kind == CONFIG_DEVICE_CPU, "comm.reduce", "nccl needs device.kind cuda"},
    };
    return check_rules(config, rules, sizeof(rules) / sizeof(rules[0]), error);
}

enum status config_check_gpus(const struct config *config, struct error *error)
{
    const char *cpu_key = config_cpu_key(config);
    const struct rule rules[] = {
        {config->device.kind == CONFIG_DEVICE_CPU, "device.kind",
         "cpu: the devices asked about are GPUs; allowed here: "
         "auto, cuda"},
        {cpu_key != NULL, cpu_key,
         "the devices asked about are GPUs, which have no such thing; it is the CPU device's"},
    };
    return check_rules(config, rules, sizeof(rules) / sizeof(rules[0]), error);
}

static enum status check_run(const struct config *config, struct error *error)
{
    uint64_t steps = config->train.steps, snapshot = config->run.snapshot_step;
    const char *resume = config->checkpoint.resume;
    const struct rule rules[] = {
        {snapshot != CONFIG_NO_STEP && steps > 0 && snapshot >= steps, "run.snapshot_step",
         "the run has only train.steps steps, counted from 0"},
        {config->checkpoint.weights != NULL && resume != NULL && strcmp(resume, "auto") != 0, "checkpoint.weights",
         "is for a run that begins anew, and checkpoint.resume names a checkpoint; allowed here: null"},
    };
    return check_rules(config, rules, sizeof(rules) / sizeof(rules[0]), error);
}

static bool ends_in(const char *text, const char *ending)
{
    size_t length = strlen(text), end = strlen(ending);
    return length >= end && strcmp(text + length - end, ending) == 0;
}

static enum status check_prometheus_file(const struct config *config, struct error *error)
{
    const char *path = config->metrics.prometheus_file;
    if (path == NULL || ends_in(path, ".prom")) {
        return STATUS_OK;
    }
    return refuse(config, "metrics.prometheus_file", error,
                  "'%s' does not end in .prom, and node_exporter reads no other files", path);
}

static enum status check_http_address(const struct config *config, struct error *error)
{
    const char *address = config->metrics.http_address;
    struct in6_addr number;
    if (inet_pton(AF_INET, address, &number) == 1 || inet_pton(AF_INET6, address, &number) == 1) {
        return STATUS_OK;
    }
    return refuse(config, "metrics.http_address", error,
                  "'%s' is no address; allowed: numbers such as 127.0.0.1 and ::1", address);
}

static enum status check_device_name(const struct config *config, struct error *error)
{
    const char *name = config->device.name;
    if (name == NULL || ledger_valid_name(name, 64)) {
        return STATUS_OK;
    }
    return refuse(config, "device.name", error, "'%s' is not 1 to 64 letters, digits, dots, underscores and dashes",
                  name);
}

static enum status check_neighbours(const struct config *config, struct error *error)
{
    for (size_t i = 0; i < config->device.neighbours_count; i++) {
        const struct config_neighbour *neighbour = &config->device.neighbours[i];
        if (neighbour->to_step <= neighbour->from_step) {
            return refuse(config, "device.neighbours", error,
                          "entry %zu: to_step %" PRIu64 " must be more than from_step %" PRIu64, i + 1,
                          neighbour->to_step, neighbour->from_step);
        }
    }
    return STATUS_OK;
}

enum status config_check(const struct config *config, struct error *error)
{
    enum status (*const checks[])(const struct config *, struct error *) = {
        check_required,   check_train,       check_model,           check_heads,
        check_data,       check_end_of_text, check_device,          check_device_name,
        check_neighbours, check_run,         check_prometheus_file, check_http_address,
    };
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < sizeof(checks) / sizeof(checks[0]); i++) {
        status = checks[i](config, error);
    }
    return status;
}

static enum status check_rank(const struct config *config, const char *path, uint64_t rank, uint64_t ranks,
                              struct error *error)
{
    if (rank < ranks) {
        return STATUS_OK;
    }
    return refuse(config, path, error, "there is no rank %" PRIu64 " among %" PRIu64 ", counted from 0", rank, ranks);
}

static enum status check_faults(const struct config *config, uint64_t ranks, struct error *error)
{
    size_t firsts = config->fault.fail_allocation_first_count;
    if (firsts > 1 && firsts != ranks) {
        return refuse(config, "fault.fail_allocation_first", error,
                      "a list of %zu for %" PRIu64 " rank%s; give one for all or one for each rank", firsts, ranks,
                      ranks == 1 ? "" : "s");
    }
    return config->fault.rank == CONFIG_ALL_RANKS ? STATUS_OK
                                                  : check_rank(config, "fault.rank", config->fault.rank, ranks, error);
}

enum status config_check_ranks(const struct config *config, uint64_t ranks, struct error *error)
{
    if (config->train.global_batch_size < ranks) {
        return refuse(config, "train.global_batch_size", error,
                      "%" PRIu64 " %s too few for %" PRIu64 " ranks; each needs at least one",
                      config->train.global_batch_size,
                      config->train.global_batch_size == 1 ? "sample is" : "samples are", ranks);
    }
    uint64_t grain = config->train.grain_size;
    if (config->train.reproducible && (config->train.global_batch_size + grain - 1) / grain < ranks) {
        return refuse(config, "train.grain_size", error,
                      "%" PRIu64 " leaves less than a grain of the global batch for each of %" PRIu64 " ranks", grain,
                      ranks);
    }
    size_t capacities = config->device.capacities_count;
    uint64_t devices = (ranks - 1) / config->device.ranks_per_device + 1;
    if (capacities > 1 && capacities != devices) {
        return refuse(config, "device.capacity", error,
                      "a list of %zu for %" PRIu64 " device%s; give one for all or one for each device", capacities,
                      devices, devices == 1 ? "" : "s");
    }
    for (size_t i = 0; i < config->device.neighbours_count; i++) {
        enum status status = check_rank(config, "device.neighbours", config->device.neighbours[i].rank, ranks, error);
        if (status != STATUS_OK) {
            return status;
        }
    }
    return check_faults(config, ranks, error);
}

enum status config_check_offload(const struct config *config, uint64_t host_bytes, struct error *error)
{
    if (config->train.recompute != CONFIG_RECOMPUTE_OFFLOAD || host_bytes <= config->train.offload_bytes) {
        return STATUS_OK;
    }
    return refuse(config, "train.offload_bytes", error,
                  "the smallest micro-step keeps %" PRIu64 " bytes in host memory; allowed: no less", host_bytes);
}

// NCCL takes ranks of one GPU for ranks of two where they name different hosts.
enum status config_check_devices(const struct config *config, const char *why_cpu, bool shared, struct error *error)
{
    if (config->comm.reduce != CONFIG_REDUCE_NCCL) {
        return STATUS_OK;
    }
    if (why_cpu[0] != '\0') {
        return refuse(config, "comm.reduce", error,
                      "nccl adds up between GPUs, and this runs on the CPU, because %s; allowed here: auto, mpi",
                      why_cpu);
    }
    if (shared && getenv("NCCL_HOSTID") == NULL) {
        return refuse(config, "comm.reduce", error,
                      "nccl needs a GPU for each rank, and some share one; allowed here: auto, mpi (or "
                      "give each rank a name of its own in NCCL_HOSTID)");
    }
    return STATUS_OK;
}
