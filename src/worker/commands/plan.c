// SPDX-License-Identifier: Apache-2.0
//
// headroom plan: what the configuration takes, before anything runs; and headroom --print-config.
#include <stdio.h>
#include <stdlib.h>

#include "worker/commands/commands.h"
#include "worker/commands/plan_print.h"

static enum status print_plan(const struct command_line *command, const struct fleet *fleet, struct config *config,
                              struct error *error)
{
    struct planning planning;
    enum status status = planning_create(config, fleet, command->costs_path, &planning, error);
    if (status == STATUS_OK && command->json) {
        status = plan_print_json(&planning, error);
    } else if (status == STATUS_OK) {
        plan_print_text(&planning);
    }
    if (status == STATUS_OK && planning.misfit.status != STATUS_OK) {
        *error = planning.misfit;
        status = planning.misfit.status;
    }
    planning_destroy(&planning);
    return status;
}

static enum status plan(const struct command_line *command, struct error *error)
{
    struct fleet fleet;
    struct config config;
    enum status status = fleet_read(command->ranks, command->device, &fleet, error);
    if (status == STATUS_OK) {
        status = config_read(&config, command->config_path, command->overrides, command->override_count, error);
    }
    if (status == STATUS_OK) {
        status = print_plan(command, &fleet, &config, error);
        config_finish(&config);
    }
    return status;
}

static enum status print_config(const struct command_line *command, struct error *error)
{
    struct config config;
    enum status status = config_read(&config, command->config_path, command->overrides, command->override_count, error);
    if (status != STATUS_OK) {
        return status;
    }
    char *text = config_print(&config);
    config_finish(&config);
    if (text == NULL) {
        return error_out_of_host_memory(error);
    }
    fputs(text, stdout);
    free(text);
    return STATUS_OK;
}

int command_plan(const struct command_line *command)
{
    struct error error = {0};
    return command_finish(plan(command, &error), &error);
}

int command_print_config(const struct command_line *command)
{
    struct error error = {0};
    return command_finish(print_config(command, &error), &error);
}
