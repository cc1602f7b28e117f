// SPDX-License-Identifier: Apache-2.0
#include <hwloc.h>
#include <stdio.h>

#include "worker/bind.h"

// The smallest part of the machine with cores that the device is attached to; NULL: not known.
static hwloc_obj_t find_near(hwloc_topology_t topology, const char *bus_id)
{
    hwloc_obj_t device = hwloc_get_pcidev_by_busidstring(topology, bus_id);
    return device == NULL ? NULL : hwloc_get_non_io_ancestor_obj(topology, device);
}

// Whether somebody has bound this process to a part of the cores that it might use.
static bool is_bound(hwloc_topology_t topology)
{
    hwloc_bitmap_t cores = hwloc_bitmap_alloc();
    bool bound = hwloc_get_cpubind(topology, cores, HWLOC_CPUBIND_PROCESS) == 0 &&
                 !hwloc_bitmap_isincluded(hwloc_topology_get_allowed_cpuset(topology), cores);
    hwloc_bitmap_free(cores);
    return bound;
}

static void bind_to(hwloc_topology_t topology, hwloc_obj_t near, const char *bus_id, char *text, size_t size)
{
    char cores[256];
    hwloc_bitmap_list_snprintf(cores, sizeof(cores), near->cpuset);
    if (hwloc_set_cpubind(topology, near->cpuset, HWLOC_CPUBIND_PROCESS) != 0) {
        snprintf(text, size, "cannot bind to the cores near the device %s (%s)", bus_id, cores);
        return;
    }
    hwloc_set_membind(topology, near->nodeset, HWLOC_MEMBIND_BIND, HWLOC_MEMBIND_BYNODESET); // where the system can
    snprintf(text, size, "bound to the cores near the device %s: %s", bus_id, cores);
}

static void bind_in(hwloc_topology_t topology, const char *bus_id, char *text, size_t size)
{
    hwloc_obj_t near = find_near(topology, bus_id);
    if (near == NULL) {
        snprintf(text, size, "not bound: which cores are near the device %s is not known", bus_id);
    } else if (is_bound(topology)) {
        snprintf(text, size, "not bound: the launcher has bound this process already");
    } else if (hwloc_bitmap_isequal(near->cpuset, hwloc_topology_get_allowed_cpuset(topology))) {
        snprintf(text, size, "not bound: all cores are near the device %s", bus_id);
    } else {
        bind_to(topology, near, bus_id, text, size);
    }
}

void bind_near(const struct device_location *location, char *text, size_t size)
{
    hwloc_topology_t topology;
    text[0] = '\0';
    if (location->bus_id[0] == '\0' || hwloc_topology_init(&topology) != 0) {
        return;
    }
    hwloc_topology_set_components(topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "pci"); // the kernel's files do
    hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    if (hwloc_topology_load(topology) == 0) {
        bind_in(topology, location->bus_id, text, size);
    }
    hwloc_topology_destroy(topology);
}
