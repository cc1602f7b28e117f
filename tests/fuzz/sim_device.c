// SPDX-License-Identifier: Apache-2.0
#include "sim_device.h"

#include <stdlib.h>
#include <string.h>

#include "mem/uint64.h"
#include "require.h"

// Ranges lie in slots so far apart that none touches another.
#define SLOT_BYTES (UINT64_C(1) << 40)

struct event {
    struct sim_clock clock;
    bool recorded;
};

// ---- Clocks ----

static void merge(struct sim_clock *clock, const struct sim_clock *other)
{
    for (size_t i = 0; i < SIM_STREAMS; i++) {
        clock->of[i] = uint64_max(clock->of[i], other->of[i]);
    }
}

static bool covers(const struct sim_clock *clock, const struct sim_clock *other)
{
    for (size_t i = 0; i < SIM_STREAMS; i++) {
        if (other->of[i] > clock->of[i]) {
            return false;
        }
    }
    return true;
}

// What all streams do from now on comes after what the host knows to be done.
static const struct sim_clock *present(struct sim_device *sim, struct stream *stream)
{
    merge(&stream->clock, &sim->known);
    return &stream->clock;
}

static void host_learns(struct sim_device *sim, const struct sim_clock *clock)
{
    merge(&sim->done, clock);
    merge(&sim->known, clock);
}

static void enqueue_work(struct sim_device *sim, struct stream *stream)
{
    present(sim, stream);
    stream->clock.of[stream->number]++;
}

bool sim_is_idle(const struct sim_device *sim, const struct stream *stream)
{
    return covers(&sim->done, &stream->clock);
}

void sim_complete(struct sim_device *sim, const struct stream *stream)
{
    merge(&sim->done, &stream->clock);
}

// ---- Pieces ----

// The number of the last work that uses it, on its stream.
static uint64_t moment_of(const struct sim_piece *piece)
{
    return piece->clock.of[piece->stream];
}

static bool overlaps(const struct sim_piece *piece, device_address address, device_address end)
{
    return piece->address < end && address < piece->end;
}

bool sim_is_safe(const struct sim_device *sim, device_address address, device_address end, const struct stream *stream)
{
    for (size_t i = 0; i < sim->piece_count; i++) {
        const struct sim_piece *piece = &sim->pieces[i];
        uint64_t passed = sim->known.of[piece->stream];
        if (stream != NULL) {
            passed = uint64_max(passed, stream->clock.of[piece->stream]);
        }
        if (overlaps(piece, address, end) && (piece->live || moment_of(piece) > passed)) {
            return false;
        }
    }
    return true;
}

bool sim_is_used(const struct sim_device *sim, device_address address, device_address end)
{
    for (size_t i = 0; i < sim->piece_count; i++) {
        const struct sim_piece *piece = &sim->pieces[i];
        if (overlaps(piece, address, end) && (piece->live || moment_of(piece) > sim->done.of[piece->stream])) {
            return true;
        }
    }
    return false;
}

static void add_piece(struct sim_device *sim, struct sim_piece piece)
{
    require(sim->piece_count < SIM_PIECES_MAX);
    sim->pieces[sim->piece_count++] = piece;
}

// Nobody used this memory.
static void forget_pieces(struct sim_device *sim, device_address address, device_address end)
{
    for (size_t i = sim->piece_count; i-- > 0;) {
        struct sim_piece piece = sim->pieces[i];
        if (!overlaps(&piece, address, end)) {
            continue;
        }
        require(!piece.live);
        sim->pieces[i] = sim->pieces[--sim->piece_count];
        if (piece.address < address) {
            struct sim_piece below = piece;
            below.end = address;
            add_piece(sim, below);
        }
        if (piece.end > end) {
            piece.address = end;
            add_piece(sim, piece);
        }
    }
}

// Those of which the host knows that they are done are safe for all.
static void forget_old_pieces(struct sim_device *sim)
{
    for (size_t i = sim->piece_count; i-- > 0;) {
        const struct sim_piece *piece = &sim->pieces[i];
        if (!piece->live && moment_of(piece) <= sim->known.of[piece->stream]) {
            sim->pieces[i] = sim->pieces[--sim->piece_count];
        }
    }
}

static struct sim_range *range_of(struct sim_device *sim, device_address address, device_address end)
{
    struct sim_range *found = NULL;
    for (size_t i = 0; i < SIM_RANGES_MAX; i++) {
        struct sim_range *range = &sim->ranges[i];
        if (range->base != 0 && address >= range->base && end <= range->base + range->bytes && address < end) {
            found = range;
        }
    }
    require(found != NULL);
    return found;
}

static struct sim_piece *live_piece(struct sim_device *sim, device_address address)
{
    size_t i = 0;
    while (i < sim->piece_count && (!sim->pieces[i].live || sim->pieces[i].address != address)) {
        i++;
    }
    require(i < sim->piece_count);
    return &sim->pieces[i];
}

