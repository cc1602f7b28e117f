// SPDX-License-Identifier: Apache-2.0
#include "worker/checksum.h"

#include <stdlib.h>

#include "mem/uint64.h"

#define PIECE_ELEMENTS (UINT64_C(1) << 18)

static uint64_t hash(uint64_t checksum, const unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        checksum = (checksum ^ bytes[i]) * UINT64_C(1099511628211);
    }
    return checksum;
}

enum status checksum_weights(struct worker *worker, uint64_t *checksum_p, struct error *error)
{
    const struct device_ops *ops = worker->device->ops;
    float *piece = malloc(PIECE_ELEMENTS * sizeof(*piece));
    if (piece == NULL) {
        return error_out_of_host_memory(error);
    }
    *checksum_p = UINT64_C(14695981039346656037);
    for (uint64_t i = 0; i < worker->model->elements; i += PIECE_ELEMENTS) {
        uint64_t bytes = uint64_min(PIECE_ELEMENTS, worker->model->elements - i) * sizeof(*piece);
        ops->copy_to_host(worker->device, worker->stream, piece,
                          worker->optimizer_memory.parameters + i * sizeof(*piece), bytes);
        ops->stream_synchronize(worker->device, worker->stream);
        *checksum_p = hash(*checksum_p, (const unsigned char *)piece, bytes);
    }
    free(piece);
    return worker_check(worker, error);
}
