# SPDX-License-Identifier: Apache-2.0
"""What other programs are told: TensorBoard, spreadsheets, Prometheus. All of it is what metrics.jsonl says."""

import concurrent.futures
import csv
import glob
import http.client
import json
import math
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time

import headroom_run

HERE = os.path.dirname(os.path.abspath(__file__))
MINUTE_S = 60
LONGEST_LINE = headroom_run.LONGEST_LINE
METRIC = r"headroom_\w+"
UNITS = {"bytes": "bytes", "seconds": "s", "ratio": "percentunit"}  # end of a metric's name: unit of Grafana
FOR_EVER = "train.steps=1000000"
COUNTED = {"samples": "headroom_samples_total", "tokens": "headroom_tokens_total"}
STEP_METRICS = {  # key of metrics.jsonl: metric, and what one of the key's units is in the metric's
    "step": ("headroom_step", 1), "epoch": ("headroom_epoch", 1), "loss": ("headroom_loss", 1),
    "lr": ("headroom_learning_rate", 1), "grad_norm": ("headroom_gradient_norm", 1),
    "step_ms": ("headroom_step_seconds", 1e-3), "predicted_ms": ("headroom_predicted_step_seconds", 1e-3),
    "samples_per_s": ("headroom_samples_per_second", 1), "tokens_per_s": ("headroom_tokens_per_second", 1),
    "data_wait_ms": ("headroom_data_wait_seconds", 1e-3), "comm_ms": ("headroom_communication_seconds", 1e-3),
    "coordination_ms": ("headroom_coordination_seconds", 1e-3),
}
RANK_METRICS = {
    "share": "headroom_rank_share_samples", "micro_batch": "headroom_rank_micro_batch_samples",
    "accumulation_steps": "headroom_rank_accumulation_steps", "limit_bytes": "headroom_rank_limit_bytes",
    "headroom_bytes": "headroom_rank_headroom_bytes", "allocated_peak_bytes": "headroom_rank_allocated_peak_bytes",
    "reserved_peak_bytes": "headroom_rank_reserved_peak_bytes",
    "predicted_peak_bytes": "headroom_rank_predicted_peak_bytes", "others_bytes": "headroom_rank_others_bytes",
    "kept_bytes": "headroom_rank_kept_bytes", "kept_gradients_bytes": "headroom_rank_kept_gradients_bytes",
    "recompute_gain": "headroom_rank_recompute_gain_ratio", "fragmented_bytes": "headroom_rank_fragmented_bytes",
}
RANK_TIMES = {"data_wait_ms": "headroom_rank_data_wait_seconds"}
RANK_COUNTED = {"oom_retries": "headroom_rank_oom_retries_total",
                "handed_back": "headroom_rank_handed_back_samples_total"}
VALIDATION_METRICS = {"step": "headroom_validation_steps", "loss": "headroom_validation_loss",
                      "accuracy": "headroom_validation_accuracy_ratio"}


with open(f"{HERE}/../../docs/grafana.json", encoding="utf-8") as grafana:
    DASHBOARD = json.load(grafana)


def crc32c(data):
    """Bit by bit."""
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def masked(crc):
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def parse_text(lines):
    """protoc's text: a list of names and values, which may be such lists."""
    found = []
    for line in lines:
        line = line.strip()
        if line == "}":
            return found
        if line.endswith(" {"):
            found.append((line[:-2], parse_text(lines)))
        else:
            name, value = line.split(": ", 1)
            found.append((name, json.loads(value) if value.startswith('"') else value))
    return found


def tags_of(step):
    """What TensorBoard is to show of a line."""
    tags = {key: value for key, value in step.items() if key not in ("step", "ranks") and value is not None}
    for rank in step["ranks"]:
        tags |= {f"rank_{rank['rank']}/{key}": value for key, value in rank.items() if key not in ("rank", "levers")}
    return tags


def parse_exposition(text):
    """(metric, labels) -> value"""
    values = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, labels, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()
            values[name, tuple(sorted(re.findall(r'(\w+)="([^"]*)"', labels)))] = float(value)
    return values


