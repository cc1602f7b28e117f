#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A run that is killed at random moments, many of them while a checkpoint is written, and started again each time: in
the end its losses and weights have the bits of a run that was never killed, and no checkpoint was ever found damaged."""
import os
import random
import signal
import time

import headroom_run

KILLS = int(os.environ.get("HEADROOM_KILLS", "40" if "HEADROOM_SIMULATED" in os.environ else "200"))
JOB = ("gpt.yaml", "train.reproducible=true", "train.grain_size=8", "optimizer.schedule=constant")
SEED = 7


class Killed(headroom_run.ProgramTest):
    def start_again(self, ranks, shards):
        return self.start("train", *JOB, "train.steps=1000000", "checkpoint.every=1", "checkpoint.resume=auto",
                          "run.folder=run", f"train.shard_optimizer={shards}", ranks=ranks)

    def kill_one(self, launch, choose):
        """One of the run's processes: most often after it has written a checkpoint, else while it starts."""
        latest, deadline = self.latest(), time.monotonic() + headroom_run.TIMEOUT_S
        while choose.random() < 0.999 and self.latest() == latest:
            self.assertLess(time.monotonic(), deadline, "no checkpoint")
            time.sleep(0.002)
        time.sleep(choose.uniform(0, 0.3))
        os.kill(choose.choice(list(launch.rank_processes().values()) or [launch.process.pid]), signal.SIGKILL)
        finished = launch.wait()
        self.assertNotIn("warning", finished.err)

    def latest(self):
        try:
            return os.readlink(self.path("run/checkpoints/latest"))
        except FileNotFoundError:
            return None

    def parts(self):
        """Checkpoints that were being written, or thrown away."""
        try:
            return sum(name.endswith(".part") for name in os.listdir(self.path("run/checkpoints")))
        except FileNotFoundError:
            return 0

    def test_kills(self):
        choose = random.Random(SEED)
        amid = 0
        for _ in range(KILLS):
            self.kill_one(self.start_again(choose.choice((None, 2, 3)), choose.choice(("true", "false"))), choose)
            amid += self.parts() > 0
        launch = self.start_again(2, "true")
        self.wait_for_steps(launch, "run", self.steps_done("run") + 3)
        launch.process.send_signal(signal.SIGUSR1)
        finished = launch.wait()
        self.assertEqual(finished.code, 75, finished.err)
        killed = headroom_run.Run(self.path("run"), finished)
        print(f"{KILLS} kills in {len(killed.steps)} steps, {amid} of them while a checkpoint was written", flush=True)
        self.assertGreater(amid, KILLS // 10)
        self.assertEqual([step["step"] for step in killed.steps], list(range(len(killed.steps))))
        whole = self.train(*JOB, f"train.steps={len(killed.steps)}")
        self.assertEqual(killed.losses, whole.losses)
        self.assertEqual(killed.lines[-1]["weights"], whole.lines[-1]["weights"])


if __name__ == "__main__":
    headroom_run.main()
