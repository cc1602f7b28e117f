// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "made_up_vocabulary.h"
#include "random_bits.h"
#include "worker/tokenize/bpe.h"

#define MERGES   60
#define WORD_MAX 60

static int enter_folder(void **state)
{
    char *folder = strdup("/tmp/headroom-test-bpe-XXXXXX");
    *state = folder;
    return mkdtemp(folder) == NULL ? -1 : chdir(folder);
}

static int leave_folder(void **state)
{
    unlink("encoder.json");
    unlink("vocab.bpe");
    int left = chdir("/") == 0 ? rmdir(*state) : -1;
    free(*state);
    return left;
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static struct bpe *open_bpe(const struct vocabulary *vocabulary)
{
    struct bpe *bpe;
    struct error error = {.text = ""};
    if (bpe_create(vocabulary, &bpe, &error) != STATUS_OK) {
        fail_msg("%s", error.text);
    }
    return bpe;
}

// What one merge after another makes of "a", "b" and "c".
static void draw_merges(uint64_t *random, struct made_up_merge merges[MERGES])
{
    char made[3 + MERGES][16] = {"a", "b", "c"};
    for (size_t count = 0; count < MERGES;) {
        const char *left = made[random_bits(random) % (3 + count)], *right = made[random_bits(random) % (3 + count)];
        char whole[32];
        bool is_new = snprintf(whole, sizeof(whole), "%s%s", left, right) < 16;
        for (size_t i = 0; i < 3 + count && is_new; i++) {
            is_new = strcmp(whole, made[i]) != 0;
        }
        if (is_new) {
            snprintf(merges[count].left, sizeof(merges[count].left), "%s", left);
            snprintf(merges[count].right, sizeof(merges[count].right), "%s", right);
            memcpy(made[3 + count++], whole, sizeof(made[0]));
        }
    }
}

// In rounds: the pair that ranks first is merged everywhere, from the left.
static size_t merge_naively(const struct vocabulary *vocabulary, const char *word, size_t bytes, uint16_t *tokens)
{
    size_t count = bytes;
    for (size_t i = 0; i < bytes; i++) {
        tokens[i] = vocabulary_byte(vocabulary, (uint8_t)word[i]);
    }
    for (;;) {
        uint16_t best = VOCABULARY_NO_RANK;
        for (size_t i = 0; i + 1 < count; i++) {
            uint16_t rank = vocabulary_rank(vocabulary, tokens[i], tokens[i + 1]);
            best = rank < best ? rank : best;
        }
        if (best == VOCABULARY_NO_RANK) {
            return count;
        }
        size_t kept = 0;
        for (size_t i = 0; i < count; i++) {
            bool pair = i + 1 < count && vocabulary_rank(vocabulary, tokens[i], tokens[i + 1]) == best;
            tokens[kept++] = pair ? vocabulary_merged(vocabulary, best) : tokens[i];
            i += pair;
        }
        count = kept;
    }
}

static void test_words_merge_as_they_would_in_rounds(void **state)
{
    (void)state;
    uint64_t random = 1;
    for (int round = 0; round < 20; round++) {
        struct made_up_merge merges[MERGES];
        draw_merges(&random, merges);
        made_up_write(merges, MERGES);
        struct vocabulary *vocabulary = made_up_read();
        struct bpe *bpe = open_bpe(vocabulary);
        for (int i = 0; i < 500; i++) {
            char word[WORD_MAX];
            uint16_t expected[WORD_MAX], tokens[WORD_MAX];
            size_t bytes = 1 + random_bits(&random) % WORD_MAX, letters = 1 + random_bits(&random) % 3, count;
            for (size_t k = 0; k < bytes; k++) {
                word[k] = (char)('a' + random_bits(&random) % letters);
            }
            size_t expected_count = merge_naively(vocabulary, word, bytes, expected);
            assert_int_equal(bpe_encode(bpe, word, bytes, tokens, &count), STATUS_OK);
            assert_int_equal(count, expected_count);
            assert_memory_equal(tokens, expected, count * sizeof(*tokens));
        }
        bpe_destroy(bpe);
        vocabulary_destroy(vocabulary);
    }
}

static size_t put_utf8(unsigned code, char *text)
{
    if (code < 0x80) {
        text[0] = (char)code;
        return 1;
    }
    size_t bytes = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = bytes - 1; i > 0; i--, code >>= 6) {
        text[i] = (char)(0x80 | (code & 0x3f));
    }
    text[0] = (char)((0xf00 >> bytes & 0xff) | code);
    return bytes;
}

// Of letters that merge, and of everything that Unicode has.
static size_t draw_text(uint64_t *random, char *text, size_t room)
{
    size_t bytes = 0;
    while (bytes + 4 <= room) {
        uint64_t draw = random_bits(random);
        unsigned code = (unsigned)(draw >> 8) % 0x110000;
        if (draw % 16 == 0) {
            bytes += put_utf8(code >= 0xd800 && code < 0xe000 ? ' ' : code, text + bytes);
        } else {
            text[bytes++] = "abc abc ab\n\t's1."[draw % 16];
        }
    }
    return bytes;
}

