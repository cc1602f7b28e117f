# SPDX-License-Identifier: Apache-2.0
"""The same program on a GPU: a real one where there is one, else the simulator's where it was built in."""

import json
import os
import signal
import subprocess
import unittest
from unittest import mock

import headroom_run

SIMULATED = os.environ.get("HEADROOM_SIMULATED") == "1"
NEIGHBOUR = os.environ.get("HEADROOM_NEIGHBOUR", "")
CUDA = "device.kind=cuda"
GPT = """
model: {kind: gpt, vocab_size: 100, seq_len: 16, block_count: 1, head_count: 2, channels: 32}
train: {steps: 6, global_batch_size: 8, clip_norm: 1.0}
optimizer: {kind: adamw, learning_rate: 1e-2}
data: {kind: synthetic, samples: 64, validation_samples: 16}
"""
# A sample takes some 260 KiB, so that the GPU's pieces of 2 MiB hold a few each.
MLP = """
model: {kind: mlp, layers: [16, 32768, 10], activation: gelu}
train: {steps: 6, global_batch_size: 64}
optimizer: {kind: sgd, learning_rate: 0.05, momentum: 0.9}
data: {kind: synthetic, samples: 400}
"""
NO_LEAKS = "ASAN_OPTIONS=detect_leaks=0"  # mpirun forgets its options' -x after the first program
CAPACITIES = [44, 48, 50, 56]  # MiB, of which 42 are held: for ever more samples


def gpus():
    if SIMULATED:
        return 1
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    return len(listed.stdout.splitlines())


needs_simulator = unittest.skipUnless(SIMULATED, "needs the simulated GPU")


