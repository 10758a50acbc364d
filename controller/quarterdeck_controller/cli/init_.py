"""``quarterdeck init``: make a fleet home."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from quarterdeck_controller.cli.key_text import print_lacks, request_json
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import out, print_json, print_table
from quarterdeck_controller.founding import (
    KeyPlace,
    create_home,
    halves_by_role,
    key_places,
)
from quarterdeck_controller.home import Home, Settings
from quarterdeck_controller.optimize.profile import DEFAULT_CLASSES
from quarterdeck_controller.repository.ceremony import Lack
from quarterdeck_controller.repository.keyfile import PublicHalf, fingerprint, key_name
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.explain import explain

_NEXT = "quarterdeck model optimize MODEL --name NAME --calibration C --evaluation E"
_BOTH_WAYS = """say whose keys the fleet stands on.
  To try it out:  quarterdeck init --test
    makes every key in the home; devices that matter must not depend on it.
  In earnest:  quarterdeck init --keys FOLDER
    FOLDER holds public halves, which the holders make where each key is kept:
      quarterdeck key create root-1 --out ...      and root-2, root-3: three holders
      quarterdeck key create targets --out ...     offline
      quarterdeck key create {first} --out ...
        and one for each class: where a releaser signs
      quarterdeck key create provenance --out ...  where models are optimized
    The first metadata then waits for their signatures"""


def command(
    *,
    home: HomeOption = DEFAULT_HOME,
    fleet: Annotated[str, typer.Option(help="The fleet's name.")] = "fleet",
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="A device class; may be given several times."),
    ] = None,
    broker: Annotated[
        str, typer.Option(help="nats or mosquitto (started for you), or external.")
    ] = "nats",
    host: Annotated[
        str, typer.Option(help="The address that devices reach.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="MQTT over TLS.")] = 18883,
    test: Annotated[
        bool, typer.Option("--test", help="Make every key here, to try it out.")
    ] = False,
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", help="A public half (NAME.pub); may be given often."),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="A folder of public halves.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a fleet home: signing keys, certificates, repository, settings."""
    chosen = tuple(dict.fromkeys(classes or DEFAULT_CLASSES))
    settings = _settings(
        fleet, chosen, {"kind": broker, "host": host, "port": port}, test=test
    )
    halves = _halves(key or [], keys)
    _check_way(settings, halves)
    clock = SystemClock()
    by_role = halves_by_role(halves, chosen)
    made = create_home(home, settings, clock, halves=by_role)
    repository = Repository(made, clock)
    if as_json:
        print_json(_as_json(made, settings, repository))
    else:
        _print(made, settings, repository, is_default=home == DEFAULT_HOME)


def _settings(
    fleet: str, classes: tuple[str, ...], broker: dict[str, object], *, test: bool
) -> Settings:
    try:
        return Settings.model_validate(
            {"fleet": fleet, "classes": classes, "broker": broker, "test": test}
        )
    except ValidationError as error:
        named = {str(one["loc"][0]) for one in error.errors()}
        code = Code.NAME_INVALID if "classes" in named else Code.SETTINGS_INVALID
        raise RejectedError(code, explain(error)) from error


def _halves(files: Sequence[Path], folder: Path | None) -> list[PublicHalf]:
    if folder is not None and not folder.is_dir():
        raise RejectedError(Code.NOT_FOUND, f"{folder} is not a folder")
    listed = sorted(folder.glob("*.pub")) if folder else []
    if folder is not None and not listed:
        raise RejectedError(Code.NOT_FOUND, f"{folder} holds no public halves (.pub)")
    return [PublicHalf.read(file) for file in (*files, *listed)]


def _check_way(settings: Settings, halves: Sequence[PublicHalf]) -> None:
    if settings.test and halves:
        raise RejectedError(
            Code.NOT_ALLOWED, "--test makes every key here; leave --key and --keys out"
        )
    if not settings.test and not halves:
        first = f"class-{settings.classes[0]}"
        raise RejectedError(Code.NOT_ALLOWED, _BOTH_WAYS.format(first=first))


def _as_json(
    made: Home, settings: Settings, repository: Repository
) -> dict[str, object]:
    return {
        "home": str(made.path),
        "fleet": settings.fleet,
        "classes": settings.classes,
        "broker": settings.broker.model_dump(mode="json", exclude_none=True),
        "test": settings.test,
        "keys": [
            {
                "name": place.name,
                "signs": place.signs,
                "file": str(place.file),
                "earnest": place.earnest,
            }
            for place in _here(made, settings)
        ],
        "requests": [
            request_json(request, repository.lacks(request))
            for request in repository.requests()
        ],
    }


def _here(made: Home, settings: Settings) -> tuple[KeyPlace, ...]:
    return tuple(it for it in key_places(made, settings.classes) if it.file.exists())


def _print(
    made: Home, settings: Settings, repository: Repository, *, is_default: bool
) -> None:
    out.print(f"The home of [bold]{settings.fleet}[/] is {made.path}\n")
    rows = [
        (place.file.relative_to(made.path), place.signs, place.earnest)
        for place in _here(made, settings)
    ]
    print_table(("key, now at", "signs", "where it should live"), rows)
    home = "" if is_default else f" (with --home {made.path}, or QUARTERDECK_HOME)"
    if settings.test:
        out.print(
            "\nAll keys are in files on this machine, which is right for trying it out."
            "\nA fleet in earnest begins with: quarterdeck init --keys FOLDER"
        )
        out.print(f"\nNext{home}:\n  {_NEXT}")
        return
    (request,) = repository.requests()
    out.print("\nThe keys of the other roles stay where they are. They are:")
    print_table(("key", "id"), _named(repository.lacks(request)))
    out.print(f"\nNothing can be served before they have signed{home}:")
    print_lacks(repository.lacks(request))
    out.print(
        f"  quarterdeck key export {request.id}, quarterdeck key sign on each holder's "
        "machine, quarterdeck key import; then serve",
        markup=False,
    )


def _named(lacks: Sequence[Lack]) -> list[tuple[str, str]]:
    named = {
        keyid: key_name(key)
        for lack in lacks
        for keyid, key in lack.quorum.keys.items()
    }
    return [(name, fingerprint(keyid)) for keyid, name in named.items()]
