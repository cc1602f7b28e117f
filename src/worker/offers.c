// SPDX-License-Identifier: Apache-2.0
#include "worker/offers.h"

#include <math.h>
#include <string.h>

// What was not measured is told in these: how long a sample takes without levers.
#define UNMEASURED_NS 1000

_Static_assert(MODEL_LEVERS_COUNT <= SCHED_LEVERS_MAX, "the coordinator knows every set of levers");

// A head in parts adds up the same terms in another order, so a reproducible run has it always.
static bool is_allowed(const struct config *config, enum model_levers levers)
{
    if (config->train.reproducible && levers < MODEL_LEVERS_HEAD) {
        return false;
    }
    switch (config->train.recompute) {
    case CONFIG_RECOMPUTE_AUTO:
        return true;
    case CONFIG_RECOMPUTE_NONE:
        return levers <= MODEL_LEVERS_HEAD;
    case CONFIG_RECOMPUTE_SELECTIVE:
        return levers == MODEL_LEVERS_SELECTIVE;
    case CONFIG_RECOMPUTE_FULL:
        return levers == MODEL_LEVERS_FULL;
    case CONFIG_RECOMPUTE_OFFLOAD:
        break;
    }
    return levers == MODEL_LEVERS_OFFLOAD;
}

struct model_shape offers_shape(uint64_t samples, uint64_t length, uint64_t levers)
{
    return (struct model_shape){.samples = samples, .length = length, .levers = (enum model_levers)levers};
}

enum status offers_init(struct offers *offers, const struct config *config, const struct model *model,
                        struct price_book *prices, struct error *error)
{
    uint64_t least_bytes = UINT64_MAX;
    double first = 0;
    *offers = (struct offers){.prices = prices, .model = model, .grain = 1, .most = config->train.global_batch_size};
    if (config->train.reproducible) {
        offers->grain = offers->most = config->train.grain_size;
    }
    for (enum model_levers levers = MODEL_LEVERS_NONE; levers < MODEL_LEVERS_COUNT; levers++) {
        struct model_shape one = offers_shape(1, model->target_elements, levers);
        uint64_t bytes = is_allowed(config, levers) ? price_block_bytes(prices, LIST_TRAIN, one) : UINT64_MAX;
        if (bytes >= least_bytes) {
            continue;
        }
        double work = price_work(prices, LIST_TRAIN, one);
        first = first == 0 ? work : first;
        offers->work[levers] = work / first;
        least_bytes = bytes;
    }
    struct model_shape least = offers_shape(offers->grain, model->target_elements, MODEL_LEVERS_OFFLOAD);
    enum status status = config_check_offload(config, price_host_bytes(prices, LIST_TRAIN, least), error);
    if (status != STATUS_OK) {
        return status;
    }
    return first == 0 ? error_set(error, STATUS_ERROR, "out of host memory") : STATUS_OK;
}

void offers_begin_step(struct offers *offers)
{
    sched_speed_begin_step(&offers->speed);
}

void offers_observe(struct offers *offers, uint64_t levers, uint64_t samples, uint64_t time_ns)
{
    if (!offers->warm) {
        offers->warm = true;
        return;
    }
    offers->levers = levers;
    sched_speed_observe(&offers->speed, samples, (uint64_t)llround((double)time_ns / offers->work[levers]));
}

// What was measured is kept as under the first set; the levers that were pulled last are to take as long as before.
void offers_compare(struct offers *offers, const struct costs *costs)
{
    double first_ns = 0, least = 1, before = offers->work[offers->levers];
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        struct model_shape one = offers_shape(offers->grain, offers->model->target_elements, k);
        const struct list *list = offers->work[k] > 0 ? price_list(offers->prices, LIST_TRAIN, one) : NULL;
        double list_ns = list == NULL ? 0 : costs_list_ns(costs, list);
        first_ns = first_ns == 0 ? list_ns : first_ns;
        if (list_ns > 0) {
            least = fmax(least, list_ns / first_ns);
            offers->work[k] = least;
        }
    }
    if (before > 0) {
        sched_speed_scale(&offers->speed, before / offers->work[offers->levers]);
    }
}

void offers_fill(const struct offers *offers, uint64_t length, uint64_t bytes, struct sched_report *report)
{
    uint64_t overhead_ns, sample_ns;
    sched_speed_get(&offers->speed, &overhead_ns, &sample_ns);
    report->measured = sample_ns > 0;
    report->noise = sched_speed_noise(&offers->speed);
    double grain_ns = (report->measured ? (double)sample_ns : UNMEASURED_NS) * (double)offers->grain;
    memset(report->offers, 0, sizeof(report->offers));
    for (size_t k = 0; k < SCHED_LEVERS_MAX; k++) {
        if (offers->work[k] > 0) {
            uint64_t fits =
                price_largest_fit(offers->prices, LIST_TRAIN, offers_shape(0, length, k), bytes, offers->most);
            report->offers[k] = (struct sched_offer){
                .overhead_ns = (uint64_t)llround(offers->work[k] * (double)overhead_ns),
                .sample_ns = (uint64_t)llround(offers->work[k] * grain_ns),
                .micro_batch_max = (uint32_t)(fits / offers->grain),
            };
        }
    }
}

uint64_t offers_least_bytes(const struct offers *offers)
{
    size_t k = SCHED_LEVERS_MAX - 1;
    while (k > 0 && offers->work[k] == 0) {
        k--;
    }
    return price_block_bytes(offers->prices, LIST_TRAIN,
                             offers_shape(offers->grain, offers->model->target_elements, k));
}
