// SPDX-License-Identifier: Apache-2.0
//
// headroom generate: goes on with a text, token by token, as a checkpoint's model would.
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem/clock.h"
#include "mem/pool.h"
#include "mem/random.h"
#include "mem/uint64.h"
#include "worker/commands/commands.h"
#include "worker/config/schema.h"
#include "worker/generate/generator.h"
#include "worker/generate/sampler.h"
#include "worker/tokenize/bpe.h"

#define TOKENS 100 // or as many as the model takes
#define TOP_K  50

// As a person wrote it; NULL: not given.
struct request {
    const char *checkpoint, *prompt, *vocabulary, *merges;
    const char *tokens, *temperature, *top_k, *seed, *device, *memory;
};

struct generation {
    struct weights weights;
    struct vocabulary *vocabulary; // NULL: tokens are bytes
    struct sampler sampler;
    uint64_t tokens; // 0: as many as by default
    uint64_t seed, limit_bytes;
    const struct device_ops *device;
    struct generator *generator;
    int32_t *sequence; // the prompt, and what comes after it
    size_t count;
    float *scratch; // of the sampler
};

// Reading the command line -------------------------------------------------------------------------------------------

static enum status parse(char *const *arguments, struct request *request, struct error *error)
{
    const struct command_argument takes[] = {
        {"CHECKPOINT", .text = &request->checkpoint, .needed = true},
        {"--prompt", .text = &request->prompt, .needed = true},
        {"--vocabulary", .text = &request->vocabulary},
        {"--merges", .text = &request->merges},
        {"--tokens", .text = &request->tokens},
        {"--top-k", .text = &request->top_k},
        {"--temperature", .text = &request->temperature},
        {"--seed", .text = &request->seed},
        {"--device", .text = &request->device},
        {"--memory", .text = &request->memory},
    };
    return command_parse("generate", takes, sizeof(takes) / sizeof(takes[0]), arguments, error);
}

static enum status check(const struct request *request, struct error *error)
{
    if ((request->vocabulary == NULL) != (request->merges == NULL)) {
        return error_set(error, STATUS_INVALID, "--vocabulary encoder.json and --merges vocab.bpe belong together");
    }
    return STATUS_OK;
}

static enum status choose_device(const char *name, const struct device_ops **device_p, struct error *error)
{
    const struct device_ops *cpu = device_find("cpu"), *cuda = device_find("cuda");
    if (name == NULL || strcmp(name, "auto") == 0) {
        *device_p = cuda != NULL && cuda->count(error) > 0 ? cuda : cpu;
        return STATUS_OK;
    }
    if (strcmp(name, "cpu") != 0 && strcmp(name, "cuda") != 0) {
        return error_set(error, STATUS_INVALID, "--device %s: is no device; allowed: auto, cpu, cuda", name);
    }
    *device_p = device_find(name);
    return *device_p != NULL ? STATUS_OK
                             : error_set(error, STATUS_INVALID, "--device cuda: this program was built without CUDA");
}

// A value keeps what it held where its option was not given.
static enum status read_request(const struct request *request, struct generation *generation, struct error *error)
{
    const struct {
        const char *option, *text;
        struct config_key key;
        void *value;
    } values[] = {
        {"--tokens",
         request->tokens,
         {.type = CONFIG_TYPE_COUNT, .min = "1", .max = "4294967295"},
         &generation->tokens},
        {"--temperature",
         request->temperature,
         {.type = CONFIG_TYPE_REAL, .min = "0", .max = "1000"},
         &generation->sampler.temperature},
        {"--top-k",
         request->top_k,
         {.type = CONFIG_TYPE_COUNT, .min = "0", .max = "4294967295"},
         &generation->sampler.top_k},
        {"--seed",
         request->seed,
         {.type = CONFIG_TYPE_COUNT, .min = "0", .max = "18446744073709551615"},
         &generation->seed},
        {"--memory",
         request->memory,
         {.type = CONFIG_TYPE_BYTES, .min = "1", .max = "16TiB"},
         &generation->limit_bytes},
    };
    enum status status = choose_device(request->device, &generation->device, error);
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]) && status == STATUS_OK; i++) {
        if (values[i].text != NULL) {
            status = command_scan(values[i].option, &values[i].key, values[i].text, values[i].value, error);
        }
    }
    return status;
}

// Tokens and text ----------------------------------------------------------------------------------------------------

