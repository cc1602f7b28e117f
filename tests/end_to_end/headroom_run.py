# SPDX-License-Identifier: Apache-2.0
"""Runs the program as a user does and reads what it leaves behind.

ctest says where things are: HEADROOM is the program, HEADROOM_MPIRUN the launcher with its options, separated by
spaces. Every test works in a folder of its own.
"""

import fcntl
import glob
import json
import os
import pty
import random
import re
import select
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import time
import unittest

HEADROOM = os.environ["HEADROOM"]
MPIRUN = os.environ["HEADROOM_MPIRUN"].split()
TIMEOUT_S = 180
LONGEST_LINE = 8192  # bytes of metrics

# A sample takes 3.2 KiB, so a share of 128 spans several of the device's 64 KiB. Not relu: where a unit is at its kink,
# rounding alone can change a gradient by more than rounding.
MLP = """
model: {kind: mlp, layers: [32, 256, 128, 10], activation: gelu}
train: {steps: 50, global_batch_size: 512, clip_norm: 0.25}
optimizer: {kind: sgd, learning_rate: 0.1, momentum: 0.9}
data: {kind: synthetic, samples: 3000, validation_samples: 500}
device: {kind: cpu}
"""
MLP_CAPACITIES = "device.capacity=[576KiB, 640KiB, 768KiB, 1MiB]"  # 23, 43, 83 samples, and all of a share

# A token is a byte of text.txt, a sample takes 84 KiB.
GPT = """
model: {kind: gpt, vocab_size: 256, seq_len: 16, block_count: 2, head_count: 2, channels: 32}
train: {steps: 50, global_batch_size: 32, clip_norm: 1}
optimizer: {kind: adamw, learning_rate: 3e-3, weight_decay: 0.1, schedule: cosine, warmup_steps: 5}
data: {kind: text, path: text.txt, validation_fraction: 0.1}
device: {kind: cpu}
"""
GPT_CAPACITIES = "device.capacity=[704KiB, 768KiB, 896KiB, 2MiB]"  # 1, 2, 4 samples, and all of a share

# A sample is a line of lines.txt, of 1 to 64 tokens, and a longer line is several; a sample of 64 takes 340 KiB.
LINES = """
model: {kind: gpt, vocab_size: 256, seq_len: 64, block_count: 2, head_count: 2, channels: 32}
train: {steps: 40, global_batch_size: 24, clip_norm: 1, eval_every: 15}
optimizer: {kind: adamw, learning_rate: 3e-3, weight_decay: 0.1, schedule: cosine, warmup_steps: 5}
data: {kind: text, path: lines.txt, pack: false, validation_fraction: 0.1}
device: {kind: cpu}
"""
LINES_CAPACITIES = "device.capacity=[1MiB, 1280KiB, 2MiB, 16MiB]"  # 1, 2 and 4 samples of 64, and all of a share

ALL_STAYS = "train.offload_bytes=0"  # nothing that is on a device goes to host memory

WORDS = "a rank that runs short of memory cuts what it still owns and no sample is lost on the way".split()


def make_text():
    choose = random.Random(1).choice
    return " ".join(choose(WORDS) for _ in range(4000))


def make_lines():
    """Most are short, some empty, a few longer than a sample."""
    choose = random.Random(1).choice
    lengths = (0, 1, 1, 1, 2, 2, 3, 3, 5, 5, 8, 40)
    return "".join(" ".join(choose(WORDS) for _ in range(choose(lengths))) + "\n" for _ in range(600))


def token_shard(tokens):
    """As llm.c writes it."""
    return struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253) + struct.pack(f"<{len(tokens)}H", *tokens)


def session_processes(session):
    """The processes that a launch has started and that still live. A launcher gives each rank a process group of its
    own, so the session is what they have in common."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.getsid(int(entry)) == session and not is_zombie(entry):
                found.append(int(entry))
        except ProcessLookupError:
            pass
    return found


def is_zombie(pid):
    """And so are all its threads: while one lives, what the process has locked stays so."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(") ")[2][0] == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1
    except (FileNotFoundError, ProcessLookupError):
        return True


def kill_session(session):
    for pid in session_processes(session):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def give_way(session):
    """Ranks that outnumber the cores yield while they wait for each other. Linux shares the cores by sessions first, and
    some kernels let such yields starve another session for a minute, unless that one weighs more."""
    try:
        with open(f"/proc/{session}/autogroup", "w", encoding="utf-8") as file:
            file.write("19")
    except OSError:
        pass  # a kernel without such groups, or the process has ended


