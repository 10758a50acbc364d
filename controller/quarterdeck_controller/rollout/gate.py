"""The gate: counts in, verdict out (pure).

Three questions, in this order. Did too many devices fail? Is the new release less
accurate on labelled inferences than the same devices' previous release, by more than
is allowed? Is it slower by more than is allowed? ``successful`` needs a clear "no" to
each; what is not clear is ``inconclusive``, which holds and never promotes.

The accuracy question is asked at most once a look. Look k (from 1) may spend
``alpha / (k (k + 1))`` of the error budget, so that all looks together never spend
more than ``alpha``: 1 % for a false failure, 5 % for a false success at the margin.
Inferences are treated as independent here, which they are not within one device; the
test that takes the device as its unit comes later. Latency is compared by the ratio
of two merged 90th percentiles, off by at most 1.6 % each, without a bound of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from quarterdeck_controller.monitor.compare import Share, drop
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_shared.telemetry.sketch import Sketch

ALPHA_FAIL = 0.01
ALPHA_PROMOTE = 0.05
MIN_LATENCIES = 100
"""Latencies needed on either side before their 90th percentiles are compared."""

_NOTHING = Share(0, 0)


class Outcome(StrEnum):
    """What a gate can say."""

    SUCCESSFUL = "successful"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


Numbers = Mapping[str, float | int | str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome, its sentence and the numbers behind it."""

    outcome: Outcome
    reason: str
    numbers: Numbers = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one device measured with one artifact."""

    labelled: Share = _NOTHING
    latency: Sketch = field(default_factory=Sketch)


@dataclass(frozen=True, slots=True)
class Pair:
    """One device's evidence, with the new release and with its previous one.

    Attributes:
        old: None when the device had no previous release.
    """

    new: Evidence
    old: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """How the devices of a rollout did.

    Attributes:
        done: Devices that committed the release.
        failed: The code of each device that did not.
        able: Devices that were online to act, with those that are still at it.
    """

    done: int
    failed: Sequence[str]
    able: int


def judge(
    policy: Policy, results: Results, pairs: Sequence[Pair], look: int
) -> Verdict:
    """Return the verdict of look number ``look`` (from 1) on a soaked wave."""
    parts = [judge_failures(policy, results)]
    if results.done == 0:
        parts.append(
            Verdict(
                Outcome.INCONCLUSIVE, "no device was online to commit it: nothing seen"
            )
        )
    if policy.accuracy_drop is not None:
        parts.append(_accuracy(policy, policy.accuracy_drop, pairs, look))
    if policy.latency_ratio is not None:
        parts.append(_latency(policy.latency_ratio, pairs))
    return _worst(parts)


def judge_failures(policy: Policy, results: Results) -> Verdict:
    """Return whether too many devices failed; asked at any time, not once a look."""
    failed, able = len(results.failed), results.able
    codes = ", ".join(sorted(set(results.failed)))
    numbers: Numbers = {"failed": failed, "able": able, "done": results.done}
    said = f"{failed} of {able} devices failed" + (f" ({codes})" if codes else "")
    if policy.max_failed is not None and failed > policy.max_failed:
        reason = f"{said}, at most {policy.max_failed} accepted"
        return Verdict(Outcome.FAILED, reason, numbers)
    share = failed / able if able else 0.0
    if policy.max_failed_share is not None and share > policy.max_failed_share:
        reason = f"{said}, at most {policy.max_failed_share:.1%} accepted"
        return Verdict(Outcome.FAILED, reason, numbers)
    return Verdict(Outcome.SUCCESSFUL, said, numbers)


def _accuracy(
    policy: Policy, allowed: float, pairs: Sequence[Pair], look: int
) -> Verdict:
    both = [(pair.new, pair.old) for pair in pairs if pair.old is not None]
    if not both:
        return Verdict(
            Outcome.SUCCESSFUL, "no previous release to compare accuracy with"
        )
    seen = [(new.labelled, old.labelled) for new, old in both if old.labelled.total]
    new = sum((share for share, _ in seen), _NOTHING)
    old = sum((share for _, share in seen), _NOTHING)
    numbers: dict[str, float | int | str] = {
        "new_ok": new.ok,
        "new_labelled": new.total,
        "old_ok": old.ok,
        "old_labelled": old.total,
        "look": look,
        "allowed_points": allowed,
    }
    if min(new.total, old.total) < policy.min_labelled:
        reason = (
            f"{new.total} labelled inferences with the new release and {old.total}"
            f" with the previous one, {policy.min_labelled} needed of each"
        )
        return Verdict(Outcome.INCONCLUSIVE, reason, numbers)
    return _compare(old, new, allowed, look, numbers)


def _compare(
    old: Share,
    new: Share,
    allowed: float,
    look: int,
    numbers: dict[str, float | int | str],
) -> Verdict:
    spend = 1 / (look * (look + 1))
    at_least = 100 * drop(old, new, ALPHA_FAIL * spend)[0]
    at_most = 100 * drop(old, new, ALPHA_PROMOTE * spend)[1]
    numbers |= {
        "drop_at_least": round(at_least, 3),
        "drop_at_most": round(at_most, 3),
        "alpha_fail": ALPHA_FAIL * spend,
        "alpha_promote": ALPHA_PROMOTE * spend,
    }
    seen = (
        f"accuracy {old.value:.1%} before (n={old.total}), {new.value:.1%} now"
        f" (n={new.total}): "
    )
    if at_least > allowed:
        reason = f"lost at least {at_least:.1f} points, {allowed:g} allowed"
        return Verdict(Outcome.FAILED, seen + reason, numbers)
    if at_most <= allowed:
        reason = f"lost at most {max(0.0, at_most):.1f} points, {allowed:g} allowed"
        return Verdict(Outcome.SUCCESSFUL, seen + reason, numbers)
    reason = (
        f"the loss lies between {at_least:.1f} and {at_most:.1f} points,"
        f" {allowed:g} allowed: more labels are needed"
    )
    return Verdict(Outcome.INCONCLUSIVE, seen + reason, numbers)


def _latency(allowed: float, pairs: Sequence[Pair]) -> Verdict:
    both = [
        (pair.new.latency, pair.old.latency)
        for pair in pairs
        if pair.old is not None and pair.old.latency.count
    ]
    if not any(pair.old for pair in pairs):
        return Verdict(Outcome.SUCCESSFUL, "no previous release to compare speed with")
    new, old = merged([new for new, _ in both]), merged([old for _, old in both])
    numbers: dict[str, float | int | str] = {
        "new_latencies": new.count,
        "old_latencies": old.count,
        "allowed_ratio": allowed,
    }
    before, now = old.quantile(0.9), new.quantile(0.9)
    if min(new.count, old.count) < MIN_LATENCIES or not before or now is None:
        reason = (
            f"{new.count} latencies with the new release and {old.count} with the"
            f" previous one, {MIN_LATENCIES} needed of each"
        )
        return Verdict(Outcome.INCONCLUSIVE, reason, numbers)
    ratio = now / before
    numbers |= {"p90_ratio": round(ratio, 4), "p90_new_ns": now, "p90_old_ns": before}
    reason = (
        f"p90 latency {now / 1e6:.2f} ms, {ratio:.2f} times the {before / 1e6:.2f} ms"
        f" before, {allowed:g} allowed"
    )
    good = Outcome.SUCCESSFUL if ratio <= allowed else Outcome.FAILED
    return Verdict(good, reason, numbers)


def merged(sketches: Sequence[Sketch]) -> Sketch:
    """Return the sketch of everything in ``sketches``."""
    total = Sketch()
    for sketch in sketches:
        total = total.merged(sketch)
    return total


def _worst(parts: Sequence[Verdict]) -> Verdict:
    order = (Outcome.FAILED, Outcome.ERROR, Outcome.INCONCLUSIVE, Outcome.SUCCESSFUL)
    outcome = min((part.outcome for part in parts), key=order.index)
    numbers = {key: value for part in parts for key, value in part.numbers.items()}
    said = [part.reason for part in parts if part.outcome is outcome]
    return Verdict(outcome, "; ".join(said), MappingProxyType(numbers))
