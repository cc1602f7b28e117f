#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/reproducible.py PROGRAM [ROUNDS]: what train.reproducible costs on the CPU device. Trains a GPT of 0.8 million
weights on made-up text in turn as usual, with one thread and with one for each core, and reproducibly, with grains of
1, 4 and 16 samples and one thread, as is its rule. Prints the medians of step times over those of both usual runs."""
import os
import statistics
import sys
import tempfile

import small_gpt

GRAINS = (1, 4, 16)
WARM_UP = 4  # steps


def median_step_ms(program, folder, *overrides, threads=1):
    with tempfile.TemporaryDirectory(dir=folder) as run:
        steps = small_gpt.train(program, folder, f"{run}/run", *overrides, threads=threads)
    return statistics.median(step["step_ms"] for step in steps[WARM_UP:])


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    program, rounds = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 3
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        small_gpt.prepare(folder)
        usual, times = {threads: [] for threads in (1, cores)}, {grain: [] for grain in GRAINS}
        for _ in range(rounds):
            for threads, measured in usual.items():
                measured.append(median_step_ms(program, folder, threads=threads))
            for grain in GRAINS:
                reproducible = "train.reproducible=true", f"train.grain_size={grain}"
                times[grain].append(median_step_ms(program, folder, *reproducible))
    usual = {threads: statistics.median(measured) for threads, measured in usual.items()}
    for threads, ms in usual.items():
        print(f"as usual, threads {threads}: {ms:.0f} ms a step")
    for grain in GRAINS:
        ratios = (f"{statistics.median(times[grain]) / ms:.2f} times as long as with {threads}"
                  for threads, ms in usual.items())
        print(f"reproducible, grains of {grain}: {', '.join(ratios)}")


main()
