# SPDX-License-Identifier: Apache-2.0
"""headroom eval and headroom generate: what a checkpoint's model says of a validation set, and how it goes on."""

import json
import os
import re
import subprocess

import headroom_run

STEPS = 60


def byte_characters():
    """As GPT-2's files write bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xa1, 0xad), *range(0xae, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


class Eval(headroom_run.ProgramTest):
    def eval(self, *arguments, **more):
        out = self.headroom("eval", *arguments, **more).out
        loss, accuracy, samples = re.fullmatch(
            r"loss ([\d.]+), perplexity [\d.e+]+, accuracy ([\d.]+) %, (\d+) samples\n", out).groups()
        return float(loss), float(accuracy), int(samples)

    def test_what_training_has_found(self):
        """The checkpoint's own validation, on any number of ranks."""
        run = self.train("gpt.yaml", f"train.steps={STEPS}", "checkpoint.every=20")
        event = [line for line in run.lines if line.get("event") == "eval"][-1]
        expected = event["loss"], 100 * event["accuracy"], event["samples"]
        for checkpoint, ranks in (("run-1", None), ("run-1", 3), (f"run-1/checkpoints/step_{STEPS:08}", 2)):
            loss, accuracy, samples = self.eval(checkpoint, ranks=ranks)
            self.assertAlmostEqual(loss, expected[0], delta=2e-6 * expected[0])
            self.assertAlmostEqual(accuracy, expected[1], delta=0.011)
            self.assertEqual(samples, expected[2])
        earlier = self.eval("run-1/checkpoints/step_00000040")[0]
        self.assertGreater(abs(earlier - expected[0]), 1e-3)

    def test_neither_gradients_nor_an_optimizer(self):
        """A device that does not hold them is large enough; and no training set is read."""
        self.train("gpt.yaml", "train.steps=2")
        small = "device.kind=cpu", "device.capacity=320KiB"
        self.eval("run-1", *small)
        self.headroom("train", "gpt.yaml", *small, headroom_run.ALL_STAYS, "comm.kind=self", "run.folder=refused", code=3)
        self.write("validation.txt", headroom_run.make_text()[:600])
        whole = self.eval("run-1", "data.validation_fraction=0", "data.validation_path=validation.txt")
        self.assertEqual(whole, self.eval("run-1", "data.path=nowhere.txt", "data.validation_fraction=0",
                                          "data.validation_path=validation.txt"))

    def test_reproducible_runs(self):
        """Their integer sums are gradients', too."""
        self.train("gpt.yaml", "train.steps=2", "train.reproducible=true")
        self.eval("run-1", "device.kind=cpu", "device.capacity=320KiB")

    def test_the_newest_that_is_sound(self):
        self.train("gpt.yaml", "train.steps=20", "checkpoint.every=10")
        newest, earlier = (self.eval(f"run-1/checkpoints/step_000000{step}") for step in (20, 10))
        os.unlink(self.path("run-1/checkpoints/latest"))
        self.assertEqual(self.eval("run-1"), newest)
        with open(self.path("run-1/checkpoints/step_00000020/config.yaml"), "a", encoding="utf-8") as file:
            file.write("\n")
        self.assertEqual(self.eval("run-1"), earlier)

    def test_any_batch_and_any_resume(self):
        """Neither is for a validation."""
        self.train("gpt.yaml", "train.steps=2", "train.global_batch_size=1")
        self.assertEqual(self.eval("run-1", "checkpoint.resume=auto", "checkpoint.weights=nowhere", ranks=3)[2],
                         self.eval("run-1")[2])

    def test_an_output_that_cannot_be_written(self):
        self.train("gpt.yaml", "train.steps=2")
        with open("/dev/full", "w", encoding="utf-8") as full:
            finished = subprocess.run([headroom_run.HEADROOM, "eval", self.path("run-1")], stdout=full,
                                      stderr=subprocess.PIPE, text=True, cwd=self.folder, check=False)
        self.assertEqual((finished.returncode, finished.stderr), (1, "headroom: the output cannot be written\n"))

    def test_an_mlp(self):
        run = self.train("mlp.yaml", "train.steps=20")
        loss, accuracy, _ = self.eval("run-1")
        self.assertAlmostEqual(loss, run.evaluation_losses[-1], delta=1e-6)
        self.assertGreater(accuracy, 10)

    def test_what_is_wrong(self):
        self.train("gpt.yaml", "train.steps=2")
        for pattern, *arguments in (
                ("eval needs CHECKPOINT",),
                ("nowhere: is neither a checkpoint nor a run's folder with checkpoints", "nowhere"),
                (r"run-1/checkpoints/step_00000002/config\.yaml: has no validation set; set data\.validation_path", "run-1",
                 "data.validation_fraction=0"),
                (r"run-1/checkpoints/step_00000002/model\.safetensors: is of another model: ", "run-1",
                 "model.channels=16")):
            for ranks in (None, 2):
                finished = self.headroom("eval", *arguments, ranks=ranks, code=2)
                self.assertRegex(finished.complaints[0], pattern)
                self.assertEqual(len(finished.complaints), 1, finished.err)
        self.assertIn("cannot hold", self.headroom("eval", "run-1", "device.kind=cpu", "device.capacity=128KiB",
                                                   code=3).complaints[0])


