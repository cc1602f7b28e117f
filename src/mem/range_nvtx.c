// SPDX-License-Identifier: Apache-2.0
#include "mem/range.h"

#include <nvtx3/nvToolsExt.h>

void range_begin(const char *name)
{
    nvtxRangePushA(name);
}

void range_end(void)
{
    nvtxRangePop();
}
