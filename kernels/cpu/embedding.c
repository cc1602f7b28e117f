// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu.h"

void cpu_embedding(struct kernel_context *context, device_address y_at, device_address tokens_at, device_address wte_at,
                   device_address wpe_at, size_t batch, size_t length, size_t channels)
{
    (void)context;
    real *y = device_cpu_pointer(y_at);
    const int32_t *tokens = device_cpu_pointer(tokens_at);
    const real *wte = device_cpu_pointer(wte_at), *wpe = device_cpu_pointer(wpe_at);

#pragma omp parallel for if (batch * length * channels > CPU_PARALLEL_MIN)
    for (size_t row = 0; row < batch * length; row++) {
        const real *token = wte + (size_t)tokens[row] * channels;
        const real *position = wpe + row % length * channels;
#pragma omp simd
        for (size_t i = 0; i < channels; i++) {
            y[row * channels + i] = cpu_real(cpu_float(token[i]) + cpu_float(position[i]));
        }
    }
}

static void columns_backward(float *dwte, float *dwpe, const real *dy, const int32_t *tokens, size_t rows,
                             size_t length, size_t channels, size_t width)
{
    for (size_t row = 0; row < rows; row++) {
        const real *d = dy + row * channels;
        float *token = dwte + (size_t)tokens[row] * channels;
        float *position = dwpe + row % length * channels;
#pragma omp simd
        for (size_t i = 0; i < width; i++) {
            token[i] += cpu_float(d[i]);
            position[i] += cpu_float(d[i]);
        }
    }
}

// Two rows may have the same token, so threads divide the channels.
void cpu_embedding_backward(struct kernel_context *context, device_address dwte_at, device_address dwpe_at,
                            device_address dy_at, device_address tokens_at, size_t batch, size_t length,
                            size_t channels, size_t vocabulary)
{
    (void)context, (void)vocabulary;
    float *dwte = device_cpu_pointer(dwte_at), *dwpe = device_cpu_pointer(dwpe_at);
    const real *dy = device_cpu_pointer(dy_at);
    const int32_t *tokens = device_cpu_pointer(tokens_at);

#pragma omp parallel for if (batch * length * channels > CPU_PARALLEL_MIN)
    for (size_t i = 0; i < channels; i += CPU_COLUMN_BLOCK) {
        columns_backward(dwte + i, dwpe + i, dy + i, tokens, batch * length, length, channels,
                         uint64_min(CPU_COLUMN_BLOCK, channels - i));
    }
}
