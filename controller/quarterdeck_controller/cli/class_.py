"""``quarterdeck class``: the device classes and their target profiles."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from quarterdeck_controller.cli.options import JsonOption
from quarterdeck_controller.cli.output import out, print_json, print_table
from quarterdeck_controller.optimize.measure import known
from quarterdeck_controller.optimize.measure.derive import derive as derive_profile
from quarterdeck_controller.optimize.measure.derive import to_toml
from quarterdeck_controller.optimize.measure.known import Known
from quarterdeck_controller.optimize.measure.machine import (
    latency_known,
    machine_capabilities,
    machine_isa,
)
from quarterdeck_controller.optimize.measure.on_device import (
    check_class,
    measure_on_device,
)
from quarterdeck_controller.optimize.profile import (
    DEFAULT_CLASSES,
    Profile,
    load_profile,
    profile_names,
)
from quarterdeck_controller.optimize.sandbox import Sandbox
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Capabilities
from quarterdeck_shared.durable import disk_code, write_durable
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import is_name
from quarterdeck_shared.latency import LatencyReport

app = typer.Typer(no_args_is_help=True)

MAX_REPORTED_BYTES = 1 << 20

ClassArgument = Annotated[
    str, typer.Argument(metavar="CLASS", help="A class, or a profile file (.toml).")
]


@app.command("list")
def list_classes(*, json: JsonOption = False) -> None:
    """List the classes that ship with the controller."""
    profiles = [load_profile(name) for name in profile_names()]
    if json:
        print_json([profile.model_dump(mode="json") for profile in profiles])
        return
    isa = machine_isa()
    columns = ("class", "needs", "prefers", "drop", "time", "memory", "size",
               "latency here", "for")  # fmt: skip
    rows = [_row(profile, isa) for profile in profiles]
    print_table(columns, rows, right=("drop", "time", "memory", "size"))
    out.print(f"Where none is named, {', '.join(DEFAULT_CLASSES)} are meant.")


@app.command()
def show(name: ClassArgument, *, json: JsonOption = False) -> None:
    """Show one class: what its devices have, and what a model may cost there."""
    profile = load_profile(name)
    if json:
        print_json(profile.model_dump(mode="json"))
        return
    sections = profile.model_dump(mode="json")
    rows = [
        (key if section is None else f"{section}.{key}", _shown(value))
        for section, fields in _flat(sections)
        for key, value in fields.items()
    ]
    print_table(("field", "value"), rows, title=profile.name)


@app.command()
def check(name: ClassArgument, *, json: JsonOption = False) -> None:
    """Check a profile, and tell whether this machine is one of the class."""
    profile = load_profile(name)
    why_not = _why_not(profile)
    if json:
        print_json({"class": profile.name, "valid": True, "stands_in": why_not})
        return
    out.print(f"{profile.name} is a valid profile.", markup=False)
    out.print(
        f"Latencies measured here are estimated: {why_not}."
        if why_not
        else "This machine is one of the class: latencies measured here are real.",
        markup=False,
    )


@app.command()
def derive(
    *,
    name: Annotated[str, typer.Option(help="The new class's name.")],
    fingerprint: Annotated[
        str | None,
        typer.Option(
            help="What a device reports, as JSON (device show --json); - is stdin."
        ),
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Take this machine.")] = False,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The profile file; default: print it.")
    ] = None,
) -> None:
    """Make a profile from what a device reports, with the reasons as comments."""
    if here == (fingerprint is not None):
        raise RejectedError(Code.NOT_ALLOWED, "give either --fingerprint or --here")
    if not is_name(name):
        raise RejectedError(Code.NAME_INVALID, f"{name!r} cannot name a class")
    reported = machine_capabilities() if fingerprint is None else _read(fingerprint)
    text = to_toml(derive_profile(reported, name))
    if out_file is None:
        out.file.write(text)
        return
    _write(out_file, text.encode())
    out.print(f"{out_file}: optimize for it with --class {out_file}", markup=False)


@app.command()
def measure(
    name: ClassArgument,
    *,
    variant: Annotated[Path, typer.Option(help="The variant, DIR/CLASS/model.onnx.")],
    reference: Annotated[
        Path, typer.Option("--float", help="The float model it was made of.")
    ],
    samples: Annotated[
        str, typer.Option(help="Samples, as model optimize takes them.")
    ],
    device: Annotated[str, typer.Option(help="This machine's name.")] = "",
    out_file: Annotated[
        Path, typer.Option("--out", help="The file to bring to the controller.")
    ] = Path("latency.json"),
    json: JsonOption = False,
) -> None:
    """Measure a variant on this machine, which must be one of the class."""
    profile = load_profile(name)
    with tempfile.TemporaryDirectory(prefix="quarterdeck-") as folder:
        sandbox = Sandbox(Path(folder))
        try:
            report = measure_on_device(
                variant,
                reference,
                samples,
                profile,
                machine=machine_capabilities(),
                sandbox=sandbox,
                clock=SystemClock(),
                device=device,
            )
        finally:
            sandbox.close()
    _write(out_file, report.encode())
    if json:
        print_json(report.model_dump(mode="json"))
        return
    _print_report(report)
    out.print(
        f"Bring it to the controller: quarterdeck class measured {out_file}",
        markup=False,
    )


@app.command()
def measured(
    file: Annotated[Path, typer.Argument(help="What class measure wrote.")],
    *,
    json: JsonOption = False,
) -> None:
    """Keep a latency that a device of the class measured, for later searches."""
    report = _read_report(file)
    kept = Known(known.default_folder()).keep(report)
    if json:
        print_json({"kept": kept, "report": report.model_dump(mode="json")})
        return
    _print_report(report)
    out.print("Kept." if kept else "Not kept: a newer one of the same is there.")


def _row(profile: Profile, isa: tuple[str, ...]) -> tuple[str, ...]:
    budget = profile.budget
    return (
        profile.name,
        " ".join(profile.isa),
        profile.prefer,
        f"{budget.accuracy_drop_points:g} pt",
        f"x {budget.latency_ratio:g}",
        f"{budget.memory_mb} MiB",
        f"x {budget.size_ratio:g}",
        latency_known(profile, isa),
        profile.description,
    )


def _why_not(profile: Profile) -> str | None:
    try:
        check_class(profile, machine_capabilities())
    except RejectedError as error:
        return error.detail
    return None


def _read(fingerprint: str) -> Capabilities:
    """Return the capabilities in a device's report, alone or inside of it."""
    try:
        text = _text(fingerprint)
        value = json.loads(text)
        inner = value.get("capabilities", value) if isinstance(value, dict) else value
        return Capabilities.model_validate_json(json.dumps(inner))
    except OSError as error:
        told = f"{fingerprint} could not be read: {error.strerror}"
        raise RejectedError(Code.NOT_FOUND, told) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        told = f"{where}: {first['msg']}" if where else first["msg"]
        raise _no_capabilities(fingerprint, told) from error
    except ValueError as error:
        raise _no_capabilities(fingerprint, str(error)) from error


