# SPDX-License-Identifier: Apache-2.0
"""What `headroom plan` prints is what training then does; and the commands that only print."""

import pathlib
import re

import headroom_run

SOURCE = pathlib.Path(__file__).parents[2]
CONFIGS = (("mlp.yaml", headroom_run.MLP_CAPACITIES), ("gpt.yaml", headroom_run.GPT_CAPACITIES))


def peaks_of(plan, levers="none"):
    """micro-batch -> bytes"""
    table = re.search(rf"^levers {levers}\n(.*?)^layouts", plan, re.MULTILINE | re.DOTALL).group(1)
    return {int(n): int(peak) for n, peak in re.findall(r"^(\d+) +[\d.]+ \w+ +(\d+)$", table, re.MULTILINE)}


def shares_of(plan):
    """Of each rank: samples, micro-batch, accumulation steps, levers."""
    row = r"^\d+ +[\d.]+ \w+ +[\d.]+ \w+ +\d+ +(\d+) +(\d+) +(\d+) +[\d.]+ \w+ +(\w+)$"
    return [(int(share), int(size), int(steps), levers)
            for share, size, steps, levers in re.findall(row, plan, re.MULTILINE)]


def first_shares(run):
    keys = "share", "micro_batch", "accumulation_steps", "levers"
    return [tuple(rank[key] for key in keys) for rank in run.steps[0]["ranks"]]


