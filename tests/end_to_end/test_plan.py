# SPDX-License-Identifier: Apache-2.0
"""What `headroom plan` prints is what training then does; and the commands that only print."""

import json
import pathlib
import re

import headroom_run

SOURCE = pathlib.Path(__file__).parents[2]
GRANULARITY = 65536  # the CPU device's
PARTS = "weights", "gradients", "optimizer", "activations", "workspace", "communication"
CONFIGS = (("mlp.yaml", headroom_run.MLP_CAPACITIES), ("gpt.yaml", headroom_run.GPT_CAPACITIES))


def peaks_of(plan, levers="none"):
    """micro-batch -> bytes"""
    table = re.search(rf"^levers {levers}\n(.*?)^layouts", plan, re.MULTILINE | re.DOTALL).group(1)
    return {int(n): int(peak) for n, peak in re.findall(r"^(\d+) +[\d.]+ \w+ +(\d+)$", table, re.MULTILINE)}


def shares_of(plan):
    """Of each rank: samples, micro-batch, accumulation steps, levers."""
    row = r"^(\d+)(?:-(\d+))? +[\d.]+ \w+ +[\d.]+ \w+ +\d+ +(\d+) +(\d+) +(\d+) +[\d.]+ \w+ +(\w+)$"
    return [(int(share), int(size), int(steps), levers)
            for first, last, share, size, steps, levers in re.findall(row, plan, re.MULTILINE)
            for _ in range(int(first), int(last or first) + 1)]


def each_rank(planned):
    """The rows of a plan in JSON, one for each rank."""
    return [{key: row[key] for key in row if key not in ("first", "last")}
            for row in planned["ranks"] for _ in range(row["first"], row["last"] + 1)]


