# SPDX-License-Identifier: Apache-2.0
"""Somebody outside tells ranks to hold less while they train, and releases them."""

import json
import os

import headroom_run

KIB = 1024
CAPACITY = 1024 * KIB
RESTING = 502 * KIB  # weights, gradients and momentum
SAMPLE = 3200  # bytes, at most
PATIENCE = 3  # reports of more memory before it is believed
MLP = ("train", "mlp.yaml", "data.validation_samples=0", "optimizer.learning_rate=0.01")


class Limits(headroom_run.ProgramTest):
    def start_run(self, *overrides, ranks=4):
        launch = self.start(*MLP, "run.folder=run", "train.steps=1000000", *overrides, ranks=ranks)
        self.wait_for_steps(launch, "run", 3)
        return launch

    def limit(self, *arguments, code=0):
        return self.headroom("limit", *arguments, code=code)

    def wait_for_ranks(self, launch, met, steps=3):
        """Until the ranks of so many steps in a row, and of the last, met it."""
        self.wait_for(launch, "run", lambda all: all and all_met(all[-steps:], met), f"{steps} such steps")

    def end(self, launch):
        launch.kill()
        return headroom_run.Run(self.path("run"), None)

    def assert_undisturbed(self, run, what):
        reference = headroom_run.Run


def all_met(steps, met):
    return all(met(step["ranks"]) for step in steps)
