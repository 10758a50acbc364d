"""What a provenance says: an in-toto Statement v1 with a SLSA v1 predicate.

Form and bounds only; nothing in it is trusted before its envelope was opened
(``release/provenance.py``). The names are those of the two specifications, so that
any tool that reads them reads ours:

- https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
- https://slsa.dev/spec/v1.0/provenance
"""

from typing import Final, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from quarterdeck_shared.ids import ClassName, ModelName, Sha256
from quarterdeck_shared.index import PartName
from quarterdeck_shared.wire import Wire

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:quarterdeck:quantize:v1"
BUILDER = "urn:quarterdeck:optimizer"
"""Who made a variant, where nobody says it better."""

Interval = tuple[float, float]


class _Slsa(Wire):
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


class Digest(_Slsa):
    """The digests of one thing."""

    sha256: Sha256


class Subject(_Slsa):
    """A file that the statement is about."""

    name: PartName
    digest: Digest


class Dependency(_Slsa):
    """Something that went in.

    Attributes:
        uri: A package URL, for a tool.
        digest: Of its bytes, for data.
    """

    name: str = Field(max_length=100)
    uri: str | None = Field(
        default=None, max_length=200, pattern=r"^pkg:[a-z]+/[A-Za-z0-9._+@%-]+$"
    )
    digest: Digest | None = None


class Asked(_Slsa):
    """``externalParameters``: what the builder was told.

    Attributes:
        profile: The digest of the class profile's canonical form.
        recipe: What was chosen within the profile; its settings beside it.
        overrides: How many operators are treated apart; evaluation.json names them.
    """

    model: ModelName
    device_class: ClassName = Field(alias="class")
    profile: Sha256
    recipe: str = Field(max_length=64)
    settings: dict[str, str | bool] = Field(max_length=64)
    overrides: int = Field(ge=0, le=65536)
    seed: int = Field(ge=0, lt=1 << 53)
    metric: str = Field(max_length=200)


class Figures(_Slsa):
    """``internalParameters``: what the builder measured and decided.

    The fields mean what those of ``optimize.evaluation.Evaluation`` mean.
    """

    decision: Literal["accepted", "refused"]
    reason: str = Field(max_length=2000)
    unit: str = Field(max_length=40)
    samples: int = Field(ge=0)
    calibration_samples: int = Field(ge=0)
    score: float | None = None
    float_score: float
    drop_points: float | None = None
    drop_ci95: Interval | None = None
    agreement: float | None = None
    size_ratio: float | None = None
    latency_ratio: float | None = None
    latency_known: Literal["measured", "reference", "estimated"]
    peak_memory_ratio: float | None = None
    machine_isa: tuple[str, ...] = Field(max_length=32)


class BuildDefinition(_Slsa):
    """How the subjects were made."""

    build_type: Literal["urn:quarterdeck:quantize:v1"] = Field(
        default=BUILD_TYPE, alias="buildType"
    )
    external_parameters: Asked = Field(alias="externalParameters")
    internal_parameters: Figures = Field(alias="internalParameters")
    resolved_dependencies: tuple[Dependency, ...] = Field(
        alias="resolvedDependencies", min_length=3, max_length=64
    )


class Builder(_Slsa):
    """Who made it."""

    id: str = Field(min_length=1, max_length=200, pattern=r"^[a-z][a-z0-9+.-]*:\S+$")


class Metadata(_Slsa):
    """When it was made."""

    invocation_id: str = Field(alias="invocationId", min_length=1, max_length=100)
    started_on: AwareDatetime = Field(alias="startedOn")
    finished_on: AwareDatetime = Field(alias="finishedOn")


class RunDetails(_Slsa):
    """Of this one run."""

    builder: Builder
    metadata: Metadata


class Predicate(_Slsa):
    """SLSA provenance."""

    build_definition: BuildDefinition = Field(alias="buildDefinition")
    run_details: RunDetails = Field(alias="runDetails")


class Statement(_Slsa):
    """Who vouches that these files were made so."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(
        default=STATEMENT_TYPE, alias="_type"
    )
    subject: tuple[Subject, ...] = Field(min_length=3, max_length=3)
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = Field(
        default=PREDICATE_TYPE, alias="predicateType"
    )
    predicate: Predicate

    def digest(self, name: str) -> str | None:
        """Return the sha256 of the subject of that name, or None."""
        return next((s.digest.sha256 for s in self.subject if s.name == name), None)

    def dependency(self, name: str) -> str | None:
        """Return the sha256 of what went in under that name, or None."""
        wanted = self.predicate.build_definition.resolved_dependencies
        found = (d.digest for d in wanted if d.name == name and d.digest)
        return next((digest.sha256 for digest in found), None)
