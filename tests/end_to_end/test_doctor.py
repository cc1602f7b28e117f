# SPDX-License-Identifier: Apache-2.0
"""headroom doctor names the cause that a run has, and no other; so does a warning while it trains. Healthy runs have
none."""

import json
import os
import pathlib
import re
import subprocess
import unittest

import headroom_run

CAUSES = {
    "gradients": "gradients not cleared",
    "kept": "tensors kept too long",
    "batch": "batch too large",
    "data": "slow data loading",
    "intermediates": "intermediates saved on the device",
    "fragmentation": "fragmentation",
}
KEPT = ("gradients", "kept")
LOGITS = ("logits", "part of logits")  # by the levers that are fastest
FIXES = {  # what the doctor says to do
    "gradients": ("fault.keep: nothing", "fault.keep=nothing"),
    "kept": ("fault.keep: nothing", "fault.keep=nothing"),
    "batch": ("train.micro_batch_size: auto", "train.micro_batch_size=auto"),
    "data": ("raise data.threads", "data.threads=2", "data.prefetch_bytes=64MiB", "fault.read_ms=0"),
    "intermediates": ("train.recompute: auto", "train.recompute=auto"),
    "fragmentation": ("fault.fragment_bytes: 0", "fault.fragment_bytes=0"),
}
DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
SOURCE = pathlib.Path(__file__).parent


