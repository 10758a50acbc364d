"""Run a variant on processors that are not here, under user-mode emulation.

``deploy/emulation/install`` brings the emulator, and for aarch64 a small root with
Python, numpy and onnxruntime. x86-64 processors run this very Python. Emulation shows
which numbers a processor gives, never how fast. The emulator is a child with limits on
time and memory; whatever happens in it becomes a refusal that says so.
"""

import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from quarterdeck_controller.optimize.data.stored import Feed, Stored, Writer
from quarterdeck_controller.optimize.steps import EmulateRequest, Ran, RunRequest
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.session import LOG_NOTHING

FOLDER_VARIABLE = "QUARTERDECK_EMULATION"
INSTALL = "get it with: deploy/emulation/install"
MAX_TOLD = 300
EMULATED_S = 280.0
"""What an emulator may take: less than its step, so that it can be told."""
MIB = 1 << 20

Architecture = Literal["x86_64", "aarch64"]


@dataclass(frozen=True, slots=True)
class Processor:
    """What an emulated processor must turn out to be, in numpy's words.

    Attributes:
        has: An instruction set it has.
        lacks: What the name of none that it has begins with.
    """

    architecture: Architecture
    has: str
    lacks: str


_AVX = Processor("x86_64", has="AVX", lacks="AVX2")
_AVX2 = Processor("x86_64", has="AVX2", lacks="AVX512")
_PLAIN = Processor("aarch64", has="ASIMD", lacks="ASIMDDP")
_DOT = Processor("aarch64", has="ASIMDDP", lacks="ASIMDFHM")
_MATRIX = Processor("aarch64", has="ASIMDFHM", lacks="AVX")

PROCESSORS: Mapping[str, Processor] = MappingProxyType(
    {
        "SandyBridge": _AVX,
        "Haswell": _AVX2,
        "Broadwell": _AVX2,
        "Skylake-Client": _AVX2,
        "EPYC": _AVX2,
        "EPYC-Rome": _AVX2,
        "EPYC-Milan": _AVX2,
        "cortex-a35": _PLAIN,
        "cortex-a53": _PLAIN,
        "cortex-a57": _PLAIN,
        "cortex-a72": _PLAIN,
        "cortex-a55": _DOT,
        "cortex-a76": _DOT,
        "neoverse-n1": _DOT,
        "cortex-a710": _MATRIX,
        "neoverse-n2": _MATRIX,
        "neoverse-v1": _MATRIX,
    }
)
"""By the emulator's name. x86-64 processors with AVX-512 are missing: the emulator has
none of it, and would quietly run what an older processor does."""


@dataclass(frozen=True, slots=True)
class Emulator:
    """How Python is run on an emulated processor.

    Attributes:
        command: What stands before the program and its arguments.
        runtime: The version of onnxruntime there.
    """

    processor: str
    command: tuple[str, ...]
    runtime: str


def find_emulator(processor: str) -> Emulator | str:
    """Return how to run on ``processor``, or why not and what to do about it."""
    kind = PROCESSORS.get(processor)
    if kind is None:
        known = ", ".join(PROCESSORS)
        return f"{processor!r} cannot be emulated; these can: {known}"
    qemu = _find_qemu(kind.architecture)
    if qemu is None:
        return f"there is no emulator of {kind.architecture} here; {INSTALL}"
    base = (str(qemu), "-cpu", processor, "-U", "LD_PRELOAD", "-U", "LD_LIBRARY_PATH")
    if kind.architecture == "x86_64":
        return _this_python(processor, base)
    return _python_in(emulation_folder() / kind.architecture, processor, base)


