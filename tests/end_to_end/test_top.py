# SPDX-License-Identifier: Apache-2.0
"""headroom top: one screen without a terminal; on one it follows a run until a key ends it. A run on another machine is
seen through its port as it is in its folder."""

import http.server
import json
import os
import signal
import threading

import headroom_run

FOR_EVER = "train.steps=1000000"


class Top(headroom_run.ProgramTest):
    def test_one_screen(self):
        run = self.train("mlp.yaml", headroom_run.MLP_CAPACITIES, "train.steps=12", ranks=4)
        for arguments in (("run-1",), ("run-1", "--once"), ("--once", "run-1")):
            out = self.headroom("top", *arguments).out
            last = run.steps[-1]
            self.assertRegex(out, rf"^headroom top  step 12/12  loss {last['loss']:.4f}  .*  run-1\n")
            for rank in last["ranks"]:
                self.assertRegex(out, rf"(?m)^{rank['rank']} +\[[#o.]{{24}}\] .* {rank['share']} +{rank['micro_batch']} x "
                                      rf"{rank['accumulation_steps']} +{rank['levers']} +{rank['oom_retries']} "
                                      r"+[\d.]+ [KM]iB +[\d.]+ [KM]iB$")
            self.assertIn("\nended after 12 steps with exit code 0\n", out)

    def test_all_ranks_without_a_terminal(self):
        run = self.train("mlp.yaml", "train.steps=2")
        step = run.steps[-1]
        step["ranks"] = [dict(step["ranks"][0], rank=rank) for rank in range(200)]
        self.write("run-1/metrics.jsonl", json.dumps(step) + "\n")
        out = self.headroom("top", "run-1").out
        self.assertEqual([int(line.split()[0]) for line in out.splitlines() if "[" in line], list(range(200)))
        self.assertNotIn("ranks 0 to", out)

    def test_steps_by_epochs(self):
        self.train("mlp.yaml", "train.steps=0", "train.epochs=1")
        self.assertRegex(self.headroom("top", "run-1").out, r"^headroom top  step 6  loss [\d.]+  .*  run-1\n")

    def test_a_run_under_way(self):
        launch = self.start("train", "mlp.yaml", "run.folder=run", FOR_EVER, ranks=2)
        self.wait_for_steps(launch, "run", 1)
        screen = headroom_run.Screen(self.folder, "top", "run")
        self.addCleanup(screen.kill)
        screen.wait_for(r"step \d+/1000000")
        self.headroom("limit", "run", "--rank", "1", "--bytes", "700KiB")
        screen.wait_for(r"rank 1 may hold")
        screen.type("q")
        self.assertEqual(screen.end(), 0)

    def test_bad_input(self):
        for arguments, complaint in (((), "top needs RUN_DIR|HOST[:PORT]; see headroom top --help"),
                                     (("./run-9",), "./run-9: No such file or directory; allowed: the folder of a run"),
                                     (("a", "b"), "top does not take 'b'; see headroom top --help")):
            self.assertEqual(self.headroom("top", *arguments, code=2).err, f"headroom: {complaint}\n")


class Stranger(http.server.BaseHTTPRequestHandler):
    """Something else that answers."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}\n")

    def log_message(self, format, *arguments):
        pass


class Remote(headroom_run.ProgramTest):
    def setUp(self):
        super().setUp()
        self.port = headroom_run.free_port()
        self.address = f"127.0.0.1:{self.port}"

    def start_run(self, *overrides):
        launch = self.start("train", "mlp.yaml", "run.folder=run", f"metrics.http_port={self.port}", *overrides)
        self.wait_for_steps(launch, "run", 3)
        return launch

    def screen(self):
        screen = headroom_run.Screen(self.folder, "top", self.address)
        self.addCleanup(screen.kill)
        return screen

    def test_the_same_as_by_the_folder(self):
        """Of a run that stands still meanwhile, in all forms of its address. One line is longer than what is asked for
        at a time."""
        job = ("checkpoint.resume=auto", "fault.fail_allocation_every=7", "train.eval_every=4")
        self.headroom("train", "mlp.yaml", "run.folder=run", "train.steps=3", *job, ranks=2)
        first, *others = self.metrics_lines("run")
        step = json.loads(first)
        self.write("run/metrics.jsonl", json.dumps(step | {"ranks": 6000 * step["ranks"]}) + "\n" + "".join(others))
        self.assertGreater(os.path.getsize(self.path("run/metrics.jsonl")), 4 << 20)
        launch = self.start_run(FOR_EVER, "comm.kind=self", "fault.stall_step=20", *job)
        self.wait_for_steps(launch, "run", 18)
        for address in (self.address, f"http://{self.address}", f"http://{self.address}/"):
            before, seen = None, None
            while before != (after := self.once("run")):  # the last step may still be under way
                before, seen = after, self.once(address)
            self.assertEqual(seen, before)
        self.assertRegex(seen, r"^headroom top  step \d+/1000000  .*  run\n")
        self.assertRegex(seen, r"(?m)^step \d+: rank \d: allocations refused")

    def once(self, run):
        return self.headroom("top", run, "--once").out

    def test_it_is_followed_to_its_end(self):
        launch = self.start_run(FOR_EVER)
        screen = self.screen()
        screen.wait_for(r"step \d+/1000000")
        launch.process.send_signal(signal.SIGUSR1)
        screen.wait_for("with exit code 75")
        self.assertEqual(launch.wait().code, 75)
        screen.type("q")
        self.assertEqual(screen.end(), 0)
        self.assertNotIn("Connection refused", screen.text)

    def test_it_is_there_again(self):
        """Killed it does not answer, and once it goes on it is shown again, from the first step on."""
        job = (FOR_EVER, "checkpoint.resume=auto")
        launch = self.start_run(*job, "checkpoint.every=20")
        self.wait_for(launch, lambda: os.path.exists(self.path("run/checkpoints/latest")), "no checkpoint")
        screen = self.screen()
        screen.wait_for(r"step \d+/1000000")
        launch.kill()
        screen.wait_for(f"{self.address}: Connection refused")
        self.start_run(*job)
        screen.wait_for(r"goes on after \d+ steps on 1 ranks")
        screen.type("q")
        self.assertEqual(screen.end(), 0)

    def test_bad_addresses(self):
        stranger = http.server.HTTPServer(("127.0.0.1", 0), Stranger)
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        self.addCleanup(stranger.server_close)
        self.addCleanup(stranger.shutdown)
        strange = f"127.0.0.1:{stranger.server_address[1]}"
        for address, code, complaint in (
                ("no..host", 2, "no such folder or host; allowed: RUN_DIR, HOST[:PORT] or a URL"),
                ("127.0.0.1:99999", 2, "Port number was not a decimal number between 0 and 65535"),
                ("file:///etc/hosts", 2, "no URL that is known; allowed: http, https"),
                (strange, 2, "what answers there is no run; its configuration says metrics.http_port"),
                (self.address, 1, "Connection refused")):
            self.assertEqual(self.headroom("top", address, code=code).err, f"headroom: {address}: {complaint}\n")
        for address in (f"me:secret@{self.address}", f"http://me:secret@{self.address}/", "me:secret@h:99999999"):
            self.assertEqual(self.headroom("top", address, code=2).err, "headroom: an address names no user; allowed: "
                                                                        "RUN_DIR, HOST[:PORT] or a URL\n")


if __name__ == "__main__":
    headroom_run.main()
