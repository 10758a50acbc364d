"""What a device is: its capabilities, and what a device class asks for."""

from typing import Literal

from pydantic import Field

from quarterdeck_shared.wire import Wire

Isa = Literal[
    "x86-64", "avx2", "avx512-vnni", "avx-vnni", "aarch64", "dotprod", "i8mm", "fp16"
]
"""Instruction sets that decide how int8 kernels behave."""


class Capabilities(Wire):
    """What the agent found on its machine.

    Attributes:
        isa: Instruction sets the CPU offers.
        memory_mb: Physical memory, MiB.
        cpus: Cores this process may use.
        runtime: Version of onnxruntime, such as ``1.32.0``.
        providers: Execution providers the runtime offers.
        simulated: True when the machine was told to pretend to be another kind,
            as the demo does; every report carries it on.
    """

    isa: tuple[Isa, ...] = Field(max_length=16)
    memory_mb: int = Field(ge=1, le=1 << 24)
    cpus: int = Field(ge=1, le=4096)
    runtime: str = Field(max_length=32)
    providers: tuple[str, ...] = Field(max_length=16)
    simulated: bool = False


class Requirements(Wire):
    """What a device must have to run an artifact.

    Attributes:
        isa: Instruction sets that must all be there.
        memory_mb: Physical memory that must be there, MiB.
        runtime: Lowest onnxruntime version.
        provider: Execution provider that must be there.
    """

    isa: tuple[Isa, ...] = Field(max_length=16)
    memory_mb: int = Field(ge=1, le=1 << 24)
    runtime: str = Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+){1,3}$")
    provider: str = Field(max_length=64)


def lacking(have: Capabilities, need: Requirements) -> str | None:
    """Return the first thing ``have`` lacks, as a sentence, or None."""
    missing = [isa for isa in need.isa if isa not in have.isa]
    if missing:
        return f"needs {', '.join(missing)}, this CPU has {', '.join(have.isa)}"
    if have.memory_mb < need.memory_mb:
        return f"needs {need.memory_mb} MiB of memory, this device has {have.memory_mb}"
    if _version(have.runtime) < _version(need.runtime):
        return f"needs onnxruntime {need.runtime}, this device has {have.runtime}"
    if need.provider not in have.providers:
        return f"needs {need.provider}, the runtime has {', '.join(have.providers)}"
    return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())
