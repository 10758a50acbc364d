"""Sensitivity: one session instead of one model an operator, and the same figures."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.quantize.calibrate import calibrate
from quarterdeck_controller.optimize.quantize.make import make
from quarterdeck_controller.optimize.quantize.spread import load_spreads
from quarterdeck_controller.optimize.recipe import Kind, Recipe
from quarterdeck_controller.optimize.repair.observe import open_graph, spaced
from quarterdeck_controller.optimize.repair.sense import (
    BEST_DB,
    WORST_DB,
    sense,
    sqnr_db,
)
from quarterdeck_controller.optimize.steps import CalibrateRequest, SenseRequest
from tests.support import unbalanced

IMAGE = (3, unbalanced.SIDE, unbalanced.SIDE)
WORDS = (10, 32)


@dataclass
class _Ticking:
    """A clock that goes on by a second whenever it is read."""

    read: int = 0

    def now(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        self.read += 1
        return float(self.read)


def _request(
    model: onnx.ModelProto, stored: Stored, folder: Path, recipe: Recipe
) -> SenseRequest:
    path, spreads = folder / "model.onnx", folder / "spreads"
    onnx.save(model, path)
    calibrate(CalibrateRequest(model=path, out=spreads, samples=stored.folder, batch=8))
    return SenseRequest(
        model=path,
        spreads=spreads,
        recipe=recipe,
        samples=stored.folder,
        output="y",
        batch=8,
        rows=16,
    )


def _slowly(request: SenseRequest, name: str) -> float:
    """Build the variant of one operator alone, run it, and hold it against float."""
    model = onnx.load(request.model)
    made = make(
        model, load_spreads(request.spreads), request.recipe, only={name}, fold=False
    )
    stored = Stored.open(request.samples)
    plain, variant = open_graph(model), open_graph(made.model)
    signal = error = 0.0
    for feed in stored.batches(8, spaced(stored.count, request.rows)):
        wanted = np.asarray(plain.run(["y"], feed)[0], np.float64)
        found = np.asarray(variant.run(["y"], feed)[0], np.float64)
        signal += float((wanted**2).sum())
        error += float(((found - wanted) ** 2).sum())
    return sqnr_db(signal, error)


@pytest.mark.parametrize("kind", ["static", "dynamic", "weights", "weights4"])
@pytest.mark.parametrize("shape", [IMAGE, WORDS], ids=["image", "words"])
def test_gates_tell_what_a_model_an_operator_tells(
    tmp_path: Path, kind: Kind, shape: tuple[int, ...]
) -> None:
    model = unbalanced.bottlenecks(4) if shape == IMAGE else unbalanced.block()
    stored = unbalanced.noise(tmp_path / "samples", shape)
    recipe = Recipe(kind)
    request = _request(model, stored, tmp_path, recipe)
    found = sense(request)

    assert found.complete
    assert found.nodes
    for one in found.nodes:
        assert one.sqnr_db == pytest.approx(_slowly(request, one.name), abs=1.0)


def test_the_planted_operator_comes_first(tmp_path: Path) -> None:
    model = unbalanced.bottlenecks(1)
    held = next(t for t in model.graph.initializer if t.name == "p1")
    weights = numpy_helper.to_array(held).copy()
    weights[0, 0] = np.abs(weights).max() * 40
    held.CopyFrom(numpy_helper.from_array(weights, "p1"))
    stored = unbalanced.noise(tmp_path / "samples", IMAGE)
    coarse = Recipe("static", per_channel=False)
    found = sense(_request(model, stored, tmp_path, coarse))

    assert found.nodes[0].name == "p1_op"
    assert found.nodes[0].sqnr_db < found.nodes[1].sqnr_db - 3
    assert found.nodes[0].bytes == weights.nbytes
    assert [n.sqnr_db for n in found.nodes] == sorted(n.sqnr_db for n in found.nodes)


def test_it_says_the_same_every_time(tmp_path: Path) -> None:
    stored = unbalanced.noise(tmp_path / "samples", IMAGE)
    model = unbalanced.bottlenecks(8)
    request = _request(model, stored, tmp_path, Recipe("static"))

    assert sense(request) == sense(request)


def test_it_stops_when_the_time_is_up_and_says_so(tmp_path: Path) -> None:
    stored = unbalanced.noise(tmp_path / "samples", IMAGE)
    model = unbalanced.bottlenecks(8)
    request = _request(model, stored, tmp_path, Recipe("static"))
    found = sense(request.model_copy(update={"seconds": 3.0}), _Ticking())

    assert not found.complete
    assert {node.name for node in found.nodes} == {"stem_op", "e0_op", "d0_op"}


def test_operators_inside_a_branch_are_sensed_too(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    branches = []
    for name in ("then", "else"):
        held = numpy_helper.from_array(weights * 0.1, f"{name}_w")
        node = helper.make_node("MatMul", ["x", held.name], [f"{name}_y"], f"{name}_op")
        value = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        branches.append(helper.make_graph([node], name, [], [value], [held]))
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], "most_op", keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["on"], "on_op"),
        helper.make_node(
            "If",
            ["on"],
            ["y"],
            "if_op",
            then_branch=branches[0],
            else_branch=branches[1],
        ),
    ]
    ends = {"x": ("n", *WORDS)}, {"y": ("n", *WORDS)}
    model = unbalanced.model_of(nodes, {"zero": np.array(0.0)}, *ends)
    stored = unbalanced.noise(tmp_path / "samples", WORDS)
    found = sense(_request(model, stored, tmp_path, Recipe("weights")))

    assert [node.name for node in found.nodes] == ["then_op", "else_op"]
    assert found.nodes[0].sqnr_db < BEST_DB
    assert found.nodes[1].sqnr_db == BEST_DB


def test_a_recipe_for_the_whole_graph_has_no_sensitive_operators(
    tmp_path: Path,
) -> None:
    stored = unbalanced.noise(tmp_path / "samples", WORDS)
    found = sense(_request(unbalanced.block(), stored, tmp_path, Recipe("fp16")))

    assert (found.nodes, found.complete) == ((), True)


@pytest.mark.parametrize(
    ("signal", "error", "expected"),
    [
        (1.0, 0.01, 20.0),
        (1.0, 0.0, BEST_DB),
        (0.0, 0.0, BEST_DB),
        (0.0, 1.0, WORST_DB),
        (1.0, float("nan"), WORST_DB),
        (1e-9, 1e9, WORST_DB),
    ],
)
def test_decibels_stay_within_bounds(
    signal: float, error: float, expected: float
) -> None:
    assert sqnr_db(signal, error) == pytest.approx(expected)
