"""``quarterdeck monitor``: accuracy and latency as the devices measured them."""

from collections.abc import Sequence
from typing import Annotated

import typer

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli.opened import ago, opened, span
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import out, print_json, print_table
from quarterdeck_controller.fleet.inventory import select
from quarterdeck_controller.monitor.report import By, Line, report

_NUMBERS = ("devices", "requests", "errors", "accuracy", "95 % interval", "n", "p50 ms",
            "p90 ms", "p99 ms", "golden", "RSS MiB")  # fmt: skip


def command(
    by: Annotated[By, typer.Option(help="What to add up by.")] = "release",
    since: Annotated[str, typer.Option(help="How far back, such as 10m.")] = "24h",
    selector: Annotated[
        str, typer.Option("--selector", "-l", help="Only these devices.")
    ] = "all",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Accuracy and latency per device, class and release."""
    back = span(since)
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        now = fleet.clock.now()
        chosen = frozenset(device.id for device in select(records, selector))
        lines = report(records, by, since=now - back, devices=chosen)
    if as_json:
        print_json([_json(line) for line in lines])
    elif not lines:
        out.print(f"No telemetry in the last {since}. Is a device running a release?")
    else:
        _table(by, lines)
        out.print(f"newest window {ago(max(line.last for line in lines), now)}")


def _table(by: By, lines: Sequence[Line]) -> None:
    keys = {"device": ("device", "class", "release"), "class": ("class", "release"),
            "release": ("release",)}[by]  # fmt: skip
    print_table(
        (*keys, *_NUMBERS),
        [(*_keys(line), *_numbers(line)) for line in lines],
        right=_NUMBERS,
    )


def _keys(line: Line) -> list[str]:
    return [it for it in (line.device, line.device_class, line.release) if it]


def _numbers(line: Line) -> tuple[object, ...]:
    interval = line.interval
    return (
        line.devices,
        line.requests,
        line.errors,
        "-" if line.accuracy is None else f"{line.accuracy:.1%}",
        "-" if interval is None else f"{interval[0]:.1%} - {interval[1]:.1%}",
        line.labelled.total,
        *(_ms(line.latency_ms(share)) for share in (0.5, 0.9, 0.99)),
        f"{line.golden.ok}/{line.golden.total}" if line.golden.total else "-",
        line.rss_mb,
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _json(line: Line) -> dict[str, object]:
    return {
        "v": 1,
        "device": line.device,
        "class": line.device_class,
        "release": line.release,
        "devices": line.devices,
        "windows": line.windows,
        "requests": line.requests,
        "errors": line.errors,
        "dropped": line.dropped,
        "restarts": line.restarts,
        "rss_mb": line.rss_mb,
        "accuracy": line.accuracy,
        "accuracy_interval": line.interval,
        "labelled": line.labelled.total,
        "labelled_ok": line.labelled.ok,
        "golden": line.golden.total,
        "golden_ok": line.golden.ok,
        "p50_ms": line.latency_ms(0.5),
        "p90_ms": line.latency_ms(0.9),
        "p99_ms": line.latency_ms(0.99),
        "last": line.last.isoformat(),
    }
