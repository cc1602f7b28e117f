// SPDX-License-Identifier: Apache-2.0
//
// headroom simulate: the coordinator in a made-up job, beside what others do and an oracle that knows the future.
#include <inttypes.h>
#include <stdio.h>

#include "sched/simulation.h"
#include "worker/commands/commands.h"
#include "worker/commands/scenario.h"

static double samples_per_second(const struct sched_outcome *outcome)
{
    return outcome->time_ns > 0 ? (double)outcome->samples / ((double)outcome->time_ns / 1e9) : 0;
}

static void print_row(const char *name, const struct sched_outcome *outcome, const struct sched_outcome *oracle)
{
    double best = samples_per_second(oracle);
    printf("%-32s %10" PRIu64 " %12" PRIu64 " %19" PRIu64 " %12" PRIu64 " %12.1f", name, outcome->steps_lost,
           outcome->steps_recut, outcome->samples_handed_back, outcome->plan_changes, samples_per_second(outcome));
    if (best > 0) {
        printf(" %10.2f %%\n", 100 * samples_per_second(outcome) / best);
    } else {
        printf(" %12s\n", "-");
    }
}

static enum status simulate(const struct command_line *command, struct error *error)
{
    struct sched_scenario scenario = {0};
    struct sched_outcome oracle, outcome;
    enum status status =
        scenario_read(&scenario, command->config_path, command->overrides, command->override_count, error);
    if (status != STATUS_OK) {
        return status;
    }
    printf("%s: %" PRIu64 " ranks, %" PRIu64 " steps of %" PRIu64 " samples, seed %" PRIu64 "\n\n",
           command->config_path, scenario.ranks, scenario.steps, scenario.global_batch, scenario.seed);
    printf("%-32s %10s %12s %19s %12s %12s %12s\n", "policy", "steps lost", "steps re-cut", "samples handed back",
           "plan changes", "samples/s", "of oracle");
    bool simulated = sched_simulate_oracle(&scenario, &oracle);
    if (simulated) {
        print_row("oracle", &oracle, &oracle);
    }
    for (size_t i = 0; simulated && sched_policies[i] != NULL; i++) {
        simulated = sched_simulate(&scenario, sched_policies[i], NULL, &outcome);
        if (simulated) {
            print_row(sched_policies[i]->name, &outcome, &oracle);
        }
    }
    return simulated ? STATUS_OK : error_out_of_host_memory(error);
}

int command_simulate(const struct command_line *command)
{
    struct error error = {0};
    return command_finish(simulate(command, &error), &error);
}
