// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "mem/blocks.h"
#include "mem/free_tree.h"
#include "mem/pool.h"
#include "mem/random.h"

#define BLOCKS  4096
#define SIZES   7
#define STREAMS 3
#define UNIT    MEM_POOL_ALIGNMENT

static struct block blocks[BLOCKS];
static bool inside[BLOCKS];

static struct stream *stream_of(uint64_t number)
{
    static char streams[STREAMS];
    return number == 0 ? NULL : (struct stream *)&streams[number];
}

static size_t depth_of(const struct block *root)
{
    if (root == NULL) {
        return 0;
    }
    size_t smaller = depth_of(root->smaller), larger = depth_of(root->larger);
    return 1 + (smaller > larger ? smaller : larger);
}

static const struct block *scan(const struct stream *stream, uint64_t bytes)
{
    const struct block *best = NULL;
    for (size_t i = 0; i < BLOCKS; i++) { // in order of address
        bool fits = inside[i] && blocks[i].stream == stream && blocks[i].bytes >= bytes;
        if (fits && (best == NULL || blocks[i].bytes < best->bytes)) {
            best = &blocks[i];
        }
    }
    return best;
}

static void it_finds_what_a_scan_finds(void **context)
{
    (void)context;
    struct block *root = NULL;
    uint64_t draws = 0, count = 0;
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i].address = UNIT * (1 + i);
    }
    for (size_t round = 0; round < 20000; round++) {
        struct block *block = &blocks[random_draw(1, draws++) % BLOCKS];
        bool *is_inside = &inside[block - blocks];
        if (*is_inside) {
            free_tree_remove(&root, block);
        } else {
            block->bytes = UNIT * (1 + random_draw(1, draws++) % SIZES);
            block->stream = stream_of(random_draw(1, draws++) % STREAMS);
            free_tree_insert(&root, block);
        }
        *is_inside = !*is_inside;
        count += *is_inside ? 1 : UINT64_MAX;
        assert_int_equal(free_tree_has(root, block), *is_inside);
        const struct stream *stream = stream_of(random_draw(1, draws++) % STREAMS);
        uint64_t bytes = UNIT * (1 + random_draw(1, draws++) % (SIZES + 1));
        assert_ptr_equal(free_tree_find(root, stream, bytes), scan(stream, bytes));
        if (round % 500 == 0) {
            assert_int_equal(free_tree_count(root), count);
        }
    }
}

// As a list this would be as deep as it is long.
static void blocks_that_come_in_order_leave_it_shallow(void **context)
{
    (void)context;
    struct block *root = NULL;
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = (struct block){.address = UNIT * (1 + i), .bytes = UNIT};
        free_tree_insert(&root, &blocks[i]);
    }
    assert_int_equal(free_tree_count(root), BLOCKS);
    assert_in_range(depth_of(root), 12, 40);
}

static void damage_is_counted_as_such(void **context)
{
    (void)context;
    struct block *root = NULL;
    for (size_t i = 0; i < 64; i++) {
        blocks[i] = (struct block){.address = UNIT * (1 + i), .bytes = UNIT};
        free_tree_insert(&root, &blocks[i]);
    }
    for (size_t i = 0; i < 64; i++) {
        blocks[i].bytes = i % 2 == 0 ? 2 * UNIT : UNIT / 2;
        assert_int_equal(free_tree_count(root), SIZE_MAX);
        blocks[i].bytes = UNIT;
    }
    assert_int_equal(free_tree_count(root), 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_finds_what_a_scan_finds),
        cmocka_unit_test(blocks_that_come_in_order_leave_it_shallow),
        cmocka_unit_test(damage_is_counted_as_such),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
