#!/usr/bin/env bash
# format.sh ROOT: every source file is as clang-format writes it.
set -euo pipefail
cd "$1"
find src kernels tests bench -regex '.*\.\(c\|h\|cc\|cu\|cuh\|js\)' -print0 | xargs -0 clang-format --dry-run -Werror
