# SPDX-License-Identifier: Apache-2.0
"""A neighbour on a rank's device takes memory for a while: the plan shrinks at once and grows back."""

import headroom_run

FROM, TO, STEPS = 10, 25, 40
GROWTH = 6  # steps: more memory is believed with the third report, and taken in four parts
LEARNED = 3  # steps, one of them in smaller micro-steps
CAPACITY = 1024 * 1024
NEIGHBOUR = 448 * 1024
NO_LEVERS = ("train.recompute=none", headroom_run.ALL_STAYS)  # with which a rank could hold more, if that were faster


def neighbour(rank, from_step=FROM):
    return f"device.neighbours=[{{rank: {rank}, bytes: {NEIGHBOUR}, from_step: {from_step}, to_step: {TO}}}]"


class Neighbours(headroom_run.ProgramTest):
    def test_plan_shrinks_and_grows_back(self):
        """One rank does the whole batch, so nothing but memory decides its micro-batch."""
        reference = self.train("mlp.yaml", f"train.steps={STEPS}")
        run = self.train("mlp.yaml", f"train.steps={STEPS}", f"device.capacity={CAPACITY}", *NO_LEVERS, neighbour(0))
        sizes = run.of_rank(0, "micro_batch")
        before, during, after = sizes[LEARNED:FROM], sizes[FROM:TO], sizes[TO + GROWTH:]
        self.assertEqual((len(set(before)), len(set(during)), len(set(after))), (1, 1, 1), sizes)
        self.assertLess(during[0], before[0] / 4)
        self.assertEqual(after[0], before[0])
        growing = sizes[TO:TO + GROWTH + 1]
        self.assertEqual(growing, sorted(growing))
        self.assertGreater(len(set(growing)), 2, "at once")
        self.assertEqual(sum(run.of_rank(0, "oom_retries")), 0)
        for peak in run.of_rank(0, "reserved_peak_bytes")[FROM:TO]:
            self.assertLessEqual(peak, CAPACITY - NEIGHBOUR)
        self.assert_same_losses(run, reference, "one rank with a neighbour")

    def test_only_its_own_rank_shrinks(self):
        capacity = f"device.capacity={CAPACITY}"
        reference = self.train("mlp.yaml", capacity, f"train.steps={STEPS}", ranks=4)
        run = self.train("mlp.yaml", capacity, f"train.steps={STEPS}", *NO_LEVERS, neighbour(2), ranks=4)
        fits = (CAPACITY - NEIGHBOUR - 502 * 1024) // 3200  # at most: weights, gradients and momentum take 502 KiB
        for step in range(FROM, TO):
            self.assertLessEqual(run.of_rank(2, "micro_batch")[step], fits)
            self.assertLessEqual(run.of_rank(2, "reserved_peak_bytes")[step], CAPACITY - NEIGHBOUR)
        for rank in (0, 1, 3):
            self.assertEqual(len(set(run.of_rank(rank, "headroom_bytes"))), 1)
        headroom = run.of_rank(2, "headroom_bytes")  # reported after a step, for the next one
        self.assertEqual(set(headroom[:FROM - 1]), {headroom[0]})
        self.assertEqual(set(headroom[FROM - 1:TO - 1]), {headroom[0] - NEIGHBOUR})
        self.assertEqual(set(headroom[TO - 1:]), {headroom[0]})
        self.assert_same_losses(run, reference, "four ranks, one with a neighbour")

    def test_neighbour_of_a_shared_device(self):
        capacity = 1920 * 1024
        shared = ("device.ranks_per_device=2", f"device.capacity={capacity}", f"train.steps={STEPS}")
        reference = self.train("mlp.yaml", *shared, ranks=4)
        run = self.train("mlp.yaml", *shared, neighbour(0, from_step=0), ranks=4)
        self.assert_same_losses(run, reference, "two ranks share a device with a neighbour")
        for step in run.steps[1:TO]:
            held = sum(rank["reserved_peak_bytes"] for rank in step["ranks"][:2])
            self.assertLessEqual(held, capacity - NEIGHBOUR)
        headroom = run.of_rank(0, "headroom_bytes")
        self.assertGreater(headroom[TO], headroom[TO - 2])

    def test_neighbour_that_needs_what_another_rank_caches(self):
        """Each of two ranks holds 960 KiB of 1984 KiB, 512 KiB of it for good. A neighbour of 576 KiB then lacks more
        than its own rank caches, so that this rank alone could not go on."""
        cached = ("device.ranks_per_device=2", "device.capacity=1984KiB", "train.micro_batch_size=128",
                  "train.steps=8")
        squeeze = "device.neighbours=[{rank: 0, bytes: 576KiB, from_step: 2, to_step: 5}]"
        reference = self.train("mlp.yaml", *cached, ranks=2)
        self.assertEqual(reference.of_rank(1, "reserved_peak_bytes")[:2], [960 * 1024, 960 * 1024])
        run = self.train("mlp.yaml", *cached, squeeze, ranks=2)
        self.assert_same_losses(run, reference, "a neighbour takes more than its rank caches")


if __name__ == "__main__":
    headroom_run.main()
