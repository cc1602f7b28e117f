# SPDX-License-Identifier: Apache-2.0
"""Where even the least does not fit the job ends with exit code 3 and a line that names the rank and the bytes; and a
loss that is no longer finite ends it with exit code 4."""

import re

import headroom_run

PATIENCE = 3  # reports of more memory before it is believed
DIVERGING = ("optimizer.learning_rate=1e6", "optimizer.weight_decay=0.5")


def squeeze(*ranks):
    entries = ", ".join(f"{{rank: {rank}, bytes: 1MiB, from_step: 10, to_step: 20}}" for rank in ranks)
    return f"device.neighbours=[{entries}]"


class OutOfMemory(headroom_run.ProgramTest):
    def ends(self, pattern, *arguments, ranks, code=3):
        finished = self.headroom("train", *arguments, "run.folder=run", ranks=ranks, code=code)
        self.assertEqual(len(finished.complaints), 1, finished.err)
        self.assertRegex(finished.complaints[0], pattern)
        return finished

    def test_weights_do_not_fit(self):
        self.ends(r"cannot hold the gradients: .*allocate 166\.75 KiB.*capacity of 256\.00 KiB", "mlp.yaml",
                  "device.capacity=256KiB", ranks=None)
        self.ends(r"rank 2 on .*: cannot hold the gradients: .*allocate 166\.75 KiB.*capacity of 256\.00 KiB",
                  "mlp.yaml", "device.capacity=[1MiB, 1MiB, 256KiB, 256KiB]", ranks=4)

    def test_no_sample_fits(self):
        for who, ranks in (("", None), (r"rank 0 on \S+: ", 4)):
            finished = self.ends(rf"headroom: {who}cannot hold a single sample: .*\d bytes.* \d+ are held by others",
                                 "gpt.yaml", "device.capacity=576KiB", headroom_run.ALL_STAYS, ranks=ranks)
            self.assertRegex(finished.out, r"^\d+\.\d seconds\nrun folder: run\S*\n$")  # nothing on steps

    def test_ranks_that_hold_no_sample_rest(self):
        reference = self.train("gpt.yaml")
        run = self.train("gpt.yaml", "device.capacity=[1MiB, 576KiB, 576KiB, 1MiB]", headroom_run.ALL_STAYS, ranks=4)
        self.assert_same_losses(run, reference, "two of four ranks rest")
        self.assertEqual(set(run.of_rank(1, "share") + run.of_rank(2, "share")), {0})

    def test_a_device_with_room_for_one_of_its_ranks(self):
        """An equal part of what is free is too little for each; the one that takes all of it does the other's share."""
        job = ("gpt.yaml", "train.recompute=none", headroom_run.ALL_STAYS)
        reference = self.train(*job)
        run = self.train(*job, "device.ranks_per_device=2", "device.capacity=1280KiB", ranks=2)
        self.assert_same_losses(run, reference, "one of two ranks of a device rests")
        self.assertEqual([sorted(rank["share"] for rank in step["ranks"]) for step in run.steps], [[0, 32]] * 50)
        self.ends(r"cannot hold a single sample: .*start fewer ranks on a device", *job, "device.ranks_per_device=2",
                  "device.capacity=1216KiB", ranks=2)

    def test_neighbours_leave_no_room(self):
        finished = self.ends(r"rank 0 on \S+: cannot hold a single sample: .* [1-9]\d* are held by others", "mlp.yaml",
                             "device.capacity=1MiB", "train.eval_every=5", squeeze(0, 1, 2, 3), ranks=4)
        self.assertRegex(finished.err, r"\nrank +limit +headroom +held by others\n(\d +1\.00 MiB .* 1\.00 MiB\n){4}")

    def test_neighbours_leave_no_room_on_some_ranks(self):
        reference = self.train("mlp.yaml", "train.eval_every=5")
        run = self.train("mlp.yaml", "device.capacity=1MiB", "train.eval_every=5", squeeze(1, 2), ranks=4)
        self.assert_same_losses(run, reference, "two of four ranks rest for a while")
        shares = run.of_rank(1, "share")
        self.assertEqual(set(shares[10:20]), {0})
        self.assertGreater(min(shares[:10] + shares[20 + PATIENCE:]), 0)

    def test_every_allocation_fails(self):
        failing = ("mlp.yaml", "fault.fail_allocation_every=1")
        for ranks in (None, 4):
            self.ends(r"cannot hold a single sample: .*allocate [\d.]+ KiB.*injected", *failing, ranks=ranks)

    def test_every_allocation_of_one_rank_fails(self):
        """Also in evaluation the others do its part."""
        reference = self.train("mlp.yaml")
        run = self.train("mlp.yaml", "fault.fail_allocation_every=1", "fault.rank=2", ranks=4)
        self.assert_same_losses(run, reference, "one of four ranks gets nothing")
        self.assertEqual(set(run.of_rank(2, "share")), {0})

    def test_the_run_says_how_it_ended(self):
        run = self.train("mlp.yaml", "device.capacity=1MiB", squeeze(0), code=3)
        self.assertEqual(len(run.steps), 10)
        self.assertRegex(run.finished.out, r"\nrank +limit +peak allocated .*\n0 +1\.00 MiB ")
        self.assertEqual((run.lines[-1]["event"], run.lines[-1]["step"], run.lines[-1]["status"]), ("end", 10, 3))

    def diverges(self, *arguments, ranks):
        """Its metrics hold every step before the one that diverged and nothing of it, nor of one begun since."""
        run = self.train("mlp.yaml", *DIVERGING, *arguments, ranks=ranks, code=4)
        self.assertEqual(len(run.finished.complaints), 1, run.finished.err)
        self.assertRegex(run.finished.complaints[0], r"step \d+: .*training has diverged.*optimizer\.learning_rate")
        step = int(re.search(r"step (\d+): ", run.finished.complaints[0]).group(1))
        self.assertEqual([line["step"] for line in run.steps], list(range(step)))
        self.assertEqual((run.lines[-1]["event"], run.lines[-1]["step"], run.lines[-1]["status"]), ("end", step, 4))
        self.assertEqual([line["step"] for line in run.evaluations if line["step"] > step], [])
        return run

    def test_divergence(self):
        for precision in ("fp32", "bf16"):
            for ranks in (None, 4):
                run = self.diverges(f"train.precision={precision}", ranks=ranks)
                self.assertEqual(len(run.lines), len(run.steps) + 1)

    def test_divergence_in_the_last_steps(self):
        """The step after the one that diverges is under way when that is noticed, unless there is none."""
        expected = self.diverges(ranks=None)
        steps = len(expected.steps) + 1
        for more in (0, 1):
            run = self.diverges(f"train.steps={steps + more}", ranks=None)
            self.assertEqual(run.finished.complaints, expected.finished.complaints)
            run = self.diverges(f"train.steps={steps + more}", ranks=3)
            self.assertEqual(len(run.steps), len(expected.steps))

    def test_divergence_is_the_same_where_each_step_is_waited_for(self):
        expected = self.diverges(ranks=None)
        run = self.diverges("train.eval_every=1", "data.validation_samples=1", "train.clip_norm=0.25", ranks=None)
        self.assertEqual(run.losses, expected.losses)
        self.assertEqual(run.finished.complaints, expected.finished.complaints)

    def test_divergence_that_only_validation_sees(self):
        deep = ("model.layers=[32" + ", 64" * 20 + ", 10]", "optimizer.learning_rate=1e6", "optimizer.weight_decay=0.5")
        for ranks in (None, 4):
            run = self.train("mlp.yaml", *deep, "train.steps=1", ranks=ranks, code=4)
            self.assertEqual(len(run.finished.complaints), 1)
            self.assertRegex(run.finished.complaints[0], r"validation loss (inf|nan): training has diverged")
            self.assertEqual([line["status"] for line in run.lines if line.get("event") == "end"], [4])


if __name__ == "__main__":
    headroom_run.main()
