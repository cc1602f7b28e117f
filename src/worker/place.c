// SPDX-License-Identifier: Apache-2.0
#include "worker/place.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

const struct device_ops *place_kind(const struct config *config, struct error *instead)
{
    const struct device_ops *cpu = device_find("cpu"), *cuda = device_find("cuda");
    const char *key = config_cpu_key(config);
    if (config->device.kind != CONFIG_DEVICE_AUTO) {
        return config->device.kind == CONFIG_DEVICE_CPU ? cpu : cuda;
    }
    if (key != NULL) {
        error_set(instead, STATUS_OK, "%s is the CPU device's", key);
        return cpu;
    }
    if (cuda == NULL) {
        error_set(instead, STATUS_OK, "this program was built without CUDA");
        return cpu;
    }
    return cuda->count(instead) > 0 ? cuda : cpu;
}

// Whether a rank must run on the CPU, and why.
struct need {
    bool cpu;
    struct error why;
};

// All ranks run on the CPU where one of them must.
static void agree_on_kind(struct comm *comm, const struct config *config, struct place *place)
{
    struct need mine = {0};
    place->ops = place_kind(config, &mine.why);
    mine.cpu = place->ops == device_find("cpu");
    struct need *all = comm_gather(comm, &mine, sizeof(mine));
    uint32_t first = comm->size, count = 0;
    for (uint32_t i = 0; i < comm->size; i++) {
        first = count == 0 && all[i].cpu ? i : first;
        count += all[i].cpu;
    }
    if (count == comm->size) {
        place->instead = mine.why;
    } else if (count > 0) {
        place->ops = device_find("cpu");
        error_set(&place->instead, STATUS_OK, "of rank %" PRIu32 ": %s", first, all[first].why.text);
    }
    free(all);
}

// The devices that a rank sees, and which of them it takes.
struct sight {
    uint32_t host, count, taken;
    char ids[PLACE_DEVICES_MAX][sizeof(((struct device_location *)0)->id)];
};

static bool takes(const struct sight *sight, uint32_t host, const char *id)
{
    return sight->count > 0 && sight->host == host && strcmp(sight->ids[sight->taken], id) == 0;
}

// How many of the first `ranks` take the device.
static uint32_t takers(const struct sight *all, uint32_t ranks, uint32_t host, const char *id)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < ranks; i++) {
        count += takes(&all[i], host, id);
    }
    return count;
}

// Rank after rank takes, of the devices that it sees, the first of those that the fewest took before. Answers how many
// did.
static uint32_t take(struct sight *all, uint32_t rank)
{
    struct sight *sight = &all[rank];
    uint32_t least = UINT32_MAX;
    for (uint32_t i = 0; i < sight->count; i++) {
        uint32_t count = takers(all, rank, sight->host, sight->ids[i]);
        if (count < least) {
            least = count;
            sight->taken = i;
        }
    }
    return sight->count > 0 ? least : 0;
}

static void choose_device(struct comm *comm, const struct sight *mine, struct place *place)
{
    struct sight *all = comm_gather(comm, mine, sizeof(*mine));
    for (uint32_t i = 0; i < comm->size; i++) {
        place->shared |= take(all, i) > 0;
    }
    place->index = all[comm->rank].taken;
    place->sharers = takers(all, comm->size, comm->host, mine->ids[place->index]);
    free(all);
}

enum status place_choose(const struct config *config, struct comm *comm, struct place *place_p, struct error *error)
{
    struct place place = {0};
    agree_on_kind(comm, config, &place);
    struct sight mine = {.host = comm->host, .count = place.ops->count(error)};
    if (mine.count > PLACE_DEVICES_MAX) {
        mine.count = PLACE_DEVICES_MAX;
    }
    for (uint32_t i = 0; i < mine.count; i++) {
        place.ops->locate(i, &place.location);
        memcpy(mine.ids[i], place.location.id, sizeof(place.location.id));
    }
    choose_device(comm, &mine, &place);
    place.ops->locate(place.index, &place.location);
    *place_p = place;
    return mine.count > 0 ? STATUS_OK : STATUS_ERROR;
}
