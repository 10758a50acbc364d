"""Models signed by mistake: everything about them is authentic, and they are hostile.

Nothing but the evidence on the device is left to stop them.
"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quarterdeck_shared.codes import Code
from quarterdeck_shared.index import Limits
from tests.support.installed import (
    golden_vectors,
    hungry_model,
    linear_model,
    npz,
)
from tests.support.siege import Siege

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def rolled_back(siege: Siege, envelope: bytes, *codes: Code) -> None:
    """Check that the model was installed, failed, was undone and is refused again."""
    await siege.send(envelope)
    await siege.outcome(10, "rolled_back")
    assert siege.update.code in codes
    await siege.runs("model@1")
    assert [it.code for it in siege.reported.quarantine] == [siege.update.code]


async def test_a_model_that_answers_wrongly(siege: Siege) -> None:
    envelope = siege.list_model(linear_model(0), golden_vectors(1))

    await rolled_back(siege, envelope, Code.GOLDEN_FAILED)
    await siege.heals()


async def test_a_model_that_wants_all_memory(siege: Siege) -> None:
    limits = Limits(latency_ms=100, memory_mb=300)
    envelope = siege.list_model(hungry_model(16), golden_vectors(0), limits=limits)

    await rolled_back(siege, envelope, Code.MEMORY_EXCEEDED, Code.PROBATION_FAILED)
    await siege.heals()


async def test_a_model_whose_weights_are_a_file_of_the_device(siege: Siege) -> None:
    envelope = siege.list_model(reading_model("/etc/passwd"), golden_vectors(0))

    await rolled_back(siege, envelope, Code.LOAD_FAILED)
    assert "root:" not in siege.update.detail
    await siege.heals()


@pytest.mark.parametrize("model", [b"\0", b"not a model" * 100, b"\x08\x09" * 5000])
async def test_a_model_that_is_none(siege: Siege, model: bytes) -> None:
    envelope = siege.list_model(model, golden_vectors(0))

    await rolled_back(siege, envelope, Code.LOAD_FAILED)
    await siege.heals()


async def test_a_model_cut_off_in_the_middle(siege: Siege) -> None:
    whole = siege.part("model@2", "model.onnx")
    half = whole[: len(whole) // 2]
    envelope = siege.list_model(half, siege.part("model@2", "golden.npz"))

    await rolled_back(siege, envelope, Code.LOAD_FAILED)
    await siege.heals()


@pytest.mark.parametrize(
    "golden",
    [
        b"PK\x05\x06" + bytes(18),
        b"no archive",
        npz({"input:x": np.ones((8, 4), np.float32)}),
        npz({"input:x": np.full((8, 4), np.nan), "expected:scores": np.ones((8, 3))}),
        npz({"input:x": np.array([{"a": 1}], dtype=object)}),
    ],
    ids=["empty archive", "no archive", "nothing expected", "not numbers", "pickle"],
)
async def test_golden_vectors_that_are_none(siege: Siege, golden: bytes) -> None:
    envelope = siege.list_model(linear_model(0), golden)

    await rolled_back(siege, envelope, Code.GOLDEN_FAILED)
    await siege.heals()


async def test_fewer_golden_vectors_than_were_signed_for(siege: Siege) -> None:
    envelope = siege.list_model(linear_model(0), golden_vectors(0, count=2))

    await rolled_back(siege, envelope, Code.GOLDEN_FAILED)
    await siege.heals()


async def test_a_hostile_model_that_is_offered_again_is_not_tried_again(
    siege: Siege,
) -> None:
    envelope = siege.list_model(linear_model(0), golden_vectors(1))
    await rolled_back(siege, envelope, Code.GOLDEN_FAILED)
    payload = siege.again(envelope, sequence=11)
    await siege.send(payload)

    update = await siege.outcome(11, "refused")
    assert update.code is Code.QUARANTINED
    await siege.runs("model@1")


def reading_model(path: str) -> bytes:
    """Return a model whose weights are a file of the machine that loads it."""
    weights = onnx.TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[4, 3], data_location="EXTERNAL"
    )
    for key, value in {"location": path, "offset": "0", "length": "48"}.items():
        weights.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["scores"])],
        "reading",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [weights],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return bytes(model.SerializeToString())