def _no_capabilities(name: str, told: str) -> RejectedError:
    shown = "standard input" if name == "-" else name
    return RejectedError(
        Code.MALFORMED, f"{shown} holds no capabilities of a device: {told}"
    )


def _text(name: str) -> str:
    if name == "-":
        return sys.stdin.read(MAX_REPORTED_BYTES)
    with Path(name).open(encoding="utf-8") as file:
        return file.read(MAX_REPORTED_BYTES)


def _read_report(file: Path) -> LatencyReport:
    try:
        data = file.read_bytes()
    except OSError as error:
        told = f"{file} could not be read: {error.strerror}"
        raise RejectedError(Code.NOT_FOUND, told) from error
    return LatencyReport.decode(data, limit=known.MAX_ENTRY_BYTES)


def _write(path: Path, data: bytes) -> None:
    try:
        write_durable(path, data)
    except OSError as error:
        raise RejectedError(disk_code(error), f"{path}: {error.strerror}") from error


def _print_report(report: LatencyReport) -> None:
    rows = [
        (name, f"{spent.p50_ms:.3f}", f"{spent.p90_ms:.3f}", f"{spent.cpu_ms:.3f}")
        for name, spent in (("variant", report.variant), ("float", report.reference))
    ]
    columns = ("", "p50 ms", "p90 ms", "CPU ms")
    out.print(f"{report.device_class}: {report.ratio:.2f} of float's time")
    print_table(columns, rows, right=columns[1:])


def _flat(sections: dict[str, object]) -> list[tuple[str | None, dict[str, object]]]:
    plain = {k: v for k, v in sections.items() if not isinstance(v, dict)}
    nested = [(k, v) for k, v in sections.items() if isinstance(v, dict)]
    return [(None, plain), *nested]


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
