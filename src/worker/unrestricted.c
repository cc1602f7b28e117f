// SPDX-License-Identifier: Apache-2.0
#include "worker/unrestricted.h"

#include "mem/uint64.h"

enum status unrestricted_init(struct unrestricted *unrestricted, const struct config *config, const struct model *model,
                              const struct optimizer_state_size *state, struct price_book *prices, struct error *error)
{
    struct config all = *config;
    all.train.recompute = config_all_levers(config);
    *unrestricted = (struct unrestricted){
        .exists = all.train.recompute != config->train.recompute,
        .micro_batch = config->train.micro_batch_size,
    };
    if (!unrestricted->exists) {
        return STATUS_OK;
    }
    enum status status = offers_init(&unrestricted->offers, &all, model, state, prices, error);
    unrestricted->exists = status == STATUS_OK;
    return status == STATUS_INVALID ? STATUS_OK : status; // host memory holds nothing that could be offloaded
}

void unrestricted_begin_step(struct unrestricted *unrestricted)
{
    if (unrestricted->exists) {
        offers_begin_step(&unrestricted->offers);
    }
}

void unrestricted_observe(struct unrestricted *unrestricted, uint64_t levers, uint64_t samples, uint64_t time_ns)
{
    if (unrestricted->exists) {
        offers_observe(&unrestricted->offers, levers, samples, time_ns);
    }
}

void unrestricted_compare(struct unrestricted *unrestricted, const struct costs *costs)
{
    if (unrestricted->exists) {
        offers_compare(&unrestricted->offers, costs);
    }
}

// What the rank would offer, the optimizer's state staying where it is.
static struct sched_report all_offers(const struct unrestricted *unrestricted, bool away, uint64_t length,
                                      uint64_t bytes)
{
    struct offers offers = unrestricted->offers;
    struct sched_report all = {0};
    offers.state.away = away;
    offers.state.stays = offers.state.refused = true;
    offers_fill(&offers, length, bytes, &all);
    uint64_t most =
        unrestricted->micro_batch == 0 ? UINT32_MAX : uint64_max(1, unrestricted->micro_batch / offers.grain);
    for (size_t k = 0; k < OFFERS_SETS; k++) {
        all.offers[k].micro_batch_max = (uint32_t)uint64_min(all.offers[k].micro_batch_max, most);
    }
    return all;
}

double unrestricted_gain(const struct unrestricted *unrestricted, const struct sched_report *report,
                         const struct sched_share *share, bool away, uint64_t length, uint64_t bytes)
{
    if (!unrestricted->exists) {
        return 0;
    }
    struct sched_report all = all_offers(unrestricted, away, length, bytes);
    struct sched_share other = {.samples = uint64_max(1, share->samples)}, own = other;
    if (!sched_share_cut(report, &own)) {
        return sched_share_cut(&all, &other) ? 1 : 0;
    }
    for (size_t k = 0; k <= share->levers; k++) {
        all.offers[k] = (struct sched_offer){0};
    }
    if (share->samples == 0 || !report->measured || !all.measured || !sched_share_cut(&all, &other)) {
        return 0;
    }
    uint64_t now = sched_share_ns(report, share), then = sched_share_ns(&all, &other);
    return then >= now ? 0 : 1 - (double)then / (double)now;
}
