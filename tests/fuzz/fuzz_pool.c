// SPDX-License-Identifier: Apache-2.0
//
// The pool under operations from bytes that libFuzzer finds.
#include "pool_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct fuzz_coverage coverage;
    fuzz_pool(bytes, size, (struct fuzz_fault){0}, &coverage);
    return 0;
}
