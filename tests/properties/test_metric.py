"""What holds of every metric, whatever the outputs."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quarterdeck_controller.optimize.metric.choose import BUILT_IN, parse_metric
from quarterdeck_controller.optimize.metric.judge import compare, judge
from quarterdeck_controller.optimize.metric.metric import SHARE, Array

COUNT = 24
FEW = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@dataclass(frozen=True)
class Case:
    """Outputs that are right, labels, and outputs that are anything."""

    labels: Array
    right: Array
    other: Array


def _classes(rng: np.random.Generator) -> Case:
    labels = rng.integers(0, 4, COUNT)
    return Case(labels, np.eye(4)[labels], rng.normal(size=(COUNT, 4)))


def _sequences(rng: np.random.Generator) -> Case:
    labels = rng.integers(1, 5, (COUNT, 6))
    labels[1:, 4:] = -1
    steps = np.zeros((COUNT, 12), np.int64)
    steps[:, ::2] = np.maximum(labels, 0)
    return Case(labels, np.eye(5)[steps], rng.normal(size=(COUNT, 12, 5)))


def _places(rng: np.random.Generator) -> Case:
    labels = rng.integers(0, 5, (COUNT, 7))
    return Case(labels, np.eye(5)[labels], rng.normal(size=(COUNT, 7, 5)))


def _targets(rng: np.random.Generator) -> Case:
    labels = rng.normal(size=(COUNT, 9))
    return Case(labels, labels.copy(), rng.normal(size=(COUNT, 9)))


def _pairs(rng: np.random.Generator) -> Case:
    labels = np.arange(COUNT) // 2
    return Case(labels, np.eye(COUNT)[labels], rng.normal(size=(COUNT, 8)))


def _boxes(rng: np.random.Generator) -> Case:
    low = rng.uniform(0, 50, (COUNT, 3, 2))
    low += np.array([0, 200, 400])[:, None]
    corners = np.concatenate([low, low + rng.uniform(5, 20, (COUNT, 3, 2))], axis=2)
    kind = rng.integers(0, 2, (COUNT, 3, 1))
    score = rng.uniform(0.1, 1, (COUNT, 3, 1))
    right = np.concatenate([corners, score, kind], axis=2)
    other = right + rng.normal(0, 4, right.shape) * [1, 1, 1, 1, 0, 0]
    return Case(np.concatenate([kind, corners], axis=2), right, other)


CASES = {
    "top1": _classes,
    "topk:k=2": _classes,
    "f1": _classes,
    "cer": _sequences,
    "exact": _places,
    "recall": _pairs,
    "map": _boxes,
    "rmse": _targets,
    "sisdr": _targets,
    "agreement": _classes,
    "closeness": _targets,
    "cosine": _targets,
}
BEST = {"rmse": 0.0, "sisdr": 100.0, "cer": 0.0}


def test_every_metric_is_held_to_these_properties() -> None:
    assert {name.partition(":")[0] for name in CASES} == BUILT_IN.keys()


@pytest.mark.parametrize("name", CASES)
@FEW
@given(seed=st.integers(0, 10_000))
def test_right_outputs_get_the_best_score(name: str, seed: int) -> None:
    case = CASES[name](np.random.default_rng(seed))

    found = judge(parse_metric(name), {"y": case.right}, case.labels, {"y": case.right})

    assert found.score == pytest.approx(BEST.get(name, 1.0))
    assert found.agreement == 1


@pytest.mark.parametrize("name", CASES)
@FEW
@given(seed=st.integers(0, 10_000))
def test_scores_stay_in_range_and_intervals_hold_them(name: str, seed: int) -> None:
    case, metric = CASES[name](np.random.default_rng(seed)), parse_metric(name)

    found = compare(metric, {"y": case.other}, case.labels, {"y": case.right})

    judged = found.variant
    if metric.about.unit == SHARE and name != "cer":
        assert 0 <= judged.score <= 1
    assert judged.ci95[0] <= judged.score <= judged.ci95[1]
    assert found.drop_points >= 0
    assert found.drop_ci95[0] - 1e-6 <= found.drop_points <= found.drop_ci95[1] + 1e-6
    assert 0 <= judged.agreement <= 1
    assert len(judged.values) == COUNT


@pytest.mark.parametrize("name", CASES)
@FEW
@given(seed=st.integers(0, 10_000))
def test_the_order_of_samples_does_not_matter(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    case, metric, order = CASES[name](rng), parse_metric(name), rng.permutation(COUNT)

    one = judge(metric, {"y": case.other}, case.labels, {"y": case.right})
    two = judge(
        metric, {"y": case.other[order]}, case.labels[order], {"y": case.right[order]}
    )

    assert one.score == pytest.approx(two.score)
    assert one.agreement == pytest.approx(two.agreement)
    assert one.values[order] == pytest.approx(two.values)


@pytest.mark.parametrize("name", CASES)
@FEW
@given(seed=st.integers(0, 10_000), nothing=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_broken_outputs_are_never_better_and_never_stop_the_judge(
    name: str, seed: int, nothing: float
) -> None:
    case, metric = CASES[name](np.random.default_rng(seed)), parse_metric(name)
    broken = case.right.copy()
    broken[::3] = nothing

    found = compare(metric, {"y": broken}, case.labels, {"y": case.right})

    assert found.drop_points > 0
    assert np.isfinite([found.variant.score, *found.variant.ci95]).all()
    assert np.isfinite([found.drop_points, *found.drop_ci95]).all()
    assert found.variant.broken == COUNT // 3
    assert found.variant.agreement <= 2 / 3
