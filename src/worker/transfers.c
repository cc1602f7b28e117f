// SPDX-License-Identifier: Apache-2.0
#include "worker/transfers.h"

bool transfers_init(struct transfers *transfers, struct device *device, struct mem_pool *staging)
{
    const struct device_ops *ops = device->ops;
    *transfers = (struct transfers){.device = device, .staging = staging};
    return ops->stream_create(device, &transfers->list.stream) == STATUS_OK &&
           ops->event_create(device, &transfers->list.computed) == STATUS_OK &&
           ops->event_create(device, &transfers->list.copied) == STATUS_OK;
}

void transfers_finish(struct transfers *transfers)
{
    struct device *device = transfers->device;
    if (device != NULL) {
        mem_pool_free(transfers->staging, transfers->address, NULL);
        device->ops->event_destroy(device, transfers->list.copied);
        device->ops->event_destroy(device, transfers->list.computed);
        device->ops->stream_destroy(device, transfers->list.stream);
    }
}

void transfers_drop(struct transfers *transfers)
{
    transfers->device->ops->stream_synchronize(transfers->device, transfers->list.stream);
    mem_pool_free(transfers->staging, transfers->address, NULL);
    mem_pool_trim(transfers->staging, 0);
    transfers->address = 0;
    transfers->bytes = 0;
    transfers->list.host = NULL;
}

bool transfers_hold(struct transfers *transfers, uint64_t bytes)
{
    device_address larger;
    if (bytes <= transfers->bytes) {
        return true;
    }
    if (mem_pool_hold(transfers->staging, bytes, NULL, "offloaded", &larger) != STATUS_OK) {
        return false;
    }
    transfers_drop(transfers);
    transfers->address = larger;
    transfers->bytes = bytes;
    transfers->list.host = mem_pool_host_pointer(transfers->staging, larger);
    return true;
}
