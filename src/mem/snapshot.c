// SPDX-License-Identifier: Apache-2.0
#include "mem/snapshot.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/pickle.h"
#include "mem/whole_file.h"

// Keys and values that come again and again: written once, then by number.
enum word {
    ACTION,
    ACTIVE_ALLOCATED,
    ACTIVE_SIZE,
    ADDR,
    ADDRESS,
    ALLOC,
    ALLOCATED_SIZE,
    ALLOCATOR_SETTINGS,
    BLOCKS,
    DEVICE,
    DEVICE_FREE,
    DEVICE_TRACES,
    EXPANDABLE_SEGMENTS,
    FILENAME,
    FRAMES,
    FREE_COMPLETED,
    FREE_REQUESTED,
    INACTIVE,
    IS_EXPANDABLE,
    LARGE,
    LINE,
    NAME,
    OOM,
    REQUESTED_SIZE,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_POOL_ID,
    SEGMENT_TYPE,
    SEGMENT_UNMAP,
    SEGMENTS,
    SIZE,
    STATE,
    STEP,
    STREAM,
    TIME_US,
    TOTAL_SIZE,
    TRACE_ALLOC_OVERFLOWED,
    WORD_COUNT,
};

static const char *const words[WORD_COUNT] = {
    [ACTION] = "action",
    [ACTIVE_ALLOCATED] = "active_allocated",
    [ACTIVE_SIZE] = "active_size",
    [ADDR] = "addr",
    [ADDRESS] = "address",
    [ALLOC] = "alloc",
    [ALLOCATED_SIZE] = "allocated_size",
    [ALLOCATOR_SETTINGS] = "allocator_settings",
    [BLOCKS] = "blocks",
    [DEVICE] = "device",
    [DEVICE_FREE] = "device_free",
    [DEVICE_TRACES] = "device_traces",
    [EXPANDABLE_SEGMENTS] = "expandable_segments",
    [FILENAME] = "filename",
    [FRAMES] = "frames",
    [FREE_COMPLETED] = "free_completed",
    [FREE_REQUESTED] = "free_requested",
    [INACTIVE] = "inactive",
    [IS_EXPANDABLE] = "is_expandable",
    [LARGE] = "large",
    [LINE] = "line",
    [NAME] = "name",
    [OOM] = "oom",
    [REQUESTED_SIZE] = "requested_size",
    [SEGMENT_ALLOC] = "segment_alloc",
    [SEGMENT_FREE] = "segment_free",
    [SEGMENT_MAP] = "segment_map",
    [SEGMENT_POOL_ID] = "segment_pool_id",
    [SEGMENT_TYPE] = "segment_type",
    [SEGMENT_UNMAP] = "segment_unmap",
    [SEGMENTS] = "segments",
    [SIZE] = "size",
    [STATE] = "state",
    [STEP] = "step",
    [STREAM] = "stream",
    [TIME_US] = "time_us",
    [TOTAL_SIZE] = "total_size",
    [TRACE_ALLOC_OVERFLOWED] = "trace_alloc_overflowed",
};

struct writer {
    FILE *file;
    bool known[WORD_COUNT];
};

static void put_word(struct writer *writer, enum word word)
{
    if (writer->known[word]) {
        pickle_recall(writer->file, (uint8_t)word);
        return;
    }
    pickle_text(writer->file, words[word]);
    pickle_remember(writer->file, (uint8_t)word);
    writer->known[word] = true;
}

static void put_number(struct writer *writer, enum word key, uint64_t number)
{
    put_word(writer, key);
    pickle_number(writer->file, number);
}

static void put_bool(struct writer *writer, enum word key, bool value)
{
    put_word(writer, key);
    pickle_bool(writer->file, value);
}

static void put_choice(struct writer *writer, enum word key, enum word value)
{
    put_word(writer, key);
    put_word(writer, value);
}

// The viewer prints filename:line:name.
static void put_frames(struct writer *writer, const char *tag, uint64_t step)
{
    put_word(writer, FRAMES);
    pickle_list(writer->file);
    if (tag == NULL || tag[0] == '\0') {
        return;
    }
    pickle_dict_begin(writer->file);
    put_choice(writer, FILENAME, STEP);
    put_number(writer, LINE, step);
    put_word(writer, NAME);
    pickle_text(writer->file, tag);
    pickle_dict_end(writer->file);
    pickle_append(writer->file);
}

static void put_block(struct writer *writer, const struct mem_snapshot_block *block)
{
    static const enum word states[] = {
        [MEM_BLOCK_ACTIVE_ALLOCATED] = ACTIVE_ALLOCATED,
        [MEM_BLOCK_INACTIVE] = INACTIVE,
    };
    pickle_dict_begin(writer->file);
    put_number(writer, ADDRESS, block->address);
    put_number(writer, SIZE, block->bytes);
    put_number(writer, REQUESTED_SIZE, block->requested_bytes);
    put_choice(writer, STATE, states[block->state]);
    put_frames(writer, block->tag, block->step);
    pickle_dict_end(writer->file);
}

static bool blocks_tile(const struct mem_snapshot_segment *segment)
{
    uint64_t address = segment->address;
    for (size_t i = 0; i < segment->block_count; i++) {
        if (segment->blocks[i].address != address || segment->blocks[i].bytes == 0) {
            return false;
        }
        address += segment->blocks[i].bytes;
    }
    return address == segment->address + segment->bytes;
}