void sim_begin_use(struct sim_device *sim, device_address address, uint64_t bytes, struct stream *stream)
{
    device_address end = address + bytes;
    const struct sim_range *range = range_of(sim, address, end);
    require(end - range->base <= sim_range_held(sim, range));
    present(sim, stream);
    require(sim_is_safe(sim, address, end, stream)); // else two streams, or two blocks, have it at one time
    forget_pieces(sim, address, end);
    enqueue_work(sim, stream);
    add_piece(sim, (struct sim_piece){address, end, stream->number, stream->clock, true});
}

void sim_touch(struct sim_device *sim, device_address address, struct stream *stream)
{
    struct sim_piece *piece = live_piece(sim, address);
    merge(&stream->clock, &piece->clock);
    enqueue_work(sim, stream);
    piece->stream = stream->number;
    piece->clock = stream->clock;
}

void sim_end_use(struct sim_device *sim, device_address address, struct stream *stream)
{
    sim_touch(sim, address, stream);
    live_piece(sim, address)->live = false;
    forget_old_pieces(sim);
}

// ---- Memory ----

uint64_t sim_free_bytes(const struct sim_device *sim)
{
    uint64_t taken = sim->held_bytes + sim->others_bytes;
    return sim->config.capacity_bytes - uint64_min(taken, sim->config.capacity_bytes);
}

uint64_t sim_range_held(const struct sim_device *sim, const struct sim_range *range)
{
    uint64_t held = 0;
    while (held < range->granules && range->committed[held]) {
        held++;
    }
    require(held == range->granules);
    return held * sim->config.granularity_bytes;
}

bool sim_fails(struct sim_device *sim, enum sim_call call)
{
    uint64_t number = ++sim->calls[call];
    if (number != sim->fail_at[call] && number != sim->fault_at[call]) {
        return false;
    }
    sim->seen.failed_call[call] = true;
    sim->seen.failed++;
    sim->failed++;
    return true;
}

static void hold(struct sim_device *sim, uint64_t bytes)
{
    sim->held_bytes += bytes;
    require(sim->held_bytes <= sim->allowed_bytes);
}

static enum status reserve(struct device *device, uint64_t bytes, device_address *address_p)
{
    struct sim_device *sim = (struct sim_device *)device;
    require(bytes > 0 && bytes % sim->config.granularity_bytes == 0);
    require(bytes / sim->config.granularity_bytes <= SIM_GRANULES_MAX);
    sim->seen.reserves++;
    if (sim_fails(sim, SIM_RESERVE)) {
        return STATUS_ERROR;
    }
    if (device->plain) {
        require(sim->held_bytes + bytes <= sim->allowed_bytes);
        if (bytes > sim_free_bytes(sim)) {
            return STATUS_OUT_OF_MEMORY;
        }
        hold(sim, bytes);
    }
    size_t place = 0;
    while (sim->ranges[place].base != 0) {
        require(++place < SIM_RANGES_MAX);
    }
    uint64_t slot = 1 + (sim->config.high_first ? SIM_RANGES_MAX - place : place);
    sim->ranges[place] = (struct sim_range){.base = slot * SLOT_BYTES, .bytes = bytes};
    *address_p = slot * SLOT_BYTES;
    return STATUS_OK;
}

static void unreserve(struct device *device, device_address address, uint64_t bytes)
{
    struct sim_device *sim = (struct sim_device *)device;
    struct sim_range *range = range_of(sim, address, address + bytes);
    require(range->base == address && range->bytes == bytes && range->granules == 0);
    if (device->plain) {
        sim->held_bytes -= bytes;
    }
    range->base = 0;
}

static void note_growth(struct sim_device *sim, const struct sim_range *range, uint64_t bytes)
{
    sim->commits++;
    sim->seen.commits++;
    sim->seen.commit_bytes += bytes;
    sim->committed_bytes += bytes;
    sim->peak_bytes = uint64_max(sim->peak_bytes, sim->committed_bytes - sim->released_bytes);
    if (range->granules * sim->config.granularity_bytes == bytes) {
        sim->segments_begun++;
        sim->segments_peak = uint64_max(sim->segments_peak, ++sim->segments);
    }
}

static enum status commit(struct device *device, device_address address, uint64_t bytes)
{
    struct sim_device *sim = (struct sim_device *)device;
    uint64_t granularity = sim->config.granularity_bytes;
    struct sim_range *range = range_of(sim, address, address + bytes);
    require(bytes % granularity == 0 && (address - range->base) % granularity == 0);
    require(!device->plain || (address == range->base && bytes == range->bytes));
    require(device->plain || sim->held_bytes + bytes <= sim->allowed_bytes);
    if (sim_fails(sim, SIM_COMMIT) || (!device->plain && bytes > sim_free_bytes(sim))) {
        return STATUS_OUT_OF_MEMORY;
    }
    for (uint64_t i = (address - range->base) / granularity; i < (address + bytes - range->base) / granularity; i++) {
        require(!range->committed[i]);
        range->committed[i] = true;
        range->granules++;
    }
    if (!device->plain) {
        hold(sim, bytes);
    }
    note_growth(sim, range, bytes);
    return STATUS_OK;
}

