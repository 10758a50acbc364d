"""What a plan needs to see, read from the store and the catalog in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from quarterdeck_controller.fleet.inventory import Selector
from quarterdeck_controller.monitor.compare import Share
from quarterdeck_controller.rollout.catalog import (
    CatalogPort,
    RevokedPort,
    VariantPort,
    runs,
)
from quarterdeck_controller.rollout.gate import Evidence
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.revoked import without_revoked
from quarterdeck_controller.rollout.state import UNFINISHED
from quarterdeck_controller.rollout.view import DeviceView
from quarterdeck_controller.store.records import (
    Device,
    Member,
    Presence,
    Rollout,
    Runs,
    Standing,
    Totals,
)
from quarterdeck_controller.store.store import Records
from quarterdeck_controller.store.windows import PREFIX_DIGITS
from quarterdeck_shared.device import lacking
from quarterdeck_shared.errors import RejectedError


@dataclass(frozen=True, slots=True)
class Observed:
    """The fleet as one rollout sees it.

    Attributes:
        variants: The rollout's release, by device class.
    """

    variants: Mapping[str, Runs]
    fleet: tuple[DeviceView, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    devices: Mapping[str, Device]
    presence: Mapping[str, Presence]
    standings: Mapping[str, Standing]
    desired: Mapping[str, str]
    members: Mapping[str, Member]
    held: Mapping[str, int]


def observe(
    records: Records, catalog: CatalogPort, rollout: Rollout, policy: Policy
) -> Observed:
    """Return the devices of the cohort and every device the rollout touched.

    A device that was revoked is gone: it is neither waited for nor counted.
    A release that has gone from the catalog has no variants, so that no device gets
    it, yet those that have it can still be taken back.

    Raises:
        RejectedError: ``SELECTOR_INVALID`` when the stored selector makes no sense.
    """
    variants = _variants(catalog, rollout.release)
    facts = _facts(records, rollout, catalog.revoked())
    cohort = {
        it.id for it in Selector.parse(rollout.selector).of(facts.devices.values())
    }
    wanted = sorted((cohort | facts.members.keys()) & facts.devices.keys())
    known = _Known(catalog)
    views = [_view(facts, facts.devices[it], variants, known) for it in wanted]
    evidence = _Evidence.read(records, rollout, policy, facts.members)
    return Observed(
        {name: Runs(rollout.release, it.target) for name, it in variants.items()},
        tuple(evidence.added_to(view) for view in views),
    )


def _variants(catalog: CatalogPort, release: str) -> Mapping[str, VariantPort]:
    try:
        return catalog.release(release).variants
    except RejectedError:
        return {}


def _facts(
    records: Records, rollout: Rollout, revoked: Mapping[str, RevokedPort]
) -> _Facts:
    others = [it.id for it in records.rollouts.all(*UNFINISHED) if it.id != rollout.id]
    return _Facts(
        devices={it.id: it for it in records.devices.all() if it.revoked_at is None},
        presence=records.presence.all(),
        standings=records.reports.standings(),
        desired=records.assignments.digests(),
        members={
            it.device: without_revoked(it, revoked)
            for it in records.rollouts.members(rollout.id)
        },
        held={it.device: it.rollout for it in records.rollouts.members(*others)},
    )


class _Known:
    """What devices run, as the catalog knows it; each release is asked for once."""

    def __init__(self, catalog: CatalogPort) -> None:
        self._catalog = catalog
        self._found: dict[tuple[str, str], Runs | None] = {}

    def running(self, standing: Standing | None, device_class: str) -> Runs | None:
        if standing is None:
            return None
        release, digest = standing.active_release, standing.active_digest
        if standing.in_probation:
            # What may still fail is nothing to come back to.
            release, digest = standing.previous_release, standing.previous_digest
        if release is None:
            return None
        key = (release, device_class)
        if key not in self._found:
            self._found[key] = self._find(*key)
        found = self._found[key]
        return found if found is not None and found.target.sha256 == digest else None

    def _find(self, release: str, device_class: str) -> Runs | None:
        try:
            return runs(self._catalog.release(release), device_class)
        except RejectedError:
            return None


def _view(
    facts: _Facts, device: Device, variants: Mapping[str, VariantPort], known: _Known
) -> DeviceView:
    presence = facts.presence.get(device.id)
    standing = facts.standings.get(device.id)
    variant = variants.get(device.device_class)
    online = presence is not None and presence.online
    return DeviceView(
        id=device.id,
        device_class=device.device_class,
        online_since=presence.changed_at if presence is not None and online else None,
        standing=standing,
        running=known.running(standing, device.device_class),
        lacking=(
            lacking(standing.capabilities, variant.index.requires)
            if standing is not None and variant is not None
            else None
        ),
        desired=facts.desired.get(device.id),
        held_by=facts.held.get(device.id),
        member=facts.members.get(device.id),
    )


@dataclass(frozen=True, slots=True)
class _Evidence:
    new: Mapping[tuple[str, str], Evidence]
    old: Mapping[tuple[str, str], Evidence]

    @classmethod
    def read(
        cls,
        records: Records,
        rollout: Rollout,
        policy: Policy,
        members: Mapping[str, Member],
    ) -> "_Evidence":
        # Evidence costs most to read, and nothing asks for it before the soak.
        asked = policy.accuracy_drop is not None or policy.latency_ratio is not None
        if rollout.soak_from is None or not asked:
            return cls({}, {})
        latency = policy.latency_ratio is not None
        targets = {it.target_digest for it in members.values()}
        before = {it.previous.target.sha256 for it in members.values() if it.previous}
        start = rollout.created_at
        baseline = start - timedelta(seconds=policy.baseline_s)
        windows = records.windows
        return cls(
            _by_device(windows.totals(since=start, artifacts=targets, latency=latency)),
            _by_device(
                windows.totals(since=baseline, artifacts=before, latency=latency)
            ),
        )

    def added_to(self, view: DeviceView) -> DeviceView:
        member = view.member
        if member is None:
            return view
        previous = member.previous
        same = previous is None or previous.target.sha256 == member.target_digest
        return replace(
            view,
            new=self.new.get((view.id, member.target_digest[:PREFIX_DIGITS])),
            old=None
            if same or previous is None
            else self.old.get(
                (view.id, previous.target.sha256[:PREFIX_DIGITS]), Evidence()
            ),
        )


def _by_device(totals: Sequence[Totals]) -> dict[tuple[str, str], Evidence]:
    return {
        (it.device, it.artifact): Evidence(
            Share(it.label_ok, it.label_total), it.latency
        )
        for it in totals
    }
