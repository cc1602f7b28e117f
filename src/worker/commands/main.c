// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/commands/commands.h"
#include "worker/config/config.h"
#include "worker/run/run_folder.h"
#include "worker/signals.h"

static const char usage[] =
    "usage: headroom train CONFIG.yaml [--profile N] [section.key=value ...]\n"
    "       headroom plan CONFIG.yaml [--ranks N|NxDEVICE,...] [--device NAME|SIZE] [--costs FILE.json] [--json]\n"
    "                [section.key=value ...]\n"
    "       headroom simulate SCENARIO.yaml [section.key=value ...]\n"
    "       headroom memory replay TRACE.csv\n"
    "       headroom memory snapshot PROCESS ...\n"
    "       headroom limit RUN_DIR [--rank N] --bytes SIZE|none\n"
    "       headroom doctor RUN_DIR [--json]\n"
    "       headroom top RUN_DIR [--once]\n"
    "       headroom report RUN_DIR [--output FILE.html]\n"
    "       headroom eval CHECKPOINT [section.key=value ...]\n"
    "       headroom generate CHECKPOINT --prompt TEXT [--tokens N] [--temperature T] [--top-k K]\n"
    "                [--seed N] [--vocabulary encoder.json --merges vocab.bpe]\n"
    "                [--device auto|cpu|cuda] [--memory SIZE]\n"
    "       headroom export CHECKPOINT DIR|FILE.bin\n"
    "       headroom import DIR|FILE.bin CHECKPOINT\n"
    "       headroom data INPUT ... --to PREFIX [--tokens bytes|gpt2]\n"
    "                [--vocabulary encoder.json --merges vocab.bpe] [--shard-tokens N] "
    "[--threads N]\n"
    "       headroom --print-config CONFIG.yaml [section.key=value ...]\n"
    "       headroom --help | simulate --help | --version\n";

#define OPTIONS_MAX 4
#define A_NUMBER    "a number from 1 to 4294967295"

enum option_type { OPTION_NUMBER, OPTION_TEXT, OPTION_FLAG };

struct option {
    const char *name; // NULL: there is none
    enum option_type type;
    size_t place;      // of its value in a struct command_line
    const char *needs; // what the value is; NULL: it has none
};

struct named_command {
    const char *name;
    struct option options[OPTIONS_MAX];
    int (*run)(const struct command_line *command);
};

static const struct named_command commands[] = {
    {"eval", {{0}}, command_eval},
    {"train", {{"--profile", OPTION_NUMBER, offsetof(struct command_line, profile_steps), A_NUMBER}}, command_train},
    {"plan",
     {{"--ranks", OPTION_TEXT, offsetof(struct command_line, ranks), "N or NxDEVICE,..."},
      {"--device", OPTION_TEXT, offsetof(struct command_line, device), "a name or a size"},
      {"--costs", OPTION_TEXT, offsetof(struct command_line, costs_path), "a file"},
      {"--json", OPTION_FLAG, offsetof(struct command_line, json), NULL}},
     command_plan},
    {"simulate", {{0}}, command_simulate},
    {"--print-config", {{0}}, command_print_config},
};

// Those that take no configuration.
static const struct {
    const char *name;
    int (*run)(char *const *arguments); // those behind the name, and then NULL
} others[] = {
    {"memory", command_memory}, {"limit", command_limit},       {"doctor", command_doctor},
    {"top", command_top},       {"generate", command_generate}, {"export", command_export},
    {"import", command_import}, {"data", command_data},         {"report", command_report},
};

static int misused(const char *why, const char *what)
{
    struct error error;
    error_set(&error, STATUS_INVALID, "%s%s; see headroom --help", why, what);
    return command_misused(&error);
}

static int print_help(void)
{
    fputs(usage, stdout);
    fputs(
        "\n"
        "train         trains as the configuration says; start one process per device with mpirun or srun.\n"
        "              With --profile N only a few steps, of which the last N are timed operation by operation\n"
        "plan          prints, without running, the memory that each micro-batch takes and what each rank would get;\n"
        "              its last line and exit code (0 or 3) say whether it fits. --device: what every rank has, a\n"
        "              size or a GPU such as h100-80gb; --ranks 8xh100-80gb,8xa100-40gb: of several kinds;\n"
        "              --costs, of an earlier run's folder: also how long it takes; --json: as one JSON object\n"
        "simulate      prints how the coordinator does in a made-up job, beside other policies and an oracle;\n"
        "              simulate --help lists what a scenario may say\n"
        "memory snapshot asks running ranks, by their process numbers, for a snapshot that PyTorch's viewer opens\n"
        "memory replay prints what a trace of allocations takes under a layout, the pool, and PyTorch's rules\n"
        "limit         tells a rank of a run that is under way, or all of them, to hold no more than SIZE (512, "
        "64KiB,\n"
        "              1.5GiB, 20GB) of their devices; none: what the devices leave again\n"
        "doctor        prints which of six usual causes of running out of memory a run has, where, and what to "
        "change;\n"
        "              exit code 1 where it has some\n"
        "top           shows a run on the terminal while it goes on: its ranks, their memory, what happens;\n"
        "              q ends it, arrows and page keys move through the ranks; --once prints one screen\n"
        "report        writes one page about a run, also one that is under way or has failed: RUN_DIR/report.html\n"
        "eval          prints the loss of a checkpoint's weights, or of a run's newest, over its validation set; "
        "starts\n"
        "              as train does\n"
        "generate      goes on with a text as a checkpoint's model would: at most N tokens (100), drawn from the K "
        "most\n"
        "              likely (50; 0: all) at a temperature (1; 0: always the most likely)\n"
        "export        writes a checkpoint's weights, or those of a run's newest: as a folder that Hugging Face's\n"
        "              transformers load, or as a model's file of llm.c\n"
        "import        writes a checkpoint of such a folder or file, for checkpoint.weights to begin with\n"
        "data          turns text, or the texts of JSON lines (*.jsonl), into token shards PREFIX_000000.bin, ...:\n"
        "              as bytes, or by GPT-2's byte-pair encoding\n"
        "--print-config prints the whole configuration, defaults included\n"
        "\n"
        "exit codes: 0 done, 1 error, 2 usage, configuration or data, 3 out of memory, 4 diverged,\n"
        "            75 told to stop, and did at a checkpoint\n"
        "\n"
        "configuration keys:\n",
        stdout);
    config_print_help(&config_schema, stdout);
    return STATUS_OK;
}

