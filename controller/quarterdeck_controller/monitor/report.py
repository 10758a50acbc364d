"""What the fleet measured, added up by device, class or release."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from quarterdeck_controller.monitor.compare import Share, wilson
from quarterdeck_controller.store.records import Totals
from quarterdeck_controller.store.store import Records
from quarterdeck_controller.store.windows import PREFIX_DIGITS
from quarterdeck_shared.telemetry.sketch import Sketch

By = Literal["device", "class", "release"]

NANOSECONDS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class Line:
    """One group's measurements. Releases are never mixed.

    Attributes:
        device: Set when grouped by device.
        device_class: Set when grouped by device or class.
        release: The release, or the artifact's prefix when it is not known.
        labelled: Right answers among the inferences whose label is known.
        golden: Golden vectors reproduced.
        latency: Nanoseconds of each answered inference.
    """

    device: str | None
    device_class: str | None
    release: str
    devices: int
    windows: int
    requests: int
    errors: int
    dropped: int
    restarts: int
    rss_mb: int
    labelled: Share
    golden: Share
    latency: Sketch
    last: datetime

    @property
    def accuracy(self) -> float | None:
        """The share of right answers; None without labels."""
        return self.labelled.value if self.labelled.total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of the accuracy; None without labels."""
        return wilson(self.labelled) if self.labelled.total else None

    def latency_ms(self, share: float) -> float | None:
        """Return a quantile of the latency in milliseconds; None without any."""
        value = self.latency.quantile(share)
        return None if value is None else value / NANOSECONDS_PER_MS


def report(
    records: Records,
    by: By,
    *,
    since: datetime | None = None,
    devices: frozenset[str] | None = None,
) -> tuple[Line, ...]:
    """Return the measurements since ``since``, of ``devices`` or of all."""
    classes = {it.id: it.device_class for it in records.devices.all()}
    releases = _releases(records)
    groups: dict[tuple[str | None, str | None, str], list[Totals]] = defaultdict(list)
    for it in records.windows.totals(since=since):
        if devices is not None and it.device not in devices:
            continue
        release = releases.get(it.artifact, it.artifact)
        device = it.device if by == "device" else None
        named = classes[it.device] if by != "release" else None
        groups[device, named, release].append(it)
    return tuple(
        _line(*key, groups[key])
        for key in sorted(groups, key=lambda key: tuple(part or "" for part in key))
    )


def _releases(records: Records) -> Mapping[str, str]:
    known = {
        it.active_digest: it.active_release
        for it in records.reports.standings().values()
        if it.active_digest is not None and it.active_release is not None
    }
    known |= records.assignments.releases()
    return {digest[:PREFIX_DIGITS]: release for digest, release in known.items()}


def _line(
    device: str | None, device_class: str | None, release: str, parts: Sequence[Totals]
) -> Line:
    latency = Sketch()
    for part in parts:
        latency = latency.merged(part.latency)
    return Line(
        device=device,
        device_class=device_class,
        release=release,
        devices=len({it.device for it in parts}),
        windows=sum(it.windows for it in parts),
        requests=sum(it.requests for it in parts),
        errors=sum(it.errors for it in parts),
        dropped=sum(it.dropped for it in parts),
        restarts=sum(it.restarts for it in parts),
        rss_mb=max(it.rss_mb for it in parts),
        labelled=Share(
            sum(it.label_ok for it in parts), sum(it.label_total for it in parts)
        ),
        golden=Share(
            sum(it.golden_ok for it in parts), sum(it.golden_total for it in parts)
        ),
        latency=latency,
        last=max(it.last for it in parts),
    )