class CudaTest(headroom_run.ProgramTest):
    def setUp(self):
        super().setUp()
        if not NEIGHBOUR:
            self.skipTest("CUDA was not built in")
        if gpus() == 0:
            self.skipTest("there is no GPU")
        self.write("gpt.yaml", GPT)
        self.write("mlp.yaml", MLP)
        if not SIMULATED:  # one GPU, the same for CUDA and nvidia-smi, whatever the machine has
            self.set_environment("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
            self.set_environment("CUDA_VISIBLE_DEVICES", "0")
        self.set_environment("SIMULATOR_NAME", f"test-{os.getpid()}-{self.id().rpartition('.')[2]}")

    def set_environment(self, name, value):
        patch = mock.patch.dict(os.environ, {name: value})
        patch.start()
        self.addCleanup(patch.stop)

    def headroom_each(self, environments, *arguments, code=0):
        """One rank for each environment, a list of "NAME=VALUE"."""
        before = list(headroom_run.MPIRUN)
        for i, environment in enumerate(environments):
            before += [":"] if i > 0 else []
            before += ["-np", "1", *(part for variable in [NO_LEAKS, *environment] for part in ("-x", variable))]
            before += [headroom_run.HEADROOM, *arguments] if i + 1 < len(environments) else []
        return self.headroom(*arguments, before=before, code=code)

    def train_each(self, environments, config, *overrides):
        self.runs += 1
        folder = f"run-{self.runs}"
        finished = self.headroom_each(environments, "train", config, CUDA, f"run.folder={folder}", *overrides)
        return headroom_run.Run(self.path(folder), finished)

    def assert_priced(self, run):
        for step in run.steps:
            for rank in step["ranks"]:
                self.assertEqual(rank["allocated_peak_bytes"], rank["predicted_peak_bytes"], rank)


class Curves(CudaTest):
    def test_the_cpu_s_losses(self):
        for config in ("gpt.yaml", "mlp.yaml"):
            for precision, most in (("fp32", 2e-5), ("bf16", 5e-3)):
                cpu, cuda = (self.train(config, f"device.kind={kind}", f"train.precision={precision}")
                             for kind in ("cpu", "cuda"))
                self.assert_close_losses(cuda, cpu, f"{config} in {precision}, CUDA and the CPU", most)
                self.assert_priced(cuda)

    def test_the_same_bits_again(self):
        one, other = (self.train("gpt.yaml", CUDA, "train.precision=bf16") for _ in range(2))
        self.assertEqual(one.losses, other.losses)

    def test_what_is_planned_for_it(self):
        """With the workspace of its kernels, two slots of inputs, and its granularity."""
        equal = ("share", "micro_batch", "accumulation_steps", "levers", "limit_bytes", "predicted_peak_bytes")
        for config, capacity in (("mlp.yaml", "49MiB"), ("mlp.yaml", "128MiB"), ("gpt.yaml", "64MiB")):
            planned = json.loads(self.headroom("plan", config, CUDA, "--device", capacity, "--json").out)
            run = self.train(config, CUDA, f"device.capacity={capacity}", "train.steps=1")
            row, rank = planned["ranks"][0], run.steps[0]["ranks"][0]
            self.assertEqual([row[key] for key in equal], [rank[key] for key in equal])
            self.assertEqual(row["workspace_bytes"], 2**25)

    def test_any_cut_of_a_batch(self):
        """The last micro-step is smaller than the others, whose samples may still be read when its own are copied."""
        for config, sizes in (("mlp.yaml", (5, 13)), ("gpt.yaml", (3, 5))):
            reference = self.reference(config, CUDA)
            for size in sizes:
                run = self.train(config, CUDA, f"train.micro_batch_size={size}")
                self.assert_close_losses(run, reference, f"{config}, micro-batches of {size}", 2e-5)

    def test_what_is_offloaded(self):
        """Copies run beside kernels, in both directions, and change no bit; micro-steps follow one another."""
        deep = ("gpt.yaml", CUDA, "train.precision=bf16", "train.micro_batch_size=2", "model.block_count=5")
        full, offload = (self.train(*deep, f"train.recompute={mode}") for mode in ("full", "offload"))
        self.assertEqual(offload.losses, full.losses)
        self.assert_priced(offload)
        self.assertLess(offload.of_rank(0, "allocated_peak_bytes"), full.of_rank(0, "allocated_peak_bytes"))

    def test_lines_of_different_lengths(self):
        """The block grows, and micro-steps change their shape, while copies of the next samples are under way."""
        small = ("model.block_count=1", "model.seq_len=40", "train.steps=3", "train.global_batch_size=8",
                 "data.validation_fraction=0.02")
        reference = self.train("lines.yaml", *small)
        for size in (1, 3):
            run = self.train("lines.yaml", CUDA, *small, f"train.micro_batch_size={size}")
            self.assert_close_losses(run, reference, f"lines.yaml, micro-batches of {size}", 2e-5)
            self.assert_priced(run)

    def test_a_text_that_is_generated(self):
        """By the same weights on both devices, in both precisions; and what eval says of them."""
        self.train("gpt.yaml", "device.kind=cpu", "train.steps=3")
        losses = []
        for kind in ("cpu", "cuda"):
            out = self.headroom("eval", "run-1", f"device.kind={kind}").out
            losses.append(float(out.split(",")[0].removeprefix("loss ")))
        self.assertAlmostEqual(*losses, delta=2e-6 * losses[0])
        texts = [self.headroom("generate", "run-1", "--prompt", "ab", "--tokens", "12", "--temperature", "0",
                               "--device", kind).out for kind in ("cpu", "cuda")]
        self.assertEqual(*texts)

    def test_any_cut_of_a_validation_set(self):
        overrides = [CUDA, "train.steps=1", "data.validation_samples=49"]
        evaluations = [self.train("mlp.yaml", *overrides, f"device.capacity={mib}MiB").evaluations[0]["loss"]
                       for mib in (44, 46, 48, 64)]
        for loss in evaluations[:-1]:
            self.assertAlmostEqual(loss, evaluations[-1], delta=2e-5)

    def test_ranks_that_share_a_gpu(self):
        reference = self.reference("mlp.yaml", CUDA)
        for ranks in (2, 4):
            limits = f"device.capacity=[{', '.join(f'{mib}MiB' for mib in CAPACITIES[:ranks])}]"
            shared = self.train("mlp.yaml", CUDA, limits, ranks=ranks)
            self.assertIn("all-reduce by mpi", shared.logs[0])
            self.assertIn("several ranks share a GPU: gradients are added up by mpi", shared.finished.out)
            self.assertGreater(len({rank["accumulation_steps"] for rank in shared.steps[0]["ranks"]}), 1)
            self.assert_priced(shared)
            self.assert_close_losses(shared, reference, f"{ranks} ranks with different limits on a GPU", 2e-5)

    def test_failing_allocations(self):
        reference = self.reference("mlp.yaml", CUDA)
        failing = self.train("mlp.yaml", CUDA, "device.capacity=48MiB", "fault.fail_allocation_every=2")
        self.assertGreater(sum(failing.of_rank(0, "oom_retries")), 0)
        self.assert_close_losses(failing, reference, "failing allocations", 2e-5)


class Reduction(CudaTest):
    def check(self, environments, *overrides):
        reference = self.reference("mlp.yaml", CUDA)
        run = self.train_each(environments, "mlp.yaml", "device.capacity=[44MiB, 48MiB]", "comm.bucket_bytes=64KiB",
                              *overrides)
        self.assertIn("all-reduce by nccl", run.logs[0])
        self.assertEqual(len({rank["accumulation_steps"] for rank in run.steps[0]["ranks"]}), 2)
        self.assert_close_losses(run, reference, "two ranks by NCCL", 2e-5)
        return run

    @needs_simulator
    def test_every_rank_sees_all_gpus(self):
        self.set_environment("SIMULATOR_GPUS", "2")
        run = self.check([[], []])
        for rank in (0, 1):
            self.assertIn("0 other processes hold 0 bytes", run.logs[rank])  # neither has a context on the other's GPU

    @needs_simulator
    def test_every_rank_sees_its_own(self):
        self.set_environment("SIMULATOR_GPUS", "2")
        self.check([["CUDA_VISIBLE_DEVICES=0"], ["CUDA_VISIBLE_DEVICES=1"]])

    @needs_simulator
    def test_ranks_that_see_gpus_in_their_own_order(self):
        self.set_environment("SIMULATOR_GPUS", "2")
        self.check([["CUDA_VISIBLE_DEVICES=0,1"], ["CUDA_VISIBLE_DEVICES=1,0"]])

    @needs_simulator
    def test_one_gpu_that_looks_like_two_hosts(self):
        self.check([["NCCL_HOSTID=one"], ["NCCL_HOSTID=two"]], "comm.reduce=nccl")

    @needs_simulator
    def test_shards_of_the_optimizer_s_state(self):
        """Gathered by NCCL: what a rank holds is what was predicted, and less than all."""
        self.set_environment("SIMULATOR_GPUS", "2")
        for precision in ("fp32", "bf16"):
            job = ("gpt.yaml", CUDA, f"train.precision={precision}", "train.recompute=none", "train.reproducible=true",
                   "device.sanitize=true")
            whole = self.train(*job, ranks=2)
            run = self.train(*job, "train.shard_optimizer=true", ranks=2)
            self.assertIn("all-reduce by nccl", run.logs[0])
            self.assertEqual((run.losses, run.lines[-1]["weights"]), (whole.losses, whole.lines[-1]["weights"]))
            self.assert_priced(run)

    @needs_simulator
    def test_nccl_refuses_one_gpu_twice(self):
        self.runs += 1
        arguments = ["train", "mlp.yaml", CUDA, "comm.reduce=nccl", "run.folder=run"]
        finished = self.headroom(*arguments, ranks=2, code=2)
        self.assertEqual(len(finished.complaints), 1, finished.err)
        self.assertIn("command line: comm.reduce=nccl: nccl needs a GPU for each rank", finished.complaints[0])
        self.set_environment("NCCL_HOSTID", "one")
        finished = self.headroom(*arguments, ranks=2, code=1)
        self.assertIn("NCCL: ncclCommInitRank", finished.complaints[0])
        self.assertIn("Duplicate GPU", finished.complaints[0])

    @needs_simulator
    def test_nccl_without_gpus(self):
        self.set_environment("SIMULATOR_GPUS", "0")
        for ranks in (1, 2):
            finished = self.headroom("train", "mlp.yaml", "comm.reduce=nccl", "device.capacity=128MiB",
                                     "run.folder=run", ranks=ranks, code=2)
            self.assertEqual(len(finished.complaints), 1, finished.err)
            self.assertIn("command line: comm.reduce=nccl: nccl adds up between GPUs, and this runs on the CPU, "
                          "because the NVIDIA driver finds no GPU; allowed here: auto, mpi", finished.complaints[0])


@needs_simulator
class Sanitized(CudaTest):
    """Nothing is found where sums by NCCL run beside the last micro-step, as copies of samples, and of what is
    offloaded, beside kernels."""

    def test_nothing_is_found(self):
        self.set_environment("SIMULATOR_GPUS", "2")
        deep = ["model.block_count=5", "train.recompute=offload"]
        for config, more in (("gpt.yaml", []), ("gpt.yaml", deep), ("mlp.yaml", [])):
            overrides = [CUDA, "train.steps=3", "train.global_batch_size=8", "train.micro_batch_size=3",
                         "comm.bucket_bytes=16KiB", *more]
            reference = self.train(config, *overrides, ranks=2)
            run = self.train(config, *overrides, "device.sanitize=true", ranks=2)
            self.assertIn("all-reduce by nccl", run.logs[0])
            self.assert_close_losses(run, reference, f"{config}, sanitized", 2e-5)


@needs_simulator
class FullGpu(CudaTest):
    """Code is loaded when it first runs, and takes memory of the device: there must be some left for it."""

    def setUp(self):
        super().setUp()
        self.set_environment("SIMULATOR_GPU_BYTES", "64MiB")
        self.set_environment("SIMULATOR_CODE_BYTES", "256KiB")

    def train_full(self, *overrides, ranks=None):
        """In training and in validation."""
        run = self.train("mlp.yaml", CUDA, "train.steps=1", "data.validation_samples=400", *overrides, ranks=ranks)
        for line in (run.steps[0], run.evaluations[0]):
            for rank in line["ranks"]:
                self.assertGreater(rank["accumulation_steps"], 1)
                self.assertGreaterEqual(rank["reserved_peak_bytes"], 54 << 20)
        return run

    def test_one_rank(self):
        for precision, samples in (("fp32", 400), ("bf16", 800)):
            self.train_full(f"train.precision={precision}", f"train.global_batch_size={samples}")

    def test_two_ranks_by_nccl(self):
        self.set_environment("SIMULATOR_GPUS", "2")
        run = self.train_full("train.global_batch_size=800", ranks=2)
        self.assertIn("all-reduce by nccl", run.logs[0])


class Neighbours(CudaTest):
    def start_neighbour(self):
        process = subprocess.Popen([NEIGHBOUR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.stdin.close)
        return process

    def tell(self, process, line):
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        self.assertTrue(process.stdout.readline().startswith("done"))

    def free_bytes(self):
        command = ["nvidia-smi", "--id=0", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
        return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0]) << 20

    def test_one_that_comes_and_goes(self):
        """It leaves room for a few samples at once, returns its memory after three steps, and costs time only. On a
        real GPU a process's context takes hundreds of MiB, so there samples are 32 times as large, and steps fast. So
        wide a layer learns by small steps: large ones turn roundings into other losses."""
        if SIMULATED:
            neighbour = self.start_neighbour()
            left, width, steps = 50 << 20, 32768, 15
        else:
            neighbour, other = self.start_neighbour(), self.start_neighbour()
            self.tell(neighbour, "give")
            before = self.free_bytes()
            self.tell(other, "give")
            context = before - self.free_bytes()
            other.stdin.close()
            other.wait()
            left, width, steps = context + (640 << 20), 1048576, 30
        overrides = [f"train.steps={steps}", f"model.layers=[16, {width}, 10]", f"optimizer.learning_rate={10 / width}"]
        reference = self.train("mlp.yaml", CUDA, *overrides)
        self.tell(neighbour, f"leave {left}")
        launch = self.start("train", "mlp.yaml", CUDA, *overrides, "comm.kind=self", "run.folder=squeezed")
        self.wait_for_steps(launch, "squeezed", 3)
        self.tell(neighbour, "give")
        finished = launch.wait()
        self.assertEqual(finished.code, 0, finished.err)
        run = headroom_run.Run(self.path("squeezed"), finished)
        micro_batches = run.of_rank(0, "micro_batch")
        self.assertLess(micro_batches[0], 64)
        self.assertEqual(micro_batches[-1], 64, micro_batches)
        self.assert_close_losses(run, reference, "a neighbour that comes and goes", 2e-5)

    @needs_simulator
    def test_one_that_takes_the_last_byte(self):
        """Even what code of other sizes would take: the evaluation has one that no step had."""
        self.set_environment("SIMULATOR_CODE_BYTES", "2MiB")
        overrides = [CUDA, "train.steps=19", "train.global_batch_size=4", "data.validation_samples=64"]
        reference = self.train("gpt.yaml", *overrides)
        neighbour = self.start_neighbour()
        launch = self.start("train", "gpt.yaml", *overrides, "comm.kind=self", "run.folder=full")
        self.wait_for_steps(launch, "full", 3)
        self.tell(neighbour, "leave 0")
        finished = launch.wait()
        self.assertEqual(finished.code, 0, finished.err)
        run = headroom_run.Run(self.path("full"), finished)
        self.assert_close_losses(run, reference, "a neighbour that takes all", 2e-5)
        self.assertAlmostEqual(run.evaluations[0]["loss"], reference.evaluations[0]["loss"], delta=2e-5)


@needs_simulator
class NoGpu(CudaTest):
    """One line, and the CPU where the configuration leaves the choice."""

    CASES = [({"SIMULATOR_DRIVER": "none"}, "no NVIDIA driver is installed on this machine"),
             ({"SIMULATOR_DRIVER": "insufficient"}, "and this program needs one for CUDA"),
             ({"SIMULATOR_GPUS": "0"}, "the NVIDIA driver finds no GPU"),
             ({"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES is ''")]

    def test_cuda_ends_with_one_line(self):
        for environment, line in self.CASES:
            with self.subTest(line), mock.patch.dict(os.environ, environment):
                finished = self.headroom("train", "mlp.yaml", CUDA, "run.folder=run", "comm.kind=self", code=1)
                self.assertEqual(len(finished.complaints), 1, finished.err)
                self.assertIn(line, finished.complaints[0])

    def test_auto_takes_the_cpu_and_says_so(self):
        self.set_environment("SIMULATOR_GPUS", "0")
        run = self.train("mlp.yaml", "device.capacity=128MiB", ranks=2)
        self.assertIn("device.kind auto: on the CPU, because the NVIDIA driver finds no GPU", run.finished.out)
        self.assertIn("device cpu", run.logs[1])

    def test_one_rank_without_a_gpu_takes_all_to_the_cpu(self):
        finished = self.headroom_each([[], ["SIMULATOR_GPUS=0"]], "train", "mlp.yaml", "run.folder=run",
                                      "device.capacity=128MiB")
        run = headroom_run.Run(self.path("run"), finished)
        self.assertIn("device.kind auto: on the CPU, because of rank 1: the NVIDIA driver finds no GPU",
                      run.finished.out)
        self.assertIn("device cpu", run.logs[0])

    def test_auto_takes_the_gpu(self):
        run = self.train("mlp.yaml", "train.steps=1")
        self.assertIn("device cuda", run.logs[0])
        self.assertNotIn("device.kind auto", run.finished.out)

    def test_a_plan_needs_none(self):
        self.set_environment("SIMULATOR_GPUS", "0")
        planned = self.headroom("plan", "mlp.yaml", CUDA, "device.capacity=48MiB")
        self.assertIn("micro-batch", planned.out)


@needs_simulator
class Failures(CudaTest):
    def test_a_kernel_that_fails_ends_the_job_with_its_line(self):
        for ranks in (None, 2):
            self.set_environment("SIMULATOR_FAIL_AFTER", "150")
            alone = ["comm.kind=self"] if ranks is None else []
            finished = self.headroom("train", "gpt.yaml", CUDA, f"run.folder=run-{ranks}", *alone, ranks=ranks, code=1)
            self.assertIn("an illegal memory access was encountered", finished.complaints[0])
            self.assertIn("Simulated GPU", finished.complaints[0])

    def test_a_sum_that_fails_on_one_rank_ends_the_job(self):
        self.set_environment("SIMULATOR_GPUS", "2")
        for call in (0, 3, 30):  # while connecting, early, in the middle
            finished = self.headroom_each([[], [f"SIMULATOR_FAIL_SUM={call}"]], "train", "mlp.yaml", CUDA,
                                          f"run.folder=run-{call}", "train.steps=1000000", code=1)
            self.assertIn("NCCL: all-reduce: ", finished.complaints[0])

    def test_a_rank_killed_amid_sums_ends_the_job(self):
        self.set_environment("SIMULATOR_GPUS", "2")
        launch = self.start("train", "mlp.yaml", CUDA, "train.steps=1000000", "run.folder=run", ranks=2)
        self.wait_for_steps(launch, "run", 3)
        os.kill(launch.rank_processes()[1], signal.SIGKILL)
        finished = launch.wait(timeout_s=20)
        self.assertNotEqual(finished.code, 0)
        self.assertRegex(finished.err, r"rank 1 .*signal 9")


class Placement(CudaTest):
    TOPOLOGY = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
  <object type="Machine" os_index="0" cpuset="0x00000003" complete_cpuset="0x00000003" allowed_cpuset="0x00000003"
          nodeset="0x00000003" complete_nodeset="0x00000003" allowed_nodeset="0x00000003" gp_index="1">
    {packages}
  </object>
</topology>
"""
    PACKAGE = """<object type="Package" os_index="{0}" cpuset="{1}" complete_cpuset="{1}" nodeset="{1}" complete_nodeset="{1}"
        gp_index="1{0}">
      <object type="NUMANode" os_index="{0}" cpuset="{1}" complete_cpuset="{1}" nodeset="{1}" complete_nodeset="{1}"
              gp_index="2{0}" local_memory="1073741824"/>
      <object type="Core" os_index="{0}" cpuset="{1}" complete_cpuset="{1}" nodeset="{1}" complete_nodeset="{1}" gp_index="3{0}">
        <object type="PU" os_index="{0}" cpuset="{1}" complete_cpuset="{1}" nodeset="{1}" complete_nodeset="{1}" gp_index="4{0}"/>
      </object>
      {2}
    </object>"""
    GPU = """<object type="Bridge" gp_index="50" bridge_type="0-1" depth="0" bridge_pci="0000:[00-ff]">
        <object type="PCIDev" gp_index="51" pci_busid="0000:01:00.0" pci_type="0302 [10de:2335] [10de:18be] a1" pci_link_speed="0"/>
      </object>"""

    @needs_simulator
    def test_the_host_side_is_bound_near_its_gpu(self):
        packages = self.PACKAGE.format(0, "0x00000001", "") + self.PACKAGE.format(1, "0x00000002", self.GPU)
        self.write("machine.xml", self.TOPOLOGY.format(packages=packages))
        self.set_environment("HWLOC_XMLFILE", self.path("machine.xml"))
        run = self.train("mlp.yaml", CUDA, "train.steps=1")
        self.assertIn("bound to the cores near the device 0000:01:00.0: 1", run.logs[0])

    @needs_simulator
    def test_libraries_and_others_are_told(self):
        run = self.train("mlp.yaml", CUDA, "train.steps=1")
        self.assertRegex(run.logs[0], r"CUDA, cuBLASLt and NCCL hold [1-9]\d+ bytes of the device")
        self.assertIn("0 other processes hold 0 bytes of the device", run.logs[0])
        self.assertIn("of rank 0's device, CUDA, cuBLASLt and NCCL hold ", run.finished.out)


class Profile(CudaTest):
    def test_a_profiler_sees_steps_micro_steps_and_operations(self):
        self.set_environment("NVTX_INJECTION64_PATH", os.environ["HEADROOM_NVTX_NAMES"])
        self.set_environment("NVTX_NAMES", self.path("names"))
        self.train("gpt.yaml", CUDA, "train.steps=2", "train.micro_batch_size=4", "data.validation_samples=0")
        with open(self.path("names"), encoding="utf-8") as file:
            lines = file.read().splitlines()
        steps = [i for i, line in enumerate(lines) if line.startswith("step ")]
        self.assertEqual([lines[i] for i in steps], ["step 0", "step 1"])
        self.assertEqual(lines[steps[0] + 1], "  micro-step")
        self.assertEqual(lines[steps[0]:steps[1]].count("  micro-step"), 2)
        for name in ("embedding", "attention", "attention_backward", "cross_entropy"):
            self.assertEqual(lines[steps[0]:steps[1]].count(f"    {name}"), 2, name)

    def test_a_few_steps_are_timed(self):
        self.write("long.yaml", GPT.replace("steps: 6", "steps: 1000"))
        run = self.train("long.yaml", CUDA, "--profile", "2")
        self.assertEqual(len(run.steps), 5)
        self.assertEqual(run.evaluations, [])
        for name in ("attention_backward", "linear", "all-reduce, not hidden", "clipping, optimizer", "hints"):
            self.assertIn(name, run.finished.out)


if __name__ == "__main__":
    headroom_run.main()
