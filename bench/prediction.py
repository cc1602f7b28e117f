#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/prediction.py PROGRAM: how well step times are predicted on the CPU device. Trains a GPT of 0.8 million weights
on made-up text with each kind of recomputation, and prints by how much predictions miss the steps after the first 20.
Then how long the others should take by what the run without recomputation has measured, as headroom plan prints it, and
how long they do. All in turn, several times; fails where a median is off by more than 10 %."""
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

CONFIG = """
model: {kind: gpt, vocab_size: 256, seq_len: 128, block_count: 4, head_count: 4, channels: 128}
train: {steps: 80, global_batch_size: 16}
optimizer: {kind: adamw, learning_rate: 1e-3}
data: {kind: text, path: text.txt, validation_fraction: 0}
device: {kind: cpu, capacity: 1GiB}
"""
WARM_UP = 20  # steps
ROUNDS = 3
LIMIT = 0.1
MODES = ("none", "selective", "full")


def run(program, folder, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([program, *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True,
                          env=environment).stdout


def steps_of(program, folder, mode):
    shutil.rmtree(f"{folder}/{mode}", ignore_errors=True)
    run(program, folder, "train", "config.yaml", f"run.folder={mode}", "comm.kind=self", f"train.recompute={mode}")
    with open(f"{folder}/{mode}/metrics.jsonl", encoding="utf-8") as file:
        return [line for line in map(json.loads, file) if "event" not in line][WARM_UP:]


def planned_ms(program, folder):
    """By levers, of a micro-batch of 16."""
    plan = run(program, folder, "plan", "config.yaml", "--costs", "none/costs/rank_0.json")
    return {levers: float(ms)
            for levers, ms in re.findall(r"^levers (\w+)\n(?:.*\n)*?16 .* ([\d.]+)\n", plan, re.MULTILINE)}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    program, choose = os.path.abspath(sys.argv[1]), random.Random(1).choices
    errors, guessed, measured = ({mode: [] for mode in MODES} for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/config.yaml", "w", encoding="utf-8") as file:
            file.write(CONFIG)
        with open(f"{folder}/text.txt", "w", encoding="utf-8") as file:
            file.write("".join(choose("abcdefgh \n", k=200000)))
        for _ in range(ROUNDS):
            for mode in MODES:
                steps = steps_of(program, folder, mode)
                errors[mode] += (abs(step["predicted_ms"] / step["step_ms"] - 1) for step in steps)
                measured[mode].append(statistics.median(step["step_ms"] for step in steps))
            for mode, ms in planned_ms(program, folder).items():
                guessed.setdefault(mode, []).append(ms)
    worst = 0
    for mode in MODES:
        off = sorted(errors[mode])
        worst = max(worst, statistics.median(off))
        print(f"recompute {mode}: {statistics.median(measured[mode]):.0f} ms a step, predictions off by "
              f"{statistics.median(off):.1%} in the median, {off[len(off) * 9 // 10]:.1%} in one step of ten")
    for mode in MODES[1:]:
        ratios = [statistics.median(ms / none for ms, none in zip(times[mode], times["none"]))
                  for times in (guessed, measured)]
        worst = max(worst, abs(ratios[0] / ratios[1] - 1))
        print(f"recompute {mode}: {ratios[0]:.3f} times as long as none by what none has measured, "
              f"in fact {ratios[1]:.3f}")
    sys.exit(worst > LIMIT)


main()
