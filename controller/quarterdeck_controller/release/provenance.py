"""Provenance of a variant: who vouches for how it was made (PROTOCOL.md section 5).

A statement (``release/statement.py``) in a DSSE envelope, signed by keys of the TUF
role ``provenance``: TUF carries them, their threshold and their revocation. Making and
opening are pure; an envelope is opened before its payload is parsed:

1. size, form and type of the envelope;
2. signatures by enough keys of the role, over type and payload;
3. only then form and bounds of the statement.
"""

from collections.abc import Mapping, Sequence

from securesystemslib.signer import Signature, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Targets

from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.release import statement as slsa
from quarterdeck_controller.release.statement import Statement
from quarterdeck_controller.repository.roles import PROVENANCE
from quarterdeck_shared import dsse
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import PartName, digest

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_PROVENANCE_BYTES = 128 * 1024
SUBJECTS: tuple[PartName, ...] = ("model.onnx", "golden.npz", "evaluation.json")
FLOAT_MODEL, CALIBRATION, EVALUATION = (
    "float model",
    "calibration data",
    "evaluation data",
)


def state(
    evaluation: Evaluation, evaluation_json: bytes, *, builder: str = slsa.BUILDER
) -> Statement:
    """Return what there is to vouch for in the record of an evaluation.

    Raises:
        RejectedError: ``PROVENANCE_INVALID`` when the record lacks what a statement
            needs: no variant was made, or it does not say from what and when.
    """
    digests = {**evaluation.files, "evaluation.json": digest(evaluation_json)}
    missing = [name for name in SUBJECTS if name not in digests]
    if missing:
        raise _invalid(f"evaluation.json speaks of no {', '.join(missing)}")
    try:
        return Statement(
            subject=tuple(
                slsa.Subject(name=name, digest=slsa.Digest(sha256=digests[name]))
                for name in SUBJECTS
            ),
            predicate=slsa.Predicate(
                build_definition=definition(evaluation),
                run_details=_run(evaluation, builder),
            ),
        )
    except ValueError as error:
        raise _invalid(f"evaluation.json makes no statement: {error}") from error


def definition(evaluation: Evaluation) -> slsa.BuildDefinition:
    """Return how the record says that its variant was made."""
    made = evaluation.provenance
    return slsa.BuildDefinition(
        external_parameters=slsa.Asked(
            model=evaluation.name,
            device_class=evaluation.device_class,
            profile=made.profile_sha256,
            recipe=evaluation.recipe or "none",
            settings=made.settings,
            overrides=len(made.overrides),
            seed=made.seed,
            metric=evaluation.metric,
        ),
        internal_parameters=_figures(evaluation),
        resolved_dependencies=_dependencies(evaluation),
    )


def seal(statement: Statement, signers: Sequence[Signer]) -> bytes:
    """Return the envelope of ``statement``, signed by every one of ``signers``."""
    # What is absent is left out: readers of the specifications know no null.
    payload = statement.model_dump_json(exclude_none=True).encode()
    signed = [signer.sign(dsse.pae(PAYLOAD_TYPE, payload)) for signer in signers]
    signatures = {one.keyid: bytes.fromhex(one.signature) for one in signed}
    return dsse.sealed(PAYLOAD_TYPE, payload, signatures)


def verify(envelope: bytes, targets: Targets) -> Statement:
    """Return the statement in ``envelope``, which keys of the role have signed.

    Args:
        envelope: ``provenance.json``, from anywhere.
        targets: The verified targets role, which names the keys.

    Raises:
        RejectedError: ``PROVENANCE_INVALID``, with what is wrong.
    """
    # 1. size, form and type of the envelope
    opened = _opened(envelope)
    # 2. the signatures
    signatures = {
        key: Signature(key, made.hex()) for key, made in opened.signatures.items()
    }
    try:
        targets.verify_delegate(PROVENANCE, opened.signed, signatures)
    except (RepositoryError, ValueError) as error:
        raise _invalid(f"{error}; given: {_told(signatures)}") from error
    # 3. the statement
    return _statement(opened.payload)