def emulation_folder() -> Path:
    """Return where ``deploy/emulation/install`` puts the emulator and what it runs."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "quarterdeck/emulation"


def emulate(request: EmulateRequest) -> Ran:
    """Carry out the step: as ``run_emulated``, by the emulator that is here.

    Raises:
        RejectedError: As there; ``INCOMPATIBLE`` also when there is no emulator.
    """
    emulator = find_emulator(request.processor)
    if isinstance(emulator, str):
        raise RejectedError(Code.INCOMPATIBLE, emulator)
    asked = RunRequest(
        model=request.model,
        out=request.out,
        samples=request.samples,
        session=request.session,
        batch=1,
        rows=request.rows,
    )
    return run_emulated(emulator, asked, seconds=EMULATED_S)


def run_emulated(
    emulator: Emulator,
    request: RunRequest,
    *,
    seconds: float,
    memory_mb: int = 4096,
) -> Ran:
    """Do what the ``run`` step does, on the emulated processor.

    Args:
        emulator: From ``find_emulator``.
        request: As for the ``run`` step; how many threads it names does not matter.
        seconds: Wall-clock time after which the emulator is ended.
        memory_mb: Address space of the emulator, MiB.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the model cannot be run there, did not end
            in time, or crashed; ``INCOMPATIBLE`` when the emulator itself does not work
            or is not the processor that it should be.
    """
    request.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="emulated-", dir=request.out.parent
    ) as name:
        work = Path(name)
        counts = _ask(work, request)
        how = _carry_out(emulator, work, seconds, memory_mb)
        _check_processor(emulator, work, how)
        if how:
            raise RejectedError(
                Code.MODEL_INVALID,
                f"the model failed on an emulated {emulator.processor}: {how}",
            )
        _store(work, counts, request.out)
    return Ran(count=sum(counts))


# finding ------------------------------------------------------------------------------


def _find_qemu(architecture: Architecture) -> Path | None:
    own = emulation_folder() / "qemu/usr/bin" / f"qemu-{architecture}"
    if own.is_file():
        return own
    names = (f"qemu-{architecture}-static", f"qemu-{architecture}")
    found = next(filter(None, map(shutil.which, names)), None)
    return Path(found) if found else None


def _this_python(processor: str, base: tuple[str, ...]) -> Emulator | str:
    if platform.machine() != "x86_64":
        return (
            f"{processor} is emulated with this machine's own Python, "
            f"which is for {platform.machine()}; do it on an x86-64 machine"
        )
    runtime = metadata.version("onnxruntime")
    return Emulator(processor, (*base, sys.executable, "-P"), runtime)


def _python_in(root: Path, processor: str, base: tuple[str, ...]) -> Emulator | str:
    site, python = root / "site", root / "usr/bin/python3.11"
    there = metadata.distributions(name="onnxruntime", path=[str(site)])
    runtime = next((one.version for one in there), None)
    if runtime is None or not python.is_file():
        return f"there is no Python with onnxruntime in {root}; {INSTALL}"
    inside = ("-L", str(root), "-U", "PYTHONHOME", "-E", f"PYTHONPATH={site}")
    return Emulator(processor, (*base, *inside, str(python), "-P", "-S"), runtime)


# asking -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Options:
    """Takes what a session tells the runtime's options, to be told over there."""

    intra_op_num_threads: int = 1
    inter_op_num_threads: int = 1
    log_severity_level: int = LOG_NOTHING
    enable_cpu_mem_arena: bool = True
    enable_mem_pattern: bool = True
    entries: dict[str, str] = field(default_factory=dict)

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


def _ask(work: Path, request: RunRequest) -> tuple[int, ...]:
    """Write what the program reads; return how many samples each run has."""
    stored, counts = Stored.open(request.samples), list[int]()
    single = request.batch == 1 or not stored.uniform
    for number, feed in enumerate(stored.batches(request.batch, request.rows)):
        np.savez(work / f"{number}-in.npz", *feed.values())
        counts.append(1 if single else len(next(iter(feed.values()))))
    told = _Options()
    request.session.model_copy(update={"threads": 1}).configure(told)
    options = asdict(told)
    asked = {
        "model": str(request.model.absolute()),
        "entries": options.pop("entries"),
        "options": options,
        "inputs": stored.names,
        "runs": len(counts),
    }
    (work / "request.json").write_text(json.dumps(asked), "utf-8")
    return tuple(counts)


# running ------------------------------------------------------------------------------


def _carry_out(emulator: Emulator, work: Path, seconds: float, memory_mb: int) -> str:
    """Run the program; return how it failed, or nothing."""
    with (work / "stderr").open("wb") as stderr:
        try:
            process = _start(emulator, work, int(seconds) + 1, stderr.fileno())
        except OSError as error:
            return f"{emulator.command[0]} cannot be started: {error.strerror}"
        try:
            _limit(process.pid, memory_mb * MIB, int(seconds) + 1)
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"it did not end within {seconds:g} s"
        finally:
            _end(process)
    return _how_it_ended(code, work / "stderr")


