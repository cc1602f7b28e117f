// SPDX-License-Identifier: Apache-2.0
//
// The report as a page: one HTML file that asks nothing of a network, with what it shows as JSON within it.
//
// Threads: one at a time. Ranks: nothing is collective.
#ifndef HEADROOM_WORKER_REPORT_PAGE_H
#define HEADROOM_WORKER_REPORT_PAGE_H

#include <jansson.h>

#include "worker/report/digest.h"

// Something that a run suffered from, in texts for a person.
struct page_finding {
    const char *cause, *figure, *threshold, *where, *fix;
};

// Borrows all that it points to.
struct page {
    const char *name, *environment, *configuration; // texts; what is no UTF-8 in them is shown as '?'
    const struct digest *digest;
    json_t *memory;         // of step_memory.h; NULL: not known
    const char *memory_why; // why not
    const struct page_finding *findings;
    size_t finding_count;
    const char *findings_note; // what else there is to say of them; "": nothing
};

// Writes it whole to `path`. STATUS_ERROR where it cannot be written, or the host's memory runs out.
enum status page_write(const char *path, const struct page *page, struct error *error);

#endif