class Finished:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err
        self.complaints = [line for line in err.splitlines() if line.startswith("headroom: ")]


class Launch:
    """The program, started and not waited for; `ranks` None starts it without a launcher, or behind `before`."""

    def __init__(self, arguments, ranks, folder, before=()):
        launcher = before if ranks is None else [*MPIRUN, "-np", str(ranks)]
        self.command = [*launcher, HEADROOM, *arguments]
        self.process = subprocess.Popen(self.command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, start_new_session=True)
        if ranks is not None:
            give_way(self.process.pid)
        self.ended = False

    def wait(self, timeout_s=TIMEOUT_S):
        """Waits until the command has ended and none of its processes is left."""
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still runs after {timeout_s} s: {' '.join(self.command)}") from None
        deadline = time.monotonic() + 10
        while session_processes(self.process.pid):
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"left processes behind: {' '.join(self.command)}")
            time.sleep(0.02)
        self.ended = True
        return Finished(self.process.returncode, out, err)

    def rank_processes(self):
        """rank -> process"""
        found = {}
        for pid in session_processes(self.process.pid):
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0"))
            if b"OMPI_COMM_WORLD_RANK" in environment:
                found[int(environment[b"OMPI_COMM_WORLD_RANK"])] = pid
        return found

    def kill(self):
        if not self.ended:
            kill_session(self.process.pid)
            self.process.communicate()
            self.ended = True


class Screen:
    """A terminal with the program on it, and all that it has written there; `ranks` None starts it without a
    launcher."""

    def __init__(self, folder, *arguments, ranks=None, columns=140, **environment):
        launcher = [] if ranks is None else [*MPIRUN, "-np", str(ranks)]
        self.terminal, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("4H", 30, columns, 0, 0))
        self.process = subprocess.Popen([*launcher, HEADROOM, *arguments], cwd=folder, stdin=inside, stdout=inside,
                                        stderr=subprocess.STDOUT, start_new_session=True,
                                        env={**os.environ, "TERM": "xterm", "LINES": "30", "COLUMNS": str(columns),
                                             **environment})
        if ranks is not None:
            give_way(self.process.pid)
        os.close(inside)
        self.text = ""

    def read(self):
        if select.select([self.terminal], [], [], 0.05)[0]:
            try:
                self.text += os.read(self.terminal, 65536).decode(errors="replace")
            except OSError:
                pass  # the program has ended

    def wait_for(self, pattern):
        deadline = time.monotonic() + TIMEOUT_S
        while not re.search(pattern, self.text):
            if time.monotonic() > deadline:
                raise AssertionError(f"no {pattern} in {self.text!r}")
            self.read()

    def type(self, keys):
        os.write(self.terminal, keys.encode())

    def kill(self):
        kill_session(self.process.pid)
        self.process.wait()

    def end(self):
        while self.process.poll() is None:
            self.read()
        os.close(self.terminal)
        return self.process.returncode


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def no_number(text):
    raise AssertionError(f"{text} is no number in JSON")


class Run:
    """What a run has written into its folder."""

    def __init__(self, path, finished):
        self.path, self.finished = path, finished
        with open(f"{path}/metrics.jsonl", encoding="utf-8") as file:
            self.lines = [json.loads(line, parse_constant=no_number) for line in file]
        self.steps = [line for line in self.lines if "event" not in line]
        self.evaluations = [line for line in self.lines if line.get("event") == "eval"]
        self.logs = {}
        for name in glob.glob(f"{path}/logs/rank_*.log"):
            with open(name, encoding="utf-8") as file:
                self.logs[int(re.search(r"rank_(\d+)\.log$", name).group(1))] = file.read()

    @property
    def losses(self):
        return [step["loss"] for step in self.steps]

    @property
    def evaluation_losses(self):
        return [evaluation["loss"] for evaluation in self.evaluations]

    @property
    def untimed_evaluations(self):
        """But for how long ranks waited in them."""
        return [evaluation | {"ranks": [{key: value for key, value in rank.items() if key != "data_wait_ms"}
                                        for rank in evaluation["ranks"]]} for evaluation in self.evaluations]

    def of_rank(self, rank, key):
        return [step["ranks"][rank][key] for step in self.steps]

    def positions(self, verb, rank):
        """The positions of samples in the order in which a rank has done them ("trained" or "evaluated")."""
        ranges = re.findall(rf"^{verb} samples (\d+)\.\.(\d+)$", self.logs[rank], re.MULTILINE)
        return [position for first, last in ranges for position in range(int(first), int(last) + 1)]


