# SPDX-License-Identifier: Apache-2.0
"""headroom report: the figures on the page, as a browser shows it, are those of metrics.jsonl."""

import html
import html.parser
import json
import os
import re
import shutil
import stat
import subprocess
import unittest

from headroom_run import ALL_STAYS, GPT_CAPACITIES, MLP_CAPACITIES, ProgramTest, Run, main

CHROMIUM = shutil.which("chromium")
LARGEST_PAGE = 10_000_000  # bytes, of 1,000 ranks
OCCASIONAL = {"held by others": "others_bytes", "kept after the step": "kept_bytes",
              "gradients kept": "kept_gradients_bytes", "fragmented": "fragmented_bytes",
              "waiting for data": "data_wait_ms", "recomputing would save": "recompute_gain"}  # shown where some rank has any
RESTING = ["weights", "gradients", "optimizer state"]


class Page(html.parser.HTMLParser):
    """Of a page as a browser has built it: its data, the tables by their names, and the text outside of scripts.
    A cell is a number where the page gives one, else a text."""

    def __init__(self, text):
        super().__init__()
        self.data, self.tables, self.text, self.titles = None, {}, "", []
        self.inside, self.script, self.rows, self.value = [], "", None, None
        self.feed(text)
        self.data = json.loads(self.script)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "script":
            self.inside.append("json" if attributes.get("type") == "application/json" else "code")
        elif tag == "style":
            self.inside.append("code")
        elif tag == "table":
            self.rows = self.tables[attributes["id"]] = []
        elif tag == "tr" and self.rows is not None:
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        elif tag == "data":
            self.rows[-1][-1] = float(attributes["value"])
        elif tag == "h2":
            self.titles.append("")

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.inside.pop()
        elif tag == "table":
            self.rows = None

    def handle_data(self, data):
        if self.inside:
            self.script += data if self.inside[-1] == "json" else ""
            return
        self.text += data
        if self.rows and self.rows[-1] and isinstance(self.rows[-1][-1], str):
            self.rows[-1][-1] += data
        if self.titles and not self.titles[-1]:
            self.titles[-1] = data

    def column(self, table, name):
        number = self.tables[table][0].index(name)
        return [row[number] for row in self.tables[table][1:]]


def made_up_step(step, ranks, last=None, refused=None):
    """last: figures of the last rank. refused: the rank that is."""
    first = {"rank": 0, "share": 4, "micro_batch": 2, "accumulation_steps": 2, "levers": "none", "limit_bytes": 1 << 34,
             "headroom_bytes": 0, "allocated_peak_bytes": 9 << 30, "reserved_peak_bytes": 10 << 30,
             "predicted_peak_bytes": 9 << 30, "oom_retries": 0, "handed_back": 0, "others_bytes": 0, "kept_bytes": 0,
             "kept_gradients_bytes": 0, "fragmented_bytes": 0, "data_wait_ms": 0, "recompute_gain": 0}
    all_ranks = [dict(first, rank=rank, headroom_bytes=(7919 * step + 104729 * rank) % 1_000_003 * 5_003)
                 for rank in range(ranks)]
    if last is not None:
        all_ranks[-1] |= last
    if refused is not None:
        all_ranks[refused]["oom_retries"] = 1
    return {"step": step, "epoch": 0, "loss": 2 + (31 * step % 97) / 97, "samples": 4 * ranks, "tokens": 4 * ranks,
            "lr": 0.1, "grad_norm": 1.5, "step_ms": 100 + step % 7, "predicted_ms": None if step == 0 else 100.5,
            "samples_per_s": 1000 + step % 13, "tokens_per_s": 1000 + step % 13, "data_wait_ms": 0.25, "comm_ms": 3.5,
            "coordination_ms": 0.5, "ranks": all_ranks}


