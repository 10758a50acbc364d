"""Hostile models end as a sentence, within seconds, on the machine that would sign."""

import time
from pathlib import Path

import pytest

from quarterdeck_controller.optimize.profile import Gate
from quarterdeck_controller.optimize.steps import Replayed
from quarterdeck_controller.release.screening import check_model
from quarterdeck_controller.release.trial import check_replayed, run_once
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.index import Index
from tests.support import hostile_models as hostile
from tests.support.releases import VECTORS, evaluation, golden_bytes, make_index

SECONDS = 15.0
LOOSE = Gate(control_flow=True, depth=32, nodes=1_000_000, seconds=4)
"""As if the look at the model had let everything pass."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.bin").write_bytes(b"\0\0\x80?" * hostile.WIDTH)
    return tmp_path


def index() -> Index:
    golden = evaluation().golden
    limits = evaluation().limits.model_copy(update={"memory_mb": 64})
    return make_index().model_copy(update={"golden": golden, "limits": limits})


def tried(model: bytes, gate: Gate = LOOSE) -> Replayed:
    return run_once(model, golden_bytes(), index(), gate)


STATIC: dict[str, tuple[hostile.Made, str]] = {
    "external data, absolute": (hostile.absolute, "in another file"),
    "external data, dot dot": (hostile.dotdot, "in another file"),
    "external data, through a folder": (hostile.through_a_folder, "in another file"),
    "external data, the environment": (hostile.environ, "in another file"),
    "external data, an endless device": (hostile.endless_device, "in another file"),
    "external data, negative offset": (hostile.negative_offset, "in another file"),
    "external data, a symlink": (hostile.symlink, "in another file"),
    "external data, a sparse constant": (hostile.sparse_constant, "in another file"),
    "external data, sparse weights": (hostile.sparse_initializer, "in another file"),
    "nested ifs": (hostile.nested_if, "more than 4 deep"),
    "an if": (hostile.one_if, "operator If runs subgraphs"),
    "an endless loop": (hostile.endless_loop, "operator Loop runs subgraphs"),
    "a long chain": (hostile.long_chain, "more operators than the 20000"),
    "a huge constant": (hostile.huge_constant, "elements are allowed"),
    "a lying constant": (hostile.lying_constant, "holds 4 bytes, its shape"),
    "a custom domain": (hostile.custom_domain, "com.evil.Evil is of a custom domain"),
    "an accelerator's context": (hostile.accelerator_context, "EPContext carries code"),
    "an unknown operator": (hostile.unknown_operator, "no operator Frobnicate"),
    "an unknown opset": (hostile.unknown_opset, "opset 9999 is not from"),
    "exploding functions": (
        hostile.exploding_functions,
        "more operators than the 20000",
    ),
    "circular functions": (hostile.circular_functions, "each other in a circle: p, q"),
    "cut off": (hostile.truncated, "does not parse|holds no graph"),
    "noise": (hostile.noise, "not an ONNX model"),
    "nothing": (hostile.nothing, "empty"),
    "an operator that is no text": (hostile.no_text, "a name that is no text"),
    "deeper than a parser goes": (hostile.deep_protobuf, "not an ONNX model|deep"),
}


@pytest.mark.parametrize("case", STATIC)
def test_a_hostile_model_is_refused_by_looking_at_it(folder: Path, case: str) -> None:
    make, told = STATIC[case]
    model = make(folder)
    began = time.process_time()

    with pytest.raises(RejectedError, match=told) as refusal:
        check_model(model)

    assert refusal.value.code is Code.MODEL_INVALID
    assert time.process_time() - began < SECONDS


def test_a_class_may_allow_control_flow_and_no_more(folder: Path) -> None:
    check_model(hostile.one_if(folder), Gate(control_flow=True))

    with pytest.raises(RejectedError, match="more than 4 deep"):
        check_model(hostile.nested_if(folder), Gate(control_flow=True))


def test_a_file_larger_than_the_class_allows_is_not_even_parsed() -> None:
    with pytest.raises(RejectedError, match="11 bytes, 10 are allowed"):
        check_model(b"hello world", Gate(bytes=10))


_ENDED = "cannot (open|run)|alloc|crash|did not end within"
"""Which limit ends a bomb first hangs on how fast the machine fills memory."""

RUN: dict[str, tuple[hostile.Made, str]] = {
    "an endless loop": (hostile.endless_loop, "did not end within|SIGALRM|SIGXCPU"),
    "64 GiB of a constant": (hostile.constant_bomb, _ENDED),
    "4 GiB expanded": (hostile.expand_bomb, _ENDED),
    "doubled 40 times": (hostile.doubling, _ENDED),
    "fewer scores": (
        hostile.fewer_scores,
        "gives 1 scores, the golden vectors expect 64",
    ),
    "a file elsewhere": (hostile.absolute, "cannot open"),
}


@pytest.mark.parametrize("case", RUN)
def test_a_hostile_model_that_is_run_all_the_same_ends_as_a_refusal(
    folder: Path, case: str
) -> None:
    make, told = RUN[case]
    model = make(folder)

    with pytest.raises(RejectedError, match=told) as refusal:
        tried(model)

    assert refusal.value.code is Code.MODEL_INVALID


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (hostile.not_a_number, "not finite"),
        (hostile.wrong_answers, "does not reproduce its 8 golden vectors"),
    ],
)
def test_a_model_that_runs_and_answers_wrongly_is_refused(
    folder: Path, make: hostile.Made, told: str
) -> None:
    replayed = tried(make(folder))

    with pytest.raises(RejectedError, match=told) as refusal:
        check_replayed(replayed, index(), of_class=True)

    assert refusal.value.code is Code.GATE_FAILED


def test_wrong_answers_decide_nothing_on_a_machine_of_another_class(
    folder: Path,
) -> None:
    replayed = tried(hostile.wrong_answers(folder))

    told = check_replayed(replayed, index(), of_class=False)

    assert told.startswith("differs on this machine, which is not of the class")


def test_a_model_that_takes_more_memory_than_its_class_has_is_refused() -> None:
    grown = tried(hostile.identity()).model_copy(update={"grown_mb": 65.0})

    with pytest.raises(RejectedError, match="takes 65 MiB, the class allows 64 MiB"):
        check_replayed(grown, index(), of_class=True)


def test_a_good_model_passes() -> None:
    check_model(hostile.identity())

    replayed = tried(hostile.identity())

    assert replayed.reproduces
    assert replayed.count == VECTORS
    assert check_replayed(replayed, index(), of_class=True).startswith("reproduces 8")
