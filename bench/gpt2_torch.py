#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""gpt2_torch.py [STEPS]: the work of bench_gpt2 in PyTorch, float32 on the CPU.
gpt2_torch.py --cuda STEPS BATCH: sequences of 1024 tokens on a GPU, as PyTorch does it best: bf16 autocast,
torch.compile, flash attention, fused AdamW; beside it the GPU's copy and bf16 matrix rates.

Prints one JSON object. bench/gpt2.py and bench/gpt2_cuda.py run it beside Headroom.
"""
import argparse
import json
import os
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

VOCAB, BLOCKS, HEADS, CHANNELS = 50257, 12, 12, 768
PADDED_VOCAB = 50304  # a multiple of 128, as both sides use


def plain_attention(q, k, v):
    """What PyTorch had before 2.0."""
    mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(2, 3)) * q.shape[3] ** -0.5
    return functional.softmax(scores.masked_fill(mask, float("-inf")), dim=-1) @ v


def attention(q, k, v):
    if hasattr(functional, "scaled_dot_product_attention"):
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return plain_attention(q, k, v)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.qkv, self.projection = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.up, self.down = nn.Linear(CHANNELS, 4 * CHANNELS), nn.Linear(4 * CHANNELS, CHANNELS)

    def forward(self, x):
        batch, length, _ = x.shape
        split = lambda t: t.view(batch, length, HEADS, CHANNELS // HEADS).transpose(1, 2)
        q, k, v = map(split, self.qkv(self.norm_1(x)).split(CHANNELS, dim=2))
        x = x + self.projection(attention(q, k, v).transpose(1, 2).reshape(batch, length, CHANNELS))
        return x + self.down(functional.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(self, length):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(PADDED_VOCAB, CHANNELS), nn.Embedding(length, CHANNELS)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(CHANNELS)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.view(-1, PADDED_VOCAB), targets.view(-1))


def optimizer_of(model, **options):
    return torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, **options)


def time_steps(steps, warm_up, batch, length, device, step, synchronize):
    times = []
    for _ in range(warm_up + steps):
        tokens, targets = torch.randint(VOCAB, (2, batch, length), device=device)
        synchronize()
        start = time.monotonic()
        step(tokens, targets)
        synchronize()
        times.append(time.monotonic() - start)
    return statistics.median(times[warm_up:])


def on_cpu(steps):
    batch, length = 4, 256
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = GPT2(length)
    optimizer = optimizer_of(model)

    def step(tokens, targets):
        optimizer.zero_grad(set_to_none=True)
        model(tokens, targets).backward()
        optimizer.step()

    seconds = time_steps(steps, 1, batch, length, "cpu", step, lambda: None)  # the first touches all memory
    return {"threads": torch.get_num_threads(), "step_seconds": round(seconds, 4),
            "tokens_per_s": round(batch * length / seconds, 1)}


def cuda_seconds(work, runs=21):
    """The median of one run, by the GPU's clock."""
    times = []
    for _ in range(runs + 3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times[3:])


def attention_seconds(batch, length):
    """Of the forward pass, and of the backward pass, by whichever of its kernels PyTorch chooses."""
    q, k, v = (torch.randn(batch, HEADS, length, CHANNELS // HEADS, dtype=torch.bfloat16, device="cuda",
                           requires_grad=True) for _ in range(3))
    y = attention(q, k, v)
    dy = torch.randn_like(y)
    return cuda_seconds(lambda: attention(q, k, v)), cuda_seconds(lambda: torch.autograd.grad(
        y, (q, k, v), dy, retain_graph=True))


def on_cuda(steps, batch):
    length = 1024
    model = GPT2(length).cuda()
    optimizer = optimizer_of(model, fused=True)
    compiled = torch.compile(model)

    def step(tokens, targets):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = compiled(tokens, targets)
        loss.backward()
        optimizer.step()

    seconds = time_steps(steps, 5, batch, length, "cuda", step, torch.cuda.synchronize)
    del model, optimizer, compiled
    torch.cuda.empty_cache()
    a, b = torch.randn(2, 8192, 8192, dtype=torch.bfloat16, device="cuda")
    matrix = cuda_seconds(lambda: a @ b)
    one, other = torch.empty(2, 1 << 28, dtype=torch.float32, device="cuda")
    copy, copy_bytes = cuda_seconds(lambda: one.copy_(other)), 2 * one.nbytes
    del a, b, one, other
    forward, backward = attention_seconds(batch, length)
    return {"device": torch.cuda.get_device_name(), "batch": batch, "step_seconds": round(seconds, 5),
            "tokens_per_s": round(batch * length / seconds, 1), "matrix_tflops": round(2 * 8192**3 / matrix / 1e12, 1),
            "copy_gbps": round(copy_bytes / copy / 1e9, 1), "attention_ms": round(forward * 1e3, 3),
            "attention_backward_ms": round(backward * 1e3, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("steps", type=int, nargs="?", default=10)
    parser.add_argument("batch", type=int, nargs="?", default=64)
    arguments = parser.parse_args()
    torch.manual_seed(1)
    result = on_cuda(arguments.steps, arguments.batch) if arguments.cuda else on_cpu(arguments.steps)
    print(json.dumps({"version": torch.__version__, "steps": arguments.steps, **result}))


main()
