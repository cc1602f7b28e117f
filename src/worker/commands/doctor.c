// SPDX-License-Identifier: Apache-2.0
//
// headroom doctor: which of the usual causes of running out of memory a run has.
#include "worker/doctor/examine.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "mem/printable.h"
#include "worker/commands/commands.h"
#include "worker/json_text.h"
#include "worker/run/run_folder.h"

struct request {
    const char *folder;
    bool json;
};

static void print_end(const char *folder, const struct examination *patient)
{
    char name[RUN_FOLDER_MAX];
    printf("%s: %" PRIu64 " step%s on %" PRIu32 " rank%s, ", printable(folder, name, sizeof(name)), patient->steps,
           patient->steps == 1 ? "" : "s", patient->ranks, patient->ranks == 1 ? "" : "s");
    if (patient->ended) {
        printf("ended with exit code %d%s\n\n", (int)patient->status,
               patient->status == STATUS_OUT_OF_MEMORY ? ": out of memory" : "");
    } else {
        printf("under way, or killed\n\n");
    }
}

static void print_table(const struct doctor_finding findings[DOCTOR_CAUSES])
{
    printf("%-35s%-41s%12s%9s%7s\n", "cause", "measured", "figure", "allowed", "steps");
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        const struct doctor_cause_text *cause = &doctor_causes[k];
        char figure[DOCTOR_FIGURE_MAX], allowed[DOCTOR_FIGURE_MAX];
        printf("%-35s%-41s%12s%9s%7" PRIu64 "%s\n", cause->name, cause->figure,
               doctor_figure_text(k, findings[k].figure, figure), doctor_allowed_text(k, allowed), findings[k].steps,
               findings[k].found ? "  FOUND" : "");
    }
}

static void print_finding(enum doctor_cause cause, const struct doctor_finding *finding)
{
    char found[DOCTOR_FOUND_MAX], where[DOCTOR_WHERE_MAX], fix[DOCTOR_FIX_MAX];
    printf("\n%s\n  found: %s\n  where: %s\n  do: %s\n", doctor_causes[cause].name,
           doctor_found_text(cause, finding, found), printable(doctor_where_text(finding, where), where, sizeof(where)),
           printable(finding->fix, fix, sizeof(fix)));
}

static int count_found(const struct doctor_finding findings[DOCTOR_CAUSES])
{
    int found = 0;
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        found += findings[k].found;
    }
    return found;
}

// Where memory ran out for another reason than the six.
static void print_shortage(const struct doctor_shortage *shortage)
{
    char found[DOCTOR_FOUND_MAX], advice[DOCTOR_FIX_MAX];
    if (shortage != NULL) {
        printf("\nnone of these\n  found: %s\n  where: rank %" PRIu32 "\n  do: %s\n",
               doctor_shortage_text(shortage, found), shortage->rank,
               printable(shortage->advice, advice, sizeof(advice)));
    }
}

static void print_text(const char *folder, const struct examination *patient,
                       const struct doctor_finding findings[DOCTOR_CAUSES])
{
    print_end(folder, patient);
    print_table(findings);
    for (enum doctor_cause k = 0; k < DOCTOR_CAUSES; k++) {
        if (findings[k].found) {
            print_finding(k, &findings[k]);
        }
    }
    print_shortage(doctor_unexplained(patient->doctor, findings));
    char too_few[DOCTOR_TOO_FEW_MAX];
    if (doctor_too_few_text(patient->doctor, too_few) != NULL) {
        printf("\n%s\n", too_few);
    }
    printf("\n%d of %d causes found\n", count_found(findings), (int)DOCTOR_CAUSES);
}

// null where it is none, as of steps that took no time.
static json_t *figure_value(double figure)
{
    return isfinite(figure) ? json_real(figure) : json_null();
}

static json_t *cause_object(enum doctor_cause cause, const struct doctor_finding *finding)
{
    const struct doctor_cause_text *text = &doctor_causes[cause];
    return json_pack("{ss sb ss ss so sf sI sI sI sI sb so ss?}", "cause", text->name, "found", (int)finding->found,
                     "figure_of", text->figure, "unit", text->is_bytes ? "bytes" : "1", "figure",
                     figure_value(finding->figure), "allowed", text->allowed, "rank", (json_int_t)finding->rank,
                     "first_step", (json_int_t)finding->first, "last_step", (json_int_t)finding->last, "steps",
                     (json_int_t)finding->steps, "ended", (int)finding->ended, "tag", json_text(finding->tag), "fix",
                     finding->found ? finding->fix : NULL);
}

// NULL where the host's memory runs out, here and below.
static json_t *cause_objects(const struct doctor_finding findings[DOCTOR_CAUSES])
{
    json_t *causes = json_array();
    for (enum doctor_cause k = 0; causes != NULL && k < DOCTOR_CAUSES; k++) {
        if (json_array_append_new(causes, cause_object(k, &findings[k])) != 0) {
            json_decref(causes);
            causes = NULL;
        }
    }
    return causes;
}

static json_t *shortage_object(const struct doctor_shortage *shortage)
{
    return shortage == NULL
               ? json_null()
               : json_pack("{sI so sb so}", "rank", (json_int_t)shortage->rank, "cause", json_text(shortage->cause),
                           "recompute", (int)shortage->recompute, "advice", json_text(shortage->advice));
}

static json_t *run_object(const char *folder, const struct examination *patient,
                          const struct doctor_finding findings[DOCTOR_CAUSES])
{
    return json_pack("{so sI sI sI so so so}", "run", json_text(folder), "steps", (json_int_t)patient->steps,
                     "steps_that_count", (json_int_t)doctor_steps(patient->doctor), "ranks", (json_int_t)patient->ranks,
                     "status", patient->ended ? json_integer(patient->status) : json_null(), "shortage",
                     shortage_object(doctor_shortage(patient->doctor)), "causes", cause_objects(findings));
}

static enum status print_json(const char *folder, const struct examination *patient,
                              const struct doctor_finding findings[DOCTOR_CAUSES], struct error *error)
{
    json_t *object = run_object(folder, patient, findings);
    char *text = object == NULL ? NULL : json_dumps(object, JSON_INDENT(2));
    json_decref(object);
    if (text == NULL) {
        return error_out_of_host_memory(error);
    }
    puts(text);
    free(text);
    return STATUS_OK;
}

static enum status parse(char *const *arguments, struct request *request, struct error *error)
{
    const struct command_argument takes[] = {{"RUN_DIR", .text = &request->folder, .needed = true},
                                             {"--json", .given = &request->json}};
    return command_parse("doctor", takes, sizeof(takes) / sizeof(takes[0]), arguments, error);
}

static enum status run(char *const *arguments, bool *healthy_p, struct error *error)
{
    struct request request = {0};
    struct examination patient;
    enum status status = parse(arguments, &request, error);
    if (status == STATUS_OK) {
        status = examine_run(request.folder, &patient, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    struct doctor_finding findings[DOCTOR_CAUSES];
    doctor_find(patient.doctor, findings);
    if (request.json) {
        status = print_json(request.folder, &patient, findings, error);
    } else {
        print_text(request.folder, &patient, findings);
    }
    *healthy_p = count_found(findings) == 0 && doctor_shortage(patient.doctor) == NULL;
    examine_finish(&patient);
    return status;
}

int command_doctor(char *const *arguments)
{
    struct error error = {0};
    bool healthy = true;
    int code = command_finish(run(arguments, &healthy, &error), &error);
    return code == STATUS_OK ? !healthy : STATUS_INVALID;
}
