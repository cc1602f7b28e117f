// SPDX-License-Identifier: Apache-2.0
//
// test_reduce self|mpi RANKS: the contract of reduce.h on every rank of a job, which must have RANKS of them, on
// devices whose memory the host can and cannot reach, and that do what is enqueued at once or only when they must.
#include <math.h>

#include "../unit/lazy_device.h"
#include "check.h"
#include "mem/sanitizer.h"
#include "mem/uint64.h"
#include "worker/comm/reduce.h"

static const struct reduce_ops *reduce;

enum kind { CPU, CPU_FAULTING, LAZY, LAZY_FAULTING, CUDA };

static bool is_lazy(enum kind kind)
{
    return kind == LAZY || kind == LAZY_FAULTING;
}

static bool is_faulting(enum kind kind)
{
    return kind == CPU_FAULTING || kind == LAZY_FAULTING || kind == CUDA;
}

static const char *device_of(enum kind kind)
{
    return kind == CUDA ? "cuda" : "cpu";
}

// What a reducer needs, and values on the device.
struct bench {
    enum kind kind;
    struct lazy_device lazy;
    struct device *host, *device;
    struct mem_pool *staging;
    struct stream *stream;
    struct reducer *reducer;
    device_address values;
    uint64_t bytes; // there
};

static struct device *open_device(const char *name, uint64_t bytes, bool faulting)
{
    struct device *device;
    struct error error;
    struct device_config config = {
        .capacity_bytes = bytes, .faulting_addresses = faulting, .index = comm->rank, .sharers = 1};
    if (device_find(name)->create(&config, &device, &error) != STATUS_OK) {
        fprintf(stderr, "rank %" PRIu32 ": %s\n", comm->rank, error.text);
        comm->ops->abort(comm, 1);
    }
    return device;
}

static void open_lazy_device(struct bench *bench)
{
    lazy_device_init(&bench->lazy, LAZY_WHEN_FORCED);
    bench->lazy.unreachable = is_faulting(bench->kind);
    bench->device = &bench->lazy.device;
    bench->stream = lazy_stream(&bench->lazy);
    bench->values = (uintptr_t)make(bench->bytes);
}

static void open_real_device(struct bench *bench)
{
    bench->device = open_device(device_of(bench->kind), bench->bytes, is_faulting(bench->kind));
    CHECK(bench->device->ops->stream_create(bench->device, &bench->stream) == STATUS_OK);
    CHECK(bench->device->ops->reserve(bench->device, bench->bytes, &bench->values) == STATUS_OK);
    CHECK(bench->device->ops->commit(bench->device, bench->values, bench->bytes) == STATUS_OK);
}

static void close_device(struct bench *bench)
{
    if (is_lazy(bench->kind)) {
        CHECK(bench->lazy.wrong == 0 && bench->lazy.events == 0);
        lazy_device_finish(&bench->lazy);
        free((void *)(uintptr_t)bench->values);
        return;
    }
    bench->device->ops->release(bench->device, bench->values, bench->bytes);
    bench->device->ops->unreserve(bench->device, bench->values, bench->bytes);
    bench->device->ops->stream_destroy(bench->device, bench->stream);
    bench->device->ops->destroy(bench->device);
}

static void bench_init(struct bench *bench, enum kind kind, uint64_t bytes)
{
    bench->kind = kind;
    bench->bytes = uint64_round_up(bytes, device_find(device_of(kind))->granularity_bytes);
    bench->host = open_device("cpu", 2 << 20, false);
    CHECK(mem_pool_create(bench->host, 0, &bench->staging, NULL) == STATUS_OK);
    if (is_lazy(kind)) {
        open_lazy_device(bench);
    } else {
        open_real_device(bench);
    }
    CHECK(sanitizer_attach(bench->device, NULL) == STATUS_OK);
    CHECK((bench->device->ops->host_pointer(bench->device, bench->values) == NULL) == is_faulting(kind));
    CHECK(reduce->create(comm, bench->device, bench->staging, &bench->reducer, NULL) == STATUS_OK);
    CHECK(bench->reducer->ops == reduce);
}

