#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Weights that come from other programs and go to them: headroom export, headroom import, and runs that begin with
them. With PyTorch at hand (launch/install torch) Hugging Face's transformers are asked what they make of it."""
import functools
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

import headroom_run

# With one rank and one micro-batch a run has the same bits every time.
ALIKE = ("train.micro_batch_size=8", "comm.kind=self")
# A validation of the weights as they are.
UNCHANGED = ("train.steps=1", "optimizer.learning_rate=0", "checkpoint.at_end=false", *ALIKE)

VOCAB, LENGTH, CHANNELS, BLOCKS, HEADS = 61, 16, 32, 3, 4
TOKENS = f"""
model: {{kind: gpt, vocab_size: {VOCAB}, seq_len: {LENGTH}, block_count: {BLOCKS}, head_count: {HEADS},
        channels: {CHANNELS}}}
train: {{steps: 20, global_batch_size: 8}}
optimizer: {{kind: adamw, learning_rate: 3e-3}}
data: {{kind: tokens, path: train.bin, validation_path: validation.bin, end_of_text: 60}}
device: {{kind: cpu}}
"""

TURNED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")

# Wheels of PyPI that go with every PyTorch since 1.13.
PACKAGES = ("transformers==4.38.2 tokenizers==0.15.2 huggingface-hub==0.23.5 safetensors==0.4.5 regex requests urllib3 "
            "certifi idna charset-normalizer tqdm filelock packaging pyyaml typing_extensions fsspec").split()
INSTALL_SECONDS = 60


def tensors_of(content):
    """Name -> (dtype, shape, bytes)"""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8:8 + length])
    header.pop("__metadata__", None)
    return {name: (tensor["dtype"], tensor["shape"], content[8 + length:][slice(*tensor["data_offsets"])])
            for name, tensor in header.items()}


def safetensors(tensors):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def narrow(content):
    """float32 -> bfloat16, cut off"""
    return b"".join(content[i + 2:i + 4] for i in range(0, len(content), 4))


def floats(content):
    return struct.unpack(f"<{len(content) // 4}f", content)


def turned(shape, content):
    rows, columns = shape
    values = floats(content)
    return struct.pack(f"<{rows * columns}f", *(values[row * columns + column]
                                                for column in range(columns) for row in range(rows)))


def make_tokens(count, choose):
    """Each follows from the one before, but for one in eight."""
    tokens = [0]
    while len(tokens) < count:
        tokens.append(choose.randrange(VOCAB) if choose.randrange(8) == 0 else (5 * tokens[-1] + 3) % VOCAB)
    return tokens


