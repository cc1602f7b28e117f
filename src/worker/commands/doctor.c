// SPDX-License-Identifier: Apache-2.0
//
// headroom doctor: which of the usual causes of running out of memory a run has.
#include "worker/doctor/examine.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "worker/comm/launcher.h"
#include "worker/commands/commands.h"

struct request {
    const char *folder;
    bool json;
};

static void print_end(const char *folder, const struct examination *patient)
{
    printf("%s: %" PRIu64 " step%s on %" PRIu32 " rank%s, ", folder, patient->steps, patient->steps == 1 ? "" : "s",
           patient->ranks, patient->ranks == 1 ? "" : "s");
    if (patient->ended) {
        printf("ended with exit code %d%s\n\n", (int)patient->status,
               patient->status == STATUS_OUT_OF_MEMORY ? ": out of memory" : "");
    } else {
        printf("under way, or killed\n\n");
    }
}

static void print_table(const struct examination *patient)
{
    printf("%-36s%-42s%12s%12s\n", "cause", "figure", "worst", "allowed");
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        const struct doctor_cause_text *cause = &doctor_causes[k];
        const struct doctor_finding finding = doctor_find(patient->doctor, k);
        char worst[DOCTOR_FIGURE_MAX], allowed[DOCTOR_FIGURE_MAX];
        printf("%-36s%-42s%12s%12s%s\n", cause->name, cause->figure, doctor_figure_text(k, finding.figure, worst),
               doctor_figure_text(k, cause->allowed, allowed), finding.found ? "  FOUND" : "");
    }
}

static void print_finding(const struct examination *patient, enum doctor_cause cause,
                          const struct doctor_finding *finding)
{
    char figure[DOCTOR_FIGURE_MAX], allowed[DOCTOR_FIGURE_MAX], where[DOCTOR_WHERE_MAX], fix[DOCTOR_FIX_MAX];
    const struct doctor_cause_text *text = &doctor_causes[cause];
    printf("\n%s\n  found: %s %s (at most %s are usual)\n  where: %s\n  do: %s\n", text->name,
           doctor_figure_text(cause, finding->figure, figure), text->figure,
           doctor_figure_text(cause, text->allowed, allowed), doctor_where_text(finding, where),
           doctor_fix(patient->doctor, cause, fix));
}

// Answers how many were found.
static int print_findings(const struct examination *patient)
{
    int found = 0;
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        const struct doctor_finding finding = doctor_find(patient->doctor, k);
        found += finding.found;
        if (finding.found) {
            print_finding(patient, k, &finding);
        }
    }
    printf("\n%d of %d causes found\n", found, (int)DOCTOR_CAUSES);
    return found;
}

static int print_text(const char *folder, const struct examination *patient)
{
    print_end(folder, patient);
    print_table(patient);
    return print_findings(patient);
}

static json_t *cause_object(const struct examination *patient, enum doctor_cause cause)
{
    char fix[DOCTOR_FIX_MAX];
    const struct doctor_cause_text *text = &doctor_causes[cause];
    const struct doctor_finding finding = doctor_find(patient->doctor, cause);
    return json_pack("{ss sb ss ss sf sf sI sI sI sI ss ss?}", "cause", text->name, "found", (int)finding.found,
                     "figure_of", text->figure, "unit", text->is_bytes ? "bytes" : "1", "figure", finding.figure,
                     "allowed", text->allowed, "rank", (json_int_t)finding.rank, "first_step",
                     (json_int_t)finding.first, "last_step", (json_int_t)finding.last, "steps",
                     (json_int_t)finding.steps, "tag", finding.tag, "fix",
                     finding.found ? doctor_fix(patient->doctor, cause, fix) : NULL);
}

// Answers how many were found.
static int print_json(const char *folder, const struct examination *patient)
{
    json_t *causes = json_array();
    int found = 0;
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        found += doctor_find(patient->doctor, k).found;
        json_array_append_new(causes, cause_object(patient, k));
    }
    json_t *object = json_pack("{ss sI sI so so}", "run", folder, "steps", (json_int_t)patient->steps, "ranks",
                               (json_int_t)patient->ranks, "status",
                               patient->ended ? json_integer(patient->status) : json_null(), "causes", causes);
    json_dumpf(object, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(object);
    return found;
}

static enum status parse(char *const *arguments, struct request *request, struct error *error)
{
    for (; *arguments != NULL; arguments++) {
        if (strcmp(*arguments, "--json") == 0) {
            request->json = true;
        } else if (request->folder == NULL && **arguments != '-') {
            request->folder = *arguments;
        } else {
            return error_set(error, STATUS_INVALID, "doctor takes one run folder and --json, not '%s'", *arguments);
        }
    }
    return request->folder != NULL
               ? STATUS_OK
               : error_set(error, STATUS_INVALID, "doctor takes: RUN_DIR [--json]; no RUN_DIR is given");
}

// `*found_p`: how many causes.
static enum status run(char *const *arguments, int *found_p, struct error *error)
{
    struct request request = {0};
    struct examination patient;
    enum status status = parse(arguments, &request, error);
    if (status == STATUS_OK) {
        status = examine_run(request.folder, &patient, error);
    }
    if (status == STATUS_OK) {
        *found_p = request.json ? print_json(request.folder, &patient) : print_text(request.folder, &patient);
        examine_finish(&patient);
    }
    return status;
}

int command_doctor(char *const *arguments)
{
    struct error error = {0};
    int found = 0;
    if (launcher_started_several()) {
        error_set(&error, STATUS_INVALID, "doctor runs without a launcher");
        return command_misused(&error);
    }
    int code = command_finish(run(arguments, &found, &error), &error);
    return code == STATUS_OK && found > 0 ? STATUS_ERROR : code;
}