class Generate(headroom_run.ProgramTest):
    def generate(self, *arguments, **more):
        return self.headroom("generate", *arguments, **more).out

    def make_model(self, *overrides):
        self.train("gpt.yaml", f"train.steps={STEPS}", "model.seq_len=64", *overrides)

    def test_the_most_likely_token_by_token(self):
        """Tokens whose keys and values were kept, and those of a text that is read anew, are followed by the same."""
        self.make_model()
        for prompt in ("a rank ", "t"):
            text = prompt
            whole = self.generate("run-1", "--prompt", prompt, "--tokens", "30", "--temperature", "0")
            for _ in range(30):
                text = self.generate("run-1", "--prompt", text, "--tokens", "1", "--temperature", "0")[:-1]
            self.assertEqual(whole, text + "\n")
        again = self.generate("run-1/checkpoints/latest", "--prompt", "t", "--tokens", "30", "--top-k", "1")
        self.assertEqual(again, whole)

    def test_chance(self):
        self.make_model()
        one, again, other = (self.generate("run-1", "--prompt", "a ", "--tokens", "60", "--seed", seed, "--top-k", "5",
                                           "--temperature", "0.9") for seed in ("7", "7", "8"))
        self.assertEqual(one, again)
        self.assertNotEqual(one, other)
        self.assertTrue(one.startswith("a ") and one.endswith("\n"))
        self.assertLessEqual(set(one[:-1]), set(headroom_run.make_text()))

    def test_precisions(self):
        self.make_model("train.precision=bf16")
        text = self.generate("run-1", "--prompt", "a rank ", "--tokens", "40", "--temperature", "0")
        self.assertEqual(len(text), 48)
        self.assertLessEqual(set(text[:-1]), set(headroom_run.make_text()))

    def test_words_and_the_end_of_a_text(self):
        """With a vocabulary; a text ends where the model says so, and an empty one begins as all texts do."""
        characters = byte_characters()
        tokens = [*characters.values(), "the", "ra", "nk", "Ġrank", "<|endoftext|>"]
        merges = ["t h", "th e", "r a", "n k", "Ġ ra", "Ġra nk"]
        tokens[256:] = [merge.replace(" ", "") for merge in merges] + ["<|endoftext|>"]
        self.write("encoder.json", json.dumps({token: i for i, token in enumerate(tokens)}))
        self.write("vocab.bpe", "#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges))
        vocabulary = ("--vocabulary", "encoder.json", "--merges", "vocab.bpe")
        self.write("texts.jsonl", 400 * '{"text": "the rank"}\n')
        self.headroom("data", "texts.jsonl", "--to", "tokens", "--tokens", "gpt2", *vocabulary)
        end = len(tokens) - 1
        self.make_model("data.kind=tokens", "data.path=tokens_*.bin", f"data.end_of_text={end}",
                        f"model.vocab_size={len(tokens)}", "data.validation_fraction=0")
        for prompt in ("the", ""):
            text = self.generate("run-1", "--prompt", prompt, "--temperature", "0", "--tokens", "20", *vocabulary)
            self.assertEqual(text, "the rank\n")
        finished = self.headroom("generate", "run-1", "--prompt", "the", code=2)
        self.assertIn(f"run-1: its {len(tokens)} tokens are not bytes", finished.complaints[0])
        finished = self.headroom("generate", "run-1", "--prompt", b"\xff", *vocabulary, code=2)
        self.assertIn("--prompt: is no UTF-8 from byte 1 on", finished.complaints[0])

    def test_tokens_that_there_are(self):
        """Bytes that the model does not know are refused; without --tokens a text ends where the model does."""
        self.make_model()
        text = self.generate("run-1", "--prompt", "a ", "--temperature", "0")
        self.assertEqual(len(text), 65)
        self.train("gpt.yaml", "train.steps=1", "model.vocab_size=123", "data.kind=synthetic", "data.path=null",
                   "data.validation_fraction=0", "data.samples=64")
        self.assertEqual(len(self.generate("run-2", "--prompt", "a", "--tokens", "3").encode()), 5)
        finished = self.headroom("generate", "run-2", "--prompt", "a\x7f", code=2)
        self.assertIn("--prompt: byte 2 is 127; the model knows those below 123", finished.complaints[0])
        finished = self.headroom("generate", "run-1", "--prompt", 64 * "a", code=2)
        self.assertIn("--prompt: its 64 tokens leave none of the model's seq_len of 64", finished.complaints[0])

    def test_memory(self):
        """Weights, keys and values, and what a token takes beside."""
        self.make_model()
        told = self.headroom("generate", "run-1", "--prompt", "a", "--tokens", "9", "--device", "cpu").err
        kib = float(re.search(r"^9 tokens after 1 in .* tokens/s; ([\d.]+) KiB of the device$", told, re.M).group(1))
        weights, kept = 4 * (34176 + 48 * 32) / 1024, 2 * 2 * 64 * 32 * 4 / 1024  # more positions than in gpt.yaml
        self.assertGreater(kib, weights + kept)
        self.assertLess(kib, 2 * weights + kept + 8)  # as many are on their way
        finished = self.headroom("generate", "run-1", "--prompt", "a", "--device", "cpu", "--memory", "64KiB",
                                 code=3)
        self.assertIn("cannot hold the weights: ", finished.complaints[0])

    def test_what_is_wrong(self):
        self.make_model()
        self.train("mlp.yaml", "train.steps=1")
        run = ("run-1", "--prompt", "a")
        for pattern, *arguments in (
                ("generate needs CHECKPOINT",),
                ("generate needs --prompt", "run-1"),
                ("generate does not take 'more'", *run, "more"),
                ("--prompt needs a value", "run-1", "--prompt"),
                ("nowhere: ", "nowhere", "--prompt", "a"),
                ("model.kind: is mlp; allowed here: gpt", "run-2", "--prompt", "a"),
                ("--temperature -1: -1 is below 0|--temperature -1: ", *run, "--temperature", "-1"),
                ("--tokens 0: ", *run, "--tokens", "0"),
                ("--tokens 64: with the prompt's 1 that is more than the model's seq_len of 64", *run, "--tokens", "64"),
                ("--device gpu: is no device; allowed: auto, cpu, cuda", *run, "--device", "gpu"),
                ("--vocabulary encoder.json and --merges vocab.bpe belong together", *run, "--merges", "m"),
                ("--prompt: is empty, and the model has no token to begin a text with", "run-1", "--prompt", "")):
            finished = self.headroom("generate", *arguments, code=2)
            self.assertRegex(finished.complaints[0], pattern)
            self.assertEqual((len(finished.complaints), finished.out), (1, ""), finished.err)
        self.assertIn("without a launcher", self.headroom("generate", *run, ranks=2, code=2).complaints[0])


if __name__ == "__main__":
    headroom_run.main()
