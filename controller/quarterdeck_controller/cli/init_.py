"""``quarterdeck init``: make a fleet home."""

from typing import Annotated

import typer
from pydantic import ValidationError

from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import out, print_json, print_table
from quarterdeck_controller.founding import create_home, key_places
from quarterdeck_controller.home import Home, Settings
from quarterdeck_controller.optimize.profile import DEFAULT_CLASSES
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.explain import explain

_NEXT = "quarterdeck model optimize MODEL --name NAME --calibration C --evaluation E"


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
    as_json: JsonOption = False,
) -> None:
    """Make a fleet home: signing keys, certificates, repository, settings."""
    chosen = tuple(dict.fromkeys(classes or DEFAULT_CLASSES))
    settings = _settings(
        fleet, chosen, {"kind": broker, "host": host, "port": port}, test=test
    )
    made = create_home(home, settings, SystemClock())
    if as_json:
        print_json(_as_json(made, settings))
    else:
        _print(made, settings, is_default=home == DEFAULT_HOME)


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


def _as_json(made: Home, settings: Settings) -> dict[str, object]:
    return {
        "home": str(made.path),
        "fleet": settings.fleet,
        "classes": settings.classes,
        "broker": settings.broker.model_dump(mode="json", exclude_none=True),
        "keys": [
            {
                "name": place.name,
                "signs": place.signs,
                "file": str(place.file),
                "earnest": place.earnest,
            }
            for place in key_places(made, settings.classes)
        ],
    }


def _print(made: Home, settings: Settings, *, is_default: bool) -> None:
    out.print(f"The home of [bold]{settings.fleet}[/] is {made.path}\n")
    rows = [
        (place.file.relative_to(made.path), place.signs, place.earnest)
        for place in key_places(made, settings.classes)
    ]
    print_table(("key, now at", "signs", "where it should live"), rows)
    out.print(
        "\nAll keys are in files on this machine, which is right for trying it out."
        "\nBefore a fleet depends on it, move those marked offline away from here."
    )
    home = "" if is_default else f" (with --home {made.path}, or QUARTERDECK_HOME)"
    out.print(f"\nNext{home}:\n  {_NEXT}")
