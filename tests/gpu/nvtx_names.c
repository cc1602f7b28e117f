// SPDX-License-Identifier: Apache-2.0
//
// What a profiler would see: a library that NVTX loads where NVTX_INJECTION64_PATH names it, and that writes the ranges
// which a program opens into the file that NVTX_NAMES names, indented by their depth.
#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <stdlib.h>

static FILE *file;
static int depth;

static int NVTX_API push(const char *name)
{
    fprintf(file, "%*s%s\n", 2 * depth, "", name);
    fflush(file);
    return depth++;
}

static int NVTX_API pop(void)
{
    return --depth;
}

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_export_table);

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_export_table)
{
    const NvtxExportTableCallbacks *callbacks = get_export_table(NVTX_ETID_CALLBACKS);
    const char *name = getenv("NVTX_NAMES");
    NvtxFunctionTable table;
    unsigned size = 0;
    if (callbacks == NULL || name == NULL || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &table, &size) ||
        size <= NVTX_CBID_CORE_RangePop) {
        return 0;
    }
    file = fopen(name, "a");
    if (file == NULL) {
        return 0;
    }
    *table[NVTX_CBID_CORE_RangePushA] = (NvtxFunctionPointer)push;
    *table[NVTX_CBID_CORE_RangePop] = (NvtxFunctionPointer)pop;
    return 1;
}
