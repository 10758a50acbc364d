from pathlib import Path

import numpy as np
import pytest

from quarterdeck_controller.optimize.data.stored import Stored, Writer
from quarterdeck_controller.optimize.metric.baseline import baselines


def _store(folder: Path) -> Stored:
    x = np.arange(101.0)[:, None] + np.array([-1.0, 1.0])
    with Writer(folder) as writer:
        writer.add({"x": x, "n": np.arange(101)})
    return Stored.open(folder)


def test_inputs_are_told_by_the_deciles_of_their_means_and_spreads(
    tmp_path: Path,
) -> None:
    found = baselines(_store(tmp_path), None, None)

    x, n = found.inputs
    assert (found.samples, x.name, n.name) == (101, "x", "n")
    assert x.deciles == pytest.approx(range(0, 101, 10))
    assert x.spreads == pytest.approx([1] * 11)
    assert n.deciles == pytest.approx(range(0, 101, 10))
    assert found.class_shares == found.confidences == ()


def test_an_input_whose_spread_is_no_number_is_left_out(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        writer.add({"x": np.array([[1e308] * 3] * 4), "y": np.ones((4, 3))})
    stored = Stored.open(tmp_path)

    found = baselines(stored, None, None)

    assert [it.name for it in found.inputs] == ["y"]


def test_only_the_named_rows_count(tmp_path: Path) -> None:
    found = baselines(_store(tmp_path), None, None, rows=[100, 90])

    assert found.samples == 2
    assert (found.inputs[0].deciles[0], found.inputs[0].deciles[10]) == (90, 100)


def test_probabilities_are_binned_as_they_are_and_logits_after_a_softmax(
    tmp_path: Path,
) -> None:
    chances = np.array([[0.5, 0.5], [0.1, 0.9], [0.0, 1.0], [0.99, 0.01]])
    logits = np.log(np.array([[0.5, 0.5], [0.1, 0.9]])) + 3
    stored = _store(tmp_path)

    first = baselines(stored, chances, 2, rows=[0, 1, 2, 3])
    second = baselines(stored, logits, 2, rows=[0, 1])

    assert first.class_shares == (0.5, 0.5)
    assert np.flatnonzero(first.confidences).tolist() == [8, 14, 15]
    assert np.flatnonzero(second.confidences).tolist() == [8, 14]
    assert sum(first.confidences) == sum(second.confidences) == 1


def test_scores_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    scores = np.array([[0.0, np.nan], [0.2, 0.8]])

    found = baselines(_store(tmp_path), scores, 2, rows=[0, 1])

    assert found.class_shares == (0, 1)
