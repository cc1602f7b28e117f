#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/prediction.py PROGRAM: how well step times are predicted on the CPU device. Trains a GPT of 0.8 million weights
on made-up text under each set of levers that can be asked for, and under the others on the smallest device that holds
the batch so. Prints by how much predictions miss the steps after the first 20. Then how long steps should take by what
the run without levers has measured, as headroom plan prints it, and how long they do. All in turn, several times; fails
where a median is off by more than 10 %, or 15 % where levers were never measured: less memory is nearer to the cores, by
which levers are faster than what they do makes one think."""
import os
import re
import shutil
import statistics
import sys
import tempfile

import small_gpt

JOB = ("train.steps=80", "train.global_batch_size=16", "data.validation_fraction=0")
ROOMY = (*JOB, "device.capacity=1GiB")
WARM_UP = 20  # steps
ROUNDS = 3
LIMIT, GUESS_LIMIT = 0.1, 0.15
ASKED_FOR = ("none", "selective", "half", "full", "offload")  # train.recompute
SQUEEZED = {"head": "none", "state": "none", "all": "offload"}  # on the smallest device, asked for this
MODES = (*ASKED_FOR, *SQUEEZED)


def plan(program, folder, *arguments):
    """By levers, of a micro-batch of 16: bytes of its peak, and what is printed behind them."""
    text = small_gpt.headroom(program, folder, "plan", "config.yaml", *ROOMY, *arguments)
    rows = re.findall(r"^levers (\w+)\n(?:.*\n)*?16 .* (\d+)( +[\d.]+)?\n", text, re.MULTILINE)
    return {levers: (int(peak), more) for levers, peak, more in rows}


def overrides(program, folder, mode):
    if mode in ASKED_FOR:
        return (*ROOMY, f"train.recompute={mode}")
    kib = -(-plan(program, folder)[mode][0] // 65536) * 64
    return (*JOB, f"train.recompute={SQUEEZED[mode]}", "train.micro_batch_size=16", f"device.capacity={kib}KiB")


def steps_of(program, folder, mode):
    shutil.rmtree(f"{folder}/{mode}", ignore_errors=True)
    steps = small_gpt.train(program, folder, mode, *overrides(program, folder, mode))[WARM_UP:]
    assert mode == "none" or steps[-1]["ranks"][0]["levers"] == mode
    return steps


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
            for mode, (_, ms) in plan(program, folder, "--costs", "none/costs/rank_0.json").items():
                guessed.setdefault(mode, []).append(float(ms))
    failed = False
    for mode in MODES:
        off = sorted(errors[mode])
        failed |= statistics.median(off) > LIMIT
        print(f"{mode}: {statistics.median(measured[mode]):.0f} ms a step, predictions off by "
              f"{statistics.median(off):.1%} in the median, {off[len(off) * 9 // 10]:.1%} in one step of ten")
    for mode in ASKED_FOR[1:]:
        ratios = [statistics.median(ms / none for ms, none in zip(times[mode], times["none"]))
                  for times in (guessed, measured)]
        failed |= abs(ratios[0] / ratios[1] - 1) > GUESS_LIMIT
        print(f"{mode}: {ratios[0]:.3f} times as long as none by what none has measured, in fact {ratios[1]:.3f}")
    sys.exit(failed)


main()
