# SPDX-License-Identifier: Apache-2.0
"""launch/completion.bash completes what headroom --help tells."""

import pathlib
import re
import subprocess

import headroom_run

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch/completion.bash"


class Completion(headroom_run.ProgramTest):
    def complete(self, *words):
        """Of the last of the words behind the program."""
        script = (f'source "{SCRIPT}"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _headroom; '
                  'printf "%s\\n" "${COMPREPLY[@]}"')
        done = subprocess.run(["bash", "-c", script, "bash", headroom_run.HEADROOM, *words], cwd=self.folder,
                              capture_output=True, text=True, check=True)
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_commands(self):
        usage = self.headroom("--help").out.partition("\n\n")[0]
        commands = set(re.findall(r"^(?:usage:|      ) headroom ([a-z-]+)", usage, re.MULTILINE))
        self.assertEqual(set(self.complete("")), commands)
        self.assertLess({"train", "plan", "doctor", "--print-config", "--help"}, commands)
        self.assertEqual(self.complete("tr"), ["train"])

    def test_options(self):
        self.assertEqual(sorted(self.complete("plan", "c.yaml", "--")), ["--costs", "--device", "--json", "--ranks"])
        self.assertEqual(self.complete("generate", "--pro"), ["--prompt"])

    def test_keys(self):
        keys = re.findall(r"^([a-z]+\.[a-z0-9_]+)  ", self.headroom("--help").out, re.MULTILINE)
        self.assertGreater(len(keys), 50)
        self.assertEqual(self.complete("train", "c.yaml", "train.re"), ["train.recompute=", "train.reproducible="])
        self.assertEqual([key for key in keys if self.complete("train", "c.yaml", key)[:1] != [f"{key}="]], [])

    def test_values(self):
        """Bash cuts words at an equals sign."""
        self.assertEqual(self.complete("train", "c.yaml", "train.recompute", "="),
                         ["auto", "none", "selective", "half", "full", "offload"])
        self.assertEqual(self.complete("train", "c.yaml", "train.recompute", "=", "of"), ["offload"])
        self.assertEqual(self.complete("train", "c.yaml", "train.reproducible", "=", "t"), ["true"])
        self.assertEqual(self.complete("train", "c.yaml", "train.steps", "="), [])

    def test_files(self):
        self.assertEqual(self.complete("train", "ml"), [])  # bash's own completion then answers files


if __name__ == "__main__":
    headroom_run.main()
