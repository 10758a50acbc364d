"""``quarterdeck class``: the device classes and their target profiles."""

from typing import Annotated

import typer

from quarterdeck_controller.cli.options import JsonOption
from quarterdeck_controller.cli.output import print_json, print_table
from quarterdeck_controller.optimize.profile import load_profile, profile_names

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_classes(*, json: JsonOption = False) -> None:
    """List the classes that ship with the controller."""
    profiles = [load_profile(name) for name in profile_names()]
    if json:
        print_json([profile.model_dump(mode="json") for profile in profiles])
        return
    rows = [(one.name, " ".join(one.isa), one.description) for one in profiles]
    print_table(("class", "needs", "for"), rows)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A class, or a profile file (.toml).")],
    *,
    json: JsonOption = False,
) -> None:
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


def _flat(sections: dict[str, object]) -> list[tuple[str | None, dict[str, object]]]:
    plain = {k: v for k, v in sections.items() if not isinstance(v, dict)}
    nested = [(k, v) for k, v in sections.items() if isinstance(v, dict)]
    return [(None, plain), *nested]


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
