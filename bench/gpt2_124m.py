# SPDX-License-Identifier: Apache-2.0
"""A job for benchmarks on one GPU: GPT-2 124M in bf16, sequences of 1024 tokens, made-up data."""
import json
import pathlib

CONFIG = pathlib.Path(__file__).parent.parent / "configs/gpt2-124m.yaml"


def command(program, batch, folder, steps, *overrides):
    return [program, "train", str(CONFIG), f"train.steps={steps}", f"train.global_batch_size={batch}",
            "train.precision=bf16", "data.kind=synthetic", "data.samples=100000", "data.validation_fraction=0",
            "device.kind=cuda", "checkpoint.at_end=false", f"run.folder={folder}", *overrides]


def steps_of(folder):
    """The steps' lines of metrics."""
    with open(folder / "metrics.jsonl", encoding="utf-8") as file:
        return [line for line in map(json.loads, file) if "event" not in line]
