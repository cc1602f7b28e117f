#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes huggingface/: a small GPT-2 as Hugging Face's transformers save it, and the logits that they find in float64,
for tests/unit/test_exchange.c.

    python3 tests/parity/make_huggingface.py   # needs torch and transformers; takes seconds

Weights are so large that every part of the model shows in the logits. logits.txt has a line for each token of
TOKENS(sample, place), in order: the logits of all tokens of the vocabulary.
"""
import pathlib

import torch
from transformers import GPT2Config, GPT2LMHeadModel

VOCAB, LENGTH, SAMPLES = 61, 12, 2
CONFIG = GPT2Config(vocab_size=VOCAB, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2, bos_token_id=60,
                    eos_token_id=60)


def token(sample, place):
    return (7 * place * place + 3 * place + 31 * sample + 1) % VOCAB


def main():
    torch.manual_seed(1)
    folder = pathlib.Path(__file__).with_name("huggingface")
    model = GPT2LMHeadModel(CONFIG).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = ".ln_" in name and name.endswith("weight")
            parameter.normal_(1 if is_scale else 0, 0.3)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    tokens = torch.tensor([[token(sample, place) for place in range(LENGTH)] for sample in range(SAMPLES)])
    with torch.no_grad():
        logits = model.double()(tokens).logits.view(-1, VOCAB)
    lines = (" ".join(f"{value:.7f}" for value in row) + "\n" for row in logits.tolist())
    (folder / "logits.txt").write_text("".join(lines))


main()