class ExchangeTest(headroom_run.ProgramTest):
    def setUp(self):
        super().setUp()
        choose = random.Random(2)
        for name, count in (("train", 2000), ("validation", 1000)):
            self.write(f"{name}.bin", headroom_run.token_shard(make_tokens(count, choose)))
        self.write("tokens.yaml", TOKENS)

    def content(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def loss_of(self, weights, *overrides, ranks=None):
        """What a validation says of a checkpoint's weights."""
        run = self.train("tokens.yaml", *UNCHANGED[:3 if ranks else None], f"checkpoint.weights={weights}", *overrides,
                         ranks=ranks)
        self.assertIn(f"begins with the weights of {weights}", run.finished.out)
        return run.evaluation_losses[-1]


class Exchange(ExchangeTest):
    def refused(self, complaint, *arguments):
        before = sorted(os.listdir(self.folder))
        finished = self.headroom(*arguments, code=2)
        self.assertEqual(finished.err, f"headroom: {complaint}\n")
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def assert_same_model(self, checkpoint, other):
        self.assertEqual(self.content(f"{checkpoint}/model.safetensors"), self.content(f"{other}/model.safetensors"))

    def exported(self, *overrides):
        """A folder `saved` that a trained model was exported to; its checkpoint."""
        self.train("tokens.yaml", *ALIKE, *overrides)
        finished = self.headroom("export", "run-1", "saved")
        self.assertEqual(finished.out, f"saved: {self.weights()} weights\n")
        return "run-1/checkpoints/latest"

    def weights(self):
        return VOCAB * CHANNELS + LENGTH * CHANNELS + BLOCKS * (12 * CHANNELS**2 + 13 * CHANNELS) + 2 * CHANNELS

    def test_there_and_back_for_hugging_face(self):
        checkpoint = self.exported()
        self.headroom("import", "saved", "back")
        self.assertEqual(sorted(os.listdir(self.path("back"))), ["config.yaml", "model.safetensors", "state.json"])
        self.assert_same_model(checkpoint, "back")
        self.headroom("export", "back", "again")
        for name in ("config.json", "model.safetensors"):
            self.assertEqual(self.content(f"again/{name}"), self.content(f"saved/{name}"))
        self.assertEqual(sorted(os.listdir(self.path("saved"))), ["config.json", "model.safetensors"])

    def test_what_a_folder_holds(self):
        checkpoint = self.exported()
        ours = tensors_of(self.content(f"{checkpoint}/model.safetensors"))
        theirs = tensors_of(self.content("saved/model.safetensors"))
        self.assertEqual([f"transformer.{name}" for name in ours], list(theirs))
        for name, (_, shape, content) in ours.items():
            if name.endswith(TURNED):
                shape, content = shape[::-1], turned(shape, content)
            self.assertEqual(theirs[f"transformer.{name}"], ("F32", shape, content), name)
        self.assertEqual(theirs["transformer.wte.weight"][1], [VOCAB, CHANNELS])
        self.assertIn(b'{"__metadata__":{"format":"pt"}', self.content("saved/model.safetensors")[:64])
        config = json.loads(self.read("saved/config.json"))
        for key, value in {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": VOCAB,
                           "n_positions": LENGTH, "n_embd": CHANNELS, "n_layer": BLOCKS, "n_head": HEADS,
                           "n_inner": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
                           "tie_word_embeddings": True, "bos_token_id": 60, "eos_token_id": 60}.items():
            self.assertEqual(config[key], value, key)

    def test_there_and_back_for_llmc(self):
        self.train("tokens.yaml", *ALIKE)
        checkpoint = "run-1/checkpoints/step_00000020"
        self.headroom("export", checkpoint, "model.bin")
        content, tensors = self.content("model.bin"), tensors_of(self.content(f"{checkpoint}/model.safetensors"))
        self.assertEqual(struct.unpack("<256i", content[:1024]),
                         (20240326, 3, LENGTH, VOCAB, BLOCKS, HEADS, CHANNELS, 128, *[0] * 248))
        blocks = ("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight",
                  "attn.c_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias",
                  "mlp.c_proj.weight", "mlp.c_proj.bias")
        names = ["wpe.weight", *(f"h.{block}.{name}" for name in blocks for block in range(BLOCKS)), "ln_f.weight",
                 "ln_f.bias"]
        embedding = tensors["wte.weight"][2] + bytes(4 * (128 - VOCAB) * CHANNELS)
        self.assertEqual(content[1024:], embedding + b"".join(tensors[name][2] for name in names))
        self.headroom("import", "model.bin", "back")
        self.assert_same_model(checkpoint, "back")
        self.write("narrow.bin", struct.pack("<2i", 20240326, 5) + content[8:1024] + narrow(content[1024:]))
        self.headroom("import", "narrow.bin", "narrow")
        for name, (_, _, data) in tensors_of(self.content("narrow/model.safetensors")).items():
            self.assertEqual(narrow(data), narrow(tensors[name][2]), name)
            self.assertEqual(data[0::4], bytes(len(data) // 4), name)

    def test_folders_as_others_write_them(self):
        """Without the prefix; with masks; with a head that is tied, or a copy; in several files."""
        checkpoint = self.exported()
        whole = tensors_of(self.content("saved/model.safetensors"))
        bare = {name.removeprefix("transformer."): tensor for name, tensor in whole.items()}
        masks = {f"h.{block}.attn.bias": ("BOOL", [1, 1, 2, 2], b"\1\0\1\1") for block in range(BLOCKS)}
        masks["h.0.attn.masked_bias"] = ("F32", [], struct.pack("<f", -1e4))
        head = whole["transformer.wte.weight"]
        other = ("F32", head[1], bytes(len(head[2])))
        config = json.loads(self.read("saved/config.json"))
        for number, (tensors, more) in enumerate(((bare, {}), ({**masks, **bare}, {"n_inner": 4 * CHANNELS}),
                                                  ({**whole, "lm_head.weight": head}, {"tie_word_embeddings": False}),
                                                  ({**whole, "lm_head.weight": other}, {}),
                                                  (whole, {"activation_function": "gelu_pytorch_tanh"}))):
            os.mkdir(self.path(f"other-{number}"))
            self.write(f"other-{number}/config.json", json.dumps({**config, **more}))
            self.write(f"other-{number}/model.safetensors", safetensors(tensors))
            self.headroom("import", f"other-{number}", f"back-{number}")
            self.assert_same_model(checkpoint, f"back-{number}")
        os.unlink(self.path("other-0/model.safetensors"))
        places = {name: f"part-{number % 3}.safetensors" for number, name in enumerate(bare)}
        for part in set(places.values()):
            self.write(f"other-0/{part}", safetensors({name: bare[name] for name in bare if places[name] == part}))
        self.write("other-0/model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": places}))
        self.headroom("import", "other-0/", "parts/")
        self.assert_same_model(checkpoint, "parts")

    def test_narrow_types(self):
        checkpoint = self.exported()
        whole = tensors_of(self.content("saved/model.safetensors"))
        brain = {name: ("BF16", shape, narrow(data)) for name, (_, shape, data) in whole.items()}
        half = {name: ("F16", shape, struct.pack(f"<{len(data) // 4}e", *floats(data)))
                for name, (_, shape, data) in whole.items()}
        exact = tensors_of(self.content(f"{checkpoint}/model.safetensors"))
        for tensors, most in ((brain, 2**-7), (half, 2**-10)):
            self.write("saved/model.safetensors", safetensors(tensors))
            shutil.rmtree(self.path("back"), ignore_errors=True)
            self.headroom("import", "saved", "back")
            for name, (_, _, data) in tensors_of(self.content("back/model.safetensors")).items():
                for value, expected in zip(floats(data), floats(exact[name][2])):
                    self.assertLessEqual(abs(value - expected), most * abs(expected) + 2**-24, name)

    def test_a_run_begins_with_them(self):
        """The loss of the weights that were exported; the steps are counted from 0, and training goes on."""
        checkpoint = self.exported()
        source = self.loss_of(checkpoint)
        self.headroom("import", "saved", "back")
        self.headroom("export", checkpoint, "model.bin")
        self.headroom("import", "model.bin", "llmc")
        for weights in ("back", "llmc", "run-1"):
            self.assertEqual(self.loss_of(weights), source)
        self.assertAlmostEqual(self.loss_of("back", ranks=2), source, delta=1e-5 * source)
        finished = self.headroom("train", "tokens.yaml", "checkpoint.resume=back", "run.folder=new", ranks=2, code=2)
        self.assertEqual(finished.complaints, ["headroom: checkpoint.resume: 'back' is imported, and of no run to go on with; "
                                               "checkpoint.weights begins with its weights"])
        run = self.train("tokens.yaml", "checkpoint.weights=back", *ALIKE)
        self.assertEqual([step["step"] for step in run.steps], list(range(20)))
        first = self.train("tokens.yaml", *UNCHANGED, "checkpoint.weights=back", "data.shuffle=true")
        self.assertEqual(run.losses[0], first.losses[0])
        self.assertEqual(sum("event" in line and line["event"] == "resume" for line in run.lines), 0)
        self.assertLess(run.losses[-1], run.losses[0])

    def test_what_the_run_has_itself_wins(self):
        """With checkpoint.resume=auto the command that begins with weights also goes on."""
        self.train("tokens.yaml", *ALIKE, "train.steps=3")
        job = ("tokens.yaml", "checkpoint.weights=run-1", "checkpoint.resume=auto", "run.folder=run", *ALIKE)
        self.assertIn("begins with the weights of run-1/checkpoints/step_00000003\n",
                      self.headroom("train", *job, "train.steps=4").out)
        shutil.rmtree(self.path("run-1"))
        self.assertIn("goes on after 4 steps, from run/checkpoints/step_00000004\n",
                      self.headroom("train", *job, "train.steps=6").out)
        run = self.path("run/metrics.jsonl")
        with open(run, encoding="utf-8") as file:
            self.assertEqual([step["step"] for step in map(json.loads, file) if "event" not in step], list(range(6)))

    def test_weights_that_do_not_fit(self):
        self.train("tokens.yaml", *ALIKE, "train.steps=1")
        for ranks in (None, 2):
            for overrides, complaint in (
                    (("checkpoint.weights=run-1", "model.channels=64"),
                     f"run-1/checkpoints/step_00000001/model.safetensors: is of another model: wte.weight is "
                     f"[{VOCAB}, {CHANNELS}], the configuration's is [{VOCAB}, 64]"),
                    (("checkpoint.weights=nowhere",),
                     "nowhere: is neither a checkpoint nor a run's folder with checkpoints")):
                finished = self.headroom("train", "tokens.yaml", "run.folder=new", *overrides, ranks=ranks, code=2)
                self.assertEqual(finished.complaints, [f"headroom: {complaint}"])
                self.assertFalse(os.path.exists(self.path("new")))
        self.refused("command line: checkpoint.weights=run-1: is for a run that begins anew, and checkpoint.resume "
                     "names a checkpoint; allowed here: null", "train", "tokens.yaml", "checkpoint.weights=run-1",
                     "checkpoint.resume=run-1")

    def test_command_lines(self):
        for arguments, complaint in (((), "needs CHECKPOINT"), (("a",), "needs DIR or FILE.bin"),
                                     (("a", "b", "c"), "does not take 'c'"), (("--x", "b"), "does not take '--x'")):
            self.refused(f"export {complaint}; see headroom export --help", "export", *arguments)
        self.refused("import needs CHECKPOINT; see headroom import --help", "import", "a")
        self.refused("nowhere: is neither a checkpoint nor a run's folder with checkpoints", "export", "nowhere", "new")
        self.refused("nowhere: cannot read: No such file or directory", "import", "nowhere", "new")
        finished = self.headroom("export", "a", "b", ranks=2, code=2)
        self.assertEqual(finished.complaints, ["headroom: export runs without a launcher; see headroom --help"])

    def test_what_is_there_stays(self):
        self.exported()
        self.write("model.bin", "mine")
        self.refused("saved: is there already; allowed: a new name, or an empty folder", "export", "run-1", "saved")
        self.refused("saved: is there already; allowed: a new name, or an empty folder", "import", "saved", "saved")
        self.refused("model.bin: is there already; allowed: a new name, or an empty file", "export", "run-1",
                     "model.bin")
        self.assertEqual(self.read("model.bin"), "mine")
        self.write("model.bin", "")
        os.mkdir(self.path("empty"))
        for link, target, kind in (("link.bin", "model.bin", "file"), ("link", "empty", "folder")):
            os.symlink(target, self.path(link))
            self.refused(f"{link}: is there already; allowed: a new name, or an empty {kind}", "export", "run-1", link)
            self.assertTrue(os.path.islink(self.path(link)))
        os.mkdir(self.path("other.part"))
        self.write("other.part/model.safetensors", "half")
        self.refused("other.part: is there already: another process writes it, or was killed; then remove it", "export",
                     "run-1", "other")
        self.assertEqual(self.read("other.part/model.safetensors"), "half")
        shutil.rmtree(self.path("other.part"))
        for target in ("model.bin", "empty", "other/"):
            self.headroom("export", "run-1", target)
        self.assertEqual(self.content("other/model.safetensors"), self.content("saved/model.safetensors"))

    def test_a_disk_that_is_full(self):
        """Nothing is half there."""
        self.exported()
        before = sorted(os.listdir(self.folder))
        for command, source, target, file in (("export", "run-1", "new", "new.part/model.safetensors"),
                                              ("export", "run-1", "new.bin", "new.bin.part"),
                                              ("import", "saved", "new", "new.part/model.safetensors")):
            finished = self.headroom(command, source, target, before=headroom_run.SMALL_FILES, code=1)
            self.assertEqual(finished.err, f"headroom: {file}: cannot write: File too large\n")
            self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_checkpoints_that_cannot_go_out(self):
        self.train("mlp.yaml", "train.steps=1")
        path = "run-1/checkpoints/step_00000001"
        self.refused(f"{path}/config.yaml: model.kind: is mlp; allowed here: gpt", "export", path, "new")
        with open(self.path(f"{path}/model.safetensors"), "ab") as file:
            file.write(b"more")
        self.refused(f"{path}/model.safetensors: damaged: of another length", "export", path, "new")

    def test_models_that_headroom_does_not_compute(self):
        self.exported()
        config = json.loads(self.read("saved/config.json"))
        for key, value, complaint in (
                ("model_type", "gptj", '"gptj" is not what Headroom computes; allowed: "gpt2"'),
                ("activation_function", "relu",
                 '"relu" is not what Headroom computes; allowed: "gelu_new", "gelu_pytorch_tanh"'),
                ("activation_function", "gelu",
                 '"gelu" is not what Headroom computes; allowed: "gelu_new", "gelu_pytorch_tanh"'),
                ("layer_norm_epsilon", 1e-6, "1e-6 is not what Headroom computes; allowed: 1e-5"),
                ("n_inner", 100, f"100 is not what Headroom computes; allowed: null, {4 * CHANNELS}"),
                ("scale_attn_weights", False, "false is not what Headroom computes; allowed: true"),
                ("scale_attn_by_inverse_layer_idx", True, "true is not what Headroom computes; allowed: false"),
                ("add_cross_attention", True, "true is not what Headroom computes; allowed: false"),
                ("tie_word_embeddings", False,
                 "false, and lm_head.weight is not there; allowed: true, or false with an lm_head.weight of the same "
                 "values as wte.weight"),
                ("n_layer", 0, "0 is out of range; allowed: 1 to 4096"),
                ("n_embd", "wide", '"wide" is not a whole number; allowed: 1 to 1048576'),
                ("n_embd", 30, "30; allowed: a multiple of n_head, which is 4"),
                ("n_positions", -1, "-1 is out of range; allowed: 1 to 1048576"),
                ("vocab_size", 1.5, "1.5 is not a whole number; allowed: 2 to 2147483647")):
            self.write("saved/config.json", json.dumps({**config, key: value}))
            self.refused(f"saved/config.json: {key}: {complaint}", "import", "saved", "new")
        del config["n_head"]
        self.write("saved/config.json", json.dumps(config))
        self.refused("saved/config.json: n_head: nothing is not a whole number; allowed: 1 to 4096", "import", "saved",
                     "new")
        self.write("saved/config.json", "[1]")
        self.refused("saved/config.json: is no JSON object: it is something else", "import", "saved", "new")

    def test_tensors_that_do_not_fit(self):
        self.exported()
        whole, file = tensors_of(self.content("saved/model.safetensors")), "saved/model.safetensors"
        config = json.loads(self.read("saved/config.json"))
        name, wte = "transformer.h.1.mlp.c_fc.weight", whole["transformer.wte.weight"]
        _, shape, data = whole[name]
        for tensors, complaint in (
                ({**whole, name: ("F32", shape[::-1], data)},
                 f"{file}: is of another model: h.1.mlp.c_fc.weight is [{4 * CHANNELS}, {CHANNELS}], the "
                 f"configuration's is [{CHANNELS}, {4 * CHANNELS}]"),
                ({**whole, name: ("I32", shape, data)},
                 f"{file}: is of another model: h.1.mlp.c_fc.weight is of a type that is no real number, the "
                 "configuration's is F32, F16 or BF16"),
                ({key: tensor for key, tensor in whole.items() if key != name},
                 f"{file}: is of another model: h.1.mlp.c_fc.weight is not there, the configuration's is "
                 f"[{CHANNELS}, {4 * CHANNELS}]"),
                ({**whole, "transformer.h.3.ln_1.weight": ("F32", [1], bytes(4))},
                 f"{file}: is of another model: it has a tensor 'transformer.h.3.ln_1.weight', which is none of "
                 "config.json's")):
            self.write(file, safetensors(tensors))
            self.refused(complaint, "import", "saved", "new")
        self.write("saved/config.json", json.dumps({**config, "tie_word_embeddings": False}))
        self.write(file, safetensors({**whole, "lm_head.weight": ("F32", wte[1], bytes(len(wte[2])))}))
        self.refused("saved/config.json: tie_word_embeddings: false, and lm_head.weight is another one; allowed: true, "
                     "or false with an lm_head.weight of the same values as wte.weight", "import", "saved", "new")
        os.unlink(self.path(file))
        self.refused(f"{file}: cannot read: No such file or directory", "import", "saved", "new")
        for index, complaint in (({"weight_map": {}}, "weight_map: names no file"),
                                 ({"weight_map": {"wte.weight": "../x"}},
                                  "weight_map: wte.weight: is no name of a file in this folder")):
            self.write(f"{file}.index.json", json.dumps(index))
            self.refused(f"{file}.index.json: {complaint}", "import", "saved", "new")
        self.write(f"{file}.index.json", json.dumps({"weight_map": {"wte.weight": "gone"}}))
        self.refused("saved/gone: cannot read: No such file or directory", "import", "saved", "new")

    def test_files_that_are_none_of_llmc(self):
        self.train("tokens.yaml", *ALIKE, "train.steps=1")
        self.headroom("export", "run-1", "model.bin")
        content = self.content("model.bin")
        header, size = list(struct.unpack("<256i", content[:1024])), len(content)
        for place, value, complaint in (
                (0, 20240520, "is no model's file of llm.c: magic number 20240520, expected 20240326"),
                (1, 2, "version 2 of the format; allowed: 3 (float32), 5 (bfloat16)"),
                (2, 0, "header's max_seq_len: 0 is out of range; allowed: 1 to 1048576"),
                (4, -1, "header's num_layers: 4294967295 is out of range; allowed: 1 to 4096"),
                (5, 3, "header's channels: 32; allowed: a multiple of header's num_heads, which is 3"),
                (7, 60, "header's padded_vocab_size: 60; allowed: no less than vocab_size, 61"),
                (7, 129, f"truncated: the header promises {size + 4 * CHANNELS} bytes, found {size}"),
                (7, 127, f"trailing bytes: the header promises {size - 4 * CHANNELS} bytes, found {size}")):
            wrong = [*header[:place], value, *header[place + 1:]]
            self.write("wrong.bin", struct.pack("<256i", *wrong) + content[1024:])
            self.refused(f"wrong.bin: {complaint}", "import", "wrong.bin", "new")
        self.write("wrong.bin", content[:1000])
        self.refused("wrong.bin: truncated: it ends after 1000 bytes", "import", "wrong.bin", "new")


def torch_version(python):
    """The version of a Python that has PyTorch; "": it has none."""
    script = "import torch, numpy, sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", script], capture_output=True, text=True).stdout.strip()


