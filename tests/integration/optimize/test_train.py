"""A quantized graph that learns, judged by the real runtime. Needs PyTorch."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from quarterdeck_controller.optimize.data.stored import Writer
from quarterdeck_controller.optimize.quantize.build import build
from quarterdeck_controller.optimize.quantize.calibrate import calibrate
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.steps import (
    BuildRequest,
    CalibrateRequest,
    Trained,
    TrainRequest,
)
from quarterdeck_controller.optimize.train.train import train
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.imbalanced_net import pictures, write_net

pytest.importorskip("torch", reason="training is an optional extra that needs PyTorch")

STATIC = Recipe(kind="static", scope="elementwise")


@dataclass(frozen=True)
class Bench:
    """A float net, calibration samples and what was found in them."""

    folder: Path

    @property
    def net(self) -> Path:
        return self.folder / "float.onnx"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    def build(self, recipe: Recipe, *, fold: bool = True) -> Path:
        out = self.folder / f"{recipe.name}{fold}.onnx"
        build(
            BuildRequest(
                model=self.net,
                out=out,
                recipe=recipe,
                spreads=self.folder / "spreads",
                samples=self.samples,
                output="y",
                batch=32,
                fold=fold,
                names=True,
            )
        )
        return out

    def train(
        self,
        start: Path,
        out: Path,
        *,
        steps: int = 60,
        seconds: float = 300,
        labels: Path | None = None,
    ) -> Trained:
        return train(
            TrainRequest(
                model=start,
                reference=self.net,
                out=out,
                samples=self.samples,
                output="y",
                batch=32,
                steps=steps,
                seconds=seconds,
                labels=labels,
            )
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("train"))
    write_net(made.net)
    with Writer(made.samples) as writer:
        writer.add({"x": pictures(400, 7).images})
    calibrate(
        CalibrateRequest(
            model=made.net, out=made.folder / "spreads", samples=made.samples, batch=32
        )
    )
    return made


def scores(model: Path, images: NDArray[Any]) -> NDArray[Any]:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": images})[0])


def agreement(bench: Bench, model: Path) -> float:
    images = pictures(600, 99).images
    wanted, found = scores(bench.net, images), scores(model, images)
    return float((wanted.argmax(1) == found.argmax(1)).mean())


def skeleton(model: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    graph = onnx.load(model).graph
    return [(node.name, node.op_type, tuple(node.output)) for node in graph.node]


def kernels(model: Path, scratch: Path) -> Counter[str]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(scratch)
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(scratch).graph.node)


def constants(model: Path) -> dict[str, NDArray[Any]]:
    graph = onnx.load(model).graph
    return {one.name: numpy_helper.to_array(one) for one in graph.initializer}


def test_training_wins_back_most_of_what_imbalanced_channels_lost(
    bench: Bench, tmp_path: Path
) -> None:
    start = bench.build(Recipe(kind="static", scope="elementwise", per_channel=False))
    out = tmp_path / "trained.onnx"

    trained = bench.train(start, out, steps=150)

    before, after = agreement(bench, start), agreement(bench, out)
    assert trained.improved
    assert 1 - after < 0.5 * (1 - before)


def test_the_graph_stays_node_for_node_and_kernel_for_kernel(
    bench: Bench, tmp_path: Path
) -> None:
    start, out = bench.build(STATIC), tmp_path / "trained.onnx"

    trained = bench.train(start, out)

    assert trained.improved
    assert skeleton(out) == skeleton(start)
    assert kernels(out, tmp_path / "a") == kernels(start, tmp_path / "b")
    assert {n: a.dtype for n, a in constants(start).items()}.items() <= {
        n: a.dtype for n, a in constants(out).items()
    }.items()


def test_the_same_seed_gives_the_same_bytes(bench: Bench, tmp_path: Path) -> None:
    start = bench.build(STATIC)

    bench.train(start, tmp_path / "one.onnx", steps=24)
    bench.train(start, tmp_path / "two.onnx", steps=24)

    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_without_time_the_start_is_given_back(bench: Bench, tmp_path: Path) -> None:
    start, out = bench.build(STATIC), tmp_path / "trained.onnx"

    trained = bench.train(start, out, seconds=0)

    assert not trained.improved
    assert trained.steps == 0
    np.testing.assert_array_equal(
        scores(out, pictures(20, 3).images), scores(start, pictures(20, 3).images)
    )


def test_seven_bit_weights_stay_within_seven_bits(bench: Bench, tmp_path: Path) -> None:
    start = bench.build(Recipe(kind="static", scope="elementwise", reduce_range=True))
    out = tmp_path / "trained.onnx"

    bench.train(start, out, steps=24)

    weights = [a for n, a in constants(out).items() if n.endswith("weights_quantized")]
    assert weights
    assert max(int(np.abs(array.astype(int)).max()) for array in weights) <= 64


@pytest.mark.parametrize("fold", [True, False])
def test_weights_that_the_runtime_makes_float_learn_too(
    bench: Bench, tmp_path: Path, fold: bool
) -> None:
    recipe = Recipe(kind="weights", per_channel=False)
    start, out = bench.build(recipe, fold=fold), tmp_path / "trained.onnx"

    trained = bench.train(start, out, steps=40)

    before, after = constants(start), constants(out)
    changed = [n for n, a in before.items() if a.dtype == np.int8]
    assert trained.improved
    assert any((before[name] != after[name]).any() for name in changed)


def test_labels_that_do_not_fit_are_refused(bench: Bench, tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.zeros(3))

    with pytest.raises(RejectedError) as refused:
        bench.train(
            bench.build(STATIC),
            tmp_path / "trained.onnx",
            labels=tmp_path / "labels.npy",
        )

    assert refused.value.code is Code.DATA_INVALID
    assert "400 samples" in refused.value.detail


def test_a_float_graph_has_nothing_to_train(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(RejectedError) as refused:
        bench.train(bench.net, tmp_path / "trained.onnx")

    assert "nothing to train" in refused.value.detail
