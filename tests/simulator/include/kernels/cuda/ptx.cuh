// SPDX-License-Identifier: Apache-2.0
//
// Stands in for the product's file of this name: the instructions in software, as the PTX ISA says. Strict about what a
// GPU forgives sometimes: addresses must be aligned, a row that ldmatrix reads must have been written before its lane
// comes, and of two neighbouring copies one arrives at once and the other only when it is waited for.
#ifndef HEADROOM_KERNELS_CUDA_PTX_CUH
#define HEADROOM_KERNELS_CUDA_PTX_CUH

#include <cstdio>
#include <cstdlib>
#include <vector>

inline void ptx_expect(bool condition, const char *instruction, const char *what)
{
    if (!condition) {
        fprintf(stderr, "simulator: %s: %s\n", instruction, what);
        abort();
    }
}

inline bool ptx_is_aligned(const void *address, uintptr_t bytes)
{
    return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}

struct ptx_operands {
    unsigned a[4], b[2];
};

// sum + a row of the first matrix times a column of the second. Millions of times per test, so without sanitizers.
__attribute__((no_sanitize("address", "undefined"))) inline float
ptx_add_product(float sum, const ptx_operands *row, unsigned lower, const ptx_operands *column)
{
    for (unsigned pair = 0; pair < 8; pair++) {
        const unsigned x = row[pair % 4].a[2 * (pair / 4) + lower], y = column[pair % 4].b[pair / 4];
        sum += __builtin_bit_cast(float, x << 16) * __builtin_bit_cast(float, y << 16);
        sum += __builtin_bit_cast(float, x & 0xffff0000u) * __builtin_bit_cast(float, y & 0xffff0000u);
    }
    return sum;
}

inline void ptx_mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1)
{
    ptx_operands all[32];
    const ptx_operands mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const unsigned group = simt_lane() / 4, within = simt_lane() % 4;

    simt_exchange(0xffffffffu, "mma", &mine, sizeof(mine), all);
    for (unsigned i = 0; i < 4; i++) {
        const unsigned lower = i / 2, column = 2 * within + i % 2; // lower: of row group + 8
        d[i] = ptx_add_product(d[i], all + group * 4, lower, all + column * 4);
    }
}

struct ptx_row {
    uint16_t at[8];
};

inline void ptx_exchange_rows(const char *what, const void *row, ptx_row (&all)[32])
{
    ptx_row mine;
    ptx_expect(ptx_is_aligned(row, 16), what, "a row is not aligned to 16 bytes");
    memcpy(&mine, row, sizeof(mine));
    simt_exchange(0xffffffffu, what, &mine, sizeof(mine), all);
}

inline void ptx_load_matrices(unsigned (&to)[4], const void *row)
{
    ptx_row all[32];
    const unsigned group = simt_lane() / 4, within = simt_lane() % 4;

    ptx_exchange_rows("ldmatrix", row, all);
    for (unsigned i = 0; i < 4; i++) {
        const ptx_row &from = all[8 * i + group];
        to[i] = from.at[2 * within] | static_cast<unsigned>(from.at[2 * within + 1]) << 16;
    }
}

inline void ptx_load_transposed(unsigned (&to)[4], const void *row)
{
    ptx_row all[32];
    const unsigned group = simt_lane() / 4, within = simt_lane() % 4;

    ptx_exchange_rows("ldmatrix.trans", row, all);
    for (unsigned i = 0; i < 4; i++) {
        const ptx_row *from = all + 8 * i + 2 * within;
        to[i] = from[0].at[group] | static_cast<unsigned>(from[1].at[group]) << 16;
    }
}

struct ptx_pending {
    void *to;
    const void *from; // NULL: zeros
    size_t bytes;
    uint3 block;
};
inline std::vector<ptx_pending> ptx_copies[1024]; // that each thread of the block has not waited for

inline std::vector<ptx_pending> &ptx_own_copies()
{
    return ptx_copies[threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)];
}

inline void ptx_finish(const ptx_pending &copy)
{
    ptx_expect(memcmp(&copy.block, &blockIdx, sizeof(copy.block)) == 0, "cp.async", "a block did not wait for a copy");
    if (copy.from == nullptr) {
        memset(copy.to, 0, copy.bytes);
    } else {
        memcpy(copy.to, copy.from, copy.bytes);
    }
}

template <int bytes> void ptx_copy(void *shared, const void *global, bool valid)
{
    static_assert(bytes == 4 || bytes == 16, "sizes of cp.async");
    const ptx_pending copy = {shared, valid ? global : nullptr, bytes, blockIdx};
    ptx_expect(ptx_is_aligned(shared, bytes) && ptx_is_aligned(global, bytes), "cp.async", "an address is not aligned");
    if (reinterpret_cast<uintptr_t>(shared) / bytes % 2 == 0) {
        ptx_finish(copy);
    } else {
        ptx_own_copies().push_back(copy);
    }
}

inline void ptx_copy_wait()
{
    for (const ptx_pending &copy : ptx_own_copies()) {
        ptx_finish(copy);
    }
    ptx_own_copies().clear();
}

inline float ptx_exp2(float x)
{
    const float y = std::exp2(x);
    return y < 0x1p-126f ? 0 : y;
}

#endif
