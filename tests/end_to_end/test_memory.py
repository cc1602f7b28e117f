# SPDX-License-Identifier: Apache-2.0
"""Memory is what the price said, and never more than the limit."""

import json
import os
import pickle
import signal
import subprocess
import time

import headroom_run

GRANULARITY = 65536  # of the CPU device


class Memory(headroom_run.ProgramTest):
    def check_steps(self, run, global_batch):
        for step in run.steps:
            self.assertEqual(sum(rank["share"] for rank in step["ranks"]), global_batch)
            for rank in step["ranks"]:
                self.check_rank(rank, f"step {step['step']}: {rank}")
        self.assertGreater(len(run.evaluations), 0)
        for evaluation in run.evaluations:
            for rank in evaluation["ranks"]:
                self.check_rank(rank, f"evaluation: {rank}")

    def check_rank(self, rank, what):
        if rank["oom_retries"] == 0:
            self.assertEqual(rank["allocated_peak_bytes"], rank["predicted_peak_bytes"], what)
        self.assertLessEqual(rank["allocated_peak_bytes"], rank["predicted_peak_bytes"], what)
        self.assertLessEqual(rank["allocated_peak_bytes"], rank["reserved_peak_bytes"], what)
        self.assertLessEqual(rank["reserved_peak_bytes"], rank["limit_bytes"], what)
        micro_batch, steps = rank["micro_batch"], rank["accumulation_steps"]
        self.assertGreaterEqual(micro_batch * steps, rank["share"], what)
        if rank["share"] == 0:  # it rests
            self.assertEqual((micro_batch, steps), (0, 0), what)
        else:
            self.assertLess(micro_batch * (steps - 1), rank["share"], what)

    def check_every_micro_batch(self, config, global_batch):
        peaks = []
        for size in range(1, global_batch + 1):
            run = self.train(config, "train.steps=2", f"train.global_batch_size={global_batch}",
                             f"train.micro_batch_size={size}")
            self.check_steps(run, global_batch)
            self.assertEqual(run.of_rank(0, "micro_batch"), [size, size])
            peaks.append(run.steps[0]["ranks"][0]["allocated_peak_bytes"])
        self.assertEqual(peaks, sorted(peaks))
        self.assertGreater(peaks[-1], peaks[0])

    def test_every_micro_batch_of_the_mlp(self):
        self.check_every_micro_batch("mlp.yaml", 24)

    def test_every_micro_batch_of_the_gpt(self):
        self.check_every_micro_batch("gpt.yaml", 16)

    def test_unequal_ranks(self):
        for config, capacities, global_batch in (("mlp.yaml", headroom_run.MLP_CAPACITIES, 512),
                                                 ("gpt.yaml", headroom_run.GPT_CAPACITIES, 32)):
            run = self.train(config, capacities, "train.steps=20", ranks=4)
            self.check_steps(run, global_batch)
            self.assertEqual(sum(sum(run.of_rank(rank, "oom_retries")) for rank in range(4)), 0)

    def test_lines_of_different_lengths(self):
        """A micro-step takes what its longest line needs, and no more than the plan has counted on."""
        run = self.train("lines.yaml", headroom_run.LINES_CAPACITIES, "train.steps=60", ranks=4)
        self.check_steps(run, 24)
        for rank in range(4):
            self.assertEqual(sum(run.of_rank(rank, "oom_retries")), 0)
        self.assertGreater(len(set(run.of_rank(0, "allocated_peak_bytes"))), 1)

    def test_failing_allocations(self):
        run = self.train("mlp.yaml", headroom_run.MLP_CAPACITIES, "train.steps=20", "fault.fail_allocation_every=2",
                         ranks=4)
        self.check_steps(run, 512)

    def test_limits_are_the_capacities(self):
        run = self.train("mlp.yaml", "device.capacity=[700KiB, 1MiB]", "train.steps=2", ranks=2)
        self.assertEqual([rank["limit_bytes"] for rank in run.steps[0]["ranks"]], [10 * GRANULARITY, 16 * GRANULARITY])

    def test_a_micro_batch_that_does_not_fit_shrinks(self):
        run = self.train("mlp.yaml", "device.capacity=640KiB", "train.micro_batch_size=300", "train.steps=2")
        self.check_steps(run, 512)
        self.assertLess(run.steps[0]["ranks"][0]["micro_batch"], 300)


