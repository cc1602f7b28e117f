#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""launch/supervise.sh and launch/mpirun.sh: a run that dies is started again, with a cap; one for which that is no use
is not."""
import os
import pathlib
import signal

import headroom_run

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
SUPERVISE = [str(LAUNCH / "supervise.sh")]
ENVIRONMENT = {"HEADROOM_RESTART_SECONDS": "0", "HEADROOM_RESTARTS": "2", "HEADROOM": headroom_run.HEADROOM}


class Supervised(headroom_run.ProgramTest):
    def setUp(self):
        super().setUp()
        os.environ.update(ENVIRONMENT)

    def child(self, launch):
        """The program's process."""
        for pid in headroom_run.session_processes(launch.process.pid):
            try:
                if os.path.samefile(f"/proc/{pid}/exe", headroom_run.HEADROOM):
                    return pid
            except OSError:
                pass  # it has just ended
        return None

    def test_what_dies_is_started_again(self):
        job = ("train", "gpt.yaml", "comm.kind=self", "train.micro_batch_size=8", "train.steps=400",
               "checkpoint.every=20", "checkpoint.resume=auto", "run.folder=run")
        launch = self.start(*job, before=SUPERVISE)
        for steps in (50, 150):
            self.wait_for_steps(launch, "run", steps)
            os.kill(self.child(launch), signal.SIGKILL)
            self.wait_for(launch, lambda: self.child(launch) is not None, "is not started again")
        finished = launch.wait()
        self.assertEqual(finished.code, 0, finished.err)
        self.assertEqual(finished.err.count("supervise: ended with code 137; start "), 2)
        run = headroom_run.Run(self.path("run"), finished)
        self.assertEqual(run.losses, self.train("gpt.yaml", "train.micro_batch_size=8", "train.steps=400").losses)

    def test_a_cap(self):
        finished = self.headroom("-c", "exit 7", before=[*SUPERVISE, "sh", "-c", "echo x >>starts; exit 7"], code=7)
        self.assertEqual(self.read("starts"), 3 * "x\n")
        self.assertTrue(finished.err.endswith("supervise: ended with code 7 after 2 restarts\n"))

    def test_what_starting_again_does_not_help(self):
        for code, command in ((0, ("train", "mlp.yaml", "train.steps=1")), (2, ("train", "nowhere.yaml")),
                              (3, ("train", "mlp.yaml", "device.capacity=64KiB"))):
            finished = self.headroom(*command, before=SUPERVISE, code=code)
            self.assertNotIn("supervise", finished.err)

    def test_told_to_stop(self):
        launch = self.start("train", "mlp.yaml", "train.steps=1000000", "run.folder=run", before=SUPERVISE)
        self.wait_for_steps(launch, "run", 3)
        launch.process.send_signal(signal.SIGUSR1)
        self.assertEqual(launch.wait().code, 75)

    def test_mpirun(self):
        self.start("3", "mlp.yaml", "train.steps=2", "run.folder=run",
                   before=["sh", "-c", f"shift; exec {LAUNCH}/mpirun.sh \"$@\"", "mpirun"]).wait()
        self.assertEqual([len(step["ranks"]) for step in self.steps("run")], [3, 3])


if __name__ == "__main__":
    headroom_run.main()
