// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "made_up_vocabulary.h"
#include "random_bits.h"
#include "worker/signals.h"
#include "worker/tokenize/bpe.h"
#include "worker/tokenize/input.h"
#include "worker/tokenize/tokenize.h"

#define HEADER_BYTES 1024

static int enter_folder(void **state)
{
    static const struct made_up_merge merges[] = {{"t", "h"}, {"th", "e"}, {"a", "n"}, {"an", "d"}};
    char *folder = strdup("/tmp/headroom-test-tokenize-XXXXXX");
    *state = folder;
    if (mkdtemp(folder) == NULL || chdir(folder) != 0) {
        return -1;
    }
    made_up_write(merges, 4);
    return 0;
}

static int leave_folder(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -r '%s'", (char *)*state);
    free(*state);
    return chdir("/") != 0 ? -1 : system(command);
}

static void write_file(const char *path, const char *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static char *read_whole(const char *path, size_t *bytes_p)
{
    struct stat about;
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fstat(fileno(file), &about), 0);
    char *bytes = malloc((size_t)about.st_size + 1);
    *bytes_p = fread(bytes, 1, (size_t)about.st_size, file);
    assert_int_equal(*bytes_p, about.st_size);
    fclose(file);
    return bytes;
}

// Words, and spaces of all kinds between them and beside each other.
static char *draw_text(size_t count, size_t *bytes_p)
{
    static const char *const parts[] = {"the",       "and",    "a",      "n",      "\u6f22\u5b57", "'s",
                                        "12",        " ",      " ",      " ",      "  ",           "\n",
                                        "\n \n \t ", "\u3000", "\u00a0", "\u2003", "\r\n",         "."};
    char *text = malloc(8 * count);
    uint64_t random = 3;
    *bytes_p = 0;
    while (count-- > 0) {
        const char *part = parts[random_bits(&random) % (sizeof(parts) / sizeof(parts[0]))];
        *bytes_p += (size_t)snprintf(text + *bytes_p, 8, "%s", part);
    }
    return text;
}

static void progress(void *context, const struct tokenize_totals *totals)
{
    *(struct tokenize_totals *)context = *totals;
}

static enum status run(char *const *inputs, size_t count, const struct vocabulary *vocabulary, const char *prefix,
                       uint64_t threads, struct tokenize_totals *totals_p, struct error *error)
{
    struct tokenize_totals seen = {0};
    const struct tokenize_job job = {
        .inputs = inputs,
        .input_count = count,
        .vocabulary = vocabulary,
        .prefix = prefix,
        .shard_tokens = 500000,
        .threads = threads,
        .progress = progress,
        .context = &seen,
    };
    enum status status = tokenize(&job, totals_p, error);
    if (status == STATUS_OK) {
        assert_memory_equal(&seen, totals_p, sizeof(seen));
        assert_int_equal(seen.bytes_read, seen.bytes);
    }
    return status;
}

static void assert_same_file(const char *one, const char *other)
{
    size_t one_bytes, other_bytes;
    char *one_text = read_whole(one, &one_bytes), *other_text = read_whole(other, &other_bytes);
    assert_int_equal(one_bytes, other_bytes);
    assert_memory_equal(one_text, other_text, one_bytes);
    free(one_text);
    free(other_text);
}

static void test_cut_and_whole_text_are_the_same_tokens(void **state)
{
    (void)state;
    size_t bytes, count, shard_bytes, place = 1;
    char *text = draw_text(1500000, &bytes), *const inputs[] = {"text.txt"};
    uint16_t *tokens = malloc(bytes * sizeof(*tokens));
    struct vocabulary *vocabulary = made_up_read();
    struct tokenize_totals totals;
    struct error error;
    struct bpe *bpe;
    write_file("text.txt", text, bytes);
    assert_int_equal(bpe_create(vocabulary, &bpe, &error), STATUS_OK);
    assert_int_equal(bpe_encode(bpe, text, bytes, tokens, &count), STATUS_OK);
    assert_int_equal(run(inputs, 1, vocabulary, "out", 2, &totals, &error), STATUS_OK);
    assert_int_equal(totals.tokens, count + 1);
    assert_int_equal(totals.documents, 1);
    assert_int_equal(totals.shards, count / 500000 + 1);
    assert_true(bytes > 3 * INPUT_CHUNK_BYTES);
    for (uint64_t i = 0; i < totals.shards; i++) {
        char name[32];
        snprintf(name, sizeof(name), "out_%06d.bin", (int)i);
        char *shard = read_whole(name, &shard_bytes);
        const uint16_t *found = (const uint16_t *)(void *)(shard + HEADER_BYTES);
        size_t first = i == 0, found_count = (shard_bytes - HEADER_BYTES) / sizeof(*found);
        assert_true(i > 0 || found[0] == MADE_UP_END);
        assert_memory_equal(found + first, tokens + place - 1, (found_count - first) * sizeof(*found));
        place += found_count - first;
        free(shard);
    }
    assert_int_equal(place, count + 1);
    bpe_destroy(bpe);
    vocabulary_destroy(vocabulary);
    free(tokens);
    free(text);
}

