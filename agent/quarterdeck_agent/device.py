"""What this machine can do, found without loading the runtime."""

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from quarterdeck_shared.device import Capabilities, Isa

_X86: dict[str, Isa] = {
    "avx2": "avx2",
    "avx512_vnni": "avx512-vnni",
    "avx_vnni": "avx-vnni",
}
_ARM: dict[str, Isa] = {"asimddp": "dotprod", "i8mm": "i8mm", "fphp": "fp16"}
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def fingerprint(simulate_isa: Sequence[Isa] | None = None) -> Capabilities:
    """Return the machine's capabilities, or with another CPU's instruction sets."""
    found = isa(platform.machine(), _cpu_flags())
    return Capabilities(
        isa=found if simulate_isa is None else tuple(simulate_isa),
        memory_mb=_memory_mb(),
        cpus=len(os.sched_getaffinity(0)),
        runtime=_runtime(),
        providers=("CPUExecutionProvider",),
        simulated=simulate_isa is not None,
    )


def isa(machine: str, flags: frozenset[str]) -> tuple[Isa, ...]:
    """Return the instruction sets that ``flags`` of /proc/cpuinfo stand for."""
    base: Isa = "aarch64" if machine in ("aarch64", "arm64") else "x86-64"
    known = _ARM if base == "aarch64" else _X86
    return (base, *(name for flag, name in known.items() if flag in flags))


def _cpu_flags() -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _memory_mb() -> int:
    """Return the memory this process may use: the machine's, or its group's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        try:
            total = min(total, int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return max(1, total >> 20)


def _runtime() -> str:
    """Return the version of onnxruntime; "0" when there is none."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "0"
