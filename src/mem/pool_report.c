// SPDX-License-Identifier: Apache-2.0
//
// A refusal in words.
#include <ctype.h>
#include <stdio.h>

#include "mem/pool.h"

const char *mem_cause_name(enum mem_cause cause)
{
    static const char *const names[] = {
        [MEM_CAUSE_CAPACITY] = "capacity",
        [MEM_CAUSE_FRAGMENTED] = "fragmented",
        [MEM_CAUSE_EXTERNAL] = "external",
        [MEM_CAUSE_INJECTED] = "injected",
    };
    return names[cause];
}

static const char *explanation(enum mem_cause cause)
{
    static const char *const texts[] = {
        [MEM_CAUSE_CAPACITY] = "what is live and the request together exceed the limit",
        [MEM_CAUSE_FRAGMENTED] = "enough is free, but not in one piece",
        [MEM_CAUSE_EXTERNAL] = "others hold what the limit promised",
        [MEM_CAUSE_INJECTED] = "a fault that the configuration asked for",
    };
    return texts[cause];
}

const char *mem_size_text(uint64_t bytes, char *text)
{
    const char *const units[] = {bytes == 1 ? "byte" : "bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1024 && unit < 4; unit++) {
        value /= 1024;
    }
    snprintf(text, MEM_SIZE_TEXT_MAX, unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
    return text;
}

void mem_out_of_memory_format(const struct mem_out_of_memory *report, const struct device_ops *ops, char *text,
                              size_t size)
{
    char kind[16], sizes[9][MEM_SIZE_TEXT_MAX];
    size_t length = 0;
    for (; ops->name[length] != '\0' && length + 1 < sizeof(kind); length++) {
        kind[length] = (char)toupper((unsigned char)ops->name[length]);
    }
    kind[length] = '\0';
    int used = snprintf(
        text, size,
        "%s out of memory. Tried to allocate %s (%s). The device has a total capacity of %s of which %s is free; "
        "others hold %s. Under the limit of %s, %s is allocated, and %s is reserved but unallocated, the largest "
        "free block %s. Cause: %s (%s).",
        kind, mem_size_text(report->request_bytes, sizes[0]), report->tag,
        mem_size_text(report->device.capacity_bytes, sizes[1]), mem_size_text(report->device.free_bytes, sizes[2]),
        mem_size_text(report->device.others_bytes, sizes[3]), mem_size_text(report->limit_bytes, sizes[4]),
        mem_size_text(report->allocated_bytes, sizes[5]),
        mem_size_text(report->reserved_bytes - report->allocated_bytes, sizes[6]),
        mem_size_text(report->largest_free_bytes, sizes[7]), mem_cause_name(report->cause), explanation(report->cause));
    for (size_t i = 0; i < MEM_TAGS_REPORTED && report->top[i].bytes > 0 && used > 0 && (size_t)used < size; i++) {
        used += snprintf(text + used, size - (size_t)used, "%s%s %s%s", i == 0 ? " Largest: " : ", ",
                         report->top[i].tag, mem_size_text(report->top[i].bytes, sizes[8]),
                         i + 1 == MEM_TAGS_REPORTED || report->top[i + 1].bytes == 0 ? "." : "");
    }
}