static uint64_t staged_bytes(const struct mem_pool *staging)
{
    struct mem_pool_stats stats;
    mem_pool_stats(staging, &stats);
    return stats.allocated_bytes.current;
}

static void bench_finish(struct bench *bench)
{
    CHECK(reduce->check(bench->reducer, NULL) == STATUS_OK);
    reduce->destroy(bench->reducer);
    CHECK(staged_bytes(bench->staging) == 0);
    CHECK(sanitizer_findings(bench->device) == 0);
    sanitizer_detach(bench->device);
    close_device(bench);
    mem_pool_destroy(bench->staging);
    bench->host->ops->destroy(bench->host);
}

static double read_value(const void *values, uint64_t place, enum reduce_type type)
{
    switch (type) {
    case REDUCE_FLOAT32:
        return (double)((const float *)values)[place];
    case REDUCE_FLOAT64:
        return ((const double *)values)[place];
    case REDUCE_INT64:
        return (double)((const int64_t *)values)[place];
    }
    return (double)NAN;
}

// Whole numbers, so that sums are exact in any order; no two neighbours and no two ranks have the same.
static double value_of(uint32_t rank, uint64_t place)
{
    return (double)((rank + 1) * (place % 997 + 1));
}

static double sum_at(uint64_t place)
{
    return comm->size * (comm->size + 1) / 2.0 * (double)(place % 997 + 1);
}

static void write_value(void *values, uint64_t place, enum reduce_type type, double value)
{
    switch (type) {
    case REDUCE_FLOAT32:
        ((float *)values)[place] = (float)value;
        break;
    case REDUCE_FLOAT64:
        ((double *)values)[place] = value;
        break;
    case REDUCE_INT64:
        ((int64_t *)values)[place] = (int64_t)value;
        break;
    }
}

static void fill_in(void *mine, uint64_t count, enum reduce_type type)
{
    for (uint64_t i = 0; i < count; i++) {
        write_value(mine, i, type, value_of(comm->rank, i));
    }
}

static void enqueue_write(struct bench *bench, const void *mine, uint64_t bytes)
{
    bench->device->ops->copy_to_device(bench->device, bench->stream, bench->values, mine, bytes);
}

static void enqueue_sum(struct bench *bench, uint64_t first, uint64_t count, enum reduce_type type)
{
    reduce->start(bench->reducer, bench->stream, bench->values + first * reduce_type_bytes(type), count, type);
}

// After the sums that were enqueued.
static void read_values(struct bench *bench, void *sums, uint64_t bytes)
{
    reduce->finish(bench->reducer, bench->stream);
    memset(sums, 0x55, bytes);
    bench->device->ops->copy_to_host(bench->device, bench->stream, sums, bench->values, bytes);
    bench->device->ops->stream_synchronize(bench->device, bench->stream);
}

// One value more on either side stays as it is. A gather runs meanwhile, as in a training step.
static void sums_are_right(enum kind kind, uint64_t count, enum reduce_type type)
{
    struct bench bench;
    uint64_t all = count + 2, bytes = all * reduce_type_bytes(type);
    void *mine = make(bytes), *sums = make(bytes);
    uint32_t *ranks = make(comm->size * sizeof(*ranks));
    bench_init(&bench, kind, bytes);
    fill_in(mine, all, type);
    enqueue_write(&bench, mine, bytes);
    comm->ops->gather_start(comm, &comm->rank, ranks, sizeof(comm->rank));
    enqueue_sum(&bench, 1, count, type);
    comm->ops->gather_wait(comm);
    read_values(&bench, sums, bytes);
    CHECK(read_value(sums, 0, type) == value_of(comm->rank, 0));
    for (uint64_t i = 1; i <= count; i++) {
        CHECK(read_value(sums, i, type) == sum_at(i));
    }
    CHECK(read_value(sums, count + 1, type) == value_of(comm->rank, count + 1));
    CHECK(ranks[comm->size - 1] == comm->size - 1);
    bench_finish(&bench);
    free(ranks);
    free(sums);
    free(mine);
}

