import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_controller.optimize import golden
from quarterdeck_controller.optimize.data.samples import Array
from quarterdeck_controller.optimize.measure.fidelity import fidelity, tolerance
from quarterdeck_controller.optimize.profile import GoldenPolicy
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Golden

POLICY = GoldenPolicy()


def scores(count: int, classes: int = 4, seed: int = 0) -> Array:
    raw = np.random.default_rng(seed).random((count, classes)).astype(np.float32)
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))


@settings(deadline=None)
@given(count=st.integers(1, 80), total=st.integers(1, 60), seed=st.integers(0, 5))
def test_as_many_different_vectors_are_chosen_as_asked_for_and_there_are(
    count: int, total: int, seed: int
) -> None:
    chosen = golden.choose_vectors(scores(total), None, count=count, seed=seed)

    assert len(chosen) == len(set(chosen)) == min(count, total)
    assert set(chosen) <= set(range(total))


def test_half_of_the_vectors_have_the_lowest_margins() -> None:
    given_scores = scores(200)
    lowest = set(np.argsort(golden.margins(given_scores))[:16].tolist())

    chosen = golden.choose_vectors(given_scores, None, count=32, seed=0)

    assert lowest <= set(chosen)


def test_a_rare_class_is_among_the_vectors() -> None:
    given_scores = scores(200)
    labels = np.zeros(200, np.int64)
    rare = int(np.argmax(golden.margins(given_scores)))
    labels[rare] = 3

    chosen = golden.choose_vectors(given_scores, labels, count=32, seed=0)

    assert rare in chosen


def test_the_seed_alone_decides_what_is_random() -> None:
    first = golden.choose_vectors(scores(200), None, count=32, seed=1)
    again = golden.choose_vectors(scores(200), None, count=32, seed=1)
    other = golden.choose_vectors(scores(200), None, count=32, seed=2)

    assert first == again != other


def test_scores_that_are_no_classes_are_sampled() -> None:
    chosen = golden.choose_vectors(scores(50)[:, :1], None, count=8, seed=0)

    assert len(chosen) == 8


def thresholds(expected: Array, limit: float | None) -> Golden:
    return golden.thresholds(expected, golden.scale_of(expected), limit, POLICY)


@pytest.mark.parametrize(
    ("tolerated", "limit"), [(0.05, 0.05), (0.125, 0.125), (0.5, 0.25), (None, 0.25)]
)
def test_the_error_limit_is_what_is_tolerated_within_the_classs_demand(
    tolerated: float | None, limit: float
) -> None:
    found = thresholds(scores(32), tolerated)

    assert found.max_error == pytest.approx(limit)


def test_a_margin_is_clear_by_what_best_scores_are_however_many_classes() -> None:
    few = np.eye(4)[np.zeros(8, np.int64)]
    many = np.eye(400)[np.zeros(8, np.int64)]

    margins = [thresholds(one, None).margin for one in (few, many)]
    assert margins == pytest.approx([0.1, 0.1])


def test_an_error_is_a_share_of_all_scores_however_small_the_vectors_own_are() -> None:
    every = scores(64)
    hard = every[:8] * 0.01

    found = golden.thresholds(hard, golden.scale_of(every), 0.1, POLICY)

    noise = 0.09 * golden.scale_of(every).rms * np.sign(hard)
    told = golden.compare(hard, hard + noise, golden.device_scale(hard, found))
    assert told.error == pytest.approx(9, rel=0.3)
    assert told.error <= found.max_error


def test_noise_of_an_instruction_set_passes_and_saturation_does_not() -> None:
    expected = scores(64, classes=7)
    rng = np.random.default_rng(0)
    scale = golden.scale_of(expected)
    size = np.sqrt((expected**2).mean())
    here = fidelity("here", expected, expected * (1 + 10 ** (-25.9 / 20)), scale)
    limits = thresholds(expected, tolerance([here]))

    def at(decibel: float) -> bool:
        noise = rng.standard_normal(expected.shape) * size * 10 ** (-decibel / 20)
        got = golden.compare(expected, expected + noise, scale)
        return golden.reproduces(got, limits)

    assert at(22.4)
    assert not at(12.8)


def test_scores_that_are_not_finite_reproduce_nothing() -> None:
    expected = scores(8)
    got = expected.copy()
    got[3, 1] = np.nan

    compared = golden.compare(expected, got, golden.scale_of(expected))

    assert compared.agreement == 0
    assert not golden.reproduces(compared, thresholds(expected, None))


def test_the_file_gives_back_what_was_written_and_the_same_bytes_each_time() -> None:
    inputs = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    expected = scores(2)

    first = golden.encode(inputs, "scores", expected)
    again = golden.encode(inputs, "scores", expected)
    got_inputs, output, got = golden.decode(first)

    assert first == again
    assert output == "scores"
    assert np.array_equal(got, expected)
    assert np.array_equal(got_inputs["x"], inputs["x"])


@pytest.mark.parametrize("payload", [b"", b"PK\x03\x04 broken", b"no zip at all"])
def test_a_file_of_other_bytes_is_refused(payload: bytes) -> None:
    with pytest.raises(RejectedError, match=r"golden\.npz"):
        golden.decode(payload)


def test_a_device_may_see_one_vector_more_fall_than_was_accepted_here() -> None:
    expected = np.eye(4)[np.arange(15) % 4]

    found = thresholds(expected, None)

    assert golden.least_agreement(15, POLICY) == pytest.approx(14 / 15)
    assert found.min_agreement == pytest.approx(13 / 15, abs=1e-6)
