// SPDX-License-Identifier: Apache-2.0
//
// For tests that say once what holds on every device and in both precisions.
#ifndef HEADROOM_TESTS_EVERY_TARGET_H
#define HEADROOM_TESTS_EVERY_TARGET_H

#include <string.h>

#include "targets.h"

static struct {
    struct target target;
    bool open;
} every_target[2 * TARGET_DEVICES];
#define EVERY_TARGET (sizeof(every_target) / sizeof(every_target[0]))

static inline enum kernel_precision target_precision(const struct target *target)
{
    return target->context->kernels->precision;
}

// Others are slow where they are simulated, and may sum in another order from size to size.
static inline bool target_is_cpu(const struct target *target)
{
    return strcmp(target->context->kernels->name, "cpu") == 0;
}

static inline const char *target_name(const struct target *target)
{
    static char name[32];
    snprintf(name, sizeof(name), "%s in %s", target->context->kernels->name,
             target_precision(target) == KERNEL_BF16 ? "bf16" : "fp32");
    return name;
}

// The group's setup and teardown.
static int open_every_target(void **state)
{
    (void)state;
    for (size_t i = 0; i < EVERY_TARGET; i++) {
        const char *device = target_devices[i / 2];
        enum kernel_precision precision = i % 2 == 0 ? KERNEL_FP32 : KERNEL_BF16;
        every_target[i].open = target_open(device, precision, device, &every_target[i].target);
    }
    return 0;
}

static int close_every_target(void **state)
{
    (void)state;
    for (size_t i = 0; i < EVERY_TARGET; i++) {
        if (every_target[i].open) {
            target_close(&every_target[i].target);
        }
    }
    return 0;
}

// The CPU in float32 comes first.
static void on_every_target(void (*test)(struct target *target))
{
    for (size_t i = 0; i < EVERY_TARGET; i++) {
        if (every_target[i].open) {
            printf("    on %s\n", target_name(&every_target[i].target));
            test(&every_target[i].target);
        }
    }
}

#endif
