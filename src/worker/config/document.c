// SPDX-License-Identifier: Apache-2.0
#include "worker/config/document.h"

#include <libfyaml.h>
#include <stddef.h>

// Bytes of the UTF-8 character at `c`, or 0 where there is none (RFC 3629, section 4).
static size_t utf8_length(const unsigned char *c)
{
    size_t length = c[0] < 0x80 ? 1 : c[0] < 0xc2 ? 0 : c[0] < 0xe0 ? 2 : c[0] < 0xf0 ? 3 : c[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < length; i++) {
        if ((c[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (c[0] == 0xe0 && c[1] < 0xa0) || (c[0] == 0xf0 && c[1] < 0x90);
    bool surrogate = c[0] == 0xed && c[1] >= 0xa0;
    bool beyond_unicode = c[0] == 0xf4 && c[1] >= 0x90;
    return overlong || surrogate || beyond_unicode ? 0 : length;
}

// libfyaml 0.7.12 never returns from some texts that are not UTF-8 (its issue 101), so they must not reach it.
static enum status check_utf8(const char *text, const struct config_place *source, struct error *error)
{
    struct config_place place = *source;
    unsigned line = 1, column = 1;
    size_t length;
    for (const char *c = text; *c != '\0'; c += length) {
        length = utf8_length((const unsigned char *)c);
        if (length == 0) {
            place.line = line;
            place.column = column;
            return config_refuse(error, &place, NULL, "byte 0x%02x is not UTF-8", (unsigned char)*c);
        }
        column = *c == '\n' ? 1 : column + 1;
        line += *c == '\n';
    }
    return STATUS_OK;
}

// The parser's first complaint, as one line.
static enum status refuse_syntax(const struct config_document *document, const struct config_place *source,
                                 struct error *error)
{
    struct config_place place = *source;
    void *position = NULL;
    const struct fy_diag_error *first = fy_diag_errors_iterate(document->diag, &position);
    if (first == NULL) {
        return config_refuse(error, &place, NULL, "not valid YAML");
    }
    if (place.override == NULL && first->line > 0) {
        place.line = (unsigned)first->line;
        place.column = (unsigned)first->column;
    }
    size_t length = 0; // of the piece of text that it is about
    const char *text = first->fyt != NULL ? fy_token_get_text(first->fyt, &length) : NULL;
    if (text == NULL || length == 0) {
        return config_refuse(error, &place, NULL, "%s", first->msg);
    }
    return config_refuse(error, &place, NULL, "%s '%.*s'", first->msg, (int)(length < 80 ? length : 80), text);
}

enum status config_document_open(struct config_document *document, const char *text, const struct config_place *source,
                                 struct error *error)
{
    *document = (struct config_document){0};
    enum status status = check_utf8(text, source, error);
    if (status != STATUS_OK) {
        return status;
    }
    struct fy_diag_cfg silent;
    fy_diag_cfg_default(&silent);
    silent.fp = NULL;
    document->diag = fy_diag_create(&silent);
    if (document->diag == NULL) {
        return error_set(error, STATUS_ERROR, "out of memory");
    }
    fy_diag_set_collect_errors(document->diag, true);
    document->parser = fy_parser_create(&(struct fy_parse_cfg){.flags = FYPCF_QUIET, .diag = document->diag});
    if (document->parser == NULL || fy_parser_set_string(document->parser, text, FY_NT) != 0) {
        return error_set(error, STATUS_ERROR, "out of memory");
    }
    document->yaml = fy_parse_load_document(document->parser);
    struct fy_document *second = fy_parse_load_document(document->parser);
    if (second != NULL) {
        fy_parse_document_destroy(document->parser, second);
        return config_refuse(error, source, NULL, "more than one YAML document");
    }
    if (fy_parser_get_stream_error(document->parser) || fy_diag_got_error(document->diag)) {
        return refuse_syntax(document, source, error);
    }
    document->root = document->yaml != NULL ? fy_document_root(document->yaml) : NULL;
    return STATUS_OK;
}

void config_document_close(struct config_document *document)
{
    if (document->yaml != NULL) {
        fy_parse_document_destroy(document->parser, document->yaml);
    }
    fy_parser_destroy(document->parser);
    fy_diag_destroy(document->diag);
}
