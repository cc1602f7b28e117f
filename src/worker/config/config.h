// SPDX-License-Identifier: Apache-2.0
//
// The configuration: one struct, filled from defaults, a YAML file and `section.key=value` overrides, in rising
// precedence. One table in config_schema.c (path, type, range, default, help) drives reading, validation, --help and
// --print-config.
//
// Every mistake is one line: file, line, column, the value, and what is allowed.
//
// Threads and ranks: every function works on its arguments alone; nothing is collective.
#ifndef HEADROOM_WORKER_CONFIG_CONFIG_H
#define HEADROOM_WORKER_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "mem/error.h"
#include "worker/config/refuse.h"
#include "worker/config/schema.h"

#define CONFIG_LIST_MAX       64
#define CONFIG_NEIGHBOURS_MAX 16
#define CONFIG_NO_STEP        UINT64_MAX
#define CONFIG_ALL_RANKS      UINT64_MAX
#define CONFIG_END_OF_TEXT    50256 // GPT-2's

enum config_model { CONFIG_MODEL_MLP, CONFIG_MODEL_GPT };
enum config_activation { CONFIG_RELU, CONFIG_GELU };
enum config_optimizer { CONFIG_SGD, CONFIG_ADAMW };
enum config_schedule { CONFIG_CONSTANT, CONFIG_COSINE, CONFIG_LINEAR };
enum config_data { CONFIG_DATA_IDX, CONFIG_DATA_NPY, CONFIG_DATA_TEXT, CONFIG_DATA_TOKENS, CONFIG_DATA_SYNTHETIC };
enum config_device { CONFIG_DEVICE_AUTO, CONFIG_DEVICE_CPU, CONFIG_DEVICE_CUDA };
enum config_keep { CONFIG_KEEP_NOTHING, CONFIG_KEEP_GRADIENTS, CONFIG_KEEP_LOGITS };
enum config_segments { CONFIG_EXPANDABLE, CONFIG_PLAIN };
enum config_precision { CONFIG_FP32, CONFIG_BF16 };
enum config_recompute {
    CONFIG_RECOMPUTE_AUTO,
    CONFIG_RECOMPUTE_NONE,
    CONFIG_RECOMPUTE_SELECTIVE,
    CONFIG_RECOMPUTE_HALF,
    CONFIG_RECOMPUTE_FULL,
    CONFIG_RECOMPUTE_OFFLOAD,
};
enum config_comm { CONFIG_COMM_AUTO, CONFIG_COMM_SELF, CONFIG_COMM_MPI };
enum config_reduce { CONFIG_REDUCE_AUTO, CONFIG_REDUCE_MPI, CONFIG_REDUCE_NCCL };
enum config_memory { CONFIG_MEMORY_DEVICE, CONFIG_MEMORY_HOST };

struct config_neighbour { // someone else on a CPU device, while steps from_step <= step < to_step run
    uint64_t rank;        // whose device
    uint64_t bytes;
    uint64_t from_step, to_step;
};