class MetricsTest(headroom_run.ProgramTest):
    def assert_near(self, found, expected, what):
        self.assertEqual(found.keys(), expected.keys(), what)
        for name, value in expected.items():
            self.assertTrue(math.isclose(found[name], value, rel_tol=2e-7, abs_tol=1e-12),
                            f"{what}: {name} is {found[name]}, not {value}")

    def run_text(self, command, text):
        return subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=MINUTE_S, check=False)


class TensorBoard(MetricsTest):
    def setUp(self):
        super().setUp()
        if shutil.which("protoc") is None:
            self.skipTest("there is no protoc (Debian: protobuf-compiler)")

    def records(self, path):
        with open(path, "rb") as file:
            while header := file.read(12):
                length, length_crc = struct.unpack("<QI", header)
                self.assertEqual(length_crc, masked(crc32c(header[:8])))
                data = file.read(length)
                self.assertEqual(struct.unpack("<I", file.read(4))[0], masked(crc32c(data)))
                yield data

    def events(self, path):
        content = b"".join(b"\x0a" + varint(len(data)) + data for data in self.records(path))
        done = subprocess.run(["protoc", "--decode=File", f"--proto_path={HERE}", f"{HERE}/event.proto"], input=content,
                              stdout=subprocess.PIPE, timeout=MINUTE_S, check=True)
        found = parse_text(iter(done.stdout.decode().splitlines()))
        self.assertEqual({name for name, _ in found}, {"event"})
        return [dict(event) for _, event in found]

    def shown(self, folder):
        """step -> tags with their values, after what TensorBoard forgets where a run went on."""
        steps, newest = {}, 0
        for path in sorted(glob.glob(self.path(f"{folder}/tensorboard/events.out.tfevents.*"))):
            version, *events = self.events(path)
            self.assertEqual(version["file_version"], "brain.Event:2")
            for event in events:
                self.assertGreaterEqual(float(event["wall_time"]), newest)
                newest, step = float(event["wall_time"]), int(event["step"])
                if "session_log" in event:
                    self.assertEqual(event["session_log"], [("status", "START")])
                    steps = {number: tags for number, tags in steps.items() if number < step}
                    continue
                for _, value in event["summary"]:
                    tag, number = dict(value)["tag"], float(dict(value)["simple_value"])
                    self.assertNotIn(tag, steps.setdefault(step, {}))
                    steps[step][tag] = number
        return steps

    def assert_shown(self, run):
        expected = {step["step"]: tags_of(step) for step in run.steps}
        for evaluation in run.evaluations:
            expected[evaluation["step"] - 1] |= {f"validation/{key}": evaluation[key] for key in ("loss", "accuracy")}
        shown = self.shown(os.path.basename(run.path))
        self.assertEqual(sorted(shown), sorted(expected))
        for step, tags in expected.items():
            self.assert_near(shown[step], tags, f"step {step}")

    def test_the_figures_of_metrics_jsonl(self):
        before = time.time()
        run = self.train("mlp.yaml", "metrics.tensorboard=true", "train.steps=12", "train.eval_every=5",
                         "fault.fail_allocation_every=7", ranks=2)
        self.assertGreater(sum(run.of_rank(0, "oom_retries")), 0)
        self.assert_shown(run)
        first = self.events(glob.glob(f"{run.path}/tensorboard/*")[0])[0]
        self.assertTrue(before <= float(first["wall_time"]) <= time.time())

    def test_a_run_that_goes_on(self):
        """From before its last step, on other ranks, twice; nothing is shown twice."""
        job = ("mlp.yaml", "metrics.tensorboard=true", "checkpoint.every=4", "checkpoint.at_end=false",
               "train.eval_every=2", "checkpoint.resume=auto", "run.folder=run")
        for steps, ranks in ((6, 1), (11, 2), (15, 1)):
            finished = self.headroom("train", *job, f"train.steps={steps}", ranks=ranks)
        self.assertEqual(len(os.listdir(self.path("run/tensorboard"))), 3)
        run = headroom_run.Run(self.path("run"), finished)
        self.assertEqual([step["step"] for step in run.steps], list(range(15)))
        self.assert_shown(run)

    def test_files_that_may_not_grow(self):
        """What is there is whole."""
        finished = self.headroom("train", "mlp.yaml", "metrics.tensorboard=true", "train.steps=20", "run.folder=run",
                                 "data.validation_samples=0", "checkpoint.at_end=false", before=headroom_run.SMALL_FILES)
        shown = sorted(self.shown("run"))
        self.assertEqual(shown, list(range(len(shown))))
        self.assertIn(len(shown), range(1, 20))
        begin, end = [line for line in finished.err.splitlines() if "tensorboard/events" in line]
        self.assertRegex(begin, "^headroom: warning: run/tensorboard/.*: cannot write: File too large; the run goes on")
        self.assertRegex(end, rf": {20 - len(shown)} lines could not be written: File too large$")


