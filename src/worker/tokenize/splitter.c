// SPDX-License-Identifier: Apache-2.0
#define PCRE2_CODE_UNIT_WIDTH 8

#include "worker/tokenize/splitter.h"

#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>

// \p{White_Space} is what GPT-2's \s means; PCRE2's \s has U+180E, too.
static const char pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+"
                              "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+";

struct splitter {
    pcre2_code *code;
    pcre2_match_data *match;
};

enum status splitter_create(struct splitter **splitter_p, struct error *error)
{
    int fault;
    PCRE2_SIZE place;
    struct splitter *splitter = calloc(1, sizeof(*splitter));
    if (splitter == NULL) {
        return error_out_of_host_memory(error);
    }
    splitter->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED,
                                   &fault, &place, NULL);
    if (splitter->code == NULL) {
        free(splitter);
        return error_set(error, STATUS_ERROR, "PCRE2 does not compile the pattern of words: error %d", fault);
    }
    splitter->match = pcre2_match_data_create_from_pattern(splitter->code, NULL);
    if (splitter->match == NULL) {
        splitter_destroy(splitter);
        return error_out_of_host_memory(error);
    }
    pcre2_jit_compile(splitter->code, PCRE2_JIT_COMPLETE); // where the host allows none, it is interpreted
    *splitter_p = splitter;
    return STATUS_OK;
}

void splitter_destroy(struct splitter *splitter)
{
    if (splitter != NULL) {
        pcre2_match_data_free(splitter->match);
        pcre2_code_free(splitter->code);
        free(splitter);
    }
}

bool splitter_accepts(struct splitter *splitter, const char *text, size_t bytes, size_t *wrong_p)
{
    int result = pcre2_match(splitter->code, (PCRE2_SPTR)text, bytes, 0, 0, splitter->match, NULL);
    if (result <= PCRE2_ERROR_UTF8_ERR1 && result >= PCRE2_ERROR_UTF8_ERR21) {
        *wrong_p = pcre2_get_startchar(splitter->match);
        return false;
    }
    return true;
}

size_t splitter_next(struct splitter *splitter, const char *text, size_t bytes, size_t first)
{
    int result = pcre2_match(splitter->code, (PCRE2_SPTR)text, bytes, first, PCRE2_NO_UTF_CHECK, splitter->match, NULL);
    return result > 0 ? pcre2_get_ovector_pointer(splitter->match)[1] : 0; // every character begins a word
}