def _start(
    emulator: Emulator, work: Path, seconds: int, stderr: int
) -> subprocess.Popen[bytes]:
    program = Path(__file__).with_name("emulated_run.py")
    words = [str(program), str(work.absolute()), str(seconds), str(os.getpid())]
    return subprocess.Popen(
        [*emulator.command, *words],
        stdin=subprocess.DEVNULL,
        stdout=stderr,
        stderr=stderr,
        cwd=work,  # where the emulator would leave what it dumps
        env=_environment(work),
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:  # else the group's number may be another's by now
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _limit(pid: int, size: int, seconds: int) -> None:
    """Limit the emulator from outside: what is set inside is the guest's own."""
    try:
        resource.prlimit(pid, resource.RLIMIT_AS, (size, size))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        resource.prlimit(pid, resource.RLIMIT_CPU, (2 * seconds, 2 * seconds))
    except ProcessLookupError:
        return  # it has ended already; its exit code says how


def _environment(work: Path) -> dict[str, str]:
    fixed = {
        "TMPDIR": str(work),
        "PYTHONHASHSEED": "0",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return os.environ | fixed


def _how_it_ended(code: int, stderr: Path) -> str:
    if code == 0:
        return ""
    told = _last_words(stderr.read_text("utf-8", "replace")[-8192:])
    if code < 0:
        names = {one.value: one.name for one in signal.Signals}
        return f"the runtime crashed ({names.get(-code, f'signal {-code}')})"
    return told or f"it ended with exit code {code}"


def _last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"qemu-\S+: warning: ", line)]
    # an exception's own name is enough, not the module it lives in
    return re.sub(r"^[\w.]+\.(\w+: )", r"\1", lines[-1])[:MAX_TOLD] if lines else ""


def _check_processor(emulator: Emulator, work: Path, how: str) -> None:
    try:
        found = json.loads((work / "processor.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise RejectedError(
            Code.INCOMPATIBLE,
            f"onnxruntime {emulator.runtime} does not start on an emulated "
            f"{emulator.processor}: {how or 'no reason given'}",
        ) from None
    wrong = what_differs(PROCESSORS[emulator.processor], found)
    if wrong:
        raise RejectedError(
            Code.INCOMPATIBLE, f"the emulated {emulator.processor} {wrong}"
        )


def what_differs(wanted: Processor, found: Mapping[str, object]) -> str:
    """Return what the processor that was ``found`` inside has wrong, or nothing."""
    machine, features = found.get("machine"), found.get("features")
    if machine != wanted.architecture or not isinstance(features, list):
        return f"is {machine}, not {wanted.architecture}"
    if wanted.has not in features:
        return f"has no {wanted.has}"
    excess = [name for name in features if name.startswith(wanted.lacks)]
    return f"has {', '.join(excess)}, which it must not have" if excess else ""


# storing ------------------------------------------------------------------------------


def _store(work: Path, counts: Sequence[int], out: Path) -> None:
    names = json.loads((work / "answer.json").read_text("utf-8"))["outputs"]
    if not names:
        raise RejectedError(
            Code.MODEL_INVALID, "none of its outputs is a tensor of numbers"
        )
    whole = {
        name
        for number, count in enumerate(counts)
        for name, array in _outputs(work, number, names).items()
        if not array.ndim or len(array) != count
    }
    if whole and max(counts) > 1:
        raise RejectedError(
            Code.MODEL_INVALID,
            f"the first dimension of {', '.join(sorted(whole))} is not the batch",
        )
    with Writer(out) as writer:
        for number in range(len(counts)):
            found = _outputs(work, number, names)
            writer.add({n: a[None] if n in whole else a for n, a in found.items()})


def _outputs(work: Path, number: int, names: Sequence[str]) -> Feed:
    with np.load(work / f"{number}-out.npz", allow_pickle=False) as arrays:
        return dict(zip(names, arrays.values(), strict=True))