class Csv(MetricsTest):
    def rows(self, folder):
        with open(self.path(f"{folder}/metrics.csv"), encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, strict=True))

    def expected(self, step, ranks):
        row = {key: value for key, value in step.items() if key != "ranks"}
        for number in range(ranks):
            keys = [key for key in step["ranks"][0] if key != "rank"]
            rank = step["ranks"][number] if number < len(step["ranks"]) else dict.fromkeys(keys)
            row |= {f"rank_{number}_{key}": rank[key] for key in keys}
        return row

    def assert_rows(self, steps, ranks, folder):
        rows = self.rows(folder)
        self.assertEqual(len(rows), len(steps))
        for row, step in zip(rows, steps):
            expected = self.expected(step, ranks)
            self.assertEqual(list(row), list(expected))
            for key, value in expected.items():
                text = row[key]
                self.assertEqual(None if text == "" else text if isinstance(value, str) else type(value)(text), value)

    def test_the_figures_of_metrics_jsonl(self):
        run = self.train("mlp.yaml", "metrics.csv=true", "train.steps=12", "fault.fail_allocation_every=7", ranks=2)
        self.assertIsNone(run.steps[0]["predicted_ms"])
        self.assert_rows(run.steps, 2, "run-1")

    def test_a_run_that_goes_on(self):
        """On more ranks and on fewer; what was done before the file was asked for is there, too."""
        job = ("mlp.yaml", "checkpoint.every=4", "checkpoint.at_end=false", "checkpoint.resume=auto", "run.folder=run")
        self.headroom("train", *job, "train.steps=6")
        for steps, ranks, most in ((7, 1, 1), (11, 3, 3), (15, 2, 3)):
            self.headroom("train", *job, "metrics.csv=true", f"train.steps={steps}", ranks=ranks)
            self.assert_rows(self.steps("run"), most, "run")

    def test_a_file_that_may_not_grow(self):
        finished = self.headroom("train", "mlp.yaml", "metrics.csv=true", "train.steps=60", "run.folder=run",
                                 "checkpoint.at_end=false", before=headroom_run.SMALL_FILES)
        rows = self.rows("run")
        steps = [int(row["step"]) for row in rows]  # a shorter line may still have room
        self.assertEqual(steps, sorted(set(steps) & set(range(60))))
        self.assertEqual(steps[:10], list(range(10)))
        self.assertNotIn(None, [value for row in rows for value in row.values()])
        self.assertIn(f"run/metrics.csv: {60 - len(rows)} lines could not be written: File too large", finished.err)


