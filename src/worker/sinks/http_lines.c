// SPDX-License-Identifier: Apache-2.0
#include "worker/sinks/http_lines.h"

#include <curl/curl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "worker/regular_file.h"
#include "worker/run/endpoint.h"
#include "worker/run/run_folder.h"

struct http_lines {
    char path[RUN_FOLDER_MAX + 16];
    char tag[24]; // of this process
    char *folder; // escaped
    char steps[24];
};

struct http_lines *http_lines_create(const struct sink_place *place)
{
    struct timespec now;
    struct http_lines *lines = calloc(1, sizeof(*lines));
    char *folder = curl_easy_escape(NULL, place->folder, 0);
    if (lines == NULL || folder == NULL) {
        free(lines);
        curl_free(folder);
        return NULL;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(lines->path, sizeof(lines->path), "%s/metrics.jsonl", place->folder);
    snprintf(lines->tag, sizeof(lines->tag), "\"%" PRIx64 "\"",
             (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec);
    snprintf(lines->steps, sizeof(lines->steps), "%" PRIu64, place->steps);
    lines->folder = folder;
    return lines;
}

void http_lines_destroy(struct http_lines *lines)
{
    if (lines != NULL) {
        curl_free(lines->folder);
        free(lines);
    }
}

struct part {
    bool asked; // else it is all of the file
    uint64_t first, last;
};

static bool scan(const char **text, uint64_t *value_p)
{
    char *end;
    bool good = **text >= '0' && **text <= '9';
    *value_p = strtoull(*text, &end, 10);
    *text = end;
    return good;
}

// bytes=FIRST- or bytes=FIRST-LAST; other ranges, which servers may pass over, are all of the file.
static struct part scan_part(const char *text)
{
    static const char unit[] = "bytes=";
    struct part part = {.last = UINT64_MAX};
    if (text == NULL || strncmp(text, unit, strlen(unit)) != 0) {
        return part;
    }
    text += strlen(unit);
    part.asked = scan(&text, &part.first) && *text++ == '-' && (*text == '\0' || scan(&text, &part.last)) &&
                 *text == '\0' && part.first <= part.last;
    return part;
}

static void add_headers(const struct http_lines *lines, struct MHD_Response *response)
{
    MHD_add_response_header(response, "Content-Type", "application/x-ndjson");
    MHD_add_response_header(response, "Accept-Ranges", "bytes");
    MHD_add_response_header(response, "ETag", lines->tag);
    MHD_add_response_header(response, ENDPOINT_FOLDER, lines->folder);
    MHD_add_response_header(response, ENDPOINT_STEPS, lines->steps);
}

// Takes the descriptor, of a file of so many bytes. NULL when the host's memory runs out.
static struct MHD_Response *make_response(int descriptor, uint64_t bytes, const struct part *part, unsigned *code_p)
{
    char range[80];
    bool beyond = part->asked && part->first >= bytes;
    uint64_t first = part->asked && !beyond ? part->first : 0,
             end = part->asked && part->last < bytes ? part->last + 1 : bytes;
    struct MHD_Response *response =
        MHD_create_response_from_fd_at_offset64(beyond ? 0 : end - first, descriptor, first);
    if (response == NULL) {
        close(descriptor);
        return NULL;
    }
    *code_p = beyond ? MHD_HTTP_RANGE_NOT_SATISFIABLE : part->asked ? MHD_HTTP_PARTIAL_CONTENT : MHD_HTTP_OK;
    if (beyond) {
        snprintf(range, sizeof(range), "bytes */%" PRIu64, bytes);
    } else {
        snprintf(range, sizeof(range), "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, first, end - 1, bytes);
    }
    if (part->asked) {
        MHD_add_response_header(response, "Content-Range", range);
    }
    return response;
}

struct MHD_Response *http_lines_answer(const struct http_lines *lines, struct MHD_Connection *connection,
                                       unsigned *code_p, bool *all_p)
{
    int descriptor;
    uint64_t bytes;
    *all_p = false;
    const struct part part = scan_part(MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Range"));
    if (regular_file_open(lines->path, &descriptor, &bytes, NULL) != STATUS_OK) {
        return NULL;
    }
    struct MHD_Response *response = make_response(descriptor, bytes, &part, code_p);
    if (response != NULL) {
        *all_p = !part.asked || part.last >= bytes - 1;
        add_headers(lines, response);
    }
    return response;
}
