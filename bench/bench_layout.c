// SPDX-License-Identifier: Apache-2.0
//
// bench_layout TRACE.csv...: how tight a layout of each trace becomes and how long that takes, by first fit alone and
// with the search. A capacity in a file's name, as in A.1048576.csv, is enough; else the goal is the lower bound.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/clock.h"
#include "mem/trace.h"

static bool measure(const struct mem_trace *trace, const struct mem_layout_goal *goal, uint64_t *offsets)
{
    struct mem_layout layout;
    uint64_t start_ns = clock_ns();
    if (!mem_layout_place(trace->buffers, trace->count, 1, goal, offsets, &layout)) {
        return false;
    }
    double seconds = (double)(clock_ns() - start_ns) / 1e9;
    double above = (double)layout.bytes / (double)layout.lower_bound_bytes - 1;
    bool valid = mem_layout_valid(trace->buffers, offsets, trace->count, 1, layout.bytes);
    printf(" %14" PRIu64 " %8.3f %% %7.2f s%s%s", layout.bytes, 100 * above, seconds, layout.optimal ? " optimal" : "",
           valid ? "" : " INVALID");
    fflush(stdout);
    return true;
}

int main(int argc, char **argv)
{
    printf("%-22s %8s %36s %36s\n", "", "buffers", "first fit: bytes, above bound, time", "with search");
    for (int i = 1; i < argc; i++) {
        const char *slash = strrchr(argv[i], '/'), *name = slash == NULL ? argv[i] : slash + 1;
        struct mem_trace trace;
        struct error error;
        FILE *file = fopen(argv[i], "r");
        if (file == NULL) {
            perror(argv[i]);
            return EXIT_FAILURE;
        }
        if (mem_trace_read(argv[i], file, &trace, &error) != STATUS_OK) {
            fprintf(stderr, "bench_layout: %s\n", error.text);
            return EXIT_FAILURE;
        }
        fclose(file);
        uint64_t *offsets = malloc(trace.count * sizeof(*offsets)), capacity = mem_trace_capacity(argv[i]);
        printf("%-22s %8zu", name, trace.count);
        bool placed =
            offsets != NULL && measure(&trace, &(struct mem_layout_goal){.bytes = capacity}, offsets) &&
            measure(&trace, &(struct mem_layout_goal){.bytes = capacity, .work = MEM_LAYOUT_WORK_MAX}, offsets);
        putchar('\n');
        if (!placed) {
            fprintf(stderr, "bench_layout: out of host memory\n");
            return EXIT_FAILURE;
        }
        free(offsets);
        mem_trace_finish(&trace);
    }
    return EXIT_SUCCESS;
}
