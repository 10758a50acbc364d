"""The gate before a class key signs: what is new is looked at, vouched for, run once.

It runs on whatever machine holds the key, from the bytes of a change alone. The checks
are numbered as in PROTOCOL.md section 5. Nothing is parsed far or run that nobody
vouches for, and what was listed before may only go, never change.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import TargetFile, Targets

from quarterdeck_controller.optimize.evaluation import (
    MAX_EVALUATION_BYTES,
    Evaluation,
)
from quarterdeck_controller.optimize.measure.machine import machine_isa
from quarterdeck_controller.optimize.profile import Gate, load_profile, profile_names
from quarterdeck_controller.optimize.report.wording import number
from quarterdeck_controller.optimize.steps import Replayed
from quarterdeck_controller.release import provenance
from quarterdeck_controller.release.listings import index_file, listing_of
from quarterdeck_controller.release.revocation import revoked_in
from quarterdeck_controller.release.screening import STRICT, check_golden, check_model
from quarterdeck_controller.release.statement import Statement
from quarterdeck_controller.release.trial import Trial, check_replayed, run_once
from quarterdeck_controller.repository.roles import class_role
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.ids import release_id
from quarterdeck_shared.index import (
    MAX_INDEX_BYTES,
    Index,
    Part,
    PartName,
    digest,
    target_path,
)
from quarterdeck_shared.listing import Listing

PARTS: tuple[PartName, ...] = (
    "model.onnx",
    "golden.npz",
    "evaluation.json",
    "provenance.json",
)
"""What every variant that is released consists of."""

Read = Callable[[str], bytes | None]
"""Returns a file that goes with a change: ``parts/<sha256>``, or an index under the
name by which devices fetch it."""

Unseal = Callable[[Index, Part, bytes], bytes]
"""Returns what a sealed part holds."""

Allowed = Callable[[str], Gate]
"""Returns the limits of a device class."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the gate found of one target that a class role is about to list.

    Attributes:
        path: The target.
        vouched: The keys that signed its provenance.
        ran: What came of the one run, in a sentence.
    """

    path: str
    index: Index
    listing: Listing
    operators: int
    statement: Statement
    vouched: tuple[str, ...]
    replayed: Replayed
    ran: str

    @property
    def release(self) -> str:
        """The release that it belongs to."""
        return release_id(self.index.model, self.index.version)

    def lines(self) -> tuple[str, ...]:
        """Return what a signer should know before signing, a sentence each."""
        predicate = self.statement.predicate
        figures = predicate.build_definition.internal_parameters
        model = self.statement.dependency(provenance.FLOAT_MODEL) or "unknown"
        size = self.index.part("model.onnx").length
        where = f"{self.release} for {self.index.device_class}: {self.index.recipe}"
        builder = predicate.run_details.builder.id
        keys = ", ".join(key[:12] for key in self.vouched)
        score = _figure(figures.score, figures.unit)
        reference = _figure(figures.float_score, figures.unit)
        told = [
            f"{where}, {size:,} bytes, {self.operators} operators",
            f"it {self.ran}",
            f"made by {builder} from the float model {model[:12]}, signed by {keys}",
            f"score {score}, float {reference}: {figures.decision}",
        ]
        if self.listing.override:
            told.append(f"refused, and released all the same: {self.listing.override}")
        return tuple(told)


@dataclass(frozen=True, slots=True)
class Examined:
    """What a new version of a class role does.

    Attributes:
        added: Targets that it lists for the first time.
        removed: Paths that it lists no more, with the reason of their revocation.
        permitted: Paths that a device may go back to now, with the reason, and could
            not before; ``forbidden`` are those it could.
    """

    role: str
    added: tuple[Finding, ...]
    removed: Mapping[str, str]
    permitted: Mapping[str, str]
    forbidden: tuple[str, ...]

    def lines(self) -> tuple[str, ...]:
        """Return what a signer should know before signing, a sentence each."""
        return (
            *(line for finding in self.added for line in finding.lines()),
            *(f"revokes {path}: {why}" for path, why in self.removed.items()),
            *(
                f"lets devices go back to {path}: {why}"
                for path, why in self.permitted.items()
            ),
            *(f"no longer lets devices go back to {path}" for path in self.forbidden),
        )


def allowed_by(files: Sequence[Path]) -> Allowed:
    """Return the limits that profiles of one's own set, beside those that ship.

    Raises:
        RejectedError: ``PROFILE_INVALID`` when one makes no sense.
    """
    profiles = [load_profile(str(file)) for file in files]
    own = {profile.name: profile.gate for profile in profiles}
    return lambda name: own.get(name) or shipped(name)


def shipped(device_class: str) -> Gate:
    """Return the limits of a class that ships with the controller, or strict ones."""
    if device_class not in profile_names():
        return STRICT
    return load_profile(device_class).gate


@dataclass(frozen=True, slots=True)
class Inspector:
    """Looks at what a class key is asked to sign.

    Attributes:
        targets: The verified targets role, which names the keys of provenance.
        allowed: The limits of each class.
        trial: How a model is run once.
        unseal: Opens sealed parts; None where their keys are not at hand.
    """

    targets: Targets
    allowed: Allowed = shipped
    trial: Trial = run_once
    unseal: Unseal | None = None

    def role(
        self, device_class: str, before: Targets | None, after: Targets, read: Read
    ) -> Examined:
        """Return what ``after`` would change in the role of ``device_class``.

        Args:
            device_class: The class of the role.
            before: The role's metadata in force; None when there is none.
            after: What is to be signed.
            read: The files that go with it.

        Raises:
            RejectedError: ``GATE_FAILED`` or ``PROVENANCE_INVALID``, with the target
                and what is wrong with it.
        """
        # 5.1 nothing delegated, changed or forgotten
        old = before.targets if before else {}
        if after.delegations is not None:
            raise _failed(f"{class_role(device_class)} may not delegate")
        for path, file in after.targets.items():
            if path in old and not _same_bytes(old[path], file):
                raise _failed(f"{path} was listed with other bytes: it never changes")
        _check_revoked(before, after)
        newest = _newest(old)
        fresh = {path: f for path, f in after.targets.items() if path not in old}
        added = tuple(
            self._target(device_class, file, read, newest) for file in fresh.values()
        )
        reasons = {it.target.path: it.reason for it in revoked_in(after)}
        permitted = {path: _downgrade(file) for path, file in after.targets.items()}
        could = {path for path, file in old.items() if _downgrade(file)}
        return Examined(
            role=class_role(device_class),
            added=added,
            removed={
                path: reasons.get(path, "no reason is signed")
                for path in old
                if path not in after.targets
            },
            permitted={
                path: why
                for path, why in permitted.items()
                if why and path not in could
            },
            forbidden=tuple(
                path for path in sorted(could & permitted.keys()) if not permitted[path]
            ),
        )

    def variant(
        self,
        index: Index,
        listing: Listing,
        files: Mapping[PartName, bytes],
    ) -> Finding:
        """Return what was found of one variant, given its parts as they were made.

        Raises:
            RejectedError: ``GATE_FAILED`` or ``PROVENANCE_INVALID``; ``DISK_FULL`` or
                ``DISK_FAILED`` when it could not be tried.
        """
        gate = self.allowed(index.device_class)
        # 5.4 the index demands what was measured
        evaluation = _evaluation(files["evaluation.json"])
        _check_decision(evaluation, listing)
        _check_measured(index, evaluation)
        # 5.5 provenance
        statement = provenance.verify(files["provenance.json"], self.targets)
        _check_subjects(statement, index, files)
        provenance.check_agrees(statement, evaluation)
        try:
            # 5.6 the model and its golden vectors, as they lie there
            model = check_model(files["model.onnx"], gate)
            check_golden(files["golden.npz"], model, index.golden)
            # 5.7 one run
            replayed = self.trial(files["model.onnx"], files["golden.npz"], index, gate)
        except RejectedError as error:
            if error.code in _DISK:
                raise
            raise _failed(error.detail) from error
        of_class = set(index.requires.isa) <= set(machine_isa())
        return Finding(
            path=target_path(index.device_class, index.model, index.version),
            index=index,
            listing=listing,
            operators=len(model.graph.node),
            statement=statement,
            vouched=provenance.signed_by(files["provenance.json"]),
            replayed=replayed,
            ran=check_replayed(replayed, index, of_class=of_class),
        )

    def _target(
        self, device_class: str, file: TargetFile, read: Read, newest: Mapping[str, int]
    ) -> Finding:
        try:
            # 5.2 path, index, listing, counter
            index, listing = _index(file, read), _listing(file)
            _check_listing(device_class, file.path, index, listing, newest)
            # 5.3 the parts
            files = {name: self._part(index, name, read) for name in PARTS}
            return self.variant(index, listing, files)
        except RejectedError as error:
            raise RejectedError(error.code, f"{file.path}: {error.detail}") from error

    def _part(self, index: Index, name: PartName, read: Read) -> bytes:
        part = next((part for part in index.parts if part.name == name), None)
        if part is None:
            raise _failed(f"the index lists no {name}")
        data = read(f"parts/{part.sha256}")
        if data is None or len(data) != part.length or digest(data) != part.sha256:
            raise _failed(f"{name} is missing or is not what the index names")
        if part.plain is None:
            return data
        if self.unseal is None:
            raise _failed(f"{name} is sealed, and its key is not at hand")
        return self.unseal(index, part, data)


_DISK = frozenset({Code.DISK_FULL, Code.DISK_FAILED})


def _same_bytes(old: TargetFile, new: TargetFile) -> bool:
    return (old.length, old.hashes) == (new.length, new.hashes)


def _check_revoked(before: Targets | None, after: Targets) -> None:
    """Refuse to forget a revocation, and to list again what was revoked."""
    revoked = {record.target.path: record for record in revoked_in(after)}
    for record in revoked_in(before) if before else ():
        if record.target.path not in revoked:
            raise _failed(f"it forgets that {record.target.path} was revoked")
    for path in revoked.keys() & after.targets.keys():
        raise _failed(f"{path} was revoked: {revoked[path].reason}")


def _newest(listed: Mapping[str, TargetFile]) -> Mapping[str, int]:
    """Return the highest release counter of each model."""
    newest: dict[str, int] = {}
    for path, file in listed.items():
        model = _model(path)
        newest[model] = max(newest.get(model, 0), _listing(file).release)
    return newest


def _model(path: str) -> str:
    return path.rpartition("/")[2].rpartition("-")[0]


def _index(file: TargetFile, read: Read) -> Index:
    data, sha256 = read(index_file(file)), file.hashes.get("sha256")
    if data is None or len(data) != file.length or digest(data) != sha256:
        raise _failed("its index is missing or is not what is listed")
    try:
        return Index.decode(data, limit=MAX_INDEX_BYTES)
    except RejectedError as error:
        raise _failed(error.detail) from error


def _listing(file: TargetFile) -> Listing:
    try:
        return listing_of(file)
    except RejectedError as error:
        raise _failed(error.detail) from error


def _downgrade(file: TargetFile) -> str:
    return _listing(file).downgrade


def _check_listing(
    device_class: str,
    path: str,
    index: Index,
    listing: Listing,
    newest: Mapping[str, int],
) -> None:
    wanted = target_path(index.device_class, index.model, index.version)
    if index.device_class != device_class or path != wanted:
        raise _failed(
            f"its index is of {index.model} {index.version} for {index.device_class}"
        )
    if listing.release != index.release:
        raise _failed(
            f"release {listing.release} is listed, its index says {index.release}"
        )
    highest = newest.get(index.model, 0)
    if listing.release <= highest:
        raise _failed(
            f"its release counter {listing.release} does not rise: the class has "
            f"{index.model} with {highest}"
        )


def _evaluation(data: bytes) -> Evaluation:
    try:
        return Evaluation.decode(data, limit=MAX_EVALUATION_BYTES)
    except RejectedError as error:
        raise _failed(f"evaluation.json: {error.detail}") from error


def _check_decision(evaluation: Evaluation, listing: Listing) -> None:
    if evaluation.decision == "refused" and not listing.override:
        raise _failed(
            f"the evaluation refused it and nobody says why it is released: "
            f"{evaluation.reason}"
        )


def _check_measured(index: Index, evaluation: Evaluation) -> None:
    """Refuse an index that tells devices other than what was measured and vouched for.

    Whoever assembles a release could loosen what devices hold a variant to.
    """
    if (index.model, index.device_class) != (evaluation.name, evaluation.device_class):
        raise _failed(f"evaluation.json is of {evaluation.name}")
    if index.recipe != (evaluation.recipe or "unknown"):
        raise _failed(f"its index says recipe {index.recipe}, not {evaluation.recipe}")
    for name in ("golden", "limits", "requires", "session", "labels"):
        told, measured = getattr(index, name), getattr(evaluation, name)
        if told != measured:
            raise _failed(
                f"its index says {name} {told}, evaluation.json says {measured}"
            )


def _check_subjects(
    statement: Statement, index: Index, files: Mapping[PartName, bytes]
) -> None:
    if {subject.name for subject in statement.subject} != set(provenance.SUBJECTS):
        raise RejectedError(
            Code.PROVENANCE_INVALID,
            f"provenance.json: it is not about {', '.join(provenance.SUBJECTS)}",
        )
    for name in provenance.SUBJECTS:
        part = index.part(name)
        listed = part.plain.sha256 if part.plain else part.sha256
        vouched, found = statement.digest(name), digest(files[name])
        if not vouched == listed == found:
            raise RejectedError(
                Code.PROVENANCE_INVALID,
                f"provenance.json: it vouches for {name} {str(vouched)[:12]}, the "
                f"index lists {listed[:12]}, the file is {found[:12]}",
            )


def _figure(value: float | None, unit: str) -> str:
    return "none" if value is None else f"{number(value, unit)} {unit}"


def _failed(why: str) -> RejectedError:
    return RejectedError(Code.GATE_FAILED, why)