class MemoryFiles(headroom_run.ProgramTest):
    """What a run leaves in its folder's memory/."""

    def snapshot(self, path):
        with open(path, "rb") as file:
            snapshot = pickle.load(file)
        for segment in snapshot["segments"]:
            address = segment["address"]
            for block in segment["blocks"]:
                self.assertEqual(block["address"], address)
                address += block["size"]
            self.assertEqual(address, segment["address"] + segment["total_size"])
        return snapshot

    def play_back(self, snapshot):
        """As the viewer does: from what is live at the end back to the beginning. Answers how many events there were."""
        live, mapped = {}, {}
        for segment in snapshot["segments"]:
            mapped[segment["address"]] = segment["total_size"]
            live |= {block["address"]: block["size"] for block in segment["blocks"]
                     if block["state"] == "active_allocated"}
        [trace] = [trace for trace in snapshot["device_traces"] if trace]
        for event in reversed(trace):
            if event["action"] == "oom":
                continue
            begin, end = event["addr"], event["addr"] + event["size"]
            inside = [address for address, size in live.items() if address < end and begin < address + size]
            if event["action"] == "alloc":
                self.assertEqual(inside, [begin])
                self.assertGreaterEqual(live.pop(begin), event["size"])
            elif event["action"] == "free_completed":
                self.assertEqual(inside, [])
                self.assertTrue(any(address <= begin and end <= address + size for address, size in mapped.items()))
                live[begin] = event["size"]
            elif event["action"] in ("segment_map", "segment_alloc"):
                self.assertEqual(inside, [])
                [(address, size)] = [(a, s) for a, s in mapped.items() if a <= begin and end <= a + s]
                del mapped[address]
                mapped |= {a: s for a, s in ((address, begin - address), (end, address + size - end)) if s > 0}
            elif event["action"] in ("segment_unmap", "segment_free"):
                for address, size in list(mapped.items()):
                    if end == address or address + size == begin:
                        begin, end = min(begin, address), max(end, address + size)
                        del mapped[address]
                mapped[begin] = end - begin
        self.assertEqual((live, mapped), ({}, {}))
        return len(trace)

    def test_a_snapshot_is_consistent_with_its_history(self):
        """A neighbour, refusals and micro-batches of changing sizes: every block that came and went."""
        for segments in ("expandable", "plain"):
            run = self.train("lines.yaml", "device.capacity=[896KiB, 2MiB]", f"device.segments={segments}",
                             "device.neighbours=[{rank: 1, bytes: 1MiB, from_step: 3, to_step: 8}]",
                             "fault.fail_allocation_every=7", "train.steps=20", "run.snapshot_step=18", ranks=2)
            snapshots = [self.snapshot(f"{run.path}/memory/rank_{rank}.step_18.pickle") for rank in range(2)]
            self.assertGreater(sum(self.play_back(snapshot) for snapshot in snapshots), 80)

    def test_statistics_have_pytorch_names(self):
        run = self.train("mlp.yaml", "train.steps=3", ranks=2)
        for rank in range(2):
            with open(f"{run.path}/memory/rank_{rank}.json", encoding="utf-8") as file:
                stats = json.load(file)
            for name in ("allocated_bytes", "reserved_bytes", "active", "inactive_split_bytes", "requested_bytes"):
                for part in ("current", "peak", "allocated", "freed"):
                    self.assertIn(f"{name}.all.{part}", stats)
            self.assertEqual(stats["reserved_bytes.all.allocated"] - stats["reserved_bytes.all.freed"],
                             stats["reserved_bytes.all.current"])
            self.assertEqual(stats["allocation.all.current"], 4)  # weights, gradients, momentum, sums
            self.assertEqual(stats["num_ooms"], 0)

    def test_a_snapshot_of_a_step(self):
        run = self.train("gpt.yaml", "train.steps=4", "run.snapshot_step=2", ranks=2)
        self.assertEqual(sorted(name for name in os.listdir(f"{run.path}/memory") if name.endswith("pickle")),
                         ["rank_0.step_2.pickle", "rank_1.step_2.pickle"])
        snapshot = self.snapshot(f"{run.path}/memory/rank_1.step_2.pickle")
        live = [block for segment in snapshot["segments"] for block in segment["blocks"]
                if block["state"] == "active_allocated"]
        self.assertIn("weights", str(live))
        [trace] = [trace for trace in snapshot["device_traces"] if trace]
        blocks = sum("micro-step" in str(event) and event["action"] == "alloc" for event in trace)
        self.assertGreaterEqual(blocks, 3)  # of steps; those that plans reserve come on top
        self.assertRegex(run.logs[1], r"step 2: memory snapshot .*rank_1\.step_2\.pickle")

    def test_a_snapshot_of_the_first_refusal(self):
        squeeze = ", ".join(f"{{rank: {rank}, bytes: 1MiB, from_step: 3, to_step: 9}}" for rank in (0, 1))
        squeeze = f"device.neighbours=[{squeeze}]"
        self.headroom("train", "mlp.yaml", "device.capacity=[1MiB, 1MiB]", squeeze, "run.folder=run", ranks=2, code=3)
        snapshot = self.snapshot(self.path("run/memory/rank_0.step_3.out_of_memory.pickle"))
        self.assertGreater(len(snapshot["segments"]), 0)

    def test_a_snapshot_on_demand(self):
        with subprocess.Popen([headroom_run.HEADROOM, "train", "mlp.yaml", "train.steps=1000000", "run.folder=run"],
                              cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            def wait_for(there):
                deadline = time.monotonic() + 60
                while not there() and process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.05)
                self.assertTrue(there())

            def names():
                folder = self.path("run/memory")
                return [name for name in os.listdir(folder) if name.endswith(".pickle")] if os.path.isdir(folder) else []
            try:
                wait_for(lambda: os.path.exists(self.path("run/metrics.jsonl")))
                self.headroom("memory", "snapshot", str(process.pid))
                wait_for(names)
                os.remove(self.path(f"run/memory/{names()[0]}"))
                process.send_signal(signal.SIGUSR2)
                wait_for(names)
                self.assertIsNone(process.poll())
            finally:
                process.kill()
        self.assertRegex(names()[0], r"^rank_0\.step_\d+\.pickle$")
        self.snapshot(self.path(f"run/memory/{names()[0]}"))

    def test_nothing_else_is_asked_for_a_snapshot(self):
        for process in (str(os.getpid()), "1x", "-1", "0", "999999999"):
            refused = self.headroom("memory", "snapshot", process, code=2)
            self.assertEqual(refused.complaints,
                             [f"headroom: '{process}' is no process of this program and user on this machine"])

    def test_a_log_that_can_be_replayed(self):
        run = self.train("gpt.yaml", "train.steps=5", "run.memory_trace=true")
        path = f"{run.path}/memory/rank_0.csv"
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
        self.assertEqual(lines[0], "Thread,Time,Action,Pointer,Size,Stream,Tag")
        blocks = sum(line.endswith(",micro-step") and ",allocate," in line for line in lines)
        self.assertGreaterEqual(blocks, 6)  # of steps and a validation; those that plans reserve come on top
        out = self.headroom("memory", "replay", path).out
        for row in ("pool, as they come", "pool in plain segments", "PyTorch's rules", "layout, known ahead"):
            self.assertIn(row, out)

    def test_plain_segments_and_a_sanitizer_change_nothing(self):
        for config in ("mlp.yaml", "gpt.yaml"):
            reference = self.train(config, "train.steps=8", "device.capacity=16MiB", ranks=2)
            for override in ("device.segments=plain", "device.sanitize=true"):
                run = self.train(config, "train.steps=8", "device.capacity=16MiB", override, ranks=2)
                self.assert_same_losses(run, reference, f"{config}, {override}")


if __name__ == "__main__":
    headroom_run.main()
