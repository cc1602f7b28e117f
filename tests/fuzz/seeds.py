#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""seeds.py FOLDER: files of each kind that fuzz_reader.c reads, for libFuzzer to begin with."""
import gzip
import json
import math
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


def gpt2_tensors(channels, vocab, length):
    """Name -> shape, of Hugging Face's, with one block."""
    wide, inner = 3 * channels, 4 * channels
    block = {"ln_1.weight": [channels], "ln_1.bias": [channels], "attn.c_attn.weight": [channels, wide],
             "attn.c_attn.bias": [wide], "attn.c_proj.weight": [channels, channels], "attn.c_proj.bias": [channels],
             "ln_2.weight": [channels], "ln_2.bias": [channels], "mlp.c_fc.weight": [channels, inner],
             "mlp.c_fc.bias": [inner], "mlp.c_proj.weight": [inner, channels], "mlp.c_proj.bias": [channels]}
    return {"wte.weight": [vocab, channels], "wpe.weight": [length, channels],
            **{f"h.0.{name}": shape for name, shape in block.items()}, "ln_f.weight": [channels],
            "ln_f.bias": [channels]}


def gpt2_file(prefix):
    header, end = {}, 0
    for name, shape in gpt2_tensors(2, 3, 2).items():
        begin, end = end, end + 2 * math.prod(shape)
        header[prefix + name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    return safetensors(header, bytes(range(256)) * (end // 256) + bytes(range(end % 256)))


def llmc(version, width):
    elements = sum(math.prod(shape) for shape in gpt2_tensors(2, 4, 2).values())
    return struct.pack("<256i", 20240326, version, 2, 3, 1, 1, 2, 4, *[0] * 248) + bytes(width * elements)


TOKENS = [7, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 7, 7, 1]
YAML = """
model: {kind: gpt, vocab_size: 256, seq_len: 16, block_count: 2, head_count: 2, channels: 32}
train: {steps: 50, global_batch_size: 32, clip_norm: 1, micro_batch_size: auto}
optimizer: {kind: adamw, learning_rate: 3e-3, schedule: cosine, warmup_steps: 5}
data: {kind: text, path: text.txt, validation_fraction: 0.1, prefetch_bytes: 1.5MiB}
device: {kind: cpu, capacity: [1MiB, 2GB], neighbours: [{rank: 0, bytes: 1KiB, from_step: 1, to_step: 2}]}
"""
GPT2 = json.dumps({"model_type": "gpt2", "vocab_size": 3, "n_positions": 2, "n_layer": 1, "n_head": 1, "n_embd": 2,
                   "n_inner": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "eos_token_id": 2,
                   "tie_word_embeddings": True}).encode()
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
    "huggingface": [pair(GPT2, gpt2_file("")), pair(GPT2, gpt2_file("transformer.")),
                    pair(GPT2, json.dumps({"weight_map": {"wte.weight": "a", "wpe.weight": "b"}}).encode())],
    "llmc": [llmc(3, 4), llmc(5, 2)],
}


def main():
    shutil.rmtree(sys.argv[1], ignore_errors=True)  # what libFuzzer has found since, too
    for kind, contents in SEEDS.items():
        folder = pathlib.Path(sys.argv[1]) / kind
        folder.mkdir(parents=True)
        for number, content in enumerate(contents):
            (folder / str(number)).write_bytes(content)


main()