// On a plain device the range keeps its memory until it is returned.
static void release(struct device *device, device_address address, uint64_t bytes)
{
    struct sim_device *sim = (struct sim_device *)device;
    uint64_t granularity = sim->config.granularity_bytes;
    struct sim_range *range = range_of(sim, address, address + bytes);
    require(bytes % granularity == 0 && (address - range->base) % granularity == 0);
    require(!device->plain || (address == range->base && bytes == range->bytes));
    require(!sim_is_used(sim, address, address + bytes));
    for (uint64_t i = (address - range->base) / granularity; i < (address + bytes - range->base) / granularity; i++) {
        require(range->committed[i]);
        range->committed[i] = false;
        range->granules--;
    }
    forget_pieces(sim, address, address + bytes);
    if (!device->plain) {
        sim->held_bytes -= bytes;
    }
    sim->releases++;
    sim->seen.releases++;
    sim->seen.last_release_bytes = bytes;
    sim->released_bytes += bytes;
    sim->segments -= range->granules == 0;
    sim->segments_ended += range->granules == 0;
}

static void info(struct device *device, struct device_info *info_p)
{
    const struct sim_device *sim = (const struct sim_device *)device;
    *info_p = (struct device_info){
        .capacity_bytes = sim->config.capacity_bytes,
        .free_bytes = sim_free_bytes(sim),
        .held_bytes = sim->held_bytes,
        .others_bytes = sim->others_bytes,
        .sharers = 1,
    };
}

static bool usage(struct device *device, struct device_usage *usage_p)
{
    const struct sim_device *sim = (const struct sim_device *)device;
    *usage_p = (struct device_usage){.others_bytes = sim->others_bytes, .other_processes = sim->others_bytes > 0};
    return sim->config.usage_known;
}

static void *host_pointer(struct device *device, device_address address)
{
    (void)device;
    (void)address;
    return NULL;
}

// ---- Streams and events ----

static void stream_synchronize(struct device *device, struct stream *stream)
{
    struct sim_device *sim = (struct sim_device *)device;
    host_learns(sim, present(sim, stream));
    sim->seen.synchronized[stream->number] = true;
}

static void synchronize(struct device *device)
{
    struct sim_device *sim = (struct sim_device *)device;
    for (size_t i = 0; i < SIM_STREAMS; i++) {
        stream_synchronize(device, &sim->streams[i]);
    }
}

static enum status event_create(struct device *device, struct event **event_p)
{
    struct sim_device *sim = (struct sim_device *)device;
    if (sim_fails(sim, SIM_EVENT_CREATE)) {
        return STATUS_ERROR;
    }
    struct event *event = malloc(sizeof(*event));
    require(event != NULL);
    *event = (struct event){0};
    sim->events++;
    *event_p = event;
    return STATUS_OK;
}

static void event_destroy(struct device *device, struct event *event)
{
    struct sim_device *sim = (struct sim_device *)device;
    sim->events -= event != NULL;
    free(event);
}

static void event_record(struct device *device, struct event *event, struct stream *stream)
{
    event->clock = *present((struct sim_device *)device, stream);
    event->recorded = true;
}

static void event_wait(struct device *device, struct stream *stream, struct event *event)
{
    struct sim_device *sim = (struct sim_device *)device;
    require(event->recorded);
    merge(&stream->clock, &event->clock);
    sim->seen.stream_waits++;
}

static bool event_done(struct device *device, struct event *event)
{
    struct sim_device *sim = (struct sim_device *)device;
    require(event->recorded);
    if (!covers(&sim->done, &event->clock)) {
        return false;
    }
    host_learns(sim, &event->clock);
    return true;
}

static void event_synchronize(struct device *device, struct event *event)
{
    require(event->recorded);
    host_learns((struct sim_device *)device, &event->clock);
}

void sim_init(struct sim_device *sim, const struct sim_config *config)
{
    memset(sim, 0, sizeof(*sim));
    sim->config = *config;
    sim->allowed_bytes = config->capacity_bytes;
    sim->ops = (struct device_ops){
        .name = "simulated",
        .granularity_bytes = config->granularity_bytes,
        .reserve = reserve,
        .unreserve = unreserve,
        .commit = commit,
        .release = release,
        .info = info,
        .usage = usage,
        .host_pointer = host_pointer,
        .stream_synchronize = stream_synchronize,
        .synchronize = synchronize,
        .event_create = event_create,
        .event_destroy = event_destroy,
        .event_record = event_record,
        .event_wait = event_wait,
        .event_done = event_done,
        .event_synchronize = event_synchronize,
    };
    sim->device = (struct device){.ops = &sim->ops, .plain = config->plain};
    for (size_t i = 0; i < SIM_STREAMS; i++) {
        sim->streams[i].number = i;
    }
}

void sim_finish(struct sim_device *sim)
{
    require(sim->held_bytes == 0 && sim->events == 0 && sim->committed_bytes == sim->released_bytes);
    for (size_t i = 0; i < SIM_RANGES_MAX; i++) {
        require(sim->ranges[i].base == 0);
    }
}

void sim_watch(struct sim_device *sim)
{
    sim->seen = (struct sim_seen){0};
}
