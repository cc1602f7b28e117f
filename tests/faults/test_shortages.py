# SPDX-License-Identifier: Apache-2.0
"""Every allocation of a small job is refused in turn, alone, in pairs and in bursts, of the device's memory and of the
host's: each run ends with the weights of the undisturbed one, and every sample is done once. A block that outlived its
step would end the run with an error, and a rank that hung would outlast the test's patience."""

import array
import itertools
import json
import os
import random
import re
import struct

import headroom_run

RANKS, STEPS, SAMPLES = 3, 3, 12
# The gradient of the keys' bias is zero but for rounding. With a larger epsilon AdamW does not make a step of it.
JOB = ("lines.yaml", f"train.steps={STEPS}", f"train.global_batch_size={SAMPLES}", "train.eval_every=2",
       "data.threads=1", "run.log_micro_steps=true", "optimizer.epsilon=1e-4")
REPRODUCIBLE = (*JOB, "train.reproducible=true")
SHORT = (*REPRODUCIBLE, "device.capacity=[832KiB, 896KiB, 960KiB]")  # all levers, then without the optimizer's state
SHORT_OF_HOST = (*SHORT, "data.prefetch_bytes=1")  # a validation begins with a single sample's place
TOLERANCE = 2**-22  # a weight of 1 may differ in its last bit; a step moves it by 1e-3
DEVICE, HOST = "device", "host"
BURST = 16  # a share of 4 samples is given up after fewer refusals in a row
BURST_OF_ALL = 7  # and here, but not once more after all have trimmed
NEVER = 4294967295
REFUSAL = re.compile("injected|the device refuses it|the host has no|out of host memory")


def refuse(rank, first, every=1, count=1, memory=DEVICE):
    return (f"fault.rank={rank}", f"fault.fail_allocation_first={first}", f"fault.fail_allocation_every={every}",
            f"fault.fail_allocation_count={count}", f"fault.memory={memory}")


def refuse_two(one, other, memory):
    """Each is a rank and which of its allocations."""
    (rank, first), (other_rank, second) = sorted((one, other))
    if rank == other_rank:
        return refuse(rank, first, every=second - first, count=2, memory=memory)
    firsts = {rank: first, other_rank: second}
    return refuse("all", [firsts.get(i, NEVER) for i in range(RANKS)], memory=memory)


def weights_of(run):
    with open(os.path.join(run.path, "checkpoints/latest/model.safetensors"), "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + length)
        return array.array("f", file.read())


class Tally:
    """Of the runs of one job."""

    def __init__(self, job, reference):
        self.job, self.reference = job, reference
        self.runs, self.refused, self.handed_back, self.most = 0, 0, 0, 0.0
        self.reproducible = "train.reproducible=true" in job

    def print(self, what):
        weights = "of the same bits" if self.reproducible else f"that differ by at most {self.most:.1e}"
        print(f"{what}: {self.runs} runs, {self.refused} allocations refused, {self.handed_back} samples handed back, "
              f"weights {weights}", flush=True)


class Shortages(headroom_run.ProgramTest):
    def tally(self, job):
        return Tally(job, self.train(*job, ranks=RANKS))

    def assert_same_weights(self, tally, run, faults):
        losses, expected = (r.losses + r.evaluation_losses for r in (run, tally.reference))
        if tally.reproducible:
            self.assertEqual(run.lines[-1]["weights"], tally.reference.lines[-1]["weights"], faults)
            self.assertEqual(weights_of(run), weights_of(tally.reference), faults)
            self.assertEqual(losses, expected, faults)
            return
        pairs = zip(weights_of(run), weights_of(tally.reference), strict=True)
        tally.most = max(tally.most, max(abs(a - b) for a, b in pairs))
        self.assertLess(tally.most, TOLERANCE, faults)
        self.assertLess(max(abs(a - b) for a, b in zip(losses, expected, strict=True)), 1e-6, faults)

    def try_one(self, tally, *faults):
        """Answers how many allocations were refused."""
        run = self.train(*tally.job, *faults, ranks=RANKS)
        self.assert_same_weights(tally, run, faults)
        done = [position for rank in range(RANKS) for position in run.positions("trained", rank)]
        self.assertEqual(sorted(done), list(range(SAMPLES * STEPS)), faults)
        refused = sum(len(REFUSAL.findall(log)) for log in run.logs.values())
        tally.runs += 1
        tally.refused += refused
        tally.handed_back += sum(sum(run.of_rank(rank, "handed_back")) for rank in range(RANKS))
        return refused

    def try_each(self, tally, memory):
        """Refuses each allocation, until the job has no more. Answers them all, each as a rank and a number."""
        allocations = []
        for rank in range(RANKS):
            for number in itertools.count(1):
                if self.try_one(tally, *refuse(rank, number, memory=memory)) == 0:
                    break
                allocations.append((rank, number))
        return allocations

    def try_pairs(self, tally, allocations, memory, most):
        pairs = list(itertools.combinations(allocations, 2))
        sampled = random.Random(1).sample(pairs, min(most, len(pairs)))
        both = sum(self.try_one(tally, *refuse_two(*pair, memory)) >= 2 for pair in sampled)
        self.assertGreater(both, len(sampled) / 4)  # not all: how fast ranks are decides who asks how often
        return len(pairs)

    def exhaust(self, what, job, memory, pairs):
        allocations = self.try_each(tally := self.tally(job), memory)
        tally.print(f"{what}, each of {len(allocations)} allocations")
        possible = self.try_pairs(tally := self.tally(job), allocations, memory, pairs)
        tally.print(f"{what}, pairs out of {possible}")
        return allocations

    def test_device_memory(self):
        allocations = self.exhaust("usual sums", JOB, DEVICE, pairs=40)
        self.assertGreaterEqual(len(allocations), RANKS * (1 + STEPS + 2))  # the reserve, steps, validations

    def test_device_memory_reproducible(self):
        allocations = self.exhaust("reproducible", REPRODUCIBLE, DEVICE, pairs=20)
        self.assertGreaterEqual(len(allocations), RANKS * (1 + STEPS + 2))

    def test_device_memory_with_levers(self):
        self.assertNotIn("none", self.tally(SHORT).reference.of_rank(0, "levers"))
        allocations = self.exhaust("levers pulled", SHORT, DEVICE, pairs=20)
        self.assertGreaterEqual(len(allocations), RANKS * (1 + STEPS + 2))

    def test_host_memory_with_levers(self):
        allocations = self.exhaust("levers pulled, host memory", SHORT_OF_HOST, HOST, pairs=20)
        self.assertGreaterEqual(len(allocations), RANKS * 3)  # a step's, and those of two validations

    def test_bursts(self):
        """A rank that is refused all it tries in a step hands its samples back; where all do, they try again."""
        tally = self.tally(JOB)
        for rank, count in ((0, BURST), (2, BURST), ("all", BURST_OF_ALL)):
            for first in range(1, STEPS + 3):
                self.assertGreater(self.try_one(tally, *refuse(rank, first, count=count)), 0)
        self.assertGreater(tally.handed_back, 0)
        tally.print("bursts")

    def test_bursts_of_the_host(self):
        """Of ranks none of which can hold a sample without the host's memory one rests, or all ask again."""
        tally = self.tally(SHORT)
        for rank, count in ((0, BURST), (2, BURST), (1, NEVER), ("all", 1)):
            self.assertGreater(self.try_one(tally, *refuse(rank, 1, count=count, memory=HOST)), 0)
        tally.print("bursts, host memory")


if __name__ == "__main__":
    headroom_run.main()
