"""What the runtime is told to open a model with."""

import json

import onnxruntime as ort
import pytest

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import MAX_INDEX_BYTES, Index
from quarterdeck_shared.session import Session
from tests.support.releases import make_index


def configured(session: Session) -> ort.SessionOptions:
    options = ort.SessionOptions()
    session.configure(options)
    return options


def entry(options: ort.SessionOptions, key: str) -> str:
    return str(options.get_session_config_entry(key))


def test_the_runtime_is_told_the_threads_and_never_to_spin() -> None:
    options = configured(Session(threads=3))

    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert entry(options, "session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize("arena", [True, False])
def test_arena_and_memory_pattern_are_switched_together(*, arena: bool) -> None:
    options = configured(Session(arena=arena))

    assert options.enable_cpu_mem_arena is arena
    assert options.enable_mem_pattern is arena


def test_what_has_no_attribute_is_set_as_an_entry() -> None:
    options = configured(Session(prepack=False, precise=True))

    assert entry(options, "session.disable_prepacking") == "1"
    assert entry(options, "session.x64quantprecision") == "1"


def test_by_default_only_spinning_is_told() -> None:
    assert Session().entries() == {"session.intra_op.allow_spinning": "0"}


def test_an_index_carries_how_the_model_is_opened() -> None:
    asked = Session(threads=2, arena=False, prepack=False, precise=True)
    index = make_index().model_copy(update={"session": asked})

    read = Index.decode(index.encode(), limit=MAX_INDEX_BYTES)

    assert read.session == asked


def test_an_index_of_the_version_before_is_refused_by_its_version() -> None:
    fields = make_index().model_dump(mode="json", exclude={"session"})
    old = json.dumps(fields | {"v": 1, "threads": 1}).encode()

    with pytest.raises(RejectedError, match="v: Input should be 3") as refused:
        Index.decode(old, limit=MAX_INDEX_BYTES)

    assert refused.value.code is Code.VERSION_UNKNOWN
