# SPDX-License-Identifier: Apache-2.0
"""A job for benchmarks on the CPU device: a GPT of 0.8 million weights, made-up text, one rank, one thread unless more
are asked for."""
import json
import os
import random
import subprocess

CONFIG = """
model: {kind: gpt, vocab_size: 256, seq_len: 128, block_count: 4, head_count: 4, channels: 128}
train: {steps: 12, global_batch_size: 32}
optimizer: {kind: adamw, learning_rate: 1e-3}
data: {kind: text, path: text.txt}
device: {kind: cpu, capacity: 8GiB}
"""


def prepare(folder):
    """Writes config.yaml and its text there."""
    with open(f"{folder}/config.yaml", "w", encoding="utf-8") as file:
        file.write(CONFIG)
    with open(f"{folder}/text.txt", "w", encoding="utf-8") as file:
        file.write("".join(random.Random(1).choices("abcdefgh \n", k=200000)))


def headroom(program, folder, *arguments, threads=1):
    """What the program prints."""
    return subprocess.run([program, *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": str(threads)}).stdout


def train(program, folder, run, *overrides, threads=1):
    """The steps' lines of metrics. `run` is the run's folder."""
    headroom(program, folder, "train", "config.yaml", f"run.folder={run}", "comm.kind=self", *overrides,
             threads=threads)
    with open(os.path.join(folder, run, "metrics.jsonl"), encoding="utf-8") as file:
        return [line for line in map(json.loads, file) if "event" not in line]
