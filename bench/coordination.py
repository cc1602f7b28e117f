#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/coordination.py METRICS.jsonl: the part of a run's step time that coordination took on rank 0: measuring
headroom, waiting for reports beyond the all-reduce, planning. Fails above 1 %."""
import json
import statistics
import sys

LIMIT = 0.01


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        steps = [line for line in map(json.loads, file) if "event" not in line]
    part = sum(step["coordination_ms"] for step in steps) / sum(step["step_ms"] for step in steps)
    median = statistics.median(step["coordination_ms"] / step["step_ms"] for step in steps)
    print(f"{len(steps)} steps: coordination took {part:.2%} of all step time (at most {LIMIT:.0%}), "
          f"{median:.2%} of the median step")
    sys.exit(part > LIMIT)


main()
