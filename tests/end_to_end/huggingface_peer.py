#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What test_exchange.py asks Hugging Face's transformers, in a process that has them.

    huggingface_peer.py loss DIR TOKENS LENGTH     prints the mean loss over windows of a shard of tokens
    huggingface_peer.py make DIR SHARD_BYTES TYPE  saves a GPT-2 with weights by chance, in files of so many bytes
"""
import json
import struct
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def windows(path, length):
    with open(path, "rb") as file:
        content = file.read()
    tokens = struct.unpack(f"<{(len(content) - 1024) // 2}H", content[1024:])
    return torch.tensor([tokens[first:first + length + 1] for first in range(0, len(tokens) - length, length)])


def loss(folder, tokens, length):
    model, about = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    samples = windows(tokens, int(length))
    with torch.no_grad():
        logits = model.eval()(samples[:, :-1]).logits
    mean = torch.nn.functional.cross_entropy(logits.flatten(0, 1).double(), samples[:, 1:].flatten())
    print(json.dumps({"loss": float(mean), "end_of_text": model.config.eos_token_id, **about}))


def make(folder, shard_bytes, dtype):
    torch.manual_seed(3)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=16, n_embd=32, n_layer=3, n_head=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1 if ".ln_" in name and name.endswith("weight") else 0, 0.2)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=int(shard_bytes), safe_serialization=True)


{"loss": loss, "make": make}[sys.argv[1]](*sys.argv[2:])
