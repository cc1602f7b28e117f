#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tests/gpu/bundle.py make BUILD FOLDER: gathers what the tests labelled gpu and tests/gpu/run need of a build with
tests and benchmarks, so that it runs at any path of any machine of the same processor and a C library at least as new:
programs, their libraries, Open MPI's launcher and plugins. CUDA's own libraries are not part of it.

tests/gpu/bundle.py test FOLDER [REGEX]: runs these tests, or those whose names match, one after the other, as ctest
would. A source tree is needed: the one that this file is in.

In a bundle bin/ has a small script for each of programs/ that says where its libraries are, and so leaves those of
everything else alone: lib/, then HEADROOM_CUDA_LIBRARIES.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
LABEL = "^gpu$"
PROGRAMS = ["headroom", "bench/bench_device", "bench/bench_kernels"]  # beside what tests name
MPIRUN = "mpirun"
# Of the machine that it runs on: the C library and what belongs to it, CUDA, and the driver.
FOREIGN = re.compile(r"(ld-linux|lib(c|m|dl|rt|pthread|resolv|util|cublas|cublasLt|nccl|cuda|nvidia-ml)\.so)")
# Not for sh: dash takes exported functions, which tests/gpu/run has, out of the environment.
WRAPPER = """#!/usr/bin/env bash
here=$(dirname "$0")/..
here=$(cd "$here" && pwd)
more=${HEADROOM_CUDA_LIBRARIES:+:$HEADROOM_CUDA_LIBRARIES}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH="$here/lib$more"
export OPAL_PKGLIBDIR="$here/openmpi" OPAL_PKGDATADIR="$here/openmpi/share" PMIX_PKGLIBDIR="$here/pmix"
exec "$here/programs/%s" "$@"
"""