static void put_sums(struct writer *writer, const struct mem_snapshot_segment *segment)
{
    uint64_t allocated = 0, active = 0, requested = 0;
    for (size_t i = 0; i < segment->block_count; i++) {
        const struct mem_snapshot_block *block = &segment->blocks[i];
        allocated += block->state == MEM_BLOCK_ACTIVE_ALLOCATED ? block->bytes : 0;
        active += block->state != MEM_BLOCK_INACTIVE ? block->bytes : 0;
        requested += block->state != MEM_BLOCK_INACTIVE ? block->requested_bytes : 0;
    }
    put_number(writer, TOTAL_SIZE, segment->bytes);
    put_number(writer, ALLOCATED_SIZE, allocated);
    put_number(writer, ACTIVE_SIZE, active);
    put_number(writer, REQUESTED_SIZE, requested);
}

static void put_segment(struct writer *writer, const struct mem_snapshot_segment *segment, uint32_t device)
{
    bool tiled = blocks_tile(segment);
    assert(tiled), (void)tiled;
    pickle_dict_begin(writer->file);
    put_number(writer, DEVICE, device);
    put_number(writer, ADDRESS, segment->address);
    put_sums(writer, segment);
    put_number(writer, STREAM, segment->stream);
    put_choice(writer, SEGMENT_TYPE, LARGE);
    put_word(writer, SEGMENT_POOL_ID);
    pickle_pair(writer->file, 0, segment->pool);
    put_bool(writer, IS_EXPANDABLE, segment->expandable);
    put_frames(writer, NULL, 0);
    put_word(writer, BLOCKS);
    pickle_list(writer->file);
    for (size_t i = 0; i < segment->block_count; i++) {
        put_block(writer, &segment->blocks[i]);
        pickle_append(writer->file);
    }
    pickle_dict_end(writer->file);
}

static bool of_segment(enum mem_action action)
{
    return action >= MEM_ACTION_SEGMENT_ALLOC;
}

static void put_entry(struct writer *writer, const struct mem_event *event, enum word action, uint64_t wall_ns)
{
    pickle_dict_begin(writer->file);
    put_choice(writer, ACTION, action);
    if (event->action == MEM_ACTION_ALLOC_FAILED) {
        put_number(writer, DEVICE_FREE, event->device_free_bytes);
    } else {
        put_number(writer, ADDR, event->address);
    }
    put_number(writer, SIZE, of_segment(event->action) ? event->bytes : event->requested_bytes);
    put_number(writer, STREAM, event->stream);
    put_number(writer, TIME_US, wall_ns / 1000);
    put_frames(writer, event->tag, event->step);
    pickle_dict_end(writer->file);
    pickle_append(writer->file);
}

static void put_event(struct writer *writer, const struct mem_event *event, uint64_t wall_ns)
{
    static const enum word actions[] = {
        [MEM_ACTION_ALLOC] = ALLOC,
        [MEM_ACTION_ALLOC_FAILED] = OOM,
        [MEM_ACTION_FREE] = FREE_REQUESTED,
        [MEM_ACTION_SEGMENT_ALLOC] = SEGMENT_ALLOC,
        [MEM_ACTION_SEGMENT_FREE] = SEGMENT_FREE,
        [MEM_ACTION_SEGMENT_MAP] = SEGMENT_MAP,
        [MEM_ACTION_SEGMENT_UNMAP] = SEGMENT_UNMAP,
    };
    put_entry(writer, event, actions[event->action], wall_ns);
    if (event->action == MEM_ACTION_FREE) {
        put_entry(writer, event, FREE_COMPLETED, wall_ns);
    }
}

// One list for each device up to this one.
static void put_traces(struct writer *writer, const struct mem_recorder *recorder, uint32_t device)
{
    size_t count = recorder == NULL ? 0 : mem_recorder_kept(recorder);
    pickle_list(writer->file);
    for (uint32_t i = 0; i < device; i++) {
        pickle_list(writer->file);
        pickle_append(writer->file);
    }
    pickle_list(writer->file);
    for (size_t i = 0; i < count; i++) {
        const struct mem_event *event = mem_recorder_event(recorder, i);
        put_event(writer, event, mem_recorder_wall_ns(recorder, event->time_ns));
    }
    pickle_append(writer->file);
}

static void put_settings(struct writer *writer, const struct mem_snapshot *snapshot)
{
    const struct mem_recorder *recorder = snapshot->recorder;
    bool expandable = false;
    for (size_t i = 0; i < snapshot->segment_count; i++) {
        expandable = expandable || snapshot->segments[i].expandable;
    }
    pickle_dict_begin(writer->file);
    put_bool(writer, EXPANDABLE_SEGMENTS, expandable);
    put_bool(writer, TRACE_ALLOC_OVERFLOWED,
             recorder != NULL && mem_recorder_count(recorder) > mem_recorder_kept(recorder));
    pickle_dict_end(writer->file);
}

static bool put_snapshot(FILE *file, const void *contents)
{
    const struct mem_snapshot *snapshot = contents;
    struct writer writer = {.file = file};
    pickle_begin(file);
    pickle_dict_begin(file);
    put_word(&writer, SEGMENTS);
    pickle_list(file);
    for (size_t i = 0; i < snapshot->segment_count; i++) {
        put_segment(&writer, &snapshot->segments[i], snapshot->device);
        pickle_append(file);
    }
    put_word(&writer, DEVICE_TRACES);
    put_traces(&writer, snapshot->recorder, snapshot->device);
    put_word(&writer, ALLOCATOR_SETTINGS);
    put_settings(&writer, snapshot);
    pickle_dict_end(file);
    pickle_end(file);
    return true;
}

enum status mem_snapshot_write(const char *path, const struct mem_snapshot *snapshot, struct error *error)
{
    return whole_file_write(path, put_snapshot, snapshot)
               ? STATUS_OK
               : error_set(error, STATUS_ERROR, "%s: %s", path, strerror(errno));
}
