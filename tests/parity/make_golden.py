#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes mlp.txt and gpt.txt: losses and gradients of two models trained by PyTorch, for tests/unit/test_parity.c.

    python3 tests/parity/make_golden.py        # needs numpy and torch >= 1.13; takes seconds

Everything runs in float64 from the same float32 weights and samples that the test starts from, so the files hold what
exact arithmetic would give, and no machine or thread count shows in their digits. The first weights are computed here as
src/model/model.c does it, the samples as test_parity.c does it.

A line of a file is one of
    loss STEP MEAN                    of the step's batch, before the step; what follows belongs to this step
    norm PARAMETER VALUE              of the gradient of the sum of losses
    gradient PARAMETER ELEMENT VALUE  some elements of it

With --float32 nothing is written: the distance of PyTorch's own float32 from the files is printed.
"""
import argparse
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

SEED = 7
ELEMENTS = 16  # of each gradient

GOLDEN_RATIO = 0x9E3779B97F4A7C15
U64 = np.uint64


@np.errstate(over="ignore")  # arithmetic is modulo 2^64
def mix(x):
    x = (x ^ (x >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U64(27))) * U64(0x94D049BB133111EB)
    return x ^ (x >> U64(31))


@np.errstate(over="ignore")
def draw(key, place):
    """Number `place`, counted from 0, of SplitMix64's sequence that starts at `key`; or an array of them."""
    return mix(U64(key) + (np.asarray(place, dtype=U64) + U64(1)) * U64(GOLDEN_RATIO))


# First weights, as model_initial_values.


def uniform(key, count):
    return (draw(key, np.arange(count)) >> U64(11)).astype(np.float64) * 2.0**-53


def normal(key, count):
    pairs = uniform(key, 2 * count)
    return np.sqrt(-2 * np.log(1 - pairs[0::2])) * np.cos(2 * math.pi * pairs[1::2])


def initial_values(number, init, scale, shape):
    key = mix(mix(U64(SEED + 1)) + U64(number))
    count = math.prod(shape)
    if init == "uniform":
        values = scale * (2 * uniform(key, count) - 1)
    elif init == "normal":
        values = scale * normal(key, count)
    else:
        values = np.full(count, {"zero": 0.0, "one": 1.0}[init])
    return torch.tensor(values.astype(np.float32).reshape(shape))


def parameters_of(described):
    """{name: leaf tensor} from (name, shape, init, scale), in the order of the model's parameters."""
    values = {}
    for number, (name, shape, init, scale) in enumerate(described):
        values[name] = initial_values(number, init, scale, shape).to(torch.get_default_dtype()).requires_grad_()
    return values


# Samples.


def sample_draws(sample, count):
    return draw(draw(SEED, sample), np.arange(count))


# The MLP: a class adds 0.5 to every tenth input.

MLP_SIZES = [1024, 2048, 10]
MLP_BATCH = 32
MLP_STEPS = 10


def mlp_parameters():
    described = []
    for layer, (inputs, outputs) in enumerate(zip(MLP_SIZES, MLP_SIZES[1:])):
        bound = 1 / math.sqrt(inputs)
        described.append((f"layers.{layer}.weight", (outputs, inputs), "uniform", bound))
        described.append((f"layers.{layer}.bias", (outputs,), "uniform", bound))
    return parameters_of(described)


def mlp_batch(step):
    inputs, targets = [], []
    for sample in range(step * MLP_BATCH, (step + 1) * MLP_BATCH):
        numbers = sample_draws(sample, 1 + MLP_SIZES[0])
        target = int(numbers[0] % U64(10))
        values = (numbers[1:] >> U64(40)).astype(np.float64) * 2.0**-24 - 0.5
        values[target::10] += 0.5
        inputs.append(values)
        targets.append(target)
    return torch.tensor(np.array(inputs)).to(torch.get_default_dtype()), torch.tensor(targets)


def mlp_losses(parameters, batch):
    inputs, targets = batch
    x = torch.relu(F.linear(inputs, parameters["layers.0.weight"], parameters["layers.0.bias"]))
    logits = F.linear(x, parameters["layers.1.weight"], parameters["layers.1.bias"])
    return F.cross_entropy(logits, targets, reduction="sum"), len(targets)


def mlp_optimizer(parameters):
    return torch.optim.SGD(parameters.values(), lr=0.01)


# GPT-2: learned positions, pre-norm, GELU by tanh, tied head. One target in each sequence does not count.

VOCAB, LENGTH, BLOCKS, HEADS, CHANNELS = 65, 16, 2, 2, 32
GPT_BATCH = 8
GPT_STEPS = 20


