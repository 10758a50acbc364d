"""Whatever bytes are brought to the gate, looking at them ends in a sentence."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck_controller.release.screening import check_golden, check_model
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support import hostile_models as hostile
from tests.support.releases import evaluation, golden_bytes, load, model_bytes

GOLDEN = evaluation().golden
MODEL = load(model_bytes(width=4))
MODELS = (
    model_bytes(width=4),
    hostile.one_if(Path()),
    hostile.endless_loop(Path()),
    hostile.exploding_functions(Path()),
    hostile.sparse_initializer(Path()),
)
VECTORS = golden_bytes(width=4)

EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True), st.binary(max_size=6), st.integers(0, 6)
    ),
    max_size=4,
)


def edited(data: bytes, edits: list[tuple[float, bytes, int]]) -> bytes:
    """Return ``data`` with pieces replaced, inserted or cut out."""
    for where, piece, length in edits:
        at = int(where * len(data))
        data = data[:at] + piece + data[at + length :]
    return data


def outcome(look: Callable[[], object]) -> Code | None:
    """Return the code of the refusal, or None; anything else escapes."""
    try:
        look()
    except RejectedError as error:
        return error.code
    return None


@given(st.sampled_from(MODELS), EDITS)
@settings(max_examples=400, deadline=None)
def test_a_damaged_model_is_a_model_or_refused(
    data: bytes, edits: list[tuple[float, bytes, int]]
) -> None:
    changed = edited(data, edits)

    assert outcome(lambda: check_model(changed)) in (None, Code.MODEL_INVALID)


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_noise_is_no_model(data: bytes) -> None:
    assert outcome(lambda: check_model(data)) is Code.MODEL_INVALID


@given(EDITS.filter(bool))
@settings(max_examples=400, deadline=None)
def test_damaged_vectors_are_vectors_or_refused(
    edits: list[tuple[float, bytes, int]],
) -> None:
    changed = edited(VECTORS, edits)

    found = outcome(lambda: check_golden(changed, MODEL, GOLDEN))

    assert found in (None, Code.DATA_INVALID)


def archive(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in entries.items():
            made.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    told = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, told)
    return buffer.getvalue()


@given(
    st.lists(st.integers(0, 1 << 50), max_size=4).map(tuple),
    st.sampled_from(("<f4", "<i8", "|b1", "|O", "<U9", "<M8[s]")),
    st.binary(max_size=40),
)
@settings(max_examples=200, deadline=None)
def test_an_array_is_never_believed_about_its_size(
    shape: tuple[int, ...], descr: str, data: bytes
) -> None:
    bomb = archive(**{"input:x": header(shape, descr) + data})

    assert outcome(lambda: check_golden(bomb, MODEL, GOLDEN)) is Code.DATA_INVALID


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({f"input:{n}": header((0,)) for n in range(66)}, "holds 66 arrays"),
        ({"input:x": header((2,)) + bytes(12)}, "says it has 8 bytes, 12 are there"),
        ({"input:x": header((1, 4)) + bytes(15)}, "has 16 bytes, 15 are there"),
    ],
)
def test_an_archive_that_lies_is_refused_before_it_is_unpacked(
    entries: dict[str, bytes], told: str
) -> None:
    with pytest.raises(RejectedError, match=told):
        check_golden(archive(**entries), MODEL, GOLDEN)


def test_an_archive_that_swells_is_refused_before_it_is_unpacked() -> None:
    swollen = archive(**{"input:x": bytes(64 << 20)})
    many = swollen.replace(
        (64 << 20).to_bytes(4, "little"), (0x7FFF_FFFF).to_bytes(4, "little")
    )

    with pytest.raises(RejectedError, match="unpacks to 2147483647 bytes"):
        check_golden(many, MODEL, GOLDEN)
