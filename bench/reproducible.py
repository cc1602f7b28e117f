#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/reproducible.py PROGRAM [ROUNDS]: what train.reproducible costs on the CPU device. Trains a GPT of 0.8 million
weights on made-up text in turn as usual and reproducibly, with grains of 1, 4 and 16 samples, each with one thread, and
prints the medians of step times over those of the usual run with one thread."""
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile

CONFIG = """
model: {kind: gpt, vocab_size: 256, seq_len: 128, block_count: 4, head_count: 4, channels: 128}
train: {steps: 12, global_batch_size: 32}
optimizer: {kind: adamw, learning_rate: 1e-3}
data: {kind: text, path: text.txt}
device: {kind: cpu, capacity: 8GiB}
"""
GRAINS = (1, 4, 16)
WARM_UP = 4  # steps


def median_step_ms(program, folder, *overrides):
    with tempfile.TemporaryDirectory(dir=folder) as run:
        command = [program, "train", "config.yaml", f"run.folder={run}/run", "comm.kind=self", *overrides]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL,
                       env=os.environ | {"OMP_NUM_THREADS": "1"})
        with open(f"{run}/run/metrics.jsonl", encoding="utf-8") as file:
            steps = [line["step_ms"] for line in map(json.loads, file) if "event" not in line]
    return statistics.median(steps[WARM_UP:])


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    program, rounds = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 3
    choose = random.Random(1).choices
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/config.yaml", "w", encoding="utf-8") as file:
            file.write(CONFIG)
        with open(f"{folder}/text.txt", "w", encoding="utf-8") as file:
            file.write("".join(choose("abcdefgh \n", k=200000)))
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
