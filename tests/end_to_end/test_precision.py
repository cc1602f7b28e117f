# SPDX-License-Identifier: Apache-2.0
"""Training in bf16: nearly the losses of fp32, the same for every rank count, in less memory that is priced as well.

Between runs in bf16 that add up in another order, weights that round to the other neighbour set the curves apart, step
by step; the first step has the same weights.
"""

import re

import headroom_run

BF16 = "train.precision=bf16"
ROUNDING = 5e-3  # of 50 steps' losses; a weight's rounding to bf16 is up to 4e-3
CONFIGS = (("mlp.yaml", "device.capacity=[640KiB, 704KiB, 768KiB, 1MiB]"), ("gpt.yaml", headroom_run.GPT_CAPACITIES))


class Precision(headroom_run.ProgramTest):
    def assert_same_in_bf16(self, run, reference, what):
        for key in ("loss", "grad_norm"):
            self.assertAlmostEqual(run.steps[0][key] / reference.steps[0][key], 1, delta=1e-6)
        self.assert_close_losses(run, reference, what, ROUNDING)

    def test_losses_are_near_those_of_fp32(self):
        for config, _ in CONFIGS:
            fp32, bf16 = self.train(config), self.reference(config, BF16)
            self.assert_close_losses(bf16, fp32, f"{config}, bf16 and fp32", ROUNDING)
            self.assertGreater(max(abs(a / b - 1) for a, b in zip(bf16.losses, fp32.losses)), 1e-5, "is it bf16?")
            self.assertLess(bf16.losses[-1], 0.6 * bf16.losses[0])
            again = self.train(config, BF16)
            self.assertEqual(again.losses + again.evaluation_losses, bf16.losses + bf16.evaluation_losses)

    def test_any_number_of_ranks(self):
        for config, capacities in CONFIGS:
            reference = self.reference(config, BF16)
            for ranks in (1, 2, 3):
                self.assert_same_in_bf16(self.train(config, BF16, ranks=ranks), reference,
                                         f"{config}, bf16, {ranks} ranks")
            for bucket in ("4", "1GiB"):
                unequal = self.train(config, BF16, capacities, f"comm.bucket_bytes={bucket}", ranks=4)
                self.assertGreater(len({rank["micro_batch"] for rank in unequal.steps[0]["ranks"]}), 1)
                self.assert_same_in_bf16(unequal, reference, f"{config}, bf16, buckets of {bucket}")

    def test_failing_allocations(self):
        for config, capacities in CONFIGS:
            reference = self.reference(config, BF16)
            failing = self.train(config, BF16, capacities, "fault.fail_allocation_every=3", ranks=4)
            for rank in range(4):
                self.assertGreater(sum(failing.of_rank(rank, "oom_retries")), 0)
            self.assert_same_in_bf16(failing, reference, f"{config}, bf16, failing allocations")

    def test_addresses_that_fault_change_nothing(self):
        for config, _ in CONFIGS:
            plain, faulting = (self.train(config, BF16, "device.capacity=1MiB", "train.recompute=full",
                                          f"device.faulting_addresses={value}")
                               for value in ("false", "true"))
            self.assertEqual(faulting.losses, plain.losses)
            self.assertEqual(faulting.untimed_evaluations, plain.untimed_evaluations)

    def test_peaks_are_priced(self):
        for config, capacities in CONFIGS:
            unequal = self.train(config, BF16, capacities, "train.steps=10", ranks=4)
            for step in unequal.steps + unequal.evaluations:
                for rank in step["ranks"]:
                    self.assertEqual(rank["allocated_peak_bytes"], rank["predicted_peak_bytes"])
                    self.assertLessEqual(rank["reserved_peak_bytes"], rank["limit_bytes"])

    def test_a_plan_says_what_it_takes(self):
        for config, _ in CONFIGS:
            plan = self.headroom("plan", config, BF16).out
            self.assertRegex(plan, r"(?m)^  bf16 copy +[\d.]+ KiB$")
            table = plan.partition("layouts")[0]
            peaks = {int(n): int(peak) for n, peak in re.findall(r"^(\d+) +[\d.]+ \w+ +(\d+)$", table, re.MULTILINE)}
            self.assertGreater(len(peaks), 4)
            for micro_batch, peak in peaks.items():
                run = self.train(config, BF16, "train.steps=1", f"train.micro_batch_size={micro_batch}")
                self.assertEqual(run.steps[0]["ranks"][0]["allocated_peak_bytes"], peak)

    def test_more_samples_fit(self):
        for config, _ in CONFIGS:
            fits = [self.train(config, "device.capacity=896KiB", "train.steps=1", f"train.precision={precision}")
                    .of_rank(0, "micro_batch")[0] for precision in ("fp32", "bf16")]
            self.assertGreater(fits[1], fits[0])


if __name__ == "__main__":
    headroom_run.main()
