// SPDX-License-Identifier: Apache-2.0
//
// Each run once as it is, and then once for every call of the device, or of the host's allocator, that can fail, with
// that call failing. What a refused operation may change: num_ooms, the report, the count of calls for injected
// failures, tags without blocks, spare records.
#include "pool_fuzz.h"
#include "require.h"

#define RANDOM_RUNS  60
#define RANDOM_BYTES 300
#define SCRIPT_BYTES 4096

struct script {
    uint8_t bytes[SCRIPT_BYTES];
    size_t size;
};

static void put(struct script *script, uint8_t byte)
{
    require(script->size < SCRIPT_BYTES);
    script->bytes[script->size++] = byte;
}

static void put_operation(struct script *script, enum fuzz_operation operation)
{
    put(script, fuzz_operation_byte(operation));
}

// A block of `eighths` of a granule and a byte.
static void put_request(struct script *script, enum fuzz_operation operation, uint8_t stream, uint8_t eighths,
                        bool persistent)
{
    put_operation(script, operation);
    put(script, stream);
    put(script, 15); // the smallest sizes
    put(script, (uint8_t)(eighths * 16));
    put(script, persistent ? 128 : 64);
}

// Of so many blocks.
static void put_free(struct script *script, size_t place, size_t blocks)
{
    put_operation(script, FUZZ_FREE);
    if (blocks > 256) {
        put(script, (uint8_t)(place >> 8));
    }
    put(script, (uint8_t)place);
}

static void put_trim(struct script *script)
{
    put_operation(script, FUZZ_TRIM);
    put(script, 0);
}

static struct script begin_script(bool plain, uint8_t granularity, uint8_t granules)
{
    struct script script = {.size = 0};
    put(&script, plain);
    put(&script, granularity);
    put(&script, (uint8_t)(granules - 1));
    put(&script, 0); // no odd bytes
    put(&script, 0); // the limit is the capacity
    return script;
}

// Both ends grow until they meet, take each other's memory and trade it back; streams take over from each other.
static struct script trade(bool plain)
{
    struct script script = begin_script(plain, 3, 8);
    for (uint8_t round = 0; round < 6; round++) {
        for (uint8_t i = 0; i < 6; i++) {
            enum fuzz_operation operation = (i + round) % 3 == 0 ? FUZZ_HOLD : FUZZ_ALLOC;
            put_request(&script, operation, i, (uint8_t)(3 + 2 * i), i % 2 == 0);
        }
        for (uint8_t i = 0; i < 5; i++) {
            put_free(&script, (size_t)i * round, 6);
        }
        if (round % 2 == 0) {
            put_trim(&script);
        }
    }
    return script;
}

// More blocks than the books have room for at first. Where one record is left, one asks for a segment of its own and a
// part of that, which is two.
static struct script crowd(bool plain)
{
    struct script script = begin_script(plain, 7, 128);
    for (size_t i = 0; i < 600; i++) {
        if (i == 254) {
            put_operation(&script, FUZZ_ALLOC);
            put(&script, 0);
            put(&script, 4); // 256ths of the limit
            put(&script, 65);
            put(&script, 64);
        }
        put_request(&script, FUZZ_ALLOC, (uint8_t)i, 0, false);
    }
    for (size_t i = 0; i < 200; i++) {
        put_free(&script, i * 2, 601 - i);
    }
    put_trim(&script);
    return script;
}

// All that can fail of one kind of call, one at a time.
static void fail_each(const uint8_t *bytes, size_t size, enum sim_call call, uint64_t calls,
                      struct fuzz_coverage *coverage)
{
    for (uint64_t number = 1; number <= calls; number++) {
        uint64_t before = coverage->failed_calls[call];
        fuzz_pool(bytes, size, (struct fuzz_fault){call, number}, coverage);
        require(coverage->failed_calls[call] > before);
    }
}

static void fail_all(const uint8_t *bytes, size_t size, struct fuzz_coverage *coverage)
{
    struct fuzz_run run = fuzz_pool(bytes, size, (struct fuzz_fault){0}, coverage);
    for (size_t call = 0; call < SIM_CALLS; call++) {
        fail_each(bytes, size, (enum sim_call)call, run.calls[call], coverage);
    }
}

int main(void)
{
    struct fuzz_coverage coverage = {0};
    const struct script scripts[] = {trade(false), trade(true), crowd(false), crowd(true)};
    for (size_t i = 0; i < sizeof(scripts) / sizeof(scripts[0]); i++) {
        require_place.seed = i;
        fail_all(scripts[i].bytes, scripts[i].size, &coverage);
    }
    for (uint64_t seed = 1000; seed < 1000 + RANDOM_RUNS; seed++) {
        uint8_t bytes[RANDOM_BYTES];
        require_place.seed = seed;
        fuzz_fill(bytes, sizeof(bytes), seed);
        fail_all(bytes, sizeof(bytes), &coverage);
    }
    fuzz_print(&coverage);
    return 0;
}
