"""``quarterdeck release``: sign variants, see what is released, and take it back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli.opened import Opened, opened
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import EXIT_REFUSED, out, print_json
from quarterdeck_controller.cli.passphrases import PassphraseOption, secrets
from quarterdeck_controller.cli.release_text import (
    print_chains,
    print_findings,
    print_release,
    print_releases,
    print_waiting,
    release_json,
    summary,
    waiting_json,
)
from quarterdeck_controller.release.assemble import Proposal, propose_release
from quarterdeck_controller.release.catalog import Catalog, Release
from quarterdeck_controller.release.export import export_signed
from quarterdeck_controller.release.gate import allowed_by
from quarterdeck_controller.release.held import held_artifacts
from quarterdeck_controller.release.links import Link, variant_links
from quarterdeck_controller.release.standing import (
    Changed,
    forbid_downgrade,
    permit_downgrade,
    revoke_release,
)
from quarterdeck_controller.repository.keyfile import KeyFile
from quarterdeck_controller.repository.repository import Repository

app = typer.Typer(no_args_is_help=True)

ReleaseArgument = Annotated[str, typer.Argument(help="<model>@<version>")]
ClassesOption = Annotated[
    list[str] | None,
    typer.Option("--class", help="Only for this class; may be repeated."),
]


@app.command()
def create(
    *,
    variants: Annotated[
        Path, typer.Argument(help="The folder that model optimize wrote.")
    ],
    name: Annotated[str, typer.Option(help="The model's name.")],
    version: Annotated[int, typer.Option(help="The model's version, from 1.")],
    home: HomeOption = DEFAULT_HOME,
    classes: ClassesOption = None,
    override: Annotated[
        str | None,
        typer.Option(help="Why refused variants are released all the same; signed."),
    ] = None,
    sealed: Annotated[
        bool,
        typer.Option(
            "--sealed", help="Encrypt: only devices it is assigned to can read it."
        ),
    ] = False,
    profile: Annotated[
        list[Path] | None,
        typer.Option(help="A class's own profile, for what its models may hold."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign the variants in a folder as one release, or ask for the signatures."""
    with opened(home, Act.RELEASE_CREATE, f"release:{name}@{version}") as fleet:
        with fleet.store.read() as records:
            held = held_artifacts(records)
        proposal = propose_release(
            fleet.home,
            variants,
            name,
            version,
            fleet.clock,
            override=override,
            classes=tuple(classes or ()),
            sealed=sealed,
            allowed=allowed_by(profile or ()),
            held=held,
        )
        _print_proposal(fleet, proposal, as_json=as_json)


