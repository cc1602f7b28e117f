// SPDX-License-Identifier: Apache-2.0
//
// A YAML text, parsed. What the parser has to say against it becomes one line.
#ifndef HEADROOM_WORKER_CONFIG_DOCUMENT_H
#define HEADROOM_WORKER_CONFIG_DOCUMENT_H

#include "mem/error.h"
#include "worker/config/refuse.h"

struct config_document {
    struct fy_diag *diag; // collects what the parser would print
    struct fy_parser *parser;
    struct fy_document *yaml; // NULL: the text is empty
    struct fy_node *root;     // NULL: likewise
};

// Borrows `text` until the document is closed, which it must be whether this succeeds or not. `source` says where the
// text comes from.
enum status config_document_open(struct config_document *document, const char *text, const struct config_place *source,
                                 struct error *error);
void config_document_close(struct config_document *document);

#endif
