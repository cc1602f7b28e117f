#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_step.py CC: docs/proofs/step.pml holds what docs/proofs/README.md says, in every state that it can reach; and
each way of breaking it is found."""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

MODEL = pathlib.Path(__file__).resolve().parents[2] / "docs/proofs/step.pml"
DEPTH, MEBIBYTES = 1_000_000, 1800
ASSERTION, DEADLOCK, CYCLE = "assertion violated", "invalid end state", "non-progress cycle"
# What breaks the protocol, and what the checker says to it.
BROKEN = {
    "PLAN_FOR_THE_FULL": ASSERTION,
    "RESERVED_UNCOUNTED": ASSERTION,
    "SAME_CUT_AGAIN": ASSERTION,
    "SETTLE_WITH_THE_FULL": ASSERTION,
    "GIVE_UP_EARLY": ASSERTION,
    "TOTAL_KEPT": ASSERTION,
    "TOTAL_LOST": ASSERTION,
    "RESTING_SKIPS_REDUCE": ASSERTION,
    "FIRST_BUCKET_FORGOTTEN": ASSERTION,
    "ONLY_DEALT_SETTLE": ASSERTION,
    "STOPPED_LEAVES": DEADLOCK,
    "DEATH_UNHEARD": DEADLOCK,
    "REFUSAL_FORGOTTEN": CYCLE,
    "TRIMS_UNCOUNTED": CYCLE,
}


class Step(unittest.TestCase):
    def setUp(self):
        if shutil.which("spin") is None:
            self.skipTest("there is no spin here (Debian's package spin)")
        folder = tempfile.TemporaryDirectory(prefix="headroom-test-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def call(self, *command):
        finished = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(finished.returncode, 0, finished.stdout)
        return finished.stdout

    def search(self, samples, *switches, cycles=False, optimize="-O2"):
        """What the verifier prints that spin makes of the model."""
        kind = "-DNP" if cycles else "-DSAFETY"
        self.call("spin", "-a", f"-DSAMPLES={samples}", *(f"-D{switch}" for switch in switches), str(MODEL))
        self.call(CC, optimize, "-w", kind, f"-DMEMLIM={MEBIBYTES}", "-o", "pan", "pan.c")
        return self.call("./pan", f"-m{DEPTH}", "-w22", *(["-l"] if cycles else []))

    def check_holds(self, searched, samples, *switches, cycles=False):
        start_s = time.monotonic()
        text = self.search(samples, *switches, cycles=cycles)
        seconds = time.monotonic() - start_s
        self.assertIn("errors: 0", text)
        for line in searched:
            self.assertRegex(text, rf"(?m)^\s*{line}\s+\+", text)
        for line in ("max search depth too small", "Search not completed", "MEMLIM bound"):
            self.assertNotIn(line, text)
        # A statement that nothing reaches would mean that less is proved than it seems.
        unreached = dict(re.findall(r"(?m)^unreached in proctype (\w+)\n(?:\t.*\n)*?\t\((\d+) of \d+ states\)", text))
        if "NOBODY_DIES" in switches:
            del unreached["launcher"]
        self.assertEqual(set(unreached.values()), {"0"}, text)
        states = int(re.search(r"(\d+) states, stored", text)[1])
        memory = float(re.search(r"([\d.]+)\s+total actual memory usage", text)[1])
        print(f"{samples} samples: {states} states, {memory:.0f} MB, {seconds:.1f} s with the compiler")

    def test_ranks_that_may_die(self):
        self.check_holds(["assertion violations", "invalid end states"], 4)

    def test_more_samples(self):
        self.check_holds(["assertion violations", "invalid end states"], 6, "NOBODY_DIES")

    def test_every_step_ends(self):
        self.check_holds(["assertion violations", "non-progress cycles"], 2, cycles=True)

    def test_what_breaks_the_protocol_is_found(self):
        switches = set(re.findall(r"BREAK_([A-Z_]+[A-Z])\b", MODEL.read_text()))
        self.assertEqual(switches, set(BROKEN))
        for switch, found in BROKEN.items():
            with self.subTest(switch):
                text = self.search(2, f"BREAK_{switch}", cycles=found == CYCLE, optimize="-O0")
                self.assertRegex(text, rf"(?m)^pan:\d+: {found}", text)


if __name__ == "__main__":
    CC = sys.argv.pop(1)
    unittest.main()
