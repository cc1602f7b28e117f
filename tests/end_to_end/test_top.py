# SPDX-License-Identifier: Apache-2.0
"""headroom top: one screen without a terminal; on one it follows a run until a key ends it."""

import json

import headroom_run


class Top(headroom_run.ProgramTest):
    def test_one_screen(self):
        run = self.train("mlp.yaml", headroom_run.MLP_CAPACITIES, "train.steps=12", ranks=4)
        for arguments in (("run-1",), ("run-1", "--once"), ("--once", "run-1")):
            out = self.headroom("top", *arguments).out
            last = run.steps[-1]
            self.assertRegex(out, rf"^headroom top  run-1  step 12/12  loss {last['loss']:.4f}  ")
            for rank in last["ranks"]:
                self.assertRegex(out, rf"(?m)^{rank['rank']} +\[[#o.]{{24}}\] .* {rank['share']} +{rank['micro_batch']} x "
                                      rf"{rank['accumulation_steps']} +{rank['levers']} +{rank['oom_retries']}$")
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
        self.assertRegex(self.headroom("top", "run-1").out, r"^headroom top  run-1  step 6  loss [\d.]+  ")

    def test_a_run_under_way(self):
        launch = self.start("train", "mlp.yaml", "run.folder=run", "train.steps=1000000", ranks=2)
        self.wait_for_steps(launch, "run", 1)
        screen = headroom_run.Screen(self.folder, "top", "run")
        self.addCleanup(screen.process.kill)
        screen.wait_for(r"step \d+/1000000")
        self.headroom("limit", "run", "--rank", "1", "--bytes", "700KiB")
        screen.wait_for(r"rank 1 may hold")
        screen.type("q")
        self.assertEqual(screen.end(), 0)

    def test_bad_input(self):
        for arguments, complaint in (((), "top needs RUN_DIR; see headroom top --help"),
                                     (("run-9",), "run-9: No such file or directory; allowed: the folder of a run"),
                                     (("a", "b"), "top does not take 'b'; see headroom top --help")):
            self.assertEqual(self.headroom("top", *arguments, code=2).err, f"headroom: {complaint}\n")


if __name__ == "__main__":
    headroom_run.main()
