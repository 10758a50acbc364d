"""Measure a variant on this machine as a device of its class.

For a machine of the class that has the controller's package, such as a development
board: what is measured here is brought to the controller as a file.
"""

import hashlib
from pathlib import Path

from quarterdeck_controller.optimize.measure.machine import latency_known
from quarterdeck_controller.optimize.profile import Profile
from quarterdeck_controller.optimize.sandbox import Sandbox
from quarterdeck_controller.optimize.steps import (
    InspectRequest,
    Loaded,
    LoadRequest,
    Measured,
    MeasureRequest,
    Source,
    Times,
)
from quarterdeck_shared.clock import Clock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Capabilities, lacking
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.latency import LatencyReport, Spent


def measure_on_device(
    variant: Path,
    reference: Path,
    samples: str,
    profile: Profile,
    *,
    machine: Capabilities,
    sandbox: Sandbox,
    clock: Clock,
    device: str = "",
) -> LatencyReport:
    """Return what one inference of ``variant`` costs on this machine.

    Args:
        variant: The variant's file.
        reference: The original float model.
        samples: As ``model optimize`` takes them; one is enough.
        profile: The class; the models are opened by its session.
        machine: What this machine is.
        sandbox: Where the steps run.
        clock: Dates the measurement.
        device: Name of this machine, where it has one.

    Raises:
        RejectedError: ``INCOMPATIBLE`` when this machine is not one of the class, or
            what is wrong with a model or the samples.
    """
    check_class(profile, machine)
    source = sandbox.run("inspect", InspectRequest(model=reference), Source)
    stored = sandbox.folder / "samples"
    load = LoadRequest(source=samples, out=stored, inputs=source.inputs, most=1)
    sandbox.run("load", load, Loaded)
    request = MeasureRequest(
        model=variant, reference=reference, samples=stored, session=profile.session
    )
    measured = sandbox.run("measure", request, Measured)
    assert measured.reference_times is not None, "a reference was given"
    assert measured.ratio is not None
    return LatencyReport(
        device=device,
        device_class=profile.name,
        machine=machine,
        measured=clock.now(),
        variant_sha256=file_sha256(variant),
        float_sha256=source.sha256,
        session=profile.session,
        variant=_spent(measured.times),
        reference=_spent(measured.reference_times),
        ratio=measured.ratio,
        peak_memory_mb=measured.peak_memory_mb,
        load_ms=measured.load_ms,
    )


def check_class(profile: Profile, machine: Capabilities) -> None:
    """Pass only when ``machine`` is a device of the class.

    Raises:
        RejectedError: ``INCOMPATIBLE``, with what it lacks or has too much.
    """
    told = lacking(machine, profile.requirements())
    if told is None and latency_known(profile, machine.isa) != "measured":
        has = ", ".join(isa for isa in profile.isa_absent if isa in machine.isa)
        told = (
            f"its devices lack {has}, this machine has it: it runs other kernels"
            if has
            else f"its models run on {profile.provider}, measured here is the CPU"
        )
    if told is None and machine.simulated:
        told = "this machine only pretends to be one"
    if told is not None:
        raise RejectedError(
            Code.INCOMPATIBLE, f"this machine is no {profile.name}: {told}"
        )


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file.

    Raises:
        RejectedError: ``NOT_FOUND`` when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RejectedError(Code.NOT_FOUND, f"{path}: {error.strerror}") from error


def _spent(times: Times) -> Spent:
    return Spent(**times.model_dump())
