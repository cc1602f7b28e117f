# SPDX-License-Identifier: Apache-2.0
"""`headroom simulate` prints its table, the same every time, and refuses what it does not know."""

import pathlib
import re

import headroom_run

SOURCE = pathlib.Path(__file__).resolve().parents[2]
SCENARIO = """
job: {steps: 50, ranks: 5, global_batch_size: 100}
changes: {neighbours: 2, phase_min: 5, phase_max: 10}
"""


class Simulate(headroom_run.ProgramTest):
    def setUp(self):
        super().setUp()
        self.write("scenario.yaml", SCENARIO)

    def refused(self, pattern, *arguments):
        finished = self.headroom("simulate", *arguments, code=2)
        self.assertEqual(len(finished.complaints), 1, finished.err)
        self.assertEqual(finished.out, "")
        self.assertRegex(finished.complaints[0], pattern)

    def test_the_table(self):
        out = self.headroom("simulate", "scenario.yaml").out
        self.assertIn("5 ranks, 50 steps of 100 samples, seed 1", out)
        parts = [float(part) for part in re.findall(r"([0-9.]+) %$", out, re.MULTILINE)]
        self.assertEqual(len(parts), 6, out)
        self.assertEqual(parts[0], max(parts))
        self.assertEqual(parts[1], max(parts[1:]))

    def test_the_same_scenario_gives_the_same_bytes(self):
        out = self.headroom("simulate", "scenario.yaml").out
        self.assertEqual(self.headroom("simulate", "scenario.yaml").out, out)
        self.assertNotEqual(self.headroom("simulate", "scenario.yaml", "job.seed=2").out, out)

    def test_what_the_documentation_shows(self):
        finished = self.start("simulate", "configs/scenarios/neighbours.yaml", before=("env", "-C", str(SOURCE))).wait()
        self.assertEqual(finished.code, 0, finished.err)
        self.assertIn(f"```\n{finished.out}```\n", (SOURCE / "docs/simulate.md").read_text(encoding="utf-8"))
        self.headroom("simulate", str(SOURCE / "configs/scenarios/stationary.yaml"), "job.steps=10")

    def test_what_is_refused(self):
        self.write("bad.yaml", SCENARIO + "speed: {slow: 3}\n")
        self.refused(r"bad\.yaml:4:9: speed: there is no key 'slow'; .*allowed: ", "bad.yaml")
        self.write("bad.yaml", "memory:\n  capacity_min: 9GiB\n  capacity_max: 8GiB\n")
        self.refused(r"bad\.yaml:3:3: memory\.capacity_max: is less than memory\.capacity_min", "bad.yaml")
        self.refused(r"changes\.neighbour_share=0\.1: is less than changes\.neighbour_share_min", "scenario.yaml",
                     "changes.neighbour_share_min=0.2", "changes.neighbour_share=0.1")
        self.refused(r"job\.ranks=0: '0' is out of range; allowed: 1 to 65536", "scenario.yaml", "job.ranks=0")
        self.refused(r"levers\.samples: is not as long as levers\.times", "scenario.yaml", "levers.times=[1, 2]")
        for key in ("times", "samples"):
            self.refused(rf"levers\.{key}=\[2, 3\]: does not begin with 1; allowed: ", "scenario.yaml",
                         "levers.times=[1, 2]", "levers.samples=[1, 3]", f"levers.{key}=[2, 3]")
        self.refused(r"none\.yaml: No such file", "none.yaml")
        self.refused(r"simulate needs SCENARIO\.yaml; see headroom simulate --help")


if __name__ == "__main__":
    headroom_run.main()
