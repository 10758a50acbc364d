"""Make a profile from what a device reports. Pure.

Each decision comes with its reason, which becomes a comment in the profile's file. What
a device cannot tell, such as what accuracy may cost, is taken from the shipped class
that is closest, and said to be.
"""

import json
import textwrap
from dataclasses import dataclass
from functools import partial
from typing import Any

from quarterdeck_controller.optimize.profile import (
    Budget,
    Known,
    Profile,
    Support,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Capabilities, Isa
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.session import Session

CPU = "CPUExecutionProvider"
SMALL_MB = 640
"""Memory up to which a device is one of those where memory decides."""
BOARD_MB = 1400
MAJOR_MINOR = 2
SPARE = 0.9
"""Share of the memory that is asked for: other devices of the class report a little
less, because firmware and graphics keep different amounts."""
ROOM = 0.5
"""Share of that which one model may take."""
VNNI: frozenset[Isa] = frozenset({"avx512-vnni", "avx-vnni"})
ORDER: tuple[Isa, ...] = (
    "x86-64",
    "avx2",
    "avx512-vnni",
    "avx-vnni",
    "aarch64",
    "dotprod",
    "i8mm",
    "fp16",
)


wrap = partial(textwrap.wrap, width=88, initial_indent="# ", subsequent_indent="# ")


@dataclass(frozen=True, slots=True)
class Derived:
    """A profile, and by field why it is so.

    Attributes:
        reasons: Dotted field names with the reason, for those that were decided.
    """

    profile: Profile
    reasons: dict[str, str]


def derive(capabilities: Capabilities, name: str) -> Derived:
    """Return the profile of a class of devices like the one that reported.

    Raises:
        RejectedError: ``PROFILE_INVALID`` when its kind of processor is unknown.
    """
    have = frozenset(capabilities.isa)
    if not have & {"x86-64", "aarch64"}:
        raise RejectedError(
            Code.PROFILE_INVALID,
            "the device reports neither x86-64 nor aarch64: its kernels are unknown, "
            "write a profile by hand",
        )
    reasons: dict[str, str] = {}
    support = _support(have, capabilities.memory_mb, reasons)
    memory_mb = max(1, int(capabilities.memory_mb * SPARE))
    reasons["memory_mb"] = f"{SPARE:.0%} of the {capabilities.memory_mb} MiB reported"
    profile = Profile(
        name=name,
        description=_description(capabilities),
        isa=_needed(have, reasons),
        isa_absent=_absent(have, reasons),
        memory_mb=memory_mb,
        provider=CPU,
        runtime=_runtime(capabilities.runtime, reasons),
        prefer=_prefer(have, capabilities.memory_mb, reasons),
        budget=_budget(memory_mb, capabilities.memory_mb, reasons),
        session=_session(capabilities.memory_mb, reasons),
        support=support,
        known=Known(emulate=_emulate(have, reasons)),
    )
    others = [one for one in capabilities.providers if one != CPU]
    if others:
        reasons["provider"] = f"agents run models on the CPU; {', '.join(others)} too"
    return Derived(profile, reasons)


def to_toml(derived: Derived) -> str:
    """Return the file of a derived profile, its reasons as comments."""
    fields = derived.profile.model_dump(mode="json")
    plain = {k: v for k, v in fields.items() if not isinstance(v, dict)}
    lines = ["# Derived from what a device reports. Every field is explained in the"]
    lines += [
        "# shipped gateway-x86-vnni.toml; `quarterdeck class check` tries changes."
    ]
    lines += ["", *_table("", plain, derived.reasons)]
    for section, values in fields.items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]"]
            lines += _table(f"{section}.", values, derived.reasons)
    return "\n".join(lines) + "\n"


def _support(have: frozenset[Isa], memory_mb: int, reasons: dict[str, str]) -> Support:
    small = memory_mb <= SMALL_MB
    if small:
        reasons["support.fold"] = "weights made float at load would fill the memory"
    if "x86-64" in have and not have & VNNI:
        reasons["support.schemes"] = (
            "unsigned activations with signed weights saturate without VNNI"
        )
        return Support(schemes=("u8u8",), fold=not small)
    if "aarch64" in have and "dotprod" not in have and not small:
        reasons["support.kinds"] = (
            "without the dot product int8 is often slower than float; weights-only "
            "models are as fast as float for sure"
        )
        return Support(kinds=("weights", "static", "dynamic"))
    reasons["support.schemes"] = "its int8 kernels do not saturate"
    return Support(fold=not small)


