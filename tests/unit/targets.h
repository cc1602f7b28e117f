// SPDX-License-Identifier: Apache-2.0
//
// What tests run on: every kind of device that was built in and that this machine has, with all that kernels need.
#ifndef HEADROOM_TESTS_TARGETS_H
#define HEADROOM_TESTS_TARGETS_H

#include <stdio.h>
#include <stdlib.h>

#include "kernels/kernels.h"
#include "mem/pool.h"

struct target {
    struct device *device;
    struct stream *stream;
    struct mem_pool *pool;
    device_address workspace;
    struct kernel_context *context;
};

static const char *const target_devices[] = {"cpu", "cuda"};
#define TARGET_DEVICES (sizeof target_devices / sizeof *target_devices)

static inline void target_fail(const char *what, const struct error *error)
{
    fprintf(stderr, "%s: %s\n", what, error->text);
    abort();
}

// False where the device was not built in, or the machine has none; a line says why.
static inline bool target_open(const char *name, enum kernel_precision precision, const char *table,
                               struct target *target)
{
    const struct device_ops *ops = device_find(name);
    struct error error = {0};
    if (ops == NULL) {
        printf("skipped on %s: not built in\n", name);
        return false;
    }
    const struct device_config config = {
        .capacity_bytes = UINT64_C(192) << 20, .faulting_addresses = true, .sharers = 1};
    if (ops->create(&config, &target->device, &error) != STATUS_OK) {
        printf("skipped on %s: %s\n", name, error.text);
        return false;
    }
    const struct kernels *kernels = kernels_find(table, precision);
    if (ops->stream_create(target->device, &target->stream) != STATUS_OK ||
        mem_pool_create(target->device, 0, &target->pool, &error) != STATUS_OK ||
        mem_pool_alloc(target->pool, kernels->workspace_bytes, target->stream, "workspace", &target->workspace) !=
            STATUS_OK ||
        kernels->context_create(target->device, target->stream, target->workspace, &target->context, &error) !=
            STATUS_OK) {
        target_fail(name, &error);
    }
    return true;
}

static inline void target_close(struct target *target)
{
    target->context->kernels->context_destroy(target->context);
    mem_pool_destroy(target->pool);
    target->device->ops->stream_destroy(target->device, target->stream);
    target->device->ops->destroy(target->device);
}

// A copy of `bytes` of host memory on the device.
static inline device_address target_copy_in(struct target *target, const void *data, uint64_t bytes)
{
    device_address address;
    if (mem_pool_alloc(target->pool, bytes, target->stream, "array", &address) != STATUS_OK) {
        target_fail("array", &(struct error){.text = "does not fit"});
    }
    target->device->ops->copy_to_device(target->device, target->stream, address, data, bytes);
    return address;
}

// The device's bytes in host memory; returns the device's memory.
static inline void target_copy_out(struct target *target, void *data, device_address address, uint64_t bytes)
{
    struct error error;
    target->device->ops->copy_to_host(target->device, target->stream, data, address, bytes);
    target->device->ops->stream_synchronize(target->device, target->stream);
    if (target->device->ops->check(target->device, &error) != STATUS_OK) {
        target_fail("copy", &error);
    }
    mem_pool_free(target->pool, address, target->stream);
}

#endif
