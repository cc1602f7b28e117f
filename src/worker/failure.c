// SPDX-License-Identifier: Apache-2.0
#include "worker/failure.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "worker/run/memory_files.h"

void failure_print(const struct comm *comm, const struct error *error)
{
    if (comm->size == 1 || error->status == STATUS_INVALID) {
        fprintf(stderr, "headroom: %s\n", error->text);
    } else {
        char host[256] = "?";
        gethostname(host, sizeof(host) - 1);
        fprintf(stderr, "headroom: rank %" PRIu32 " on %s: %s\n", comm->rank, host, error->text);
    }
    fflush(stderr);
}

enum status failure_agree(struct comm *comm, enum status status, const struct error *error)
{
    enum status first;
    if (comm_first_failure(comm, status, &first) == comm->rank) {
        failure_print(comm, error);
    }
    return first;
}

void failure_shortage(const struct worker *worker, const struct error *error)
{
    if (worker->comm->rank != worker->spokesman) {
        return;
    }
    failure_print(worker->comm, error);
    if (worker->comm->size == 1) {
        return;
    }
    fprintf(stderr, "%-6s %14s %14s %14s\n", "rank", "limit", "headroom", "held by others");
    for (uint32_t i = 0; i < worker->comm->size; i++) {
        char limit[MEM_SIZE_TEXT_MAX], headroom[MEM_SIZE_TEXT_MAX], others[MEM_SIZE_TEXT_MAX];
        const struct step_message *message = &worker->messages[i];
        fprintf(stderr, "%-6" PRIu32 " %14s %14s %14s\n", i, mem_size_text(message->limit_bytes, limit),
                mem_size_text(message->report.headroom_bytes, headroom), mem_size_text(message->others_bytes, others));
    }
}

void failure_alone(struct worker *worker, const struct error *error)
{
    failure_print(worker->comm, error);
    worker_log(worker, "%s", error->text);
    if (worker->memory_files != NULL) {
        memory_files_end(worker, NULL); // as far as it goes
    }
    worker->comm->ops->abort(worker->comm, (int)error->status);
}
