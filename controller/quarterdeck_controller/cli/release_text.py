"""What the ``release`` commands print: releases, variants, and what comes next."""

from collections.abc import Mapping, Sequence

from quarterdeck_controller.cli.chain_text import links_json, print_links
from quarterdeck_controller.cli.key_text import print_outcome, request_json
from quarterdeck_controller.cli.output import out, print_table
from quarterdeck_controller.optimize.evaluation import (
    MAX_EVALUATION_BYTES,
    Evaluation,
)
from quarterdeck_controller.optimize.report.wording import number
from quarterdeck_controller.release.catalog import Catalog, Release, Variant
from quarterdeck_controller.release.gate import Finding
from quarterdeck_controller.release.links import Link
from quarterdeck_controller.repository.repository import Repository
from quarterdeck_controller.repository.requests import Request
from quarterdeck_shared.errors import RejectedError

_COLUMNS = ("class", "recipe", "size", "of float", "score", "float", "latency",
            "decision", "artifact")  # fmt: skip
_RIGHT = ("size", "of float", "score", "float", "latency")

Links = Mapping[str, Sequence[Link]]


def print_releases(releases: Sequence[Release]) -> None:
    """Print one line a release."""
    rows = [
        (
            release.id,
            release.counter,
            f"{release.created:%Y-%m-%d %H:%M}",
            ", ".join(release.variants),
            ", ".join(release.revoked),
            release.override,
        )
        for release in releases
    ]
    columns = ("release", "counter", "created", "classes", "revoked for", "override")
    print_table(columns, rows)


def print_release(catalog: Catalog, release: Release) -> None:
    """Print the variants of a release and what was measured of them."""
    out.print(f"[bold]{release.id}[/], release {release.counter} of this fleet")
    if release.variants:
        rows = [_row(it, _evaluation(catalog, it)) for it in release.variants.values()]
        print_table(_COLUMNS, rows, right=_RIGHT)
    if release.override:
        out.print(f"override: {release.override}", markup=False)
    for name, revoked in release.revoked.items():
        out.print(
            f"revoked for {name} on {revoked.at:%Y-%m-%d %H:%M}: {revoked.reason}",
            markup=False,
            style="red",
        )


def print_chains(links: Links) -> None:
    """Print each class's chain from its variant to the root."""
    for name, chain in links.items():
        out.print(f"\n[bold]{name}[/]")
        print_links(chain)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print what the gate found of each variant."""
    for finding in findings:
        first, *others = finding.lines()
        out.print(f"gate: {first}", markup=False)
        for line in others:
            out.print(f"      {line}", markup=False, style="dim")


def print_waiting(repository: Repository, request: Request) -> None:
    """Print that a change waits for signatures, whose, and the way to them."""
    print_outcome(request, repository.lacks(request))


def waiting_json(repository: Repository, request: Request) -> dict[str, object]:
    """Return the same for scripts."""
    return {"committed": False, **request_json(request, repository.lacks(request))}


def summary(release: Release) -> dict[str, object]:
    """Return a release in a few words, for scripts."""
    return {
        "release": release.id,
        "model": release.model,
        "version": release.version,
        "counter": release.counter,
        "created": release.created.isoformat(),
        "override": release.override or None,
        "classes": list(release.variants),
        "downgrade": {
            name: it.listing.downgrade
            for name, it in release.variants.items()
            if it.listing.downgrade
        },
        "revoked": {name: it.reason for name, it in release.revoked.items()},
    }


def release_json(
    catalog: Catalog, release: Release, links: Links | None = None
) -> dict[str, object]:
    """Return a release with its variants, for scripts."""
    details = {
        name: _detail(it, _evaluation(catalog, it))
        for name, it in release.variants.items()
    }
    for name, chain in (links or {}).items():
        details[name]["links"] = links_json(chain)
    return {**summary(release), "variants": details}


def _evaluation(catalog: Catalog, variant: Variant) -> Evaluation | None:
    data = catalog.read_part(variant, "evaluation.json")
    if data is None:
        return None
    try:
        return Evaluation.decode(data, limit=MAX_EVALUATION_BYTES)
    except RejectedError:
        return None  # made by another version: the release is still what it is


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
