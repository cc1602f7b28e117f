# SPDX-License-Identifier: Apache-2.0
"""What all commands have in common: their own help, and what they refuse."""

import re

import headroom_run

BY_A_LAUNCHER = ("env", "SLURM_STEP_NUM_TASKS=2")
OF_A_JOB = {"train", "eval", "--print-config"}  # that a launcher may start as one of several


class Commands(headroom_run.ProgramTest):
    def setUp(self):
        super().setUp()
        self.usage = self.headroom("--help").out.partition("\n\n")[0]
        self.commands = re.findall(r"headroom ((?:memory )?[a-z-]+) [^|]", self.usage)

    def test_help(self):
        """Each command's lines are those of the whole help."""
        self.assertLess({"train", "memory replay", "memory snapshot", "doctor", "--print-config"}, set(self.commands))
        for command in self.commands:
            words = command.split()
            for arguments in ((*words, "--help"), (*words, "--fast", "--help"), (*words, "a", "b", "c", "--help")):
                finished = self.headroom(*arguments)
                self.assertEqual(finished.err, "")
                usage, what, *_ = finished.out.split("\n\n")
                self.assertRegex(usage, rf"(?m)^(usage:|      ) headroom {command} ")
                self.assertLess(set(usage.replace("usage:", "      ").splitlines()),
                                set(self.usage.replace("usage:", "      ").splitlines()))
                self.assertRegex(what, rf"(?m)^{command} +[a-z]")
                self.assertNotIn("configuration keys", finished.out)

    def test_help_of_no_command(self):
        self.assertEqual(self.headroom("trian", "--help", code=2).complaints,
                         ["headroom: unknown command trian; see headroom --help"])

    def test_one_process(self):
        for command in self.commands:
            finished = self.headroom(*command.split(), before=BY_A_LAUNCHER, code=2)
            complaint = f"headroom: {command} runs without a launcher; see headroom --help"
            self.assertEqual(finished.complaints == [complaint], command not in OF_A_JOB, finished.err)

    def test_first_words(self):
        for arguments in (("memory",), ("memory", "snap")):
            self.assertEqual(self.headroom(*arguments, code=2).complaints,
                             ["headroom: memory needs replay or snapshot; see headroom --help"])

    def test_an_option_given_twice(self):
        for option, *arguments in (("--bytes", "limit", "run", "--bytes", "1MiB", "--bytes", "2MiB"),
                                   ("--once", "top", "run", "--once", "--once"),
                                   ("--ranks", "plan", "mlp.yaml", "--ranks", "2", "--ranks", "2")):
            self.assertEqual(self.headroom(*arguments, code=2).complaints,
                             [f"headroom: {option} is given twice; see headroom {arguments[0]} --help"])

    def test_options_of_another_command(self):
        self.assertEqual(self.headroom("train", "mlp.yaml", "--ranks", "2", code=2).complaints,
                         ["headroom: train does not take '--ranks'; see headroom train --help"])

    def test_output_that_cannot_be_written(self):
        finished = self.headroom("--version", before=("sh", "-c", "exec \"$@\" >/dev/full", "full"), code=1)
        self.assertEqual(finished.complaints, ["headroom: the output cannot be written"])


if __name__ == "__main__":
    headroom_run.main()
