"""``quarterdeck release``: sign variants, and see what is released."""

from pathlib import Path
from typing import Annotated

import typer

from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import out, print_json, print_table
from quarterdeck_controller.home import Home
from quarterdeck_controller.optimize.evaluation import (
    MAX_EVALUATION_BYTES,
    Evaluation,
)
from quarterdeck_controller.optimize.report.wording import number
from quarterdeck_controller.release.assemble import create_release
from quarterdeck_controller.release.catalog import Catalog, Release, Variant
from quarterdeck_shared.clock import SystemClock
from quarterdeck_shared.errors import RejectedError

app = typer.Typer(no_args_is_help=True)

_COLUMNS = ("class", "recipe", "size", "of float", "score", "float", "latency",
            "decision", "artifact")  # fmt: skip


@app.command()
def create(
    *,
    variants: Annotated[
        Path, typer.Argument(help="The folder that model optimize wrote.")
    ],
    name: Annotated[str, typer.Option(help="The model's name.")],
    version: Annotated[int, typer.Option(help="The model's version, from 1.")],
    home: HomeOption = DEFAULT_HOME,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Release only this class; may be repeated."),
    ] = None,
    override: Annotated[
        str | None,
        typer.Option(help="Why refused variants are released all the same; signed."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign the variants in a folder as one release."""
    opened = Home.open(home)
    release = create_release(
        opened,
        variants,
        name,
        version,
        SystemClock(),
        override=override,
        classes=tuple(classes or ()),
    )
    _show(Catalog(opened), release, as_json=as_json)


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the releases, the newest first."""
    releases = Catalog(Home.open(home)).releases()
    if as_json:
        print_json([_summary(release) for release in releases])
        return
    if not releases:
        out.print("Nothing is released yet: quarterdeck release create --help")
        return
    rows = [
        (
            release.id,
            release.counter,
            f"{release.created:%Y-%m-%d %H:%M}",
            ", ".join(release.variants),
            release.override,
        )
        for release in releases
    ]
    print_table(("release", "counter", "created", "classes", "override"), rows)


@app.command()
def show(
    release: Annotated[str, typer.Argument(help="<model>@<version>")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show one release: its variants and what was measured of them."""
    catalog = Catalog(Home.open(home))
    _show(catalog, catalog.release(release), as_json=as_json)


def _show(catalog: Catalog, release: Release, *, as_json: bool) -> None:
    variants = release.variants
    measured = {name: _evaluation(catalog, v) for name, v in variants.items()}
    if as_json:
        details = {name: _detail(variants[name], measured[name]) for name in variants}
        print_json({**_summary(release), "variants": details})
        return
    out.print(f"[bold]{release.id}[/], release {release.counter} of this fleet")
    print_table(
        _COLUMNS,
        [_row(variants[name], measured[name]) for name in variants],
        right=("size", "of float", "score", "float", "latency"),
    )
    if release.override:
        out.print(f"override: {release.override}", markup=False)


def _evaluation(catalog: Catalog, variant: Variant) -> Evaluation | None:
    data = catalog.read_part(variant, "evaluation.json")
    if data is None:
        return None
    try:
        return Evaluation.decode(data, limit=MAX_EVALUATION_BYTES)
    except RejectedError:
        return None  # made by another version: the release is still what it is


def _summary(release: Release) -> dict[str, object]:
    return {
        "release": release.id,
        "model": release.model,
        "version": release.version,
        "counter": release.counter,
        "created": release.created.isoformat(),
        "override": release.override or None,
        "classes": list(release.variants),
    }


def _detail(variant: Variant, measured: Evaluation | None) -> dict[str, object]:
    detail: dict[str, object] = {
        "artifact": variant.artifact,
        "recipe": variant.index.recipe,
        "bytes": variant.index.part("model.onnx").length,
        "chunks": variant.index.chunk_count,
        "artifact_bytes": variant.index.length,
    }
    if measured is None:
        return detail
    return detail | {
        "decision": measured.decision,
        "reason": measured.reason,
        "metric": measured.metric,
        "unit": measured.unit,
        "score": measured.variant and measured.variant.score,
        "float_score": measured.reference.score,
        "float_bytes": measured.reference.bytes,
        "latency_ratio": measured.latency_ratio,
    }


def _row(variant: Variant, measured: Evaluation | None) -> tuple[str, ...]:
    size = variant.index.part("model.onnx").length
    name, recipe = variant.index.device_class, variant.index.recipe
    short = variant.artifact[:12]
    if measured is None:
        return name, recipe, _kib(size), "", "", "", "", "", short
    score = measured.variant.score if measured.variant else None
    overridden = measured.decision == "refused"
    return (
        name,
        recipe,
        _kib(size),
        f"{size / measured.reference.bytes:.0%}",
        "" if score is None else _scored(score, measured.unit),
        _scored(measured.reference.score, measured.unit),
        "" if measured.latency_ratio is None else f"x {measured.latency_ratio:.2f}",
        "refused, overridden" if overridden else measured.decision,
        short,
    )


def _kib(size: int) -> str:
    return f"{size / 1024:.0f} KiB"


def _scored(score: float, unit: str) -> str:
    return f"{number(score, unit)} {unit}"
