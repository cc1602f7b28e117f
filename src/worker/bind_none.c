// SPDX-License-Identifier: Apache-2.0
#include "worker/bind.h"

void bind_near(const struct device_location *location, char *text, size_t size)
{
    (void)location, (void)size;
    text[0] = '\0';
}
