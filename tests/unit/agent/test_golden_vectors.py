import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quarterdeck_agent.runtime.golden import Input, fit, replay
from quarterdeck_agent.runtime.tensors import Tensors, read_tensors
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Golden

FLOAT = np.dtype(np.float32)
INPUTS = (
    Input("x", (None, 4), FLOAT),
    Input("state", (2, None, 3), FLOAT),
    Input("rate", (), np.dtype(np.int64)),
)
GOLDEN = Golden(count=5, min_agreement=0.9, margin=0.0, max_error=0.05)


def run(tensors: Tensors) -> list[NDArray[Any]]:
    assert tensors["x"].shape == (1, 4)
    assert tensors["state"].shape == (2, 1, 3)
    assert tensors["rate"].shape == ()
    x, state, rate = (np.asarray(tensors[i.name], np.float64) for i in INPUTS)
    return [x[:, :2] + state[0, :, :2] + rate]


def vectors() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 4)).astype(np.float32)
    state = rng.standard_normal((5, 2, 1, 3)).astype(np.float32)
    rate = np.arange(5)
    scores = x[:, :2] + state[:, 0, 0, :2] + rate[:, None]
    return {
        "input:x": x,
        "input:state": state,
        "input:rate": rate,
        "expected:y": scores,
    }


def test_states_and_numbers_are_replayed_as_the_model_takes_them() -> None:
    report = replay(vectors(), GOLDEN, INPUTS, run, 0)

    assert report.count == 5
    assert report.error == pytest.approx(0, abs=1e-6)
    assert report.agreed == report.clear == 5


def test_a_state_of_another_depth_is_refused() -> None:
    sample = {
        "x": np.zeros((1, 4), np.float32),
        "state": np.zeros((3, 1, 3), np.float32),
        "rate": np.array(1),
    }

    with pytest.raises(RejectedError) as refused:
        fit(sample, INPUTS)

    assert refused.value.code is Code.DATA_INVALID


def test_more_than_one_sample_at_a_time_is_refused() -> None:
    with pytest.raises(RejectedError):
        fit({"x": np.zeros((2, 4), np.float32)}, INPUTS[:1])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(
            lambda archive: archive.replace(
                b"\x08\x00\x00\x00!\x00", b"\x63\x00\x00\x00!\x00"
            ),
            id="a compression that nobody knows",
        ),
        pytest.param(
            lambda archive: archive[:60] + bytes(40) + archive[100:],
            id="deflated bytes that are none",
        ),
        pytest.param(
            lambda _: b"\x93NUMPY\x01\x00v\x00{'shape': ((" + b" " * 105 + b"\n",
            id="a header that never ends",
        ),
        pytest.param(lambda _: archived("notes.txt", b"no array"), id="no array"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_and_ends_no_worker(
    damage: Callable[[bytes], bytes],
) -> None:
    out = io.BytesIO()
    np.savez_compressed(out, x=np.arange(64, dtype=np.float32))

    with pytest.raises(RejectedError) as refused:
        read_tensors(damage(out.getvalue()))

    assert refused.value.code is Code.REQUEST_INVALID


def archived(name: str, data: bytes) -> bytes:
    """Return a zip archive that holds one file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, data)
    return out.getvalue()
