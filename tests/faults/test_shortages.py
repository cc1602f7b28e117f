# SPDX-License-Identifier: Apache-2.0
"""Every allocation of a small job is refused in turn, alone, in pairs and in bursts: each run ends with the losses of the
undisturbed one, and every sample is done once."""

import random

import headroom_run

RANKS, STEPS = 3, 3
JOB = ("lines.yaml", f"train.steps={STEPS}", "train.global_batch_size=12", "train.eval_every=2", "data.threads=1",
       "run.log_micro_steps=true")
BURST = 16  # a share of 4 samples is given up after fewer refusals in a row
BURST_OF_ALL = 7  # and here, but not once more after all have trimmed


def refuse(rank, first, every=1, count=1):
    return (f"fault.rank={rank}", f"fault.fail_allocation_first={first}", f"fault.fail_allocation_every={every}",
            f"fault.fail_allocation_count={count}")


class Shortages(headroom_run.ProgramTest):
    def setUp(self):
        super().setUp()
        self.reference = self.train(*JOB, ranks=RANKS)
        self.most, self.refused, self.handed_back = 0.0, 0, 0

    def try_one(self, *faults):
        """Answers whether an allocation was refused."""
        run = self.train(*JOB, *faults, ranks=RANKS)
        losses, expected = (r.losses + r.evaluation_losses for r in (run, self.reference))
        self.most = max(self.most, *(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True)))
        self.assertLess(self.most, 1e-5, faults)
        done = [position for rank in range(RANKS) for position in run.positions("trained", rank)]
        self.assertEqual(sorted(done), list(range(12 * STEPS)), faults)
        self.handed_back += sum(sum(run.of_rank(rank, "handed_back")) for rank in range(RANKS))
        refused = any("injected" in log for log in run.logs.values())
        self.refused += refused
        return refused

    def report(self, what, runs):
        print(f"{what}: {runs} runs, allocations refused in {self.refused}, {self.handed_back} samples handed back, "
              f"losses differ by at most {self.most:.1e}", flush=True)

    def test_every_allocation(self):
        """Until the job has no more."""
        runs = 0
        for rank in range(RANKS):
            first = 1
            while self.try_one(*refuse(rank, first)):
                first += 1
            self.assertGreaterEqual(first - 1, 1 + STEPS + 2)  # the reserve, steps, validations
            runs += first
        self.report("every allocation of each rank", runs)

    def test_pairs(self):
        choose = random.Random(1).randint
        for _ in range(12):
            self.assertTrue(self.try_one(*refuse(choose(0, RANKS - 1), choose(1, 4), every=choose(1, 4), count=2)))
        self.report("pairs of allocations", 12)

    def test_bursts(self):
        """A rank that is refused all it tries in a step hands its samples back; where all do, they try again."""
        runs = 0
        for rank, count in ((0, BURST), (2, BURST), ("all", BURST_OF_ALL)):
            for first in range(1, STEPS + 3):
                self.assertTrue(self.try_one(*refuse(rank, first, count=count)))
                runs += 1
        self.assertGreater(self.handed_back, 0)
        self.report("bursts", runs)


if __name__ == "__main__":
    headroom_run.main()
