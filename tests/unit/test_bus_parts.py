"""What the bus is made of: patterns, waits, budgets."""

import random

import pytest

from quarterdeck_controller.transfer.budget import Budget
from quarterdeck_shared.bus.backoff import (
    FIRST_S,
    LONGEST_S,
    SHORTS,
    STABLE_S,
    TURNED_AWAY_S,
    Backoff,
)
from quarterdeck_shared.bus.handlers import matches


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("+/b", "a/b", True),
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/d", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
    ],
)
def test_a_pattern_covers_what_mqtt_says(
    pattern: str, topic: str, expected: bool
) -> None:
    assert matches(pattern, topic) is expected


def test_waits_grow_from_the_first_to_the_longest() -> None:
    rng = random.Random(1)
    backoff = Backoff()
    waits = []
    for _ in range(20):
        backoff = backoff.after_failure()
        waits.append(backoff.delay_s(rng))

    assert waits[0] <= 2 * FIRST_S
    assert LONGEST_S / 2 <= waits[-1] <= LONGEST_S


def test_a_stable_session_starts_the_waits_anew() -> None:
    worn = Backoff(attempts=9, shorts=9)

    assert worn.after_loss(STABLE_S) == Backoff()


def test_sessions_cut_right_after_they_began_look_turned_away() -> None:
    backoff = Backoff()
    for _ in range(SHORTS):
        assert not backoff.looks_turned_away
        backoff = backoff.after_loss(0.1)

    assert backoff.looks_turned_away
    assert backoff.delay_s(random.Random(1)) >= TURNED_AWAY_S / 2


def test_a_budget_lets_out_its_rate_and_no_more() -> None:
    budget = Budget(1000)
    now, spent = 10.0, 0
    while now < 20.0:
        wait_s = budget.wait_s(now)
        if wait_s == 0:
            budget.spend(300)
            spent += 300
        now += max(wait_s, 0.001)

    assert 9_500 <= spent <= 10_500


def test_no_budget_never_waits() -> None:
    budget = Budget(0)
    budget.spend(1 << 40)

    assert budget.wait_s(1.0) == 0
