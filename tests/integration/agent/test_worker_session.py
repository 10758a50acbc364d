"""The worker opens a model as its index says."""

from pathlib import Path

import pytest

from quarterdeck_agent.runtime.session import Session as Worker
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import digest
from quarterdeck_shared.session import Session
from tests.support.installed import golden_vectors, linear_model, make_index, npy


async def start(folder: Path, model: bytes, session: Session) -> Worker:
    files = {"model.onnx": model, "golden.npz": golden_vectors(1)}
    index = make_index(files).model_copy(update={"session": session})
    path = folder / "model.onnx"
    path.write_bytes(model)
    with path.open("rb") as opened:
        path.unlink()  # what was verified is what is open, not what has the name
        return await Worker.start(digest(index.encode()), index, opened)


def thread_count(worker: Worker) -> int:
    return len(list(Path(f"/proc/{worker.pid}/task").iterdir()))


async def test_a_worker_has_the_threads_that_the_index_says(
    tmp_path: Path,
) -> None:
    one = await start(tmp_path, linear_model(1), Session())
    four = await start(tmp_path, linear_model(1), Session(threads=4))
    counts = thread_count(one), thread_count(four)
    await one.close()
    await four.close()

    assert counts[1] - counts[0] == 3


@pytest.mark.parametrize(
    "session",
    [Session(), Session(arena=False, prepack=False), Session(precise=True)],
)
async def test_a_worker_answers_alike_however_it_was_told_to_open_the_model(
    tmp_path: Path, session: Session
) -> None:
    worker = await start(tmp_path, linear_model(2), session)
    answer = await worker.infer(npy(), timeout_s=30)
    await worker.close()

    assert answer.top == 2
    assert answer.score > 0.99


async def test_a_model_that_the_runtime_cannot_open_is_refused_by_the_worker(
    tmp_path: Path,
) -> None:
    with pytest.raises(RejectedError) as refused:
        await start(tmp_path, b"no model", Session())

    assert refused.value.code is Code.LOAD_FAILED
