"""Target profiles: what a device class can do, and what a model may cost there.

Profiles are TOML files. Those in ``profiles/`` ship with the controller; a file of
one's own is given by its path wherever a class is asked for.
"""

import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from quarterdeck_controller.optimize.recipe import (
    Calibration,
    Format,
    Kind,
    Scheme,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.device import Isa, Requirements
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import ClassName
from quarterdeck_shared.index import Limits
from quarterdeck_shared.session import Session

SHIPPED = Path(__file__).parent / "profiles"
MAX_PROFILE_BYTES = 64 * 1024


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(_Section):
    """What a variant may cost; a candidate past any of these is refused.

    Attributes:
        accuracy_drop_points: Points of the metric below the float model, where the
            evaluation data has labels: percentage points of a share, percent of an
            error, tenths of a decibel.
        min_agreement: Share of samples on which float and variant agree, where it
            has none.
        size_ratio: Bytes of the variant as a share of the float model's.
        latency_ratio: Median latency as a share of the float model's, same run. More
            than 1 is the order to take what is slower than float.
        latency_ms: 90th percentile of one inference on the device, milliseconds;
            also the limit that the device itself checks.
        memory_mb: Peak resident memory of the process that runs the model, MiB;
            also the limit that the device itself enforces.
    """

    accuracy_drop_points: float = Field(ge=0, le=100)
    min_agreement: float = Field(ge=0, le=1)
    size_ratio: float = Field(gt=0, le=10)
    latency_ratio: float = Field(gt=0, le=1000)
    latency_ms: float = Field(gt=0, le=600_000)
    memory_mb: int = Field(ge=1, le=1 << 24)


class GoldenPolicy(_Section):
    """How closely the class demands that golden vectors are reproduced.

    Attributes:
        count: How many vectors.
        max_error: Root-mean-square error, as a share of the expected scores', past
            which no variant is accepted, here or on the device.
        min_agreement: Share of vectors with a clear margin that must keep the float
            model's top class here; the device gets a little slack.
    """

    count: int = Field(default=32, ge=8, le=4096)
    max_error: float = Field(default=0.25, gt=0, le=1)
    min_agreement: float = Field(default=0.95, ge=0, le=1)


class Support(_Section):
    """What the runtime of the class does well; the search stays within it.

    Attributes:
        kinds: What may be tried, in the order of preference.
        schemes: Types of activations and weights, best first.
        per_channel: Whether kernels take a scale per output channel.
        symmetric: Whether activations must have their zero in the middle.
        reduce_range: Seven-bit weights, for kernels that saturate.
        calibrations: How ranges may be taken, in the order they are tried.
        formats: How the quantized graph may be written.
        operators: Operators that run on integers there; empty is all that can.
        mixed: Whether some operators may stay in float between integer ones.
        fold: Whether weights-only models are made float once, at load: float's speed
            at float's memory. A class with little memory does without.
    """

    kinds: tuple[Kind, ...] = Field(
        default=("static", "dynamic", "weights", "fp16"), min_length=1
    )
    schemes: tuple[Scheme, ...] = Field(default=("u8s8",), min_length=1)
    per_channel: bool = True
    symmetric: bool = False
    reduce_range: bool = False
    calibrations: tuple[Calibration, ...] = Field(
        default=("mse", "percentile", "minmax"), min_length=1
    )
    formats: tuple[Format, ...] = Field(default=("qdq",), min_length=1)
    operators: tuple[str, ...] = Field(default=(), max_length=128)
    mixed: bool = True
    fold: bool = True


class Known(_Section):
    """How figures of the class are known without a device at hand.

    Attributes:
        emulate: Processor of the user-mode emulator on which the variant must give the
            same answers, such as ``Haswell`` or ``cortex-a53``; empty is none.
        reference: Device id of a device of the class that measures latency through
            its agent; empty is none.
    """

    emulate: str = Field(default="", max_length=64)
    reference: str = Field(default="", max_length=64)


class Gate(_Section):
    """What a model may hold at most before a class key signs it.

    Generous for what quantization gives, far below what breaks a runtime.

    Attributes:
        control_flow: Whether operators that run subgraphs (If, Loop, Scan, beam
            searches) are allowed: how long such a model runs cannot be told from it.
        nodes: Operators, those of subgraphs and functions too, each function counted
            as often as it is called.
        tensors: Constants.
        bytes: Size of the file.
        depth: Subgraphs within subgraphs.
        elements: Elements of one tensor.
        seconds: Wall-clock time of the one run on all golden vectors.
    """

    control_flow: bool = False
    nodes: int = Field(default=20_000, ge=1, le=1_000_000)
    tensors: int = Field(default=50_000, ge=1, le=1_000_000)
    bytes: int = Field(default=1 << 30, ge=1, le=(1 << 31) - 1)
    depth: int = Field(default=4, ge=0, le=32)
    elements: int = Field(default=1 << 29, ge=1, le=1 << 31)
    seconds: int = Field(default=60, ge=1, le=3600)


class Profile(_Section):
    """A device class.

    Attributes:
        isa: Instruction sets that every device of the class has.
        isa_absent: Instruction sets that devices of the class do not have: a machine
            that has them is only a stand-in when it comes to latency.
        memory_mb: Physical memory that every device has at least, MiB.
        provider: Execution provider of onnxruntime.
        runtime: Lowest onnxruntime version in the field.
        prefer: What decides among candidates within the budget.
    """

    v: Literal[2] = 2
    name: ClassName
    description: str = Field(max_length=400)
    isa: tuple[Isa, ...] = Field(min_length=1, max_length=16)
    isa_absent: tuple[Isa, ...] = Field(default=(), max_length=16)
    memory_mb: int = Field(ge=1, le=1 << 24)
    provider: str = "CPUExecutionProvider"
    runtime: str = Field(default="1.20", pattern=r"^[0-9]+(\.[0-9]+){1,3}$")
    prefer: Literal["latency", "size", "memory"] = "latency"
    budget: Budget
    golden: GoldenPolicy = GoldenPolicy()
    session: Session = Session()
    support: Support = Support()
    known: Known = Known()
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        both = set(self.isa) & set(self.isa_absent)
        if both:
            raise ValueError(f"{sorted(both)} is listed as present and as absent")
        if self.budget.memory_mb > self.memory_mb:
            raise ValueError(
                f"budget.memory_mb {self.budget.memory_mb} is more than the device's "
                f"memory_mb {self.memory_mb}"
            )
        return self

    def requirements(self) -> Requirements:
        """Return what a device must have to run this class's artifacts."""
        return Requirements(
            isa=self.isa,
            memory_mb=self.memory_mb,
            runtime=self.runtime,
            provider=self.provider,
        )

    @property
    def sha256(self) -> str:
        """The digest of the profile's canonical form, by which records name it."""
        return sha256(self.model_dump_json().encode()).hexdigest()

    def limits(self) -> Limits:
        """Return what the device checks by itself."""
        return Limits(
            latency_ms=self.budget.latency_ms, memory_mb=self.budget.memory_mb
        )


DEFAULT_CLASSES: tuple[ClassName, ...] = (
    "board-arm64",
    "gateway-x86",
    "gateway-x86-vnni",
)
"""The classes that are meant where none is named: the others that ship are for fleets
that have such devices."""


def profile_names() -> tuple[str, ...]:
    """Return the names of the classes that ship with the controller."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.toml")))


def load_profile(name: str, extra: Path | None = None) -> Profile:
    """Return the profile called ``name``, or in the file of that name.

    Args:
        name: A class that ships, or the path of a profile file (it ends in
            ``.toml``).
        extra: A folder with more profiles, searched first.

    Raises:
        RejectedError: ``PROFILE_INVALID`` when there is none or it makes no sense.
    """
    if name.endswith(".toml"):
        return _read(Path(name))
    folders = [SHIPPED] if extra is None else [extra, SHIPPED]
    for folder in folders:
        path = folder / f"{name}.toml"
        if path.parent == folder and path.is_file():
            return _read(path)
    known = ", ".join(profile_names())
    raise RejectedError(
        Code.PROFILE_INVALID, f"there is no device class {name!r}; there are {known}"
    )


def _read(path: Path) -> Profile:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RejectedError(
            Code.PROFILE_INVALID, f"{path} could not be read: {error.strerror}"
        ) from error
    if len(data) > MAX_PROFILE_BYTES:
        raise RejectedError(
            Code.PROFILE_INVALID,
            f"{path} has {len(data)} bytes, at most {MAX_PROFILE_BYTES} allowed",
        )
    try:
        return Profile.model_validate(tomllib.loads(data.decode()))
    except ValidationError as error:
        raise RejectedError(Code.PROFILE_INVALID, f"{path}: {_first(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError(Code.PROFILE_INVALID, f"{path}: {error}") from error


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    return f"{where}: {first['msg']}, got {str(first['input'])[:80]!r}"
