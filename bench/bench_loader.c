// SPDX-License-Identifier: Apache-2.0
//
// bench_loader [ROUNDS]: how fast samples come from the page cache into the loader's staging buffer, with one thread
// and with two, in shuffled order; the fastest of 9 rounds, since others may use the machine. Beside it, by as many
// threads: writing as many bytes to as much memory (memcpy of what the cache holds), and getting the samples' bytes out
// of the page cache, by pread, which the loader uses, and out of a mapping of the file. The limit is the slower of
// memcpy and pread; of IDX files, which are read when they are opened, it is memcpy.
//
// GB/s of the loader and of memcpy are bytes of the staging buffer: of a token of a uint16 shard 8, an int32 as input
// and one as target; of a float32 4, and of a uint8 4, which becomes a float32. Those of pread and of the mapping are
// bytes of the file. Fails where two threads stage less than 1 GB/s.
#include <endian.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mem/clock.h"
#include "worker/data/loader.h"

#define ROUNDS      9
#define THREADS_MAX 2
#define FILE_BYTES  (UINT64_C(64) << 20) // about
#define MAP_BYTES   (FILE_BYTES + 4096)  // with the header
#define RING_BYTES  (UINT64_C(64) << 20) // data.prefetch_bytes
#define BATCH       256                  // samples in a request
#define LIMIT       1.0                  // GB/s
#define SEED        1

// A data set in files that the benchmark makes in a folder of its own.
struct source {
    const char *name;
    const char *file, *labels; // NULL: it has none
    void (*write)(FILE *file, uint64_t samples);
    void (*write_labels)(FILE *file, uint64_t samples);
    uint64_t header_bytes, sample_bytes; // of the file
    bool in_memory;                      // it is read once, when it is opened
    const char *config;
};

struct bench {
    const struct source *source;
    char text[512];
    struct config config; // borrows the text
    struct data_set *set;
    struct device *device;
    struct mem_pool *staging;
    uint64_t staged_bytes; // of a sample
    uint64_t slots;
    uint8_t *ring; // for what is compared
    int file;
    const uint8_t *map;
};

static void must(bool held, const char *what)
{
    if (!held) {
        fprintf(stderr, "bench_loader: %s failed\n", what);
        exit(EXIT_FAILURE);
    }
}

static void succeed(enum status status, const struct error *error)
{
    must(status == STATUS_OK, error->text);
}

// ---- Files ----

#define TOKENS   UINT64_C(1024) // of a sample
#define VALUES   UINT64_C(3072)
#define PIXELS   UINT64_C(784)
#define NPY_HEAD 128

static void write_values(FILE *file, uint64_t count, uint64_t bytes)
{
    static uint8_t values[4096];
    for (size_t i = 0; i < sizeof(values); i++) {
        values[i] = (uint8_t)(i % 127); // as a float32 finite, as a uint16 a token that GPT-2 knows
    }
    for (uint64_t left = count * bytes, part; left > 0; left -= part) {
        part = left < sizeof(values) ? left : sizeof(values);
        must(fwrite(values, 1, part, file) == part, "writing a file");
    }
}

static void write_tokens(FILE *file, uint64_t samples)
{
    uint32_t header[256] = {htole32(20240520), htole32(1), htole32((uint32_t)(samples * TOKENS + 1))};
    must(fwrite(header, sizeof(header), 1, file) == 1, "writing a file");
    write_values(file, samples * TOKENS + 1, 2);
}

static void write_npy_head(FILE *file, const char *descr, const char *shape)
{
    char text[NPY_HEAD - 10];
    int length = snprintf(text, sizeof(text), "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, shape);
    memset(text + length, ' ', sizeof(text) - (size_t)length);
    text[sizeof(text) - 1] = '\n';
    must(fwrite("\x93NUMPY\x01\x00\x76\x00", 10, 1, file) == 1, "writing a file");
    must(fwrite(text, sizeof(text), 1, file) == 1, "writing a file");
}

static void write_array(FILE *file, const char *descr, uint64_t samples, uint64_t bytes)
{
    char shape[64];
    snprintf(shape, sizeof(shape), "%" PRIu64 ", %" PRIu64, samples, VALUES);
    write_npy_head(file, descr, shape);
    write_values(file, samples * VALUES, bytes);
}

static void write_floats(FILE *file, uint64_t samples)
{
    write_array(file, "<f4", samples, 4);
}

static void write_bytes(FILE *file, uint64_t samples)
{
    write_array(file, "|u1", samples, 1);
}

static void write_zeros(FILE *file, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        must(fputc(0, file) == 0, "writing a file");
    }
}

static void write_npy_labels(FILE *file, uint64_t samples)
{
    char shape[64];
    snprintf(shape, sizeof(shape), "%" PRIu64 ",", samples);
    write_npy_head(file, "|u1", shape);
    write_zeros(file, samples);
}

static void write_idx_head(FILE *file, const uint32_t *words, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t word = htobe32(words[i]);
        must(fwrite(&word, sizeof(word), 1, file) == 1, "writing a file");
    }
}

