# SPDX-License-Identifier: Apache-2.0
"""train.shard_optimizer: the same bits as without it, less memory, and checkpoints that fit any number of ranks."""

import os
import re
import shutil

import headroom_run

STEPS = 24
JOB = ("train.reproducible=true", f"train.steps={STEPS}", "data.threads=1")
SHARDED = "train.shard_optimizer=true"
LINES = ("lines.yaml", *JOB, "train.grain_size=2")
MOMENTUM = ("mlp.yaml", *JOB, "train.grain_size=32", "train.global_batch_size=256")
UNEQUAL = "device.capacity=[2MiB, 4MiB, 3MiB, 8MiB]"


def outcome(run):
    return [run.lines[-1]["weights"], run.losses, run.evaluation_losses]


class Sharded(headroom_run.ProgramTest):
    def go_on(self, folder, *arguments, ranks):
        finished = self.headroom("train", *arguments, f"run.folder={folder}", "checkpoint.resume=auto", ranks=ranks)
        return headroom_run.Run(self.path(folder), finished)

    def content(self, path):
        with open(self.path(path), "rb") as file:
            return file.read()

    def files(self, folder):
        names = os.listdir(self.path(f"{folder}/checkpoints/latest"))
        return sorted(name for name in names if name.startswith("optimizer"))

    def test_the_same_bits(self):
        for job in (LINES, MOMENTUM):
            reference = self.train(*job)
            for ranks, more in ((1, ()), (2, ()), (3, ("device.capacity=[2MiB, 3MiB, 16MiB]",)), (4, (UNEQUAL,)),
                                (7, ())):
                run = self.train(*job, SHARDED, *more, ranks=ranks)
                self.assertEqual(outcome(run), outcome(reference), f"{job[0]}, {ranks} ranks")

    def test_bf16(self):
        job = (*LINES, "train.precision=bf16", "train.recompute=none")
        self.assertEqual(outcome(self.train(*job, SHARDED, ranks=2)), outcome(self.train(*job)))

    def test_state_that_is_away(self):
        job = (*LINES, "train.recompute=none")
        reference = self.train(*job)
        run = self.train(*job, SHARDED, "device.capacity=[1280KiB, 1408KiB]", ranks=2)
        self.assertEqual(outcome(run), outcome(reference))
        self.assertIn("state", run.of_rank(0, "levers") + run.of_rank(1, "levers"))

    def test_an_optimizer_without_state(self):
        job = (*MOMENTUM, "optimizer.momentum=0")
        reference = self.train(*job)
        run = self.train(*job, SHARDED, ranks=3)
        self.assertEqual(outcome(run), outcome(reference))
        self.assertEqual(self.files("run-2"), [])

    def test_peaks_are_as_planned(self):
        """And a rank with less memory holds less of the state."""
        job = ("gpt.yaml", "train.steps=2", "train.recompute=none", "device.capacity=[768KiB, 1MiB, 2MiB]")
        plan = self.headroom("plan", *job, SHARDED).out
        row = r"^\d+ +[\d.]+ \w+ +[\d.]+ \w+ +\d+ +\d+ +\d+ +\d+ +([\d.]+) \w+ +\w+$"
        planned = re.findall(row, plan, re.MULTILINE)
        run, whole = self.train(*job, SHARDED, ranks=3), self.train(*job, ranks=3)
        peaks = [rank["allocated_peak_bytes"] for rank in run.steps[0]["ranks"]]
        self.assertEqual(len(planned), 3, plan)
        for rank in run.steps[0]["ranks"]:
            self.assertEqual(rank["allocated_peak_bytes"], rank["predicted_peak_bytes"])
        for bytes_, text in zip(peaks, planned):
            self.assertIn(text, (f"{bytes_ / 1024:.2f}", f"{bytes_ / 1048576:.2f}"))
        self.assertLess(sum(peaks), sum(rank["allocated_peak_bytes"] for rank in whole.steps[0]["ranks"]))

    def test_a_rank_that_could_not_hold_all(self):
        """Two ranks hold between them what neither can alone."""
        job = ("gpt.yaml", "train.steps=20", "device.capacity=512KiB", headroom_run.ALL_STAYS)
        self.headroom("train", *job, "run.folder=refused", ranks=2, code=3)
        run = self.train(*job, SHARDED, ranks=2)
        self.assert_same_losses(run, self.train("gpt.yaml", "train.steps=20"), "gpt.yaml, two small ranks")

    def test_checkpoints_on_any_ranks(self):
        """4 ranks with shards, 2 with others, 3 with none, 3 with shards: as one that never stopped."""
        job = (*LINES, "checkpoint.every=6", "checkpoint.keep_last=9")
        whole = self.train(*job)
        model = "checkpoints/latest/model.safetensors"
        rounds = ((4, (SHARDED, UNEQUAL), 4), (2, (SHARDED,), 2), (3, (), 1), (3, (SHARDED,), 3))
        for number, (ranks, more, files) in enumerate(rounds, start=1):
            run = self.go_on("moved", *job, *more, ranks=ranks)
            self.assertEqual(outcome(run)[:2], outcome(whole)[:2], f"{ranks} ranks, {more}")
            self.assertEqual(len(self.files("moved")), files)
            self.assertEqual(self.content(f"moved/{model}"), self.content(f"run-1/{model}"))
            self.assertEqual([line["step"] for line in run.lines if line.get("event") == "resume"],
                             [6 * earlier for earlier in range(1, number)])
            for step in range(6 * number + 6, STEPS + 1, 6):
                shutil.rmtree(self.path(f"moved/checkpoints/step_{step:08}"))

    def test_a_damaged_shard(self):
        job = (*LINES, SHARDED, "checkpoint.every=12")
        whole = self.train(*job, ranks=3)
        shard = self.path("run-1/checkpoints/latest/optimizer-00002-of-00003.safetensors")
        with open(shard, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
        run = self.go_on("run-1", *job, ranks=3)
        self.assertEqual(outcome(run)[:2], outcome(whole)[:2])
        resumes = [line["step"] for line in run.lines if line.get("event") == "resume"]
        self.assertEqual(resumes, [12])


if __name__ == "__main__":
    headroom_run.main()
