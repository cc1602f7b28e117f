# SPDX-License-Identifier: Apache-2.0
"""What a run leaves in its folder, on which other programs may count."""

import json
import os
import re

import headroom_run

FILES = ["alive", "checkpoints", "costs", "env.txt", "lock", "logs", "memory", "metrics.jsonl", "resolved.yaml"]
STEP_KEYS = {
    "step": int, "epoch": int, "loss": float, "samples": int, "tokens": int, "lr": float, "grad_norm": float,
    "step_ms": float, "samples_per_s": float, "tokens_per_s": float, "data_wait_ms": float, "comm_ms": float,
    "coordination_ms": float, "ranks": list,
}
RANK_KEYS = ("rank", "share", "micro_batch", "accumulation_steps", "levers", "limit_bytes", "headroom_bytes",
             "allocated_peak_bytes", "reserved_peak_bytes", "predicted_peak_bytes", "oom_retries", "handed_back",
             "others_bytes", "kept_bytes", "kept_gradients_bytes", "fragmented_bytes", "data_wait_ms", "recompute_gain")


class RunFolder(headroom_run.ProgramTest):
    def check_step(self, step, number, ranks, tokens):
        predicted = step["predicted_ms"]
        self.assertEqual({key: type(value) for key, value in step.items() if key != "predicted_ms"}, STEP_KEYS)
        self.assertTrue(predicted is None or predicted > 0)
        self.assertEqual((step["step"], step["tokens"]), (number, tokens))
        self.assertEqual(step["samples"], sum(rank["share"] for rank in step["ranks"]))
        self.assertAlmostEqual(step["samples_per_s"] * step["step_ms"] / 1000 / step["samples"], 1, places=5)
        self.assertAlmostEqual(step["tokens_per_s"] * step["step_ms"] / 1000 / step["tokens"], 1, places=5)
        self.assertLessEqual(step["comm_ms"], step["step_ms"])
        for number, rank in enumerate(step["ranks"]):
            self.assertEqual({key: type(value) for key, value in rank.items()},
                             dict.fromkeys(RANK_KEYS, int) |
                             {"levers": str, "data_wait_ms": float, "recompute_gain": float})
            self.assertEqual(rank["rank"], number)
        self.assertEqual(len(step["ranks"]), ranks)

    def check_metrics(self, config, ranks, tokens):
        run = self.train(config, "train.steps=10", "train.eval_every=4", ranks=ranks)
        for number, step in enumerate(run.steps):
            self.check_step(step, number, ranks, tokens)
        events = [(line["event"], line["step"]) for line in run.lines if "event" in line]
        self.assertEqual(events, [("eval", 4), ("eval", 8), ("eval", 10), ("checkpoint", 10), ("end", 10)])
        self.assertEqual(run.lines.index(run.evaluations[0]), 4)
        self.assertEqual(set(run.evaluations[0]), {"event", "step", "loss", "accuracy", "samples", "ranks"})
        self.assertGreater(run.evaluations[-1]["accuracy"], 0)
        self.assertLessEqual(run.evaluations[-1]["accuracy"], 1)
        self.assertEqual(set(run.lines[-1]), {"event", "step", "seconds", "status"})
        self.assertEqual(run.lines[-1]["status"], 0)
        return run

    def test_metrics_of_the_mlp(self):
        run = self.check_metrics("mlp.yaml", 2, 512)
        self.assertEqual({step["lr"] for step in run.steps}, {0.1})
        self.assertEqual(run.evaluations[0]["samples"], 500)

    def test_metrics_of_the_gpt(self):
        self.check_metrics("gpt.yaml", 2, 32 * 16)

    def test_files(self):
        run = self.train("mlp.yaml", "train.steps=3", ranks=2)
        self.assertEqual(sorted(os.listdir(run.path)), FILES)
        self.assertEqual(sorted(os.listdir(f"{run.path}/costs")), ["rank_0.json", "rank_1.json"])
        self.assertEqual(sorted(os.listdir(f"{run.path}/logs")), ["rank_0.log", "rank_1.log"])
        for log in run.logs.values():
            self.assertRegex(log, r"(?m)^device cpu \(CPU\), limit \d+ bytes, resting \d+ bytes, headroom \d+ bytes, "
                                  r"all-reduce by mpi$")
            cut = r"share \d+\.\.\d+, micro-batch \d+, accumulation steps \d+, levers none"
            self.assertRegex(log, rf"(?m)^step 0: {cut}, layout 0 bytes above its lower bound$")
        with open(f"{run.path}/env.txt", encoding="utf-8") as file:
            environment = file.read()
        self.assertRegex(environment, r"^headroom \d+\.\d+\.\d+ \(")
        self.assertIn("\nranks 2\n", environment)
        self.assertRegex(environment, r"\ncommand .*headroom train mlp\.yaml .*train\.steps=3\n")

    def test_steps_are_predicted(self):
        """Once both ranks were measured. How well is for a benchmark to say."""
        run = self.train("gpt.yaml", "train.steps=20", ranks=2)
        predictions = [step["predicted_ms"] for step in run.steps]
        self.assertIsNone(predictions[0])
        self.assertNotIn(None, predictions[10:])

    def test_a_rank_that_reads_slowly_is_slow(self):
        """Also where it waits for nothing, as what it does was read ahead: its share stays small."""
        run = self.train("gpt.yaml", "train.steps=40", "train.global_batch_size=32", "data.threads=1",
                         "fault.read_ms=20", "fault.rank=1", ranks=2)
        self.assertLess(max(run.of_rank(1, "share")[20:]), 8)

    def test_costs_are_for_plans(self):
        """Twice the samples take about twice as long."""
        run = self.train("gpt.yaml", "train.steps=20")
        plan = self.headroom("plan", "gpt.yaml", "--costs", f"{run.path}/costs/rank_0.json").out
        tables = re.findall(r"ms\n(.*?)layouts", plan, re.DOTALL)
        self.assertEqual(len(tables), 6, plan)
        for table in tables:
            rows = [line.split() for line in table.splitlines()]
            self.assertGreater(len(rows), 4)
            for row in rows:
                self.assertAlmostEqual(float(row[-1]) / float(rows[0][-1]) / int(row[0]), 1, delta=0.3)

    def test_resolved_configuration_runs_again(self):
        for config in ("mlp.yaml", "gpt.yaml"):
            run = self.train(config, "train.steps=20", "train.seed=7", "device.capacity=4MiB",
                             "train.reproducible=true")
            again = self.train(f"{run.path}/resolved.yaml")
            self.assertEqual(again.losses, run.losses)
            self.assertEqual(again.untimed_evaluations, run.untimed_evaluations)
            other = self.train(f"{run.path}/resolved.yaml", "train.seed=8")
            self.assertNotEqual(other.losses, run.losses)

    def test_console_on_a_terminal(self):
        """One line that changes, with a bar for the rank's memory, 5 eighths of which it takes."""
        for locale, bar in (("C.UTF-8", "▅"), ("C", "5")):
            screen = headroom_run.Screen(self.folder, "train", "mlp.yaml", "comm.kind=self", "train.steps=6",
                                         "device.capacity=1152KiB", "train.micro_batch_size=64", "fault.read_ms=1",
                                         "data.validation_samples=0", LC_ALL=locale)
            self.addCleanup(screen.kill)
            screen.wait_for(rf"\x1b\[Kstep \d+/6  left \d+:\d\d  loss [\d.]+  \d+ samples/s  memory {bar}  "
                            r"[\d.]+ ms/step  grad norm [\d.]+  lr 1\.00e-01\r\x1b\[K")
            self.assertEqual(screen.end(), 0)

    def test_console_on_a_narrow_terminal(self):
        """What matters comes first, each figure as a whole, and of the bars as many as there is room for."""
        job = ("train", "mlp.yaml", "train.steps=400", "train.global_batch_size=8", "device.capacity=1MiB")
        line = r"step \d+/400  left [\d:]+  loss [\d.]+  \d+ samples/s"
        for columns, bars in ((80, r"  memory \d{4}"), (68, r"(  memory (\d{4}|\d{1,3}\.{3}))?"), (60, "")):
            screen = headroom_run.Screen(self.folder, *job, ranks=4, columns=columns, LC_ALL="C")
            self.addCleanup(screen.kill)
            self.assertEqual(screen.end(), 0)
            lines = re.findall(r"(?:\n|\x1b\[K)(step [^\r\n]*)", screen.text)
            self.assertGreater(len(lines), 0, screen.text)
            for text in lines:
                self.assertRegex(text, rf"^{line}{bars}(  [\d.]+ ms/step)?$")
                self.assertLess(len(text), columns)

    def test_saving_on_a_terminal(self):
        """Beside the steps that go on meanwhile."""
        screen = headroom_run.Screen(self.folder, "train", "mlp.yaml", "comm.kind=self", "run.folder=run",
                                     "model.layers=[32, 4096, 2048, 10]", "train.steps=1000000",
                                     "train.global_batch_size=8", "checkpoint.every=20", "checkpoint.keep_last=1")
        self.addCleanup(screen.kill)
        screen.wait_for(r"step \d+/1000000  left [^\r\n]* samples/s  saving \d+ %  memory ")

    def test_a_long_validation(self):
        """A line that changes on a terminal, one a second elsewhere."""
        job = ("train", "mlp.yaml", "comm.kind=self", "train.steps=1", "data.validation_samples=1000000000",
               "device.capacity=4MiB", "run.log_seconds=1")
        screen = headroom_run.Screen(self.folder, *job)
        self.addCleanup(screen.kill)
        screen.wait_for(r"\r\x1b\[Kvalidation  \d+ %  left [\d:]+  \d+ of 1000000000 samples  \d+ samples/s  \[=* *\]")
        launch = self.start(*job, before=["sh", "-c", "exec \"$@\" >out.txt", "into-a-file"])
        line = re.compile(r"^validation  \d+ %  left [\d:]+  \d+ of 1000000000 samples  \d+ samples/s$", re.MULTILINE)
        self.wait_for(launch, lambda: os.path.exists(self.path("out.txt")) and line.search(self.read("out.txt")),
                      "no line")
        self.assertNotRegex(self.read("out.txt"), r"[\r\x1b]")

    def test_console_by_seconds(self):
        """Steps that take less than that have no line but the last one."""
        run = self.train("mlp.yaml", "train.steps=30", "run.log_seconds=1000000")
        self.assertEqual(re.findall(r"^step (\d+)/30 ", run.finished.out, re.MULTILINE), ["30"])
        run = self.train("mlp.yaml", "train.steps=30", "run.log_every=7")
        self.assertEqual(re.findall(r"^step (\d+)/30 ", run.finished.out, re.MULTILINE), ["7", "14", "21", "28", "30"])

    def test_a_folder_is_never_written_twice(self):
        for _ in range(2):
            self.headroom("train", "mlp.yaml", "comm.kind=self", "train.steps=1")
        self.assertEqual(sorted(os.listdir(self.path("runs"))), ["mlp", "mlp-2"])

    def test_closed_standard_streams(self):
        self.headroom("train", "mlp.yaml", "train.steps=3", "run.folder=run", before=headroom_run.NO_STREAMS)
        self.assertEqual([line.get("step") for line in self.metrics()], [0, 1, 2, 3, 3, 3])
        with open(self.path("run/logs/rank_0.log"), encoding="utf-8") as file:
            self.assertRegex(file.readline(), r"^device cpu \(CPU\), limit .*, all-reduce by self$")

    def test_output_that_cannot_be_written(self):
        for command in ("plan", "--print-config"):
            finished = self.headroom(command, "mlp.yaml", code=1, before=headroom_run.FULL_OUTPUT)
            self.assertEqual(finished.complaints, ["headroom: the output cannot be written"])

    def test_a_slash_at_the_end_of_the_name(self):
        for _ in range(2):
            self.headroom("train", "mlp.yaml", "train.steps=1", "run.folder=out/")
        self.assertEqual(sorted(name for name in os.listdir(self.folder) if name.startswith("out")), ["out", "out-2"])
        self.assertEqual(sorted(os.listdir(self.path("out"))), FILES)

    def refused_file(self, name, *overrides):
        finished = self.headroom("train", "mlp.yaml", "run.folder=run", *overrides, code=1,
                                 before=headroom_run.SMALL_FILES)
        self.assertEqual(len(finished.complaints), 1, finished.err)
        self.assertRegex(finished.complaints[0], rf"^headroom: run/{name}: cannot write.*: File too large")

    def metrics(self):
        return [json.loads(line) for line in self.metrics_lines("run")]

    def run_without(self, name, *overrides):
        """Answers how many lines of that file the run says it went on without, from the middle of a step on."""
        finished = self.headroom("train", "mlp.yaml", "run.folder=run", "checkpoint.at_end=false", *overrides,
                                 before=headroom_run.SMALL_FILES)
        warnings = [line for line in finished.err.splitlines() if f": run/{name}: " in line]
        self.assertEqual(warnings[0], f"headroom: warning: run/{name}: cannot write: File too large; the run goes on, "
                                      "and lines are missing there")
        self.assertEqual(len(warnings), 2, finished.err)
        self.assertRegex(warnings[1], r"^headroom: warning: .*: \d+ lines could not be written: File too large$")
        with open(self.path(f"run/{name}"), encoding="utf-8") as file:
            self.assertEqual(file.read()[-1], "\n")
        return int(warnings[1].split()[3])

    def test_metrics_that_cannot_be_written(self):
        missing = self.run_without("metrics.jsonl")
        lines = self.metrics()
        steps = [line["step"] for line in lines if "event" not in line]
        self.assertGreater(len(steps), 1)
        self.assertEqual(steps, list(range(len(steps))))
        self.assertEqual(len(lines) + missing, 50 + len(("a validation", "the end")))

    def test_a_log_that_cannot_be_written(self):
        self.run_without("logs/rank_0.log", "run.log_micro_steps=true", "train.micro_batch_size=1", "train.steps=1")
        self.assertEqual(self.metrics()[-1]["event"], "end")

    def test_a_folder_that_cannot_be_filled_is_removed(self):
        before = sorted(os.listdir(self.folder))
        self.refused_file("resolved.yaml", "data.images=" + "x" * 5000)
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_a_run_without_a_launcher(self):
        self.headroom("train", "mlp.yaml", "train.steps=1", "run.folder=a/b/c")
        self.assertTrue(os.path.exists(self.path("a/b/c/metrics.jsonl")))


if __name__ == "__main__":
    headroom_run.main()
