# SPDX-License-Identifier: Apache-2.0
"""When a process is killed the whole job ends, says so, and leaves nothing behind that lasts."""

import json
import os
import signal
import unittest.mock
import uuid

import headroom_run

END_S = 20  # within which the job has ended
FOREVER = ("train.steps=1000000", "run.folder=run", "device.ranks_per_device=2", "device.capacity=2MiB")


class LostRank(headroom_run.ProgramTest):
    def setUp(self):
        super().setUp()
        self.device = f"test-{uuid.uuid4().hex}"
        self.objects = [f"/dev/shm/headroom-{self.device}-{device}" for device in (0, 1)]
        # What Open MPI leaves when its launcher is killed goes with the test's folder.
        places = {"TMPDIR": self.folder, "OMPI_MCA_btl_vader_backing_directory": self.folder}
        patch = unittest.mock.patch.dict(os.environ, places)
        patch.start()
        self.addCleanup(patch.stop)

    def start_training(self, *overrides):
        """Four ranks on two shared devices, in the middle of their steps."""
        launch = self.start("train", "mlp.yaml", *FOREVER, *overrides, ranks=4)
        self.wait_for_steps(launch, "run", 5)
        return launch

    def start_on_named_devices(self):
        launch = self.start_training(f"device.name={self.device}")
        self.assertEqual([os.path.exists(name) for name in self.objects], [True, True])
        return launch

    def check_end(self, launch):
        finished = launch.wait(timeout_s=END_S)
        self.assertNotEqual(finished.code, 0)
        for line in self.metrics_lines("run"):
            json.loads(line)
        return finished

    def check_next_run(self):
        """Any later run on a shared device clears away what dead processes have left."""
        self.train("mlp.yaml", "train.steps=1", "device.name=test-next", "device.capacity=2MiB")
        self.assertEqual([os.path.exists(name) for name in self.objects], [False, False])

    def kill_rank(self, rank):
        launch = self.start_on_named_devices()
        processes = launch.rank_processes()
        self.assertEqual(sorted(processes), [0, 1, 2, 3])
        os.kill(processes[rank], signal.SIGKILL)
        finished = self.check_end(launch)
        self.assertRegex(finished.err, rf"rank {rank} .*signal 9")
        self.check_next_run()

    def test_a_jobs_own_devices_have_no_name_that_could_be_left(self):
        processes = self.start_training().rank_processes()
        self.assertEqual(len(processes), 4)
        for pid in processes.values():
            with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
                devices = [line for line in file.read().splitlines() if "/headroom-job-" in line]
            self.assertEqual(len(devices), 1)
            self.assertRegex(devices[0], r" \(deleted\)$")

    def test_first_rank_is_killed(self):
        self.kill_rank(0)

    def test_another_rank_is_killed(self):
        self.kill_rank(2)

    def signal_launcher(self, number):
        launch = self.start_on_named_devices()
        launch.process.send_signal(number)
        self.check_end(launch)
        self.check_next_run()

    def test_launcher_is_terminated(self):
        self.signal_launcher(signal.SIGTERM)

    def test_launcher_is_interrupted(self):
        self.signal_launcher(signal.SIGINT)

    def test_launcher_is_killed(self):
        self.signal_launcher(signal.SIGKILL)


class StoppedRank(headroom_run.ProgramTest):
    """A rank that is there and does nothing."""

    def check(self, finished, complaint):
        self.assertNotEqual(finished.code, 0)
        self.assertEqual(len(finished.complaints), 1, finished.err)
        self.assertRegex(finished.complaints[0], f"^headroom: {complaint}$")

    def test_a_rank_that_hangs(self):
        for rank in (0, 2):
            finished = self.start("train", "gpt.yaml", "run.stall_seconds=2", "fault.stall_step=3",
                                  f"fault.rank={rank}", f"run.folder=run-{rank}", ranks=3).wait(END_S)
            self.check(finished, rf"rank {rank} has stopped: it works on {os.uname().nodename}, in step 3: .*, last "
                                 r"operation \w+; it came no further for 2 seconds \(run\.stall_seconds\)")

    def test_a_rank_alone_that_hangs(self):
        finished = self.start("train", "gpt.yaml", "comm.kind=self", "run.stall_seconds=1", "fault.stall_step=0").wait()
        self.check(finished, r"rank 0 has stopped: it works on .*, in step 0: .*")

    def test_a_process_that_is_stopped(self):
        """As by a debugger, or a machine that swaps: the others tell."""
        for rank in (0, 1):
            launch = self.start("train", "gpt.yaml", "train.steps=1000000", "run.stall_seconds=2",
                                f"run.folder=run-{rank}", ranks=3)
            self.wait_for_steps(launch, f"run-{rank}", 5)
            os.kill(launch.rank_processes()[rank], signal.SIGSTOP)
            self.check(launch.wait(END_S), rf"rank {rank} has stopped, its process gives no sign of life: it \w+ on "
                                           r".*, in step \d+: .*; others wait for 2 seconds \(run\.stall_seconds\)")

    def test_a_slow_rank_is_no_stopped_one(self):
        """Steps longer than the limit, of micro-steps that are shorter."""
        job = ("train", "gpt.yaml", "train.steps=2", "run.stall_seconds=1", "train.global_batch_size=40000",
               "train.micro_batch_size=8", "run.folder=run")
        self.headroom(*job, ranks=2)
        self.assertGreater(max(step["step_ms"] for step in self.steps("run")), 1000)


if __name__ == "__main__":
    headroom_run.main()