static void test_any_number_of_threads_writes_the_same(void **state)
{
    (void)state;
    size_t bytes;
    char *text = draw_text(1200000, &bytes), *const inputs[] = {"text.txt", "lines.jsonl", "empty.txt", "text.txt"};
    struct vocabulary *vocabulary = made_up_read();
    write_file("text.txt", text, bytes);
    write_file("empty.txt", "", 0);
    FILE *lines = fopen("lines.jsonl", "w");
    for (int i = 0; i < 30000; i++) {
        fprintf(lines, "{\"id\": 18446744073709551615, \"text\": \"the %d\\n\\u0000 and %d\"}\n\n", i, i * i);
    }
    fclose(lines);
    for (uint64_t threads = 1; threads <= 4; threads++) {
        struct tokenize_totals totals;
        struct error error = {.text = ""};
        char prefix[16];
        snprintf(prefix, sizeof(prefix), "t%d", (int)threads);
        if (run(inputs, 4, vocabulary, prefix, threads, &totals, &error) != STATUS_OK) {
            fail_msg("%s", error.text);
        }
        assert_int_equal(totals.documents, 30003);
        for (uint64_t i = 0; i < totals.shards; i++) {
            char one[32], other[32];
            snprintf(one, sizeof(one), "t1_%06d.bin", (int)i);
            snprintf(other, sizeof(other), "%s_%06d.bin", prefix, (int)i);
            assert_same_file(one, other);
        }
    }
    vocabulary_destroy(vocabulary);
    free(text);
}

static void assert_nothing_left(void)
{
    assert_int_equal(system("test -z \"$(ls | grep out_)\""), 0);
}

static void test_the_first_mistake_is_told_by_any_number_of_threads(void **state)
{
    (void)state;
    size_t bytes;
    char *text = draw_text(1500000, &bytes), *const inputs[] = {"text.txt", "none.jsonl", "text.txt"};
    struct vocabulary *vocabulary = made_up_read();
    write_file("none.jsonl", "{}\n", 3);
    char *place = memchr(text + 100000, 't', bytes - 100000), expected[64];
    place[0] = place[2500000] = '\xff'; // a later one is in another chunk
    snprintf(expected, sizeof(expected), ": byte %td of the file, counted from 0, is no UTF-8", place - text);
    write_file("text.txt", text, bytes);
    for (uint64_t threads = 1; threads <= 4; threads++) {
        struct tokenize_totals totals;
        struct error error = {.text = ""};
        assert_int_equal(run(inputs, 3, vocabulary, "out", threads, &totals, &error), STATUS_INVALID);
        assert_non_null(strstr(error.text, expected));
        assert_nothing_left();
    }
    vocabulary_destroy(vocabulary);
    free(text);
}

static void test_a_signal_ends_it(void **state)
{
    (void)state;
    size_t bytes;
    char *text = draw_text(1000000, &bytes), *const inputs[] = {"text.txt"};
    struct tokenize_totals totals;
    struct error error = {.text = ""};
    write_file("text.txt", text, bytes);
    signals_block_ends();
    assert_int_equal(raise(SIGTERM), 0);
    assert_int_equal(run(inputs, 1, NULL, "out", 1, &totals, &error), STATUS_ERROR);
    assert_string_equal(error.text, "stopped by a signal: no shard was written");
    assert_nothing_left();
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_cut_and_whole_text_are_the_same_tokens, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_any_number_of_threads_writes_the_same, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_the_first_mistake_is_told_by_any_number_of_threads, enter_folder,
                                        leave_folder),
        cmocka_unit_test_setup_teardown(test_a_signal_ends_it, enter_folder, leave_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
