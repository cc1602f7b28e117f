#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""launch/slurm/train.sbatch under a real Slurm: controller, node daemons and munge run here, in a folder of the test.
A job is told to stop, requeued, goes on, and ends with the weights of a run that was never disturbed; a job may span
two nodes."""
import glob
import os
import pathlib
import shutil
import signal
import subprocess
import time
import unittest

import headroom_run

SOURCE = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
JOB = ("gpt.yaml", "train.reproducible=true", "train.grain_size=8", "optimizer.schedule=constant",
       "checkpoint.every=100")

CONFIG = """
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
SlurmctldPort={port}
AuthInfo=socket={folder}/run/munge.sock
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=pmix
KillWait=5
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1
NodeName=n[1-2] NodeHostname=localhost Port={port1}-{port2} CPUs=4
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    if lacking:
        return f"Slurm is not installed (Debian: slurmctld slurmd slurm-client munge): no {', '.join(lacking)}"
    return "only root can run Slurm's daemons" if os.getuid() != 0 else None


class Slurm:
    """One controller and two nodes on this host."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("run", "log", "ctld", "n1", "n2"):
            os.makedirs(f"{folder}/{name}", mode=0o755)
        os.makedirs(f"{folder}/key", mode=0o700)
        for path in (os.path.dirname(folder), folder):
            os.chmod(path, 0o755)  # munged refuses others
        with open(f"{folder}/key/munge.key", "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(os.urandom(1024))
        port = 20000 + os.getpid() % 10000
        config = CONFIG.format(folder=folder, port=port, port1=port + 1, port2=port + 2)
        for node in ("", "n1", "n2"):  # srun's ranks find each other in a folder of their node
            where = f"{folder}/conf{node}"
            os.makedirs(where)
            pathlib.Path(f"{where}/slurm.conf").write_text(config, encoding="utf-8")
            pathlib.Path(f"{where}/mpi.conf").write_text(f"PMIxCliTmpDirBase={folder}/{node or 'run'}\n",
                                                         encoding="utf-8")
        self.environment = {**os.environ, "SLURM_CONF": f"{folder}/conf/slurm.conf",
                            "OMPI_MCA_btl": "self,tcp", "OMPI_ALLOW_RUN_AS_ROOT": "1",
                            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                            "ASAN_OPTIONS": "detect_leaks=0"}  # Open MPI's

    def call(self, *command, conf="conf"):
        environment = {**self.environment, "SLURM_CONF": f"{self.folder}/{conf}/slurm.conf"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False)
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.stdout}{self.logs()}")
        return done.stdout

    def start(self):
        run = f"{self.folder}/run"
        self.call("munged", f"--key-file={self.folder}/key/munge.key", f"--socket={run}/munge.sock",
                  f"--pid-file={run}/munged.pid", f"--log-file={self.folder}/log/munged.log",
                  f"--seed-file={run}/munged.seed")
        self.call("slurmctld")
        for node in ("n1", "n2"):
            self.call("slurmd", "-N", node, conf=f"conf{node}")
        deadline = time.monotonic() + 60
        while set(self.call("sinfo", "-h", "-N", "-o", "%T").split()) != {"idle"}:
            if time.monotonic() > deadline:
                raise AssertionError(f"no idle nodes: {self.logs()}")
            time.sleep(0.1)

    def stop(self):
        for name in glob.glob(f"{self.folder}/run/*.pid"):
            try:
                os.kill(int(pathlib.Path(name).read_text(encoding="utf-8")), signal.SIGTERM)
            except (ProcessLookupError, ValueError):
                pass
        time.sleep(1)
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                if self.folder.encode() in pathlib.Path(path).read_bytes():
                    os.kill(int(path.split("/")[2]), signal.SIGKILL)
            except OSError:
                pass

    def logs(self):
        return "".join(f"\n{name}:\n{pathlib.Path(name).read_text(encoding='utf-8')[-3000:]}"
                       for name in glob.glob(f"{self.folder}/log/*.log"))


@unittest.skipIf(missing(), missing())
class UnderSlurm(headroom_run.ProgramTest):
    def setUp(self):
        super().setUp()
        self.slurm = Slurm(self.path("slurm"))
        self.addCleanup(self.slurm.stop)
        self.slurm.environment["HEADROOM"] = headroom_run.HEADROOM
        self.slurm.start()

    def submit(self, options, *arguments):
        script = str(SOURCE / "launch/slurm/train.sbatch")
        return self.slurm.call("sbatch", "--parsable", f"--chdir={self.folder}", "--time=30", *options, script,
                               *arguments).strip()

    def state(self, job):
        return dict(field.partition("=")[::2] for field in self.slurm.call("scontrol", "show", "job", job).split())

    def wait_until(self, met, job, why, seconds=120):
        deadline = time.monotonic() + seconds
        while not met():
            if time.monotonic() > deadline:
                raise AssertionError(f"{why}: {self.state(job)}\n{self.output(job)}{self.slurm.logs()}")
            time.sleep(0.1)

    def output(self, job):
        try:
            return self.read(f"headroom-{job}.out")
        except FileNotFoundError:
            return ""

    def wait_for_job(self, job):
        self.wait_until(lambda: self.state(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED"), job, "does not end")
        self.assertEqual(self.state(job)["JobState"], "COMPLETED", self.output(job) + self.slurm.logs())

    def go_on_at_once(self, job):
        """Slurm waits two minutes before it starts a job again, in which what the last start had in use is gone; a
        start within the second of that end is refused, as one that was ended with it."""
        self.wait_until(lambda: self.state(job)["JobState"] == "PENDING" and self.state(job)["Restarts"] != "0", job,
                        "is not requeued")
        self.wait_until(lambda: not glob.glob(self.path(f"slurm/n*/stepd.slurm.pmix.{job}.*")), job, "has not ended")
        self.slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    def test_a_job_that_is_stopped_goes_on(self):
        job = self.submit(["--nodes=1", "--ntasks=2"], *JOB, "train.steps=800")
        run = f"runs/job_{job}"
        for restarts in (1, 2):
            self.wait_until(lambda: self.steps_done(run) > 120 * restarts, job, "no steps")
            self.slurm.call("scancel", "--batch", "--signal=USR1", job)
            self.go_on_at_once(job)
        self.wait_for_job(job)
        self.assertEqual(self.state(job)["Restarts"], "2")
        stopped = headroom_run.Run(self.path(run), None)
        self.assertEqual([line["event"] for line in stopped.lines if line.get("event") in ("resume", "end")],
                         ["end", "resume", "end", "resume", "end"])
        whole = self.train(*JOB, "train.steps=800")
        self.assertEqual(stopped.losses, whole.losses)
        self.assertEqual(stopped.lines[-1]["weights"], whole.lines[-1]["weights"])

    def test_two_nodes(self):
        job = self.submit(["--nodes=2", "--ntasks-per-node=2"], *JOB, "train.steps=20")
        self.wait_for_job(job)
        run = headroom_run.Run(self.path(f"runs/job_{job}"), None)
        self.assertEqual(run.lines[-1]["weights"], self.train(*JOB, "train.steps=20").lines[-1]["weights"])
        self.assertEqual(len(run.steps[-1]["ranks"]), 4)
        self.assertEqual(self.state(job)["NodeList"], "n[1-2]")

    def test_two_kinds_of_nodes(self):
        """A heterogeneous job. Now and then srun (22.05) does not see that both of its steps have ended, so it is the run's
        end that counts."""
        job = self.submit(["--ntasks=2", "--nodelist=n1", ":", "--ntasks=1", "--nodelist=n2"], *JOB, "train.steps=20")
        folder = f"runs/job_{job}"
        self.wait_until(lambda: '"event":"end"' in "".join(self.metrics_lines(folder)[-1:]), job, "does not end")
        self.wait_until(lambda: ".0 " not in self.slurm.call("squeue", "--noheader", "--steps"), job, "steps do not end")
        run = headroom_run.Run(self.path(folder), None)
        self.assertEqual(run.lines[-1]["status"], 0)
        self.assertEqual(len(run.steps[-1]["ranks"]), 3)
        self.assertEqual(run.lines[-1]["weights"], self.train(*JOB, "train.steps=20").lines[-1]["weights"])


if __name__ == "__main__":
    headroom_run.main()