@functools.lru_cache(maxsize=None)
def peer():
    """A Python that has PyTorch, and a folder with transformers for it; a LookupError says why there is none."""
    pythons = filter(os.path.exists, (sys.executable, "/usr/bin/python3"))
    python, version = next(((python, version) for python in pythons if (version := torch_version(python))), (None, ""))
    if python is None:
        raise LookupError("PyTorch is not installed (launch/install torch)")
    folder = tempfile.TemporaryDirectory(prefix="headroom-transformers-")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--retries=0",
               "--timeout=20", "--python-version", version, "--target", folder.name, *PACKAGES]
    try:
        done = subprocess.run(install, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise LookupError(f"transformers could not be installed from PyPI within {INSTALL_SECONDS} seconds") from None
    if done.returncode != 0:
        raise LookupError("transformers cannot be installed from PyPI: " + done.stderr.strip().splitlines()[-1])
    return python, folder


class Transformers(ExchangeTest):
    def setUp(self):
        super().setUp()
        try:
            self.python, self.packages = peer()
        except LookupError as reason:
            self.skipTest(str(reason))

    def ask(self, *arguments):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "huggingface_peer.py")
        environment = {**os.environ, "PYTHONPATH": self.packages.name, "HF_HUB_OFFLINE": "1"}
        return subprocess.run([self.python, script, *arguments], cwd=self.folder, env=environment, check=True,
                              stdout=subprocess.PIPE, text=True, timeout=headroom_run.TIMEOUT_S).stdout

    def loss_there(self, folder):
        answer = json.loads(self.ask("loss", folder, "validation.bin", str(LENGTH)))
        self.assertEqual([answer[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")],
                         [[], [], [], []])
        return answer

    def assert_same_loss(self, here, there, what):
        print(f"{what}: losses {here:.7f} and {there:.7f} differ by {abs(here / there - 1):.1e}", flush=True)
        self.assertLess(abs(here / there - 1), 1e-5)

    def test_they_load_what_is_exported(self):
        run = self.train("tokens.yaml", *ALIKE, "optimizer.learning_rate=0.03")
        self.headroom("export", "run-1", "saved")
        answer = self.loss_there("saved")
        self.assertEqual(answer["end_of_text"], 60)
        self.assert_same_loss(run.evaluation_losses[-1], answer["loss"], "exported")

    def test_what_they_save_is_imported(self):
        for dtype, shard_bytes in (("float32", 10**9), ("bfloat16", 10**9), ("float32", 40000)):
            name = f"{dtype}-{shard_bytes}"
            self.ask("make", name, str(shard_bytes), dtype)
            self.assertEqual(os.path.exists(self.path(f"{name}/model.safetensors.index.json")), shard_bytes < 10**9)
            self.headroom("import", name, f"{name}-here")
            self.headroom("export", f"{name}-here", f"{name}-back")
            loss = self.loss_of(f"{name}-here")
            self.assert_same_loss(loss, self.loss_there(f"{name}-back")["loss"], f"{name}, and back")
            if dtype == "float32":
                self.assert_same_loss(loss, self.loss_there(name)["loss"], name)


if __name__ == "__main__":
    headroom_run.main()
