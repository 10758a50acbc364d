"""What this machine is, and whether it is one of a device class."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from quarterdeck_controller.optimize.evaluation import LatencyKnown
from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_shared.device import Capabilities, Isa

CPU = "CPUExecutionProvider"

X86: tuple[tuple[str, Isa], ...] = (
    ("avx2", "avx2"),
    ("avx512_vnni", "avx512-vnni"),
    ("avx_vnni", "avx-vnni"),
)
ARM: tuple[tuple[str, Isa], ...] = (
    ("asimddp", "dotprod"),
    ("i8mm", "i8mm"),
    ("asimdhp", "fp16"),
)


def latency_known(profile: Profile, isa: Sequence[str]) -> LatencyKnown:
    """Return what a latency measured on a machine with ``isa`` is to the class. Pure.

    Everything is measured on the CPU: a class with another provider is stood in for.
    """
    alike = set(profile.isa) <= set(isa) and not set(profile.isa_absent) & set(isa)
    return "measured" if alike and profile.provider == CPU else "estimated"


def machine_capabilities() -> Capabilities:
    """Return what this machine would report as a device."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Capabilities(
        isa=machine_isa(),
        memory_mb=pages >> 20,
        cpus=len(os.sched_getaffinity(0)),
        runtime=version("onnxruntime"),
        providers=(CPU,),
    )


def machine_isa() -> tuple[Isa, ...]:
    """Return what the CPU under this process offers."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        text = ""
    return isa_of(platform.machine(), text)


def isa_of(machine: str, cpuinfo: str) -> tuple[Isa, ...]:
    """Return the instruction sets that ``cpuinfo`` names. Pure."""
    lines = cpuinfo.splitlines()
    flags = next((x for x in lines if x.lower().startswith(("flags", "features"))), "")
    words = set(flags.partition(":")[2].split())
    if machine in ("x86_64", "AMD64"):
        return ("x86-64", *(isa for word, isa in X86 if word in words))
    if machine in ("aarch64", "arm64"):
        return ("aarch64", *(isa for word, isa in ARM if word in words))
    return ()