static uint64_t vocab_size(const struct generation *generation)
{
    return generation->weights.model->config.gpt.vocab_size;
}

// Whether the model knows a token that stands in front of each text.
static bool has_end_of_text(const struct generation *generation)
{
    return generation->weights.end_of_text < vocab_size(generation);
}

static enum status read_vocabulary(const struct request *request, struct generation *generation, struct error *error)
{
    uint64_t size = vocab_size(generation);
    if (request->vocabulary == NULL) {
        return size <= 257 ? STATUS_OK
                           : error_set(error, STATUS_INVALID,
                                       "%s: its %" PRIu64 " tokens are not bytes; say what they are with --vocabulary "
                                       "encoder.json --merges vocab.bpe",
                                       request->checkpoint, size);
    }
    enum status status = vocabulary_read(request->vocabulary, request->merges, &generation->vocabulary, error);
    if (status == STATUS_OK && vocabulary_size(generation->vocabulary) > size) {
        return error_set(error, STATUS_INVALID, "%s: has %" PRIu32 " tokens, and %s knows %" PRIu64,
                         request->vocabulary, vocabulary_size(generation->vocabulary), request->checkpoint, size);
    }
    return status;
}

static enum status encode_words(struct generation *generation, const char *prompt, uint16_t *tokens, size_t *count_p,
                                struct error *error)
{
    struct bpe *bpe;
    enum status status = bpe_create(generation->vocabulary, &bpe, error);
    if (status != STATUS_OK) {
        return status;
    }
    status = bpe_encode(bpe, prompt, strlen(prompt), tokens, count_p);
    bpe_destroy(bpe);
    if (status == STATUS_INVALID) {
        return error_set(error, status, "--prompt: is no UTF-8 from byte %zu on", *count_p + 1);
    }
    return status == STATUS_OK ? STATUS_OK : error_out_of_host_memory(error);
}

static enum status encode_bytes(const struct generation *generation, const char *prompt, uint16_t *tokens,
                                size_t *count_p, struct error *error)
{
    for (*count_p = 0; prompt[*count_p] != '\0'; (*count_p)++) {
        tokens[*count_p] = (uint8_t)prompt[*count_p];
        if (tokens[*count_p] >= vocab_size(generation)) {
            return error_set(error, STATUS_INVALID, "--prompt: byte %zu is %u; the model knows those below %" PRIu64,
                             *count_p + 1, tokens[*count_p], vocab_size(generation));
        }
    }
    return STATUS_OK;
}

// With the token in front of each text.
static enum status begin_text(struct generation *generation, struct error *error)
{
    if (!has_end_of_text(generation)) {
        return error_set(error, STATUS_INVALID, "--prompt: is empty, and the model has no token to begin a text with");
    }
    generation->sequence[generation->count++] = (int32_t)generation->weights.end_of_text;
    return STATUS_OK;
}

// generation->sequence gets the prompt's tokens, and room for those that come after it.
static enum status encode(struct generation *generation, const char *prompt, struct error *error)
{
    size_t most = strlen(prompt) + 1, count = 0;
    uint16_t *tokens = calloc(most, sizeof(*tokens));
    generation->sequence = calloc(most + uint64_max(generation->tokens, TOKENS), sizeof(*generation->sequence));
    if (tokens == NULL || generation->sequence == NULL) {
        free(tokens);
        return error_out_of_host_memory(error);
    }
    enum status status = generation->vocabulary != NULL ? encode_words(generation, prompt, tokens, &count, error)
                                                        : encode_bytes(generation, prompt, tokens, &count, error);
    for (size_t i = 0; i < count && status == STATUS_OK; i++) {
        generation->sequence[generation->count++] = tokens[i];
    }
    free(tokens);
    return status == STATUS_OK && count == 0 ? begin_text(generation, error) : status;
}

// Nothing where the number is no token's.
static void print_token(const struct generation *generation, int32_t token)
{
    size_t bytes = 1;
    const uint8_t byte = (uint8_t)token, *text = token <= UINT8_MAX ? &byte : NULL;
    if (generation->vocabulary != NULL) {
        text = vocabulary_text(generation->vocabulary, (uint32_t)token, &bytes);
    }
    if (text != NULL) {
        fwrite(text, 1, bytes, stdout);
        fflush(stdout);
    }
}

// Generating ---------------------------------------------------------------------------------------------------------

