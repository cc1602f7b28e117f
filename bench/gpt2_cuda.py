#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""bench/gpt2_cuda.py HEADROOM [ROUNDS [BATCH]]: GPT-2 124M in bf16 on one GPU, sequences of 1024 tokens: the whole
program against the same work in PyTorch (gpt2_torch.py --cuda), turn by turn.

Prints a line a round and the medians; fails when Headroom is less than 1.05 times as fast as PyTorch, or does less than
50 % of the GPU's bf16 matrix rate. Needs PyTorch 2.
"""
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from gpt2_124m import command, steps_of

STEPS, WARM_UP, LENGTH = 20, 5, 1024
HERE = pathlib.Path(__file__).parent
# Of a token: matrix products of 85 million weights in blocks and of the head, and the causal half of attention; the
# backward pass is twice the forward pass.
TOKEN_FLOPS = 3 * (2 * (12 * 12 * 768**2 + 50257 * 768) + 12 * 2 * (LENGTH + 1) * 768)


def run_headroom(program, batch, folder):
    subprocess.run(command(program, batch, folder, WARM_UP + STEPS, f"train.micro_batch_size={batch}"), check=True,
                   stdout=subprocess.DEVNULL)
    ms = statistics.median(step["step_ms"] for step in steps_of(folder)[WARM_UP:])
    return batch * LENGTH / (ms / 1e3)


def run_torch(batch):
    arguments = [sys.executable, str(HERE / "gpt2_torch.py"), "--cuda", str(STEPS), str(batch)]
    return json.loads(subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    rounds, batch = [int(text) for text in (sys.argv[2:] + ["3", "64"][len(sys.argv) - 2:])]
    speeds, rates = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for i in range(rounds):
            headroom = run_headroom(sys.argv[1], batch, pathlib.Path(scratch) / f"run-{i}")
            torch = run_torch(batch)
            speeds.append(headroom / torch["tokens_per_s"])
            rates.append(headroom * TOKEN_FLOPS / 1e12 / torch["matrix_tflops"])
            print(f"headroom {headroom:,.0f} tokens/s ({headroom * TOKEN_FLOPS / 1e12:.0f} TFLOP/s, {rates[-1]:.0%} of "
                  f"{torch['matrix_tflops']})   PyTorch {torch['version']} {torch['tokens_per_s']:,.0f} tokens/s   "
                  f"copy {torch['copy_gbps']:,.0f} GB/s   its attention {torch['attention_ms']} and "
                  f"{torch['attention_backward_ms']} ms", flush=True)
    speed, rate = statistics.median(speeds), statistics.median(rates)
    print(f"{torch['device']}, micro-batch {batch}, median of {rounds} rounds of {STEPS} steps: {speed:.2f} times as fast "
          f"as PyTorch (at least 1.05), {rate:.0%} of the matrix rate (at least 50 %)")
    sys.exit(speed < 1.05 or rate < 0.50)


main()