static void write_images(FILE *file, uint64_t samples)
{
    write_idx_head(file, (const uint32_t[]){0x803, (uint32_t)samples, 28, 28}, 4);
    write_values(file, samples * PIXELS, 1);
}

static void write_idx_labels(FILE *file, uint64_t samples)
{
    write_idx_head(file, (const uint32_t[]){0x801, (uint32_t)samples}, 2);
    write_zeros(file, samples);
}

#define COMMON "train: {steps: 1, global_batch_size: 1}\n"

static const struct source sources[] = {
    {"token shard, uint16", "shard.bin", NULL, write_tokens, NULL, 1024, 2 * TOKENS, false,
     "model: {kind: gpt, vocab_size: 50257, seq_len: 1024, block_count: 1, head_count: 1, channels: 8}\n"
     "data: {kind: tokens, path: shard.bin}\n"},
    {".npy, float32", "floats.npy", "labels.npy", write_floats, write_npy_labels, NPY_HEAD, 4 * VALUES, false,
     "model: {kind: mlp, layers: [3072, 10]}\n"
     "data: {kind: npy, images: floats.npy, labels: labels.npy}\n"},
    {".npy, uint8", "bytes.npy", "labels.npy", write_bytes, write_npy_labels, NPY_HEAD, VALUES, false,
     "model: {kind: mlp, layers: [3072, 10]}\n"
     "data: {kind: npy, images: bytes.npy, labels: labels.npy}\n"},
    {"IDX, in memory", "images", "labels", write_images, write_idx_labels, 16, PIXELS, true,
     "model: {kind: mlp, layers: [784, 10]}\n"
     "data: {kind: idx, images: images, labels: labels}\n"},
};

static void make_file(const char *name, void (*write)(FILE *file, uint64_t samples), uint64_t samples)
{
    FILE *file = fopen(name, "w");
    must(file != NULL, "making a file");
    write(file, samples);
    must(fclose(file) == 0, "writing a file");
}

// ---- What is measured: so many threads read all samples once ----

static uint64_t sample_at(const struct bench *bench, uint64_t position)
{
    return data_order(position, bench->set->samples, SEED, true);
}

// Asks for no byte of each sample, so that nothing is copied from staging.
static void load(const struct bench *bench, uint32_t threads)
{
    const struct loader_config config = {
        .set = bench->set,
        .device = bench->device,
        .staging = bench->staging,
        .seed = SEED,
        .shuffle = true,
        .threads = threads,
        .prefetch_bytes = RING_BYTES,
    };
    struct error error = {0};
    struct loader *loader;
    uint64_t samples = bench->set->samples;
    succeed(loader_create(&config, &loader, &error), &error);
    loader_expect(loader, 0, samples, 0);
    for (uint64_t done = 0, count; done < samples; done += count) {
        count = samples - done < BATCH ? samples - done : BATCH;
        succeed(loader_next(loader, NULL, done, count, 0, 0, 0, &error), &error);
    }
    loader_destroy(loader);
}

// What a thread does with one sample, beside the loader's.
typedef void touch(const struct bench *bench, uint64_t position, uint8_t *slot);

static void copy_sample(const struct bench *bench, uint64_t position, uint8_t *slot)
{
    static const uint8_t from[65536];
    (void)position;
    memcpy(slot, from, bench->staged_bytes);
}

static uint64_t offset_of(const struct bench *bench, uint64_t position)
{
    return bench->source->header_bytes + sample_at(bench, position) * bench->source->sample_bytes;
}

static void pread_sample(const struct bench *bench, uint64_t position, uint8_t *slot)
{
    uint64_t bytes = bench->source->sample_bytes;
    must(pread(bench->file, slot, bytes, (off_t)offset_of(bench, position)) == (ssize_t)bytes, "reading a file");
}

static void map_sample(const struct bench *bench, uint64_t position, uint8_t *slot)
{
    memcpy(slot, bench->map + offset_of(bench, position), bench->source->sample_bytes);
}

struct part {
    const struct bench *bench;
    touch *touch;
    uint64_t first, end;
    pthread_t thread;
};

static void *touch_part(void *argument)
{
    const struct part *part = argument;
    const struct bench *bench = part->bench;
    for (uint64_t i = part->first; i < part->end; i++) {
        part->touch(bench, i, bench->ring + i % bench->slots * bench->staged_bytes);
    }
    return NULL;
}

static void touch_all(const struct bench *bench, touch *touch, uint32_t threads)
{
    struct part parts[THREADS_MAX];
    uint64_t samples = bench->set->samples;
    for (uint32_t i = 0; i < threads; i++) {
        parts[i] = (struct part){bench, touch, samples * i / threads, samples * (i + 1) / threads, 0};
        must(pthread_create(&parts[i].thread, NULL, touch_part, &parts[i]) == 0, "starting a thread");
    }
    for (uint32_t i = 0; i < threads; i++) {
        pthread_join(parts[i].thread, NULL);
    }
}

// ---- The table ----

