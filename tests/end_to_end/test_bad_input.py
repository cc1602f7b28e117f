# SPDX-License-Identifier: Apache-2.0
"""Bad input ends with one clear line and exit code 2, on one rank and on four, and no run folder is made. Input that
goes bad while training runs ends the job too."""

import os
import struct

import headroom_run

IDX = """
model: {kind: mlp, layers: [16, 32, 10]}
train: {steps: 5, global_batch_size: 8}
data: {kind: idx, images: images, labels: labels}
device: {kind: cpu}
"""
TOKENS = """
model: {kind: gpt, vocab_size: 50, seq_len: 8, block_count: 1, head_count: 2, channels: 16}
train: {steps: 5, global_batch_size: 8}
data: {kind: tokens, path: "*.bin"}
device: {kind: cpu}
"""


def idx_file(magic, sizes, values):
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + bytes(values)


class BadInput(headroom_run.ProgramTest):
    def setUp(self):
        super().setUp()
        self.write("idx.yaml", IDX)
        self.write("tokens.yaml", TOKENS)
        self.write("images", idx_file(0x803, (20, 4, 4), [7] * 320))
        self.write("labels", idx_file(0x801, (20,), [3] * 20))
        self.write("shard.bin", headroom_run.token_shard(range(50)))

    def refused(self, pattern, *arguments, ranks=(None, 4)):
        for count in ranks:
            finished = self.headroom(*arguments, ranks=count, code=2)
            self.assertEqual(len(finished.complaints), 1, finished.err)
            self.assertRegex(finished.complaints[0], pattern)
            if count is None:
                self.assertEqual(finished.err, finished.complaints[0] + "\n")
            self.assertFalse(os.path.exists(self.path("runs")))

    def test_the_good_files_are_good(self):
        for config in ("idx.yaml", "tokens.yaml"):
            self.train(config, ranks=2)

    def test_unknown_key(self):
        self.write("bad.yaml", headroom_run.MLP + "run: {foldr: x}\n")
        self.refused(r"bad\.yaml:7:\d+: .*'foldr'.*did you mean 'folder'", "train", "bad.yaml")

    def test_wrong_type(self):
        self.refused(r"train\.steps.*many", "train", "mlp.yaml", "train.steps=many")

    def test_out_of_range(self):
        self.refused(r"optimizer\.momentum.*1\.5", "train", "mlp.yaml", "optimizer.momentum=1.5")

    def test_bad_yaml(self):
        self.write("bad.yaml", headroom_run.MLP + "run: {folder: [\n")
        self.refused(r"bad\.yaml:\d+:\d+: ", "train", "bad.yaml")

    def test_bad_override(self):
        self.refused(r"train\.stepz", "train", "mlp.yaml", "train.stepz=3")
        self.refused(r"train does not take 'steps=3'; see headroom train --help", "train", "mlp.yaml", "steps=3")

    def test_missing_configuration(self):
        self.refused(r"none\.yaml: No such file", "train", "none.yaml")

    def test_unknown_command(self):
        self.refused(r"unknown command trian", "trian", "mlp.yaml")
        self.refused(r"train needs CONFIG\.yaml", "train", ranks=[None])
        self.refused(r"train does not take '--fast'", "train", "mlp.yaml", "--fast")
        self.refused(r"train does not take '--json'", "train", "mlp.yaml", "--json", ranks=[None])
        self.refused(r"--profile 0: 0 is out of range; allowed: 1 to 4294967295", "train", "mlp.yaml", "--profile", "0",
                     ranks=[None])
        self.refused(r"--ranks", "plan", "mlp.yaml", "--ranks", "0", ranks=[None])

    def test_no_command(self):
        self.assertRegex(self.headroom(code=2).err, r"^usage: headroom train")

    def test_missing_data(self):
        self.refused(r"nowhere: there is no such file", "train", "idx.yaml", "data.images=nowhere")
        self.refused(r"none\*\.bin", "train", "tokens.yaml", "data.path=none*.bin", ranks=[None])

    def test_costs(self):
        self.refused(r"--costs needs a value", "plan", "gpt.yaml", "--costs", ranks=[None])
        os.mkfifo(self.path("pipe"))
        self.refused(r"pipe: is not a regular file", "plan", "gpt.yaml", "--costs", "pipe", ranks=[None])
        self.refused(r"\./costs/rank_0\.json: cannot read: No such file", "plan", "gpt.yaml", "--costs", ".", ranks=[None])
        self.refused(r"nowhere\.json: cannot read: No such file", "plan", "gpt.yaml", "--costs", "nowhere.json", ranks=[None])
        for text, complaint in (("[", r":1: "), ("{}", ": has no costs of operations"), ("[]", ": has no costs of"),
                                ('{"device": "cpu"}', ": has no costs of operations; a run of several steps writes such"),
                                ('{"costs": [{"operation": "add", "tensor": "x", "unit": "byte", "ns_per_unit": 1}]}',
                                 ": does not say of which kind and name the device is"),
                                ('[{"operation": "add", "tensor": "x", "unit": "mile", "ns_per_unit": 1}]',
                                 ": entry 1 is no cost of an operation; a run of several steps writes such files to")):
            self.write("costs.json", text)
            self.refused(rf"costs\.json{complaint}", "plan", "gpt.yaml", "--costs", "costs.json", ranks=[None])

    def test_devices_to_plan_for(self):
        def refused(complaint, *arguments):
            self.refused(complaint, "plan", "mlp.yaml", *arguments, ranks=[None])

        allowed = r"allowed: b200-180gb, .*h100-80gb, .*rtx4090-24gb, a size such as 24GiB$"
        refused(rf"--device h100-80: there is no device 'h100-80'; did you mean 'h100-80gb'\? {allowed}", "--device",
                "h100-80")
        refused(rf"--ranks 8xh100-80gb,8xabacus: there is no device 'abacus'; {allowed}", "--ranks",
                "8xh100-80gb,8xabacus")
        refused(r"--device 1KiB: 1KiB is out of range; allowed: 4KiB to 1024TiB", "--device", "1KiB")
        refused(r"--device 24Gib: 24Gib is not a number of bytes", "--device", "24Gib")
        refused(r"--ranks 0x1GiB: 0 is out of range; allowed: 1 to 4294967295", "--ranks", "0x1GiB")
        for ranks in ("x", "3x", "x4"):
            refused(rf"--ranks {ranks}: '{ranks}' is not of the form NxDEVICE, as in 8xh100-80gb", "--ranks", ranks)
        refused(r"--ranks 2x1GiB,3: '3' is not of the form NxDEVICE, as in 8xh100-80gb", "--ranks", "2x1GiB,3")
        refused(r"--ranks 2x1GiB names the devices; leave out --device", "--ranks", "2x1GiB", "--device", "1GiB")
        refused(r"--device needs a value", "--device")
        refused(r"at most 64 groups of ranks are allowed", "--ranks", ",".join(["1x1GiB"] * 65))
        refused(r"mlp\.yaml:\d+:\d+: device\.kind: cpu: the devices asked about are GPUs; allowed here: auto, cuda",
                "--device", "h100-80gb")
        refused(r"device\.ranks_per_device=2: the devices asked about are GPUs, which have no such thing", "--device",
                "h100-80gb", "device.kind=auto", "device.ranks_per_device=2")

    def test_a_step_that_never_comes(self):
        self.refused(r"run\.snapshot_step=6: the run has only train\.steps steps, counted from 0", "train", "mlp.yaml",
                     "train.steps=6", "run.snapshot_step=6", ranks=[None])

    def test_lines(self):
        self.refused(r"data\.pack=false: false is for data\.kind text.*allowed here: true", "train", "mlp.yaml",
                     "data.pack=false", ranks=[None])
        self.write("lines.txt", "")
        self.refused(r"lines\.txt: the file is empty", "train", "lines.yaml")
        self.write("lines.txt", "\n\n\r\n")
        self.refused(r"lines\.txt: no line for training has anything to predict", "train", "lines.yaml")

    def test_documents(self):
        self.refused(r"tokens\.yaml: data\.end_of_text: 50256 is no token where model\.vocab_size is 50; "
                     r"allowed: 0 to 49", "train", "tokens.yaml", "data.pack=false", ranks=[None])
        self.write("shard.bin", headroom_run.token_shard(range(49)))
        self.refused(r"\*\.bin: no token for training is 49: each shard would be one document; data\.end_of_text must be",
                     "train", "tokens.yaml", "data.pack=false", "data.end_of_text=49")

    def test_truncated_idx(self):
        self.write("images", idx_file(0x803, (20, 4, 4), [7] * 300))
        self.refused(r"images: truncated: .*320 bytes.*300 bytes", "train", "idx.yaml")

    def test_idx_that_promises_too_much(self):
        self.write("images", struct.pack(">4I", 0x803, 2**31, 28, 28) + bytes(1008))
        self.refused(r"images: truncated: header promises 2147483648 images of 28x28 .*found 1008 bytes", "train",
                     "idx.yaml")

    def test_what_is_no_regular_file(self):
        os.mkfifo(self.path("fifo"))
        os.mkdir(self.path("folder"))
        for name in ("fifo", "folder"):
            self.refused(f"{name}: is not a regular file", "train", name)
            self.refused(f"{name}: is not a regular file", "train", "idx.yaml", f"data.labels={name}")
            self.refused(f"{name}: is not a regular file", "train", "gpt.yaml", f"data.path={name}", ranks=[4])
            self.refused(f"{name}: is not a regular file", "train", "tokens.yaml", f"data.path={name}", ranks=[4])

    def test_bad_idx_magic(self):
        self.write("images", idx_file(0x1234, (20, 4, 4), [7] * 320))
        self.refused(r"images: .*magic number 0x00001234", "train", "idx.yaml")

    def test_label_out_of_range(self):
        self.write("labels", idx_file(0x801, (20,), [3] * 19 + [10]))
        self.refused(r"labels: label 19 is 10", "train", "idx.yaml")

    def test_token_out_of_vocabulary(self):
        self.write("shard.bin", headroom_run.token_shard([*range(50), 50]))
        self.refused(r"shard\.bin: token 50 is 50, but model\.vocab_size is 50", "train", "tokens.yaml")

    def test_fewer_samples_than_ranks(self):
        self.refused(r"train\.global_batch_size=3: 3 samples are too few for 4 ranks", "train", "mlp.yaml",
                     "train.global_batch_size=3", ranks=[4])

    def test_what_only_the_rank_count_tells(self):
        self.refused(r"device\.capacity=\[.*\]: a list of 3 for 4 devices", "train", "mlp.yaml",
                     "device.capacity=[1MiB, 1MiB, 1MiB]", ranks=[4])
        self.refused(r"fault\.rank=4: there is no rank 4", "train", "mlp.yaml", "fault.rank=4", ranks=[4])

    def test_several_processes_that_do_not_talk(self):
        self.refused(r"comm\.kind: self is for a single process", "train", "mlp.yaml", "comm.kind=self", ranks=[2])

    def test_what_only_gpus_have(self):
        self.refused(r"comm\.reduce=nccl: nccl needs device\.kind cuda", "train", "mlp.yaml", "comm.reduce=nccl")
        self.refused(r"comm\.reduce=nccl: nccl adds up between GPUs", "train", "mlp.yaml", "comm.reduce=nccl",
                     "device.kind=auto", "device.faulting_addresses=true", ranks=[4])

    def test_a_run_folder_with_too_long_a_name(self):
        self.refused(r"run\.folder: a path of \d+ bytes is too long; allowed: up to \d+", "train", "mlp.yaml",
                     "run.folder=runs" + "/x" * 2100)

    def test_a_run_folder_without_a_name(self):
        for folder in ("/", ".", "a/..", "//"):
            self.refused(r"run\.folder: .* does not end with the name of a folder", "train", "mlp.yaml",
                         f"run.folder={folder}", ranks=[None])

    def test_a_plan_under_a_launcher(self):
        self.refused(r"plan runs without a launcher; see headroom --help", "plan", "mlp.yaml", ranks=[2])

    def test_traces(self):
        self.write("trace.csv", "id,lower,upper,size\n0,0,4,100\n1,4,3,100\n")
        self.refused(r"trace\.csv:3: upper 3 is not above lower 4", "memory", "replay", "trace.csv", ranks=[None])
        self.write("log.csv", "Thread,Time,Action,Pointer,Size,Stream\n1,15:47:02.841961,free,0x200,100,0\n")
        self.refused(r"log\.csv:2: 0x200 is freed but not allocated", "memory", "replay", "log.csv", ranks=[None])
        os.mkfifo(self.path("pipe"))
        self.refused(r"pipe: is not a regular file", "memory", "replay", "pipe", ranks=[None])
        self.refused(r"none\.csv: cannot read: No such file", "memory", "replay", "none.csv", ranks=[None])
        for arguments in ([], ["play", "trace.csv"]):
            self.refused(r"memory needs replay or snapshot", "memory", *arguments, ranks=[None])
        self.refused(r"memory replay needs TRACE\.csv", "memory", "replay", ranks=[None])
        self.refused(r"memory replay does not take 'b'", "memory", "replay", "trace.csv", "b", ranks=[None])
        self.refused(r"memory snapshot needs PROCESS", "memory", "snapshot", ranks=[None])
        self.refused(r"memory replay runs without a launcher", "memory", "replay", "trace.csv", ranks=[2])

    def test_unwritable_run_folder(self):
        self.refused(r"text\.txt.*: cannot make this folder", "train", "mlp.yaml", "run.folder=text.txt/run")


