// SPDX-License-Identifier: Apache-2.0
#include "worker/offers.h"

#include <math.h>
#include <string.h>

#include "mem/uint64.h"

// What was not measured is told in these: how long a sample takes without levers.
#define UNMEASURED_NS 1000

// What a device computes while a byte moves between it and the host: from 10, where that is memory, to 10,000.
#define FLOPS_OF_A_MOVED_BYTE 1000.0

#define UPDATES_AVERAGED 8

_Static_assert(OFFERS_SETS <= SCHED_LEVERS_MAX, "the coordinator knows every set of levers");

static const struct {
    const char *name;
    enum model_levers list;
    bool away;
} sets[OFFERS_SETS] = {
    [MODEL_LEVERS_NONE] = {"none", MODEL_LEVERS_NONE, false},
    [MODEL_LEVERS_HEAD] = {"head", MODEL_LEVERS_HEAD, false},
    [MODEL_LEVERS_SELECTIVE] = {"selective", MODEL_LEVERS_SELECTIVE, false},
    [MODEL_LEVERS_HALF] = {"half", MODEL_LEVERS_HALF, false},
    [MODEL_LEVERS_FULL] = {"full", MODEL_LEVERS_FULL, false},
    [MODEL_LEVERS_OFFLOAD] = {"offload", MODEL_LEVERS_OFFLOAD, false},
    [OFFERS_STATE] = {"state", MODEL_LEVERS_HEAD, true},
    [OFFERS_ALL] = {"all", MODEL_LEVERS_OFFLOAD, true},
};

const char *offers_levers_name(uint64_t levers)
{
    return sets[levers].name;
}

bool offers_away(uint64_t levers)
{
    return sets[levers].away;
}

// A head in parts adds up the same terms in another order, so a reproducible run has it always.
static bool is_allowed(const struct config *config, size_t levers)
{
    if (config->train.reproducible && levers < MODEL_LEVERS_HEAD) {
        return false;
    }
    switch (config->train.recompute) {
    case CONFIG_RECOMPUTE_AUTO:
        return true;
    case CONFIG_RECOMPUTE_NONE:
        return sets[levers].list <= MODEL_LEVERS_HEAD;
    case CONFIG_RECOMPUTE_SELECTIVE:
        return levers == MODEL_LEVERS_SELECTIVE;
    case CONFIG_RECOMPUTE_HALF:
        return levers == MODEL_LEVERS_HALF;
    case CONFIG_RECOMPUTE_FULL:
        return levers == MODEL_LEVERS_FULL;
    case CONFIG_RECOMPUTE_OFFLOAD:
        break;
    }
    return sets[levers].list == MODEL_LEVERS_OFFLOAD;
}

struct model_shape offers_shape(uint64_t samples, uint64_t length, uint64_t levers)
{
    return (struct model_shape){.samples = samples, .length = length, .levers = sets[levers].list};
}

// From this set on the optimizer's state is away: only those before it of which that holds, too, are compared with it.
static bool begins_anew(size_t levers)
{
    return levers == OFFERS_STATE;
}

uint64_t offers_host_beside_state(const struct offers *offers)
{
    return offers->host_bytes - uint64_min(offers->host_bytes, offers->state.bytes);
}

// The most that a list under this set may keep in host memory.
static uint64_t host_bytes_under(const struct offers *offers, size_t levers)
{
    return uint64_min(offers->lists_host_bytes,
                      sets[levers].away ? offers_host_beside_state(offers) : offers->host_bytes);
}

// Whether the config allows the set, and the device has such a thing as state that can be away.
static bool is_wanted(const struct offers *offers, const struct config *config, size_t levers)
{
    return is_allowed(config, levers) && (!sets[levers].away || offers->state.bytes > 0);
}

// Whether host memory is enough for micro-steps of one grain under the set.
static bool host_is_enough(const struct offers *offers, size_t levers)
{
    struct model_shape grain = offers_shape(offers->grain, offers->model->target_elements, levers);
    uint64_t taken = sets[levers].away ? offers->state.bytes : 0;
    return taken <= offers->host_bytes &&
           price_host_bytes(offers->prices, LIST_TRAIN, grain) <= host_bytes_under(offers, levers);
}

