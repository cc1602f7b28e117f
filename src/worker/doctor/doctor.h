// SPDX-License-Identifier: Apache-2.0
//
// Which of the usual causes of running out of memory a run has: it is shown the steps of a process one after the other,
// while they happen or from metrics.jsonl, and compares one figure for each cause and rank with what is allowed.
//
// A step speaks for a cause where the figure is above what is allowed. It is found when as many steps do as
// DOCTOR_STEPS, and a quarter of all, on some rank; the first DOCTOR_STEPS_AT_FIRST, in which memory is touched for the
// first time and sizes are tried, do not count. One of blocks that stay after their step is found when any step speaks
// for it.
//
// Pure. Threads: one. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_DOCTOR_DOCTOR_H
#define HEADROOM_WORKER_DOCTOR_DOCTOR_H

#include "worker/config/config.h"
#include "worker/run/record.h"

#define DOCTOR_STEPS          8
#define DOCTOR_STEPS_AT_FIRST 3

enum doctor_cause {
    DOCTOR_GRADIENTS,     // of earlier steps stay
    DOCTOR_KEPT,          // other blocks do
    DOCTOR_BATCH,         // memory holds less than the micro-batch that was asked for
    DOCTOR_DATA,          // steps wait for samples
    DOCTOR_INTERMEDIATES, // what the backward pass needs takes memory, and may not be computed again
    DOCTOR_FRAGMENTATION, // memory is free, but in pieces
    DOCTOR_CAUSES
};

#define DOCTOR_TAG_MAX 32
#define DOCTOR_FIX_MAX 256

// How a cause stands with a process.
struct doctor_finding {
    bool found;
    bool ended;                  // the process did, because of it: there is no room for a micro-step
    uint32_t rank;               // that has most of it
    double figure;               // there: the most bytes; else a part of 1, the mean of the steps that speak for it,
                                 // of all where none does
    uint64_t first, last, steps; // that speak for it there; 0 steps: none
    char tag[DOCTOR_TAG_MAX];    // of what stays; "": not known, or told by the cause
    char fix[DOCTOR_FIX_MAX];    // what to change, in a sentence with a key of the configuration; "": not found
};

// As struct record_shortage.
struct doctor_shortage {
    uint32_t rank;
    bool recompute;
    char cause[16], advice[DOCTOR_FIX_MAX]; // "": not told
};

struct doctor_cause_text {
    const char *name;
    const char *figure; // what it is
    bool is_bytes;      // else a part of 1
    double allowed;
};
extern const struct doctor_cause_text doctor_causes[DOCTOR_CAUSES];

struct doctor;

// The config must outlive the doctor. NULL where the host's memory runs out.
struct doctor *doctor_create(const struct config *config);
// Accepts NULL.
void doctor_destroy(struct doctor *doctor);

// A process begins, or goes on with, the run: those before it are forgotten.
void doctor_begin(struct doctor *doctor);
// False where the host's memory runs out.
bool doctor_step(struct doctor *doctor, const struct record_step *step);
// What stays on a rank: all blocks of that tag.
void doctor_tag(struct doctor *doctor, uint32_t rank, const char *tag, uint64_t bytes);
// The process has ended.
void doctor_end(struct doctor *doctor, const struct record_end *end);
// Why it did for want of memory; NULL: it did not. Valid as long as the doctor.
const struct doctor_shortage *doctor_shortage(const struct doctor *doctor);

// Those of all causes.
void doctor_find(const struct doctor *doctor, struct doctor_finding findings[DOCTOR_CAUSES]);
// Why memory ran out where that is none of the causes, by what doctor_find has found; NULL: it is, or did not.
const struct doctor_shortage *doctor_unexplained(const struct doctor *doctor,
                                                 const struct doctor_finding findings[DOCTOR_CAUSES]);
// The steps that count.
uint64_t doctor_steps(const struct doctor *doctor);

// Each writes and answers `text`, of so many bytes: a figure in its unit,
#define DOCTOR_FIGURE_MAX 48
const char *doctor_figure_text(enum doctor_cause cause, double figure, char *text);
// what is allowed,
const char *doctor_allowed_text(enum doctor_cause cause, char *text);
// a finding's figure and what it is,
#define DOCTOR_FOUND_MAX 128
const char *doctor_found_text(enum doctor_cause cause, const struct doctor_finding *finding, char *text);
// and "rank 0, 5 steps from 3 to 7, blocks of 'logits'".
#define DOCTOR_WHERE_MAX 160
const char *doctor_where_text(const struct doctor_finding *finding, char *text);
// Of DOCTOR_FOUND_MAX bytes: "memory ran out, cause: external".
const char *doctor_shortage_text(const struct doctor_shortage *shortage, char *text);
// How few steps count, where that is too few for figures that are parts of 1; NULL: it is not, or memory ran out.
#define DOCTOR_TOO_FEW_MAX 160
const char *doctor_too_few_text(const struct doctor *doctor, char *text);

#endif
