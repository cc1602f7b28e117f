# SPDX-License-Identifier: Apache-2.0
"""Memory is what the price said, and never more than the limit."""

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


if __name__ == "__main__":
    headroom_run.main()
