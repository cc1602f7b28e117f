#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""config_docs.py HEADROOM ROOT: docs/config.md names every configuration key exactly as --help does, and no other; so
does docs/simulate.md what a scenario may say."""
import pathlib
import re
import subprocess
import sys

KEY = re.compile(r"^[a-z]+\.[a-z0-9_]+ +\S.*$", re.MULTILINE)


def same_keys(command, document):
    told = KEY.findall(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    written = KEY.findall(document.read_text())
    for line in sorted(set(told) ^ set(written)):
        print(("only in --help: " if line in told else f"only in {document.name}: ") + line)
    return bool(told) and told == written


def main():
    program, docs = sys.argv[1], pathlib.Path(sys.argv[2]) / "docs"
    same = [same_keys([program, "--help"], docs / "config.md"),
            same_keys([program, "simulate", "--help"], docs / "simulate.md")]
    sys.exit(0 if all(same) else 1)


main()