# Run a command that may write no file of more than 4 KiB; without standard streams; into a full disk.
SMALL_FILES = ["sh", "-c", "ulimit -f 8; exec \"$@\"", "small-files"]
NO_STREAMS = ["sh", "-c", "exec \"$@\" <&- >&- 2>&-", "no-streams"]
FULL_OUTPUT = ["sh", "-c", "exec \"$@\" >/dev/full", "full-output"]


class ProgramTest(unittest.TestCase):
    references = {}  # of a script

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="headroom-test-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.runs = 0
        self.write("mlp.yaml", MLP)
        self.write("gpt.yaml", GPT)
        self.write("deep.yaml", GPT.replace("block_count: 2", "block_count: 6"))
        self.write("lines.yaml", LINES)
        self.write("text.txt", make_text())
        self.write("lines.txt", make_lines())

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def start(self, *arguments, ranks=None, before=()):
        launch = Launch(arguments, ranks, self.folder, before)
        self.addCleanup(launch.kill)
        return launch

    def headroom(self, *arguments, ranks=None, code=0, before=()):
        finished = self.start(*arguments, ranks=ranks, before=before).wait()
        self.assertEqual(finished.code, code, finished.out + finished.err)
        return finished

    def train(self, config, *overrides, ranks=None, code=0):
        """A whole run in a folder of its own; without `ranks` it is one rank that needs no launcher."""
        self.runs += 1
        folder = f"run-{self.runs}"
        alone = ["comm.kind=self"] if ranks is None else []
        finished = self.headroom("train", config, f"run.folder={folder}", *alone, *overrides, ranks=ranks, code=code)
        return Run(self.path(folder), finished)

    def reference(self, config, *overrides):
        """A run of one rank that others are compared with, trained by the first case that asks."""
        if (config, overrides) not in self.references:
            self.references[config, overrides] = self.train(config, *overrides)
        return self.references[config, overrides]

    def metrics_lines(self, folder):
        try:
            with open(self.path(f"{folder}/metrics.jsonl"), encoding="utf-8") as file:
                return file.read().splitlines(keepends=True)  # readlines() tears a line that is being written
        except FileNotFoundError:
            return []

    def steps(self, folder):
        """Of a run that may be under way."""
        lines = [line for line in self.metrics_lines(folder) if line.endswith("\n")]
        return [step for step in map(json.loads, lines) if "event" not in step]

    def newest_steps(self, folder, count=1):
        """Of a run that is under way and may have done many: from the end of its metrics alone."""
        try:
            with open(self.path(f"{folder}/metrics.jsonl"), "rb") as file:
                start = max(0, os.fstat(file.fileno()).st_size - (count + 2) * LONGEST_LINE)
                file.seek(start)
                lines = file.read().split(b"\n")
        except FileNotFoundError:
            return []
        whole = lines[1 if start else 0:-1]
        return [step for step in map(json.loads, whole) if "event" not in step][-count:]

    def steps_done(self, folder):
        return sum(step["step"] + 1 for step in self.newest_steps(folder))

    def wait_for(self, launch, met, why):
        """Until a run in the middle of its steps has met it."""
        deadline = time.monotonic() + TIMEOUT_S
        while not met():
            self.assertLess(time.monotonic(), deadline, why)
            if launch.process.poll() is not None:
                self.fail(f"ended by itself: {launch.wait().err}")
            time.sleep(0.02)

    def wait_for_steps(self, launch, folder, count):
        self.wait_for(launch, lambda: self.steps_done(folder) >= count, "no steps")

    def assert_close_losses(self, run, reference, what, most):
        losses, expected = run.losses + run.evaluation_losses, reference.losses + reference.evaluation_losses
        self.assertEqual(len(losses), len(expected))
        largest = max(abs(a - b) / abs(b) for a, b in zip(losses, expected))
        print(f"{what}: losses of {len(run.losses)} steps differ by at most {largest:.1e}", flush=True)
        self.assertLess(largest, most)

    def assert_same_losses(self, run, reference, what):
        self.assert_close_losses(run, reference, what, 1e-5)


main = unittest.main
