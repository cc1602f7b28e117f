#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/reproducible.py PROGRAM [ROUNDS]: what train.reproducible costs on the CPU device. Trains a GPT of 0.8 million
weights on made-up text in turn as usual and reproducibly, with grains of 1, 4 and 16 samples, each with one thread, and
prints the medians of step times over those of the usual run with one thread."""
import os
import statistics
import sys
import tempfile

import small_gpt

GRAINS = (1, 4, 16)
WARM_UP = 4  # steps


def median_step_ms(program, folder, *overrides):
    with tempfile.TemporaryDirectory(dir=folder) as run:
        steps = small_gpt.train(program, folder, f"{run}/run", *overrides)
    return statistics.median(step["step_ms"] for step in steps[WARM_UP:])


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    program, rounds = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 3
    with tempfile.TemporaryDirectory() as folder:
        small_gpt.prepare(folder)
        times = {grain: [] for grain in (0, *GRAINS)}
        for _ in range(rounds):
            times[0].append(median_step_ms(program, folder))
            for grain in GRAINS:
                reproducible = "train.reproducible=true", f"train.grain_size={grain}"
                times[grain].append(median_step_ms(program, folder, *reproducible))
    usual = statistics.median(times[0])
    print(f"as usual: {usual:.0f} ms a step")
    for grain in GRAINS:
        print(f"reproducible, grains of {grain}: {statistics.median(times[grain]) / usual:.2f} times as long")


main()
