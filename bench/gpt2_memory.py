#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""bench/gpt2_memory.py HEADROOM [BATCH]: GPT-2 124M in bf16 on one GPU, sequences of 1024 tokens: steps of one global
batch with ever less memory, under recomputation and offloading that are asked for, reproducibly, and with a limit that
comes and goes.

Prints step times, what was chosen, and by how much predictions missed; fails where offloading takes more than 1.05 times
as long as recomputing, predictions are off by more than 10 % in the median, or a step is not back within 3 steps of a
limit and 10 of its end.
"""
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from gpt2_124m import command, steps_of

STEPS, WARM_UP = 26, 20
CAPACITIES = ("64GiB", "24GiB", "16GiB", "8GiB", "4GiB", "2432MiB", "1536MiB")
ASKED_FOR = ("none", "selective", "half", "full", "offload")  # train.recompute
GRAINS = (4, 16, 64)


def median_ms(steps):
    return statistics.median(step["step_ms"] for step in steps)


class Bench:
    def __init__(self, program, batch, scratch):
        self.program, self.batch, self.scratch = program, batch, pathlib.Path(scratch)
        self.failures = []

    def must(self, holds, what):
        if not holds:
            self.failures.append(what)

    def train(self, name, *overrides):
        """The median time of a step after the warm-up; it and the rest of a line are printed."""
        folder = self.scratch / name
        code = subprocess.run(command(self.program, self.batch, folder, STEPS, *overrides),
                              stdout=subprocess.DEVNULL).returncode
        if code != 0:
            self.must(False, f"{name} with code {code}")
            return math.nan
        steps = steps_of(folder)[WARM_UP:]
        rank, ms = steps[-1]["ranks"][0], median_ms(steps)
        off = statistics.median(abs(step["predicted_ms"] / step["step_ms"] - 1) for step in steps)
        print(f"{name:<24} {ms:7.1f} ms   {rank['levers']:<10} {rank['micro_batch']:>3} x {rank['accumulation_steps']:<3}"
              f" {rank['allocated_peak_bytes'] / 2**30:6.2f} GiB   prediction off by {off:.1%}", flush=True)
        self.must(off < 0.1, f"prediction of {name}")
        return ms

    def ever_less_memory(self):
        for capacity in CAPACITIES:
            self.train(capacity, f"device.capacity={capacity}")

    def asked_for(self):
        micro_batch = f"train.micro_batch_size={self.batch}"
        ms = {mode: self.train(mode, f"train.recompute={mode}", micro_batch, "train.offload_bytes=32GiB")
              for mode in ASKED_FOR}
        print(f"offload takes {ms['offload'] / ms['full']:.3f} times as long as full (at most 1.05)")
        self.must(ms["offload"] <= 1.05 * ms["full"], "offloading")

    def reproducibly(self):
        usual = self.train("as usual", "train.recompute=none")
        for grain in GRAINS:
            ms = self.train(f"grains of {grain}", "train.recompute=none", "train.reproducible=true",
                            f"train.grain_size={grain}")
            print(f"grains of {grain} take {ms / usual:.2f} times as long")

    def limit(self, folder, size):
        subprocess.run([self.program, "limit", str(folder), "--bytes", size], check=True)

    def wait_for(self, process, folder, count):
        while not (folder / "metrics.jsonl").exists() or len(steps_of(folder)) < count:
            if process.poll() is not None:
                sys.exit("the run with a limit ended too early")
            time.sleep(0.02)

    def limit_that_comes_and_goes(self):
        folder, size, held = self.scratch / "limit", "8GiB", 8 << 30
        process = subprocess.Popen(command(self.program, self.batch, folder, 90), stdout=subprocess.DEVNULL)
        self.wait_for(process, folder, 25)
        self.limit(folder, size)
        self.wait_for(process, folder, 50)
        self.limit(folder, "none")
        self.must(process.wait() == 0, "the run with a limit")
        steps = steps_of(folder)
        times = [step["step_ms"] for step in steps]
        limited = [i for i, step in enumerate(steps) if step["ranks"][0]["limit_bytes"] <= held]
        came, went = limited[0], limited[-1] + 1
        before, during, after = (median_ms(part) for part in (steps[10:came], steps[came + 3:went], steps[went + 10:]))
        settled = [next(i for i in range(90) if max(part[i:i + 3]) < 1.05 * usual)
                   for part, usual in ((times[came:went], during), (times[went:], before))]
        print(f"a limit of {size}: {before:.1f} ms a step before, {during:.1f} under it after {settled[0]} steps, "
              f"{after:.1f} after it, from its {settled[1]}th step on")
        print(" ".join(f"{ms:.0f}" for ms in times))
        self.must(settled[0] <= 3 and settled[1] <= 10, "settling")


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else 64, scratch)
        bench.asked_for()
        bench.ever_less_memory()
        bench.limit_that_comes_and_goes()
        bench.reproducibly()
    print(f"failed: {', '.join(bench.failures)}" if bench.failures else "none failed")
    sys.exit(bool(bench.failures))


main()
