#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/checkpoint_pause.py PROGRAM [FOLDER]: how long training pauses for a checkpoint, on the CPU device, beside how
long one memmove of as many bytes takes: into new memory, as the first checkpoint's copy is, and into memory that was
written before. An MLP of 30 million weights (120 MB) with AdamW, whose checkpoint takes 360 MB and is written while the
next 20 steps run; FOLDER is where, by default the one for temporary files."""
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

CONFIG = """
model: {kind: mlp, layers: [1024, 5000, 5000, 10]}
train: {steps: 120, global_batch_size: 64}
optimizer: {kind: adamw, learning_rate: 1e-4}
data: {kind: synthetic, samples: 4096}
device: {kind: cpu}
checkpoint: {every: 20, keep_last: 1, at_end: false}
"""
COPIES = 9


def checkpoints(program, folder):
    with open(f"{folder}/config.yaml", "w", encoding="utf-8") as file:
        file.write(CONFIG)
    subprocess.run([program, "train", "config.yaml", "run.folder=run", "comm.kind=self"], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL)
    with open(f"{folder}/run/metrics.jsonl", encoding="utf-8") as file:
        return [line for line in map(json.loads, file) if line.get("event") == "checkpoint"]


def copy_ms(to, source, size):
    start = time.perf_counter()
    ctypes.memmove(to, source, size)
    return (time.perf_counter() - start) * 1e3


def copies_ms(size):
    """Into new memory, and the median of those into the same again."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = (ctypes.c_size_t,)
    source, to = (ctypes.c_void_p(libc.malloc(size)) for _ in range(2))
    ctypes.memset(source, 1, size)
    return copy_ms(to, source, size), statistics.median(copy_ms(to, source, size) for _ in range(COPIES))


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) == 3 else None) as folder:
        lines = checkpoints(os.path.abspath(sys.argv[1]), folder)
    size = lines[0]["bytes"]
    first, later = lines[0]["pause_ms"], statistics.median(line["pause_ms"] for line in lines[1:])
    new, again = copies_ms(size)
    print(f"{size / 1e6:.0f} MB, written in {statistics.median(line['write_ms'] for line in lines):.0f} ms")
    print(f"first pause {first:.0f} ms, a copy into new memory {new:.0f} ms: {first / new:.2f} times as long")
    print(f"later ones {later:.0f} ms, a copy {again:.0f} ms: {later / again:.2f} times as long")


main()