struct config {
    struct {
        enum config_model kind;
        uint64_t layers[CONFIG_LIST_MAX]; // mlp: sizes from input to classes
        size_t layers_count;
        enum config_activation activation;                               // mlp
        uint64_t vocab_size, seq_len, block_count, head_count, channels; // gpt; else they may be 0
    } model;
    struct {
        uint64_t steps;  // 0: as many as `epochs` take
        uint64_t epochs; // used where steps is 0; a step may reach into the next epoch
        uint64_t global_batch_size;
        uint64_t micro_batch_size; // 0: "auto", from headroom
        enum config_precision precision;
        enum config_recompute recompute;
        uint64_t offload_bytes; // of host memory, on each rank
        bool shard_optimizer;   // each rank holds a part of the optimizer's state
        bool reproducible;      // the same bits whatever the ranks and their memory
        uint64_t grain_size;    // samples that are computed together then
        uint64_t seed;
        double clip_norm;    // 0: no clipping
        uint64_t eval_every; // steps; 0: only at the end
    } train;
    struct {
        enum config_optimizer kind;
        double learning_rate, momentum, weight_decay, beta1, beta2, epsilon;
        enum config_schedule schedule;
        uint64_t warmup_steps;
        double final_learning_rate; // where the decay ends
    } optimizer;
    struct {
        enum config_data kind;
        char *images, *labels, *validation_images, *validation_labels; // idx, npy
        char *path;                                                    // text: a file; tokens: a file or a glob pattern
        char *validation_path;                                         // text, tokens; NULL: none
        double validation_fraction;  // text, tokens without validation_path: the end of the data, kept apart
        uint64_t samples;            // synthetic: of the training set
        uint64_t validation_samples; // synthetic
        bool pack;                   // text, tokens: false: a sample is a line or a document
        uint64_t end_of_text;        // tokens: sets documents apart
        bool shuffle;
        uint64_t threads, prefetch_bytes;
    } data;
    struct {
        enum config_device kind;
        char *name; // shared by all jobs on the host that use the same name; NULL: this job's own
        uint64_t capacities[CONFIG_LIST_MAX]; // bytes; one for all devices, or one per device in rank order
        size_t capacities_count;              // 0: what the machine has, one device for all ranks of a host
        uint64_t ranks_per_device;
        bool faulting_addresses;
        enum config_segments segments;
        bool sanitize; // look for wrong uses of memory
        struct config_neighbour neighbours[CONFIG_NEIGHBOURS_MAX];
        size_t neighbours_count;
    } device;
    struct {
        enum config_comm kind;
        enum config_reduce reduce;
        uint64_t bucket_bytes;
    } comm;
    struct {
        char *folder;           // made if missing; by default runs/ and the name of the configuration file
        uint64_t log_every;     // steps between lines where the console is no terminal
        uint64_t log_seconds;   // seconds between them instead; 0: as log_every says
        bool memory_trace;      // write what every rank's allocator does into the run folder
        uint64_t snapshot_step; // CONFIG_NO_STEP: none
        uint64_t stall_seconds; // a rank that comes no further for so long has stopped; 0: none does
        bool log_micro_steps;   // write the samples of every micro-step into the rank logs
    } run;
    struct {
        uint64_t every;      // steps; 0: only as at_end says, and where the run is told to stop
        bool at_end;         // after the last step
        uint64_t keep_last;  // newest ones that stay
        uint64_t keep_every; // of those of so many steps all stay; 0: none
        char *resume;        // "auto", a checkpoint or a run's folder; NULL: begin anew
        char *weights;       // a checkpoint or a run's folder, to begin anew with its weights; NULL: fresh ones
    } checkpoint;
    struct { // figures for other programs
        bool tensorboard, csv;
        char *prometheus_file; // NULL: none
        uint64_t http_port;    // 0: none
        char *http_address;    // a number: nobody is asked for a name
    } metrics;
    struct {                                // for tests of what happens when memory runs out
        uint64_t fail_allocation_every;     // every n-th allocation of a step's block is refused; 0: none
        uint64_t fail_allocation_first[64]; // of those that are, on every rank or on each; 0: as every
        size_t fail_allocation_first_count;
        uint64_t fail_allocation_count; // how many are; 0: no end
        enum config_memory memory;      // of which they are
        uint64_t stall_step;            // in which it stops for good; CONFIG_NO_STEP: none
        enum config_keep keep;          // what every step leaves allocated
        uint64_t fragment_bytes;        // of the device's memory, are free in pieces
        uint64_t read_ms;               // that reading a sample takes longer
        uint64_t rank;                  // on this rank only, or CONFIG_ALL_RANKS
    } fault;
    const char *name;                            // of the file
    struct config_place places[CONFIG_KEYS_MAX]; // where each of config_keys was given
};

// Reads `path` and then overrides[count]. On failure STATUS_INVALID (STATUS_ERROR where the file cannot be opened
// for a reason other than that it is not there) and a config that needs no config_finish. The config borrows `path` and
// the overrides.
enum status config_read(struct config *config, const char *path, char *const *overrides, size_t count,
                        struct error *error);
// The same from a text in memory; `name` stands for the file's path.
enum status config_parse(struct config *config, const char *text, const char *name, char *const *overrides,
                         size_t count, struct error *error);
// Checks that need the number of ranks: global batch, capacities, neighbours and fault ranks.
enum status config_check_ranks(const struct config *config, uint64_t ranks, struct error *error);
// Checks that need the devices: why the ranks run on the CPU where GPUs were allowed, "" where they do not, and whether
// several share one.
enum status config_check_devices(const struct config *config, const char *why_cpu, bool shared, struct error *error);
// Whether it is for GPUs, where these are what it is looked at for.
enum status config_check_gpus(const struct config *config, struct error *error);
// The check that needs the model: where offloading is asked for, train.offload_bytes hold what the smallest micro-step
// keeps in host memory.
enum status config_check_offload(const struct config *config, uint64_t host_bytes, struct error *error);
void config_finish(struct config *config);

// The train.recompute that allows a rank all levers that its model has; the configuration's own where that does.
enum config_recompute config_all_levers(const struct config *config);

// A key in use that only the CPU device knows; NULL: none.
const char *config_cpu_key(const struct config *config);

// The whole configuration as YAML that config_read accepts and that gives the same struct. The caller frees it; NULL
// when memory runs out.
char *config_print(const struct config *config);
// The first of these keys, closed by NULL, that the two say otherwise; NULL: none, or the host's memory runs out.
const char *config_difference(const struct config *a, const struct config *b, const char *const *paths);
// One line per key: path, type, allowed values, default, help.
void config_print_help(const struct config_schema *schema, FILE *file);

#endif
