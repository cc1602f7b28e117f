// SPDX-License-Identifier: Apache-2.0
#include "worker/costs.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/printable.h"
#include "worker/json_text.h"
#include "worker/regular_file.h"
#include "worker/run/run_folder.h"

// Each measurement weighs 63/64 of the next one: about the last 64 count, of which a micro-step has one for each block.
#define FADE      0.984375
#define COSTS_MAX 128

struct cost {
    char operation[TENSOR_NAME_MAX], tensor[TENSOR_NAME_MAX];
    bool by_flops;
    double units, ns; // faded sums; nanoseconds at the speed of 1
};

struct costs {
    struct cost costs[COSTS_MAX];
    size_t count;
    double slowness; // of the last micro-step, relative to the costs
};

struct costs *costs_create(void)
{
    struct costs *costs = calloc(1, sizeof(*costs));
    if (costs != NULL) {
        costs->slowness = 1;
    }
    return costs;
}

void costs_destroy(struct costs *costs)
{
    free(costs);
}

static bool counts_flops(const struct list_work *work)
{
    return work->flops > 0;
}

static double units_of(const struct list_work *work)
{
    return (double)(counts_flops(work) ? work->flops : work->bytes);
}

// costs->count: it has none of its own.
static size_t index_of(const struct costs *costs, const struct list_work *work)
{
    size_t i = 0;
    while (i < costs->count && (strcmp(costs->costs[i].operation, work->operation) != 0 ||
                                strcmp(costs->costs[i].tensor, work->tensor) != 0)) {
        i++;
    }
    return i;
}

// NULL: it has none of its own.
static const struct cost *find_cost(const struct costs *costs, const struct list_work *work)
{
    size_t index = index_of(costs, work);
    return index < costs->count ? &costs->costs[index] : NULL;
}

// Nanoseconds a unit, from the costs that are most like this work.
static double unit_ns(const struct costs *costs, const struct list_work *work)
{
    double kind_ns = 0, kind_units = 0, any_ns = 0, any_units = 0;
    const struct cost *own = find_cost(costs, work);
    if (own != NULL) {
        return own->ns / own->units;
    }
    for (size_t i = 0; i < costs->count; i++) {
        const struct cost *cost = &costs->costs[i];
        if (cost->by_flops != counts_flops(work)) {
            continue;
        }
        bool same_kind = strcmp(cost->operation, work->operation) == 0;
        kind_ns += same_kind ? cost->ns : 0;
        kind_units += same_kind ? cost->units : 0;
        any_ns += cost->ns;
        any_units += cost->units;
    }
    if (kind_units > 0) {
        return kind_ns / kind_units;
    }
    return any_units > 0 ? any_ns / any_units : 0;
}

static struct cost *cost_of(struct costs *costs, const struct list_work *work)
{
    size_t index = index_of(costs, work);
    if (index == COSTS_MAX) {
        return NULL;
    }
    struct cost *cost = &costs->costs[index];
    if (index < costs->count) {
        return cost;
    }
    costs->count++;
    *cost = (struct cost){.by_flops = counts_flops(work)};
    snprintf(cost->operation, sizeof(cost->operation), "%s", work->operation);
    snprintf(cost->tensor, sizeof(cost->tensor), "%s", work->tensor);
    return cost;
}

// How much slower the micro-step was than its costs say; what has no cost of its own yet does not count.
static double slowness_of(const struct costs *costs, const struct op_timing *timings, size_t count)
{
    double expected_ns = 0, time_ns = 0;
    for (size_t i = 0; i < count; i++) {
        const struct cost *own = find_cost(costs, &timings[i].work);
        if (own != NULL) {
            expected_ns += own->ns / own->units * units_of(&timings[i].work);
            time_ns += (double)timings[i].time_ns;
        }
    }
    return expected_ns > 0 && time_ns > 0 ? time_ns / expected_ns : 1;
}

void costs_observe(struct costs *costs, const struct op_timing *timings, size_t count)
{
    costs->slowness = slowness_of(costs, timings, count);
    for (size_t i = 0; i < count; i++) {
        double units = units_of(&timings[i].work);
        struct cost *cost = units > 0 ? cost_of(costs, &timings[i].work) : NULL;
        if (cost != NULL) {
            cost->units = FADE * cost->units + units;
            cost->ns = FADE * cost->ns + (double)timings[i].time_ns / costs->slowness;
        }
    }
}

double costs_list_ns(const struct costs *costs, const struct list *list)
{
    double ns = 0;
    for (size_t i = 0; i < list->op_count; i++) {
        struct list_work work = list_work(list, i);
        ns += unit_ns(costs, &work) * units_of(&work);
    }
    return ns * costs->slowness;
}

