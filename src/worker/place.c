// SPDX-License-Identifier: Apache-2.0
#include "worker/place.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

// What ranks tell each other.
struct found {
    bool cpu;
    struct error instead;
    char host[256];
    struct device_location location;
};

// All ranks run on the CPU where one of them must.
static void agree_on_kind(struct comm *comm, struct found *mine, struct place *place)
{
    struct found *all = comm_gather(comm, mine, sizeof(*mine));
    for (uint32_t i = 0; i < comm->size && !mine->cpu; i++) {
        if (all[i].cpu) {
            *mine = all[i];
            place->ops = device_find("cpu");
        }
    }
    place->instead = mine->instead;
    free(all);
}

static bool same_device(const struct found *a, const struct found *b)
{
    return strcmp(a->host, b->host) == 0 && strcmp(a->location.id, b->location.id) == 0;
}

static void count_sharers(struct comm *comm, const struct found *mine, struct place *place)
{
    struct found *all = comm_gather(comm, mine, sizeof(*mine));
    for (uint32_t i = 0; i < comm->size; i++) {
        place->sharers += same_device(&all[i], mine);
        for (uint32_t j = 0; j < i; j++) {
            place->shared |= same_device(&all[i], &all[j]);
        }
    }
    free(all);
}

enum status place_choose(const struct config *config, struct comm *comm, struct place *place_p, struct error *error)
{
    struct found mine = {0};
    struct place place = {.ops = place_kind(config, &mine.instead)};
    mine.cpu = place.ops == device_find("cpu");
    agree_on_kind(comm, &mine, &place);
    uint32_t count = place.ops->count(error);
    if (count > 0) {
        place.index = comm->local_rank % count;
        place.ops->locate(place.index, &place.location);
    }
    gethostname(mine.host, sizeof(mine.host) - 1);
    mine.location = place.location;
    count_sharers(comm, &mine, &place);
    *place_p = place;
    return count > 0 ? STATUS_OK : STATUS_ERROR;
}
