import pytest

from quarterdeck_controller.monitor.compare import Share, drop, wilson
from quarterdeck_controller.rollout.gate import (
    Evidence,
    Outcome,
    Pair,
    Results,
    judge,
    judge_failures,
)
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.state import TRANSITIONS, Step, after
from quarterdeck_controller.store.records import RolloutState
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.telemetry.sketch import Sketch


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"waves": ()}, "waves"),
        ({"waves": ("0", "100%")}, "neither a count nor a share"),
        ({"waves": ("all",)}, "neither a count nor a share"),
        ({"waves": ("50%", "25%", "100%")}, "must grow"),
        ({"waves": ("5", "5", "100%")}, "must grow"),
        ({"waves": ("1", "50%")}, "last wave must be 100%"),
        ({"waves": ("1", "5")}, "last wave must be 100%"),
        ({"waves": ("100%", "150%")}, "last wave must be 100%"),
        ({"soak_s": -1}, "soak_s"),
        ({"soak_s": float("nan")}, "soak_s"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": 60, "probation_s": 60}, "no device could commit"),
        ({"max_failed": None}, "nothing stops it"),
        ({"max_failed": -1}, "max_failed"),
        ({"max_failed_share": 1.0}, "max_failed_share"),
        ({"accuracy_drop": -1}, "accuracy_drop"),
        ({"accuracy_drop": 100}, "accuracy_drop"),
        ({"min_labelled": 0}, "min_labelled"),
        ({"latency_ratio": 0.5}, "latency_ratio"),
        ({"on_failure": "ignore"}, "on_failure"),
        ({"sok_s": 5}, "sok_s"),
    ],
)
def test_a_silly_policy_is_refused_with_the_field(
    values: dict[str, object], words: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        Policy.parse(values)

    assert caught.value.code is Code.POLICY_INVALID
    assert words in caught.value.detail


def test_a_policy_survives_being_stored() -> None:
    policy = Policy.parse({"waves": ("1", "25%", "100%"), "accuracy_drop": 2})

    assert Policy.load(policy.model_dump_json()) == policy


@pytest.mark.parametrize(
    ("waves", "total", "limits"),
    [
        (("1", "25%", "100%"), 8, [1, 2, 8]),
        (("1", "25%", "100%"), 0, [0, 0, 0]),
        (("5", "10%", "100%"), 20, [5, 5, 20]),
        (("10%", "100%"), 1, [1, 1]),
        (("33.3%", "100%"), 10, [4, 10]),
        (("30%", "100%"), 10, [3, 10]),
    ],
)
def test_a_wave_holds_what_its_text_says_and_never_less_than_before(
    waves: tuple[str, ...], total: int, limits: list[int]
) -> None:
    policy = Policy.parse({"waves": waves})

    assert [policy.limit(n, total) for n in range(len(waves))] == limits


def test_every_state_under_way_can_be_aborted() -> None:
    ends = {RolloutState.PROMOTED, RolloutState.ABORTED, RolloutState.ROLLED_BACK}

    for state in set(RolloutState) - ends:
        assert (state, Step.ABORT) in TRANSITIONS


def test_a_step_that_is_not_allowed_says_what_is() -> None:
    with pytest.raises(RejectedError) as caught:
        after(RolloutState.PROMOTED, Step.PAUSE)

    assert caught.value.code is Code.NOT_ALLOWED
    assert "allowed: rollback" in caught.value.detail


def pairs(old: Share, new: Share) -> list[Pair]:
    return [Pair(Evidence(new), Evidence(old))]


ACCURATE = Policy.parse({"accuracy_drop": 2, "min_labelled": 100})
FINE = Results(done=4, failed=(), able=4)


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        (Share(9000, 10000), Share(9000, 10000), Outcome.SUCCESSFUL),
        (Share(9000, 10000), Share(9500, 10000), Outcome.SUCCESSFUL),
        (Share(9000, 10000), Share(8000, 10000), Outcome.FAILED),
        (Share(9000, 10000), Share(8800, 10000), Outcome.INCONCLUSIVE),
        (Share(90, 100), Share(90, 100), Outcome.INCONCLUSIVE),
        (Share(9000, 10000), Share(90, 99), Outcome.INCONCLUSIVE),
        (Share(90, 99), Share(9000, 10000), Outcome.INCONCLUSIVE),
        (Share(100, 100), Share(0, 100), Outcome.FAILED),
    ],
)
def test_accuracy_is_judged_by_what_is_certain(
    old: Share, new: Share, outcome: Outcome
) -> None:
    assert judge(ACCURATE, FINE, pairs(old, new), look=1).outcome is outcome


