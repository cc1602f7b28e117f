#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/metrics_overhead.py HEADROOM [OVERRIDE...]: the part of the quick start's step time that it takes to tell other
programs: TensorBoard, CSV, a Prometheus file and /metrics, which is asked once a second, all together.
Measured around each call, on rank 0. Fails above 0.5 %."""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import urllib.request

LIMIT = 0.005
PORT = 9464
ROOT = pathlib.Path(__file__).resolve().parent.parent


def train(headroom, overrides, folder):
    os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_WAIT_POLICY="passive")
    subprocess.run(["mpirun", "-np", "4", "--oversubscribe", "--bind-to", "none", headroom, "train",
                    ROOT / "configs/quickstart.yaml", f"run.folder={folder}/run", "metrics.tensorboard=true",
                    "metrics.csv=true", f"metrics.prometheus_file={folder}/metrics.prom", f"metrics.http_port={PORT}",
                    *overrides], stdout=subprocess.DEVNULL, check=True)


def ask_until(ended):
    """Answers how often there was an answer."""
    answers = 0
    while not ended.wait(1):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=10) as page:
                answers += len(page.read()) > 0
        except OSError:
            pass  # before the run and after it
    return answers


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    ended, asked = threading.Event(), []
    asker = threading.Thread(target=lambda: asked.append(ask_until(ended)))
    with tempfile.TemporaryDirectory() as folder:
        asker.start()
        try:
            train(sys.argv[1], sys.argv[2:], folder)
        finally:
            ended.set()
            asker.join()
        log = pathlib.Path(folder, "run/logs/rank_0.log").read_text()
        with open(f"{folder}/run/metrics.jsonl", encoding="utf-8") as file:
            steps = [line for line in map(json.loads, file) if "event" not in line]
    took = re.findall(r"(?m)^(metrics\.\w+) took (\S+) ms in all, at most (\S+) ms at a time$", log)
    total = sum(step["step_ms"] for step in steps)
    for key, ms, longest in took:
        print(f"{key:<24}{float(ms) / len(steps) * 1000:8.1f} us a step, {float(ms) / total:.3%}, at most {longest} ms")
    part = sum(float(ms) for _, ms, _ in took) / total
    print(f"{len(steps)} steps of {total / len(steps):.1f} ms, asked {asked[0]} times: together {part:.3%} "
          f"(at most {LIMIT:.1%})")
    sys.exit(part > LIMIT or len(took) != 4)


main()
