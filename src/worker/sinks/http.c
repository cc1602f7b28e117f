// SPDX-License-Identifier: Apache-2.0
//
// Answers Prometheus at /metrics, and who follows the run at /metrics.jsonl, in a thread of its own. That thread sees a
// copy of the newest figures, that file, and nothing else of the training.
#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <netdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mem/clock.h"
#include "worker/run/endpoint.h"
#include "worker/run/run_folder.h"
#include "worker/sinks/exposition.h"
#include "worker/sinks/http_lines.h"
#include "worker/sinks/sink.h"

#define CONNECTIONS_MAX      256                  // more wait
#define CONNECTION_TIMEOUT_S 2                    // of silence
#define FOLLOWERS_NS         UINT64_C(5000000000) // that the end waits for who follows the run

struct http {
    struct MHD_Daemon *daemon;
    struct MHD_Response *page; // the daemon's thread alone uses it; NULL: there is none yet
    struct MHD_Response *not_found, *not_allowed;
    struct http_lines *lines;
    pthread_mutex_t mutex; // over what follows
    struct exposition *exposition;
    bool changed;         // since the page was made
    uint64_t followed_ns; // when lines were last asked for; 0: never
    bool told_all;        // someone was told all lines
    pthread_cond_t told;
};

// A connection is there for one question, so none is kept that asks for nothing.
static void close_after(struct MHD_Response *response)
{
    MHD_add_response_header(response, "Connection", "close");
}

static void set_page(struct http *http, char *text, size_t bytes)
{
    struct MHD_Response *page = MHD_create_response_from_buffer(bytes, text, MHD_RESPMEM_MUST_FREE);
    if (page == NULL) {
        free(text);
        return;
    }
    MHD_add_response_header(page, "Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    close_after(page);
    if (http->page != NULL) {
        MHD_destroy_response(http->page); // once it has been sent to all who asked
    }
    http->page = page;
}

// However many ask, a step's page is made once.
static void renew_page(struct http *http)
{
    size_t bytes;
    char *text = NULL;
    pthread_mutex_lock(&http->mutex);
    if (http->changed) {
        text = exposition_text(http->exposition, &bytes);
        http->changed = text == NULL;
    }
    pthread_mutex_unlock(&http->mutex);
    if (text != NULL) {
        set_page(http, text, bytes);
    }
}

static enum MHD_Result answer_metrics(struct http *http, struct MHD_Connection *connection)
{
    renew_page(http);
    return http->page == NULL ? MHD_NO : MHD_queue_response(connection, MHD_HTTP_OK, http->page);
}

static enum MHD_Result answer_lines(struct http *http, struct MHD_Connection *connection)
{
    bool all;
    unsigned code;
    struct MHD_Response *response = http_lines_answer(http->lines, connection, &code, &all);
    enum MHD_Result result = MHD_NO;
    if (response != NULL) {
        close_after(response);
        result = MHD_queue_response(connection, code, response);
        MHD_destroy_response(response);
    }
    pthread_mutex_lock(&http->mutex);
    http->followed_ns = clock_ns();
    http->told_all = http->told_all || all;
    pthread_cond_signal(&http->told);
    pthread_mutex_unlock(&http->mutex);
    return result;
}

static enum MHD_Result answer(void *context, struct MHD_Connection *connection, const char *path, const char *method,
                              const char *version, const char *upload, size_t *upload_bytes_p, void **request_p)
{
    (void)version, (void)upload, (void)upload_bytes_p, (void)request_p;
    struct http *http = context;
    bool metrics = strcmp(path, ENDPOINT_METRICS) == 0;
    if (!metrics && strcmp(path, ENDPOINT_LINES) != 0) {
        return MHD_queue_response(connection, MHD_HTTP_NOT_FOUND, http->not_found);
    }
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
        return MHD_queue_response(connection, MHD_HTTP_METHOD_NOT_ALLOWED, http->not_allowed);
    }
    return metrics ? answer_metrics(http, connection) : answer_lines(http, connection);
}

static struct MHD_Response *make_response(const char *text)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_PERSISTENT);
    if (response != NULL) {
        close_after(response);
    }
    return response;
}

// -1 with errno set.
static int listen_at(const struct addrinfo *address)
{
    const int yes = 1;
    int listener = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener >= 0 &&
        (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) != 0 ||
         bind(listener, address->ai_addr, address->ai_addrlen) != 0 || listen(listener, CONNECTIONS_MAX) != 0)) {
        int failure = errno;
        close(listener);
        errno = failure;
        return -1;
    }
    return listener;
}