enum way { LOADER, COPY, PREAD, MAP, WAYS };

static void go(const struct bench *bench, enum way way, uint32_t threads)
{
    static touch *const touches[WAYS] = {[COPY] = copy_sample, [PREAD] = pread_sample, [MAP] = map_sample};
    if (way == LOADER) {
        load(bench, threads);
    } else {
        touch_all(bench, touches[way], threads);
    }
}

// The ways take turns.
static void measure(const struct bench *bench, uint32_t threads, size_t rounds, uint64_t fastest_ns[WAYS])
{
    for (int i = 0; i < WAYS; i++) {
        fastest_ns[i] = UINT64_MAX;
    }
    for (size_t round = 0; round < rounds; round++) {
        for (int i = 0; i < WAYS; i++) {
            uint64_t start_ns = clock_ns();
            go(bench, (enum way)i, threads);
            uint64_t ns = clock_ns() - start_ns;
            fastest_ns[i] = ns < fastest_ns[i] ? ns : fastest_ns[i];
        }
    }
}

// Answers how many GB/s the loader stages.
static double print_row(const struct bench *bench, uint32_t threads, size_t rounds)
{
    uint64_t ns[WAYS], slowest_ns;
    measure(bench, threads, rounds, ns);
    slowest_ns = ns[COPY] > ns[PREAD] || bench->source->in_memory ? ns[COPY] : ns[PREAD];
    double staged = (double)(bench->set->samples * bench->staged_bytes);
    double read = (double)(bench->set->samples * bench->source->sample_bytes);
    printf("%-20s %7" PRIu32 " %10.2f %10.2f %11.0f %% %10.2f %10.2f\n", bench->source->name, threads,
           staged / (double)ns[LOADER], staged / (double)ns[COPY], 100 * (double)slowest_ns / (double)ns[LOADER],
           read / (double)ns[PREAD], read / (double)ns[MAP]);
    return staged / (double)ns[LOADER];
}

static void open_source(struct bench *bench, const struct source *source)
{
    struct error error = {0};
    uint64_t samples = FILE_BYTES / source->sample_bytes;
    bench->source = source;
    make_file(source->file, source->write, samples);
    if (source->labels != NULL) {
        make_file(source->labels, source->write_labels, samples);
    }
    snprintf(bench->text, sizeof(bench->text), "%s" COMMON, source->config);
    succeed(config_parse(&bench->config, bench->text, "bench_loader", NULL, 0, &error), &error);
    succeed(data_open(&bench->config, DATA_TRAIN, &bench->set, &error), &error);
    bench->staged_bytes = 4 * (bench->set->shape.input_count + bench->set->shape.target_count);
    bench->slots = RING_BYTES / bench->staged_bytes;
    bench->file = open(source->file, O_RDONLY | O_CLOEXEC);
    bench->map = mmap(NULL, MAP_BYTES, PROT_READ, MAP_SHARED, bench->file, 0);
    must(bench->file >= 0 && bench->map != MAP_FAILED, "opening a file");
}

static void close_source(struct bench *bench)
{
    munmap((void *)bench->map, MAP_BYTES);
    close(bench->file);
    data_close(bench->set);
    config_finish(&bench->config);
    unlink(bench->source->file);
    if (bench->source->labels != NULL) {
        unlink(bench->source->labels);
    }
}

static void open_staging(struct bench *bench)
{
    const struct device_ops *ops = device_find("cpu");
    const struct device_config config = {.capacity_bytes = 2 * RING_BYTES, .sharers = 1};
    struct error error = {0};
    succeed(ops->create(&config, &bench->device, &error), &error);
    succeed(mem_pool_create(bench->device, 0, &bench->staging, &error), &error);
    bench->ring = malloc(RING_BYTES);
    must(bench->ring != NULL, "memory for a ring");
}

static void close_staging(struct bench *bench)
{
    free(bench->ring);
    mem_pool_destroy(bench->staging);
    bench->device->ops->destroy(bench->device);
}

int main(int argc, char **argv)
{
    struct bench bench = {0};
    char folder[] = "/tmp/bench_loader_XXXXXX";
    size_t rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : ROUNDS;
    double least = LIMIT;
    if (rounds < 1) {
        fprintf(stderr, "usage: bench_loader [ROUNDS]\n");
        return EXIT_FAILURE;
    }
    must(mkdtemp(folder) != NULL && chdir(folder) == 0, "making a folder");
    open_staging(&bench);
    printf("%-20s %7s %10s %10s %13s %10s %10s\n", "", "threads", "loader", "memcpy", "of the limit", "pread",
           "mapping");
    for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
        open_source(&bench, &sources[i]);
        print_row(&bench, 1, rounds);
        double staged = print_row(&bench, 2, rounds);
        least = staged < least ? staged : least;
        close_source(&bench);
    }
    close_staging(&bench);
    rmdir(folder);
    if (least < LIMIT) {
        fprintf(stderr, "bench_loader: two threads fill less than %.1f GB/s\n", LIMIT);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