static bool parse_number(const char *text, uint64_t *number_p)
{
    char *end;
    if (text == NULL || *text < '1' || *text > '9') {
        return false;
    }
    unsigned long long number = strtoull(text, &end, 10);
    *number_p = number;
    return *end == '\0' && number <= UINT32_MAX;
}

// section.key=value
static bool is_override(const char *argument)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
    size_t section = strspn(argument, letters);
    if (section == 0 || argument[section] != '.') {
        return false;
    }
    const char *key = argument + section + 1;
    return key[strspn(key, letters)] == '=';
}

static const struct option *find_option(const struct named_command *named, const char *argument)
{
    for (size_t i = 0; i < OPTIONS_MAX; i++) {
        const struct option *option = &named->options[i];
        if (option->name != NULL && strcmp(argument, option->name) == 0) {
            return option;
        }
    }
    return NULL;
}

// The option at `*argument`, which goes on to its value where it has one.
static int parse_option(const struct option *option, char *const **argument, struct command_line *command)
{
    void *place = (char *)command + option->place;
    char needs[64];
    if (option->type == OPTION_FLAG) {
        *(bool *)place = true;
        return STATUS_OK;
    }
    const char *text = *++*argument;
    bool good = text != NULL;
    if (option->type == OPTION_NUMBER) {
        good = parse_number(text, place);
    } else {
        *(const char **)place = text;
    }
    snprintf(needs, sizeof(needs), " needs %s", option->needs);
    return good ? STATUS_OK : misused(option->name, needs);
}

// Reads CONFIG.yaml [--option VALUE] [section.key=value ...]. `overrides` has room for all arguments.
static int parse(char *const *arguments, const struct named_command *named, char **overrides,
                 struct command_line *command)
{
    command->overrides = overrides;
    for (; *arguments != NULL; arguments++) {
        char *argument = *arguments;
        const struct option *option = find_option(named, argument);
        if (option != NULL) {
            int status = parse_option(option, &arguments, command);
            if (status != STATUS_OK) {
                return status;
            }
        } else if (argument[0] == '-') {
            return misused("unknown option ", argument);
        } else if (is_override(argument)) {
            overrides[command->override_count++] = argument;
        } else if (command->config_path == NULL) {
            command->config_path = argument;
        } else {
            return misused("not of the form section.key=value: ", argument);
        }
    }
    return command->config_path == NULL ? misused("no configuration file given", "") : STATUS_OK;
}

static int run(const struct named_command *named, int argc, char **argv)
{
    struct command_line command = {.argv = argv};
    char **overrides = calloc((size_t)argc, sizeof(*overrides));
    if (overrides == NULL) {
        return misused("out of host memory", "");
    }
    int status = parse(argv + 2, named, overrides, &command);
    if (status == STATUS_OK) {
        status = named->run(&command);
    }
    free(overrides);
    return status;
}

// Files that the program opens must not take the place of a closed standard stream, and a limit on their size is an
// error to report, not a signal to die of.
static void prepare_process(void)
{
    int file;
    do {
        file = open("/dev/null", O_RDWR);
    } while (file >= 0 && file <= STDERR_FILENO);
    if (file >= 0) {
        close(file);
    }
    signal(SIGXFSZ, SIG_IGN);
    signals_block();
}

int main(int argc, char **argv)
{
    prepare_process();
    if (argc < 2) {
        fputs(usage, stderr);
        return STATUS_INVALID;
    }
    if (strcmp(argv[1], "--help") == 0) {
        return print_help();
    }
    if (strcmp(argv[1], "--version") == 0) {
        run_folder_versions(stdout);
        return STATUS_OK;
    }
    if (strcmp(argv[1], "simulate") == 0 && argc == 3 && strcmp(argv[2], "--help") == 0) {
        return command_simulate_help();
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        if (strcmp(argv[1], others[i].name) == 0) {
            return others[i].run(argv + 2);
        }
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            return run(&commands[i], argc, argv);
        }
    }
    return misused("unknown command ", argv[1]);
}
