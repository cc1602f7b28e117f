// SPDX-License-Identifier: Apache-2.0
//
// headroom report: one page about a run, also of one that is under way or has failed.
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mem/pool.h"
#include "mem/printable.h"
#include "mem/uint64.h"
#include "worker/commands/commands.h"
#include "worker/doctor/examine.h"
#include "worker/offers.h"
#include "worker/regular_file.h"
#include "worker/report/page.h"
#include "worker/report/step_memory.h"
#include "worker/run/run_folder.h"

#define TEXT_MAX     (64 * 1024) // of a file that is shown as it is
#define FINDINGS_MAX (DOCTOR_CAUSES + 1)
#define NOTE_MAX     (sizeof(((struct error *)0)->text) + 32)

struct request {
    const char *folder, *output; // output NULL: not given
};

static enum status check_output(const char *path, struct error *error)
{
    const char *ending = strrchr(path, '.');
    return ending != NULL && strcmp(ending, ".html") == 0
               ? regular_file_check_target("--output", path, error)
               : error_set(error, STATUS_INVALID, "--output %s: does not end in .html", path);
}

static enum status parse(char *const *arguments, struct request *request, struct error *error)
{
    const struct command_argument takes[] = {{"RUN_DIR", .text = &request->folder, .needed = true},
                                             {"--output", .text = &request->output}};
    enum status status = command_parse("report", takes, sizeof(takes) / sizeof(takes[0]), arguments, error);
    return status == STATUS_OK && request->output != NULL ? check_output(request->output, error) : status;
}

// The file's text, the last TEXT_MAX of it, where the newest process tells of itself; empty where it cannot be read:
// the page says less then.
static void read_text(const char *path, char text[TEXT_MAX])
{
    int descriptor;
    uint64_t bytes, found = 0;
    if (regular_file_open(path, &descriptor, &bytes, NULL) == STATUS_OK) {
        regular_file_read(descriptor, bytes - uint64_min(bytes, TEXT_MAX - 1), TEXT_MAX - 1, text, &found);
        close(descriptor);
    }
    text[found] = '\0';
}

static void remove_slashes(const char *folder, char path[RUN_FOLDER_MAX])
{
    snprintf(path, RUN_FOLDER_MAX, "%s", folder);
    for (size_t length = strlen(path); length > 1 && path[length - 1] == '/'; length--) {
        path[length - 1] = '\0';
    }
}

// Of the newest step; of a run without one, what a single sample takes.
static json_t *price_step(const char *configuration, const struct digest *digest, struct error *why)
{
    json_t *memory;
    struct step_memory_shape shape = {.micro_batch = 1, .ranks = digest->newest_ranks > 0 ? digest->newest_ranks : 1};
    if (digest->step_count > 0 && digest->largest.micro_batch > 0 && digest->largest_levers < OFFERS_SETS) {
        shape.micro_batch = digest->largest.micro_batch;
        shape.levers = digest->largest_levers;
    }
    return step_memory_price(configuration, &shape, &memory, why) == STATUS_OK ? memory : NULL;
}

// What the doctor says, as the page shows it.
struct findings {
    size_t count;
    struct page_finding finding[FINDINGS_MAX];
    char figure[FINDINGS_MAX][DOCTOR_FOUND_MAX], threshold[FINDINGS_MAX][DOCTOR_FIGURE_MAX];
    char where[FINDINGS_MAX][DOCTOR_WHERE_MAX];
    struct doctor_finding found[DOCTOR_CAUSES];
    struct doctor_shortage shortage;
    char note[NOTE_MAX];
};

static void add_finding(struct findings *findings, enum doctor_cause cause)
{
    const struct doctor_finding *found = &findings->found[cause];
    size_t i = findings->count++;
    findings->finding[i] = (struct page_finding){
        .cause = doctor_causes[cause].name,
        .figure = doctor_found_text(cause, found, findings->figure[i]),
        .threshold = doctor_allowed_text(cause, findings->threshold[i]),
        .where = doctor_where_text(found, findings->where[i]),
        .fix = found->fix,
    };
}

