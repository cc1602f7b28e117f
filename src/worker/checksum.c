// SPDX-License-Identifier: Apache-2.0
#include "worker/checksum.h"

#include <stdlib.h>
#include <xxhash.h>

#include "mem/uint64.h"

#define PIECE_ELEMENTS (UINT64_C(1) << 18)

enum status checksum_weights(struct worker *worker, uint64_t *checksum_p, struct error *error)
{
    const struct device_ops *ops = worker->device->ops;
    float *piece = malloc(PIECE_ELEMENTS * sizeof(*piece));
    XXH3_state_t *hash = XXH3_createState();
    if (piece == NULL || hash == NULL) {
        XXH3_freeState(hash);
        free(piece);
        return error_out_of_host_memory(error);
    }
    XXH3_64bits_reset(hash);
    for (uint64_t i = 0; i < worker->model->elements; i += PIECE_ELEMENTS) {
        uint64_t bytes = uint64_min(PIECE_ELEMENTS, worker->model->elements - i) * sizeof(*piece);
        ops->copy_to_host(worker->device, worker->stream, piece,
                          worker->optimizer_memory.parameters + i * sizeof(*piece), bytes);
        ops->stream_synchronize(worker->device, worker->stream);
        XXH3_64bits_update(hash, piece, bytes);
    }
    *checksum_p = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    free(piece);
    return worker_check(worker, error);
}
