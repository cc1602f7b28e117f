// SPDX-License-Identifier: Apache-2.0
//
// The program's commands. Each answers the exit code: the values of enum status.
#ifndef HEADROOM_WORKER_COMMANDS_COMMANDS_H
#define HEADROOM_WORKER_COMMANDS_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/error.h"
#include "worker/config/schema.h"

struct command_line {
    char *const *argv;       // the whole command, for the record
    const char *config_path; // simulate: of the scenario
    char *const *overrides;  // section.key=value
    size_t override_count;
    const char *ranks;      // plan: how many to plan for, or which; NULL: as many as the config describes
    const char *device;     // plan: what each has; NULL: what ranks or the config say
    bool json;              // plan: printed as one JSON object
    const char *costs_path; // plan: what operations cost, as a run has written it, or the run; NULL: not known
    uint64_t profile_steps; // train: how many to time, and then end; 0: none, the whole run
};

// Trains. Every rank of the job calls it.
int command_train(const struct command_line *command);
// Prints the loss of a checkpoint's weights, command->config_path, over the validation set. Every rank of the job calls
// it.
int command_eval(const struct command_line *command);
// Prints what the configuration would take, and how the first step would be cut. One process, no device.
int command_plan(const struct command_line *command);
// Prints what several policies would make of a made-up job. One process, no device.
int command_simulate(const struct command_line *command);
// Prints the resolved configuration.
int command_print_config(const struct command_line *command);
// memory replay TRACE.csv: prints what a trace takes under several allocators. One process, no device. `arguments`,
// here and below, are those behind the command's name, and then NULL.
int command_memory_replay(char *const *arguments);
// memory snapshot PROCESS ...: asks ranks for a snapshot of their memory. One process, no device.
int command_memory_snapshot(char *const *arguments);
// limit RUN_DIR [--rank N] --bytes SIZE: tells ranks of a run that is under way how much they may hold. One process, no
// device, on any machine that sees the folder.
int command_limit(char *const *arguments);
// doctor RUN_DIR [--json]: prints which of the usual causes of running out of memory a run has. As of grep the exit
// code is 0: none, 1: some, or its memory ran out, 2: it cannot say. One process, no device.
int command_doctor(char *const *arguments);
// top RUN_DIR|HOST[:PORT] [--once]: shows a run on the terminal while it goes on, from its folder or through its HTTP
// endpoint. One process, no device.
int command_top(char *const *arguments);
// report RUN_DIR [--output FILE.html]: writes a page about a run. One process, no device.
int command_report(char *const *arguments);
// export CHECKPOINT DIR|FILE.bin: writes a checkpoint's weights as Hugging Face's transformers, or llm.c, read them.
// One process, no device.
int command_export(char *const *arguments);
// import SOURCE CHECKPOINT: the other way round.
int command_import(char *const *arguments);
// data INPUT... --to PREFIX [...]: turns text into token shards. One process, no device.
int command_data(char *const *arguments);
// generate CHECKPOINT --prompt TEXT [...]: goes on with a text. One process.
int command_generate(char *const *arguments);
// The end of a command that prints: what it printed must have been written, and a failure's line goes to the standard
// error. Answers the exit code.
int command_finish(enum status status, struct error *error);
// What a command may be given.
struct command_argument {
    const char *name;  // "--option", or what an operand is called
    const char **text; // where the option's value goes, or the operand; NULL: the option has no value
    bool *given;       // of an option without a value: set where it is there
    size_t *count;     // of the last operand, where it may come again: how many came, with room in `text` for all
    bool (*fits)(const char *text); // whether it can be this operand; NULL: any text can
    bool needed;
};
// Reads the arguments of `command`. An operand is the first of `takes` that has room and that it fits, options stand
// anywhere. STATUS_INVALID with a line where one is unknown, too much, given twice or missing.
enum status command_parse(const char *command, const struct command_argument *takes, size_t count,
                          char *const *arguments, struct error *error);
// Reads an option's value as one of the key, which says what is allowed. STATUS_INVALID with a line where it is none.
enum status command_scan(const char *option, const struct config_key *key, const char *text, void *value,
                         struct error *error);
// Refuses a command line. Every rank of the job calls it; one prints.
int command_misused(const struct error *error);

#endif
