// SPDX-License-Identifier: Apache-2.0
#include "worker/top/remote.h"

#include <curl/curl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "worker/run/endpoint.h"

#define PART_BYTES            (UINT64_C(1) << 20) // that are asked for at a time; more where a line is longer
#define CONNECT_TIMEOUT_MS    2000L
#define TIMEOUT_MS            5000L
#define TAG_MAX               64
#define PARTIAL_CONTENT       206
#define RANGE_NOT_SATISFIABLE 416

struct remote {
    const char *address;
    char *url; // of the lines
    CURL *curl;
    struct history *history;
    char tag[TAG_MAX]; // of the process that answers
    char *folder;
    uint64_t steps;
    char *text; // of the latest answer
    size_t bytes, room, used;
    uint64_t offset, part_bytes; // where in the file the answer is from, and how much was asked for
    bool at_end;                 // the answer has all that there was
    struct error trouble;
};

static enum status refuse(const struct remote *remote, enum status status, const char *why, struct error *error)
{
    return error_set(error, status, "%s: %s", remote->address, why);
}

// Refuses more than was asked for.
static size_t take_bytes(char *bytes, size_t size, size_t count, void *context)
{
    struct remote *remote = context;
    if (count > remote->room - remote->bytes) {
        return 0;
    }
    memcpy(remote->text + remote->bytes, bytes, size * count);
    remote->bytes += size * count;
    return count;
}

static bool make_room(struct remote *remote)
{
    if (remote->part_bytes > remote->room) {
        char *text = realloc(remote->text, remote->part_bytes);
        if (text == NULL) {
            return false;
        }
        remote->text = text;
        remote->room = remote->part_bytes;
    }
    return true;
}

static const char *header_of(const struct remote *remote, const char *name)
{
    struct curl_header *header;
    return curl_easy_header(remote->curl, name, 0, CURLH_HEADER, -1, &header) == CURLHE_OK ? header->value : NULL;
}

static enum status refuse_stranger(const struct remote *remote, struct error *error)
{
    return refuse(remote, STATUS_INVALID, "what answers there is no run; its configuration says metrics.http_port",
                  error);
}

static enum status refuse_failure(const struct remote *remote, CURLcode code, struct error *error)
{
    long failure = 0;
    curl_easy_getinfo(remote->curl, CURLINFO_OS_ERRNO, &failure);
    switch ((int)code) {
    case CURLE_COULDNT_RESOLVE_HOST:
        return refuse(remote, STATUS_INVALID, "no such folder or host; allowed: RUN_DIR, HOST[:PORT] or a URL", error);
    case CURLE_WRITE_ERROR:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL: // it does not speak HTTP
        return refuse_stranger(remote, error);
    case CURLE_COULDNT_CONNECT:
        return refuse(remote, STATUS_ERROR, strerror((int)failure), error);
    default:
        return refuse(remote, STATUS_ERROR, curl_easy_strerror(code), error);
    }
}

// Fills `text` with the part of the file behind what was used.
static enum status ask(struct remote *remote, struct error *error)
{
    char range[64];
    long code;
    remote->bytes = remote->used = 0;
    if (!make_room(remote)) {
        return error_out_of_host_memory(error);
    }
    snprintf(range, sizeof(range), "%" PRIu64 "-%" PRIu64, remote->offset, remote->offset + remote->part_bytes - 1);
    curl_easy_setopt(remote->curl, CURLOPT_RANGE, range);
    CURLcode failed = curl_easy_perform(remote->curl);
    if (failed != CURLE_OK) {
        return refuse_failure(remote, failed, error);
    }
    curl_easy_getinfo(remote->curl, CURLINFO_RESPONSE_CODE, &code);
    if (header_of(remote, ENDPOINT_FOLDER) == NULL || header_of(remote, ENDPOINT_STEPS) == NULL ||
        header_of(remote, "ETag") == NULL || (code != PARTIAL_CONTENT && code != RANGE_NOT_SATISFIABLE)) {
        return refuse_stranger(remote, error);
    }
    remote->at_end = remote->bytes < remote->part_bytes;
    return STATUS_OK;
}

// What another process has written is read from its beginning.
static enum status begin(struct remote *remote, struct error *error)
{
    char *folder = curl_easy_unescape(remote->curl, header_of(remote, ENDPOINT_FOLDER), 0, NULL);
    curl_free(remote->folder);
    history_close(remote->history);
    remote->folder = folder;
    remote->steps = strtoull(header_of(remote, ENDPOINT_STEPS), NULL, 10);
    remote->offset = 0;
    remote->history = history_create(remote->url);
    if (folder == NULL || remote->history == NULL) {
        return error_out_of_host_memory(error);
    }
    snprintf(remote->tag, sizeof(remote->tag), "%s", header_of(remote, "ETag"));
    return STATUS_OK;
}

static enum status ask_whoever_answers(struct remote *remote, struct error *error)
{
    enum status status = ask(remote, error);
    if (status == STATUS_OK && strcmp(header_of(remote, "ETag"), remote->tag) != 0) {
        status = begin(remote, error);
        if (status == STATUS_OK) {
            status = ask(remote, error);
        }
    }
    return status;
}

// Where the address is no URL.
static CURLUcode set_port(CURLU *parts)
{
    char *port = NULL;
    CURLUcode code = curl_url_get(parts, CURLUPART_PORT, &port, 0);
    curl_free(port);
    return code == CURLUE_NO_PORT ? curl_url_set(parts, CURLUPART_PORT, ENDPOINT_PORT, 0) : code;
}