class ReportTest(ProgramTest):
    def report(self, folder, *options):
        """The text of the page."""
        finished = self.headroom("report", folder, *options)
        path = finished.out.rpartition(": ")[0]
        return self.read(path)

    def browse(self, path):
        """What the browser makes of a page, and what it complains about. It reaches no network."""
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000",
                   f"--user-data-dir={self.path('browser')}", "--host-resolver-rules=MAP * ~NOTFOUND",
                   "--enable-logging=stderr", "--dump-dom", f"file://{self.path(path)}"]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120,
                               check=True)
        return ended.stdout, re.findall(r":CONSOLE.*", ended.stderr)

    def page(self, folder):
        """A report that a browser has nothing to complain about."""
        self.report(folder)
        dom, complaints = self.browse(f"{folder}/report.html")
        self.assertEqual(complaints, [])
        return Page(dom)

    def make_up(self, folder, ranks, steps, refused_step=None, last=None, **figures):
        os.mkdir(self.path(folder))
        self.write(f"{folder}/env.txt", f"headroom 0.1.0\nranks {ranks}\n")
        with open(self.path(f"{folder}/metrics.jsonl"), "w", encoding="utf-8") as file:
            for step in range(steps):
                refused = ranks // 3 if step == refused_step else None
                file.write(json.dumps(made_up_step(step, ranks, last, refused) | figures) + "\n")

    def data(self, text):
        return json.loads(re.search(r'<script id="data" type="application/json">([^<]*)</script>', text)[1])


# Goes into a copy of a page, with the page's nonce: presses keys, and says what the page then reads out.
KEYS = """<script nonce="%s">
function read(plot, ...keys) {
  plot.focus();
  keys.forEach((key) => plot.dispatchEvent(new KeyboardEvent("keydown", { key })));
  return plot.parentElement.querySelector("[aria-live]").textContent;
}
setTimeout(() => {
  const plots = [...document.querySelectorAll("[tabindex='0'].plot")];
  const said = plots.map((plot) => read(plot, "Home", "ArrowRight", "ArrowDown"));
  document.body.append(Object.assign(document.createElement("pre"), { id: "said", textContent: JSON.stringify(said) }));
}, 500);
</script></body>"""