static void test_what_was_encoded_is_decoded(void **state)
{
    (void)state;
    static char text[5000];
    static uint16_t tokens[sizeof(text)];
    struct made_up_merge merges[MERGES];
    uint64_t random = 2;
    draw_merges(&random, merges);
    made_up_write(merges, MERGES);
    struct vocabulary *vocabulary = made_up_read();
    struct bpe *bpe = open_bpe(vocabulary);
    for (int round = 0; round < 200; round++) {
        size_t bytes = draw_text(&random, text, random_bits(&random) % sizeof(text)), count, decoded_bytes;
        char *decoded;
        struct error error;
        assert_int_equal(bpe_encode(bpe, text, bytes, tokens, &count), STATUS_OK);
        assert_true(count <= bytes);
        assert_int_equal(bpe_decode(vocabulary, tokens, count, &decoded, &decoded_bytes, &error), STATUS_OK);
        assert_int_equal(decoded_bytes, bytes);
        assert_memory_equal(decoded, text, bytes);
        assert_int_equal(decoded[bytes], '\0');
        free(decoded);
    }
    bpe_destroy(bpe);
    vocabulary_destroy(vocabulary);
}

static void assert_tokens(struct bpe *bpe, const char *text, size_t expected_count, const uint16_t *expected)
{
    uint16_t tokens[64];
    size_t count;
    assert_int_equal(bpe_encode(bpe, text, strlen(text), tokens, &count), STATUS_OK);
    assert_int_equal(count, expected_count);
    assert_memory_equal(tokens, expected, count * sizeof(*tokens));
}

static const struct made_up_merge doubles[] = {{"a", "a"}, {"aa", "aa"}, {"e", "n"}};

static void test_texts(void **state)
{
    (void)state;
    made_up_write(doubles, 3);
    struct vocabulary *vocabulary = made_up_read();
    struct bpe *bpe = open_bpe(vocabulary);
    assert_int_equal(vocabulary_size(vocabulary), 65536);
    assert_int_equal(vocabulary_end_of_text(vocabulary), MADE_UP_END);
    assert_tokens(bpe, "", 0, NULL);
    assert_tokens(bpe, "aaaaaaa", 3, (uint16_t[]){65534, 65535, 'a'});
    assert_tokens(bpe, "aa a", 3, (uint16_t[]){65535, ' ', 'a'}); // no pair crosses a word's end
    assert_tokens(bpe, "a1a", 3, (uint16_t[]){'a', '1', 'a'});
    assert_tokens(bpe, "<|endoftext|>", 12, (uint16_t[]){'<', '|', 65533, 'd', 'o', 'f', 't', 'e', 'x', 't', '|', '>'});
    bpe_destroy(bpe);
    vocabulary_destroy(vocabulary);
}

static void test_what_is_no_utf8(void **state)
{
    (void)state;
    const struct {
        const char *text;
        size_t wrong;
    } texts[] = {{"\xff", 0},    {"ab \x80", 3}, {"a\xc3", 1}, {"\xed\xa0\x80", 0}, {"aa \xf4\x90\x80\x80", 3},
                 {"\xc0\x80", 0}};
    made_up_write(doubles, 3);
    struct vocabulary *vocabulary = made_up_read();
    struct bpe *bpe = open_bpe(vocabulary);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        uint16_t tokens[8];
        size_t place;
        assert_int_equal(bpe_encode(bpe, texts[i].text, strlen(texts[i].text), tokens, &place), STATUS_INVALID);
        assert_int_equal(place, texts[i].wrong);
    }
    bpe_destroy(bpe);
    vocabulary_destroy(vocabulary);
}

static void test_numbers_that_are_no_tokens(void **state)
{
    (void)state;
    char *text = NULL;
    size_t bytes;
    struct error error;
    made_up_write(doubles, 3);
    struct vocabulary *vocabulary = made_up_read();
    assert_int_equal(bpe_decode(vocabulary, (uint16_t[]){'a', 301}, 2, &text, &bytes, &error), STATUS_INVALID);
    assert_string_equal(error.text, "301 is no token of the vocabulary");
    assert_null(text);
    assert_int_equal(bpe_decode(vocabulary, (uint16_t[]){MADE_UP_END, 65533}, 2, &text, &bytes, &error), STATUS_OK);
    assert_string_equal(text, "<|endoftext|>en");
    free(text);
    vocabulary_destroy(vocabulary);
}

// What takes the square of its length would take an hour.
static void test_a_long_word(void **state)
{
    (void)state;
    const size_t bytes = 3000001;
    char *text = malloc(bytes);
    uint16_t *tokens = malloc(bytes * sizeof(*tokens));
    size_t count;
    made_up_write(doubles, 3);
    struct vocabulary *vocabulary = made_up_read();
    struct bpe *bpe = open_bpe(vocabulary);
    memset(text, 'a', bytes);
    assert_int_equal(bpe_encode(bpe, text, bytes, tokens, &count), STATUS_OK);
    assert_int_equal(count, 750001);
    assert_int_equal(tokens[0], 65534);
    assert_int_equal(tokens[count - 1], 'a');
    bpe_destroy(bpe);
    vocabulary_destroy(vocabulary);
    free(tokens);
    free(text);
}

