#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""gpt2_torch.py [STEPS]: the work of bench_gpt2 in PyTorch. Prints one JSON object. bench/gpt2.py runs both."""
import json
import os
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional

BATCH, SEQ_LEN, VOCAB, BLOCKS, HEADS, CHANNELS = 4, 256, 50257, 12, 12, 768
PADDED_VOCAB = 50304  # a multiple of 128, as both sides use


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.qkv, self.projection = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.up, self.down = nn.Linear(CHANNELS, 4 * CHANNELS), nn.Linear(4 * CHANNELS, CHANNELS)

    def forward(self, x, mask):
        split = lambda t: t.view(BATCH, SEQ_LEN, HEADS, CHANNELS // HEADS).transpose(1, 2)
        q, k, v = map(split, self.qkv(self.norm_1(x)).split(CHANNELS, dim=2))
        scores = (q @ k.transpose(2, 3)) * (CHANNELS // HEADS) ** -0.5
        attended = functional.softmax(scores.masked_fill(mask, float("-inf")), dim=-1) @ v
        x = x + self.projection(attended.transpose(1, 2).reshape(BATCH, SEQ_LEN, CHANNELS))
        return x + self.down(functional.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(PADDED_VOCAB, CHANNELS), nn.Embedding(SEQ_LEN, CHANNELS)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(CHANNELS)
        self.register_buffer("mask", torch.ones(SEQ_LEN, SEQ_LEN, dtype=torch.bool).triu(1))
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions(torch.arange(SEQ_LEN))
        for block in self.blocks:
            x = block(x, self.mask)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.view(-1, PADDED_VOCAB), targets.view(-1))


def main():
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(1)
    model = GPT2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    times = []
    for step in range(steps + 1):
        tokens, targets = torch.randint(VOCAB, (2, BATCH, SEQ_LEN))
        start = time.monotonic()
        optimizer.zero_grad(set_to_none=True)
        model(tokens, targets).backward()
        optimizer.step()
        times.append(time.monotonic() - start)
    seconds = statistics.median(times[1:])  # the first touches all memory
    print(json.dumps({"version": torch.__version__, "threads": torch.get_num_threads(), "steps": steps,
                      "step_seconds": round(seconds, 4), "tokens_per_s": round(BATCH * SEQ_LEN / seconds, 1)}))


main()