// Memory ran out for another reason than the six.
static void add_shortage(struct findings *findings, const struct doctor_shortage *shortage)
{
    size_t i = findings->count++;
    findings->shortage = *shortage;
    snprintf(findings->where[i], DOCTOR_WHERE_MAX, "rank %" PRIu32, shortage->rank);
    findings->finding[i] = (struct page_finding){
        .cause = "none of the six causes",
        .figure = doctor_shortage_text(shortage, findings->figure[i]),
        .threshold = "none",
        .where = findings->where[i],
        .fix = findings->shortage.advice,
    };
}

static void collect(const struct doctor *doctor, struct findings *findings)
{
    doctor_find(doctor, findings->found);
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        if (findings->found[k].found) {
            add_finding(findings, k);
        }
    }
    const struct doctor_shortage *shortage = doctor_unexplained(doctor, findings->found);
    if (shortage != NULL) {
        add_shortage(findings, shortage);
    }
    if (doctor_too_few_text(doctor, findings->note) == NULL && findings->count == 0) {
        snprintf(findings->note, NOTE_MAX, "None of the six causes was found.");
    }
}

static void examine(const char *folder, struct findings *findings)
{
    struct examination patient;
    struct error why = {0};
    *findings = (struct findings){0};
    if (examine_run(folder, &patient, &why) == STATUS_OK) {
        collect(patient.doctor, findings);
        examine_finish(&patient);
    } else {
        snprintf(findings->note, NOTE_MAX, "Not examined: %s", why.text);
    }
}

static void print_outcome(const char *path)
{
    struct stat about;
    char name[RUN_FOLDER_MAX], size[MEM_SIZE_TEXT_MAX];
    if (stat(path, &about) == 0) {
        printf("%s: %s\n", printable(path, name, sizeof(name)), mem_size_text((uint64_t)about.st_size, size));
    }
}

static enum status write_page(const struct request *request, const struct digest *digest, struct error *error)
{
    char folder[RUN_FOLDER_MAX], real[PATH_MAX], path[RUN_FOLDER_MAX + 32], configuration[RUN_FOLDER_MAX + 32];
    char environment_text[TEXT_MAX], configuration_text[TEXT_MAX];
    remove_slashes(request->folder, folder);
    snprintf(path, sizeof(path), "%s/env.txt", folder);
    read_text(path, environment_text);
    snprintf(configuration, sizeof(configuration), "%s/resolved.yaml", folder);
    read_text(configuration, configuration_text);
    snprintf(path, sizeof(path), "%s/report.html", folder);
    const char *output = request->output != NULL ? request->output : path;

    struct findings findings;
    struct error why = {0};
    examine(folder, &findings);
    json_t *memory = price_step(configuration, digest, &why);
    const struct page page = {
        .name = run_folder_name(realpath(folder, real) != NULL ? real : folder),
        .environment = environment_text,
        .configuration = configuration_text,
        .digest = digest,
        .memory = memory,
        .memory_why = why.text,
        .findings = findings.finding,
        .finding_count = findings.count,
        .findings_note = findings.note,
    };
    enum status status = page_write(output, &page, error);
    json_decref(memory);
    if (status == STATUS_OK) {
        print_outcome(output);
    }
    return status;
}

static enum status report(char *const *arguments, struct error *error)
{
    struct request request = {0};
    struct digest digest;
    enum status status = parse(arguments, &request, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = digest_read(&digest, request.folder, error);
    if (status == STATUS_OK) {
        status = write_page(&request, &digest, error);
    }
    digest_finish(&digest);
    return status;
}

int command_report(char *const *arguments)
{
    struct error error = {0};
    return command_finish(report(arguments, &error), &error);
}