@app.command("list")
def list_(
    home: HomeOption = DEFAULT_HOME,
    every: Annotated[
        bool, typer.Option("--all", help="With those that were revoked.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the releases, the newest first."""
    with opened(home, Act.SEE) as fleet:
        catalog = Catalog(fleet.home)
        releases = catalog.all() if every else catalog.releases()
    if as_json:
        print_json([summary(release) for release in releases])
    elif not releases:
        out.print("Nothing is released yet: quarterdeck release create --help")
    else:
        print_releases(releases)


@app.command()
def show(
    release: ReleaseArgument,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show one release: what was measured, and its chain to the root, verified now.

    Exit code 0 when every link holds, 3 when one does not.
    """
    with opened(home, Act.SEE) as fleet:
        catalog = Catalog(fleet.home)
        found = catalog.known(release)
        links = _links(fleet, catalog, found)
    if as_json:
        print_json(release_json(catalog, found, links))
    else:
        print_release(catalog, found)
        print_chains(links)
    if not all(link.verified for chain in links.values() for link in chain):
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def revoke(
    release: ReleaseArgument,
    *,
    reason: Annotated[str, typer.Option(help="Why; signed for all to see.")],
    home: HomeOption = DEFAULT_HOME,
    classes: ClassesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have no device install a release any more; its name is never used again."""
    with opened(home, Act.RELEASE_REVOKE, f"release:{release}") as fleet:
        changed = revoke_release(
            fleet.home, release, reason, fleet.clock, classes=tuple(classes or ())
        )
        running = _running(fleet, changed)
        if as_json:
            print_json({**_changed_json(fleet, changed), "running": running})
            return
        _print_changed(fleet, changed, f"{release} is revoked", "was revoked already")
    if running:
        out.print(
            f"{running} devices run it and go on doing so until they get another "
            "release:\n  quarterdeck release list\n  quarterdeck rollout create "
            "RELEASE --selector all",
            markup=False,
        )
    else:
        out.print("No device is known to run it.")


@app.command("permit-downgrade")
def permit(
    release: ReleaseArgument,
    *,
    reason: Annotated[str, typer.Option(help="Why; signed for all to see.")],
    home: HomeOption = DEFAULT_HOME,
    classes: ClassesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let devices go back to an older release, until the next one of its model."""
    with opened(home, Act.RELEASE_DOWNGRADE, f"release:{release}") as fleet:
        changed = permit_downgrade(
            fleet.home, release, reason, fleet.clock, classes=tuple(classes or ())
        )
        if as_json:
            print_json(_changed_json(fleet, changed))
            return
        _print_changed(
            fleet, changed, f"devices may go back to {release}", "is permitted already"
        )


@app.command("forbid-downgrade")
def forbid(
    release: ReleaseArgument,
    *,
    home: HomeOption = DEFAULT_HOME,
    classes: ClassesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take the permission to go back to an older release from devices.

    A rollout can then no longer take a device back to it by itself.
    """
    with opened(home, Act.RELEASE_DOWNGRADE, f"release:{release}") as fleet:
        changed = forbid_downgrade(
            fleet.home, release, fleet.clock, classes=tuple(classes or ())
        )
        if as_json:
            print_json(_changed_json(fleet, changed))
            return
        _print_changed(
            fleet, changed, f"no device goes back to {release}", "is forbidden already"
        )


@app.command("export-signature")
def export_signature(
    release: ReleaseArgument,
    *,
    device_class: Annotated[str, typer.Option("--class", help="Which variant.")],
    key: Annotated[Path, typer.Option(help="A P-256 private key, PEM.")],
    out_dir: Annotated[Path, typer.Option("--out", help="A new folder.")],
    passphrase_file: PassphraseOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write a variant with a model.sig that OpenSSF's model-signing tool accepts."""
    with opened(home, Act.RELEASE_CREATE, f"release:{release}") as fleet:
        signer = KeyFile(key).signer(secrets(passphrase_file))
        written = export_signed(
            Catalog(fleet.home), release, device_class, signer, out_dir
        )
    if as_json:
        print_json({name: str(path) for name, path in written.items()})
        return
    for path in written.values():
        out.print(str(path), markup=False)
    out.print(
        f"Anybody checks it with: model_signing verify key {written['folder']} "
        f"--signature {written['signature']} --public_key {written['public key']}",
        markup=False,
    )


def _print_proposal(fleet: Opened, proposal: Proposal, *, as_json: bool) -> None:
    catalog = Catalog(fleet.home)
    repository = Repository(fleet.home, fleet.clock)
    if proposal.release is not None:
        if as_json:
            print_json(release_json(catalog, proposal.release))
            return
        print_findings(proposal.findings)
        print_release(catalog, proposal.release)
        return
    assert proposal.request is not None
    if as_json:
        waiting = waiting_json(repository, proposal.request)
        print_json({"release": proposal.id, **waiting})
        return
    print_findings(proposal.findings)
    print_waiting(repository, proposal.request)


def _print_changed(fleet: Opened, changed: Changed, done: str, already: str) -> None:
    if changed.request is not None:
        print_waiting(Repository(fleet.home, fleet.clock), changed.request)
    elif changed.classes:
        out.print(f"In force: {done} ({', '.join(changed.classes)}).", markup=False)
    else:
        out.print(f"Nothing to do: {changed.release.id} {already}.", markup=False)


def _changed_json(fleet: Opened, changed: Changed) -> dict[str, object]:
    told = {"release": changed.release.id, "classes": list(changed.classes)}
    if changed.request is None:
        return {**told, "committed": True}
    repository = Repository(fleet.home, fleet.clock)
    return {**told, **waiting_json(repository, changed.request)}


def _running(fleet: Opened, changed: Changed) -> int:
    """Return how many devices run the variants that were revoked, now or before."""
    release = changed.release
    artifacts = {it.artifact for it in release.revoked.values()}
    artifacts |= {release.variants[name].artifact for name in changed.classes}
    with fleet.store.read() as records:
        standings = records.reports.standings().values()
    return sum(1 for it in standings if it.active_digest in artifacts)


def _links(
    fleet: Opened, catalog: Catalog, release: Release
) -> dict[str, Sequence[Link]]:
    chain = Repository(fleet.home, fleet.clock).chain()
    now = fleet.clock.now()
    return {
        name: variant_links(catalog, chain, variant, now)
        for name, variant in release.variants.items()
    }