static CURLUcode extend_path(CURLU *parts)
{
    char *path, *longer;
    CURLUcode code = curl_url_get(parts, CURLUPART_PATH, &path, 0);
    if (code != CURLUE_OK) {
        return code;
    }
    size_t length = strlen(path);
    int printed = asprintf(&longer, "%.*s%s", (int)(length - (path[length - 1] == '/')), path, ENDPOINT_LINES);
    curl_free(path);
    if (printed < 0) {
        return CURLUE_OUT_OF_MEMORY;
    }
    code = curl_url_set(parts, CURLUPART_PATH, longer, 0);
    free(longer);
    return code;
}

static CURLUcode make_parts(CURLU *parts, const char *address)
{
    char *text;
    bool is_url = strstr(address, "://") != NULL;
    if (asprintf(&text, "%s%s", is_url ? "" : "http://", address) < 0) {
        return CURLUE_OUT_OF_MEMORY;
    }
    CURLUcode code = curl_url_set(parts, CURLUPART_URL, text, 0);
    free(text);
    if (code == CURLUE_OK && !is_url) {
        code = set_port(parts);
    }
    return code == CURLUE_OK ? extend_path(parts) : code;
}

// Of the lines. NULL with a line where the address is none.
static char *make_url(const struct remote *remote, struct error *error)
{
    char *url = NULL;
    CURLU *parts = curl_url();
    CURLUcode code = make_parts(parts, remote->address);
    if (code == CURLUE_OK) {
        code = curl_url_get(parts, CURLUPART_URL, &url, 0);
    }
    curl_url_cleanup(parts);
    if (code != CURLUE_OK) {
        refuse(remote, STATUS_INVALID, curl_url_strerror(code), error);
    }
    return url;
}

static void set_options(struct remote *remote)
{
    CURL *curl = remote->curl;
    curl_easy_setopt(curl, CURLOPT_URL, remote->url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_PROXY, ""); // none, whatever the environment says
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, TIMEOUT_MS);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, remote);
}

static bool names_user(const char *address)
{
    const char *scheme = strstr(address, "://"), *host = scheme == NULL ? address : scheme + strlen("://");
    return memchr(host, '@', strcspn(host, "/?#")) != NULL;
}

static enum status open_address(struct remote *remote, struct error *error)
{
    if (names_user(remote->address)) { // and a password, which no line must repeat
        return error_set(error, STATUS_INVALID, "an address names no user; allowed: RUN_DIR, HOST[:PORT] or a URL");
    }
    remote->curl = curl_easy_init();
    if (remote->curl == NULL) {
        return error_out_of_host_memory(error);
    }
    remote->url = make_url(remote, error);
    if (remote->url == NULL) {
        return error->status;
    }
    if (strncmp(remote->url, "http", strlen("http")) != 0) {
        return refuse(remote, STATUS_INVALID, "no URL that is known; allowed: http, https", error);
    }
    set_options(remote);
    return ask_whoever_answers(remote, error);
}

bool remote_is_address(const char *run)
{
    struct stat about;
    bool is_folder = stat(run, &about) == 0 && S_ISDIR(about.st_mode);
    return !is_folder && (strstr(run, "://") != NULL || strchr(run, '/') == NULL);
}

enum status remote_open(const char *address, struct remote **remote_p, struct error *error)
{
    struct remote *remote = calloc(1, sizeof(*remote));
    if (remote == NULL) {
        return error_out_of_host_memory(error);
    }
    curl_global_init(CURL_GLOBAL_DEFAULT);
    remote->address = address;
    remote->part_bytes = PART_BYTES;
    enum status status = open_address(remote, error);
    if (status != STATUS_OK) {
        remote_close(remote);
        return status;
    }
    *remote_p = remote;
    return STATUS_OK;
}

void remote_close(struct remote *remote)
{
    if (remote != NULL) {
        history_close(remote->history);
        curl_easy_cleanup(remote->curl);
        curl_free(remote->folder);
        curl_free(remote->url);
        free(remote->text);
        free(remote);
        curl_global_cleanup();
    }
}

static enum status read_line(struct remote *remote, size_t length, struct history_line *line, struct error *error)
{
    const char *text = remote->text + remote->used;
    remote->used += length + 1;
    remote->offset += length + 1;
    return history_read(remote->history, text, length, line, error);
}

// What is behind the lines that were read. Without an answer there is nothing.
static void ask_for_more(struct remote *remote)
{
    bool no_line = remote->used == 0 && remote->bytes == remote->part_bytes;
    remote->part_bytes = no_line ? 2 * remote->part_bytes : PART_BYTES;
    remote->trouble.text[0] = '\0';
    if (ask_whoever_answers(remote, &remote->trouble) != STATUS_OK) {
        remote->bytes = remote->used = 0;
        remote->at_end = true;
    }
}

enum status remote_next(struct remote *remote, struct history_line *line_p, struct error *error)
{
    *line_p = (struct history_line){.kind = HISTORY_NOTHING};
    for (;;) {
        const char *rest = remote->text + remote->used;
        const char *end = memchr(rest, '\n', remote->bytes - remote->used);
        if (end != NULL) {
            return read_line(remote, (size_t)(end - rest), line_p, error);
        }
        if (remote->at_end) {
            remote->at_end = false;
            return STATUS_OK;
        }
        ask_for_more(remote);
    }
}

const char *remote_trouble(const struct remote *remote)
{
    return remote->trouble.text[0] == '\0' ? NULL : remote->trouble.text;
}

const char *remote_folder(const struct remote *remote)
{
    return remote->folder;
}

uint64_t remote_steps(const struct remote *remote)
{
    return remote->steps;
}
