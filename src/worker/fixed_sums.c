// SPDX-License-Identifier: Apache-2.0
#include "worker/fixed_sums.h"

#include <float.h>
#include <math.h>
#include <stddef.h>

#define SUMS_BITS        62 // of a sum, without its sign
#define ROOM_BITS        6  // a term may be so much larger than the largest sum of the step before
#define SPILLED_BITS     16 // less fine after a term that was too large
#define LARGEST_EXPONENT FLT_MAX_EXP
#define SCALE_BITS_MAX   128 // kernels.h

uint64_t fixed_sums_gradient_bytes(uint64_t elements)
{
    return elements * sizeof(int64_t);
}

// Terms below 2^exponent are not too large, nor is a sum of as many as there are grains.
static void set_exponent(struct fixed_sums *sums, int exponent)
{
    int bits = SUMS_BITS - (int)ceil(log2((double)sums->grains));
    int least = bits - SCALE_BITS_MAX;
    sums->exponent = exponent < least ? least : exponent < LARGEST_EXPONENT ? exponent : LARGEST_EXPONENT;
    sums->scale = ldexp(1, bits - sums->exponent);
    sums->limit = INT64_C(1) << bits;
}

void fixed_sums_init(struct fixed_sums *sums, uint64_t grains)
{
    sums->grains = grains;
    set_exponent(sums, ROOM_BITS);
}

void fixed_sums_resume(struct fixed_sums *sums, int exponent)
{
    set_exponent(sums, exponent);
}

void fixed_sums_clear_tally(struct worker *worker)
{
    worker->device->ops->fill_zero(worker->device, worker->stream, worker->fixed.values, sizeof(struct fixed_values));
}

void fixed_sums_clear_gradients(struct worker *worker)
{
    worker->device->ops->fill_zero(worker->device, worker->stream, worker->fixed.gradients,
                                   fixed_sums_gradient_bytes(worker->model->elements));
}

static device_address value(const struct worker *worker, size_t offset)
{
    return worker->fixed.values + offset;
}

void fixed_sums_add(struct worker *worker, bool trains)
{
    const struct kernels *kernels = worker->kernels->kernels;
    const struct fixed_sums *sums = &worker->fixed;
    uint64_t elements = worker->model->elements;
    kernels->fixed_add_tally(worker->kernels, value(worker, offsetof(struct fixed_values, tally)),
                             worker->memory.tally);
    if (trains) {
        kernels->fixed_add(worker->kernels, sums->gradients, worker->memory.gradients, elements, sums->scale,
                           sums->limit, value(worker, offsetof(struct fixed_values, spilled)));
        worker->device->ops->fill_zero(worker->device, worker->stream, worker->memory.gradients,
                                       elements * sizeof(float));
    }
}

void fixed_sums_get_tally(struct worker *worker)
{
    worker->kernels->kernels->fixed_get_tally(worker->kernels, worker->memory.tally,
                                              value(worker, offsetof(struct fixed_values, tally)));
}

static struct fixed_values read_values(struct worker *worker)
{
    struct fixed_values values;
    worker->device->ops->copy_to_host(worker->device, worker->stream, &values, worker->fixed.values, sizeof(values));
    worker->device->ops->stream_synchronize(worker->device, worker->stream);
    return values;
}

enum sums_end fixed_sums_get(struct worker *worker)
{
    struct fixed_sums *sums = &worker->fixed;
    fixed_sums_get_tally(worker);
    worker->kernels->kernels->fixed_get(worker->kernels, worker->memory.gradients, sums->gradients,
                                        worker->model->elements, sums->scale,
                                        value(worker, offsetof(struct fixed_values, largest)));
    struct fixed_values values = read_values(worker);
    if (values.spilled > 0) {
        bool finite = sums->exponent < LARGEST_EXPONENT && values.tally.not_finite == 0;
        set_exponent(sums, sums->exponent + SPILLED_BITS);
        return finite ? SUMS_SPILLED : SUMS_NOT_FINITE;
    }
    if (values.largest > 0) {
        int exponent;
        (void)frexp((double)values.largest, &exponent);
        set_exponent(sums, exponent + ROOM_BITS);
    }
    return SUMS_DONE;
}