def libraries(program):
    """name -> path of all that the loader finds for it."""
    listed = subprocess.run(["ldd", str(program)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found = dict(re.findall(r"^\s*(\S+) => (\S+)", listed.stdout, re.MULTILINE))
    return {name: path for name, path in found.items() if not FOREIGN.match(name)}


class Bundle:
    def __init__(self, build, folder):
        self.build, self.folder = build.resolve(), folder.resolve()
        self.lacking = set()
        for name in ("bin", "programs", "lib", "modules", "openmpi", "pmix"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(parents=True)

    def copy(self, path, to):
        """Without what only a debugger reads."""
        target = self.folder / to
        if not target.exists():
            shutil.copy(path, target)
            subprocess.run(["strip", "--strip-debug", str(target)], check=False)

    def add_libraries(self, program):
        for name, path in libraries(program).items():
            if path == "not":  # found
                self.lacking.add(name)
            else:
                self.copy(path, f"lib/{name}")

    def add_program(self, path):
        name = pathlib.Path(path).name
        self.copy(path, f"programs/{name}")
        self.add_libraries(path)
        wrapper = self.folder / "bin" / name
        wrapper.write_text(WRAPPER % name)
        wrapper.chmod(0o755)
        return f"{{bundle}}/bin/{name}"

    def add(self, path):
        """A program, a module or a folder of the build; answers where it is in the bundle."""
        if os.path.isdir(path):
            shutil.copytree(path, self.folder / "modules" / path.name, dirs_exist_ok=True)
            return f"{{bundle}}/modules/{path.name}"
        if path.suffix == ".so":
            self.copy(path, f"modules/{path.name}")
            return f"{{bundle}}/modules/{path.name}"
        return self.add_program(path)

    def add_plugins(self, folder, to):
        """Those that need no library beside what is there: none for networks that a single machine does not use."""
        for plugin in sorted(folder.glob("*.so")):
            if all((self.folder / "lib" / name).exists() for name in libraries(plugin)):
                self.copy(plugin, f"{to}/{plugin.name}")

    def add_mpi(self):
        launcher = shutil.which(MPIRUN)
        if launcher is None:
            sys.exit(f"bundle.py: there is no {MPIRUN}")
        self.add_program(launcher)
        listed = subprocess.run(["ompi_info", "--parsable", "--path", "pkglibdir", "--path", "pkgdatadir"],
                                stdout=subprocess.PIPE, text=True, check=True).stdout
        paths = dict(re.findall(r"^path:(\w+):(.*)$", listed, re.MULTILINE))
        plugins = pathlib.Path(paths["pkglibdir"])
        for plugin in plugins.glob("mca_pmix_ext*.so"):  # how ranks find each other, where PMIx is not Open MPI's own
            self.add_libraries(plugin)
            pmix = libraries(plugin).get("libpmix.so.2")
            if pmix is not None:
                self.add_plugins(pathlib.Path(os.path.realpath(pmix)).parent / "pmix", "pmix")
        self.add_plugins(plugins, "openmpi")
        shutil.copytree(paths["pkgdatadir"], self.folder / "openmpi/share")

    def relocate(self, text, launcher, python):
        """With the bundle's paths instead of the build's; what they name becomes part of it."""
        text = re.sub(re.escape(str(self.build)) + r"/[^\s;:]+", lambda path: self.add(pathlib.Path(path[0])), text)
        text = text.replace(str(SOURCE), "{source}")
        text = re.sub(rf"(^|[ =]){re.escape(launcher)}(?= |$)", rf"\1{{bundle}}/bin/{MPIRUN}", text)
        return "{python}" if text == python else text


def cached(build, name):
    match = re.search(rf"^{name}:\w+=(.*)$", (build / "CMakeCache.txt").read_text(), re.MULTILINE)
    return "" if match is None else match[1]


def make(build, folder):
    if cached(build, "CMAKE_HOME_DIRECTORY") != str(SOURCE):
        sys.exit(f"bundle.py: {build} is no build of {SOURCE}")
    listed = subprocess.run(["ctest", "--test-dir", str(build), "--label-regex", LABEL, "--show-only=json-v1"],
                            stdout=subprocess.PIPE, text=True, check=True)
    launcher = cached(build, "MPIEXEC_EXECUTABLE")
    bundle, tests = Bundle(build, folder), []
    for name in PROGRAMS:
        bundle.add_program(bundle.build / name)
    bundle.add_mpi()
    for test in json.loads(listed.stdout)["tests"]:
        properties = {one["name"]: one["value"] for one in test["properties"]}
        python = test["command"][0] if "python" in pathlib.Path(test["command"][0]).name else None
        tests.append({
            "name": test["name"],
            "command": [bundle.relocate(part, launcher, python) for part in test["command"]],
            "environment": [bundle.relocate(part, launcher, None) for part in properties.get("ENVIRONMENT", [])],
            "timeout_s": properties.get("TIMEOUT", 300),
            "skip_code": properties.get("SKIP_RETURN_CODE"),
        })
    (folder / "tests.json").write_text(json.dumps(tests, indent=1))
    if bundle.lacking:
        sys.exit(f"bundle.py: libraries that are not found: {', '.join(sorted(bundle.lacking))}")
    print(f"{len(tests)} tests in {folder}")


def run_test(test, folder):
    """Its code, "skipped" or "timeout", and what it printed."""
    def place(text):
        for name, value in (("bundle", folder), ("source", SOURCE), ("python", sys.executable)):
            text = text.replace(f"{{{name}}}", str(value))
        return text
    environment = dict(os.environ, **dict(place(pair).split("=", 1) for pair in test["environment"]))
    process = subprocess.Popen([place(part) for part in test["command"]], cwd=SOURCE, env=environment,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", start_new_session=True)
    try:
        output, _ = process.communicate(timeout=test["timeout_s"])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return "timeout", process.communicate()[0]
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return "skipped" if process.returncode == test["skip_code"] else process.returncode, output


def test(folder, regex):
    failed = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # with what it has started
    for one in json.loads((folder / "tests.json").read_text()):
        if re.search(regex, one["name"]):
            start = time.monotonic()
            code, output = run_test(one, folder)
            print(output, end="")
            words = {0: "passed", "skipped": "skipped", "timeout": "takes too long"}.get(code, f"FAILED, code {code}")
            print(f"{one['name']:<32} {words:<16} {time.monotonic() - start:6.1f} s", flush=True)
            failed += [] if code in (0, "skipped") else [one["name"]]
    print(f"failed: {', '.join(failed)}" if failed else "none failed")
    sys.exit(bool(failed))


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "make":
        make(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    elif len(sys.argv) in (3, 4) and sys.argv[1] == "test":
        test(pathlib.Path(sys.argv[2]).resolve(), (sys.argv[3:] or [""])[0])
    else:
        sys.exit(__doc__)


main()
