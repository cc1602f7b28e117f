#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""config_docs.py HEADROOM ROOT: docs/config.md names every configuration key exactly as --help does, and no other."""
import pathlib
import re
import subprocess
import sys

KEY = re.compile(r"^[a-z]+\.[a-z0-9_]+ +\S.*$", re.MULTILINE)


def main():
    program, root = sys.argv[1], pathlib.Path(sys.argv[2])
    told = KEY.findall(subprocess.run([program, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout)
    written = KEY.findall((root / "docs/config.md").read_text())
    for line in sorted(set(told) ^ set(written)):
        print(("only in --help: " if line in told else "only in docs/config.md: ") + line)
    sys.exit(0 if told and told == written else 1)


main()