def test_a_verdict_carries_its_numbers_and_its_sentence() -> None:
    verdict = judge(ACCURATE, FINE, pairs(Share(900, 1000), Share(700, 1000)), look=1)

    assert verdict.numbers["old_labelled"] == 1000
    assert verdict.numbers["alpha_fail"] == 0.005
    assert "90.0% before (n=1000), 70.0% now (n=1000): lost at least 15" in (
        verdict.reason
    )


def test_later_looks_ask_for_more_certainty() -> None:
    old, new = Share(9000, 10000), Share(8690, 10000)

    first = judge(ACCURATE, FINE, pairs(old, new), look=1)
    tenth = judge(ACCURATE, FINE, pairs(old, new), look=10)

    assert float(first.numbers["drop_at_least"]) > float(tenth.numbers["drop_at_least"])


def test_devices_without_a_previous_release_have_nothing_to_lose() -> None:
    verdict = judge(ACCURATE, FINE, [Pair(Evidence(Share(1, 50)))], look=1)

    assert verdict.outcome is Outcome.SUCCESSFUL
    assert "no previous release" in verdict.reason


def test_no_device_at_all_is_inconclusive() -> None:
    nobody = Results(done=0, failed=(), able=0)

    assert judge(Policy(), nobody, [], look=1).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("values", "failed", "able", "outcome"),
    [
        ({"max_failed": 0}, 0, 10, Outcome.SUCCESSFUL),
        ({"max_failed": 0}, 1, 10, Outcome.FAILED),
        ({"max_failed": 1}, 1, 10, Outcome.SUCCESSFUL),
        ({"max_failed": None, "max_failed_share": 0.1}, 1, 10, Outcome.SUCCESSFUL),
        ({"max_failed": None, "max_failed_share": 0.1}, 2, 10, Outcome.FAILED),
        ({"max_failed": 5, "max_failed_share": 0.1}, 2, 10, Outcome.FAILED),
    ],
)
def test_failures_are_counted_against_both_limits(
    values: dict[str, object], failed: int, able: int, outcome: Outcome
) -> None:
    results = Results(done=able - failed, failed=("golden_failed",) * failed, able=able)

    assert judge_failures(Policy.parse(values), results).outcome is outcome


def sketch(milliseconds: float, count: int) -> Sketch:
    made = Sketch()
    for _ in range(count):
        made.add(round(milliseconds * 1e6))
    return made


@pytest.mark.parametrize(
    ("new_ms", "count", "outcome"),
    [
        (10.0, 200, Outcome.SUCCESSFUL),
        (11.9, 200, Outcome.SUCCESSFUL),
        (13.0, 200, Outcome.FAILED),
        (10.0, 99, Outcome.INCONCLUSIVE),
    ],
)
def test_latency_is_judged_by_the_ratio_of_its_90th_percentiles(
    new_ms: float, count: int, outcome: Outcome
) -> None:
    policy = Policy.parse({"latency_ratio": 1.25})
    pair = Pair(
        Evidence(latency=sketch(new_ms, count)), Evidence(latency=sketch(10.0, 200))
    )

    assert judge(policy, FINE, [pair], look=1).outcome is outcome


def test_wilson_agrees_with_the_published_example() -> None:
    low, high = wilson(Share(81, 263))  # Newcombe 1998, table I

    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_the_interval_of_a_difference_agrees_with_the_published_example() -> None:
    low, high = drop(Share(56, 70), Share(48, 80), 0.025)  # Newcombe 1998, method 10

    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_without_data_anything_is_possible() -> None:
    assert drop(Share(0, 0), Share(5, 5), 0.05) == (-1.0, 1.0)
    assert wilson(Share(0, 0)) == (0.0, 1.0)
