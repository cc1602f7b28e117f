#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""seeds.py FOLDER: files of each kind that fuzz_reader.c reads, for libFuzzer to begin with."""
import gzip
import json
import pathlib
import shutil
import struct
import sys


def idx(values, *sizes):
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + bytes(values)


def npy(descr, shape, data):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def pair(first, second):
    return struct.pack("<H", len(first)) + first + second


def shard(magic, version, code, tokens):
    return struct.pack("<256i", magic, version, len(tokens), *[0] * 253) + struct.pack(f"<{len(tokens)}{code}", *tokens)


def safetensors(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


TOKENS = [7, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 7, 7, 1]
YAML = """
model: {kind: gpt, vocab_size: 256, seq_len: 16, block_count: 2, head_count: 2, channels: 32}
train: {steps: 50, global_batch_size: 32, clip_norm: 1, micro_batch_size: auto}
optimizer: {kind: adamw, learning_rate: 3e-3, schedule: cosine, warmup_steps: 5}
data: {kind: text, path: text.txt, validation_fraction: 0.1, prefetch_bytes: 1.5MiB}
device: {kind: cpu, capacity: [1MiB, 2GB], neighbours: [{rank: 0, bytes: 1KiB, from_step: 1, to_step: 2}]}
"""
SEEDS = {
    "idx": [pair(idx(range(12), 2, 6), idx([1, 2], 2)), pair(gzip.compress(idx(range(12), 2, 2, 3), mtime=0),
                                                             gzip.compress(idx([9, 0], 2), mtime=0))],
    "npy": [pair(npy("<f4", (2, 6), struct.pack("<12f", *range(12))), npy("<i8", (2,), struct.pack("<2q", 1, 2))),
            pair(npy("|u1", (1, 2, 3), bytes(range(6))), npy("<u2", (1,), struct.pack("<H", 9)))],
    "tokens": [shard(20240520, 1, "H", TOKENS), shard(20240801, 7, "I", TOKENS)],
    "text": [b"In the beginning\nGod created\n\nthe heaven and the earth.\n"],
    "safetensors": [safetensors({"__metadata__": {"format": "pt"},
                                 "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
                                 "b": {"dtype": "BF16", "shape": [3], "data_offsets": [8, 14]},
                                 "c": {"dtype": "F16", "shape": [], "data_offsets": [14, 16]}}, bytes(range(16)))],
    "state": [json.dumps({"version": 1, "step": 3, "samples": 96, "seed": "1", "sum_exponent": 6, "ranks": 1,
                          "plan": [{"first": 0, "samples": 32, "micro_batch": 8, "accumulation_steps": 4, "levers": 0}],
                          "files": {"config.yaml": {"bytes": 1, "xxh3": "0"}}}).encode()],
    "yaml": [YAML.encode()],
}


def main():
    shutil.rmtree(sys.argv[1], ignore_errors=True)  # what libFuzzer has found since, too
    for kind, contents in SEEDS.items():
        folder = pathlib.Path(sys.argv[1]) / kind
        folder.mkdir(parents=True)
        for number, content in enumerate(contents):
            (folder / str(number)).write_bytes(content)


main()