// Every value of a bucket is added up once, whatever the order of buckets, as long as all ranks have the same. Between
// two buckets lies one value that is in none.
static void buckets_of_odd_sizes_add_up(enum kind kind, uint64_t longest)
{
    enum { COUNT = 401 };
    struct bench bench;
    static float mine[COUNT], sums[COUNT];
    bool covered[COUNT] = {false};
    bench_init(&bench, kind, sizeof(mine));
    fill_in(mine, COUNT, REDUCE_FLOAT32);
    enqueue_write(&bench, mine, sizeof(mine));
    for (uint64_t end = COUNT, number = 0; end > 1; number++) { // from the back to the front, as gradients are made
        uint64_t count = uint64_min(1 + number * 31 % longest, end - 1), first = end - count;
        enqueue_sum(&bench, first, count, REDUCE_FLOAT32);
        memset(&covered[first], true, count);
        end = first - 1;
    }
    read_values(&bench, sums, sizeof(sums));
    for (uint64_t i = 0; i < COUNT; i++) {
        CHECK((double)sums[i] == (covered[i] ? sum_at(i) : value_of(comm->rank, i)));
    }
    bench_finish(&bench);
}

// Ranks add to their values in different numbers of parts before each sum; later sums see what earlier ones left.
static void ranks_may_do_different_work(enum kind kind)
{
    enum { COUNT = 77, ROUNDS = 5, PARTS_MAX = 3 };
    struct bench bench;
    float parts[PARTS_MAX][COUNT], sums[COUNT] = {0};
    bench_init(&bench, kind, sizeof(sums));
    float expected = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t part = 0; part < 1 + (comm->rank + round) % PARTS_MAX; part++) {
            for (uint64_t i = 0; i < COUNT; i++) {
                parts[part][i] = sums[i] + (float)(part + 1);
            }
            enqueue_write(&bench, parts[part], sizeof(sums));
        }
        enqueue_sum(&bench, 0, COUNT, REDUCE_FLOAT32);
        read_values(&bench, sums, sizeof(sums));
        expected *= (float)comm->size;
        for (uint32_t rank = 0; rank < comm->size; rank++) {
            expected += (float)(1 + (rank + round) % PARTS_MAX);
        }
        for (uint64_t i = 0; i < COUNT; i++) {
            CHECK(sums[i] == expected);
        }
    }
    bench_finish(&bench);
}

// The last rank's gradient is not finite: all must learn it, and no other value.
static void what_is_not_finite_reaches_all(enum kind kind, float value)
{
    enum { COUNT = 9, PLACE = 4 };
    struct bench bench;
    float mine[COUNT], sums[COUNT];
    bench_init(&bench, kind, sizeof(mine));
    for (uint64_t i = 0; i < COUNT; i++) {
        mine[i] = i == PLACE && comm->rank == comm->size - 1 ? value : 1;
    }
    enqueue_write(&bench, mine, sizeof(mine));
    enqueue_sum(&bench, 0, COUNT, REDUCE_FLOAT32);
    read_values(&bench, sums, sizeof(sums));
    for (uint64_t i = 0; i < COUNT; i++) {
        CHECK(i == PLACE ? !isfinite(sums[i]) : sums[i] == (float)comm->size);
    }
    CHECK(isnan(sums[PLACE]) == isnan(value));
    bench_finish(&bench);
}

// Every rank's part reaches all others as it is, the first rank's being empty, and none of what others have there.
static void parts_reach_all(enum kind kind, uint64_t multiples)
{
    struct bench bench;
    struct shard *shards = make(comm->size * sizeof(*shards));
    uint64_t count = 0;
    for (uint32_t rank = 0; rank < comm->size; rank++) {
        shards[rank] = (struct shard){.first = count, .elements = rank * multiples * SHARD_MULTIPLE};
        count += shards[rank].elements;
    }
    uint64_t bytes = (count + 1) * sizeof(float);
    float *mine = make(bytes), *all = make(bytes);
    bench_init(&bench, kind, bytes);
    fill_in(mine, count + 1, REDUCE_FLOAT32);
    enqueue_write(&bench, mine, bytes);
    reduce->gather(bench.reducer, bench.stream, bench.values, shards);
    read_values(&bench, all, bytes);
    for (uint32_t rank = 0; rank < comm->size; rank++) {
        for (uint64_t i = shards[rank].first; i < shards[rank].first + shards[rank].elements; i++) {
            CHECK((double)all[i] == value_of(rank, i));
        }
    }
    CHECK((double)all[count] == value_of(comm->rank, count));
    bench_finish(&bench);
    free(all);
    free(mine);
    free(shards);
}

