import json

import pytest

from quarterdeck_controller.optimize.evaluation import ClassScore, Evaluation
from quarterdeck_controller.optimize.report.compare import Comparison, compare
from tests.support.stories import evaluation, latency, provenance, side, story


def held(a: Evaluation, b: Evaluation) -> Comparison:
    return compare((a, story()), (b, None))


def with_variant(**changes: object) -> Evaluation:
    """Return an evaluation whose file is another one, with another variant."""
    fields = {"bytes": 2_700_000, "latency": latency(1.6), "score": 0.897}
    variant = side(**(fields | changes))
    return evaluation(files={"model.onnx": "f" * 64}, variant=variant)


def test_a_smaller_and_faster_variant_is_better() -> None:
    better = with_variant(bytes=1_350_000).model_copy(update={"latency_ratio": 0.2})

    found = held(evaluation(), better)

    assert "B is better: latency -50 %, size -50 %" in found.verdict
    assert "worse" not in found.verdict


def test_figures_within_the_noise_are_not_told_apart() -> None:
    close = with_variant().model_copy(update={"latency_ratio": 0.41})

    found = held(evaluation(), close)

    assert "better" not in found.verdict
    assert "not told apart: accuracy (+0.0 points), latency, size" in found.verdict


def test_a_loss_past_both_intervals_is_worse() -> None:
    bad = with_variant(score=0.8, ci95=(0.77, 0.83))
    bad = bad.model_copy(update={"drop_points": 10.0})

    found = held(evaluation(), bad)

    assert "B is worse: 9.7 points of top1" in found.verdict


def test_scores_from_other_data_are_not_compared() -> None:
    other = with_variant(score=0.5, ci95=(0.4, 0.6)).model_copy(
        update={"provenance": provenance(evaluation_sha256="9" * 64)}
    )

    found = held(evaluation(), other)

    assert found.warnings == (
        "the scores cannot be compared: the evaluation data differ",
    )
    assert "points" not in found.verdict
    assert found.classes == ()


def test_another_split_of_the_same_data_is_not_the_same_data() -> None:
    other = with_variant().model_copy(update={"provenance": provenance(seed=7)})

    found = held(evaluation(), other)

    assert "other samples of the same data judged" in found.warnings[0]
    assert "seed: 0 became 7" in found.differences


def test_another_float_model_is_named_and_latency_is_then_in_milliseconds() -> None:
    other = with_variant(latency=latency(3.2)).model_copy(
        update={"provenance": provenance(model_sha256="9" * 64), "latency_ratio": 0.1}
    )

    found = held(evaluation(), other)

    assert "float model: cccccccccccc became 999999999999" in found.differences
    assert "latency +100 %" in found.verdict


def test_an_error_rate_counts_the_other_way_round() -> None:
    before = evaluation(
        metric="cer",
        reference=side(score=0.1),
        variant=side(score=0.11, ci95=(0.1, 0.12)),
        drop_points=1.0,
    )
    after = before.model_copy(
        update={
            "files": {},
            "variant": side(score=0.3, ci95=(0.28, 0.32)),
            "provenance": provenance(model_sha256="9" * 64),
            "drop_points": 20.0,
        }
    )

    found = held(before, after)

    assert "19.0 points of cer" in found.verdict
    assert found.verdict.index("worse") < found.verdict.index("19.0")


def test_the_class_that_lost_most_comes_first() -> None:
    now = (("PEN", 0.97), ("ABD", 0.6), ("ROW", 0.9))
    scores = tuple(ClassScore(name=n, samples=40, score=s) for n, s in now)

    found = held(evaluation(), with_variant(classes=scores))

    assert [one.name for one in found.classes] == ["ABD", "PEN"]


def test_the_same_file_is_said_to_be_the_same() -> None:
    found = held(evaluation(), evaluation())

    assert found.verdict == "the same model, byte for byte"
    assert found.differences == ()


@pytest.mark.parametrize("which", ["A", "B", "A and B"])
def test_a_class_without_a_variant_has_nothing_to_compare(which: str) -> None:
    none = evaluation(variant=None, recipe=None, decision="refused")
    sides = [none if name in which else evaluation() for name in "AB"]

    found = held(*sides)

    assert found.verdict == f"nothing to compare: no variant in {which}"


def test_what_was_set_otherwise_is_told() -> None:
    settings = {"kind": "static", "scheme": "u8u8", "per_channel": False}
    changed = provenance(
        settings=settings,
        versions={"onnxruntime": "1.33.0"},
        overrides=(("conv1", "weights"),),
    )

    found = held(
        evaluation(), with_variant().model_copy(update={"provenance": changed})
    )

    assert found.differences == (
        "per_channel: yes became no",
        "scheme: u8s8 became u8u8",
        "onnxruntime: 1.32.0 became 1.33.0",
        "1 operators have another treatment of their own",
    )


def test_a_comparison_is_json() -> None:
    told = json.loads(json.dumps(held(evaluation(), with_variant()).as_json()))

    assert told["a_class"] == "gateway-x86"
    assert {"what", "a", "b", "change"} == set(told["lines"][0])
