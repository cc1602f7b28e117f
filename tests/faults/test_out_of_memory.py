# SPDX-License-Identifier: Apache-2.0
"""Where even the least does not fit the job ends with exit code 3 and a line that names the rank and the bytes; and a
loss that is no longer finite ends it with exit code 4."""

import headroom_run


def squeeze(*ranks):
    entries = ", ".join(f"{{rank: {rank}, bytes: 1MiB, from_step: 10, to_step: 20}}" for rank in ranks)
    return f"device.neighbours=[{entries}]"


class OutOfMemory(headroom_run.ProgramTest):
    def ends(self, pattern, *arguments, ranks, code=3):
        finished = self.headroom("train", *arguments, "run.folder=run", ranks=ranks, code=code)
        self.assertEqual(len(finished.complaints), 1, finished.err)
        self.assertRegex(finished.complaints[0], pattern)

    def test_weights_do_not_fit(self):
        self.ends(r"cannot hold the gradients: .*allocate 166\.75 KiB.*capacity of 256\.00 KiB", "mlp.yaml",
                  "device.capacity=256KiB", ranks=None)
        self.ends(r"rank 2 on .*: cannot hold the gradients: .*allocate 166\.75 KiB.*capacity of 256\.00 KiB",
                  "mlp.yaml", "device.capacity=[1MiB, 1MiB, 256KiB, 256KiB]", ranks=4)

    def test_no_sample_fits(self):
        self.ends(r"rank 0 cannot hold a single sample: .*\d bytes", "gpt.yaml", "device.capacity=576KiB", ranks=None)
        self.ends(r"rank 1 cannot hold a single sample: .*\d bytes", "gpt.yaml",
                  "device.capacity=[1MiB, 576KiB, 576KiB, 1MiB]", ranks=4)

    def test_neighbours_leave_no_room(self):
        for ranks in ((1,), (1, 2)):
            self.ends(r"rank 1 cannot hold a single sample: .*\d bytes", "mlp.yaml", "device.capacity=1MiB",
                      "train.eval_every=5", squeeze(*ranks), ranks=4)

    def test_every_allocation_fails(self):
        failing = ("mlp.yaml", "fault.fail_allocation_every=1")
        self.ends(r"cannot hold a single sample: .*allocate [\d.]+ KiB.*injected", *failing, ranks=None)
        self.ends(r"rank 2 on .*: cannot hold a single sample: .*allocate [\d.]+ KiB.*injected", *failing,
                  "fault.rank=2", ranks=4)

    def test_the_run_says_how_it_ended(self):
        run = self.train("mlp.yaml", "device.capacity=1MiB", squeeze(0), code=3)
        self.assertEqual(len(run.steps), 10)
        self.assertEqual((run.lines[-1]["event"], run.lines[-1]["step"], run.lines[-1]["status"]), ("end", 10, 3))

    def test_divergence(self):
        diverging = ("mlp.yaml", "optimizer.learning_rate=1e6", "train.clip_norm=0")
        for ranks in (None, 4):
            self.ends(r"step \d+: .*training has diverged.*optimizer\.learning_rate", *diverging, ranks=ranks, code=4)


if __name__ == "__main__":
    headroom_run.main()