// Refused with exactly this line.
static void assert_refused(const char *line)
{
    struct error error = {.text = ""};
    struct vocabulary *vocabulary = NULL;
    assert_int_equal(vocabulary_read("encoder.json", "vocab.bpe", &vocabulary, &error), STATUS_INVALID);
    assert_string_equal(error.text, line);
    assert_int_equal(error.status, STATUS_INVALID);
    assert_null(vocabulary);
}

// With these entries put in front of encoder.json's.
static void assert_encoder_refused(const char *entries, const char *line)
{
    static char text[8192], more[8192 + 128];
    made_up_write(doubles, 3);
    FILE *file = fopen("encoder.json", "r");
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    snprintf(more, sizeof(more), "{%s%s", entries, text + 1);
    write_text("encoder.json", more);
    assert_refused(line);
}

static void test_encoders_that_are_refused(void **state)
{
    (void)state;
    assert_encoder_refused("\"x\": 400, \"x\": 401, ", "encoder.json:1:14: duplicate object key near '\"x\"'");
    assert_encoder_refused("\"xx\": 65536, ", "encoder.json: 'xx': its number must be one from 0 to 65535");
    assert_encoder_refused("\"xx\": -1, ", "encoder.json: 'xx': its number must be one from 0 to 65535");
    assert_encoder_refused("\"xx\": 1.5, ", "encoder.json: 'xx': its number must be one from 0 to 65535");
    assert_encoder_refused("\"xx\": 300, ", "encoder.json: '<|endoftext|>': another token has the number 300 too");
    assert_encoder_refused("\"x y\": 400, ", "encoder.json: 'x y': has a character that stands for no byte");
    assert_encoder_refused("\"\u6f22\": 400, ", "encoder.json: '\u6f22': has a character that stands for no byte");
    assert_encoder_refused("\"\": 400, ", "encoder.json: the token with the number 400 is empty");
    write_text("encoder.json", "[1, 2]");
    assert_refused("encoder.json: is no object of tokens and their numbers");
    write_text("encoder.json", "{\"a\": 1,\n \"b\" 2}");
    assert_refused("encoder.json:2:6: ':' expected near '2'");
    write_text("encoder.json", "{\"a\": 97, \"<|endoftext|>\": 0}");
    assert_refused("encoder.json: no token is the byte 0");
    unlink("encoder.json");
    assert_refused("encoder.json: cannot read: No such file or directory");
}

static void test_an_encoder_without_an_end_of_text(void **state)
{
    (void)state;
    static char text[8192];
    made_up_write(doubles, 3);
    FILE *file = fopen("encoder.json", "r");
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    *strstr(text, "endoftext") = 'E';
    write_text("encoder.json", text);
    assert_refused("encoder.json: has no token <|endoftext|>");
}

static void assert_merges_refused(const char *merges, const char *line)
{
    made_up_write(doubles, 3);
    write_text("vocab.bpe", merges);
    assert_refused(line);
}

static void test_merges_that_are_refused(void **state)
{
    (void)state;
    assert_merges_refused("#version: 0.2\na a\n\n", "vocab.bpe:3: '' is not two tokens with one space between them");
    assert_merges_refused("a a\naa\n", "vocab.bpe:2: 'aa' is not two tokens with one space between them");
    assert_merges_refused("a a a\n", "vocab.bpe:1: 'a a a' is not two tokens with one space between them");
    assert_merges_refused(" a\n", "vocab.bpe:1: ' a' is not two tokens with one space between them");
    assert_merges_refused("a \n", "vocab.bpe:1: 'a ' is not two tokens with one space between them");
    assert_merges_refused("a a\nxy a\n", "vocab.bpe:2: 'xy' is no token of the vocabulary");
    assert_merges_refused("a b\n", "vocab.bpe:1: 'ab' is no token of the vocabulary");
    assert_merges_refused("aa aa\na a\n", "vocab.bpe:1: 'aa' is not made by a line before");
    assert_merges_refused("a a\na a\n", "vocab.bpe:2: 'aa' is made by a line before, too");
    assert_merges_refused("a a\n#version: 0.2\n", "vocab.bpe:2: '#version:' is no token of the vocabulary");
    unlink("vocab.bpe");
    assert_refused("vocab.bpe: cannot read: No such file or directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_words_merge_as_they_would_in_rounds, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_what_was_encoded_is_decoded, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_texts, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_what_is_no_utf8, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_numbers_that_are_no_tokens, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_a_long_word, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_encoders_that_are_refused, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_an_encoder_without_an_end_of_text, enter_folder, leave_folder),
        cmocka_unit_test_setup_teardown(test_merges_that_are_refused, enter_folder, leave_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
