// SPDX-License-Identifier: Apache-2.0
#include "mem/range.h"

void range_begin(const char *name)
{
    (void)name;
}

void range_end(void)
{
}
