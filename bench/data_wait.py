#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/data_wait.py PROGRAM [BLOCKS [STEPS]]: the part of a step that training waits for its loader, on the CPU
device: GPT-2 124M as configs/gpt2-124m.yaml has it, 8 STEPS of 2 sequences of 1,024 tokens from shards in the page
cache, in shuffled order. Fewer BLOCKS than its 12 compute less for as many data, which is harder for the loader. The
first step, for which nothing was read ahead, counts too. Fails above 1 %.
bench/data_wait.py PROGRAM ranks [RANKS [STEPS]]: what a step takes whose plan has changed, for which other samples were
read ahead, beside the others: configs/seed-mlp.yaml on 3 RANKS with 32 samples each, 700 STEPS, of which the first 100
do not count. Fails where it is more than 1.5 times as long."""
import json
import os
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile

LIMIT = 0.01
CHANGED_LIMIT = 1.5
CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
TOKENS = 4 << 20  # of each of two shards
UNSETTLED = 100   # steps


def write_shards(folder):
    for number in range(2):
        tokens = random.Random(number).choices(range(50257), k=TOKENS)
        with open(f"{folder}/{number}.bin", "wb") as file:
            file.write(struct.pack("<256i", 20240520, 1, TOKENS, *[0] * 253))
            file.write(struct.pack(f"<{TOKENS}H", *tokens))


def train(folder, command, config, *overrides, **environment):
    """The lines of its steps."""
    subprocess.run([*command, "train", CONFIGS / config, "run.folder=run", "checkpoint.at_end=false",
                    "device.kind=cpu", *overrides],
                   cwd=folder, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    with open(f"{folder}/run/metrics.jsonl", encoding="utf-8") as file:
        return [line for line in map(json.loads, file) if "event" not in line]


def wait_of_one_rank(folder, program, blocks="12", steps="8"):
    write_shards(folder)
    lines = train(folder, [program], "gpt2-124m.yaml", f"model.block_count={blocks}", 'data.path="*.bin"',
                  f"train.steps={steps}", "train.epochs=0", "train.global_batch_size=2", "train.eval_every=0",
                  "data.validation_fraction=0", "comm.kind=self")
    part = sum(line["data_wait_ms"] for line in lines) / sum(line["step_ms"] for line in lines)
    step_ms = statistics.median(line["step_ms"] for line in lines)
    print(f"{blocks} blocks, {len(lines)} steps of {step_ms:.0f} ms: waiting for data took {part:.4%} of all step time "
          f"(at most {LIMIT:.0%}), the most in a step {max(line['data_wait_ms'] for line in lines):.3f} ms")
    return part > LIMIT


def shares(line):
    return [rank["share"] for rank in line["ranks"]]


def changed_steps(folder, program, ranks="3", steps="700"):
    lines = train(folder, ["mpirun", "-np", ranks, "--oversubscribe", "--bind-to", "none", program], "seed-mlp.yaml",
                  f"train.steps={steps}", f"train.global_batch_size={32 * int(ranks)}", "data.samples=65536",
                  "data.validation_samples=0", OMP_NUM_THREADS="1")[UNSETTLED - 1:]
    changed = [line for before, line in zip(lines, lines[1:]) if shares(before) != shares(line)]
    others = [line for before, line in zip(lines, lines[1:]) if shares(before) == shares(line)]
    if not changed or not others:
        sys.exit(f"{len(changed)} plans changed and {len(others)} stayed: there is nothing to compare")
    changed_ms, others_ms = (statistics.median(line["step_ms"] for line in part) for part in (changed, others))
    print(f"{ranks} ranks: {len(changed)} steps whose plan has changed took {changed_ms:.1f} ms, {len(others)} others "
          f"{others_ms:.1f} ms, {changed_ms / others_ms:.2f} times as long (at most {CHANGED_LIMIT})")
    return changed_ms > CHANGED_LIMIT * others_ms


def main():
    several = sys.argv[2:3] == ["ranks"]
    arguments = sys.argv[3:] if several else sys.argv[2:]
    if len(sys.argv) < 2 or len(arguments) > 2:
        sys.exit(__doc__)
    program = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        sys.exit((changed_steps if several else wait_of_one_rank)(folder, program, *arguments))


main()
