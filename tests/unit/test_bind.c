// SPDX-License-Identifier: Apache-2.0
//
// Binding near a device, on a machine that hwloc is told of: cores 0 and 1, each with memory of its own, and one device
// on the bus of core 1. Each test in a process of its own.
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "worker/bind.h"

#define SETS(set) "cpuset=\"" set "\" complete_cpuset=\"" set "\" nodeset=\"" set "\" complete_nodeset=\"" set "\""
#define BRIDGE    "<object type=\"Bridge\" gp_index=\"8\" bridge_type=\"0-1\" depth=\"0\" bridge_pci=\"0000:[00-ff]\">"
#define DEVICE                                                                                                         \
    "<object type=\"PCIDev\" gp_index=\"9\" pci_busid=\"0000:1b:00.0\" pci_type=\"0302 [10de:2330] [10de:16c1] a1\"/>"
#define PACKAGE(n, set, inside)                                                                                        \
    "<object type=\"Package\" os_index=\"" #n "\" gp_index=\"1" #n                                                     \
    "\" " SETS(set) ">"                                                                                                \
                    "<object type=\"NUMANode\" os_index=\"" #n "\" gp_index=\"2" #n                                    \
                    "\" " SETS(set) " local_memory=\"1073741824\"/>"                                                   \
                                    "<object type=\"PU\" os_index=\"" #n "\" gp_index=\"3" #n                          \
                                    "\" " SETS(set) "/>" inside "</object>"

static const char machine[] =
    "<?xml version=\"1.0\"?><!DOCTYPE topology SYSTEM \"hwloc2.dtd\"><topology version=\"2.0\">"
    "<object type=\"Machine\" gp_index=\"1\" " SETS("0x3") " allowed_cpuset=\"0x3\" allowed_nodeset=\"0x3\">" PACKAGE(
        0, "0x1", "") PACKAGE(1, "0x2", BRIDGE DEVICE "</object>") "</object></topology>";

static char file[] = "/tmp/headroom-test-bind-XXXXXX";

static void run_on(unsigned long cores)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (size_t i = 0; i < 2; i++) {
        if (cores >> i & 1) {
            CPU_SET(i, &set);
        }
    }
    if (sched_setaffinity(0, sizeof(set), &set) != 0) {
        _exit(77);
    }
}

static bool runs_on(unsigned long cores)
{
    cpu_set_t set;
    sched_getaffinity(0, sizeof(set), &set);
    return !!CPU_ISSET(0, &set) == (cores & 1) && !!CPU_ISSET(1, &set) == cores >> 1;
}

// A process that runs on the cores `before` (a bit each) runs on `after` once it is bound near the device.
static void expect(const char *bus_id, unsigned long before, unsigned long after, const char *line)
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct device_location location = {0};
        char text[256] = "not set";
        snprintf(location.bus_id, sizeof(location.bus_id), "%s", bus_id);
        run_on(before);
        bind_near(&location, text, sizeof(text));
        if (strcmp(text, line) != 0 || !runs_on(after)) {
            fprintf(stderr, "'%s', not '%s', or on other cores\n", text, line);
            _exit(1);
        }
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        skip(); // this machine has not both cores
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_process_is_bound_near_its_device(void **state)
{
    (void)state;
    expect("0000:1b:00.0", 3, 2, "bound to the cores near the device 0000:1b:00.0: 1");
    expect("0000:1B:00.0", 3, 2, "bound to the cores near the device 0000:1B:00.0: 1"); // as CUDA writes it
}

static void what_the_launcher_bound_stays(void **state)
{
    (void)state;
    expect("0000:1b:00.0", 1, 1, "not bound: the launcher has bound this process already");
}

static void an_unknown_device_binds_nothing(void **state)
{
    (void)state;
    expect("0000:1c:00.0", 3, 3, "not bound: which cores are near the device 0000:1c:00.0 is not known");
    expect("", 3, 3, "");
}

static int write_machine(void **state)
{
    (void)state;
    int handle = mkstemp(file);
    ssize_t length = (ssize_t)sizeof(machine) - 1;
    bool written = handle >= 0 && write(handle, machine, (size_t)length) == length && close(handle) == 0;
    setenv("HWLOC_XMLFILE", file, 1);
    setenv("HWLOC_THISSYSTEM", "1", 1); // and so it binds
    return written ? 0 : -1;
}

static int remove_machine(void **state)
{
    (void)state;
    return unlink(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_process_is_bound_near_its_device),
        cmocka_unit_test(what_the_launcher_bound_stays),
        cmocka_unit_test(an_unknown_device_binds_nothing),
    };
    return cmocka_run_group_tests(tests, write_machine, remove_machine);
}
