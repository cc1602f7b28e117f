// SPDX-License-Identifier: Apache-2.0
//
// neighbour: another program on the GPU, steered by lines on its standard input. "leave BYTES" takes memory until only
// so many bytes are free, "give" returns it all; each is answered with "done" and what is free then.
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE     ((size_t)2 << 20)
#define LARGE     ((size_t)1 << 30)
#define PIECE_MAX 4096

static size_t free_bytes(void)
{
    size_t free = 0, total = 0;
    if (cudaMemGetInfo(&free, &total) != cudaSuccess) {
        fprintf(stderr, "neighbour: there is no GPU\n");
        exit(EXIT_FAILURE);
    }
    return free;
}

int main(void)
{
    static void *pieces[PIECE_MAX];
    size_t count = 0;
    char line[64];
    while (fgets(line, sizeof(line), stdin) != NULL) {
        if (strncmp(line, "leave ", 6) == 0) {
            size_t left = strtoul(line + 6, NULL, 10);
            for (size_t size = LARGE; size >= PIECE; size = size == LARGE ? PIECE : 0) {
                while (count < PIECE_MAX && free_bytes() >= left + size &&
                       cudaMalloc(&pieces[count], size) == cudaSuccess) {
                    count++;
                }
            }
        } else {
            while (count > 0) {
                cudaFree(pieces[--count]);
            }
        }
        printf("done %zu\n", free_bytes());
        fflush(stdout);
    }
    return EXIT_SUCCESS;
}