class InputThatGoesBad(headroom_run.ProgramTest):
    def check_end(self, config, name, content, pattern, code):
        """The file gets another content while four ranks train."""
        launch = self.start("train", config, "train.steps=1000000", "run.folder=run", ranks=4)
        self.wait_for_steps(launch, "run", 5)
        with open(self.path(name), "r+b") as file:
            file.write(content)
            file.truncate()
        finished = launch.wait()
        self.assertEqual(finished.code, code, finished.err)
        self.assertGreater(len(finished.complaints), 0, finished.err)
        for complaint in finished.complaints:
            self.assertRegex(complaint, pattern)

    def test_truncated_text(self):
        self.check_end("gpt.yaml", "text.txt", headroom_run.make_text()[:1000].encode(),
                       r"rank \d on .*: text\.txt: the file ended while it was being read: it held \d+ bytes, now at most",
                       code=1)

    def test_token_out_of_vocabulary(self):
        self.write("tokens.yaml", TOKENS)
        self.write("shard.bin", headroom_run.token_shard([7] * 4000))
        self.check_end("tokens.yaml", "shard.bin", headroom_run.token_shard([77] * 4000),
                       r"shard\.bin: token \d+ is 77, but model\.vocab_size is 50", code=2)


if __name__ == "__main__":
    headroom_run.main()
