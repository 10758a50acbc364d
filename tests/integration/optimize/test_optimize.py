from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from quarterdeck_controller.optimize import golden
from quarterdeck_controller.optimize.data.samples import Data, Samples
from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.optimize.optimizer import (
    Optimization,
    Options,
    Progress,
    optimize,
    optimize_all,
)
from quarterdeck_controller.optimize.profile import (
    DEFAULT_CLASSES,
    Profile,
    load_profile,
)
from quarterdeck_controller.optimize.search.story import Story
from quarterdeck_controller.optimize.write import write
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.small_model import (
    lenient_profile,
    make_data,
    make_model,
    to_calibrate,
    to_judge,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("optimize")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return make_model(folder / "waves.onnx")


@pytest.fixture(scope="module")
def profiles(folder: Path) -> list[Profile]:
    return [
        load_profile(str(lenient_profile(name, folder))) for name in DEFAULT_CLASSES
    ]


@pytest.fixture(scope="module")
def told() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def results(
    model: Path, profiles: list[Profile], told: list[Progress]
) -> dict[str, Optimization]:
    options = Options(name="waves", labels=("a", "b", "c", "d"))
    found = optimize_all(
        model, make_data(), profiles, options=options, on_progress=told.append
    )
    return {one.profile.name: one for one in found}


def test_every_class_gets_a_variant_of_a_third_of_the_size_that_is_as_good(
    results: dict[str, Optimization],
) -> None:
    for result in results.values():
        evaluation = result.evaluation
        assert result.accepted, evaluation.reason
        assert evaluation.size_ratio is not None
        assert evaluation.size_ratio < 0.4
        assert evaluation.reference.score > 0.9
        assert evaluation.drop_points is not None
        assert evaluation.drop_points <= 1.5
        assert evaluation.looks == 1
        assert evaluation.samples + evaluation.selection_samples == 400


def test_every_class_is_offered_the_integers_its_kernels_multiply(
    results: dict[str, Optimization],
) -> None:
    static = {
        name: {tried.recipe for tried in one.story.tried if tried.rung == "static"}
        for name, one in results.items()
    }

    for found, scheme in (
        (static["gateway-x86"], "u8u8"),
        (static["gateway-x86-vnni"], "u8s8"),
        (static["board-arm64"], "u8s8"),
    ):
        assert {f"static-{scheme}-mse", f"static-{scheme}-mse-elementwise"} <= found


def test_progress_names_the_class_and_what_is_done(
    results: dict[str, Optimization], told: list[Progress]
) -> None:
    common = [step.rung for step in told if not step.device_class]

    assert common == ["lint", "prepare", "float"]
    for name in results:
        rungs = [step.rung for step in told if step.device_class == name]
        assert rungs[:4] == ["floor", "best", "static", "best"]
        assert rungs[-2:] == ["confirm", "done"]
    assert [step.seconds for step in told] == sorted(step.seconds for step in told)


def test_the_variant_reproduces_its_golden_vectors_one_by_one(
    results: dict[str, Optimization],
) -> None:
    for result in results.values():
        assert result.model is not None
        limits = result.evaluation.golden
        inputs, output, expected = golden.decode(result.golden)
        session = ort.InferenceSession(result.model)
        got = np.concatenate(
            [
                np.asarray(session.run([output], {"x": inputs["x"][n : n + 1]})[0])
                for n in range(limits.count)
            ]
        )

        compared = golden.compare(expected, got, golden.device_scale(expected, limits))

        assert golden.reproduces(compared, limits)


def test_the_variant_keeps_the_models_inputs_and_outputs(
    results: dict[str, Optimization],
) -> None:
    made = results["board-arm64"].model
    assert made is not None

    graph = onnx.load_model_from_string(made).graph

    assert [value.name for value in graph.input] == ["x"]
    assert [value.name for value in graph.output] == ["scores"]
    assert any(
        tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer
    )


def read(folder: Path) -> Evaluation:
    return Evaluation.decode((folder / "evaluation.json").read_bytes())


def test_the_record_reads_back_as_it_was_written(
    results: dict[str, Optimization], tmp_path: Path
) -> None:
    result = results["gateway-x86"]

    folder = write(result, tmp_path)

    assert read(folder) == result.evaluation
    assert '"float"' in (folder / "evaluation.json").read_text("utf-8")
    assert (folder / "model.onnx").read_bytes() == result.model
    for name, digest in result.evaluation.files.items():
        assert sha256((folder / name).read_bytes()).hexdigest() == digest
    story = Story.decode((folder / "search.json").read_bytes())
    assert story == result.story
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gateway-x86"]


def test_the_same_input_and_seed_give_the_same_bytes(
    model: Path, profiles: list[Profile]
) -> None:
    alone = profiles[0].model_copy(
        update={"budget": profiles[0].budget.model_copy(update={"size_ratio": 0.01})}
    )
    options = Options(kinds=("static",))

    first = optimize(model, make_data(), alone, options=options)
    again = optimize(model, make_data(), alone, options=replace(options, workers=1))

    made = {one.recipe: one.bytes for one in first.story.tried}
    assert made == {one.recipe: one.bytes for one in again.story.tried}
    assert first.golden == again.golden
    if first.evaluation.recipe == again.evaluation.recipe:
        assert first.model == again.model


def test_a_variant_calibrated_on_the_wrong_data_is_refused_and_fails_its_golden_vectors(
    model: Path, profiles: list[Profile]
) -> None:
    wrong = Samples({"x": to_calibrate().inputs["x"] * np.float32(0.03)})

    result = optimize(
        model,
        Data(wrong, to_judge()),
        profiles[0],
        options=Options(kinds=("static",)),
    )

    evaluation = result.evaluation
    assert evaluation.decision == "refused"
    assert "points below float" in evaluation.reason
    (here,) = evaluation.golden_measured
    assert here.error > 1.5 * evaluation.golden.max_error
    assert here.agreement < evaluation.golden.min_agreement


def test_a_refused_class_leaves_only_its_record_unless_its_files_are_asked_for(
    model: Path, profiles: list[Profile], tmp_path: Path
) -> None:
    small = profiles[0].budget.model_copy(update={"size_ratio": 0.01})
    result = optimize(
        model,
        make_data(),
        profiles[0].model_copy(update={"budget": small}),
        options=Options(kinds=("weights",)),
    )

    bare = write(result, tmp_path / "bare")
    whole = write(result, tmp_path / "whole", keep_refused=True)

    assert not result.accepted
    assert sorted(path.name for path in bare.iterdir()) == [
        "evaluation.json",
        "search.json",
    ]
    assert len(list(whole.iterdir())) == 4
    assert read(whole).decision == "refused"


def test_without_labels_the_variant_is_judged_by_agreement_with_float(
    model: Path, profiles: list[Profile]
) -> None:
    unlabelled = Data(to_calibrate(), Samples(to_judge().inputs))

    result = optimize(
        model, unlabelled, profiles[0], options=Options(kinds=("static",))
    )

    evaluation = result.evaluation
    assert evaluation.metric == "agreement"
    assert evaluation.variant is not None
    assert evaluation.variant.score == evaluation.agreement
    assert evaluation.reference.score == 1


def test_writing_again_replaces_what_was_there(
    results: dict[str, Optimization], tmp_path: Path
) -> None:
    write(results["gateway-x86"], tmp_path)
    (tmp_path / "gateway-x86" / "stale").write_text("old", "utf-8")

    folder = write(results["gateway-x86"], tmp_path)

    assert len(list(folder.iterdir())) == 4
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_a_refusal_that_names_it(
    results: dict[str, Optimization], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way", "utf-8")

    with pytest.raises(RejectedError) as refused:
        write(results["gateway-x86"], tmp_path / "file")

    assert refused.value.code is Code.DISK_FAILED
    assert str(tmp_path / "file") in refused.value.detail
