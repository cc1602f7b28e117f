#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/data_wait.py PROGRAM [BLOCKS [STEPS]]: the part of a step that training waits for its loader, on the CPU
device: GPT-2 124M as configs/gpt2-124m.yaml has it, 8 STEPS of 2 sequences of 1,024 tokens from shards in the page
cache, in shuffled order. Fewer BLOCKS than its 12 compute less for as many data, which is harder for the loader. The
first step, for which nothing was read ahead, counts too. Fails above 1 %."""
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
CONFIG = pathlib.Path(__file__).resolve().parents[1] / "configs/gpt2-124m.yaml"
TOKENS = 4 << 20  # of each of two shards


def write_shards(folder):
    for number in range(2):
        tokens = random.Random(number).choices(range(50257), k=TOKENS)
        with open(f"{folder}/{number}.bin", "wb") as file:
            file.write(struct.pack("<256i", 20240520, 1, TOKENS, *[0] * 253))
            file.write(struct.pack(f"<{TOKENS}H", *tokens))


def main():
    if len(sys.argv) not in (2, 3, 4):
        sys.exit(__doc__)
    program = os.path.abspath(sys.argv[1])
    blocks, steps = [*sys.argv[2:], *("12", "8")[len(sys.argv) - 2:]]
    with tempfile.TemporaryDirectory() as folder:
        write_shards(folder)
        subprocess.run([program, "train", CONFIG, f"model.block_count={blocks}", 'data.path="*.bin"', "run.folder=run",
                        f"train.steps={steps}", "train.epochs=0", "train.global_batch_size=2", "train.eval_every=0",
                        "data.validation_fraction=0", "checkpoint.at_end=false", "device.kind=cpu", "comm.kind=self"],
                       cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with open(f"{folder}/run/metrics.jsonl", encoding="utf-8") as file:
            lines = [line for line in map(json.loads, file) if "event" not in line]
    part = sum(line["data_wait_ms"] for line in lines) / sum(line["step_ms"] for line in lines)
    step_ms = statistics.median(line["step_ms"] for line in lines)
    print(f"{blocks} blocks, {len(lines)} steps of {step_ms:.0f} ms: waiting for data took {part:.4%} of all step time "
          f"(at most {LIMIT:.0%}), the most in a step {max(line['data_wait_ms'] for line in lines):.3f} ms")
    sys.exit(part > LIMIT)


main()