@unittest.skipIf(CHROMIUM is None, "there is no chromium here; launch/install tests installs it")
class BrowserTest(ReportTest):
    def assert_figures(self, page, run):
        self.assertEqual(page.column("table-loss", "training loss"), run.losses)
        self.assertEqual(page.column("table-throughput", "samples/s"), [step["samples_per_s"] for step in run.steps])
        self.assertEqual(page.column("table-time", "step"), [step["step_ms"] for step in run.steps])
        self.assertEqual(page.column("table-waits", "coordination"), [step["coordination_ms"] for step in run.steps])
        if run.evaluations:
            self.assertEqual(page.column("table-loss-points", "loss"), run.evaluation_losses)
        self.assert_ranks(page, run)

    def assert_ranks(self, page, run):
        ranks = max(len(step["ranks"]) for step in run.steps)
        of_rank = lambda rank, key: [step["ranks"][rank][key] for step in run.steps if rank < len(step["ranks"])]
        self.assertEqual(page.column("table-rank", "headroom"), of_rank(0, "headroom_bytes"))
        self.assertEqual(page.column("table-rank", "micro-batch"), of_rank(0, "micro_batch"))
        for name, key, over in (("lowest limit", "limit_bytes", min), ("lowest headroom", "headroom_bytes", min),
                                ("allocated peak", "allocated_peak_bytes", max),
                                ("reserved peak", "reserved_peak_bytes", max),
                                ("smallest micro-batch", "micro_batch", min),
                                ("largest micro-batch", "micro_batch", max), ("refused", "oom_retries", sum),
                                ("handed back", "handed_back", sum)):
            self.assertEqual(page.column("table-ranks", name), [over(of_rank(rank, key)) for rank in range(ranks)])
        for name, key in OCCASIONAL.items():
            most = [max(of_rank(rank, key)) for rank in range(ranks)]
            if any(most):
                self.assertEqual(page.column("table-rank", name), of_rank(0, key))
                self.assertEqual(page.column("table-ranks", f"most {name}"), most)
            else:
                self.assertNotIn(name, page.tables["table-rank"][0])
                self.assertNotIn(f"most {name}", page.tables["table-ranks"][0])
            self.assertEqual(name in page.text, any(most), name)

    def assert_memory(self, page, run):
        """What is priced is what the allocator saw in the newest step."""
        ranks = run.steps[-1]["ranks"]
        largest = max(ranks, key=lambda rank: rank["micro_batch"])
        memory = page.data["memory"]
        self.assertEqual((memory["micro_batch"], memory["levers"]), (largest["micro_batch"], largest["levers"]))
        together = sum(memory["resting"].values()) + memory["block_bytes"]
        self.assertEqual(together, largest["predicted_peak_bytes"])
        self.assertEqual(sum(page.column("table-resting", "bytes")), together)
        self.assertEqual([name for name in RESTING if name not in page.column("table-resting", "what")], [])
        live = [sum(tensor["bytes"] for tensor in memory["tensors"]
                    if tensor["category"] != "samples" and tensor["first"] <= i <= tensor["last"])
                for i in range(len(memory["operations"]))]
        self.assertEqual(max(live), memory["lower_bound_bytes"])
        self.assertEqual(sum(page.column("table-categories", "bytes")), sum(page.column("table-tensors", "bytes")))
        for tensor in memory["tensors"]:
            self.assertLessEqual(tensor["offset"] + tensor["bytes"], memory["block_bytes"])

    def test_figures_are_those_of_the_run(self):
        run = self.train("mlp.yaml", MLP_CAPACITIES, "train.eval_every=20", "fault.fail_allocation_every=3",
                         "fault.fail_allocation_first=1", ranks=4)
        page = self.page(run.path)
        self.assertGreater(sum(run.of_rank(0, "oom_retries")), 0)
        self.assert_figures(page, run)
        self.assert_memory(page, run)
        self.assertIn("✓ done", page.text)
        self.assertEqual(page.titles, ["Findings", "Training", "Ranks", "Memory within a step", "Record"])

    def test_what_few_runs_have(self):
        """Blocks that stay, memory in pieces and waits; another program's memory, and a run that has none of it."""
        run = self.train("gpt.yaml", "train.steps=6", "fault.keep=logits", "fault.rank=1", "device.capacity=4MiB",
                         "fault.read_ms=3", "fault.fragment_bytes=256KiB", ranks=2)
        for key in ("kept_bytes", "fragmented_bytes", "data_wait_ms"):
            self.assertGreater(max(run.of_rank(1, key)), 0, key)
        self.assert_ranks(self.page(run.path), run)
        last = {"others_bytes": 5 << 30, "kept_bytes": 3 << 30, "kept_gradients_bytes": 2 << 30, "recompute_gain": 0.07}
        for name, figures in ("without", None), ("with", last):
            self.make_up(name, 2, 5, last=figures)
            self.assert_ranks(self.page(name), Run(self.path(name), None))

    def test_language_model(self):
        for overrides in ([GPT_CAPACITIES], ["train.recompute=full"], ["train.recompute=offload", "train.precision=bf16"],
                          ["train.reproducible=true"]):
            run = self.train("gpt.yaml", "train.steps=6", *overrides, ranks=4)
            page = self.page(run.path)
            self.assert_memory(page, run)
            tokens = [step["tokens_per_s"] for step in run.steps]
            self.assertEqual(page.column("table-throughput", "tokens/s"), tokens)

    def test_resumed_with_other_ranks(self):
        self.train("mlp.yaml", "train.steps=10", "checkpoint.every=5", ranks=2)
        self.runs -= 1
        run = self.train("mlp.yaml", "train.steps=20", "checkpoint.resume=auto", ranks=3)
        page = self.page(run.path)
        self.assertEqual(len(run.steps), 20)
        self.assert_figures_of_resumed(page, run)

    def assert_figures_of_resumed(self, page, run):
        self.assertEqual(page.column("table-loss", "training loss"), run.losses)
        self.assertEqual(page.column("table-ranks", "rank"), ["0", "1", "2"])
        self.assertEqual(page.data["lanes"]["series"]["share"][2]["value"][:10], [None] * 10)
        self.assertIn("went on with 3 ranks", page.text)

    def test_out_of_memory_before_a_step(self):
        run = self.train("mlp.yaml", "device.capacity=560KiB", "fault.fail_allocation_every=1", code=3)
        page = self.page(run.path)
        self.assertEqual(run.steps, [])
        self.assertIn("No step has been done yet.", page.text)
        self.assertEqual(page.data["memory"]["micro_batch"], 1)

    def test_finding(self):
        self.make_up("made-up", 2, 3)
        text = self.report("made-up")
        finding = {"cause": "batch too large <b>", "figure": "headroom 1 %", "threshold": "5 %", "where": "rank 1, step 2",
                   "fix": "set train.micro_batch_size: auto"}
        escaped = json.dumps([finding]).replace("<", "\\u003c")
        self.write("made-up/with.html", text.replace('"findings":[]', f'"findings":{escaped}', 1))
        dom, complaints = self.browse("made-up/with.html")
        page = Page(dom)
        self.assertEqual(complaints, [])
        self.assertIn("Not priced: made-up/resolved.yaml: ", page.text)
        for part in finding.values():
            self.assertIn(part, page.text)

    def test_no_finding(self):
        self.make_up("made-up", 2, 3)
        page = self.page("made-up")
        self.assertEqual(page.titles[0], "Findings")
        self.assertIn("Not examined: made-up/resolved.yaml: ", page.text)

    def test_newest_process(self):
        """One that goes on elsewhere, later, and on fewer ranks."""
        self.make_up("made-up", 2, 3)
        processes = (("0.1.0", "2026-01-01T00:00:00Z", "one", 3), ("0.2.0", "2026-01-02T00:00:00Z", "other", 2))
        self.write("made-up/env.txt", "".join(f"headroom {version} (Open MPI)\nstarted {time}\nhost {host}\nranks {ranks}\n"
                                              for version, time, host, ranks in processes))
        self.assertIn("2 ranks, up to 3 before · host other · started 2026-01-01T00:00:00Z, went on 2026-01-02T00:00:00Z "
                      "· headroom 0.2.0", self.page("made-up").text)

    def test_time_of_steps(self):
        """Also of a run that was killed; in whole seconds."""
        self.make_up("made-up", 1, 1, step_ms=119_700)
        self.assertIn("in 2 min 0 s", self.page("made-up").text)

    def test_large_losses(self):
        """They take no more room than others, and are in the table as they were."""
        for loss, told in ((310384031000000000.0, "3.10e+17"), (1e30, "1.00e+30"), (12345678.0, "1.23e+7")):
            with self.subTest(loss):
                folder = f"loss {loss}"
                self.make_up(folder, 1, 3, loss=loss)
                page = self.page(folder)
                self.assertEqual(page.column("table-loss", "training loss"), [loss] * 3)
                self.assertEqual(page.text.count(f"Loss{told}of step 2"), 1)
                self.assertNotRegex(page.text, r"\d,\d{3},\d{3}|\d[MBT]\b")

    def keys(self, folder):
        """What the charts read out after Home, right and down."""
        text = self.report(folder)
        nonce = re.search(r"script-src 'nonce-([0-9a-f]+)'", text)[1]
        self.write(f"{folder}/keys.html", text.replace("</body>", KEYS % nonce))
        dom, complaints = self.browse(f"{folder}/keys.html")
        self.assertEqual(complaints, [])
        return json.loads(html.unescape(re.search(r'<pre id="said">(.*)</pre>', dom)[1]))

    def test_keys(self):
        run = self.train("mlp.yaml", MLP_CAPACITIES, "train.steps=5", ranks=4)
        loss, *others, memory = self.keys(run.path)
        self.assertEqual(loss, f"step 1: training loss {float(f'{run.losses[1]:.4g}'):g}")
        for rank, said in enumerate(others[3:]):
            share, micro_batch = run.steps[1]["ranks"][rank]["share"], run.steps[1]["ranks"][rank]["micro_batch"]
            self.assertRegex(said, rf"^Rank {rank}, step 1: .*; share {share}; micro-batch {micro_batch};")
        self.assertEqual(len(others), 3 + 4)
        self.assertRegex(memory, r"^operation 1 of \d+, .*: .* in \d+ tensors.* inputs: |operations \d+ to \d+\.$")

    def test_keys_among_many_ranks(self):
        self.make_up("made-up", 40, 5)
        heat = self.keys("made-up")[4]
        headroom = made_up_step(1, 40)["ranks"][1]["headroom_bytes"]
        self.assertRegex(heat, r"^Rank 1, step 1: headroom " + re.escape(f"{headroom / (1 << 20):.2f} MiB"))

    def test_names_are_text(self):
        name = "<script>alert(1)</script><img src=x>"
        folder = name.replace("/", "\\")
        self.make_up(folder, 1, 2)
        self.write(f"{folder}/env.txt", f"headroom 0.1.0\nranks 1\nhost {name}\n")
        self.headroom("report", folder, "--output", self.path("page.html"))
        dom, complaints = self.browse("page.html")
        page = Page(dom)
        self.assertEqual(complaints, [])
        self.assertIn(folder, page.text)
        self.assertIn(f"host {name}", page.text)

    def test_a_request_is_seen(self):
        """That nothing complains means something: the page's policy refuses what was not there."""
        self.make_up("made-up", 1, 2)
        text = self.report("made-up")
        self.write("made-up/with.html", text.replace("<main", '<img src="http://127.0.0.1:9/x"><main', 1))
        self.assertIn("Content Security Policy", " ".join(self.browse("made-up/with.html")[1]))

    def test_thousand_ranks(self):
        self.make_up("made-up", 1000, 200, refused_step=150)
        page = self.page("made-up")
        self.assertLess(os.path.getsize(self.path("made-up/report.html")), LARGEST_PAGE)
        run = Run(self.path("made-up"), None)
        self.assertEqual(page.column("table-ranks", "lowest headroom"),
                         [min(run.of_rank(rank, "headroom_bytes")) for rank in range(1000)])
        self.assertEqual(page.column("table-ranks", "refused"), [float(rank == 333) for rank in range(1000)])


