"""``quarterdeck model attest``: vouch for variants with a provenance key."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from securesystemslib.signer import Signer

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli.opened import Opened, check_admitted, opened
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import confirm, out, print_json
from quarterdeck_controller.cli.passphrases import PassphraseOption, secrets
from quarterdeck_controller.home import Home
from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.optimize.report.wording import with_unit
from quarterdeck_controller.optimize.write import Attest
from quarterdeck_controller.release import provenance
from quarterdeck_controller.release.attest import (
    Vouched,
    attester,
    examine,
    find_variants,
)
from quarterdeck_controller.release.attest import attest as sign
from quarterdeck_controller.release.statement import BUILDER, Statement
from quarterdeck_controller.repository.keyfile import KeyFile, fingerprint
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_controller.repository.roles import PROVENANCE
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

KeyOption = Annotated[
    Path | None,
    typer.Option(help="The provenance key; in a test home its own, by default."),
]


def attest(
    variants: Annotated[
        Path, typer.Argument(help="The folder that model optimize wrote, or one class.")
    ],
    *,
    key: KeyOption = None,
    builder: Annotated[
        str, typer.Option(help="Who made them, a URI; default: this program.")
    ] = BUILDER,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    passphrase_file: PassphraseOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Vouch for variants: sign what went in, how they were made and what was measured.

    It is shown first. A release takes only variants that a provenance key vouches for.
    """
    found = [examine(folder, builder=builder) for folder in find_variants(variants)]
    if not as_json:
        for vouched in found:
            _print(vouched)
    if not yes:
        confirm("Vouch for this?")
    signers = _signers(key, passphrase_file, home, found)
    files = [sign(vouched, signers) for vouched in found]
    keyids = [signer.public_key.keyid for signer in signers]
    if as_json:
        print_json({"files": [str(file) for file in files], "keys": keyids})
        return
    for file in files:
        out.print(str(file), style="dim", markup=False)
    out.print(f"Signed by {', '.join(map(fingerprint, keyids))}.", markup=False)


def find_attester(
    key: Path | None, passphrase_file: Path | None, home: Path
) -> Attest | None:
    """Return what vouches for new variants: ``key``, or a test home's own; or None.

    With a home's own, each variant that is vouched for is recorded there.

    Raises:
        RejectedError: ``UNAUTHENTICATED`` or ``NOT_PERMITTED`` when the home has a key
            and whoever asks may not use it.
        RejectedError: ``NOT_FOUND``, ``KEY_INVALID`` or ``KEY_LOCKED`` when the key
            cannot be used.
    """
    if key is not None:
        return attester([KeyFile(key).signer(secrets(passphrase_file))])
    place = Home(home.absolute())
    if not place.settings_file.is_file() or not place.settings().test:
        return None
    try:
        signers = Repository(place, SystemClock()).signers(PROVENANCE)
    except RejectedError as error:
        if error.code in (Code.NOT_ALLOWED, Code.SIGNATURES_MISSING):
            return None  # its key is elsewhere
        raise
    check_admitted(place.path, Act.MODEL_ATTEST)
    return _recorded(place.path, attester(signers))


def _recorded(home: Path, vouch: Attest) -> Attest:
    """Return ``vouch`` for those only who may attest in ``home`` when it is done."""

    def make(evaluation: Evaluation, evaluation_json: bytes) -> bytes:
        with opened(home, Act.MODEL_ATTEST) as fleet:
            _note(fleet, evaluation)
            return vouch(evaluation, evaluation_json)

    return make


def _signers(
    key: Path | None, passphrase_file: Path | None, home: Path, found: Sequence[Vouched]
) -> Sequence[Signer]:
    """Return the keys that vouch; the act is recorded where there is a fleet."""
    there = Home(home.absolute()).settings_file.is_file()
    if not there:
        return [_named(key, home).signer(secrets(passphrase_file))]
    with opened(home, Act.MODEL_ATTEST) as fleet:
        for vouched in found:
            _note(fleet, vouched.evaluation)
        repository = Repository(fleet.home, fleet.clock)
        if key is None and fleet.home.settings().test:
            return repository.signers(PROVENANCE)
        signer = _named(key, home).signer(secrets(passphrase_file))
        _check_known(signer, repository.chain().keyids(PROVENANCE))
        return [signer]


def _note(fleet: Opened, evaluation: Evaluation) -> None:
    variant = f"variant:{evaluation.name}/{evaluation.device_class}"
    fleet.audit(variant, model=evaluation.files.get("model.onnx"))


def _named(key: Path | None, home: Path) -> KeyFile:
    if key is None:
        raise RejectedError(
            Code.NOT_FOUND,
            f"name the provenance key with --key: {home} is no test home that has one",
        )
    return KeyFile(key)


def _check_known(signer: Signer, known: Sequence[str]) -> None:
    keyid = signer.public_key.keyid
    if keyid not in known:
        raise RejectedError(
            Code.NOT_ALLOWED,
            f"the key {keyid[:12]} does not sign provenance in this fleet; these do: "
            f"{', '.join(key[:12] for key in known) or 'none'}",
        )


def _print(vouched: Vouched) -> None:
    evaluation, statement = vouched.evaluation, vouched.statement
    made, figures = evaluation.provenance, evaluation.variant
    score = with_unit(figures.score, evaluation.unit) if figures else "none"
    reference = with_unit(evaluation.reference.score, evaluation.unit)
    out.print(f"[bold]{evaluation.name}[/] for {evaluation.device_class}")
    lines = {
        "files": ", ".join(f"{n} {_short(statement, n)}" for n in provenance.SUBJECTS),
        "made": f"{made.finished:%Y-%m-%d %H:%M} by {_builder(vouched)}",
        "from": f"float model {made.model_sha256[:12]}",
        "calibration": f"{made.calibration_sha256[:12]}, {made.calibration_samples} "
        "samples",
        "evaluation": f"{made.evaluation_sha256[:12]}, {evaluation.samples} samples",
        "recipe": f"{evaluation.recipe}, seed {made.seed}, profile "
        f"{made.profile_sha256[:12]}",
        "tools": ", ".join(f"{name} {v}" for name, v in made.versions.items()),
        "measured": f"{evaluation.metric} {score}, float {reference}: "
        f"{evaluation.decision}",
    }
    if vouched.standing:
        lines["signed"] = f"already, by {', '.join(k[:12] for k in vouched.standing)}"
    for name, told in lines.items():
        out.print(f"  {name:<12}{told}", markup=False)


def _short(statement: Statement, name: str) -> str:
    return (statement.digest(name) or "none")[:12]


def _builder(vouched: Vouched) -> str:
    return vouched.statement.predicate.run_details.builder.id