def _needed(have: frozenset[Isa], reasons: dict[str, str]) -> tuple[Isa, ...]:
    """Return what int8 kernels are chosen by; the rest would only shut devices out."""
    left_out: set[Isa] = {"i8mm", "fp16"}
    if "avx512-vnni" in have:
        left_out |= {"avx-vnni"}
    dropped = [isa for isa in ORDER if isa in have & left_out]
    if dropped:
        reasons["isa"] = (
            f"it has {', '.join(dropped)} too: no int8 answer depends on it"
        )
    return tuple(isa for isa in ORDER if isa in have - left_out)


def _absent(have: frozenset[Isa], reasons: dict[str, str]) -> tuple[Isa, ...]:
    if "x86-64" in have and not have & VNNI:
        reasons["isa_absent"] = "other int8 kernels run where there is VNNI"
        return ("avx512-vnni", "avx-vnni")
    if "aarch64" in have and "dotprod" not in have:
        reasons["isa_absent"] = "other int8 kernels run where there is the dot product"
        return ("dotprod",)
    return ()


def _emulate(have: frozenset[Isa], reasons: dict[str, str]) -> str:
    if have & VNNI:
        reasons["known.emulate"] = "the emulator has no processor with VNNI"
        return ""
    if "x86-64" in have:
        processor = "Haswell" if "avx2" in have else "SandyBridge"
    else:
        processor = "cortex-a76" if "dotprod" in have else "cortex-a53"
    reasons["known.emulate"] = "runs the same int8 kernels"
    return processor


def _runtime(version: str, reasons: dict[str, str]) -> str:
    parts = [part for part in version.split(".")[:2] if part.isdigit()]
    if len(parts) < MAJOR_MINOR:
        reasons["runtime"] = f"the device reports {version!r}, which is no version"
        return "1.20"
    reasons["runtime"] = f"the device runs {version}"
    return ".".join(parts)


def _prefer(have: frozenset[Isa], memory_mb: int, reasons: dict[str, str]) -> str:
    if memory_mb <= SMALL_MB:
        reasons["prefer"] = f"memory decides on a device with {memory_mb} MiB"
        return "memory"
    if memory_mb <= BOARD_MB or "aarch64" in have:
        reasons["prefer"] = "flash and the link decide on a board"
        return "size"
    reasons["prefer"] = "a gateway has room; time decides"
    return "latency"


def _budget(memory_mb: int, reported_mb: int, reasons: dict[str, str]) -> Budget:
    small, board = reported_mb <= SMALL_MB, reported_mb <= BOARD_MB
    reasons["budget.memory_mb"] = f"{ROOM:.0%} of the memory, for one model"
    if small:
        reasons["budget.latency_ratio"] = "memory is worth time where it is this scarce"
    else:
        reasons["budget.latency_ratio"] = "not slower than float"
    reasons["budget.latency_ms"] = "stops only the absurd: set your application's own"
    reasons["budget.accuracy_drop_points"] = "a guess: say what an error costs you"
    return Budget(
        accuracy_drop_points=1.5 if board else 1.0,
        min_agreement=0.96 if board else 0.97,
        size_ratio=0.6,
        latency_ratio=1.5 if small else 1.0,
        latency_ms=1000.0 if small else 500.0 if board else 250.0,
        memory_mb=max(1, int(memory_mb * ROOM)),
    )


def _session(memory_mb: int, reasons: dict[str, str]) -> Session:
    if memory_mb <= SMALL_MB:
        reasons["session.arena"] = "memory of one run goes back before the next"
        return Session(arena=False)
    return Session()


def _description(capabilities: Capabilities) -> str:
    cores = "core" if capabilities.cpus == 1 else "cores"
    simulated = ", simulated" if capabilities.simulated else ""
    return (
        f"devices like one with {' '.join(capabilities.isa)}, {capabilities.cpus} "
        f"{cores} and {capabilities.memory_mb} MiB{simulated}"
    )


def _table(prefix: str, values: dict[str, Any], reasons: dict[str, str]) -> list[str]:
    lines = []
    for key, value in values.items():
        reason = reasons.get(prefix + key)
        lines += wrap(f"{reason[0].upper()}{reason[1:]}.") if reason else []
        # numbers, words, lists of words and true/false are the same in JSON and TOML
        lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    return lines
