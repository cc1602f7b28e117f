# SPDX-License-Identifier: Apache-2.0
"""A neighbour on a rank's device takes memory for a while: the plan shrinks at once and grows back within ten steps."""

import headroom_run

FROM, TO, STEPS = 10, 25, 40
GROWTH = 6  # steps: more memory is believed with the third report, and taken in four parts
LEARNED = 3  # steps, one of them in smaller micro-steps
SETTLE = 3  # steps after a neighbour came in which the plan may still change
CAPACITY = 1024 * 1024
NEIGHBOUR = 448 * 1024
NO_LEVERS = ("train.recompute=none", headroom_run.ALL_STAYS)  # with which a rank could hold more, if that were faster


def neighbour(rank, from_step=FROM, size=NEIGHBOUR):
    return f"device.neighbours=[{{rank: {rank}, bytes: {size}, from_step: {from_step}, to_step: {TO}}}]"


def half_of(capacity, rank=0):
    """A device's capacity, and a neighbour of that rank who takes half of it."""
    return f"device.capacity={capacity}", neighbour(rank, size=capacity // 2)


def plans_of(run, rank=0):
    keys = ("share", "micro_batch", "accumulation_steps", "levers")
    return list(zip(*(run.of_rank(rank, key) for key in keys), strict=True))


class Neighbours(headroom_run.ProgramTest):
    def assert_adapts(self, run):
        """One plan has settled soon after the neighbour came, and the old one is back soon after it left. One rank does
        the whole batch, so nothing but memory decides its plan. Answers the plan in between."""
        plans = plans_of(run)
        before, during, after = set(plans[LEARNED:FROM]), set(plans[FROM + SETTLE:TO]), set(plans[TO + GROWTH:])
        self.assertEqual((len(before), len(during)), (1, 1), plans)
        self.assertEqual(after, before, plans)
        self.assertNotEqual(during, before, plans)
        came = next(step for step in range(FROM, TO) if plans[step] != plans[FROM - 1])
        back = next(step for step in range(TO, STEPS) if plans[step] == plans[FROM - 1])
        print(f"{before} became {during} {came - FROM} steps after the neighbour came, and again {back - TO} after it "
              "left", flush=True)
        return during.pop()

    def test_half_of_the_device(self):
        """Micro-batches shrink, and grow in several steps."""
        capacity, job = 1280 * 1024, ("mlp.yaml", f"train.steps={STEPS}")
        run = self.train(*job, *half_of(capacity), *NO_LEVERS)
        self.assert_adapts(run)
        growing = run.of_rank(0, "micro_batch")[TO:TO + GROWTH + 1]
        self.assertEqual(growing, sorted(growing))
        self.assertGreater(len(set(growing)), 2, growing)
        self.assertEqual(sum(run.of_rank(0, "oom_retries")), 0)
        self.assertLessEqual(max(run.of_rank(0, "reserved_peak_bytes")[FROM:TO]), capacity // 2)
        self.assert_same_losses(run, self.train(*job), "a neighbour takes half")

    def test_half_of_the_device_and_a_refusal(self):
        """A refusal while the neighbour is there is no reason to doubt memory that returns."""
        job = ("mlp.yaml", f"train.steps={STEPS}")
        run = self.train(*job, *half_of(1280 * 1024), *NO_LEVERS, "fault.fail_allocation_every=1",
                         "fault.fail_allocation_first=20", "fault.fail_allocation_count=1")
        self.assertEqual(sum(run.of_rank(0, "oom_retries")[FROM:TO]), 1)
        self.assert_adapts(run)
        self.assert_same_losses(run, self.train(*job), "a neighbour takes half, and memory is refused")

    def test_half_of_the_device_again_and_again(self):
        """The third time its memory is used again as soon as the first."""
        visits = [(start, start + 15) for start in range(FROM, 130, 40)]
        capacity = 1280 * 1024
        neighbours = ", ".join(f"{{rank: 0, bytes: {capacity // 2}, from_step: {first}, to_step: {end}}}"
                               for first, end in visits)
        job = ("mlp.yaml", "train.steps=140")
        run = self.train(*job, f"device.capacity={capacity}", f"device.neighbours=[{neighbours}]", *NO_LEVERS)
        plans = plans_of(run)
        for first, end in visits:
            self.assertNotEqual(plans[first + SETTLE], plans[first - 1])
            self.assertEqual(plans[end + GROWTH], plans[FROM - 1], plans[end:end + 10])
        self.assert_same_losses(run, self.train(*job), "a neighbour takes half again and again")

    def test_a_host_without_memory_says_nothing_of_the_device(self):
        """It is asked for room for the optimizer's state every 64 steps while the neighbour is there."""
        last = FROM + 230
        job = ("mlp.yaml", f"train.steps={last + 20}", "data.validation_samples=0", "train.recompute=none")
        run = self.train(*job, "device.capacity=1280KiB", "fault.memory=host", "fault.fail_allocation_every=1",
                         "fault.fail_allocation_first=1",
                         f"device.neighbours=[{{rank: 0, bytes: 704KiB, from_step: {FROM}, to_step: {last}}}]")
        self.assertGreater(run.logs[0].count("the host has no "), 2)
        plans = plans_of(run)
        self.assertNotEqual(plans[last - 1], plans[FROM - 1])
        self.assertEqual(plans[last + GROWTH], plans[FROM - 1], plans[last:last + 10])
        self.assert_same_losses(run, self.train(*job), "a neighbour and a host without memory")

    def test_half_of_the_device_takes_a_lever(self):
        """The optimizer's state leaves for host memory, and comes back; weights are the same bits."""
        job = ("lines.yaml", f"train.steps={STEPS}", "train.reproducible=true", "train.recompute=none")
        run, reference = self.train(*job, *half_of(1920 * 1024)), self.train(*job)
        self.assertEqual(self.assert_adapts(run)[-1], "state")
        self.assertEqual(run.lines[-1]["weights"], reference.lines[-1]["weights"])

    def test_half_of_the_device_leaves_a_rank_nothing(self):
        """It rests, and the others do its samples."""
        capacity, rank = 1536 * 1024, 1
        job = ("lines.yaml", f"train.steps={STEPS}", *NO_LEVERS)
        run = self.train(*job, *half_of(capacity, rank), ranks=3)
        shares = run.of_rank(rank, "share")
        self.assertEqual(set(shares[FROM + SETTLE:TO]), {0}, shares)
        self.assertNotIn(0, shares[:FROM] + shares[TO + GROWTH:], shares)
        self.assertEqual({sum(done["share"] for done in step["ranks"]) for step in run.steps}, {24})
        self.assert_same_losses(run, self.train(*job), "a neighbour leaves a rank nothing")

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
