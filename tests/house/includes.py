#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""includes.py ROOT: the rules of the house that a compiler does not check.

Modules include each other one way only (docs/design.md), every source file starts with its licence, and nothing but
the CPU device's own kernels and files turns a device address into a pointer.
"""
import pathlib
import re
import sys

ALLOWED = {
    "src/mem": {"mem"},
    "kernels": {"mem", "kernels"},
    "src/model": {"mem", "kernels", "model"},
    "src/sched": {"sched"},
    "src/worker": {"mem", "kernels", "model", "sched", "worker"},
}
# Commands use the rest of the worker, and nothing there uses a command.
COMMANDS = "src/worker/commands/"
POINTER_FILES = ("kernels/", "src/mem/device_cpu", "tests/", "bench/")
SUFFIXES = {".c", ".h", ".cc", ".cu", ".cuh"}
LICENCE = "// SPDX-License-Identifier: Apache-2.0\n"


def broken_rules(root, path):
    name, text = str(path.relative_to(root)), path.read_text()
    if not text.startswith(LICENCE):
        yield f"{name}:1: does not start with {LICENCE.strip()}"
    if "device_cpu_pointer" in text and not name.startswith(POINTER_FILES):
        yield f"{name}: turns a device address into a pointer"
    module = next((folder for folder in ALLOWED if name.startswith(folder + "/")), None)
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'#include "([a-z]+)/', line)
        if module and match and match[1] not in ALLOWED[module]:
            yield f"{name}:{number}: {module} may not include {match[1]}"
        if name.startswith("src/") and not name.startswith(COMMANDS) and line.startswith('#include "worker/commands/'):
            yield f"{name}:{number}: only commands include commands"
        if module and line.startswith('#include "') and not match:
            yield f"{name}:{number}: an include names its module, as in \"mem/pool.h\""


def main():
    root = pathlib.Path(sys.argv[1])
    paths = [path for folder in ("src", "kernels", "tests", "bench") for path in sorted((root / folder).rglob("*"))
             if path.suffix in SUFFIXES]
    broken = [line for path in paths for line in broken_rules(root, path)]
    print("\n".join(broken) if broken else f"{len(paths)} files keep the rules")
    sys.exit(1 if broken or not paths else 0)


main()
