# SPDX-License-Identifier: Apache-2.0
"""Disks that are full, read-only, or turn so while a run is under way, and data that shrink or are no numbers: each
time one clear line, and nothing that was trained is lost. Disks are mounted, which takes root."""

import math
import os
import random
import re
import signal
import struct
import subprocess
import time

import headroom_run

MIB = 1 << 20
# Whatever ranks and disks do, the run has the same bits. A checkpoint takes 401 KiB.
JOB = ("gpt.yaml", "train.reproducible=true", "train.grain_size=8", "optimizer.schedule=constant",
       "checkpoint.resume=auto")
FOR_EVER = "train.steps=1000000"
FULL, READ_ONLY = "No space left on device", "Read-only file system"


def npy_file(descr, shape, values):
    """As NumPy writes it."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + values


class DiskTest(headroom_run.ProgramTest):
    def command(self, *command):
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            self.skipTest(done.stderr.strip().partition("\n")[0])

    def mount(self, *options, source="none"):
        """At the folder "disk"."""
        os.makedirs(self.path("disk"), exist_ok=True)
        try:
            self.command("mount", *options, source, self.path("disk"))
        except FileNotFoundError as missing:
            self.skipTest(str(missing))
        self.addCleanup(self.unmount)

    def unmount(self):
        if os.path.ismount(self.path("disk")):
            subprocess.run(["umount", "--lazy", self.path("disk")], check=True)

    def start_run(self, *overrides, job=JOB, folder="disk/run", ranks=2):
        """One that is to be stopped, and what it warns of can be read meanwhile."""
        launcher = [*headroom_run.MPIRUN, "-np", str(ranks)]
        launch = self.start("train", *job, FOR_EVER, f"run.folder={folder}", "run.stall_seconds=1", *overrides,
                            before=["sh", "-c", "exec \"$@\" 2>errors.txt", "errors", *launcher])
        self.wait_for_steps(launch, folder, 5)
        return launch

    def wait_for_words(self, launch, words, times=1):
        self.wait_for(launch, lambda: self.read("errors.txt").count(words) >= times, words)

    def wait_until_ended(self, launch, code):
        finished = launch.wait()
        finished = headroom_run.Finished(finished.code, finished.out, self.read("errors.txt"))
        finished.complaints = [line for line in finished.complaints if not line.startswith("headroom: warning: ")]
        self.assertEqual(finished.code, code, finished.err)
        return finished

    def assert_last_checkpoint_failed(self, finished, why):
        self.assertEqual(len(finished.complaints), 1, finished.err)
        self.assertRegex(finished.complaints[0],
                         rf"^headroom: the last checkpoint could not be written: disk/run/checkpoints/.*: {why}$")

    def stop(self, launch, code=75):
        """At a checkpoint."""
        launch.process.send_signal(signal.SIGUSR1)
        return self.wait_until_ended(launch, code)

    def beat(self, folder, rank=0):
        """The step that the rank's watchdog has written last."""
        return int(re.search(r" in step (\d+): |$", self.read(f"{folder}/alive/rank_{rank}")).group(1) or 0)

    def wait_for_beat(self, launch, folder, step):
        self.wait_for(launch, lambda: self.beat(folder) >= step, "comes no further")

    def wait_for_checkpoint(self, launch, folder):
        self.wait_for(launch, lambda: os.path.lexists(self.path(f"{folder}/checkpoints/latest")), "no checkpoint")

    def checkpoints(self, folder):
        """Those that are whole."""
        names = os.listdir(self.path(f"{folder}/checkpoints"))
        return sorted(name for name in names if re.fullmatch(r"step_\d+", name))

    def content(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def warnings(self, finished, name):
        return [line for line in finished.err.splitlines() if line.startswith(f"headroom: warning: {name}: ")]

    def goes_on_as_if_nothing_had_been(self, folder, job=JOB, more=5, **options):
        """From its newest checkpoint, so many steps more than that has, beside a run that was never disturbed. Nothing
        that is still in its metrics has other bits either."""
        steps = int(self.checkpoints(folder)[-1][-8:]) + more
        finished = self.headroom("train", *job, f"train.steps={steps}", f"run.folder={folder}", **options)
        self.assertIn(f"goes on after {steps - more} steps, from {folder}/checkpoints/", finished.out)
        run, whole = headroom_run.Run(self.path(folder), finished), self.train(*job, f"train.steps={steps}")
        self.assertEqual(run.losses, [whole.losses[step["step"]] for step in run.steps])
        self.assertEqual([step["step"] for step in run.steps][-more:], list(range(steps - more, steps)))
        self.assertEqual(run.lines[-1]["weights"], whole.lines[-1]["weights"])


class FullDisks(DiskTest):
    def setUp(self):
        super().setUp()
        self.mount("-t", "tmpfs", "-o", f"size={2 * MIB}")

    def fill(self):
        with open(self.path("disk/filler"), "ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as full:
                    self.assertEqual(full.strerror, FULL)

    def make_room(self):
        os.unlink(self.path("disk/filler"))

    def missing_lines(self, folder):
        """Steps between the first and the last line of metrics that have none."""
        steps = [step["step"] for step in self.steps(folder)]
        self.assertEqual(steps, sorted(set(steps)))
        return steps[-1] + 1 - len(steps)

    def test_checkpoints_that_do_not_fit(self):
        """Older ones stay, and the run goes on."""
        launch = self.start_run("checkpoint.every=5", "checkpoint.keep_last=100")
        self.wait_for_words(launch, "no checkpoint after", times=3)
        finished = self.stop(launch, code=1)
        kept = self.checkpoints("disk/run")
        self.assertEqual(kept, [f"step_{5 * number:08}" for number in range(1, 1 + len(kept))])
        sizes = {tuple(os.path.getsize(self.path(f"disk/run/checkpoints/{name}/{part}.safetensors"))
                       for part in ("model", "optimizer")) for name in kept}
        self.assertEqual(len(sizes), 1, sizes)
        refused = re.findall(r"(?m)^headroom: warning: no checkpoint after (\d+) steps: disk/run/checkpoints/step_.*"
                             rf"\.part/\S+: cannot write: {FULL}$", finished.err)
        self.assertEqual(refused[:3], [str(5 * (len(kept) + number)) for number in (1, 2, 3)])
        self.assert_last_checkpoint_failed(finished, FULL)
        self.command("mount", "-o", f"remount,size={16 * MIB}", self.path("disk"))
        self.goes_on_as_if_nothing_had_been("disk/run", ranks=3)

    def test_a_disk_that_is_full_for_a_while(self):
        """Metrics and a log have a gap, which is counted; the watchdogs take nobody for stopped."""
        launch = self.start_run("run.log_micro_steps=true")
        self.fill()
        self.wait_for_beat(launch, "disk/run", self.beat("disk/run") + 200)
        self.make_room()
        self.wait_for_steps(launch, "disk/run", self.steps_done("disk/run") + 5)
        finished = self.stop(launch)
        missing = self.missing_lines("disk/run")
        self.assertGreater(missing, 100)
        for name, lines in (("metrics.jsonl", missing), ("logs/rank_0.log", None), ("logs/rank_1.log", None)):
            begin, again, end = self.warnings(finished, f"disk/run/{name}")
            self.assertRegex(begin, f": cannot write: {FULL}; the run goes on, and lines are missing there$")
            self.assertRegex(again, f": can be written again, without {lines or r'[0-9]+'} lines$")
            self.assertRegex(end, f": {lines or r'[0-9]+'} lines could not be written: {FULL}$")
        self.assertNotRegex(self.read("disk/run/logs/rank_1.log"), r"(?m)^trained(?! samples \d+\.\.\d+$)")
        self.goes_on_as_if_nothing_had_been("disk/run", ranks=2)

    def test_a_disk_that_stays_full(self):
        """The job ends, its older checkpoint is whole, and once there is room it goes on from there."""
        launch = self.start_run("checkpoint.every=5", "checkpoint.keep_last=1", "run.memory_trace=true")
        self.wait_for_checkpoint(launch, "disk/run")
        for _ in range(10):  # what a checkpoint had begun to write, or throws away, leaves room once more
            self.fill()
            self.wait_for_beat(launch, "disk/run", self.beat("disk/run") + 10)
        before = self.checkpoints("disk/run")
        finished = self.stop(launch, code=1)
        self.assert_last_checkpoint_failed(finished, FULL)
        for name in ("metrics.jsonl", "memory/rank_0.csv", "memory/rank_1.csv", "costs/rank_0.json"):
            self.assertRegex(self.warnings(finished, f"disk/run/{name}")[-1], f": {FULL}")
        self.assertEqual(self.checkpoints("disk/run"), before)
        refused = self.headroom("train", *JOB, "run.folder=disk/run", code=1, ranks=2)
        self.assertEqual(len(refused.complaints), 1)
        self.assertRegex(refused.complaints[0], rf"^headroom: rank 0 on \S+: disk/run/\S+: cannot write .*: {FULL} ")
        refused = self.headroom("train", *JOB, "run.folder=disk/new", code=1, ranks=2)
        self.assertRegex(refused.complaints[0], rf"^headroom: rank 0 on \S+: disk/new.*: {FULL} ")
        self.assertFalse(os.path.exists(self.path("disk/new")))
        self.make_room()
        self.goes_on_as_if_nothing_had_been("disk/run", ranks=2)


class ReadOnlyDisks(DiskTest):
    def test_from_the_start(self):
        """A new run, and one that was to go on: both end before a step."""
        self.mount("-t", "tmpfs")
        self.headroom("train", *JOB, "train.steps=2", "run.folder=disk/run", ranks=2)
        self.command("mount", "-o", "remount,ro", self.path("disk"))
        for folder, what in (("disk/new", "disk/new: cannot make this folder"),
                             ("disk/a/b", "disk/a: cannot make this folder"),
                             ("disk/run", "disk/run/lock: cannot write this file")):
            for ranks in (None, 2):
                finished = self.headroom("train", *JOB, f"run.folder={folder}", ranks=ranks, code=2)
                self.assertEqual(finished.complaints,
                                 [f"headroom: {what}: {READ_ONLY} (run.folder says where a run writes)"])
        self.command("mount", "-o", "remount,rw", self.path("disk"))
        self.goes_on_as_if_nothing_had_been("disk/run")

    def mount_ext4(self):
        """Which the kernel itself makes read-only once it has found an error, whoever writes there."""
        with open(self.path("image"), "wb") as file:
            file.truncate(16 * MIB)
        try:
            self.command("mkfs.ext4", "-q", "-F", self.path("image"))
        except FileNotFoundError as missing:
            self.skipTest(str(missing))
        self.mount("-t", "ext4", "-o", "loop,errors=remount-ro", source=self.path("image"))
        number = os.stat(self.path("disk")).st_dev
        device = os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
        return f"/sys/fs/ext4/{os.path.basename(device)}/trigger_fs_error"

    def test_from_the_middle_on(self):
        """As after a broken sector: files that are open cannot be written to either. A rank that others wait for is
        not taken for stopped because of it."""
        error = self.mount_ext4()
        if not os.path.exists(error):
            self.skipTest(f"there is no {error}")
        launch = self.start_run("checkpoint.every=50", "run.log_micro_steps=true")
        self.wait_for_checkpoint(launch, "disk/run")
        with open(error, "w", encoding="utf-8") as file:
            file.write("1")
        self.wait_for_words(launch, "a rank that stops may go unnoticed", times=2)
        slow = launch.rank_processes()[1]
        os.kill(slow, signal.SIGSTOP)
        time.sleep(2)
        os.kill(slow, signal.SIGCONT)
        self.wait_for_words(launch, "no checkpoint after", times=2)
        finished = self.stop(launch, code=1)
        self.assert_last_checkpoint_failed(finished, READ_ONLY)
        for name in ("metrics.jsonl", "logs/rank_0.log", "logs/rank_1.log", "alive/rank_0", "alive/rank_1"):
            self.assertRegex(self.warnings(finished, f"disk/run/{name}")[0], f": cannot write: {READ_ONLY}; ")
        self.assertNotIn("has stopped", finished.err)
        self.unmount()
        self.mount("-t", "ext4", "-o", "loop", source=self.path("image"))
        self.goes_on_as_if_nothing_had_been("disk/run", ranks=2)


TOKENS = """
model: {kind: gpt, vocab_size: 50, seq_len: 8, block_count: 1, head_count: 2, channels: 16}
train: {steps: 5, global_batch_size: 32}
data: {kind: tokens, path: "*.bin", threads: 3}
device: {kind: cpu}
"""
ARRAYS = """
model: {kind: mlp, layers: [16, 32, 10], activation: gelu}
train: {steps: 5, global_batch_size: 32}
optimizer: {kind: adamw, learning_rate: 1e-3}
data: {kind: npy, images: inputs.npy, labels: labels.npy, threads: 3}
device: {kind: cpu}
"""


class Data(DiskTest):
    def job(self, config):
        return (config, *JOB[1:])

    def finite(self, folder):
        """Every weight and state of every checkpoint."""
        for checkpoint in self.checkpoints(folder):
            for name in ("model", "optimizer"):
                content = self.content(f"{folder}/checkpoints/{checkpoint}/{name}.safetensors")
                start = 8 + struct.unpack("<Q", content[:8])[0]
                values = struct.unpack(f"<{(len(content) - start) // 4}f", content[start:])
                self.assertTrue(all(map(math.isfinite, values)), checkpoint)

    def test_a_shard_that_is_truncated(self):
        self.write("tokens.yaml", TOKENS)
        shard = headroom_run.token_shard([7] * 1000)
        promise = "header promises 1000 tokens .3024 bytes with the header."
        for length, complaint in ((2000, f"truncated: {promise}, found 2000 bytes$"),
                                  (900, "truncated: the header takes 1024 bytes, found 900"), (0, "the file is empty")):
            self.write("shard.bin", shard[:length])
            for ranks in (None, 2):
                finished = self.headroom("train", "tokens.yaml", ranks=ranks, code=2)
                self.assertEqual(len(finished.complaints), 1, finished.err)
                self.assertRegex(finished.complaints[0], f"^headroom: shard.bin: {complaint}")

    def test_a_shard_that_shrinks(self):
        """Several threads of each rank read it. Nobody gets a SIGBUS, and nobody waits for ever."""
        self.write("tokens.yaml", TOKENS)
        shards = {f"{number}.bin": headroom_run.token_shard([(7 * i + number) % 50 for i in range(20000)])
                  for number in range(2)}
        for length in (11000, 1024, 0):
            for name, content in shards.items():
                self.write(name, content)
            folder = f"shrinks-{length}"
            launch = self.start_run("checkpoint.every=5", job=self.job("tokens.yaml"), folder=folder)
            self.wait_for_checkpoint(launch, folder)
            os.truncate(self.path("1.bin"), length)
            finished = self.wait_until_ended(launch, code=1)
            self.assertGreater(len(finished.complaints), 0, finished.err)
            for complaint in finished.complaints:
                self.assertRegex(complaint, r"^headroom: rank \d on \S+: 1\.bin: the file ended while it was being "
                                            r"read: it held 41024 bytes, now at most \d+$")
            self.write("1.bin", shards["1.bin"])
            self.goes_on_as_if_nothing_had_been(folder, job=self.job("tokens.yaml"), ranks=2)

    def test_values_that_are_no_numbers(self):
        """Are refused before a step sees them."""
        self.write("arrays.yaml", ARRAYS)
        choose = random.Random(3)
        values = [choose.uniform(-1, 1) for _ in range(16 * 4000)]
        self.write("labels.npy", npy_file("<i4", (4000,), struct.pack("<4000i", *(i % 10 for i in range(4000)))))
        for number in (math.nan, math.inf, -math.inf):
            for descr, letter in (("<f4", "f"), ("<f8", "d")):
                self.write("inputs.npy", npy_file(descr, (4000, 16), struct.pack(f"<64000{letter}", *values)))
                good = self.content("inputs.npy")
                self.write("inputs.npy", npy_file(descr, (4000, 16), struct.pack(
                    f"<64000{letter}", *values[:16 * 3210 + 5], number, *values[16 * 3210 + 6:])))
                folder = f"{letter}-{number}"
                finished = self.headroom("train", *self.job("arrays.yaml"), FOR_EVER, f"run.folder={folder}",
                                         "checkpoint.every=1", ranks=2, code=2)
                self.assertGreater(len(finished.complaints), 0, finished.err)
                for complaint in finished.complaints:
                    self.assertEqual(complaint, "headroom: inputs.npy: value 5 of sample 3210 is not finite")
                self.finite(folder)
                self.write("inputs.npy", good)
                self.goes_on_as_if_nothing_had_been(folder, job=self.job("arrays.yaml"), ranks=2)


if __name__ == "__main__":
    headroom_run.main()
