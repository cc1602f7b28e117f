# SPDX-License-Identifier: Apache-2.0
"""train.reproducible: one checksum of the weights, and one course of losses, whatever the number of ranks, their memory,
what they recompute, and whatever is refused to them."""

import random

import headroom_run

JOB = ("train.reproducible=true", "train.steps=30", "train.eval_every=10", "data.threads=1")
LINES = ("lines.yaml", *JOB)
GRAINS = ("mlp.yaml", *JOB, "train.grain_size=10", "train.global_batch_size=64")  # the last grain is one of 4


def outcome(run):
    return [run.lines[-1]["weights"], run.losses, run.evaluation_losses]


class Reproducible(headroom_run.ProgramTest):
    def same(self, reference, what, *overrides, ranks):
        run = self.train(*overrides, ranks=ranks)
        self.assertEqual(outcome(run), outcome(reference), what)
        return run

    def test_any_number_of_ranks(self):
        for job in (LINES, GRAINS):
            reference = self.train(*job)
            for ranks in (1, 2, 3, 4, 7):
                self.same(reference, f"{job[0]}, {ranks} ranks", *job, ranks=ranks)

    def test_any_memory(self):
        """Whole blocks are recomputed on some ranks, nothing on others."""
        choose = random.Random(1).choice
        reference = self.train(*LINES)
        seen = set()
        for ranks in (1, 2, 3, 4, 7):
            kib = [choose((960, 1024, 1088, 1152, 2048)) for _ in range(ranks - 1)] + [4096]
            capacities = f"device.capacity=[{', '.join(f'{k}KiB' for k in kib)}]"
            run = self.same(reference, capacities, *LINES, capacities, ranks=ranks)
            seen |= {rank["levers"] for rank in run.steps[-1]["ranks"] if rank["share"] > 0}
        self.assertGreater(len(seen), 1)  # which is fastest is measured

    def test_ranks_that_rest(self):
        reference = self.train(*LINES)
        run = self.same(reference, "two of four ranks rest", *LINES, headroom_run.ALL_STAYS,
                        "device.capacity=[4MiB, 896KiB, 4MiB, 896KiB]", ranks=4)
        self.assertEqual([set(run.of_rank(rank, "share")) == {0} for rank in range(4)], [False, True, False, True])

    def test_any_lever(self):
        reference = self.train(*LINES)
        for recompute in ("none", "selective", "half", "full", "offload"):
            self.same(reference, recompute, *LINES, f"train.recompute={recompute}", ranks=2)
        for recompute, kib, levers in (("none", 960, "state"), ("offload", 896, "all")):
            run = self.same(reference, levers, *LINES, f"train.recompute={recompute}", f"device.capacity={kib}KiB",
                            ranks=2)
            self.assertEqual(set(run.of_rank(0, "levers")), {levers})

    def test_shortages(self):
        reference = self.train(*LINES)
        choose = random.Random(2).randint
        handed_back = 0
        for _ in range(6):
            faults = (f"fault.rank={choose(0, 2)}", f"fault.fail_allocation_first={choose(1, 30)}",
                      f"fault.fail_allocation_every={choose(1, 3)}", f"fault.fail_allocation_count={choose(1, 20)}")
            run = self.same(reference, faults, *LINES, *faults, ranks=3)
            handed_back += sum(sum(run.of_rank(rank, "handed_back")) for rank in range(3))
        self.assertGreater(handed_back, 0)

    def test_a_neighbour(self):
        reference = self.train(*LINES)
        neighbour = "device.neighbours=[{rank: 1, bytes: 1472KiB, from_step: 5, to_step: 15}]"
        run = self.same(reference, "a neighbour", *LINES, "device.capacity=2MiB", neighbour, ranks=3)
        self.assertIn(0, run.of_rank(1, "share")[6:15])

    def test_a_neighbour_of_the_optimizer_s_state(self):
        """It leaves for host memory, and comes back."""
        reference = self.train(*LINES)
        neighbour = "device.neighbours=[{rank: 1, bytes: 1088KiB, from_step: 5, to_step: 15}]"
        run = self.same(reference, "a neighbour", *LINES, "device.capacity=2MiB", "train.recompute=none", neighbour,
                        ranks=3)
        levers = run.of_rank(1, "levers")
        self.assertEqual(set(levers[:5] + levers[20:]), {"head"})
        self.assertEqual(set(levers[6:15]), {"state"})

    def test_terms_that_are_too_large(self):
        """Gradients grow by more than is expected of them: a step is done again, in less fine terms."""
        growing = ("mlp.yaml", *JOB, "train.global_batch_size=64", "train.clip_norm=0", "optimizer.learning_rate=100",
                   "train.steps=3", "data.validation_samples=0")
        run = self.same(self.train(*growing), "growing gradients", *growing, ranks=2)
        self.assertIn(" is done again: ", run.logs[1])

    def test_close_to_the_usual_sums(self):
        usual = self.train("lines.yaml", "train.steps=30", "train.eval_every=10")
        self.assert_same_losses(self.train(*LINES), usual, "integer sums and float32 sums")

    def test_divergence(self):
        for ranks in (None, 3):
            run = self.train("mlp.yaml", *JOB, "optimizer.learning_rate=1e6", "optimizer.weight_decay=0.5", ranks=ranks,
                             code=4)
            self.assertEqual(len(run.finished.complaints), 1)
            self.assertRegex(run.finished.complaints[0], "training has diverged")


if __name__ == "__main__":
    headroom_run.main()
