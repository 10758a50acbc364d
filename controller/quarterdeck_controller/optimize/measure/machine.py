"""Which instruction sets this machine has."""

import platform
from pathlib import Path

from quarterdeck_shared.device import Isa

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
