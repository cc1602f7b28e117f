// SPDX-License-Identifier: Apache-2.0
#include "worker/config/schema.h"

#include <string.h>

#include "worker/config/config.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#define ONE(field) .offset = offsetof(struct config, field)
#define LIST(field)                                                                                                    \
    .offset = offsetof(struct config, field), .list_max = COUNT_OF(((struct config *)NULL)->field),                    \
    .count_offset = offsetof(struct config, field##_count)
#define RANGE(low, high)  .min = (low), .max = (high)
#define WORD(text, value) .word = (text), .word_value = (value)

// Steps times samples of a step fit 64 bits: positions in the run are counted in samples.
#define STEPS_MAX   "4294967295"
#define SAMPLES_MAX "4294967295"
#define RANKS_MAX   "1048575"

static const char *const model_names[] = {"mlp", "gpt", NULL};
static const char *const activation_names[] = {"relu", "gelu", NULL};
static const char *const optimizer_names[] = {"sgd", "adamw", NULL};
static const char *const schedule_names[] = {"constant", "cosine", "linear", NULL};
static const char *const data_names[] = {"idx", "npy", "text", "tokens", "synthetic", NULL};
static const char *const device_names[] = {"auto", "cpu", "cuda", NULL};
static const char *const segment_names[] = {"expandable", "plain", NULL};
static const char *const precision_names[] = {"fp32", "bf16", NULL};
static const char *const recompute_names[] = {"auto", "none", "selective", "half", "full", "offload", NULL};
static const char *const comm_names[] = {"auto", "self", "mpi", NULL};
static const char *const reduce_names[] = {"auto", "mpi", "nccl", NULL};
static const char *const keep_names[] = {"nothing", "gradients", "logits", NULL};
static const char *const memory_names[] = {"device", "host", NULL};

static const char *const section_names[] = {"model", "train",      "optimizer", "data",  "device", "comm",
                                            "run",   "checkpoint", "metrics",   "fault", NULL};

const struct config_key config_keys[] = {
    {"model.kind", CONFIG_TYPE_CHOICE, ONE(model.kind), .names = model_names, .help = "what is trained"},
    {"model.layers", CONFIG_TYPE_COUNT, LIST(model.layers), RANGE("1", "16777216"), .fallback = "[]",
     .help = "mlp: sizes of its layers, from the input to the classes"},
    {"model.activation", CONFIG_TYPE_CHOICE, ONE(model.activation), .names = activation_names, .fallback = "relu",
     .help = "mlp: between its layers"},
    {"model.vocab_size", CONFIG_TYPE_COUNT, ONE(model.vocab_size), RANGE("2", "2147483647"), WORD("null", 0),
     .fallback = "null", .help = "gpt: number of different tokens"},
    {"model.seq_len", CONFIG_TYPE_COUNT, ONE(model.seq_len), RANGE("1", "1048576"), WORD("null", 0), .fallback = "null",
     .help = "gpt: tokens in a sample"},
    {"model.block_count", CONFIG_TYPE_COUNT, ONE(model.block_count), RANGE("1", "4096"), WORD("null", 0),
     .fallback = "null", .help = "gpt: blocks of attention and feed-forward"},
    {"model.head_count", CONFIG_TYPE_COUNT, ONE(model.head_count), RANGE("1", "4096"), WORD("null", 0),
     .fallback = "null", .help = "gpt: attention heads in a block; divides the channels"},
    {"model.channels", CONFIG_TYPE_COUNT, ONE(model.channels), RANGE("1", "1048576"), WORD("null", 0),
     .fallback = "null", .help = "gpt: width of the residual stream"},

    {"train.steps", CONFIG_TYPE_COUNT, ONE(train.steps), RANGE("0", STEPS_MAX), .fallback = "0",
     .help = "optimizer steps; 0: as many as the epochs take"},
    {"train.epochs", CONFIG_TYPE_COUNT, ONE(train.epochs), RANGE("0", "1000000"), .fallback = "0",
     .help = "passes over the training set; used where train.steps is 0"},
    {"train.global_batch_size", CONFIG_TYPE_COUNT, ONE(train.global_batch_size), RANGE("1", SAMPLES_MAX),
     .help = "samples per optimizer step over all ranks; memory never changes it"},
    {"train.micro_batch_size", CONFIG_TYPE_COUNT, ONE(train.micro_batch_size), RANGE("1", SAMPLES_MAX), WORD("auto", 0),
     .fallback = "auto", .help = "samples in one forward and backward pass; auto: from the headroom"},
    {"train.precision", CONFIG_TYPE_CHOICE, ONE(train.precision), .names = precision_names, .fallback = "fp32",
     .help = "of weights and activations in a micro-step; the optimizer and sums of gradients are always fp32"},
    {"train.recompute", CONFIG_TYPE_CHOICE, ONE(train.recompute), .names = recompute_names, .fallback = "auto",
     .help = "what the backward pass computes again rather than keep: layer norms and GELU, or all within a block; "
             "half: all within the first half of the blocks; offload: as full, and what it keeps waits in host memory; "
             "auto: as little as memory allows"},
    {"train.offload_bytes", CONFIG_TYPE_BYTES, ONE(train.offload_bytes), RANGE("0", "16TiB"), .fallback = "4GiB",
     .help = "the most host memory that a rank keeps tensors of its device in; 0: none"},
    {"train.shard_optimizer", CONFIG_TYPE_BOOL, ONE(train.shard_optimizer), .fallback = "false",
     .help = "each rank holds the optimizer's state of a part of the weights, by its headroom, and updates that part"},
    {"train.reproducible", CONFIG_TYPE_BOOL, ONE(train.reproducible), .fallback = "false",
     .help = "weights of the same bits whatever the number of ranks and their memory; slower"},
    {"train.grain_size", CONFIG_TYPE_COUNT, ONE(train.grain_size), RANGE("1", SAMPLES_MAX), .fallback = "1",
     .help = "samples of every micro-step where train.reproducible is true; another size gives other bits"},
    {"train.seed", CONFIG_TYPE_COUNT, ONE(train.seed), RANGE("0", "18446744073709551615"), .fallback = "1",
     .help = "of the first weights and of the order of samples"},
    {"train.clip_norm", CONFIG_TYPE_REAL, ONE(train.clip_norm), RANGE("0", "1e9"), .fallback = "0",
     .help = "longest gradient that is applied unscaled; 0: any"},
    {"train.eval_every", CONFIG_TYPE_COUNT, ONE(train.eval_every), RANGE("0", STEPS_MAX), .fallback = "0",
     .help = "steps between validations; 0: only at the end"},

    {"optimizer.kind", CONFIG_TYPE_CHOICE, ONE(optimizer.kind), .names = optimizer_names, .fallback = "sgd",
     .help = "how gradients change weights"},
    {"optimizer.learning_rate", CONFIG_TYPE_REAL, ONE(optimizer.learning_rate), RANGE("0", "1e6"), .fallback = "0.01",
     .help = "after the warm-up"},
    {"optimizer.momentum", CONFIG_TYPE_REAL, ONE(optimizer.momentum), RANGE("0", "0.999999"), .fallback = "0",
     .help = "sgd: what is kept of the last step's direction"},
    {"optimizer.weight_decay", CONFIG_TYPE_REAL, ONE(optimizer.weight_decay), RANGE("0", "1000"), .fallback = "0",
     .help = "pull of the weights to zero, times the learning rate"},
    {"optimizer.beta1", CONFIG_TYPE_REAL, ONE(optimizer.beta1), RANGE("0", "0.999999"), .fallback = "0.9",
     .help = "adamw: decay of the mean gradient"},
    {"optimizer.beta2", CONFIG_TYPE_REAL, ONE(optimizer.beta2), RANGE("0", "0.999999"), .fallback = "0.999",
     .help = "adamw: decay of the mean squared gradient"},
    {"optimizer.epsilon", CONFIG_TYPE_REAL, ONE(optimizer.epsilon), RANGE("1e-30", "1"), .fallback = "1e-8",
     .help = "adamw: keeps the division finite"},
    {"optimizer.schedule", CONFIG_TYPE_CHOICE, ONE(optimizer.schedule), .names = schedule_names, .fallback = "constant",
     .help = "course of the learning rate after the warm-up"},
    {"optimizer.warmup_steps", CONFIG_TYPE_COUNT, ONE(optimizer.warmup_steps), RANGE("0", STEPS_MAX), .fallback = "0",
     .help = "steps in which the learning rate grows from 0"},
    {"optimizer.final_learning_rate", CONFIG_TYPE_REAL, ONE(optimizer.final_learning_rate), RANGE("0", "1e6"),
     .fallback = "0", .help = "cosine, linear: where the learning rate ends"},

    {"data.kind", CONFIG_TYPE_CHOICE, ONE(data.kind), .names = data_names,
     .help =
         "idx: images and labels; npy: arrays and labels; text: bytes of a file; tokens: shards; synthetic: made up"},
    {"data.images", CONFIG_TYPE_TEXT, ONE(data.images), WORD("null", 0), .fallback = "null",
     .help = "idx, npy: file of the training images, or arrays; idx may be gzipped"},
    {"data.labels", CONFIG_TYPE_TEXT, ONE(data.labels), WORD("null", 0), .fallback = "null",
     .help = "idx, npy: file of the training labels"},
    {"data.validation_images", CONFIG_TYPE_TEXT, ONE(data.validation_images), WORD("null", 0), .fallback = "null",
     .help = "idx, npy: file of the validation images; null: no validation"},
    {"data.validation_labels", CONFIG_TYPE_TEXT, ONE(data.validation_labels), WORD("null", 0), .fallback = "null",
     .help = "idx, npy: file of the validation labels"},
    {"data.path", CONFIG_TYPE_TEXT, ONE(data.path), WORD("null", 0), .fallback = "null",
     .help = "text: a file; tokens: a file or a pattern such as data/*.bin"},
    {"data.validation_path", CONFIG_TYPE_TEXT, ONE(data.validation_path), WORD("null", 0), .fallback = "null",
     .help = "text, tokens: what to validate on"},
    {"data.validation_fraction", CONFIG_TYPE_REAL, ONE(data.validation_fraction), RANGE("0", "0.9"), .fallback = "0",
     .help = "text, tokens: without a validation path, so much of the data's end is kept for validation"},
    {"data.samples", CONFIG_TYPE_COUNT, ONE(data.samples), RANGE("1", "1099511627776"), WORD("null", 0),
     .fallback = "null", .help = "synthetic: size of the training set"},
    {"data.validation_samples", CONFIG_TYPE_COUNT, ONE(data.validation_samples), RANGE("0", "1099511627776"),
     .fallback = "0", .help = "synthetic: size of the validation set; 0: none"},
    {"data.pack", CONFIG_TYPE_BOOL, ONE(data.pack), .fallback = "true",
     .help = "true: samples are of one length; false, for text and tokens: a sample is a line or a document, in pieces "
             "where it is longer than model.seq_len"},
    {"data.end_of_text", CONFIG_TYPE_COUNT, ONE(data.end_of_text), RANGE("0", "2147483647"), .fallback = "50256",
     .help = "tokens, where data.pack is false: the token that sets documents apart, before or after each; GPT-2's is "
             "50256"},
    {"data.shuffle", CONFIG_TYPE_BOOL, ONE(data.shuffle), .fallback = "true",
     .help = "each epoch in an order of its own, the same for any number of ranks"},
    {"data.threads", CONFIG_TYPE_COUNT, ONE(data.threads), RANGE("1", "256"), .fallback = "2",
     .help = "threads of each rank that read samples ahead"},
    {"data.prefetch_bytes", CONFIG_TYPE_BYTES, ONE(data.prefetch_bytes), RANGE("1", CONFIG_BYTES_MAX),
     .fallback = "64MiB", .help = "the most that samples read ahead take on a rank; one sample always fits"},

    {"device.kind", CONFIG_TYPE_CHOICE, ONE(device.kind), .names = device_names, .fallback = "auto",
     .help = "where the model runs; auto: on GPUs where every rank has one, else on the CPU"},
    {"device.name", CONFIG_TYPE_TEXT, ONE(device.name), WORD("null", 0), .fallback = "null",
     .help = "cpu: a user's jobs on a host that use the same name share devices of one capacity; null: only this job"},
    {"device.capacity", CONFIG_TYPE_BYTES, LIST(device.capacities), RANGE("4KiB", CONFIG_BYTES_MAX), .fallback = "[]",
     .help = "cpu: bytes of every device, or of each in rank order; []: 7/8 of what the machine has free. "
             "cuda: the most that every rank takes, or each; []: what the GPU has"},
    {"device.ranks_per_device", CONFIG_TYPE_COUNT, ONE(device.ranks_per_device), RANGE("1", "1024"), .fallback = "1",
     .help = "cpu: neighbouring ranks that share one device"},
    {"device.faulting_addresses", CONFIG_TYPE_BOOL, ONE(device.faulting_addresses), .fallback = "false",
     .help = "cpu: addresses of device memory fault when the host uses them, as a GPU's do"},
    {"device.segments", CONFIG_TYPE_CHOICE, ONE(device.segments), .names = segment_names, .fallback = "expandable",
     .help =
         "how memory is held; expandable: in ranges that grow, where the device can; plain: in pieces, as they come"},
    {"device.sanitize", CONFIG_TYPE_BOOL, ONE(device.sanitize), .fallback = "false",
     .help = "look for writes outside of a block, uses after a free, and uses by two streams in no order; slow"},
    {"device.neighbours", CONFIG_TYPE_NEIGHBOUR, LIST(device.neighbours), .fallback = "[]",
     .help = "cpu: others who take memory of a rank's device while from_step <= step < to_step"},

    {"comm.kind", CONFIG_TYPE_CHOICE, ONE(comm.kind), .names = comm_names, .fallback = "auto",
     .help = "how ranks talk; auto: mpi under an MPI launcher, else self"},
    {"comm.reduce", CONFIG_TYPE_CHOICE, ONE(comm.reduce), .names = reduce_names, .fallback = "auto",
     .help = "how gradients are added up; auto: by nccl where every rank has a GPU of its own, else by mpi"},
    {"comm.bucket_bytes", CONFIG_TYPE_BYTES, ONE(comm.bucket_bytes), RANGE("4", CONFIG_BYTES_MAX), .fallback = "32MiB",
     .help = "gradients that are added up over ranks together, as soon as they are made"},

    {"run.folder", CONFIG_TYPE_TEXT, ONE(run.folder), WORD("null", 0), .fallback = "null",
     .help = "where the run's files go; null: runs/ and the name of the configuration file"},
    {"run.log_every", CONFIG_TYPE_COUNT, ONE(run.log_every), RANGE("1", STEPS_MAX), .fallback = "10",
     .help = "steps between lines where the console is no terminal"},
    {"run.log_seconds", CONFIG_TYPE_COUNT, ONE(run.log_seconds), RANGE("0", "1000000"), .fallback = "0",
     .help = "seconds between them instead; 0: as run.log_every says"},
    {"run.memory_trace", CONFIG_TYPE_BOOL, ONE(run.memory_trace), .fallback = "false",
     .help = "write all that every rank's allocator does to memory/rank_N.csv, for headroom memory replay"},
    {"run.snapshot_step", CONFIG_TYPE_COUNT, ONE(run.snapshot_step), RANGE("0", STEPS_MAX),
     WORD("null", CONFIG_NO_STEP), .fallback = "null",
     .help = "write a snapshot of every rank's memory after this step, for PyTorch's memory viewer"},
    {"run.stall_seconds", CONFIG_TYPE_COUNT, ONE(run.stall_seconds), RANGE("0", "1000000"), .fallback = "900",
     .help =
         "a rank that comes no further for so long, not by a single micro-step, has stopped: the job ends; 0: never"},
    {"run.log_micro_steps", CONFIG_TYPE_BOOL, ONE(run.log_micro_steps), .fallback = "false",
     .help = "write the samples of every micro-step into the rank logs"},

    {"checkpoint.every", CONFIG_TYPE_COUNT, ONE(checkpoint.every), RANGE("0", STEPS_MAX), .fallback = "0",
     .help = "steps between checkpoints; 0: only at the end, and where the run is told to stop (SIGUSR1)"},
    {"checkpoint.at_end", CONFIG_TYPE_BOOL, ONE(checkpoint.at_end), .fallback = "true", .help = "after the last step"},
    {"checkpoint.keep_last", CONFIG_TYPE_COUNT, ONE(checkpoint.keep_last), RANGE("1", STEPS_MAX), .fallback = "2",
     .help = "the newest so many stay"},
    {"checkpoint.keep_every", CONFIG_TYPE_COUNT, ONE(checkpoint.keep_every), RANGE("0", STEPS_MAX), .fallback = "0",
     .help = "those of every so many steps stay, too; 0: none"},
    {"checkpoint.resume", CONFIG_TYPE_TEXT, ONE(checkpoint.resume), WORD("null", 0), .fallback = "null",
     .help =
         "what to go on from: auto: run.folder, if it has a checkpoint; a checkpoint, or the folder of another run; "
         "null: nothing"},
    {"checkpoint.weights", CONFIG_TYPE_TEXT, ONE(checkpoint.weights), WORD("null", 0), .fallback = "null",
     .help =
         "a checkpoint, or the folder of another run, whose weights a new run begins with; its steps, optimizer and "
         "data begin anew; null: fresh ones"},

    {"metrics.tensorboard", CONFIG_TYPE_BOOL, ONE(metrics.tensorboard), .fallback = "false",
     .help = "write the figures of every step for TensorBoard, into the run folder's tensorboard/"},
    {"metrics.csv", CONFIG_TYPE_BOOL, ONE(metrics.csv), .fallback = "false",
     .help = "write the figures of every step into the run folder's metrics.csv"},
    {"metrics.prometheus_file", CONFIG_TYPE_TEXT, ONE(metrics.prometheus_file), WORD("null", 0), .fallback = "null",
     .help = "file that holds the newest figures for the textfile collector of Prometheus's node_exporter, so it ends "
             "in .prom; null: none"},
    {"metrics.http_port", CONFIG_TYPE_COUNT, ONE(metrics.http_port), RANGE("0", "65535"), .fallback = "0",
     .help = "port at which rank 0 answers Prometheus with the newest figures, at /metrics, and headroom top; 0: none"},
    {"metrics.http_address", CONFIG_TYPE_TEXT, ONE(metrics.http_address), .fallback = "127.0.0.1",
     .help = "address at which it does, as a number; 0.0.0.0: all of the machine's"},

    {"fault.fail_allocation_every", CONFIG_TYPE_COUNT, ONE(fault.fail_allocation_every), RANGE("0", STEPS_MAX),
     .fallback = "0", .help = "for tests: every n-th allocation of a step is refused; 0: none"},
    {"fault.fail_allocation_first", CONFIG_TYPE_COUNT, LIST(fault.fail_allocation_first), RANGE("1", STEPS_MAX),
     WORD("auto", 0), .fallback = "auto",
     .help = "for tests: the first of them, on every rank or on each in rank order; auto: the n-th"},
    {"fault.fail_allocation_count", CONFIG_TYPE_COUNT, ONE(fault.fail_allocation_count), RANGE("1", STEPS_MAX),
     WORD("all", 0), .fallback = "all", .help = "for tests: how many of them are refused"},
    {"fault.memory", CONFIG_TYPE_CHOICE, ONE(fault.memory), .names = memory_names, .fallback = "device",
     .help = "for tests: of which memory; host: where tensors of the device wait, and what copies come from and go to"},
    {"fault.stall_step", CONFIG_TYPE_COUNT, ONE(fault.stall_step), RANGE("0", STEPS_MAX), WORD("null", CONFIG_NO_STEP),
     .fallback = "null", .help = "for tests: the rank stops in this step; null: in none"},
    {"fault.keep", CONFIG_TYPE_CHOICE, ONE(fault.keep), .names = keep_names, .fallback = "nothing",
     .help = "for tests: what each step leaves behind on the device: nothing, its gradients, or its logits"},
    {"fault.fragment_bytes", CONFIG_TYPE_BYTES, ONE(fault.fragment_bytes), RANGE("0", CONFIG_BYTES_MAX),
     .fallback = "0", .help = "for tests: so much of the device's memory is free in small pieces only"},
    {"fault.read_ms", CONFIG_TYPE_COUNT, ONE(fault.read_ms), RANGE("0", "1000000"), .fallback = "0",
     .help = "for tests: reading a sample takes so many milliseconds more"},
    {"fault.rank", CONFIG_TYPE_COUNT, ONE(fault.rank), RANGE("0", RANKS_MAX), WORD("all", CONFIG_ALL_RANKS),
     .fallback = "all", .help = "for tests: the rank that has these faults"},
};

#define OF_NEIGHBOUR(field) .offset = offsetof(struct config_neighbour, field)

const struct config_key config_neighbour_keys[CONFIG_NEIGHBOUR_KEYS_MAX] = {
    {"device.neighbours.rank", CONFIG_TYPE_COUNT, OF_NEIGHBOUR(rank), RANGE("0", RANKS_MAX)},
    {"device.neighbours.bytes", CONFIG_TYPE_BYTES, OF_NEIGHBOUR(bytes), RANGE("0", CONFIG_BYTES_MAX)},
    {"device.neighbours.from_step", CONFIG_TYPE_COUNT, OF_NEIGHBOUR(from_step), RANGE("0", STEPS_MAX)},
    {"device.neighbours.to_step", CONFIG_TYPE_COUNT, OF_NEIGHBOUR(to_step), RANGE("0", STEPS_MAX)},
};

const size_t config_keys_count = COUNT_OF(config_keys);
const struct config_schema config_schema = {section_names, config_keys, COUNT_OF(config_keys)};
_Static_assert(COUNT_OF(config_keys) <= CONFIG_KEYS_MAX, "those who keep something for each key have room for all");

const char *config_key_name(const struct config_key *key)
{
    return strrchr(key->path, '.') + 1;
}