class Prometheus(MetricsTest):
    def expected(self, run, steps, evaluations=()):
        """Of what a process has done."""
        labels = (("run", run),)
        last = steps[-1]
        values = {(name, labels): last[key] * unit for key, (name, unit) in STEP_METRICS.items()
                  if last[key] is not None}
        values |= {(name, labels): sum(step[key] for step in steps) for key, name in COUNTED.items()}
        for number, rank in enumerate(last["ranks"]):
            of_rank = (("rank", str(number)), ("run", run))
            values |= {(name, of_rank): rank[key] for key, name in RANK_METRICS.items()}
            values |= {(name, of_rank): rank[key] / 1e3 for key, name in RANK_TIMES.items()}
            values |= {(name, of_rank): sum(step["ranks"][number][key] for step in steps)
                       for key, name in RANK_COUNTED.items()}
            values["headroom_rank_levers", (("levers", rank["levers"]), *of_rank)] = 1
        if evaluations:
            values |= {(name, labels): evaluations[-1][key] for key, name in VALIDATION_METRICS.items()}
        return values

    def train_once(self, name="metrics.prom"):
        run = self.train("mlp.yaml", f"metrics.prometheus_file={name}", "train.steps=12", "train.eval_every=5",
                         "fault.fail_allocation_every=7", ranks=2)
        return run, self.read(name)

    def test_the_file(self):
        run, text = self.train_once()
        self.assertGreater(sum(run.of_rank(0, "oom_retries")), 0)
        self.assert_near(parse_exposition(text), self.expected("run-1", run.steps, run.evaluations), "the file")
        self.assertEqual([name for name in os.listdir(self.folder) if "prom" in name], ["metrics.prom"])

    def need_promtool(self):
        if shutil.which("promtool") is None:
            self.skipTest("there is no promtool (Debian: prometheus)")

    def test_promtool_accepts_it(self):
        self.need_promtool()
        checked = self.run_text(["promtool", "check", "metrics"], self.train_once()[1])
        self.assertEqual((checked.returncode, checked.stdout), (0, ""))

    def test_prometheus_client_reads_it(self):
        script = ("import json, sys\nfrom prometheus_client.parser import text_string_to_metric_families as parse\n"
                  "print(json.dumps([[family.name, family.type, family.documentation, [[sample.name, sample.labels, "
                  "sample.value] for sample in family.samples]] for family in parse(sys.stdin.read())]))")
        pythons = [python for python in (sys.executable, "/usr/bin/python3") if os.path.exists(python) and
                   self.run_text([python, "-c", "import prometheus_client"], "").returncode == 0]
        if not pythons:
            self.skipTest("there is no prometheus_client (Debian: python3-prometheus-client)")
        text = self.train_once()[1]
        read = self.run_text([pythons[0], "-c", script], text)
        self.assertEqual(read.returncode, 0, read.stdout)
        values = {}
        for name, kind, documentation, samples in json.loads(read.stdout):
            self.assertNotEqual(documentation, "")
            for sample, labels, value in samples:
                self.assertEqual(sample, f"{name}_total" if kind == "counter" else name)
                values[sample, tuple(sorted(labels.items()))] = value
        self.assertEqual(values, parse_exposition(text))

    def test_names_that_are_escaped(self):
        finished = self.headroom("train", "mlp.yaml", 'run.folder=a "run" \\ here', "train.steps=1",
                                 "metrics.prometheus_file=metrics.prom")
        self.assertEqual(finished.complaints, [])
        self.assertIn('headroom_step{run="a \\"run\\" \\\\ here"} 0\n', self.read("metrics.prom"))

    def test_the_file_is_replaced_while_the_run_goes_on(self):
        launch = self.start("train", "mlp.yaml", "run.folder=run", "metrics.prometheus_file=metrics.prom", FOR_EVER)
        seen = set()

        def look():
            if os.path.exists(self.path("metrics.prom")):
                text = self.read("metrics.prom")
                self.assertRegex(text, r'(?s)^# HELP headroom_step .*\nheadroom_rank_handed_back_\S+"0"} 0\n\Z')
                seen.add(parse_exposition(text)["headroom_step", (("run", "run"),)])
            return len(seen) >= 2

        self.wait_for(launch, look, "the file stays as it is")

    def test_a_file_that_cannot_be_written(self):
        run = self.train("mlp.yaml", "metrics.prometheus_file=nowhere/metrics.prom", "train.steps=4")
        self.assertEqual(run.finished.complaints, ["headroom: warning: nowhere/metrics.prom: cannot write: No such file "
                                                   "or directory; the run goes on"])
        self.assertEqual(len(run.steps), 4)

    def test_what_is_no_file(self):
        os.mkfifo(self.path("pipe.prom"))
        finished = self.headroom("train", "mlp.yaml", "metrics.prometheus_file=pipe.prom", ranks=2, code=2)
        self.assertEqual(finished.complaints, ["headroom: metrics.prometheus_file pipe.prom: is not a regular file; "
                                               "allowed: one, or a new name"])
        self.assertFalse(os.path.exists(self.path("runs")))
        self.assertTrue(stat.S_ISFIFO(os.stat(self.path("pipe.prom")).st_mode))

    def test_a_file_that_can_be_written_later(self):
        launch = self.start("train", "mlp.yaml", "run.folder=run", "metrics.prometheus_file=later/metrics.prom", FOR_EVER)
        self.wait_for_steps(launch, "run", 3)
        os.mkdir(self.path("later"))
        self.wait_for(launch, lambda: os.path.exists(self.path("later/metrics.prom")), "the file does not come")
        self.wait_for_steps(launch, "run", self.steps_done("run") + 3)
        launch.process.send_signal(signal.SIGUSR1)
        self.assertEqual(launch.wait().complaints, [
            "headroom: warning: later/metrics.prom: cannot write: No such file or directory; the run goes on",
            "headroom: warning: later/metrics.prom: can be written again"])

    def test_dashboard_and_docs_show_all_that_is_exported(self):
        """The other cases hold these tables to what is."""
        exported = {name for name, _ in STEP_METRICS.values()}.union(
            ["headroom_rank_levers"], *(metrics.values() for metrics in (COUNTED, RANK_METRICS, RANK_TIMES,
                                                                        RANK_COUNTED, VALIDATION_METRICS)))
        queries = self.queries() + [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"]]
        self.assertEqual({name for query in queries for name in re.findall(METRIC, query)}, exported)
        with open(f"{HERE}/../../docs/metrics.md", encoding="utf-8") as docs:
            told = re.findall(r"(?m)^\| (`headroom_[^|]*) \|", docs.read().partition("| metric |")[2])
        self.assertEqual(sorted(name for names in told for name in re.findall(METRIC, names)), sorted(exported))

    def queries(self):
        return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]

    def test_the_dashboards_queries(self):
        """Prometheus' own parser reads them, a run's name in place of the variable."""
        self.need_promtool()
        rules = [{"record": f"panel:query_{i}", "expr": query.replace("$run", "run")}
                 for i, query in enumerate(self.queries())]
        self.write("rules.yaml", json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
        checked = self.run_text(["promtool", "check", "rules", self.path("rules.yaml")], "")
        self.assertEqual(checked.returncode, 0, checked.stdout)
        self.assertIn(f"SUCCESS: {len(rules)} rules found", checked.stdout)

    def test_grafana_asks_for_the_dashboards_data_source(self):
        """All that asks it names the input that an import fills in."""
        (source,) = DASHBOARD["__inputs"]
        self.assertEqual([source[key] for key in ("name", "type", "pluginId")],
                         ["DS_PROMETHEUS", "datasource", "prometheus"])
        asking = [*DASHBOARD["panels"], *DASHBOARD["templating"]["list"],
                  *(target for panel in DASHBOARD["panels"] for target in panel["targets"])]
        for one in asking:
            self.assertEqual(one["datasource"], {"type": "prometheus", "uid": "${DS_PROMETHEUS}"})
        required = {(one["type"], one["id"]): one["version"] for one in DASHBOARD["__requires"]}
        panels = {("panel", panel["type"]) for panel in DASHBOARD["panels"]}
        self.assertEqual(set(required), panels | {("grafana", "grafana"), ("datasource", "prometheus")})
        self.assertEqual((DASHBOARD["uid"], required["grafana", "grafana"], DASHBOARD["schemaVersion"]),
                         ("headroom", "9.0.0", 36))  # that version's

    def test_the_dashboards_panels(self):
        """Each has a number and a place of its own, the unit of its metrics, and names what its lines are of."""
        self.assertEqual(len({panel["id"] for panel in DASHBOARD["panels"]}), len(DASHBOARD["panels"]))
        taken = set()
        for panel in DASHBOARD["panels"]:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            self.assertLess(max(x for x, _ in cells), 24, panel["title"])
            self.assertFalse(cells & taken, panel["title"])
            taken |= cells
            self.assertEqual(len({target["refId"] for target in panel["targets"]}), len(panel["targets"]))
            for target in panel["targets"]:
                self.check_target(panel, target)

    def check_target(self, panel, target):
        (metric,) = re.findall(METRIC, target["expr"])
        ending = metric.rpartition("_")[2]
        if ending in UNITS and not metric.endswith("_per_second"):
            self.assertEqual(panel["fieldConfig"]["defaults"]["unit"], UNITS[ending], metric)
        if panel["type"] != "table":
            self.assertIn("{{run}}", target["legendFormat"])
            self.assertEqual("{{rank}}" in target["legendFormat"], metric.startswith("headroom_rank_"), metric)


class Http(MetricsTest):
    def setUp(self):
        super().setUp()
        self.port = headroom_run.free_port()

    def ask(self, path="/metrics", method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=MINUTE_S)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Content-Type"), answer.read().decode()
        finally:
            connection.close()

    def start_serving(self, *overrides, ranks=None):
        launch = self.start("train", "mlp.yaml", "run.folder=run", f"metrics.http_port={self.port}", FOR_EVER, *overrides,
                            ranks=ranks)
        self.wait_for_steps(launch, "run", 3)
        return launch

    def test_it_answers_with_the_newest_figures(self):
        launch = self.start_serving("fault.fail_allocation_every=7", ranks=2)
        for _ in range(3):
            status, kind, text = self.ask()
            self.assertEqual((status, kind), (200, "text/plain; version=0.0.4; charset=utf-8"))
            found = parse_exposition(text)
            newest = int(found["headroom_step", (("run", "run"),)])
            self.wait_for_steps(launch, "run", newest + 2)
            steps = self.steps("run")[:newest + 1]
            self.assert_near(found, Prometheus.expected(self, "run", steps), f"step {newest}")

    def test_other_questions(self):
        self.start_serving()
        for path in ("/", "/metrics/", "/metrics.json", "/metrics.jsonl/", "/resolved.yaml", "/../env.txt",
                     "/" + 5000 * "x"):
            self.assertEqual(self.ask(path)[0], 404, path)
        self.assertEqual(self.ask("/metrics?name=headroom_loss")[0], 200)
        self.assertEqual(self.ask(method="HEAD")[::2], (200, ""))
        self.assertEqual(self.ask(method="POST")[0], 405)

    def test_lines(self):
        """/metrics.jsonl is the file, or the bytes of it that are asked for."""
        self.start_serving()
        status, kind, text = self.ask("/metrics.jsonl")
        self.assertEqual((status, kind), (200, "application/x-ndjson"))
        self.assertGreater(len(text), 100)
        self.assertEqual(self.read("run/metrics.jsonl")[:len(text)], text)
        for asked, found in (("0-0", text[:1]), ("10-89", text[10:90])):
            self.assertEqual(self.ask("/metrics.jsonl", Range=f"bytes={asked}")[::2], (206, found), asked)
        status, _, rest = self.ask("/metrics.jsonl", Range="bytes=50-")
        self.assertEqual((status, rest[:40]), (206, text[50:90]))
        self.assertEqual(self.ask("/metrics.jsonl", Range=f"bytes={1 << 60}-")[::2], (416, ""))
        for other in ("bytes=", "bytes=x", "bytes=9-3", "bytes=-5", "bytes=1-2,4-5", "lines=1-2", "bytes=1-2x"):
            status, _, whole = self.ask("/metrics.jsonl", Range=other)
            self.assertEqual((status, whole[:len(text)]), (200, text), other)
        self.assertEqual(self.ask("/metrics.jsonl", "HEAD")[::2], (200, ""))
        self.assertEqual(self.ask("/metrics.jsonl", "POST")[0], 405)

    def test_many_clients(self):
        """Those that ask are answered, those that ask for nothing hold nobody up for good."""
        launch = self.start_serving()
        with concurrent.futures.ThreadPoolExecutor(50) as clients:
            answers = list(clients.map(lambda _: self.ask(), range(500)))
        self.assertEqual({answer[0] for answer in answers}, {200})
        for answer in answers:
            self.assertIn(("headroom_step", (("run", "run"),)), parse_exposition(answer[2]))
        silent = self.connect(400)
        self.wait_for_steps(launch, "run", self.steps_done("run") + 10)
        self.assertEqual(self.ask()[0], 200)
        for connection in silent:
            connection.close()

    def connect(self, count):
        return [socket.create_connection(("127.0.0.1", self.port)) for _ in range(count)]

    def test_slow_clients(self):
        """A hundred that never come to the end of their question are in nobody's way."""
        self.start_serving()
        slow = self.connect(100)
        with concurrent.futures.ThreadPoolExecutor(1) as client:
            answer = client.submit(self.ask)
            while not answer.done():
                for connection in slow:
                    connection.send(b"x")
                concurrent.futures.wait([answer], timeout=0.5)
            self.assertEqual(answer.result()[0], 200)
        for connection in slow:
            connection.close()

    def test_a_connection_for_each_question(self):
        self.start_serving()
        with socket.create_connection(("127.0.0.1", self.port), timeout=MINUTE_S) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        self.assertRegex(answer, rb"(?s)^HTTP/1\.1 404 .*\r\nConnection: close\r\n.*there are /metrics and /metrics.jsonl\n$")

    def test_a_port_that_is_taken(self):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            run = self.train("mlp.yaml", f"metrics.http_port={port}", "train.steps=4", ranks=2)
        self.assertEqual(run.finished.complaints, [f"headroom: warning: 127.0.0.1, port {port}: cannot listen: Address "
                                                   "already in use; the run goes on without metrics.http_port"])
        self.assertEqual(len(run.steps), 4)


class Together(MetricsTest):
    """All of them at once."""

    def stopped(self, launch):
        """What the process has done when it stands still: steps, calls that write, their bytes; bytes of its files."""
        process = f"/proc/{launch.process.pid}"
        launch.process.send_signal(signal.SIGSTOP)
        while self.content(f"{process}/stat").rpartition(") ")[2][0] != "T":
            time.sleep(0.01)
        done = {key: int(value) for key, value in re.findall(r"(\w+): (\d+)", self.content(f"{process}/io"))}
        files = glob.glob(self.path("run/metrics.*")) + glob.glob(self.path("run/tensorboard/*"))
        grown = sum(os.path.getsize(path) for path in files)
        state = (self.steps_done("run"), done["syscw"], done["wchar"], grown, time.monotonic())
        launch.process.send_signal(signal.SIGCONT)
        return len(files), state

    def content(self, path):
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def test_a_steady_step_writes_each_figure_once(self):
        """One call for each file that grows by steps, and no byte beside; Prometheus' file now and then."""
        if not os.path.exists("/proc/self/io"):
            self.skipTest("the kernel does not count what a process writes (/proc/PID/io)")
        launch = self.start("train", "mlp.yaml", FOR_EVER, "run.folder=run", "run.log_seconds=1000000",
                            "comm.kind=self", "metrics.csv=true", "metrics.tensorboard=true",
                            "metrics.prometheus_file=metrics.prom",
                            f"metrics.http_port={headroom_run.free_port()}", "data.validation_samples=0")
        self.wait_for_steps(launch, "run", 50)  # its plan has settled
        count, first = self.stopped(launch)
        self.wait_for_steps(launch, "run", first[0] + 200)
        _, last = self.stopped(launch)
        steps, calls, written, grown, seconds = (after - before for before, after in zip(first, last))
        replaced = 2 + seconds // 5
        size = os.path.getsize(self.path("metrics.prom"))
        print(f"{calls / steps:.3f} calls and {written / steps:.0f} bytes a step, {grown / steps:.0f} of them in files")
        self.assertEqual(count, 3)
        self.assertLessEqual(calls, count * (steps + 1) + 8 * replaced)
        self.assertLessEqual(written, grown + LONGEST_LINE + 2 * size * replaced)

    def test_the_log_says_how_long_they_took(self):
        port = headroom_run.free_port()
        run = self.train("mlp.yaml", "metrics.csv=true", "metrics.tensorboard=true", "train.steps=3",
                         "metrics.prometheus_file=metrics.prom", f"metrics.http_port={port}", ranks=2)
        self.assertEqual(re.findall(r"(?m)^(metrics\.\w+) took \d+\.\d{3} ms in all, at most \d+\.\d{3} ms at a time$", run.logs[0]),
                         ["metrics.tensorboard", "metrics.csv", "metrics.prometheus_file", "metrics.http_port"])
        self.assertEqual(run.finished.complaints, [])


if __name__ == "__main__":
    headroom_run.main()
