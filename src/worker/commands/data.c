// SPDX-License-Identifier: Apache-2.0
//
// headroom data: turns text, or JSON lines, into token shards.
#include <inttypes.h>
#include <omp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/comm/launcher.h"
#include "worker/commands/commands.h"
#include "worker/config/schema.h"
#include "worker/progress.h"
#include "worker/signals.h"
#include "worker/tokenize/encoder.h"
#include "worker/tokenize/shards.h"
#include "worker/tokenize/tokenize.h"

#define SHARD_TOKENS UINT64_C(100000000)

// As a person wrote it; NULL: not given.
struct request {
    const char **inputs; // room for all arguments
    size_t input_count;
    const char *to, *tokens, *vocabulary, *merges, *shard_tokens, *threads;
};

// Reading the command line --------------------------------------------------------------------------------------------

static enum status parse(char *const *arguments, struct request *request, struct error *error)
{
    const struct command_argument takes[] = {
        {"INPUT", .text = request->inputs, .count = &request->input_count, .needed = true},
        {"--to", .text = &request->to, .needed = true},
        {"--tokens", .text = &request->tokens},
        {"--vocabulary", .text = &request->vocabulary},
        {"--merges", .text = &request->merges},
        {"--shard-tokens", .text = &request->shard_tokens},
        {"--threads", .text = &request->threads},
    };
    return command_parse("data", takes, sizeof(takes) / sizeof(takes[0]), arguments, error);
}

static enum status check(const struct request *request, struct error *error)
{
    bool gpt2 = request->tokens != NULL && strcmp(request->tokens, "gpt2") == 0;
    if (request->to[0] == '\0' || request->to[strlen(request->to) - 1] == '/') {
        return error_set(error, STATUS_INVALID, "--to '%s': is no beginning of a file's name", request->to);
    }
    if (request->tokens != NULL && !gpt2 && strcmp(request->tokens, "bytes") != 0) {
        return error_set(error, STATUS_INVALID, "--tokens %s: is neither bytes nor gpt2", request->tokens);
    }
    if (gpt2 && (request->vocabulary == NULL || request->merges == NULL)) {
        return error_set(error, STATUS_INVALID, "--tokens gpt2 needs --vocabulary encoder.json and --merges vocab.bpe");
    }
    if (!gpt2 && (request->vocabulary != NULL || request->merges != NULL)) {
        return error_set(error, STATUS_INVALID, "--vocabulary and --merges are for --tokens gpt2");
    }
    return STATUS_OK;
}

// `value` keeps what it held where `text` is NULL.
static enum status scan_count(const char *option, const char *max, const char *text, uint64_t *value,
                              struct error *error)
{
    const struct config_key key = {.type = CONFIG_TYPE_COUNT, .min = "1", .max = max};
    return text == NULL ? STATUS_OK : command_scan(option, &key, text, value, error);
}

static enum status read_request(char *const *arguments, struct request *request, struct tokenize_job *job,
                                struct error *error)
{
    char most[16];
    snprintf(most, sizeof(most), "%" PRId32, SHARDS_TOKENS_MAX);
    enum status status = parse(arguments, request, error);
    if (status == STATUS_OK) {
        status = check(request, error);
    }
    if (status == STATUS_OK) {
        status = scan_count("--shard-tokens", most, request->shard_tokens, &job->shard_tokens, error);
    }
    if (status == STATUS_OK) {
        status = scan_count("--threads", "1024", request->threads, &job->threads, error);
    }
    job->inputs = (char *const *)request->inputs;
    job->input_count = request->input_count;
    job->prefix = request->to;
    return status;
}

// What a person sees --------------------------------------------------------------------------------------------------

static void note_progress(void *context, const struct tokenize_totals *totals)
{
    struct progress *progress = context;
    progress->total = totals->bytes;
    progress_add(progress, totals->bytes_read - progress->done);
}

static const char *plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

static void print_outcome(const struct tokenize_job *job, const struct tokenize_totals *totals)
{
    printf("%" PRIu64 " document%s, %" PRIu64 " token%s, %" PRIu64 " shard%s: %s_[0-9]*.bin, model.vocab_size=%" PRIu32
           " data.end_of_text=%u\n",
           totals->documents, plural(totals->documents), totals->tokens, plural(totals->tokens), totals->shards,
           plural(totals->shards), job->prefix, encoder_vocab_size(job->vocabulary),
           encoder_end_of_text(job->vocabulary));
}

// ---------------------------------------------------------------------------------------------------------------------

static enum status run(struct tokenize_job *job, struct error *error)
{
    struct tokenize_totals totals;
    struct progress progress;
    progress_begin(&progress, "tokenizing", PROGRESS_BYTES, 0, 0);
    job->progress = note_progress;
    job->context = &progress;
    signals_block_ends();
    enum status status = tokenize(job, &totals, error);
    progress_end(&progress);
    if (status == STATUS_OK) {
        print_outcome(job, &totals);
    }
    return status;
}

static enum status make_data(char *const *arguments, struct request *request, struct error *error)
{
    struct vocabulary *vocabulary = NULL;
    struct tokenize_job job = {.shard_tokens = SHARD_TOKENS, .threads = (uint64_t)omp_get_num_procs()};
    enum status status = read_request(arguments, request, &job, error);
    if (status == STATUS_OK && request->vocabulary != NULL) {
        status = vocabulary_read(request->vocabulary, request->merges, &vocabulary, error);
    }
    if (status == STATUS_OK) {
        job.vocabulary = vocabulary;
        status = run(&job, error);
    }
    vocabulary_destroy(vocabulary);
    return status;
}

int command_data(char *const *arguments)
{
    struct error error = {0};
    size_t count = 0;
    while (arguments[count] != NULL) {
        count++;
    }
    struct request request = {.inputs = calloc(count + 1, sizeof(*request.inputs))};
    enum status status =
        request.inputs == NULL ? error_out_of_host_memory(&error) : make_data(arguments, &request, &error);
    free(request.inputs);
    return command_finish(status, &error);
}
