// SPDX-License-Identifier: Apache-2.0
//
// What the CPU's kernels are made of.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cpu/cpu.h"

// The bound that cpu_exp promises; float32 alone rounds by up to 6e-8.
static void exponential_is_accurate_over_the_whole_range(void **state)
{
    (void)state;
    for (int32_t i = -87300; i < 88700; i++) {
        float x = (float)i * 1e-3f;
        double exact = exp((double)x);
        double error = fabs((double)cpu_exp(x) - exact) / exact;
        if (!(error <= 2e-7)) {
            fail_msg("e^%.9g: relative error %g", (double)x, error);
        }
    }
    for (int32_t i = -110000; i < -87300; i++) { // denormal results, then 0
        float x = (float)i * 1e-3f;
        assert_true(fabs((double)cpu_exp(x) - exp((double)x)) <= 0x1p-149);
    }
    assert_true(cpu_exp(0) == 1);
    assert_true(cpu_exp(88.8f) == INFINITY && cpu_exp(1e30f) == INFINITY && cpu_exp(INFINITY) == INFINITY);
    assert_true(cpu_exp(-1e30f) == 0 && cpu_exp(-INFINITY) == 0);
    assert_true(isnan(cpu_exp(NAN)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exponential_is_accurate_over_the_whole_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