def signed_by(envelope: bytes) -> tuple[str, ...]:
    """Return the ids of the keys that claim to have signed; nothing is verified.

    Raises:
        RejectedError: ``PROVENANCE_INVALID`` for another form.
    """
    return tuple(_opened(envelope).signatures)


def unverified(envelope: bytes) -> Statement:
    """Return the statement in ``envelope``, only to show it: anybody may have made it.

    Raises:
        RejectedError: ``PROVENANCE_INVALID`` for another form.
    """
    return _statement(_opened(envelope).payload)


def check_agrees(statement: Statement, evaluation: Evaluation) -> None:
    """Return when ``statement`` says of the variant what its evaluation says.

    Raises:
        RejectedError: ``PROVENANCE_INVALID``, with the first difference.
    """
    try:
        ours = definition(evaluation)
    except ValueError as error:
        raise _invalid(f"evaluation.json makes no statement: {error}") from error
    theirs = statement.predicate.build_definition
    for name in ("external_parameters", "internal_parameters"):
        mine, told = getattr(ours, name), getattr(theirs, name)
        for field in type(mine).model_fields:
            measured, said = getattr(mine, field), getattr(told, field)
            if measured != said:
                raise _invalid(
                    f"it says {field} {said!r}, evaluation.json says {measured!r}"
                )
    if ours.resolved_dependencies != theirs.resolved_dependencies:
        raise _invalid("it and evaluation.json differ in what went in")


def _figures(evaluation: Evaluation) -> slsa.Figures:
    variant = evaluation.variant
    return slsa.Figures(
        decision=evaluation.decision,
        reason=evaluation.reason[:2000],
        unit=evaluation.unit,
        samples=evaluation.samples,
        calibration_samples=evaluation.provenance.calibration_samples,
        score=variant.score if variant else None,
        float_score=evaluation.reference.score,
        drop_points=evaluation.drop_points,
        drop_ci95=evaluation.drop_ci95,
        agreement=evaluation.agreement,
        size_ratio=evaluation.size_ratio,
        latency_ratio=evaluation.latency_ratio,
        latency_known=evaluation.latency_known,
        peak_memory_ratio=evaluation.peak_memory_ratio,
        machine_isa=evaluation.provenance.machine_isa,
    )


def _dependencies(evaluation: Evaluation) -> tuple[slsa.Dependency, ...]:
    made = evaluation.provenance
    data = {
        FLOAT_MODEL: made.model_sha256,
        CALIBRATION: made.calibration_sha256,
        EVALUATION: made.evaluation_sha256,
    }
    tools = (
        slsa.Dependency(name=name, uri=_package(name, version))
        for name, version in sorted(made.versions.items())
    )
    return (
        *(
            slsa.Dependency(name=name, digest=slsa.Digest(sha256=sha256))
            for name, sha256 in data.items()
        ),
        *tools,
    )


def _package(name: str, version: str) -> str:
    kind = "generic" if name == "python" else "pypi"
    return f"pkg:{kind}/{name}@{version}"


def _run(evaluation: Evaluation, builder: str) -> slsa.RunDetails:
    made = evaluation.provenance
    return slsa.RunDetails(
        builder=slsa.Builder(id=builder),
        metadata=slsa.Metadata(
            invocation_id=made.invocation,
            started_on=made.started,
            finished_on=made.finished,
        ),
    )


def _opened(envelope: bytes) -> dsse.Opened:
    try:
        return dsse.opened(envelope, PAYLOAD_TYPE, limit=MAX_PROVENANCE_BYTES)
    except RejectedError as error:
        raise _invalid(error.detail) from error


def _statement(payload: bytes) -> Statement:
    try:
        return Statement.decode(payload, limit=MAX_PROVENANCE_BYTES)
    except RejectedError as error:
        raise _invalid(error.detail) from error


def _told(signatures: Mapping[str, Signature]) -> str:
    keys = ", ".join(sorted(key[:12] for key in signatures))
    return f"signatures of {keys}"


def _invalid(why: str) -> RejectedError:
    return RejectedError(Code.PROVENANCE_INVALID, f"provenance.json: {why}")
