"""How rollouts are told: to people as text, to scripts as JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence

from quarterdeck_controller.cli.output import out, print_table
from quarterdeck_controller.rollout.plan import Plan, Stands
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.view import DeviceView, Status
from quarterdeck_controller.store.records import Decision, Rollout

MEBIBYTE = 1 << 20
LISTED = 50
"""Devices and refusals listed for people; JSON has them all."""

Waves = Sequence[Sequence[DeviceView]]
Refused = Sequence[tuple[str, str]]


def summary(rollout: Rollout) -> dict[str, object]:
    """Return the rollout as JSON."""
    return {
        "v": 1,
        "rollout": rollout.id,
        "release": rollout.release,
        "selector": rollout.selector,
        "state": str(rollout.state),
        "wave": rollout.wave + 1,
        "created": rollout.created_at.isoformat(),
        "changed": rollout.changed_at.isoformat(),
        "reason": rollout.reason,
    }


def lines_of(rollout: Rollout) -> tuple[object, ...]:
    """Return the rollout as a row of ``rollout list``."""
    return (
        rollout.id,
        rollout.release,
        rollout.selector,
        rollout.state,
        rollout.wave + 1,
        f"{rollout.changed_at:%Y-%m-%d %H:%M:%S}",
        rollout.reason,
    )


def progress(decided: Plan, policy: Policy) -> str:
    """Return where the rollout stands, on one line."""
    rollout, counts = decided.before, decided.counts()
    told = ", ".join(
        f"{counts[status]} {status.replace('_', ' ')}"
        for status in Status
        if counts.get(status)
    )
    failed = ", ".join(f"{it.device}: {it.code}" for it in decided.stands if it.code)
    where = (
        f"{rollout.state}, wave {rollout.wave + 1} of {len(policy.waves)}"
        f" ({len(decided.stands)} of {decided.total} devices): {told or 'none yet'}"
    )
    why = rollout.reason or _steady(decided)
    return "; ".join(part for part in (where, failed, why) if part)


def details(
    decided: Plan, policy: Policy, decisions: Sequence[Decision]
) -> dict[str, object]:
    """Return a rollout with its devices and decisions as JSON."""
    return {
        **summary(decided.before),
        "waves": list(policy.waves),
        "total": decided.total,
        "limit": decided.limit,
        "counts": {str(key): value for key, value in decided.counts().items()},
        "next": list(decided.reasons),
        "devices": [_stands(it) for it in decided.stands],
        "refused": [{"device": it, "reason": why} for it, why in decided.refused],
        "policy": policy.model_dump(mode="json"),
        "decisions": [_decision(it) for it in decisions],
    }


def print_show(decided: Plan, policy: Policy, decisions: Sequence[Decision]) -> None:
    """Print a rollout with its devices and decisions."""
    rollout = decided.before
    out.print(f"[bold]rollout {rollout.id}[/]: {rollout.release} to ", end="")
    out.print(rollout.selector, markup=False)
    out.print(progress(decided, policy), markup=False)
    if decided.reasons and rollout.reason not in decided.reasons:
        out.print("next: " + "; ".join(decided.reasons), markup=False)
    if decided.stands:
        out.print()
        print_table(
            ("device", "wave", "status", "code", "detail"),
            [
                (it.device, it.wave + 1, it.status, it.code, it.detail)
                for it in decided.stands[:LISTED]
            ],
        )
        _more(len(decided.stands))
    _print_refused(decided.refused)
    out.print()
    print_table(
        ("at", "decision", "reason"),
        [(f"{it.at:%H:%M:%S}", it.what, it.reason) for it in decisions],
    )


def plan_json(
    release: str,
    policy: Policy,
    waves: Waves,
    refused: Refused,
    lengths: Mapping[str, int],
) -> dict[str, object]:
    """Return a dry run as JSON."""
    return {
        "v": 1,
        "release": release,
        "waves": [
            {
                "wave": number,
                "upto": text,
                "devices": [view.id for view in wave],
                "bytes": _bytes(wave, lengths),
            }
            for number, (text, wave) in enumerate(
                zip(policy.waves, waves, strict=True), start=1
            )
        ],
        "refused": [{"device": it, "reason": why} for it, why in refused],
    }


def print_plan(
    release: str,
    policy: Policy,
    waves: Waves,
    refused: Refused,
    lengths: Mapping[str, int],
) -> None:
    """Print a dry run."""
    out.print(f"{release} would go to, if nothing fails:", markup=False)
    print_table(
        ("wave", "up to", "devices", "online", "MiB at most", "classes", "first"),
        [
            (
                number,
                text,
                len(wave),
                sum(view.online_since is not None for view in wave),
                f"{_bytes(wave, lengths) / MEBIBYTE:.1f}",
                _classes(wave),
                ", ".join(view.id for view in wave[:3]),
            )
            for number, (text, wave) in enumerate(
                zip(policy.waves, waves, strict=True), start=1
            )
        ],
        right=("wave", "devices", "online", "MiB at most"),
    )
    _print_refused(refused)


def _print_refused(refused: Refused) -> None:
    if refused:
        out.print()
        print_table(("left out", "why"), refused[:LISTED])
        _more(len(refused))


def _more(count: int) -> None:
    if count > LISTED:
        out.print(f"and {count - LISTED} more; --json has them all")


def _bytes(wave: Sequence[DeviceView], lengths: Mapping[str, int]) -> int:
    # Each class's artifact is broadcast once, however many devices take it.
    return sum(lengths[name] for name in {view.device_class for view in wave})


def _classes(wave: Sequence[DeviceView]) -> str:
    counts = Counter(view.device_class for view in wave)
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _steady(decided: Plan) -> str:
    # Seconds that count down would make every line a new one.
    return next((it for it in decided.reasons if " in " not in it), "")


def _stands(it: Stands) -> dict[str, object]:
    return {
        "device": it.device,
        "wave": it.wave + 1,
        "status": str(it.status),
        "code": it.code or None,
        "detail": it.detail,
    }


def _decision(it: Decision) -> dict[str, object]:
    return {
        "at": it.at.isoformat(),
        "what": it.what,
        "reason": it.reason,
        "numbers": dict(it.numbers),
    }