static bool is_end(const struct generation *generation, int32_t token)
{
    return has_end_of_text(generation) && (uint64_t)token == generation->weights.end_of_text;
}

static enum status check_room(struct generation *generation, struct error *error)
{
    size_t room = generation->weights.model->config.gpt.seq_len;
    if (generation->tokens == 0 && generation->count < room) {
        generation->tokens = uint64_min(TOKENS, room - generation->count);
    }
    if (generation->tokens > 0 && generation->count + generation->tokens <= room) {
        return STATUS_OK;
    }
    if (generation->tokens == 0) {
        return error_set(error, STATUS_INVALID, "--prompt: its %zu tokens leave none of the model's seq_len of %zu",
                         generation->count, room);
    }
    return error_set(error, STATUS_INVALID,
                     "--tokens %" PRIu64 ": with the prompt's %zu that is more than the model's seq_len of %zu",
                     generation->tokens, generation->count, room);
}

// The tokens that follow the prompt, each printed as it comes, until the text ends.
static enum status generate(struct generation *generation, struct error *error)
{
    size_t read = 0, prompt = generation->count;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && generation->count - prompt < generation->tokens) {
        const float *logits;
        status = generator_read(generation->generator, generation->sequence + read, generation->count - read, &logits,
                                error);
        if (status != STATUS_OK) {
            break;
        }
        read = generation->count;
        int32_t next = (int32_t)sampler_choose(&generation->sampler, logits, vocab_size(generation),
                                               random_fraction(generation->seed, read), generation->scratch);
        if (is_end(generation, next)) {
            break;
        }
        generation->sequence[generation->count++] = next;
        print_token(generation, next);
    }
    return status;
}

static void print_outcome(const struct generation *generation, size_t prompt, uint64_t start_ns)
{
    char peak[MEM_SIZE_TEXT_MAX];
    double seconds = (double)(clock_ns() - start_ns) / 1e9;
    size_t tokens = generation->count - prompt;
    fprintf(stderr, "%zu tokens after %zu in %.1f seconds, %.1f tokens/s; %s of the device\n", tokens, prompt, seconds,
            (double)tokens / seconds, mem_size_text(generator_peak_bytes(generation->generator), peak));
}

static enum status run(struct generation *generation, const char *prompt, struct error *error)
{
    generation->scratch = calloc(vocab_size(generation), sizeof(*generation->scratch));
    if (generation->scratch == NULL) {
        return error_out_of_host_memory(error);
    }
    enum status status = check_room(generation, error);
    if (status == STATUS_OK) {
        status = generator_create(generation->device, generation->limit_bytes, &generation->weights,
                                  &generation->generator, error);
    }
    if (status != STATUS_OK) {
        return status;
    }
    uint64_t start_ns = clock_ns();
    size_t count = generation->count;
    fputs(prompt, stdout);
    status = generate(generation, error);
    putchar('\n');
    if (status == STATUS_OK) {
        print_outcome(generation, count, start_ns);
    }
    return status;
}

static enum status run_checkpoint(const struct request *request, struct generation *generation, struct error *error)
{
    assert(request->prompt != NULL);
    enum status status = read_vocabulary(request, generation, error);
    if (status == STATUS_OK) {
        status = encode(generation, request->prompt, error);
    }
    if (status == STATUS_OK) {
        status = run(generation, request->prompt, error);
    }
    generator_destroy(generation->generator);
    free(generation->scratch);
    free(generation->sequence);
    vocabulary_destroy(generation->vocabulary);
    return status;
}

static enum status go_on(char *const *arguments, struct error *error)
{
    struct request request = {0};
    struct generation generation = {.sampler = {.temperature = 1, .top_k = TOP_K}, .seed = 1};
    enum status status = parse(arguments, &request, error);
    if (status == STATUS_OK) {
        status = check(&request, error);
    }
    if (status == STATUS_OK) {
        status = read_request(&request, &generation, error);
    }
    if (status == STATUS_OK) {
        status = exchange_checkpoint.open(request.checkpoint, &generation.weights, error);
    }
    if (status == STATUS_OK) {
        status = run_checkpoint(&request, &generation, error);
        weights_close(&generation.weights);
    }
    return status;
}

int command_generate(char *const *arguments)
{
    struct error error = {0};
    return command_finish(go_on(arguments, &error), &error);
}
