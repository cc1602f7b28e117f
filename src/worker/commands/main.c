// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/comm/launcher.h"
#include "worker/commands/commands.h"
#include "worker/commands/fleet.h"
#include "worker/commands/scenario.h"
#include "worker/config/config.h"
#include "worker/run/run_folder.h"
#include "worker/signals.h"

#define OPERAND_MAX  32
#define USAGE_COLUMN 16
#define HELP_COLUMN  14 // where it says what a command does

struct named_command {
    const char *name;  // one word, or two
    const char *usage; // what stands behind it; its lines, and those of `help`, are as they are printed
    const char *help;
    void (*more_help)(void); // what else --help prints of it alone; NULL: nothing
    bool alone;              // in a single process, which no launcher has started as one of several
    // Those that take a configuration.
    int (*run)(const struct command_line *command);
    // The others; the arguments are those behind the name, and then NULL.
    int (*run_other)(char *const *arguments);
};

static void print_devices(void)
{
    fputs("\ndevices: ", stdout);
    fleet_print_devices(stdout);
    putchar('\n');
}

static void print_scenario_keys(void)
{
    fputs("\nscenario keys:\n", stdout);
    config_print_help(&scenario_schema, stdout);
}

static const struct named_command commands[] = {
    {.name = "train",
     .usage = "CONFIG.yaml [--profile N] [section.key=value ...]",
     .help = "trains as the configuration says; start one process per device with mpirun or srun.\n"
             "With --profile N only a few steps, of which the last N are timed operation by operation",
     .run = command_train},
    {.name = "plan",
     .usage = "CONFIG.yaml [--ranks N|NxDEVICE,...] [--device NAME|SIZE] [--costs RUN_DIR|FILE.json]\n"
              "[--json] [section.key=value ...]",
     .help = "prints, without running, the memory that each micro-batch takes and what each rank would get;\n"
             "its last line and exit code (0 or 3) say whether it fits. --device: what every rank has, a\n"
             "size or a GPU such as h100-80gb; --ranks 8xh100-80gb,8xa100-40gb: of several kinds;\n"
             "--costs, of an earlier run: also how long it takes; --json: as one JSON object.\n"
             "plan --help lists the GPUs that it knows",
     .more_help = print_devices,
     .alone = true,
     .run = command_plan},
    {.name = "simulate",
     .usage = "SCENARIO.yaml [section.key=value ...]",
     .help = "prints how the coordinator does in a made-up job, beside other policies and an oracle;\n"
             "simulate --help lists what a scenario may say",
     .more_help = print_scenario_keys,
     .alone = true,
     .run = command_simulate},
    {.name = "memory replay",
     .usage = "TRACE.csv",
     .help = "prints what a trace of allocations takes under a layout, the pool, and PyTorch's rules",
     .alone = true,
     .run_other = command_memory_replay},
    {.name = "memory snapshot",
     .usage = "PROCESS ...",
     .help = "asks running ranks, by their process numbers, for a snapshot that PyTorch's viewer opens",
     .alone = true,
     .run_other = command_memory_snapshot},
    {.name = "limit",
     .usage = "RUN_DIR [--rank N] --bytes SIZE|none",
     .help = "tells a rank of a run that is under way, or all of them, to hold no more than SIZE (512, 64KiB,\n"
             "1.5GiB, 20GB) of their devices; none: what the devices leave again",
     .alone = true,
     .run_other = command_limit},
    {.name = "doctor",
     .usage = "RUN_DIR [--json]",
     .help = "prints which of six usual causes of running out of memory a run has, where, and what to change;\n"
             "exit code 0: none is found; 1: some, or its memory ran out; 2: there is no run to read",
     .alone = true,
     .run_other = command_doctor},
    {.name = "top",
     .usage = "RUN_DIR|HOST[:PORT] [--once]",
     .help = "shows a run on the terminal while it goes on: its ranks, their memory, what happens;\n"
             "q ends it, arrows and page keys move through the ranks; --once prints all of them once.\n"
             "HOST: of another machine, through the run's metrics.http_port (9464)",
     .alone = true,
     .run_other = command_top},
    {.name = "report",
     .usage = "RUN_DIR [--output FILE.html]",
     .help = "writes one page about a run, also one that is under way or has failed: RUN_DIR/report.html",
     .alone = true,
     .run_other = command_report},
    {.name = "eval",
     .usage = "CHECKPOINT [section.key=value ...]",
     .help = "prints the loss of a checkpoint's weights, or of a run's newest, over its validation set; starts\n"
             "as train does",
     .run = command_eval},
    {.name = "generate",
     .usage = "CHECKPOINT --prompt TEXT [--tokens N] [--temperature T] [--top-k K]\n"
              "[--seed N] [--vocabulary encoder.json --merges vocab.bpe]\n"
              "[--device auto|cpu|cuda] [--memory SIZE]",
     .help = "goes on with a text as a checkpoint's model would: at most N tokens (100), drawn from the K most\n"
             "likely (50; 0: all) at a temperature (1; 0: always the most likely)",
     .alone = true,
     .run_other = command_generate},
    {.name = "export",
     .usage = "CHECKPOINT DIR|FILE.bin",
     .help = "writes a checkpoint's weights, or those of a run's newest: as a folder that Hugging Face's\n"
             "transformers load, or as a model's file of llm.c",
     .alone = true,
     .run_other = command_export},
    {.name = "import",
     .usage = "DIR|FILE.bin CHECKPOINT",
     .help = "writes a checkpoint of such a folder or file, for checkpoint.weights to begin with",
     .alone = true,
     .run_other = command_import},
    {.name = "data",
     .usage = "INPUT ... --to PREFIX [--tokens bytes|gpt2]\n"
              "[--vocabulary encoder.json --merges vocab.bpe] [--shard-tokens N] [--threads N]",
     .help = "turns text, or the texts of JSON lines (*.jsonl), into token shards PREFIX_000000.bin, ...:\n"
             "as bytes, or by GPT-2's byte-pair encoding",
     .alone = true,
     .run_other = command_data},
    {.name = "--print-config",
     .usage = "CONFIG.yaml [section.key=value ...]",
     .help = "prints the whole configuration, defaults included",
     .run = command_print_config},
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static int misused(const char *why, const char *what)
{
    struct error error;
    error_set(&error, STATUS_INVALID, "%s%s; see headroom --help", why, what);
    return command_misused(&error);
}

// Lines after the first begin at the column.
static void print_lines(const char *lines, int column, FILE *to)
{
    for (; *lines != '\0'; lines++) {
        fputc(*lines, to);
        if (*lines == '\n') {
            fprintf(to, "%*s", column, "");
        }
    }
    fputc('\n', to);
}

static bool begins_with(const struct named_command *named, const char *word)
{
    size_t length = strlen(word);
    return strncmp(named->name, word, length) == 0 && (named->name[length] == '\0' || named->name[length] == ' ');
}

// Of the commands that begin with the word; NULL: of all. Answers how many there are.
static size_t print_usage(const char *word, FILE *to)
{
    size_t printed = 0;
    for (size_t i = 0; i < COMMANDS; i++) {
        if (word == NULL || begins_with(&commands[i], word)) {
            fprintf(to, "%s headroom %s ", printed++ == 0 ? "usage:" : "      ", commands[i].name);
            print_lines(commands[i].usage, USAGE_COLUMN, to);
        }
    }
    if (word == NULL) {
        fputs("       headroom --help | COMMAND --help | --version\n", to);
    }
    return printed;
}

static void print_what_they_do(const char *word)
{
    putchar('\n');
    for (size_t i = 0; i < COMMANDS; i++) {
        if (word == NULL || begins_with(&commands[i], word)) {
            printf("%-*s ", HELP_COLUMN - 1, commands[i].name);
            print_lines(commands[i].help, HELP_COLUMN, stdout);
        }
        if (word != NULL && begins_with(&commands[i], word) && commands[i].more_help != NULL) {
            commands[i].more_help();
        }
    }
}

static int print_help(void)
{
    struct error error = {0};
    print_usage(NULL, stdout);
    print_what_they_do(NULL);
    fputs("\n"
          "exit codes: 0 done, 1 error, 2 usage, configuration or data, 3 out of memory, 4 diverged,\n"
          "            75 told to stop, and did at a checkpoint; those of doctor are its own\n"
          "\n"
          "configuration keys:\n",
          stdout);
    config_print_help(&config_schema, stdout);
    return command_finish(STATUS_OK, &error);
}

static int print_version(void)
{
    struct error error = {0};
    run_folder_versions(stdout);
    return command_finish(STATUS_OK, &error);
}

static int print_command_help(const char *word)
{
    struct error error = {0};
    if (print_usage(word, stdout) == 0) {
        return misused("unknown command ", word);
    }
    print_what_they_do(word);
    return command_finish(STATUS_OK, &error);
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

// Of the options a command takes those that its usage names. `overrides` has room for all arguments.
static enum status parse(char *const *arguments, const struct named_command *named, const char **overrides,
                         struct command_line *command, struct error *error)
{
    const struct config_key steps = {.type = CONFIG_TYPE_COUNT, .min = "1", .max = "4294967295"};
    const char *profile = NULL;
    char operand[OPERAND_MAX];
    snprintf(operand, sizeof(operand), "%.*s", (int)strcspn(named->usage, " "), named->usage);
    const struct command_argument all[] = {
        {"section.key=value", .text = overrides, .count = &command->override_count, .fits = is_override},
        {operand, .text = &command->config_path, .needed = true},
        {"--profile", .text = &profile},
        {"--ranks", .text = &command->ranks},
        {"--device", .text = &command->device},
        {"--costs", .text = &command->costs_path},
        {"--json", .given = &command->json},
    };
    struct command_argument takes[sizeof(all) / sizeof(all[0])];
    size_t count = 0;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (all[i].name[0] != '-' || strstr(named->usage, all[i].name) != NULL) {
            takes[count++] = all[i];
        }
    }
    enum status status = command_parse(named->name, takes, count, arguments, error);
    return status == STATUS_OK && profile != NULL
               ? command_scan("--profile", &steps, profile, &command->profile_steps, error)
               : status;
}

static int run_configured(const struct named_command *named, int argc, char **argv)
{
    struct command_line command = {.argv = argv};
    struct error error = {0};
    const char **overrides = calloc((size_t)argc, sizeof(*overrides));
    command.overrides = (char *const *)overrides;
    enum status status =
        overrides == NULL ? error_out_of_host_memory(&error) : parse(argv + 2, named, overrides, &command, &error);
    int code = status == STATUS_OK ? named->run(&command) : command_misused(&error);
    free(overrides);
    return code;
}

static int run(const struct named_command *named, int argc, char **argv)
{
    if (named->alone && launcher_started_several()) {
        return misused(named->name, " runs without a launcher");
    }
    char *const *arguments = argv + (strchr(named->name, ' ') == NULL ? 2 : 3);
    return named->run != NULL ? run_configured(named, argc, argv) : named->run_other(arguments);
}

// That of the first words behind the program's name; NULL: there is none.
static const struct named_command *find_command(char *const *arguments)
{
    for (size_t i = 0; i < COMMANDS; i++) {
        const char *second = strchr(commands[i].name, ' ');
        bool found = begins_with(&commands[i], arguments[0]);
        if (found && (second == NULL || (arguments[1] != NULL && strcmp(arguments[1], second + 1) == 0))) {
            return &commands[i];
        }
    }
    return NULL;
}

// One that is unknown, or the first word of several.
static int refuse_command(const char *word)
{
    char needs[64] = "";
    for (size_t i = 0; i < COMMANDS; i++) {
        if (begins_with(&commands[i], word)) {
            size_t length = strlen(needs);
            snprintf(needs + length, sizeof(needs) - length, "%s%s", length == 0 ? " needs" : " or",
                     strchr(commands[i].name, ' '));
        }
    }
    return needs[0] == '\0' ? misused("unknown command ", word) : misused(word, needs);
}

// Wherever it stands, so that it can be added to a command line that is refused.
static bool asks_for_help(char *const *arguments)
{
    while (*arguments != NULL && strcmp(*arguments, "--help") != 0) {
        arguments++;
    }
    return *arguments != NULL;
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
        print_usage(NULL, stderr);
        return STATUS_INVALID;
    }
    if (strcmp(argv[1], "--help") == 0) {
        return print_help();
    }
    if (strcmp(argv[1], "--version") == 0) {
        return print_version();
    }
    if (asks_for_help(argv + 2)) {
        return print_command_help(argv[1]);
    }
    const struct named_command *named = find_command(argv + 1);
    return named == NULL ? refuse_command(argv[1]) : run(named, argc, argv);
}
