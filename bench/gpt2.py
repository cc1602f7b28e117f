#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""bench/gpt2.py BUILD_FOLDER [ROUNDS]: bench_gpt2 and the same work in PyTorch, turn by turn, on the same cores.

Prints a line a round and the medians; fails when Headroom does less than 60 % of the sgemm rate, or is slower than
PyTorch. Needs Debian's python3-torch, and libopenblas0-openmp for its matrix products: without, it runs on the
reference BLAS, many times slower.
"""
import json
import pathlib
import statistics
import subprocess
import sys

STEPS = "5"


def measure(*command):
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if not result.stdout:
        sys.exit(f"{command[0]} ended with code {result.returncode}")
    return json.loads(result.stdout)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    build, rounds = pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    here = pathlib.Path(__file__).parent
    headroom, torch = [], []
    for _ in range(rounds):
        headroom.append(measure(str(build / "bench/bench_gpt2"), STEPS))
        torch.append(measure("/usr/bin/python3", str(here / "gpt2_torch.py"), STEPS))
        print(f"headroom {headroom[-1]['step_seconds']:.2f} s ({headroom[-1]['model_gflops']:.0f} GFLOP/s, "
              f"{headroom[-1]['ratio']:.0%} of sgemm's {headroom[-1]['sgemm_gflops']:.0f})   "
              f"PyTorch {torch[-1]['version']} {torch[-1]['step_seconds']:.2f} s", flush=True)
    ratio = statistics.median(one["ratio"] for one in headroom)
    speed = statistics.median(b["step_seconds"] / a["step_seconds"] for a, b in zip(headroom, torch))
    threads = {one["threads"] for one in headroom + torch}
    print(f"median of {rounds} rounds of {STEPS} steps, threads {sorted(threads)}: {ratio:.0%} of sgemm (at least 60 %), "
          f"{speed:.2f} times as fast as PyTorch (at least 1)")
    sys.exit(ratio < 0.60 or speed < 1)


main()
