// SPDX-License-Identifier: Apache-2.0
//
// How the optimizer's state is cut among ranks.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "random_bits.h"
#include "worker/shards.h"

#define RANKS_MAX 64

static void check_cover(const struct shard *shards, uint32_t ranks, uint64_t elements)
{
    uint64_t next = 0;
    for (uint32_t i = 0; i < ranks; i++) {
        assert_int_equal(shards[i].first, next);
        assert_int_equal(shards[i].elements % SHARD_MULTIPLE, 0);
        next += shards[i].elements;
    }
    assert_int_equal(next, elements);
}

// Neighbours that cover everything, each within a multiple of its part.
static void each_gives_the_same_part(void **unused)
{
    (void)unused;
    uint64_t bits = 1;
    for (int round = 0; round < 2000; round++) {
        struct shard shards[RANKS_MAX];
        uint64_t headroom_bytes[RANKS_MAX];
        uint32_t ranks = 1 + (uint32_t)(random_bits(&bits) % RANKS_MAX);
        uint64_t elements = random_bits(&bits) % (UINT64_C(1) << (10 + random_bits(&bits) % 34)) / 64 * 64;
        long double all = 0;
        for (uint32_t i = 0; i < ranks; i++) {
            headroom_bytes[i] = random_bits(&bits) % 4 == 0 ? 0 : random_bits(&bits) >> random_bits(&bits) % 40;
            all += (long double)headroom_bytes[i];
        }
        shards_cut(elements, headroom_bytes, ranks, shards);
        check_cover(shards, ranks, elements);
        for (uint32_t i = 0; i < ranks && all > 0; i++) {
            long double part = (long double)elements * (long double)headroom_bytes[i] / all;
            assert_true((long double)shards[i].elements > part - 65 && (long double)shards[i].elements < part + 65);
        }
    }
}

static void none_has_any(void **unused)
{
    (void)unused;
    const uint64_t nothing[4] = {0};
    struct shard shards[4];
    shards_cut(640, nothing, 4, shards);
    check_cover(shards, 4, 640);
    assert_int_equal(shards[0].elements, 128);
    assert_int_equal(shards[3].elements, 192);
    shards_cut(64, nothing, 4, shards);
    check_cover(shards, 4, 64);
    assert_int_equal(shards[3].elements, 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_gives_the_same_part),
        cmocka_unit_test(none_has_any),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
