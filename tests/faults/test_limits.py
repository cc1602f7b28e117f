# SPDX-License-Identifier: Apache-2.0
"""Somebody outside tells ranks of a run that is under way to hold less, and releases them."""

import os

import headroom_run

KIB = 1024
CAPACITY = 1024 * KIB
RESTING = 502 * KIB  # weights, gradients and momentum
SAMPLE = 3200  # bytes, at most
MLP = ("mlp.yaml", "data.validation_samples=0", "optimizer.learning_rate=0.001")
RUN = "run"


class Limits(headroom_run.ProgramTest):
    def start_run(self, *overrides, config=MLP, ranks=4):
        launch = self.start("train", *config, f"run.folder={RUN}", "train.steps=1000000", *overrides, ranks=ranks)
        self.wait_for_steps(launch, RUN, 3)
        return launch

    def limit(self, *arguments, code=0):
        return self.headroom("limit", RUN, *arguments, code=code)

    def wait_for_ranks(self, launch, met, count=3):
        """Until the ranks of so many steps in a row met it, the newest among them."""
        self.wait_for(launch, lambda: all(met(step["ranks"]) for step in self.newest_steps(RUN, count)), "no such steps")

    def squeeze(self, launch, rank, size, limit_bytes):
        self.limit("--rank", str(rank), "--bytes", size)
        self.wait_for_ranks(launch, lambda ranks: ranks[rank]["limit_bytes"] == limit_bytes)

    def end(self, launch, what):
        """Ends the run: its steps so far are as if nothing had happened."""
        launch.kill()
        run = headroom_run.Run(self.path(RUN), None)
        self.assert_same_losses(run, self.train(*MLP, f"train.steps={len(run.steps)}"), what)
        for step in run.steps:
            self.assertEqual(step["samples"], 512)
        return run

    def assert_kept(self, run, rank, limit_bytes):
        """The steps under the limit, but for the one in whose report it was noticed."""
        limits, held = run.of_rank(rank, "limit_bytes"), run.of_rank(rank, "reserved_peak_bytes")
        under = [held[step] for step in range(1, len(held)) if limits[step - 1] == limit_bytes]
        self.assertGreater(len(under), 0)
        self.assertLessEqual(max(under), max(limit_bytes, RESTING + 64 * KIB))
        return under

    def test_one_rank_is_squeezed_and_released(self):
        limit_bytes = 640 * KIB
        fits = (limit_bytes - RESTING) // SAMPLE
        launch = self.start_run(f"device.capacity={CAPACITY}")
        self.squeeze(launch, 2, "640KiB", limit_bytes)
        self.wait_for_ranks(launch, lambda ranks: 0 < ranks[2]["micro_batch"] <= fits)
        self.limit("--rank", "2", "--bytes", "none")
        self.wait_for_ranks(launch, lambda ranks: ranks[2]["micro_batch"] > fits)
        run = self.end(launch, "one of four ranks squeezed and released")
        self.assertGreater(max(run.of_rank(2, "micro_batch")[:3]), fits)
        self.assertLessEqual(max(self.assert_kept(run, 2, limit_bytes)), limit_bytes)
        self.assertEqual(set(run.of_rank(2, "limit_bytes")), {CAPACITY, limit_bytes})
        self.assertEqual(set(run.of_rank(1, "limit_bytes")), {CAPACITY})
        self.assertEqual(sum(run.of_rank(2, "oom_retries")), 0)
        self.assertRegex(run.logs[2], rf"(?m)^step \d+: limited to {limit_bytes} bytes by run/limits/rank_2\n"
                                      r"(.*\n)*step \d+: no limit from outside any more$")
        self.assertNotIn("limit from outside", run.logs[1])

    def test_a_limit_below_what_a_rank_holds_for_good(self):
        """It rests, a limit file that is nonsense changes nothing, and it comes back."""
        launch = self.start_run(f"device.capacity={CAPACITY}", ranks=3)
        self.squeeze(launch, 0, "100KB", 100000)
        self.wait_for_ranks(launch, lambda ranks: ranks[0]["share"] == 0)
        self.write("nonsense", "as much as you like\n")
        os.replace(self.path("nonsense"), self.path(f"{RUN}/limits/rank_0"))
        self.wait_for(launch, lambda: "the limit stays as it was" in self.read(f"{RUN}/logs/rank_0.log"), "not noticed")
        count = self.steps_done(RUN)
        self.wait_for_steps(launch, RUN, count + 3)
        self.limit("--rank", "0", "--bytes", "none")
        self.wait_for_ranks(launch, lambda ranks: ranks[0]["share"] > 0)
        run = self.end(launch, "one of three ranks rests for a while")
        self.assert_kept(run, 0, 100000)
        self.assertEqual(set(run.of_rank(0, "share")[count:count + 3]), {0})
        self.assertRegex(run.logs[0], r"(?m)^step \d+: run/limits/rank_0: is not a number of bytes such as 4096, 64MiB "
                                      r"or 1\.5GB; the limit stays as it was$")
        self.assertEqual(run.logs[0].count("the limit stays as it was"), 1)

    def test_ranks_that_share_a_device(self):
        launch = self.start_run("device.ranks_per_device=2", "device.capacity=1920KiB")
        self.squeeze(launch, 1, "576KiB", 576 * KIB)
        self.limit("--rank", "1", "--bytes", "none")
        self.wait_for_ranks(launch, lambda ranks: ranks[1]["micro_batch"] > (576 * KIB - RESTING) // SAMPLE)
        run = self.end(launch, "one of two ranks that share a device squeezed")
        self.assertLessEqual(max(self.assert_kept(run, 1, 576 * KIB)), 576 * KIB)

    def test_all_ranks(self):
        launch = self.start_run(f"device.capacity={CAPACITY}", ranks=3)
        out = self.limit("--bytes", "0.625MiB").out
        self.assertEqual(out, "each of ranks 0 to 2 counts on at most 640.00 KiB from its next report on\n")
        self.wait_for_ranks(launch, lambda ranks: {rank["limit_bytes"] for rank in ranks} == {640 * KIB})
        out = self.limit("--bytes", "none").out
        self.assertEqual(out, "each of ranks 0 to 2 counts on all that its device leaves from its next report on\n")
        self.wait_for_ranks(launch, lambda ranks: {rank["limit_bytes"] for rank in ranks} == {CAPACITY})
        run = self.end(launch, "all of three ranks squeezed and released")
        for rank in range(3):
            self.assertLessEqual(max(self.assert_kept(run, rank, 640 * KIB)), 640 * KIB)

    def test_nobody_may_hold_a_sample(self):
        """Rank 0 never could, so another says why the job ends."""
        launch = self.start_run("device.capacity=[576KiB, 1MiB, 1MiB, 1MiB]", headroom_run.ALL_STAYS,
                                config=["gpt.yaml"])
        self.limit("--bytes", "576KiB")
        finished = launch.wait()
        self.assertEqual(finished.code, 3, finished.err)
        self.assertEqual(len(finished.complaints), 1, finished.err)
        self.assertRegex(finished.complaints[0], r"^headroom: rank 1 on \S+: cannot hold a single sample: .* limit of "
                                                 r"589824 bytes that headroom limit set .* Raise train\.offload_bytes, "
                                                 r"lift the limit from outside "
                                                 r"\(headroom limit RUN_DIR --bytes none\), or lower model\.seq_len")
        self.assertRegex(finished.err, r"\nrank +limit +headroom +held by others\n(\d +576\.00 KiB .*\n){4}")
        run = headroom_run.Run(self.path(RUN), finished)
        self.assertEqual((run.lines[-1]["event"], run.lines[-1]["status"]), ("end", 3))

    def test_another_run_is_not_limited(self):
        self.train(*MLP, "train.steps=2")
        out = self.headroom("limit", "run-1", "--bytes", "512").out
        self.assertEqual(out, "rank 0 counts on at most 512 bytes once the run, which has ended, goes on\n")
        again = self.train("run-1/resolved.yaml", "comm.kind=self")
        self.assertEqual((again.path, len(again.steps)), (self.path("run-2"), 2))
        self.assertFalse(os.path.exists(self.path("run-2/limits")))


class Command(headroom_run.ProgramTest):
    def setUp(self):
        super().setUp()
        os.makedirs(self.path("run-1/logs"))
        self.write("run-1/env.txt", "headroom 0.1.0\nhost here\nranks 2\nfolder there\ncommand headroom train\n")

    def refused(self, pattern, *arguments, ranks=None, code=2):
        finished = self.headroom("limit", *arguments, ranks=ranks, code=code)
        self.assertEqual(len(finished.complaints), 1, finished.err)
        self.assertRegex(finished.complaints[0], rf"^headroom: {pattern}$")
        self.assertEqual(finished.out, "")

    def test_files(self):
        finished = self.headroom("limit", "run-1", "--rank", "1", "--bytes", "20GiB")
        self.assertEqual(finished.out, "rank 1 counts on at most 20.00 GiB from its next report on\n")
        self.assertEqual(self.read("run-1/limits/rank_1"), "20GiB\n")
        self.headroom("limit", "--bytes", "1.5GiB", self.path("run-1/"))
        self.assertEqual(sorted(os.listdir(self.path("run-1/limits"))), ["rank_0", "rank_1"])
        self.assertEqual(self.read("run-1/limits/rank_1"), "1536MiB\n")
        for _ in range(2):
            finished = self.headroom("limit", "run-1", "--bytes", "none", "--rank", "0")
            self.assertEqual(finished.out, "rank 0 counts on all that its device leaves from its next report on\n")
            self.assertEqual(os.listdir(self.path("run-1/limits")), ["rank_1"])

    def test_folders(self):
        self.refused(r"run-9: No such file or directory; allowed: the folder of a run", "run-9", "--bytes", "1GiB")
        self.refused(r"text\.txt: no run's folder: it has no env\.txt .*", "text.txt", "--bytes", "1GiB")
        self.refused(r"run-1/logs: no run's folder: it has no env\.txt .*", "run-1/logs", "--bytes", "1GiB")
        self.refused(r"limit needs RUN_DIR; see headroom limit --help", "--bytes", "1GiB")
        self.refused(r"limit does not take 'run-2'; see headroom limit --help", "run-1", "run-2")
        self.write("run-1/limits", "a file where the folder should be")
        self.refused(r"run-1/limits/rank_0: cannot write: Not a directory", "run-1", "--bytes", "1GiB", code=1)

    def test_ranks(self):
        for rank, complaint in (("2", "is out of range"), ("-1", "is out of range"), ("all", "is not a whole number")):
            self.refused(rf"command line: --rank {rank}: {rank} {complaint}; allowed: 0 to 1", "run-1", "--rank", rank,
                         "--bytes", "1GiB")
        self.assertFalse(os.path.exists(self.path("run-1/limits")))

    def test_sizes(self):
        no_size = r"is not a number of bytes such as .*"
        for size, complaint in (("0", "is out of range"), ("1PB", no_size), ("", no_size),
                                ("0.3", "is not a whole number of bytes")):
            self.refused(rf"command line: --bytes {size}: {size} {complaint}; allowed: 1 to 1024TiB or none", "run-1",
                         "--bytes", size)
        self.refused(r"limit needs --bytes; see headroom limit --help", "run-1", "--rank", "1")
        self.refused(r"--bytes needs a value; see headroom limit --help", "run-1", "--bytes")
        self.assertFalse(os.path.exists(self.path("run-1/limits")))

    def test_under_a_launcher(self):
        self.refused(r"limit runs without a launcher; see headroom --help", "run-1", "--bytes", "1GiB", ranks=2)


if __name__ == "__main__":
    headroom_run.main()