// Doubles are added up as doubles.
static void doubles_keep_their_bits(enum kind kind)
{
    struct bench bench;
    double mine = comm->rank == 0 ? 1 + 0x1p-50 : 1, sum;
    bench_init(&bench, kind, sizeof(mine));
    enqueue_write(&bench, &mine, sizeof(mine));
    enqueue_sum(&bench, 0, 1, REDUCE_FLOAT64);
    read_values(&bench, &sum, sizeof(sum));
    CHECK(sum == comm->size + 0x1p-50);
    bench_finish(&bench);
}

// Integers are added up as integers: as doubles these would lose their last bits.
static void integers_keep_their_bits(enum kind kind)
{
    enum { COUNT = 4 };
    const int64_t large = (INT64_C(1) << 60) + 1, size = comm->size;
    const bool first = comm->rank == 0;
    const int64_t mine[COUNT] = {large, -large, first ? INT64_MAX : -1, first ? INT64_MIN : 1};
    const int64_t expected[COUNT] = {size * large, -size * large, INT64_MAX - (size - 1), INT64_MIN + (size - 1)};
    int64_t sums[COUNT];
    struct bench bench;
    bench_init(&bench, kind, sizeof(mine));
    enqueue_write(&bench, mine, sizeof(mine));
    enqueue_sum(&bench, 0, COUNT, REDUCE_INT64);
    read_values(&bench, sums, sizeof(sums));
    CHECK(memcmp(sums, expected, sizeof(sums)) == 0);
    bench_finish(&bench);
}

static void host_waits_for_nothing(struct device *device, struct stream *stream)
{
    (void)device, (void)stream;
}

static void stream_waits_for_nothing(struct device *device, struct stream *stream, struct event *event)
{
    (void)device, (void)stream, (void)event;
}

// The sum does not wait for who writes the values.
static void a_missing_wait_is_told(enum kind kind)
{
    enum { COUNT = 1000 };
    struct bench bench;
    float mine[COUNT], sums[COUNT];
    struct error error = {0};
    bench_init(&bench, kind, sizeof(mine));
    fill_in(mine, COUNT, REDUCE_FLOAT32);
    struct device_ops *table = (struct device_ops *)bench.device->ops; // the sanitizer's, which is memory
    table->stream_synchronize = host_waits_for_nothing;
    table->event_wait = stream_waits_for_nothing;
    enqueue_write(&bench, mine, sizeof(mine));
    CHECK(table->check(bench.device, &error) == STATUS_OK);
    enqueue_sum(&bench, 0, COUNT, REDUCE_FLOAT32);
    CHECK(table->check(bench.device, &error) == STATUS_ERROR);
    CHECK(strstr(error.text, ": all-reduce ") != NULL);
    CHECK(strstr(error.text, ", which copy_to_") != NULL);
    CHECK(strstr(error.text, " writes without a dependency between the two") != NULL);
    sanitizer_detach(bench.device);
    read_values(&bench, sums, sizeof(sums));
    bench_finish(&bench);
}

// Without host memory to go through there is no reducer, and nothing is left of it.
static void staging_may_run_out(void)
{
    struct device *host = open_device("cpu", device_find("cpu")->granularity_bytes, false);
    struct mem_pool *staging;
    struct reducer *reducer = NULL;
    struct error error = {0};
    CHECK(mem_pool_create(host, 0, &staging, NULL) == STATUS_OK);
    enum status status = reduce->create(comm, host, staging, &reducer, &error);
    CHECK(status == (reduce == &reduce_self ? STATUS_OK : STATUS_ERROR));
    CHECK(reduce == &reduce_self || (reducer == NULL && strcmp(error.text, "out of host memory") == 0));
    reduce->destroy(reducer);
    CHECK(staged_bytes(staging) == 0);
    mem_pool_destroy(staging);
    host->ops->destroy(host);
}