class Plan(headroom_run.ProgramTest):
    def test_what_the_readme_shows(self):
        plan = self.headroom("plan", str(SOURCE / "configs/quickstart.yaml"), headroom_run.ALL_STAYS).out
        self.assertIn(f"```\n{plan}```\n", (SOURCE / "README.md").read_text(encoding="utf-8"))

    def test_peaks(self):
        for config, recompute in (("mlp.yaml", "none"), ("mlp.yaml", "selective"), ("gpt.yaml", "none"),
                                  ("gpt.yaml", "selective"), ("deep.yaml", "half"), ("deep.yaml", "full"),
                                  ("deep.yaml", "offload")):
            peaks = peaks_of(self.headroom("plan", config).out, recompute)
            self.assertGreater(len(peaks), 4)
            for micro_batch, peak in peaks.items():
                run = self.train(config, "train.steps=1", f"train.micro_batch_size={micro_batch}",
                                 f"train.recompute={recompute}")
                self.assertEqual(run.steps[0]["ranks"][0]["allocated_peak_bytes"], peak)

    def test_peaks_of_levers_that_only_memory_pulls(self):
        """On a device with room for what stays and what comes and goes in whole granules, and no more."""
        for levers, *job in (("head", "gpt.yaml", "train.recompute=none", "model.vocab_size=4096"),
                             ("state", "deep.yaml", "train.recompute=none"),
                             ("all", "deep.yaml", "train.recompute=offload")):
            peaks = peaks_of(self.headroom("plan", *job, "device.capacity=8MiB").out, levers)
            self.assertGreater(len(peaks), 4)
            for micro_batch, peak in peaks.items():
                run = self.train(*job, "train.steps=1", f"train.micro_batch_size={micro_batch}",
                                 f"device.capacity={-(-peak // 65536) * 64 + 64}KiB")
                rank = run.steps[0]["ranks"][0]
                self.assertEqual((rank["levers"], rank["micro_batch"], rank["allocated_peak_bytes"]),
                                 (levers, micro_batch, peak))

    def test_peaks_of_lines_are_those_of_the_longest(self):
        """However micro-steps change their shape, hundreds of them: nothing more is ever reserved."""
        peaks = peaks_of(self.headroom("plan", "lines.yaml").out)
        for micro_batch in (1, 4):
            run = self.train("lines.yaml", "train.steps=60", "data.validation_fraction=0",
                             f"train.micro_batch_size={micro_batch}", "train.recompute=none")
            self.assertEqual(max(run.of_rank(0, "allocated_peak_bytes")), peaks[micro_batch])
            held = max(run.of_rank(0, "reserved_peak_bytes"))
            self.assertLess(held - peaks[micro_batch], 65536)  # the CPU device's granularity

    def test_shares_of_unequal_ranks(self):
        for config, capacities in CONFIGS:
            plan = self.headroom("plan", config, capacities).out
            run = self.train(config, capacities, "train.steps=1", ranks=4)
            self.assertEqual(len(shares_of(plan)), 4, plan)
            self.assertEqual(shares_of(plan), first_shares(run))

    def test_shares_of_ranks_that_share_devices(self):
        shared = ("device.ranks_per_device=2", "device.capacity=[1280KiB, 1536KiB]")
        plan = self.headroom("plan", "mlp.yaml", *shared).out
        run = self.train("mlp.yaml", *shared, "train.steps=1", ranks=4)
        self.assertEqual(len(shares_of(plan)), 4, plan)
        self.assertEqual(shares_of(plan), first_shares(run))

    def test_any_number_of_ranks(self):
        plan = self.headroom("plan", "mlp.yaml", "device.capacity=1MiB", "--ranks", "100").out
        self.assertEqual(sum(share[0] for share in shares_of(plan)), 512)
        self.assertEqual(len(shares_of(plan)), 100)

    def test_a_trace_is_replayed(self):
        """Three buffers of 1 MiB, of which two are alive at a time."""
        rows = "".join(f"{i},{i},{i + 2},1048576\n" for i in range(3))
        self.write("trace.csv", "id,lower,upper,size\n" + rows)
        out = self.headroom("memory", "replay", "trace.csv").out
        for name in ("largest sum of live bytes +1", "pool, as they come +512", "layout, known ahead .* +1",
                     "PyTorch's rules, as they come +512"):
            self.assertRegex(out, rf"{name} +2\.00 MiB +2097152 +0\.000 %\n")

    def test_rmm_s_log_is_replayed(self):
        """With tags and without: 1 MiB that is never freed, and twice 1 MiB at the same place."""
        events = ["allocate,0x100000", "allocate,0x200000", "free,0x200000", "allocate,0x200000", "free,0x200000"]
        for tag in ("", ",Tag"):
            rows = "".join(f"1,15:47:02.841961,{event},1048576,0{tag.lower()}\n" for event in events)
            self.write("log.csv", f"Thread,Time,Action,Pointer,Size,Stream{tag}\n{rows}")
            out = self.headroom("memory", "replay", "log.csv").out
            self.assertRegex(out, r"^log\.csv: 3 buffers\n")
            self.assertRegex(out, r"largest sum of live bytes +1 +2\.00 MiB +2097152 +0\.000 %\n")
            self.assertRegex(out, r"pool, as they come +512 +2\.00 MiB +2097152 +0\.000 %\n")

    def test_a_trace_of_nothing(self):
        self.write("trace.csv", "id,lower,upper,size\n0,0,1,0\n")
        out = self.headroom("memory", "replay", "trace.csv").out
        self.assertRegex(out, r"largest sum of live bytes +1 +0 bytes +0 +-\n")
        self.assertRegex(out, r"PyTorch's rules, as they come +512 +0 bytes +0 +-\n")

    def test_every_capacity(self):
        """The largest micro-batch that is promised for a capacity is the one that runs."""
        for kib in range(576, 1024, 64):
            capacity = f"device.capacity={kib}KiB"
            plan = self.headroom("plan", "mlp.yaml", capacity).out
            run = self.train("mlp.yaml", capacity, "train.steps=1")
            self.assertEqual(shares_of(plan), first_shares(run))

    def test_levers_follow_capacity(self):
        """Each rank pulls the levers that its own memory asks for, and no more."""
        capacities = "device.capacity=[768KiB, 832KiB, 2MiB]"
        plan = self.headroom("plan", "lines.yaml", capacities).out
        self.assertEqual([share[3] for share in shares_of(plan)], ["half", "selective", "none"], plan)
        run = self.train("lines.yaml", capacities, "train.steps=1", ranks=3)
        self.assertEqual(shares_of(plan), first_shares(run))
        self.assertEqual([run.of_rank(rank, "oom_retries") for rank in range(3)], [[0], [0], [0]])

    def test_a_rank_that_holds_no_sample(self):
        plan = self.headroom("plan", "gpt.yaml", "device.capacity=[2MiB, 576KiB]", headroom_run.ALL_STAYS).out
        self.assertEqual(len(shares_of(plan)), 1)
        self.assertRegex(plan, r"\n1 +576\.00 KiB +\S+ KiB +0 +0\n")
        finished = self.headroom("plan", "gpt.yaml", "device.capacity=[576KiB, 576KiB]", headroom_run.ALL_STAYS, code=3)
        self.assertEqual(len(finished.complaints), 1, finished.err)
        self.assertEqual(shares_of(finished.out), [])


class Printing(headroom_run.ProgramTest):
    def test_config_round_trip(self):
        for config in ("mlp.yaml", "gpt.yaml"):
            printed = self.headroom("--print-config", config, headroom_run.MLP_CAPACITIES, "train.steps=7").out
            self.write("printed.yaml", printed)
            self.assertEqual(self.headroom("--print-config", "printed.yaml").out, printed)
            self.assertRegex(printed, r"(?m)^  steps: 7$")

    def test_help_names_every_key_of_a_printed_config(self):
        described = set(re.findall(r"^([a-z]+\.[a-z0-9_]+) ", self.headroom("--help").out, re.MULTILINE))
        section, printed = "", set()
        for line in self.headroom("--print-config", "mlp.yaml").out.splitlines():
            name = line.strip().partition(":")[0]
            if line.startswith(" "):
                printed.add(f"{section}.{name}")
            else:
                section = name
        self.assertGreater(len(printed), 40)
        self.assertEqual(described, printed)

    def test_version(self):
        self.assertRegex(self.headroom("--version").out, r"^headroom \d+\.\d+\.\d+ \(.+\)\n$")


if __name__ == "__main__":
    headroom_run.main()
