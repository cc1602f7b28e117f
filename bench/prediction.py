#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/prediction.py PROGRAM: how well step times are predicted on the CPU device. Trains a GPT of 0.8 million weights
on made-up text with each kind of recomputation, and prints by how much predictions miss the steps after the first 20.
Then how long the others should take by what the run without recomputation has measured, as headroom plan prints it, and
how long they do. All in turn, several times; fails where a median is off by more than 10 %."""
import os
import re
import shutil
import statistics
import sys
import tempfile

import small_gpt

JOB = ("train.steps=80", "train.global_batch_size=16", "data.validation_fraction=0", "device.capacity=1GiB")
WARM_UP = 20  # steps
ROUNDS = 3
LIMIT = 0.1
MODES = ("none", "selective", "full")


def steps_of(program, folder, mode):
    shutil.rmtree(f"{folder}/{mode}", ignore_errors=True)
    return small_gpt.train(program, folder, mode, *JOB, f"train.recompute={mode}")[WARM_UP:]


def planned_ms(program, folder):
    """By levers, of a micro-batch of 16."""
    plan = small_gpt.headroom(program, folder, "plan", "config.yaml", *JOB, "--costs", "none/costs/rank_0.json")
    return {levers: float(ms)
            for levers, ms in re.findall(r"^levers (\w+)\n(?:.*\n)*?16 .* ([\d.]+)\n", plan, re.MULTILINE)}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    program = os.path.abspath(sys.argv[1])
    errors, guessed, measured = ({mode: [] for mode in MODES} for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        small_gpt.prepare(folder)
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