static void run(enum kind kind)
{
    // Around the 2^18 floats, and 2^17 doubles or integers, of the staging buffer, and several of it.
    static const uint64_t counts[] = {1, 2, 7, 131071, 131073, 262143, 262144, 262145, 700001};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        sums_are_right(kind, counts[i], REDUCE_FLOAT32);
        sums_are_right(kind, counts[i], REDUCE_FLOAT64);
        sums_are_right(kind, counts[i], REDUCE_INT64);
    }
    for (uint64_t longest = 1; longest < 1000; longest = longest * 7 + 2) {
        buckets_of_odd_sizes_add_up(kind, longest);
    }
    for (uint64_t multiples = 1; multiples < 20000; multiples *= 81) { // the last of several staging buffers
        parts_reach_all(kind, multiples);
    }
    ranks_may_do_different_work(kind);
    what_is_not_finite_reaches_all(kind, INFINITY);
    what_is_not_finite_reaches_all(kind, -INFINITY);
    what_is_not_finite_reaches_all(kind, NAN);
    doubles_keep_their_bits(kind);
    integers_keep_their_bits(kind);
    if (reduce != &reduce_self) {
        a_missing_wait_is_told(kind);
    }
}

// Rank 0 adds up one value more than the others: every rank is told, as often as it asks.
static void failures_are_told(void)
{
    enum { COUNT = 1000 };
    struct bench bench;
    float mine[COUNT];
    struct error error = {0}, again = {0};
    struct event *end;
    bench_init(&bench, CUDA, sizeof(mine));
    fill_in(mine, COUNT, REDUCE_FLOAT32);
    enqueue_write(&bench, mine, sizeof(mine));
    enqueue_sum(&bench, 0, comm->rank == 0 ? COUNT : COUNT - 1, REDUCE_FLOAT32);
    reduce->finish(bench.reducer, bench.stream);
    CHECK(bench.device->ops->event_create(bench.device, &end) == STATUS_OK);
    bench.device->ops->event_record(bench.device, end, bench.stream);
    enum status status = reduce->check(bench.reducer, &error);
    while (status == STATUS_OK) {
        bench.device->ops->event_done(bench.device, end);
        status = reduce->check(bench.reducer, &error);
    }
    CHECK(status == STATUS_ERROR && strncmp(error.text, "NCCL: all-reduce: ", 18) == 0);
    CHECK(reduce->check(bench.reducer, &again) == STATUS_ERROR);
    reduce->destroy(bench.reducer);
    bench.device->ops->event_destroy(bench.device, end);
    close_device(&bench);
    mem_pool_destroy(bench.staging);
    bench.host->ops->destroy(bench.host);
}

enum { EXIT_SKIP = 77 };

// On GPUs, where all ranks have one.
static int run_on_gpus(bool failing)
{
    const struct device_ops *cuda = device_find("cuda");
    reduce = reduce_between("cuda");
    struct error why = {.text = "not built in"};
    uint32_t gpus = cuda == NULL ? 0 : cuda->count(&why);
    if (gpus < comm->size) {
        if (comm->rank == 0) {
            printf("skipped on cuda: %u ranks, %u GPUs%s%s\n", comm->size, gpus, gpus == 0 ? ": " : "",
                   gpus == 0 ? why.text : "");
        }
        comm->ops->destroy(comm);
        return EXIT_SKIP;
    }
    if (failing) {
        failures_are_told();
    } else {
        run(CUDA);
    }
    comm->ops->destroy(comm);
    return 0;
}

int main(int argc, char **argv)
{
    open_comm(argc, argv);
    if (strncmp(argv[1], "nccl", 4) == 0) {
        return run_on_gpus(strcmp(argv[1], "nccl-failing") == 0);
    }
    reduce = comm->ops == &comm_self ? &reduce_self : &reduce_mpi;
    for (enum kind kind = CPU; kind <= LAZY_FAULTING; kind++) {
        run(kind);
    }
    staging_may_run_out();
    comm->ops->destroy(comm);
    return 0;
}
