// SPDX-License-Identifier: Apache-2.0
#include "worker/commands/fleet.h"

#include <ctype.h>
#include <string.h>

#include "worker/config/refuse.h"
#include "worker/config/value.h"

#define MIB           (UINT64_C(1) << 20)
#define GIVEN_MAX     4096
#define RANKS_MAX     "4294967295"
#define A_SIZE        "a size such as 24GiB"
#define KNOWN_DEVICES (sizeof(known) / sizeof(known[0]))

static const struct config_key count_key = {.type = CONFIG_TYPE_COUNT, .min = "1", .max = RANKS_MAX};
static const struct config_key size_key = {.type = CONFIG_TYPE_BYTES, .min = "4KiB", .max = CONFIG_BYTES_MAX};

static const struct {
    const char *name;
    uint64_t total_mib; // as CUDA says
} known[] = {
    {"b200-180gb", 182630},  // 178.35 GiB
    {"h200-141gb", 143073},  // 139.72 GiB
    {"h100-80gb", 80998},    // 79.10 GiB
    {"a100-80gb", 81039},    // 79.14 GiB
    {"a100-40gb", 40325},    // 39.38 GiB
    {"l40s-48gb", 45404},    // 44.34 GiB
    {"a6000-48gb", 48537},   // 47.40 GiB
    {"a10g-24gb", 22579},    // 22.05 GiB
    {"l4-24gb", 22558},      // 22.03 GiB
    {"rtx5090-32gb", 32112}, // 31.36 GiB
    {"rtx4090-24gb", 24084}, // 23.52 GiB
};

// `given`, here and below: the option with all of its value.
static enum status scan(const char *given, const struct config_key *key, const char *text, uint64_t *value,
                        struct error *error)
{
    const struct config_place place = {.override = given};
    const char *complaint = config_value_scan(key, text, false, value);
    return complaint == NULL ? STATUS_OK : config_refuse_value(error, &place, key, text, complaint);
}

static enum status refuse_device(const char *given, const char *device, struct error *error)
{
    const char *allowed[KNOWN_DEVICES + 2] = {NULL};
    for (size_t i = 0; i < KNOWN_DEVICES; i++) {
        allowed[i] = known[i].name;
    }
    allowed[KNOWN_DEVICES] = A_SIZE;
    return config_refuse_name(error, &(struct config_place){.override = given}, NULL, "device", device, allowed);
}

static enum status scan_device(const char *given, const char *device, struct fleet *fleet, struct fleet_group *group,
                               struct error *error)
{
    snprintf(group->device, sizeof(group->device), "%s", device);
    if (isdigit((unsigned char)*device)) {
        return scan(given, &size_key, device, &group->capacity_bytes, error);
    }
    for (size_t i = 0; i < KNOWN_DEVICES; i++) {
        if (strcmp(device, known[i].name) == 0) {
            group->capacity_bytes = known[i].total_mib * MIB - FLEET_TAKEN_BYTES;
            fleet->has_gpus = true;
            return STATUS_OK;
        }
    }
    return refuse_device(given, device, error);
}

// "NxDEVICE", which is cut in two.
static enum status scan_group(const char *given, char *text, struct fleet *fleet, struct error *error)
{
    const struct config_place place = {.override = given};
    char *device = strchr(text, 'x');
    if (device == NULL || device == text || device[1] == '\0') {
        return config_refuse(error, &place, NULL, "'%.80s' is not of the form NxDEVICE, as in 8xh100-80gb", text);
    }
    if (fleet->count == FLEET_GROUPS_MAX) {
        return config_refuse(error, &place, NULL, "at most %d groups of ranks are allowed", FLEET_GROUPS_MAX);
    }
    *device++ = '\0';
    struct fleet_group *group = &fleet->groups[fleet->count++];
    enum status status = scan(given, &count_key, text, &group->ranks, error);
    fleet->ranks += group->ranks;
    return status == STATUS_OK ? scan_device(given, device, fleet, group, error) : status;
}

static enum status scan_groups(const char *given, const char *ranks, struct fleet *fleet, struct error *error)
{
    char text[GIVEN_MAX], *rest = text;
    enum status status = STATUS_OK;
    snprintf(text, sizeof(text), "%s", ranks);
    while (status == STATUS_OK && rest != NULL) {
        status = scan_group(given, strsep(&rest, ","), fleet, error);
    }
    return status;
}

static enum status read_ranks(const char *ranks, bool names_devices, struct fleet *fleet, struct error *error)
{
    char given[GIVEN_MAX];
    if (snprintf(given, sizeof(given), "--ranks %s", ranks) >= GIVEN_MAX) {
        return error_set(error, STATUS_INVALID, "what --ranks is given is longer than %d characters", GIVEN_MAX);
    }
    return names_devices ? scan_groups(given, ranks, fleet, error)
                         : scan(given, &count_key, ranks, &fleet->ranks, error);
}

static enum status read_device(const char *device, struct fleet *fleet, struct error *error)
{
    char given[GIVEN_MAX];
    snprintf(given, sizeof(given), "--device %s", device);
    fleet->count = 1;
    return scan_device(given, device, fleet, &fleet->groups[0], error);
}

enum status fleet_read(const char *ranks, const char *device, struct fleet *fleet, struct error *error)
{
    *fleet = (struct fleet){0};
    bool names_devices = ranks != NULL && strchr(ranks, 'x') != NULL;
    if (names_devices && device != NULL) {
        return error_set(error, STATUS_INVALID, "--ranks %.80s names the devices; leave out --device", ranks);
    }
    enum status status = ranks == NULL ? STATUS_OK : read_ranks(ranks, names_devices, fleet, error);
    return status == STATUS_OK && device != NULL ? read_device(device, fleet, error) : status;
}

void fleet_print_devices(FILE *to)
{
    for (size_t i = 0; i < KNOWN_DEVICES; i++) {
        fprintf(to, "%s%s", i > 0 ? ", " : "", known[i].name);
    }
}

const struct fleet_group *fleet_find(const struct fleet *fleet, uint64_t rank)
{
    size_t i = 0;
    for (uint64_t end = fleet->groups[0].ranks; i + 1 < fleet->count && rank >= end; end += fleet->groups[i].ranks) {
        i++;
    }
    return &fleet->groups[i];
}