def gpt_parameters():
    described = [("wte.weight", (VOCAB, CHANNELS), "normal", 0.02), ("wpe.weight", (LENGTH, CHANNELS), "normal", 0.02)]
    residual = 0.02 / math.sqrt(2 * BLOCKS)
    for block in range(BLOCKS):
        for name, outputs, inputs, scale in [
            ("ln_1", CHANNELS, None, 0),
            ("attn.c_attn", 3 * CHANNELS, CHANNELS, 0.02),
            ("attn.c_proj", CHANNELS, CHANNELS, residual),
            ("ln_2", CHANNELS, None, 0),
            ("mlp.c_fc", 4 * CHANNELS, CHANNELS, 0.02),
            ("mlp.c_proj", CHANNELS, 4 * CHANNELS, residual),
        ]:
            weight = ((outputs,), "one") if inputs is None else ((outputs, inputs), "normal")
            described.append((f"h.{block}.{name}.weight", *weight, scale))
            described.append((f"h.{block}.{name}.bias", (outputs,), "zero", 0))
    described += [("ln_f.weight", (CHANNELS,), "one", 0), ("ln_f.bias", (CHANNELS,), "zero", 0)]
    return parameters_of(described)


def gpt_batch(step):
    inputs, targets = [], []
    for sample in range(step * GPT_BATCH, (step + 1) * GPT_BATCH):
        tokens = []
        for number in sample_draws(sample, LENGTH + 1):
            number = int(number)
            fresh = not tokens or number % 8 == 0
            tokens.append((number >> 3 if fresh else 5 * tokens[-1] + 3) % VOCAB)
        inputs.append(tokens[:-1])
        targets.append(tokens[1:])
        targets[-1][sample % LENGTH] = -1
    return torch.tensor(inputs), torch.tensor(targets)


def attention(qkv):
    batch = qkv.shape[0]
    q, k, v = (part.view(batch, LENGTH, HEADS, CHANNELS // HEADS).transpose(1, 2) for part in qkv.split(CHANNELS, 2))
    scores = q @ k.transpose(2, 3) / math.sqrt(CHANNELS // HEADS)
    scores = scores.masked_fill(torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1), -math.inf)
    return (scores.softmax(3) @ v).transpose(1, 2).reshape(batch, LENGTH, CHANNELS)


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gpt_losses(parameters, batch):
    tokens, targets = batch

    def linear(x, name):
        return F.linear(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (CHANNELS,), parameters[f"{name}.weight"], parameters[f"{name}.bias"], 1e-5)

    x = parameters["wte.weight"][tokens] + parameters["wpe.weight"]
    for block in range(BLOCKS):
        h = f"h.{block}"
        x = x + linear(attention(linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn")), f"{h}.attn.c_proj")
        x = x + linear(gelu(linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")), f"{h}.mlp.c_proj")
    logits = norm(x, "ln_f") @ parameters["wte.weight"].T
    losses = F.cross_entropy(logits.view(-1, VOCAB), targets.view(-1), ignore_index=-1, reduction="sum")
    return losses, int((targets >= 0).sum())


def gpt_optimizer(parameters):
    groups = [
        {"params": [p for p in parameters.values() if p.dim() == 2], "weight_decay": 0.1},
        {"params": [p for p in parameters.values() if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)


def gradient_lines(parameters):
    for name, parameter in parameters.items():
        gradient = parameter.grad.flatten()
        yield f"norm {name} {float(gradient.norm()):.9e}"
        for k in range(ELEMENTS):
            element = (k * 7919 + 3) % len(gradient)
            yield f"gradient {name} {element} {float(gradient[element]):.9e}"


def train(parameters, batch_of, losses_of, optimizer, steps):
    """The lines of a file. Gradients are written of the first step and of the last."""
    for step in range(steps):
        optimizer.zero_grad()
        loss, count = losses_of(parameters, batch_of(step))
        loss.backward()
        yield f"loss {step} {float(loss) / count:.12f}"
        if step in (0, steps - 1):
            yield from gradient_lines(parameters)
        for parameter in parameters.values():
            parameter.grad /= count
        optimizer.step()


MODELS = {
    "mlp": (mlp_parameters, mlp_batch, mlp_losses, mlp_optimizer, MLP_STEPS),
    "gpt": (gpt_parameters, gpt_batch, gpt_losses, gpt_optimizer, GPT_STEPS),
}


def lines_of(model, dtype):
    make_parameters, batch_of, losses_of, make_optimizer, steps = MODELS[model]
    torch.set_default_dtype(dtype)
    parameters = make_parameters()
    return list(train(parameters, batch_of, losses_of, make_optimizer(parameters), steps))


def print_distance(model, golden):
    """The largest distance of float32's losses, relative, and of its gradients, in units of their root mean square."""
    losses, gradients, rms = 0.0, 0.0, 0.0
    sizes = {name: p.numel() for name, p in MODELS[model][0]().items()}
    for line, exact in zip(lines_of(model, torch.float32), golden):
        kind, name, *_ = exact.split()
        value, expected = float(line.split()[-1]), float(exact.split()[-1])
        if kind == "loss":
            losses = max(losses, abs(value / expected - 1))
        elif kind == "norm":
            rms = expected / math.sqrt(sizes[name])
        else:
            gradients = max(gradients, abs(value - expected) / rms)
    print(f"{model}: losses {losses:.1e}, gradients {gradients:.1e}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--float32", action="store_true", help="print how far PyTorch's float32 is from the files")
    arguments = parser.parse_args()
    for model in MODELS:
        path = pathlib.Path(__file__).with_name(f"{model}.txt")
        if arguments.float32:
            print_distance(model, path.read_text().splitlines())
        else:
            path.write_text("\n".join(lines_of(model, torch.float64)) + "\n")


main()
