#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""manual.py HEADROOM PAGE: the manual page has every command and configuration key of --help under an entry of its own,
and every line of the usage. Where man is installed it has nothing to warn of."""
import re
import shutil
import subprocess
import sys


def main():
    program, page = sys.argv[1:]
    told = subprocess.run([program, "--help"], check=True, capture_output=True, text=True).stdout
    usage, _, rest = told.partition("\n\n")
    with open(page, encoding="utf-8") as file:
        text = file.read().replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")
    entries = re.findall(r"^\.TP\n\.B (.*)$", text, re.MULTILINE)
    wanted = [re.match(r"memory \w+|\S+", line)[0] for line in rest.splitlines()
              if re.match(r"\S", line) and not line.startswith(("exit codes:", "configuration keys:"))]
    missing = [name for name in wanted if entries.count(name) != 1] + [name for name in entries if name not in wanted]
    missing += [line for line in usage.splitlines() if line[7:] not in text.splitlines()]
    if shutil.which("man") is not None:
        shown = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True, check=True)
        missing += shown.stderr.splitlines()
    for line in missing:
        print(f"not right in {page}: {line}")
    sys.exit(len(wanted) < 50 or len(missing) > 0)


main()
