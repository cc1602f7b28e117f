#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs that are gone on with: from where they were, on other ranks, past what the disk has damaged."""
import json
import os
import shutil
import signal
import struct
import subprocess
import unittest

import headroom_run

# With one rank and one micro-batch a run has the same bits every time.
ALIKE = ("train.micro_batch_size=8",)


def tensors_of(path):
    """Name -> (shape, bytes), as the format of safetensors says."""
    with open(path, "rb") as file:
        content = file.read()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8:8 + length])
    header.pop("__metadata__")
    places = {name: tensor["data_offsets"] for name, tensor in header.items()}
    assert sorted(begin for begin, _ in places.values()) == sorted([0] + [end for _, end in places.values()])[:-1]
    return {name: (tensor["shape"], content[8 + length:][slice(*tensor["data_offsets"])])
            for name, tensor in header.items()}


def xxh3(path):
    """By xxHash's own program, where it is."""
    return subprocess.run(["xxhsum", "-H3", path], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1][-16:]


class Checkpoints(headroom_run.ProgramTest):
    def checkpoints(self, folder):
        return sorted(os.listdir(self.path(f"{folder}/checkpoints")))

    def content(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def go_on(self, folder, *arguments, **more):
        finished = self.headroom("train", *arguments, f"run.folder={folder}", "checkpoint.resume=auto", **more)
        return headroom_run.Run(self.path(folder), finished)

    def assert_same_end(self, folder, other):
        for name in ("model", "optimizer"):
            self.assertEqual(self.content(f"{folder}/checkpoints/latest/{name}.safetensors"),
                             self.content(f"{other}/checkpoints/latest/{name}.safetensors"))

    def stop(self, folder, steps, *arguments, ranks=None, whom=None):
        """Told to stop once it has done so many steps."""
        launch = self.start("train", *arguments, f"run.folder={folder}", "checkpoint.resume=auto", ranks=ranks)
        self.wait_for_steps(launch, folder, steps)
        os.kill(launch.process.pid if whom is None else launch.rank_processes()[whom], signal.SIGUSR1)
        finished = launch.wait()
        self.assertEqual(finished.code, 75, finished.err)
        return headroom_run.Run(self.path(folder), finished)

    def test_what_a_checkpoint_holds(self):
        run = self.train("gpt.yaml", "train.steps=3", "checkpoint.every=2")
        self.assertEqual(self.checkpoints("run-1"), ["latest", "step_00000002", "step_00000003"])
        self.assertEqual(os.readlink(self.path("run-1/checkpoints/latest")), "step_00000003")
        self.assertEqual(self.checkpoints("run-1/checkpoints/.."), self.checkpoints("run-1"))
        state = json.loads(self.read("run-1/checkpoints/latest/state.json"))["state"]
        self.assertEqual((state["step"], state["samples"], state["ranks"], state["seed"]), (3, 96, 1, "1"))
        tensors = tensors_of(self.path("run-1/checkpoints/latest/model.safetensors"))
        self.assertEqual(tensors["wte.weight"][0], [256, 32])
        self.assertEqual(tensors["h.1.attn.c_attn.bias"][0], [96])
        self.assertEqual(sum(len(data) for _, data in tensors.values()) // 4, 34176)
        states = tensors_of(self.path("run-1/checkpoints/latest/optimizer.safetensors"))
        self.assertEqual(list(states), ["exp_avg", "exp_avg_sq"])
        events = [line for line in run.lines if line.get("event") == "checkpoint"]
        self.assertEqual([(event["step"], event["written"]) for event in events], [(2, True), (3, True)])

    def test_a_run_that_was_stopped_ends_as_one_that_was_not(self):
        """Weights, optimizer, metrics: the same bits. Stopped twice."""
        for config in ("gpt.yaml", "mlp.yaml"):
            job = (config, *ALIKE, "comm.kind=self", "train.steps=600")
            whole = self.reference(*job)
            self.stop("stopped", 50, *job)
            self.stop("stopped", 300, *job)
            run = self.go_on("stopped", *job)
            self.assertEqual(run.losses, whole.losses)
            self.assertEqual([step["step"] for step in run.steps], list(range(600)))
            self.assertEqual(run.evaluation_losses, whole.evaluation_losses)
            resumes = [line for line in run.lines if line.get("event") == "resume"]
            self.assertEqual(len(resumes), 2)
            self.assert_same_end("stopped", os.path.relpath(whole.path, self.folder))
            shutil.rmtree(self.path("stopped"))

    def test_any_rank_that_is_told_stops_all(self):
        job = ("gpt.yaml", "train.steps=100000")
        stopped = self.stop("run", 5, *job, ranks=3, whom=2)
        last = stopped.lines[-1]
        self.assertEqual((last["event"], last["status"]), ("end", 75))
        self.assertIn(f", stopped after {last['step']} of 100000 steps as it was told: ", stopped.finished.out)
        self.assertEqual(os.readlink(self.path("run/checkpoints/latest")), f"step_{last['step']:08}")
        again = self.stop("run", last["step"] + 5, *job, ranks=3, whom=0)
        self.assertEqual([step["step"] for step in again.steps], list(range(len(again.steps))))

    def test_other_data(self):
        """Are a warning; other devices are none."""
        self.train("gpt.yaml", "train.steps=2")
        other = ("gpt.yaml", "comm.kind=self", "run.folder=run-1", "checkpoint.resume=auto")
        finished = self.headroom("train", *other, "train.steps=3", "data.validation_fraction=0.2")
        self.assertEqual(finished.complaints, ["headroom: warning: data.validation_fraction is not what it was in the "
                                               "checkpoint's run: samples that it has seen may come again"])
        finished = self.headroom("train", *other, "train.steps=4", "data.validation_fraction=0.2", "data.threads=1",
                                 "device.capacity=4MiB")
        self.assertEqual(finished.err, "")

    def test_a_last_validation_without_memory(self):
        """Is made up for when the run goes on."""
        job = ("gpt.yaml", "train.steps=6", "comm.kind=self", "run.folder=run", "checkpoint.resume=auto")
        self.headroom("train", *job, "fault.fail_allocation_every=1", "fault.fail_allocation_first=8", code=3)
        run = self.go_on("run", *job)
        self.assertEqual(len(run.steps), 6)
        self.assertEqual(len(run.evaluation_losses), 1)

    def test_on_other_ranks(self):
        """4, then 2 with other memory, then 3: the curve of 4 throughout."""
        for config, capacities in (("gpt.yaml", headroom_run.GPT_CAPACITIES), ("mlp.yaml", headroom_run.MLP_CAPACITIES)):
            reference = self.train(config, ranks=4)
            self.go_on("moved", config, capacities, "checkpoint.every=20", "checkpoint.keep_last=9", ranks=4)
            for step in (40, 50):
                shutil.rmtree(self.path(f"moved/checkpoints/step_000000{step}"))
            two = self.go_on("moved", config, "checkpoint.every=15", ranks=2)
            self.assert_same_losses(two, reference, f"{config}, 4 ranks and then 2")
            shutil.rmtree(self.path("moved/checkpoints/step_00000050"))
            three = self.go_on("moved", config, "device.capacity=[2MiB, 1MiB, 1536KiB]", ranks=3)
            self.assert_same_losses(three, reference, f"{config}, 4 ranks, 2, and then 3")
            shutil.rmtree(self.path("moved"))

    def test_reproducible_runs_on_other_ranks(self):
        """The same bits."""
        job = ("gpt.yaml", "train.reproducible=true", "train.grain_size=4", "train.steps=40")
        whole = self.train(*job)
        self.stop("stopped", 5, *job, ranks=3)
        run = self.go_on("stopped", *job, ranks=2)
        self.assertEqual(run.losses, whole.losses)
        self.assertEqual(run.lines[-1]["weights"], whole.lines[-1]["weights"])

    def test_state_that_is_away(self):
        """In host memory when the checkpoint is written, and when it is read."""
        job = ("deep.yaml", "train.recompute=none", *ALIKE, "comm.kind=self", "train.steps=30")
        away = "device.capacity=2560KiB"
        whole = self.train(*job, away)
        self.go_on("run", *job, away, "checkpoint.every=10")
        shutil.rmtree(self.path("run/checkpoints/step_00000030"))
        run = self.go_on("run", *job, away)
        self.assertEqual(set(run.of_rank(0, "levers")), {"state"})
        self.assertEqual(run.losses, whole.losses)
        self.assert_same_end("run", os.path.relpath(whole.path, self.folder))

    def test_which_stay(self):
        self.train("mlp.yaml", "train.steps=20", "checkpoint.every=2", "checkpoint.keep_last=3",
                   "checkpoint.keep_every=8", "checkpoint.at_end=false")
        self.assertEqual(self.checkpoints("run-1"), ["latest", *(f"step_{step:08}" for step in (8, 14, 16, 18))])

    def test_nothing_is_left_to_do(self):
        self.go_on("run", "mlp.yaml", "train.steps=3")
        again = self.go_on("run", "mlp.yaml", "train.steps=3")
        self.assertEqual([step["step"] for step in again.steps], [0, 1, 2])
        longer = self.go_on("run", "mlp.yaml", "train.steps=5")
        self.assertEqual([step["step"] for step in longer.steps], [0, 1, 2, 3, 4])

    def test_another_run_goes_on_from_it(self):
        self.train("mlp.yaml", "train.steps=6", "checkpoint.every=3")
        for path in ("run-1/checkpoints/step_00000003", "run-1/checkpoints/latest", "run-1"):
            run = self.train("mlp.yaml", "train.steps=8", f"checkpoint.resume={path}")
            first = 3 if path.endswith("3") else 6
            self.assertEqual([step["step"] for step in run.steps], list(range(first, 8)))

    def damage(self, name, how):
        path = self.path(name)
        content = bytearray(self.content(name))
        if how == "flipped":
            content[len(content) // 2] ^= 4
        elif how == "short":
            del content[len(content) // 2:]
        elif how == "empty":
            content.clear()
        with open(path, "wb") as file:
            file.write(content)
        if how == "gone":
            os.unlink(path)

    def test_a_damaged_checkpoint_is_passed_over(self):
        """Each of its files, in each way: the one before is taken, with a line that says why."""
        self.train("gpt.yaml", *ALIKE, "train.steps=6", "checkpoint.every=3")
        whole = self.content("run-1/metrics.jsonl")
        for name in ("model.safetensors", "optimizer.safetensors", "config.yaml", "state.json"):
            for how in ("flipped", "short", "empty", "gone"):
                shutil.copytree(self.path("run-1"), self.path("copy"), symlinks=True)
                self.damage(f"copy/checkpoints/step_00000006/{name}", how)
                run = self.go_on("copy", "gpt.yaml", *ALIKE, "comm.kind=self", "train.steps=6")
                self.assertRegex(run.finished.err, rf"^headroom: warning: copy/checkpoints/step_00000006/{name}: ", how)
                self.assertIn("goes on after 3 steps, from copy/checkpoints/step_00000003\n", run.finished.out)
                self.assertEqual(run.losses, [json.loads(line)["loss"] for line in whole.splitlines()
                                              if b'"event"' not in line])
                self.assert_same_end("copy", "run-1")
                shutil.rmtree(self.path("copy"))

    def test_all_are_damaged(self):
        self.train("mlp.yaml", "train.steps=2", "checkpoint.every=1")
        for step in (1, 2):
            self.damage(f"run-1/checkpoints/step_0000000{step}/model.safetensors", "short")
        finished = self.headroom("train", "mlp.yaml", "run.folder=run-1", "checkpoint.resume=auto", code=2)
        self.assertEqual(finished.complaints[-1], "headroom: run-1: none of its 2 checkpoints is sound")
        finished = self.headroom("train", "mlp.yaml", "checkpoint.resume=run-1/checkpoints/latest", code=2)
        self.assertRegex(finished.complaints[-1], "^headroom: run-1/checkpoints/latest/model.safetensors: damaged: trunc")

    def test_what_does_not_fit(self):
        self.train("gpt.yaml", "train.steps=1")
        path = "run-1/checkpoints/latest"
        for overrides, complaint in (
                (("model.channels=64",), rf"{path}/model.safetensors: is of another model: wte.weight is \[256, 32\], "
                                         r"the configuration's is \[256, 64\]"),
                (("model.block_count=3",), rf"{path}/model.safetensors: is of another model: h.2.ln_1.weight is not "
                                           r"there, the configuration's is \[32\]"),
                (("model.block_count=1",), rf"{path}/model.safetensors: is of another model: it has \d+ tensors, the "
                                           r"configuration's \d+"),
                (("optimizer.kind=sgd", "optimizer.momentum=0.9"),
                 rf"{path}/optimizer.safetensors: is of another optimizer, or model: it has no momentum_buffer of .*")):
            for ranks in (None, 2):
                finished = self.headroom("train", "gpt.yaml", f"checkpoint.resume={path}", *overrides, ranks=ranks,
                                         code=2)
                self.assertEqual(len(finished.complaints), 1)
                self.assertRegex(finished.complaints[0], f"^headroom: {complaint}$")
        finished = self.headroom("train", "gpt.yaml", "checkpoint.resume=nowhere", code=2)
        self.assertEqual(finished.complaints,
                         ["headroom: nowhere: is neither a checkpoint nor a run's folder with checkpoints"])

    def test_one_process_at_a_time(self):
        job = ("mlp.yaml", "train.steps=1000000", "run.folder=run", "checkpoint.resume=auto")
        launch = self.start("train", *job)
        self.wait_for_steps(launch, "run", 1)
        finished = self.headroom("train", *job, code=1)
        self.assertEqual(finished.complaints, ["headroom: run: another process trains there (run.folder says where a "
                                               "run writes)"])

    def test_a_disk_that_is_full(self):
        """Older checkpoints stay, and the run goes on."""
        self.go_on("run", "gpt.yaml", "comm.kind=self", "train.steps=2")
        run = self.go_on("run", "gpt.yaml", "comm.kind=self", "train.steps=8", "checkpoint.every=3",
                         before=["sh", "-c", "ulimit -f 200; exec \"$@\"", "small-files"], code=1)
        self.assertEqual(self.checkpoints("run"), ["latest", "step_00000002"])
        self.assertEqual(os.readlink(self.path("run/checkpoints/latest")), "step_00000002")
        self.assertEqual(len(run.steps), 8)
        self.assertEqual([(line["step"], line["written"]) for line in run.lines if line.get("event") == "checkpoint"],
                         [(2, True), (3, False), (6, False), (8, False)])
        self.assertRegex(run.finished.complaints[-1], "^headroom: the last checkpoint could not be written: run/.*: File ")
        for step in (3, 6, 8):
            self.assertIn(f"headroom: warning: no checkpoint after {step} steps: run/checkpoints/step_0000000{step}.part/"
                          "model.safetensors: cannot write: File too large\n", run.finished.err)

    def test_a_stop_without_a_checkpoint(self):
        """Is none: whoever starts the run again would gain nothing."""
        launch = self.start("train", "gpt.yaml", "train.steps=100000", "run.folder=run",
                            before=["sh", "-c", "ulimit -f 200; exec \"$@\"", "small-files"])
        self.wait_for_steps(launch, "run", 3)
        launch.process.send_signal(signal.SIGUSR1)
        finished = launch.wait()
        self.assertEqual(finished.code, 1)
        self.assertRegex(finished.complaints[-1], "^headroom: the last checkpoint could not be written: run/")

    @unittest.skipIf(shutil.which("xxhsum") is None, "xxhsum is not installed (Debian: xxhash)")
    def test_a_state_that_makes_no_sense(self):
        """With a sum that is right: from another version, or from somebody."""
        self.train("mlp.yaml", "train.steps=1")
        path = "run-1/checkpoints/latest"
        for key, value in (("levers", 9), ("levers", 10**8), ("first", 1000), ("micro_batch", 0), ("samples", 2**62),
                           ("accumulation_steps", 10**9)):
            state = json.loads(self.read(f"{path}/state.json"))["state"]
            state["plan"][0][key] = value
            self.write("state.txt", json.dumps(state, separators=(",", ":"), sort_keys=True))
            shutil.copytree(self.path("run-1"), self.path("copy"), symlinks=True)
            self.write("copy/checkpoints/latest/state.json",
                       json.dumps({"state": state, "xxh3": xxh3(self.path("state.txt"))}))
            finished = self.headroom("train", "mlp.yaml", "checkpoint.resume=copy/checkpoints/latest", code=2)
            self.assertEqual(finished.complaints, ["headroom: copy/checkpoints/latest/state.json: damaged: it is of "
                                                   "another version, or makes no sense"])
            shutil.rmtree(self.path("copy"))

    def test_what_is_no_file(self):
        """Nobody waits for it."""
        self.train("mlp.yaml", "train.steps=1")
        for name in ("model.safetensors", "state.json"):
            shutil.copytree(self.path("run-1"), self.path("copy"), symlinks=True)
            os.unlink(self.path(f"copy/checkpoints/latest/{name}"))
            os.mkfifo(self.path(f"copy/checkpoints/latest/{name}"))
            finished = self.headroom("train", "mlp.yaml", "checkpoint.resume=copy/checkpoints/latest", ranks=2, code=2)
            self.assertEqual(finished.complaints, [f"headroom: copy/checkpoints/latest/{name}: is not a regular file"])
            shutil.rmtree(self.path("copy"))

    def test_leftovers(self):
        """Of a process that died while it wrote; and a damaged one does not count among those that are kept."""
        self.train("mlp.yaml", "train.steps=6", "checkpoint.every=3")
        os.mkdir(self.path("run-1/checkpoints/step_00000005.part"))
        self.write("run-1/checkpoints/step_00000005.part/model.safetensors", "half")
        self.damage("run-1/checkpoints/step_00000006/model.safetensors", "flipped")
        self.go_on("run-1", "mlp.yaml", "train.steps=5")
        self.assertEqual(self.checkpoints("run-1"), ["latest", "step_00000003", "step_00000005",
                                                     "step_00000006.damaged"])

    def test_a_validation_that_a_stop_puts_off(self):
        job = ("mlp.yaml", "train.steps=2000", "train.eval_every=1", "comm.kind=self")
        stopped = self.stop("run", 3, *job)
        last = stopped.steps[-1]["step"] + 1
        self.assertEqual([line["step"] for line in stopped.evaluations], list(range(1, last)))
        run = self.go_on("run", *job, "train.eval_every=1000", f"train.steps={last + 1}")
        self.assertEqual([line["step"] for line in run.evaluations], list(range(1, last + 2)))

    def test_a_refused_resume_changes_nothing(self):
        self.train("gpt.yaml", "train.steps=1")
        before = self.read("run-1/resolved.yaml"), self.read("run-1/env.txt"), self.read("run-1/metrics.jsonl")
        self.headroom("train", "gpt.yaml", "run.folder=run-1", "checkpoint.resume=auto", "model.channels=64", code=2)
        self.assertEqual((self.read("run-1/resolved.yaml"), self.read("run-1/env.txt"),
                          self.read("run-1/metrics.jsonl")), before)
        for overrides in (("model.channels=64",), ("train.seed=2",)):
            self.headroom("train", "gpt.yaml", "run.folder=new", "checkpoint.resume=run-1", *overrides, code=2)
            self.assertFalse(os.path.exists(self.path("new")))

    def test_memory_that_runs_out(self):
        """What was done before is not lost."""
        neighbour = "device.neighbours=[{rank: 0, bytes: 1MiB, from_step: 4, to_step: 100}]"
        run = self.train("mlp.yaml", "device.capacity=1MiB", neighbour, "train.steps=10", headroom_run.ALL_STAYS, code=3)
        self.assertEqual(os.readlink(self.path("run-1/checkpoints/latest")), f"step_{len(run.steps):08}")


if __name__ == "__main__":
    headroom_run.main()
