"""Whatever model is brought: a variant that keeps what the class asks, or a reason."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from quarterdeck_controller.optimize import golden
from quarterdeck_controller.optimize.data.samples import Data, Samples
from quarterdeck_controller.optimize.optimizer import Optimization, Options, optimize
from quarterdeck_controller.optimize.profile import Profile, load_profile
from quarterdeck_controller.optimize.sandbox import Bounds
from quarterdeck_shared.errors import RejectedError
from tests.support.random_graphs import random_case
from tests.support.small_model import lenient_profile

Array = NDArray[Any]

SEEDS = (0, 3, 10, 21, 315, 666)
HANGS_S = 120
SUITE = Options(time_budget_s=5, bounds=Bounds(seconds=HANGS_S))
"""Rungs are begun for five seconds: the floor, integers, and a repair or two."""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_model_gets_a_variant_within_its_budget_or_a_reason(seed: int) -> None:
    found = try_out(seed, SUITE)

    assert found


def try_out(seed: int, options: Options, name: str = "gateway-x86-vnni") -> str:
    """Optimize a random model, check what comes out, and say what it was."""
    model, samples = random_case(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(model.SerializeToString())
        profile = load_profile(str(lenient_profile(name, Path(folder))))
        given = Samples(samples)
        try:
            result = optimize(path, Data(given, given), profile, options=options)
        except RejectedError as refused:
            return f"rejected: {refused.detail}"
    assert result.evaluation.reason
    if not result.accepted:
        assert result.evaluation.decision == "refused"
        return f"refused: {result.evaluation.reason}"
    check(model, samples, result, profile)
    return f"accepted: {result.evaluation.recipe}"


def check(
    model: onnx.ModelProto,
    samples: dict[str, Array],
    result: Optimization,
    profile: Profile,
) -> None:
    """Judge an accepted variant anew, by the runtime alone."""
    assert result.model is not None
    before, after = opened(model.SerializeToString()), opened(result.model)
    assert signature(before) == signature(after)
    sizes = len(result.model), len(model.SerializeToString())
    assert sizes[0] <= sizes[1] * profile.budget.size_ratio
    inputs, output, expected = golden.decode(result.golden)
    limits = result.evaluation.golden
    told = answers(after, inputs, output)
    scale = golden.device_scale(expected, limits)
    compared = golden.compare(expected, told, scale)
    assert golden.reproduces(compared, limits), result.evaluation
    floats = answers(before, inputs, output)
    assert np.allclose(floats, expected, rtol=1e-3, atol=1e-4)
    assert np.isfinite(answers(after, samples, output)).all()


def opened(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def signature(session: ort.InferenceSession) -> tuple[Any, ...]:
    """Return what is fed in order, and what is given, in any order, with types."""
    given = sorted((one.name, one.type) for one in session.get_outputs())
    return [(one.name, one.type) for one in session.get_inputs()], given


def answers(
    session: ort.InferenceSession, inputs: dict[str, Array], output: str
) -> Array:
    names = {one.name for one in session.get_inputs()}
    count = min(len(array) for array in inputs.values())
    rows = [
        session.run(
            [output], {k: v[at : at + 1] for k, v in inputs.items() if k in names}
        )[0]
        for at in range(count)
    ]
    return np.concatenate([np.asarray(row) for row in rows])
