"""Files of arrays from anybody: what they say of themselves is bounded first."""

import io
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from quarterdeck_agent.runtime.tensors import MAX_ARRAYS, read_tensors
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

LIMIT = 100_000


def npy(array: object) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(array))
    return out.getvalue()


def headed(descr: str, shape: str, data: bytes = b"") -> bytes:
    """Return a ``.npy`` file that says of itself what it is told to."""
    told = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(told)) + told + data


def archived(*files: bytes, packed: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packed) as archive:
        for number, data in enumerate(files):
            archive.writestr(f"x{number}.npy", data)
    return out.getvalue()


def directory_of(size: int) -> bytes:
    """Return the end of an archive that says its directory has ``size`` bytes."""
    return (
        b"PK" + bytes(size) + struct.pack("<4s4H2IH", b"PK\5\6", *(0,) * 4, size, 0, 0)
    )


def lengthened() -> bytes:
    """Return a header that says it has 1 GiB, packed to 100 bytes for each 100 KiB."""
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + bytes(LIMIT // 2)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_gives_every_array(save: Callable[..., None]) -> None:
    out = io.BytesIO()
    save(out, x=np.arange(6.0).reshape(2, 3), y=np.array(7))

    found = read_tensors(out.getvalue())

    assert found["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["y"].tolist() == 7


def test_a_transposed_array_is_read_as_it_was() -> None:
    array = np.asfortranarray(np.arange(6).reshape(2, 3))

    assert read_tensors(npy(array))[""].tolist() == array.tolist()


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        pytest.param(
            archived(*[npy(1)] * (MAX_ARRAYS + 1)), "66 arrays in it", id="many"
        ),
        pytest.param(archived(npy(np.zeros(LIMIT))), "unpacks to", id="bomb"),
        pytest.param(
            archived(npy(1), packed=zipfile.ZIP_LZMA), "another method", id="lzma"
        ),
        pytest.param(directory_of(1 << 20), "its directory has", id="directory"),
        pytest.param(archived(npy(1)) + b"!", "does not end with", id="comment"),
        pytest.param(archived(lengthened()), "a header of 1073741824", id="header"),
        pytest.param(
            headed("'<f4'", "(1073741824, 1073741824)"), "bytes, of which 0", id="shape"
        ),
        pytest.param(headed("'<f4'", "(-1,)"), "an array of", id="negative"),
        pytest.param(headed("'|V0'", "(4611686018427387904,)"), "V0", id="void"),
        pytest.param(headed("[('a', '<f4')]", "(1,)", bytes(4)), "'a'", id="record"),
        pytest.param(headed("'|O'", "(1,)", bytes(8)), "object", id="object"),
    ],
)
def test_what_says_too_much_of_itself_is_refused_before_it_is_read(
    payload: bytes, why: str
) -> None:
    with pytest.raises(RejectedError, match=why) as refused:
        read_tensors(payload, limit=LIMIT)

    assert refused.value.code is Code.REQUEST_INVALID


def test_two_arrays_of_one_name_are_refused() -> None:
    twice = archived(npy(1), npy(2)).replace(b"x1.npy", b"x0.npy")

    with pytest.raises(RejectedError, match="2 arrays in it"):
        read_tensors(twice)