// Of one sample under each set: those that take less memory than those before them, the state being where it is.
static void find_work(struct offers *offers, const struct config *config)
{
    uint64_t least_bytes = UINT64_MAX;
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        struct model_shape one = offers_shape(1, offers->model->target_elements, k);
        uint64_t bytes = price_block_bytes(offers->prices, LIST_TRAIN, one);
        least_bytes = begins_anew(k) ? UINT64_MAX : least_bytes;
        if (!is_wanted(offers, config, k) || bytes >= least_bytes) {
            continue;
        }
        if (!host_is_enough(offers, k)) {
            offers->lacks_host = true;
            continue;
        }
        offers->work[k] = price_work(offers->prices, LIST_TRAIN, one);
        offers->state.may_leave |= sets[k].away;
        least_bytes = bytes;
    }
}

// False where the host's memory runs out.
static bool relate_work(struct offers *offers)
{
    size_t first = 0;
    while (first < OFFERS_SETS && offers->work[first] == 0) {
        first++;
    }
    if (first == OFFERS_SETS) {
        return false;
    }
    double work = offers->work[first];
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        offers->work[k] /= work;
    }
    offers->state.samples = 2 * (double)offers->state.bytes * FLOPS_OF_A_MOVED_BYTE / work; // there and back
    return true;
}

// Whether the optimizer's state may be in host memory, where that has room for it.
static bool may_be_away(const struct config *config, const struct optimizer_state_size *state)
{
    bool gains = state->device_bytes[true] < state->device_bytes[false];
    return gains && config->device.segments != CONFIG_PLAIN &&
           (is_allowed(config, OFFERS_STATE) || is_allowed(config, OFFERS_ALL));
}

enum status offers_init(struct offers *offers, const struct config *config, const struct model *model,
                        const struct optimizer_state_size *state, struct price_book *prices, struct error *error)
{
    *offers = (struct offers){.prices = prices,
                              .model = model,
                              .grain = 1,
                              .most = config->train.global_batch_size,
                              .host_bytes = config->train.offload_bytes,
                              .lists_host_bytes = UINT64_MAX};
    if (config->train.reproducible) {
        offers->grain = offers->most = config->train.grain_size;
    }
    if (may_be_away(config, state)) {
        offers->state.bytes = state->bytes;
    }
    struct model_shape least = offers_shape(offers->grain, model->target_elements, MODEL_LEVERS_OFFLOAD);
    enum status status = config_check_offload(config, price_host_bytes(prices, LIST_TRAIN, least), error);
    if (status != STATUS_OK) {
        return status;
    }
    find_work(offers, config);
    return relate_work(offers) ? STATUS_OK : error_out_of_host_memory(error);
}

void offers_ask_host_again(struct offers *offers)
{
    offers->state.refused = false;
    offers->lists_host_bytes = UINT64_MAX;
    offers->refused_steps = 0;
}

static bool host_refused(const struct offers *offers)
{
    return offers->state.refused || offers->lists_host_bytes < UINT64_MAX;
}

void offers_begin_step(struct offers *offers)
{
    sched_speed_begin_step(&offers->speed);
    offers->refused_steps = host_refused(offers) ? offers->refused_steps + 1 : 0;
    if (offers->refused_steps == OFFERS_REFUSED_STEPS) {
        offers_ask_host_again(offers);
    }
}

void offers_observe(struct offers *offers, uint64_t levers, uint64_t samples, uint64_t time_ns)
{
    if (!offers->warm) {
        offers->warm = true;
        return;
    }
    if (offers->work[levers] == 0) {
        return; // a way out that the rank does not offer
    }
    offers->levers = levers;
    sched_speed_observe(&offers->speed, samples, (uint64_t)llround((double)time_ns / offers->work[levers]));
}

void offers_observe_update(struct offers *offers, bool away, uint64_t time_ns)
{
    struct offers_update *update = &offers->state.update[away];
    double weight = update->count < UPDATES_AVERAGED ? 1 / fmax(1, (double)update->count) : 1.0 / UPDATES_AVERAGED;
    update->ns += weight * ((double)time_ns - update->ns);
    update->count += update->count < UPDATES_AVERAGED;
}