class Doctor(headroom_run.ProgramTest):
    def provoke(self, cause, *overrides, ranks=None, codes=(0, 3)):
        """The run, which may end for want of memory."""
        alone = ["comm.kind=self"] if ranks is None else []
        folder = f"{cause}{len(os.listdir(self.folder))}"
        finished = self.start("train", str(SOURCE / f"causes/{cause}.yaml"), f"run.folder={folder}", *alone,
                              *overrides, ranks=ranks).wait()
        self.assertIn(finished.code, codes, finished.err)
        return headroom_run.Run(self.path(folder), finished)

    def doctor(self, run, code):
        folder = os.path.basename(run.path)
        text = self.headroom("doctor", folder, code=code).out
        return text, json.loads(self.headroom("doctor", folder, "--json", code=code).out)

    def found(self, run):
        text, told = self.doctor(run, 1)
        names = [cause["cause"] for cause in told["causes"]]
        self.assertEqual(names, list(CAUSES.values()))
        found = [cause for cause in told["causes"] if cause["found"]]
        self.assertEqual(re.findall(r"^(\S.*?)  .*  FOUND$", text, re.MULTILINE), [c["cause"] for c in found])
        self.assertIn(f"\n{len(found)} of 6 causes found\n", text)
        for cause in found:
            first, last, steps = cause["first_step"], cause["last_step"], cause["steps"]
            where = f"at the run's end after {last}" if cause["ended"] else f"{steps} steps? from {first} to {last}"
            self.assertRegex(text, rf"(?m)^{cause['cause']}\n  found: .*\n  where: rank {cause['rank']}, {where}.*\n"
                                   rf"  do: {re.escape(cause['fix'])}$")
        return found

    def assert_healthy(self, run):
        text, told = self.doctor(run, 0)
        self.assertEqual([cause for cause in told["causes"] if cause["found"] or cause["fix"] is not None], [])
        self.assertIn("\n0 of 6 causes found\n", text)
        self.assertNotIn("warning", run.finished.err)

    def test_each_cause(self):
        for name, cause in CAUSES.items():
            with self.subTest(name):
                run = self.provoke(name)
                (found,) = self.found(run)
                self.assertEqual(found["cause"], cause)
                self.assertEqual(found["rank"], 0)
                self.assertIn(found["tag"], LOGITS if name == "kept" else ("",))
                self.assertGreater(found["figure"], found["allowed"])
                self.assertIn(FIXES[name][0], found["fix"])
                self.assertEqual(self.warnings(run), [] if run.steps == [] else [(cause, found["first_step"])])
                self.assert_better(name, run, self.provoke(name, *FIXES[name][1:], codes=(0,)))

    def warnings(self, run):
        told = re.findall(r"^headroom: warning: (.*?), on rank 0 from step (\d+) on", run.finished.err, re.MULTILINE)
        return [(cause, int(step)) for cause, step in told]

    def assert_better(self, name, before, after):
        """What the doctor said to do is of use."""
        self.assert_healthy(after)
        self.assertEqual(len(after.steps), 40)
        if name == "batch":  # levers were pulled for micro-batches as large as can be
            self.assertEqual((before.of_rank(0, "levers")[0], after.of_rank(0, "levers")[0]), ("all", "none"))
        elif name == "intermediates":
            self.assertEqual((before.steps, set(after.of_rank(0, "levers"))), ([], {"selective"}))
        elif name in KEPT:
            self.assertLess(after.of_rank(0, "accumulation_steps")[-1], before.of_rank(0, "accumulation_steps")[-1])
        elif name == "fragmentation":
            self.assertLess(after.of_rank(0, "fragmented_bytes")[-1], before.of_rank(0, "fragmented_bytes")[-1])
        else:
            self.assertLess(sum(after.of_rank(0, "data_wait_ms")), sum(before.of_rank(0, "data_wait_ms")))

    def test_what_follows_is_not_named(self):
        """Blocks that stay leave too little for the micro-batch that is asked for."""
        run = self.provoke("kept", "train.micro_batch_size=16", codes=(0,))
        (found,) = self.found(run)
        self.assertEqual(found["cause"], "tensors kept too long")
        self.assertLess(run.of_rank(0, "micro_batch")[-1], 16)

    def test_a_rank_without_a_sample(self):
        """On rank 1 only recomputing has room for one."""
        run = self.provoke("intermediates", "device.capacity=[1MiB, 640KiB]", ranks=2, codes=(0,))
        (found,) = self.found(run)
        self.assertEqual((found["cause"], found["rank"], found["figure"]), ("intermediates saved on the device", 1, 1))
        self.assertEqual(set(run.of_rank(1, "share")), {0})
        self.assertEqual(set(run.of_rank(1, "recompute_gain")), {1})
        after = self.provoke("intermediates", "device.capacity=[1MiB, 640KiB]", "train.recompute=auto", ranks=2,
                             codes=(0,))
        self.assert_healthy(after)
        self.assertGreater(min(after.of_rank(1, "share")), 0)

    def test_what_a_run_that_ends_kept(self):
        run = self.provoke("kept", "train.steps=200", "train.recompute=none", "train.offload_bytes=0", codes=(3,))
        (found,) = self.found(run)
        self.assertEqual(found["cause"], "tensors kept too long")
        self.assertIn(f", {run.of_rank(0, 'kept_bytes')[-1]} are blocks of earlier steps (headroom doctor names them)",
                      run.finished.err)

    def test_the_rank_that_has_it(self):
        run = self.provoke("fragmentation", "fault.rank=2", "train.global_batch_size=96", ranks=3, codes=(0,))
        (found,) = self.found(run)
        self.assertEqual((found["cause"], found["rank"]), ("fragmentation", 2))
        run = self.provoke("kept", "fault.rank=1", "train.steps=20", ranks=3)
        (found,) = self.found(run)
        self.assertEqual((found["cause"], found["rank"]), ("tensors kept too long", 1))
        kept = json.loads(self.read(os.path.join(run.path, "memory/rank_1.kept.json")))
        self.assertEqual(found["tag"], max(kept, key=lambda tag: tag["bytes"])["tag"])
        self.assertLessEqual({tag["tag"] for tag in kept}, set(LOGITS))
        self.assertEqual(found["figure"], max(run.of_rank(1, "kept_bytes")))
        self.assertEqual(set(run.of_rank(0, "kept_bytes")), {0})

    def test_figures_are_those_of_metrics(self):
        run = self.provoke("batch")
        (found,) = self.found(run)
        parts = [1 - held / 32 for held in run.of_rank(0, "micro_batch")[3:]]
        self.assertAlmostEqual(found["figure"], sum(parts) / len(parts), places=9)
        self.assertEqual((found["first_step"], found["last_step"], found["steps"]), (3, 39, 37))
        run = self.provoke("data")
        (found,) = self.found(run)
        parts = [min(1, step["ranks"][0]["data_wait_ms"] / step["step_ms"]) for step in run.steps[3:]]
        parts = [part for part in parts if part > 0.1]
        self.assertAlmostEqual(found["figure"], sum(parts) / len(parts), places=6)
        self.assertEqual(found["steps"], len(parts))

    def test_a_sample_too_large(self):
        run = self.provoke("intermediates", "device.capacity=576KiB", codes=(3,))
        self.assertEqual(run.steps, [])
        (found,) = self.found(run)
        self.assertEqual((found["cause"], found["ended"]), ("batch too large", True))
        self.assertIn(found["fix"], run.finished.err)
        run = self.provoke("intermediates", "train.reproducible=true", "train.grain_size=32", "device.capacity=1200KiB",
                           codes=(3,))
        (found,) = self.found(run)
        self.assertIn("Lower train.grain_size", found["fix"])

    def test_the_rank_that_ends_it(self):
        """Rank 0 is too small whatever it does."""
        run = self.provoke("intermediates", "device.capacity=[576KiB, 640KiB]", ranks=2, codes=(3,))
        told = self.doctor(run, 1)[1]
        names = [cause["cause"] for cause in told["causes"] if cause["found"]]
        rank = int(re.search(r"^headroom: rank (\d) ", run.finished.err, re.MULTILINE)[1])
        self.assertEqual(told["shortage"]["rank"], rank)
        self.assertEqual(names, ["intermediates saved on the device" if rank == 1 else "batch too large"])

    def test_none_of_the_six(self):
        """Others hold the device: the run's own advice is repeated."""
        run = self.provoke("batch", "train.micro_batch_size=auto", "device.capacity=2MiB", "train.offload_bytes=0",
                           "device.neighbours=[{rank: 0, bytes: 1480KiB, from_step: 6, to_step: 300}]", codes=(3,))
        text, told = self.doctor(run, 1)
        self.assertEqual([cause for cause in told["causes"] if cause["found"]], [])
        self.assertEqual(told["shortage"]["cause"], "external")
        self.assertIn("eave the device to this job", told["shortage"]["advice"])
        self.assertIn(told["shortage"]["advice"], run.finished.err)
        self.assertIn(f"\nnone of these\n  found: memory ran out, cause: external\n  where: rank 0\n"
                      f"  do: {told['shortage']['advice']}\n", text)

    def test_recomputing_would_do_without_what_others_hold(self):
        neighbour = "device.neighbours=[{rank: 0, bytes: 1400KiB, from_step: 6, to_step: 300}]"
        run = self.provoke("intermediates", "device.capacity=2MiB", neighbour, codes=(3,))
        (found,) = self.found(run)
        self.assertEqual((found["cause"], found["ended"]), ("intermediates saved on the device", True))
        self.assertEqual(self.doctor(run, 1)[1]["shortage"]["cause"], "external")
        self.assertTrue(found["fix"].startswith("Set train.recompute: auto"), found["fix"])
        self.provoke("intermediates", "device.capacity=2MiB", neighbour, "train.recompute=auto", codes=(0,))

    def test_begun_anew_after_its_end(self):
        """In the same folder, without a checkpoint to go on from."""
        folder = self.provoke("intermediates", "checkpoint.resume=auto", codes=(3,)).path
        self.headroom("train", str(SOURCE / "causes/intermediates.yaml"), "comm.kind=self", "checkpoint.resume=auto",
                      f"run.folder={folder}", "train.recompute=auto", "train.steps=12")
        run = headroom_run.Run(folder, None)
        told = self.doctor(run, 0)[1]
        self.assertEqual((told["status"], told["shortage"], len(run.steps)), (0, None, 12))

    def test_healthy_runs(self):
        for config, capacities in (("mlp.yaml", headroom_run.MLP_CAPACITIES), ("gpt.yaml", headroom_run.GPT_CAPACITIES),
                                   ("lines.yaml", headroom_run.LINES_CAPACITIES)):
            with self.subTest(config):
                self.assert_healthy(self.train(config, capacities, ranks=4))
                self.assert_healthy(self.train(config))

    def test_healthy_choices(self):
        """What the user chose, and what costs nothing, is no cause."""
        for name, overrides in (("data", ("fault.read_ms=0", "data.prefetch_bytes=64MiB")),
                                ("intermediates", ("device.capacity=8MiB",)),
                                ("intermediates", ("device.capacity=8MiB", "train.recompute=full")),
                                ("batch", ("device.capacity=8MiB", "train.micro_batch_size=4")),
                                ("kept", ("fault.keep=nothing", "device.segments=plain", "device.capacity=8MiB"))):
            with self.subTest(name, overrides=overrides):
                self.assert_healthy(self.provoke(name, *overrides, codes=(0,)))

    def test_a_neighbour_is_none_of_the_causes(self):
        neighbour = "device.neighbours=[{rank: 1, bytes: 384KiB, from_step: 10, to_step: 30}]"
        self.assert_healthy(self.train("mlp.yaml", "device.capacity=1MiB", neighbour, ranks=2))

    @unittest.skipUnless(DATA.exists(), f"{DATA} is not here; launch/install quickstart installs it")
    def test_the_quick_start(self):
        """Sooner than it says, another program takes memory from rank 3, and gives it back."""
        neighbour = "device.neighbours=[{rank: 3, bytes: 11MiB, from_step: 10, to_step: 25}]"
        self.assert_healthy(self.train(str(SOURCE / "../../configs/quickstart.yaml"), "train.steps=40", neighbour,
                                       ranks=4))

    def test_a_run_that_goes_on(self):
        """The newest process is looked at, by its configuration; its first steps do not count."""
        def go_on(steps, *overrides):
            self.headroom("train", str(SOURCE / "causes/batch.yaml"), "comm.kind=self", f"train.steps={steps}",
                          "run.folder=run", "checkpoint.resume=auto", *overrides)

        go_on(20)
        (found,) = self.found(headroom_run.Run(self.path("run"), None))
        self.assertEqual((found["cause"], found["first_step"], found["steps"]), ("batch too large", 3, 17))
        go_on(26)
        text, told = self.doctor(headroom_run.Run(self.path("run"), None), 0)
        self.assertEqual((told["steps"], told["steps_that_count"]), (26, 3))
        self.assertIn("\n3 steps count for figures in %, without the first 3 of a process: too few, it takes 8\n", text)
        go_on(60, "train.micro_batch_size=auto")
        text, told = self.doctor(headroom_run.Run(self.path("run"), None), 0)
        self.assertEqual([cause["steps"] for cause in told["causes"]], [0] * 6)

    def test_what_a_process_before_kept(self):
        def go_on(steps, *overrides):
            self.headroom("train", str(SOURCE / "causes/kept.yaml"), "comm.kind=self", f"train.steps={steps}",
                          "run.folder=run", "checkpoint.resume=auto", *overrides)

        go_on(20)
        run = headroom_run.Run(self.path("run"), None)
        self.assertIn(self.found(run)[0]["tag"], LOGITS)
        go_on(60, "fault.keep=nothing")
        self.assertFalse(os.path.exists(self.path("run/memory/rank_0.kept.json")))
        self.assertEqual([cause["tag"] for cause in self.doctor(run, 0)[1]["causes"]], [""] * 6)

    def test_a_name_that_is_no_text(self):
        """Of a folder that was copied: bytes that are no UTF-8, and what would clear a terminal."""
        self.train("mlp.yaml", "train.steps=5")
        name = os.fsencode(self.folder) + b"/r\xff\x1b[2J"
        os.rename(self.path("run-1"), name)
        told = subprocess.run([headroom_run.HEADROOM, "doctor", name, "--json"], capture_output=True, check=True).stdout
        self.assertEqual(json.loads(told)["run"], f"{self.folder}/r?\x1b[2J")
        self.assertEqual(len(json.loads(told)["causes"]), 6)
        text = subprocess.run([headroom_run.HEADROOM, "doctor", name], capture_output=True, check=True).stdout
        self.assertTrue(text.startswith(os.fsencode(self.folder) + b"/r\xff?[2J: 5 steps on 1 rank"), text)

    def test_a_tag_that_is_no_name(self):
        """It would give the terminal another title; or it is cut within a character."""
        run = self.provoke("kept")
        folder = os.path.basename(run.path)
        self.write(f"{folder}/memory/rank_0.kept.json", json.dumps([{"tag": "ä" * 200, "bytes": 1000}]))
        self.assertEqual(len(json.loads(self.headroom("doctor", folder, "--json", code=1).out)["causes"]), 6)
        self.write(f"{folder}/memory/rank_0.kept.json", json.dumps([{"tag": "\x1b]0;title", "bytes": 1000}]))
        text = self.headroom("doctor", folder, code=1).out
        self.assertIn("blocks of '?]0;title'", text)
        self.assertNotIn("\x1b", text)

    def test_tags_that_cannot_be_read(self):
        """What stays is found all the same."""
        run = self.provoke("kept")
        tags = self.read(f"{run.path}/memory/rank_0.kept.json")
        for damaged in (tags[:50], "[{}]", "{}", ""):
            self.write(f"{run.path}/memory/rank_0.kept.json", damaged)
            (found,) = self.found(run)
            self.assertEqual((found["cause"], found["tag"]), ("tensors kept too long", ""))

    def test_more_ranks_than_there_are(self):
        self.train("mlp.yaml", "train.steps=1")
        self.write("run-1/env.txt", "ranks 4294967295\n")
        for command in ("doctor", "report", "top"):
            self.assertEqual(self.headroom(command, "run-1", code=2).err, "headroom: run-1/env.txt: ranks 4294967295: is "
                             "no number of ranks; allowed: 1 to 1048576\n")

    def test_what_is_not_told_is_no_finding(self):
        run = self.provoke("kept")
        with open("/dev/full", "w", encoding="utf-8") as full:
            self.assertEqual(subprocess.run([headroom_run.HEADROOM, "doctor", run.path], stdout=full,
                                            stderr=subprocess.DEVNULL, check=False).returncode, 2)

    def test_bad_input(self):
        self.train("mlp.yaml", "train.steps=1")
        self.write("run-1/resolved.yaml", "model: 1\n")
        for arguments, complaint in (((), "doctor needs RUN_DIR; see headroom doctor --help"),
                                     (("run-9",), "run-9: No such file or directory; allowed: the folder of a run"),
                                     (("run-1", "run-1"), "doctor does not take 'run-1'; see headroom doctor --help"),
                                     (("run-1",), "run-1/resolved.yaml:1:1: model: a section is a mapping of keys to values")):
            self.assertEqual(self.headroom("doctor", *arguments, code=2).err, f"headroom: {complaint}\n")


if __name__ == "__main__":
    headroom_run.main()
