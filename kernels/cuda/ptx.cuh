// SPDX-License-Identifier: Apache-2.0
//
// Instructions that CUDA C++ has no functions for (PTX ISA 8.7, "Matrix multiply-accumulate operation using mma
// instruction", "ldmatrix", "cp.async"). All 32 lanes of a warp take part in those on matrices. Compute capability 8.0.
#ifndef HEADROOM_KERNELS_CUDA_PTX_CUH
#define HEADROOM_KERNELS_CUDA_PTX_CUH

// d[16, 8] += a[16, 16] b[16, 8], in float32, of bfloat16 pairs. With g = lane / 4 and t = lane % 4 a lane has of
//   a: rows g, g + 8, g, g + 8 in columns 2t and 2t + 1, of the last two 8 further;
//   b: rows 2t and 2t + 1, and 8 further, in column g;
//   d: row g in columns 2t and 2t + 1, then row g + 8 in the same.
__device__ __forceinline__ void ptx_mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four matrices of 8 rows of 16 bytes in shared memory: lane i says where row i % 8 of matrix i / 8 is, and gets
// columns 2t and 2t + 1 of row g of each.
__device__ __forceinline__ void ptx_load_matrices(unsigned (&to)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
}

// The same of the matrices' transposes: rows 2t and 2t + 1 of column g.
__device__ __forceinline__ void ptx_load_transposed(unsigned (&to)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
}

// Starts to copy 4 or 16 bytes, aligned as much, to shared memory; zeros where not `valid`.
template <int bytes> __device__ __forceinline__ void ptx_copy(void *shared, const void *global, bool valid)
{
    static_assert(bytes == 4 || bytes == 16, "sizes of cp.async");
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    if constexpr (bytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     :
                     : "r"(to), "l"(__cvta_generic_to_global(global)), "r"(valid ? bytes : 0)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                     :
                     : "r"(to), "l"(__cvta_generic_to_global(global)), "r"(valid ? bytes : 0)
                     : "memory");
    }
}

// Waits for the thread's own copies. Other threads see them after a barrier.
__device__ __forceinline__ void ptx_copy_wait()
{
    asm volatile("cp.async.wait_all;" : : : "memory");
}

// 2^x to 2 ulp, results below the smallest normal number are 0.
__device__ __forceinline__ float ptx_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
