# SPDX-License-Identifier: Apache-2.0
"""launch/completion.bash completes what headroom --help tells."""

import os
import pathlib
import re
import subprocess

import headroom_run

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch/completion.bash"


class Completion(headroom_run.ProgramTest):
    def complete(self, *words, program=headroom_run.HEADROOM):
        """Of the last of the words behind the program, which is as it was typed."""
        script = (f'source "{SCRIPT}"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _headroom; '
                  'printf "%s\\n" "${COMPREPLY[@]}"')
        done = subprocess.run(["bash", "-c", script, "bash", program, *words], cwd=self.folder,
                              env={**os.environ, "HOME": self.folder}, capture_output=True, text=True, check=True)
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_commands(self):
        usage = self.headroom("--help").out.partition("\n\n")[0]
        commands = set(re.findall(r"^(?:usage:|      ) headroom ([a-z-]+)", usage, re.MULTILINE))
        self.assertEqual(set(self.complete("")), commands)
        self.assertLess({"train", "plan", "doctor", "--print-config", "--help"}, commands)
        self.assertEqual(self.complete("tr"), ["train"])

    def test_where_the_program_is(self):
        os.mkdir(self.path("a b"))
        for name in ("headroom", "a b/headroom"):
            os.symlink(headroom_run.HEADROOM, self.path(name))
        for program in ("./headroom", "~/headroom", "./a\\ b/headroom", "'a b/headroom'", '"a b/headroom"',
                        "~/a\\ b/headroom"):
            self.assertEqual(self.complete("tr", program=program), ["train"], program)
        for program in ("./nowhere", "$(touch made)/headroom"):
            self.assertEqual(self.complete("tr", program=program), [], program)
        self.assertFalse(os.path.exists(self.path("made")))

    def test_second_words(self):
        self.assertEqual(self.complete("memory", ""), ["replay", "snapshot"])
        self.assertEqual(self.complete("memory", "re"), ["replay"])
        self.assertEqual(self.complete("memory", "replay", "tr"), [])

    def test_options(self):
        self.assertEqual(sorted(self.complete("plan", "c.yaml", "--")), ["--costs", "--device", "--json", "--ranks"])
        self.assertEqual(self.complete("generate", "--pro"), ["--prompt"])
        self.assertEqual(self.complete("limit", "run", "--"), ["--rank", "--bytes"])

    def test_values_of_options(self):
        self.assertEqual(self.complete("data", "a.txt", "--tokens", ""), ["bytes", "gpt2"])
        self.assertEqual(self.complete("generate", "run", "--device", "cu"), ["cuda"])
        self.assertEqual(self.complete("limit", "run", "--bytes", ""), ["none"])
        self.assertEqual(self.complete("plan", "c.yaml", "--costs", ""), [])
        devices = self.complete("plan", "c.yaml", "--device", "")
        self.assertLess({"b200-180gb", "rtx4090-24gb"}, set(devices))
        for device in devices:
            self.headroom("plan", "mlp.yaml", "device.kind=auto", "--device", device)
        self.assertEqual(self.complete("plan", "c.yaml", "--device", "h1"), ["h100-80gb"])
        self.assertEqual(self.complete("plan", "c.yaml", "--ranks", "8xh100-80gb,8xa100-4"), ["8xh100-80gb,8xa100-40gb"])
        self.assertEqual(self.complete("plan", "c.yaml", "--ranks", "8"), [])

    def test_keys(self):
        keys = re.findall(r"^([a-z]+\.[a-z0-9_]+)  ", self.headroom("--help").out, re.MULTILINE)
        self.assertGreater(len(keys), 50)
        self.assertEqual(self.complete("train", "c.yaml", "train.re"), ["train.recompute=", "train.reproducible="])
        self.assertEqual([key for key in keys if self.complete("train", "c.yaml", key)[:1] != [f"{key}="]], [])
        self.assertEqual(self.complete("simulate", "s.yaml", "job.s"), ["job.seed=", "job.steps="])

    def test_values(self):
        """Bash cuts words at an equals sign."""
        self.assertEqual(self.complete("train", "c.yaml", "train.recompute", "="),
                         ["auto", "none", "selective", "half", "full", "offload"])
        self.assertEqual(self.complete("train", "c.yaml", "train.recompute", "=", "of"), ["offload"])
        self.assertEqual(self.complete("train", "c.yaml", "train.reproducible", "=", "t"), ["true"])
        self.assertEqual(self.complete("train", "c.yaml", "train.steps", "="), [])
        self.assertEqual(self.complete("train", "c.yaml", "model.kind", "="), ["mlp", "gpt"])
        self.assertEqual(self.complete("train", "c.yaml", "train.micro_batch_size", "="), ["auto"])
        self.assertEqual(self.complete("train", "c.yaml", "run.folder", "=", "nu"), ["null"])
        self.assertEqual(self.complete("train", "c.yaml", "fault.fail_allocation_first", "="), ["auto"])
        self.assertEqual(self.complete("train", "c.yaml", "fault.rank", "="), ["all"])
        self.assertEqual(self.complete("train", "c.yaml", "device.capacity", "="), [])

    def test_words_that_are_no_names(self):
        """They stand in no program of sed or awk."""
        for word in ("./a/b", "x/e", "'a;b'", "a\\", "[", "&", "(", "train.recomput.", "$(>made)"):
            self.assertEqual(self.complete("train", "c.yaml", word, "="), [], word)
            self.assertEqual(self.complete("train", "c.yaml", word, "=", "a"), [], word)
            self.assertEqual(self.complete("data", f"--{word}", ""), [], word)
            self.assertEqual(self.complete(word, "--"), [], word)
            self.assertEqual(self.complete("plan", "c.yaml", "--ranks", f"{word}2xh1"), [f"{word}2xh100-80gb"], word)
        self.assertFalse(os.path.exists(self.path("made")))

    def test_files(self):
        self.assertEqual(self.complete("train", "ml"), [])  # bash's own completion then answers files


if __name__ == "__main__":
    headroom_run.main()
