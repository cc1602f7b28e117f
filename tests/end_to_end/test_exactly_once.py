# SPDX-License-Identifier: Apache-2.0
"""Every sample of every global batch is done exactly once."""

import headroom_run

GLOBAL_BATCH = 512
LOGGED = ("train.steps=20", "train.eval_every=8", "run.log_micro_steps=true")
NEIGHBOUR = "device.neighbours=[{rank: 3, bytes: 448KiB, from_step: 6, to_step: 12}]"


class ExactlyOnce(headroom_run.ProgramTest):
    def check(self, *overrides, ranks):
        run = self.train("mlp.yaml", *LOGGED, *overrides, ranks=ranks)
        self.check_training(run, ranks)
        self.check_evaluations(run, ranks)
        return run

    def check_training(self, run, ranks):
        done = [position for rank in range(ranks) for position in run.positions("trained", rank)]
        self.assertEqual(sorted(done), list(range(20 * GLOBAL_BATCH)))
        for step in run.steps:
            self.check_shares(run, step, ranks)

    def check_shares(self, run, step, ranks):
        """Shares lie side by side in rank order, and each rank does its own from the first to the last."""
        batch = range(step["step"] * GLOBAL_BATCH, (step["step"] + 1) * GLOBAL_BATCH)
        done = [[position for position in run.positions("trained", rank) if position in batch]
                for rank in range(ranks)]
        self.assertEqual([len(positions) for positions in done], [rank["share"] for rank in step["ranks"]])
        self.assertEqual([position for positions in done for position in positions], list(batch))

    def check_evaluations(self, run, ranks):
        evaluated = [position for rank in range(ranks) for position in run.positions("evaluated", rank)]
        self.assertEqual(sorted(evaluated), sorted(3 * list(range(500))))  # after steps 8, 16 and 20

    def test_one_rank_across_epochs(self):
        run = self.check(ranks=1)
        self.assertEqual([step["epoch"] for step in run.steps], [512 * i // 3000 for i in range(20)])

    def test_unequal_capacities(self):
        self.check(headroom_run.MLP_CAPACITIES, ranks=4)

    def test_failing_allocations(self):
        run = self.check(headroom_run.MLP_CAPACITIES, "fault.fail_allocation_every=2", ranks=4)
        self.assertGreater(sum(run.of_rank(0, "oom_retries")), 0)

    def test_failing_allocations_on_one_rank(self):
        run = self.check("fault.fail_allocation_every=2", "fault.rank=1", ranks=2)
        self.assertEqual(sum(run.of_rank(0, "oom_retries")), 0)
        self.assertGreater(sum(run.of_rank(1, "oom_retries")), 0)

    def test_a_neighbour_that_comes_and_goes(self):
        run = self.check(headroom_run.MLP_CAPACITIES, NEIGHBOUR, ranks=4)
        headroom = run.of_rank(3, "headroom_bytes")
        self.assertLess(headroom[8], headroom[2])

    def test_a_batch_larger_than_the_training_set(self):
        self.check("data.samples=200", ranks=2)


if __name__ == "__main__":
    headroom_run.main()