static bool is_measured(const struct offers_update *update)
{
    return update->count > 1;
}

// What was measured is kept as under the first set; the levers that were pulled last are to take as long as before.
void offers_compare(struct offers *offers, const struct costs *costs)
{
    double first_ns = 0, least = 1, before = offers->work[offers->levers];
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        struct model_shape one = offers_shape(offers->grain, offers->model->target_elements, k);
        const struct list *list = offers->work[k] > 0 ? price_list(offers->prices, LIST_TRAIN, one) : NULL;
        double list_ns = list == NULL ? 0 : costs_list_ns(costs, list);
        first_ns = first_ns == 0 ? list_ns : first_ns;
        least = begins_anew(k) ? 1 : least;
        if (list_ns > 0) {
            least = fmax(least, list_ns / first_ns);
            offers->work[k] = least;
        }
    }
    if (before > 0) {
        sched_speed_scale(&offers->speed, before / offers->work[offers->levers]);
    }
}

// How much longer a step takes where the optimizer's state is away.
static double away_ns(const struct offers *offers, bool measured, double sample_ns)
{
    const struct offers_update *away = &offers->state.update[true], *here = &offers->state.update[false];
    if (!measured || !is_measured(away)) {
        return offers->state.samples * sample_ns;
    }
    return is_measured(here) ? fmax(0, away->ns - here->ns) : away->ns;
}

static bool may_leave(const struct offers_state *state)
{
    return state->may_leave && !state->refused;
}

// What a block may take under the set, of which it may take `bytes` where the optimizer's state stays where it is.
static uint64_t bytes_under(const struct offers *offers, size_t levers, uint64_t bytes)
{
    const struct offers_state *state = &offers->state;
    if (sets[levers].away == state->away) {
        return bytes;
    }
    if (sets[levers].away) {
        return may_leave(state) ? bytes + uint64_min(state->gain_bytes, UINT64_MAX - bytes) : 0;
    }
    return state->stays ? 0 : bytes - uint64_min(bytes, state->gain_bytes);
}

void offers_fill(const struct offers *offers, uint64_t length, uint64_t bytes, struct sched_report *report)
{
    uint64_t overhead_ns, measured_ns;
    sched_speed_get(&offers->speed, &overhead_ns, &measured_ns);
    report->measured = measured_ns > 0;
    report->noise = sched_speed_noise(&offers->speed);
    double sample_ns = report->measured ? (double)measured_ns : UNMEASURED_NS;
    memset(report->offers, 0, sizeof(report->offers));
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        if (offers->work[k] > 0) {
            uint64_t fits = price_largest_fit(offers->prices, LIST_TRAIN, offers_shape(0, length, k),
                                              bytes_under(offers, k, bytes), host_bytes_under(offers, k), offers->most);
            report->offers[k] = (struct sched_offer){
                .overhead_ns = (uint64_t)llround(offers->work[k] * (double)overhead_ns),
                .sample_ns = (uint64_t)llround(offers->work[k] * sample_ns * (double)offers->grain),
                .micro_batch_max = (uint32_t)(fits / offers->grain),
                .step_ns = sets[k].away ? (uint64_t)llround(away_ns(offers, report->measured, sample_ns)) : 0,
            };
        }
    }
}

// The least headroom with which a block of so many bytes fits under the set.
static uint64_t headroom_for(const struct offers *offers, size_t levers, uint64_t bytes)
{
    const struct offers_state *state = &offers->state;
    if (sets[levers].away && !state->away) {
        return may_leave(state) ? bytes - uint64_min(bytes, state->gain_bytes) : UINT64_MAX;
    }
    return bytes + (state->away && !sets[levers].away ? state->gain_bytes : 0);
}

uint64_t offers_least_bytes(const struct offers *offers)
{
    uint64_t least = UINT64_MAX;
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        struct model_shape grain = offers_shape(offers->grain, offers->model->target_elements, k);
        if (offers->work[k] > 0) {
            uint64_t bytes = price_block_bytes(offers->prices, LIST_TRAIN, grain);
            least = uint64_min(least, headroom_for(offers, k, bytes));
        }
    }
    return least;
}
