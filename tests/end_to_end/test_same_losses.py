# SPDX-License-Identifier: Apache-2.0
"""Whatever memory the ranks have, and whatever happens to it, the model learns the same."""

import headroom_run

FAILURES = "fault.fail_allocation_every=3"
LINES_TOO_SMALL = "device.capacity=832KiB"
DEEP_TOO_SMALL = "device.capacity=1984KiB"  # of eight blocks, unless they are offloaded


class SameLosses(headroom_run.ProgramTest):
    def check(self, config, capacities, clip_norm):
        reference = self.reference(config)
        self.assertTrue(any(step["grad_norm"] > clip_norm for step in reference.steps), "nothing was clipped")

        equal = self.train(config, ranks=4)
        self.assert_same_losses(equal, reference, f"{config}, four equal ranks")

        unequal = self.train(config, capacities, ranks=4)
        plan = unequal.steps[0]["ranks"]
        self.assertEqual(len({rank["micro_batch"] for rank in plan}), 4, plan)
        self.assertGreater(min(rank["accumulation_steps"] for rank in plan[:3]), 1, plan)
        self.assert_same_losses(unequal, reference, f"{config}, four unequal ranks")

        failing = self.train(config, capacities, FAILURES, ranks=4)
        for rank in range(4):
            self.assertGreater(sum(failing.of_rank(rank, "oom_retries")), 0)
        self.assert_same_losses(failing, reference, f"{config}, four unequal ranks with failing allocations")

    def test_mlp_with_momentum_and_clipping(self):
        self.check("mlp.yaml", headroom_run.MLP_CAPACITIES, clip_norm=0.25)

    def test_gpt_with_adamw_and_clipping(self):
        self.check("gpt.yaml", headroom_run.GPT_CAPACITIES, clip_norm=1)

    def test_lines_of_different_lengths(self):
        reference = self.reference("lines.yaml")
        self.assertGreater(len({step["tokens"] for step in reference.steps}), 30)
        for what, ranks, overrides in (("one at a time", None, ("train.micro_batch_size=1",)),
                                       ("four unequal ranks", 4, (headroom_run.LINES_CAPACITIES,)),
                                       ("failing allocations", 4, (headroom_run.LINES_CAPACITIES, FAILURES))):
            run = self.train("lines.yaml", *overrides, ranks=ranks)
            self.assert_same_losses(run, reference, f"lines.yaml, {what}")
            self.assertEqual([step["tokens"] for step in run.steps], [step["tokens"] for step in reference.steps])
        self.assertGreater(sum(sum(run.of_rank(rank, "oom_retries")) for rank in range(4)), 0)

    def test_documents_of_token_shards(self):
        """The same lines as documents of two shards: the same samples, so on one rank the same bits."""
        text = headroom_run.make_lines().encode()
        border = text.index(b"\n", len(text) // 2) + 1
        self.write("shard-0.bin", headroom_run.token_shard(text[:border]))
        self.write("shard-1.bin", headroom_run.token_shard(text[border:]))
        short = ("train.steps=16",)
        documents = (*short, "data.kind=tokens", "data.path=shard-*.bin", "data.end_of_text=10")
        reference = self.train("lines.yaml", *short)
        run = self.train("lines.yaml", *documents)
        self.assertEqual(run.losses + run.evaluation_losses, reference.losses + reference.evaluation_losses)
        run = self.train("lines.yaml", *documents, headroom_run.LINES_CAPACITIES, ranks=4)
        self.assert_same_losses(run, reference, "documents, four unequal ranks")
        self.assertEqual([step["tokens"] for step in run.steps], [step["tokens"] for step in reference.steps])

    def test_every_token_of_every_line_counts_once(self):
        """One epoch: all bytes of the file but the first of each line."""
        lines = headroom_run.make_lines().splitlines()
        samples = sum((len(line) + 63) // 64 for line in lines)
        run = self.train("lines.yaml", "data.validation_fraction=0", f"train.global_batch_size={samples}",
                         "train.steps=2", "train.micro_batch_size=10", ranks=2)
        self.assertEqual([step["tokens"] for step in run.steps], 2 * [sum(len(line) for line in lines)])

    def test_what_is_computed_again(self):
        """Selective, by half or full, the same bits; and a device that is too small for one sample otherwise."""
        reference = self.reference("lines.yaml")
        selective, *others = (self.train("lines.yaml", f"train.recompute={mode}")
                              for mode in ("selective", "half", "full"))
        for run in others:
            self.assertEqual(run.losses + run.evaluation_losses, selective.losses + selective.evaluation_losses)
        self.assert_same_losses(selective, reference, "lines.yaml, recomputed and with its head in parts")
        refused = self.headroom("train", "lines.yaml", "comm.kind=self", "run.folder=refused", LINES_TOO_SMALL,
                                "train.recompute=none", headroom_run.ALL_STAYS, code=3)
        self.assertIn("Set train.recompute: auto, raise train.offload_bytes, raise device.capacity, or lower ",
                      refused.complaints[0])
        run = self.train("lines.yaml", LINES_TOO_SMALL)
        self.assert_same_losses(run, reference, "lines.yaml, recomputed for want of memory")
        self.assertNotIn("none", run.of_rank(0, "levers"))

    def test_what_is_offloaded(self):
        """The same bits as where it stays; and a device that is too small for one sample otherwise."""
        deep = ("lines.yaml", "model.block_count=8")
        full, offload = (self.train(*deep, f"train.recompute={mode}") for mode in ("full", "offload"))
        self.assertEqual(offload.losses + offload.evaluation_losses, full.losses + full.evaluation_losses)
        self.assertLess(offload.of_rank(0, "allocated_peak_bytes"), full.of_rank(0, "allocated_peak_bytes"))
        refused = self.headroom("train", *deep, "comm.kind=self", "run.folder=refused", DEEP_TOO_SMALL,
                                headroom_run.ALL_STAYS, code=3)
        self.assertIn("cannot hold a single sample", refused.complaints[0])
        run = self.train(*deep, DEEP_TOO_SMALL, "train.offload_bytes=512KiB")  # the optimizer's state takes more
        self.assert_same_losses(run, full, "lines.yaml with 8 blocks, offloaded for want of memory")
        self.assertEqual(set(run.of_rank(0, "levers")), {"offload"})
        self.assertEqual(sum(run.of_rank(0, "oom_retries")), 0)

    def test_any_number_of_ranks(self):
        for config in ("mlp.yaml", "gpt.yaml"):
            reference = self.reference(config)
            for ranks in (1, 2, 3):
                self.assert_same_losses(self.train(config, ranks=ranks), reference, f"{config}, {ranks} ranks")

    def check_buckets(self, config, capacities, *overrides):
        """Of one gradient each, of a few KiB, and a single one; on ranks with different numbers of micro-steps."""
        reference = self.reference(config)
        for bucket, more in (("4", ()), ("3KiB", ("train.recompute=full",)), ("1GiB", ())):
            run = self.train(config, capacities, f"comm.bucket_bytes={bucket}", *more, *overrides, ranks=4)
            self.assertGreater(len({rank["accumulation_steps"] for rank in run.steps[0]["ranks"]}), 1)
            self.assert_same_losses(run, reference, f"{config}, four ranks with buckets of {bucket}")

    def test_buckets_of_the_mlp(self):
        self.check_buckets("mlp.yaml", headroom_run.MLP_CAPACITIES)

    def test_buckets_of_the_gpt(self):
        self.check_buckets("gpt.yaml", headroom_run.GPT_CAPACITIES)

    def test_buckets_and_failing_allocations(self):
        """What is cut in halves may be the share's last micro-step, which sends the buckets."""
        self.check_buckets("mlp.yaml", headroom_run.MLP_CAPACITIES, "fault.fail_allocation_every=2")

    def test_buckets_on_addresses_that_fault(self):
        self.check_buckets("mlp.yaml", headroom_run.MLP_CAPACITIES, "device.faulting_addresses=true")

    def test_addresses_that_fault_change_nothing(self):
        for config in ("mlp.yaml", "gpt.yaml"):
            plain, faulting = (self.train(config, "device.capacity=1MiB", "train.recompute=full",
                                                f"device.faulting_addresses={value}")
                               for value in ("false", "true"))
            self.assertEqual(faulting.losses, plain.losses)
            self.assertEqual(faulting.untimed_evaluations, plain.untimed_evaluations)

    def test_addresses_that_fault_on_four_ranks(self):
        reference = self.reference("gpt.yaml")
        faulting = self.train("gpt.yaml", "device.faulting_addresses=true", ranks=4)
        self.assert_same_losses(faulting, reference, "gpt.yaml, four ranks with faulting addresses")

    def test_ranks_that_share_a_device(self):
        reference = self.reference("mlp.yaml")
        for sharers, capacities in ((2, [1280, 1600]), (4, [2560])):
            shared = self.train("mlp.yaml", f"device.ranks_per_device={sharers}",
                                f"device.capacity=[{', '.join(f'{kib}KiB' for kib in capacities)}]", ranks=4)
            self.assert_same_losses(shared, reference, f"mlp.yaml, {sharers} ranks share a device")
            for step in shared.steps:
                for device, capacity_kib in enumerate(capacities):
                    ranks = step["ranks"][device * sharers:(device + 1) * sharers]
                    self.assertLessEqual(sum(rank["reserved_peak_bytes"] for rank in ranks), capacity_kib * 1024)
            self.assertGreater(shared.steps[0]["ranks"][0]["accumulation_steps"], 1)


if __name__ == "__main__":
    headroom_run.main()