// -1 with a line.
static int open_listener(const struct config *config, struct error *error)
{
    char port[8];
    struct addrinfo *address;
    const struct addrinfo wanted = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    snprintf(port, sizeof(port), "%" PRIu16, (uint16_t)config->metrics.http_port);
    int failed = getaddrinfo(config->metrics.http_address, port, &wanted, &address);
    if (failed != 0) {
        error_set(error, STATUS_ERROR, "%s: %s", config->metrics.http_address, gai_strerror(failed));
        return -1;
    }
    int listener = listen_at(address);
    freeaddrinfo(address);
    if (listener < 0) {
        error_set(error, STATUS_ERROR, "%s, port %s: cannot listen: %s", config->metrics.http_address, port,
                  strerror(errno));
    }
    return listener;
}

static void destroy_response(struct MHD_Response *response)
{
    if (response != NULL) {
        MHD_destroy_response(response);
    }
}

// Whoever follows the run is to see its last line, and others who do a period later.
static void wait_for_followers(struct http *http)
{
    const uint64_t period_ns = UINT64_C(1000000) * ENDPOINT_PERIOD_MS;
    const struct timespec until = clock_after(CLOCK_REALTIME, FOLLOWERS_NS), period = {.tv_nsec = (long)period_ns};
    pthread_mutex_lock(&http->mutex);
    bool followed = http->followed_ns > 0 && clock_ns() - http->followed_ns < 2 * period_ns;
    http->told_all = !followed;
    while (!http->told_all && pthread_cond_timedwait(&http->told, &http->mutex, &until) == 0) {
    }
    pthread_mutex_unlock(&http->mutex);
    if (followed) {
        nanosleep(&period, NULL);
    }
}

static void close_http(void *sink)
{
    struct http *http = sink;
    if (http->daemon != NULL) {
        wait_for_followers(http);
        MHD_stop_daemon(http->daemon); // which closes the listener
    }
    destroy_response(http->page);
    destroy_response(http->not_found);
    destroy_response(http->not_allowed);
    http_lines_destroy(http->lines);
    exposition_destroy(http->exposition);
    pthread_cond_destroy(&http->told);
    pthread_mutex_destroy(&http->mutex);
    free(http);
}

static enum status start_daemon(struct http *http, const struct config *config, struct error *error)
{
    int listener = open_listener(config, error);
    if (listener < 0) {
        return STATUS_ERROR;
    }
    http->daemon =
        MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO, 0, NULL, NULL, answer, http,
                         MHD_OPTION_LISTEN_SOCKET, listener, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
                         MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)CONNECTION_TIMEOUT_S, MHD_OPTION_END);
    if (http->daemon == NULL) {
        close(listener);
        return error_set(error, STATUS_ERROR, "cannot start the server of metrics");
    }
    return STATUS_OK;
}

static enum status open_http(const struct sink_place *place, void **sink_p, struct error *error)
{
    struct http *http = calloc(1, sizeof(*http));
    if (http == NULL) {
        return error_out_of_host_memory(error);
    }
    pthread_mutex_init(&http->mutex, NULL);
    pthread_cond_init(&http->told, NULL);
    http->changed = true;
    http->lines = http_lines_create(place);
    http->exposition = exposition_create(run_folder_name(place->folder), place->ranks);
    http->not_found = make_response("there are " ENDPOINT_METRICS " and " ENDPOINT_LINES "\n");
    http->not_allowed = make_response("allowed: GET, HEAD\n");
    bool made = http->lines != NULL && http->exposition != NULL && http->not_found != NULL && http->not_allowed != NULL;
    enum status status = made ? start_daemon(http, place->config, error) : error_out_of_host_memory(error);
    if (status != STATUS_OK) {
        close_http(http);
        return status;
    }
    *sink_p = http;
    return STATUS_OK;
}

static void step(void *sink, const struct record_step *step)
{
    struct http *http = sink;
    pthread_mutex_lock(&http->mutex);
    exposition_step(http->exposition, step);
    http->changed = true;
    pthread_mutex_unlock(&http->mutex);
}

static void evaluation(void *sink, const struct record_evaluation *evaluation)
{
    struct http *http = sink;
    pthread_mutex_lock(&http->mutex);
    exposition_evaluation(http->exposition, evaluation);
    http->changed = true;
    pthread_mutex_unlock(&http->mutex);
}

static bool is_chosen(const struct config *config)
{
    return config->metrics.http_port > 0;
}

const struct sink_ops sink_http = {
    .key = "metrics.http_port",
    .is_chosen = is_chosen,
    .open = open_http,
    .step = step,
    .evaluation = evaluation,
    .close = close_http,
};