def size_text(size):
    """As the program prints it."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size} bytes" if unit == "bytes" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def first_shares(run):
    keys = "share", "micro_batch", "accumulation_steps", "levers"
    return [tuple(rank[key] for key in keys) for rank in run.steps[0]["ranks"]]


class Plan(headroom_run.ProgramTest):
    def planned(self, *arguments, code=0):
        return json.loads(self.headroom("plan", *arguments, "--json", code=code).out)

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


    def test_figures_are_those_of_a_run(self):
        """The cut of the first step, and what its peaks are made of, to the byte."""
        equal = ("share", "micro_batch", "accumulation_steps", "levers", "limit_bytes")
        roomier = "device.capacity=[1MiB, 1280KiB, 2MiB, 4MiB]"
        jobs = [*CONFIGS, *((*config, "train.precision=bf16") for config in CONFIGS)]
        jobs += [(config, roomier, "train.reproducible=true", "train.grain_size=2") for config, _ in CONFIGS]
        jobs.append((*CONFIGS[1], "train.shard_optimizer=true"))
        jobs.append(("gpt.yaml", "device.capacity=[2MiB, 576KiB, 2MiB, 2MiB]", headroom_run.ALL_STAYS))
        for job in jobs:
            planned, run = each_rank(self.planned(*job)), self.train(*job, "train.steps=1", ranks=4)
            self.assertEqual(len(planned), 4)
            for row, rank in zip(planned, run.steps[0]["ranks"]):
                self.assertEqual([row[key] for key in equal], [rank[key] for key in equal], job)
                self.assertEqual(sum(row[f"{part}_bytes"] for part in PARTS), rank["allocated_peak_bytes"], job)
                self.assertEqual(row["predicted_peak_bytes"], rank["allocated_peak_bytes"], job)

    def least_capacity(self, *job):
        """In granules; `job` says "{}" for it."""
        none, enough = 1, 64
        while enough - none > 1:
            middle = (none + enough) // 2
            finished = self.start("plan", *self.with_capacity(job, middle)).wait()
            self.assertIn(finished.code, (0, 3), finished.err)
            none, enough = (none, middle) if finished.code == 0 else (middle, enough)
        return enough

    def with_capacity(self, job, granules):
        return [argument.replace("{}", f"{granules * GRANULARITY // 1024}KiB") for argument in job]

    def test_where_it_stops_fitting(self):
        """At the very granule of capacity, for one rank, and for one beside others that have plenty."""
        for ranks, *job in ((None, "mlp.yaml", "device.capacity={}"),
                            (None, "gpt.yaml", "device.capacity={}"),
                            (None, "gpt.yaml", "device.capacity={}", headroom_run.ALL_STAYS),
                            (None, "deep.yaml", "device.capacity={}", "train.recompute=full"),
                            (3, "gpt.yaml", "device.capacity=[2MiB, {}, 2MiB]"),
                            (3, "mlp.yaml", "device.capacity=[2MiB, {}, 2MiB]", "train.shard_optimizer=true")):
            least = self.least_capacity(*job)
            fits, misfits = self.with_capacity(job, least), self.with_capacity(job, least - 1)
            self.assertRegex(self.headroom("plan", *fits).out.splitlines()[-1], r"^fits: .*rank \d+ comes closest")
            self.train(*fits, "train.steps=1", ranks=ranks)
            finished = self.headroom("plan", *misfits, code=3)
            self.assertEqual(len(finished.complaints), 1, finished.err)
            self.assertRegex(finished.err.splitlines()[-1], "^headroom: does not fit: ")
            planned = self.planned(*misfits, code=3)
            self.assertEqual((planned["fits"], f"headroom: {planned['why']}"), (False, finished.complaints[0]))
            self.train_refused(*misfits, ranks=ranks)

    def train_refused(self, *job, ranks):
        self.runs += 1
        self.headroom("train", *job, "train.steps=1", f"run.folder=refused-{self.runs}", ranks=ranks, code=3)

    def test_text_and_json_agree(self):
        run = self.train("gpt.yaml", "train.steps=20")
        job = ("gpt.yaml", "--ranks", "1x704KiB,2x896KiB,1x2MiB", "--costs", f"{run.path}/costs/rank_0.json")
        text, planned = self.headroom("plan", *job).out, self.planned(*job)
        for row in planned["ranks"]:
            name = str(row["first"]) if row["first"] == row["last"] else f"{row['first']}-{row['last']}"
            words = [name, row["device"], size_text(row["limit_bytes"]), size_text(row["headroom_bytes"]),
                     *(str(row[key]) for key in ("largest_micro_batch", "share", "micro_batch", "accumulation_steps")),
                     size_text(row["predicted_peak_bytes"]), row["levers"]]
            parts = [name, *(size_text(row[f"{part}_bytes"]) for part in PARTS)]
            for line in (words, parts):
                self.assertRegex(text, "(?m)^" + " +".join(map(re.escape, line)) + "$")
        for step in planned["micro_steps"]:
            line = f"{step['micro_batch']} +[\\d.]+ \\w+ +{step['predicted_peak_bytes']} +{step['ms']:.2f}"
            self.assertRegex(text, rf"(?m)^{line}$")
        speed = f"at most {planned['tokens_per_s']:.0f} tokens/s: micro-steps alone take {planned['step_ms']:.2f} ms"
        self.assertIn(f"{speed} a step where every rank is as fast as the CPU that was measured\n", text)
        self.assertEqual(planned["costs_of"], "CPU")
        self.assertEqual(self.planned("gpt.yaml", "--costs", run.path, *job[1:3]), planned)
        self.assertEqual((planned["fits"], planned["why"]), (True, None))
        self.assertEqual(planned["device_kind"], "cpu")

    def test_costs_of_another_kind_of_device(self):
        run = self.train("gpt.yaml", "train.steps=20")
        path = f"{run.path}/costs/rank_0.json"
        finished = self.headroom("plan", "gpt.yaml", "device.kind=auto", "--device", "h100-80gb", "--costs", path, code=2)
        self.assertEqual(finished.err, f"headroom: --costs {path}: they were measured with device.kind cpu (CPU), and the "
                                       "plan is for cuda; take those of a run there, or leave them out\n")
        self.assertEqual(finished.out, "")
        with open(path, encoding="utf-8") as file:
            costs = json.load(file)["costs"]
        self.write("older.json", json.dumps(costs))
        out = self.headroom("plan", "gpt.yaml", "device.kind=auto", "--device", "h100-80gb", "--costs", "older.json").out
        self.assertIn("as fast as the device that was measured", out)

    def test_speed_is_that_of_the_slowest_rank(self):
        run = self.train("gpt.yaml", "train.steps=20")
        planned = self.planned("gpt.yaml", "device.capacity=4MiB", "train.recompute=none", "train.micro_batch_size=4",
                               "--costs", f"{run.path}/costs/rank_0.json", "--ranks", "2")
        ms = {(step["levers"], step["micro_batch"]): step["ms"] for step in planned["micro_steps"]}
        expected = max(row["accumulation_steps"] * ms[row["levers"], row["micro_batch"]] for row in planned["ranks"])
        self.assertAlmostEqual(planned["step_ms"] / expected, 1, delta=1e-9)
        self.assertAlmostEqual(planned["samples_per_s"] * planned["step_ms"] / 32000, 1, delta=1e-9)
        self.assertAlmostEqual(planned["tokens_per_s"] / planned["samples_per_s"] / 16, 1, delta=1e-9)

    def test_equal_ranks_are_one_row(self):
        job = ("mlp.yaml", "train.global_batch_size=2000", "--ranks", "1000", "--device", "1MiB")
        rows = self.planned(*job)["ranks"]
        self.assertEqual([(row["first"], row["last"], row["share"]) for row in rows], [(0, 999, 2)])
        out = self.headroom("plan", *job).out
        self.assertEqual(len(re.findall(r"^0-999 ", out, re.MULTILINE)), 2)

    def test_equal_ranks_of_two_groups_are_one_row(self):
        rows = self.planned("mlp.yaml", "train.global_batch_size=500", "--ranks", "2x1MiB,2x1MiB,1x1024KiB")["ranks"]
        self.assertEqual([(row["first"], row["last"], row["device"]) for row in rows],
                         [(0, 3, "1MiB"), (4, 4, "1024KiB")])

    def test_a_micro_batch_that_does_not_fit(self):
        """The rank that falls short of it most is told, as the run's doctor does."""
        job = ("mlp.yaml", "train.micro_batch_size=100", "train.recompute=none", headroom_run.ALL_STAYS)
        told = "fits: rank 1 does {micro_batch} samples at once of the 100 asked for; rank "
        capacities = "device.capacity=[640KiB, 576KiB, 4MiB, 4MiB]"
        planned = self.planned(*job, capacities)
        shortfall = planned["shortfall"]
        self.assertEqual(shortfall, {"rank": 1, "micro_batch": planned["ranks"][1]["micro_batch"], "asked": 100})
        self.assertIn(told.format(**shortfall), self.headroom("plan", *job, capacities).out.splitlines()[-1])
        run = self.train(*job, capacities, "train.steps=1", ranks=4)
        self.assertEqual(run.of_rank(1, "micro_batch"), [shortfall["micro_batch"]])
        for enough in ("device.capacity=4MiB", "train.micro_batch_size=auto"):
            self.assertIsNone(self.planned(*job, capacities, enough)["shortfall"])
            self.assertNotIn("asked for", self.headroom("plan", *job, capacities, enough).out)

    def test_shards_of_equal_ranks_are_one_row(self):
        """Though they are not multiples of what a shard is rounded to."""
        job = ("gpt.yaml", "train.shard_optimizer=true", "device.capacity=1MiB", "train.global_batch_size=28")
        rows = self.planned(*job, "--ranks", "7")["ranks"]
        self.assertEqual([(row["first"], row["last"]) for row in rows], [(0, 6)])
        run = self.train(*job, "train.steps=1", ranks=7)
        peaks = [rank["allocated_peak_bytes"] for rank in run.steps[0]["ranks"]]
        self.assertGreater(max(peaks), min(peaks))
        self.assertEqual(rows[0]["predicted_peak_bytes"], max(peaks))

    def test_devices_take_the_place_of_the_configuration_s(self):
        capacities = "device.capacity=[" + ", ".join(["704KiB"] * 3 + ["2MiB"] * 5) + "]"
        expected = each_rank(self.planned("gpt.yaml", capacities))
        asked = each_rank(self.planned("gpt.yaml", "--ranks", "3x704KiB,5x2MiB", "device.capacity=[1MiB, 3MiB]"))
        self.assertEqual([row.pop("device") for row in asked], ["704KiB"] * 3 + ["2MiB"] * 5)
        self.assertEqual([row.pop("device") for row in expected], [None] * 8)
        self.assertEqual(asked, expected)

    def test_a_gpu_is_known_by_its_name(self):
        """Whether or not this program knows CUDA, and this machine a GPU."""
        auto = ("gpt.yaml", "device.kind=auto")
        planned = self.planned(*auto, "--ranks", "2xh100-80gb,2xa100-40gb")
        self.assertEqual((planned["device_kind"], planned["why_cpu"]), ("cuda", None))
        self.assertEqual([row["device"] for row in each_rank(planned)], ["h100-80gb"] * 2 + ["a100-40gb"] * 2)
        for row, nominal in zip(planned["ranks"], (80, 40)):
            self.assertEqual(row["limit_bytes"] % 2**21, 0)
            self.assertLess(row["limit_bytes"], nominal * 10**9 * 1.08 - 2**30)
            self.assertGreater(row["limit_bytes"], nominal * 10**9 * 0.95)
            self.assertEqual(row["workspace_bytes"], 2**25)
        alone = each_rank(self.planned(*auto, "--device", "h100-80gb"))
        self.assertEqual([(row["device"], row["limit_bytes"]) for row in alone],
                         [("h100-80gb", planned["ranks"][0]["limit_bytes"])])


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


class SharedDevice(headroom_run.ProgramTest):
    def test_room_for_one_of_its_ranks(self):
        """The plan has one rank rest exactly where the run does."""
        job = ("gpt.yaml", "train.recompute=none", headroom_run.ALL_STAYS, "device.ranks_per_device=2")
        for kib, code, resting in ((1216, 3, None), (1280, 0, 1), (1408, 0, 0)):
            capacity = f"device.capacity={kib}KiB"
            told = json.loads(self.headroom("plan", *job, capacity, "--json", code=code).out)
            self.assertEqual(told["fits"], code == 0)
            run = self.train(*job, capacity, "train.steps=1", ranks=2, code=code)
            if code == 0:
                self.assertEqual(sum(rank["share"] == 0 for rank in run.steps[0]["ranks"]), resting)
                shares = [group["share"] for group in told["ranks"] for _ in range(group["first"], group["last"] + 1)]
                self.assertEqual(sum(share == 0 for share in shares), resting)


if __name__ == "__main__":
    headroom_run.main()