static json_t *cost_object(const struct costs *costs, const struct cost *cost)
{
    return json_pack("{ss ss ss sf}", "operation", cost->operation, "tensor", cost->tensor, "unit",
                     cost->by_flops ? "flop" : "byte", "ns_per_unit", cost->ns / cost->units * costs->slowness);
}

enum status costs_write(const struct costs *costs, const struct costs_device *device, const char *run_folder,
                        uint32_t rank, struct error *error)
{
    json_t *array = json_array();
    for (size_t i = 0; i < costs->count; i++) {
        json_array_append_new(array, cost_object(costs, &costs->costs[i]));
    }
    json_t *object =
        json_pack("{s{ss so} so}", "device", "kind", device->kind, "name", json_text(device->name), "costs", array);
    char *text = object == NULL ? NULL : json_dumps(object, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    json_decref(object);
    if (text == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = run_folder_write_rank(run_folder, "costs", rank, text, error);
    free(text);
    return status;
}

static bool read_cost(const json_t *object, struct costs *costs)
{
    const char *operation, *tensor, *unit;
    double ns;
    if (costs->count == COSTS_MAX ||
        json_unpack((json_t *)object, "{s:s, s:s, s:s, s:F}", "operation", &operation, "tensor", &tensor, "unit", &unit,
                    "ns_per_unit", &ns) != 0 ||
        strlen(operation) >= TENSOR_NAME_MAX || strlen(tensor) >= TENSOR_NAME_MAX || !isfinite(ns) || ns < 0) {
        return false;
    }
    bool by_flops = strcmp(unit, "flop") == 0;
    struct cost *cost = &costs->costs[costs->count++];
    *cost = (struct cost){.by_flops = by_flops, .units = 1, .ns = ns};
    snprintf(cost->operation, sizeof(cost->operation), "%s", operation);
    snprintf(cost->tensor, sizeof(cost->tensor), "%s", tensor);
    return by_flops || strcmp(unit, "byte") == 0;
}

// Older files are the array alone.
static bool read_device(const json_t *file, struct costs_device *device)
{
    const char *kind, *name;
    *device = (struct costs_device){0};
    if (json_is_array(file)) {
        return true;
    }
    if (json_unpack((json_t *)file, "{s:{s:s, s:s}}", "device", "kind", &kind, "name", &name) != 0) {
        return false;
    }
    snprintf(device->kind, sizeof(device->kind), "%s", kind);
    printable(name, device->name, sizeof(device->name));
    return true;
}

static enum status refuse(const char *path, const char *what, struct error *error)
{
    return error_set(error, STATUS_INVALID, "%s: %s; a run of several steps writes such files to its folder's costs/",
                     path, what);
}

static enum status read_costs(const json_t *file, const char *path, struct costs *costs, struct costs_device *device,
                              struct error *error)
{
    const json_t *array = json_is_array(file) ? file : json_object_get(file, "costs");
    size_t count = json_array_size(array), good = 0;
    if (count == 0) {
        return refuse(path, "has no costs of operations", error);
    }
    if (!read_device(file, device)) {
        return refuse(path, "does not say of which kind and name the device is", error);
    }
    while (good < count && read_cost(json_array_get(array, good), costs)) {
        good++;
    }
    char what[64];
    snprintf(what, sizeof(what), "entry %zu is no cost of an operation", good + 1);
    return good == count ? STATUS_OK : refuse(path, what, error);
}

static enum status load(const char *path, json_t **file_p, struct error *error)
{
    int descriptor;
    uint64_t bytes;
    json_error_t why;
    enum status status = regular_file_open(path, &descriptor, &bytes, error);
    if (status != STATUS_OK) {
        return status;
    }
    *file_p = json_loadfd(descriptor, 0, &why);
    close(descriptor);
    return *file_p != NULL ? STATUS_OK
                           : error_set(error, STATUS_INVALID, "%s:%d: %s", path, why.line < 1 ? 1 : why.line, why.text);
}

enum status costs_read(const char *path, struct costs **costs_p, struct costs_device *device_p, struct error *error)
{
    json_t *file;
    enum status status = load(path, &file, error);
    if (status != STATUS_OK) {
        return status;
    }
    struct costs *costs = costs_create();
    status = costs == NULL ? error_out_of_host_memory(error) : read_costs(file, path, costs, device_p, error);
    json_decref(file);
    if (status != STATUS_OK) {
        costs_destroy(costs);
        return status;
    }
    *costs_p = costs;
    return STATUS_OK;
}