class FileTest(ReportTest):
    def test_hundred_thousand_steps(self):
        self.make_up("made-up", 8, 100_000, refused_step=54_321)
        text = self.report("made-up")
        data = self.data(text)
        self.assertLess(len(text), LARGEST_PAGE)
        steps, lanes = data["steps"], data["lanes"]
        refused = lanes["series"]["oom_retries"][2]["sum"]
        self.assertEqual([(i, count) for i, count in enumerate(refused) if count], [(54_321 // lanes["stride"], 1)])
        losses = [made_up_step(step, 0)["loss"] for step in range(100_000)]
        for name, over in (("min", min), ("max", max)):
            expected = [over(losses[i:i + steps["stride"]]) for i in range(0, 100_000, steps["stride"])]
            shown = steps["series"]["loss"][name]
            shown = shown if isinstance(shown, list) else [shown] * steps["count"]
            self.assertEqual(len(shown), len(expected))
            for one, other in zip(shown, expected):
                self.assertAlmostEqual(one, other, places=7)

    def test_under_way(self):
        """A line that is not whole yet is left for later."""
        self.make_up("made-up", 2, 5)
        with open(self.path("made-up/metrics.jsonl"), "a", encoding="utf-8") as file:
            file.write('{"step": 5, "lo')
        data = self.data(self.report("made-up"))
        self.assertEqual((data["run"]["steps"], data["run"]["ended"]), (5, False))

    def test_written_anew(self):
        """A run that went on from step 2 while the report was read: its file begins again with step 0."""
        self.make_up("made-up", 2, 5, refused_step=4)
        with open(self.path("made-up/metrics.jsonl"), "a", encoding="utf-8") as file:
            file.writelines(json.dumps(made_up_step(step, 2)) + "\n" for step in range(3))
        data = self.data(self.report("made-up"))
        self.assertEqual((data["run"]["steps"], data["steps"]["count"]), (3, 3))
        self.assertEqual([one["sum"] for one in data["lanes"]["series"]["oom_retries"]], [0, 0])

    def test_asks_for_nothing(self):
        self.make_up("made-up", 2, 5)
        text = self.report("made-up")
        self.assertIn("default-src 'none'", text)
        shell = text.replace(re.search(r'application/json">([^<]*)<', text)[1], "")
        self.assertEqual(re.findall(r"\bsrc=|\bhref=\"(?!#)|url\(|@import|fetch\(|XMLHttpRequest", shell), [])

    def test_what_the_doctor_finds(self):
        run = self.train("gpt.yaml", "fault.keep=logits", "device.capacity=4MiB", "train.steps=12")
        self.assertEqual(self.data(self.report(run.path))["findings"], [
            {"cause": "tensors kept too long", "figure": self.figure(run) + " other blocks that stay after their step",
             "threshold": "none", "where": "rank 0, 12 steps from 0 to 11, blocks of 'logits'",
             "fix": "set fault.keep: nothing"}])
        for steps, note in ((12, "None of the six causes was found."),
                            (5, "2 steps count for figures in %, without the first 3 of a process: too few, it takes 8")):
            data = self.data(self.report(self.train("gpt.yaml", f"train.steps={steps}").path))
            self.assertEqual((data["findings"], data["findings_note"]), ([], note))

    def test_memory_that_others_hold(self):
        """It ran out for none of the six causes."""
        run = self.train("gpt.yaml", "device.capacity=1MiB", ALL_STAYS,
                         "device.neighbours=[{rank: 0, bytes: 900KiB, from_step: 20, to_step: 40}]", code=3)
        data = self.data(self.report(run.path))
        (finding,) = data["findings"]
        self.assertIn(finding.pop("fix"), run.finished.err)
        self.assertEqual(finding, {"cause": "none of the six causes", "figure": "memory ran out, cause: external",
                                   "threshold": "none", "where": "rank 0"})
        self.assertEqual(data["findings_note"], "")

    def test_what_cannot_be_examined(self):
        """Tags of what stays are not needed, the configuration is."""
        run = self.train("gpt.yaml", "fault.keep=logits", "device.capacity=4MiB", "train.steps=12")
        os.truncate(f"{run.path}/memory/rank_0.kept.json", 50)
        (finding,) = self.data(self.report(run.path))["findings"]
        self.assertEqual(finding["where"], "rank 0, 12 steps from 0 to 11")
        os.remove(f"{run.path}/resolved.yaml")
        data = self.data(self.report(run.path))
        self.assertEqual(data["findings"], [])
        self.assertRegex(data["findings_note"], "^Not examined: .*/resolved.yaml: ")

    def figure(self, run):
        return f"{max(run.of_rank(0, 'kept_bytes')) / (1 << 20):.2f} MiB"

    def test_output(self):
        self.make_up("made-up", 2, 5)
        self.headroom("report", "made-up/", "--output", "elsewhere.html")
        self.assertEqual(self.data(self.read("elsewhere.html"))["run"]["name"], "made-up")
        self.assertFalse(os.path.exists(self.path("made-up/report.html")))

    def test_name(self):
        self.make_up("made-up", 2, 5)
        self.assertEqual(self.data(self.report("made-up/."))["run"]["name"], "made-up")

    def test_many_processes(self):
        self.make_up("made-up", 2, 5)
        self.write("made-up/env.txt", "headroom 0.1.0\nranks 3\n" * 10_000 + "headroom 0.2.0\nranks 2\n")
        self.assertTrue(self.data(self.report("made-up"))["run"]["environment"].endswith("headroom 0.2.0\nranks 2\n"))

    def test_output_that_is_no_file(self):
        self.make_up("made-up", 2, 5)
        os.mkfifo(self.path("pipe.html"))
        os.symlink("pipe.html", self.path("link.html"))
        for name in ("pipe.html", "link.html"):
            self.assertEqual(self.headroom("report", "made-up", "--output", name, code=2).err,
                             f"headroom: --output {name}: is not a regular file; allowed: one, or a new name\n")
            self.assertTrue(stat.S_ISFIFO(os.stat(self.path(name)).st_mode))

    def test_output_that_is_no_page(self):
        self.make_up("made-up", 2, 5)
        metrics = self.read("made-up/metrics.jsonl")
        for name in ("made-up/metrics.jsonl", "elsewhere", "a.html/b"):
            self.assertEqual(self.headroom("report", "made-up", "--output", name, code=2).err,
                             f"headroom: --output {name}: does not end in .html\n")
        self.assertEqual(self.read("made-up/metrics.jsonl"), metrics)

    def test_output_by_a_link(self):
        self.make_up("made-up", 2, 5)
        self.write("page.html", "")
        os.symlink("page.html", self.path("newest.html"))
        self.headroom("report", "made-up", "--output", "newest.html")
        self.assertTrue(os.path.islink(self.path("newest.html")))
        self.assertEqual(self.data(self.read("page.html"))["run"]["name"], "made-up")

    def test_bad_input(self):
        self.make_up("made-up", 2, 5)
        self.assertIn("report needs RUN_DIR", self.headroom("report", code=2).err)
        self.assertIn("nowhere", self.headroom("report", "nowhere", code=2).err)
        self.assertIn("does not take '--outptu'", self.headroom("report", "made-up", "--outptu", "x", code=2).err)
        self.assertIn("--output needs a value", self.headroom("report", "made-up", "--output", code=2).err)
        self.assertIn("cannot write", self.headroom("report", "made-up", "--output", "no/such/x.html", code=1).err)
        self.write("made-up/metrics.jsonl", "{}\n")
        self.assertIn("made-up/metrics.jsonl:1: ", self.headroom("report", "made-up", code=2).err)


if __name__ == "__main__":
    main()
